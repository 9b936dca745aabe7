//! What clients do. A workload is a step that a client repeats: a few operations that belong together.
//! It records what it is told and never judges it.

mod counter;
mod events;
mod keys;
mod locks;
mod resource;
mod worker;

use std::collections::BTreeSet;

use crate::system::Feature;

pub(crate) use events::Streams;
pub(crate) use keys::Keys;
pub(crate) use resource::Resources;
pub(crate) use worker::{Clients, Shared, Worker};

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Workload {
    /// Locks taken, held, renewed, given back or left to expire.
    Lock,
    /// Counters that lock holders read and write, guarded by tokens and, as a control, not.
    FencedCounter,
    /// Shared and exclusive holders.
    ReadWrite,
    /// Leases renewed at the edge of their expiry.
    LeaseChurn,
    /// Permits.
    Semaphore,
    /// Candidates who hold, show a value, change it, resign or die; and who reads it.
    Election,
    /// Transfers between two accounts, both locked by one request.
    Bank,
    /// Requests that are sent again, with the same ids, without waiting for the answer.
    BlindRetries,
    /// Listeners who fall behind and go on at other nodes.
    Events,
}

impl Workload {
    /// All of them; `mixed` runs those that the system supports side by side.
    pub(crate) const ALL: [Workload; 9] = [
        Workload::Lock,
        Workload::FencedCounter,
        Workload::ReadWrite,
        Workload::LeaseChurn,
        Workload::Semaphore,
        Workload::Election,
        Workload::Bank,
        Workload::BlindRetries,
        Workload::Events,
    ];

    /// Its name on the command line, and the beginning of its keys.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::Lock => "lock",
            Workload::FencedCounter => "fenced-counter",
            Workload::ReadWrite => "read-write",
            Workload::LeaseChurn => "lease-churn",
            Workload::Semaphore => "semaphore",
            Workload::Election => "election",
            Workload::Bank => "bank",
            Workload::BlindRetries => "blind-retries",
            Workload::Events => "events",
        }
    }

    /// What it is, for `list`.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Workload::Lock => {
                "locks taken, held, renewed, given back or left to expire; reads beside it"
            }
            Workload::FencedCounter => {
                "counters read and written under a lock: guarded by tokens, and unguarded as the control"
            }
            Workload::ReadWrite => "shared and exclusive holders of the same locks",
            Workload::LeaseChurn => "leases renewed at the edge of their expiry",
            Workload::Semaphore => "three permits, more clients",
            Workload::Election => {
                "candidates who lead, change their value, resign or die, and readers"
            }
            Workload::Bank => "transfers between two accounts, both locked by one request",
            Workload::BlindRetries => {
                "requests sent again with the same ids after very short waits"
            }
            Workload::Events => "listeners who fall behind, and go on at other nodes",
        }
    }

    /// What the system must have for it to be run at all.
    pub(crate) fn needs(self) -> &'static [Feature] {
        match self {
            Workload::Lock | Workload::FencedCounter => &[],
            Workload::ReadWrite => &[Feature::Shared],
            Workload::LeaseChurn => &[Feature::Renew],
            Workload::Semaphore => &[Feature::Permits],
            Workload::Election => &[Feature::Wait, Feature::Read],
            Workload::Bank => &[Feature::SeveralLocks, Feature::Tokens],
            Workload::BlindRetries => &[Feature::Requests],
            Workload::Events => &[Feature::Events],
        }
    }

    /// Functions that must have succeeded for the run to show anything.
    pub(crate) fn must_succeed(self) -> &'static [&'static str] {
        match self {
            Workload::FencedCounter => &["acquire", "release", "unguarded-write"],
            Workload::Bank => &["acquire", "release", "guarded-write"],
            Workload::LeaseChurn => &["acquire", "renew"],
            Workload::Election => &["acquire", "read"],
            Workload::Events => &["acquire", "release", "watch"],
            _ => &["acquire", "release"],
        }
    }

    /// What of it the system lacks.
    pub(crate) fn lacks(self, features: &BTreeSet<Feature>) -> Option<String> {
        let missing: Vec<String> = self
            .needs()
            .iter()
            .filter(|feature| !features.contains(feature))
            .map(|feature| feature.words().to_owned())
            .collect();
        (!missing.is_empty()).then(|| format!("the system has no {}", missing.join(", no ")))
    }

    /// Does it once.
    pub(crate) async fn step(self, worker: &mut Worker) {
        match self {
            Workload::Lock => locks::lock(worker).await,
            Workload::FencedCounter => counter::fenced_counter(worker).await,
            Workload::ReadWrite => locks::read_write(worker).await,
            Workload::LeaseChurn => locks::lease_churn(worker).await,
            Workload::Semaphore => locks::semaphore(worker).await,
            Workload::Election => locks::election(worker).await,
            Workload::Bank => counter::bank(worker).await,
            Workload::BlindRetries => locks::blind_retries(worker).await,
            Workload::Events => events::events(worker).await,
        }
    }
}

/// The name of the workload that is all others.
pub(crate) const MIXED: &str = "mixed";

/// The workloads of a name.
pub(crate) fn by_name(name: &str) -> Result<Vec<Workload>, String> {
    if name == MIXED {
        return Ok(Workload::ALL.to_vec());
    }
    let found = Workload::ALL
        .into_iter()
        .find(|workload| workload.name() == name);
    found.map(|workload| vec![workload]).ok_or_else(|| {
        let names = Workload::ALL.map(Workload::name).join(", ");
        format!("there is no workload {name:?}; there are {names}, {MIXED}")
    })
}
