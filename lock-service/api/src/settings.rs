//! The settings of the lock table, which live in the replicated state, and the version of its rules.

use serde::{Deserialize, Serialize};

use crate::Position;

macro_rules! settings {
    ($( $(#[$doc:meta])* $name:ident, )+) => {
        /// Limits and durations that decide what the cluster answers, the same on every node.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub struct Settings {
            $( $(#[$doc])* pub $name: u64, )+
        }

        /// Body of `POST /v1/cluster/settings`. What is left out stays as it is. Two changes at the
        /// same time may undo each other: look at the answer.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(deny_unknown_fields)]
        pub struct ChangeSettingsRequest {
            $(
                $(#[$doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $name: Option<u64>,
            )+
        }

        impl ChangeSettingsRequest {
            /// `settings` with what this names put in their place.
            pub fn over(&self, settings: &Settings) -> Settings {
                Settings {
                    $( $name: self.$name.unwrap_or(settings.$name), )+
                }
            }
        }
    };
}

settings! {
    /// The shortest TTL of a lease, in milliseconds.
    ttl_min_ms,
    /// The longest TTL of a lease, in milliseconds.
    ttl_max_ms,
    /// The TTL of a lease whose maker names none, in milliseconds.
    ttl_default_ms,
    /// The longest wait in a queue, in milliseconds; a longer one is cut to it.
    wait_max_ms,
    /// How many locks and waiters one log entry may free because their time is up, besides those
    /// that its command touches.
    expiry_cap,
    /// How many of the last events are kept.
    events_max,
    /// How long an ended lease is remembered, in milliseconds.
    tombstone_ttl_ms,
    /// How many leases, live and ended, are remembered at once.
    tombstones_max,
    /// How many decided requests each lease remembers.
    decided_max,
    /// How many leases can be live at once.
    leases_max,
    /// How many locks can exist (be held, waited for or delayed) at once.
    locks_max,
    /// How many requests can wait for one lock.
    queue_max,
    /// How many locks one lease can hold and wait for, together.
    locks_per_lease_max,
    /// The longest lock name, in bytes.
    name_max_bytes,
    /// The longest owner, in bytes.
    owner_max_bytes,
    /// The largest metadata of a lease (names and values together), in bytes.
    metadata_max_bytes,
    /// The largest value of a holder, in bytes.
    value_max_bytes,
    /// The longest lock delay, in milliseconds.
    lock_delay_max_ms,
}

/// 200 answer of `GET` and `POST /v1/cluster/settings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SettingsResponse {
    /// What is in force.
    pub settings: Settings,
    /// The version of the rules that is in force.
    pub model_version: u32,
    /// Position at which this was true.
    pub position: Position,
}

/// Body of `POST /v1/cluster/model-version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ModelVersionRequest {
    /// The version to raise the rules to; never below the one in force. Every member must know it:
    /// `GET /version` of each says `model_version_max`.
    pub model_version: u32,
}

/// 200 answer of `POST /v1/cluster/model-version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ModelVersionResponse {
    /// The version that is in force from the next log entry on.
    pub model_version: u32,
    /// Whether it was in force before.
    pub repeated: bool,
    /// Position of the change.
    pub position: Position,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode_request;

    #[test]
    fn a_change_names_settings_and_leaves_the_others() {
        let change: ChangeSettingsRequest =
            decode_request(br#"{"events_max": 7, "ttl_min_ms": 5}"#).unwrap();
        let numbers: serde_json::Value = serde_json::from_str(
            r#"{"ttl_min_ms":1,"ttl_max_ms":2,"ttl_default_ms":3,"wait_max_ms":4,"expiry_cap":5,
            "events_max":6,"tombstone_ttl_ms":7,"tombstones_max":8,"decided_max":9,"leases_max":10,
            "locks_max":11,"queue_max":12,"locks_per_lease_max":13,"name_max_bytes":14,
            "owner_max_bytes":15,"metadata_max_bytes":16,"value_max_bytes":17,
            "lock_delay_max_ms":18}"#,
        )
        .unwrap();
        let before: Settings = serde_json::from_value(numbers.clone()).unwrap();
        let mut expected = numbers;
        expected["events_max"] = 7.into();
        expected["ttl_min_ms"] = 5.into();
        let after = change.over(&before);
        assert_eq!(serde_json::to_value(after).unwrap(), expected);
        let error = decode_request::<ChangeSettingsRequest>(br#"{"ttl": 5}"#).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("ttl"));
    }
}
