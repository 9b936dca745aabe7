//! The types that every part of this crate shares: identities, members, proposals, and the openraft
//! type configuration.
//!
//! Proposals carry commands as bytes, so that the log, the transport and openraft itself are not
//! generic over the user's state machine. This file holds no behaviour beyond formatting.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::runtime::{Runtime, Tokio};

/// Identifies one node for the life of its data directory: 48 random bits.
///
/// A wiped directory gets a new id, so a node that lost its vote and log can never vote as the old
/// one. People see a member's `name`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// Identifies one cluster: 128 random bits, agreed by all founding members, kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The text was not the hexadecimal form of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an id: expected hexadecimal digits")]
pub struct ParseIdError(String);

impl FromStr for ClusterId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| ParseIdError(text.to_owned()))
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| ParseIdError(text.to_owned()))
    }
}

/// What the membership in the log says of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The name people see; free text, chosen by the operator.
    pub name: String,
    /// `host:port` at which peers reach this node. Names are resolved at every connect.
    pub peer_address: String,
    /// Where clients of the service built on this group reach the node; opaque to `raft-core`.
    pub service_address: String,
}

impl Member {
    /// A member of this name that peers reach at `peer_address` (`host:port`), with nothing to tell
    /// clients.
    pub fn new(name: impl Into<String>, peer_address: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            peer_address: peer_address.into(),
            service_address: String::new(),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.peer_address)
    }
}

/// Several Raft groups may one day share a log directory and a connection. Keys and frames carry
/// the group from the first day; today there is one.
pub(crate) const GROUP: u32 = 0;

/// Names one proposal: the node that received it and a number unique within that process.
///
/// The node that made it recognises its own entry in its own apply, and so learns the outcome even
/// when the leader that took it has died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ProposalId {
    pub node: NodeId,
    pub sequence: u64,
}

impl fmt::Display for ProposalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.sequence)
    }
}

/// The application data of one log entry.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    pub id: ProposalId,
    /// What the leader's [`Stamper`](crate::Stamper) gave this entry when it was sealed.
    pub stamp: u64,
    pub command: Bytes,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} stamp={} {} bytes",
            self.id,
            self.stamp,
            self.command.len()
        )
    }
}

/// Hands the outcome of a write to a closure, on whichever task openraft completes it.
///
/// Dropping it unanswered says nothing about the write; whoever waits has a deadline of its own.
pub(crate) struct Callback<T> {
    /// Follows the proposal.
    span: tracing::Span,
    call: Box<dyn FnOnce(T) + Send>,
}

impl<T> Callback<T> {
    pub fn new(span: tracing::Span, call: impl FnOnce(T) + Send + 'static) -> Self {
        Self {
            span,
            call: Box::new(call),
        }
    }
}

impl<R: Runtime, T: openraft::OptionalSend + 'static>
    openraft::raft::responder::Responder<TypeConfig<R>, T> for Callback<T>
{
    fn on_commit(&mut self, log_id: LogId) {
        tracing::debug!(parent: &self.span, index = log_id.index, "committed");
    }

    fn on_complete(self, result: T) {
        let Self { span, call } = self;
        span.in_scope(|| call(result));
    }
}

/// Standard Raft: one leader per term, so that a log id is (term, index) as in the paper.
///
/// Only the runtime varies; ids, entries, votes and memberships are the same types everywhere.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct TypeConfig<R = Tokio>(PhantomData<R>);

impl<R: Runtime> openraft::RaftTypeConfig for TypeConfig<R> {
    type D = Proposal;
    // Responses go to their proposers from `apply` (see `node::pending`), not through openraft.
    type R = ();
    type NodeId = NodeId;
    type Node = Member;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Proposal, NodeId, Member>;
    type Entry =
        openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = R::Async;
    type Responder<T>
        = Callback<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// The vote as plain numbers, ordered as openraft orders standard votes: by term, then a committed
/// one (a leader's) above a candidate's.
pub(crate) fn vote_rank(vote: &Vote) -> (u64, bool) {
    (vote.leader_id().term, vote.is_committed())
}
