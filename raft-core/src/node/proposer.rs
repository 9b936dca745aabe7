//! The one task that hands entries to openraft, on the leader.
//!
//! It stamps each command after nothing more can join it, and hands it over under the leadership
//! that the stamp was made for: openraft refuses it when that leadership has ended. It never
//! retries; whoever proposed is told when a command has certainly not entered the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::{Instant, Raft};
use tokio::sync::mpsc;
use tracing::{Span, debug};

use super::admission::Permit;
use crate::apply::{AppliedReceiver, Applier};
use crate::machine::{Stamper, StateMachine};
use crate::runtime::{InstantOf, Runtime, Tokio, before};
use crate::types::{Callback, Proposal, ProposalId, TypeConfig};

/// How often a new leader that waits for its first entry checks that it still leads.
const LEADERSHIP_CHECK: Duration = Duration::from_millis(20);

/// A command on its way into the log.
pub(crate) struct Sealing {
    pub id: ProposalId,
    pub command: Bytes,
    /// The leadership that the proposer counts on.
    pub term: u64,
    /// Follows it from here on.
    pub span: Span,
    /// Held until openraft is done with it.
    pub permit: Arc<Permit>,
    /// Called when the command has certainly not entered the log, and never will.
    pub refused: Box<dyn FnOnce() + Send>,
}

pub(crate) struct Proposer<M: StateMachine, S, R: Runtime = Tokio> {
    pub raft: Raft<TypeConfig<R>, Applier<M, R>>,
    pub queue: mpsc::Receiver<Sealing>,
    pub applied: AppliedReceiver<R>,
    pub stamper: S,
    pub rebase_after: Duration,
    /// The term this node leads in, once its first entry is applied.
    pub leads: Option<u64>,
    /// Stalls of the apply that the stamper has been told of.
    pub stalls: u64,
}

impl<M: StateMachine, S: Stamper, R: Runtime> Proposer<M, S, R> {
    pub async fn run(mut self) {
        while let Some(sealing) = self.queue.recv().await {
            if !self.is_leader(sealing.term) || !self.ready(sealing.term).await {
                debug!(parent: &sealing.span, "refused: this node does not lead in that term");
                (sealing.refused)();
                continue;
            }
            let proposal = Proposal {
                id: sealing.id,
                stamp: self.stamper.stamp(),
                command: sealing.command,
            };
            let (refused, permit, span) = (sealing.refused, sealing.permit, sealing.span);
            debug!(parent: &span, stamp = proposal.stamp, "sealed");
            let handed_over = self
                .raft
                .write(proposal)
                .with_leader(sealing.term)
                .responder(Callback::new(
                    span.clone(),
                    move |result: ClientWriteResult<TypeConfig<R>>| {
                        // Applied, or dropped: no longer in any queue.
                        drop(permit);
                        // Applied: the proposer hears it from its own apply. Discarded: it may be in
                        // other logs, so the outcome is open until an entry of a later term is applied.
                        match result {
                            Ok(applied) => debug!(index = applied.log_id.index, "applied"),
                            Err(ClientWriteError::ForwardToLeader(_)) => refused(),
                            Err(error) => debug!(%error, "discarded"),
                        }
                    },
                ))
                .await;
            debug!(parent: &span, term = sealing.term, "handed over");
            if let Err(fatal) = handed_over {
                tracing::error!(%fatal, "raft has stopped; nothing more is proposed");
                return;
            }
        }
    }

    fn is_leader(&self, term: u64) -> bool {
        self.raft
            .as_leader()
            .is_ok_and(|leader| leader.term() == term)
    }

    /// Waits, as a new leader, until the state holds everything that earlier leaders committed, and
    /// sets the stamper's base when time must not have counted.
    async fn ready(&mut self, term: u64) -> bool {
        if self.leads == Some(term) {
            let (stalls, stalled) = {
                let applied = self.applied.borrow_watched();
                (applied.stalls, applied.at.elapsed() > self.rebase_after)
            };
            // A stall may be over by now, ended by an entry that was stamped before it.
            if stalled || stalls != self.stalls {
                self.stalls = stalls;
                self.stamper.rebase();
            }
            return true;
        }
        while self.applied.borrow_and_update().term() < term {
            if !self.is_leader(term) {
                return false;
            }
            let check = InstantOf::<R>::now() + LEADERSHIP_CHECK;
            // A time-out only means to look again.
            if let Some(Err(_)) = before::<R, _>(check, self.applied.changed()).await {
                // Raft has stopped, and nothing will ever be applied, whoever it says leads.
                return false;
            }
        }
        self.stalls = self.applied.borrow_watched().stalls;
        self.stamper.rebase();
        self.leads = Some(term);
        true
    }
}
