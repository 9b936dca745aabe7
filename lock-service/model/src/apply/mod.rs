//! The transition function: what an entry does to the state. Never fails and never panics; a
//! command that cannot be done is refused.
//!
//! The four steps of an entry, and where they are: ending what is due (`due`), promoting waiters
//! (`promote`), the command (`found` below, `lease`, `acquire`, `release`), promoting again.

mod acquire;
mod due;
mod lease;
mod promote;
mod release;

use crate::state::{Decided, Founding, LockTable, Tombstone};
use crate::{
    ClusterId, Command, Entry, Event, EventKind, LeaseEnd, LeaseId, LockName, ModelVersion,
    Outcome, Position, Refusal, ReleasedBy, Response, Settings, Token, WaitEnd,
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
            table.events.push_back(event.clone());
            if table.events.len() > events_max {
                table.events.pop_front();
            }
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
        }
    }

    fn found(
        &mut self,
        cluster_id: ClusterId,
        token_floor: Token,
        settings: &Settings,
        model_version: ModelVersion,
    ) -> Result<Response, Refusal> {
        if let Some(founding) = self.table.founding {
            return Ok(Response::Founded {
                cluster_id: founding.cluster_id,
                repeated: true,
            });
        }
        settings.validate().map_err(Refusal::InvalidSettings)?;
        if token_floor > Token::MAX {
            return Err(Refusal::TokenFloorTooHigh { given: token_floor });
        }
        self.table.founding = Some(Founding {
            cluster_id,
            model_version,
        });
        self.table.settings = settings.clone();
        self.table.token_counter = token_floor;
        Ok(Response::Founded {
            cluster_id,
            repeated: false,
        })
    }

    /// Notes that a request of this lease is decided, and forgets the oldest such note.
    fn remember(&mut self, id: LeaseId, decided: Decided) {
        let decided_max = usize::try_from(self.table.settings.decided_max).unwrap_or(usize::MAX);
        let Some(lease) = self.table.lease_mut(id) else {
            return;
        };
        lease.decided.push_back(decided);
        while lease.decided.len() > decided_max {
            lease.decided.pop_front();
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
        let (lease, request, body) = (wait.lease, wait.request, wait.body);
        for locked in wait.locks {
            let (lock, request) = (locked.lock, request.clone());
            self.moved.push(lock.clone());
            self.event(EventKind::WaitEnded {
                lock,
                lease,
                request,
                queued_position,
                reason,
            });
        }
        if let Some(refusal) = refusal {
            self.remember(
                lease,
                Decided {
                    request,
                    body: Some(body),
                    refusal,
                },
            );
            self.end_lease_if_unused(lease);
        }
    }

    /// Ends a lease: frees all that it holds, ends all its waits, leaves a tombstone.
    fn end_lease(&mut self, id: LeaseId, how: LeaseEnd) {
        let Some(lease) = self.table.take_lease(id) else {
            return;
        };
        for hold in &lease.holds {
            let (lock, token) = (hold.lock.clone(), hold.token);
            self.table.unlink_holder(id, &lock);
            self.moved.push(lock.clone());
            self.event(match how {
                LeaseEnd::Expired => EventKind::Expired {
                    lock,
                    lease: id,
                    token,
                },
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
        let is_refused =
            |decided: &&Decided| !matches!(decided.refusal, Refusal::GrantEnded { .. });
        let last_refused = lease.decided.iter().rev().find(is_refused).cloned();
        self.bury(id, how, lease.last_grant, last_refused);
    }

    /// Ends a lease that an acquire made, if it neither holds nor waits any more.
    fn end_lease_if_unused(&mut self, id: LeaseId) {
        let is_unused = |lease: &crate::state::Lease| {
            lease.origin != crate::state::Origin::Explicit
                && lease.holds.is_empty()
                && lease.waits.is_empty()
        };
        if self
            .table
            .leases
            .get(&id)
            .is_some_and(|lease| is_unused(lease))
        {
            self.end_lease(id, LeaseEnd::Unused);
        }
    }

    /// Remembers an ended lease for a while.
    fn bury(
        &mut self,
        id: LeaseId,
        how: LeaseEnd,
        last_grant: Option<crate::state::LastGrant>,
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
