//! What Prometheus scrapes.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use lock_api::path;

use super::App;
use super::openapi::{Reads, TermsParameters};
use crate::metrics::holds;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /metrics`. Answers from the start, also while this node is no member of a cluster.
#[utoipa::path(
    get,
    path = path::METRICS,
    params(TermsParameters),
    responses((status = 200, description = "Prometheus's text format.", body = String, content_type = "text/plain"), Reads),
)]
pub async fn metrics(State(app): State<App>) -> impl IntoResponse {
    if let Ok(service) = app.service() {
        let counts = service.node().read(|machine| machine.table.counts());
        holds(counts, service.parked_requests(), service.hub().len());
    }
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        app.exposition.render(),
    )
}
