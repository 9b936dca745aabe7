//! What is true of every state between two entries. One function for each promise, named by it.
//!
//! Tests check them after every step; a node can do so at run time. A check walks the whole state
//! and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::decisions::Verdict;
use crate::state::{Due, DueItem, Held, Hold, LockTable, Wait};
use crate::{LeaseId, LockName, Mode, Origin, Position, Settings, Token};

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

/// The checks by name.
macro_rules! checks {
    ($($name:ident: $check:ident,)*) => {
        &[$((stringify!($name), $check as Check)),*]
    };
}

const CHECKS: &[(&str, Check)] = checks![
    an_exclusive_lock_has_one_holder_and_nobody_beside_it: invariant_an_exclusive_lock_has_one_holder_and_nobody_beside_it,
    no_more_permits_are_taken_than_there_are: invariant_no_more_permits_are_taken_than_there_are,
    a_lock_is_of_one_kind_while_it_exists: invariant_a_lock_is_of_one_kind_while_it_exists,
    every_holder_has_a_lease_that_knows_it: invariant_every_holder_has_a_lease_that_knows_it,
    every_waiter_has_a_lease_that_knows_it: invariant_every_waiter_has_a_lease_that_knows_it,
    only_sharers_of_a_lock_have_the_same_token: invariant_only_sharers_of_a_lock_have_the_same_token,
    no_token_exceeds_the_counter: invariant_no_token_exceeds_the_counter,
    no_grantable_request_is_left_waiting: invariant_no_grantable_request_is_left_waiting,
    a_lock_exists_only_while_held_waited_for_or_delayed: invariant_a_lock_exists_only_while_held_waited_for_or_delayed,
    nothing_is_held_while_the_cluster_is_held_back: invariant_nothing_is_held_while_the_cluster_is_held_back,
    every_deadline_is_in_the_index_and_nothing_else: invariant_every_deadline_is_in_the_index_and_nothing_else,
    a_lease_made_by_an_acquire_holds_or_waits: invariant_a_lease_made_by_an_acquire_holds_or_waits,
    events_are_in_order_and_not_from_the_future: invariant_events_are_in_order_and_not_from_the_future,
    nothing_exceeds_what_the_settings_allowed: invariant_nothing_exceeds_what_the_settings_allowed,
];

/// Checks everything; empty when every promise is kept. At most one violation of each.
#[must_use]
pub fn check(table: &LockTable) -> Vec<Violation> {
    let violation = |(invariant, check): (&'static str, Check)| {
        check(table)
            .err()
            .map(|detail| Violation { invariant, detail })
    };
    CHECKS.iter().copied().filter_map(violation).collect()
}

fn ensure(holds: bool, detail: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(detail()) }
}

fn is_strictly_rising<T: Ord>(items: impl IntoIterator<Item = T>) -> bool {
    items.into_iter().is_sorted_by(|a, b| a < b)
}

/// What the leases say that they hold, by lock.
fn holds_by_lock(table: &LockTable) -> BTreeMap<&LockName, Vec<(LeaseId, &Hold)>> {
    let mut by_lock: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (id, lease) in table.leases.iter() {
        for hold in &lease.holds {
            by_lock.entry(&hold.lock).or_default().push((*id, hold));
        }
    }
    by_lock
}

/// Whoever holds a lock exclusively is its only holder.
///
/// # Errors
/// Names a lock that others hold too.
pub fn invariant_an_exclusive_lock_has_one_holder_and_nobody_beside_it(
    table: &LockTable,
) -> Result<(), String> {
    holds_by_lock(table).iter().try_for_each(|(name, holds)| {
        let is_exclusive = |(_, hold): &(LeaseId, &Hold)| hold.mode == Mode::Exclusive;
        let is_alone = holds.len() == 1 || !holds.iter().any(is_exclusive);
        ensure(is_alone, || format!("{name} is held by {holds:?}"))
    })
}

/// The holders of a lock together have no more permits than there are, and each has at least one.
///
/// # Errors
/// Names a lock with too many permits out.
pub fn invariant_no_more_permits_are_taken_than_there_are(table: &LockTable) -> Result<(), String> {
    for (name, holds) in holds_by_lock(table) {
        let mut sum = 0_u64;
        for (id, hold) in &holds {
            if let Mode::Permits { permits, limit } = hold.mode {
                sum += u64::from(permits);
                ensure(permits > 0 && sum <= u64::from(limit), || {
                    format!("{sum} of {limit} permits of {name} are taken, {permits} by {id}")
                })?;
            }
        }
        let used = match table.locks.get(name).map(|lock| &lock.held) {
            Some(Held::Permits { used, .. }) => u64::from(*used),
            _ => 0,
        };
        ensure(used == sum, || {
            format!("{sum} permits of {name} are taken, and {used} counted")
        })?;
    }
    Ok(())
}

/// All who hold a lock and all who wait for it agree on whether it has permits, and on how many.
///
/// # Errors
/// Names a lock about which they do not.
pub fn invariant_a_lock_is_of_one_kind_while_it_exists(table: &LockTable) -> Result<(), String> {
    let held = table.leases.values().flat_map(|lease| &lease.holds);
    let held = held.map(|hold| (&hold.lock, hold.mode));
    let waited = table.waits.values().flat_map(|wait| &wait.locks);
    let waited = waited.map(|request| (&request.lock, request.mode));
    held.chain(waited).try_for_each(|(name, mode)| {
        let lock = table.locks.get(name);
        ensure(lock.is_some_and(|lock| lock.is_of_the_kind(mode)), || {
            format!("{name} is held or waited for with {mode:?}, and is {lock:?}")
        })
    })
}

/// Whoever is named as the holder of a lock is a lease that exists and holds it, and the other way
/// round; a lease keeps what it holds by name.
///
/// # Errors
/// Names a lock and a lease that disagree.
pub fn invariant_every_holder_has_a_lease_that_knows_it(table: &LockTable) -> Result<(), String> {
    for (name, lock) in table.locks.iter() {
        for id in lock.holders() {
            let knows = table
                .leases
                .get(&id)
                .is_some_and(|lease| lease.hold(name).is_some());
            ensure(knows, || {
                format!("{name} names {id}, which does not hold it")
            })?;
        }
    }
    for (id, lease) in table.leases.iter() {
        let names = lease.holds.iter().map(|hold| &hold.lock);
        ensure(is_strictly_rising(names), || {
            format!("the holds of {id} are not in the order of names")
        })?;
        for hold in &lease.holds {
            let knows = table
                .locks
                .get(&hold.lock)
                .is_some_and(|lock| lock.holders().any(|holder| holder == *id));
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
    for (name, lock) in table.locks.iter() {
        for place in lock.queue.keys() {
            let wait = table.waits.get(place);
            let waits = wait.is_some_and(|wait| wait.is_for(name));
            ensure(waits, || format!("nothing waits for {name} at {place}"))?;
        }
    }
    for (place, wait) in table.waits.iter() {
        let names = wait.locks.iter().map(|request| &request.lock);
        ensure(!wait.locks.is_empty() && is_strictly_rising(names), || {
            format!("the request at {place} is for {:?}", wait.locks)
        })?;
        for request in &wait.locks {
            let lock = table.locks.get(&request.lock);
            let queued = lock.is_some_and(|lock| lock.queue.contains_key(place));
            ensure(queued, || {
                format!(
                    "the request at {place} is not in the queue of {}",
                    request.lock
                )
            })?;
        }
        let lease = table.leases.get(&wait.lease);
        let mut waits = lease.iter().flat_map(|lease| &lease.waits);
        let knows = waits.any(|waiting| waiting.is_of(*place, wait));
        ensure(knows, || {
            format!(
                "lease {} does not know that it waits at {place}",
                wait.lease
            )
        })?;
    }
    for (id, lease) in table.leases.iter() {
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
        let held: BTreeSet<_> = lease.holds.iter().map(|hold| &hold.request).collect();
        let mut waiting = BTreeSet::new();
        let mut locks: BTreeSet<_> = lease.holds.iter().map(|hold| &hold.lock).collect();
        for wait in waits {
            let is_new = waiting.insert(&wait.request) && !held.contains(&wait.request);
            ensure(is_new, || {
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

/// Every grant has a token of its own, but for sharers: all sharers of a lock have that of the first
/// of them.
///
/// # Errors
/// Names a token that two have who should not, or a sharer with another.
pub fn invariant_only_sharers_of_a_lock_have_the_same_token(
    table: &LockTable,
) -> Result<(), String> {
    let mut tokens = BTreeSet::new();
    for (name, holds) in holds_by_lock(table) {
        let generation = match table.locks.get(name).map(|lock| &lock.held) {
            Some(Held::Shared { token, .. }) => Some(*token),
            _ => None,
        };
        for (at, (id, hold)) in holds.iter().enumerate() {
            let is_sharer = hold.mode == Mode::Shared;
            ensure(is_sharer == generation.is_some(), || {
                format!("{name} is held by {id} with {:?}", hold.mode)
            })?;
            let is_right = match generation {
                Some(token) => hold.token == token && (at > 0 || tokens.insert(token)),
                None => tokens.insert(hold.token),
            };
            ensure(is_right, || {
                format!("{id} holds {name} with another's token {}", hold.token)
            })?;
        }
    }
    Ok(())
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
        for decided in lease.decided.iter() {
            if let Verdict::Ended { first, more } = &decided.verdict {
                in_bounds(*first)?;
                more.iter().try_for_each(|token| in_bounds(*token))?;
            }
        }
    }
    table
        .tombstones
        .values()
        .filter_map(|it| it.last_grant.as_ref())
        .try_for_each(|grant| in_bounds(grant.token))
}

/// The head of a queue waits only while something prevents its grant: one of its locks has no room
/// for it or a delay, it does not head all its queues, it or its lease is overdue, or tokens ran
/// out.
///
/// # Errors
/// Names a request that should have been granted.
pub fn invariant_no_grantable_request_is_left_waiting(table: &LockTable) -> Result<(), String> {
    let tokens_left = Token::MAX.0.saturating_sub(table.token_counter.0);
    table.waits.iter().try_for_each(|(place, wait)| {
        let can_be_granted =
            table.is_grantable(*place, wait) && tokens_left >= wait.locks.len() as u64;
        ensure(!can_be_granted, || {
            format!(
                "{} of {} at {place} could be granted",
                wait.request, wait.lease
            )
        })
    })
}

/// A lock exists exactly while somebody holds it or waits for it, or its delay runs.
///
/// # Errors
/// Names a lock without any of these.
pub fn invariant_a_lock_exists_only_while_held_waited_for_or_delayed(
    table: &LockTable,
) -> Result<(), String> {
    table.locks.iter().try_for_each(|(name, lock)| {
        ensure(!lock.is_unused(), || {
            format!("{name} is neither held nor waited for, nor delayed")
        })
    })
}

/// After a restore, while nothing is granted: nobody holds anything, and every lock that somebody
/// waits for is delayed until that is over.
///
/// # Errors
/// Names a lock that is held, or could be granted too early.
pub fn invariant_nothing_is_held_while_the_cluster_is_held_back(
    table: &LockTable,
) -> Result<(), String> {
    let Some(until) = table.held_until() else {
        return Ok(());
    };
    table.locks.iter().try_for_each(|(name, lock)| {
        let is_late = lock.delay.is_some_and(|delay| delay.until >= until);
        ensure(
            lock.held == Held::Free && (is_late || lock.queue.is_empty()),
            || format!("nothing is granted until {until}, and {name} is {lock:?}"),
        )
    })
}

/// Every deadline of a lease, wait, lock delay, tombstone and hold is in the index, and nothing else
/// is.
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
    let delays = table
        .locks
        .iter()
        .filter_map(|(name, lock)| Some(Due::delay(name, lock.delay?.until)));
    let hold = table.held_until.map(|until| Due::new(until, DueItem::Hold));
    let dues: BTreeSet<Due> = leases
        .chain(waits)
        .chain(delays)
        .chain(tombstones)
        .chain(hold)
        .collect();
    let missing = dues.iter().find(|due| !table.dues.contains_key(due));
    ensure(missing.is_none(), || {
        format!("{missing:?} is not in the index")
    })?;
    let extra = table.dues.keys().find(|due| !dues.contains(*due));
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
    let forgotten = table.events.forgotten();
    let first = positions().next();
    let is_after = first.is_none_or(|first| first > forgotten) && forgotten <= table.last_position;
    ensure(is_after && is_strictly_rising(positions()), || {
        format!("the events are out of order, or not after {forgotten}")
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

/// The settings are valid, and there is no more of anything than any settings ever allowed; an
/// unfounded state is empty.
///
/// # Errors
/// Names what there is too much of.
pub fn invariant_nothing_exceeds_what_the_settings_allowed(
    table: &LockTable,
) -> Result<(), String> {
    let valid = |settings: &Settings| settings.validate().map_err(|error| error.to_string());
    valid(&table.settings)?;
    let settings = &table.loosest_settings;
    valid(settings)?;
    ensure(*settings == settings.loosest(&table.settings), || {
        "the settings allow more than was ever allowed".to_owned()
    })?;
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
    at_most("events", table.events.len(), table.settings.events_max)?;
    table
        .locks
        .values()
        .try_for_each(|lock| at_most("waiters of a lock", lock.queue.len(), settings.queue_max))?;
    for lease in table.leases.values() {
        at_most(
            "locks of a lease",
            usize::try_from(lease.lock_count()).unwrap_or(usize::MAX),
            settings.locks_per_lease_max,
        )?;
        at_most(
            "decided requests of a lease",
            lease.decided.iter().count(),
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

#[cfg(test)]
mod tests;
