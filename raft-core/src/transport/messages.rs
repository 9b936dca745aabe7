//! What peers say to each other. The wire format is postcard: variants are only ever appended.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendResult, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use crate::machine::Priority;
use crate::membership::{Administered, AdministrationCall};
use crate::node::NodeProgress;
use crate::types::{ClusterId, Member, NodeId, ProposalId, TypeConfig, Vote};

/// The first frame each way. Its layout never changes; `version` says what follows.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub magic: [u8; 8],
    pub version: u16,
    /// `None` while the caller belongs to no cluster: it may then only speak of founding one.
    pub cluster: Option<ClusterId>,
    pub from: NodeId,
    /// Whom the caller means to reach; `None` while founding.
    pub to: Option<NodeId>,
}

pub(super) const MAGIC: [u8; 8] = *b"PALIPEER";
pub(super) const VERSION: u16 = 1;

/// The answer to [`Hello`]: the answering node, or why it will not talk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Welcome {
    Accepted { node: NodeId },
    Refused { why: String },
}

/// One member of a cluster being founded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FoundingMember {
    pub node: NodeId,
    pub member: Member,
}

/// What the founding members agree on, once in each one's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Founding {
    pub cluster: ClusterId,
    /// In the order of `--initial-peers`; the first initialises the cluster.
    pub members: Vec<FoundingMember>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// One of a pipeline of appends; a new `session` drops what is left of the one before.
    Append {
        session: u64,
        request: AppendEntriesRequest<TypeConfig>,
    },
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    TransferLeader(TransferLeaderRequest<TypeConfig>),
    SnapshotBegin {
        bytes: u64,
    },
    SnapshotChunk {
        bytes: Bytes,
    },
    SnapshotEnd {
        vote: Vote,
    },
    /// Propose this, if you lead in `term`. Answered only when it was not taken; the proposer sees
    /// the outcome in its own apply.
    Propose {
        term: u64,
        id: ProposalId,
        priority: Priority,
        command: Bytes,
    },
    ReadIndex,
    Status,
    /// Who are you, and what have you agreed to? Sent while founding.
    Identify {
        initial_peers: Vec<String>,
    },
    /// Agree to this founding.
    Agree(Founding),
    /// Read or change the membership, or hand the leadership over.
    Administer(AdministrationCall),
    /// Have you space enough to lead?
    HasSpace,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Append(StreamAppendResult<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    TransferLeader(openraft::raft::TransferLeaderResponse<TypeConfig>),
    SnapshotGoesOn,
    SnapshotInstalled {
        vote: Vote,
    },
    /// The proposal never entered this node's log.
    NotProposed,
    /// Reads at or after this applied index are linearizable with the moment of the request.
    ReadIndex(Option<u64>),
    Status(NodeProgress),
    Identity {
        member: FoundingMember,
        agreed: Option<Founding>,
    },
    Agreed,
    /// The request could not be served; nothing was changed by it.
    Failed(String),
    /// Too much is in flight here: the proposal was not taken.
    Overloaded,
    Administered(Administered),
    /// Below the free-space floor: the proposal was not taken.
    DiskFull,
    HasSpace(bool),
}
