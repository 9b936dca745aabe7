//! When to take a snapshot for the bytes applied, and how much of the log to keep behind one.
//!
//! openraft's own purge knows nothing of snapshots that are on their way to a follower, so it is
//! switched off and this task tells it what may go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;

use crate::apply::Applier;
use crate::machine::StateMachine;
use crate::transport::Transfers;
use crate::types::TypeConfig;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Purging in batches keeps range deletions rare.
const PURGE_BATCH: u64 = 1024;

/// Bytes of commands applied since the state was last frozen.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppliedBytes(Arc<AtomicU64>);

impl AppliedBytes {
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The task's surroundings.
pub(super) struct Retention<M: StateMachine> {
    pub raft: Raft<TypeConfig, Applier<M>>,
    pub applied_bytes: AppliedBytes,
    pub transfers: Transfers,
    pub snapshot_after_bytes: u64,
    pub keep_entries: u64,
}

impl<M: StateMachine> Retention<M> {
    /// Looks once a second, until raft has stopped.
    pub async fn run(self) {
        let mut asked = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let damaged = self.transfers.take_damage();
            if (damaged || self.applied_bytes.get() >= self.snapshot_after_bytes)
                // One that is being built already is not begun again.
                && self.raft.trigger().snapshot().await.is_err()
            {
                return;
            }
            let (snapshot, purged) = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow_watched();
                (
                    metrics.snapshot.map(|last| last.index),
                    metrics.purged.map(|last| last.index),
                )
            };
            let upto = purge_upto(
                snapshot,
                purged.max(asked),
                self.keep_entries,
                self.transfers.oldest(),
            );
            if let Some(upto) = upto {
                if self.raft.trigger().purge_log(upto).await.is_err() {
                    return;
                }
                asked = Some(upto);
            }
        }
    }
}

/// The last index that may go now, if that is worth it.
fn purge_upto(
    snapshot: Option<u64>,
    purged: Option<u64>,
    keep_entries: u64,
    oldest_sent: Option<u64>,
) -> Option<u64> {
    let upto = snapshot?.checked_sub(keep_entries)?;
    let upto = oldest_sent.map_or(upto, |sent| upto.min(sent));
    let first = purged.map_or(0, |purged| purged + 1);
    (upto + 1 >= first + PURGE_BATCH).then_some(upto)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_snapshot_covers_goes_in_batches_but_for_what_is_kept() {
        assert_eq!(purge_upto(None, None, 0, None), None);
        assert_eq!(purge_upto(Some(10_000), None, 10_001, None), None);
        assert_eq!(purge_upto(Some(10_000), None, 500, None), Some(9_500));
        assert_eq!(purge_upto(Some(10_000), Some(9_000), 500, None), None);
        assert_eq!(purge_upto(Some(1_023), None, 0, None), Some(1_023));
        assert_eq!(purge_upto(Some(1_022), None, 0, None), None);
    }

    #[test]
    fn entries_behind_a_snapshot_that_is_being_sent_stay() {
        let sent = Some(5_000);
        assert_eq!(purge_upto(Some(10_000), None, 500, sent), sent);
        assert_eq!(purge_upto(Some(10_000), Some(5_000), 500, sent), None);
        assert_eq!(purge_upto(Some(5_200), None, 500, sent), Some(4_700));
    }
}
