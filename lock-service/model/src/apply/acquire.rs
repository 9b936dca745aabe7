//! Step 3, acquire: repeats are answered, new requests are granted, queued or refused.
//!
//! A new request is first decided without touching anything, then done; so a refusal that is not
//! to be remembered leaves nothing behind, not even the lease that the acquire would have made.

use super::Transition;
use super::lease::check_size;
use crate::state::{Decided, Lease, Origin, Wait};
use crate::{
    Acquire, EventKind, Field, Grant, Granted, LeaseEnd, Limit, LockHeldReason, LockRequest,
    Metadata, Position, Queued, Refusal, Response, Timestamp,
};

/// What becomes of a new request.
enum Decision {
    Grant,
    Queue,
    /// A refusal that repeats are told as well.
    Refuse(Refusal),
}

impl Transition<'_> {
    pub(super) fn acquire(
        &mut self,
        acquire: &Acquire,
        position: Position,
    ) -> Result<Response, Refusal> {
        if let Some(answer) = self.repeated(acquire)? {
            return Ok(answer);
        }
        let request = self.check_acquire(acquire)?;
        let ttl_ms = self.check_lease(acquire)?;
        match self.decide(acquire, request)? {
            Decision::Grant => Ok(self.grant_at_once(acquire, ttl_ms, position)),
            Decision::Queue => Ok(self.queue(acquire, ttl_ms, position)),
            Decision::Refuse(refusal) => Err(self.refuse(acquire, refusal)),
        }
    }

    /// The answer to a request that was seen before, or whose lease has ended.
    fn repeated(&self, acquire: &Acquire) -> Result<Option<Response>, Refusal> {
        let Some(lease) = self.table.leases.get(&acquire.lease) else {
            let Some(tombstone) = self.table.tombstones.get(&acquire.lease) else {
                return Ok(None);
            };
            return Err(match tombstone.decided(&acquire.request) {
                Some(decided) => answer_decided(acquire, &decided),
                None => Refusal::LeaseEnded { how: tombstone.how },
            });
        };
        // First what has ended: a grant of several locks is over when one of them is.
        if let Some(decided) = lease.decided(&acquire.request) {
            return Err(answer_decided(acquire, decided));
        }
        if let Some(granted) = self.repeated_grant(acquire, lease)? {
            return Ok(Some(granted));
        }
        self.repeated_wait(acquire, lease)
    }

    fn repeated_grant(
        &self,
        acquire: &Acquire,
        lease: &Lease,
    ) -> Result<Option<Response>, Refusal> {
        let mut holds = lease
            .holds
            .iter()
            .filter(|hold| hold.request == acquire.request)
            .peekable();
        let Some(first) = holds.peek() else {
            return Ok(None);
        };
        if first.body != acquire.body {
            return Err(Refusal::RequestMismatch);
        }
        Ok(Some(Response::Granted(Granted {
            queued_position: first.queued_position,
            grants: holds
                .map(|hold| Grant {
                    lock: hold.lock.clone(),
                    token: hold.token,
                })
                .collect(),
            ttl_ms: lease.ttl_ms,
            remaining_ms: self.table.clock.ms_until(lease.deadline),
            repeated: true,
        })))
    }

    fn repeated_wait(&self, acquire: &Acquire, lease: &Lease) -> Result<Option<Response>, Refusal> {
        let Some(waiting) = lease
            .waits
            .iter()
            .find(|waiting| waiting.request == acquire.request)
        else {
            return Ok(None);
        };
        let queued_position = waiting.queued_position;
        let Some(wait) = self.table.waits.get(&queued_position) else {
            return Ok(None);
        };
        if wait.body != acquire.body {
            return Err(Refusal::RequestMismatch);
        }
        Ok(Some(Response::Queued(Queued {
            ahead: self.ahead_of(queued_position, &wait.locks),
            queued_position,
            deadline: wait.deadline,
            remaining_ms: self.table.clock.ms_until(wait.deadline),
            repeated: true,
        })))
    }

    fn ahead_of(&self, queued_position: Position, locks: &[LockRequest]) -> u64 {
        let ahead = |request: &LockRequest| {
            let lock = self.table.locks.get(&request.lock)?;
            lock.queue.binary_search(&queued_position).ok()
        };
        locks.iter().filter_map(ahead).max().unwrap_or(0) as u64
    }

    /// Checks what the request says, and finds its one lock.
    fn check_acquire<'r>(&self, acquire: &'r Acquire) -> Result<&'r LockRequest, Refusal> {
        let settings = &self.table.settings;
        let [request] = acquire.locks.as_slice() else {
            return Err(Refusal::LockCount {
                given: acquire.locks.len() as u64,
            });
        };
        check_size(
            Field::LockName,
            request.lock.bytes(),
            settings.name_max_bytes,
        )?;
        check_size(
            Field::Owner,
            acquire.owner.bytes(),
            settings.owner_max_bytes,
        )?;
        if let Some(value) = &acquire.value {
            check_size(Field::Value, value.bytes(), settings.value_max_bytes)?;
        }
        Ok(request)
    }

    /// Checks that the lease can be used as the request wants, or made. Its TTL.
    fn check_lease(&self, acquire: &Acquire) -> Result<u64, Refusal> {
        let Some(lease) = self.table.leases.get(&acquire.lease) else {
            let ttl_ms = acquire.ttl_ms.unwrap_or(self.table.settings.ttl_default_ms);
            self.check_ttl(ttl_ms)?;
            self.check_room_for_a_lease()?;
            return Ok(ttl_ms);
        };
        match acquire.ttl_ms {
            Some(given_ms) if given_ms != lease.ttl_ms => Err(Refusal::TtlDiffers {
                given_ms,
                fixed_ms: lease.ttl_ms,
            }),
            _ => Ok(lease.ttl_ms),
        }
    }

    fn decide(&self, acquire: &Acquire, request: &LockRequest) -> Result<Decision, Refusal> {
        let settings = &self.table.settings;
        let name = &request.lock;
        let lease = self.table.leases.get(&acquire.lease);
        if let Some(hold) = lease.and_then(|lease| lease.hold(name)) {
            let refusal = Refusal::AlreadyHeld {
                lock: name.clone(),
                token: hold.token,
            };
            return Ok(Decision::Refuse(refusal));
        }
        for waiting in lease.iter().flat_map(|lease| &lease.waits) {
            let Some(wait) = self.table.waits.get(&waiting.queued_position) else {
                continue;
            };
            if wait.locks.iter().any(|waited| waited.lock == *name) {
                let (request, queued_position) = (waiting.request.clone(), waiting.queued_position);
                let refusal = Refusal::AlreadyWaiting {
                    lock: name.clone(),
                    request,
                    queued_position,
                };
                return Ok(Decision::Refuse(refusal));
            }
        }
        let lock = self.table.locks.get(name);
        let queue_length = lock.map_or(0, |lock| lock.queue.len() as u64);
        if let Some(lock) = lock
            && acquire.wait_ms == 0
        {
            let holder = lock
                .holders
                .first()
                .and_then(|id| Some((*id, self.table.leases.get(id)?)));
            let reason = match holder {
                Some((lease, holder)) => LockHeldReason::Held {
                    lease,
                    owner: holder.owner.clone(),
                },
                None => LockHeldReason::Queued,
            };
            return Ok(Decision::Refuse(Refusal::LockHeld {
                lock: name.clone(),
                reason,
                queue_length,
            }));
        }
        let locks_of_lease = lease.map_or(0, |lease| lease.holds.len() + lease.waits.len());
        check_limit(
            Limit::LocksPerLease,
            locks_of_lease as u64,
            settings.locks_per_lease_max,
        )?;
        if lock.is_some() {
            check_limit(Limit::Queue, queue_length, settings.queue_max)?;
            return Ok(Decision::Queue);
        }
        check_limit(
            Limit::Locks,
            self.table.locks.len() as u64,
            settings.locks_max,
        )?;
        if !self.has_tokens_for(acquire.locks.len()) {
            return Err(Refusal::LimitReached {
                limit: Limit::Tokens,
                max: crate::Token::MAX.0,
            });
        }
        Ok(Decision::Grant)
    }

    fn make_lease_for(&mut self, acquire: &Acquire, ttl_ms: u64, deadline: Timestamp) {
        if !self.table.leases.contains_key(&acquire.lease) {
            let owner = acquire.owner.clone();
            self.make_lease(
                acquire.lease,
                ttl_ms,
                owner,
                Metadata::default(),
                deadline,
                Origin::Waiting,
            );
        }
    }

    fn grant_at_once(&mut self, acquire: &Acquire, ttl_ms: u64, position: Position) -> Response {
        let now = self.table.clock;
        self.make_lease_for(acquire, ttl_ms, now.plus_ms(ttl_ms));
        let grants = self.grant(as_wait(acquire, now), position);
        let deadline = self
            .table
            .leases
            .get(&acquire.lease)
            .map_or(now, |lease| lease.deadline);
        let remaining_ms = now.ms_until(deadline);
        Response::Granted(Granted {
            grants,
            ttl_ms,
            remaining_ms,
            queued_position: position,
            repeated: false,
        })
    }

    fn queue(&mut self, acquire: &Acquire, ttl_ms: u64, position: Position) -> Response {
        let now = self.table.clock;
        let deadline = now.plus_ms(acquire.wait_ms.min(self.table.settings.wait_max_ms));
        self.make_lease_for(acquire, ttl_ms, deadline);
        self.table.put_wait(position, as_wait(acquire, deadline));
        let owner = self
            .table
            .leases
            .get(&acquire.lease)
            .map_or(&acquire.owner, |lease| &lease.owner)
            .clone();
        for request in &acquire.locks {
            self.event(EventKind::Queued {
                lock: request.lock.clone(),
                lease: acquire.lease,
                owner: owner.clone(),
                request: acquire.request.clone(),
                queued_position: position,
                deadline,
            });
        }
        Response::Queued(Queued {
            ahead: self.ahead_of(position, &acquire.locks),
            queued_position: position,
            deadline,
            remaining_ms: now.ms_until(deadline),
            repeated: false,
        })
    }

    /// Remembers a refusal, with the lease or (when there is none) by the tombstone of the lease
    /// that was made for this request and ended with it.
    fn refuse(&mut self, acquire: &Acquire, refusal: Refusal) -> Refusal {
        let (request, body) = (acquire.request.clone(), Some(acquire.body));
        let decided = Decided {
            request,
            body,
            refusal: refusal.clone(),
        };
        if self.table.leases.contains_key(&acquire.lease) {
            self.remember(acquire.lease, decided);
        } else {
            self.bury(acquire.lease, LeaseEnd::Unused, None, Some(decided));
        }
        refusal
    }
}

fn answer_decided(acquire: &Acquire, decided: &Decided) -> Refusal {
    if decided.body.is_some_and(|body| body != acquire.body) {
        Refusal::RequestMismatch
    } else {
        decided.refusal.clone()
    }
}

fn check_limit(limit: Limit, count: u64, max: u64) -> Result<(), Refusal> {
    if count >= max {
        Err(Refusal::LimitReached { limit, max })
    } else {
        Ok(())
    }
}

fn as_wait(acquire: &Acquire, deadline: Timestamp) -> Wait {
    Wait {
        lease: acquire.lease,
        request: acquire.request.clone(),
        body: acquire.body,
        locks: acquire.locks.clone(),
        deadline,
        value: acquire.value.clone(),
    }
}
