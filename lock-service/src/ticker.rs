//! The leader's care for time: founds the lock table, and commits often enough while anything is
//! pending that a failover loses little of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_model::{ClusterId, Command, ModelVersion, Settings, Timestamp};
use raft_core::Node;

use crate::clock::{AppliedClock, token_floor};
use crate::machine::{Alarm, LockMachine};
use crate::metrics::ticks;

/// While a deadline is pending the leader commits at least this often: a failover extends leases by
/// no more than that, and the time without a leader.
const COMMIT_INTERVAL: Duration = Duration::from_millis(400);
/// Every entry ends what is due. Only when none has come for this long is a tick worth an entry.
const QUIET_INTERVAL: Duration = Duration::from_millis(10);
/// How often a node that does not lead, or has nothing pending, looks again on its own.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);
/// A cluster without its lock table refuses everybody: be quick to make it.
const FOUNDING_INTERVAL: Duration = Duration::from_millis(20);
/// After a proposal that failed.
const FAILED_PAUSE: Duration = Duration::from_millis(50);
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs on every node for its life; acts only on the leader.
pub struct Ticker {
    pub node: Arc<Node<LockMachine>>,
    pub clock: AppliedClock,
    pub alarm: Alarm,
}

enum Need {
    Found,
    Tick,
    /// Nothing before this long.
    Rest(Duration),
}

impl Ticker {
    pub async fn run(self) {
        let ticks = ticks();
        let mut more_due = false;
        loop {
            let need = if more_due { Need::Tick } else { self.need() };
            let command = match need {
                Need::Rest(pause) => {
                    // Whichever comes first; both only mean to look again.
                    let _ = tokio::time::timeout(pause, self.alarm.rung()).await;
                    continue;
                }
                Need::Found => Command::Found {
                    cluster_id: ClusterId(self.node.cluster_id().0.to_be_bytes()),
                    token_floor: token_floor(),
                    settings: Settings::default(),
                    model_version: ModelVersion::LATEST,
                },
                Need::Tick => Command::Tick,
            };
            let deadline = Instant::now() + PROPOSE_TIMEOUT;
            match self.node.propose(&command, deadline).await {
                Ok(applied) => {
                    more_due = applied.response.more_due;
                    if command == Command::Tick {
                        ticks.increment(1);
                    }
                }
                Err(error) => {
                    more_due = false;
                    tracing::debug!(%error, "cluster time does not move");
                    tokio::time::sleep(FAILED_PAUSE).await;
                }
            }
        }
    }

    fn need(&self) -> Need {
        let leads = self.node.is_leader();
        // Whatever falls due from now on rings, until a pause is set that covers it.
        self.alarm.set(Timestamp(u64::MAX));
        let (founded, next_deadline) = self.node.read(|machine| {
            (
                machine.table.cluster_id().is_some(),
                machine.table.next_deadline(),
            )
        });
        match (leads, founded) {
            (true, false) => return Need::Found,
            (false, false) => return Need::Rest(FOUNDING_INTERVAL),
            (false, true) => return Need::Rest(IDLE_INTERVAL),
            (true, true) => {}
        }
        let Some(next_deadline) = next_deadline else {
            return Need::Rest(IDLE_INTERVAL);
        };
        let due_in = Duration::from_millis(self.clock.estimate().ms_until(next_deadline));
        let silent = self.clock.last_applied_at().elapsed();
        let pause = due_in
            .max(QUIET_INTERVAL.saturating_sub(silent))
            .min(COMMIT_INTERVAL.saturating_sub(silent));
        if pause.is_zero() {
            return Need::Tick;
        }
        self.alarm.set(next_deadline);
        Need::Rest(pause)
    }
}
