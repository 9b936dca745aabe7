//! Acquire, release and cancel.

use serde::{Deserialize, Serialize};

use crate::number::positive_ms;
use crate::open_enum::open_enum;
use crate::{FencingToken, LeaseId, LeaseSecret, LockName, LockValue, Owner, Position, RequestId};

open_enum! {
    /// How a lock is held. This version serves `exclusive` only; requests refuse anything else.
    pub enum LockMode {
        /// One holder, nobody beside it.
        Exclusive = "exclusive",
    }
}

impl LockMode {
    fn deserialize_known<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Self>, D::Error> {
        match Option::<Self>::deserialize(deserializer)? {
            Some(Self::Other(mode)) => Err(serde::de::Error::custom(format_args!(
                "unknown mode `{mode}`, this version serves `exclusive` only"
            ))),
            known => Ok(known),
        }
    }
}

/// Body of `POST /v1/acquire`.
///
/// Send your own `lease` and `request_id`: then a repeat of the same body after a lost answer is the
/// same request, on any node, and a wait survives a lost connection. A repeat must not differ in any
/// field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcquireRequest {
    /// The lock to take.
    pub lock: LockName,
    /// How to hold it; `exclusive` when absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "LockMode::deserialize_known"
    )]
    pub mode: Option<LockMode>,
    /// Secret of the lease to take it with; a new lease when absent, or when nobody made it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseSecret>,
    /// TTL of the lease if it is new, in milliseconds; [`DEFAULT_TTL_MS`](crate::DEFAULT_TTL_MS) when
    /// absent. Bounds are settings of the cluster (2 s to 1 h by default).
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "positive_ms"
    )]
    pub ttl_ms: Option<u64>,
    /// Who takes the lease, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// How long to wait in the queue, in milliseconds of cluster time; 0 (default) tries once.
    #[serde(default)]
    pub wait_ms: u64,
    /// Value to attach to the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<LockValue>,
    /// The client's id of this request, unique within the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
}

/// 200 answer of `POST /v1/acquire`: the lock is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedResponse {
    /// Always `true`.
    pub granted: bool,
    /// The lock.
    pub lock: LockName,
    /// Give it to the guarded resource with every request.
    pub token: FencingToken,
    /// Secret of the lease that holds the lock.
    pub lease: LeaseSecret,
    /// Id of the lease.
    pub lease_id: LeaseId,
    /// The request's id: the client's, or the one that the node chose.
    pub request_id: RequestId,
    /// TTL of the lease, in milliseconds: count with this one, not with what was asked for.
    pub ttl_ms: u64,
    /// When to renew, in milliseconds after the last renewal was sent: a third of the TTL.
    pub renew_after_ms: u64,
    /// What was left of the lease when the answer was made, in milliseconds of cluster time. A hint:
    /// a local deadline must be counted from a *sending* time (DESIGN section 3, Time).
    pub remaining_ms: u64,
    /// Position of this answer: of the grant, the first time; a repeat has one of its own.
    pub position: Position,
    /// Position at which the request joined the queue; equal to `position` of the first answer when
    /// granted at once.
    pub queued_position: Position,
    /// Something about this grant that its user should know, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// 202 answer of `POST /v1/acquire`: still waiting. Repeat the same request, with these `lease` and
/// `request_id`, on any node, to go on waiting in the same place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedResponse {
    /// Always `false`.
    pub granted: bool,
    /// Secret of the lease that waits.
    pub lease: LeaseSecret,
    /// Id of the lease.
    pub lease_id: LeaseId,
    /// The request's id: the client's, or the one that the node chose.
    pub request_id: RequestId,
    /// Where the request stands, one entry for each lock that it waits for.
    pub queue: Vec<QueuePlace>,
    /// Position at which this answer was true.
    pub position: Position,
}

/// A request's place in the queue of one lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePlace {
    /// The lock.
    pub lock: LockName,
    /// 1 for the first in the queue.
    pub place: u64,
    /// Waiters in the queue, this one included.
    pub length: u64,
    /// Position at which the request joined the queue.
    pub queued_position: Position,
}

/// Body of `POST /v1/release`: exactly one of `token` and `tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// Secret of the lease that holds.
    pub lease: LeaseSecret,
    /// Token of the one grant to release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<FencingToken>,
    /// Tokens of the grants to release, all or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<FencingToken>>,
}

impl ReleaseRequest {
    /// The tokens to release, or `None` unless exactly one of `token` and `tokens` (not empty, no
    /// more than [`MAX_TOKENS_PER_RELEASE`](crate::MAX_TOKENS_PER_RELEASE)) is there.
    pub fn targets(&self) -> Option<&[FencingToken]> {
        match (&self.token, &self.tokens) {
            (Some(token), None) => Some(std::slice::from_ref(token)),
            (None, Some(tokens)) if (1..=crate::MAX_TOKENS_PER_RELEASE).contains(&tokens.len()) => {
                Some(tokens)
            }
            _ => None,
        }
    }
}

/// 200 answer of `POST /v1/release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseResponse {
    /// Whether this request released everything that it named; `false` when it is a repeat.
    pub was_held: bool,
    /// One entry for each token, in the order of the request.
    pub tokens: Vec<ReleasedToken>,
    /// Position of the release.
    pub position: Position,
}

/// What a release did for one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasedToken {
    /// The token.
    pub token: FencingToken,
    /// Whether it was held until this request.
    pub was_held: bool,
}

/// Body of `POST /v1/cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// Secret of the lease that waits.
    pub lease: LeaseSecret,
    /// Id of the acquire to give up.
    pub request_id: RequestId,
}

open_enum! {
    /// What a cancel found.
    pub enum CancelResult {
        /// The request waited, and waits no more.
        Cancelled = "cancelled",
        /// The grant had won the race; the lock was released.
        Released = "released",
        /// The request was already decided and holds nothing.
        AlreadyEnded = "already_ended",
        /// The request had not arrived yet; it is refused should it arrive later.
        Recorded = "recorded",
    }
}

/// 200 answer of `POST /v1/cancel`. Whatever `result` says: the request neither holds nor waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelResponse {
    /// What was found.
    pub result: CancelResult,
    /// Position of the cancel.
    pub position: Position,
}
