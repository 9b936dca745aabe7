//! Bugs to plant, which the harness must find. None is in an ordinary build: without the cargo feature
//! `planted-bugs` nothing can be planted, `is_planted` is a constant `false`, and the compiler drops
//! what it guards.

/// A bug of the lock model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelBug {
    /// A renewal answers with a new deadline and keeps the old one.
    ExpiryIgnoresRenewal,
    /// A release takes any token for that of the lease's holds.
    ReleaseWithoutTokenCheck,
    /// A snapshot knows the tokens that are held, and not the counter.
    SnapshotWithoutTokenCounter,
    /// A snapshot knows neither decided requests nor ended leases.
    SnapshotWithoutEndedGrants,
    /// A snapshot lacks the newest event.
    SnapshotWithoutNewestEvent,
    /// A lease that waits does not end at its deadline, and is granted what it waits for.
    GrantToADeadLease,
    /// Who waits first is passed over while another waits behind.
    WaiterSkipped,
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is_planted(_: ModelBug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
mod chosen {
    use std::sync::OnceLock;

    use super::ModelBug;

    static PLANTED: OnceLock<ModelBug> = OnceLock::new();

    /// Plants a bug in this process, for good. Only the first call counts.
    pub fn plant(bug: ModelBug) {
        let _ = PLANTED.set(bug);
    }

    pub(crate) fn is_planted(bug: ModelBug) -> bool {
        PLANTED.get() == Some(&bug)
    }
}

#[cfg(feature = "planted-bugs")]
pub(crate) use chosen::is_planted;
#[cfg(feature = "planted-bugs")]
pub use chosen::plant;
