//! The state and its indexes. The methods here keep the indexes in step with what they index and
//! decide nothing: all rules are in `apply`.
//!
//! Everything is a persistent tree, so that a frozen copy for a snapshot costs nothing, and what
//! the trees hold is behind an `Arc`, so that moving tree nodes and copying them after a freeze
//! stays cheap however large a lease is.

use std::collections::VecDeque;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use serde::{Deserialize, Serialize};

use crate::{
    BodyHash, ClusterId, Event, LeaseEnd, LeaseId, LockName, LockRequest, Metadata, Mode,
    ModelVersion, Owner, Position, Refusal, RequestId, Settings, Timestamp, Token, Value,
};

/// The whole state of the lock service: what every node has the same copy of.
///
/// A new one is unfounded, empty, and refuses everything but `Found`. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct LockTable {
    pub(crate) founding: Option<Founding>,
    /// The defaults until the state is founded.
    pub(crate) settings: Settings,
    pub(crate) clock: Timestamp,
    /// The last token issued, or the floor while there is none.
    pub(crate) token_counter: Token,
    /// The last position given to a response or an event.
    pub(crate) last_position: Position,
    /// Live leases, and overdue ones that wait to be reaped.
    pub(crate) leases: OrdMap<LeaseId, Arc<Lease>>,
    /// Requests that wait, by the position at which they were queued: their place in every queue.
    pub(crate) waits: OrdMap<Position, Arc<Wait>>,
    pub(crate) tombstones: OrdMap<LeaseId, Arc<Tombstone>>,
    pub(crate) events: Vector<Event>,
    /// Derived from `leases` and `waits`: the locks that exist.
    pub(crate) locks: OrdMap<LockName, Arc<Lock>>,
    /// Derived from `leases`, `waits` and `tombstones`: every deadline, earliest first.
    pub(crate) dues: OrdSet<Due>,
}

/// What a founded state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Founding {
    pub(crate) cluster_id: ClusterId,
    pub(crate) model_version: ModelVersion,
}

/// How a lease came to be, which decides what ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// By `OpenLease`. Lives by its deadline alone.
    Explicit,
    /// On the fly, by an acquire; never granted anything yet. Ends when it stops waiting.
    Waiting,
    /// On the fly, by an acquire; was granted something. Ends when it neither holds nor waits.
    Granted,
}

/// A lease that has not ended (but may be overdue).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) ttl_ms: u64,
    pub(crate) owner: Owner,
    pub(crate) metadata: Metadata,
    pub(crate) deadline: Timestamp,
    pub(crate) origin: Origin,
    /// By lock name.
    pub(crate) holds: Vec<Hold>,
    /// In the order of queueing. The rest of a wait is in `LockTable::waits`.
    pub(crate) waits: Vec<WaitingRequest>,
    /// The last decided requests, oldest first.
    pub(crate) decided: VecDeque<Decided>,
    pub(crate) last_grant: Option<LastGrant>,
}

/// A lock in the hands of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hold {
    pub(crate) lock: LockName,
    pub(crate) mode: Mode,
    pub(crate) token: Token,
    pub(crate) request: RequestId,
    pub(crate) body: BodyHash,
    pub(crate) granted_at: Timestamp,
    pub(crate) queued_position: Position,
    pub(crate) value: Option<Value>,
}

/// A lease's own note of a request that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitingRequest {
    pub(crate) request: RequestId,
    pub(crate) queued_position: Position,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wait {
    pub(crate) lease: LeaseId,
    pub(crate) request: RequestId,
    pub(crate) body: BodyHash,
    pub(crate) locks: Vec<LockRequest>,
    pub(crate) deadline: Timestamp,
    pub(crate) value: Option<Value>,
}

/// A request that neither holds nor waits any more, and what a repeat of it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decided {
    pub(crate) request: RequestId,
    /// `None` for a request that was cancelled before it arrived.
    pub(crate) body: Option<BodyHash>,
    pub(crate) refusal: Refusal,
}

/// The grant with the largest token that a lease ever had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastGrant {
    pub(crate) request: RequestId,
    pub(crate) body: BodyHash,
    pub(crate) token: Token,
}

/// What is remembered of an ended lease, so that repeats are answered and have no second effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    /// When it is forgotten.
    pub(crate) deadline: Timestamp,
    pub(crate) how: LeaseEnd,
    pub(crate) last_grant: Option<LastGrant>,
    /// The last request that was decided otherwise than by the end of its grant.
    pub(crate) last_refused: Option<Decided>,
}

/// A lock that exists: somebody holds it or waits for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) holders: Vec<LeaseId>,
    /// First come, first served: positions only rise.
    pub(crate) queue: VecDeque<Position>,
}

/// A deadline in the index. Ordered as what is due is ended: by time, at the same time waits (by
/// place) before leases (by id) before tombstones (by id), so that a request whose lease lives
/// exactly as long as its wait times out rather than losing its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    pub(crate) at: Timestamp,
    pub(crate) what: DueItem,
}

/// What a deadline ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DueItem {
    Wait(Position),
    Lease(LeaseId),
    Tombstone(LeaseId),
}

impl Due {
    pub(crate) fn wait(queued_position: Position, deadline: Timestamp) -> Self {
        Self {
            at: deadline,
            what: DueItem::Wait(queued_position),
        }
    }

    pub(crate) fn lease(id: LeaseId, deadline: Timestamp) -> Self {
        Self {
            at: deadline,
            what: DueItem::Lease(id),
        }
    }

    pub(crate) fn tombstone(id: LeaseId, deadline: Timestamp) -> Self {
        Self {
            at: deadline,
            what: DueItem::Tombstone(id),
        }
    }
}

impl Lease {
    pub(crate) fn hold(&self, lock: &LockName) -> Option<&Hold> {
        let at = self
            .holds
            .binary_search_by(|hold| hold.lock.cmp(lock))
            .ok()?;
        self.holds.get(at)
    }

    pub(crate) fn hold_under(&self, token: Token) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.token == token)
    }

    pub(crate) fn decided(&self, request: &RequestId) -> Option<&Decided> {
        self.decided
            .iter()
            .rev()
            .find(|decided| decided.request == *request)
    }

    /// Whether it once held under `token` and does not any more, as far as it remembers.
    pub(crate) fn has_given_up(&self, token: Token) -> bool {
        let ended = |decided: &Decided| decided.refusal == Refusal::GrantEnded { token };
        self.hold_under(token).is_none()
            && (self
                .last_grant
                .as_ref()
                .is_some_and(|grant| grant.token == token)
                || self.decided.iter().any(ended))
    }
}

impl Tombstone {
    /// What is remembered about `request`: its body, and what a repeat is told.
    pub(crate) fn decided(&self, request: &RequestId) -> Option<Decided> {
        if let Some(grant) = self
            .last_grant
            .as_ref()
            .filter(|grant| grant.request == *request)
        {
            let refusal = Refusal::GrantEnded { token: grant.token };
            return Some(Decided {
                request: grant.request.clone(),
                body: Some(grant.body),
                refusal,
            });
        }
        self.last_refused
            .clone()
            .filter(|decided| decided.request == *request)
    }
}

impl Lock {
    fn is_unused(&self) -> bool {
        self.holders.is_empty() && self.queue.is_empty()
    }
}

impl LockTable {
    /// An unfounded, empty state.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn is_past(&self, deadline: Timestamp) -> bool {
        deadline <= self.clock
    }

    /// The lease, if it is live: its deadline is ahead.
    pub(crate) fn live_lease(&self, id: LeaseId) -> Option<&Lease> {
        self.leases
            .get(&id)
            .map(Arc::as_ref)
            .filter(|lease| !self.is_past(lease.deadline))
    }

    pub(crate) fn lease_mut(&mut self, id: LeaseId) -> Option<&mut Lease> {
        self.leases.get_mut(&id).map(Arc::make_mut)
    }

    pub(crate) fn put_lease(&mut self, id: LeaseId, lease: Lease) {
        self.dues.insert(Due::lease(id, lease.deadline));
        self.leases.insert(id, Arc::new(lease));
    }

    /// Removes the lease alone; its holds and waits stay linked to their locks.
    pub(crate) fn take_lease(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = Arc::unwrap_or_clone(self.leases.remove(&id)?);
        self.dues.remove(&Due::lease(id, lease.deadline));
        Some(lease)
    }

    pub(crate) fn set_lease_deadline(&mut self, id: LeaseId, deadline: Timestamp) {
        let Some(lease) = self.lease_mut(id) else {
            return;
        };
        let before = std::mem::replace(&mut lease.deadline, deadline);
        if before != deadline {
            self.dues.remove(&Due::lease(id, before));
            self.dues.insert(Due::lease(id, deadline));
        }
    }

    pub(crate) fn put_tombstone(&mut self, id: LeaseId, tombstone: Tombstone) {
        self.dues.insert(Due::tombstone(id, tombstone.deadline));
        self.tombstones.insert(id, Arc::new(tombstone));
    }

    pub(crate) fn remove_tombstone(&mut self, id: LeaseId) {
        if let Some(tombstone) = self.tombstones.remove(&id) {
            self.dues.remove(&Due::tombstone(id, tombstone.deadline));
        }
    }

    pub(crate) fn put_hold(&mut self, id: LeaseId, hold: Hold) {
        Arc::make_mut(self.locks.entry(hold.lock.clone()).or_default())
            .holders
            .push(id);
        if let Some(lease) = self.lease_mut(id) {
            let at = lease.holds.partition_point(|other| other.lock < hold.lock);
            lease.holds.insert(at, hold);
        }
    }

    pub(crate) fn take_hold(&mut self, id: LeaseId, lock: &LockName) -> Option<Hold> {
        let lease = self.lease_mut(id)?;
        let at = lease
            .holds
            .binary_search_by(|hold| hold.lock.cmp(lock))
            .ok()?;
        let hold = lease.holds.remove(at);
        self.unlink_holder(id, lock);
        Some(hold)
    }

    /// Takes the lease out of the lock's holders; the lease keeps its hold.
    pub(crate) fn unlink_holder(&mut self, id: LeaseId, lock: &LockName) {
        self.change_lock(lock, |lock| lock.holders.retain(|holder| *holder != id));
    }

    pub(crate) fn put_wait(&mut self, queued_position: Position, wait: Wait) {
        for LockRequest { lock, .. } in &wait.locks {
            Arc::make_mut(self.locks.entry(lock.clone()).or_default())
                .queue
                .push_back(queued_position);
        }
        self.dues.insert(Due::wait(queued_position, wait.deadline));
        if let Some(lease) = self.lease_mut(wait.lease) {
            lease.waits.push(WaitingRequest {
                request: wait.request.clone(),
                queued_position,
            });
        }
        self.waits.insert(queued_position, Arc::new(wait));
    }

    /// Removes the wait from the queues, from the index and (if it still exists) from its lease.
    pub(crate) fn take_wait(&mut self, queued_position: Position) -> Option<Wait> {
        let wait = Arc::unwrap_or_clone(self.waits.remove(&queued_position)?);
        self.dues.remove(&Due::wait(queued_position, wait.deadline));
        for LockRequest { lock, .. } in &wait.locks {
            self.change_lock(lock, |lock| {
                if let Ok(at) = lock.queue.binary_search(&queued_position) {
                    lock.queue.remove(at);
                }
            });
        }
        if let Some(lease) = self.lease_mut(wait.lease) {
            lease
                .waits
                .retain(|waiting| waiting.queued_position != queued_position);
        }
        Some(wait)
    }

    fn change_lock(&mut self, name: &LockName, change: impl FnOnce(&mut Lock)) {
        let Some(lock) = self.locks.get_mut(name) else {
            return;
        };
        let lock = Arc::make_mut(lock);
        change(lock);
        if lock.is_unused() {
            self.locks.remove(name);
        }
    }
}
