//! Bounds what is in flight at one node, by count and by bytes, so that overload is refused at once
//! and never stored.
//!
//! A proposal holds a [`Permit`] for as long as its memory is anywhere in this node: with its caller,
//! in a queue, on its way to the leader, or in openraft's hands until it is applied. Each of them
//! holds a clone, so a caller that gives up frees nothing that still waits in a queue. The leader asks
//! for a permit of its own for what other nodes forward. Nothing here waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::metrics::Counter;
use parking_lot::Mutex;

use crate::config::Config;
use crate::machine::Priority;
use crate::metrics::refusals;

/// Most proposals and bytes in flight, per priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    proposals: usize,
    bytes: usize,
}

/// What is in flight now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub proposals: usize,
    pub bytes: usize,
}

/// One node's bounds, and what is in flight within them.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: [Limit; 3],
    refusals: [Counter; 3],
    in_flight: Mutex<InFlight>,
    /// Whether free space is below its floor.
    low_on_space: AtomicBool,
}

impl Admission {
    /// # Errors
    /// When the settings leave nothing to admit; the text names the setting.
    pub fn new(config: &Config) -> Result<Self, String> {
        let (proposals, bytes) = (config.max_in_flight_proposals, config.max_in_flight_bytes);
        let percent = usize::from(config.reserved_percent);
        if proposals == 0 || bytes == 0 {
            return Err(
                "max_in_flight_proposals and max_in_flight_bytes must be at least 1".into(),
            );
        }
        if percent > 90 {
            return Err(format!(
                "reserved_percent is {percent}, but no more than 90 can be kept from ordinary \
                 proposals"
            ));
        }
        // Rounded down, so that the ordinary share is never empty.
        let without = |whole: usize, percent: usize| {
            whole - whole / 100 * percent - whole % 100 * percent / 100
        };
        let limit = |percent: usize| Limit {
            proposals: without(proposals, percent),
            bytes: without(bytes, percent),
        };
        Ok(Self {
            limits: [limit(percent), limit(percent / 2), limit(0)],
            refusals: refusals(),
            in_flight: Mutex::default(),
            low_on_space: AtomicBool::new(false),
        })
    }

    /// Takes `bytes` in, or refuses. What comes alone is always taken, however large.
    pub fn admit(self: &Arc<Self>, priority: Priority, bytes: usize) -> Option<Arc<Permit>> {
        let limit = self.limits[priority as usize];
        let mut in_flight = self.in_flight.lock();
        let after = InFlight {
            proposals: in_flight.proposals + 1,
            bytes: in_flight.bytes.saturating_add(bytes),
        };
        let fits = after.proposals <= limit.proposals && after.bytes <= limit.bytes;
        if !fits && in_flight.proposals > 0 {
            drop(in_flight);
            self.refusals[priority as usize].increment(1);
            return None;
        }
        *in_flight = after;
        drop(in_flight);
        Some(Arc::new(Permit {
            admission: self.clone(),
            bytes,
        }))
    }

    /// Whether this node has enough space to lead.
    pub fn has_space(&self) -> bool {
        !self.low_on_space.load(Ordering::Relaxed)
    }

    /// See `node::space`.
    pub fn set_space(&self, enough: bool) {
        self.low_on_space.store(!enough, Ordering::Relaxed);
    }

    /// Whether this node, as the leader, takes a proposal as far as its disk is concerned. What
    /// holders need goes on below the floor.
    pub fn has_space_for(&self, priority: Priority) -> bool {
        priority != Priority::Normal || self.has_space()
    }

    /// What is in flight now.
    pub fn in_flight(&self) -> InFlight {
        *self.in_flight.lock()
    }

    /// No more than this many can be in flight at once.
    pub fn most_proposals(&self) -> usize {
        self.limits[Priority::Critical as usize].proposals
    }
}

/// One proposal's place among what is in flight, given back with the last clone.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    bytes: usize,
}

impl Permit {
    /// See [`Admission::has_space_for`].
    pub fn has_space_for(&self, priority: Priority) -> bool {
        self.admission.has_space_for(priority)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut in_flight = self.admission.in_flight.lock();
        in_flight.proposals -= 1;
        in_flight.bytes -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Start;
    use crate::types::Member;

    fn admission(proposals: usize, bytes: usize, percent: u8) -> Result<Arc<Admission>, String> {
        let mut config = Config::new("", Member::default(), Start::Alone);
        config.max_in_flight_proposals = proposals;
        config.max_in_flight_bytes = bytes;
        config.reserved_percent = percent;
        Admission::new(&config).map(Arc::new)
    }

    fn fill(admission: &Arc<Admission>, priority: Priority, bytes: usize) -> Vec<Arc<Permit>> {
        std::iter::from_fn(|| admission.admit(priority, bytes)).collect()
    }

    #[test]
    fn each_priority_keeps_its_share_when_those_below_it_are_full() {
        for bytes in [0, 10] {
            // By count in the first round, by bytes in the second.
            let limits = if bytes == 0 {
                (100, 1)
            } else {
                (usize::MAX, 1000)
            };
            let admission = admission(limits.0, limits.1, 20).unwrap();
            let normal = fill(&admission, Priority::Normal, bytes);
            let high = fill(&admission, Priority::High, bytes);
            let critical = fill(&admission, Priority::Critical, bytes);
            assert_eq!((normal.len(), high.len(), critical.len()), (80, 10, 10));
            assert_eq!(admission.in_flight().proposals, 100);
        }
    }

    #[test]
    fn a_permit_is_given_back_with_its_last_clone_and_not_before() {
        let admission = admission(1, 100, 25).unwrap();
        let caller = admission.admit(Priority::Normal, 7).unwrap();
        let queued = caller.clone();
        drop(caller);
        assert!(admission.admit(Priority::Normal, 7).is_none());
        assert_eq!(admission.in_flight().bytes, 7);
        drop(queued);
        assert_eq!(admission.in_flight(), InFlight::default());
        assert!(admission.admit(Priority::Normal, 7).is_some());
    }

    #[test]
    fn what_comes_alone_is_taken_however_large() {
        let admission = admission(10, 100, 25).unwrap();
        let large = admission.admit(Priority::Normal, 5000).unwrap();
        assert!(admission.admit(Priority::Critical, 1).is_none());
        drop(large);
        assert!(admission.admit(Priority::Critical, 1).is_some());
    }

    #[test]
    fn settings_that_admit_nothing_are_refused() {
        for (proposals, bytes, percent) in [(0, 1, 0), (1, 0, 0), (1, 1, 91)] {
            assert!(admission(proposals, bytes, percent).is_err());
        }
        for proposals in 1..20 {
            let admission = admission(proposals, 1, 90).unwrap();
            assert!(admission.limits[0].proposals >= 1);
        }
    }
}
