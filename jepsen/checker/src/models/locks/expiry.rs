//! When leases may expire: DESIGN section 6. An expiry is a call that nobody made, open from the
//! moment on at which it may take effect.

use rustc_hash::FxHashMap;

use super::read::{Reader, number_field};
use super::specification::LockCall;
use crate::models::malformed;
use crate::{
    EventIndex, History, Malformed, Moment, Operation, OperationId, Origin, Outcome, TimedCall,
};

/// How leases expire: not before their holder's last renewal, or grant, was asked for plus the
/// time to live, less the rate by which clocks may differ. After that at any time, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The time to live of leases whose operations name none, in milliseconds.
    pub ttl_ms: u64,
    /// By how much monotonic clocks may differ, in millionths; DESIGN section 3's rho, 1%.
    pub rho_millionths: u64,
}

impl Default for Expiry {
    /// 15 s and 1%.
    fn default() -> Self {
        Expiry {
            ttl_ms: 15_000,
            rho_millionths: 10_000,
        }
    }
}

impl Reader<'_> {
    /// An expiry for each grant and renewal, open from the moment on at which it may take effect.
    /// None where the lease is known to have been renewed before that moment: then it never can.
    pub(super) fn expirations(
        &self,
        expiry: Expiry,
        calls: &[TimedCall<LockCall>],
    ) -> Result<Vec<TimedCall<LockCall>>, Malformed> {
        let mut expirations = Vec::new();
        let mut by_invocation: Vec<&TimedCall<LockCall>> = calls.iter().collect();
        by_invocation.sort_by_key(|timed| std::cmp::Reverse(timed.invoked));
        // By lease: its acquires, and the locks that they asked for.
        let mut acquires: FxHashMap<u32, (u32, usize)> = FxHashMap::default();
        for timed in &by_invocation {
            if let LockCall::Acquire { holder, grants, .. } = &timed.call {
                let (times, locks) = acquires.entry(*holder).or_default();
                *times += 1;
                *locks += grants.len();
            }
        }
        // By lease, going backwards: what makes an expiry before it impossible, or of no account.
        let mut followed: FxHashMap<u32, Follower> = FxHashMap::default();
        for timed in by_invocation {
            let (holder, renewal) = match timed.call {
                LockCall::Acquire {
                    holder, renewal, ..
                }
                | LockCall::Renew { holder, renewal } => (holder, renewal),
                ref call => {
                    let (holder, freed) = match call {
                        LockCall::Release {
                            holder,
                            permits: None,
                            ..
                        } => (*holder, 1),
                        LockCall::ReleaseSeveral { holder, locks } => (*holder, locks.len()),
                        LockCall::Release { holder, .. }
                        | LockCall::NotHeld { holder, .. }
                        | LockCall::Ended { holder }
                        | LockCall::Revoke { holder } => (*holder, 0),
                        _ => continue,
                    };
                    let frees_all = acquires.get(&holder) == Some(&(1, freed));
                    followed.entry(holder).or_insert(Follower {
                        asked: timed.invoked,
                        returned: timed.returned,
                        renewal: frees_all.then_some(u32::MAX),
                    });
                    continue;
                }
            };
            let operation = self.history.operation(timed.origin.operation());
            let refused = |problem: String| malformed(self.history, operation, problem);
            let Some(asked_ns) = self.history.event(operation.invocation).time_ns else {
                return Err(refused(format!(
                    "`{}` has no `time`, without which nobody knows when its lease may expire",
                    operation.function
                )));
            };
            let ttl_ms = ttl_ms(operation, expiry).map_err(refused)?;
            let may_expire = self.times.first_at(expires_ns(asked_ns, ttl_ms, expiry));
            let renewal_after = Follower {
                asked: timed.invoked,
                returned: timed.returned,
                renewal: Some(renewal),
            };
            let follower = followed.insert(holder, renewal_after);
            let Some(may_expire) = may_expire else {
                continue;
            };
            let may_expire = Moment::just_before(may_expire).max(timed.invoked);
            let superseded = follower.is_some_and(|follower| {
                follower.renewal.is_some_and(|next| next > renewal)
                    && timed.returned.is_some_and(|mine| mine < follower.asked)
                    && follower
                        .returned
                        .is_some_and(|returned| returned < may_expire)
            });
            if !superseded {
                expirations.push(TimedCall {
                    call: LockCall::Expire { holder, renewal },
                    origin: Origin::Derived(operation.id),
                    invoked: may_expire,
                    returned: None,
                });
            }
        }
        expirations.reverse();
        Ok(expirations)
    }
}

/// What a lease did next.
#[derive(Clone, Copy)]
struct Follower {
    asked: Moment,
    returned: Option<Moment>,
    /// It was renewed, and this is the renewal's number; or all that it ever held was given back,
    /// and it did nothing any more: more than any number.
    renewal: Option<u32>,
}

/// The time to live that an operation's answer states, or its argument, or everybody's.
pub(super) fn ttl_ms(operation: &Operation, expiry: Expiry) -> Result<u64, String> {
    let answered = match &operation.outcome {
        Outcome::Ok(answer) => number_field(answer, "ttl_ms")?,
        _ => None,
    };
    let stated = match answered {
        Some(ttl_ms) => Some(ttl_ms),
        None => number_field(&operation.input, "ttl_ms")?,
    };
    Ok(stated
        .and_then(|ttl_ms| u64::try_from(ttl_ms).ok())
        .unwrap_or(expiry.ttl_ms))
}

pub(super) fn expires_ns(asked_ns: u64, ttl_ms: u64, expiry: Expiry) -> u64 {
    // A millisecond is a million nanoseconds, so the millionths cancel out.
    let kept_millionths = 1_000_000u64.saturating_sub(expiry.rho_millionths);
    asked_ns.saturating_add(ttl_ms.saturating_mul(kept_millionths))
}

/// Which event of a part is the first at or after a time.
pub(super) struct Times {
    /// The largest time up to an event, and the event; both rising.
    reached: Vec<(u64, EventIndex)>,
}

impl Times {
    pub(super) fn new(history: &History, operations: &[OperationId]) -> Self {
        let mut events: Vec<EventIndex> = operations
            .iter()
            .map(|&id| history.operation(id))
            .flat_map(|operation| std::iter::once(operation.invocation).chain(operation.completion))
            .collect();
        events.sort_unstable();
        let mut reached: Vec<(u64, EventIndex)> = Vec::new();
        for index in events {
            let Some(time_ns) = history.event(index).time_ns else {
                continue;
            };
            if reached.last().is_none_or(|(latest, _)| time_ns > *latest) {
                reached.push((time_ns, index));
            }
        }
        Times { reached }
    }

    pub(super) fn first_at(&self, time_ns: u64) -> Option<EventIndex> {
        let at = self
            .reached
            .partition_point(|(reached, _)| *reached < time_ns);
        self.reached.get(at).map(|(_, index)| *index)
    }
}
