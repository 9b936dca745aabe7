//! Fence checks: is a token still the newest of its lock?

use serde::{Deserialize, Serialize};

use crate::locks::Consistency;
use crate::open_enum::open_enum;
use crate::{FencingToken, LockName, Position};

/// Query of `GET /v1/fence`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
#[serde(deny_unknown_fields)]
pub struct FenceQuery {
    /// The lock.
    pub lock: LockName,
    /// The token to check.
    pub token: FencingToken,
    /// How fresh the answer must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

open_enum! {
    /// What is known of a token.
    pub enum FenceVerdict {
        /// 200. A hint: true at `position`, possibly not any more when the answer arrives. Only the
        /// guarded resource itself, remembering the largest token it has seen, can be sure.
        Current = "current",
        /// 409. Final: this token will never be current again.
        Superseded = "superseded",
        /// 404. Larger than any token issued up to `position`.
        Unknown = "unknown",
    }
}

/// Answer of `GET /v1/fence`, with status 200, 409 or 404 as `verdict` says: the body is the same for
/// all three.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FenceResponse {
    /// What is known.
    pub verdict: FenceVerdict,
    /// The lock.
    pub lock: LockName,
    /// The token that was asked about.
    pub token: FencingToken,
    /// Position at which this was true.
    pub position: Position,
    /// With `consistency=stale`: how old the answer may be, in milliseconds, when the node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_by_ms: Option<u64>,
}

impl FenceVerdict {
    /// The HTTP status that goes with it.
    pub fn status(&self) -> u16 {
        match self {
            Self::Current => 200,
            Self::Superseded => 409,
            Self::Unknown | Self::Other(_) => 404,
        }
    }
}

/// Body of `POST /v1/fence`: several checks at one position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FenceBatchRequest {
    /// What to check, 1 to [`MAX_FENCE_CHECKS`](crate::MAX_FENCE_CHECKS).
    pub checks: Vec<FenceCheck>,
    /// How fresh the answer must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// A token to check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FenceCheck {
    /// The lock.
    pub lock: LockName,
    /// The token to check.
    pub token: FencingToken,
}

/// 200 answer of `POST /v1/fence`, whatever the verdicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FenceBatchResponse {
    /// One answer for each check, in the order of the request.
    pub answers: Vec<FenceAnswer>,
    /// Position at which all of them were true.
    pub position: Position,
    /// With `consistency=stale`: how old the answer may be, in milliseconds, when the node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_by_ms: Option<u64>,
}

/// What is known of one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FenceAnswer {
    /// What is known.
    pub verdict: FenceVerdict,
    /// The lock.
    pub lock: LockName,
    /// The token that was asked about.
    pub token: FencingToken,
}
