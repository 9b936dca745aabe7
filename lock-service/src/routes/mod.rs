//! The HTTP API: one file per resource. Routes decode, ask the service, and encode; they decide
//! nothing.

mod access;
mod acquire;
mod backup;
mod cluster;
mod extract;
mod fence;
mod leases;
mod locks;
mod membership;
mod metrics;
mod settings;

use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::Router;
use axum::http::HeaderValue;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use lock_api::{Consistency, ErrorCode, POSITION_HEADER, Position, Problem, path};
use serde::Serialize;

use self::extract::Terms;
use crate::auth::Auth;
use crate::metrics::{Exposition, measure};
use crate::problem::{Failure, unavailable};
use crate::service::Service;

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
    let stale_by_ms = service
        .freshen(
            consistency.unwrap_or_default(),
            terms.min_position,
            terms.deadline(),
        )
        .await?;
    Ok((service, stale_by_ms))
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

/// All routes.
pub fn router(app: App) -> Router {
    let changes = Router::new()
        .route(path::PROMOTE, post(membership::promote))
        .route(path::REMOVE, post(membership::remove))
        .route(path::REPLACE, post(membership::replace))
        .route(path::ADDRESS, post(membership::address))
        .route(path::FINISH_CHANGE, post(membership::finish_change))
        .route(path::TRANSFER, post(membership::transfer))
        .route(path::SNAPSHOT, post(membership::snapshot))
        .route(path::BACKUP, get(backup::backup))
        .route(
            path::SETTINGS,
            get(settings::settings).post(settings::change_settings),
        )
        .route(path::MODEL_VERSION, post(settings::raise_model_version))
        .route_layer(from_fn_with_state(app.clone(), access::admins_only));
    Router::new()
        .route(path::ACQUIRE, post(acquire::acquire))
        .route(path::RELEASE, post(acquire::release))
        .route(path::CANCEL, post(acquire::cancel))
        .route(path::UPDATE, post(acquire::update))
        .route(path::RENEW, post(leases::renew))
        .route(path::LEASES, post(leases::create).get(leases::list))
        .route(path::REVOKE_LEASE, post(leases::revoke))
        .route(&format!("{}/{{id}}", path::LEASES), get(leases::inspect))
        .route(path::LOCKS, get(locks::locks))
        .route(path::FORCE_RELEASE, post(locks::force_release))
        .route(path::FENCE, get(fence::fence).post(fence::fence_batch))
        .route(path::CLUSTER, get(cluster::cluster))
        .route(path::METRICS, get(metrics::metrics))
        .merge(changes)
        // What follows is open to everybody: it names no lock and nobody.
        .route_layer(from_fn_with_state(app.clone(), access::authenticate))
        .route(path::HEALTHZ, get(cluster::healthz))
        .route(path::READYZ, get(cluster::readyz))
        .route(path::VERSION, get(cluster::version))
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
