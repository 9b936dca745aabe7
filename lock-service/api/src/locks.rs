//! Locks as people and tools see them.

use serde::{Deserialize, Serialize};

use crate::open_enum::open_enum;
use crate::{
    FencingToken, LeaseHold, LeaseId, LockMode, LockName, LockValue, Owner, Position, RequestId,
};

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// At least as fresh as everything acknowledged before the read began.
    #[default]
    Linearizable,
    /// What the answering node has, however old.
    Stale,
}

open_enum! {
    /// Why a lock cannot be granted to this request now.
    pub enum BlockReason {
        /// Somebody holds it.
        Held = "held",
        /// It is free, but others wait for it.
        Queued = "queued",
        /// Its lock delay runs.
        Delayed = "delayed",
        /// Its last holder was ended by somebody else and may not know yet.
        HeldBack = "held_back",
    }
}

/// Query of `GET /v1/locks`: either `name`, or `prefix` with `cursor` and `page_size`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
#[serde(deny_unknown_fields)]
pub struct LocksQuery {
    /// The one lock to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<LockName>,
    /// List locks whose names begin so; the empty prefix lists all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Where to go on: `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Locks in one page, 1 to [`MAX_PAGE_SIZE`](crate::MAX_PAGE_SIZE), which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u64>,
    /// How fresh the answer must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// Somebody who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HolderView {
    /// Who took the lease.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// Id of the lease.
    pub lease_id: LeaseId,
    /// How the lock is held.
    pub mode: LockMode,
    /// With the mode `permits`: how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    /// The grant's fencing token.
    pub token: FencingToken,
    /// The holder's value.
    #[serde(default)]
    pub value: Option<LockValue>,
    /// Time since the grant, in milliseconds of cluster time.
    pub age_ms: u64,
    /// What is left of the lease, in milliseconds of cluster time.
    pub remaining_ms: u64,
}

/// Somebody who waits for a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WaiterView {
    /// 1 for the first in the queue.
    pub place: u64,
    /// Who took the lease.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// Id of the lease.
    pub lease_id: LeaseId,
    /// The request that waits.
    pub request_id: RequestId,
    /// How the lock would be held.
    pub mode: LockMode,
    /// With the mode `permits`: how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    /// Position at which the request joined the queue.
    pub queued_position: Position,
    /// What is left of the wait, in milliseconds of cluster time.
    pub wait_remaining_ms: u64,
}

/// What keeps the first in a queue from being granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Obstacle {
    /// The lock that it cannot have: not always the one that was asked about, when it waits for
    /// several.
    pub lock: LockName,
    /// Why it cannot have it.
    pub reason: BlockReason,
    /// Who holds that lock, when somebody does: one of them, when they are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_owner: Option<Owner>,
    /// Id of the lease that holds that lock, when one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_lease_id: Option<LeaseId>,
    /// How long that goes on unless it ends before, in milliseconds of cluster time, when that is
    /// known: a delay, or being held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// All of this as a sentence for people.
    pub detail: String,
}

/// A lock that cannot be granted to anybody for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LockDelay {
    /// `delayed` or `held_back`.
    pub reason: BlockReason,
    /// How long yet, in milliseconds of cluster time.
    pub remaining_ms: u64,
}

/// A lock, its holders and its queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LockView {
    /// The lock.
    pub lock: LockName,
    /// How many permits it has; absent unless it is held or waited for by permits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Who holds it; empty when it is free.
    pub holders: Vec<HolderView>,
    /// Who waits for it, first come first.
    pub queue: Vec<WaiterView>,
    /// Why the first in the queue waits (or, with an empty queue, why a try would be refused);
    /// absent when the lock is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<BlockReason>,
    /// Why the first in the queue waits, in full; absent when nobody waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_waits_for: Option<Obstacle>,
    /// Why nobody can be granted it for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<LockDelay>,
}

/// Body of `POST /v1/locks/force-release`. It names lock, token and lease, so that it cannot hit the
/// next holder or a fellow sharer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ForceReleaseRequest {
    /// The lock.
    pub lock: LockName,
    /// The token that it is held under.
    pub token: FencingToken,
    /// Id of the lease that holds it. The whole lease ends, with all else that it holds.
    pub lease_id: LeaseId,
    /// `true` to free everything at once. Otherwise all that the lease held is held back until the
    /// lease's deadline and its lock delays have passed, because the old holder may not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<bool>,
}

/// 200 answer of `POST /v1/locks/force-release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ForceReleaseResponse {
    /// Id of the lease that has ended.
    pub lease_id: LeaseId,
    /// Whether it was live until this request. A repeat is refused: 409 `lease_ended`.
    pub was_live: bool,
    /// What it held until this request.
    pub released: Vec<LeaseHold>,
    /// How long the last of these locks is held back, in milliseconds of cluster time; 0 when they
    /// are free.
    pub held_back_ms: u64,
    /// Position of the release.
    pub position: Position,
}

/// 200 answer of `GET /v1/locks?name=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LockResponse {
    /// The lock.
    #[serde(flatten)]
    pub lock: LockView,
    /// Position at which this was true.
    pub position: Position,
    /// With `consistency=stale`: how old the answer may be, in milliseconds, when the node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_by_ms: Option<u64>,
}

/// 200 answer of `GET /v1/locks?prefix=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LockPage {
    /// The locks, by name.
    pub locks: Vec<LockView>,
    /// Cursor of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Position at which this page was true.
    pub position: Position,
    /// With `consistency=stale`: how old the answer may be, in milliseconds, when the node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_by_ms: Option<u64>,
}
