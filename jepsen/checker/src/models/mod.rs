//! The sequential specifications. Each is written from the literature and from DESIGN section 3, and
//! never from the code of what is judged, or a bug there would become the specification.
//!
//! | model | functions | from |
//! |---|---|---|
//! | [`Register`] | `read`, `write` | Herlihy and Wing 1990 |
//! | [`CasRegister`] | and `cas` | Knossos, `cas-register` |
//! | [`KeyValue`] | `get`, `put`, `append` | Porcupine's kv test |
//! | [`Locks::mutex`] | `acquire`, `release` | Knossos, `mutex` |
//! | [`Locks::owner_mutex`] | the same | Knossos, `owner-aware-mutex` |
//! | [`Locks::fenced_mutex`] | the same | Knossos, `fenced-mutex`; DESIGN section 3 |
//! | [`Locks::read_write_lock`] | the same, `:mode` exclusive or shared | DESIGN section 3 |
//! | [`Locks::semaphore`] | the same, `:permits` | Knossos, `acquired-permits`; DESIGN section 3 |
//! | [`Locks::multi_lock`] | the same, `:locks` | DESIGN section 3 |
//! | [`Locks::lease_lock`] | and `renew`, `revoke` | DESIGN sections 3 and 6 |

mod any;
mod key_value;
mod locks;
mod register;

pub use any::AnyModel;
pub use key_value::{KeyValue, KeyValueCall, KeyValueSpecification};
pub use locks::{
    Expiry, Grant, LockCall, LockModes, LockSpecification, LockTable, Locks, TimeToLive,
};
pub use register::{CasRegister, Register, RegisterCall, RegisterSpecification};

use std::hash::Hash;

use rustc_hash::FxHashMap;

use crate::{FailMeaning, History, Malformed, Moment, Operation, Origin, Outcome, TimedCall};

/// Numbers for values: the same for equal ones, from 0.
#[derive(Clone, Debug)]
struct Numbers<T> {
    number_of: FxHashMap<T, u32>,
    values: Vec<T>,
}

impl<T: Clone + Eq + Hash> Numbers<T> {
    fn new() -> Self {
        Numbers {
            number_of: FxHashMap::default(),
            values: Vec::new(),
        }
    }

    fn of(&mut self, value: &T) -> u32 {
        if let Some(&number) = self.number_of.get(value) {
            return number;
        }
        let number = self.values.len() as u32;
        self.values.push(value.clone());
        self.number_of.insert(value.clone(), number);
        number
    }

    fn value(&self, number: u32) -> &T {
        &self.values[number as usize]
    }
}

/// What an operation's end tells a model.
enum Ending {
    Ok,
    /// It was refused for a reason that the model has to check.
    Refused,
    Open,
}

/// How an operation ended; nothing if it did not happen and tells nothing.
fn ending(history: &History, operation: &Operation) -> Option<Ending> {
    match (&operation.outcome, history.fail_meaning()) {
        (Outcome::Ok(_), _) => Some(Ending::Ok),
        (Outcome::Info, _) => Some(Ending::Open),
        (Outcome::Fail(_), FailMeaning::Observation) => Some(Ending::Refused),
        (Outcome::Fail(_), FailMeaning::DidNotHappen) => None,
    }
}

/// A call with the interval of its operation.
fn timed<C>(operation: &Operation, call: C) -> TimedCall<C> {
    let returned = match operation.outcome {
        Outcome::Info => None,
        Outcome::Ok(_) | Outcome::Fail(_) => operation.completion.map(Moment::at),
    };
    let origin = Origin::Operation(operation.id);
    TimedCall {
        call,
        origin,
        invoked: Moment::at(operation.invocation),
        returned,
    }
}

/// Says what is wrong with an operation: at its completion's line if that is where it shows.
fn malformed(history: &History, operation: &Operation, problem: impl Into<String>) -> Malformed {
    Malformed::new(history.event(operation.invocation).line, problem)
}

fn malformed_answer(
    history: &History,
    operation: &Operation,
    problem: impl Into<String>,
) -> Malformed {
    let event = history
        .completion(operation)
        .unwrap_or(history.event(operation.invocation));
    Malformed::new(event.line, problem)
}

fn unknown_function(
    history: &History,
    operation: &Operation,
    model: &str,
    functions: &str,
) -> Malformed {
    let function = &operation.function;
    malformed(
        history,
        operation,
        format!("a {model} knows {functions}, not `{function}`"),
    )
}

/// Cuts a description that nobody would read to its end.
fn abbreviated(text: &str) -> String {
    const KEPT: usize = 60;
    let length = text.chars().count();
    if length <= 2 * KEPT + 20 {
        return text.to_owned();
    }
    let head: String = text.chars().take(KEPT).collect();
    let tail: String = text.chars().skip(length - KEPT).collect();
    format!("{head} … ({} more) … {tail}", length - 2 * KEPT)
}
