//! Step 3, acquire: repeats are answered, new requests are granted, queued or refused.
//!
//! A new request is first decided without touching anything, then done; so a refusal that is not
//! to be remembered leaves nothing behind, not even the lease that the acquire would have made.

use std::borrow::Cow;
use std::sync::Arc;

use super::Transition;
use super::lease::check_size;
use super::promote::Ask;
use crate::decisions::{Decided, Verdict};
use crate::state::{Delay, DelayReason, Lease, Origin, Wait};
use crate::{
    Acquire, BodyHash, EventKind, Field, Grant, Granted, LeaseEnd, Limit, LockRequest, Metadata,
    Mode, Position, Queued, Refusal, Response, Timestamp, Token,
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
        let lease = self.table.leases.get(&acquire.lease).map(Arc::as_ref);
        if let Some(answer) = self.repeated(acquire, lease)? {
            return Ok(answer);
        }
        let locks = self.check_acquire(acquire)?;
        let ttl_ms = self.check_lease(acquire, lease)?;
        match self.decide(acquire, &locks, lease)? {
            Decision::Grant => Ok(self.grant_at_once(acquire, &locks, ttl_ms, position)),
            Decision::Queue => Ok(self.queue(acquire, locks.into_owned(), ttl_ms, position)),
            Decision::Refuse(refusal) => Err(self.refuse(acquire, refusal)),
        }
    }

    /// The answer to a request that was seen before, or whose lease has ended.
    fn repeated(
        &self,
        acquire: &Acquire,
        lease: Option<&Lease>,
    ) -> Result<Option<Response>, Refusal> {
        let Some(lease) = lease else {
            let Some(tombstone) = self.table.tombstones.get(&acquire.lease) else {
                return Ok(None);
            };
            return Err(match tombstone.decided(&acquire.request) {
                Some((body, refusal)) => answer_decided(acquire, body, refusal),
                None => Refusal::LeaseEnded { how: tombstone.how },
            });
        };
        // First what has ended: a grant of several locks is over when one of them is.
        if let Some(decided) = lease.decided.get(&acquire.request) {
            return Err(answer_decided(acquire, decided.body, decided.refusal()));
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
        let Some(&first) = holds.peek() else {
            return Ok(None);
        };
        if first.body != acquire.body {
            return Err(Refusal::RequestMismatch);
        }
        let grants: Vec<Grant> = holds.map(Grant::from).collect();
        if (grants.len() as u64) < first.granted_locks {
            // A part of it ended so long ago that this is all that is remembered of it.
            return Err(Refusal::GrantEnded { token: first.token });
        }
        Ok(Some(Response::Granted(Granted {
            queued_position: first.queued_position,
            grants,
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
            Some(lock.queue.rank(&queued_position))
        };
        locks.iter().filter_map(ahead).max().unwrap_or(0) as u64
    }

    /// Checks what the request says. Its locks by name.
    fn check_acquire<'r>(&self, acquire: &'r Acquire) -> Result<Cow<'r, [LockRequest]>, Refusal> {
        let settings = &self.table.settings;
        let (given, max) = (acquire.locks.len() as u64, settings.locks_per_lease_max);
        if given == 0 || given > max {
            return Err(Refusal::LockCount { given, max });
        }
        let mut locks = Cow::Borrowed(acquire.locks.as_slice());
        if !locks.is_sorted_by(|a, b| a.lock < b.lock) {
            locks.to_mut().sort_by(|a, b| a.lock.cmp(&b.lock));
        }
        for pair in locks.windows(2) {
            if let [first, second] = pair
                && first.lock == second.lock
            {
                let lock = first.lock.clone();
                return Err(Refusal::LockNamedTwice { lock });
            }
        }
        for LockRequest { lock, mode } in locks.as_ref() {
            check_size(Field::LockName, lock.bytes(), settings.name_max_bytes)?;
            if let Mode::Permits { permits, limit } = *mode
                && (permits == 0 || permits > limit)
            {
                return Err(Refusal::PermitsOutOfBounds {
                    lock: lock.clone(),
                    permits,
                    limit,
                });
            }
        }
        check_size(
            Field::Owner,
            acquire.owner.bytes(),
            settings.owner_max_bytes,
        )?;
        if let Some(value) = &acquire.value {
            check_size(Field::Value, value.bytes(), settings.value_max_bytes)?;
        }
        let (given_ms, max_ms) = (acquire.lock_delay_ms, settings.lock_delay_max_ms);
        if given_ms > max_ms {
            return Err(Refusal::LockDelayTooLong { given_ms, max_ms });
        }
        Ok(locks)
    }

    /// Checks that the lease can be used as the request wants, or made. Its TTL.
    fn check_lease(&self, acquire: &Acquire, lease: Option<&Lease>) -> Result<u64, Refusal> {
        let Some(lease) = lease else {
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

    fn decide(
        &self,
        acquire: &Acquire,
        locks: &[LockRequest],
        lease: Option<&Lease>,
    ) -> Result<Decision, Refusal> {
        let settings = &self.table.settings;
        let mut held_up_by = None;
        let (mut new_locks, mut longest_queue) = (0_u64, 0_u64);
        for LockRequest { lock: name, mode } in locks {
            if let Some(refusal) = lease.and_then(|lease| self.uses_already(lease, name)) {
                return Ok(Decision::Refuse(refusal));
            }
            let Some(lock) = self.table.locks.get(name) else {
                new_locks = new_locks.saturating_add(1);
                continue;
            };
            if !lock.is_of_the_kind(*mode) {
                return Ok(Decision::Refuse(Refusal::ModeMismatch {
                    lock: name.clone(),
                    existing: lock.limit,
                    wanted: mode.limit(),
                }));
            }
            let queue_length = lock.queue.len() as u64;
            longest_queue = longest_queue.max(queue_length);
            if held_up_by.is_none() {
                held_up_by =
                    lock.obstacle(*mode, None, self.table)
                        .map(|reason| Refusal::LockHeld {
                            lock: name.clone(),
                            reason,
                            queue_length,
                        });
            }
        }
        let held_until = self.table.held_until();
        if acquire.wait_ms == 0 {
            if let Some(until) = held_until {
                let remaining_ms = self.table.clock.ms_until(until);
                return Err(Refusal::HeldBack { remaining_ms });
            }
            if let Some(refusal) = held_up_by {
                return Ok(Decision::Refuse(refusal));
            }
        }
        let locks_of_lease = lease.map_or(0, Lease::lock_count);
        check_limit(
            Limit::LocksPerLease,
            locks_of_lease.saturating_add(locks.len() as u64),
            settings.locks_per_lease_max,
        )?;
        let locks_in_use = self.table.locks.len() as u64;
        if new_locks > 0 {
            check_limit(
                Limit::Locks,
                locks_in_use.saturating_add(new_locks),
                settings.locks_max,
            )?;
        }
        if held_up_by.is_some() || held_until.is_some() {
            let length = longest_queue.saturating_add(1);
            check_limit(Limit::Queue, length, settings.queue_max)?;
            return Ok(Decision::Queue);
        }
        if !self.has_tokens_for(locks.len()) {
            let (limit, max) = (Limit::Tokens, Token::MAX.0);
            return Err(Refusal::LimitReached { limit, max });
        }
        Ok(Decision::Grant)
    }

    /// What the lease is told when it holds the lock already, or waits for it.
    fn uses_already(&self, lease: &Lease, name: &crate::LockName) -> Option<Refusal> {
        if let Some(hold) = lease.hold(name) {
            let (lock, token) = (name.clone(), hold.token);
            return Some(Refusal::AlreadyHeld { lock, token });
        }
        let waits_for_it = |place: &Position| {
            let wait = self.table.waits.get(place);
            wait.is_some_and(|wait| wait.is_for(name))
        };
        let waiting = lease
            .waits
            .iter()
            .find(|waiting| waits_for_it(&waiting.queued_position))?;
        Some(Refusal::AlreadyWaiting {
            lock: name.clone(),
            request: waiting.request,
            queued_position: waiting.queued_position,
        })
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

    fn grant_at_once(
        &mut self,
        acquire: &Acquire,
        locks: &[LockRequest],
        ttl_ms: u64,
        position: Position,
    ) -> Response {
        let now = self.table.clock;
        self.make_lease_for(acquire, ttl_ms, now.plus_ms(ttl_ms));
        let ask = Ask {
            lease: acquire.lease,
            request: acquire.request,
            body: acquire.body,
            locks,
            value: &acquire.value,
            lock_delay_ms: acquire.lock_delay_ms,
        };
        let (grants, remaining_ms) = self.grant(&ask, position);
        Response::Granted(Granted {
            grants,
            ttl_ms,
            remaining_ms,
            queued_position: position,
            repeated: false,
        })
    }

    fn queue(
        &mut self,
        acquire: &Acquire,
        locks: Vec<LockRequest>,
        ttl_ms: u64,
        position: Position,
    ) -> Response {
        let now = self.table.clock;
        let deadline = now.plus_ms(acquire.wait_ms.min(self.table.settings.wait_max_ms));
        self.make_lease_for(acquire, ttl_ms, deadline);
        let wait = Wait {
            lease: acquire.lease,
            request: acquire.request,
            body: acquire.body,
            locks: locks.clone(),
            deadline,
            value: acquire.value.clone(),
            lock_delay_ms: acquire.lock_delay_ms,
        };
        self.table.put_wait(position, wait);
        if let Some(until) = self.table.held_until() {
            // Ends lock by lock, so that it ends under the cap as all delays do.
            let reason = DelayReason::HeldBack;
            for LockRequest { lock, mode } in &locks {
                let delay = Delay { until, reason };
                self.table.delay_lock(lock, mode.limit(), delay);
            }
        }
        let owner = self
            .table
            .leases
            .get(&acquire.lease)
            .map_or(&acquire.owner, |lease| &lease.owner)
            .clone();
        let ahead = self.ahead_of(position, &locks);
        for request in locks {
            self.event(EventKind::Queued {
                lock: request.lock,
                lease: acquire.lease,
                owner: owner.clone(),
                request: acquire.request,
                mode: request.mode,
                queued_position: position,
                deadline,
            });
        }
        Response::Queued(Queued {
            ahead,
            queued_position: position,
            deadline,
            remaining_ms: now.ms_until(deadline),
            repeated: false,
        })
    }

    /// Remembers a refusal, with the lease or (when there is none) by the tombstone of the lease
    /// that was made for this request and ended with it.
    fn refuse(&mut self, acquire: &Acquire, refusal: Refusal) -> Refusal {
        let decided = Decided {
            request: acquire.request,
            body: Some(acquire.body),
            verdict: Verdict::Refused(Box::new(refusal.clone())),
        };
        if self.table.leases.contains_key(&acquire.lease) {
            self.remember(acquire.lease, decided);
        } else {
            self.bury(acquire.lease, LeaseEnd::Unused, None, Some(decided));
        }
        refusal
    }
}

fn answer_decided(acquire: &Acquire, body: Option<BodyHash>, refusal: Refusal) -> Refusal {
    if body.is_some_and(|body| body != acquire.body) {
        Refusal::RequestMismatch
    } else {
        refusal
    }
}

fn check_limit(limit: Limit, count: u64, max: u64) -> Result<(), Refusal> {
    if count > max {
        Err(Refusal::LimitReached { limit, max })
    } else {
        Ok(())
    }
}
