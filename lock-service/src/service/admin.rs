//! What administrators do to the lock table: end what others hold, change settings and rules.

use std::time::Instant;

use lock_api::{
    ChangeSettingsRequest, ErrorCode, ForceReleaseRequest, ForceReleaseResponse,
    ModelVersionRequest, ModelVersionResponse, Problem, RevokeLeaseResponse, SettingsResponse,
};
use lock_model::{Command, LeaseId, LockName, ModelVersion, Response, Token};

use super::{Service, internal, wire};
use crate::problem::{Failure, invalid};

impl Service {
    /// All locks that a lease holds or waits for, as of a linearizable read.
    pub async fn locks_of(
        &self,
        lease: lock_api::LeaseId,
        deadline: Instant,
    ) -> Result<Vec<LockName>, Failure> {
        self.node.read_barrier(deadline).await?;
        let lease = self
            .node
            .read(|machine| machine.table.lease(wire::model_lease_id(lease)));
        let Some(lease) = lease else {
            return Ok(Vec::new());
        };
        let held = lease.holds.into_iter().map(|hold| hold.lock);
        let waits = lease.waits.into_iter().flat_map(|wait| wait.locks);
        Ok(held.chain(waits.map(|request| request.lock)).collect())
    }

    pub async fn force_release(
        &self,
        request: &ForceReleaseRequest,
        deadline: Instant,
    ) -> Result<ForceReleaseResponse, Failure> {
        let command = Command::ForceRelease {
            lock: wire::model_lock(&request.lock)?,
            token: Token(request.token.0),
            lease: wire::model_lease_id(request.lease_id),
            now: request.now.unwrap_or(false),
        };
        let ended = self.end_by_id(request.lease_id, &command, deadline).await?;
        Ok(ForceReleaseResponse {
            lease_id: ended.lease_id,
            was_live: ended.was_live,
            released: ended.released,
            held_back_ms: ended.held_back_ms,
            position: ended.position,
        })
    }

    pub async fn revoke_by_id(
        &self,
        lease: lock_api::LeaseId,
        now: bool,
        deadline: Instant,
    ) -> Result<RevokeLeaseResponse, Failure> {
        let command = Command::RevokeById {
            lease: LeaseId(lease.to_bytes()),
            now,
        };
        self.end_by_id(lease, &command, deadline).await
    }

    async fn end_by_id(
        &self,
        lease_id: lock_api::LeaseId,
        command: &Command,
        deadline: Instant,
    ) -> Result<RevokeLeaseResponse, Failure> {
        let outcome = self.propose(command, deadline).await?;
        let Response::Ended {
            was_live,
            released,
            held_back_ms,
        } = outcome.response
        else {
            return Err(internal(
                "the end of a lease was answered with something else",
            ));
        };
        Ok(RevokeLeaseResponse {
            lease_id,
            was_live,
            released: wire::holds(&released),
            held_back_ms,
            position: wire::position(outcome.position),
        })
    }

    /// What is in force on this node; see [`Service::freshen`] for how old that may be.
    pub fn settings(&self) -> SettingsResponse {
        self.node.read(|machine| {
            let table = &machine.table;
            SettingsResponse {
                settings: wire::settings(table.settings()),
                model_version: table.model_version().map_or(0, u32::from),
                position: wire::position(table.last_position()),
            }
        })
    }

    pub async fn change_settings(
        &self,
        change: &ChangeSettingsRequest,
        deadline: Instant,
    ) -> Result<SettingsResponse, Failure> {
        self.node.read_barrier(deadline).await?;
        let before = self.settings();
        let settings = change.over(&before.settings);
        let model_settings = wire::model_settings(&settings);
        model_settings.validate().map_err(|error| {
            invalid(
                Some(&error.setting),
                format!("`{}`: {error}", error.setting),
            )
        })?;
        let command = Command::ChangeSettings {
            settings: model_settings,
        };
        let outcome = self.propose(&command, deadline).await?;
        match outcome.response {
            Response::SettingsChanged => Ok(SettingsResponse {
                settings,
                model_version: before.model_version,
                position: wire::position(outcome.position),
            }),
            _ => Err(internal("new settings were answered with something else")),
        }
    }

    pub async fn raise_model_version(
        &self,
        request: &ModelVersionRequest,
        deadline: Instant,
    ) -> Result<ModelVersionResponse, Failure> {
        let model_version = ModelVersion::try_from(request.model_version).map_err(|error| {
            let detail = format!("`model_version`: {error}, on every member");
            invalid(Some("model_version"), detail)
        })?;
        let command = Command::RaiseModelVersion { model_version };
        let outcome = self.propose(&command, deadline).await?;
        match outcome.response {
            Response::ModelVersionRaised {
                model_version,
                repeated,
            } => Ok(ModelVersionResponse {
                model_version: model_version.into(),
                repeated,
                position: wire::position(outcome.position),
            }),
            _ => Err(Problem::new(
                ErrorCode::Internal,
                "a new model version was answered with something else",
            )
            .into()),
        }
    }
}
