//! Hands the leadership over.
//!
//! openraft cannot take a transfer back once it is triggered: the old leader proposes nothing more
//! until somebody else leads. So the successor is checked first, by asking it, and again right before.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Forget;
use super::pending::Outcome;
use super::proposer::Sealing;
use super::steward::{Steward, call, call_for};
use crate::machine::{Priority, StateMachine};
use crate::membership::{Administered, Administration, MembershipError};
use crate::types::NodeId;

/// A successor answers within this, or it is none.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// The command before a transfer commits within this, or there is no transfer.
const LAST_COMMIT_TIMEOUT: Duration = Duration::from_secs(1);

impl<M: StateMachine> Steward<M> {
    /// As the leader, hands over to `to` or to the voter that is furthest; returns who leads then.
    pub(super) async fn hand_over(
        &self,
        to: Option<NodeId>,
        deadline: Instant,
    ) -> Result<NodeId, MembershipError> {
        let term = self.leads()?;
        if to == Some(self.identity.node) {
            return Ok(self.identity.node);
        }
        let _changing = self.begin()?;
        self.hand_over_in_turn(to, term, deadline).await
    }

    /// [`Steward::hand_over`], for whoever holds `changing`.
    pub(super) async fn hand_over_in_turn(
        &self,
        to: Option<NodeId>,
        term: u64,
        deadline: Instant,
    ) -> Result<NodeId, MembershipError> {
        let successor = self.successor(to, deadline).await?;
        self.commit_before(term, deadline).await?;
        // Nothing of it may have changed meanwhile.
        self.group().successor(Some(successor))?;
        tracing::info!(%successor, "handing the leadership over");
        self.raft
            .trigger()
            .transfer_leader(successor)
            .await
            .map_err(|fatal| MembershipError::Raft(fatal.to_string()))?;
        self.leader_after(term, deadline).await
    }

    /// Whom to hand over to: a voter that qualifies and answers right now. Silence is noticed only
    /// after a while, and one that has just died must not be chosen.
    async fn successor(
        &self,
        to: Option<NodeId>,
        deadline: Instant,
    ) -> Result<NodeId, MembershipError> {
        let mut group = self.group();
        loop {
            let node = group.successor(to)?;
            let address = group.membership.members.get(&node);
            let address = address.map_or("", |member| &member.peer_address);
            let deadline = deadline.min(Instant::now() + ANSWER_TIMEOUT);
            let asked = call_for(Administration::Committed, deadline, false);
            match call(&self.dialer, address, Some(node), asked).await {
                Administered::Membership(_) => return Ok(node),
                _ if to.is_some() => return Err(MembershipError::Silent { node }),
                _ => group.heard.remove(&node),
            };
        }
    }

    /// Commits what the machine wants committed before its leader goes.
    async fn commit_before(&self, term: u64, deadline: Instant) -> Result<(), MembershipError> {
        let Some(command) = self.machine.read().before_handover() else {
            return Ok(());
        };
        let command = postcard::to_allocvec(&command)
            .map_err(|error| MembershipError::Raft(error.to_string()))?;
        // So much is under way that one more entry would say nothing new, here and below.
        let Some(permit) = self.admission.admit(Priority::Critical, command.len()) else {
            return Ok(());
        };
        let (id, outcome) = self.pending.register();
        let _forget = Forget {
            pending: &self.pending,
            id,
        };
        let (refuse, refused) = oneshot::channel();
        let sealing = Sealing {
            id,
            command: command.into(),
            term,
            span: tracing::debug_span!("proposal", proposal = %id, term),
            permit,
            refused: Box::new(move || {
                let _ = refuse.send(());
            }),
        };
        if self.proposals.try_send(sealing).is_err() {
            return Ok(());
        }
        let refused = async {
            match refused.await {
                Ok(()) => {}
                Err(_) => std::future::pending().await,
            }
        };
        let deadline = deadline.min(Instant::now() + LAST_COMMIT_TIMEOUT);
        tokio::select! {
            outcome = timeout_at(deadline, outcome) => match outcome {
                Ok(Ok(Outcome::Applied { .. })) => Ok(()),
                _ => Err(MembershipError::NoLeader),
            },
            () = refused => Err(MembershipError::NoLeader),
        }
    }

    /// Waits until somebody leads in a term after this one.
    async fn leader_after(&self, term: u64, deadline: Instant) -> Result<NodeId, MembershipError> {
        let mut metrics = self.metrics.clone();
        loop {
            {
                let now = metrics.borrow_and_update();
                if now.current_term > term
                    && let Some(leader) = now.current_leader
                {
                    return Ok(leader);
                }
            }
            match timeout_at(deadline, WatchReceiver::changed(&mut metrics)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(MembershipError::Unknown),
            }
        }
    }

    /// Before this node stops: hands over if it leads and somebody can take over. Bounded by `limit`.
    pub(super) async fn leave(self: &Arc<Self>, limit: Duration) {
        match self.hand_over(None, Instant::now() + limit).await {
            Ok(leader) => tracing::info!(%leader, "handed the leadership over before the stop"),
            // It does not lead, or not usefully.
            Err(MembershipError::NoLeader | MembershipError::NoSuccessor) => {}
            Err(error) => tracing::warn!(%error, "stops without handing the leadership over"),
        }
    }
}
