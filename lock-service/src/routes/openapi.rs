//! The API described in OpenAPI's words, from the handlers and the bodies themselves.

use std::collections::BTreeMap;

use axum::Json;
use lock_api::{
    ErrorCode, HeartbeatEvent, LockEvent, LockPage, LockResponse, PROBLEM_CONTENT_TYPE, Problem,
    RenewManyResponse, RenewResponse, path,
};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi, ToSchema};

use super::{
    acquire, backup, cluster, events, fence, leases, locks, membership, metrics, settings,
};

/// What every request may say in its headers; [`Terms`](super::extract::Terms) reads them.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only describes what is read elsewhere")]
pub struct TermsParameters {
    /// How long the server may work on this request, in milliseconds; 5,000 when absent, on top of
    /// the request's wait.
    #[param(rename = "palisade-timeout-ms", minimum = 1, maximum = 60_000)]
    timeout_ms: Option<u64>,
    /// What the answering node must have applied first: read your own writes on any node.
    #[param(rename = "palisade-min-position")]
    min_position: Option<lock_api::EventPosition>,
}

/// Answers of `POST /v1/renew`.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes what is made elsewhere")]
pub enum Renewed {
    /// Of several leases.
    Many(RenewManyResponse),
    /// Of one.
    One(RenewResponse),
}

/// Answers of `GET /v1/locks`.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only describes what is made elsewhere")]
#[expect(
    clippy::large_enum_variant,
    reason = "a description; nothing of it is ever made"
)]
pub enum Locks {
    /// A listing.
    Page(LockPage),
    /// One lock.
    One(LockResponse),
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident: $statuses:expr;)*) => {
        $(
            $(#[$doc])*
            pub struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<Response>> {
                    $statuses.into_iter().map(problem).collect()
                }
            }
        )*
    };
}

problems! {
    /// What a change may be refused with.
    Changes: [400, 401, 403, 404, 409, 413, 415, 500, 503, 504];
    /// What a read may be refused with.
    Reads: [400, 401, 403, 404, 410, 500, 503];
    /// What a fence check may be refused with; its 404 and 409 are verdicts.
    FenceProblems: [400, 401, 403, 410, 500, 503];
}

fn problem(status: u16) -> (String, RefOr<Response>) {
    let codes: Vec<String> = ErrorCode::ALL
        .iter()
        .filter(|code| code.status() == status)
        .map(|code| format!("`{code}`"))
        .collect();
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build();
    let response = ResponseBuilder::new()
        .description(codes.join(", "))
        .content(PROBLEM_CONTENT_TYPE, content)
        .build();
    (status.to_string(), response.into())
}

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Palisade",
        description = "Locks with leases and fencing tokens. docs/api.md tells the whole story.",
    ),
    paths(
        acquire::acquire,
        acquire::release,
        acquire::update,
        acquire::cancel,
        leases::renew,
        leases::create,
        leases::revoke,
        leases::list,
        leases::inspect,
        locks::locks,
        locks::force_release,
        fence::fence,
        fence::fence_batch,
        events::events,
        cluster::cluster,
        cluster::healthz,
        cluster::readyz,
        cluster::version,
        metrics::metrics,
        membership::promote,
        membership::remove,
        membership::replace,
        membership::address,
        membership::finish_change,
        membership::transfer,
        membership::snapshot,
        backup::backup,
        settings::settings,
        settings::change_settings,
        settings::raise_model_version,
        openapi,
    ),
    components(schemas(Problem, LockEvent, HeartbeatEvent)),
    modifiers(&Bearer),
    security((), ("bearer" = []))
)]
struct Document;

/// `GET /openapi.json`
#[utoipa::path(
    get,
    path = path::OPENAPI,
    responses((status = 200, description = "This document.", body = Object)),
)]
pub async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::routes::routes;

    #[test]
    fn the_document_has_every_route_of_the_router_and_no_other() {
        let document = serde_json::to_value(Document::openapi()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let mut described = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                described.insert((method.clone(), path.clone()));
            }
        }
        let served: BTreeSet<_> = routes()
            .map(|(method, path)| (method.to_owned(), path.to_owned()))
            .collect();
        assert_eq!(described, served);
    }

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        let document = serde_json::to_value(Document::openapi()).unwrap();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
