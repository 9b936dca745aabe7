//! A Raft log in memory that keeps apart what is synced and what is not, for simulation and tests.
//!
//! A crash loses everything that was not synced, as a power cut does to a disk, and whoever held the
//! log before it can use it no more. It never touches a file.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use futures::future::BoxFuture;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::{Mutex, MutexGuard};

use crate::apply::SyncLog;
use crate::runtime::{Runtime, Tokio};
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// What a disk would hold.
#[derive(Clone, Default)]
struct Contents {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

struct Disk<R: Runtime> {
    synced: Contents,
    /// As `synced`, plus what was written since.
    written: Contents,
    waiting: Vec<IOFlushed<TypeConfig<R>>>,
    sync_at_once: bool,
    crashes: u64,
}

/// The log as one process sees it; clones share it. The disk behind it outlives the process.
pub(crate) struct MemoryLog<R: Runtime = Tokio> {
    disk: Arc<Mutex<Disk<R>>>,
    /// Crashes before this process began: one that has crashed reads and writes no more.
    born_after: u64,
}

impl<R: Runtime> Clone for MemoryLog<R> {
    fn clone(&self) -> Self {
        Self {
            disk: self.disk.clone(),
            born_after: self.born_after,
        }
    }
}

impl<R: Runtime> MemoryLog<R> {
    /// A log whose appends are synced at once, or only by [`MemoryLog::sync`].
    pub fn new(sync_at_once: bool) -> Self {
        Self {
            disk: Arc::new(Mutex::new(Disk {
                synced: Contents::default(),
                written: Contents::default(),
                waiting: Vec::new(),
                sync_at_once,
                crashes: 0,
            })),
            born_after: 0,
        }
    }

    /// Whether something written waits to be synced.
    pub fn is_dirty(&self) -> bool {
        !self.disk.lock().waiting.is_empty()
    }

    /// Makes everything written durable and completes its callbacks.
    ///
    /// # Errors
    /// When this process has crashed.
    pub fn sync(&self) -> io::Result<()> {
        self.disk()?.sync();
        Ok(())
    }

    /// Loses what was not synced: its callbacks are never completed. Returns the log as the next
    /// process finds it, and how many entries it lost; the handles of this one are dead.
    pub fn crash(&self) -> (Self, usize) {
        let mut disk = self.disk.lock();
        let synced = &disk.synced.entries;
        let lost = disk.written.entries.iter();
        let lost = lost.filter(|(index, entry)| synced.get(index) != Some(entry));
        let lost = lost.count();
        disk.written = disk.synced.clone();
        disk.waiting.clear();
        disk.crashes += 1;
        let next = Self {
            disk: self.disk.clone(),
            born_after: disk.crashes,
        };
        (next, lost)
    }

    fn disk(&self) -> io::Result<MutexGuard<'_, Disk<R>>> {
        let disk = self.disk.lock();
        match disk.crashes == self.born_after {
            true => Ok(disk),
            false => Err(io::Error::other("this process has crashed")),
        }
    }
}

impl<R: Runtime> SyncLog for MemoryLog<R> {
    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(std::future::ready(MemoryLog::sync(self)))
    }
}

impl<R: Runtime> Disk<R> {
    fn sync(&mut self) {
        self.synced = self.written.clone();
        for callback in self.waiting.drain(..) {
            callback.io_completed(Ok(()));
        }
    }
}

impl<R: Runtime> RaftLogReader<TypeConfig<R>> for MemoryLog<R> {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let disk = self.disk()?;
        Ok(disk
            .written
            .entries
            .range(range)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.disk()?.written.vote)
    }
}

impl<R: Runtime> RaftLogStorage<TypeConfig<R>> for MemoryLog<R> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig<R>>, io::Error> {
        let disk = self.disk()?;
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
        let mut disk = self.disk()?;
        disk.written.vote = Some(*vote);
        disk.sync();
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.disk()?.written.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.disk()?.written.committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig<R>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut disk = self.disk()?;
        let entries = entries.into_iter().map(|entry| (entry.index(), entry));
        disk.written.entries.extend(entries);
        disk.waiting.push(callback);
        if disk.sync_at_once {
            disk.sync();
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let mut disk = self.disk()?;
        let first_removed = last.map_or(0, |last| last.index + 1);
        disk.written.entries.split_off(&first_removed);
        disk.sync();
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let mut disk = self.disk()?;
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
        let mut log = MemoryLog::<Tokio>::new(false);
        let entry = |index| Entry::new(LogId::new(1.into(), index), openraft::EntryPayload::Blank);
        log.append([entry(0), entry(1)], IOFlushed::noop())
            .await
            .unwrap();
        log.sync().unwrap();
        log.append([entry(2)], IOFlushed::noop()).await.unwrap();
        let (mut next, lost) = log.crash();
        assert_eq!(lost, 1);
        assert!(
            log.try_get_log_entries(..).await.is_err(),
            "that process is gone"
        );
        let entries = next.try_get_log_entries(..).await.unwrap();
        assert_eq!(entries.len(), 2);
        let mut synced = MemoryLog::<Tokio>::new(true);
        synced.blocking_append([entry(0)]).await.unwrap();
        let (mut next, lost) = synced.crash();
        assert_eq!(lost, 0);
        assert_eq!(next.try_get_log_entries(..).await.unwrap().len(), 1);
    }
}
