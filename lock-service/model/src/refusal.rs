//! Every way in which the model says no. A refusal is an ordinary answer, the same on every node,
//! never an error of the node; it changes nothing but what is remembered about the request.

use serde::{Deserialize, Serialize};

use crate::{LeaseEnd, LeaseId, LockName, Owner, Position, RequestId, SettingsError, Token};

/// A part of a command whose size is bounded by a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Field {
    /// A lock name.
    LockName,
    /// The owner of a lease.
    Owner,
    /// The metadata of a lease.
    Metadata,
    /// The value of a holder.
    Value,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LockName => "lock name",
            Self::Owner => "owner",
            Self::Metadata => "metadata",
            Self::Value => "value",
        })
    }
}

/// A number of things that a setting (or, for tokens, 2^53) bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Limit {
    /// Live leases: the setting `leases_max`.
    Leases,
    /// Live and remembered leases: the setting `tombstones_max`. Time frees room.
    Tombstones,
    /// Existing locks: the setting `locks_max`.
    Locks,
    /// Requests that wait for one lock: the setting `queue_max`.
    Queue,
    /// Locks that one lease holds or waits for: the setting `locks_per_lease_max`.
    LocksPerLease,
    /// Fencing tokens: none can be larger than [`Token::MAX`].
    Tokens,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Leases => "live leases (leases_max)",
            Self::Tombstones => "leases to remember (tombstones_max)",
            Self::Locks => "locks (locks_max)",
            Self::Queue => "waiters of one lock (queue_max)",
            Self::LocksPerLease => "locks of one lease (locks_per_lease_max)",
            Self::Tokens => "fencing tokens",
        })
    }
}

/// Why a lock could not be taken by a try, or not yet be granted to the first in its queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockHeldReason {
    /// A lease holds it.
    Held {
        /// The holder.
        lease: LeaseId,
        /// Who took that lease.
        owner: Owner,
    },
    /// It could be granted, and others wait for it that could not be granted yet.
    Queued,
    /// It is free, and the delay runs that its last holder asked for.
    Delayed {
        /// How long yet, in milliseconds of the cluster clock.
        remaining_ms: u64,
    },
    /// It is free, and held back: its last holder, whose lease somebody else ended, may not know.
    HeldBack {
        /// How long yet, in milliseconds of the cluster clock.
        remaining_ms: u64,
    },
}

/// Why a command had no effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The state has not been founded.
    #[error("the cluster has not been founded yet")]
    Unfounded,
    /// The entry's index is not above that of the last entry. The caller fed the model wrongly; a
    /// node that sees this must stop.
    #[error("entry {index} was applied after entry {last}")]
    EntryOutOfOrder {
        /// The index of the entry.
        index: u64,
        /// The index of the last entry that was applied.
        last: u64,
    },
    /// Settings that make no sense.
    #[error("{0}")]
    InvalidSettings(SettingsError),
    /// A token floor above [`Token::MAX`].
    #[error("the token floor {given} is above the largest token, {}", Token::MAX)]
    TokenFloorTooHigh {
        /// The floor that was given.
        given: Token,
    },
    /// A part of the command is larger than a setting allows.
    #[error("the {field} has {bytes} bytes, at most {max_bytes} are allowed")]
    TooLong {
        /// Which part.
        field: Field,
        /// Its length in bytes.
        bytes: u64,
        /// The longest allowed.
        max_bytes: u64,
    },
    /// An acquire that names no lock, or more than a lease can hold.
    #[error("the request names {given} locks, it must name 1 to {max}")]
    LockCount {
        /// How many it names.
        given: u64,
        /// How many it can name: the setting `locks_per_lease_max`.
        max: u64,
    },
    /// A release that names no token, or more than a lease can hold.
    #[error("the release names {given} tokens, it must name 1 to {max}")]
    TokenCount {
        /// How many it names.
        given: u64,
        /// How many it can name: the setting `locks_per_lease_max`.
        max: u64,
    },
    /// A TTL outside the settings' bounds.
    #[error("the TTL of {given_ms} ms is outside {min_ms} to {max_ms} ms")]
    TtlOutOfBounds {
        /// The TTL that was given.
        given_ms: u64,
        /// The shortest allowed.
        min_ms: u64,
        /// The longest allowed.
        max_ms: u64,
    },
    /// The lease exists with another TTL; a TTL is fixed when the lease is made.
    #[error(
        "the lease was made with a TTL of {fixed_ms} ms, which cannot be changed to {given_ms} ms"
    )]
    TtlDiffers {
        /// The TTL that was given.
        given_ms: u64,
        /// The TTL of the lease.
        fixed_ms: u64,
    },
    /// A lease of this id exists and was made otherwise.
    #[error("a lease of this id exists and was made with other words; choose another secret")]
    LeaseExists,
    /// The request id was used for another request of this lease.
    #[error("this request id was used for a different request; a new request needs a new id")]
    RequestMismatch,
    /// A limit is reached. Nothing is remembered: the same request can be repeated later.
    #[error("the limit of {max} {limit} is reached")]
    LimitReached {
        /// Of what.
        limit: Limit,
        /// How many there can be.
        max: u64,
    },
    /// A try for a lock that is not free. Remembered: a repeat gets the same answer.
    #[error("the lock {lock} is not free")]
    LockHeld {
        /// Which lock.
        lock: LockName,
        /// Why it is not free.
        reason: LockHeldReason,
        /// How many wait for it.
        queue_length: u64,
    },
    /// This lease holds the lock through another request. Remembered.
    #[error("this lease already holds the lock {lock}, with token {token}")]
    AlreadyHeld {
        /// Which lock.
        lock: LockName,
        /// The token of the hold.
        token: Token,
    },
    /// This lease waits for the lock through another request. Remembered.
    #[error("this lease already waits for the lock {lock}, with request {request}")]
    AlreadyWaiting {
        /// Which lock.
        lock: LockName,
        /// The request that waits.
        request: RequestId,
        /// Where it was queued.
        queued_position: Position,
    },
    /// The request was granted once, and the grant has ended. Remembered.
    #[error("this request was granted with token {token}, and that grant has ended")]
    GrantEnded {
        /// The token of the grant.
        token: Token,
    },
    /// The request waited until its deadline. Remembered.
    #[error("this request waited until its deadline")]
    WaitTimedOut,
    /// The request was cancelled, perhaps before it arrived. Remembered.
    #[error("this request was cancelled")]
    Cancelled,
    /// The lease has ended, not long ago.
    #[error("the lease has ended: {how}")]
    LeaseEnded {
        /// How it ended.
        how: LeaseEnd,
    },
    /// There is no such lease, or it ended so long ago that it is forgotten.
    #[error("there is no such lease; it may have ended long ago")]
    LeaseNotFound,
    /// The lease does not hold under this token, and is not remembered to have. Nothing was
    /// changed.
    #[error("the lease does not hold this under token {token}; nothing was changed")]
    TokenStale {
        /// The first such token of the command.
        token: Token,
    },
    /// An acquire that names a lock twice.
    #[error("the request names the lock {lock} more than once")]
    LockNamedTwice {
        /// Which lock.
        lock: LockName,
    },
    /// No permits, or more than there are.
    #[error("the request asks for {permits} permits of {limit}, it must ask for 1 to {limit}")]
    PermitsOutOfBounds {
        /// Which lock.
        lock: LockName,
        /// How many it asks for.
        permits: u32,
        /// How many there are.
        limit: u32,
    },
    /// A lock delay longer than the setting `lock_delay_max_ms`.
    #[error("the lock delay of {given_ms} ms is longer than {max_ms} ms")]
    LockDelayTooLong {
        /// The delay that was given.
        given_ms: u64,
        /// The longest allowed.
        max_ms: u64,
    },
    /// The lock exists with permits and the request wants it without, the other way round, or with
    /// another limit. Remembered.
    #[error("the lock {lock} is in use {}, the request wants it {}", in_words(.existing), in_words(.wanted))]
    ModeMismatch {
        /// Which lock.
        lock: LockName,
        /// How many permits it has; `None` for a lock without.
        existing: Option<u32>,
        /// How many the request says that it has.
        wanted: Option<u32>,
    },
    /// The cluster was restored from a backup, and what was granted after the backup may still be
    /// held. Nothing is remembered: the same request can be repeated later.
    #[error("nothing is granted for another {remaining_ms} ms after a restore")]
    HeldBack {
        /// How long yet, in milliseconds of the cluster clock.
        remaining_ms: u64,
    },
    /// A model version below the one in force.
    #[error("the model version is {current} and cannot go back to {given}")]
    ModelVersionGoesBack {
        /// The version in force.
        current: u32,
        /// The version given.
        given: u32,
    },
}

fn in_words(limit: &Option<u32>) -> String {
    match limit {
        Some(limit) => format!("with {limit} permits"),
        None => "without permits".to_owned(),
    }
}
