//! The settings of the lock table and the version of its rules.

use axum::extract::State;
use lock_api::{
    ChangeSettingsRequest, ModelVersionRequest, ModelVersionResponse, SettingsResponse, path,
};

use super::extract::{JsonBody, Terms};
use super::openapi::{Changes, Reads, TermsParameters};
use super::{App, Reply, fresh, reply};
use crate::auth::Caller;

/// `GET /v1/cluster/settings`
#[utoipa::path(
    get,
    path = path::SETTINGS,
    params(TermsParameters),
    responses((status = 200, description = "What is in force.", body = SettingsResponse), Reads),
)]
pub async fn settings(State(app): State<App>, terms: Terms) -> Reply {
    let (service, _) = fresh(&app, &terms, None).await?;
    let settings = service.settings();
    Ok(reply(settings.position, settings))
}

/// `POST /v1/cluster/settings`
#[utoipa::path(
    post,
    path = path::SETTINGS,
    request_body = ChangeSettingsRequest,
    params(TermsParameters),
    responses((status = 200, description = "What is in force now.", body = SettingsResponse), Changes),
)]
pub async fn change_settings(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    JsonBody(request): JsonBody<ChangeSettingsRequest>,
) -> Reply {
    let service = app.service()?;
    let changed = service.change_settings(&request, terms.deadline()).await?;
    tracing::warn!(target: "audit", by = caller.name(), ?request, "changed settings");
    Ok(reply(changed.position, changed))
}

/// `POST /v1/cluster/model-version`
#[utoipa::path(
    post,
    path = path::MODEL_VERSION,
    request_body = ModelVersionRequest,
    params(TermsParameters),
    responses((status = 200, description = "What is in force now.", body = ModelVersionResponse), Changes),
)]
pub async fn raise_model_version(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    JsonBody(request): JsonBody<ModelVersionRequest>,
) -> Reply {
    let service = app.service()?;
    let raised = service
        .raise_model_version(&request, terms.deadline())
        .await?;
    tracing::warn!(target: "audit", by = caller.name(), ?request, "raised the model version");
    Ok(reply(raised.position, raised))
}
