//! Steps 2 and 4 of an entry: granting what the queues' heads have waited for.

use std::collections::BTreeSet;

use super::Transition;
use crate::planted::{ModelBug, is_planted};
use crate::state::{Hold, LastGrant, Origin, Wait};
use crate::{
    BodyHash, EventKind, Grant, LeaseId, LockName, LockRequest, Position, RequestId, Token, Value,
};

/// A request, as far as its grant goes.
pub(super) struct Ask<'a> {
    pub(super) lease: LeaseId,
    pub(super) request: RequestId,
    pub(super) body: BodyHash,
    /// By name.
    pub(super) locks: &'a [LockRequest],
    pub(super) value: &'a Option<Value>,
    pub(super) lock_delay_ms: u64,
}

impl<'a> Ask<'a> {
    fn of(wait: &'a Wait) -> Self {
        Self {
            lease: wait.lease,
            request: wait.request,
            body: wait.body,
            locks: &wait.locks,
            value: &wait.value,
            lock_delay_ms: wait.lock_delay_ms,
        }
    }
}

impl Transition<'_> {
    /// Grants every grantable request at the head of a queue that moved: time and again the one at
    /// the first lock by name. A grant moves all queues that its request headed.
    pub(super) fn promote(&mut self) {
        if self.moved.is_empty() {
            return;
        }
        let moved = std::mem::take(&mut self.moved);
        // A request that can be granted heads all its queues, so it is found at its first lock.
        let mut candidates: BTreeSet<LockName> = moved
            .iter()
            .filter_map(|lock| self.first_lock_of_head(lock))
            .collect();
        while let Some(lock) = candidates.pop_first() {
            let Some(queued_position) = self.grantable_head(&lock) else {
                continue;
            };
            let Some(wait) = self.table.take_wait(queued_position) else {
                continue;
            };
            self.grant(&Ask::of(&wait), queued_position);
            let moved = wait.locks.iter();
            candidates.extend(moved.filter_map(|it| self.first_lock_of_head(&it.lock)));
        }
    }

    /// The first lock by name that is wanted by the head of this lock's queue.
    fn first_lock_of_head(&self, lock: &LockName) -> Option<LockName> {
        let head = self.table.locks.get(lock)?.head()?;
        let wait = self.table.waits.get(&head)?;
        wait.locks.first().map(|request| request.lock.clone())
    }

    /// The request at the head of this lock's queue, if it can be granted: it and its lease are not
    /// overdue, it heads all its queues, all its locks have room for it, and no delay runs.
    ///
    /// An overdue head is left for the entry that ends it, which then moves the queue.
    fn grantable_head(&self, lock: &LockName) -> Option<Position> {
        if let Some(second) = self.second_in_line(lock) {
            return Some(second);
        }
        let head = self.table.locks.get(lock)?.head()?;
        let wait = self.table.waits.get(&head)?;
        let is_grantable = self.table.is_grantable(head, wait);
        (is_grantable && self.has_tokens_for(wait.locks.len())).then_some(head)
    }

    /// Who waits behind the first, where that is the planted bug.
    fn second_in_line(&self, lock: &LockName) -> Option<Position> {
        if !is_planted(ModelBug::WaiterSkipped) {
            return None;
        }
        let lock = self.table.locks.get(lock)?;
        let (place, ()) = lock.queue.iter().nth(1)?;
        let wait = self.table.waits.get(place)?;
        let [only] = wait.locks.as_slice() else {
            return None;
        };
        let can_be_granted = lock.is_grantable(only.mode)
            && self.table.live_lease(wait.lease).is_some()
            && self.has_tokens_for(1);
        can_be_granted.then_some(*place)
    }

    pub(super) fn has_tokens_for(&self, grants: usize) -> bool {
        Token::MAX.0.saturating_sub(self.table.token_counter.0) >= grants as u64
    }

    /// Gives a request its locks, and its lease a deadline that is a TTL away. What it got, and
    /// how long the lease lives, in milliseconds.
    pub(super) fn grant(&mut self, ask: &Ask<'_>, queued_position: Position) -> (Vec<Grant>, u64) {
        let id = ask.lease;
        let table = &mut *self.table;
        let now = table.clock;
        let Some(lease) = table.leases.get_mut(&id).map(std::sync::Arc::make_mut) else {
            return (Vec::new(), 0);
        };
        let (ttl_ms, owner, before) = (lease.ttl_ms, lease.owner.clone(), lease.deadline);
        let deadline = match lease.origin {
            // It lived for its wait, which may be longer than its TTL.
            Origin::Waiting => now.plus_ms(ttl_ms),
            Origin::Explicit | Origin::Granted => before.max(now.plus_ms(ttl_ms)),
        };
        if lease.origin == Origin::Waiting {
            lease.origin = Origin::Granted;
        }
        lease.deadline = deadline;
        let mut grants = Vec::with_capacity(ask.locks.len());
        if lease.holds.is_empty() {
            // Most leases hold one request's locks and no more.
            lease.holds.reserve_exact(ask.locks.len());
        }
        for LockRequest { lock, mode } in ask.locks {
            let mut token = Token::default();
            table.locks.alter(lock, |lock| {
                token = lock.link(id, *mode, || {
                    table.token_counter.0 = table.token_counter.0.saturating_add(1);
                    table.token_counter
                });
                true
            });
            lease.put_hold(Hold {
                lock: lock.clone(),
                mode: *mode,
                token,
                request: ask.request,
                body: ask.body,
                granted_locks: ask.locks.len() as u64,
                granted_at: now,
                queued_position,
                value: ask.value.clone(),
                lock_delay_ms: ask.lock_delay_ms,
            });
            grants.push(Grant {
                lock: lock.clone(),
                token,
                mode: *mode,
            });
        }
        if let Some((last, others)) = grants.split_last() {
            lease.last_grant = Some(LastGrant {
                request: ask.request,
                body: ask.body,
                token: last.token,
                more: others.iter().map(|grant| grant.token).collect(),
            });
        }
        table.move_due(id, before, deadline);
        let remaining_ms = now.ms_until(deadline);
        for grant in &grants {
            self.event(EventKind::Granted {
                lock: grant.lock.clone(),
                lease: id,
                owner: owner.clone(),
                request: ask.request,
                mode: grant.mode,
                token: grant.token,
                queued_position,
                ttl_ms,
                remaining_ms,
            });
        }
        (grants, remaining_ms)
    }
}
