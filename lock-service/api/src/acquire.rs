//! Acquire, release, update and cancel.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::number::positive_ms;
use crate::open_enum::open_enum;
use crate::{
    FencingToken, InvalidRequest, LeaseHold, LeaseId, LeaseSecret, LockName, LockValue, Owner,
    Position, RequestId,
};

open_enum! {
    /// How a lock is held. Requests refuse what this version does not know.
    pub enum LockMode {
        /// One holder, nobody beside it.
        Exclusive = "exclusive",
        /// Any number of holders, which have one token.
        Shared = "shared",
        /// As many holders as there are permits for, each with a token of its own.
        Permits = "permits",
    }
}

impl LockMode {
    fn deserialize_known<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Self>, D::Error> {
        match Option::<Self>::deserialize(deserializer)? {
            Some(Self::Other(mode)) => Err(serde::de::Error::custom(format_args!(
                "unknown mode `{mode}`, expected `exclusive`, `shared` or `permits`"
            ))),
            known => Ok(known),
        }
    }
}

/// One lock of a request for several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LockRequest {
    /// The lock to take.
    pub name: LockName,
    /// How to hold it; `exclusive` when absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "LockMode::deserialize_known"
    )]
    pub mode: Option<LockMode>,
    /// With the mode `permits`: how many to take; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    /// With the mode `permits`, and needed then: how many there are. All who hold the lock or wait
    /// for it at one time name the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl LockRequest {
    /// A request to hold a lock exclusively.
    pub fn exclusive(name: LockName) -> Self {
        Self {
            name,
            mode: None,
            permits: None,
            limit: None,
        }
    }

    /// How it is to be held, with what was left out filled in.
    ///
    /// # Errors
    /// [`InvalidRequest`] names the field: permits or a limit of another mode than `permits`, no
    /// limit in that mode, no permits, or more of them than the limit.
    pub fn holding(&self) -> Result<Holding, InvalidRequest> {
        let wrong = |field: &str, why: &str| {
            Err(InvalidRequest {
                field: Some(field.to_owned()),
                detail: format!("`{field}`: {why}"),
            })
        };
        match self.mode.as_ref().unwrap_or(&LockMode::Exclusive) {
            LockMode::Permits => match (self.permits.unwrap_or(1), self.limit) {
                (_, None) => wrong("limit", "the mode `permits` needs it: how many there are"),
                (_, Some(0)) => wrong("limit", "must be at least 1"),
                (0, _) => wrong("permits", "must be at least 1"),
                (permits, Some(limit)) if permits > limit => wrong(
                    "permits",
                    "more than `limit`, so they could never be granted",
                ),
                (permits, Some(limit)) => Ok(Holding::Permits { permits, limit }),
            },
            mode => match (self.permits, self.limit, mode) {
                (Some(_), _, _) => wrong("permits", "only for the mode `permits`"),
                (_, Some(_), _) => wrong("limit", "only for the mode `permits`"),
                (None, None, LockMode::Shared) => Ok(Holding::Shared),
                (None, None, LockMode::Exclusive) => Ok(Holding::Exclusive),
                (None, None, other) => wrong("mode", &format!("unknown mode `{other}`")),
            },
        }
    }
}

/// A mode with all that belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Holding {
    /// One holder, nobody beside it.
    Exclusive,
    /// Any number of holders.
    Shared,
    /// Some of so many permits.
    Permits {
        /// How many are taken.
        permits: u32,
        /// How many there are.
        limit: u32,
    },
}

/// Body of `POST /v1/acquire`: exactly one of `lock` and `locks`.
///
/// Send your own `lease` and `request_id`: then a repeat of the same body after a lost answer is the
/// same request, on any node, and a wait survives a lost connection. A repeat must not differ in any
/// field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AcquireRequest {
    /// The one lock to take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockName>,
    /// How to hold the one lock; `exclusive` when absent.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "LockMode::deserialize_known"
    )]
    pub mode: Option<LockMode>,
    /// Of the one lock, with the mode `permits`: how many to take; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    /// Of the one lock, with the mode `permits`, and needed then: how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The locks to take, in any order and modes: all of them at once, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locks: Option<Vec<LockRequest>>,
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
    /// Value to attach to each of the locks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<LockValue>,
    /// How long each of the locks stays ungrantable when the lease ends by expiry or by somebody
    /// else's hand, in milliseconds of cluster time; not at all when absent or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_delay_ms: Option<u64>,
    /// The client's id of this request, unique within the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
}

impl AcquireRequest {
    /// A request to hold one lock exclusively, with everything else left out.
    pub fn exclusive(lock: LockName) -> Self {
        Self {
            lock: Some(lock),
            ..Self::default()
        }
    }

    /// The locks to take, whichever way they were asked for.
    ///
    /// # Errors
    /// [`InvalidRequest`] unless exactly one of `lock` and `locks` (not empty, no more than
    /// [`MAX_LOCKS_PER_ACQUIRE`](crate::MAX_LOCKS_PER_ACQUIRE), no name twice) is there, or when
    /// `mode`, `permits` or `limit` stand beside `locks`.
    pub fn targets(&self) -> Result<Vec<LockRequest>, InvalidRequest> {
        let wrong = |field: &str, why: String| {
            Err(InvalidRequest {
                field: Some(field.to_owned()),
                detail: format!("`{field}`: {why}"),
            })
        };
        let locks = match (&self.lock, &self.locks) {
            (None, None) => return wrong("lock", "missing; send `lock` or `locks`".to_owned()),
            (Some(_), Some(_)) => {
                return wrong("locks", "send either `lock` or `locks`".to_owned());
            }
            (Some(name), None) => {
                return Ok(vec![LockRequest {
                    name: name.clone(),
                    mode: self.mode.clone(),
                    permits: self.permits,
                    limit: self.limit,
                }]);
            }
            (None, Some(locks)) => locks,
        };
        let of_one = [
            ("mode", self.mode.is_some()),
            ("permits", self.permits.is_some()),
            ("limit", self.limit.is_some()),
        ];
        if let Some((field, _)) = of_one.iter().find(|(_, there)| *there) {
            return wrong(field, "belongs into the entries of `locks`".to_owned());
        }
        if !(1..=crate::MAX_LOCKS_PER_ACQUIRE).contains(&locks.len()) {
            let max = crate::MAX_LOCKS_PER_ACQUIRE;
            return wrong("locks", format!("expected 1 to {max} of them"));
        }
        let mut names = BTreeSet::new();
        match locks.iter().find(|lock| !names.insert(&lock.name)) {
            Some(twice) => wrong("locks", format!("names {} twice", twice.name)),
            None => Ok(locks.clone()),
        }
    }
}

/// 200 answer of `POST /v1/acquire`: the locks are held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GrantedResponse {
    /// Always `true`.
    pub granted: bool,
    /// The lock, when the request named one as `lock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockName>,
    /// Its token, when the request named one lock as `lock`. Give it to the guarded resource with
    /// every request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<FencingToken>,
    /// All that is held by this request, by name, each with its token.
    pub locks: Vec<LeaseHold>,
    /// Secret of the lease that holds the locks.
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReleasedToken {
    /// The token.
    pub token: FencingToken,
    /// Whether it was held until this request.
    pub was_held: bool,
}

/// Body of `POST /v1/update`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateRequest {
    /// Secret of the lease that holds.
    pub lease: LeaseSecret,
    /// Token of the grant.
    pub token: FencingToken,
    /// What the lock shows from now on; `null` for nothing.
    #[serde(deserialize_with = "Option::deserialize")]
    pub value: Option<LockValue>,
}

/// 200 answer of `POST /v1/update`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateResponse {
    /// The lock that is held under the token.
    pub lock: LockName,
    /// Position of the change.
    pub position: Position,
}

/// Body of `POST /v1/cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CancelResponse {
    /// What was found.
    pub result: CancelResult,
    /// Position of the cancel.
    pub position: Position,
}
