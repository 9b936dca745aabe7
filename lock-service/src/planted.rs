//! The bugs that `palisade-jepsen self-test` must find: which there are, and planting one at start.
//!
//! Only a build with the cargo feature `planted-bugs` has them, and it says so: see [`VERSION`]. In an
//! ordinary build nothing can be planted and `is_planted` is a constant `false`.

use raft_core::SyncPolicy;

/// A bug outside of the lock model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceBug {
    /// A linearizable read reads what this node happens to have applied.
    ReadsWithoutReadIndex,
    /// A renewal is answered before it is committed.
    RenewalBeforeCommit,
    /// An entry is applied at each node's own wall clock.
    WallClockInApply,
    /// A vote is kept in memory only.
    #[cfg(feature = "planted-bugs")]
    VoteNotSynced,
    /// The log is never synced.
    LogNotSynced,
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is_planted(_: ServiceBug) -> bool {
    false
}

/// The version of this build, with a warning where it can be told to misbehave.
pub const VERSION: &str = if cfg!(feature = "planted-bugs") {
    concat!(
        env!("CARGO_PKG_VERSION"),
        " WITH PLANTED BUGS, for palisade-jepsen self-test and never for use"
    )
} else {
    env!("CARGO_PKG_VERSION")
};

/// How the log is synced, where that is the planted bug.
pub(crate) fn sync_policy() -> Option<SyncPolicy> {
    if is_planted(ServiceBug::LogNotSynced) {
        return Some(SyncPolicy::Never);
    }
    #[cfg(feature = "planted-bugs")]
    if is_planted(ServiceBug::VoteNotSynced) {
        return Some(SyncPolicy::ForgetVotes);
    }
    None
}

#[cfg(feature = "planted-bugs")]
mod chosen {
    use std::sync::OnceLock;

    use lock_model::planted::{ModelBug, plant as plant_in_model};

    use super::ServiceBug;

    /// Names a bug to plant.
    pub const VARIABLE: &str = "PALISADE_PLANTED_BUG";

    static PLANTED: OnceLock<ServiceBug> = OnceLock::new();

    #[derive(Clone, Copy)]
    enum Bug {
        Model(ModelBug),
        Service(ServiceBug),
    }

    const BUGS: [(&str, Bug); 12] = [
        (
            "reads-without-read-index",
            Bug::Service(ServiceBug::ReadsWithoutReadIndex),
        ),
        (
            "expiry-ignores-renewal",
            Bug::Model(ModelBug::ExpiryIgnoresRenewal),
        ),
        (
            "release-without-token-check",
            Bug::Model(ModelBug::ReleaseWithoutTokenCheck),
        ),
        (
            "snapshot-without-token-counter",
            Bug::Model(ModelBug::SnapshotWithoutTokenCounter),
        ),
        (
            "snapshot-without-ended-grants",
            Bug::Model(ModelBug::SnapshotWithoutEndedGrants),
        ),
        (
            "wall-clock-in-apply",
            Bug::Service(ServiceBug::WallClockInApply),
        ),
        ("vote-not-synced", Bug::Service(ServiceBug::VoteNotSynced)),
        ("log-not-synced", Bug::Service(ServiceBug::LogNotSynced)),
        (
            "grant-to-a-dead-lease",
            Bug::Model(ModelBug::GrantToADeadLease),
        ),
        ("waiter-skipped", Bug::Model(ModelBug::WaiterSkipped)),
        (
            "renewal-before-commit",
            Bug::Service(ServiceBug::RenewalBeforeCommit),
        ),
        (
            "snapshot-without-newest-event",
            Bug::Model(ModelBug::SnapshotWithoutNewestEvent),
        ),
    ];

    /// The names of all bugs.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUGS.iter().map(|(name, _)| *name)
    }

    /// Plants the bug that the environment names, for good; returns its name.
    ///
    /// # Errors
    /// When there is no such bug; the text lists those there are.
    pub fn plant() -> Result<Option<&'static str>, String> {
        let Some(wanted) = std::env::var_os(VARIABLE) else {
            return Ok(None);
        };
        let found = BUGS.iter().find(|(name, _)| wanted == *name);
        let Some((name, bug)) = found else {
            let all: Vec<_> = names().collect();
            return Err(format!(
                "{VARIABLE}={} is none of {}",
                wanted.to_string_lossy(),
                all.join(", ")
            ));
        };
        match bug {
            Bug::Model(bug) => plant_in_model(*bug),
            // Nothing is planted twice: this is called once, at the start.
            Bug::Service(bug) => drop(PLANTED.set(*bug)),
        }
        Ok(Some(name))
    }

    pub(crate) fn is_planted(bug: ServiceBug) -> bool {
        PLANTED.get() == Some(&bug)
    }
}

#[cfg(feature = "planted-bugs")]
pub(crate) use chosen::is_planted;
#[cfg(feature = "planted-bugs")]
pub use chosen::{VARIABLE, names, plant};
