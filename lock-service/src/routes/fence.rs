//! Is this token still the newest of its lock?

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use lock_api::{
    FenceAnswer, FenceBatchRequest, FenceBatchResponse, FenceQuery, FenceResponse, FenceVerdict,
    MAX_FENCE_CHECKS, path,
};
use lock_model::{Fence, Token};

use super::extract::{JsonBody, Terms, UrlQuery};
use super::openapi::{Changes, FenceProblems, TermsParameters};
use super::{App, Reply, fresh, reply};
use crate::auth::{Caller, Role};
use crate::problem::{Failure, invalid};
use crate::service::wire;

/// `GET /v1/fence`
#[utoipa::path(
    get,
    path = path::FENCE,
    params(FenceQuery, TermsParameters),
    responses((status = 200, description = "`current`.", body = FenceResponse), (status = 404, description = "`unknown`.", body = FenceResponse), (status = 409, description = "`superseded`.", body = FenceResponse), FenceProblems),
)]
pub async fn fence(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    UrlQuery(query): UrlQuery<FenceQuery>,
) -> Reply {
    caller.check(Role::Read, query.lock.as_str())?;
    let lock = wire::model_lock(&query.lock)?;
    let (service, stale_by_ms) = fresh(&app, &terms, query.consistency).await?;
    let (fence, position) = service.node().read(|machine| {
        let table = &machine.table;
        let fence = table.fence(&lock, Token(query.token.0));
        (fence, wire::position(table.last_position()))
    });
    let verdict = verdict(fence);
    let status = StatusCode::from_u16(verdict.status()).unwrap_or(StatusCode::NOT_FOUND);
    let body = FenceResponse {
        verdict,
        lock: query.lock,
        token: query.token,
        position,
        stale_by_ms,
    };
    Ok((status, reply(position, body)).into_response())
}

/// `POST /v1/fence`
#[utoipa::path(
    post,
    path = path::FENCE,
    request_body = FenceBatchRequest,
    params(TermsParameters),
    responses((status = 200, description = "A verdict for each.", body = FenceBatchResponse), Changes),
)]
pub async fn fence_batch(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    JsonBody(request): JsonBody<FenceBatchRequest>,
) -> Reply {
    let checks = request.checks;
    if !(1..=MAX_FENCE_CHECKS).contains(&checks.len()) {
        let detail = format!("`checks`: expected 1 to {MAX_FENCE_CHECKS} of them");
        return Err(invalid(Some("checks"), detail));
    }
    for check in &checks {
        caller.check(Role::Read, check.lock.as_str())?;
    }
    let of_model = checks
        .iter()
        .map(|check| Ok((wire::model_lock(&check.lock)?, Token(check.token.0))))
        .collect::<Result<Vec<_>, Failure>>()?;
    let (service, stale_by_ms) = fresh(&app, &terms, request.consistency).await?;
    let (fences, position) = service.node().read(|machine| {
        let table = &machine.table;
        let fence = |(lock, token): &(_, _)| table.fence(lock, *token);
        let fences: Vec<Fence> = of_model.iter().map(fence).collect();
        (fences, wire::position(table.last_position()))
    });
    let answers = checks
        .into_iter()
        .zip(fences)
        .map(|(check, fence)| FenceAnswer {
            verdict: verdict(fence),
            lock: check.lock,
            token: check.token,
        });
    let body = FenceBatchResponse {
        answers: answers.collect(),
        position,
        stale_by_ms,
    };
    Ok(reply(position, body))
}

fn verdict(fence: Fence) -> FenceVerdict {
    match fence {
        Fence::Current => FenceVerdict::Current,
        Fence::Superseded => FenceVerdict::Superseded,
        Fence::Unknown => FenceVerdict::Unknown,
    }
}
