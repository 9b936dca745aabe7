//! Reads a run's folder. What is missing or damaged is a problem that the page tells, and no reason to show
//! nothing: a run that was cut off is one that somebody wants to look at.

use std::collections::BTreeSet;
use std::io;
use std::path::Component;
use std::path::Path;

use jepsen_checker::format::Format;
use jepsen_checker::{FailMeaning, History};
use serde::de::DeserializeOwned;

use crate::run_directory::{
    CHECKED, CHECKED_LOG, CLUSTER, ClusterSample, EVENTS, FaultRecord, HISTORY, HISTORY_EDN, LOG,
    NEMESIS, NODES, RESULTS, RUN, Results, RunDescription, RunDirectory,
};

/// The files that a run may leave, for the list at the end.
pub(super) const FILES: [(&str, &str); 10] = [
    (RESULTS, "the verdict, by check"),
    (RUN, "what was run"),
    (HISTORY, "what clients asked and were answered"),
    (HISTORY_EDN, "the same, for Jepsen's tools"),
    (NEMESIS, "every fault"),
    (CLUSTER, "who led, in which term, who answered"),
    (LOG, "what was applied"),
    (CHECKED, "what the lock models were given"),
    (CHECKED_LOG, "the log of its operations"),
    (EVENTS, "what listeners were told"),
];

/// What a run left.
pub(super) struct Sources {
    pub(super) directory: RunDirectory,
    pub(super) run: RunDescription,
    pub(super) results: Option<Results>,
    pub(super) faults: Vec<FaultRecord>,
    pub(super) samples: Vec<ClusterSample>,
    pub(super) history: Option<History>,
    /// What could not be read, in sentences.
    pub(super) problems: Vec<String>,
}

impl Sources {
    /// Reads all of it; only `run.json` must be there.
    pub(super) fn read(directory: &RunDirectory) -> Result<Self, String> {
        let folder = directory.root().display();
        let run: RunDescription = directory.read(RUN).map_err(|error| {
            format!("{folder} is no run's folder: its {RUN} cannot be read: {error}")
        })?;
        if run.format != "palisade-jepsen-run" || run.version != 1 {
            return Err(format!(
                "{folder} has a {RUN} of format {:?}, version {}; this program reads \"palisade-jepsen-run\", 1",
                run.format, run.version
            ));
        }
        let mut problems = Vec::new();
        let results = match directory.read::<Results>(RESULTS) {
            Ok(mut results) => {
                for check in &mut results.checks {
                    if let (true, Some(report)) = (check.findings.is_empty(), &check.report) {
                        check
                            .findings
                            .extend(super::violation::contradiction(report));
                    }
                }
                Some(results)
            }
            Err(error) => {
                problems.push(format!(
                    "{RESULTS} cannot be read, so there is no verdict: {error}"
                ));
                None
            }
        };
        let history = match read_history(directory) {
            Ok(history) => Some(history),
            Err(problem) => {
                problems.push(format!(
                    "{HISTORY} cannot be read, so no operation is shown: {problem}"
                ));
                None
            }
        };
        let mut sources = Sources {
            directory: directory.clone(),
            run,
            results,
            faults: Vec::new(),
            samples: Vec::new(),
            history,
            problems,
        };
        sources.faults = sources.lines(NEMESIS);
        sources.samples = sources.lines(CLUSTER);
        sources.faults.sort_by_key(|fault| fault.begin_ns);
        sources.samples.sort_by_key(|sample| sample.time_ns);
        Ok(sources)
    }

    /// The lines of a file that can be read; those behind the first that cannot are a problem.
    fn lines<T: DeserializeOwned>(&mut self, name: &str) -> Vec<T> {
        let text = match std::fs::read(self.directory.path(name)) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                self.problems
                    .push(format!("{name} cannot be read: {error}"));
                return Vec::new();
            }
        };
        let mut items = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            match serde_json::from_str(line) {
                _ if line.trim().is_empty() => {}
                Ok(item) => items.push(item),
                Err(error) => {
                    self.problems.push(format!(
                        "{name} is used up to line {number}, which cannot be read: {error}"
                    ));
                    break;
                }
            }
        }
        items
    }

    /// When the last thing happened; never zero.
    pub(super) fn end_ns(&self) -> u64 {
        let events = self.history.iter().flat_map(History::events);
        let events = events.filter_map(|event| event.time_ns);
        let faults = self.faults.iter().map(|fault| fault.end_ns);
        let samples = self.samples.iter().map(|sample| sample.time_ns);
        events
            .chain(faults)
            .chain(samples)
            .max()
            .unwrap_or(0)
            .max(1)
    }

    /// Whether this node was ever started: one that stands by to join may not have been.
    pub(super) fn has_run(&self, name: &str) -> bool {
        self.directory.node(name).join("log").exists()
    }

    /// The run's nodes, and others that ran (they joined later). Only names that are names:
    /// nothing outside of the run's folder is read.
    pub(super) fn node_names(&self) -> Vec<String> {
        let is_name = |name: &str| {
            let mut parts = Path::new(name).components();
            matches!(
                (parts.next(), parts.next()),
                (Some(Component::Normal(_)), None)
            )
        };
        let mut names: Vec<String> = self.run.nodes.clone();
        names.retain(|name| is_name(name));
        let known: BTreeSet<String> = names.iter().cloned().collect();
        // Without the folder no log can be read either, and each node tells so.
        let folders = std::fs::read_dir(self.directory.path(NODES))
            .into_iter()
            .flatten();
        let mut others: Vec<String> = folders
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !known.contains(name) && self.has_run(name))
            .collect();
        others.sort();
        names.extend(others);
        names
    }
}

fn read_history(directory: &RunDirectory) -> Result<History, String> {
    let problem = |error: io::Error| error.to_string();
    let file = std::fs::File::open(directory.path(HISTORY)).map_err(problem)?;
    Format::JsonLines
        .read(file, FailMeaning::Observation)
        .map_err(|error| error.to_string())
}
