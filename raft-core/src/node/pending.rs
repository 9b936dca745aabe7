//! Proposals of this node that wait to be applied here.
//!
//! Every node applies every entry, so the node that received a proposal learns its outcome from its
//! own apply, whoever led and whatever became of the leader since.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::types::{NodeId, ProposalId};

/// What became of a proposal, as seen by this node's apply.
#[derive(Debug)]
pub(crate) enum Outcome<R> {
    /// Applied at this log index, with this response.
    Applied { index: u64, response: R },
    /// A snapshot took the place of entries that may have held it.
    OutOfSight,
}

#[derive(Debug)]
struct Table<R> {
    next: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Outcome<R>>>,
}

/// The table of waiting proposals.
#[derive(Debug)]
pub(crate) struct Pending<R> {
    node: NodeId,
    table: Mutex<Table<R>>,
}

impl<R> Pending<R> {
    /// `first` must not repeat across restarts of one node, or an old entry could answer a new
    /// proposal; the caller draws it at random.
    pub fn new(node: NodeId, first: u64) -> Self {
        Self {
            node,
            table: Mutex::new(Table {
                next: first,
                waiting: BTreeMap::new(),
            }),
        }
    }

    /// Names a proposal and waits for it from now on.
    pub fn register(&self) -> (ProposalId, oneshot::Receiver<Outcome<R>>) {
        let (done, outcome) = oneshot::channel();
        let mut table = self.table.lock();
        let sequence = table.next;
        table.next = sequence.wrapping_add(1);
        table.waiting.insert(sequence, done);
        let id = ProposalId {
            node: self.node,
            sequence,
        };
        (id, outcome)
    }

    /// How many are waited for.
    pub fn len(&self) -> usize {
        self.table.lock().waiting.len()
    }

    /// Nobody waits for it any more.
    pub fn forget(&self, id: ProposalId) {
        self.table.lock().waiting.remove(&id.sequence);
    }

    /// An entry was applied. Does nothing for another node's, or one nobody waits for.
    pub fn complete(&self, id: ProposalId, index: u64, response: R) {
        if id.node != self.node {
            return;
        }
        let waiter = self.table.lock().waiting.remove(&id.sequence);
        if let Some(waiter) = waiter {
            // The proposer may have met its deadline meanwhile.
            let _ = waiter.send(Outcome::Applied { index, response });
        }
    }

    /// A snapshot was installed: entries that it covers are never applied here one by one.
    pub fn lose_sight(&self) {
        let waiting = std::mem::take(&mut self.table.lock().waiting);
        for waiter in waiting.into_values() {
            let _ = waiter.send(Outcome::OutOfSight);
        }
    }
}

#[cfg(test)]
impl<R> Default for Pending<R> {
    fn default() -> Self {
        Self::new(NodeId(1), 0)
    }
}
