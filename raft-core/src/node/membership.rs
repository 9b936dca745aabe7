//! The membership of a running group, as callers of [`Node`] change it.

use std::time::Instant;

use super::Node;
use crate::machine::StateMachine;
use crate::membership::{
    Administered, Administration, Membership, MembershipChange, MembershipError, MembershipVersion,
};
use crate::types::NodeId;

impl<M: StateMachine> Node<M> {
    /// The newest membership that this node knows, the change under way included. Also part of
    /// [`Node::status`].
    pub fn membership(&self) -> Membership {
        self.steward.membership()
    }

    /// Changes the membership and returns what it is then. Works on any node: the call is passed on
    /// to the leader. One change runs at a time. A change of voters is joint, in two entries; one
    /// that the death of a leader has interrupted is finished by its repeat, or by
    /// [`MembershipChange::Finish`].
    ///
    /// With `expected`, nothing is changed unless the membership is at that version.
    ///
    /// # Errors
    /// [`MembershipError::Unknown`] when the deadline comes after the change may have begun: it then
    /// goes on, and may succeed. Every other error means that nothing was changed. Changes after
    /// which the living voters would be no majority are refused.
    ///
    /// # Cancellation
    /// A dropped call leaves the outcome unknown.
    pub async fn change_membership(
        &self,
        change: MembershipChange,
        expected: Option<MembershipVersion>,
        deadline: Instant,
    ) -> Result<Membership, MembershipError> {
        let what = Administration::Change { change, expected };
        match self.steward.ask(what, deadline.into()).await? {
            Administered::Membership(membership) => Ok(membership),
            other => Err(other_kind(&other)),
        }
    }

    /// Makes another voter the leader, `to` or the one whose log is furthest, and returns who leads
    /// afterwards. Works on any node. Before it, the leader commits what
    /// [`StateMachine::before_handover`] asks for.
    ///
    /// # Errors
    /// Nothing happens unless the successor is a voter that has been heard from within a second and
    /// has caught up. [`MembershipError::Unknown`] when nobody is known to lead at the deadline: if
    /// the successor fails after all, the others elect a leader.
    ///
    /// # Cancellation
    /// A dropped call leaves the outcome unknown.
    pub async fn transfer_leadership(
        &self,
        to: Option<NodeId>,
        deadline: Instant,
    ) -> Result<NodeId, MembershipError> {
        let what = Administration::HandOver { to };
        match self.steward.ask(what, deadline.into()).await? {
            Administered::Leader(leader) => Ok(leader),
            other => Err(other_kind(&other)),
        }
    }

    /// [`Node::transfer_leadership`] if this node leads and somebody can take over; else nothing. For
    /// a service that is about to stop and still has requests under way; [`Node::stop`] does it too.
    /// Takes a few seconds at most. A dropped call may still hand over.
    pub async fn resign(&self) {
        self.steward.leave(super::LEAVE_TIMEOUT).await;
    }
}

fn other_kind(answer: &Administered) -> MembershipError {
    MembershipError::Raft(format!("an answer of another kind came: {answer:?}"))
}
