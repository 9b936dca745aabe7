//! Histories for the tests of the checks, written call by call.

use crate::{Event, EventKind, FailMeaning, History, Process, Value};

/// A history in the making. The clock advances by a millisecond with every event.
pub(super) struct Script {
    events: Vec<Event>,
    now_ns: u64,
}

/// An invocation that is not completed yet.
#[derive(Clone)]
pub(super) struct Pending(Event);

impl Script {
    pub(super) fn new() -> Self {
        Script {
            events: Vec::new(),
            now_ns: 0,
        }
    }

    /// Lets time pass.
    pub(super) fn wait_ms(&mut self, ms: u64) -> &mut Self {
        self.now_ns += ms * 1_000_000;
        self
    }

    fn push(&mut self, mut event: Event) -> Event {
        self.now_ns += 1_000_000;
        event.time_ns = Some(self.now_ns);
        self.events.push(event.clone());
        event
    }

    pub(super) fn invoke(
        &mut self,
        client: u64,
        function: &str,
        key: &str,
        input: &str,
    ) -> Pending {
        let process = Process::Client(client);
        let mut event = Event::new(process, EventKind::Invoke, function, value(input));
        event.key = Some(Value::text(key));
        Pending(self.push(event))
    }

    pub(super) fn ok(&mut self, pending: Pending, answer: &str) {
        self.push(Event {
            kind: EventKind::Ok,
            value: value(answer),
            ..pending.0
        });
    }

    pub(super) fn fail(&mut self, pending: Pending, error: &str) {
        let error = Some(Value::keyword(error));
        self.push(Event {
            kind: EventKind::Fail,
            error,
            ..pending.0
        });
    }

    pub(super) fn info(&mut self, pending: Pending) {
        self.push(Event {
            kind: EventKind::Info,
            ..pending.0
        });
    }

    pub(super) fn call(
        &mut self,
        client: u64,
        function: &str,
        key: &str,
        input: &str,
        answer: &str,
    ) {
        let pending = self.invoke(client, function, key, input);
        self.ok(pending, answer);
    }

    pub(super) fn request(
        &mut self,
        client: u64,
        request: &str,
        function: &str,
        key: &str,
        input: &str,
        answer: &str,
    ) {
        let pending = self.invoke(client, function, key, input);
        if let Some(event) = self.events.last_mut() {
            event.request = Some(request.into());
        }
        self.ok(pending, answer);
    }

    /// Sets the position of the last event.
    pub(super) fn at(&mut self, position: &str) -> &mut Self {
        if let Some(event) = self.events.last_mut() {
            event.position = Some(position.parse().unwrap());
        }
        self
    }

    pub(super) fn nemesis(&mut self, function: &str) {
        let process = Process::Named("nemesis".into());
        self.push(Event::new(process, EventKind::Info, function, Value::Nil));
    }

    pub(super) fn history(&self) -> History {
        History::new(self.events.clone(), FailMeaning::Observation).unwrap()
    }
}

/// A value in a few words of EDN: `nil`, numbers, `:words`, and flat maps and vectors of them. It is
/// not the reader of histories, so that a mistake there cannot hide one here.
fn value(text: &str) -> Value {
    let mut words: Vec<String> = Vec::new();
    for character in text.chars() {
        match character {
            '{' | '}' | '[' | ']' => words.extend([character.to_string(), String::new()]),
            ' ' | ',' => words.push(String::new()),
            other => match words.last_mut() {
                Some(word) => word.push(other),
                None => words.push(other.to_string()),
            },
        }
    }
    words.retain(|word| !word.is_empty());
    parse(&mut words.into_iter()).unwrap()
}

/// The next value; none at the end of a list or map.
fn parse(words: &mut std::vec::IntoIter<String>) -> Option<Value> {
    let word = words.next()?;
    Some(match &*word {
        "}" | "]" => return None,
        "{" => {
            let items: Vec<_> = std::iter::from_fn(|| parse(words)).collect();
            Value::map(
                items
                    .chunks(2)
                    .map(|pair| (pair[0].clone(), pair[1].clone())),
            )
        }
        "[" => Value::list(std::iter::from_fn(|| parse(words))),
        "nil" => Value::Nil,
        "true" | "false" => Value::Bool(word == "true"),
        _ => match (word.strip_prefix(':'), word.parse()) {
            (Some(name), _) => Value::keyword(name),
            (None, Ok(number)) => Value::Integer(number),
            (None, Err(_)) => Value::text(&word),
        },
    })
}
