//! The only place that reads a clock for the state machine.
//!
//! Cluster time is logical: milliseconds that only the leader stamps, `base + monotonic elapsed`,
//! where the base is what the applied state says when a leadership begins. It stands still while
//! nothing can be committed. No wall clock is read, but for the token floor when a cluster is
//! founded.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lock_model::{Timestamp, Token};
use parking_lot::Mutex;
use raft_core::Stamper;

/// What the applied state says of cluster time, and when it said so.
#[derive(Clone, Debug)]
pub struct AppliedClock {
    shared: Arc<Mutex<(Timestamp, Instant)>>,
}

impl Default for AppliedClock {
    fn default() -> Self {
        Self {
            shared: Arc::new(Mutex::new((Timestamp(0), Instant::now()))),
        }
    }
}

impl AppliedClock {
    /// An entry was applied; the state's clock now stands at `clock`.
    pub fn applied(&self, clock: Timestamp) {
        *self.shared.lock() = (clock, Instant::now());
    }

    /// Where the applied state's clock stands.
    pub fn applied_time(&self) -> Timestamp {
        self.shared.lock().0
    }

    /// What a leader would stamp about now, or a little less. Only for deciding when to commit.
    pub fn estimate(&self) -> Timestamp {
        let (clock, at) = *self.shared.lock();
        clock.plus_ms(elapsed_ms(at))
    }

    /// Since when nothing has been applied.
    pub fn last_applied_at(&self) -> Instant {
        self.shared.lock().1
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    whole_ms(since.elapsed())
}

/// The leader's clock.
#[derive(Debug)]
pub struct ClusterClock {
    applied: AppliedClock,
    base: Timestamp,
    since: Instant,
}

impl ClusterClock {
    /// A clock that starts from what `applied` says whenever it is told to rebase.
    pub fn new(applied: AppliedClock) -> Self {
        Self {
            base: applied.applied_time(),
            applied,
            since: Instant::now(),
        }
    }
}

impl Stamper for ClusterClock {
    fn rebase(&mut self) {
        self.base = self.applied.applied_time();
        self.since = Instant::now();
    }

    fn stamp(&mut self) -> u64 {
        self.base.plus_ms(elapsed_ms(self.since)).0
    }
}

/// Milliseconds since 1970, by the wall clock; 0 before that. For backups, and for the token floor.
pub fn unix_ms() -> u64 {
    whole_ms(since_1970())
}

#[allow(
    clippy::disallowed_methods,
    reason = "founding or restoring a cluster and dating a backup are the uses of a wall clock"
)]
fn since_1970() -> Duration {
    // A clock before 1970 says nothing.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Below every token of a cluster founded or restored from now on, and above every token of one
/// before: a second is worth 2^20 tokens, counted by the microsecond, so that a restore in the second
/// of the founding is above what was granted in it.
pub fn token_floor() -> Token {
    let floor = (since_1970().as_micros() << 20) / 1_000_000;
    Token(
        u64::try_from(floor)
            .unwrap_or(u64::MAX)
            .min(Token::MAX.0 / 2),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebase_goes_back_to_what_was_applied_and_time_never_runs_ahead_of_the_monotonic_clock() {
        let applied = AppliedClock::default();
        applied.applied(Timestamp(5_000));
        let mut clock = ClusterClock::new(applied.clone());
        let start = Instant::now();
        clock.rebase();
        std::thread::sleep(Duration::from_millis(20));
        let stamp = clock.stamp();
        assert!(stamp >= 5_020);
        assert!(stamp <= 5_000 + elapsed_ms(start) + 1);
        applied.applied(Timestamp(5_001));
        clock.rebase();
        assert!(clock.stamp() < 5_020);
    }

    #[test]
    fn the_token_floor_leaves_room_below_two_to_the_53() {
        let floor = token_floor().0;
        assert!(floor > 1_700_000_000 << 20);
        assert!(floor < 1 << 52);
    }
}
