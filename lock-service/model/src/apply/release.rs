//! Step 3, giving up: releasing by token, cancelling by request.

use super::Transition;
use crate::state::Decided;
use crate::{
    Cancelled, Grant, LeaseEnd, LeaseId, LockName, Refusal, Released, ReleasedBy, RequestId,
    Response, Token,
};

impl Transition<'_> {
    pub(super) fn release(&mut self, id: LeaseId, tokens: &[Token]) -> Result<Response, Refusal> {
        let (given, max) = (tokens.len() as u64, self.table.settings.locks_per_lease_max);
        if given == 0 || given > max {
            return Err(Refusal::TokenCount { given, max });
        }
        let Some(lease) = self.table.leases.get(&id) else {
            return self.release_after_the_end(id, tokens);
        };
        let mut locks = Vec::with_capacity(tokens.len());
        for &token in tokens {
            match lease.hold_under(token) {
                Some(hold) => locks.push((token, Some(hold.lock.clone()))),
                None if lease.has_given_up(token) => locks.push((token, None)),
                None => return Err(Refusal::TokenStale { token }),
            }
        }
        let mut released = Vec::with_capacity(tokens.len());
        for (token, lock) in locks {
            let was_held =
                lock.is_some_and(|lock| self.give_up(id, &lock, ReleasedBy::Release).is_some());
            released.push(Released { token, was_held });
        }
        self.end_lease_if_unused(id);
        Ok(Response::Released(released))
    }

    /// A release that comes after its lease ended, most often a repeat of the one that ended it.
    fn release_after_the_end(&self, id: LeaseId, tokens: &[Token]) -> Result<Response, Refusal> {
        let last_grant = self
            .table
            .tombstones
            .get(&id)
            .and_then(|tombstone| tombstone.last_grant.as_ref());
        match last_grant {
            Some(grant) if tokens.iter().all(|token| *token == grant.token) => {
                let not_held = |token: &Token| Released {
                    token: *token,
                    was_held: false,
                };
                Ok(Response::Released(tokens.iter().map(not_held).collect()))
            }
            _ => Err(self.no_such_lease(id)),
        }
    }

    /// Ends one hold by its owner's will; its request is decided.
    fn give_up(&mut self, id: LeaseId, lock: &LockName, by: ReleasedBy) -> Option<Grant> {
        let hold = self.table.take_hold(id, lock)?;
        let (lock, token) = (hold.lock, hold.token);
        let refusal = Refusal::GrantEnded { token };
        self.remember(
            id,
            Decided {
                request: hold.request,
                body: Some(hold.body),
                refusal,
            },
        );
        self.moved.push(lock.clone());
        self.event(crate::EventKind::Released {
            lock: lock.clone(),
            lease: id,
            token,
            by,
        });
        Some(Grant { lock, token })
    }

    pub(super) fn cancel(&mut self, id: LeaseId, request: &RequestId) -> Result<Response, Refusal> {
        let Some(lease) = self.table.leases.get(&id) else {
            return self.cancel_without_lease(id, request);
        };
        if let Some(waiting) = lease
            .waits
            .iter()
            .find(|waiting| waiting.request == *request)
        {
            self.end_wait(waiting.queued_position, crate::WaitEnd::Cancelled);
            return Ok(Response::Cancelled(Cancelled::Waiting));
        }
        let held: Vec<LockName> = lease
            .holds
            .iter()
            .filter(|hold| hold.request == *request)
            .map(|hold| hold.lock.clone())
            .collect();
        if !held.is_empty() {
            let released = held
                .iter()
                .filter_map(|lock| self.give_up(id, lock, ReleasedBy::Cancel))
                .collect();
            self.end_lease_if_unused(id);
            return Ok(Response::Cancelled(Cancelled::Granted { released }));
        }
        if lease.decided(request).is_some() {
            return Ok(Response::Cancelled(Cancelled::Decided));
        }
        self.remember(id, cancelled_before(request));
        Ok(Response::Cancelled(Cancelled::Unknown))
    }

    /// A cancel may overtake the acquire that would have made its lease. The tombstone of a lease
    /// that never was then refuses that acquire.
    fn cancel_without_lease(
        &mut self,
        id: LeaseId,
        request: &RequestId,
    ) -> Result<Response, Refusal> {
        if let Some(tombstone) = self.table.tombstones.get(&id) {
            return match tombstone.decided(request) {
                Some(_) => Ok(Response::Cancelled(Cancelled::Decided)),
                None => Err(Refusal::LeaseEnded { how: tombstone.how }),
            };
        }
        self.check_room_for_a_tombstone()?;
        self.bury(
            id,
            LeaseEnd::CancelledBefore,
            None,
            Some(cancelled_before(request)),
        );
        Ok(Response::Cancelled(Cancelled::Unknown))
    }
}

fn cancelled_before(request: &RequestId) -> Decided {
    Decided {
        request: request.clone(),
        body: None,
        refusal: Refusal::Cancelled,
    }
}
