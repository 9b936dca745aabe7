//! A Raft log in memory that keeps apart what is synced and what is not, for simulation and tests.
//!
//! A crash loses everything that was not synced, as a power cut does to a disk. It never touches a
//! file.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;

use crate::types::{Entry, LogId, TypeConfig, Vote};

/// What a disk would hold.
#[derive(Clone, Default)]
struct Contents {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Default)]
struct Disk {
    synced: Contents,
    /// As `synced`, plus what was written since.
    written: Contents,
    waiting: Vec<IOFlushed<TypeConfig>>,
    sync_at_once: bool,
}

/// The log; clones share it, and it outlives a simulated process.
#[derive(Clone)]
pub(crate) struct MemoryLog {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryLog {
    /// A log whose appends are synced at once, or only by [`MemoryLog::sync`].
    pub fn new(sync_at_once: bool) -> Self {
        Self {
            disk: Arc::new(Mutex::new(Disk {
                sync_at_once,
                ..Disk::default()
            })),
        }
    }

    /// Makes everything written durable and completes its callbacks.
    pub fn sync(&self) {
        self.disk.lock().sync();
    }

    /// Loses what was not synced. Its callbacks are never completed.
    pub fn crash(&self) {
        let mut disk = self.disk.lock();
        disk.written = disk.synced.clone();
        disk.waiting.clear();
    }
}

impl Disk {
    fn sync(&mut self) {
        self.synced = self.written.clone();
        for callback in self.waiting.drain(..) {
            callback.io_completed(Ok(()));
        }
    }
}

impl RaftLogReader<TypeConfig> for MemoryLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let disk = self.disk.lock();
        Ok(disk
            .written
            .entries
            .range(range)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.disk.lock().written.vote)
    }
}

impl RaftLogStorage<TypeConfig> for MemoryLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let disk = self.disk.lock();
        let last = disk.written.entries.values().next_back().map(Entry::log_id);
        Ok(LogState {
            last_purged_log_id: disk.written.purged,
            last_log_id: last.max(disk.written.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let mut disk = self.disk.lock();
        disk.written.vote = Some(*vote);
        disk.sync();
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.disk.lock().written.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.disk.lock().written.committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut disk = self.disk.lock();
        let entries = entries.into_iter().map(|entry| (entry.index(), entry));
        disk.written.entries.extend(entries);
        disk.waiting.push(callback);
        if disk.sync_at_once {
            disk.sync();
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let mut disk = self.disk.lock();
        let first_removed = last.map_or(0, |last| last.index + 1);
        disk.written.entries.split_off(&first_removed);
        disk.sync();
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let mut disk = self.disk.lock();
        disk.written.purged = disk.written.purged.max(Some(upto));
        disk.written.entries = disk.written.entries.split_off(&(upto.index + 1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use openraft::storage::RaftLogStorageExt;
    use openraft::testing::log::{StoreBuilder, Suite};

    use super::*;
    use crate::apply::Applier;
    use crate::snapshot::SnapshotStore;
    use crate::testing::Register;

    struct Builder;

    impl StoreBuilder<TypeConfig, MemoryLog, Applier<Register>, tempfile::TempDir> for Builder {
        async fn build(
            &self,
        ) -> Result<
            (tempfile::TempDir, MemoryLog, Applier<Register>),
            openraft::StorageError<TypeConfig>,
        > {
            let folder = tempfile::tempdir().unwrap();
            let snapshots = SnapshotStore::open(folder.path()).unwrap();
            let applier = Applier::for_tests(snapshots, None);
            Ok((folder, MemoryLog::new(true), applier))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn openrafts_own_storage_suite_passes_on_the_memory_log() {
        Suite::test_all(Builder).await.unwrap();
    }

    #[tokio::test]
    async fn a_crash_loses_what_was_not_synced_and_nothing_else() {
        let mut log = MemoryLog::new(false);
        let entry = |index| Entry::new(LogId::new(1.into(), index), openraft::EntryPayload::Blank);
        log.append([entry(0), entry(1)], IOFlushed::noop())
            .await
            .unwrap();
        log.sync();
        log.append([entry(2)], IOFlushed::noop()).await.unwrap();
        log.crash();
        let entries = log.try_get_log_entries(..).await.unwrap();
        assert_eq!(entries.len(), 2);
        let mut synced = MemoryLog::new(true);
        synced.blocking_append([entry(0)]).await.unwrap();
        synced.crash();
        assert_eq!(synced.try_get_log_entries(..).await.unwrap().len(), 1);
    }
}
