//! Errors: `application/problem+json` (RFC 9457) with a code, an outcome, and what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::locks::BlockReason;
use crate::open_enum::open_enum;
use crate::{
    EventPosition, FencingToken, LeaseId, LeaseSecret, LockName, Owner, Position, RequestId,
};

open_enum! {
    /// What went wrong, for programs. Append-only.
    pub enum ErrorCode {
        /// 400: the request is wrong; `field` names what.
        InvalidRequest = "invalid_request",
        /// 401: the request carries no bearer token that this node knows.
        Unauthenticated = "unauthenticated",
        /// 403: the bearer token does not allow this.
        Forbidden = "forbidden",
        /// 404: there is no such resource.
        NotFound = "not_found",
        /// 404: nobody knows this lease.
        LeaseNotFound = "lease_not_found",
        /// 405: this resource has other methods.
        MethodNotAllowed = "method_not_allowed",
        /// 409: a try found the lock taken; `reason` says how.
        LockHeld = "lock_held",
        /// 409: this lease holds the lock already, with `token`.
        AlreadyHeld = "already_held",
        /// 409: this lease waits for the lock already, under another request id.
        AlreadyWaiting = "already_waiting",
        /// 409: the lock exists in another mode or with another limit.
        ModeMismatch = "mode_mismatch",
        /// 409: the token is not what the lease holds.
        TokenStale = "token_stale",
        /// 409: a repeat of an acquire whose grant has ended since.
        GrantEnded = "grant_ended",
        /// 409: the lease has ended.
        LeaseEnded = "lease_ended",
        /// 409: the wait ended without a grant.
        WaitTimeout = "wait_timeout",
        /// 410: the events behind this position are not kept any more, or it is of another cluster.
        PositionGone = "position_gone",
        /// 413: the body is too large.
        TooLarge = "too_large",
        /// 415: the body's content type is not `application/json`.
        UnsupportedMediaType = "unsupported_media_type",
        /// 500: a defect of the server; the outcome is unknown.
        Internal = "internal",
        /// 503: no leader with a quorum is known; not applied.
        NoLeader = "no_leader",
        /// 503: too much work in flight; not applied.
        Overloaded = "overloaded",
        /// 503: the disks are nearly full; not applied.
        DiskFull = "disk_full",
        /// 503: a limit of the cluster is reached; not applied.
        LimitReached = "limit_reached",
        /// 503: the cluster was restored a moment ago and grants nothing yet; not applied.
        HeldBack = "held_back",
        /// 404: the cluster has no such member.
        MemberNotFound = "member_not_found",
        /// 409: another change of the membership, or a transfer of the leadership, is under way.
        ChangeInProgress = "change_in_progress",
        /// 409: a change of voters was interrupted and has to be finished first.
        ChangeInterrupted = "change_interrupted",
        /// 409: the membership is not at the version that the request names.
        MembershipChanged = "membership_changed",
        /// 409: the member has not caught up, or has not been heard from.
        MemberNotReady = "member_not_ready",
        /// 409: the change would endanger the cluster or contradicts its membership.
        ChangeRefused = "change_refused",
        /// 504: proposed, but not confirmed in time; the outcome is unknown.
        DeadlineExceeded = "deadline_exceeded",
    }
}

impl ErrorCode {
    /// The HTTP status that goes with the code (500 for one that this version does not know).
    pub fn status(&self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound | Self::LeaseNotFound | Self::MemberNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::LockHeld
            | Self::AlreadyHeld
            | Self::AlreadyWaiting
            | Self::ModeMismatch
            | Self::TokenStale
            | Self::GrantEnded
            | Self::LeaseEnded
            | Self::WaitTimeout
            | Self::ChangeInProgress
            | Self::ChangeInterrupted
            | Self::MembershipChanged
            | Self::MemberNotReady
            | Self::ChangeRefused => 409,
            Self::PositionGone => 410,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Internal | Self::Other(_) => 500,
            Self::NoLeader
            | Self::Overloaded
            | Self::DiskFull
            | Self::LimitReached
            | Self::HeldBack => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// What is known of the request's effect.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Internal | Self::DeadlineExceeded | Self::Other(_) => Outcome::Unknown,
            _ => Outcome::NotApplied,
        }
    }

    /// Whether the identical request, ids included, may succeed when it is sent again.
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            Self::NoLeader
                | Self::Overloaded
                | Self::DiskFull
                | Self::LimitReached
                | Self::HeldBack
                | Self::DeadlineExceeded
                | Self::Internal
                | Self::ChangeInProgress
                | Self::MemberNotReady
        )
    }

    /// A few words for people, the same for every occurrence.
    pub fn title(&self) -> &str {
        match self {
            Self::InvalidRequest => "The request is invalid",
            Self::Unauthenticated => "The request is not authenticated",
            Self::Forbidden => "The token does not allow this",
            Self::NotFound => "There is no such resource",
            Self::LeaseNotFound => "The lease is not known",
            Self::MethodNotAllowed => "The resource has other methods",
            Self::LockHeld => "The lock is taken",
            Self::AlreadyHeld => "This lease holds the lock already",
            Self::AlreadyWaiting => "This lease waits for the lock already",
            Self::ModeMismatch => "The lock exists in another mode",
            Self::TokenStale => "The token is stale",
            Self::GrantEnded => "The grant has ended",
            Self::LeaseEnded => "The lease has ended",
            Self::WaitTimeout => "The wait ended without a grant",
            Self::PositionGone => "The position is gone",
            Self::TooLarge => "The body is too large",
            Self::UnsupportedMediaType => "The content type is not supported",
            Self::Internal => "The server failed",
            Self::NoLeader => "There is no leader with a quorum",
            Self::Overloaded => "The cluster is overloaded",
            Self::DiskFull => "The cluster's disks are nearly full",
            Self::LimitReached => "A limit is reached",
            Self::HeldBack => "Grants are held back after a restore",
            Self::MemberNotFound => "There is no such member",
            Self::ChangeInProgress => "Another change is under way",
            Self::ChangeInterrupted => "An interrupted change is to be finished first",
            Self::MembershipChanged => "The membership has changed",
            Self::MemberNotReady => "The member is not ready",
            Self::ChangeRefused => "The change is refused",
            Self::DeadlineExceeded => "The outcome was not known in time",
            Self::Other(code) => code,
        }
    }
}

/// What is known of the effect of a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It had none and never will.
    NotApplied,
    /// It may have had its effect, or may still have it.
    Unknown,
}

impl Default for Outcome {
    /// A body that says nothing promises nothing.
    fn default() -> Self {
        Self::Unknown
    }
}

impl<'de> Deserialize<'de> for Outcome {
    /// Anything but `not_applied` is taken for `unknown`: the safe side.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Ok(match text.as_ref() {
            "not_applied" => Self::NotApplied,
            _ => Self::Unknown,
        })
    }
}

/// Body of every error. Make one with [`Problem::new`] and fill in what else is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// A URI that names the kind of problem.
    #[serde(rename = "type", default)]
    pub type_uri: String,
    /// A few words for people, the same for every occurrence of the code.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// What happened this time, and what to do.
    #[serde(default)]
    pub detail: String,
    /// What went wrong, for programs.
    pub code: ErrorCode,
    /// What is known of the request's effect.
    #[serde(default)]
    pub outcome: Outcome,
    /// Whether the identical request, ids included, may succeed when it is sent again.
    #[serde(default)]
    pub retryable: bool,
    /// The field that is wrong (`invalid_request`), as a path: `leases[3]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The lock that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockName>,
    /// Why the lock was not granted (`lock_held`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<BlockReason>,
    /// Who holds the lock (`lock_held`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_owner: Option<Owner>,
    /// Id of the lease that holds the lock (`lock_held`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_lease_id: Option<LeaseId>,
    /// Waiters for the lock (`lock_held`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_length: Option<u64>,
    /// The token that is held (`already_held`), or that was refused (`token_stale`, `grant_ended`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<FencingToken>,
    /// Secret of the request's lease (`deadline_exceeded`), to repeat the request with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseSecret>,
    /// Id of the request's lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
    /// Id of the request (`deadline_exceeded`), to repeat the request with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// When to try again, in milliseconds. The header `Retry-After` says the same in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Position of the refusal, when it went through the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The oldest position behind which all events are kept (`position_gone`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_position: Option<EventPosition>,
}

impl Problem {
    /// A problem with everything that follows from its code filled in.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            type_uri: format!("urn:palisade:problem:{code}"),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            outcome: code.outcome(),
            retryable: code.retryable(),
            code,
            field: None,
            lock: None,
            reason: None,
            holder_owner: None,
            holder_lease_id: None,
            queue_length: None,
            token: None,
            lease: None,
            lease_id: None,
            request_id: None,
            retry_after_ms: None,
            position: None,
            oldest_position: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail.as_str() {
            "" => write!(f, "{}", self.code),
            detail => write!(f, "{}: {detail}", self.code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire_and_has_an_error_status() {
        for code in ErrorCode::ALL {
            let text = serde_json::to_string(code).unwrap();
            assert_eq!(&serde_json::from_str::<ErrorCode>(&text).unwrap(), code);
            assert!((400..600).contains(&code.status()), "{code}");
            assert!(!code.title().is_empty());
        }
    }

    #[test]
    fn only_what_may_have_been_proposed_has_an_unknown_outcome() {
        let unknown: Vec<_> = ErrorCode::ALL
            .iter()
            .filter(|code| code.outcome() == Outcome::Unknown)
            .collect();
        assert_eq!(
            unknown,
            [&ErrorCode::Internal, &ErrorCode::DeadlineExceeded]
        );
    }

    #[test]
    fn a_newer_servers_problem_is_still_read_and_its_outcome_taken_for_unknown() {
        let body = r#"{"type":"urn:x","code":"too_purple","outcome":"perhaps","colour":"purple",
            "reason":"shared","detail":"paint it"}"#;
        let problem: Problem = serde_json::from_str(body).unwrap();
        assert_eq!(problem.code, ErrorCode::Other("too_purple".into()));
        assert_eq!(problem.outcome, Outcome::Unknown);
        assert_eq!(problem.reason, Some(BlockReason::Other("shared".into())));
        assert_eq!(problem.to_string(), "too_purple: paint it");
        assert!(!problem.retryable);
    }

    #[test]
    fn a_problem_has_the_members_of_rfc_9457_and_leaves_out_what_is_not_known() {
        let problem = Problem::new(ErrorCode::LockHeld, "held by billing-7; wait or try later");
        let json = serde_json::to_value(&problem).unwrap();
        let expected = serde_json::json!({
            "type": "urn:palisade:problem:lock_held", "title": "The lock is taken", "status": 409,
            "detail": "held by billing-7; wait or try later", "code": "lock_held",
            "outcome": "not_applied", "retryable": false,
        });
        assert_eq!(json, expected);
    }
}
