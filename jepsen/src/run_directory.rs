//! The folder that one run leaves behind, and the only thing that a report is made from. Here are its
//! files' names and the types of what is in them; what they mean is said at each field. It measures
//! nothing and judges nothing.
//!
//! ```text
//! DIR/
//!   run.json         what was run, and how to repeat it          RunDescription
//!   history.jsonl    what clients asked and were answered        jepsen_checker::format::Format::JsonLines
//!   history.edn      the same, for Jepsen's tools                jepsen_checker::format::Format::Edn
//!   nemesis.jsonl    every fault, one per line, by its end       FaultRecord
//!   cluster.jsonl    who led, in which term, who answered        ClusterSample
//!   log.jsonl        what was applied, if the system tells       jepsen_checker::witness::LogDump
//!   checked.jsonl    what the lock models were given             jepsen_checker::format::Format::JsonLines
//!   checked-log.jsonl  the log of its operations                 jepsen_checker::witness::LogDump
//!   results.json     the verdict, by checker                     Results
//!   report.html      all of it as a page                         made from the rest
//!   nodes/NAME/log   what the node wrote to standard error, over all its starts
//!   nodes/NAME/data  its data, of runs that are not valid
//! ```
//!
//! **Times** ending in `_ns` are nanoseconds of one monotonic clock since the run began, the same in all
//! files; the history calls them `time`. Wall-clock times end in `_unix_ms` and are for people.
//!
//! **The history** has a line per event. Its line number, from 1, is what findings refer to. Functions
//! and fields are those of [`jepsen_checker::lock_checks`]; keys begin with the workload's name, as in
//! `lock/7`. The process `nemesis` says `F` when a fault begins and `heal-F` when it ends, both with the
//! target in words as value, and `heal-all` when the last one ended. Failures carry an `error` with the
//! system's code, refusals of Palisade also a `position`.
//!
//! **What was checked** is the history in other words: repeats of a request are one operation, unknown
//! outcomes are decided by the log, cancels are releases, and whoever a read saw was `already_held`. It can
//! be checked again: `palisade-jepsen check --model lease-lock --fail observation checked.jsonl`, with `--log
//! checked-log.jsonl` for the witness. The text of an explanation names lines of `history.jsonl`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// `run.json`.
pub(crate) const RUN: &str = "run.json";
/// `history.jsonl`.
pub(crate) const HISTORY: &str = "history.jsonl";
/// `history.edn`.
pub(crate) const HISTORY_EDN: &str = "history.edn";
/// `nemesis.jsonl`.
pub(crate) const NEMESIS: &str = "nemesis.jsonl";
/// `cluster.jsonl`.
pub(crate) const CLUSTER: &str = "cluster.jsonl";
/// `log.jsonl`.
pub(crate) const LOG: &str = "log.jsonl";
/// `checked.jsonl`.
pub(crate) const CHECKED: &str = "checked.jsonl";
/// `checked-log.jsonl`.
pub(crate) const CHECKED_LOG: &str = "checked-log.jsonl";
/// `events.jsonl`.
pub(crate) const EVENTS: &str = "events.jsonl";
/// `results.json`.
pub(crate) const RESULTS: &str = "results.json";
/// `report.html`.
pub(crate) const REPORT: &str = "report.html";
/// `nodes`.
pub(crate) const NODES: &str = "nodes";

/// What was run, and how to repeat it. Written when the run begins, and again when it has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunDescription {
    /// Always `palisade-jepsen-run`.
    pub(crate) format: String,
    /// The version of this format, 1.
    pub(crate) version: u32,
    /// `palisade`, `etcd` or `redis`.
    pub(crate) system: String,
    /// What the system's binary says of itself, one line.
    pub(crate) system_version: Option<String>,
    /// What was started on each node.
    pub(crate) binary: String,
    /// The workload.
    pub(crate) workload: String,
    /// What was asked for by `--nemesis`: faults, groups of faults, or `all`.
    pub(crate) nemeses: Vec<String>,
    /// `processes` or `namespaces`.
    pub(crate) backend: String,
    /// The nodes' names, in order.
    pub(crate) nodes: Vec<String>,
    /// How many clients ran side by side.
    pub(crate) clients: u64,
    /// The seed of every choice of nemesis, proxies and clients.
    pub(crate) seed: u64,
    /// Operations per second that all clients together aimed at.
    pub(crate) rate: f64,
    /// How long faults and operations ran side by side, in milliseconds.
    pub(crate) time_ms: u64,
    /// How long operations went on after everything was healed, in milliseconds.
    pub(crate) recovery_ms: u64,
    /// The command that repeats the run: for a POSIX shell.
    pub(crate) command: String,
    /// `palisade-jepsen`'s version.
    pub(crate) harness_version: String,
    /// When it began.
    pub(crate) started_unix_ms: u64,
    /// The wall clock's time at the zero of all `_ns`, by which nodes' logs are matched; absent in runs that
    /// did not record it.
    #[serde(default)]
    pub(crate) clock_began_unix_ms: Option<u64>,
    /// When operations had ended; absent while it runs, and of a run that was cut off.
    #[serde(default)]
    pub(crate) ended_unix_ms: Option<u64>,
    /// What this machine or this system cannot do, in words: faults that were not planned for it, parts
    /// of the workload that were left out.
    pub(crate) left_out: Vec<String>,
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FaultOutcome {
    /// It was in effect from begin to end.
    Installed,
    /// It was not, and nothing was changed; the reason says why.
    Skipped,
    /// Nobody knows whether it was, or whether all of it was; the reason says why.
    Indeterminate,
}

/// One fault. A line of `nemesis.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FaultRecord {
    /// Its number in the run, from 0, by begin.
    pub(crate) number: u64,
    /// What, as in `--nemesis`: `partition-leader`. The history's nemesis events have it as function.
    pub(crate) fault: String,
    /// The group that it belongs to: `partition`.
    pub(crate) group: String,
    /// To whom, and how, in words: `n3, which led, apart from n1 n2`.
    pub(crate) target: String,
    /// The nodes that it was done to. Empty if it was done to clients.
    pub(crate) nodes: Vec<String>,
    /// What became of it.
    pub(crate) outcome: FaultOutcome,
    /// When it was begun.
    pub(crate) begin_ns: u64,
    /// When it was healed, or was over by itself.
    pub(crate) end_ns: u64,
    /// Why it was skipped, or is not known, or what was peculiar.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// What the nodes said of themselves at one moment. A line of `cluster.jsonl`, several a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClusterSample {
    /// When they were asked.
    pub(crate) time_ns: u64,
    /// Each node.
    pub(crate) nodes: Vec<NodeSample>,
}

/// One node at one moment. Asked directly, past the faults of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeSample {
    /// Its name.
    pub(crate) node: String,
    /// What its process does: `running`, `paused`, `down`.
    pub(crate) process: String,
    /// Whether it answered in time.
    pub(crate) reachable: bool,
    /// Whether it says that it leads.
    #[serde(default)]
    pub(crate) leads: bool,
    /// The name of whoever it believes to lead.
    #[serde(default)]
    pub(crate) leader: Option<String>,
    /// Its term.
    #[serde(default)]
    pub(crate) term: Option<u64>,
    /// The last log index that it has applied.
    #[serde(default)]
    pub(crate) applied_index: Option<u64>,
}

/// A verdict; also the exit status of `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunVerdict {
    /// Every checker that could conclude found its promise kept, and the run covered what was planned.
    Valid,
    /// A checker found its promise broken.
    Invalid,
    /// Nothing broken was found, but the run does not show that nothing is.
    Unknown,
}

impl RunVerdict {
    /// `valid`, `invalid` or `unknown`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            RunVerdict::Valid => "valid",
            RunVerdict::Invalid => "invalid",
            RunVerdict::Unknown => "unknown",
        }
    }
}

/// `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// The verdict on the run.
    pub(crate) verdict: RunVerdict,
    /// What it rests on, in a sentence.
    pub(crate) why: String,
    /// By checker, the most important first.
    pub(crate) checks: Vec<CheckResult>,
    /// Operations by kind and outcome.
    pub(crate) operations: Vec<OperationCount>,
    /// Faults by kind and outcome.
    pub(crate) faults: Vec<FaultCount>,
    /// How long judging took, in milliseconds.
    pub(crate) judged_ms: u64,
}

/// What one checker found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CheckResult {
    /// Its name: `linearizability`, `log witness`, `fencing`, ...
    pub(crate) check: String,
    /// What it promises when it passes, as a sentence.
    pub(crate) promise: String,
    /// What it concludes.
    pub(crate) verdict: RunVerdict,
    /// Whether the run's verdict rests on it. `false` of checks whose premises this run's faults break,
    /// as a pause breaks that of overlapping holders: they are told and do not count.
    pub(crate) counts: bool,
    /// How many cases it looked at: grants, writes, operations, events.
    pub(crate) examined: u64,
    /// Its conclusion in words, for people; of a violation the whole explanation.
    pub(crate) explanation: String,
    /// Evidence; of many, the first.
    pub(crate) findings: Vec<FindingRecord>,
    /// Of a violation of linearizability: what `palisade-jepsen check --json` calls `report`, with the first
    /// illegal step and its alternatives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) report: Option<serde_json::Value>,
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FindingRecord {
    /// What it shows.
    pub(crate) words: String,
    /// The lines of `history.jsonl` at which the operations that show it begin and end.
    pub(crate) lines: Vec<u64>,
}

/// Operations of one function of one workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OperationCount {
    /// The workload, of `mixed` each part.
    pub(crate) workload: String,
    /// The function: `acquire`, ...
    pub(crate) function: String,
    /// Answered with success.
    pub(crate) ok: u64,
    /// Refused.
    pub(crate) fail: u64,
    /// Of unknown outcome, as the client saw it.
    pub(crate) info: u64,
}

/// Faults of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FaultCount {
    /// Its name.
    pub(crate) fault: String,
    /// Its group.
    pub(crate) group: String,
    /// In effect.
    pub(crate) installed: u64,
    /// Not in effect.
    pub(crate) skipped: u64,
    /// Not known.
    pub(crate) indeterminate: u64,
}

/// Where one run's files are.
#[derive(Clone, Debug)]
pub(crate) struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    /// Makes the folder, which must be new or empty: a run never writes over another.
    pub(crate) fn create(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        if std::fs::read_dir(root)?.next().is_some() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is something in it already; name a new folder with --out",
            ));
        }
        // Nodes are told absolute paths.
        let root = root.canonicalize()?;
        Ok(RunDirectory { root })
    }

    /// The folder of a run that there was.
    pub(crate) fn open(root: &Path) -> Self {
        RunDirectory {
            root: root.to_owned(),
        }
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// One of its files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// What belongs to a node.
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        self.root.join(NODES).join(name)
    }

    /// Writes a file of one JSON object, whole or not at all.
    pub(crate) fn write<T: Serialize>(&self, name: &str, object: &T) -> io::Result<()> {
        let partial = self.path(&format!("{name}.partial"));
        let mut out = BufWriter::new(File::create(&partial)?);
        serde_json::to_writer_pretty(&mut out, object)?;
        out.write_all(b"\n")?;
        out.flush()?;
        std::fs::rename(partial, self.path(name))
    }

    /// Reads a file of one JSON object.
    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> io::Result<T> {
        Ok(serde_json::from_slice(&std::fs::read(self.path(name))?)?)
    }

    /// Begins a file of JSON lines.
    pub(crate) fn lines<T: Serialize>(&self, name: &str) -> io::Result<LinesWriter<T>> {
        Ok(LinesWriter {
            out: BufWriter::new(File::create(self.path(name))?),
            of: PhantomData,
        })
    }

    /// Reads a file of JSON lines; none if the run left no such file.
    pub(crate) fn read_lines<T: serde::de::DeserializeOwned>(
        &self,
        name: &str,
    ) -> io::Result<Vec<T>> {
        let text = match std::fs::read_to_string(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

/// A file that grows by lines. Each line is on its way to the file when `push` returns, so that a run
/// that is cut off leaves what it had.
#[derive(Debug)]
pub(crate) struct LinesWriter<T> {
    out: BufWriter<File>,
    of: PhantomData<fn(&T)>,
}

impl<T: Serialize> LinesWriter<T> {
    /// Appends one.
    pub(crate) fn push(&mut self, item: &T) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, item)?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_never_writes_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(&folder.path().join("run")).unwrap();
        run.write(RUN, &1).unwrap();
        let again = RunDirectory::create(run.root()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn lines_are_read_as_they_were_written_and_a_missing_file_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(folder.path()).unwrap();
        assert!(run.read_lines::<FaultRecord>(NEMESIS).unwrap().is_empty());
        let fault = FaultRecord {
            number: 0,
            fault: "partition-leader".into(),
            group: "partition".into(),
            target: "n1, which led, apart from n2 n3".into(),
            nodes: vec!["n1".into()],
            outcome: FaultOutcome::Installed,
            begin_ns: 1,
            end_ns: 2,
            reason: None,
        };
        let mut out = run.lines(NEMESIS).unwrap();
        out.push(&fault).unwrap();
        out.push(&fault).unwrap();
        assert_eq!(
            run.read_lines::<FaultRecord>(NEMESIS).unwrap(),
            [fault.clone(), fault]
        );
    }
}
