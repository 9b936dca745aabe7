//! What a node knows of itself and its group, at one moment, from its own point of view.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, ServerState};
use serde::{Deserialize, Serialize};

use crate::membership::Membership;
use crate::runtime::{Runtime, Tokio};
use crate::types::{Member, NodeId, TypeConfig};

type Metrics<R = Tokio> = openraft::RaftMetrics<TypeConfig<R>>;
pub(crate) type MetricsReceiver<R = Tokio> =
    openraft::type_config::alias::WatchReceiverOf<TypeConfig<R>, Metrics<R>>;

/// After this long without a quorum's answer a leader no longer names itself.
const QUORUM_SILENCE: Duration = Duration::from_secs(1);

/// A node's part in the group. Its encoding is a wire format: append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Leads the group in its term.
    Leader,
    /// Follows, and may vote.
    Follower,
    /// Stands for election.
    Candidate,
    /// Replicates without a vote.
    Learner,
    /// Stops, or has failed.
    Stopped,
}

impl Role {
    /// The role in lower case, as shown to people.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
            Role::Stopped => "stopped",
        }
    }

    fn of(state: ServerState) -> Self {
        match state {
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        }
    }
}

/// How far one node has come, as it says itself. Its encoding is a wire format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProgress {
    /// Its part in the group.
    pub role: Role,
    /// The newest term it knows.
    pub term: u64,
    /// Whom it takes for the leader of that term; `None` also on a leader that has heard from no
    /// quorum for a second.
    pub leader: Option<NodeId>,
    /// The last index in its log; `None` while the log is empty.
    pub last_log_index: Option<u64>,
    /// The last index it knows to be committed.
    pub committed_index: Option<u64>,
    /// The last index it has applied.
    pub applied_index: Option<u64>,
    /// The last index that its newest snapshot covers.
    pub snapshot_index: Option<u64>,
    /// The last index that is gone from its log.
    pub purged_index: Option<u64>,
}

/// One member, as the membership in the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its node id.
    pub node: NodeId,
    /// Name and addresses.
    pub member: Member,
    /// Whether it votes, or only learns.
    pub voter: bool,
    /// Entries in the leader's log that this member is not known to have. Known to the leader only,
    /// and only once the member has answered it.
    pub lag_entries: Option<u64>,
    /// Whether the leader has heard from it within a second. Known to the leader only.
    pub heard: Option<bool>,
}

/// A node's view of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The node whose view this is.
    pub node: NodeId,
    /// How far that node has come.
    pub progress: NodeProgress,
    /// Every member, in order of node id.
    pub members: Vec<MemberStatus>,
    /// The newest membership that this node knows, and whether it is committed or joint.
    pub membership: Membership,
    /// Why the node has stopped, if it has failed.
    pub failure: Option<String>,
}

impl Status {
    pub(crate) fn new<R: Runtime>(metrics: &Metrics<R>) -> Self {
        let committed = metrics.membership_config == metrics.committed_membership_config;
        let membership = Membership::new(&metrics.membership_config, committed);
        let voters = metrics.membership_config.membership().voter_ids().count();
        let lag_entries = |node: &NodeId| {
            if *node == metrics.id && metrics.state.is_leader() {
                return Some(0);
            }
            let matched = (*metrics.replication.as_ref()?.get(node)?)?;
            Some(metrics.last_log_index?.saturating_sub(matched.index))
        };
        let heard = |node: &NodeId| {
            let heartbeats = metrics.heartbeat.as_ref()?;
            let acked = heartbeats.get(node).copied().flatten();
            Some(*node == metrics.id || acked.is_some_and(|at| at.elapsed() < QUORUM_SILENCE))
        };
        // A leader that no quorum has answered lately leads nobody; a cluster of one has no quorum
        // beside itself.
        let lost_quorum = metrics.state.is_leader()
            && voters > 1
            && metrics
                .last_quorum_acked
                .is_some_and(|acked| acked.elapsed() > QUORUM_SILENCE);
        Self {
            node: metrics.id,
            progress: NodeProgress {
                role: Role::of(metrics.state),
                term: metrics.current_term,
                leader: metrics.current_leader.filter(|_| !lost_quorum),
                last_log_index: metrics.last_log_index,
                committed_index: metrics.local_committed.map(|log_id| log_id.index),
                applied_index: metrics.last_applied.map(|log_id| log_id.index),
                snapshot_index: metrics.snapshot.map(|log_id| log_id.index),
                purged_index: metrics.purged.map(|log_id| log_id.index),
            },
            members: membership
                .members
                .iter()
                .map(|(node, member)| MemberStatus {
                    node: *node,
                    member: member.clone(),
                    voter: membership.is_voter(*node),
                    lag_entries: lag_entries(node),
                    heard: heard(node),
                })
                .collect(),
            membership,
            failure: metrics
                .running_state
                .as_ref()
                .err()
                .map(ToString::to_string),
        }
    }

    /// The leader, if this node knows one.
    pub fn leader(&self) -> Option<&MemberStatus> {
        self.progress.leader.and_then(|leader| self.member(leader))
    }

    /// One member.
    pub fn member(&self, node: NodeId) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.node == node)
    }
}

/// Follows a node's [`Status`].
#[derive(Clone)]
pub struct StatusWatch {
    pub(super) metrics: MetricsReceiver,
}

impl StatusWatch {
    /// The status now.
    pub fn current(&self) -> Status {
        Status::new(&self.metrics.borrow_watched())
    }

    /// Waits for a change since the last call. Returns `false` when the node is gone. Cancellation
    /// safe.
    pub async fn changed(&mut self) -> bool {
        WatchReceiver::changed(&mut self.metrics).await.is_ok()
    }
}
