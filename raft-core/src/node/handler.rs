//! What a running node does with its peers' requests: hands them to openraft and its own tasks.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::admission::Admission;
use super::proposer::Sealing;
use super::reads::read_index;
use super::status::{NodeProgress, Status};
use super::steward::Steward;
use crate::apply::{Applier, SnapshotData};
use crate::founding::FoundingState;
use crate::machine::{Priority, StateMachine};
use crate::membership::{Administered, AdministrationCall};
use crate::snapshot::PartialSnapshot;
use crate::transport::{AppendResults, FoundingHandler, Handler, Reply};
use crate::types::{ProposalId, SnapshotMeta, TypeConfig, Vote};

pub(super) struct PeerHandler<M: StateMachine> {
    pub raft: Raft<TypeConfig, Applier<M>>,
    pub proposals: mpsc::Sender<Sealing>,
    pub admission: Arc<Admission>,
    pub founding: Arc<FoundingState>,
    pub steward: Arc<Steward<M>>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl<M: StateMachine> Handler for PeerHandler<M> {
    fn append(&self, requests: ReceiverStream<AppendEntriesRequest<TypeConfig>>) -> AppendResults {
        self.raft
            .stream_append(requests)
            .map(|result| result.map_err(text))
            .boxed()
    }

    fn vote(
        &self,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
    ) -> BoxFuture<'_, Result<VoteResponse<TypeConfig>, String>> {
        Box::pin(async move {
            match pre_vote {
                true => self.raft.pre_vote(request).await,
                false => self.raft.vote(request).await,
            }
            .map_err(text)
        })
    }

    fn transfer_leader(
        &self,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> BoxFuture<'_, Result<TransferLeaderResponse<TypeConfig>, String>> {
        Box::pin(async move {
            self.raft
                .handle_transfer_leader(request)
                .await
                .map_err(text)
        })
    }

    fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        snapshot: PartialSnapshot,
    ) -> BoxFuture<'_, Result<Vote, String>> {
        Box::pin(async move {
            let snapshot = openraft::Snapshot {
                meta,
                snapshot: SnapshotData::Received(snapshot),
            };
            self.raft
                .install_full_snapshot(vote, snapshot)
                .await
                .map(|response| response.vote)
                .map_err(text)
        })
    }

    fn propose(
        &self,
        term: u64,
        id: ProposalId,
        priority: Priority,
        command: Bytes,
        refused: Box<dyn FnOnce() + Send>,
    ) -> Option<Reply> {
        if !self.admission.has_space_for(priority) {
            return Some(Reply::DiskFull);
        }
        let Some(permit) = self.admission.admit(priority, command.len()) else {
            return Some(Reply::Overloaded);
        };
        let sealing = Sealing {
            id,
            command,
            term,
            span: tracing::debug_span!("forwarded_proposal", proposal = %id, term),
            permit,
            refused,
        };
        // The queue has room for all that is admitted; it is closed when this node stops.
        if let Err(unsent) = self.proposals.try_send(sealing) {
            (unsent.into_inner().refused)();
        }
        None
    }

    fn has_space(&self) -> bool {
        self.admission.has_space()
    }

    fn read_index(&self) -> BoxFuture<'_, Result<Option<u64>, String>> {
        Box::pin(read_index(&self.raft))
    }

    fn status(&self) -> NodeProgress {
        Status::new(&self.raft.metrics().borrow_watched()).progress
    }

    fn administer(&self, call: AdministrationCall) -> BoxFuture<'_, Administered> {
        Box::pin(self.steward.serve(call))
    }

    fn founding(&self) -> Arc<dyn FoundingHandler> {
        self.founding.clone()
    }
}
