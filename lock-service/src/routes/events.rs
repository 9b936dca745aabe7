//! What happens to locks, as server-sent events.

use std::convert::Infallible;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use futures::stream;
use lock_api::{
    Consistency, EventPosition, EventsQuery, HEARTBEAT_EVENT, HeartbeatEvent, LAST_EVENT_ID_HEADER,
    POSITION_HEADER, PROBLEM_EVENT, path,
};
use lock_model::Position;

use super::extract::{Terms, UrlQuery};
use super::openapi::{Reads, TermsParameters};
use super::{App, Reply, fresh, gone, of_this_cluster, position_gone};
use crate::auth::{Caller, Role};
use crate::events::{Filter, Told, Watch};
use crate::machine::LockMachine;
use crate::problem::{Failure, invalid};
use crate::service::wire;

/// `GET /v1/events`
#[utoipa::path(
    get,
    path = path::EVENTS,
    params(EventsQuery, ("last-event-id" = Option<EventPosition>, Header, description = "The id of the last event that arrived."), TermsParameters),
    responses((status = 200, description = "A stream of LockEvent, HeartbeatEvent, or Problem as data.", body = String, content_type = "text/event-stream"), Reads),
)]
pub async fn events(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    headers: HeaderMap,
    UrlQuery(query): UrlQuery<EventsQuery>,
) -> Reply {
    let filter = match (&query.lock, &query.prefix) {
        (Some(lock), None) => {
            caller.check(Role::Read, lock.as_str())?;
            Filter::Lock(wire::model_lock(lock)?)
        }
        (None, Some(prefix)) => {
            caller.check(Role::Read, prefix)?;
            Filter::Prefix(prefix.clone())
        }
        _ => {
            return Err(invalid(
                Some("lock"),
                "`lock`: send either `lock` or `prefix`; the empty prefix means all locks",
            ));
        }
    };
    let resumed = headers.get(LAST_EVENT_ID_HEADER).map(last_event_id);
    let after = resumed.transpose()?.or(query.after);
    let service = app.service()?;
    let cluster_id = service.node().cluster_id().to_string();
    let after = match after {
        None => {
            // From now on: behind everything that was answered before this was asked.
            fresh(&app, &terms, Some(Consistency::Linearizable)).await?;
            service.node().read(|machine| machine.table.last_position())
        }
        Some(after) => {
            of_this_cluster(service, &after)?;
            let after = wire::model_position(after.position);
            service
                .node()
                .wait_applied(after.index, terms.deadline())
                .await?;
            let kept = |machine: &LockMachine| machine.table.events_after(after).err();
            if let Some(oldest) = service.node().read(kept) {
                return Err(position_gone(service, oldest));
            }
            after
        }
    };
    let watch = Watch::new(service.shared_node(), service.hub().clone(), filter, after);
    let stream = stream::unfold((watch, cluster_id), |(mut watch, cluster)| async move {
        // The model makes nothing that cannot be written.
        let event = sent(&cluster, watch.next().await?)?;
        Some((Ok::<_, Infallible>(event), (watch, cluster)))
    });
    let mut response = Sse::new(Box::pin(stream)).into_response();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&after.to_string()) {
        headers.insert(POSITION_HEADER, value);
    }
    // Proxies that gather answers would hold events back.
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(response)
}

fn last_event_id(value: &HeaderValue) -> Result<EventPosition, Failure> {
    let text = value.to_str().unwrap_or_default();
    text.parse().map_err(|error| {
        let detail = format!("`{LAST_EVENT_ID_HEADER}`: {error}");
        invalid(Some(LAST_EVENT_ID_HEADER), detail)
    })
}

fn sent(cluster: &str, told: Told) -> Option<Event> {
    let place = |position: Position| EventPosition {
        position: wire::position(position),
        cluster_id: Some(cluster.to_owned()),
    };
    let event = |name: &str, body| Event::default().event(name).data(body);
    Some(match told {
        Told::Event(happened) => {
            let body = wire::event(&happened)?;
            let data = serde_json::to_string(&body).ok()?;
            event(body.event_type.as_str(), data).id(place(happened.position).to_string())
        }
        Told::Heartbeat(position) => {
            let body = HeartbeatEvent {
                position: wire::position(position),
            };
            let data = serde_json::to_string(&body).ok()?;
            event(HEARTBEAT_EVENT, data).id(place(position).to_string())
        }
        Told::Gone(oldest) => {
            let data = serde_json::to_string(&gone(place(oldest))).ok()?;
            event(PROBLEM_EVENT, data)
        }
    })
}
