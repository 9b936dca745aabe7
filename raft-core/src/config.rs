//! How a node is started. Nothing here may change what a state machine's `apply` answers.

use std::path::PathBuf;
use std::time::Duration;

use crate::log::SyncPolicy;
use crate::security::PeerSecurity;
use crate::types::Member;

/// How a node whose data directory is empty comes into a cluster. Ignored ever after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Only go on with what the data directory holds.
    Existing,
    /// Found a cluster together with these peers, each `host:port`, this node's own advertised
    /// address among them. The same list in the same order on every node; the first one leads the
    /// founding.
    InitialPeers(Vec<String>),
    /// Found a cluster of one.
    Alone,
    /// Join a running cluster through any of these members, each `host:port`. The node is taken in as
    /// a learner and, unless [`Config::stay_learner`], asks for its vote once it has caught up.
    Join(Vec<String>),
}

/// Everything a [`Node`](crate::Node) needs to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Holds identity, log and snapshots; used by one process at a time.
    pub data_directory: PathBuf,
    /// What the membership says of this node. When it differs from what the cluster knows (another
    /// address, say), the node has the membership updated once it reaches the leader.
    pub member: Member,
    /// What to do with an empty data directory.
    pub start: Start,
    /// How often a leader makes itself heard. Default 50 ms.
    pub heartbeat_interval: Duration,
    /// A follower that hears no leader stands for election after a random time between these two.
    /// Followers refuse votes for the larger one after the last heartbeat. Default 200 ms, 400 ms.
    pub election_timeout: (Duration, Duration),
    /// A snapshot is taken once this many entries have been applied since the last. Default 50,000.
    pub snapshot_after_entries: u64,
    /// A snapshot is also taken once the commands applied since the last are this many bytes, looked
    /// at once a second. Default 256 MiB.
    pub snapshot_after_bytes: u64,
    /// Entries kept in the log behind a snapshot, for followers that lag a little. Default 10,000.
    pub keep_entries: u64,
    /// After this long without a commit the [`Stamper`](crate::Stamper) is told to start again, so
    /// that time during which nothing could commit does not count. Default 1 s.
    pub rebase_after: Duration,
    /// While less than this is free below the data directory, this node as the leader hands over to
    /// a voter with space, or refuses proposals of [`Priority::Normal`](crate::Priority::Normal).
    /// It takes them again once a quarter more is free. Looked at once a second; 0 never looks.
    /// Default 256 MiB: two write-ahead logs, a snapshot beside the one before, and some time.
    pub free_space_floor_bytes: u64,
    /// Whether writes are synced; anything but the default loses acknowledged writes.
    pub sync: SyncPolicy,

    /// Proposals in flight at this node at the most: its own from the call to the outcome, and on the
    /// leader all nodes' until they are applied. What exceeds it is refused at once with
    /// [`ProposeError::Overloaded`](crate::ProposeError::Overloaded). At least 1. Default 4096: at ten
    /// thousand entries a second the last of them waits for less than half a second.
    pub max_in_flight_proposals: usize,
    /// Encoded bytes of the proposals in flight at the most, beside what comes alone. At least 1.
    /// Default 16 MiB.
    pub max_in_flight_bytes: usize,
    /// Percent of both bounds, 0 to 90, that is kept from [`Priority::Normal`](crate::Priority::Normal);
    /// half of it also from [`Priority::High`](crate::Priority::High). Default 25.
    pub reserved_percent: u8,
    /// How connections between peers are protected. Default: not at all.
    pub security: PeerSecurity,

    /// A node that joins stays a learner until somebody promotes it. Default `false`.
    pub stay_learner: bool,
}

impl Config {
    /// The defaults, for this directory and member.
    pub fn new(data_directory: impl Into<PathBuf>, member: Member, start: Start) -> Self {
        Self {
            data_directory: data_directory.into(),
            member,
            start,
            heartbeat_interval: Duration::from_millis(50),
            election_timeout: (Duration::from_millis(200), Duration::from_millis(400)),
            snapshot_after_entries: 50_000,
            snapshot_after_bytes: 256 << 20,
            keep_entries: 10_000,
            rebase_after: Duration::from_secs(1),
            free_space_floor_bytes: 256 << 20,
            sync: SyncPolicy::Always,
            max_in_flight_proposals: 4096,
            max_in_flight_bytes: 16 << 20,
            reserved_percent: 25,
            security: PeerSecurity::Plaintext,
            stay_learner: false,
        }
    }

    /// The same settings in openraft's words.
    pub(crate) fn to_openraft(&self, cluster: &str) -> Result<openraft::Config, String> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (election_timeout_min, election_timeout_max) = (
            millis(self.election_timeout.0),
            millis(self.election_timeout.1),
        );
        openraft::Config {
            cluster_name: cluster.to_owned(),
            heartbeat_interval: millis(self.heartbeat_interval),
            election_timeout_min,
            election_timeout_max,
            // Must outlast a vote's round; followers refuse votes that long anyway.
            quorum_loss_probe_interval: Some(2 * election_timeout_max),
            enable_pre_vote: Some(true),
            // A restarted leader stands for election: its state machine may lag what it had applied.
            enable_leader_restore: Some(false),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_after_entries),
            // `node::retention` purges, and knows of snapshots on their way.
            max_in_snapshot_log_to_keep: u64::MAX,
            // Followers sync at the same time as the leader, not after its next round of the loop.
            broadcast_submitted_on_append: Some(true),
            // A follower that lags more gets a snapshot only when its entries are gone.
            replication_lag_threshold: u64::MAX,
            max_payload_entries: 4096,
            backoff: "20ms 40ms 80ms ...500ms".to_owned(),
            ..openraft::Config::default()
        }
        .validate()
        .map_err(|error| error.to_string())
    }
}
