//! Looking at the state: locks, leases, tokens, deadlines. Never changes anything, and never shows
//! what is overdue as if it lived.

use std::sync::Arc;

use crate::state::{DelayReason, Held, Hold, Lease, Lock, LockTable, Wait};
use crate::{
    ClusterId, Event, Grant, LeaseId, LockHeldReason, LockName, LockRequest, Metadata, Mode,
    ModelVersion, Origin, Owner, Position, RequestId, Settings, Timestamp, Token, Value,
};

/// A lock that somebody holds or waits for, or whose delay runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockView {
    /// Its name.
    pub lock: LockName,
    /// How many permits it has; `None` for a lock that is held exclusively or shared.
    pub limit: Option<u32>,
    /// Who holds it, by lease id; for an exclusive lock at most one.
    pub holders: Vec<HolderView>,
    /// Who waits for it, first in line first.
    pub queue: Vec<WaiterView>,
    /// Why it cannot be granted to anybody for a while.
    pub delay: Option<DelayView>,
    /// Why the first in line waits.
    pub first_waits_for: Option<ObstacleView>,
}

/// A lock that cannot be granted to anybody for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DelayView {
    /// Until when, in cluster time.
    pub until: Timestamp,
    /// Whether it is held back, because its last holder's lease was ended by somebody else's hand
    /// or the cluster was restored. Otherwise its last holder expired and had asked for a delay.
    pub is_held_back: bool,
}

/// What keeps a request from being granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObstacleView {
    /// The lock that it cannot have: the first by name, when the request is for several.
    pub lock: LockName,
    /// Why it cannot have it. [`LockHeldReason::Queued`] for a lock where others wait before it, or
    /// where it could be granted as soon as something overdue has been ended.
    pub reason: LockHeldReason,
}

/// A holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderView {
    /// Its lease.
    pub lease: LeaseId,
    /// Who took that lease.
    pub owner: Owner,
    /// How the lock is held.
    pub mode: Mode,
    /// The fencing token.
    pub token: Token,
    /// What the holder publishes.
    pub value: Option<Value>,
    /// When the lock was granted, in cluster time.
    pub granted_at: Timestamp,
    /// When the lease ends unless it is renewed, in cluster time.
    pub deadline: Timestamp,
}

/// A request in the queue of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaiterView {
    /// Its lease.
    pub lease: LeaseId,
    /// Who took that lease.
    pub owner: Owner,
    /// The request.
    pub request: RequestId,
    /// How the lock is to be held.
    pub mode: Mode,
    /// Where it entered the queue.
    pub queued_position: Position,
    /// Until when it waits, in cluster time.
    pub deadline: Timestamp,
}

/// A live lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// Its id.
    pub lease: LeaseId,
    /// Its TTL, in milliseconds.
    pub ttl_ms: u64,
    /// Who took it.
    pub owner: Owner,
    /// What else its maker said about it.
    pub metadata: Metadata,
    /// How it came to be.
    pub origin: Origin,
    /// When it ends unless it is renewed, in cluster time.
    pub deadline: Timestamp,
    /// What it holds, locks by name.
    pub holds: Vec<Grant>,
    /// What it waits for, in the order of queueing.
    pub waits: Vec<WaitView>,
}

/// A request of a lease that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitView {
    /// The request.
    pub request: RequestId,
    /// Its locks, and how they are to be held.
    pub locks: Vec<LockRequest>,
    /// Where it entered the queue.
    pub queued_position: Position,
    /// Until when it waits, in cluster time.
    pub deadline: Timestamp,
}

/// A place in the queue of a lock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueuePlace {
    /// How many wait before it.
    pub ahead: u64,
    /// How many wait at all.
    pub length: u64,
}

/// What a fencing token is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fence {
    /// A live lease holds the lock under this token. A hint: it may not be so any more when the
    /// answer arrives.
    Current,
    /// The lock is not held under this token, and never will be again. Final.
    Superseded,
    /// No such token has been issued yet, as far as this state goes.
    Unknown,
}

/// How much there is, for metrics. Overdue things count until they are reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Leases.
    pub leases: u64,
    /// Locks that are held, waited for or delayed.
    pub locks: u64,
    /// Requests that wait.
    pub waits: u64,
    /// Ended leases that are remembered.
    pub tombstones: u64,
    /// Events in the ring.
    pub events: u64,
}

impl LockTable {
    /// The cluster's name; `None` while the state is unfounded.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.founding.map(|founding| founding.cluster_id)
    }

    /// The meaning of `apply`; `None` while the state is unfounded.
    #[must_use]
    pub fn model_version(&self) -> Option<ModelVersion> {
        self.founding.map(|founding| founding.model_version)
    }

    /// The settings; the defaults while the state is unfounded.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The logical cluster clock as of the last entry.
    #[must_use]
    pub fn clock(&self) -> Timestamp {
        self.clock
    }

    /// The last token issued, or the floor that tokens start above.
    #[must_use]
    pub fn token_counter(&self) -> Token {
        self.token_counter
    }

    /// The position of the last response or event; `0.0` before the first entry.
    #[must_use]
    pub fn last_position(&self) -> Position {
        self.last_position
    }

    /// The earliest deadline of a lease, wait, lock delay, tombstone or hold; not after the clock when something is
    /// overdue. Nothing changes by itself before it.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.dues.first().map(|(due, ())| due.at)
    }

    /// How much there is of everything. Cheap.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            leases: self.leases.len() as u64,
            locks: self.locks.len() as u64,
            waits: self.waits.len() as u64,
            tombstones: self.tombstones.len() as u64,
            events: self.events.len() as u64,
        }
    }

    /// The last events, oldest first; as many as the setting `events_max` keeps.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.iter()
    }

    /// The events behind `after`, oldest first, without a gap.
    ///
    /// # Errors
    /// When some of them are not kept any more: the oldest position from which it is possible.
    pub fn events_after(&self, after: Position) -> Result<impl Iterator<Item = &Event>, Position> {
        let oldest = self.events.forgotten();
        if after < oldest {
            Err(oldest)
        } else {
            Ok(self.events.iter_after(after))
        }
    }

    /// The oldest position behind which all events are kept.
    #[must_use]
    pub fn oldest_event_position(&self) -> Position {
        self.events.forgotten()
    }

    /// Until when nothing is granted because the cluster was restored, in cluster time; `None` when
    /// that is over or was never so.
    #[must_use]
    pub fn held_back_until(&self) -> Option<Timestamp> {
        self.held_until()
    }

    /// One lock; `None` when nobody holds it or waits for it, and no delay runs.
    #[must_use]
    pub fn lock(&self, name: &LockName) -> Option<LockView> {
        self.locks
            .get(name)
            .and_then(|lock| self.view_lock(name, lock))
    }

    /// Where the request that entered at `queued_position` stands in the queue of a lock; overdue
    /// waits that are not ended yet count.
    #[must_use]
    pub fn place_in_queue(&self, name: &LockName, queued_position: Position) -> QueuePlace {
        match self.locks.get(name) {
            None => QueuePlace::default(),
            Some(lock) => QueuePlace {
                ahead: lock.queue.rank(&queued_position) as u64,
                length: lock.queue.len() as u64,
            },
        }
    }

    /// The locks whose names start with `prefix`, in name order, from behind the name `after`.
    pub fn locks<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&LockName>,
    ) -> impl Iterator<Item = LockView> + 'a {
        let after = after.map(LockName::as_str).filter(|after| *after >= prefix);
        self.locks
            .iter_from(|name| match after {
                Some(after) => name.as_str() <= after,
                None => name.as_str() < prefix,
            })
            .take_while(move |(name, _)| name.as_str().starts_with(prefix))
            .filter_map(|(name, lock)| self.view_lock(name, lock))
    }

    /// One live lease.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<LeaseView> {
        self.live_lease(id).map(|lease| self.view_lease(id, lease))
    }

    /// The live leases in the order of their ids, from behind the id `after`.
    pub fn leases(&self, after: Option<LeaseId>) -> impl Iterator<Item = LeaseView> {
        self.leases
            .iter_from(|id| after.is_some_and(|after| *id <= after))
            .filter(|(_, lease)| !self.is_past(lease.deadline))
            .map(|(id, lease)| self.view_lease(*id, lease))
    }

    /// What `token` is worth for `lock`.
    #[must_use]
    pub fn fence(&self, lock: &LockName, token: Token) -> Fence {
        if token > self.token_counter {
            return Fence::Unknown;
        }
        let Some(locked) = self.locks.get(lock) else {
            return Fence::Superseded;
        };
        // All sharers have one token, and there may be many of them.
        let is_of_another_generation =
            matches!(&locked.held, Held::Shared { token: of, .. } if *of != token);
        let holds = |id: LeaseId| {
            self.live_lease(id)
                .and_then(|lease| lease.hold(lock))
                .is_some_and(|hold| hold.token == token)
        };
        if !is_of_another_generation && locked.holders().any(holds) {
            Fence::Current
        } else {
            Fence::Superseded
        }
    }

    fn view_lock(&self, name: &LockName, lock: &Lock) -> Option<LockView> {
        let holder = |id: LeaseId| {
            let lease = self.live_lease(id)?;
            lease.hold(name).map(|hold| view_holder(id, lease, hold))
        };
        let waiter = |queued_position: &Position| {
            let wait = self.live_wait(*queued_position)?;
            let lease = self.live_lease(wait.lease)?;
            let request = wait.locks.iter().find(|request| request.lock == *name)?;
            Some(WaiterView {
                lease: wait.lease,
                owner: lease.owner.clone(),
                request: wait.request,
                mode: request.mode,
                queued_position: *queued_position,
                deadline: wait.deadline,
            })
        };
        let holders: Vec<HolderView> = lock.holders().filter_map(holder).collect();
        let queue: Vec<WaiterView> = lock.queue.keys().filter_map(waiter).collect();
        let delay = lock.delay.filter(|delay| !self.is_past(delay.until));
        let exists = !holders.is_empty() || !queue.is_empty() || delay.is_some();
        exists.then(|| LockView {
            lock: name.clone(),
            limit: lock.limit,
            holders,
            first_waits_for: queue.first().and_then(|first| self.obstacle_of(first)),
            queue,
            delay: delay.map(|delay| DelayView {
                until: delay.until,
                is_held_back: delay.reason == DelayReason::HeldBack,
            }),
        })
    }

    fn obstacle_of(&self, waiter: &WaiterView) -> Option<ObstacleView> {
        let wait = self.live_wait(waiter.queued_position)?;
        wait.locks.iter().find_map(|request| {
            let lock = self.locks.get(&request.lock)?;
            let reason = lock.obstacle(request.mode, Some(waiter.queued_position), self)?;
            Some(ObstacleView {
                lock: request.lock.clone(),
                reason,
            })
        })
    }

    fn view_lease(&self, id: LeaseId, lease: &Lease) -> LeaseView {
        let waits = lease.waits.iter().filter_map(|waiting| {
            let wait = self.live_wait(waiting.queued_position)?;
            Some(WaitView {
                request: wait.request,
                locks: wait.locks.to_vec(),
                queued_position: waiting.queued_position,
                deadline: wait.deadline,
            })
        });
        LeaseView {
            lease: id,
            ttl_ms: lease.ttl_ms,
            owner: lease.owner.clone(),
            metadata: lease.metadata.clone(),
            origin: lease.origin,
            deadline: lease.deadline,
            holds: lease.holds.iter().map(Grant::from).collect(),
            waits: waits.collect(),
        }
    }

    fn live_wait(&self, queued_position: Position) -> Option<&Wait> {
        self.waits
            .get(&queued_position)
            .map(Arc::as_ref)
            .filter(|wait| !self.is_past(wait.deadline))
    }
}

fn view_holder(lease: LeaseId, of: &Lease, hold: &Hold) -> HolderView {
    HolderView {
        lease,
        owner: of.owner.clone(),
        mode: hold.mode,
        token: hold.token,
        value: hold.value.clone(),
        granted_at: hold.granted_at,
        deadline: of.deadline,
    }
}
