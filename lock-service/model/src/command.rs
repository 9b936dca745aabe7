//! What a log entry can ask of the model. Never the body of an HTTP request: that is another
//! format with another life.
//!
//! The encoding of a command is a disk format: variants and fields are **append-only**. A variant
//! is never removed or moved, a field never added to an existing variant; a new meaning is a new
//! variant, gated by the model version.

use serde::{Deserialize, Serialize};

use crate::{
    BodyHash, ClusterId, LeaseId, LockName, Metadata, Owner, RequestId, Settings, Timestamp, Token,
    Value,
};

/// Where a command stands in the log, and when the leader stamped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The Raft log index. Larger than that of every entry applied before.
    pub index: u64,
    /// The leader's stamp, milliseconds of the logical cluster clock. The model never goes back:
    /// it uses the larger of this and its own clock.
    pub now: Timestamp,
}

/// The meaning of `apply`. Kept in the state, so that all nodes change it at the same entry.
///
/// A version that this build does not know cannot be decoded, so that a node stops rather than
/// apply an entry whose meaning it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub enum ModelVersion {
    /// The first.
    V1,
}

/// A model version that this build does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("model version {0} is not known to this build; use a newer one")]
pub struct UnknownModelVersion(pub u32);

impl ModelVersion {
    /// The newest that this build knows.
    pub const LATEST: Self = Self::V1;
}

impl From<ModelVersion> for u32 {
    fn from(version: ModelVersion) -> Self {
        match version {
            ModelVersion::V1 => 1,
        }
    }
}

impl TryFrom<u32> for ModelVersion {
    type Error = UnknownModelVersion;

    fn try_from(number: u32) -> Result<Self, UnknownModelVersion> {
        match number {
            1 => Ok(Self::V1),
            other => Err(UnknownModelVersion(other)),
        }
    }
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// By one lease and nobody beside it.
    Exclusive,
    /// By any number of leases at once. They have one token, that of the first of them.
    Shared,
    /// By as many leases as there are permits for, each under a token of its own.
    Permits {
        /// How many of the permits are taken; from 1 to `limit`.
        permits: u32,
        /// How many there are. While the lock exists, all its holders and waiters name the same.
        limit: u32,
    },
}

impl Mode {
    /// How many permits the lock has; `None` for a lock that has none, which is held exclusively or
    /// shared.
    #[must_use]
    pub fn limit(self) -> Option<u32> {
        match self {
            Self::Exclusive | Self::Shared => None,
            Self::Permits { limit, .. } => Some(limit),
        }
    }
}

/// One lock of an acquire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRequest {
    /// Which lock.
    pub lock: LockName,
    /// How it is to be held.
    pub mode: Mode,
}

/// A request to hold locks: now, or within a wait.
///
/// Repeating it (the same `lease` and `request`) never has a second effect: it answers what the
/// first answered, while what was granted lives; see [`Refusal`](crate::Refusal) for what after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquire {
    /// The lease to hold with. If there is none of this id, the acquire makes one on the fly.
    pub lease: LeaseId,
    /// The client's name for this request.
    pub request: RequestId,
    /// What must be the same in every repeat of the request.
    pub body: BodyHash,
    /// The locks, each once, in any order: at most as many as the setting `locks_per_lease_max`.
    /// They are granted together or not at all.
    pub locks: Vec<LockRequest>,
    /// The lease's TTL in milliseconds. When the lease exists it must be the lease's own, or
    /// `None`; `None` for a new lease means the setting `ttl_default_ms`.
    pub ttl_ms: Option<u64>,
    /// The owner of the lease, if this makes one; an existing lease keeps its own.
    pub owner: Owner,
    /// How long to wait in the queue, in milliseconds of the cluster clock; 0 only tries. Cut to
    /// the setting `wait_max_ms`.
    pub wait_ms: u64,
    /// What the holder publishes while it holds, with each of the locks.
    pub value: Option<Value>,
    /// How long each of the locks stays ungrantable when the lease dies otherwise than by its own
    /// secret, in milliseconds of the cluster clock; 0 for not at all. At most the setting
    /// `lock_delay_max_ms`.
    pub lock_delay_ms: u64,
}

/// One command: what one log entry holds. Renewals that arrived together are one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Makes an unfounded state usable; a founded one answers what it is and does nothing.
    Found {
        /// The name of the cluster.
        cluster_id: ClusterId,
        /// Every token will be larger than this.
        token_floor: Token,
        /// The first settings.
        settings: Settings,
        /// The first meaning of `apply`.
        model_version: ModelVersion,
    },
    /// Lets time pass.
    Tick,
    /// Makes an explicit lease: it lives from now for its TTL, also without holding anything.
    /// Repeating it answers the same and moves no deadline.
    OpenLease {
        /// Its id.
        lease: LeaseId,
        /// Its TTL in milliseconds, fixed for its life.
        ttl_ms: u64,
        /// Who takes it.
        owner: Owner,
        /// What else its maker says about it.
        metadata: Metadata,
    },
    /// Takes locks, or queues for them.
    Acquire(Acquire),
    /// Renews each of these leases. Executed every time, never deduplicated; one answer each, in
    /// this order.
    Renew {
        /// Which; several requests may travel in one command.
        leases: Vec<LeaseId>,
    },
    /// Gives up what the lease holds under these tokens, all or nothing.
    Release {
        /// The holder.
        lease: LeaseId,
        /// The tokens of its grants.
        tokens: Vec<Token>,
    },
    /// Takes a request back: out of the queue; released if it was granted meanwhile; refused in
    /// advance if it has not arrived yet.
    Cancel {
        /// The lease of the request.
        lease: LeaseId,
        /// The request.
        request: RequestId,
    },
    /// Ends a lease by the hand of its own secret: everything that it holds is free at once.
    Revoke {
        /// Which.
        lease: LeaseId,
    },
    /// Changes what a holder publishes. Executed every time.
    Update {
        /// The holder.
        lease: LeaseId,
        /// The token of its grant.
        token: Token,
        /// What it publishes from now on with the lock that it holds under this token.
        value: Option<Value>,
    },
    /// Ends the lease that holds a lock, by somebody else's hand. Names the lock, its token and its
    /// lease, so that it cannot hit the next holder or a fellow sharer.
    ForceRelease {
        /// The lock.
        lock: LockName,
        /// The token that it is held under.
        token: Token,
        /// The holder.
        lease: LeaseId,
        /// Whether all that the lease held is free at once. Otherwise it is held back until the
        /// lease's deadline and then for its lock delay, because the old holder may not know.
        now: bool,
    },
    /// Ends a lease by somebody else's hand.
    RevokeById {
        /// Which.
        lease: LeaseId,
        /// As for [`Command::ForceRelease`].
        now: bool,
    },
    /// Puts other settings in the place of all of these. They hold for what comes; what exists
    /// beyond them stays until it ends.
    ChangeSettings {
        /// The new settings.
        settings: Settings,
    },
    /// Changes the meaning of `apply` from the next entry on; never back.
    RaiseModelVersion {
        /// The new meaning. All members must know it: a node that does not stops here.
        model_version: ModelVersion,
    },
    /// Makes a new cluster of a state that comes from a backup: ends every lease and wait, raises
    /// the token counter, grants nothing for a while. Repeating it does nothing.
    Restore {
        /// The name of the new cluster.
        cluster_id: ClusterId,
        /// Every new token will be larger than this, and than all of the old cluster that the
        /// backup knows.
        token_floor: Token,
        /// How long nothing is granted, in milliseconds of the cluster clock: locks that were
        /// granted after the backup may still be held.
        hold_ms: u64,
    },
}
