//! Take a lock, give it back, give up waiting for it, change what it shows.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use lock_api::{
    AcquireRequest, CancelRequest, CancelResponse, GrantedResponse, MAX_HTTP_WAIT_MS,
    MAX_TOKENS_PER_RELEASE, QueuedResponse, ReleaseRequest, ReleaseResponse, UpdateRequest,
    UpdateResponse, path,
};

use super::extract::{JsonBody, Terms};
use super::openapi::{Changes, TermsParameters};
use super::{App, Reply, reply};
use crate::auth::{Caller, Role};
use crate::problem::invalid;
use crate::service::Acquired;

/// `POST /v1/acquire`
#[utoipa::path(
    post,
    path = path::ACQUIRE,
    request_body = AcquireRequest,
    params(TermsParameters),
    responses((status = 200, description = "Granted.", body = GrantedResponse), (status = 202, description = "Still queued: repeat with these ids.", body = QueuedResponse), Changes),
)]
pub async fn acquire(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    JsonBody(request): JsonBody<AcquireRequest>,
) -> Reply {
    let targets = request.targets()?;
    for target in &targets {
        caller.check(Role::Lock, target.name.as_str())?;
    }
    // The wait comes on top of the time-out, unless the client set one that is to cover both; then
    // its end answers 202 while the request keeps its place.
    let wait = Duration::from_millis(request.wait_ms.min(MAX_HTTP_WAIT_MS));
    let answer_deadline = match terms.timeout_is_default {
        true => terms.deadline() + wait,
        false => terms.deadline(),
    };
    let acquired = app
        .service()?
        .acquire(request, &targets, terms.timeout, answer_deadline)
        .await?;
    Ok(match acquired {
        Acquired::Granted(granted) => reply(granted.position, granted),
        Acquired::Queued(queued) => {
            (StatusCode::ACCEPTED, reply(queued.position, queued)).into_response()
        }
    })
}

/// `POST /v1/release`
#[utoipa::path(
    post,
    path = path::RELEASE,
    request_body = ReleaseRequest,
    params(TermsParameters),
    responses((status = 200, description = "Released, now or before.", body = ReleaseResponse), Changes),
)]
pub async fn release(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    JsonBody(request): JsonBody<ReleaseRequest>,
) -> Reply {
    caller.check_somewhere(Role::Lock)?;
    let Some(tokens) = request.targets() else {
        return Err(invalid(
            Some("token"),
            format!(
                "`token`: send either `token`, or `tokens` with 1 to {MAX_TOKENS_PER_RELEASE} of \
                 them"
            ),
        ));
    };
    let released = app
        .service()?
        .release(&request.lease, tokens, terms.deadline())
        .await?;
    Ok(reply(released.position, released))
}

/// `POST /v1/update`
#[utoipa::path(
    post,
    path = path::UPDATE,
    request_body = UpdateRequest,
    params(TermsParameters),
    responses((status = 200, description = "Changed.", body = UpdateResponse), Changes),
)]
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    JsonBody(request): JsonBody<UpdateRequest>,
) -> Reply {
    caller.check_somewhere(Role::Lock)?;
    let updated = app.service()?.update(&request, terms.deadline()).await?;
    Ok(reply(updated.position, updated))
}

/// `POST /v1/cancel`
#[utoipa::path(
    post,
    path = path::CANCEL,
    request_body = CancelRequest,
    params(TermsParameters),
    responses((status = 200, description = "The request neither holds nor waits.", body = CancelResponse), Changes),
)]
pub async fn cancel(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    JsonBody(request): JsonBody<CancelRequest>,
) -> Reply {
    caller.check_somewhere(Role::Lock)?;
    let cancelled = app
        .service()?
        .cancel(&request.lease, &request.request_id, terms.deadline())
        .await?;
    Ok(reply(cancelled.position, cancelled))
}
