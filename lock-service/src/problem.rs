//! From refusals and failures to the problem that the client reads: what happened, what it means
//! for the request, and what to do.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lock_api::{
    ErrorCode, FencingToken, InvalidRequest, POSITION_HEADER, PROBLEM_CONTENT_TYPE, Problem,
};
use lock_model::{Field, LockHeldReason, Position, Refusal};
use raft_core::{ProposeError, ReadError};

use crate::metrics::AnsweredCode;
use crate::service::wire;

/// A problem on its way out.
#[derive(Debug)]
pub struct Failure(pub Box<Problem>);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

/// A bad request: `field` names what is wrong.
pub fn invalid(field: Option<&str>, detail: impl Into<String>) -> Failure {
    let mut problem = Problem::new(ErrorCode::InvalidRequest, detail);
    problem.field = field.map(str::to_owned);
    problem.into()
}

impl From<InvalidRequest> for Failure {
    fn from(error: InvalidRequest) -> Self {
        invalid(error.field.as_deref(), error.detail)
    }
}

/// A temporary lack, not applied; the client may try again soon.
pub fn unavailable(code: ErrorCode, detail: &str) -> Failure {
    let mut problem = Problem::new(code, detail);
    problem.retry_after_ms = Some(1000);
    problem.into()
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotProposed => unavailable(
                ErrorCode::NoLeader,
                "no leader with a quorum took the request before its deadline; it was not \
                 applied. Try again, here or on another node",
            ),
            ProposeError::Overloaded => unavailable(
                ErrorCode::Overloaded,
                "too many requests are in flight; this one was not applied. Try again later",
            ),
            ProposeError::DiskFull => unavailable(
                ErrorCode::DiskFull,
                "the disks of the nodes that could lead are nearly full; this request was not \
                 applied. Renewals, releases and reads go on. Free space on the nodes",
            ),
            ProposeError::Unknown => Problem::new(
                ErrorCode::DeadlineExceeded,
                "the request was proposed and not confirmed before its deadline: it may have been \
                 applied, or may yet be. Repeat it as it was, an acquire with its request_id, to \
                 learn which; a repeat has no second effect",
            )
            .into(),
            error => Problem::new(ErrorCode::Internal, error.to_string()).into(),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        unavailable(
            ErrorCode::NoLeader,
            &format!(
                "{error}. Try again, or on another node. Where a read takes consistency=stale, this \
                 node answers from what it has, and says how old that is"
            ),
        )
    }
}

/// A refusal of the model, which stands at `position`.
pub fn refused(refusal: &Refusal, position: Position) -> Failure {
    let mut problem = describe(refusal);
    problem.position = Some(wire::position(position));
    problem.into()
}

fn describe(refusal: &Refusal) -> Problem {
    let invalid = |field: &str, hint: &str| {
        let mut problem = Problem::new(
            ErrorCode::InvalidRequest,
            format!("`{field}`: {refusal}{hint}"),
        );
        problem.field = Some(field.to_owned());
        problem
    };
    let plain = |code: ErrorCode, hint: &str| Problem::new(code, format!("{refusal}{hint}"));
    match refusal {
        Refusal::Unfounded => {
            let mut problem = plain(ErrorCode::NoLeader, "; try again in a moment");
            problem.retry_after_ms = Some(200);
            problem
        }
        // Stops the node before any client could see it; see `LockMachine::apply`.
        Refusal::EntryOutOfOrder { .. } | Refusal::TokenFloorTooHigh { .. } => {
            plain(ErrorCode::Internal, "")
        }
        Refusal::InvalidSettings(error) => invalid(&error.setting, ""),
        Refusal::ModelVersionGoesBack { .. } => invalid("model_version", ""),
        Refusal::TooLong { field, .. } => invalid(
            match field {
                Field::LockName => "lock",
                Field::Owner => "owner",
                Field::Metadata => "metadata",
                Field::Value => "value",
            },
            "",
        ),
        Refusal::LockCount { .. } => invalid("locks", ""),
        Refusal::LockNamedTwice { .. } => invalid("locks", ""),
        Refusal::PermitsOutOfBounds { .. } => invalid("permits", ""),
        Refusal::LockDelayTooLong { .. } => invalid("lock_delay_ms", ""),
        Refusal::ModeMismatch { lock, .. } => {
            let mut problem = plain(
                ErrorCode::ModeMismatch,
                "; that cannot change while anybody holds it or waits for it",
            );
            problem.lock = wire::lock_name(lock);
            problem
        }
        Refusal::HeldBack { remaining_ms } => {
            let mut problem = plain(
                ErrorCode::HeldBack,
                ": locks that were granted after the backup may still be held. Try again then, or \
                 send wait_ms to queue",
            );
            problem.retry_after_ms = Some(*remaining_ms);
            problem
        }
        Refusal::TokenCount { .. } => invalid("tokens", ""),
        Refusal::TtlOutOfBounds { .. } => invalid("ttl_ms", ""),
        Refusal::TtlDiffers { .. } => invalid("ttl_ms", "; leave it out, or use the lease's own"),
        Refusal::LeaseExists => invalid("lease", ""),
        Refusal::RequestMismatch => invalid("request_id", ""),
        Refusal::LimitReached { .. } => {
            let mut problem = plain(
                ErrorCode::LimitReached,
                "; nothing was applied. Release what is not needed, or try again later",
            );
            problem.retry_after_ms = Some(5000);
            problem
        }
        Refusal::LockHeld {
            lock,
            reason,
            queue_length,
        } => {
            let mut problem = Problem::new(
                ErrorCode::LockHeld,
                format!(
                    "the lock {lock} {}, and {queue_length} wait for it; send wait_ms to queue, or \
                     try later with a new request_id",
                    why_not_free(reason)
                ),
            );
            problem.reason = Some(wire::block_reason(reason));
            if let LockHeldReason::Held { lease, owner } = reason {
                problem.holder_owner = wire::owner(owner);
                problem.holder_lease_id = Some(wire::lease_id(*lease));
            }
            problem.lock = wire::lock_name(lock);
            problem.queue_length = Some(*queue_length);
            problem
        }
        Refusal::AlreadyHeld { lock, token } => {
            let mut problem = plain(
                ErrorCode::AlreadyHeld,
                "; two tasks that share a lease must not both enter, so use a lease each",
            );
            problem.lock = wire::lock_name(lock);
            problem.token = Some(FencingToken(token.0));
            problem
        }
        Refusal::AlreadyWaiting { lock, request, .. } => {
            let mut problem = plain(
                ErrorCode::AlreadyWaiting,
                "; repeat that request to go on waiting, or cancel it",
            );
            problem.lock = wire::lock_name(lock);
            problem.request_id = wire::request_id(request);
            problem
        }
        Refusal::GrantEnded { token } => {
            let mut problem = plain(ErrorCode::GrantEnded, "; acquire with a new request_id");
            problem.token = Some(FencingToken(token.0));
            problem
        }
        Refusal::WaitTimedOut => plain(
            ErrorCode::WaitTimeout,
            " without a grant; acquire with a new request_id to wait again",
        ),
        Refusal::Cancelled => plain(
            ErrorCode::WaitTimeout,
            " and holds nothing; acquire with a new request_id",
        ),
        Refusal::LeaseEnded { .. } => plain(
            ErrorCode::LeaseEnded,
            "; whatever it held is lost, acquire with a new lease",
        ),
        Refusal::LeaseNotFound => plain(ErrorCode::LeaseNotFound, "; acquire with a new lease"),
        Refusal::TokenStale { token } => {
            let mut problem = plain(
                ErrorCode::TokenStale,
                ": the lock may have been lost, or the token belongs to another lease",
            );
            problem.token = Some(FencingToken(token.0));
            problem
        }
    }
}

/// What keeps a lock from being granted, to go on from its name.
pub fn why_not_free(reason: &LockHeldReason) -> String {
    match reason {
        LockHeldReason::Held { lease, owner } => match owner.as_str() {
            "" => format!("is held by lease {lease}"),
            owner => format!("is held by {owner} (lease {lease})"),
        },
        LockHeldReason::Queued => {
            "is about to go to those who wait for it, in their order".to_owned()
        }
        LockHeldReason::Delayed { remaining_ms } => format!(
            "was lost by its last holder, and its lock delay runs for another {remaining_ms} ms"
        ),
        LockHeldReason::HeldBack { remaining_ms } => format!(
            "is held back for another {remaining_ms} ms, because whoever held it last may not know \
             yet that it was taken away"
        ),
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let problem = self.0;
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&*problem)).into_response();
        let code = AnsweredCode(problem.code.clone().into());
        response.extensions_mut().insert(code);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(PROBLEM_CONTENT_TYPE),
        );
        if let Some(retry_after_ms) = problem.retry_after_ms {
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(retry_after_ms.div_ceil(1000)),
            );
        }
        if problem.code == ErrorCode::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(position) = problem.position
            && let Ok(value) = HeaderValue::from_str(&position.to_string())
        {
            headers.insert(POSITION_HEADER, value);
        }
        response
    }
}
