//! The cluster and its members.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Position;
use crate::membership::MembershipVersion;
use crate::open_enum::open_enum;

/// A node's id: 48 random bits made with its data directory. On the wire 12 lower-case hexadecimal
/// digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

impl Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse()
            .map_err(|_| serde::de::Error::custom("expected a node id of hexadecimal digits"))
    }
}

/// A cluster's id, chosen when it was founded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub String);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

open_enum! {
    /// What a member does, by its own account.
    pub enum MemberRole {
        /// Stamps and replicates.
        Leader = "leader",
        /// Votes and follows.
        Follower = "follower",
        /// Asks for votes.
        Candidate = "candidate",
        /// Follows without a vote.
        Learner = "learner",
        /// Stops or has stopped after a failure; it still answers.
        Stopped = "stopped",
    }
}

/// The member that leads, as the answering node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaderView {
    /// Its id.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
}

/// One member. The numbers are its own, asked from it for this answer, and `null` when it could not
/// be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemberView {
    /// Its id.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it has a vote.
    pub voter: bool,
    /// Where it serves the HTTP API, as `host:port`.
    pub http_address: String,
    /// Where it talks to its peers, as `host:port`.
    pub peer_address: String,
    /// Whether it answered.
    pub reachable: bool,
    /// Entries in the leader's log that it is not known to have, by the leader's account; `null` when
    /// the answering node does not lead.
    #[serde(default)]
    pub lag_entries: Option<u64>,
    /// Whether the leader has heard from it within a second; `null` when the answering node does not
    /// lead.
    #[serde(default)]
    pub heard_by_leader: Option<bool>,
    /// What it does.
    #[serde(default)]
    pub role: Option<MemberRole>,
    /// Its term.
    #[serde(default)]
    pub term: Option<u64>,
    /// Index of the last entry in its log.
    #[serde(default)]
    pub last_log_index: Option<u64>,
    /// Index of the last entry that it knows to be committed.
    #[serde(default)]
    pub committed_index: Option<u64>,
    /// Index of the last entry that it has applied.
    #[serde(default)]
    pub applied_index: Option<u64>,
    /// Index of the last entry in its newest snapshot.
    #[serde(default)]
    pub snapshot_index: Option<u64>,
    /// Index up to which its log is purged.
    #[serde(default)]
    pub purged_index: Option<u64>,
}

/// 200 answer of `GET /v1/cluster`. Any node answers it, also without a quorum: it is this node's
/// view, not a linearizable read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterResponse {
    /// Id of the cluster.
    pub cluster_id: ClusterId,
    /// The node that answers.
    pub answered_by: NodeId,
    /// Who leads; `null` when the answering node knows of nobody.
    pub leader: Option<LeaderView>,
    /// The answering node's term.
    pub term: u64,
    /// The membership's version, for `if_membership` in changes of it.
    #[serde(default)]
    pub membership_version: Option<MembershipVersion>,
    /// Whether a change of voters is begun and not finished: a majority of the old and of the new
    /// voters is needed for everything. It lasts moments, or until an interrupted one is finished.
    #[serde(default)]
    pub joint: bool,
    /// The members.
    pub members: Vec<MemberView>,
}

/// 200 answer of `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VersionResponse {
    /// The program: `palisaded`.
    pub program: String,
    /// Its version.
    pub version: String,
    /// Version of the HTTP API.
    pub api_version: u32,
    /// The newest rules of the lock table that this program knows. The cluster's may be raised to it
    /// once every member's is as large.
    #[serde(default)]
    pub model_version_max: u32,
}

/// 200 answer of `GET /readyz`. A node that is not ready answers 503 with a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReadyResponse {
    /// Always `true`.
    pub ready: bool,
    /// Position of the read that proved it.
    pub position: Position,
}
