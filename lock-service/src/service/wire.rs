//! Conversions between the wire's types and the model's. Both check the same bounds, so those that
//! can fail do so only for what neither end can produce.

use std::collections::BTreeMap;

use lock_api::{
    BlockReason, EndReason, EventType, FencingToken, Holding, LeaseHold, LockEvent, LockMode,
    LockRequest, LockValue, Owner, RequestId,
};
use lock_model::{
    Event, EventKind, Grant, LeaseEnd, LeaseId, LockHeldReason, Metadata, Mode, Position,
    ReleasedBy, Token, WaitEnd,
};

use crate::problem::{Failure, invalid};

pub fn position(position: Position) -> lock_api::Position {
    lock_api::Position {
        index: position.index,
        ordinal: position.ordinal,
    }
}

pub fn model_position(position: lock_api::Position) -> Position {
    Position {
        index: position.index,
        ordinal: position.ordinal,
    }
}

pub fn lease_id(lease: LeaseId) -> lock_api::LeaseId {
    lock_api::LeaseId::from_bytes(lease.0)
}

pub fn model_lease_id(lease: lock_api::LeaseId) -> LeaseId {
    LeaseId(lease.to_bytes())
}

pub fn token(token: Token) -> FencingToken {
    FencingToken(token.0)
}

pub fn owner(owner: &lock_model::Owner) -> Option<Owner> {
    Owner::new(owner.as_str()).ok()
}

pub fn model_owner(owner: Option<&Owner>) -> Result<lock_model::Owner, Failure> {
    lock_model::Owner::new(owner.map_or("", |owner| owner.as_str()))
        .map_err(|error| invalid(Some("owner"), error.to_string()))
}

pub fn lock_name(lock: &lock_model::LockName) -> Option<lock_api::LockName> {
    lock_api::LockName::new(lock.as_str()).ok()
}

/// The model's name of a lock that the wire names.
pub fn model_lock(lock: &lock_api::LockName) -> Result<lock_model::LockName, Failure> {
    lock_model::LockName::new(lock.as_str())
        .map_err(|error| invalid(Some("lock"), error.to_string()))
}

pub fn request_id(request: &lock_model::RequestId) -> Option<RequestId> {
    RequestId::new(request.as_str()).ok()
}

pub fn model_request_id(request: &RequestId) -> Result<lock_model::RequestId, Failure> {
    lock_model::RequestId::new(request.as_str())
        .map_err(|error| invalid(Some("request_id"), error.to_string()))
}

pub fn value(value: Option<&lock_model::Value>) -> Option<LockValue> {
    value.and_then(|value| LockValue::new(value.as_str()).ok())
}

pub fn model_value(value: Option<&LockValue>) -> Result<Option<lock_model::Value>, Failure> {
    value
        .map(|value| lock_model::Value::new(value.as_str()))
        .transpose()
        .map_err(|error| invalid(Some("value"), error.to_string()))
}

pub fn metadata(metadata: &Metadata) -> BTreeMap<String, String> {
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    metadata.iter().map(own).collect()
}

pub fn model_metadata(metadata: &BTreeMap<String, String>) -> Result<Metadata, Failure> {
    Metadata::new(metadata.clone()).map_err(|error| invalid(Some("metadata"), error.to_string()))
}

/// A mode, and how many permits it takes.
pub fn mode(mode: Mode) -> (LockMode, Option<u32>) {
    match mode {
        Mode::Exclusive => (LockMode::Exclusive, None),
        Mode::Shared => (LockMode::Shared, None),
        Mode::Permits { permits, .. } => (LockMode::Permits, Some(permits)),
    }
}

pub fn model_request(request: &LockRequest) -> Result<lock_model::LockRequest, Failure> {
    let mode = match request.holding()? {
        Holding::Exclusive => Mode::Exclusive,
        Holding::Shared => Mode::Shared,
        Holding::Permits { permits, limit } => Mode::Permits { permits, limit },
    };
    Ok(lock_model::LockRequest {
        lock: model_lock(&request.name)?,
        mode,
    })
}

pub fn holds(grants: &[Grant]) -> Vec<LeaseHold> {
    grants.iter().filter_map(hold).collect()
}

fn hold(grant: &Grant) -> Option<LeaseHold> {
    let (mode, permits) = mode(grant.mode);
    Some(LeaseHold {
        lock: lock_name(&grant.lock)?,
        mode,
        permits,
        limit: grant.mode.limit(),
        token: token(grant.token),
    })
}

pub fn block_reason(reason: &LockHeldReason) -> BlockReason {
    match reason {
        LockHeldReason::Held { .. } => BlockReason::Held,
        LockHeldReason::Queued => BlockReason::Queued,
        LockHeldReason::Delayed { .. } => BlockReason::Delayed,
        LockHeldReason::HeldBack { .. } => BlockReason::HeldBack,
    }
}

pub fn event(event: &Event) -> Option<LockEvent> {
    let mut wire = LockEvent {
        event_type: EventType::Queued,
        position: position(event.position),
        lock: lock_name(event.kind.lock())?,
        lease_id: lease_id(event.kind.lease()),
        owner: None,
        request_id: None,
        mode: None,
        permits: None,
        limit: None,
        token: None,
        queued_position: None,
        ttl_ms: None,
        reason: None,
    };
    match &event.kind {
        EventKind::Queued {
            owner: by,
            request,
            mode: wanted,
            queued_position,
            ..
        } => {
            wire.owner = owner(by);
            wire.request_id = request_id(request);
            (wire.mode, wire.permits, wire.limit) = shown(*wanted);
            wire.queued_position = Some(position(*queued_position));
        }
        EventKind::Granted {
            owner: by,
            request,
            mode: granted,
            token: of,
            queued_position,
            ttl_ms,
            ..
        } => {
            wire.event_type = EventType::Granted;
            wire.owner = owner(by);
            wire.request_id = request_id(request);
            (wire.mode, wire.permits, wire.limit) = shown(*granted);
            wire.token = Some(token(*of));
            wire.queued_position = Some(position(*queued_position));
            wire.ttl_ms = Some(*ttl_ms);
        }
        EventKind::WaitEnded {
            request,
            queued_position,
            reason,
            ..
        } => {
            wire.event_type = EventType::WaitEnded;
            wire.request_id = request_id(request);
            wire.queued_position = Some(position(*queued_position));
            wire.reason = Some(match reason {
                WaitEnd::TimedOut => EndReason::TimedOut,
                WaitEnd::Cancelled => EndReason::Cancelled,
                WaitEnd::LeaseEnded { how } => lease_end(*how),
            });
        }
        EventKind::Released { token: of, by, .. } => {
            wire.event_type = EventType::Released;
            wire.token = Some(token(*of));
            wire.reason = Some(match by {
                ReleasedBy::Release => EndReason::Release,
                ReleasedBy::Cancel => EndReason::Cancel,
                ReleasedBy::Revoke => EndReason::Revoke,
            });
        }
        EventKind::Expired { token: of, .. } => {
            wire.event_type = EventType::Expired;
            wire.token = Some(token(*of));
        }
        EventKind::Forced { token: of, how, .. } => {
            wire.event_type = EventType::Forced;
            wire.token = Some(token(*of));
            wire.reason = Some(lease_end(*how));
        }
        EventKind::Updated { token: of, .. } => {
            wire.event_type = EventType::Updated;
            wire.token = Some(token(*of));
        }
    }
    Some(wire)
}

fn shown(of: Mode) -> (Option<LockMode>, Option<u32>, Option<u32>) {
    let (mode, permits) = mode(of);
    (Some(mode), permits, of.limit())
}

fn lease_end(how: LeaseEnd) -> EndReason {
    match how {
        LeaseEnd::Expired => EndReason::LeaseExpired,
        LeaseEnd::Revoked => EndReason::LeaseRevoked,
        LeaseEnd::Unused | LeaseEnd::CancelledBefore => EndReason::LeaseUnused,
        LeaseEnd::Forced => EndReason::LeaseForced,
        LeaseEnd::RevokedById => EndReason::LeaseRevokedById,
        LeaseEnd::Restored => EndReason::Restored,
    }
}

macro_rules! settings_fields {
    ($from:expr, $to:path) => {{
        let from = $from;
        $to {
            ttl_min_ms: from.ttl_min_ms,
            ttl_max_ms: from.ttl_max_ms,
            ttl_default_ms: from.ttl_default_ms,
            wait_max_ms: from.wait_max_ms,
            expiry_cap: from.expiry_cap,
            events_max: from.events_max,
            tombstone_ttl_ms: from.tombstone_ttl_ms,
            tombstones_max: from.tombstones_max,
            decided_max: from.decided_max,
            leases_max: from.leases_max,
            locks_max: from.locks_max,
            queue_max: from.queue_max,
            locks_per_lease_max: from.locks_per_lease_max,
            name_max_bytes: from.name_max_bytes,
            owner_max_bytes: from.owner_max_bytes,
            metadata_max_bytes: from.metadata_max_bytes,
            value_max_bytes: from.value_max_bytes,
            lock_delay_max_ms: from.lock_delay_max_ms,
        }
    }};
}

pub fn settings(settings: &lock_model::Settings) -> lock_api::Settings {
    settings_fields!(settings, lock_api::Settings)
}

pub fn model_settings(settings: &lock_api::Settings) -> lock_model::Settings {
    settings_fields!(settings, lock_model::Settings)
}
