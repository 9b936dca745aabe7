//! Shared connections to peers for everything that is not replication: proposals, reads, status.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;

use super::status::MetricsReceiver;
use crate::transport::{Dialer, PeerLink};
use crate::types::NodeId;

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
        let address = {
            let metrics = self.metrics.borrow_watched();
            let member = metrics.membership_config.membership().get_node(&node)?;
            member.peer_address.clone()
        };
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
