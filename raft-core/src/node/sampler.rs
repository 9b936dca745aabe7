//! Looks at a node four times a second and sets its gauges. It changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ::metrics::{Counter, counter, gauge};
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::admission::Admission;
use super::pending::Pending;
use super::proposer::Sealing;
use super::status::MetricsReceiver;
use crate::log::Backlog;
use crate::metrics as names;
use crate::types::NodeId;

const INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct Sampler<R> {
    pub metrics: MetricsReceiver,
    pub admission: Arc<Admission>,
    pub pending: Arc<Pending<R>>,
    pub proposals: mpsc::Sender<Sealing>,
    pub backlog: Arc<Backlog>,
}

/// A peer as its metrics' labels name it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Peer {
    id: NodeId,
    name: String,
}

/// What the gauges do not remember.
struct Seen {
    leader: Option<NodeId>,
    peers: BTreeSet<Peer>,
    leader_changes: Counter,
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
pub(super) fn set(name: &'static str, value: u64) {
    gauge!(name).set(value as f64);
}

impl<R> Sampler<R> {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut seen = Seen {
            leader: None,
            peers: BTreeSet::new(),
            leader_changes: counter!(names::LEADER_CHANGES),
        };
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(&mut seen);
        }
    }

    fn look(&self, seen: &mut Seen) {
        let in_flight = self.admission.in_flight();
        set(names::IN_FLIGHT_PROPOSALS, in_flight.proposals as u64);
        set(names::IN_FLIGHT_BYTES, in_flight.bytes as u64);
        set(names::PENDING_PROPOSALS, self.pending.len() as u64);
        let waiting = self.proposals.max_capacity() - self.proposals.capacity();
        set(names::PROPOSER_QUEUE_PROPOSALS, waiting as u64);
        set(names::LOG_QUEUE_JOBS, self.backlog.jobs() as u64);
        set(names::LOG_QUEUE_BYTES, self.backlog.bytes() as u64);

        let raft = self.metrics.borrow_watched();
        set(names::TERM, raft.current_term);
        set(names::IS_LEADER, u64::from(raft.state.is_leader()));
        let index = |name, index: Option<u64>| set(name, index.unwrap_or(0));
        index(names::LAST_LOG_INDEX, raft.last_log_index);
        index(
            names::COMMITTED_INDEX,
            raft.local_committed.map(|id| id.index),
        );
        index(names::APPLIED_INDEX, raft.last_applied.map(|id| id.index));
        index(names::SNAPSHOT_INDEX, raft.snapshot.map(|id| id.index));
        index(names::PURGED_INDEX, raft.purged.map(|id| id.index));

        if raft.current_leader.is_some() && raft.current_leader != seen.leader {
            if seen.leader.is_some() {
                seen.leader_changes.increment(1);
            }
            seen.leader = raft.current_leader;
        }

        let mut peers = BTreeSet::new();
        for (&id, &matched) in raft.replication.iter().flatten() {
            if id == raft.id {
                continue;
            }
            let member = raft.membership_config.membership().get_node(&id);
            let peer = Peer {
                id,
                name: member.map(|member| member.name.clone()).unwrap_or_default(),
            };
            let last = raft.last_log_index.map_or(0, |last| last + 1);
            let lag = last.saturating_sub(matched.map_or(0, |matched| matched.index + 1));
            let acknowledged = raft
                .heartbeat
                .as_ref()
                .and_then(|heartbeat| *heartbeat.get(&id)?)
                .map_or(f64::NAN, |at| at.elapsed().as_secs_f64());
            #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
            set_peer(&peer, lag as f64, acknowledged);
            peers.insert(peer);
        }
        for gone in seen.peers.difference(&peers) {
            set_peer(gone, f64::NAN, f64::NAN);
        }
        seen.peers = peers;
    }
}

fn set_peer(peer: &Peer, lag_entries: f64, acknowledged_seconds: f64) {
    let labels = [
        ("peer", peer.name.clone()),
        ("peer_id", peer.id.to_string()),
    ];
    gauge!(names::PEER_LAG_ENTRIES, &labels).set(lag_entries);
    gauge!(names::PEER_ACKNOWLEDGED_SECONDS, &labels).set(acknowledged_seconds);
}
