//! Step 3, what a holder does: releasing and updating by token, cancelling by request.

use std::borrow::Cow;

use super::Transition;
use super::lease::check_size;
use crate::decisions::{Decided, Verdict};
use crate::planted::{ModelBug, is_planted};
use crate::state::Hold;
use crate::{
    Cancelled, EventKind, Field, Grant, LeaseEnd, LeaseId, Refusal, Released, ReleasedBy,
    RequestId, Response, Token, Value,
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
        let mut wanted = Cow::Borrowed(tokens);
        if !wanted.is_sorted() {
            wanted.to_mut().sort_unstable();
        }
        let any_token = is_planted(ModelBug::ReleaseWithoutTokenCheck);
        let is_wanted = |hold: &Hold| any_token || wanted.binary_search(&hold.token).is_ok();
        let held = lease.holds.iter().filter(|hold| is_wanted(hold));
        let mut held: Vec<Token> = held.map(|hold| hold.token).collect();
        held.sort_unstable();
        let is_held = |token: &Token| held.binary_search(token).is_ok();
        for &token in tokens {
            if !is_held(&token) && !lease.has_given_up(token) && !any_token {
                return Err(Refusal::TokenStale { token });
            }
        }
        let released = tokens.iter().map(|token| Released {
            token: *token,
            was_held: is_held(token),
        });
        let released = released.collect();
        self.give_up(id, ReleasedBy::Release, is_wanted);
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
            Some(grant) if tokens.iter().all(|token| grant.is_under(*token)) => {
                let not_held = |token: &Token| Released {
                    token: *token,
                    was_held: false,
                };
                Ok(Response::Released(tokens.iter().map(not_held).collect()))
            }
            _ => Err(self.no_such_lease(id)),
        }
    }

    /// Ends some holds by their owner's will, locks by name; their requests are decided.
    fn give_up(
        &mut self,
        id: LeaseId,
        by: ReleasedBy,
        is_wanted: impl Fn(&Hold) -> bool,
    ) -> Vec<Hold> {
        let decided_max = self.table.settings.decided_max;
        let Some(lease) = self.table.lease_mut(id) else {
            return Vec::new();
        };
        let count = lease.holds.iter().filter(|hold| is_wanted(hold)).count();
        let mut holds = Vec::with_capacity(count);
        holds.extend(lease.holds.extract_if(.., |hold| is_wanted(hold)));
        for hold in &holds {
            let Hold { body, token, .. } = *hold;
            lease
                .decided
                .push_ended(hold.request, body, token, decided_max);
        }
        for hold in &holds {
            if self.table.unlink_holder(id, &hold.lock, hold.mode) {
                self.moved.push(hold.lock.clone());
            }
            self.event(EventKind::Released {
                lock: hold.lock.clone(),
                lease: id,
                token: hold.token,
                by,
            });
        }
        holds
    }

    pub(super) fn update(
        &mut self,
        id: LeaseId,
        token: Token,
        value: &Option<Value>,
    ) -> Result<Response, Refusal> {
        if let Some(value) = value {
            let max_bytes = self.table.settings.value_max_bytes;
            check_size(Field::Value, value.bytes(), max_bytes)?;
        }
        let Some(lease) = self.table.lease_mut(id) else {
            return Err(self.no_such_lease(id));
        };
        let hold = lease.holds.iter_mut().find(|hold| hold.token == token);
        let Some(hold) = hold else {
            return Err(Refusal::TokenStale { token });
        };
        hold.value.clone_from(value);
        let lock = hold.lock.clone();
        self.event(EventKind::Updated {
            lock: lock.clone(),
            lease: id,
            token,
        });
        Ok(Response::Updated { lock })
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
        if lease.holds.iter().any(|hold| hold.request == *request) {
            let holds = self.give_up(id, ReleasedBy::Cancel, |hold| hold.request == *request);
            self.end_lease_if_unused(id);
            let released = holds.into_iter().map(Grant::from).collect();
            return Ok(Response::Cancelled(Cancelled::Granted { released }));
        }
        if lease.decided.get(request).is_some() {
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
        request: *request,
        body: None,
        verdict: Verdict::Refused(Box::new(Refusal::Cancelled)),
    }
}
