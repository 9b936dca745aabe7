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

/// Why a lock could not be taken by a try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockHeldReason {
    /// A lease holds it.
    Held {
        /// The holder.
        lease: LeaseId,
        /// Who took that lease.
        owner: Owner,
    },
    /// It is free, and others wait for it that could not be granted yet.
    Queued,
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
    /// An acquire that names no lock, or more than one.
    #[error("the request names {given} locks, it must name exactly one")]
    LockCount {
        /// How many it names.
        given: u64,
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
    /// released.
    #[error("the lease does not hold anything under token {token}; nothing was released")]
    TokenStale {
        /// The first such token of the release.
        token: Token,
    },
}
