//! What happens to locks, as it is streamed: one JSON object in each server-sent event.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::open_enum::open_enum;
use crate::{
    FencingToken, InvalidPosition, LeaseId, LockMode, LockName, Owner, Position, RequestId,
};

/// A place in the events of one cluster: `index.ordinal@CLUSTER`. Positions of a cluster that was
/// restored from a backup begin again, so the cluster belongs to them; a place without one
/// (`index.ordinal`) is taken for one of the cluster that is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventPosition {
    /// The position.
    pub position: Position,
    /// The cluster that it is of, as `GET /v1/cluster` names it.
    pub cluster_id: Option<String>,
}

impl From<Position> for EventPosition {
    /// A place in the events of the cluster that is asked.
    fn from(position: Position) -> Self {
        Self {
            position,
            cluster_id: None,
        }
    }
}

impl fmt::Display for EventPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cluster_id {
            None => self.position.fmt(f),
            Some(cluster_id) => write!(f, "{}@{cluster_id}", self.position),
        }
    }
}

impl FromStr for EventPosition {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (position, cluster_id) = match text.split_once('@') {
            None => (text, None),
            Some((_, "")) => return Err(InvalidPosition),
            Some((position, cluster_id)) => (position, Some(cluster_id.to_owned())),
        };
        Ok(Self {
            position: position.parse()?,
            cluster_id,
        })
    }
}

impl Serialize for EventPosition {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventPosition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Query of `GET /v1/events`: exactly one of `lock` and `prefix`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// The one lock whose events to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockName>,
    /// Send the events of all locks whose names begin so; the empty prefix means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Send what happened behind this place; from now on when absent. The header `last-event-id`
    /// says the same and goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<EventPosition>,
}

open_enum! {
    /// What happened. Also the name of the server-sent event.
    pub enum EventType {
        /// A request was queued.
        Queued = "queued",
        /// A request got its lock, at once or after a wait.
        Granted = "granted",
        /// A request left the queue without a grant; `reason` says why.
        WaitEnded = "wait_ended",
        /// A lock was given up with its lease's secret; `reason` says by which request.
        Released = "released",
        /// A lock was lost because its lease ran out.
        Expired = "expired",
        /// A lock was lost because somebody else ended its lease; `reason` says how.
        Forced = "forced",
        /// A holder changed what its lock shows.
        Updated = "updated",
    }
}

open_enum! {
    /// Why something ended.
    pub enum EndReason {
        /// A wait: its deadline came.
        TimedOut = "timed_out",
        /// A wait: it was cancelled.
        Cancelled = "cancelled",
        /// A hold: its token was released.
        Release = "release",
        /// A hold: its request was cancelled after the grant.
        Cancel = "cancel",
        /// A hold: its lease was revoked by its secret.
        Revoke = "revoke",
        /// A lease: its deadline came.
        LeaseExpired = "lease_expired",
        /// A lease: it was revoked by its secret.
        LeaseRevoked = "lease_revoked",
        /// A lease: made by an acquire, it neither held nor waited any more.
        LeaseUnused = "lease_unused",
        /// A lease: a lock of it was released by force.
        LeaseForced = "lease_forced",
        /// A lease: it was revoked by its id.
        LeaseRevokedById = "lease_revoked_by_id",
        /// A lease: the cluster was restored from a backup.
        Restored = "restored",
    }
}

/// Something that happened to one lock. Which fields are there follows from `type`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LockEvent {
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Where it stands among all that happened. Every event has its own; they come in this order.
    pub position: Position,
    /// The lock.
    pub lock: LockName,
    /// Id of the lease.
    pub lease_id: LeaseId,
    /// Who took the lease (`queued`, `granted`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// The request (`queued`, `granted`, `wait_ended`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// How the lock is held or is to be held (`queued`, `granted`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<LockMode>,
    /// With the mode `permits`: how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    /// With the mode `permits`: how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The fencing token (all but `queued` and `wait_ended`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<FencingToken>,
    /// Position at which the request joined the queue, or of its answer when it never waited
    /// (`queued`, `granted`, `wait_ended`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_position: Option<Position>,
    /// TTL of the lease, in milliseconds (`granted`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Why it ended (`wait_ended`, `released`, `forced`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndReason>,
}

/// The name of the server-sent event that says how far the stream is.
pub const HEARTBEAT_EVENT: &str = "heartbeat";
/// The name of the server-sent event that ends a stream which has lost its place: a
/// [`Problem`](crate::Problem) with the code `position_gone`.
pub const PROBLEM_EVENT: &str = "problem";

/// The data of a [`HEARTBEAT_EVENT`]: sent first, and then while nothing happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeartbeatEvent {
    /// Everything that happened up to here has been sent.
    pub position: Position,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_events_may_name_its_cluster() {
        let place: EventPosition = "7.1@c0ffee".parse().unwrap();
        assert_eq!(place.cluster_id.as_deref(), Some("c0ffee"));
        assert_eq!(
            place.position,
            Position {
                index: 7,
                ordinal: 1
            }
        );
        assert_eq!(place.to_string(), "7.1@c0ffee");
        let place: EventPosition = "7.1".parse().unwrap();
        assert_eq!(
            (place.cluster_id.as_ref(), place.to_string().as_str()),
            (None, "7.1")
        );
        for text in ["", "@c", "7.1@", "7@c"] {
            assert!(text.parse::<EventPosition>().is_err(), "{text}");
        }
    }
}
