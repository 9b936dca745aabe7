//! Leases: renew, create, revoke, list, inspect.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::locks::Consistency;
use crate::number::positive_ms;
use crate::{
    FencingToken, LeaseId, LeaseSecret, LockMode, LockName, Owner, Position, Problem, RequestId,
};

/// Body of `POST /v1/renew`: exactly one of `lease` and `leases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// Secret of the one lease to renew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseSecret>,
    /// Secrets of the leases to renew; each gets an answer of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leases: Option<Vec<LeaseSecret>>,
}

impl RenewRequest {
    /// The leases to renew, or `None` unless exactly one of `lease` and `leases` (not empty, no more
    /// than [`MAX_LEASES_PER_RENEW`](crate::MAX_LEASES_PER_RENEW)) is there.
    pub fn targets(&self) -> Option<&[LeaseSecret]> {
        match (&self.lease, &self.leases) {
            (Some(lease), None) => Some(std::slice::from_ref(lease)),
            (None, Some(leases)) if (1..=crate::MAX_LEASES_PER_RENEW).contains(&leases.len()) => {
                Some(leases)
            }
            _ => None,
        }
    }
}

/// A renewal that was executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Renewal {
    /// TTL of the lease, in milliseconds.
    pub ttl_ms: u64,
    /// When to renew next, in milliseconds after this renewal was sent.
    pub renew_after_ms: u64,
    /// What was left of the lease when the answer was made, in milliseconds of cluster time.
    pub remaining_ms: u64,
    /// What the lease holds.
    pub holds: Vec<LeaseHold>,
    /// Ids of its requests that wait, in the order of queueing.
    #[serde(default)]
    pub waits: Vec<RequestId>,
}

/// 200 answer of `POST /v1/renew` with `lease`. An ended lease answers 409 `lease_ended`, one that
/// nobody knows 404 `lease_not_found`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RenewResponse {
    /// Id of the lease.
    pub lease_id: LeaseId,
    /// The renewal.
    #[serde(flatten)]
    pub renewal: Renewal,
    /// Position of the renewal.
    pub position: Position,
}

/// 200 answer of `POST /v1/renew` with `leases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RenewManyResponse {
    /// One answer for each lease, in the order of the request.
    pub leases: Vec<RenewAnswer>,
    /// Position of the renewal.
    pub position: Position,
}

/// What became of one lease of several: exactly one of `renewal` and `problem` is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RenewAnswer {
    /// Id of the lease.
    pub lease_id: LeaseId,
    /// The renewal, when it was executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewal>,
    /// Why it was not, otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// Body of `POST /v1/leases`: makes a lease that lives without holding anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateLeaseRequest {
    /// The lease's secret; the node chooses one when absent. With your own, a repeat is harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseSecret>,
    /// TTL in milliseconds; [`DEFAULT_TTL_MS`](crate::DEFAULT_TTL_MS) when absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "positive_ms"
    )]
    pub ttl_ms: Option<u64>,
    /// Who takes the lease, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// What else is to be said about it, for people and tools: names and values, 4 KiB together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// 200 answer of `POST /v1/leases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseCreatedResponse {
    /// Secret of the lease.
    pub lease: LeaseSecret,
    /// Id of the lease.
    pub lease_id: LeaseId,
    /// TTL of the lease, in milliseconds.
    pub ttl_ms: u64,
    /// When to renew, in milliseconds after this request was sent.
    pub renew_after_ms: u64,
    /// What was left of the lease when the answer was made, in milliseconds of cluster time.
    pub remaining_ms: u64,
    /// Position of the creation.
    pub position: Position,
    /// Something about this lease that its user should know, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// Body of `POST /v1/leases/revoke`: exactly one of `lease` and `lease_id`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RevokeLeaseRequest {
    /// Secret of the lease to end: all that it holds is free at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseSecret>,
    /// Id of the lease to end, for administrators: all that it holds is held back until the lease's
    /// deadline and its lock delays have passed, because its owner may not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
    /// With `lease_id`: `true` to free everything at once. Safe only when the old holder is known to
    /// have stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<bool>,
}

/// 200 answer of `POST /v1/leases/revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevokeLeaseResponse {
    /// Id of the lease.
    pub lease_id: LeaseId,
    /// Whether it was live until this request; `false` when it is a repeat.
    pub was_live: bool,
    /// What it held until this request.
    #[serde(default)]
    pub released: Vec<LeaseHold>,
    /// How long the last of these locks is held back, in milliseconds of cluster time; 0 when they
    /// are free.
    #[serde(default)]
    pub held_back_ms: u64,
    /// Position of the revocation.
    pub position: Position,
}

/// A lock that a lease holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseHold {
    /// The lock.
    pub lock: LockName,
    /// How it is held.
    pub mode: LockMode,
    /// With the mode `permits`: how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    /// With the mode `permits`: how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The grant's fencing token.
    pub token: FencingToken,
}

/// A lock that a lease waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseWait {
    /// The lock.
    pub lock: LockName,
    /// The request that waits.
    pub request_id: RequestId,
    /// How it would be held.
    pub mode: LockMode,
    /// With the mode `permits`: how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    /// With the mode `permits`: how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Position at which the request joined the queue.
    pub queued_position: Position,
    /// What is left of the wait, in milliseconds of cluster time.
    pub wait_remaining_ms: u64,
}

/// A lease, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseView {
    /// Id of the lease.
    pub lease_id: LeaseId,
    /// Who took it.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// What else its maker said about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// TTL in milliseconds.
    pub ttl_ms: u64,
    /// What is left of it, in milliseconds of cluster time.
    pub remaining_ms: u64,
    /// Whether it was made by `POST /v1/leases` and so lives without holding anything.
    pub explicit: bool,
    /// What it holds.
    pub holds: Vec<LeaseHold>,
    /// What it waits for.
    pub waits: Vec<LeaseWait>,
}

/// 200 answer of `GET /v1/leases/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseResponse {
    /// The lease.
    #[serde(flatten)]
    pub lease: LeaseView,
    /// Position at which this was true.
    pub position: Position,
    /// With `consistency=stale`: how old the answer may be, in milliseconds, when the node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_by_ms: Option<u64>,
}

/// Query of `GET /v1/leases/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
#[serde(deny_unknown_fields)]
pub struct LeaseQuery {
    /// How fresh the answer must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// Query of `GET /v1/leases`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
#[serde(deny_unknown_fields)]
pub struct LeasesQuery {
    /// Where to go on: `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Leases in one page, 1 to [`MAX_PAGE_SIZE`](crate::MAX_PAGE_SIZE), which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u64>,
    /// How fresh the answer must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// 200 answer of `GET /v1/leases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeasePage {
    /// The leases, by id.
    pub leases: Vec<LeaseView>,
    /// Cursor of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Position at which this page was true.
    pub position: Position,
    /// With `consistency=stale`: how old the answer may be, in milliseconds, when the node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_by_ms: Option<u64>,
}
