//! Writes the history down: one observer, one clock, in the order in which it sees things. It never
//! looks at what it writes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jepsen_checker::{
    Event, EventKind, FailMeaning, History, HistoryBuilder, Malformed, Operation, Outcome,
    Position, Process, Value,
};
use tokio::time::Instant;

use crate::run_directory::OperationCount;

/// The history of a run, and its clock.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    began: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    events: Vec<Event>,
    next_process: u64,
    /// Successes and others, for progress.
    ok: u64,
    other: u64,
}

/// What one operation is.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    /// `acquire`, ...
    pub(crate) function: &'static str,
    /// The lock or resource.
    pub(crate) key: Option<String>,
    /// The argument.
    pub(crate) value: Value,
    /// The client's name for the request.
    pub(crate) request: Option<String>,
}

/// How an operation ended.
#[derive(Clone, Debug)]
pub(crate) struct Completion {
    /// `Ok`, `Fail` or `Info`.
    pub(crate) kind: EventKind,
    /// The answer.
    pub(crate) value: Value,
    /// Why not.
    pub(crate) error: Option<Value>,
    /// Where in the log.
    pub(crate) position: Option<Position>,
}

/// A map value with keyword-like text keys.
pub(crate) fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    Value::map(
        entries
            .into_iter()
            .map(|(name, value)| (Value::text(name), value)),
    )
}

/// A number as a value; those beyond an `i64` do not occur.
pub(crate) fn number(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

impl Recorder {
    /// An empty history whose clock starts now.
    pub(crate) fn new() -> Self {
        Recorder {
            began: Instant::now(),
            inner: Arc::default(),
        }
    }

    /// Nanoseconds since the run began.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn push(&self, mut event: Event) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match event.kind {
            EventKind::Ok => inner.ok += 1,
            EventKind::Fail => inner.other += 1,
            EventKind::Info if matches!(event.process, Process::Client(_)) => inner.other += 1,
            EventKind::Info | EventKind::Invoke => {}
        }
        event.time_ns = Some(self.now_ns());
        inner.events.push(event);
    }

    /// A number that no client has had.
    pub(crate) fn new_process(&self) -> u64 {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.next_process += 1;
        inner.next_process - 1
    }

    /// Writes down that a client begins something.
    pub(crate) fn invoke(&self, process: u64, invocation: &Invocation) {
        let mut event = Event::new(
            Process::Client(process),
            EventKind::Invoke,
            invocation.function,
            invocation.value.clone(),
        );
        event.key = invocation.key.as_deref().map(Value::text);
        event.request = invocation.request.as_deref().map(Into::into);
        self.push(event);
    }

    /// Writes down how it ended.
    pub(crate) fn complete(&self, process: u64, invocation: &Invocation, completion: Completion) {
        let mut event = Event::new(
            Process::Client(process),
            completion.kind,
            invocation.function,
            completion.value,
        );
        event.key = invocation.key.as_deref().map(Value::text);
        event.error = completion.error;
        event.position = completion.position;
        self.push(event);
    }

    /// Writes down what the nemesis does.
    pub(crate) fn nemesis(&self, function: &str, value: &str, error: Option<&str>) {
        let mut event = Event::new(
            Process::Named("nemesis".into()),
            EventKind::Info,
            function,
            Value::text(value),
        );
        event.error = error.map(Value::text);
        self.push(event);
    }

    /// Successes and other ends so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.ok, inner.other)
    }

    /// What was written down after the first so many events.
    pub(crate) fn events_after(&self, known: usize) -> Vec<Event> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.events.get(known..).unwrap_or_default().to_vec()
    }

    /// The history so far. Its lines are those that `history.jsonl` will have.
    pub(crate) fn history(&self) -> Result<History, Malformed> {
        history_of(&self.events_after(0))
    }
}

/// The history of these events, with their lines in `history.jsonl`.
pub(crate) fn history_of(events: &[Event]) -> Result<History, Malformed> {
    let mut builder = HistoryBuilder::new(FailMeaning::Observation);
    for (line, event) in (1..).zip(events) {
        builder.push(Event {
            line,
            ..event.clone()
        })?;
    }
    Ok(builder.finish())
}

/// The workload of an operation: what its key begins with, or the first lock that it names.
pub(crate) fn workload_of(operation: &Operation) -> Option<&str> {
    let first = operation.input.field("locks").and_then(Value::as_list);
    let named = first.and_then(|locks| locks.first()?.field("name"));
    let key = operation.key.as_ref().or(named)?.as_words()?;
    key.split_once('/').map(|(workload, _)| workload)
}

/// Operations by workload, function and outcome.
pub(crate) fn count_operations(history: &History) -> Vec<OperationCount> {
    let mut counts: BTreeMap<(&str, &str), OperationCount> = BTreeMap::new();
    for operation in history.operations() {
        let workload = workload_of(operation).unwrap_or_default();
        let count = counts
            .entry((workload, &operation.function))
            .or_insert_with(|| OperationCount {
                workload: workload.to_owned(),
                function: operation.function.to_string(),
                ok: 0,
                fail: 0,
                info: 0,
            });
        match operation.outcome {
            Outcome::Ok(_) => count.ok += 1,
            Outcome::Fail(_) => count.fail += 1,
            Outcome::Info => count.info += 1,
        }
    }
    counts.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_a_well_formed_history_with_its_lines() {
        let recorder = Recorder::new();
        let process = recorder.new_process();
        let acquire = Invocation {
            function: "acquire",
            key: Some("lock/1".into()),
            value: map([("lease", Value::text("x"))]),
            request: Some("r".into()),
        };
        recorder.nemesis("kill-one", "n1", None);
        recorder.invoke(process, &acquire);
        let completion = Completion {
            kind: EventKind::Ok,
            value: map([("token", number(7))]),
            error: None,
            position: None,
        };
        recorder.complete(process, &acquire, completion);
        let history = recorder.history().unwrap();
        assert_eq!(history.operations().len(), 1);
        assert_eq!(history.events()[2].line, 3);
        assert!(history.events()[1].time_ns <= history.events()[2].time_ns);
        assert_ne!(recorder.new_process(), process);
        let counts = count_operations(&history);
        assert_eq!(counts[0].workload, "lock");
        assert_eq!((counts[0].ok, counts[0].fail, counts[0].info), (1, 0, 0));
    }
}
