//! A map from keys to strings with `get`, `put` and `append`.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{
    Ending, Numbers, abbreviated, ending, malformed, malformed_answer, timed, unknown_function,
};
use crate::{
    History, Malformed, Model, Operation, OperationId, Outcome, Problem, Specification, Step, Value,
};

/// A map from keys to strings. Every key is a string of its own, empty at the start; keys are
/// independent.
///
/// `get` answers the string, `put` replaces it by its argument, `append` adds its argument at the
/// end. A failed operation tells nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValue;

impl Model for KeyValue {
    type Specification = KeyValueSpecification;

    fn name(&self) -> &'static str {
        "kv"
    }

    fn objects(&self, _: &History, operation: &Operation) -> Result<Vec<Value>, String> {
        match &operation.key {
            Some(key) => Ok(vec![key.clone()]),
            None => Err(format!("`{}` has no key", operation.function)),
        }
    }

    fn problem(
        &self,
        history: &History,
        operations: &[OperationId],
    ) -> Result<Problem<KeyValueSpecification>, Malformed> {
        let mut specification = KeyValueSpecification::new();
        let mut calls = Vec::with_capacity(operations.len());
        for &id in operations {
            let operation = history.operation(id);
            let argument = || match &operation.input {
                Value::Text(text) => Ok(text),
                other => {
                    let problem = format!("`{}` takes a string, not {other}", operation.function);
                    Err(malformed(history, operation, problem))
                }
            };
            let Some(ending) = ending(history, operation) else {
                continue;
            };
            let call = match (&*operation.function, ending, &operation.outcome) {
                ("get", _, Outcome::Ok(Value::Text(text))) => {
                    specification.seen.push(text.clone());
                    KeyValueCall::Get(specification.texts.of(text))
                }
                ("get", _, Outcome::Ok(other)) => {
                    let problem = format!("`get` answers a string, not {other}");
                    return Err(malformed_answer(history, operation, problem));
                }
                ("get", _, _) | ("put" | "append", Ending::Refused, _) => continue,
                ("put", _, _) => KeyValueCall::Put(specification.texts.of(argument()?)),
                ("append", _, _) => KeyValueCall::Append(specification.texts.of(argument()?)),
                _ => {
                    let functions = "get, put and append";
                    return Err(unknown_function(history, operation, "kv", functions));
                }
            };
            calls.push(timed(operation, call));
        }
        specification.seen.sort_unstable();
        specification.seen.dedup();
        Ok(Problem {
            specification,
            calls,
        })
    }
}

/// A call on one key; strings are numbers that its specification gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyValueCall {
    /// Saw this string.
    Get(u32),
    /// Replaced the string by this one.
    Put(u32),
    /// Added this string at the end.
    Append(u32),
}

/// The specification of [`KeyValue`] for one key. A state is the number of the string: each is built
/// and compared once, however often the search comes by.
#[derive(Clone, Debug)]
pub struct KeyValueSpecification {
    texts: Numbers<Arc<str>>,
    /// All that was ever seen, sorted.
    seen: Vec<Arc<str>>,
    appended: FxHashMap<(u32, u32), u32>,
}

/// The number of the empty string.
const EMPTY: u32 = 0;

impl KeyValueSpecification {
    fn new() -> Self {
        let mut texts = Numbers::new();
        texts.of(&"".into());
        KeyValueSpecification {
            texts,
            seen: Vec::new(),
            appended: FxHashMap::default(),
        }
    }

    fn text(&self, number: u32) -> String {
        abbreviated(&format!("{:?}", self.texts.value(number)))
    }
}

impl Specification for KeyValueSpecification {
    type Call = KeyValueCall;
    type State = u32;

    fn initial(&mut self) -> u32 {
        EMPTY
    }

    fn step(&mut self, state: &u32, call: &KeyValueCall) -> Step<u32> {
        match *call {
            KeyValueCall::Get(seen) if seen == *state => Step::To(*state),
            KeyValueCall::Get(_) => Step::Refused,
            KeyValueCall::Put(text) => Step::To(text),
            KeyValueCall::Append(tail) => {
                let texts = &mut self.texts;
                let append = || {
                    let text = [&**texts.value(*state), &**texts.value(tail)].concat();
                    texts.of(&text.into())
                };
                Step::To(*self.appended.entry((*state, tail)).or_insert_with(append))
            }
        }
    }

    fn observes(&self, call: &KeyValueCall) -> bool {
        matches!(call, KeyValueCall::Get(_))
    }

    fn is_guided(&self) -> bool {
        true
    }

    /// Appends only ever add.
    fn reaches(&mut self, state: &u32, call: &KeyValueCall) -> bool {
        match *call {
            KeyValueCall::Get(seen) => self
                .texts
                .value(seen)
                .starts_with(&**self.texts.value(*state)),
            KeyValueCall::Put(_) | KeyValueCall::Append(_) => true,
        }
    }

    fn resets(&self, call: &KeyValueCall) -> bool {
        matches!(call, KeyValueCall::Put(_))
    }

    /// Whether anybody ever saw a string that begins like this. Where every append is different this
    /// leaves few orders, long before somebody looks.
    fn is_promising(&mut self, state: &u32) -> bool {
        let text = self.texts.value(*state);
        let at = self.seen.partition_point(|seen| seen < text);
        self.seen
            .get(at)
            .is_some_and(|seen| seen.starts_with(&**text))
    }

    fn state_bytes(&self, state: &u32) -> usize {
        // The string itself, its entries in the tables, and the append that made it.
        self.texts.value(*state).len() + 64
    }

    fn describe_state(&self, state: &u32) -> String {
        self.text(*state)
    }

    fn describe_call(&self, call: &KeyValueCall) -> String {
        match *call {
            KeyValueCall::Get(seen) => format!("get -> {}", self.text(seen)),
            KeyValueCall::Put(text) => format!("put {}", self.text(text)),
            KeyValueCall::Append(tail) => format!("append {}", self.text(tail)),
        }
    }

    fn refusal(&self, state: &u32, call: &KeyValueCall) -> String {
        match *call {
            KeyValueCall::Get(seen) => {
                let (held, seen) = (self.texts.value(*state), self.texts.value(seen));
                let same = held
                    .chars()
                    .zip(seen.chars())
                    .take_while(|(a, b)| a == b)
                    .count();
                let (held, seen) = (self.text(*state), abbreviated(&format!("{seen:?}")));
                format!("the key holds {held}, not {seen}: they differ from character {same} on")
            }
            KeyValueCall::Put(_) | KeyValueCall::Append(_) => "a write is always legal".into(),
        }
    }
}
