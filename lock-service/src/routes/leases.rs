//! Leases: renew, make, end, list, inspect.

use std::time::Instant;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use lock_api::{
    CreateLeaseRequest, ErrorCode, LeaseCreatedResponse, LeaseId, LeasePage, LeaseQuery,
    LeaseResponse, LeaseView, LeaseWait, LeasesQuery, MAX_LEASES_PER_RENEW, MAX_PAGE_SIZE, Problem,
    RenewManyResponse, RenewRequest, RenewResponse, RevokeLeaseRequest, RevokeLeaseResponse, path,
};
use lock_model::{Origin, Timestamp};

use super::extract::{JsonBody, Terms, UrlQuery};
use super::openapi::{Changes, Reads, Renewed, TermsParameters};
use super::{App, Reply, fresh, reply};
use crate::auth::{Caller, Role};
use crate::problem::{Failure, invalid};
use crate::service::{Service, wire};

/// `POST /v1/renew`
#[utoipa::path(
    post,
    path = path::RENEW,
    request_body = RenewRequest,
    params(TermsParameters),
    responses((status = 200, description = "Renewed.", body = Renewed), Changes),
)]
pub async fn renew(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    JsonBody(request): JsonBody<RenewRequest>,
) -> Reply {
    caller.check_somewhere(Role::Lock)?;
    let Some(secrets) = request.targets() else {
        return Err(invalid(
            Some("lease"),
            format!(
                "`lease`: send either `lease`, or `leases` with 1 to {MAX_LEASES_PER_RENEW} of them"
            ),
        ));
    };
    let answers = app.service()?.renew(secrets, terms.deadline()).await?;
    let Some((_, position)) = answers.first() else {
        return Err(Problem::new(ErrorCode::Internal, "a renewal was not answered").into());
    };
    let position = wire::position(*position);
    let mut answers: Vec<_> = answers.into_iter().map(|(answer, _)| answer).collect();
    if request.lease.is_none() {
        let leases = answers;
        return Ok(reply(position, RenewManyResponse { leases, position }));
    }
    let answer = answers.remove(0);
    match (answer.renewal, answer.problem) {
        (Some(renewal), _) => Ok(reply(
            position,
            RenewResponse {
                lease_id: answer.lease_id,
                renewal,
                position,
            },
        )),
        (None, Some(problem)) => Err(problem.into()),
        (None, None) => Err(Problem::new(ErrorCode::Internal, "a renewal has no answer").into()),
    }
}

/// `POST /v1/leases`
#[utoipa::path(
    post,
    path = path::LEASES,
    request_body = CreateLeaseRequest,
    params(TermsParameters),
    responses((status = 200, description = "Made, now or before.", body = LeaseCreatedResponse), Changes),
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    JsonBody(request): JsonBody<CreateLeaseRequest>,
) -> Reply {
    caller.check_somewhere(Role::Lock)?;
    let created = app
        .service()?
        .create_lease(&request, terms.deadline())
        .await?;
    Ok(reply(created.position, created))
}

/// `POST /v1/leases/revoke`
#[utoipa::path(
    post,
    path = path::REVOKE_LEASE,
    request_body = RevokeLeaseRequest,
    params(TermsParameters),
    responses((status = 200, description = "Ended, now or before.", body = RevokeLeaseResponse), Changes),
)]
pub async fn revoke(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    JsonBody(request): JsonBody<RevokeLeaseRequest>,
) -> Reply {
    let deadline = terms.deadline();
    let revoked = match (&request.lease, request.lease_id) {
        (Some(secret), None) => {
            caller.check_somewhere(Role::Lock)?;
            if request.now.is_some() {
                let detail = "`now`: only with `lease_id`; whoever has the secret frees at once";
                return Err(invalid(Some("now"), detail));
            }
            app.service()?.revoke(secret, deadline).await?
        }
        (None, Some(id)) => {
            caller.check_somewhere(Role::Admin)?;
            let service = app.service()?;
            may_end(service, &caller, id, deadline).await?;
            let now = request.now.unwrap_or(false);
            let revoked = service.revoke_by_id(id, now, deadline).await;
            audit(&caller, "revoke by id", id, now, revoked.as_ref().err());
            revoked?
        }
        (None, None) | (Some(_), Some(_)) => {
            let detail = "`lease`: send either `lease` or, as administrator, `lease_id`";
            return Err(invalid(Some("lease"), detail));
        }
    };
    Ok(reply(revoked.position, revoked))
}

/// Refuses a caller who does not administer all that the lease holds and waits for, as it is now.
/// What it takes a moment later is not looked at.
pub(super) async fn may_end(
    service: &Service,
    caller: &Caller,
    lease: LeaseId,
    deadline: Instant,
) -> Result<(), Failure> {
    for lock in service.locks_of(lease, deadline).await? {
        caller.check(Role::Admin, lock.as_str())?;
    }
    Ok(())
}

/// Who ended what somebody else held, for the log.
pub(super) fn audit(
    caller: &Caller,
    what: &str,
    lease: LeaseId,
    now: bool,
    failure: Option<&Failure>,
) {
    let by = caller.name();
    match failure {
        None => tracing::warn!(target: "audit", by, what, %lease, now, "done"),
        Some(failure) => {
            let code = failure.0.code.as_str();
            tracing::warn!(target: "audit", by, what, %lease, now, code, "failed");
        }
    }
}

/// `GET /v1/leases`
#[utoipa::path(
    get,
    path = path::LEASES,
    params(LeasesQuery, TermsParameters),
    responses((status = 200, description = "A page.", body = LeasePage), Reads),
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    UrlQuery(query): UrlQuery<LeasesQuery>,
) -> Reply {
    // A lease may hold any locks, and its view names them all.
    caller.check(Role::Read, "")?;
    let size = page_size(query.page_size)?;
    let after = query
        .cursor
        .as_deref()
        .map(|cursor| lease_id("cursor", cursor))
        .transpose()?;
    let (service, stale_by_ms) = fresh(&app, &terms, query.consistency).await?;
    let (mut leases, position) = service.node().read(|machine| {
        let table = &machine.table;
        let leases: Vec<_> = table
            .leases(after)
            .take(size + 1)
            .map(|lease| view(&lease, table.clock()))
            .collect();
        (leases, wire::position(table.last_position()))
    });
    let more = leases.len() > size;
    leases.truncate(size);
    let next_cursor = leases.last().filter(|_| more);
    let page = LeasePage {
        next_cursor: next_cursor.map(|lease| lease.lease_id.to_string()),
        leases,
        position,
        stale_by_ms,
    };
    Ok(reply(position, page))
}

/// `GET /v1/leases/{id}`
#[utoipa::path(
    get,
    path = path::LEASE,
    params(("id" = LeaseId, Path, description = "The id of the lease, not its secret."), LeaseQuery, TermsParameters),
    responses((status = 200, description = "The lease.", body = LeaseResponse), Reads),
)]
pub async fn inspect(
    State(app): State<App>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    terms: Terms,
    UrlQuery(query): UrlQuery<LeaseQuery>,
) -> Reply {
    caller.check(Role::Read, "")?;
    let Path(id) = id.map_err(|error| invalid(Some("id"), format!("`id`: {error}")))?;
    let id = lease_id("id", &id)?;
    let (service, stale_by_ms) = fresh(&app, &terms, query.consistency).await?;
    let (lease, position) = service.node().read(|machine| {
        let table = &machine.table;
        let lease = table.lease(id).map(|lease| view(&lease, table.clock()));
        (lease, wire::position(table.last_position()))
    });
    let Some(lease) = lease else {
        let mut problem = Problem::new(
            ErrorCode::LeaseNotFound,
            "no such lease is live; it may have ended, or the id may be wrong (it is not the \
             secret)",
        );
        problem.position = Some(position);
        return Err(problem.into());
    };
    let response = LeaseResponse {
        lease,
        position,
        stale_by_ms,
    };
    Ok(reply(position, response))
}

fn lease_id(field: &str, text: &str) -> Result<lock_model::LeaseId, Failure> {
    text.parse::<LeaseId>()
        .map(|id| lock_model::LeaseId(id.to_bytes()))
        .map_err(|error| invalid(Some(field), format!("`{field}`: {error}")))
}

/// Entries of one page.
pub(super) fn page_size(asked: Option<u64>) -> Result<usize, Failure> {
    let size = asked.unwrap_or(MAX_PAGE_SIZE);
    if !(1..=MAX_PAGE_SIZE).contains(&size) {
        let detail = format!("`page_size`: expected 1 to {MAX_PAGE_SIZE}");
        return Err(invalid(Some("page_size"), detail));
    }
    Ok(size as usize)
}

fn view(lease: &lock_model::LeaseView, clock: Timestamp) -> LeaseView {
    let waits = lease.waits.iter().flat_map(|wait| {
        wait.locks.iter().filter_map(move |request| {
            let (mode, permits) = wire::mode(request.mode);
            Some(LeaseWait {
                lock: wire::lock_name(&request.lock)?,
                request_id: wire::request_id(&wait.request)?,
                mode,
                permits,
                limit: request.mode.limit(),
                queued_position: wire::position(wait.queued_position),
                wait_remaining_ms: clock.ms_until(wait.deadline),
            })
        })
    });
    LeaseView {
        lease_id: wire::lease_id(lease.lease),
        owner: wire::owner(&lease.owner),
        metadata: wire::metadata(&lease.metadata),
        ttl_ms: lease.ttl_ms,
        remaining_ms: clock.ms_until(lease.deadline),
        explicit: lease.origin == Origin::Explicit,
        holds: wire::holds(&lease.holds),
        waits: waits.collect(),
    }
}
