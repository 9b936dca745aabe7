//! Every metric of this crate: its name, unit and meaning, and the handles that hot paths keep.
//!
//! They go through the [`metrics`](https://docs.rs/metrics) facade: install a recorder before the
//! first [`Node::start`](crate::Node::start), or nothing is recorded and nothing is paid. What happens
//! often is counted where it happens, through handles made once; what merely *is* (indexes, queues,
//! peers) is looked at four times a second by one task of each node. Labels name peers, outcomes and
//! phases, never anything that a command holds. Several nodes in one process share one set.

use std::time::Instant;

use ::metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use crate::error::ProposeError;
use crate::machine::Priority;
use crate::types::NodeId;

/// Declares each metric once: its kind, the constant, the name, the unit, the meaning.
macro_rules! declare {
    ($($describe:ident $constant:ident = $name:literal, $unit:ident: $meaning:literal;)*) => {
        $(#[doc = $meaning]
        pub const $constant: &str = $name;)*

        /// Gives the recorder every name, unit and meaning. [`Node::start`](crate::Node::start) does
        /// so.
        pub fn describe() {
            $($describe!($constant, Unit::$unit, $meaning);)*
        }
    };
}

declare! {
    describe_gauge TERM = "raft_term", Count:
        "The newest term that this node knows.";
    describe_counter LEADER_CHANGES = "raft_leader_changes_total", Count:
        "How often this node saw another leader than before; two changes within 250 ms count once.";
    describe_gauge IS_LEADER = "raft_is_leader", Count:
        "1 while this node leads, else 0.";
    describe_gauge LAST_LOG_INDEX = "raft_last_log_index", Count:
        "The last index in this node's log.";
    describe_gauge COMMITTED_INDEX = "raft_committed_index", Count:
        "The last index that this node knows to be committed.";
    describe_gauge APPLIED_INDEX = "raft_applied_index", Count:
        "The last index that this node has applied.";
    describe_gauge SNAPSHOT_INDEX = "raft_snapshot_index", Count:
        "The last index that this node's newest snapshot covers.";
    describe_gauge PURGED_INDEX = "raft_purged_index", Count:
        "The last index that is gone from this node's log.";

    describe_histogram LOG_SYNC_SECONDS = "raft_log_sync_seconds", Seconds:
        "Time to write one batch of the log and sync it to disk.";
    describe_histogram LOG_SYNC_ENTRIES = "raft_log_sync_entries", Count:
        "Log entries in one synced batch.";
    describe_histogram LOG_SYNC_BYTES = "raft_log_sync_bytes", Bytes:
        "Bytes in one synced batch of the log.";
    describe_gauge LOG_QUEUE_JOBS = "raft_log_queue_jobs", Count:
        "Writes that wait for the log's writer thread, or that it is doing.";
    describe_gauge LOG_QUEUE_BYTES = "raft_log_queue_bytes", Bytes:
        "Bytes of entries that wait for the log's writer thread, or that it is writing.";
    describe_gauge FREE_SPACE_BYTES = "raft_free_space_bytes", Bytes:
        "Free space below the data directory, looked at once a second; absent without a floor.";
    describe_histogram APPLY_SECONDS = "raft_apply_seconds", Seconds:
        "Time to apply one entry to the state machine, with the wait for whoever reads it.";

    describe_gauge PROPOSER_QUEUE_PROPOSALS = "raft_proposer_queue_proposals", Count:
        "Proposals that wait on this node to be sealed.";
    describe_gauge PENDING_PROPOSALS = "raft_pending_proposals", Count:
        "Proposals of this node whose callers wait for the outcome.";
    describe_gauge IN_FLIGHT_PROPOSALS = "raft_in_flight_proposals", Count:
        "Proposals in flight at this node: its own, and on the leader what others forwarded.";
    describe_gauge IN_FLIGHT_BYTES = "raft_in_flight_bytes", Bytes:
        "Encoded bytes of the proposals in flight at this node.";
    describe_counter PROPOSALS = "raft_proposals_total", Count:
        "Proposals made on this node, by outcome: applied, not_proposed, overloaded, disk_full, unknown, \
         invalid.";
    describe_counter ADMISSION_REFUSALS = "raft_admission_refusals_total", Count:
        "Proposals that this node refused because too much was in flight, by priority.";

    describe_gauge SNAPSHOT_DONE_BYTES = "raft_snapshot_done_bytes", Bytes:
        "Bytes done of the snapshot being built, sent (by peer) or received; 0 when there is none.";
    describe_gauge SNAPSHOT_TOTAL_BYTES = "raft_snapshot_total_bytes", Bytes:
        "Size of the snapshot being sent (by peer) or received; 0 when there is none.";
    describe_gauge SNAPSHOT_LAST_SECONDS = "raft_snapshot_last_seconds", Seconds:
        "How long the last snapshot took that was built, sent or received.";
    describe_gauge SNAPSHOT_LAST_BYTES = "raft_snapshot_last_bytes", Bytes:
        "Size of the last snapshot that was built, sent or received.";

    describe_gauge PEER_LAG_ENTRIES = "raft_peer_lag_entries", Count:
        "On the leader: entries of its log that this peer is not known to have. NaN when not leading.";
    describe_gauge PEER_ACKNOWLEDGED_SECONDS = "raft_peer_acknowledged_seconds", Seconds:
        "On the leader: time since this peer acknowledged anything. NaN when not leading.";
    describe_counter CONNECTION_FAILURES = "raft_connection_failures_total", Count:
        "Connections to this peer that could not be made.";
}

/// What the log's writer thread records.
#[derive(Debug)]
pub(crate) struct LogMetrics {
    seconds: Histogram,
    entries: Histogram,
    bytes: Histogram,
}

impl LogMetrics {
    pub fn new() -> Self {
        Self {
            seconds: histogram!(LOG_SYNC_SECONDS),
            entries: histogram!(LOG_SYNC_ENTRIES),
            bytes: histogram!(LOG_SYNC_BYTES),
        }
    }

    /// A batch was written and synced that began at `began`.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a histogram's buckets are coarser"
    )]
    pub fn synced(&self, began: Instant, entries: usize, bytes: usize) {
        self.seconds.record(began.elapsed());
        self.entries.record(entries as f64);
        self.bytes.record(bytes as f64);
    }
}

/// Outcomes of proposals, counted on the node that made them.
#[derive(Debug)]
pub(crate) struct ProposalMetrics {
    applied: Counter,
    not_proposed: Counter,
    overloaded: Counter,
    disk_full: Counter,
    unknown: Counter,
    invalid: Counter,
}

impl ProposalMetrics {
    pub fn new() -> Self {
        let outcome = |outcome: &'static str| counter!(PROPOSALS, "outcome" => outcome);
        Self {
            applied: outcome("applied"),
            not_proposed: outcome("not_proposed"),
            overloaded: outcome("overloaded"),
            disk_full: outcome("disk_full"),
            unknown: outcome("unknown"),
            invalid: outcome("invalid"),
        }
    }

    pub fn ended<T>(&self, result: &Result<T, ProposeError>) {
        match result {
            Ok(_) => &self.applied,
            Err(ProposeError::NotProposed) => &self.not_proposed,
            Err(ProposeError::Overloaded) => &self.overloaded,
            Err(ProposeError::DiskFull) => &self.disk_full,
            Err(ProposeError::Unknown) => &self.unknown,
            Err(ProposeError::TooLarge { .. } | ProposeError::Encoding(_)) => &self.invalid,
        }
        .increment(1);
    }
}

/// Admission refusals, in the order of [`Priority`].
pub(crate) fn refusals() -> [Counter; 3] {
    [Priority::Normal, Priority::High, Priority::Critical].map(|priority| {
        let name = match priority {
            Priority::Normal => "normal",
            Priority::High => "high",
            Priority::Critical => "critical",
        };
        counter!(ADMISSION_REFUSALS, "priority" => name)
    })
}

/// Time to apply one entry.
pub(crate) fn apply_seconds() -> Histogram {
    histogram!(APPLY_SECONDS)
}

/// A connection to a peer could not be made.
pub(crate) fn connection_failed(peer: NodeId) {
    counter!(CONNECTION_FAILURES, "peer_id" => peer.to_string()).increment(1);
}

/// One snapshot being built, sent or received. Dropping it ends it; only one that was
/// [`finished`](Self::finished) counts as the last.
#[derive(Debug)]
pub(crate) struct SnapshotProgress {
    phase: &'static str,
    began: Instant,
    bytes: u64,
    done: Gauge,
    total: Gauge,
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
impl SnapshotProgress {
    pub fn building() -> Self {
        let gauge = |name| gauge!(name, "phase" => "build");
        Self::begin(
            "build",
            gauge(SNAPSHOT_DONE_BYTES),
            gauge(SNAPSHOT_TOTAL_BYTES),
        )
    }

    pub fn sending(peer: NodeId, total_bytes: u64) -> Self {
        let gauge = |name| gauge!(name, "phase" => "send", "peer_id" => peer.to_string());
        let progress = Self::begin(
            "send",
            gauge(SNAPSHOT_DONE_BYTES),
            gauge(SNAPSHOT_TOTAL_BYTES),
        );
        progress.total.set(total_bytes as f64);
        progress
    }

    pub fn receiving(total_bytes: u64) -> Self {
        let gauge = |name| gauge!(name, "phase" => "receive");
        let progress = Self::begin(
            "receive",
            gauge(SNAPSHOT_DONE_BYTES),
            gauge(SNAPSHOT_TOTAL_BYTES),
        );
        progress.total.set(total_bytes as f64);
        progress
    }

    fn begin(phase: &'static str, done: Gauge, total: Gauge) -> Self {
        Self {
            phase,
            began: Instant::now(),
            bytes: 0,
            done,
            total,
        }
    }

    /// So many more bytes are done.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.done.set(self.bytes as f64);
    }

    /// It is whole.
    pub fn finished(self) {
        gauge!(SNAPSHOT_LAST_SECONDS, "phase" => self.phase).set(self.began.elapsed());
        gauge!(SNAPSHOT_LAST_BYTES, "phase" => self.phase).set(self.bytes as f64);
    }
}

impl Drop for SnapshotProgress {
    fn drop(&mut self) {
        self.done.set(0.0);
        self.total.set(0.0);
    }
}
