//! `palisade-jepsen self-test`: whether the harness finds what it is there to find. Runs the standard mixed
//! workload under all faults against a build that bugs can be planted in: with each bug until a run convicts
//! it, and without any, which must never be convicted. Every run is `palisade-jepsen run`, as people use it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use tokio::time::Instant;

use crate::arguments::SelfTestArguments;
use crate::cluster::{Process, this_program};
use crate::exit;
use crate::output::eprint_line;
use crate::run::PLANTED_BUG;
use crate::run_directory::{RESULTS, Results, RunDirectory, RunVerdict};

/// How a build with planted bugs says of itself that it is one, in its version.
const ANNOUNCED: &str = "PLANTED BUGS";
/// What all runs came to.
const SUMMARY: &str = "self-test.json";
/// How long a run may take beyond its time: recovery, judging, the report.
const RUN_GRACE: Duration = Duration::from_secs(300);

/// What the runs with a bug, or without any, came to.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    /// `None` of the runs without any.
    bug: Option<String>,
    /// Seeds and verdicts, in order.
    runs: Vec<(u64, RunVerdict)>,
    /// The checks that found something in the last run.
    found_by: Vec<String>,
    /// What the first of them said.
    evidence: Option<String>,
    /// How long all runs took, in seconds.
    seconds: u64,
}

impl Outcome {
    fn is_convicted(&self) -> bool {
        let invalid = |(_, verdict): &(u64, RunVerdict)| *verdict == RunVerdict::Invalid;
        self.runs.iter().any(invalid)
    }

    fn line(&self) -> String {
        let name = self.bug.as_deref().unwrap_or("none");
        let runs = match self.runs.len() {
            1 => "1 run".to_owned(),
            runs => format!("{runs} runs"),
        };
        let seconds = self.seconds;
        if self.is_convicted() {
            let by = self.found_by.join(", ");
            format!("{name}: found by {by} in {runs}, {seconds} s")
        } else {
            let count = |wanted| self.runs.iter().filter(|(_, it)| *it == wanted).count();
            let (valid, unknown) = (count(RunVerdict::Valid), count(RunVerdict::Unknown));
            format!(
                "{name}: nothing found in {runs} ({valid} valid, {unknown} unknown), {seconds} s"
            )
        }
    }
}

/// Runs, tells; the exit status.
pub(crate) fn run(arguments: &SelfTestArguments) -> u8 {
    exit::status_of(test(arguments))
}

async fn test(arguments: &SelfTestArguments) -> Result<u8, String> {
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => beside("palisaded-planted")?,
    };
    let known = bugs_of(&binary)?;
    let bugs = match &arguments.bugs[..] {
        [] => known,
        chosen => {
            if let Some(other) = chosen.iter().find(|bug| !known.contains(bug)) {
                return Err(format!(
                    "there is no bug {other:?} in {}; there are {}",
                    binary.display(),
                    known.join(", ")
                ));
            }
            chosen.to_vec()
        }
    };
    let seed = arguments
        .seed
        .unwrap_or_else(|| rand::random_range(0..1 << 32));
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| Path::new("jepsen-runs").join(format!("self-test-{seed}")));
    let directory = RunDirectory::create(&out)
        .map_err(|error| format!("the folder {} cannot be used: {error}", out.display()))?;
    eprint_line(&format!("seed {seed}, in {}", directory.root().display()));
    let mut tester = Tester {
        arguments,
        binary: std::path::absolute(&binary).map_err(|error| error.to_string())?,
        directory,
        rng: StdRng::seed_from_u64(seed),
    };
    let mut outcomes = Vec::new();
    for bug in bugs {
        outcomes.push(tester.look_for(Some(bug), arguments.runs).await?);
    }
    if arguments.sound_runs > 0 {
        outcomes.push(tester.look_for(None, arguments.sound_runs).await?);
    }
    tester
        .directory
        .write(SUMMARY, &outcomes)
        .map_err(|error| format!("{SUMMARY}: {error}"))?;
    tell(&outcomes).map_err(|error| format!("cannot print: {error}"))?;
    Ok(status(&outcomes))
}

/// Invalid if a bug was missed or a sound build convicted; unknown if no run of a sound build was valid.
fn status(outcomes: &[Outcome]) -> u8 {
    let wrong = |outcome: &Outcome| outcome.is_convicted() != outcome.bug.is_some();
    let shows_nothing = |outcome: &Outcome| {
        let valid = |(_, verdict): &(u64, RunVerdict)| *verdict == RunVerdict::Valid;
        outcome.bug.is_none() && !outcome.runs.iter().any(valid)
    };
    if outcomes.iter().any(wrong) {
        exit::INVALID
    } else if outcomes.iter().any(shows_nothing) {
        exit::UNKNOWN
    } else {
        exit::VALID
    }
}

fn tell(outcomes: &[Outcome]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for outcome in outcomes {
        writeln!(out, "{}", outcome.line())?;
        if let Some(evidence) = &outcome.evidence {
            writeln!(out, "    {evidence}")?;
        }
    }
    let planted = outcomes.iter().filter(|outcome| outcome.bug.is_some());
    let found = planted.clone().filter(|outcome| outcome.is_convicted());
    writeln!(out, "found {} of {}", found.count(), planted.count())
}

/// A program in the folder of this one.
fn beside(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let path = own.with_file_name(name);
    match path.is_file() {
        true => Ok(path),
        false => Err(format!(
            "{} is not there; build it: PALISADE_PLANTED_BUGS=yes cargo build --release --workspace \
             --features lock-service/planted-bugs --bin {name}",
            path.display()
        )),
    }
}

/// The bugs that can be planted in a build, which must say that it is one.
fn bugs_of(binary: &Path) -> Result<Vec<String>, String> {
    let ask = |name: &str, argument: &str| {
        let asked = Command::new(binary)
            .env(PLANTED_BUG, name)
            .arg(argument)
            .output();
        asked.map_err(|error| format!("{} cannot be started: {error}", binary.display()))
    };
    let version = ask("", "--version")?.stdout;
    let version = String::from_utf8_lossy(&version);
    if !version.contains(ANNOUNCED) {
        return Err(format!(
            "no bug can be planted in {}, whose version is {:?}",
            binary.display(),
            version.trim()
        ));
    }
    // Asked for one that there is not, it lists those there are.
    let refusal = ask("?", "inspect")?.stderr;
    bug_names(&String::from_utf8_lossy(&refusal))
        .ok_or_else(|| format!("{} does not say which bugs it has", binary.display()))
}

fn bug_names(refusal: &str) -> Option<Vec<String>> {
    let (_, names) = refusal.split_once(" is none of ")?;
    // What follows is a quotation mark, where the refusal is a line of JSON.
    let of_names = |letter: char| letter.is_ascii_alphanumeric() || "-, ".contains(letter);
    let end = names.find(|letter| !of_names(letter));
    let names = &names[..end.unwrap_or(names.len())];
    Some(names.split(", ").map(String::from).collect())
}

struct Tester<'a> {
    arguments: &'a SelfTestArguments,
    binary: PathBuf,
    directory: RunDirectory,
    rng: StdRng,
}

impl Tester<'_> {
    /// Runs until one is convicted, at most so often.
    async fn look_for(&mut self, bug: Option<String>, runs: usize) -> Result<Outcome, String> {
        let mut outcome = Outcome {
            bug,
            ..Outcome::default()
        };
        let began = Instant::now();
        for _ in 0..runs {
            let seed = self.rng.random_range(0..1 << 32);
            let results = self.run(outcome.bug.as_deref(), seed).await?;
            outcome.runs.push((seed, results.verdict));
            outcome.seconds = began.elapsed().as_secs();
            if results.verdict == RunVerdict::Invalid {
                let convicts = results
                    .checks
                    .iter()
                    .filter(|check| check.counts && check.verdict == RunVerdict::Invalid);
                for check in convicts {
                    let words = check.explanation.lines().next().unwrap_or_default();
                    outcome.evidence.get_or_insert_with(|| words.to_owned());
                    outcome.found_by.push(check.check.clone());
                }
                break;
            }
        }
        eprint_line(&outcome.line());
        Ok(outcome)
    }

    async fn run(&self, bug: Option<&str>, seed: u64) -> Result<Results, String> {
        let name = format!("{}-{seed}", bug.unwrap_or("none"));
        let out = self.directory.path(&name);
        let lasts = match bug {
            Some(_) => self.arguments.time,
            None => self.arguments.sound_time,
        };
        let time = humantime::format_duration(lasts).to_string();
        let mut command = this_program();
        command
            .args(["run", "--workload", "mixed", "--nemesis", "all"])
            .args(["--nodes", &self.arguments.nodes.to_string()])
            .args(["--time", &time.replace(' ', "")])
            .args(["--rate", &self.arguments.rate.to_string()])
            .args(["--seed", &seed.to_string()])
            .arg("--binary")
            .arg(&self.binary)
            .arg("--out")
            .arg(&out);
        match bug {
            Some(bug) => command.env(PLANTED_BUG, bug),
            None => command.env_remove(PLANTED_BUG),
        };
        let log = self.directory.path(&format!("{name}.txt"));
        let unusable = |error: io::Error| format!("{name}: {error}");
        let mut process = Process::start(&mut command, &log).map_err(unusable)?;
        let deadline = Instant::now() + lasts + RUN_GRACE;
        while process.ended().map_err(unusable)?.is_none() {
            if Instant::now() >= deadline {
                process.kill().map_err(unusable)?;
                return Err(format!("{name} did not end; see {}", log.display()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        RunDirectory::open(&out)
            .read(RESULTS)
            .map_err(|_| format!("{name} came to nothing; see {}", log.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(bug: Option<&str>, verdicts: &[RunVerdict]) -> Outcome {
        Outcome {
            bug: bug.map(String::from),
            runs: verdicts.iter().map(|verdict| (1, *verdict)).collect(),
            ..Outcome::default()
        }
    }

    #[test]
    fn a_missed_bug_and_a_convicted_sound_build_fail_and_a_sound_build_must_be_shown_to_be() {
        use RunVerdict::{Invalid, Unknown, Valid};
        let found = || outcome(Some("a"), &[Valid, Unknown, Invalid]);
        let sound = outcome(None, &[Unknown, Valid]);
        assert_eq!(status(&[found(), sound]), exit::VALID);
        assert_eq!(status(&[outcome(Some("a"), &[Valid])]), exit::INVALID);
        assert_eq!(status(&[found(), outcome(None, &[Invalid])]), exit::INVALID);
        assert_eq!(status(&[found(), outcome(None, &[Unknown])]), exit::UNKNOWN);
    }

    #[test]
    fn the_bugs_are_read_from_the_refusal_of_another() {
        let refusal = r#"{"message":"PALISADE_PLANTED_BUG=? is none of a-b, c","target":"main"}"#;
        assert_eq!(bug_names(refusal).unwrap(), ["a-b", "c"]);
        assert_eq!(bug_names("error: no such file"), None);
    }
}
