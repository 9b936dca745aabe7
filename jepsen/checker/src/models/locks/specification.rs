//! Which grants, releases and renewals are legal, and what they lead to. It knows no operations.

use super::theory::unique_tokens;
use crate::models::{Numbers, abbreviated};
use crate::{OperationId, Specification, Step, Theory, TimedCall, Value};

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
    /// Saw one of these not held by the holder, or fewer permits.
    NotHeld {
        /// By whom.
        holder: u32,
        /// What, with tokens as far as they are known.
        locks: Vec<(u32, Option<i64>)>,
        /// How many permits of each; any without.
        permits: Option<u32>,
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

    /// The smallest number that the lock's last token can be; 0 before the first.
    fn last_token(&self, lock: u32) -> i64 {
        let at = self.tokens.binary_search_by_key(&lock, |(lock, _)| *lock);
        at.map_or(0, |at| self.tokens[at].1)
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

/// The specification of all `Locks`.
#[derive(Clone, Debug)]
pub struct LockSpecification {
    repeatable: bool,
    fenced: bool,
    leased: bool,
    pub(super) locks: Numbers<Value>,
    pub(super) holders: Numbers<Holder>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    Anybody,
    Client(u64),
    Owner(Value),
    Lease(Value),
    /// The lease that an acquire was granted on the fly.
    LeaseOf(OperationId),
}

impl LockSpecification {
    pub(super) fn new(repeatable: bool, fenced: bool, leased: bool) -> Self {
        let (locks, holders) = (Numbers::new(), Numbers::new());
        LockSpecification {
            repeatable,
            fenced,
            leased,
            locks,
            holders,
        }
    }

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
        let floor = table.last_token(grant.lock);
        let sharers = || table.holders(grant.lock).filter(|held| held.shared);
        // Whoever is in the way is named: the witness sees by it whether an expiry helps.
        let sharers_words = || {
            let names: Vec<_> = sharers().map(|held| self.holder(held.holder)).collect();
            names.join(", ")
        };
        let joined = sharers()
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
                "token {token} is not {shared}, which the other sharers have: {}",
                sharers_words()
            )),
            (Some(None), Some(token)) => Err(format!(
                "token {token} is below {floor}, which the last one reached, and this is shared by {}",
                sharers_words()
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
            LockCall::NotHeld {
                holder,
                locks,
                permits,
            } => {
                let holds = |&lock| self.release(table, *holder, lock, *permits).is_ok();
                if locks.iter().all(holds) {
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

    fn is_guided(&self) -> bool {
        self.fenced
    }

    /// Tokens only rise, and a lease that ended stays so.
    fn reaches(&mut self, state: &LockTable, call: &LockCall) -> bool {
        let ended = |holder| self.leased && state.lease(holder) == Some(TimeToLive::Ended);
        match call {
            LockCall::Acquire { holder, grants, .. } => {
                let is_past = |grant: &Grant| {
                    let last = state.last_token(grant.lock);
                    grant
                        .token
                        .is_some_and(|token| token < last || token == last && !grant.shared)
                };
                let too_late = self.fenced && grants.iter().any(is_past);
                !ended(*holder) && !too_late
            }
            LockCall::Renew { holder, .. } => !ended(*holder),
            _ => true,
        }
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
        abbreviated(
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
            LockCall::NotHeld { holder, locks, .. } => {
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
