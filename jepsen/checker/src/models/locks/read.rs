//! What operations on locks say: their arguments, answers and errors, as calls.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::expiry::{Times, expires_ns, ttl_ms};
use super::specification::{Grant, Holder, LockCall, LockSpecification};
use super::{LockModes, Locks};
use crate::models::{Ending, ending, malformed, malformed_answer, timed, unknown_function};
use crate::{History, Malformed, Operation, OperationId, Outcome, Problem, Value};

/// The lease that an operation names, in its argument or its answer.
pub(super) fn lease_name(operation: &Operation) -> Option<&Value> {
    let answered = match &operation.outcome {
        Outcome::Ok(answer) | Outcome::Fail(answer) => answer.field("lease"),
        Outcome::Info => None,
    };
    operation
        .input
        .field("lease")
        .or(answered)
        .filter(|lease| !lease.is_nil())
}

pub(super) struct NamedLock {
    pub name: Value,
    pub fields: Value,
}

/// The field `locks` of an argument or an answer.
pub(super) fn locks_field(
    operation: &Operation,
    value: &Value,
) -> Result<Option<Vec<NamedLock>>, String> {
    let Some(locks) = value.field("locks") else {
        return Ok(None);
    };
    let refused = || {
        let function = &operation.function;
        format!("`locks` of `{function}` is a list of names or of maps with `name`, not {locks}")
    };
    let mut named = Vec::new();
    for item in locks.as_list().ok_or_else(refused)? {
        let (name, fields) = match item {
            Value::Map(_) => (
                item.field("name").ok_or_else(refused)?.clone(),
                item.clone(),
            ),
            name => (name.clone(), Value::Nil),
        };
        if named.iter().any(|other: &NamedLock| other.name == name) {
            return Err(format!(
                "`locks` of `{}` has {name} twice",
                operation.function
            ));
        }
        named.push(NamedLock { name, fields });
    }
    if named.is_empty() {
        return Err(refused());
    }
    Ok(Some(named))
}

pub(super) fn number_field(value: &Value, name: &str) -> Result<Option<i64>, String> {
    match value.field(name) {
        None | Some(Value::Nil) => Ok(None),
        Some(Value::Integer(number)) if *number >= 0 => Ok(Some(*number)),
        Some(other) => Err(format!("`{name}` is a whole number from 0, not {other}")),
    }
}

fn count_field(value: &Value, name: &str) -> Result<Option<u32>, String> {
    let count = number_field(value, name)?;
    let refused = |number| format!("`{name}` is at most {}, not {number}", u32::MAX);
    count
        .map(|number| u32::try_from(number).map_err(|_| refused(number)))
        .transpose()
}

/// Turns the operations of one part into calls.
pub(super) struct Reader<'h> {
    model: &'h Locks,
    pub history: &'h History,
    specification: LockSpecification,
    /// The lease of a process's last acquire that was granted one on the fly.
    lease_of_client: FxHashMap<u64, u32>,
    /// Grants and renewals, numbered by the deadlines that they give.
    renewals: FxHashMap<OperationId, u32>,
    pub times: Times,
}

/// The calls of some operations.
pub(super) fn problem(
    model: &Locks,
    history: &History,
    operations: &[OperationId],
) -> Result<Problem<LockSpecification>, Malformed> {
    let leased = model.expiry.is_some();
    let mut reader = Reader {
        model,
        history,
        specification: LockSpecification::new(model.repeatable, model.fenced, leased),
        lease_of_client: FxHashMap::default(),
        renewals: FxHashMap::default(),
        times: Times::new(history, operations),
    };
    let mut calls = Vec::with_capacity(operations.len());
    reader.order_renewals(operations);
    for &id in operations {
        let operation = history.operation(id);
        let call = reader.call(operation)?;
        calls.extend(call.map(|call| timed(operation, call)));
    }
    if let Some(expiry) = model.expiry {
        let expirations = reader.expirations(expiry, &calls)?;
        calls.extend(expirations);
    }
    Ok(Problem {
        specification: reader.specification,
        calls,
    })
}

impl Reader<'_> {
    fn order_renewals(&mut self, operations: &[OperationId]) {
        let Some(expiry) = self.model.expiry else {
            return;
        };
        let is_renewal = |id: &OperationId| {
            matches!(&*self.history.operation(*id).function, "acquire" | "renew")
        };
        let mut renewals: Vec<_> = operations.iter().copied().filter(is_renewal).collect();
        renewals.sort_by_cached_key(|&id| {
            let operation = self.history.operation(id);
            let asked = self.history.event(operation.invocation).time_ns;
            let ttl_ms = ttl_ms(operation, expiry).unwrap_or(expiry.ttl_ms);
            (asked.map(|asked| expires_ns(asked, ttl_ms, expiry)), id)
        });
        self.renewals = renewals.into_iter().zip(0..).collect();
    }

    fn renewal(&self, operation: &Operation) -> u32 {
        self.renewals.get(&operation.id).copied().unwrap_or(0)
    }

    fn call(&mut self, operation: &Operation) -> Result<Option<LockCall>, Malformed> {
        let Some(ending) = ending(self.history, operation) else {
            return Ok(None);
        };
        match &*operation.function {
            "acquire" => self.acquire(operation, &ending),
            "release" => self.release(operation, &ending),
            "renew" if self.model.expiry.is_some() => Ok(self.renew(operation, &ending)),
            "revoke" if self.model.expiry.is_some() => Ok(self.revoke(operation, &ending)),
            _ => {
                let functions = match self.model.expiry {
                    Some(_) => "acquire, release, renew and revoke",
                    None => "acquire and release",
                };
                Err(unknown_function(
                    self.history,
                    operation,
                    self.model.name,
                    functions,
                ))
            }
        }
    }

    /// Who an operation is of. Only an acquire may begin a lease on the fly.
    fn holder(&mut self, operation: &Operation) -> u32 {
        let owner = operation
            .input
            .field("owner")
            .or(operation.input.field("client"));
        let leased = self.model.expiry.is_some();
        let named = match lease_name(operation) {
            _ if !self.model.owned => Some(Holder::Anybody),
            Some(lease) => Some(Holder::Lease(lease.clone())),
            None if leased => None,
            None => Some(match owner {
                Some(owner) if !owner.is_nil() => Holder::Owner(owner.clone()),
                _ => Holder::Client(operation.client),
            }),
        };
        let begun = self.lease_of_client.get(&operation.client).copied();
        match (named, begun) {
            (Some(named), _) => {
                let number = self.specification.holders.of(&named);
                if &*operation.function == "acquire" {
                    self.lease_of_client.insert(operation.client, number);
                }
                number
            }
            (None, Some(begun)) if &*operation.function != "acquire" => begun,
            (None, _) => {
                let number = self
                    .specification
                    .holders
                    .of(&Holder::LeaseOf(operation.id));
                if &*operation.function == "acquire" {
                    self.lease_of_client.insert(operation.client, number);
                }
                number
            }
        }
    }

    fn acquire(
        &mut self,
        operation: &Operation,
        ending: &Ending,
    ) -> Result<Option<LockCall>, Malformed> {
        let history = self.history;
        let asked = |problem| malformed(history, operation, problem);
        let answered = |problem| malformed_answer(history, operation, problem);
        let answer = match &operation.outcome {
            Outcome::Ok(answer) => answer.clone(),
            _ => Value::Nil,
        };
        let mut tokens: BTreeMap<Value, i64> = BTreeMap::new();
        for lock in locks_field(operation, &answer)
            .map_err(answered)?
            .unwrap_or_default()
        {
            if let Some(token) = number_field(&lock.fields, "token").map_err(answered)? {
                tokens.insert(lock.name, token);
            }
        }
        let single_token = match &answer {
            Value::Integer(token) => Some(*token),
            answer => number_field(answer, "token").map_err(answered)?,
        };
        let mut grants = Vec::new();
        match locks_field(operation, &operation.input).map_err(asked)? {
            Some(locks) => {
                for lock in locks {
                    let token = tokens.get(&lock.name).copied();
                    let grant = self.grant(&lock.name, &lock.fields, token).map_err(asked)?;
                    grants.push(grant);
                }
            }
            None => {
                let name = operation.key.clone().unwrap_or_default();
                let token = single_token.or_else(|| tokens.get(&name).copied());
                grants.push(self.grant(&name, &operation.input, token).map_err(asked)?);
            }
        }
        grants.sort_by_key(|grant| grant.lock);
        match ending {
            Ending::Ok | Ending::Open => {
                let holder = self.holder(operation);
                let renewal = self.renewal(operation);
                Ok(Some(LockCall::Acquire {
                    holder,
                    grants,
                    renewal,
                }))
            }
            Ending::Refused => {
                if self.model.expiry.is_some() && lease_name(operation).is_none() {
                    // Nobody: it was granted no lease.
                    let holder = self
                        .specification
                        .holders
                        .of(&Holder::LeaseOf(operation.id));
                    return Ok(self.acquire_refused(operation, holder, grants));
                }
                let holder = self.holder(operation);
                Ok(self.acquire_refused(operation, holder, grants))
            }
        }
    }

    fn acquire_refused(
        &self,
        operation: &Operation,
        holder: u32,
        grants: Vec<Grant>,
    ) -> Option<LockCall> {
        let (code, reason) = self.refused_because(operation)?;
        match &*code {
            "lock_held" if reason.is_none_or(|reason| reason == "held") => {
                Some(LockCall::AcquireHeld { holder, grants })
            }
            "already_held" => Some(LockCall::AcquireAlreadyHeld { holder, grants }),
            _ => None,
        }
    }

    /// The error's code, with `_` between words, and its reason.
    fn refused_because(&self, operation: &Operation) -> Option<(String, Option<String>)> {
        let error = self.history.completion(operation)?.error.as_ref()?;
        let code = error
            .as_words()
            .or_else(|| error.field("code")?.as_words())?;
        let reason = error
            .field("reason")
            .and_then(Value::as_words)
            .map(String::from);
        Some((code.replace('-', "_"), reason))
    }

    fn grant(&mut self, name: &Value, fields: &Value, token: Option<i64>) -> Result<Grant, String> {
        let lock = self.specification.locks.of(name);
        let mode = match fields.field("mode") {
            None | Some(Value::Nil) if self.model.modes == LockModes::Permits => "permits",
            None | Some(Value::Nil) => "exclusive",
            Some(mode) => mode.as_words().unwrap_or("no name"),
        };
        let allowed = match self.model.modes {
            LockModes::Exclusive => matches!(mode, "exclusive"),
            LockModes::ReadWrite => matches!(mode, "exclusive" | "shared"),
            LockModes::Permits => matches!(mode, "permits"),
            LockModes::All => matches!(mode, "exclusive" | "shared" | "permits"),
        };
        if !allowed {
            return Err(format!("a {} has no mode {mode:?}", self.model.name));
        }
        let permits = match mode {
            "permits" => Some(count_field(fields, "permits")?.unwrap_or(1)),
            _ => None,
        };
        let limit = count_field(fields, "limit")?.unwrap_or(self.model.limit);
        Ok(Grant {
            lock,
            permits,
            limit,
            shared: mode == "shared",
            token,
        })
    }

    fn release(
        &mut self,
        operation: &Operation,
        ending: &Ending,
    ) -> Result<Option<LockCall>, Malformed> {
        let asked = |problem| malformed(self.history, operation, problem);
        let input = &operation.input;
        let single_token = match input {
            Value::Integer(token) => Some(*token),
            input => number_field(input, "token").map_err(asked)?,
        };
        let permits = count_field(input, "permits").map_err(asked)?;
        let mut locks = Vec::new();
        match locks_field(operation, input).map_err(asked)? {
            Some(named) => {
                for lock in named {
                    let token = number_field(&lock.fields, "token").map_err(asked)?;
                    locks.push((self.specification.locks.of(&lock.name), token));
                }
            }
            None => {
                let name = operation.key.clone().unwrap_or_default();
                locks.push((self.specification.locks.of(&name), single_token));
            }
        }
        if !self.model.fenced {
            locks.iter_mut().for_each(|(_, token)| *token = None);
        }
        let holder = self.holder(operation);
        let was_held = match &operation.outcome {
            Outcome::Ok(answer) => answer.field("was_held") != Some(&Value::Bool(false)),
            _ => true,
        };
        Ok(match ending {
            Ending::Ok if !was_held => Some(LockCall::NotHeld {
                holder,
                locks,
                permits,
            }),
            Ending::Ok | Ending::Open => Some(match locks[..] {
                [(lock, token)] => LockCall::Release {
                    holder,
                    lock,
                    token,
                    permits,
                },
                _ => LockCall::ReleaseSeveral { holder, locks },
            }),
            Ending::Refused => match self.refused_because(operation).as_ref() {
                Some((code, _)) => match &**code {
                    "token_stale" | "not_held" => Some(LockCall::NotHeld {
                        holder,
                        locks,
                        permits,
                    }),
                    "lease_ended" | "lease_not_found" if self.model.expiry.is_some() => {
                        Some(LockCall::Ended { holder })
                    }
                    _ => None,
                },
                None => None,
            },
        })
    }

    fn renew(&mut self, operation: &Operation, ending: &Ending) -> Option<LockCall> {
        let holder = self.holder(operation);
        match ending {
            Ending::Ok | Ending::Open => Some(LockCall::Renew {
                holder,
                renewal: self.renewal(operation),
            }),
            Ending::Refused => self.ended(operation, holder),
        }
    }

    fn revoke(&mut self, operation: &Operation, ending: &Ending) -> Option<LockCall> {
        let holder = self.holder(operation);
        match ending {
            Ending::Ok | Ending::Open => Some(LockCall::Revoke { holder }),
            Ending::Refused => self.ended(operation, holder),
        }
    }

    fn ended(&self, operation: &Operation, holder: u32) -> Option<LockCall> {
        let (code, _) = self.refused_because(operation)?;
        matches!(&*code, "lease_ended" | "lease_not_found").then_some(LockCall::Ended { holder })
    }
}
