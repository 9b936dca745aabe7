//! Which lock a client takes next. Each workload has a few at a time, and each of them is replaced
//! after so many uses, so that the history of every lock stays short enough to search.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rand::RngExt;
use rand::rngs::StdRng;

use super::Workload;

/// Locks of a workload at a time.
const AT_A_TIME: u64 = 3;
/// Locks of resources: so few that somebody else comes while one who uses a resource is paused.
const RESOURCES_AT_A_TIME: u64 = 2;
/// Locks that are held for as long as a lease lives.
const LEASES_AT_A_TIME: u64 = 8;
/// Uses of a lock before another takes its place.
const USES: u64 = 48;

/// The locks of all workloads.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    uses: Mutex<BTreeMap<(&'static str, u64), u64>>,
}

impl Keys {
    fn name(workload: &str, slot: u64, uses: u64) -> String {
        format!("{workload}/{}", slot + LEASES_AT_A_TIME * (uses / USES))
    }

    /// One lock, and a use of it.
    pub(crate) fn draw(&self, workload: &'static str, rng: &mut StdRng) -> String {
        let at_a_time = if workload == Workload::FencedCounter.name() {
            RESOURCES_AT_A_TIME
        } else if workload == Workload::LeaseChurn.name() {
            LEASES_AT_A_TIME
        } else {
            AT_A_TIME
        };
        let slot = rng.random_range(0..at_a_time);
        let mut all = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let uses = all.entry((workload, slot)).or_default();
        *uses += 1;
        Self::name(workload, slot, *uses - 1)
    }

    /// Two different locks, by name, and a use of both.
    pub(crate) fn draw_two(&self, workload: &'static str, rng: &mut StdRng) -> [String; 2] {
        let first = rng.random_range(0..AT_A_TIME);
        let second = (first + rng.random_range(1..AT_A_TIME)) % AT_A_TIME;
        let mut all = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        [first, second].map(|slot| {
            let uses = all.entry((workload, slot)).or_default();
            *uses += 1;
            Self::name(workload, slot, *uses - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn no_lock_is_used_more_often_than_its_history_can_be_searched() {
        let keys = Keys::default();
        let mut rng = StdRng::seed_from_u64(1);
        let mut uses: BTreeMap<String, u64> = BTreeMap::new();
        for _ in 0..1_000 {
            *uses.entry(keys.draw("lock", &mut rng)).or_default() += 1;
            let [one, other] = keys.draw_two("bank", &mut rng);
            assert_ne!(one, other);
        }
        assert!(uses.values().all(|uses| *uses <= USES), "{uses:?}");
        assert!(uses.len() as u64 >= 1_000 / USES);
    }
}
