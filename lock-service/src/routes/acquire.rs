//! Take a lock, give it back, give up waiting for it, change what it shows.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use lock_api::{
    AcquireRequest, CancelRequest, MAX_HTTP_WAIT_MS, MAX_TOKENS_PER_RELEASE, ReleaseRequest,
    UpdateRequest,
};

use super::extract::{JsonBody, Terms};
use super::{App, Reply, reply};
use crate::auth::{Caller, Role};
use crate::problem::invalid;
use crate::service::Acquired;

/// `POST /v1/acquire`
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
