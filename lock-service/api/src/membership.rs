//! Changes of the cluster's membership and of its leader.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{LeaderView, NodeId};

/// Names one membership: term and index of the log entry that holds it. On the wire `term-index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MembershipVersion {
    /// The term of the leader that made the entry.
    pub term: u64,
    /// The entry's log index.
    pub index: u64,
}

impl fmt::Display for MembershipVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.term, self.index)
    }
}

/// The text is not a membership version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a membership version as `GET /v1/cluster` shows it, TERM-INDEX")]
pub struct InvalidMembershipVersion;

impl FromStr for MembershipVersion {
    type Err = InvalidMembershipVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (term, index) = text.split_once('-').ok_or(InvalidMembershipVersion)?;
        let number = |text: &str| text.parse().map_err(|_| InvalidMembershipVersion);
        Ok(Self {
            term: number(term)?,
            index: number(index)?,
        })
    }
}

impl Serialize for MembershipVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MembershipVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Body of `POST /v1/cluster/promote` and `POST /v1/cluster/remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MemberRequest {
    /// The member that this is about.
    pub node_id: NodeId,
    /// Change nothing unless the membership is at this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_membership: Option<MembershipVersion>,
}

/// Body of `POST /v1/cluster/replace`: a voter goes and a learner gets its vote, in one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReplaceRequest {
    /// The voter that goes; usually a dead one.
    pub old_node_id: NodeId,
    /// The learner that has caught up.
    pub new_node_id: NodeId,
    /// Change nothing unless the membership is at this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_membership: Option<MembershipVersion>,
}

/// Body of `POST /v1/cluster/address`. What is left out stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddressRequest {
    /// The member that this is about.
    pub node_id: NodeId,
    /// Its new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where peers reach it now, as `host:port`. It must answer there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<String>,
    /// Where clients reach it now, as `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_address: Option<String>,
    /// Change nothing unless the membership is at this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_membership: Option<MembershipVersion>,
}

/// Body of `POST /v1/cluster/finish-change`: an interrupted change of voters is finished.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FinishChangeRequest {
    /// Change nothing unless the membership is at this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_membership: Option<MembershipVersion>,
}

/// Body of `POST /v1/cluster/transfer`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// Who is to lead; the voter whose log is furthest when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_node_id: Option<NodeId>,
}

/// Body of `POST /v1/cluster/snapshot`: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {}

/// 200 answer of `POST /v1/cluster/snapshot`. The snapshot is taken in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotResponse {
    /// The node that takes it: the one that was asked.
    pub node_id: NodeId,
    /// Index up to which its newest snapshot reached before.
    pub snapshot_index: Option<u64>,
}

/// One member, as the membership has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemberEntry {
    /// Its id.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it has a vote.
    pub voter: bool,
    /// Where it talks to its peers.
    pub peer_address: String,
    /// Where it serves the HTTP API.
    pub http_address: String,
}

/// 200 answer of every change of the membership: what it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MembershipResponse {
    /// Its version, for `if_membership`.
    pub membership_version: Option<MembershipVersion>,
    /// Whether a change of voters is begun and not finished.
    pub joint: bool,
    /// The members.
    pub members: Vec<MemberEntry>,
}

/// 200 answer of `POST /v1/cluster/transfer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TransferResponse {
    /// Who leads now.
    pub leader: LeaderView,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode_request;

    #[test]
    fn a_request_names_its_member_and_may_name_the_membership_it_is_based_on() {
        let body = br#"{"node_id": "0000c0ffee00", "if_membership": "3-17"}"#;
        let request: MemberRequest = decode_request(body).unwrap();
        assert_eq!(request.node_id, NodeId(0xc0ff_ee00));
        let version = MembershipVersion { term: 3, index: 17 };
        assert_eq!(request.if_membership, Some(version));
        for (body, field) in [
            (&br#"{}"#[..], "node_id"),
            (br#"{"node_id": 5}"#, "node_id"),
            (br#"{"node_id": "n2"}"#, "node_id"),
            (
                br#"{"node_id": "a", "if_membership": "3"}"#,
                "if_membership",
            ),
            (br#"{"node_id": "a", "node": "b"}"#, "node"),
        ] {
            let error = decode_request::<MemberRequest>(body).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{error}");
        }
    }
}
