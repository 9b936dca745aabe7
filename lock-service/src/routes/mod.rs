//! The HTTP API: one file per resource. Routes decode, ask the service, and encode; they decide
//! nothing.

mod access;
mod acquire;
mod backup;
mod cluster;
mod events;
mod extract;
mod fence;
mod leases;
mod locks;
mod membership;
mod metrics;
mod openapi;
mod settings;

use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::Router;
use axum::http::HeaderValue;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use lock_api::{Consistency, ErrorCode, EventPosition, POSITION_HEADER, Position, Problem, path};
use serde::Serialize;

use self::extract::Terms;
use crate::auth::Auth;
use crate::machine::LockMachine;
use crate::metrics::{Exposition, measure};
use crate::problem::{Failure, unavailable};
use crate::service::{Service, wire};

/// The service, once this node is a member of a cluster, and who may use it.
#[derive(Clone)]
pub struct App {
    service: Arc<OnceLock<Arc<Service>>>,
    exposition: Exposition,
    auth: Option<Arc<Auth>>,
}

impl App {
    /// Without a service yet. Lets in whom `auth` knows; everybody without one.
    pub fn new(exposition: Exposition, auth: Option<Arc<Auth>>) -> Self {
        Self {
            service: Arc::default(),
            exposition,
            auth,
        }
    }

    /// From now on requests are served. Only the first call counts.
    pub fn serve(&self, service: Arc<Service>) {
        let _ = self.service.set(service);
    }

    fn service(&self) -> Result<&Arc<Service>, Failure> {
        self.service.get().ok_or_else(|| {
            unavailable(
                ErrorCode::NoLeader,
                "this node waits for its peers, to found the cluster or to be taken in; its log says \
                 for whom",
            )
        })
    }
}

/// The service, once this node's state is as fresh as the request asks, and how old a stale answer may
/// be, in milliseconds.
async fn fresh<'a>(
    app: &'a App,
    terms: &Terms,
    consistency: Option<Consistency>,
) -> Result<(&'a Service, Option<u64>), Failure> {
    let service = app.service()?;
    if let Some(min_position) = &terms.min_position {
        of_this_cluster(service, min_position)?;
    }
    let min_position = terms.min_position.as_ref().map(|min| min.position);
    let stale_by_ms = service
        .freshen(
            consistency.unwrap_or_default(),
            min_position,
            terms.deadline(),
        )
        .await?;
    Ok((service, stale_by_ms))
}

/// Refuses a position of another cluster: after a restore positions begin again.
fn of_this_cluster(service: &Service, place: &EventPosition) -> Result<(), Failure> {
    let of = &place.cluster_id;
    let own = service.node().cluster_id().to_string();
    match of.as_ref().is_none_or(|of| *of == own) {
        true => Ok(()),
        false => {
            let oldest = |machine: &LockMachine| machine.table.oldest_event_position();
            Err(position_gone(service, service.node().read(oldest)))
        }
    }
}

/// The events behind a position are not kept, or are those of another cluster.
fn position_gone(service: &Service, oldest: lock_model::Position) -> Failure {
    let oldest = EventPosition {
        position: wire::position(oldest),
        cluster_id: Some(service.node().cluster_id().to_string()),
    };
    gone(oldest).into()
}

fn gone(oldest: EventPosition) -> Problem {
    let mut problem = Problem::new(
        ErrorCode::PositionGone,
        format!(
            "the events behind this position are not kept any more, or it is of another cluster; \
             look at the locks themselves, and go on from the position of that answer. The oldest \
             that is kept is behind {oldest}"
        ),
    );
    problem.oldest_position = Some(oldest);
    problem
}

type Reply = Result<Response, Failure>;

/// A successful answer, with the position at which it is true.
fn reply(position: Position, body: impl Serialize) -> Response {
    let mut response = Json(body).into_response();
    if let Ok(value) = HeaderValue::from_str(&position.to_string()) {
        response.headers_mut().insert(POSITION_HEADER, value);
    }
    response
}

/// Declares groups of routes, each once: for the router, and for what is compared with the document.
macro_rules! routes {
    ($($group:ident { $($path:expr => $($method:ident $handler:path),+;)* })*) => {
        $(
            fn $group() -> Router<App> {
                Router::new()$(.route($path, MethodRouter::new()$(.$method($handler))+))*
            }
        )*

        /// Every method and path.
        #[cfg(test)]
        fn routes() -> impl Iterator<Item = (&'static str, &'static str)> {
            [$($($((stringify!($method), $path)),+),*),*].into_iter()
        }
    };
}

routes! {
    administration {
        path::PROMOTE => post membership::promote;
        path::REMOVE => post membership::remove;
        path::REPLACE => post membership::replace;
        path::ADDRESS => post membership::address;
        path::FINISH_CHANGE => post membership::finish_change;
        path::TRANSFER => post membership::transfer;
        path::SNAPSHOT => post membership::snapshot;
        path::BACKUP => get backup::backup;
        path::SETTINGS => get settings::settings, post settings::change_settings;
        path::MODEL_VERSION => post settings::raise_model_version;
    }
    locking {
        path::ACQUIRE => post acquire::acquire;
        path::RELEASE => post acquire::release;
        path::CANCEL => post acquire::cancel;
        path::UPDATE => post acquire::update;
        path::RENEW => post leases::renew;
        path::LEASES => post leases::create, get leases::list;
        path::REVOKE_LEASE => post leases::revoke;
        path::LEASE => get leases::inspect;
        path::LOCKS => get locks::locks;
        path::FORCE_RELEASE => post locks::force_release;
        path::FENCE => get fence::fence, post fence::fence_batch;
        path::EVENTS => get events::events;
        path::CLUSTER => get cluster::cluster;
        path::METRICS => get metrics::metrics;
    }
    open_to_everybody {
        path::HEALTHZ => get cluster::healthz;
        path::READYZ => get cluster::readyz;
        path::VERSION => get cluster::version;
        path::OPENAPI => get openapi::openapi;
    }
}

/// All routes.
pub fn router(app: App) -> Router {
    let administration =
        administration().route_layer(from_fn_with_state(app.clone(), access::admins_only));
    locking()
        .merge(administration)
        .route_layer(from_fn_with_state(app.clone(), access::authenticate))
        // It names no lock and nobody.
        .merge(open_to_everybody())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(measure))
        .with_state(app)
}

async fn not_found() -> Failure {
    Problem::new(
        ErrorCode::NotFound,
        "there is no such path; the API lies under /v1",
    )
    .into()
}

async fn method_not_allowed() -> Failure {
    Problem::new(
        ErrorCode::MethodNotAllowed,
        "this path has another method: changes are POST with a JSON body, reads are GET",
    )
    .into()
}
