//! What happened, as told to whoever listens. Events carry all that a node needs to answer a client
//! that is parked on it, whichever node proposed the entry.

use serde::{Deserialize, Serialize};

use crate::{LeaseId, LockName, Mode, Owner, Position, RequestId, Timestamp, Token};

/// Something that happened at a position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Where it stands; every event has its own.
    pub position: Position,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to one lock. The encoding is a disk format: append-only, as commands are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// A request was queued.
    Queued {
        /// Its lock.
        lock: LockName,
        /// Its lease.
        lease: LeaseId,
        /// Who took that lease.
        owner: Owner,
        /// The request.
        request: RequestId,
        /// How the lock is to be held.
        mode: Mode,
        /// The position of its answer, which is its place in the queue.
        queued_position: Position,
        /// Until when it waits, in cluster time.
        deadline: Timestamp,
    },
    /// A request got its lock, at once or after a wait.
    Granted {
        /// Its lock.
        lock: LockName,
        /// Its lease.
        lease: LeaseId,
        /// Who took that lease.
        owner: Owner,
        /// The request.
        request: RequestId,
        /// How it holds the lock.
        mode: Mode,
        /// The fencing token.
        token: Token,
        /// Its place in the queue; the position of its answer if it never had to wait.
        queued_position: Position,
        /// The TTL of the lease, in milliseconds.
        ttl_ms: u64,
        /// What remained of it, in milliseconds of the cluster clock.
        remaining_ms: u64,
    },
    /// A request left the queue without a grant.
    WaitEnded {
        /// Its lock.
        lock: LockName,
        /// Its lease.
        lease: LeaseId,
        /// The request.
        request: RequestId,
        /// The place that it had.
        queued_position: Position,
        /// Why.
        reason: WaitEnd,
    },
    /// A lock was given up by whoever has the secret of the holder's lease.
    Released {
        /// The lock.
        lock: LockName,
        /// The former holder.
        lease: LeaseId,
        /// The token that it held under.
        token: Token,
        /// By which command.
        by: ReleasedBy,
    },
    /// A lock was lost because the holder's lease ran out.
    Expired {
        /// The lock.
        lock: LockName,
        /// The former holder.
        lease: LeaseId,
        /// The token that it held under.
        token: Token,
    },
    /// A lock was lost because the holder's lease was ended by somebody else's hand.
    Forced {
        /// The lock.
        lock: LockName,
        /// The former holder.
        lease: LeaseId,
        /// The token that it held under.
        token: Token,
        /// What ended the lease.
        how: LeaseEnd,
        /// Until when the lock is held back, in cluster time; not after now for not at all.
        held_back_until: Timestamp,
    },
    /// A holder changed what it publishes.
    Updated {
        /// The lock.
        lock: LockName,
        /// The holder.
        lease: LeaseId,
        /// The token that it holds under.
        token: Token,
    },
}

impl EventKind {
    /// The lock that the event is about.
    #[must_use]
    pub fn lock(&self) -> &LockName {
        match self {
            Self::Queued { lock, .. }
            | Self::Granted { lock, .. }
            | Self::WaitEnded { lock, .. }
            | Self::Released { lock, .. }
            | Self::Expired { lock, .. }
            | Self::Forced { lock, .. }
            | Self::Updated { lock, .. } => lock,
        }
    }

    /// The lease that the event is about.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        match self {
            Self::Queued { lease, .. }
            | Self::Granted { lease, .. }
            | Self::WaitEnded { lease, .. }
            | Self::Released { lease, .. }
            | Self::Expired { lease, .. }
            | Self::Forced { lease, .. }
            | Self::Updated { lease, .. } => *lease,
        }
    }
}

/// Why a wait ended without a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WaitEnd {
    /// Its deadline came.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// Its lease ended.
    LeaseEnded {
        /// How.
        how: LeaseEnd,
    },
}

/// Which command gave a lock up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReleasedBy {
    /// A release of its token.
    Release,
    /// A cancel of its request, which came after the grant.
    Cancel,
    /// A revocation of its lease, by the lease's secret.
    Revoke,
}

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LeaseEnd {
    /// Its deadline came.
    Expired,
    /// It was revoked, by its secret.
    Revoked,
    /// It had been made by an acquire, and neither held nor waited any more.
    Unused,
    /// A request of it was cancelled before there was such a lease.
    CancelledBefore,
    /// A lock that it held was released by force.
    Forced,
    /// It was revoked by its id.
    RevokedById,
    /// The cluster was restored from a backup.
    Restored,
}

impl std::fmt::Display for LeaseEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Expired => "it expired",
            Self::Revoked => "it was revoked",
            Self::Unused => "it was made by an acquire and neither holds nor waits any more",
            Self::CancelledBefore => "a request of it was cancelled before it was made",
            Self::Forced => "a lock of it was released by force",
            Self::RevokedById => "it was revoked by its id",
            Self::Restored => "the cluster was restored from a backup",
        })
    }
}
