//! Locks as people and tools see them.

use axum::extract::State;
use lock_api::{
    BlockReason, FencingToken, HolderView, LockMode, LockPage, LockResponse, LockValue, LockView,
    LocksQuery, WaiterView,
};
use lock_model::Timestamp;

use super::extract::{Terms, UrlQuery};
use super::leases::page_size;
use super::{App, Reply, fresh, reply};
use crate::auth::{Caller, Role};
use crate::problem::invalid;
use crate::service::wire;

/// `GET /v1/locks?name=` and `GET /v1/locks?prefix=`
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
            holders: Vec::new(),
            queue: Vec::new(),
            blocked_by: None,
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

fn view(lock: &lock_model::LockView, clock: Timestamp) -> Option<LockView> {
    let blocked_by = match (lock.holders.is_empty(), lock.queue.is_empty()) {
        (false, _) => Some(BlockReason::Held),
        (true, false) => Some(BlockReason::Queued),
        (true, true) => None,
    };
    let queue = lock
        .queue
        .iter()
        .zip(1..)
        .map(|(waiter, place)| WaiterView {
            place,
            owner: wire::owner(&waiter.owner),
            lease_id: wire::lease_id(waiter.lease),
            mode: LockMode::Exclusive,
            queued_position: wire::position(waiter.queued_position),
            wait_remaining_ms: clock.ms_until(waiter.deadline),
        });
    let holders = lock.holders.iter().map(|holder| HolderView {
        owner: wire::owner(&holder.owner),
        lease_id: wire::lease_id(holder.lease),
        mode: LockMode::Exclusive,
        token: FencingToken(holder.token.0),
        value: holder
            .value
            .as_ref()
            .and_then(|value| LockValue::new(value.as_str()).ok()),
        age_ms: holder.granted_at.ms_until(clock),
        remaining_ms: clock.ms_until(holder.deadline),
    });
    Some(LockView {
        lock: wire::lock_name(&lock.lock)?,
        holders: holders.collect(),
        queue: queue.collect(),
        blocked_by,
    })
}
