//! A history: what clients asked of a system and what it answered, in the order in which one
//! observer saw it. It is checked while it is built, so that whoever holds one can rely on it; it is
//! never judged here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Value;

/// Where an event stands in its history, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventIndex(pub u32);

/// Where an operation stands among the operations of its history, from 0, by invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u32);

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// A client: does one thing at a time, and nothing more after an outcome it does not know.
    Client(u64),
    /// Anything else that left a mark in the history, such as `nemesis`. Its events are shown and
    /// never checked.
    Named(Arc<str>),
}

impl fmt::Display for Process {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Client(number) => write!(out, "{number}"),
            Process::Named(name) => out.write_str(name),
        }
    }
}

/// A place in a replicated log: the entry's index and a number within the entry, written `index.ordinal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The log index of the entry.
    pub index: u64,
    /// The number of the answer or event within the entry.
    pub ordinal: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.index, self.ordinal)
    }
}

impl std::str::FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (index, ordinal) = text.split_once('.')?;
            Some(Position {
                index: index.parse().ok()?,
                ordinal: ordinal.parse().ok()?,
            })
        };
        parse().ok_or_else(|| format!("a position is two numbers, `index.ordinal`, not {text:?}"))
    }
}

/// What kind of event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// An operation begins.
    Invoke,
    /// It ended, and this is what it answered.
    Ok,
    /// It was refused. What that tells is the history's [`FailMeaning`].
    Fail,
    /// Nobody knows whether it took effect, or ever will; or, from a [`Process::Named`], a remark.
    Info,
}

impl EventKind {
    /// `invoke`, `ok`, `fail` or `info`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Invoke => "invoke",
            EventKind::Ok => "ok",
            EventKind::Fail => "fail",
            EventKind::Info => "info",
        }
    }
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Who.
    pub process: Process,
    /// Begin, or which end.
    pub kind: EventKind,
    /// What is being done: `read`, `acquire`, ...
    pub function: Arc<str>,
    /// The object it is done to, in histories of several; the lock's name.
    pub key: Option<Value>,
    /// The argument in an invocation, the answer in a completion.
    pub value: Value,
    /// Why it failed, or why nobody knows.
    pub error: Option<Value>,
    /// When, in nanoseconds of one monotonic clock. Its zero means nothing.
    pub time_ns: Option<u64>,
    /// The client's id of the request, by which a dumped log tells what became of it.
    pub request: Option<Arc<str>>,
    /// Where in the replicated log the answer was made.
    pub position: Option<Position>,
    /// The number that the event had where it was recorded (`:index`), if it had one.
    pub recorded_index: Option<u64>,
    /// The line of the input at which the event begins, from 1; 0 if it came from no text.
    pub line: u64,
}

impl Event {
    /// An event with the required fields; all others empty.
    #[must_use]
    pub fn new(process: Process, kind: EventKind, function: &str, value: Value) -> Self {
        Event {
            process,
            kind,
            function: function.into(),
            key: None,
            value,
            error: None,
            time_ns: None,
            request: None,
            position: None,
            recorded_index: None,
            line: 0,
        }
    }
}

/// What a `fail` completion tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FailMeaning {
    /// The operation did not happen, and nothing follows for anybody: Jepsen's convention.
    #[default]
    DidNotHappen,
    /// The system looked and refused, at some moment between invocation and completion: the model
    /// checks that it had reason to. A failed compare-and-set saw another value.
    Observation,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect and answered this.
    Ok(Value),
    /// It was refused; see [`FailMeaning`]. The value is the completion's.
    Fail(Value),
    /// Unknown: it may take effect at any time after its invocation, or never.
    Info,
}

/// An invocation and its completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its number.
    pub id: OperationId,
    /// The client that did it.
    pub client: u64,
    /// What was done.
    pub function: Arc<str>,
    /// The object that it was done to.
    pub key: Option<Value>,
    /// The argument.
    pub input: Value,
    /// How it ended.
    pub outcome: Outcome,
    /// Where it begins.
    pub invocation: EventIndex,
    /// Where it ends. An [`Outcome::Info`] has one where the client gave up, none where the history
    /// ended first; either way the operation stays open to the end.
    pub completion: Option<EventIndex>,
}

/// What is wrong with an input, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct Malformed {
    /// The line of the input, from 1; 0 if it came from no text.
    pub line: u64,
    /// What is wrong, and what was expected.
    pub problem: String,
}

impl Malformed {
    /// Says what is wrong at a line.
    #[must_use]
    pub fn new(line: u64, problem: impl Into<String>) -> Self {
        Malformed {
            line,
            problem: problem.into(),
        }
    }
}

/// A well-formed history.
///
/// Every client does one thing at a time, completes only what it began, and does nothing after an
/// outcome that it does not know: what it would do next could not be ordered after what it left
/// open. Times never run backwards within a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    events: Vec<Event>,
    operations: Vec<Operation>,
    fail_meaning: FailMeaning,
}

impl History {
    /// Builds a history from events in order.
    ///
    /// # Errors
    ///
    /// The first event that breaks one of the rules above.
    pub fn new(
        events: impl IntoIterator<Item = Event>,
        fail_meaning: FailMeaning,
    ) -> Result<Self, Malformed> {
        let mut builder = HistoryBuilder::new(fail_meaning);
        for event in events {
            builder.push(event)?;
        }
        Ok(builder.finish())
    }

    /// All events, in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// One event. `index` must be of this history.
    #[must_use]
    pub fn event(&self, index: EventIndex) -> &Event {
        &self.events[index.0 as usize]
    }

    /// All operations of clients, by invocation.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// One operation. `id` must be of this history.
    #[must_use]
    pub fn operation(&self, id: OperationId) -> &Operation {
        &self.operations[id.0 as usize]
    }

    /// What a failed operation tells.
    #[must_use]
    pub fn fail_meaning(&self) -> FailMeaning {
        self.fail_meaning
    }

    /// The event that completed an operation.
    #[must_use]
    pub fn completion(&self, operation: &Operation) -> Option<&Event> {
        operation.completion.map(|index| self.event(index))
    }

    /// The request id of an operation: the invocation's, else the completion's.
    #[must_use]
    pub fn request(&self, operation: &Operation) -> Option<&Arc<str>> {
        let completed = self
            .completion(operation)
            .and_then(|event| event.request.as_ref());
        self.event(operation.invocation)
            .request
            .as_ref()
            .or(completed)
    }

    /// The position that an operation's answer carried.
    #[must_use]
    pub fn position(&self, operation: &Operation) -> Option<Position> {
        self.completion(operation)?.position
    }

    /// The history of the first `length` events. What is still under way then is open.
    #[must_use]
    pub fn prefix(&self, length: usize) -> History {
        let mut builder = HistoryBuilder::new(self.fail_meaning);
        for event in self.events.iter().take(length) {
            // A prefix of a well-formed history is well-formed.
            builder.accept(event.clone());
        }
        builder.finish()
    }
}

/// Builds a [`History`] event by event.
#[derive(Debug, Default)]
pub struct HistoryBuilder {
    events: Vec<Event>,
    operations: Vec<Operation>,
    fail_meaning: FailMeaning,
    clients: HashMap<u64, Client>,
    last_recorded_index: Option<u64>,
}

#[derive(Debug)]
enum Client {
    Idle,
    Busy(OperationId),
    Crashed { line: u64 },
}

impl HistoryBuilder {
    /// Starts an empty history.
    #[must_use]
    pub fn new(fail_meaning: FailMeaning) -> Self {
        HistoryBuilder {
            fail_meaning,
            ..Self::default()
        }
    }

    /// Appends an event.
    ///
    /// # Errors
    ///
    /// If no well-formed history goes on like this. The history is then as it was before.
    pub fn push(&mut self, event: Event) -> Result<(), Malformed> {
        let refused = |problem: String| Err(Malformed::new(event.line, problem));
        if self.events.len() >= u32::MAX as usize {
            return refused("a history has at most 4,294,967,294 events".into());
        }
        if let (Some(before), Some(now)) = (self.last_recorded_index, event.recorded_index)
            && now <= before
        {
            return refused(format!(
                "index {now} follows index {before}: indexes must rise"
            ));
        }
        let Process::Client(number) = event.process else {
            if event.kind == EventKind::Info || event.kind == EventKind::Invoke {
                self.accept(event);
                return Ok(());
            }
            return refused(format!(
                "process {} is no client and can only say `info`, not `{}`",
                event.process,
                event.kind.name()
            ));
        };
        match (self.clients.get(&number), event.kind) {
            (Some(Client::Crashed { line }), _) => {
                return refused(format!(
                    "process {number} crashed (its `info` is at line {line}) and must not do \
                     anything again under its old id"
                ));
            }
            (Some(Client::Busy(id)), EventKind::Invoke) => {
                let pending = &self.events[self.operations[id.0 as usize].invocation.0 as usize];
                return refused(format!(
                    "process {number} invokes `{}` while its `{}` of line {} is under way",
                    event.function, pending.function, pending.line
                ));
            }
            (Some(Client::Busy(id)), _) => {
                let operation = &self.operations[id.0 as usize];
                let invocation = &self.events[operation.invocation.0 as usize];
                if operation.function != event.function {
                    return refused(format!(
                        "process {number} completes `{}` but is doing `{}` since line {}",
                        event.function, operation.function, invocation.line
                    ));
                }
                if event.key.is_some() && event.key != operation.key {
                    return refused(format!(
                        "process {number} completes `{}` with another key than it has since line {}",
                        event.function, invocation.line
                    ));
                }
                if let (Some(began), Some(ended)) = (invocation.time_ns, event.time_ns)
                    && ended < began
                {
                    return refused(format!(
                        "`{}` of process {number} ends at {ended} ns, before it began at {began} ns",
                        event.function
                    ));
                }
            }
            (Some(Client::Idle) | None, EventKind::Invoke) => {}
            (Some(Client::Idle) | None, kind) => {
                return refused(format!(
                    "process {number} says `{}` of `{}`, which it did not invoke",
                    kind.name(),
                    event.function
                ));
            }
        }
        self.accept(event);
        Ok(())
    }

    /// Appends an event that is known to fit.
    fn accept(&mut self, event: Event) {
        let index = EventIndex(u32::try_from(self.events.len()).unwrap_or(u32::MAX));
        self.last_recorded_index = event.recorded_index.or(self.last_recorded_index);
        if let Process::Client(number) = event.process {
            let client = self.clients.entry(number).or_insert(Client::Idle);
            match (&client, event.kind) {
                (_, EventKind::Invoke) => {
                    let id = OperationId(u32::try_from(self.operations.len()).unwrap_or(u32::MAX));
                    self.operations.push(Operation {
                        id,
                        client: number,
                        function: event.function.clone(),
                        key: event.key.clone(),
                        input: event.value.clone(),
                        outcome: Outcome::Info,
                        invocation: index,
                        completion: None,
                    });
                    *client = Client::Busy(id);
                }
                (Client::Busy(id), kind) => {
                    let operation = &mut self.operations[id.0 as usize];
                    operation.completion = Some(index);
                    operation.outcome = match kind {
                        EventKind::Ok => Outcome::Ok(event.value.clone()),
                        EventKind::Fail => Outcome::Fail(event.value.clone()),
                        EventKind::Info | EventKind::Invoke => Outcome::Info,
                    };
                    *client = match kind {
                        EventKind::Info => Client::Crashed { line: event.line },
                        _ => Client::Idle,
                    };
                }
                (Client::Idle | Client::Crashed { .. }, _) => {}
            }
        }
        self.events.push(event);
    }

    /// Ends the history. What is still under way stays open: its outcome is [`Outcome::Info`].
    #[must_use]
    pub fn finish(self) -> History {
        History {
            events: self.events,
            operations: self.operations,
            fail_meaning: self.fail_meaning,
        }
    }
}
