//! Linearizable reads by ReadIndex (Raft dissertation, section 6.4), on any node.
//!
//! One task runs rounds, one after the other; everyone who asked before a round began shares it. It
//! never uses leader leases: those return stale data when a follower restarts inside one.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Raft, ReadPolicy};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::links::Links;
use crate::apply::Applier;
use crate::machine::StateMachine;
use crate::transport::{Reply, Request};
use crate::types::TypeConfig;

/// One round must be done within this.
const ROUND_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a round that failed, before the next.
const FAILED_PAUSE: Duration = Duration::from_millis(10);

/// Asks for the index that a read starting now must see; `None` when the round failed.
pub(super) type Ask = oneshot::Sender<Option<u64>>;

pub(super) struct Reader<M: StateMachine> {
    pub raft: Raft<TypeConfig, Applier<M>>,
    pub links: Arc<Links>,
    pub queue: mpsc::Receiver<Ask>,
}

impl<M: StateMachine> Reader<M> {
    pub async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            let mut asking = vec![first];
            while let Ok(next) = self.queue.try_recv() {
                asking.push(next);
            }
            let index = timeout(ROUND_TIMEOUT, self.round()).await.unwrap_or(None);
            for ask in asking {
                // Whoever asked may have met its deadline.
                let _ = ask.send(index);
            }
            if index.is_none() {
                sleep(FAILED_PAUSE).await;
            }
        }
    }

    async fn round(&self) -> Option<u64> {
        match self.raft.as_leader() {
            Ok(_) => read_index(&self.raft).await.ok().flatten(),
            Err(forward) => {
                let link = self.links.to(forward.leader_id?)?;
                match link.call(&Request::ReadIndex, ROUND_TIMEOUT).await {
                    Ok(Reply::ReadIndex(index)) => index,
                    _ => None,
                }
            }
        }
    }
}

/// The leader's side: confirms its leadership with a quorum and answers the index.
pub(super) async fn read_index<M: StateMachine>(
    raft: &Raft<TypeConfig, Applier<M>>,
) -> Result<Option<u64>, String> {
    raft.get_read_linearizer(ReadPolicy::ReadIndex)
        .await
        .map(|linearizer| Some(linearizer.read_log_id().index()))
        .map_err(|error| error.to_string())
}
