//! Changes of the membership and of the leader, and snapshots on request.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use lock_api::{
    AddressRequest, ErrorCode, FinishChangeRequest, LeaderView, MemberEntry, MemberRequest,
    MembershipResponse, NodeId, Problem, ReplaceRequest, SnapshotRequest, SnapshotResponse,
    TransferRequest, TransferResponse, path,
};
use raft_core::{MemberField, Membership, MembershipChange, MembershipError, MembershipVersion};

use super::extract::{JsonBody, Terms};
use super::openapi::{Changes, TermsParameters};
use super::{App, Reply};
use crate::problem::{Failure, invalid, unavailable};

fn node(id: NodeId) -> raft_core::NodeId {
    raft_core::NodeId(id.0)
}

fn version(version: lock_api::MembershipVersion) -> MembershipVersion {
    MembershipVersion {
        term: version.term,
        index: version.index,
    }
}

/// The wire's name of a membership.
pub(super) fn shown(version: MembershipVersion) -> lock_api::MembershipVersion {
    lock_api::MembershipVersion {
        term: version.term,
        index: version.index,
    }
}

/// `POST /v1/cluster/promote`
#[utoipa::path(
    post,
    path = path::PROMOTE,
    request_body = MemberRequest,
    params(TermsParameters),
    responses((status = 200, description = "The membership now.", body = MembershipResponse), Changes),
)]
pub async fn promote(
    State(app): State<App>,
    terms: Terms,
    JsonBody(request): JsonBody<MemberRequest>,
) -> Reply {
    let change = MembershipChange::Promote {
        node: node(request.node_id),
    };
    change_membership(&app, &terms, change, request.if_membership.map(version)).await
}

/// `POST /v1/cluster/remove`
#[utoipa::path(
    post,
    path = path::REMOVE,
    request_body = MemberRequest,
    params(TermsParameters),
    responses((status = 200, description = "The membership now.", body = MembershipResponse), Changes),
)]
pub async fn remove(
    State(app): State<App>,
    terms: Terms,
    JsonBody(request): JsonBody<MemberRequest>,
) -> Reply {
    let change = MembershipChange::Remove {
        node: node(request.node_id),
    };
    change_membership(&app, &terms, change, request.if_membership.map(version)).await
}

/// `POST /v1/cluster/replace`
#[utoipa::path(
    post,
    path = path::REPLACE,
    request_body = ReplaceRequest,
    params(TermsParameters),
    responses((status = 200, description = "The membership now.", body = MembershipResponse), Changes),
)]
pub async fn replace(
    State(app): State<App>,
    terms: Terms,
    JsonBody(request): JsonBody<ReplaceRequest>,
) -> Reply {
    let change = MembershipChange::Replace {
        old: node(request.old_node_id),
        new: node(request.new_node_id),
    };
    change_membership(&app, &terms, change, request.if_membership.map(version)).await
}

/// `POST /v1/cluster/address`
#[utoipa::path(
    post,
    path = path::ADDRESS,
    request_body = AddressRequest,
    params(TermsParameters),
    responses((status = 200, description = "The membership now.", body = MembershipResponse), Changes),
)]
pub async fn address(
    State(app): State<App>,
    terms: Terms,
    JsonBody(request): JsonBody<AddressRequest>,
) -> Reply {
    let nothing =
        (&request.name, &request.peer_address, &request.http_address) == (&None, &None, &None);
    if nothing {
        let detail = "nothing is to be changed: give `name`, `peer_address` or `http_address`";
        return Err(invalid(None, detail.to_owned()));
    }
    if let Some(http_address) = &request.http_address
        && !crate::config::is_host_port(http_address)
    {
        let detail = format!("`http_address`: `{http_address}` is not HOST:PORT");
        return Err(invalid(Some("http_address"), detail));
    }
    let id = node(request.node_id);
    let known = app.service()?.node().membership();
    let Some(mut member) = known.members.get(&id).cloned() else {
        return Err(described(MembershipError::UnknownMember { node: id }));
    };
    member.name = request.name.unwrap_or(member.name);
    member.peer_address = request.peer_address.unwrap_or(member.peer_address);
    member.service_address = request.http_address.unwrap_or(member.service_address);
    // What is left out was read here: it must not overwrite what is newer.
    let based_on = request.if_membership.map(version).or(known.version);
    let change = MembershipChange::Update { node: id, member };
    change_membership(&app, &terms, change, based_on).await
}

/// `POST /v1/cluster/finish-change`
#[utoipa::path(
    post,
    path = path::FINISH_CHANGE,
    request_body = FinishChangeRequest,
    params(TermsParameters),
    responses((status = 200, description = "The membership now.", body = MembershipResponse), Changes),
)]
pub async fn finish_change(
    State(app): State<App>,
    terms: Terms,
    JsonBody(request): JsonBody<FinishChangeRequest>,
) -> Reply {
    let expected = request.if_membership.map(version);
    change_membership(&app, &terms, MembershipChange::Finish, expected).await
}

/// `POST /v1/cluster/transfer`
#[utoipa::path(
    post,
    path = path::TRANSFER,
    request_body = TransferRequest,
    params(TermsParameters),
    responses((status = 200, description = "It leads.", body = TransferResponse), Changes),
)]
pub async fn transfer(
    State(app): State<App>,
    terms: Terms,
    JsonBody(request): JsonBody<TransferRequest>,
) -> Reply {
    let raft = app.service()?.node();
    let to = request.to_node_id.map(node);
    let transferred = raft.transfer_leadership(to, terms.deadline()).await;
    let leader = transferred.map_err(described)?;
    let name = raft
        .status()
        .member(leader)
        .map(|it| it.member.name.clone());
    let leader = LeaderView {
        node_id: NodeId(leader.0),
        name: name.unwrap_or_default(),
    };
    Ok(Json(TransferResponse { leader }).into_response())
}

/// `POST /v1/cluster/snapshot`
#[utoipa::path(
    post,
    path = path::SNAPSHOT,
    request_body = SnapshotRequest,
    params(TermsParameters),
    responses((status = 200, description = "It is being taken.", body = SnapshotResponse), Changes),
)]
pub async fn snapshot(
    State(app): State<App>,
    _terms: Terms,
    JsonBody(SnapshotRequest {}): JsonBody<SnapshotRequest>,
) -> Reply {
    let raft = app.service()?.node();
    let snapshot_index = raft.status().progress.snapshot_index;
    if let Err(why) = raft.trigger_snapshot().await {
        return Err(Problem::new(ErrorCode::Internal, why).into());
    }
    let body = SnapshotResponse {
        node_id: NodeId(raft.id().0),
        snapshot_index,
    };
    Ok(Json(body).into_response())
}

async fn change_membership(
    app: &App,
    terms: &Terms,
    change: MembershipChange,
    expected: Option<MembershipVersion>,
) -> Reply {
    let deadline: Instant = terms.deadline();
    let raft = app.service()?.node();
    let changed = raft.change_membership(change, expected, deadline).await;
    let membership = changed.map_err(described)?;
    Ok(Json(wire(&membership)).into_response())
}

fn wire(membership: &Membership) -> MembershipResponse {
    let entry = |(node, member): (&raft_core::NodeId, &raft_core::Member)| MemberEntry {
        node_id: NodeId(node.0),
        name: member.name.clone(),
        voter: membership.is_voter(*node),
        peer_address: member.peer_address.clone(),
        http_address: member.service_address.clone(),
    };
    MembershipResponse {
        membership_version: membership.version.map(shown),
        joint: membership.is_joint(),
        members: membership.members.iter().map(entry).collect(),
    }
}

fn described(error: MembershipError) -> Failure {
    let detail = error.to_string();
    let code = match error {
        MembershipError::NoLeader => {
            return unavailable(ErrorCode::NoLeader, &format!("{detail}. Try again"));
        }
        MembershipError::Invalid { field, .. } => return invalid(Some(field_name(field)), detail),
        MembershipError::Unknown => ErrorCode::DeadlineExceeded,
        MembershipError::InProgress => ErrorCode::ChangeInProgress,
        MembershipError::Interrupted => {
            let detail = format!("{detail} (POST {})", lock_api::path::FINISH_CHANGE);
            return Problem::new(ErrorCode::ChangeInterrupted, detail).into();
        }
        MembershipError::Changed { .. } => ErrorCode::MembershipChanged,
        MembershipError::UnknownMember { .. } => ErrorCode::MemberNotFound,
        MembershipError::Lagging { .. } | MembershipError::Silent { .. } => {
            ErrorCode::MemberNotReady
        }
        // Refusals of whatever kind; the detail says which.
        _ => ErrorCode::ChangeRefused,
    };
    Problem::new(code, detail).into()
}

fn field_name(field: MemberField) -> &'static str {
    match field {
        MemberField::Name => "name",
        MemberField::PeerAddress => "peer_address",
        MemberField::ServiceAddress => "http_address",
    }
}
