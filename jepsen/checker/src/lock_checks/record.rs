//! What a history says about locks: grants, renewals, endings. Repeats of a request are one here.
//! Judges nothing.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::{EventIndex, History, Malformed, Operation, OperationId, Outcome, Value};

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One holder, nobody beside it.
    Exclusive,
    /// Beside other sharers.
    Shared,
    /// So many of the lock's permits.
    Permits {
        /// How many.
        permits: u64,
        /// How many the lock has.
        limit: u64,
    },
}

/// Who holds: a lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// By its id.
    Lease(Arc<str>),
    /// The only lease of an owner who names none.
    Owner(Arc<str>),
    /// The only lease of a client that names neither.
    Client(u64),
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Lease(id) => write!(out, "lease {id}"),
            Holder::Owner(name) => write!(out, "owner {name}"),
            Holder::Client(number) => write!(out, "process {number}"),
        }
    }
}

/// A lock was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The first operation that answered so.
    pub operation: OperationId,
    /// The lock.
    pub lock: Value,
    /// How.
    pub mode: Mode,
    /// The fencing token.
    pub token: Option<u64>,
    /// To whom.
    pub holder: Holder,
    /// By which request.
    pub request: Option<Arc<str>>,
    /// The TTL of the lease, in nanoseconds.
    pub ttl_ns: Option<u64>,
    /// The first time that the request was sent.
    pub invoked: EventIndex,
    /// The first time that it was answered with this grant.
    pub completed: EventIndex,
}

/// A lease was renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The operation.
    pub operation: OperationId,
    /// The lease.
    pub holder: Holder,
    /// When it was sent.
    pub invoked: EventIndex,
    /// When it was answered.
    pub completed: EventIndex,
}

/// Something that ended a hold, or may have: a release, cancel, revocation or force release that was
/// not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The operation.
    pub operation: OperationId,
    /// The lock, if it names one.
    pub lock: Option<Value>,
    /// The lease, if it names one.
    pub holder: Option<Holder>,
    /// The tokens, if it names some.
    pub tokens: Vec<u64>,
    /// When it was sent.
    pub invoked: EventIndex,
    /// When it was answered; none if it may still take effect.
    pub completed: Option<EventIndex>,
    /// Whether the answer says that something was held.
    pub was_held: Option<bool>,
}

impl Ending {
    /// Whether it may have ended this hold.
    #[must_use]
    pub fn may_end(&self, grant: &Grant) -> bool {
        self.lock.as_ref().is_none_or(|lock| *lock == grant.lock)
            && self
                .holder
                .as_ref()
                .is_none_or(|holder| *holder == grant.holder)
            && (self.tokens.is_empty()
                || grant.token.is_none_or(|token| self.tokens.contains(&token)))
            && self
                .completed
                .is_none_or(|completed| completed > grant.invoked)
    }
}

/// All that a history says about locks.
#[derive(Clone, Debug)]
pub struct LockRecord<'h> {
    /// Where it was read from.
    pub history: &'h History,
    /// The grants, by completion.
    pub grants: Vec<Grant>,
    /// The successful renewals, by invocation.
    pub renewals: Vec<Renewal>,
    /// The endings, by invocation.
    pub endings: Vec<Ending>,
}

impl<'h> LockRecord<'h> {
    /// Reads the lock operations of a history; all others are passed over.
    ///
    /// # Errors
    ///
    /// The first lock operation that the vocabulary (see the module) does not know.
    pub fn read(history: &'h History) -> Result<Self, Malformed> {
        let mut record = LockRecord {
            history,
            grants: Vec::new(),
            renewals: Vec::new(),
            endings: Vec::new(),
        };
        // A request that is sent again: its first sending, and where its grant stands.
        let mut first_sent: HashMap<(Holder, Arc<str>), EventIndex> = HashMap::new();
        let mut granted: HashMap<(Holder, Arc<str>, Value), usize> = HashMap::new();
        // The lease that a client was granted last without having named one.
        let mut own: HashMap<u64, Holder> = HashMap::new();
        for operation in history.operations() {
            let holder = || match (holder(operation), own.get(&operation.client)) {
                (Holder::Client(_) | Holder::Owner(_), Some(own)) => own.clone(),
                (named, _) => named,
            };
            match &*operation.function {
                "acquire" => {
                    let request = history.request(operation).cloned();
                    let holder = super::record::holder(operation);
                    if let Holder::Lease(_) = holder
                        && operation.input.field("lease").is_none()
                    {
                        own.insert(operation.client, holder.clone());
                    }
                    let mut invoked = operation.invocation;
                    if let Some(request) = &request {
                        invoked = *first_sent
                            .entry((holder.clone(), request.clone()))
                            .or_insert(operation.invocation);
                    }
                    for grant in grants(history, operation, holder, request, invoked)? {
                        let Some(request) = grant.request.clone() else {
                            record.grants.push(grant);
                            continue;
                        };
                        let key = (grant.holder.clone(), request, grant.lock.clone());
                        let known = granted.get(&key).map(|index| &mut record.grants[*index]);
                        match known {
                            // Another token for the same request is a grant of its own, which
                            // `exactly_once` will find.
                            Some(known) if known.token == grant.token => {
                                known.completed = known.completed.min(grant.completed);
                            }
                            _ => {
                                granted.insert(key, record.grants.len());
                                record.grants.push(grant);
                            }
                        }
                    }
                }
                "renew" => {
                    if let (Outcome::Ok(_), Some(completed)) =
                        (&operation.outcome, operation.completion)
                    {
                        record.renewals.push(Renewal {
                            operation: operation.id,
                            holder: holder(),
                            invoked: operation.invocation,
                            completed,
                        });
                    }
                }
                "release" | "cancel" | "revoke" | "force-release"
                    if !matches!(operation.outcome, Outcome::Fail(_)) =>
                {
                    record.endings.push(ending(history, operation, holder())?);
                }
                _ => {}
            }
        }
        record.grants.sort_by_key(|grant| grant.completed);
        Ok(record)
    }

    /// When an event happened, in nanoseconds of the history's clock.
    #[must_use]
    pub fn time_ns(&self, event: EventIndex) -> Option<u64> {
        self.history.event(event).time_ns
    }
}

/// An operation for people: `#12 (process 3)`.
pub(super) fn name(history: &History, id: OperationId) -> String {
    let operation = history.operation(id);
    format!(
        "#{} (process {}, {})",
        id.0, operation.client, operation.function
    )
}

fn problem(history: &History, operation: &Operation, words: impl fmt::Display) -> Malformed {
    let event = history.event(operation.completion.unwrap_or(operation.invocation));
    Malformed::new(event.line, format!("`{}`: {words}", operation.function))
}

/// What an operation says of itself: the answer counts before the argument.
fn field<'o>(operation: &'o Operation, name: &str) -> Option<&'o Value> {
    let answer = match &operation.outcome {
        Outcome::Ok(value) | Outcome::Fail(value) => value.field(name),
        Outcome::Info => None,
    };
    answer
        .or_else(|| operation.input.field(name))
        .filter(|value| !value.is_nil())
}

fn holder(operation: &Operation) -> Holder {
    let words = |value: &Value| match value {
        Value::Text(words) | Value::Keyword(words) => words.clone(),
        other => other.to_string().into(),
    };
    match (field(operation, "lease"), field(operation, "owner")) {
        (Some(lease), _) => Holder::Lease(words(lease)),
        (None, Some(owner)) => Holder::Owner(words(owner)),
        (None, None) => Holder::Client(operation.client),
    }
}

/// A count or a token: not negative.
fn number(history: &History, operation: &Operation, value: &Value) -> Result<u64, Malformed> {
    value
        .as_integer()
        .and_then(|number| u64::try_from(number).ok())
        .ok_or_else(|| {
            problem(
                history,
                operation,
                format_args!("{value} is no whole number from 0"),
            )
        })
}

fn mode(history: &History, operation: &Operation, what: &Value) -> Result<Mode, Malformed> {
    let named = what.field("mode").filter(|mode| !mode.is_nil());
    match named.map(|mode| mode.as_words().unwrap_or_default()) {
        None | Some("exclusive") => Ok(Mode::Exclusive),
        Some("shared") => Ok(Mode::Shared),
        Some("permits") => {
            let count = |name: &str, default| match what.field(name) {
                Some(value) => number(history, operation, value),
                None => Ok(default),
            };
            Ok(Mode::Permits {
                permits: count("permits", 1)?,
                limit: count("limit", u64::MAX)?,
            })
        }
        Some(_) => Err(problem(
            history,
            operation,
            format_args!(
                "mode {} is none of exclusive, shared, permits",
                named.unwrap_or(what)
            ),
        )),
    }
}

fn grants(
    history: &History,
    operation: &Operation,
    holder: Holder,
    request: Option<Arc<str>>,
    invoked: EventIndex,
) -> Result<Vec<Grant>, Malformed> {
    let (Outcome::Ok(answer), Some(completed)) = (&operation.outcome, operation.completion) else {
        return Ok(Vec::new());
    };
    if answer.field("granted") == Some(&Value::Bool(false)) {
        return Ok(Vec::new());
    }
    let ttl_ns = match field(operation, "ttl_ms") {
        Some(value) => Some(number(history, operation, value)?.saturating_mul(1_000_000)),
        None => None,
    };
    let grant = |lock: Value, mode: Mode, token: Option<&Value>| {
        Ok(Grant {
            operation: operation.id,
            lock,
            mode,
            token: match token.filter(|token| !token.is_nil()) {
                Some(token) => Some(number(history, operation, token)?),
                None => None,
            },
            holder: holder.clone(),
            request: request.clone(),
            ttl_ns,
            invoked,
            completed,
        })
    };
    let Some(asked) = operation.input.field("locks") else {
        // The answer is the token, or a map that has it; the input of a one-word history says nothing.
        let token = match answer {
            Value::Integer(_) => Some(answer),
            _ => answer.field("token"),
        };
        let lock = operation.key.clone().unwrap_or_default();
        return Ok(vec![grant(
            lock,
            mode(history, operation, &operation.input)?,
            token,
        )?]);
    };
    let lock_of = |of: &Value| of.field("name").cloned().unwrap_or_else(|| of.clone());
    let given = answer
        .field("locks")
        .and_then(Value::as_list)
        .unwrap_or_default();
    let asked = asked
        .as_list()
        .ok_or_else(|| problem(history, operation, "`locks` is no list of locks"))?;
    asked
        .iter()
        .map(|one| {
            let lock = lock_of(one);
            let token = given
                .iter()
                .find(|given| lock_of(given) == lock)
                .and_then(|it| it.field("token"));
            grant(lock, mode(history, operation, one)?, token)
        })
        .collect()
}

fn ending(history: &History, operation: &Operation, holder: Holder) -> Result<Ending, Malformed> {
    let mut tokens = Vec::new();
    if let Value::Integer(_) = operation.input {
        tokens.push(number(history, operation, &operation.input)?);
    }
    if let Some(token) = operation
        .input
        .field("token")
        .filter(|token| !token.is_nil())
    {
        tokens.push(number(history, operation, token)?);
    }
    for token in operation
        .input
        .field("tokens")
        .and_then(Value::as_list)
        .unwrap_or_default()
    {
        tokens.push(number(history, operation, token)?);
    }
    let by_others = &*operation.function == "force-release" || &*operation.function == "revoke";
    let named = operation
        .input
        .field("lease")
        .is_some_and(|lease| !lease.is_nil());
    let answered = matches!(operation.outcome, Outcome::Ok(_));
    Ok(Ending {
        operation: operation.id,
        lock: operation.key.clone(),
        // Who ends what somebody else holds need not be told whose it is.
        holder: (named || !by_others).then_some(holder),
        tokens,
        invoked: operation.invocation,
        completed: operation.completion.filter(|_| answered),
        was_held: match &operation.outcome {
            Outcome::Ok(answer) => match answer.field("was_held") {
                Some(Value::Bool(held)) => Some(*held),
                _ => None,
            },
            _ => None,
        },
    })
}
