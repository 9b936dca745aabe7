//! Shared connections to peers for everything that is not replication: proposals, reads, status.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;

use super::admission::Permit;
use super::status::MetricsReceiver;
use crate::machine::Priority;
use crate::transport::{Dialer, PeerLink, Reply, Request};
use crate::types::{NodeId, ProposalId};

/// A proposal for a leader elsewhere.
pub(crate) struct Forwarded {
    pub term: u64,
    pub id: ProposalId,
    pub priority: Priority,
    pub command: Bytes,
    /// Held until the proposal has left this node's memory.
    pub permit: Arc<Permit>,
}

/// What a leader says of a proposal that has not entered its log and never will.
pub(crate) enum Refusal {
    NotTaken,
    Overloaded,
    DiskFull,
}

/// How a proposal reaches a leader elsewhere.
pub(crate) trait Forward: Sync {
    /// Sends a proposal to `leader`; `None` when it certainly was not sent, as when this future is
    /// dropped. The future that it answers completes when the leader refuses the proposal, and never
    /// otherwise: then only an apply can tell.
    fn forward(
        &self,
        leader: NodeId,
        proposal: Forwarded,
    ) -> BoxFuture<'_, Option<BoxFuture<'static, Refusal>>>;
}

impl Forward for Links {
    fn forward(
        &self,
        leader: NodeId,
        proposal: Forwarded,
    ) -> BoxFuture<'_, Option<BoxFuture<'static, Refusal>>> {
        Box::pin(async move {
            let connection = self.to(leader)?.connection().await.ok()?;
            let request = Request::Propose {
                term: proposal.term,
                id: proposal.id,
                priority: proposal.priority,
                command: proposal.command,
            };
            let sent = connection.send_proposal(&request, proposal.permit);
            let mut answer = sent.await.ok()?;
            let refused: BoxFuture<'static, Refusal> = Box::pin(async move {
                // Held, so that the connection lives as long as its answer may come.
                let _connection = connection;
                match answer.wait().await {
                    Some(Reply::NotProposed) => Refusal::NotTaken,
                    Some(Reply::Overloaded) => Refusal::Overloaded,
                    Some(Reply::DiskFull) => Refusal::DiskFull,
                    // Lost, or nonsense.
                    Some(_) | None => std::future::pending().await,
                }
            });
            Some(refused)
        })
    }
}

/// One link per member, made when first needed and again when its address changes.
pub(super) struct Links {
    dialer: Dialer,
    metrics: MetricsReceiver,
    open: Mutex<BTreeMap<NodeId, Arc<PeerLink>>>,
}

impl Links {
    pub fn new(dialer: Dialer, metrics: MetricsReceiver) -> Self {
        Self {
            dialer,
            metrics,
            open: Mutex::default(),
        }
    }

    /// The link to a member; `None` when the membership does not name it.
    pub fn to(&self, node: NodeId) -> Option<Arc<PeerLink>> {
        let address = address_of(&self.metrics, node)?;
        let mut open = self.open.lock();
        if let Some(link) = open.get(&node)
            && link.address() == address
        {
            return Some(link.clone());
        }
        let link = Arc::new(PeerLink::new(self.dialer.clone(), address, node));
        open.insert(node, link.clone());
        Some(link)
    }
}

/// Where a member is, by the newest membership.
pub(super) fn address_of(metrics: &MetricsReceiver, node: NodeId) -> Option<String> {
    let metrics = metrics.borrow_watched();
    let member = metrics.membership_config.membership().get_node(&node)?;
    Some(member.peer_address.clone())
}
