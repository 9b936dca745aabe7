//! Keeps what happens at every attempt from filling the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The same thing is said again after this long.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Different things remembered. Strangers can cause some of them, so they are bounded.
const REMEMBERED: usize = 64;

/// What was said of late.
#[derive(Debug, Default)]
pub(super) struct Rarely {
    said: Mutex<BTreeMap<String, Instant>>,
}

impl Rarely {
    /// Whether it is time to say this, for the first time or again.
    pub fn may_say(&self, what: &str) -> bool {
        let now = Instant::now();
        let mut said = self.said.lock();
        if said
            .get(what)
            .is_some_and(|at| now.duration_since(*at) < SAY_EVERY)
        {
            return false;
        }
        if said.len() >= REMEMBERED {
            said.retain(|_, at| now.duration_since(*at) < SAY_EVERY);
        }
        if said.len() >= REMEMBERED {
            return false;
        }
        said.insert(what.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_and_not_too_much_of_anything() {
        let rarely = Rarely::default();
        assert!(rarely.may_say("one"));
        assert!(!rarely.may_say("one"));
        let said = (0..1000).filter(|number| rarely.may_say(&number.to_string()));
        assert_eq!(said.count(), REMEMBERED - 1);
    }
}
