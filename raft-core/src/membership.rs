//! Who belongs to a group, how that is changed, and why a change is refused.
//!
//! Types only, shared by the public API and the wire between peers; the leader's decisions are in
//! `node/plan.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::{Member, NodeId, StoredMembership};

/// The longest name or address of a member, in bytes.
pub const MAX_MEMBER_TEXT_BYTES: usize = 256;

/// Names one membership: the log entry that holds it. Ordered as the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// The text was not a [`MembershipVersion`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a membership version: expected TERM-INDEX")]
pub struct ParseVersionError(String);

impl FromStr for MembershipVersion {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('-');
        let parsed = parts.and_then(|(term, index)| {
            Some(Self {
                term: term.parse().ok()?,
                index: index.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| ParseVersionError(text.to_owned()))
    }
}

/// Who belongs to a group, and who votes. Its encoding is a wire format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The entry that holds it; `None` on a node that has received none yet.
    pub version: Option<MembershipVersion>,
    /// Whether that entry is known to be committed. While it is not, a change is under way.
    pub committed: bool,
    /// The voters: one set, or while a change of voters is under way the old one and the new one
    /// (*joint*: a majority of each is needed for everything).
    pub voters: Vec<BTreeSet<NodeId>>,
    /// Every member, learners included.
    pub members: BTreeMap<NodeId, Member>,
}

impl Membership {
    pub(crate) fn new(stored: &StoredMembership, committed: bool) -> Self {
        let membership = stored.membership();
        Self {
            version: stored.log_id().map(|log_id| MembershipVersion {
                term: log_id.leader_id.term,
                index: log_id.index,
            }),
            committed,
            voters: membership.get_joint_config().clone(),
            members: membership
                .nodes()
                .map(|(node, member)| (*node, member.clone()))
                .collect(),
        }
    }

    /// Whether a change of voters has begun and not ended.
    pub fn is_joint(&self) -> bool {
        self.voters.len() > 1
    }

    /// Whether this node votes, in either set while joint.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.iter().any(|voters| voters.contains(&node))
    }

    /// Whether this node belongs to the group, as a voter or a learner.
    pub fn contains(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }

    /// The voters that a change under way leads to; those of now when there is none.
    pub(crate) fn goal(&self) -> BTreeSet<NodeId> {
        self.voters.last().cloned().unwrap_or_default()
    }
}

/// One change of the membership. Its encoding is a wire format: append-only.
///
/// Each of them can be repeated: what is as asked for already is left as it is, and a repeat of
/// what was interrupted finishes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembershipChange {
    /// Take a node in as a learner: it gets the log and does not vote.
    AddLearner {
        /// Its id, made with its data directory.
        node: NodeId,
        /// Its name and addresses.
        member: Member,
    },
    /// Give a learner that has caught up a vote.
    Promote {
        /// The learner.
        node: NodeId,
    },
    /// Take a voter or a learner out. It does not come back: its machine can join again with an
    /// empty data directory, as a new node.
    Remove {
        /// The member.
        node: NodeId,
    },
    /// Take a voter out and give a learner that has caught up its vote, in one joint change.
    Replace {
        /// The voter; usually one that is dead.
        old: NodeId,
        /// The learner.
        new: NodeId,
    },
    /// Change the name or the addresses of a member.
    Update {
        /// The member.
        node: NodeId,
        /// What it is to be.
        member: Member,
    },
    /// Finish a change of voters that was interrupted.
    Finish,
}

/// What a member's name and addresses are called in refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberField {
    /// [`Member::name`].
    Name,
    /// [`Member::peer_address`].
    PeerAddress,
    /// [`Member::service_address`].
    ServiceAddress,
}

impl fmt::Display for MemberField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name",
            Self::PeerAddress => "peer address",
            Self::ServiceAddress => "service address",
        })
    }
}

/// Why the membership or the leader was not changed. Its encoding is a wire format: append-only.
///
/// All but [`MembershipError::Unknown`] mean that nothing was changed by this call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MembershipError {
    /// No leader with a quorum took the call before its deadline.
    #[error("no leader with a quorum took the call before its deadline; nothing was changed")]
    NoLeader,
    /// The call may have had its effect, or may yet have it.
    #[error(
        "the outcome is unknown: the change may have been made, or may yet be; read the membership, \
         and repeat the call if it is not as wanted"
    )]
    Unknown,
    /// Another change, or a transfer of the leadership, is under way.
    #[error("another change of the membership is under way; try again when it has ended")]
    InProgress,
    /// A change of voters was begun by an earlier leader and is not finished.
    #[error(
        "a change of voters was interrupted: both the old and the new voters have a say until it is \
         finished; finish it first"
    )]
    Interrupted,
    /// The membership is not the one that the call was based on.
    #[error("the membership has changed: it is now at version {actual}, not {expected}")]
    Changed {
        /// The version that the caller expected.
        expected: MembershipVersion,
        /// The one that the leader has.
        actual: MembershipVersion,
    },
    /// No member has this id.
    #[error("there is no member {node}")]
    UnknownMember {
        /// Who was asked for.
        node: NodeId,
    },
    /// The call is for a voter, and this member is a learner.
    #[error("{node} is a learner and has no vote")]
    NotAVoter {
        /// The learner.
        node: NodeId,
    },
    /// The call is for a learner, and this member votes already.
    #[error("{node} has a vote already; remove the other member instead of replacing it")]
    NotALearner {
        /// The voter.
        node: NodeId,
    },
    /// The member has not caught up with the leader.
    #[error(
        "{node} has not caught up: it lags by {} entries, at most {limit} are allowed; wait until it \
         has",
        .lag_entries.map_or_else(|| "an unknown number of".to_owned(), |lag| lag.to_string())
    )]
    Lagging {
        /// The member.
        node: NodeId,
        /// Entries in the leader's log that it is not known to have.
        lag_entries: Option<u64>,
        /// The most allowed.
        limit: u64,
    },
    /// The leader has not heard from the member lately.
    #[error("the leader has not heard from {node} lately; check that it runs and can be reached")]
    Silent {
        /// The member.
        node: NodeId,
    },
    /// The group would have no voter.
    #[error("{node} is the last voter; a group without one can do nothing, ever")]
    LastVoter {
        /// The voter.
        node: NodeId,
    },
    /// The voters that are alive would not be a majority afterwards.
    #[error(
        "of the {voters} voters after this change only {live} are alive, and {needed} are needed: \
         the group would stand still; bring voters back, or replace dead ones first"
    )]
    QuorumLost {
        /// Voters after the change.
        voters: usize,
        /// Those that the leader has heard from lately, itself included.
        live: usize,
        /// The majority.
        needed: usize,
    },
    /// Another member has this name or address.
    #[error(
        "the {field} {value} belongs to member {node} already. If that member is gone for good and \
         this node takes its place, remove that member first, or let this node join under another \
         {field} and replace that member by it"
    )]
    Duplicate {
        /// Which one.
        field: MemberField,
        /// Its value.
        value: String,
        /// Who has it.
        node: NodeId,
    },
    /// A name or an address cannot be used.
    #[error("the {field} cannot be used: {why}")]
    Invalid {
        /// Which one.
        field: MemberField,
        /// What is wrong.
        why: String,
    },
    /// The leader does not reach the node under the address that it is to have.
    #[error(
        "the leader does not reach {node} at {address}: {why}; check the advertised peer address"
    )]
    Unreachable {
        /// The node.
        node: NodeId,
        /// Where it should be.
        address: String,
        /// What happened.
        why: String,
    },
    /// There is nobody to hand the leadership to.
    #[error("no other voter is alive and caught up, so the leadership stays where it is")]
    NoSuccessor,
    /// Raft itself refused.
    #[error("raft refused: {0}")]
    Raft(String),
}

/// What one node asks another about the membership. A wire format: append-only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Administration {
    Change {
        change: MembershipChange,
        /// The membership that the caller decided on.
        expected: Option<MembershipVersion>,
    },
    /// Hand the leadership to this voter, or to the one that is furthest.
    HandOver { to: Option<NodeId> },
    /// The newest membership that this node knows to be committed.
    Committed,
}

/// An [`Administration`] on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AdministrationCall {
    pub what: Administration,
    /// The caller waits this long.
    pub limit_ms: u64,
    /// Whether a node that does not lead passes it on to the leader. Nobody passes it on twice.
    pub may_forward: bool,
}

/// The answer to an [`Administration`]. A wire format: append-only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Administered {
    Membership(Membership),
    /// Who leads now.
    Leader(NodeId),
    Refused(MembershipError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_it_is_written_and_ordered_as_the_log_is() {
        let version = MembershipVersion { term: 3, index: 12 };
        assert_eq!(version.to_string().parse(), Ok(version));
        assert!(version < MembershipVersion { term: 4, index: 1 });
        for text in ["", "3", "3-", "-3", "a-b", "3-12-1"] {
            assert!(text.parse::<MembershipVersion>().is_err(), "{text}");
        }
    }
}
