//! What must hold between entries: a second look at locks and queues that knows nothing but the
//! events, and the rules on who may end what, and when.

use std::collections::{BTreeMap, BTreeSet};

use lock_model::{
    Command, Entry, Event, EventKind, LeaseId, LeaseView, LockName, LockTable, Mode, Origin,
    Outcome, Position, RequestId, Response, Timestamp, Token, WaitEnd,
};

/// All that happened so far, as far as it matters.
#[derive(Default)]
pub struct History {
    last_position: Position,
    last_token: Token,
    holders: BTreeMap<(LockName, LeaseId), (Mode, Token)>,
    waiters: BTreeMap<(LockName, Position), Waiter>,
    last_place: BTreeMap<LockName, Position>,
    /// Whether every request is remembered for ever, so that none is granted a lock twice.
    pub forgets_nothing: bool,
    granted: BTreeSet<(LeaseId, RequestId, LockName)>,
}

/// A request in a queue, as its event told.
#[derive(Debug, Clone, PartialEq)]
struct Waiter {
    lease: LeaseId,
    request: RequestId,
    mode: Mode,
    deadline: Timestamp,
    /// How many waited before it when it was queued. Each of them can be granted the lock before
    /// it, and nobody else.
    may_pass: usize,
}

fn ensure(holds: bool, detail: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(detail()) }
}

impl History {
    /// Takes one more entry into the history, and checks that it fits.
    pub fn check(
        &mut self,
        before: &LockTable,
        entry: Entry,
        command: &Command,
        outcome: &Outcome,
        after: &LockTable,
    ) -> Result<(), String> {
        ensure(after.clock() == before.clock().max(entry.now), || {
            "the clock went astray".to_owned()
        })?;
        self.check_positions(entry, outcome)?;
        for event in &outcome.events {
            self.check_event(event, before, command, after)?;
        }
        let is_due = after
            .next_deadline()
            .is_some_and(|deadline| deadline <= after.clock());
        ensure(outcome.more_due == is_due, || {
            format!("more_due is {}, but due: {is_due}", outcome.more_due)
        })?;
        if !is_due {
            self.check_that_events_tell_the_state(after)?;
        }
        before
            .leases(None)
            .try_for_each(|lease| check_lease(&lease, command, after))
    }

    /// Every response and event has a position of its own, in the order of what happened.
    fn check_positions(&mut self, entry: Entry, outcome: &Outcome) -> Result<(), String> {
        let mut positions: Vec<Position> =
            outcome.events.iter().map(|event| event.position).collect();
        ensure(positions.is_sorted(), || {
            "events are out of order".to_owned()
        })?;
        match &outcome.response {
            Response::Renewed(renewals) if !renewals.is_empty() => {
                ensure(renewals[0].position == outcome.position, || {
                    "the first answer is elsewhere".to_owned()
                })?;
                positions.extend(renewals.iter().map(|renewal| renewal.position));
            }
            _ => positions.push(outcome.position),
        }
        positions.sort_unstable();
        for (ordinal, position) in (0..).zip(&positions) {
            let expected = Position {
                index: entry.index,
                ordinal,
            };
            ensure(*position == expected, || {
                format!("something is at {position} that should be at {expected}")
            })?;
            ensure(*position > self.last_position, || {
                format!("{position} is not after {}", self.last_position)
            })?;
            self.last_position = *position;
        }
        Ok(())
    }

    fn check_event(
        &mut self,
        event: &Event,
        before: &LockTable,
        command: &Command,
        after: &LockTable,
    ) -> Result<(), String> {
        let fail = |what: &str| format!("{what}: {event:?}");
        match &event.kind {
            EventKind::Queued {
                lock,
                lease,
                request,
                mode,
                queued_position,
                deadline,
                ..
            } => {
                let waiter = Waiter {
                    lease: *lease,
                    request: *request,
                    mode: *mode,
                    deadline: *deadline,
                    may_pass: self.queue(lock).count(),
                };
                let is_new = self
                    .waiters
                    .insert((lock.clone(), *queued_position), waiter)
                    .is_none();
                ensure(is_new, || fail("a place was taken twice"))
            }
            EventKind::Granted {
                lock,
                lease,
                request,
                mode,
                token,
                queued_position,
                ttl_ms,
                remaining_ms,
                ..
            } => {
                let generation = self
                    .check_that_it_fits(lock, *mode)
                    .map_err(|it| fail(&it))?;
                match generation {
                    Some(shared) => ensure(*token == shared, || fail("sharers differ"))?,
                    None => ensure(*token > self.last_token, || fail("a token did not rise"))?,
                }
                self.last_token = self.last_token.max(*token);
                let last = self.last_place.insert(lock.clone(), *queued_position);
                ensure(last < Some(*queued_position), || {
                    fail("the queue was overtaken")
                })?;
                let waited = self.waiters.remove(&(lock.clone(), *queued_position));
                if let Some(waited) = waited {
                    let is_same = waited.lease == *lease
                        && waited.request == *request
                        && waited.mode == *mode;
                    ensure(is_same, || fail("another request got the place"))?;
                    ensure(waited.deadline > after.clock(), || {
                        fail("a wait was granted at its end")
                    })?;
                }
                let ahead = self.queue(lock).next();
                let is_first = ahead.is_none_or(|(place, _)| place > *queued_position);
                ensure(is_first, || fail("somebody waits before"))?;
                for (_, waiter) in self.queue_mut(lock) {
                    let left = waiter.may_pass.checked_sub(1);
                    waiter.may_pass = left.ok_or_else(|| fail("a waiter is starved"))?;
                }
                self.holders.insert((lock.clone(), *lease), (*mode, *token));
                ensure(remaining_ms >= ttl_ms, || fail("less than a TTL remains"))?;
                let is_new = self.granted.insert((*lease, *request, lock.clone()));
                ensure(is_new || !self.forgets_nothing, || fail("granted twice"))
            }
            EventKind::WaitEnded {
                lock,
                lease,
                request,
                queued_position,
                reason,
            } => {
                let waited = self.waiters.remove(&(lock.clone(), *queued_position));
                let waited = waited.filter(|it| it.lease == *lease && it.request == *request);
                let Some(waited) = waited else {
                    return Err(fail("who did not wait stopped waiting"));
                };
                let is_over = waited.deadline <= after.clock();
                ensure(is_over || *reason != WaitEnd::TimedOut, || {
                    fail("a wait timed out too early")
                })
            }
            EventKind::Released {
                lock, lease, token, ..
            } => {
                self.stop_holding(lock, *lease, *token)
                    .map_err(|it| fail(&it))?;
                ensure(names(command, *lease), || fail("somebody else released"))
            }
            EventKind::Expired { lock, lease, token } => {
                self.stop_holding(lock, *lease, *token)
                    .map_err(|it| fail(&it))?;
                let was_live = before
                    .lease(*lease)
                    .is_some_and(|lease| lease.deadline > after.clock());
                ensure(!was_live, || fail("a lease expired before its deadline"))
            }
            EventKind::Forced {
                lock, lease, token, ..
            } => {
                self.stop_holding(lock, *lease, *token)
                    .map_err(|it| fail(&it))?;
                ensure(forces(command, *lease), || fail("nobody forced that"))
            }
            EventKind::Updated { lock, lease, token } => {
                let held = self.holders.get(&(lock.clone(), *lease));
                let holds = held.is_some_and(|(_, held)| held == token);
                ensure(holds && names(command, *lease), || {
                    fail("who did not hold updated")
                })
            }
        }
    }

    fn queue(&self, lock: &LockName) -> impl Iterator<Item = (Position, &Waiter)> {
        self.waiters
            .range((lock.clone(), Position::default())..)
            .take_while(move |((name, _), _)| name == lock)
            .map(|((_, place), waiter)| (*place, waiter))
    }

    fn queue_mut(&mut self, lock: &LockName) -> impl Iterator<Item = (Position, &mut Waiter)> {
        self.waiters
            .range_mut((lock.clone(), Position::default())..)
            .take_while(move |((name, _), _)| name == lock)
            .map(|((_, place), waiter)| (*place, waiter))
    }

    /// Whether the lock's holders leave room; the token of the sharers that it joins.
    fn check_that_it_fits(&self, lock: &LockName, mode: Mode) -> Result<Option<Token>, String> {
        let holders: Vec<(Mode, Token)> = self
            .holders
            .range((lock.clone(), LeaseId([0; 16]))..)
            .take_while(|((name, _), _)| name == lock)
            .map(|(_, held)| *held)
            .collect();
        let fits = |(other, _): &(Mode, Token)| match (mode, *other) {
            (Mode::Shared, Mode::Shared) => true,
            (Mode::Permits { limit, .. }, Mode::Permits { limit: other, .. }) => limit == other,
            _ => false,
        };
        let taken = |mode: Mode| match mode {
            Mode::Permits { permits, .. } => u64::from(permits),
            _ => 0,
        };
        let sum = taken(mode) + holders.iter().map(|(mode, _)| taken(*mode)).sum::<u64>();
        let limit = mode.limit().map_or(0, u64::from);
        ensure(holders.iter().all(fits) && sum <= limit, || {
            format!("no room beside {holders:?}")
        })?;
        Ok(holders
            .first()
            .filter(|_| mode == Mode::Shared)
            .map(|(_, token)| *token))
    }

    fn stop_holding(&mut self, lock: &LockName, id: LeaseId, token: Token) -> Result<(), String> {
        let held = self.holders.remove(&(lock.clone(), id));
        ensure(held.is_some_and(|(_, held)| held == token), || {
            "who did not hold stopped holding".to_owned()
        })
    }

    fn check_that_events_tell_the_state(&self, table: &LockTable) -> Result<(), String> {
        let mut holders = BTreeMap::new();
        let mut waiters = BTreeMap::new();
        for lock in table.locks("", None) {
            let name = lock.lock;
            holders.extend(
                lock.holders
                    .into_iter()
                    .map(|it| ((name.clone(), it.lease), (it.mode, it.token))),
            );
            waiters.extend(lock.queue.into_iter().map(|it| {
                let key = (name.clone(), it.queued_position);
                let waiter = Waiter {
                    lease: it.lease,
                    request: it.request,
                    mode: it.mode,
                    deadline: it.deadline,
                    may_pass: self.waiters.get(&key).map_or(0, |waiter| waiter.may_pass),
                };
                (key, waiter)
            }));
        }
        ensure(holders == self.holders, || {
            format!("held {holders:?}, by the events {:?}", self.holders)
        })?;
        ensure(waiters == self.waiters, || {
            format!("waiting {waiters:?}, by the events {:?}", self.waiters)
        })
    }
}

/// Whether a command speaks for this lease: has its secret, to give something up.
fn names(command: &Command, id: LeaseId) -> bool {
    match command {
        Command::Release { lease, .. }
        | Command::Cancel { lease, .. }
        | Command::Update { lease, .. }
        | Command::Revoke { lease } => *lease == id,
        _ => false,
    }
}

/// Whether a command ends this lease by another hand.
fn forces(command: &Command, id: LeaseId) -> bool {
    match command {
        Command::ForceRelease { lease, .. } | Command::RevokeById { lease, .. } => *lease == id,
        Command::Restore { .. } => true,
        _ => false,
    }
}

/// What may become of a lease that lived before the entry.
fn check_lease(lease: &LeaseView, command: &Command, after: &LockTable) -> Result<(), String> {
    let id = lease.lease;
    let fail = |what: &str| format!("{what}: {lease:?}");
    let Some(now) = after.lease(id) else {
        let is_past = lease.deadline <= after.clock();
        let is_revoked =
            matches!(command, Command::Revoke { lease } if *lease == id) || forces(command, id);
        let stopped_waiting = lease
            .waits
            .iter()
            .all(|wait| wait.deadline <= after.clock())
            && lease.holds.is_empty();
        let is_unused = lease.origin != Origin::Explicit && (names(command, id) || stopped_waiting);
        return ensure(is_past || is_revoked || is_unused, || {
            fail("a lease ended before its deadline")
        });
    };
    let is_alive = lease.deadline > after.clock();
    ensure(is_alive, || fail("a lease came back from the dead"))?;
    ensure(
        now.ttl_ms == lease.ttl_ms && now.owner == lease.owner,
        || fail("a lease changed its words"),
    )?;
    let first_grant = lease.origin == Origin::Waiting && now.origin == Origin::Granted;
    let expected = after.clock().plus_ms(lease.ttl_ms);
    let is_right = if first_grant {
        now.deadline == expected
    } else {
        now.deadline >= lease.deadline
    };
    ensure(is_right, || fail("a deadline fell"))?;
    ensure(
        now.deadline == lease.deadline || now.deadline == expected,
        || fail("a deadline moved oddly"),
    )?;
    for hold in &lease.holds {
        let is_held = now.holds.contains(hold);
        ensure(is_held || names(command, id), || {
            fail("a live lease lost a lock")
        })?;
    }
    for wait in &lease.waits {
        let still =
            now.waits.contains(wait) || wait.deadline <= after.clock() || names(command, id);
        let granted = wait
            .locks
            .iter()
            .all(|lock| now.holds.iter().any(|hold| hold.lock == lock.lock));
        ensure(still || granted, || fail("a live lease lost its place"))?;
    }
    Ok(())
}
