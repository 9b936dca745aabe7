//! From the recorded history to the one that the lock models judge: repeats of a request are one
//! operation, unknown outcomes are decided by the log where there is one, cancels are releases, reads are
//! observations. Every step either says the same in other words or says less, so a violation of what
//! comes out is one of what went in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use jepsen_checker::witness::{LogDump, LogEntry};
use jepsen_checker::{
    Event, EventIndex, EventKind, FailMeaning, History, Malformed, Operation, Outcome, Position,
    Process, Value,
};

use serde_json::json;

use super::applied::{Applied, Effect};
use crate::recorder::{map, number};

/// What comes out.
#[derive(Debug)]
pub(crate) struct LockHistory {
    /// Acquires, releases, renewals and revocations, each by a process of its own.
    pub(crate) history: History,
    /// The log of the same requests; `None` if the system gave none.
    pub(crate) log: Option<LogDump>,
    /// Unknown outcomes that the log showed to have taken effect.
    pub(super) resolved: u64,
    /// Unknown outcomes that the log showed not to have, or that tell nothing.
    pub(super) dropped: u64,
}

impl LockHistory {
    /// Writes the log that belongs to the history, in the form that `check --log` reads.
    pub(crate) fn write_log(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Some(log) = &self.log else {
            return Ok(());
        };
        let header = json!({
            "format": "palisade-log",
            "version": 1,
            "first_index": log.first_index,
            "last_index": log.last_index,
        });
        writeln!(out, "{header}")?;
        for entry in &log.entries {
            let line = json!({
                "index": entry.position.index,
                "ordinal": entry.position.ordinal,
                "request_id": entry.request.as_deref(),
            });
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

/// An operation on its way.
struct Drafted {
    function: &'static str,
    key: Option<Value>,
    input: Value,
    ending: Drafting,
    invoked: EventIndex,
    /// At the end of the history if nobody saw it.
    completed: Option<EventIndex>,
    position: Option<Position>,
    /// Where the log has it.
    in_log: Vec<Position>,
}

enum Drafting {
    Ok(Value),
    Refused(Value),
    Open,
}

struct Drafter<'h> {
    history: &'h History,
    applied: Option<&'h Applied>,
    /// The sendings of each acquire, by lease and request.
    requests: BTreeMap<(&'h str, &'h str), Vec<&'h Operation>>,
    drafted: Vec<Drafted>,
    /// Effects in the log that an answer claims, or an unknown operation was given.
    claimed: BTreeSet<Position>,
    granted: BTreeSet<(String, String)>,
    resolved: u64,
    dropped: u64,
}

fn words<'v>(value: &'v Value, name: &str) -> &'v str {
    value.field(name).and_then(Value::as_words).unwrap_or("")
}

fn code(operation: &Operation, history: &History) -> String {
    let error = history
        .completion(operation)
        .and_then(|event| event.error.as_ref());
    error.map_or_else(String::new, |error| words(error, "code").to_owned())
}

/// The names of the locks that an acquire asks for.
fn locks_asked(acquire: &Operation) -> Vec<&Value> {
    let several = acquire.input.field("locks").and_then(Value::as_list);
    let several = several.unwrap_or_default().iter();
    let several = several.filter_map(|lock| lock.field("name"));
    acquire.key.iter().chain(several).collect()
}

/// The tokens that a release names, sorted.
fn tokens(input: &Value) -> Vec<u64> {
    let one = input.field("token").and_then(Value::as_integer);
    let several = input.field("tokens").and_then(Value::as_list);
    let several = several.unwrap_or_default().iter();
    let mut tokens: Vec<u64> = one
        .into_iter()
        .chain(several.filter_map(Value::as_integer))
        .filter_map(|token| u64::try_from(token).ok())
        .collect();
    tokens.sort_unstable();
    tokens
}

/// Rewrites a history for the lock models.
pub(super) fn lock_history(
    history: &History,
    applied: Option<&Applied>,
) -> Result<LockHistory, Malformed> {
    let mut drafter = Drafter {
        history,
        applied,
        requests: BTreeMap::new(),
        drafted: Vec::new(),
        claimed: BTreeSet::new(),
        granted: BTreeSet::new(),
        resolved: 0,
        dropped: 0,
    };
    drafter.acquires();
    drafter.endings();
    for operation in history.operations() {
        match &*operation.function {
            "renew" => drafter.renewal(operation),
            "read" => drafter.read(operation),
            _ => {}
        }
    }
    drafter.finish()
}

impl<'h> Drafter<'h> {
    fn draft(&mut self, operation: &Operation, function: &'static str, ending: Drafting) {
        self.drafted.push(Drafted {
            function,
            key: operation.key.clone(),
            input: operation.input.clone(),
            ending,
            invoked: operation.invocation,
            completed: operation
                .completion
                .filter(|_| !matches!(operation.outcome, Outcome::Info)),
            position: self.history.position(operation),
            in_log: Vec::new(),
        });
    }

    /// Acquires by lease and request: one operation each.
    fn acquires(&mut self) {
        let acquires = self
            .history
            .operations()
            .iter()
            .filter(|operation| &*operation.function == "acquire");
        for operation in acquires {
            let request = self
                .history
                .request(operation)
                .map_or("", |request| request);
            let lease = words(&operation.input, "lease");
            let sendings = self.requests.entry((lease, request)).or_default();
            sendings.push(operation);
        }
        for ((lease, request), sendings) in self.requests.clone() {
            self.acquire(lease, request, &sendings);
        }
    }

    fn acquire(&mut self, lease: &str, request: &str, sendings: &[&'h Operation]) {
        let first = sendings[0];
        let granted = |operation: &&&Operation| match &operation.outcome {
            Outcome::Ok(answer) => answer.field("granted") != Some(&Value::Bool(false)),
            _ => false,
        };
        let answered = sendings
            .iter()
            .filter(granted)
            .min_by_key(|operation| operation.completion);
        let entry = self
            .applied
            .and_then(|applied| applied.acquire(lease, request));
        if let Some(entry) = entry.filter(|entry| !entry.granted_at.is_empty()) {
            self.granted.insert((lease.to_owned(), request.to_owned()));
            self.claimed.extend(entry.granted_at.iter().copied());
        }
        if let Some(answered) = answered {
            let Outcome::Ok(answer) = &answered.outcome else {
                return;
            };
            self.draft(answered, "acquire", Drafting::Ok(answer.clone()));
            if let Some(drafted) = self.drafted.last_mut() {
                drafted.invoked = first.invocation;
                if let Some(entry) = entry {
                    // An answer to a repeat, of the client or within a node, has a place of its own:
                    // the grant came earlier.
                    let claims = |place: &Position| Some(*place) == drafted.position;
                    if entry.repeated_at.iter().any(claims) {
                        drafted.position = entry.granted_at.first().copied();
                    }
                    drafted.in_log.clone_from(&entry.granted_at);
                }
            }
            return;
        }
        let unknown = sendings
            .iter()
            .any(|operation| matches!(operation.outcome, Outcome::Info | Outcome::Ok(_)));
        match (unknown, self.applied, entry) {
            (true, Some(_), Some(entry)) if !entry.granted_at.is_empty() => {
                self.resolved += 1;
                let held = entry.held.iter().map(|(lock, token)| {
                    map([("name", Value::text(lock)), ("token", number(*token))])
                });
                let mut answer = vec![("ttl_ms", entry.ttl_ms.map_or(Value::Nil, number))];
                match (&entry.held[..], first.input.field("locks")) {
                    ([(_, token)], None) => answer.push(("token", number(*token))),
                    _ => answer.push(("locks", Value::list(held))),
                }
                self.draft(first, "acquire", Drafting::Ok(map(answer)));
                if let Some(drafted) = self.drafted.last_mut() {
                    drafted.completed = None;
                    drafted.position = entry.granted_at.first().copied();
                    drafted.in_log.clone_from(&entry.granted_at);
                }
            }
            (true, Some(_), _) => self.dropped += 1,
            (true, None, _) => {
                self.draft(first, "acquire", Drafting::Open);
                if let Some(drafted) = self.drafted.last_mut() {
                    drafted.completed = None;
                }
            }
            // A refusal that is remembered says nothing of now, so only a single sending counts.
            (false, ..) => {
                if let ([only], true) = (
                    sendings,
                    matches!(&*code(first, self.history), "lock_held" | "already_held"),
                ) {
                    self.refusal(only, "acquire");
                }
            }
        }
    }

    fn refusal(&mut self, operation: &Operation, function: &'static str) {
        let error = self
            .history
            .completion(operation)
            .and_then(|event| event.error.clone());
        self.draft(
            operation,
            function,
            Drafting::Refused(error.unwrap_or_default()),
        );
    }

    /// Releases, cancels and revocations. Those that a client saw the end of claim their effect first.
    fn endings(&mut self) {
        let of = |operation: &&Operation| {
            matches!(&*operation.function, "release" | "cancel" | "revoke")
        };
        let all: Vec<&Operation> = self.history.operations().iter().filter(of).collect();
        let (unknown, known): (Vec<&Operation>, Vec<&Operation>) = all
            .into_iter()
            .partition(|operation| matches!(operation.outcome, Outcome::Info));
        for operation in known {
            self.known_ending(operation);
        }
        for operation in unknown {
            self.unknown_ending(operation);
        }
    }

    fn effects(&self, operation: &Operation) -> Option<&'h [Effect]> {
        let applied = self.applied?;
        let lease = words(&operation.input, "lease");
        Some(match &*operation.function {
            "release" => applied.releases(lease, tokens(&operation.input)),
            "cancel" => applied.cancels(lease, words(&operation.input, "request_id")),
            _ => applied.revocations(lease),
        })
    }

    fn function(operation: &Operation) -> &'static str {
        if &*operation.function == "revoke" {
            "revoke"
        } else {
            "release"
        }
    }

    /// The first sending of the request that a cancel names.
    fn cancelled(&self, cancel: &'h Operation) -> Option<&'h Operation> {
        let input = &cancel.input;
        let sendings = self
            .requests
            .get(&(words(input, "lease"), words(input, "request_id")))?;
        sendings.first().copied()
    }

    /// Whether the lease asked for the same lock by another request too. That one may hold it, so a
    /// cancel that ended nothing does not say that the lease does not.
    fn is_one_of_several(&self, cancel: &'h Operation) -> bool {
        let Some(cancelled) = self.cancelled(cancel) else {
            return false;
        };
        let locks = locks_asked(cancelled);
        let (lease, request) = (
            words(&cancel.input, "lease"),
            words(&cancel.input, "request_id"),
        );
        let of_lease = self.requests.range((lease, "")..);
        of_lease
            .take_while(|((of, _), _)| *of == lease)
            .filter(|((_, other), _)| *other != request)
            .flat_map(|(_, sendings)| locks_asked(sendings[0]))
            .any(|lock| locks.contains(&lock))
    }

    /// A cancel names a request: what that asked for is what it gives back.
    fn locks_of_cancel(&self, operation: &'h Operation) -> Option<Value> {
        let lease = operation.input.field("lease")?;
        let acquire = self.cancelled(operation)?;
        acquire.input.field("locks")?.as_list()?;
        let names = locks_asked(acquire).into_iter().cloned();
        Some(map([
            ("lease", lease.clone()),
            ("locks", Value::list(names)),
        ]))
    }

    fn ending(&mut self, operation: &'h Operation, ending: Drafting) {
        self.draft(operation, Self::function(operation), ending);
        if &*operation.function == "cancel" {
            let locks = self.locks_of_cancel(operation);
            if let (Some(drafted), Some(locks)) = (self.drafted.last_mut(), locks) {
                drafted.input = locks;
            }
        }
    }

    fn known_ending(&mut self, operation: &'h Operation) {
        match &operation.outcome {
            Outcome::Ok(answer) => {
                let effects = self.effects(operation).unwrap_or_default();
                let position = self.history.position(operation);
                let places: Vec<Position> = effects
                    .iter()
                    .map(|effect| effect.position)
                    .filter(|place| Some(*place) == position)
                    .collect();
                self.claimed.extend(places.iter().copied());
                let was_held = answer.field("was_held") != Some(&Value::Bool(false));
                let is_cancel = &*operation.function == "cancel";
                if is_cancel && !was_held && self.is_one_of_several(operation) {
                    self.dropped += 1;
                    return;
                }
                let released = map([("was_held", Value::Bool(was_held))]);
                self.ending(operation, Drafting::Ok(released));
                if let Some(drafted) = self.drafted.last_mut() {
                    drafted.in_log = places;
                }
            }
            Outcome::Fail(_) => {
                let code = code(operation, self.history);
                // What a cancel is refused for says nothing of locks.
                if &*operation.function != "cancel"
                    && matches!(
                        &*code,
                        "token_stale" | "not_held" | "lease_ended" | "lease_not_found"
                    )
                {
                    self.refusal(operation, Self::function(operation));
                }
            }
            Outcome::Info => {}
        }
    }

    fn unknown_ending(&mut self, operation: &'h Operation) {
        let Some(effects) = self.effects(operation) else {
            self.ending(operation, Drafting::Open);
            return;
        };
        let effect = effects.iter().find(|effect| {
            effect.had_effect == Some(true) && !self.claimed.contains(&effect.position)
        });
        let Some(effect) = effect else {
            self.dropped += 1;
            return;
        };
        self.resolved += 1;
        self.claimed.insert(effect.position);
        let released = map([("was_held", Value::Bool(true))]);
        self.ending(operation, Drafting::Ok(released));
        if let Some(drafted) = self.drafted.last_mut() {
            drafted.completed = None;
            drafted.position = Some(effect.position);
            drafted.in_log = vec![effect.position];
        }
    }

    fn renewal(&mut self, operation: &'h Operation) {
        match &operation.outcome {
            Outcome::Ok(answer) => {
                let lease = words(&operation.input, "lease");
                let position = self.history.position(operation);
                let places = self.applied.map(|applied| {
                    let renewals = applied.renewals(lease).iter();
                    let places = renewals.map(|renewal| renewal.position);
                    places.filter(|place| Some(*place) == position).collect()
                });
                self.draft(operation, "renew", Drafting::Ok(answer.clone()));
                if let Some(drafted) = self.drafted.last_mut() {
                    drafted.in_log = places.unwrap_or_default();
                }
            }
            Outcome::Fail(_) => {
                if matches!(
                    &*code(operation, self.history),
                    "lease_ended" | "lease_not_found"
                ) {
                    self.refusal(operation, "renew");
                }
            }
            // A lease that nobody knows to be renewed may expire as if it were not.
            Outcome::Info => self.dropped += 1,
        }
    }

    /// Whoever a read saw held the lock at some moment of the read.
    fn read(&mut self, operation: &'h Operation) {
        let Outcome::Ok(holders) = &operation.outcome else {
            return;
        };
        for holder in holders.as_list().unwrap_or_default() {
            let Some(lease) = holder.field("lease") else {
                continue;
            };
            let error = map([("code", Value::text("already_held"))]);
            self.draft(operation, "acquire", Drafting::Refused(error));
            if let Some(drafted) = self.drafted.last_mut() {
                drafted.input = map([("lease", lease.clone())]);
            }
        }
    }

    fn finish(self) -> Result<LockHistory, Malformed> {
        let events = self.history.events();
        let last_time = events.iter().filter_map(|event| event.time_ns).max();
        let end = EventIndex(u32::MAX);
        // Sorted by place, beginnings of an event's operations in the order in which they were drafted.
        let mut placed: Vec<(EventIndex, Event)> = Vec::new();
        let mut entries = Vec::new();
        for (number, drafted) in (0u64..).zip(&self.drafted) {
            let request: Arc<str> = format!("op{number}").into();
            let event = |kind, value: Value, of: EventIndex| {
                let mut event = Event::new(Process::Client(number), kind, drafted.function, value);
                event.key.clone_from(&drafted.key);
                event.request = Some(request.clone());
                let recorded = events.get(of.0 as usize);
                event.time_ns = recorded.map_or(last_time, |recorded| recorded.time_ns);
                event.line = recorded.map_or(0, |recorded| recorded.line);
                event
            };
            let begins = event(EventKind::Invoke, drafted.input.clone(), drafted.invoked);
            placed.push((drafted.invoked, begins));
            let at = drafted.completed.unwrap_or(end);
            let mut ends = match &drafted.ending {
                Drafting::Ok(answer) => event(EventKind::Ok, answer.clone(), at),
                Drafting::Refused(error) => {
                    let mut ends = event(EventKind::Fail, Value::Nil, at);
                    ends.error = Some(error.clone());
                    ends
                }
                Drafting::Open => event(EventKind::Info, Value::Nil, at),
            };
            ends.position = drafted.position;
            placed.push((at, ends));
            for position in &drafted.in_log {
                entries.push(LogEntry {
                    position: *position,
                    request: Some(request.clone()),
                    command: None,
                });
            }
        }
        placed.sort_by_key(|(at, _)| *at);
        let history = History::new(
            placed.into_iter().map(|(_, event)| event),
            FailMeaning::Observation,
        )?;
        let log = self.applied.map(|applied| {
            for (lease, request, acquire) in applied.granted() {
                let key = (lease.to_owned(), request.to_owned());
                if !self.granted.contains(&key) {
                    // Nobody asked for it: the witness will say so.
                    entries.extend(acquire.granted_at.first().map(|position| LogEntry {
                        position: *position,
                        request: Some(format!("{request} of lease {lease}").into()),
                        command: Some("an acquire".into()),
                    }));
                }
            }
            entries.sort_by_key(|entry| entry.position);
            entries.dedup_by(|one, other| {
                one.position == other.position && one.request == other.request
            });
            LogDump {
                first_index: 1,
                last_index: applied.last_index(),
                entries,
            }
        });
        Ok(LockHistory {
            history,
            log,
            resolved: self.resolved,
            dropped: self.dropped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operations one after the other: function, request, argument, and the answer.
    fn history(operations: &[(&str, Option<&str>, Value, Value)]) -> History {
        let mut events = Vec::new();
        for (number, (function, request, input, answer)) in (0..).zip(operations) {
            for (kind, value) in [(EventKind::Invoke, input), (EventKind::Ok, answer)] {
                let mut event = Event::new(Process::Client(number), kind, function, value.clone());
                event.key = Some(Value::text("a"));
                event.request = request.map(Into::into);
                events.push(event);
            }
        }
        History::new(events, FailMeaning::Observation).unwrap()
    }

    fn acquire(request: &str, token: u64) -> (&'static str, Option<&str>, Value, Value) {
        let answer = map([("token", number(token)), ("ttl_ms", number(2_000))]);
        let input = map([("lease", Value::text("l")), ("ttl_ms", number(2_000))]);
        ("acquire", Some(request), input, answer)
    }

    fn cancel(request: &str) -> (&'static str, Option<&'static str>, Value, Value) {
        let input = [("lease", "l"), ("request_id", request)];
        let input = map(input.map(|(name, value)| (name, Value::text(value))));
        let answer = map([("was_held", Value::Bool(false))]);
        ("cancel", None, input, answer)
    }

    fn functions(history: &History) -> Vec<String> {
        let rewritten = lock_history(history, None).unwrap().history;
        let operations = rewritten.operations().iter();
        operations.map(|it| it.function.to_string()).collect()
    }

    #[test]
    fn a_cancel_that_ended_nothing_is_a_release_of_nothing() {
        let history = history(&[acquire("r1", 1), cancel("r1")]);
        assert_eq!(functions(&history), ["acquire", "release"]);
    }

    #[test]
    fn a_cancel_of_another_request_than_the_one_that_holds_says_nothing_of_the_lock() {
        let mut waits = acquire("r2", 0);
        waits.3 = map([("granted", Value::Bool(false))]);
        let history = history(&[acquire("r1", 1), waits, cancel("r2")]);
        assert!(!functions(&history).contains(&"release".to_owned()));
    }
}
