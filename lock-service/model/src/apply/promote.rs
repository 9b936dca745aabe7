//! Steps 2 and 4 of an entry: granting what the queues' heads have waited for.

use super::Transition;
use crate::state::{Hold, LastGrant, Origin, Wait};
use crate::{EventKind, Grant, LockName, Position, Token};

impl Transition<'_> {
    /// Grants every grantable request at the head of a queue that moved, locks by name.
    pub(super) fn promote(&mut self) {
        if self.moved.is_empty() {
            return;
        }
        let mut moved = std::mem::take(&mut self.moved);
        moved.sort_unstable();
        moved.dedup();
        for lock in &moved {
            while let Some(queued_position) = self.grantable_head(lock) {
                let Some(wait) = self.table.take_wait(queued_position) else {
                    break;
                };
                self.grant(wait, queued_position);
            }
        }
    }

    /// The request at the head of this lock's queue, if it can be granted: it and its lease are not
    /// overdue, it heads all its queues, and all its locks are free.
    ///
    /// An overdue head is left for the entry that ends it, which then moves the queue.
    fn grantable_head(&self, lock: &LockName) -> Option<Position> {
        let table = &self.table;
        let head = *table.locks.get(lock)?.queue.front()?;
        let wait = table.waits.get(&head)?;
        let is_free = |lock: &LockName| {
            table
                .locks
                .get(lock)
                .is_none_or(|lock| lock.holders.is_empty() && lock.queue.front() == Some(&head))
        };
        let is_grantable = !table.is_past(wait.deadline)
            && table.live_lease(wait.lease).is_some()
            && wait.locks.iter().all(|request| is_free(&request.lock))
            && self.has_tokens_for(wait.locks.len());
        is_grantable.then_some(head)
    }

    pub(super) fn has_tokens_for(&self, grants: usize) -> bool {
        Token::MAX.0.saturating_sub(self.table.token_counter.0) >= grants as u64
    }

    /// Gives a request its locks: new tokens, and a deadline that is a TTL away.
    pub(super) fn grant(&mut self, wait: Wait, queued_position: Position) -> Vec<Grant> {
        let Wait {
            lease: id,
            request,
            body,
            locks,
            value,
            ..
        } = wait;
        let now = self.table.clock;
        let Some(lease) = self.table.lease_mut(id) else {
            return Vec::new();
        };
        let (ttl_ms, owner) = (lease.ttl_ms, lease.owner.clone());
        let deadline = match lease.origin {
            // It lived for its wait, which may be longer than its TTL.
            Origin::Waiting => now.plus_ms(ttl_ms),
            Origin::Explicit | Origin::Granted => lease.deadline.max(now.plus_ms(ttl_ms)),
        };
        if lease.origin == Origin::Waiting {
            lease.origin = Origin::Granted;
        }
        self.table.set_lease_deadline(id, deadline);
        let mut grants = Vec::with_capacity(locks.len());
        for locked in locks {
            let token = Token(self.table.token_counter.0.saturating_add(1));
            self.table.token_counter = token;
            let (lock, request) = (locked.lock, request.clone());
            let hold = Hold {
                lock: lock.clone(),
                mode: locked.mode,
                token,
                request: request.clone(),
                body,
                granted_at: now,
                queued_position,
                value: value.clone(),
            };
            self.table.put_hold(id, hold);
            if let Some(lease) = self.table.lease_mut(id) {
                lease.last_grant = Some(LastGrant {
                    request: request.clone(),
                    body,
                    token,
                });
            }
            grants.push(Grant {
                lock: lock.clone(),
                token,
            });
            self.event(EventKind::Granted {
                lock,
                lease: id,
                owner: owner.clone(),
                request,
                token,
                queued_position,
                ttl_ms,
                remaining_ms: now.ms_until(deadline),
            });
        }
        grants
    }
}
