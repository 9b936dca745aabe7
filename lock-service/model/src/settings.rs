//! The limits and durations that decide what `apply` answers. They live in the replicated state,
//! because nothing that a node is configured with may change an answer. Never read from a file.

use serde::{Deserialize, Serialize};

use crate::{LockName, Metadata, Owner, Value};

const SECOND_MS: u64 = 1_000;
const HOUR_MS: u64 = 3_600 * SECOND_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The replicated settings. `Settings::default()` is what a new cluster starts from;
/// [`Settings::validate`] says which values are allowed.
///
/// The encoding is part of [`Command::Found`](crate::Command::Found), of
/// [`Command::ChangeSettings`](crate::Command::ChangeSettings) and of snapshots: a field is never
/// added, removed or moved. A new setting comes with new commands and a new snapshot format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The shortest TTL of a lease, in milliseconds. Default 2 s.
    pub ttl_min_ms: u64,
    /// The longest TTL of a lease, in milliseconds. Default 1 h.
    pub ttl_max_ms: u64,
    /// The TTL of a lease that is made by an acquire which names none, in milliseconds. Default
    /// 15 s.
    pub ttl_default_ms: u64,
    /// The longest wait in a queue, in milliseconds; a longer one is cut to it. Default 24 h: enough
    /// to wait for a daily job, and an abandoned waiter (whose lease may live as long as its wait)
    /// is gone within a day.
    pub wait_max_ms: u64,
    /// How many locks and waiters one entry may free because their time is up, besides those that
    /// its command touches. Default 1,000.
    pub expiry_cap: u64,
    /// How many of the last events are kept. Default 10,000.
    pub events_max: u64,
    /// How long an ended lease is remembered, in milliseconds. Default 30 s.
    pub tombstone_ttl_ms: u64,
    /// How many leases, live and ended, are remembered at once. Every lease that is made needs room
    /// to be remembered when it ends; without it a new lease is refused. Default 1,000,000.
    pub tombstones_max: u64,
    /// How many decided requests each lease remembers. Default 64.
    pub decided_max: u64,
    /// How many leases can be live at once. Default 250,000.
    pub leases_max: u64,
    /// How many locks can exist (be held, waited for or delayed) at once. Default 1,000,000.
    pub locks_max: u64,
    /// How many requests can wait for one lock. Default 10,000.
    pub queue_max: u64,
    /// How many locks one lease can hold and wait for, together. Default 1,000.
    pub locks_per_lease_max: u64,
    /// The longest lock name, in bytes. Default 512.
    pub name_max_bytes: u64,
    /// The longest owner, in bytes. Default 256.
    pub owner_max_bytes: u64,
    /// The largest lease metadata (keys and values together), in bytes. Default 4,096.
    pub metadata_max_bytes: u64,
    /// The largest value of a holder, in bytes. Default 4,096.
    pub value_max_bytes: u64,
    /// The longest lock delay, in milliseconds. Default 1 h.
    pub lock_delay_max_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl_min_ms: 2 * SECOND_MS,
            ttl_max_ms: HOUR_MS,
            ttl_default_ms: 15 * SECOND_MS,
            wait_max_ms: DAY_MS,
            expiry_cap: 1_000,
            events_max: 10_000,
            tombstone_ttl_ms: 30 * SECOND_MS,
            tombstones_max: 1_000_000,
            decided_max: 64,
            leases_max: 250_000,
            locks_max: 1_000_000,
            queue_max: 10_000,
            locks_per_lease_max: 1_000,
            name_max_bytes: 512,
            owner_max_bytes: 256,
            metadata_max_bytes: 4_096,
            value_max_bytes: 4_096,
            lock_delay_max_ms: HOUR_MS,
        }
    }
}

/// A setting outside the values that make sense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the setting {setting} is {given}, it must be from {min} to {max}")]
pub struct SettingsError {
    /// The name of the setting, as in [`Settings`].
    pub setting: String,
    /// The value that was given.
    pub given: u64,
    /// The smallest value allowed, given the other settings.
    pub min: u64,
    /// The largest value allowed, given the other settings.
    pub max: u64,
}

impl Settings {
    /// Checks that every setting has a value that makes sense, alone and beside the others.
    ///
    /// # Errors
    /// Names the first setting that does not, and its bounds.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let rules: [(&str, u64, u64, u64); 18] = [
            ("ttl_max_ms", self.ttl_max_ms, 1, 30 * DAY_MS),
            ("ttl_min_ms", self.ttl_min_ms, 1, self.ttl_max_ms),
            (
                "ttl_default_ms",
                self.ttl_default_ms,
                self.ttl_min_ms,
                self.ttl_max_ms,
            ),
            ("wait_max_ms", self.wait_max_ms, 1, 30 * DAY_MS),
            ("expiry_cap", self.expiry_cap, 1, 100_000),
            ("events_max", self.events_max, 0, 1_000_000),
            ("tombstone_ttl_ms", self.tombstone_ttl_ms, 1, HOUR_MS),
            ("tombstones_max", self.tombstones_max, 1, 100_000_000),
            ("decided_max", self.decided_max, 1, 1_024),
            ("leases_max", self.leases_max, 1, self.tombstones_max),
            ("locks_max", self.locks_max, 1, 100_000_000),
            ("queue_max", self.queue_max, 1, 1_000_000),
            ("locks_per_lease_max", self.locks_per_lease_max, 1, 10_000),
            (
                "name_max_bytes",
                self.name_max_bytes,
                1,
                LockName::MAX_BYTES as u64,
            ),
            (
                "owner_max_bytes",
                self.owner_max_bytes,
                0,
                Owner::MAX_BYTES as u64,
            ),
            (
                "metadata_max_bytes",
                self.metadata_max_bytes,
                0,
                Metadata::MAX_BYTES as u64,
            ),
            (
                "value_max_bytes",
                self.value_max_bytes,
                0,
                Value::MAX_BYTES as u64,
            ),
            ("lock_delay_max_ms", self.lock_delay_max_ms, 0, 30 * DAY_MS),
        ];
        for (setting, given, min, max) in rules {
            if !(min..=max).contains(&given) {
                return Err(SettingsError {
                    setting: setting.to_owned(),
                    given,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    /// What these settings or `other` allow to exist.
    pub(crate) fn loosest(&self, other: &Self) -> Self {
        let longest = |of: fn(&Self) -> u64| of(self).max(of(other));
        Self {
            ttl_min_ms: self.ttl_min_ms.min(other.ttl_min_ms),
            ttl_max_ms: longest(|it| it.ttl_max_ms),
            ttl_default_ms: self.ttl_default_ms,
            wait_max_ms: longest(|it| it.wait_max_ms),
            expiry_cap: longest(|it| it.expiry_cap),
            events_max: longest(|it| it.events_max),
            tombstone_ttl_ms: longest(|it| it.tombstone_ttl_ms),
            tombstones_max: longest(|it| it.tombstones_max),
            decided_max: longest(|it| it.decided_max),
            leases_max: longest(|it| it.leases_max),
            locks_max: longest(|it| it.locks_max),
            queue_max: longest(|it| it.queue_max),
            locks_per_lease_max: longest(|it| it.locks_per_lease_max),
            name_max_bytes: longest(|it| it.name_max_bytes),
            owner_max_bytes: longest(|it| it.owner_max_bytes),
            metadata_max_bytes: longest(|it| it.metadata_max_bytes),
            value_max_bytes: longest(|it| it.value_max_bytes),
            lock_delay_max_ms: longest(|it| it.lock_delay_max_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_settings_are_valid() {
        assert_eq!(Settings::default().validate(), Ok(()));
    }

    #[test]
    fn a_setting_is_checked_against_the_others() {
        let settings = Settings {
            ttl_min_ms: 5_000,
            ttl_max_ms: 4_000,
            ..Settings::default()
        };
        let error = settings.validate().unwrap_err();
        assert_eq!(error.setting, "ttl_min_ms");
        assert_eq!(error.max, 4_000);
        let settings = Settings {
            ttl_default_ms: 1_000,
            ..Settings::default()
        };
        assert_eq!(settings.validate().unwrap_err().setting, "ttl_default_ms");
        let settings = Settings {
            leases_max: 11,
            tombstones_max: 10,
            ..Settings::default()
        };
        assert_eq!(settings.validate().unwrap_err().setting, "leases_max");
    }

    #[test]
    fn the_bounds_are_these() {
        const HOUR: u64 = 3_600_000;
        const MONTH: u64 = 2_592_000_000;
        type Bound = (&'static str, fn(&mut Settings) -> &mut u64, u64);
        let of: [Bound; 4] = [
            ("ttl_max_ms", |it| &mut it.ttl_max_ms, MONTH),
            ("wait_max_ms", |it| &mut it.wait_max_ms, MONTH),
            ("tombstone_ttl_ms", |it| &mut it.tombstone_ttl_ms, HOUR),
            ("lock_delay_max_ms", |it| &mut it.lock_delay_max_ms, MONTH),
        ];
        for (setting, field, max) in of {
            let mut settings = Settings::default();
            *field(&mut settings) = max;
            assert_eq!(settings.validate(), Ok(()), "{setting}");
            *field(&mut settings) = max + 1;
            let error = settings.validate().unwrap_err();
            assert_eq!((error.setting.as_str(), error.max), (setting, max));
        }
        let defaults = Settings::default();
        assert_eq!(defaults.ttl_max_ms, HOUR);
        assert_eq!(defaults.lock_delay_max_ms, HOUR);
        assert_eq!(defaults.wait_max_ms, 24 * HOUR);
        assert_eq!(defaults.tombstone_ttl_ms, 30_000);
    }
}
