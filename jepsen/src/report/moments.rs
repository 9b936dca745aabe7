//! The times at which checks found something: what was going on, what clients did on the same locks, and
//! what the nodes wrote. It finds nothing by itself.

use std::collections::{BTreeMap, BTreeSet};

use jepsen_checker::{Event, EventKind, History, Operation, Process, Value};

use crate::run_directory::{CheckResult, ClusterSample, FaultOutcome, FaultRecord, RunVerdict};

/// The most moments on a page.
pub(super) const MOST_MOMENTS: usize = 8;
const MOST_BEFORE: usize = 14;
const MOST_AFTER: usize = 6;
/// The most events that are looked through in each direction.
const MOST_LOOKED_AT: usize = 20_000;
/// The most lines of evidence that are shown.
const MOST_EVIDENCE: usize = 8;
const MOST_CHARACTERS: usize = 300;

/// When a check found something first.
pub(super) struct Moment {
    /// From 1.
    pub(super) number: usize,
    pub(super) check: String,
    pub(super) words: String,
    pub(super) time_ns: u64,
    pub(super) events: Vec<EventRow>,
}

/// An event of the history, in words.
pub(super) struct EventRow {
    pub(super) line: u64,
    pub(super) time: String,
    pub(super) process: String,
    pub(super) kind: &'static str,
    pub(super) words: String,
    pub(super) class: &'static str,
    pub(super) is_evidence: bool,
}

/// The operations that certain lines of the history belong to.
pub(super) struct ByLine<'h> {
    history: &'h History,
    operations: BTreeMap<u64, &'h Operation>,
}

impl<'h> ByLine<'h> {
    pub(super) fn of(history: &'h History, wanted: &BTreeSet<u64>) -> Self {
        let mut operations = BTreeMap::new();
        for operation in history.operations() {
            for index in std::iter::once(operation.invocation).chain(operation.completion) {
                let line = history.event(index).line;
                if wanted.contains(&line) {
                    operations.insert(line, operation);
                }
            }
        }
        ByLine {
            history,
            operations,
        }
    }

    /// The locks that the operations of these lines touch.
    pub(super) fn locks(&self, lines: &[u64]) -> BTreeSet<Value> {
        let operations = lines.iter().filter_map(|line| self.operations.get(line));
        operations
            .flat_map(|operation| locks(operation.key.as_ref(), &operation.input))
            .collect()
    }

    /// Where the last of these lines stands, if the history has it.
    fn last_index(&self, lines: &[u64]) -> Option<usize> {
        let events = self.history.events();
        let last = lines.iter().copied().max()?;
        events.binary_search_by_key(&last, |event| event.line).ok()
    }
}

/// The locks that a key and a value name.
pub(super) fn locks(key: Option<&Value>, value: &Value) -> Vec<Value> {
    let several = value.field("locks").and_then(Value::as_list);
    let named = several.unwrap_or_default().iter();
    let named = named.map(|lock| lock.field("name").unwrap_or(lock));
    key.into_iter().chain(named).cloned().collect()
}

/// The first finding of every check that is not valid, those first that count; and how many checks are
/// left out.
pub(super) fn moments(checks: &[&CheckResult], by_line: &ByLine<'_>) -> (Vec<Moment>, usize) {
    let mut moments = Vec::new();
    let mut left_out = 0;
    for check in checks {
        if check.verdict == RunVerdict::Valid {
            continue;
        }
        let found = check
            .findings
            .iter()
            .find_map(|finding| Some((finding, by_line.last_index(&finding.lines)?)));
        let Some((finding, index)) = found else {
            continue;
        };
        let event = &by_line.history.events()[index];
        let Some(time_ns) = event.time_ns else {
            continue;
        };
        if moments.len() == MOST_MOMENTS {
            left_out += 1;
            continue;
        }
        moments.push(Moment {
            number: moments.len() + 1,
            check: check.check.clone(),
            words: finding.words.clone(),
            time_ns,
            events: around(by_line, &finding.lines, index),
        });
    }
    (moments, left_out)
}

/// The evidence, and what is near it and about the same.
fn around(by_line: &ByLine<'_>, evidence: &[u64], index: usize) -> Vec<EventRow> {
    let events = by_line.history.events();
    let wanted_locks = by_line.locks(evidence);
    let of_evidence = |line| by_line.operations.get(line);
    let clients: BTreeSet<u64> = evidence
        .iter()
        .filter_map(of_evidence)
        .map(|operation| operation.client)
        .collect();
    let is_near = |event: &Event| match &event.process {
        Process::Named(_) => true,
        Process::Client(number) => {
            clients.contains(number)
                || locks(event.key.as_ref(), &event.value)
                    .iter()
                    .any(|lock| wanted_locks.contains(lock))
        }
    };
    let mut shown: BTreeSet<usize> = evidence
        .iter()
        .take(MOST_EVIDENCE)
        .filter_map(|line| events.binary_search_by_key(line, |event| event.line).ok())
        .collect();
    let before = events[..=index].iter().enumerate().rev();
    let before = before
        .take(MOST_LOOKED_AT)
        .filter(|(_, event)| is_near(event));
    shown.extend(before.take(MOST_BEFORE).map(|(index, _)| index));
    let after = events.iter().enumerate().skip(index + 1);
    let after = after
        .take(MOST_LOOKED_AT)
        .filter(|(_, event)| is_near(event));
    shown.extend(after.take(MOST_AFTER).map(|(index, _)| index));
    shown
        .into_iter()
        .map(|index| row(&events[index], evidence))
        .collect()
}

fn row(event: &Event, evidence: &[u64]) -> EventRow {
    let mut words = event.function.to_string();
    let error = event.error.as_ref();
    for value in event.key.iter().chain([&event.value]).chain(error) {
        if !value.is_nil() {
            words.push(' ');
            words.push_str(&super::words(value));
        }
    }
    let is_named = matches!(event.process, Process::Named(_));
    EventRow {
        line: event.line,
        time: super::time_words(event.time_ns.unwrap_or(0)),
        process: event.process.to_string(),
        kind: if is_named { "" } else { event.kind.name() },
        words: super::lanes::cut(&words, MOST_CHARACTERS),
        class: match event.kind {
            _ if is_named => "nemesis",
            EventKind::Invoke => "invoke",
            EventKind::Ok => "ok",
            EventKind::Fail => "fail",
            EventKind::Info => "info",
        },
        is_evidence: evidence.contains(&event.line),
    }
}

/// What was going on then, in a sentence.
pub(super) fn circumstances(
    time_ns: u64,
    faults: &[FaultRecord],
    samples: &[ClusterSample],
) -> String {
    let under_way: Vec<String> = faults
        .iter()
        .filter(|fault| fault.outcome != FaultOutcome::Skipped)
        .filter(|fault| (fault.begin_ns..=fault.end_ns).contains(&time_ns))
        .map(|fault| format!("{} ({})", fault.fault, fault.target))
        .collect();
    let last = faults
        .iter()
        .filter(|fault| fault.outcome != FaultOutcome::Skipped && fault.end_ns < time_ns)
        .max_by_key(|fault| fault.end_ns);
    let mut words = match (&under_way[..], last) {
        ([], None) => "No fault had been installed yet.".to_owned(),
        ([], Some(last)) => format!(
            "No fault was in effect; the last one, {} ({}), had ended {} before.",
            last.fault,
            last.target,
            super::scale::latency((time_ns - last.end_ns) as f64 / 1e6)
        ),
        (faults, _) => format!("In effect: {}.", faults.join(", ")),
    };
    let seen = samples.partition_point(|sample| sample.time_ns <= time_ns);
    if let Some(sample) = seen.checked_sub(1).map(|seen| &samples[seen]) {
        let leading: Vec<String> = sample
            .nodes
            .iter()
            .filter(|node| node.leads)
            .map(|node| match node.term {
                Some(term) => format!("{} in term {term}", node.node),
                None => node.node.clone(),
            })
            .collect();
        words.push_str(&match leading.is_empty() {
            true => " No node said that it led.".to_owned(),
            false => format!(" Leading: {}.", leading.join(", ")),
        });
    }
    words
}
