//! What the sidecar answers over HTTP.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::Stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::belief::{Belief, Beliefs, KnownLeader};
use crate::exit::say;

/// Serves until the task is ended.
pub(super) async fn serve(listener: TcpListener, beliefs: Arc<Beliefs>) {
    let routes = Router::new()
        .route("/", get(name))
        .route("/leader", get(leader))
        .route("/is-leader", get(is_leader))
        .route("/events", get(events))
        .route("/healthz", get(|| async { "ok" }))
        .with_state(beliefs);
    if let Err(error) = axum::serve(listener, routes).await {
        say(format_args!("the HTTP server has stopped: {error}"));
    }
}

/// As the Kubernetes leader-elector sidecar answered, with an empty name when nobody leads.
async fn name(State(beliefs): State<Arc<Beliefs>>) -> Response {
    match beliefs.ask().await {
        Belief::Leader(leader) => Json(json!({ "name": leader.name })).into_response(),
        Belief::Nobody => Json(json!({ "name": "" })).into_response(),
        Belief::Unsure => unsure(),
    }
}

async fn leader(State(beliefs): State<Arc<Beliefs>>) -> Response {
    match beliefs.ask().await {
        Belief::Leader(leader) => Json(leader_json(&leader)).into_response(),
        Belief::Nobody => {
            let body = Json(json!({ "error": "nobody leads" }));
            (StatusCode::NOT_FOUND, body).into_response()
        }
        Belief::Unsure => unsure(),
    }
}

async fn is_leader(State(beliefs): State<Arc<Beliefs>>) -> Response {
    let leading = beliefs.is_leader();
    let status = match leading {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(json!({ "is_leader": leading }))).into_response()
}

fn unsure() -> Response {
    let body = json!({ "error": "it is not known who leads: the cluster does not answer" });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

/// What is believed, and each change of it.
async fn events(
    State(beliefs): State<Arc<Beliefs>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let published = beliefs.published();
    let changes = futures::stream::unfold((published, true), |(mut published, first)| async move {
        if !first {
            published.changed().await.ok()?;
        }
        let belief = published.borrow_and_update().clone();
        Some((Ok(event(&belief)), (published, false)))
    });
    Sse::new(changes).keep_alive(KeepAlive::default())
}

fn event(belief: &Belief) -> Event {
    let (kind, data) = match belief {
        Belief::Leader(leader) => ("leader", leader_json(leader)),
        Belief::Nobody => ("nobody", json!({})),
        Belief::Unsure => ("unsure", json!({})),
    };
    Event::default().event(kind).data(data.to_string())
}

/// A leader with all that is known of it.
pub(super) fn leader_json(leader: &KnownLeader) -> Value {
    let age = leader.age();
    json!({
        "name": leader.name,
        "token": leader.token,
        "value": leader.value,
        "is_self": leader.is_self,
        "age_ms": u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        "since": since(age),
    })
}

/// When that was, in seconds of the wall clock: for people.
#[expect(
    clippy::disallowed_methods,
    reason = "shown to people, and compared with nothing"
)]
fn since(age: std::time::Duration) -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    now.saturating_sub(age).as_secs()
}
