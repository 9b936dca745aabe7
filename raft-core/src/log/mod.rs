//! The Raft log in RocksDB: openraft's storage traits over an in-memory tail and one writer thread.
//!
//! `append` puts entries into the tail, where they are readable at once, and queues them. The
//! writer thread drains its queue into one batch, writes it with one WAL sync, and then completes
//! every callback in it (group commit). Votes, truncations and purges travel through the same
//! queue, so no write ever overtakes another. No RocksDB call runs on an async worker.
//!
//! A failed write or sync is never retried: after a failed fsync the page cache lies. The error
//! goes to openraft, which stops the node.

mod keys;
mod mark;
mod recovery;
mod tail;
mod wal;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::RwLock;
use rocksdb::DB;
use tokio::sync::oneshot;

use crate::apply::SyncLog;
use crate::codec;
use crate::offline::{missing_snapshot, snapshot_is_missing};
use crate::types::{Entry, LogId, StoredMembership, TypeConfig, Vote};
pub(crate) use recovery::{Examined, HOW_TO_REBUILD, examine, with_remedy};
use tail::Tail;
pub(crate) use writer::Backlog;
use writer::{Job, Writer};

/// A read for replication returns at most about this many bytes; frames are bounded.
const MAX_READ_BYTES: usize = 1 << 20;
/// How often a closed log looks whether others still hold it.
const RELEASE_CHECK: Duration = Duration::from_millis(2);

/// What can be known of the log without touching RocksDB.
#[derive(Default)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// The last entry's id, or `purged` when there is none.
    last: Option<LogId>,
    /// The newest membership among the entries found at the start.
    found_membership: Option<StoredMembership>,
    tail: Tail,
}

struct Shared {
    db: Arc<DB>,
    state: RwLock<State>,
}

/// The durable log of one Raft group. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    writer: Writer,
}

/// Whether written entries are synced before they are acknowledged.
///
/// `Never` exists for one test: the power-cut test must fail with it, or it tests nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Every batch is synced to disk before it is acknowledged.
    #[default]
    Always,
    /// Nothing is synced. Acknowledged writes are lost when the machine stops.
    Never,
    /// Entries are synced, votes are kept in memory only: a node that starts again may vote twice in
    /// one term.
    #[cfg(feature = "planted-bugs")]
    ForgetVotes,
}

impl LogStore {
    /// Opens or makes the log in `directory`. Blocking.
    ///
    /// # Errors
    /// When the directory cannot be used, or what is there is not what was once synced; the text
    /// says what is missing and what to do.
    pub fn open(directory: &Path, sync: SyncPolicy) -> io::Result<Self> {
        let recovered = recovery::open(directory)?;
        let db = Arc::new(recovered.db);
        let shared = Arc::new(Shared {
            db: db.clone(),
            state: RwLock::new(State {
                vote: recovered.vote,
                committed: recovered.committed,
                purged: recovered.purged,
                last: recovered.last,
                found_membership: recovered.membership,
                tail: Tail::default(),
            }),
        });
        let writer = Writer::start(db, shared.clone(), recovered.mark, sync)?;
        Ok(Self { shared, writer })
    }

    /// The newest membership that lay in the log when it was opened.
    pub fn found_membership(&self) -> Option<StoredMembership> {
        self.shared.state.read().found_membership.clone()
    }

    /// Whether a state that reaches up to `snapshot` and the entries of this log make a whole.
    ///
    /// # Errors
    /// When entries between the two are gone.
    pub fn check_covered_by(&self, snapshot: Option<u64>) -> io::Result<()> {
        let purged = self.shared.state.read().purged.map(|purged| purged.index);
        if snapshot_is_missing(purged, snapshot) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                missing_snapshot(purged.unwrap_or(0)),
            ));
        }
        Ok(())
    }

    /// What waits for the writer thread. Holding it does not hold the log open.
    pub fn backlog(&self) -> Arc<Backlog> {
        self.writer.backlog.clone()
    }

    /// Syncs, advances the mark and ends the writer thread. Later writes fail. RocksDB itself closes
    /// when the last clone and the last reader are dropped.
    pub async fn close(&self) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.writer.send(Job::Close { done }).await?;
        settled(wait).await
    }

    /// Waits, after [`LogStore::close`], until nobody but the caller has a handle on the log, or until
    /// `limit`. RocksDB closes with the last one.
    pub async fn released(&self, limit: Duration) {
        let begun = Instant::now();
        while Arc::strong_count(&self.shared) > 1 && begun.elapsed() < limit {
            tokio::time::sleep(RELEASE_CHECK).await;
        }
    }

    /// The last vote known, for the identity checks at start.
    #[cfg(test)]
    fn vote(&self) -> Option<Vote> {
        self.shared.state.read().vote
    }
}

impl SyncLog for LogStore {
    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            let (done, wait) = oneshot::channel();
            self.writer.send(Job::Sync { done }).await?;
            settled(wait).await
        })
    }
}

async fn settled(wait: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    wait.await
        .unwrap_or_else(|_| Err(io::Error::other("the log's writer thread has ended")))
}

/// The half-open index range that `range` names.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl Shared {
    /// Entries of `[start, end)` in order, at most about `max_bytes` of them but at least one.
    async fn read(
        self: &Arc<Self>,
        start: u64,
        end: u64,
        max_bytes: usize,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = {
            let state = self.state.read();
            let start = start.max(state.purged.map_or(0, |purged| purged.index + 1));
            let end = end.min(state.last.map_or(0, |last| last.index + 1));
            if start >= end {
                return Ok(Vec::new());
            }
            if let Some(entries) = state.tail.read(start, end, max_bytes) {
                return Ok(entries);
            }
            (start, end)
        };
        // Older than the tail: on disk, up to where the tail begins; then on from memory.
        let shared = self.clone();
        let (mut entries, end_on_disk) = tokio::task::spawn_blocking(move || {
            let first_in_tail = shared.state.read().tail.first();
            let end_on_disk = first_in_tail.map_or(end, |first| first.clamp(start, end));
            keys::read_entries(&shared.db, start, end_on_disk, max_bytes)
                .map(|entries| (entries, end_on_disk))
        })
        .await
        .map_err(io::Error::other)??;
        let bytes: usize = entries.iter().map(tail::size).sum();
        if end_on_disk < end && bytes < max_bytes {
            let state = self.state.read();
            let rest = state.tail.read(end_on_disk, end, max_bytes - bytes);
            entries.extend(rest.unwrap_or_default());
        }
        Ok(entries)
    }
}

/// A reader for one replication task or for the apply task.
#[derive(Clone)]
pub(crate) struct LogReader {
    shared: Arc<Shared>,
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (mut start, end) = bounds(&range);
        let mut entries = Vec::new();
        loop {
            let part = self.shared.read(start, end, MAX_READ_BYTES).await?;
            let Some(last) = part.last() else {
                return Ok(entries);
            };
            start = last.index() + 1;
            entries.extend(part);
        }
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.shared.read(start, end, MAX_READ_BYTES).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.state.read().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.shared.state.read();
        Ok(LogState {
            last_purged_log_id: state.purged,
            last_log_id: state.last,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader {
            shared: self.shared.clone(),
        }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, wait) = oneshot::channel();
        self.writer.send(Job::Vote { vote: *vote, done }).await?;
        settled(wait).await?;
        self.shared.state.write().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // Not durable on return, by design: it only spares a restarted node the wait for its
        // leader. It rides along with the next append.
        self.shared.state.write().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.state.read().committed)
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
        let mut records = Vec::new();
        let last = {
            let mut state = self.shared.state.write();
            for entry in entries {
                let bytes = codec::encode(&entry)?;
                let log_id = entry.log_id();
                state.tail.push(entry, bytes.len());
                state.last = Some(log_id);
                records.push((log_id.index, bytes));
            }
            state.last
        };
        self.writer
            .send(Job::Append {
                records,
                last,
                callback,
            })
            .await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let first_removed = last.map_or(0, |last| last.index + 1);
        {
            let mut state = self.shared.state.write();
            state.tail.truncate(first_removed);
            state.last = last.min(state.last).max(state.purged);
        }
        let (done, wait) = oneshot::channel();
        self.writer
            .send(Job::Truncate {
                first_removed,
                done,
            })
            .await?;
        settled(wait).await?;
        // Only now: what was appended before the truncation is behind the writer.
        self.shared.state.write().tail.unwritten(first_removed);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut state = self.shared.state.write();
            state.purged = state.purged.max(Some(upto));
            state.last = state.last.max(Some(upto));
            state.tail.purge(upto.index);
        }
        self.writer.send(Job::Purge { upto }).await
    }
}

#[cfg(test)]
mod power_cuts;
#[cfg(test)]
mod tests;
