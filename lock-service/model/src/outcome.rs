//! What `apply` gives back: a response, and the events that the entry caused.

use serde::{Deserialize, Serialize};

use crate::{
    ClusterId, Event, LeaseId, LockName, Mode, ModelVersion, Position, Refusal, RequestId,
    Timestamp, Token,
};

/// All that one entry caused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Where the response stands (for renewals: the first of them). Events with a smaller position
    /// happened before the command ran: they were due.
    pub position: Position,
    /// The answer to the command.
    pub response: Response,
    /// What happened, in order, each at its own position.
    pub events: Vec<Event>,
    /// Whether something was due that this entry was not allowed to end any more. The leader then
    /// proposes a `Tick` at once.
    pub more_due: bool,
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To `Found`: the state is founded.
    Founded {
        /// As what. When `repeated`, this may be another id than the one proposed.
        cluster_id: ClusterId,
        /// Whether it had been founded before.
        repeated: bool,
    },
    /// To `Tick`.
    Ticked,
    /// To `OpenLease`: the lease exists.
    LeaseOpened {
        /// Its TTL, in milliseconds.
        ttl_ms: u64,
        /// What remains of it, in milliseconds of the cluster clock.
        remaining_ms: u64,
        /// Whether it existed before; then its deadline was not moved.
        repeated: bool,
    },
    /// To `Acquire`: the lease holds the locks.
    Granted(Granted),
    /// To `Acquire`: the request waits.
    Queued(Queued),
    /// To `Renew`: one answer for each lease named, in the order named.
    Renewed(Vec<Renewal>),
    /// To `Release`: the lease does not hold under any of these tokens any more.
    Released(Vec<Released>),
    /// To `Cancel`: the request neither holds nor waits any more, nor will.
    Cancelled(Cancelled),
    /// To `Revoke`: the lease has ended.
    Revoked {
        /// Whether it was live until now.
        was_live: bool,
        /// What it held until now.
        released: Vec<Grant>,
    },
    /// To any: no, and why.
    Refused(Refusal),
    /// To `Update`: the holder publishes the new value.
    Updated {
        /// The lock.
        lock: LockName,
    },
    /// To `ForceRelease` and `RevokeById`: the lease has ended.
    Ended {
        /// Whether it was live until now.
        was_live: bool,
        /// What it held until now.
        released: Vec<Grant>,
        /// How long the last of these locks is held back, in milliseconds of the cluster clock.
        held_back_ms: u64,
    },
    /// To `ChangeSettings`: they are in force.
    SettingsChanged,
    /// To `RaiseModelVersion`: `apply` means this, from the next entry on.
    ModelVersionRaised {
        /// The version.
        model_version: ModelVersion,
        /// Whether it did so before.
        repeated: bool,
    },
    /// To `Restore`: this is the new cluster.
    Restored {
        /// Its name.
        cluster_id: ClusterId,
        /// The token counter: every token from now on is larger.
        token_counter: Token,
        /// How long nothing is granted, in milliseconds of the cluster clock.
        hold_ms: u64,
        /// Whether it had been restored before.
        repeated: bool,
    },
}

/// A lock, and the fencing token that it is held under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which lock.
    pub lock: LockName,
    /// The token.
    pub token: Token,
    /// How it is held.
    pub mode: Mode,
}

/// A request that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// What it holds, locks by name.
    pub grants: Vec<Grant>,
    /// The TTL of the lease, in milliseconds.
    pub ttl_ms: u64,
    /// What remains of it, in milliseconds of the cluster clock.
    pub remaining_ms: u64,
    /// Where the request entered the queue; the response's own position if it never had to wait.
    pub queued_position: Position,
    /// Whether the request had been granted before. Then no deadline was moved: a client renews
    /// first and believes afterwards.
    pub repeated: bool,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// How many wait before it (for several locks: in the longest queue).
    pub ahead: u64,
    /// Where it entered the queue.
    pub queued_position: Position,
    /// Until when it waits, in cluster time.
    pub deadline: Timestamp,
    /// How long that is from now, in milliseconds of the cluster clock.
    pub remaining_ms: u64,
    /// Whether it waited before. Then its place and its deadline are what they were.
    pub repeated: bool,
}

/// The answer to the renewal of one lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// Which lease.
    pub lease: LeaseId,
    /// Where this answer stands.
    pub position: Position,
    /// What was renewed, or why not.
    pub result: Result<Renewed, Refusal>,
}

/// A lease that was renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// Its TTL, in milliseconds.
    pub ttl_ms: u64,
    /// What remains of it, in milliseconds of the cluster clock; more than the TTL for a lease that
    /// an acquire made with a longer wait.
    pub remaining_ms: u64,
    /// What it holds, locks by name.
    pub holds: Vec<Grant>,
    /// What it waits for, in the order of queueing.
    pub waits: Vec<RequestId>,
}

/// One token of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// The token.
    pub token: Token,
    /// Whether the lease held under it until this release.
    pub was_held: bool,
}

/// What a cancel found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cancelled {
    /// The request waited; it has left its queues.
    Waiting,
    /// The request held; its locks are released.
    Granted {
        /// What it held.
        released: Vec<Grant>,
    },
    /// The request had been decided already: refused, timed out, cancelled, or its grant had ended.
    Decided,
    /// The request was not known; if it arrives, it is refused.
    Unknown,
}
