//! The transition function: what an entry does to the state. Never fails and never panics; a
//! command that cannot be done is refused.
//!
//! The four steps of an entry, and where they are: ending what is due (`due`), promoting waiters
//! (`promote`), the command (`acquire`, `release`, `lease`, `admin`), promoting again.

mod acquire;
mod admin;
mod due;
mod lease;
mod promote;
mod release;

use crate::decisions::{Decided, Verdict};
use crate::state::{Delay, DelayReason, LastGrant, LockTable, Origin, Tombstone};
use crate::{
    Command, Entry, Event, EventKind, LeaseEnd, LeaseId, LockName, Outcome, Position, Refusal,
    ReleasedBy, Response, Timestamp, WaitEnd,
};

impl LockTable {
    /// Applies one entry of the log: lets time pass, ends what is due, promotes waiters, runs the
    /// command, promotes again.
    ///
    /// The same entries in the same order give the same state and the same outcomes, on every node,
    /// for ever. An entry whose index is not above that of the last one is
    /// [refused](Refusal::EntryOutOfOrder) without any effect; log indexes start at 1.
    pub fn apply(&mut self, at: Entry, command: &Command) -> Outcome {
        let last = self.last_position;
        if at.index <= last.index {
            let refusal = Refusal::EntryOutOfOrder {
                index: at.index,
                last: last.index,
            };
            let response = Response::Refused(refusal);
            return Outcome {
                position: last,
                response,
                events: Vec::new(),
                more_due: self.is_anything_due(),
            };
        }
        self.clock = self.clock.max(at.now);
        let mut transition = Transition::new(self, at.index);
        transition.end_what_is_due(command);
        transition.promote();
        let position = transition.next_position();
        let response = transition
            .run(command, position)
            .unwrap_or_else(Response::Refused);
        transition.promote();
        transition.finish(position, response)
    }
}

/// One entry on its way into the state.
struct Transition<'a> {
    table: &'a mut LockTable,
    next_position: Position,
    last_position: Position,
    events: Vec<Event>,
    /// Locks that somebody stopped holding or waiting for, whose queue may move. In any order,
    /// possibly more than once.
    moved: Vec<LockName>,
}

impl<'a> Transition<'a> {
    fn new(table: &'a mut LockTable, index: u64) -> Self {
        let first = Position { index, ordinal: 0 };
        Self {
            table,
            next_position: first,
            last_position: first,
            events: Vec::new(),
            moved: Vec::new(),
        }
    }

    fn next_position(&mut self) -> Position {
        self.last_position = self.next_position;
        self.next_position.ordinal = self.next_position.ordinal.saturating_add(1);
        self.last_position
    }

    fn event(&mut self, kind: EventKind) {
        let position = self.next_position();
        self.events.push(Event { position, kind });
    }

    /// Keeps the events in the ring and hands the outcome over.
    fn finish(self, position: Position, response: Response) -> Outcome {
        let Self {
            table,
            events,
            last_position,
            ..
        } = self;
        table.last_position = last_position;
        let events_max = usize::try_from(table.settings.events_max).unwrap_or(usize::MAX);
        for event in &events {
            table.events.push(event.clone());
        }
        while table.events.len() > events_max {
            table.events.pop();
        }
        Outcome {
            position,
            response,
            events,
            more_due: table.is_anything_due(),
        }
    }

    fn run(&mut self, command: &Command, position: Position) -> Result<Response, Refusal> {
        if let Command::Found {
            cluster_id,
            token_floor,
            settings,
            model_version,
        } = command
        {
            return self.found(*cluster_id, *token_floor, settings, *model_version);
        }
        if self.table.founding.is_none() {
            return Err(Refusal::Unfounded);
        }
        match command {
            Command::Found { .. } | Command::Tick => Ok(Response::Ticked),
            Command::OpenLease {
                lease,
                ttl_ms,
                owner,
                metadata,
            } => self.open_lease(*lease, *ttl_ms, owner, metadata),
            Command::Acquire(acquire) => self.acquire(acquire, position),
            Command::Renew { leases } => Ok(self.renew(leases, position)),
            Command::Release { lease, tokens } => self.release(*lease, tokens),
            Command::Cancel { lease, request } => self.cancel(*lease, request),
            Command::Revoke { lease } => self.revoke(*lease),
            Command::Update {
                lease,
                token,
                value,
            } => self.update(*lease, *token, value),
            Command::ForceRelease {
                lock,
                token,
                lease,
                now,
            } => self.force_release(lock, *token, *lease, *now),
            Command::RevokeById { lease, now } => self.revoke_by_id(*lease, *now),
            Command::ChangeSettings { settings } => self.change_settings(settings),
            Command::RaiseModelVersion { model_version } => {
                self.raise_model_version(*model_version)
            }
            Command::Restore {
                cluster_id,
                token_floor,
                hold_ms,
            } => self.restore(*cluster_id, *token_floor, *hold_ms),
        }
    }

    /// Notes that a request of this lease is decided, and forgets the oldest such note.
    fn remember(&mut self, id: LeaseId, decided: Decided) {
        let decided_max = self.table.settings.decided_max;
        if let Some(lease) = self.table.lease_mut(id) {
            lease.decided.push(decided, decided_max);
        }
    }

    /// Takes a wait out of its queues. It must not be a grant.
    fn end_wait(&mut self, queued_position: Position, reason: WaitEnd) {
        let Some(wait) = self.table.take_wait(queued_position) else {
            return;
        };
        let refusal = match reason {
            WaitEnd::TimedOut => Some(Refusal::WaitTimedOut),
            WaitEnd::Cancelled => Some(Refusal::Cancelled),
            // The lease is gone, and with it every memory but its tombstone.
            WaitEnd::LeaseEnded { .. } => None,
        };
        let (lease, request) = (wait.lease, wait.request);
        for locked in wait.locks {
            self.moved.push(locked.lock.clone());
            self.event(EventKind::WaitEnded {
                lock: locked.lock,
                lease,
                request,
                queued_position,
                reason,
            });
        }
        if let Some(refusal) = refusal {
            let decided = Decided {
                request,
                body: Some(wait.body),
                verdict: Verdict::Refused(Box::new(refusal)),
            };
            self.remember(lease, decided);
            self.end_lease_if_unused(lease);
        }
    }

    /// Ends a lease: takes all that it holds from it, ends all its waits, leaves a tombstone. With
    /// `now`, what somebody else ends is not held back.
    ///
    /// The moment at which all that it held is free.
    fn end_lease(&mut self, id: LeaseId, how: LeaseEnd, now: bool) -> Timestamp {
        let mut all_free_at = self.table.clock;
        let Some(lease) = self.table.take_lease(id) else {
            return all_free_at;
        };
        for hold in &lease.holds {
            let (lock, token) = (hold.lock.clone(), hold.token);
            if self.table.unlink_holder(id, &lock, hold.mode) {
                self.moved.push(lock.clone());
            }
            let until = lease.deadline.plus_ms(hold.lock_delay_ms);
            let reason = match how {
                LeaseEnd::Expired => Some(DelayReason::LockDelay),
                LeaseEnd::Forced | LeaseEnd::RevokedById if !now => Some(DelayReason::HeldBack),
                _ => None,
            };
            let delay = reason
                .map(|reason| Delay { until, reason })
                .filter(|delay| !self.table.is_past(delay.until));
            if let Some(delay) = delay {
                self.table.delay_lock(&lock, hold.mode.limit(), delay);
                all_free_at = all_free_at.max(delay.until);
            }
            self.event(match how {
                LeaseEnd::Expired => EventKind::Expired {
                    lock,
                    lease: id,
                    token,
                },
                LeaseEnd::Forced | LeaseEnd::RevokedById | LeaseEnd::Restored => {
                    EventKind::Forced {
                        lock,
                        lease: id,
                        token,
                        how,
                        held_back_until: delay.map_or(self.table.clock, |delay| delay.until),
                    }
                }
                LeaseEnd::Revoked | LeaseEnd::Unused | LeaseEnd::CancelledBefore => {
                    EventKind::Released {
                        lock,
                        lease: id,
                        token,
                        by: ReleasedBy::Revoke,
                    }
                }
            });
        }
        for waiting in &lease.waits {
            self.end_wait(waiting.queued_position, WaitEnd::LeaseEnded { how });
        }
        let is_refused = |decided: &&Decided| matches!(decided.verdict, Verdict::Refused(_));
        let last_refused = lease.decided.iter().rev().find(is_refused).cloned();
        self.bury(id, how, lease.last_grant, last_refused);
        all_free_at
    }

    /// Ends a lease that an acquire made, if it neither holds nor waits any more.
    fn end_lease_if_unused(&mut self, id: LeaseId) {
        let is_unused = self.table.leases.get(&id).is_some_and(|lease| {
            lease.origin != Origin::Explicit && lease.holds.is_empty() && lease.waits.is_empty()
        });
        if is_unused {
            self.end_lease(id, LeaseEnd::Unused, true);
        }
    }

    /// Remembers an ended lease for a while.
    fn bury(
        &mut self,
        id: LeaseId,
        how: LeaseEnd,
        last_grant: Option<LastGrant>,
        last_refused: Option<Decided>,
    ) {
        let deadline = self
            .table
            .clock
            .plus_ms(self.table.settings.tombstone_ttl_ms);
        self.table.put_tombstone(
            id,
            Tombstone {
                deadline,
                how,
                last_grant,
                last_refused,
            },
        );
    }
}
