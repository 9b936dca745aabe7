//! Locks as people and tools see them.

use axum::extract::State;
use lock_api::{
    BlockReason, ForceReleaseRequest, ForceReleaseResponse, HolderView, LockDelay, LockPage,
    LockResponse, LockView, LocksQuery, Obstacle, WaiterView, path,
};
use lock_model::{LockHeldReason, ObstacleView, Timestamp};

use super::extract::{JsonBody, Terms, UrlQuery};
use super::leases::{audit, may_end, page_size};
use super::openapi::{Changes, Locks, Reads, TermsParameters};
use super::{App, Reply, fresh, reply};
use crate::auth::{Caller, Role};
use crate::problem::{invalid, why_not_free};
use crate::service::wire;

/// `GET /v1/locks?name=` and `GET /v1/locks?prefix=`
#[utoipa::path(
    get,
    path = path::LOCKS,
    params(LocksQuery, TermsParameters),
    responses((status = 200, description = "One lock, or a page of them.", body = Locks), Reads),
)]
pub async fn locks(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    UrlQuery(query): UrlQuery<LocksQuery>,
) -> Reply {
    let size = page_size(query.page_size)?;
    if query.name.is_some() && (query.prefix.is_some() || query.cursor.is_some()) {
        return Err(invalid(
            Some("name"),
            "`name`: asks for one lock; leave `prefix` and `cursor` out, or list without `name`",
        ));
    }
    match (&query.name, &query.prefix) {
        (Some(name), _) => caller.check(Role::Read, name.as_str())?,
        (None, prefix) => caller.check(Role::Read, prefix.as_deref().unwrap_or_default())?,
    }
    let name = query.name.as_ref().map(wire::model_lock).transpose()?;
    let after = query
        .cursor
        .as_deref()
        .map(lock_model::LockName::new)
        .transpose()
        .map_err(|error| invalid(Some("cursor"), format!("`cursor`: {error}")))?;
    let (service, stale_by_ms) = fresh(&app, &terms, query.consistency).await?;
    if let (Some(name), Some(asked)) = (name, query.name) {
        let (lock, position) = service.node().read(|machine| {
            let table = &machine.table;
            let lock = table
                .lock(&name)
                .and_then(|lock| view(&lock, table.clock()));
            (lock, wire::position(table.last_position()))
        });
        let lock = lock.unwrap_or(LockView {
            lock: asked,
            limit: None,
            holders: Vec::new(),
            queue: Vec::new(),
            blocked_by: None,
            first_waits_for: None,
            delay: None,
        });
        let response = LockResponse {
            lock,
            position,
            stale_by_ms,
        };
        return Ok(reply(position, response));
    }
    let prefix = query.prefix.unwrap_or_default();
    let (mut locks, position) = service.node().read(|machine| {
        let table = &machine.table;
        let locks: Vec<_> = table
            .locks(&prefix, after.as_ref())
            .filter_map(|lock| view(&lock, table.clock()))
            .take(size + 1)
            .collect();
        (locks, wire::position(table.last_position()))
    });
    let more = locks.len() > size;
    locks.truncate(size);
    let next_cursor = locks.last().filter(|_| more);
    let page = LockPage {
        next_cursor: next_cursor.map(|lock| lock.lock.as_str().to_owned()),
        locks,
        position,
        stale_by_ms,
    };
    Ok(reply(position, page))
}

/// `POST /v1/locks/force-release`
#[utoipa::path(
    post,
    path = path::FORCE_RELEASE,
    request_body = ForceReleaseRequest,
    params(TermsParameters),
    responses((status = 200, description = "The lease has ended.", body = ForceReleaseResponse), Changes),
)]
pub async fn force_release(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    JsonBody(request): JsonBody<ForceReleaseRequest>,
) -> Reply {
    caller.check(Role::Admin, request.lock.as_str())?;
    let service = app.service()?;
    may_end(service, &caller, request.lease_id, terms.deadline()).await?;
    let released = service.force_release(&request, terms.deadline()).await;
    let what = format!("force release of {}, token {}", request.lock, request.token);
    let now = request.now.unwrap_or(false);
    audit(
        &caller,
        &what,
        request.lease_id,
        now,
        released.as_ref().err(),
    );
    let released = released?;
    Ok(reply(released.position, released))
}

fn view(lock: &lock_model::LockView, clock: Timestamp) -> Option<LockView> {
    let queue = lock.queue.iter().zip(1..).filter_map(|(waiter, place)| {
        let (mode, permits) = wire::mode(waiter.mode);
        Some(WaiterView {
            place,
            owner: wire::owner(&waiter.owner),
            lease_id: wire::lease_id(waiter.lease),
            request_id: wire::request_id(&waiter.request)?,
            mode,
            permits,
            queued_position: wire::position(waiter.queued_position),
            wait_remaining_ms: clock.ms_until(waiter.deadline),
        })
    });
    let holders = lock.holders.iter().map(|holder| {
        let (mode, permits) = wire::mode(holder.mode);
        HolderView {
            owner: wire::owner(&holder.owner),
            lease_id: wire::lease_id(holder.lease),
            mode,
            permits,
            token: wire::token(holder.token),
            value: wire::value(holder.value.as_ref()),
            age_ms: holder.granted_at.ms_until(clock),
            remaining_ms: clock.ms_until(holder.deadline),
        }
    });
    let delay = lock.delay.map(|delay| LockDelay {
        reason: match delay.is_held_back {
            true => BlockReason::HeldBack,
            false => BlockReason::Delayed,
        },
        remaining_ms: clock.ms_until(delay.until),
    });
    let first_waits_for = lock.first_waits_for.as_ref().and_then(obstacle);
    let blocked_by = match (&first_waits_for, lock.holders.is_empty(), &delay) {
        (Some(obstacle), _, _) => Some(obstacle.reason.clone()),
        (None, false, _) => Some(BlockReason::Held),
        (None, true, Some(delay)) => Some(delay.reason.clone()),
        (None, true, None) => (!lock.queue.is_empty()).then_some(BlockReason::Queued),
    };
    Some(LockView {
        lock: wire::lock_name(&lock.lock)?,
        limit: lock.limit,
        holders: holders.collect(),
        queue: queue.collect(),
        blocked_by,
        first_waits_for,
        delay,
    })
}

fn obstacle(obstacle: &ObstacleView) -> Option<Obstacle> {
    let (owner, lease, remaining_ms) = match &obstacle.reason {
        LockHeldReason::Held { lease, owner } => (wire::owner(owner), Some(*lease), None),
        LockHeldReason::Queued => (None, None, None),
        LockHeldReason::Delayed { remaining_ms } | LockHeldReason::HeldBack { remaining_ms } => {
            (None, None, Some(*remaining_ms))
        }
    };
    Some(Obstacle {
        lock: wire::lock_name(&obstacle.lock)?,
        reason: wire::block_reason(&obstacle.reason),
        holder_owner: owner,
        holder_lease_id: lease.map(wire::lease_id),
        remaining_ms,
        detail: format!("{} {}", obstacle.lock, why_not_free(&obstacle.reason)),
    })
}
