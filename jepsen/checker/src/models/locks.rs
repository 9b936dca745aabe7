//! Locks: one specification of who holds what, and models that differ in what they allow. Waiting
//! is not in it: a grant takes effect when it is made, and anybody may be granted what is free.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::{Ending, Numbers, ending, malformed, malformed_answer, timed, unknown_function};
use crate::{
    EventIndex, History, Malformed, Method, Model, Moment, Operation, OperationId, Origin, Outcome,
    Problem, Specification, Step, Theory, TimedCall, Value,
};

/// A family of lock models.
///
/// # Operations
///
/// The lock is the operation's `key`; without keys there is one lock. All of these may also be plain
/// (`nil`) where the model needs no more:
///
/// | function | argument | answer |
/// |---|---|---|
/// | `acquire` | `{:owner, :lease, :mode, :permits, :limit, :ttl_ms, :locks}` | the token, or `{:token, :lease, :ttl_ms, :locks}` |
/// | `release` | `{:owner, :lease, :token, :permits, :locks}` | `{:was_held}` |
/// | `renew` (leases) | `{:lease}` | `{:ttl_ms}` |
/// | `revoke` (leases) | `{:lease}` | |
///
/// * `mode` is `exclusive` (the default), `shared` or `permits`; `permits` counts them (default 1).
/// * `locks` (several at once) is a list of names, or of maps with `name` and, as above, `mode`,
///   `permits`, `limit`, and in answers `token`.
/// * The *holder* is the `lease`, else the `owner`, else the process. With leases, an acquire that
///   names none is granted one of its own, which later operations of its process mean.
///
/// # Failures
///
/// If they are observations ([`FailMeaning`](crate::FailMeaning)): an acquire with the error
/// `lock_held` saw one of its locks not grantable (unless it says another `reason` than `held`); with
/// `already_held`, held by its own holder; a release, renewal or revocation with `token_stale`,
/// `not_held`, `lease_ended` or `lease_not_found`, its holder without the lock or, for the last two,
/// its lease ended. Anything else tells nothing. So does a release that answers `was_held: false`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locks {
    name: &'static str,
    /// Whether it matters who releases.
    owned: bool,
    modes: LockModes,
    /// Whether answers' tokens are checked.
    fenced: bool,
    /// Whether one holder may acquire more of what it holds.
    repeatable: bool,
    /// Whether one operation may name several locks.
    several: bool,
    /// The permits of locks whose acquires name no limit.
    limit: u32,
    expiry: Option<Expiry>,
}

/// Which modes a model allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockModes {
    /// Exclusive only.
    Exclusive,
    /// Exclusive and shared.
    ReadWrite,
    /// Permits only, also where the operation names no mode.
    Permits,
    /// All.
    All,
}

/// How leases expire: not before their holder's last renewal, or grant, was asked for plus the
/// time to live, less the rate by which clocks may differ. After that at any time, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The time to live of leases whose operations name none, in milliseconds.
    pub ttl_ms: u64,
    /// By how much monotonic clocks may differ, in millionths; DESIGN section 3's rho, 1%.
    pub rho_millionths: u64,
}

impl Default for Expiry {
    /// 15 s and 1%.
    fn default() -> Self {
        Expiry {
            ttl_ms: 15_000,
            rho_millionths: 10_000,
        }
    }
}

impl Locks {
    const PLAIN: Locks = Locks {
        name: "mutex",
        owned: false,
        modes: LockModes::Exclusive,
        fenced: false,
        repeatable: false,
        several: false,
        limit: 1,
        expiry: None,
    };

    /// A lock that one holds at a time, and that anybody may release while it is held.
    #[must_use]
    pub fn mutex() -> Self {
        Locks::PLAIN
    }

    /// A mutex that only its holder can release.
    #[must_use]
    pub fn owner_mutex() -> Self {
        Locks {
            name: "owner-mutex",
            owned: true,
            ..Locks::PLAIN
        }
    }

    /// An owner-aware mutex whose grants carry rising tokens.
    #[must_use]
    pub fn fenced_mutex() -> Self {
        Locks {
            name: "fenced-mutex",
            fenced: true,
            ..Locks::owner_mutex()
        }
    }

    /// One exclusive holder, or any number of shared ones, which have one token together.
    #[must_use]
    pub fn read_write_lock() -> Self {
        Locks {
            name: "rw-lock",
            modes: LockModes::ReadWrite,
            ..Locks::fenced_mutex()
        }
    }

    /// At most `limit` permits at a time, any number of times. A release without `permits` gives
    /// all of its holder's back.
    #[must_use]
    pub fn semaphore(limit: u32) -> Self {
        let modes = LockModes::Permits;
        Locks {
            name: "semaphore",
            modes,
            repeatable: true,
            limit,
            ..Locks::fenced_mutex()
        }
    }

    /// Locks of all modes, several at once, all or nothing.
    #[must_use]
    pub fn multi_lock() -> Self {
        let modes = LockModes::All;
        Locks {
            name: "multi-lock",
            modes,
            several: true,
            ..Locks::fenced_mutex()
        }
    }

    /// As [`multi_lock`](Locks::multi_lock), held by leases that may expire.
    ///
    /// A lease that ended is not live again. Operations need times. Locks that one lease ever held
    /// are checked together.
    #[must_use]
    pub fn lease_lock(expiry: Expiry) -> Self {
        Locks {
            name: "lease-lock",
            expiry: Some(expiry),
            ..Locks::multi_lock()
        }
    }
}

/// A call; holders, locks and renewals are numbers that its specification gave them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LockCall {
    /// Was granted all of these, or, if open, would be.
    Acquire {
        /// By whom.
        holder: u32,
        /// What.
        grants: Vec<Grant>,
        /// Its place among all grants and renewals, by when they were asked for; with leases.
        renewal: u32,
    },
    /// Was refused because one of these was not grantable.
    AcquireHeld {
        /// By whom.
        holder: u32,
        /// What.
        grants: Vec<Grant>,
    },
    /// Was refused because it holds one of these itself.
    AcquireAlreadyHeld {
        /// By whom.
        holder: u32,
        /// What.
        grants: Vec<Grant>,
    },
    /// Gave back.
    Release {
        /// Whose.
        holder: u32,
        /// What.
        lock: u32,
        /// The token by which, if that is known.
        token: Option<i64>,
        /// How many permits; all without.
        permits: Option<u32>,
    },
    /// Gave several back at once.
    ReleaseSeveral {
        /// Whose.
        holder: u32,
        /// What, with tokens as far as they are known.
        locks: Vec<(u32, Option<i64>)>,
    },
    /// Saw one of these not held by the holder.
    NotHeld {
        /// By whom.
        holder: u32,
        /// What, with tokens as far as they are known.
        locks: Vec<(u32, Option<i64>)>,
    },
    /// The lease was renewed.
    Renew {
        /// The lease.
        holder: u32,
        /// As in [`LockCall::Acquire`].
        renewal: u32,
    },
    /// Saw that the lease had ended.
    Ended {
        /// The lease.
        holder: u32,
    },
    /// Somebody ended the lease.
    Revoke {
        /// The lease.
        holder: u32,
    },
    /// The lease expired, unrenewed since this renewal.
    Expire {
        /// The lease.
        holder: u32,
        /// The last grant or renewal before.
        renewal: u32,
    },
}

/// One lock of an acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// Which.
    pub lock: u32,
    /// Permits that are asked for; none for exclusive and shared.
    pub permits: Option<u32>,
    /// Permits that there are.
    pub limit: u32,
    /// Whether others may share it.
    pub shared: bool,
    /// The token in the answer, if there was one.
    pub token: Option<i64>,
}

/// Who holds what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LockTable {
    /// Sorted by (lock, holder).
    held: Vec<Held>,
    /// By lock, sorted: the smallest number that its last token can be.
    tokens: Vec<(u32, i64)>,
    /// By lease, sorted.
    leases: Vec<(u32, TimeToLive)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Held {
    lock: u32,
    holder: u32,
    shared: bool,
    permits: Option<u32>,
    token: Option<i64>,
}

/// Whether a lease lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeToLive {
    /// It does, since this grant or renewal.
    Since(u32),
    /// It has ended.
    Ended,
}

impl LockTable {
    fn holders(&self, lock: u32) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(move |held| held.lock == lock)
    }

    fn find(&self, lock: u32, holder: u32) -> Option<usize> {
        self.held
            .binary_search_by_key(&(lock, holder), |held| (held.lock, held.holder))
            .ok()
    }

    /// Whether the holder has the lock under this token, as far as that is known.
    fn has(&self, holder: u32, lock: u32, token: Option<i64>) -> bool {
        self.find(lock, holder)
            .is_some_and(|at| match (self.held[at].token, token) {
                (Some(held), Some(asked)) => held == asked,
                _ => true,
            })
    }

    fn lease(&self, holder: u32) -> Option<TimeToLive> {
        let at = self
            .leases
            .binary_search_by_key(&holder, |(lease, _)| *lease)
            .ok()?;
        Some(self.leases[at].1)
    }

    fn set_lease(&mut self, holder: u32, lease: TimeToLive) {
        match self
            .leases
            .binary_search_by_key(&holder, |(lease, _)| *lease)
        {
            Ok(at) => self.leases[at].1 = lease,
            Err(at) => self.leases.insert(at, (holder, lease)),
        }
    }

    /// Renewals count by when they were asked for: deadlines only rise.
    fn renew(&mut self, holder: u32, renewal: u32) {
        let since = match self.lease(holder) {
            Some(TimeToLive::Since(before)) => before.max(renewal),
            _ => renewal,
        };
        self.set_lease(holder, TimeToLive::Since(since));
    }

    fn end_lease(&mut self, holder: u32) {
        self.held.retain(|held| held.holder != holder);
        self.set_lease(holder, TimeToLive::Ended);
    }
}

/// The specification of all [`Locks`].
#[derive(Clone, Debug)]
pub struct LockSpecification {
    repeatable: bool,
    fenced: bool,
    leased: bool,
    locks: Numbers<Value>,
    holders: Numbers<Holder>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Anybody,
    Client(u64),
    Owner(Value),
    Lease(Value),
    /// The lease that an acquire was granted on the fly.
    LeaseOf(OperationId),
}

impl LockSpecification {
    fn lock(&self, lock: u32) -> String {
        match self.locks.value(lock) {
            Value::Nil => "the lock".into(),
            name => format!("lock {name}"),
        }
    }

    fn holder(&self, holder: u32) -> String {
        match self.holders.value(holder) {
            Holder::Anybody => "somebody".into(),
            Holder::Client(process) => format!("process {process}"),
            Holder::Owner(owner) => format!("owner {owner}"),
            Holder::Lease(lease) => format!("lease {lease}"),
            Holder::LeaseOf(OperationId(operation)) => {
                format!("the lease of operation {operation}")
            }
        }
    }

    /// Why a grant is not possible; nothing if it is.
    fn obstacle(&self, table: &LockTable, holder: u32, grant: &Grant) -> Option<String> {
        let others = || table.holders(grant.lock);
        if !self.repeatable
            && let Some(at) = table.find(grant.lock, holder)
        {
            return Some(format!("{} holds it already{}", self.holder(holder), {
                token_words(table.held[at].token)
            }));
        }
        let fits = match grant.permits {
            None if grant.shared => others().all(|held| held.shared),
            None => others().next().is_none(),
            Some(permits) => {
                let taken: u64 = others()
                    .map(|held| u64::from(held.permits.unwrap_or(0)))
                    .sum();
                others().all(|held| held.permits.is_some())
                    && taken + u64::from(permits) <= u64::from(grant.limit)
            }
        };
        if fits {
            return None;
        }
        let holds = |held: &Held| {
            let mode = match held.permits {
                Some(permits) => format!(" {permits} of {} permits", grant.limit),
                None if held.shared => " a share".into(),
                None => String::new(),
            };
            format!(
                "{} holds{mode}{}",
                self.holder(held.holder),
                token_words(held.token)
            )
        };
        Some(others().map(holds).collect::<Vec<_>>().join(", "))
    }

    /// The grant's token and what it makes the lock's last one; or why it cannot be.
    fn token(&self, table: &LockTable, grant: &Grant) -> Result<(Option<i64>, i64), String> {
        let at = table
            .tokens
            .binary_search_by_key(&grant.lock, |(lock, _)| *lock);
        let floor = at.map_or(0, |at| table.tokens[at].1);
        let sharers = table.holders(grant.lock).filter(|held| held.shared);
        let joined = sharers
            .map(|held| held.token)
            .reduce(Option::or)
            .filter(|_| grant.shared);
        match (joined, grant.token) {
            // The first share, or no share.
            (None, None) => Ok((None, floor.saturating_add(1))),
            (None, Some(token)) if token > floor => Ok((Some(token), token)),
            (None, Some(token)) => Err(format!(
                "token {token} is not above {floor}, which the last one reached"
            )),
            // Another share: the token of those before.
            (Some(shared), None) => Ok((shared, floor)),
            (Some(None), Some(token)) if token >= floor => Ok((Some(token), token)),
            (Some(Some(shared)), Some(token)) if token == shared => Ok((Some(token), floor)),
            (Some(Some(shared)), Some(token)) => Err(format!(
                "token {token} is not {shared}, which the other sharers have"
            )),
            (Some(None), Some(token)) => Err(format!(
                "token {token} is below {floor}, which the last one reached"
            )),
        }
    }

    fn acquire(
        &self,
        table: &LockTable,
        holder: u32,
        grants: &[Grant],
        renewal: u32,
    ) -> Result<LockTable, String> {
        if self.leased && table.lease(holder) == Some(TimeToLive::Ended) {
            return Err(format!("{} has ended", self.holder(holder)));
        }
        let mut after = table.clone();
        for grant in grants {
            let describe = |why: String| format!("{}: {why}", self.lock(grant.lock));
            if let Some(obstacle) = self.obstacle(table, holder, grant) {
                return Err(describe(obstacle));
            }
            let mut token = None;
            if self.fenced {
                let last;
                (token, last) = self.token(table, grant).map_err(describe)?;
                match after
                    .tokens
                    .binary_search_by_key(&grant.lock, |(lock, _)| *lock)
                {
                    Ok(at) => after.tokens[at].1 = last,
                    Err(at) => after.tokens.insert(at, (grant.lock, last)),
                }
            }
            if grant.shared {
                // Whose answers are unknown have the same.
                let sharers = after.held.iter_mut().filter(|held| held.lock == grant.lock);
                sharers.for_each(|held| held.token = token);
            }
            let Grant {
                lock,
                shared,
                permits,
                ..
            } = *grant;
            match after
                .held
                .binary_search_by_key(&(lock, holder), |h| (h.lock, h.holder))
            {
                // More permits. Which token they came with no longer matters.
                Ok(at) => {
                    let held = &mut after.held[at];
                    held.permits = held.permits.zip(permits).map(|(had, more)| had + more);
                    held.token = None;
                }
                Err(at) => after.held.insert(
                    at,
                    Held {
                        lock,
                        holder,
                        shared,
                        permits,
                        token,
                    },
                ),
            }
        }
        if self.leased {
            after.renew(holder, renewal);
        }
        Ok(after)
    }

    fn release(
        &self,
        table: &LockTable,
        holder: u32,
        (lock, token): (u32, Option<i64>),
        permits: Option<u32>,
    ) -> Result<LockTable, String> {
        let not_held = || format!("{} does not hold {}", self.holder(holder), self.lock(lock));
        let at = table.find(lock, holder).ok_or_else(not_held)?;
        if !table.has(holder, lock, token) {
            let held = token_words(table.held[at].token);
            return Err(format!(
                "{} holds {}{held}, not this",
                self.holder(holder),
                self.lock(lock)
            ));
        }
        let mut after = table.clone();
        match (table.held[at].permits, permits) {
            (Some(held), Some(back)) if back < held => after.held[at].permits = Some(held - back),
            (Some(held), Some(back)) if back > held => {
                return Err(format!(
                    "{} has {held} permits, not {back}",
                    self.holder(holder)
                ));
            }
            _ => {
                after.held.remove(at);
            }
        }
        Ok(after)
    }

    fn apply(&self, table: &LockTable, call: &LockCall) -> Result<LockTable, String> {
        match call {
            LockCall::Acquire {
                holder,
                grants,
                renewal,
            } => self.acquire(table, *holder, grants, *renewal),
            LockCall::AcquireHeld { holder, grants } => {
                let free = |grant: &Grant| self.obstacle(table, *holder, grant).is_none();
                if grants.iter().all(free) {
                    return Err("all that it asked for is free".into());
                }
                Ok(table.clone())
            }
            LockCall::AcquireAlreadyHeld { holder, grants } => {
                if !grants
                    .iter()
                    .any(|grant| table.find(grant.lock, *holder).is_some())
                {
                    return Err(format!("{} holds nothing of it", self.holder(*holder)));
                }
                Ok(table.clone())
            }
            LockCall::Release {
                holder,
                lock,
                token,
                permits,
            } => self.release(table, *holder, (*lock, *token), *permits),
            LockCall::ReleaseSeveral { holder, locks } => {
                let mut after = table.clone();
                for &lock in locks {
                    after = self.release(&after, *holder, lock, None)?;
                }
                Ok(after)
            }
            LockCall::NotHeld { holder, locks } => {
                if locks
                    .iter()
                    .all(|&(lock, token)| table.has(*holder, lock, token))
                {
                    let holder = self.holder(*holder);
                    return Err(format!("{holder} does hold what it is said not to"));
                }
                Ok(table.clone())
            }
            LockCall::Renew { holder, renewal } => {
                if table.lease(*holder) == Some(TimeToLive::Ended) {
                    return Err(format!("{} has ended", self.holder(*holder)));
                }
                let mut after = table.clone();
                after.renew(*holder, *renewal);
                Ok(after)
            }
            LockCall::Ended { holder } => {
                // A lease that holds nothing may have ended without anybody's doing.
                if table.held.iter().any(|held| held.holder == *holder) {
                    return Err(format!("{} lives, and holds a lock", self.holder(*holder)));
                }
                Ok(table.clone())
            }
            LockCall::Revoke { holder } => {
                let mut after = table.clone();
                after.end_lease(*holder);
                Ok(after)
            }
            LockCall::Expire { holder, renewal } => {
                match table.lease(*holder) {
                    Some(TimeToLive::Since(since)) if since == *renewal => {}
                    Some(TimeToLive::Since(_)) => {
                        return Err(format!("{} was renewed since", self.holder(*holder)));
                    }
                    Some(TimeToLive::Ended) => {
                        return Err(format!("{} has ended", self.holder(*holder)));
                    }
                    None => return Err(format!("{} is not there yet", self.holder(*holder))),
                }
                let mut after = table.clone();
                after.end_lease(*holder);
                Ok(after)
            }
        }
    }
}

fn token_words(token: Option<i64>) -> String {
    token
        .map(|token| format!(" with token {token}"))
        .unwrap_or_default()
}

impl Specification for LockSpecification {
    type Call = LockCall;
    type State = LockTable;

    fn initial(&mut self) -> LockTable {
        LockTable::default()
    }

    fn step(&mut self, state: &LockTable, call: &LockCall) -> Step<LockTable> {
        match self.apply(state, call) {
            Ok(after) => Step::To(after),
            Err(_) => Step::Refused,
        }
    }

    fn observes(&self, call: &LockCall) -> bool {
        matches!(
            call,
            LockCall::AcquireHeld { .. }
                | LockCall::AcquireAlreadyHeld { .. }
                | LockCall::NotHeld { .. }
                | LockCall::Ended { .. }
        )
    }

    fn theory(&mut self, calls: &[TimedCall<LockCall>]) -> Theory {
        if self.fenced && !self.leased {
            unique_tokens(calls)
        } else {
            Theory::Silent
        }
    }

    fn state_bytes(&self, state: &LockTable) -> usize {
        size_of::<LockTable>()
            + state.held.len() * size_of::<Held>()
            + state.tokens.len() * size_of::<(u32, i64)>()
            + state.leases.len() * size_of::<(u32, TimeToLive)>()
    }

    fn describe_state(&self, state: &LockTable) -> String {
        if state.held.is_empty() {
            return "nobody holds anything".into();
        }
        let describe = |held: &Held| {
            let mode = match held.permits {
                Some(permits) => format!(" ({permits} permits)"),
                None if held.shared => " (shared)".into(),
                None => String::new(),
            };
            let (holder, lock) = (self.holder(held.holder), self.lock(held.lock));
            format!("{holder} holds {lock}{mode}{}", token_words(held.token))
        };
        super::abbreviated(
            &state
                .held
                .iter()
                .map(describe)
                .collect::<Vec<_>>()
                .join(", "),
        )
    }

    fn describe_call(&self, call: &LockCall) -> String {
        let names = |locks: &mut dyn Iterator<Item = u32>| {
            locks
                .map(|lock| self.lock(lock))
                .collect::<Vec<_>>()
                .join(" and ")
        };
        let granted = |grants: &[Grant]| {
            let describe = |grant: &Grant| {
                let mode = match grant.permits {
                    Some(permits) => format!(" ({permits} permits)"),
                    None if grant.shared => " (shared)".into(),
                    None => String::new(),
                };
                format!(
                    "{}{mode}{}",
                    self.lock(grant.lock),
                    token_words(grant.token)
                )
            };
            grants
                .iter()
                .map(describe)
                .collect::<Vec<_>>()
                .join(" and ")
        };
        match call {
            LockCall::Acquire { holder, grants, .. } => {
                format!("{} acquires {}", self.holder(*holder), granted(grants))
            }
            LockCall::AcquireHeld { holder, grants } => {
                format!(
                    "{} is refused {} as held",
                    self.holder(*holder),
                    granted(grants)
                )
            }
            LockCall::AcquireAlreadyHeld { holder, grants } => {
                let holder = self.holder(*holder);
                format!("{holder} is refused {} as its own already", granted(grants))
            }
            LockCall::Release {
                holder,
                lock,
                token,
                ..
            } => {
                let (holder, lock) = (self.holder(*holder), self.lock(*lock));
                format!("{holder} releases {lock}{}", token_words(*token))
            }
            LockCall::ReleaseSeveral { holder, locks } => {
                let locks = names(&mut locks.iter().map(|(lock, _)| *lock));
                format!("{} releases {locks}", self.holder(*holder))
            }
            LockCall::NotHeld { holder, locks } => {
                let locks = names(&mut locks.iter().map(|(lock, _)| *lock));
                format!(
                    "{} is told that it does not hold {locks}",
                    self.holder(*holder)
                )
            }
            LockCall::Renew { holder, .. } => format!("{} is renewed", self.holder(*holder)),
            LockCall::Ended { holder } => {
                format!("{} is said to have ended", self.holder(*holder))
            }
            LockCall::Revoke { holder } => format!("{} is revoked", self.holder(*holder)),
            LockCall::Expire { holder, .. } => format!("{} expires", self.holder(*holder)),
        }
    }

    fn refusal(&self, state: &LockTable, call: &LockCall) -> String {
        self.apply(state, call)
            .err()
            .unwrap_or_else(|| "nothing is against it".into())
    }
}

impl Model for Locks {
    type Specification = LockSpecification;

    fn name(&self) -> &'static str {
        self.name
    }

    fn objects(&self, _: &History, operation: &Operation) -> Result<Vec<Value>, String> {
        let named = locks_field(operation, &operation.input)?;
        let mut objects: Vec<Value> = match named {
            Some(locks) if self.several => locks.into_iter().map(|lock| lock.name).collect(),
            Some(_) => return Err(format!("a {} has no `locks`, only one key", self.name)),
            None => match (&operation.key, &*operation.function) {
                (Some(key), _) => vec![key.clone()],
                // These are about a lease, whatever it holds.
                (None, "renew" | "revoke") if self.expiry.is_some() => Vec::new(),
                (None, _) => vec![Value::Nil],
            },
        };
        if self.expiry.is_some() {
            // Everything that a lease holds lives and dies with it.
            let lease = lease_name(operation);
            objects
                .extend(lease.map(|lease| Value::list([Value::keyword("lease"), lease.clone()])));
        }
        if objects.is_empty() {
            return Err(format!(
                "`{}` names neither a lease nor a lock",
                operation.function
            ));
        }
        Ok(objects)
    }

    fn problem(
        &self,
        history: &History,
        operations: &[OperationId],
    ) -> Result<Problem<LockSpecification>, Malformed> {
        let mut reader = Reader {
            model: self,
            history,
            specification: LockSpecification {
                repeatable: self.repeatable,
                fenced: self.fenced,
                leased: self.expiry.is_some(),
                locks: Numbers::new(),
                holders: Numbers::new(),
            },
            lease_of_client: FxHashMap::default(),
            renewals: FxHashMap::default(),
            times: Times::new(history, operations),
        };
        let mut calls = Vec::with_capacity(operations.len());
        reader.order_renewals(operations);
        for &id in operations {
            let operation = history.operation(id);
            let call = reader.call(operation)?;
            calls.extend(call.map(|call| timed(operation, call)));
        }
        if let Some(expiry) = self.expiry {
            let expirations = reader.expirations(expiry, &calls)?;
            calls.extend(expirations);
        }
        Ok(Problem {
            specification: reader.specification,
            calls,
        })
    }
}

/// The lease that an operation names, in its argument or its answer.
fn lease_name(operation: &Operation) -> Option<&Value> {
    let answered = match &operation.outcome {
        Outcome::Ok(answer) | Outcome::Fail(answer) => answer.field("lease"),
        Outcome::Info => None,
    };
    operation
        .input
        .field("lease")
        .or(answered)
        .filter(|lease| !lease.is_nil())
}

struct NamedLock {
    name: Value,
    fields: Value,
}

/// The field `locks` of an argument or an answer.
fn locks_field(operation: &Operation, value: &Value) -> Result<Option<Vec<NamedLock>>, String> {
    let Some(locks) = value.field("locks") else {
        return Ok(None);
    };
    let refused = || {
        let function = &operation.function;
        format!("`locks` of `{function}` is a list of names or of maps with `name`, not {locks}")
    };
    let mut named = Vec::new();
    for item in locks.as_list().ok_or_else(refused)? {
        let (name, fields) = match item {
            Value::Map(_) => (
                item.field("name").ok_or_else(refused)?.clone(),
                item.clone(),
            ),
            name => (name.clone(), Value::Nil),
        };
        if named.iter().any(|other: &NamedLock| other.name == name) {
            return Err(format!(
                "`locks` of `{}` has {name} twice",
                operation.function
            ));
        }
        named.push(NamedLock { name, fields });
    }
    if named.is_empty() {
        return Err(refused());
    }
    Ok(Some(named))
}

fn number_field(value: &Value, name: &str) -> Result<Option<i64>, String> {
    match value.field(name) {
        None | Some(Value::Nil) => Ok(None),
        Some(Value::Integer(number)) if *number >= 0 => Ok(Some(*number)),
        Some(other) => Err(format!("`{name}` is a whole number from 0, not {other}")),
    }
}

fn count_field(value: &Value, name: &str) -> Result<Option<u32>, String> {
    let count = number_field(value, name)?;
    let refused = |number| format!("`{name}` is at most {}, not {number}", u32::MAX);
    count
        .map(|number| u32::try_from(number).map_err(|_| refused(number)))
        .transpose()
}

/// Turns the operations of one part into calls.
struct Reader<'h> {
    model: &'h Locks,
    history: &'h History,
    specification: LockSpecification,
    /// The lease of a process's last acquire that was granted one on the fly.
    lease_of_client: FxHashMap<u64, u32>,
    /// Grants and renewals, numbered by the deadlines that they give.
    renewals: FxHashMap<OperationId, u32>,
    times: Times,
}

impl Reader<'_> {
    fn order_renewals(&mut self, operations: &[OperationId]) {
        let Some(expiry) = self.model.expiry else {
            return;
        };
        let is_renewal = |id: &OperationId| {
            matches!(&*self.history.operation(*id).function, "acquire" | "renew")
        };
        let mut renewals: Vec<_> = operations.iter().copied().filter(is_renewal).collect();
        renewals.sort_by_cached_key(|&id| {
            let operation = self.history.operation(id);
            let asked = self.history.event(operation.invocation).time_ns;
            let ttl_ms = ttl_ms(operation, expiry).unwrap_or(expiry.ttl_ms);
            (asked.map(|asked| expires_ns(asked, ttl_ms, expiry)), id)
        });
        self.renewals = renewals.into_iter().zip(0..).collect();
    }

    fn renewal(&self, operation: &Operation) -> u32 {
        self.renewals.get(&operation.id).copied().unwrap_or(0)
    }

    fn call(&mut self, operation: &Operation) -> Result<Option<LockCall>, Malformed> {
        let Some(ending) = ending(self.history, operation) else {
            return Ok(None);
        };
        match &*operation.function {
            "acquire" => self.acquire(operation, &ending),
            "release" => self.release(operation, &ending),
            "renew" if self.model.expiry.is_some() => Ok(self.renew(operation, &ending)),
            "revoke" if self.model.expiry.is_some() => Ok(self.revoke(operation, &ending)),
            _ => {
                let functions = match self.model.expiry {
                    Some(_) => "acquire, release, renew and revoke",
                    None => "acquire and release",
                };
                Err(unknown_function(
                    self.history,
                    operation,
                    self.model.name,
                    functions,
                ))
            }
        }
    }

    /// Who an operation is of. Only an acquire may begin a lease on the fly.
    fn holder(&mut self, operation: &Operation) -> u32 {
        let owner = operation
            .input
            .field("owner")
            .or(operation.input.field("client"));
        let leased = self.model.expiry.is_some();
        let named = match lease_name(operation) {
            _ if !self.model.owned => Some(Holder::Anybody),
            Some(lease) => Some(Holder::Lease(lease.clone())),
            None if leased => None,
            None => Some(match owner {
                Some(owner) if !owner.is_nil() => Holder::Owner(owner.clone()),
                _ => Holder::Client(operation.client),
            }),
        };
        let begun = self.lease_of_client.get(&operation.client).copied();
        match (named, begun) {
            (Some(named), _) => {
                let number = self.specification.holders.of(&named);
                if &*operation.function == "acquire" {
                    self.lease_of_client.insert(operation.client, number);
                }
                number
            }
            (None, Some(begun)) if &*operation.function != "acquire" => begun,
            (None, _) => {
                let number = self
                    .specification
                    .holders
                    .of(&Holder::LeaseOf(operation.id));
                if &*operation.function == "acquire" {
                    self.lease_of_client.insert(operation.client, number);
                }
                number
            }
        }
    }

    fn acquire(
        &mut self,
        operation: &Operation,
        ending: &Ending,
    ) -> Result<Option<LockCall>, Malformed> {
        let history = self.history;
        let asked = |problem| malformed(history, operation, problem);
        let answered = |problem| malformed_answer(history, operation, problem);
        let answer = match &operation.outcome {
            Outcome::Ok(answer) => answer.clone(),
            _ => Value::Nil,
        };
        let mut tokens: BTreeMap<Value, i64> = BTreeMap::new();
        for lock in locks_field(operation, &answer)
            .map_err(answered)?
            .unwrap_or_default()
        {
            if let Some(token) = number_field(&lock.fields, "token").map_err(answered)? {
                tokens.insert(lock.name, token);
            }
        }
        let single_token = match &answer {
            Value::Integer(token) => Some(*token),
            answer => number_field(answer, "token").map_err(answered)?,
        };
        let mut grants = Vec::new();
        match locks_field(operation, &operation.input).map_err(asked)? {
            Some(locks) => {
                for lock in locks {
                    let token = tokens.get(&lock.name).copied();
                    let grant = self.grant(&lock.name, &lock.fields, token).map_err(asked)?;
                    grants.push(grant);
                }
            }
            None => {
                let name = operation.key.clone().unwrap_or_default();
                let token = single_token.or_else(|| tokens.get(&name).copied());
                grants.push(self.grant(&name, &operation.input, token).map_err(asked)?);
            }
        }
        grants.sort_by_key(|grant| grant.lock);
        match ending {
            Ending::Ok | Ending::Open => {
                let holder = self.holder(operation);
                let renewal = self.renewal(operation);
                Ok(Some(LockCall::Acquire {
                    holder,
                    grants,
                    renewal,
                }))
            }
            Ending::Refused => {
                if self.model.expiry.is_some() && lease_name(operation).is_none() {
                    // Nobody: it was granted no lease.
                    let holder = self
                        .specification
                        .holders
                        .of(&Holder::LeaseOf(operation.id));
                    return Ok(self.acquire_refused(operation, holder, grants));
                }
                let holder = self.holder(operation);
                Ok(self.acquire_refused(operation, holder, grants))
            }
        }
    }

    fn acquire_refused(
        &self,
        operation: &Operation,
        holder: u32,
        grants: Vec<Grant>,
    ) -> Option<LockCall> {
        let (code, reason) = self.refused_because(operation)?;
        match &*code {
            "lock_held" if reason.is_none_or(|reason| reason == "held") => {
                Some(LockCall::AcquireHeld { holder, grants })
            }
            "already_held" => Some(LockCall::AcquireAlreadyHeld { holder, grants }),
            _ => None,
        }
    }

    /// The error's code, with `_` between words, and its reason.
    fn refused_because(&self, operation: &Operation) -> Option<(String, Option<String>)> {
        let error = self.history.completion(operation)?.error.as_ref()?;
        let code = error
            .as_words()
            .or_else(|| error.field("code")?.as_words())?;
        let reason = error
            .field("reason")
            .and_then(Value::as_words)
            .map(String::from);
        Some((code.replace('-', "_"), reason))
    }

    fn grant(&mut self, name: &Value, fields: &Value, token: Option<i64>) -> Result<Grant, String> {
        let lock = self.specification.locks.of(name);
        let mode = match fields.field("mode") {
            None | Some(Value::Nil) if self.model.modes == LockModes::Permits => "permits",
            None | Some(Value::Nil) => "exclusive",
            Some(mode) => mode.as_words().unwrap_or("no name"),
        };
        let allowed = match self.model.modes {
            LockModes::Exclusive => matches!(mode, "exclusive"),
            LockModes::ReadWrite => matches!(mode, "exclusive" | "shared"),
            LockModes::Permits => matches!(mode, "permits"),
            LockModes::All => matches!(mode, "exclusive" | "shared" | "permits"),
        };
        if !allowed {
            return Err(format!("a {} has no mode {mode:?}", self.model.name));
        }
        let permits = match mode {
            "permits" => Some(count_field(fields, "permits")?.unwrap_or(1)),
            _ => None,
        };
        let limit = count_field(fields, "limit")?.unwrap_or(self.model.limit);
        Ok(Grant {
            lock,
            permits,
            limit,
            shared: mode == "shared",
            token,
        })
    }

    fn release(
        &mut self,
        operation: &Operation,
        ending: &Ending,
    ) -> Result<Option<LockCall>, Malformed> {
        let asked = |problem| malformed(self.history, operation, problem);
        let input = &operation.input;
        let single_token = match input {
            Value::Integer(token) => Some(*token),
            input => number_field(input, "token").map_err(asked)?,
        };
        let permits = count_field(input, "permits").map_err(asked)?;
        let mut locks = Vec::new();
        match locks_field(operation, input).map_err(asked)? {
            Some(named) => {
                for lock in named {
                    let token = number_field(&lock.fields, "token").map_err(asked)?;
                    locks.push((self.specification.locks.of(&lock.name), token));
                }
            }
            None => {
                let name = operation.key.clone().unwrap_or_default();
                locks.push((self.specification.locks.of(&name), single_token));
            }
        }
        if !self.model.fenced {
            locks.iter_mut().for_each(|(_, token)| *token = None);
        }
        let holder = self.holder(operation);
        let was_held = match &operation.outcome {
            Outcome::Ok(answer) => answer.field("was_held") != Some(&Value::Bool(false)),
            _ => true,
        };
        Ok(match ending {
            Ending::Ok if !was_held => Some(LockCall::NotHeld { holder, locks }),
            Ending::Ok | Ending::Open => Some(match locks[..] {
                [(lock, token)] => LockCall::Release {
                    holder,
                    lock,
                    token,
                    permits,
                },
                _ => LockCall::ReleaseSeveral { holder, locks },
            }),
            Ending::Refused => match self.refused_because(operation).as_ref() {
                Some((code, _)) => match &**code {
                    "token_stale" | "not_held" => Some(LockCall::NotHeld { holder, locks }),
                    "lease_ended" | "lease_not_found" => Some(LockCall::Ended { holder }),
                    _ => None,
                },
                None => None,
            },
        })
    }

    fn renew(&mut self, operation: &Operation, ending: &Ending) -> Option<LockCall> {
        let holder = self.holder(operation);
        match ending {
            Ending::Ok | Ending::Open => Some(LockCall::Renew {
                holder,
                renewal: self.renewal(operation),
            }),
            Ending::Refused => self.ended(operation, holder),
        }
    }

    fn revoke(&mut self, operation: &Operation, ending: &Ending) -> Option<LockCall> {
        let holder = self.holder(operation);
        match ending {
            Ending::Ok | Ending::Open => Some(LockCall::Revoke { holder }),
            Ending::Refused => self.ended(operation, holder),
        }
    }

    fn ended(&self, operation: &Operation, holder: u32) -> Option<LockCall> {
        let (code, _) = self.refused_because(operation)?;
        matches!(&*code, "lease_ended" | "lease_not_found").then_some(LockCall::Ended { holder })
    }

    /// An expiry for each grant and renewal, open from the moment on at which it may take effect.
    /// None where the lease is known to have been renewed before that moment: then it never can.
    fn expirations(
        &self,
        expiry: Expiry,
        calls: &[TimedCall<LockCall>],
    ) -> Result<Vec<TimedCall<LockCall>>, Malformed> {
        let mut expirations = Vec::new();
        let mut by_invocation: Vec<&TimedCall<LockCall>> = calls.iter().collect();
        by_invocation.sort_by_key(|timed| std::cmp::Reverse(timed.invoked));
        // By lease: its acquires, and the locks that they asked for.
        let mut acquires: FxHashMap<u32, (u32, usize)> = FxHashMap::default();
        for timed in &by_invocation {
            if let LockCall::Acquire { holder, grants, .. } = &timed.call {
                let (times, locks) = acquires.entry(*holder).or_default();
                *times += 1;
                *locks += grants.len();
            }
        }
        // By lease, going backwards: what makes an expiry before it impossible, or of no account.
        let mut followed: FxHashMap<u32, Follower> = FxHashMap::default();
        for timed in by_invocation {
            let (holder, renewal) = match timed.call {
                LockCall::Acquire {
                    holder, renewal, ..
                }
                | LockCall::Renew { holder, renewal } => (holder, renewal),
                ref call => {
                    let (holder, freed) = match call {
                        LockCall::Release {
                            holder,
                            permits: None,
                            ..
                        } => (*holder, 1),
                        LockCall::ReleaseSeveral { holder, locks } => (*holder, locks.len()),
                        LockCall::Release { holder, .. }
                        | LockCall::NotHeld { holder, .. }
                        | LockCall::Ended { holder }
                        | LockCall::Revoke { holder } => (*holder, 0),
                        _ => continue,
                    };
                    let frees_all = acquires.get(&holder) == Some(&(1, freed));
                    followed.entry(holder).or_insert(Follower {
                        asked: timed.invoked,
                        returned: timed.returned,
                        renewal: frees_all.then_some(u32::MAX),
                    });
                    continue;
                }
            };
            let operation = self.history.operation(timed.origin.operation());
            let refused = |problem: String| malformed(self.history, operation, problem);
            let Some(asked_ns) = self.history.event(operation.invocation).time_ns else {
                return Err(refused(format!(
                    "`{}` has no `time`, without which nobody knows when its lease may expire",
                    operation.function
                )));
            };
            let ttl_ms = ttl_ms(operation, expiry).map_err(refused)?;
            let may_expire = self.times.first_at(expires_ns(asked_ns, ttl_ms, expiry));
            let renewal_after = Follower {
                asked: timed.invoked,
                returned: timed.returned,
                renewal: Some(renewal),
            };
            let follower = followed.insert(holder, renewal_after);
            let Some(may_expire) = may_expire else {
                continue;
            };
            let may_expire = Moment::just_before(may_expire).max(timed.invoked);
            let superseded = follower.is_some_and(|follower| {
                follower.renewal.is_some_and(|next| next > renewal)
                    && timed.returned.is_some_and(|mine| mine < follower.asked)
                    && follower
                        .returned
                        .is_some_and(|returned| returned < may_expire)
            });
            if !superseded {
                expirations.push(TimedCall {
                    call: LockCall::Expire { holder, renewal },
                    origin: Origin::Derived(operation.id),
                    invoked: may_expire,
                    returned: None,
                });
            }
        }
        expirations.reverse();
        Ok(expirations)
    }
}

/// What a lease did next.
#[derive(Clone, Copy)]
struct Follower {
    asked: Moment,
    returned: Option<Moment>,
    /// It was renewed, and this is the renewal's number; or all that it ever held was given back,
    /// and it did nothing any more: more than any number.
    renewal: Option<u32>,
}

/// The time to live that an operation's answer states, or its argument, or everybody's.
fn ttl_ms(operation: &Operation, expiry: Expiry) -> Result<u64, String> {
    let answered = match &operation.outcome {
        Outcome::Ok(answer) => number_field(answer, "ttl_ms")?,
        _ => None,
    };
    let stated = match answered {
        Some(ttl_ms) => Some(ttl_ms),
        None => number_field(&operation.input, "ttl_ms")?,
    };
    Ok(stated
        .and_then(|ttl_ms| u64::try_from(ttl_ms).ok())
        .unwrap_or(expiry.ttl_ms))
}

fn expires_ns(asked_ns: u64, ttl_ms: u64, expiry: Expiry) -> u64 {
    // A millisecond is a million nanoseconds, so the millionths cancel out.
    let kept_millionths = 1_000_000u64.saturating_sub(expiry.rho_millionths);
    asked_ns.saturating_add(ttl_ms.saturating_mul(kept_millionths))
}

/// Which event of a part is the first at or after a time.
struct Times {
    /// The largest time up to an event, and the event; both rising.
    reached: Vec<(u64, EventIndex)>,
}

impl Times {
    fn new(history: &History, operations: &[OperationId]) -> Self {
        let mut events: Vec<EventIndex> = operations
            .iter()
            .map(|&id| history.operation(id))
            .flat_map(|operation| std::iter::once(operation.invocation).chain(operation.completion))
            .collect();
        events.sort_unstable();
        let mut reached: Vec<(u64, EventIndex)> = Vec::new();
        for index in events {
            let Some(time_ns) = history.event(index).time_ns else {
                continue;
            };
            if reached.last().is_none_or(|(latest, _)| time_ns > *latest) {
                reached.push((time_ns, index));
            }
        }
        Times { reached }
    }

    fn first_at(&self, time_ns: u64) -> Option<EventIndex> {
        let at = self
            .reached
            .partition_point(|(reached, _)| *reached < time_ns);
        self.reached.get(at).map(|(_, index)| *index)
    }
}

/// Exclusive locks whose grants have known, different tokens: the order of the tokens is the
/// order of the grants, and between two there has to be the release of the first. So only one order is
/// possible, and it is checked against the intervals. Applies where nobody does two things at a
/// time, so that every release has its grant, and there is only one lock.
fn unique_tokens(calls: &[TimedCall<LockCall>]) -> Theory {
    let by = Method::UniqueTokens;
    let mut by_holder: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (index, timed) in (0u32..).zip(calls) {
        match &timed.call {
            LockCall::Acquire { holder, grants, .. } => match grants[..] {
                [
                    Grant {
                        lock: 0,
                        shared: false,
                        permits: None,
                        token,
                        ..
                    },
                ] if token.is_some() || timed.returned.is_none() => {
                    by_holder.entry(*holder).or_default().push(index);
                }
                _ => return Theory::Silent,
            },
            LockCall::Release {
                holder,
                lock: 0,
                permits: None,
                ..
            } => {
                by_holder.entry(*holder).or_default().push(index);
            }
            _ => return Theory::Silent,
        }
    }
    // Token, grant, release.
    let mut tenures: Vec<(i64, u32, Option<u32>)> = Vec::new();
    for indexes in by_holder.values_mut() {
        indexes.sort_by_key(|&index| calls[index as usize].invoked);
        let mut holding = None;
        for (place, &index) in indexes.iter().enumerate() {
            let timed = &calls[index as usize];
            let next = indexes
                .get(place + 1)
                .map(|&next| calls[next as usize].invoked);
            if next.is_some_and(|next| timed.returned.is_none_or(|returned| returned > next)) {
                return Theory::Silent;
            }
            match (&timed.call, holding) {
                // Nobody can tell whether it happened, and it can only be in the way.
                (LockCall::Acquire { .. }, _) if timed.returned.is_none() => {}
                (LockCall::Acquire { grants, .. }, None) => {
                    let Some(token) = grants[0].token else {
                        return Theory::Silent;
                    };
                    holding = Some(tenures.len());
                    tenures.push((token, index, None));
                }
                (LockCall::Release { token, .. }, Some(tenure)) => {
                    let (granted, _, release): &mut (i64, u32, Option<u32>) = &mut tenures[tenure];
                    if token.is_some_and(|token| token != *granted) {
                        // Refused for ever, which matters only if it happened.
                        if timed.returned.is_some() {
                            return Theory::Impossible { by };
                        }
                    } else {
                        *release = Some(index);
                    }
                    holding = None;
                }
                (LockCall::Release { .. }, None) if timed.returned.is_none() => {}
                // Acquired twice, or released what it does not hold.
                _ => return Theory::Impossible { by },
            }
        }
    }
    tenures.sort_unstable();
    let last = tenures.len().saturating_sub(1);
    let mut order = Vec::with_capacity(calls.len());
    for (place, (token, grant, release)) in tenures.iter().enumerate() {
        if *token <= 0 || place > 0 && tenures[place - 1].0 == *token {
            return Theory::Impossible { by };
        }
        order.push(*grant);
        match release {
            Some(release) if place < last || calls[*release as usize].returned.is_some() => {
                order.push(*release);
            }
            Some(_) => {}
            // Never given back, and yet granted again.
            None if place < last => return Theory::Impossible { by },
            None => {}
        }
    }
    let mut latest = None;
    for &index in &order {
        let timed = &calls[index as usize];
        latest = latest.max(Some(timed.invoked));
        if timed
            .returned
            .is_some_and(|returned| Some(returned) < latest)
        {
            return Theory::Impossible { by };
        }
    }
    Theory::Order { order, by }
}
