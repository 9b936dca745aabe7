//! The cluster, its members, and whether this node serves.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use futures::future::join_all;
use lock_api::{
    ClusterId, ClusterResponse, Consistency, ErrorCode, LeaderView, MemberRole, MemberView, NodeId,
    ReadyResponse, VersionResponse, path,
};
use raft_core::MemberStatus;

use super::extract::Terms;
use super::openapi::{Reads, TermsParameters};
use super::{App, Reply, fresh, membership, reply};
use crate::auth::{Caller, Role};
use crate::problem::unavailable;
use crate::service::wire;

/// A member that does not say how far it is within this is shown as unreachable.
const MEMBER_TIMEOUT: Duration = Duration::from_millis(700);

/// `GET /v1/cluster`
#[utoipa::path(
    get,
    path = path::CLUSTER,
    params(TermsParameters),
    responses((status = 200, description = "This node's view.", body = ClusterResponse), Reads),
)]
pub async fn cluster(State(app): State<App>, caller: Caller) -> Reply {
    caller.check_somewhere(Role::Read)?;
    let node = app.service()?.node();
    let status = node.status();
    let members = join_all(status.members.iter().map(|member| async move {
        let progress = node.progress_of(member.node, MEMBER_TIMEOUT).await;
        let name = |member: &MemberStatus| member.member.name.clone();
        MemberView {
            node_id: NodeId(member.node.0),
            name: name(member),
            voter: member.voter,
            http_address: member.member.service_address.clone(),
            peer_address: member.member.peer_address.clone(),
            reachable: progress.is_some(),
            lag_entries: member.lag_entries,
            heard_by_leader: member.heard,
            role: progress.as_ref().map(|progress| role(progress.role)),
            term: progress.as_ref().map(|progress| progress.term),
            last_log_index: progress.as_ref().and_then(|own| own.last_log_index),
            committed_index: progress.as_ref().and_then(|own| own.committed_index),
            applied_index: progress.as_ref().and_then(|own| own.applied_index),
            snapshot_index: progress.as_ref().and_then(|own| own.snapshot_index),
            purged_index: progress.as_ref().and_then(|own| own.purged_index),
        }
    }));
    let body = ClusterResponse {
        cluster_id: ClusterId(node.cluster_id().to_string()),
        answered_by: NodeId(status.node.0),
        leader: status.leader().map(|leader| LeaderView {
            node_id: NodeId(leader.node.0),
            name: leader.member.name.clone(),
        }),
        term: status.progress.term,
        membership_version: status.membership.version.map(membership::shown),
        joint: status.membership.is_joint(),
        members: members.await,
    };
    Ok(Json(body).into_response())
}

fn role(role: raft_core::Role) -> MemberRole {
    match role {
        raft_core::Role::Leader => MemberRole::Leader,
        raft_core::Role::Follower => MemberRole::Follower,
        raft_core::Role::Candidate => MemberRole::Candidate,
        raft_core::Role::Learner => MemberRole::Learner,
        raft_core::Role::Stopped => MemberRole::Stopped,
    }
}

/// `GET /healthz`: the process lives. Never asks for a quorum.
#[utoipa::path(
    get,
    path = path::HEALTHZ,
    responses((status = 200, description = "The process lives.", body = String, content_type = "text/plain")),
)]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: a linearizable read works here.
#[utoipa::path(
    get,
    path = path::READYZ,
    params(TermsParameters),
    responses((status = 200, description = "A linearizable read works here.", body = ReadyResponse), Reads),
)]
pub async fn readyz(State(app): State<App>, terms: Terms) -> Reply {
    let (service, _) = fresh(&app, &terms, Some(Consistency::Linearizable)).await?;
    let (founded, position) = service.node().read(|machine| {
        let table = &machine.table;
        (table.cluster_id().is_some(), table.last_position())
    });
    if !founded {
        return Err(unavailable(
            ErrorCode::NoLeader,
            "the cluster has a leader that has not made its lock table yet; try again in a moment",
        ));
    }
    let position = wire::position(position);
    Ok(reply(
        position,
        ReadyResponse {
            ready: true,
            position,
        },
    ))
}

/// `GET /version`
#[utoipa::path(
    get,
    path = path::VERSION,
    responses((status = 200, description = "What is running.", body = VersionResponse)),
)]
pub async fn version() -> Json<VersionResponse> {
    Json(VersionResponse {
        program: "palisaded".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api_version: 1,
        model_version_max: lock_model::ModelVersion::LATEST.into(),
    })
}
