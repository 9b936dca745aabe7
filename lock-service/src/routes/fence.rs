//! Is this token still the newest of its lock?

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use lock_api::{FenceQuery, FenceResponse, FenceVerdict};
use lock_model::{Fence, Token};

use super::extract::{Terms, UrlQuery};
use super::{App, Reply, fresh, reply};
use crate::auth::{Caller, Role};
use crate::service::wire;

/// `GET /v1/fence`
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
    let verdict = match fence {
        Fence::Current => FenceVerdict::Current,
        Fence::Superseded => FenceVerdict::Superseded,
        Fence::Unknown => FenceVerdict::Unknown,
    };
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
