//! Step 3, leases: making, renewing and ending them.

use super::Transition;
use crate::planted::{ModelBug, is_planted};
use crate::state::{Lease, Origin};
use crate::{
    Field, Grant, LeaseEnd, LeaseId, Limit, LockName, Metadata, Owner, Position, Refusal, Renewal,
    Renewed, Response, Timestamp, Token,
};

impl Transition<'_> {
    pub(super) fn open_lease(
        &mut self,
        id: LeaseId,
        ttl_ms: u64,
        owner: &Owner,
        metadata: &Metadata,
    ) -> Result<Response, Refusal> {
        let now = self.table.clock;
        if let Some(lease) = self.table.leases.get(&id) {
            let is_the_same = lease.origin == Origin::Explicit
                && lease.ttl_ms == ttl_ms
                && lease.owner == *owner
                && lease.metadata == *metadata;
            if !is_the_same {
                return Err(Refusal::LeaseExists);
            }
            return Ok(Response::LeaseOpened {
                ttl_ms,
                remaining_ms: now.ms_until(lease.deadline),
                repeated: true,
            });
        }
        if let Some(tombstone) = self.table.tombstones.get(&id) {
            return Err(Refusal::LeaseEnded { how: tombstone.how });
        }
        let settings = &self.table.settings;
        check_size(
            Field::Metadata,
            metadata.bytes(),
            settings.metadata_max_bytes,
        )?;
        check_size(Field::Owner, owner.bytes(), settings.owner_max_bytes)?;
        self.check_ttl(ttl_ms)?;
        self.check_room_for_a_lease()?;
        let deadline = now.plus_ms(ttl_ms);
        self.make_lease(
            id,
            ttl_ms,
            owner.clone(),
            metadata.clone(),
            deadline,
            Origin::Explicit,
        );
        Ok(Response::LeaseOpened {
            ttl_ms,
            remaining_ms: now.ms_until(deadline),
            repeated: false,
        })
    }

    pub(super) fn make_lease(
        &mut self,
        id: LeaseId,
        ttl_ms: u64,
        owner: Owner,
        metadata: Metadata,
        deadline: Timestamp,
        origin: Origin,
    ) {
        let (holds, waits, decided, last_grant) = Default::default();
        let lease = Lease {
            ttl_ms,
            owner,
            metadata,
            deadline,
            origin,
            holds,
            waits,
            decided,
            last_grant,
        };
        self.table.put_lease(id, lease);
    }

    pub(super) fn check_ttl(&self, given_ms: u64) -> Result<(), Refusal> {
        let (min_ms, max_ms) = (
            self.table.settings.ttl_min_ms,
            self.table.settings.ttl_max_ms,
        );
        if (min_ms..=max_ms).contains(&given_ms) {
            Ok(())
        } else {
            Err(Refusal::TtlOutOfBounds {
                given_ms,
                min_ms,
                max_ms,
            })
        }
    }

    /// A lease needs room to live, and later a tombstone.
    pub(super) fn check_room_for_a_lease(&self) -> Result<(), Refusal> {
        let max = self.table.settings.leases_max;
        if self.table.leases.len() as u64 >= max {
            return Err(Refusal::LimitReached {
                limit: Limit::Leases,
                max,
            });
        }
        self.check_room_for_a_tombstone()
    }

    pub(super) fn check_room_for_a_tombstone(&self) -> Result<(), Refusal> {
        let max = self.table.settings.tombstones_max;
        if (self.table.leases.len() + self.table.tombstones.len()) as u64 >= max {
            return Err(Refusal::LimitReached {
                limit: Limit::Tombstones,
                max,
            });
        }
        Ok(())
    }

    pub(super) fn renew(&mut self, leases: &[LeaseId], first: Position) -> Response {
        let mut renewals = Vec::with_capacity(leases.len());
        for &lease in leases {
            let position = if renewals.is_empty() {
                first
            } else {
                self.next_position()
            };
            renewals.push(Renewal {
                lease,
                position,
                result: self.renew_one(lease),
            });
        }
        Response::Renewed(renewals)
    }

    fn renew_one(&mut self, id: LeaseId) -> Result<Renewed, Refusal> {
        let now = self.table.clock;
        let Some(lease) = self.table.lease_mut(id) else {
            return Err(self.no_such_lease(id));
        };
        let (ttl_ms, before) = (lease.ttl_ms, lease.deadline);
        let deadline = before.max(now.plus_ms(ttl_ms));
        let kept = match is_planted(ModelBug::ExpiryIgnoresRenewal) {
            true => before,
            false => deadline,
        };
        lease.deadline = kept;
        let renewed = Renewed {
            ttl_ms,
            remaining_ms: now.ms_until(deadline),
            holds: grants_of(lease),
            waits: lease.waits.iter().map(|waiting| waiting.request).collect(),
        };
        self.table.move_due(id, before, kept);
        Ok(renewed)
    }

    pub(super) fn revoke(&mut self, id: LeaseId) -> Result<Response, Refusal> {
        if let Some(lease) = self.table.leases.get(&id) {
            let released = grants_of(lease);
            self.end_lease(id, LeaseEnd::Revoked, true);
            return Ok(Response::Revoked {
                was_live: true,
                released,
            });
        }
        if self.table.tombstones.contains_key(&id) {
            return Ok(Response::Revoked {
                was_live: false,
                released: Vec::new(),
            });
        }
        Err(Refusal::LeaseNotFound)
    }

    pub(super) fn force_release(
        &mut self,
        lock: &LockName,
        token: Token,
        id: LeaseId,
        now: bool,
    ) -> Result<Response, Refusal> {
        let Some(lease) = self.table.leases.get(&id) else {
            return Err(self.no_such_lease(id));
        };
        if lease.hold(lock).is_none_or(|hold| hold.token != token) {
            return Err(Refusal::TokenStale { token });
        }
        Ok(self.end_by_another_hand(id, LeaseEnd::Forced, now))
    }

    pub(super) fn revoke_by_id(&mut self, id: LeaseId, now: bool) -> Result<Response, Refusal> {
        let (is_live, is_remembered) = (
            self.table.leases.contains_key(&id),
            self.table.tombstones.contains_key(&id),
        );
        if is_live || is_remembered {
            Ok(self.end_by_another_hand(id, LeaseEnd::RevokedById, now))
        } else {
            Err(Refusal::LeaseNotFound)
        }
    }

    fn end_by_another_hand(&mut self, id: LeaseId, how: LeaseEnd, now: bool) -> Response {
        let released = self.table.leases.get(&id).map(|lease| grants_of(lease));
        let all_free_at = self.end_lease(id, how, now);
        Response::Ended {
            was_live: released.is_some(),
            released: released.unwrap_or_default(),
            held_back_ms: self.table.clock.ms_until(all_free_at),
        }
    }

    /// What to say of a lease that does not live.
    pub(super) fn no_such_lease(&self, id: LeaseId) -> Refusal {
        match self.table.tombstones.get(&id) {
            Some(tombstone) => Refusal::LeaseEnded { how: tombstone.how },
            None => Refusal::LeaseNotFound,
        }
    }
}

pub(super) fn check_size(field: Field, bytes: usize, max_bytes: u64) -> Result<(), Refusal> {
    let bytes = bytes as u64;
    if bytes > max_bytes {
        Err(Refusal::TooLong {
            field,
            bytes,
            max_bytes,
        })
    } else {
        Ok(())
    }
}

fn grants_of(lease: &Lease) -> Vec<Grant> {
    lease.holds.iter().map(Grant::from).collect()
}
