//! What is true of every state between two entries. One function for each promise, named by it.
//!
//! Tests check them after every step; a node can do so at run time. A check walks the whole state
//! and changes nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use imbl::OrdSet;

use crate::state::{Due, Lock, LockTable, Wait};
use crate::{Mode, Origin, Position, Refusal, Token};

/// A promise that a state does not keep: a bug, or damaged bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The promise: the name of the check, without `invariant_`.
    pub invariant: &'static str,
    /// Where it is broken.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken promise {}: {}", self.invariant, self.detail)
    }
}

type Check = fn(&LockTable) -> Result<(), String>;

const CHECKS: [(&str, Check); 11] = [
    (
        "an_exclusive_lock_has_at_most_one_holder",
        invariant_an_exclusive_lock_has_at_most_one_holder,
    ),
    (
        "every_holder_has_a_lease_that_knows_it",
        invariant_every_holder_has_a_lease_that_knows_it,
    ),
    (
        "every_waiter_has_a_lease_that_knows_it",
        invariant_every_waiter_has_a_lease_that_knows_it,
    ),
    (
        "no_two_grants_share_a_token",
        invariant_no_two_grants_share_a_token,
    ),
    (
        "no_token_exceeds_the_counter",
        invariant_no_token_exceeds_the_counter,
    ),
    (
        "no_grantable_request_is_left_waiting",
        invariant_no_grantable_request_is_left_waiting,
    ),
    (
        "a_lock_exists_only_while_held_or_waited_for",
        invariant_a_lock_exists_only_while_held_or_waited_for,
    ),
    (
        "every_deadline_is_in_the_index_and_nothing_else",
        invariant_every_deadline_is_in_the_index_and_nothing_else,
    ),
    (
        "a_lease_made_by_an_acquire_holds_or_waits",
        invariant_a_lease_made_by_an_acquire_holds_or_waits,
    ),
    (
        "events_are_in_order_and_not_from_the_future",
        invariant_events_are_in_order_and_not_from_the_future,
    ),
    (
        "nothing_exceeds_the_settings",
        invariant_nothing_exceeds_the_settings,
    ),
];

/// Checks everything; empty when every promise is kept. At most one violation of each.
#[must_use]
pub fn check(table: &LockTable) -> Vec<Violation> {
    let violation = |(invariant, check): (&'static str, Check)| {
        check(table)
            .err()
            .map(|detail| Violation { invariant, detail })
    };
    CHECKS.into_iter().filter_map(violation).collect()
}

fn ensure(holds: bool, detail: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(detail()) }
}

fn is_strictly_rising<T: Ord>(items: impl IntoIterator<Item = T>) -> bool {
    items.into_iter().is_sorted_by(|a, b| a < b)
}

/// An exclusive lock has at most one holder, and nobody beside it.
///
/// # Errors
/// Names a lock that several hold.
pub fn invariant_an_exclusive_lock_has_at_most_one_holder(table: &LockTable) -> Result<(), String> {
    table.locks.iter().try_for_each(|(name, lock)| {
        let is_exclusive = lock.holders.iter().any(|id| {
            let hold = table.leases.get(id).and_then(|lease| lease.hold(name));
            hold.is_some_and(|hold| hold.mode == Mode::Exclusive)
        });
        ensure(!is_exclusive || lock.holders.len() == 1, || {
            format!("{name} is held by {:?}", lock.holders)
        })
    })
}

/// Whoever is named as the holder of a lock is a lease that exists and holds it, and the other way
/// round; a lease keeps what it holds by name.
///
/// # Errors
/// Names a lock and a lease that disagree.
pub fn invariant_every_holder_has_a_lease_that_knows_it(table: &LockTable) -> Result<(), String> {
    for (name, lock) in &table.locks {
        for id in &lock.holders {
            let knows = table
                .leases
                .get(id)
                .is_some_and(|lease| lease.hold(name).is_some());
            ensure(knows, || {
                format!("{name} names {id}, which does not hold it")
            })?;
        }
    }
    for (id, lease) in &table.leases {
        let names = lease.holds.iter().map(|hold| &hold.lock);
        ensure(is_strictly_rising(names), || {
            format!("the holds of {id} are not in the order of names")
        })?;
        for hold in &lease.holds {
            let knows = table
                .locks
                .get(&hold.lock)
                .is_some_and(|lock| lock.holders.contains(id));
            ensure(knows, || {
                format!("{id} holds {}, which does not name it", hold.lock)
            })?;
        }
        ensure(!table.tombstones.contains_key(id), || {
            format!("{id} lives and has a tombstone")
        })?;
    }
    Ok(())
}

/// Every place in a queue belongs to a request that waits, whose lease exists and knows it, and the
/// other way round; queues and leases keep requests in the order of queueing; no lease has two
/// live requests of one id, and none waits for what it holds.
///
/// # Errors
/// Names a request, lock or lease that disagree.
pub fn invariant_every_waiter_has_a_lease_that_knows_it(table: &LockTable) -> Result<(), String> {
    for (name, lock) in &table.locks {
        ensure(is_strictly_rising(&lock.queue), || {
            format!("the queue of {name} is out of order")
        })?;
        for place in &lock.queue {
            let wait = table.waits.get(place);
            let waits =
                wait.is_some_and(|wait| wait.locks.iter().any(|request| request.lock == *name));
            ensure(waits, || format!("nothing waits for {name} at {place}"))?;
        }
    }
    for (place, wait) in &table.waits {
        ensure(!wait.locks.is_empty(), || {
            format!("the request at {place} waits for nothing")
        })?;
        for request in &wait.locks {
            let lock = table.locks.get(&request.lock);
            let queued = lock.is_some_and(|lock| lock.queue.binary_search(place).is_ok());
            ensure(queued, || {
                format!(
                    "the request at {place} is not in the queue of {}",
                    request.lock
                )
            })?;
        }
        let lease = table.leases.get(&wait.lease);
        let mut waits = lease.iter().flat_map(|lease| &lease.waits);
        let knows = waits
            .any(|waiting| waiting.queued_position == *place && waiting.request == wait.request);
        ensure(knows, || {
            format!(
                "lease {} does not know that it waits at {place}",
                wait.lease
            )
        })?;
    }
    for (id, lease) in &table.leases {
        let places = lease.waits.iter().map(|waiting| waiting.queued_position);
        ensure(is_strictly_rising(places), || {
            format!("the waits of {id} are out of order")
        })?;
        let exists =
            |place: &Position| table.waits.get(place).is_some_and(|wait| wait.lease == *id);
        ensure(
            lease
                .waits
                .iter()
                .all(|waiting| exists(&waiting.queued_position)),
            || format!("{id} thinks that it waits where it does not"),
        )?;
        let waits: Vec<&Wait> = lease
            .waits
            .iter()
            .filter_map(|it| table.waits.get(&it.queued_position))
            .map(Arc::as_ref)
            .collect();
        let mut requests: BTreeSet<_> = lease.holds.iter().map(|hold| &hold.request).collect();
        let mut locks: BTreeSet<_> = lease.holds.iter().map(|hold| &hold.lock).collect();
        for wait in waits {
            ensure(requests.insert(&wait.request), || {
                format!("{id} has request {} twice", wait.request)
            })?;
            for request in &wait.locks {
                ensure(locks.insert(&request.lock), || {
                    format!("{id} uses {} twice", request.lock)
                })?;
            }
        }
    }
    Ok(())
}

/// Every exclusive grant has a token of its own.
///
/// # Errors
/// Names a token that two grants have.
pub fn invariant_no_two_grants_share_a_token(table: &LockTable) -> Result<(), String> {
    let mut tokens = BTreeSet::new();
    let mut holds = table.leases.values().flat_map(|lease| &lease.holds);
    holds.try_for_each(|hold| {
        ensure(tokens.insert(hold.token), || {
            format!("two grants have token {}", hold.token)
        })
    })
}

/// The counter is the largest token ever issued, and stays below 2^53.
///
/// # Errors
/// Names a token above its bound.
pub fn invariant_no_token_exceeds_the_counter(table: &LockTable) -> Result<(), String> {
    let counter = table.token_counter;
    ensure(counter <= Token::MAX, || {
        format!("the counter is {counter}")
    })?;
    let in_bounds = |token: Token| {
        ensure(token <= counter, || {
            format!("token {token} is above the counter {counter}")
        })
    };
    for lease in table.leases.values() {
        lease
            .holds
            .iter()
            .try_for_each(|hold| in_bounds(hold.token))?;
        lease
            .last_grant
            .iter()
            .try_for_each(|grant| in_bounds(grant.token))?;
        let last = lease.last_grant.as_ref().map(|grant| grant.token);
        let is_last = lease.holds.iter().all(|hold| Some(hold.token) <= last);
        ensure(is_last, || {
            "a lease holds under a larger token than its last".to_owned()
        })?;
        for decided in &lease.decided {
            if let Refusal::GrantEnded { token } = decided.refusal {
                in_bounds(token)?;
            }
        }
    }
    table
        .tombstones
        .values()
        .filter_map(|it| it.last_grant.as_ref())
        .try_for_each(|grant| in_bounds(grant.token))
}

/// The head of a queue waits only while something prevents its grant: one of its locks is held, it
/// does not head all its queues, it or its lease is overdue, or tokens ran out.
///
/// # Errors
/// Names a request that should have been granted.
pub fn invariant_no_grantable_request_is_left_waiting(table: &LockTable) -> Result<(), String> {
    table.waits.iter().try_for_each(|(place, wait)| {
        let is_free = |lock: &Lock| lock.holders.is_empty() && lock.queue.front() == Some(place);
        let is_live = !table.is_past(wait.deadline) && table.live_lease(wait.lease).is_some();
        let tokens_left = Token::MAX.0.saturating_sub(table.token_counter.0);
        let is_grantable = is_live
            && wait.locks.iter().all(|request| {
                table
                    .locks
                    .get(&request.lock)
                    .is_none_or(|lock| is_free(lock))
            })
            && tokens_left >= wait.locks.len() as u64;
        ensure(!is_grantable, || {
            format!(
                "{} of {} at {place} could be granted",
                wait.request, wait.lease
            )
        })
    })
}

/// A lock exists exactly while somebody holds it or waits for it.
///
/// # Errors
/// Names a lock without either.
pub fn invariant_a_lock_exists_only_while_held_or_waited_for(
    table: &LockTable,
) -> Result<(), String> {
    table.locks.iter().try_for_each(|(name, lock)| {
        ensure(!lock.holders.is_empty() || !lock.queue.is_empty(), || {
            format!("{name} is neither held nor waited for")
        })
    })
}

/// Every deadline of a lease, wait and tombstone is in the index, and nothing else is.
///
/// # Errors
/// Names a deadline that is only on one side.
pub fn invariant_every_deadline_is_in_the_index_and_nothing_else(
    table: &LockTable,
) -> Result<(), String> {
    let leases = table
        .leases
        .iter()
        .map(|(id, lease)| Due::lease(*id, lease.deadline));
    let waits = table
        .waits
        .iter()
        .map(|(place, wait)| Due::wait(*place, wait.deadline));
    let tombstones = table
        .tombstones
        .iter()
        .map(|(id, tombstone)| Due::tombstone(*id, tombstone.deadline));
    let dues: OrdSet<Due> = leases.chain(waits).chain(tombstones).collect();
    let missing = dues.iter().find(|due| !table.dues.contains(*due));
    ensure(missing.is_none(), || {
        format!("{missing:?} is not in the index")
    })?;
    let extra = table.dues.iter().find(|due| !dues.contains(*due));
    ensure(extra.is_none(), || {
        format!("{extra:?} is in the index only")
    })
}

/// A lease that an acquire made ends when it neither holds nor waits, and knows whether it was ever
/// granted anything.
///
/// # Errors
/// Names a lease that should have ended.
pub fn invariant_a_lease_made_by_an_acquire_holds_or_waits(
    table: &LockTable,
) -> Result<(), String> {
    table.leases.iter().try_for_each(|(id, lease)| {
        let is_used = !lease.holds.is_empty() || !lease.waits.is_empty();
        ensure(lease.origin == Origin::Explicit || is_used, || {
            format!("{id} neither holds nor waits")
        })?;
        let was_granted = lease.last_grant.is_some();
        let agrees = match lease.origin {
            Origin::Explicit => true,
            Origin::Waiting => !was_granted,
            Origin::Granted => was_granted,
        };
        ensure(agrees, || {
            format!(
                "{id} is {:?}, and was granted something: {was_granted}",
                lease.origin
            )
        })
    })
}

/// Events are kept in the order in which they happened; neither they nor any place in a queue come
/// after the last position.
///
/// # Errors
/// Names a position that is out of order.
pub fn invariant_events_are_in_order_and_not_from_the_future(
    table: &LockTable,
) -> Result<(), String> {
    let positions = || table.events.iter().map(|event| event.position);
    ensure(is_strictly_rising(positions()), || {
        "the events are out of order".to_owned()
    })?;
    let last_of_all = table.last_position;
    let places = table.waits.keys().copied();
    let late = positions()
        .chain(places)
        .find(|position| *position > last_of_all);
    ensure(late.is_none(), || {
        format!("{late:?} is after {last_of_all}")
    })
}

/// The settings are valid, and there is no more of anything than they allow; an unfounded state is
/// empty.
///
/// # Errors
/// Names what there is too much of.
pub fn invariant_nothing_exceeds_the_settings(table: &LockTable) -> Result<(), String> {
    let settings = &table.settings;
    settings.validate().map_err(|error| error.to_string())?;
    let at_most = |what: &str, count: usize, max: u64| {
        ensure(count as u64 <= max, || {
            format!("there are {count} {what}, at most {max} are allowed")
        })
    };
    at_most("leases", table.leases.len(), settings.leases_max)?;
    at_most(
        "live and ended leases",
        table.leases.len() + table.tombstones.len(),
        settings.tombstones_max,
    )?;
    at_most("locks", table.locks.len(), settings.locks_max)?;
    at_most("events", table.events.len(), settings.events_max)?;
    table
        .locks
        .values()
        .try_for_each(|lock| at_most("waiters of a lock", lock.queue.len(), settings.queue_max))?;
    for lease in table.leases.values() {
        at_most(
            "locks of a lease",
            lease.holds.len() + lease.waits.len(),
            settings.locks_per_lease_max,
        )?;
        at_most(
            "decided requests of a lease",
            lease.decided.len(),
            settings.decided_max,
        )?;
        let ttls = settings.ttl_min_ms..=settings.ttl_max_ms;
        ensure(ttls.contains(&lease.ttl_ms), || {
            format!("a lease has a TTL of {} ms", lease.ttl_ms)
        })?;
    }
    let is_empty = table.leases.is_empty() && table.waits.is_empty() && table.tombstones.is_empty();
    ensure(table.founding.is_some() || is_empty, || {
        "an unfounded state is not empty".to_owned()
    })
}
