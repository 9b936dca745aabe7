//! The command line's grammar.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jepsen_checker::FailMeaning;
use jepsen_checker::format::Format;
use jepsen_checker::models::AnyModel;

use crate::cluster::Backend;

/// Breaks real clusters, and judges recorded histories of concurrent systems.
#[derive(Debug, Parser)]
#[command(name = "palisade-jepsen", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<RunArguments>),
    SelfTest(SelfTestArguments),
    Check(CheckArguments),
    Report(ReportArguments),
    /// Show the workloads, faults and systems that `run` knows
    List,
    /// One client of a run, started by it
    #[command(hide = true)]
    Client,
}

/// Make the page of a run from the folder that it left: DIR/report.html
#[derive(Debug, Args)]
#[command(after_help = "\
The page says what was judged, repeats no judgement, and loads nothing from anywhere.

Exit status:
  0  the page was written        3  DIR is no run's folder, or the page cannot be written")]
pub(crate) struct ReportArguments {
    /// The folder of the run
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Start a cluster, break it while clients use it, and judge what they saw
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  0  valid: nothing broken was found, and all that was planned happened
  1  invalid: a promise was broken
  2  unknown: nothing broken was found, but too little happened to say that nothing is
  3  the harness could not do its work")]
pub(crate) struct RunArguments {
    /// What clients do: see `list`; `mixed` is all of it side by side
    #[arg(long, value_name = "WORKLOAD", default_value = "lock")]
    pub(crate) workload: String,

    /// What goes wrong: groups or single faults, with commas between them; `all`, or `none`
    #[arg(
        long,
        value_name = "FAULT,…",
        value_delimiter = ',',
        value_parser = trimmed,
        default_value = "partition,kill,pause"
    )]
    pub(crate) nemesis: Vec<String>,

    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = between_1_and(9))]
    pub(crate) nodes: usize,

    /// How long faults and operations run side by side; recovery comes on top
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub(crate) time: Duration,

    /// Operations per second that all clients together aim at
    #[arg(long, value_name = "R", default_value_t = 100.0, value_parser = positive_rate)]
    pub(crate) rate: f64,

    /// The seed of every choice [default: drawn, and told]
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,

    /// How many clients run side by side [default: 10, of `mixed` 27]
    #[arg(long, value_name = "N", value_parser = between_1_and(100))]
    pub(crate) clients: Option<usize>,

    /// What is tested: palisade, etcd or redis
    #[arg(long, value_name = "SYSTEM", default_value = "palisade")]
    pub(crate) system: String,

    /// What carries the links between nodes and from clients; see `list`
    #[arg(long, value_name = "BACKEND", default_value = "processes")]
    pub(crate) backend: Backend,

    /// The system's binary [default: palisaded beside this program; others as the system installs them]
    #[arg(long, value_name = "PATH")]
    pub(crate) binary: Option<PathBuf>,

    /// The run's folder, new or empty [default: one in ./jepsen-runs]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// Keep the nodes' data of a valid run too
    #[arg(long)]
    pub(crate) keep_data: bool,
}

/// Show that planted bugs are found, and that nothing is found where none is
#[derive(Debug, Args)]
#[command(after_help = "\
Needs a build that bugs can be planted in: PALISADE_PLANTED_BUGS=yes cargo build --release --workspace
--features lock-service/planted-bugs --bin palisaded-planted

Exit status:
  0  every bug was found, and nothing in runs without one
  1  a bug was missed, or something was found in a run without one
  2  no run without a bug was valid, so nothing is shown
  3  the harness could not do its work")]
pub(crate) struct SelfTestArguments {
    /// The build with planted bugs [default: palisaded-planted beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) binary: Option<PathBuf>,

    /// Only these bugs [default: all that the build has]
    #[arg(long, value_name = "BUG,…", value_delimiter = ',')]
    pub(crate) bugs: Vec<String>,

    /// How many runs each bug has to be found in
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = between_1_and(1_000))]
    pub(crate) runs: usize,

    /// How many runs there are without a bug
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) sound_runs: usize,

    /// How long each run with a bug breaks things
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub(crate) time: Duration,

    /// The same without a bug: long enough for every group of faults to come, or nothing is shown
    #[arg(long, value_name = "DURATION", default_value = "150s", value_parser = positive_duration)]
    pub(crate) sound_time: Duration,

    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = between_1_and(9))]
    pub(crate) nodes: usize,

    /// Operations per second that all clients together aim at
    #[arg(long, value_name = "R", default_value_t = 150.0, value_parser = positive_rate)]
    pub(crate) rate: f64,

    /// The seed that the runs' seeds are drawn from [default: drawn, and told]
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,

    /// The folder of the runs, new or empty [default: one in ./jepsen-runs]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

fn between_1_and(most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("a number from 1 to {most}")),
    }
}

fn trimmed(text: &str) -> Result<String, Infallible> {
    Ok(text.trim().to_owned())
}

fn positive_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 100_000.0 => Ok(rate),
        _ => Err("operations per second, above 0, at most 100000".to_owned()),
    }
}

/// Decide whether histories are linearizable, and explain those that are not
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  0  every history is valid        1  one is not
  2  none is invalid, but one could not be decided within its bounds
  3  the arguments or an input cannot be used (and none is invalid)

Of several files there is a line each; check one alone to have it explained.")]
pub(crate) struct CheckArguments {
    /// Recorded histories; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// What the history is of: register, cas-register, kv, mutex, owner-mutex, fenced-mutex,
    /// rw-lock, semaphore:N, multi-lock or lease-lock; register:V and cas-register:V hold V at the
    /// start [default: told by the operations, where only one model has them]
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<AnyModel>,

    /// How it is written: edn, jsonl, etcd or kv [default: told by the first line]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,

    /// What a failed operation tells [default: nothing, except in etcd logs]
    #[arg(long, value_name = "MEANING")]
    pub(crate) fail: Option<Fail>,

    /// Verify the order that the answers' positions claim, with the committed log dumped to this
    /// file, instead of searching for an order
    #[arg(long, value_name = "LOG")]
    pub(crate) log: Option<PathBuf>,

    /// Write a page that shows the history and explains the verdict. For one file
    #[arg(long, value_name = "OUT", conflicts_with = "log")]
    pub(crate) html: Option<PathBuf>,

    /// Print a JSON object for each file, on a line
    #[arg(long)]
    pub(crate) json: bool,

    /// How long one history may take
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub(crate) timeout: Duration,

    /// How much memory one history may take, in MiB
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u64).range(1..=1 << 20)
    )]
    pub(crate) memory_mib: u64,

    /// How many steps of the model may be tried for each independent part of a history
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) steps: Option<u64>,
}

/// What a failed operation tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fail {
    /// It did not happen, and nothing follows from that: Jepsen's convention
    DidNotHappen,
    /// The system looked and refused: the model checks that it had reason to
    Observation,
}

impl From<Fail> for FailMeaning {
    fn from(fail: Fail) -> Self {
        match fail {
            Fail::DidNotHappen => FailMeaning::DidNotHappen,
            Fail::Observation => FailMeaning::Observation,
        }
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("nothing can be checked in no time".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it as in 500ms, 60s or 5m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<CheckArguments, clap::Error> {
        let words = ["palisade-jepsen", "check"]
            .into_iter()
            .chain(line.split_whitespace());
        Arguments::try_parse_from(words).map(|arguments| {
            let Command::Check(check) = arguments.command else {
                panic!("another command");
            };
            check
        })
    }

    #[test]
    fn the_grammar_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn models_formats_and_durations_are_parsed() {
        let check = parse("a - --model semaphore:3 --format etcd --timeout 1500ms").unwrap();
        assert_eq!(check.files.len(), 2);
        assert_eq!(check.model, Some("semaphore:3".parse().unwrap()));
        assert_eq!(check.format, Some(Format::Etcd));
        assert_eq!(check.timeout, Duration::from_millis(1500));
        assert_eq!(parse("a").unwrap().timeout, Duration::from_secs(60));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for line in [
            "",
            "a --model registers",
            "a --format xml",
            "a --timeout 0s",
            "a --timeout 5",
            "a --memory-mib 0",
            "a --fail maybe",
            "a --html x --log y",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
