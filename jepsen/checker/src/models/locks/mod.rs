//! Locks: one specification of who holds what, and models that differ in what they allow. Waiting
//! is not in it: a grant takes effect when it is made, and anybody may be granted what is free.

mod expiry;
mod read;
mod specification;
mod theory;

pub use expiry::Expiry;
pub use specification::{Grant, LockCall, LockSpecification, LockTable, TimeToLive};

use crate::{History, Malformed, Model, Operation, OperationId, Problem, Value};

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
/// `already_held`, held by its own holder; a release with `token_stale` or `not_held`, its holder without
/// the lock (or that many permits); with leases, a release, renewal or revocation with `lease_ended` or
/// `lease_not_found`, its lease without any lock. Anything else tells nothing. A release that answers
/// `was_held: false` saw its holder without the lock, too.
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

impl Model for Locks {
    type Specification = LockSpecification;

    fn name(&self) -> &'static str {
        self.name
    }

    fn objects(&self, _: &History, operation: &Operation) -> Result<Vec<Value>, String> {
        let named = read::locks_field(operation, &operation.input)?;
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
            let lease = read::lease_name(operation);
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
        read::problem(self, history, operations)
    }
}
