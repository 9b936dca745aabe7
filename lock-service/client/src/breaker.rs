//! Which endpoint to ask, and how often to ask again: a circuit breaker for each endpoint and one
//! budget of retries for the whole client. Pure: time is an argument, and nothing here sends.

use std::time::Duration;

use crate::BootTime;

/// Failures in a row after which an endpoint is left alone for a while.
const FAILURES_TO_OPEN: u32 = 3;
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(8);

/// One endpoint's record. *Closed* it is asked freely; *open* it is left alone until its rest is over;
/// then one caller at a time probes it, and its answer closes the breaker.
#[derive(Debug, Clone, Default)]
struct Breaker {
    failures_in_row: u32,
    rests_until: Option<BootTime>,
}

impl Breaker {
    fn rest(&self) -> Duration {
        let doublings = self.failures_in_row.saturating_sub(FAILURES_TO_OPEN).min(8);
        (FIRST_REST * (1 << doublings)).min(LONGEST_REST)
    }
}

/// The breakers of all endpoints, and the one that is preferred.
#[derive(Debug)]
pub(crate) struct Breakers {
    endpoints: Vec<Breaker>,
    preferred: usize,
}

impl Breakers {
    /// All closed. `count` is at least 1.
    pub(crate) fn new(count: usize, preferred: usize) -> Self {
        Self {
            endpoints: vec![Breaker::default(); count],
            preferred: preferred % count.max(1),
        }
    }

    /// The endpoint to ask now: the preferred one or the next that is not left alone. When all are,
    /// the one whose rest ends first: a client without a choice still tries.
    pub(crate) fn pick(&mut self, now: BootTime) -> usize {
        let count = self.endpoints.len();
        let from_preferred = (0..count).map(|step| (self.preferred + step) % count);
        let usable = from_preferred.clone().find(|number| {
            self.endpoints[*number]
                .rests_until
                .is_none_or(|until| until <= now)
        });
        let picked = usable
            .or_else(|| from_preferred.min_by_key(|number| self.endpoints[*number].rests_until));
        let picked = picked.unwrap_or(self.preferred);
        let breaker = &mut self.endpoints[picked];
        if breaker.rests_until.is_some() {
            // A probe: others leave it alone until this one is answered.
            breaker.rests_until = Some(now + breaker.rest());
        }
        picked
    }

    /// The endpoint served a request; stay with it.
    pub(crate) fn succeeded(&mut self, endpoint: usize) {
        self.endpoints[endpoint] = Breaker::default();
        self.preferred = endpoint;
    }

    /// The endpoint did not serve a request; prefer the next, unless somebody has moved on already.
    pub(crate) fn failed(&mut self, endpoint: usize, now: BootTime) {
        let breaker = &mut self.endpoints[endpoint];
        breaker.failures_in_row = breaker.failures_in_row.saturating_add(1);
        if breaker.failures_in_row >= FAILURES_TO_OPEN {
            breaker.rests_until = Some(now + breaker.rest());
        }
        if self.preferred == endpoint {
            self.preferred = (endpoint + 1) % self.endpoints.len();
        }
    }
}

/// Retries that a client may send: a bucket that fills by itself and with every call. Many calls
/// that fail at once then do not multiply the load on a cluster that is in trouble; each waits for
/// its turn, within its own deadline. Renewals are exempt: they keep what is held.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    retries: f64,
    filled: BootTime,
}

impl RetryBudget {
    const CAPACITY: f64 = 30.0;
    const PER_SECOND: f64 = 10.0;
    const PER_CALL: f64 = 0.2;

    pub(crate) fn new(now: BootTime) -> Self {
        Self {
            retries: Self::CAPACITY,
            filled: now,
        }
    }

    /// A call begins.
    pub(crate) fn call(&mut self) {
        self.retries = (self.retries + Self::PER_CALL).min(Self::CAPACITY);
    }

    /// Takes one retry, and says how long to wait before it may be sent.
    pub(crate) fn take(&mut self, now: BootTime) -> Duration {
        let passed = now.saturating_since(self.filled).as_secs_f64();
        self.retries = (self.retries + passed * Self::PER_SECOND).min(Self::CAPACITY) - 1.0;
        self.filled = self.filled.max(now);
        Duration::from_secs_f64((-self.retries / Self::PER_SECOND).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime::since_boot(Duration::from_millis(ms))
    }

    #[test]
    fn an_endpoint_that_fails_is_left_for_the_next_and_one_that_serves_is_kept() {
        let mut breakers = Breakers::new(3, 0);
        assert_eq!(breakers.pick(at(0)), 0);
        breakers.failed(0, at(0));
        assert_eq!(breakers.pick(at(0)), 1);
        breakers.succeeded(1);
        assert_eq!(breakers.pick(at(0)), 1);
        // A late failure of an endpoint that is not preferred any more moves nothing.
        breakers.failed(0, at(1));
        assert_eq!(breakers.pick(at(1)), 1);
    }

    #[test]
    fn after_three_failures_an_endpoint_rests_and_then_one_caller_probes_it() {
        let mut breakers = Breakers::new(2, 0);
        for _ in 0..3 {
            breakers.failed(0, at(0));
            breakers.preferred = 0;
        }
        assert_eq!(breakers.pick(at(499)), 1, "it rests");
        assert_eq!(breakers.pick(at(500)), 0, "a probe");
        assert_eq!(breakers.pick(at(500)), 1, "one at a time");
        breakers.succeeded(0);
        assert_eq!(breakers.pick(at(501)), 0, "closed again");
        assert_eq!(breakers.pick(at(501)), 0);
    }

    #[test]
    fn rests_double_up_to_a_bound_and_when_all_rest_the_soonest_is_asked() {
        let mut breakers = Breakers::new(2, 0);
        for _ in 0..40 {
            breakers.failed(0, at(0));
        }
        assert_eq!(breakers.endpoints[0].rests_until, Some(at(8_000)));
        for _ in 0..3 {
            breakers.failed(1, at(0));
        }
        breakers.preferred = 0;
        assert_eq!(breakers.pick(at(10)), 1, "the one whose rest ends first");
    }

    #[test]
    fn retries_are_free_until_the_budget_is_spent_and_then_ten_a_second() {
        let mut budget = RetryBudget::new(at(0));
        for _ in 0..30 {
            assert_eq!(budget.take(at(0)), Duration::ZERO);
        }
        assert_eq!(budget.take(at(0)), Duration::from_millis(100));
        assert_eq!(budget.take(at(0)), Duration::from_millis(200));
        // It has earned that back 300 ms later.
        assert_eq!(budget.take(at(300)), Duration::ZERO);
        for _ in 0..5 {
            budget.call();
        }
        assert_eq!(budget.take(at(300)), Duration::ZERO, "five calls earn one");
    }
}
