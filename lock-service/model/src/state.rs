//! The state and its indexes. The methods here keep the indexes in step with what they index and
//! decide nothing: all rules are in `apply`.
//!
//! Everything is in trees that share their nodes with frozen copies, so that a snapshot costs nothing
//! to begin. Leases and waits are behind an `Arc`, so that copying a node stays cheap however large
//! they are; locks are kept in place, because most of them are one exclusive holder and no more.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::decisions::{Decided, Decisions};
use crate::ring::Ring;
use crate::tree::{Key, Tree, head_of_bytes};
use crate::{
    BodyHash, ClusterId, Grant, LeaseEnd, LeaseId, LockHeldReason, LockName, LockRequest, Metadata,
    Mode, ModelVersion, Owner, Position, Refusal, RequestId, Settings, Timestamp, Token, Value,
};

/// The whole state of the lock service: what every node has the same copy of.
///
/// A new one is unfounded, empty, and refuses everything but `Found`. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct LockTable {
    pub(crate) founding: Option<Founding>,
    /// The defaults until the state is founded.
    pub(crate) settings: Settings,
    /// What all settings that were ever in force allowed to exist.
    pub(crate) loosest_settings: Settings,
    pub(crate) clock: Timestamp,
    /// The last token issued, or the floor while there is none.
    pub(crate) token_counter: Token,
    /// The last position given to a response or an event.
    pub(crate) last_position: Position,
    /// After a restore, until when nothing is granted.
    pub(crate) held_until: Option<Timestamp>,
    /// Live leases, and overdue ones that wait to be reaped.
    pub(crate) leases: Tree<LeaseId, Arc<Lease>>,
    /// Requests that wait, by the position at which they were queued: their place in every queue.
    pub(crate) waits: Tree<Position, Arc<Wait>>,
    pub(crate) tombstones: Tree<LeaseId, Arc<Tombstone>>,
    pub(crate) events: Ring,
    /// The locks that exist. All but the delays follows from `leases` and `waits`.
    pub(crate) locks: Tree<LockName, Lock>,
    /// Follows from all others: every deadline, earliest first.
    pub(crate) dues: Tree<Due, ()>,
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
    pub(crate) decided: Decisions,
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
    /// How many locks its request was granted. When fewer are left, the grant has ended.
    pub(crate) granted_locks: u64,
    pub(crate) granted_at: Timestamp,
    pub(crate) queued_position: Position,
    pub(crate) value: Option<Value>,
    pub(crate) lock_delay_ms: u64,
}

/// A lease's own note of a request that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitingRequest {
    pub(crate) request: RequestId,
    pub(crate) queued_position: Position,
    /// How many locks it waits for.
    pub(crate) locks: u64,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wait {
    pub(crate) lease: LeaseId,
    pub(crate) request: RequestId,
    pub(crate) body: BodyHash,
    /// By name.
    pub(crate) locks: Vec<LockRequest>,
    pub(crate) deadline: Timestamp,
    pub(crate) value: Option<Value>,
    pub(crate) lock_delay_ms: u64,
}

/// The last grant that a lease ever had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastGrant {
    pub(crate) request: RequestId,
    pub(crate) body: BodyHash,
    pub(crate) token: Token,
    /// The other tokens, when it was of several locks.
    pub(crate) more: Vec<Token>,
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

/// A lock that exists: somebody holds it or waits for it, or its delay runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lock {
    /// How many permits there are; `None` for a lock that is held exclusively or shared. Fixed
    /// while the lock exists.
    pub(crate) limit: Option<u32>,
    pub(crate) held: Held,
    /// First come, first served.
    pub(crate) queue: Tree<Position, ()>,
    pub(crate) delay: Option<Delay>,
}

/// Who holds a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Held {
    #[default]
    Free,
    Exclusive(LeaseId),
    Shared {
        /// That of the first, which all who join get.
        token: Token,
        leases: Tree<LeaseId, ()>,
    },
    Permits {
        used: u32,
        leases: Tree<LeaseId, ()>,
    },
}

/// Why and until when a lock cannot be granted to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delay {
    pub(crate) until: Timestamp,
    pub(crate) reason: DelayReason,
}

/// Why a lock cannot be granted for a while. The order decides which is told when several end at
/// the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum DelayReason {
    /// A holder expired that had asked for a lock delay.
    LockDelay,
    /// A holder's lease was ended by somebody else's hand, or the cluster was restored.
    HeldBack,
}

/// A deadline in the index. Ordered as what is due is ended: by time, at the same time waits (by
/// place) before leases (by id), delays (by lock) and tombstones (by id), so that a request whose
/// lease lives exactly as long as its wait times out rather than losing its lease.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    pub(crate) at: Timestamp,
    pub(crate) what: DueItem,
}

/// What a deadline ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DueItem {
    Wait(Position),
    Lease(LeaseId),
    Delay(LockName),
    Tombstone(LeaseId),
    /// That nothing is granted after a restore.
    Hold,
}

impl Key for Due {
    /// 44 bits of time (557 years of milliseconds; later moments look the same), 3 for what it is,
    /// and the first 17 of its id: very many things can be due in the same millisecond.
    fn head(&self, skip: usize) -> u64 {
        const TIME_MAX: u64 = (1 << 44) - 1;
        if self.at.0 > TIME_MAX {
            return u64::MAX;
        }
        let (kind, id) = match &self.what {
            DueItem::Wait(place) => (0, place.index.min((1 << 17) - 1)),
            DueItem::Lease(id) => (1, id.head(skip) >> 47),
            DueItem::Delay(lock) => (2, lock.head(0) >> 47),
            DueItem::Tombstone(id) => (3, id.head(skip) >> 47),
            DueItem::Hold => (4, 0),
        };
        (self.at.0 << 20) | (kind << 17) | id
    }
}

impl Key for Position {
    fn head(&self, _skip: usize) -> u64 {
        self.index
    }
}

impl Key for LeaseId {
    fn head(&self, _skip: usize) -> u64 {
        head_of_bytes(&self.0)
    }
}

impl Due {
    pub(crate) fn new(at: Timestamp, what: DueItem) -> Self {
        Self { at, what }
    }

    pub(crate) fn wait(queued_position: Position, deadline: Timestamp) -> Self {
        Self::new(deadline, DueItem::Wait(queued_position))
    }

    pub(crate) fn lease(id: LeaseId, deadline: Timestamp) -> Self {
        Self::new(deadline, DueItem::Lease(id))
    }

    pub(crate) fn delay(lock: &LockName, until: Timestamp) -> Self {
        Self::new(until, DueItem::Delay(lock.clone()))
    }

    pub(crate) fn tombstone(id: LeaseId, deadline: Timestamp) -> Self {
        Self::new(deadline, DueItem::Tombstone(id))
    }
}

impl From<Hold> for Grant {
    fn from(hold: Hold) -> Self {
        Self {
            lock: hold.lock,
            token: hold.token,
            mode: hold.mode,
        }
    }
}

impl From<&Hold> for Grant {
    fn from(hold: &Hold) -> Self {
        Self {
            lock: hold.lock.clone(),
            token: hold.token,
            mode: hold.mode,
        }
    }
}

impl Lease {
    fn place_of(&self, lock: &LockName) -> Result<usize, usize> {
        self.holds.binary_search_by(|hold| hold.lock.cmp(lock))
    }

    pub(crate) fn hold(&self, lock: &LockName) -> Option<&Hold> {
        self.holds.get(self.place_of(lock).ok()?)
    }

    pub(crate) fn put_hold(&mut self, hold: Hold) {
        let at = self.place_of(&hold.lock).unwrap_or_else(|at| at);
        self.holds.insert(at, hold);
    }

    /// How many locks it holds and waits for.
    pub(crate) fn lock_count(&self) -> u64 {
        let held = self.holds.len() as u64;
        let waits = self.waits.iter();
        waits.fold(held, |sum, waiting| sum.saturating_add(waiting.locks))
    }

    /// Whether it once held under `token`, as far as it remembers.
    pub(crate) fn has_given_up(&self, token: Token) -> bool {
        let is_last = |grant: &LastGrant| grant.is_under(token);
        self.last_grant.as_ref().is_some_and(is_last) || self.decided.has_ended(token)
    }
}

impl WaitingRequest {
    pub(crate) fn is_of(&self, queued_position: Position, wait: &Wait) -> bool {
        self.queued_position == queued_position
            && self.request == wait.request
            && self.locks == wait.locks.len() as u64
    }
}

impl Wait {
    pub(crate) fn is_for(&self, lock: &LockName) -> bool {
        self.locks
            .binary_search_by(|request| request.lock.cmp(lock))
            .is_ok()
    }
}

impl LastGrant {
    pub(crate) fn is_under(&self, token: Token) -> bool {
        self.token == token || self.more.contains(&token)
    }
}

impl Tombstone {
    /// What is remembered about `request`: its body, and what a repeat is told.
    pub(crate) fn decided(&self, request: &RequestId) -> Option<(Option<BodyHash>, Refusal)> {
        if let Some(grant) = &self.last_grant
            && grant.request == *request
        {
            let refusal = Refusal::GrantEnded { token: grant.token };
            return Some((Some(grant.body), refusal));
        }
        let decided = self.last_refused.as_ref()?;
        (decided.request == *request).then(|| (decided.body, decided.refusal()))
    }
}

impl Lock {
    pub(crate) fn is_unused(&self) -> bool {
        self.held == Held::Free && self.queue.is_empty() && self.delay.is_none()
    }

    /// Whether it can be held in this mode at all, while it exists.
    pub(crate) fn is_of_the_kind(&self, mode: Mode) -> bool {
        self.limit == mode.limit()
    }

    /// Whether its holders leave room for one more.
    pub(crate) fn has_room_for(&self, mode: Mode) -> bool {
        match (&self.held, mode) {
            (Held::Free, _) | (Held::Shared { .. }, Mode::Shared) => true,
            (Held::Permits { used, .. }, Mode::Permits { permits, limit }) => {
                used.checked_add(permits).is_some_and(|sum| sum <= limit)
            }
            _ => false,
        }
    }

    /// Why it cannot be granted in this mode to whoever is at `place` in its queue, or to a new
    /// request; `None` when it can. What is overdue and not yet ended is no reason to be told, but
    /// that one has to wait for it.
    pub(crate) fn obstacle(
        &self,
        mode: Mode,
        place: Option<Position>,
        table: &LockTable,
    ) -> Option<LockHeldReason> {
        if !self.has_room_for(mode) {
            let held_by = |lease: LeaseId| {
                let owner = table.live_lease(lease)?.owner.clone();
                Some(LockHeldReason::Held { lease, owner })
            };
            return Some(
                self.holders()
                    .find_map(held_by)
                    .unwrap_or(LockHeldReason::Queued),
            );
        }
        if let Some(delay) = self.delay {
            let remaining_ms = table.clock.ms_until(delay.until);
            return Some(match delay.reason {
                _ if remaining_ms == 0 => LockHeldReason::Queued,
                DelayReason::LockDelay => LockHeldReason::Delayed { remaining_ms },
                DelayReason::HeldBack => LockHeldReason::HeldBack { remaining_ms },
            });
        }
        let head = self.head();
        (head.is_some() && head != place).then_some(LockHeldReason::Queued)
    }

    /// Whether it can be granted in this mode to the head of its queue.
    pub(crate) fn is_grantable(&self, mode: Mode) -> bool {
        self.delay.is_none() && self.has_room_for(mode)
    }

    /// The place of the first who waits.
    pub(crate) fn head(&self) -> Option<Position> {
        self.queue.first().map(|(place, ())| *place)
    }

    /// Who holds it, by id.
    pub(crate) fn holders(&self) -> impl Iterator<Item = LeaseId> + '_ {
        let (one, many) = match &self.held {
            Held::Free => (None, None),
            Held::Exclusive(id) => (Some(*id), None),
            Held::Shared { leases, .. } | Held::Permits { leases, .. } => (None, Some(leases)),
        };
        one.into_iter()
            .chain(many.into_iter().flat_map(|leases| leases.keys().copied()))
    }

    /// Adds a holder. Its token: that of the sharers that it joins, else the next.
    pub(crate) fn link(&mut self, id: LeaseId, mode: Mode, next: impl FnOnce() -> Token) -> Token {
        self.limit = mode.limit();
        match (&mut self.held, mode) {
            (Held::Shared { token, leases }, Mode::Shared) => {
                leases.insert(id, ());
                return *token;
            }
            (Held::Permits { used, leases }, Mode::Permits { permits, .. }) => {
                leases.insert(id, ());
                *used = used.saturating_add(permits);
                return next();
            }
            _ => {}
        }
        let (token, mut leases) = (next(), Tree::default());
        self.held = match mode {
            Mode::Exclusive => Held::Exclusive(id),
            Mode::Shared => {
                leases.insert(id, ());
                Held::Shared { token, leases }
            }
            Mode::Permits { permits, .. } => {
                leases.insert(id, ());
                Held::Permits {
                    used: permits,
                    leases,
                }
            }
        };
        token
    }

    /// Takes a holder away.
    pub(crate) fn unlink(&mut self, id: LeaseId, mode: Mode) {
        let is_last = match (&mut self.held, mode) {
            (Held::Exclusive(holder), _) => *holder == id,
            (Held::Shared { leases, .. }, _) => {
                leases.remove(&id);
                leases.is_empty()
            }
            (Held::Permits { used, leases }, Mode::Permits { permits, .. }) => {
                leases.remove(&id);
                *used = used.saturating_sub(permits);
                leases.is_empty()
            }
            _ => false,
        };
        if is_last {
            self.held = Held::Free;
        }
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

    /// Until when nothing is granted after a restore, while that is ahead.
    pub(crate) fn held_until(&self) -> Option<Timestamp> {
        self.held_until.filter(|until| !self.is_past(*until))
    }

    /// Whether the request that waits at `place` could be granted now, as long as there are tokens.
    pub(crate) fn is_grantable(&self, place: Position, wait: &Wait) -> bool {
        let can_be_granted = |request: &LockRequest| {
            let lock = self.locks.get(&request.lock);
            lock.is_some_and(|lock| lock.head() == Some(place) && lock.is_grantable(request.mode))
        };
        !self.is_past(wait.deadline)
            && self.live_lease(wait.lease).is_some()
            && wait.locks.iter().all(can_be_granted)
    }

    pub(crate) fn lease_mut(&mut self, id: LeaseId) -> Option<&mut Lease> {
        self.leases.get_mut(&id).map(Arc::make_mut)
    }

    pub(crate) fn put_lease(&mut self, id: LeaseId, lease: Lease) {
        self.dues.insert(Due::lease(id, lease.deadline), ());
        self.leases.insert(id, Arc::new(lease));
    }

    /// Removes the lease alone; its holds and waits stay linked to their locks.
    pub(crate) fn take_lease(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = Arc::unwrap_or_clone(self.leases.remove(&id)?);
        self.dues.remove(&Due::lease(id, lease.deadline));
        Some(lease)
    }

    /// Keeps the index in step with a lease whose deadline has changed.
    pub(crate) fn move_due(&mut self, id: LeaseId, before: Timestamp, after: Timestamp) {
        if before != after {
            self.dues.remove(&Due::lease(id, before));
            self.dues.insert(Due::lease(id, after), ());
        }
    }

    pub(crate) fn put_tombstone(&mut self, id: LeaseId, tombstone: Tombstone) {
        self.dues.insert(Due::tombstone(id, tombstone.deadline), ());
        self.tombstones.insert(id, Arc::new(tombstone));
    }

    pub(crate) fn remove_tombstone(&mut self, id: LeaseId) {
        if let Some(tombstone) = self.tombstones.remove(&id) {
            self.dues.remove(&Due::tombstone(id, tombstone.deadline));
        }
    }

    /// Takes the lease out of the lock's holders; the lease keeps its hold. Whether anybody waits
    /// for the lock.
    pub(crate) fn unlink_holder(&mut self, id: LeaseId, lock: &LockName, mode: Mode) -> bool {
        let mut is_waited_for = false;
        self.locks.alter(lock, |lock| {
            lock.unlink(id, mode);
            is_waited_for = !lock.queue.is_empty();
            !lock.is_unused()
        });
        is_waited_for
    }

    /// Puts the wait in all its queues and in the index.
    pub(crate) fn queue_wait(&mut self, queued_position: Position, wait: &Wait) {
        for request in &wait.locks {
            self.locks.alter(&request.lock, |lock| {
                lock.limit = request.mode.limit();
                lock.queue.insert(queued_position, ());
                true
            });
        }
        self.dues
            .insert(Due::wait(queued_position, wait.deadline), ());
    }

    pub(crate) fn put_wait(&mut self, queued_position: Position, wait: Wait) {
        self.queue_wait(queued_position, &wait);
        if let Some(lease) = self.lease_mut(wait.lease) {
            lease.waits.push(WaitingRequest {
                request: wait.request,
                queued_position,
                locks: wait.locks.len() as u64,
            });
        }
        self.waits.insert(queued_position, Arc::new(wait));
    }

    /// Removes the wait from the queues, from the index and (if it still exists) from its lease.
    pub(crate) fn take_wait(&mut self, queued_position: Position) -> Option<Wait> {
        let wait = Arc::unwrap_or_clone(self.waits.remove(&queued_position)?);
        self.dues.remove(&Due::wait(queued_position, wait.deadline));
        for request in &wait.locks {
            self.locks.alter(&request.lock, |lock| {
                lock.queue.remove(&queued_position);
                !lock.is_unused()
            });
        }
        if let Some(lease) = self.lease_mut(wait.lease) {
            lease
                .waits
                .retain(|waiting| waiting.queued_position != queued_position);
        }
        Some(wait)
    }

    /// Keeps the lock from being granted, unless it already is kept from it for longer.
    pub(crate) fn delay_lock(&mut self, name: &LockName, limit: Option<u32>, delay: Delay) {
        let mut before = None;
        let mut is_longer = false;
        self.locks.alter(name, |lock| {
            lock.limit = limit;
            before = lock.delay;
            let of = |delay: &Delay| (delay.until, delay.reason);
            is_longer = lock.delay.is_none_or(|old| of(&delay) > of(&old));
            if is_longer {
                lock.delay = Some(delay);
            }
            true
        });
        if is_longer {
            if let Some(before) = before {
                self.dues.remove(&Due::delay(name, before.until));
            }
            self.dues.insert(Due::delay(name, delay.until), ());
        }
    }

    pub(crate) fn end_delay(&mut self, name: &LockName) {
        let mut ended = None;
        self.locks.alter(name, |lock| {
            ended = lock.delay.take();
            !lock.is_unused()
        });
        if let Some(delay) = ended {
            self.dues.remove(&Due::delay(name, delay.until));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn due() -> impl Strategy<Value = Due> {
        let edge = 1_u64 << 44;
        let at = prop_oneof![0..4_u64, edge - 2..edge + 2, Just(u64::MAX)];
        let index = prop_oneof![0..4_u64, (1_u64 << 17) - 2..(1 << 17) + 2, Just(u64::MAX)];
        let id = prop_oneof![Just([0; 16]), Just([0xff; 16]), any::<[u8; 16]>()];
        let what = prop_oneof![
            (index, 0..2_u32)
                .prop_map(|(index, ordinal)| DueItem::Wait(Position { index, ordinal })),
            id.clone().prop_map(|id| DueItem::Lease(LeaseId(id))),
            "[a-c\u{ff}]{1,3}".prop_map(|lock| DueItem::Delay(LockName::new(&lock).unwrap())),
            id.prop_map(|id| DueItem::Tombstone(LeaseId(id))),
            Just(DueItem::Hold),
        ];
        (at, what).prop_map(|(at, what)| Due::new(Timestamp(at), what))
    }

    proptest! {
        #[test]
        fn the_head_of_a_due_never_falls(one in due(), other in due()) {
            let (less, more) = if one < other { (one, other) } else { (other, one) };
            prop_assert!(less.head(0) <= more.head(0), "{less:?} {more:?}");
        }
    }

    #[test]
    fn the_head_of_a_due_tells_apart_time_kind_and_id() {
        let [zero, one] = [0, 1].map(|first| {
            let mut id = [0; 16];
            id[0] = first << 7;
            LeaseId(id)
        });
        let [a, b] = ["a", "b"].map(|name| LockName::new(name).unwrap());
        let [first, second] = [0, 1].map(|index| Position { index, ordinal: 0 });
        let at = |at: u64| {
            [
                DueItem::Wait(first),
                DueItem::Wait(second),
                DueItem::Lease(zero),
                DueItem::Lease(one),
                DueItem::Delay(a.clone()),
                DueItem::Delay(b.clone()),
                DueItem::Tombstone(zero),
                DueItem::Tombstone(one),
                DueItem::Hold,
            ]
            .map(|what| Due::new(Timestamp(at), what).head(0))
        };
        // The last moment that a head can tell, too.
        let heads = [at(0), at(1), at((1 << 44) - 1)].concat();
        assert!(heads.is_sorted_by(|one, next| one < next), "{heads:?}");
        assert!(heads.iter().all(|head| *head < u64::MAX));
        assert_eq!(at(1 << 44), [u64::MAX; 9]);
        // A place too large to be told from others is still before every lease.
        let last = DueItem::Wait(Position {
            index: u64::MAX,
            ordinal: 0,
        });
        let [last, lease] = [last, DueItem::Lease(zero)].map(|it| Due::new(Timestamp(1), it));
        assert!(last.head(0) < lease.head(0));
        assert_eq!(
            (first.head(0), second.head(0), one.head(0)),
            (0, 1, 1 << 63)
        );
    }
}
