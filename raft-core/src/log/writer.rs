//! The log's one writer thread: group commit, in queue order.
//!
//! It alone writes to RocksDB and to the mark. It never retries a failed write: the first error
//! ends it, every waiting callback gets that error, and so does everything sent later.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use rocksdb::{DB, WriteBatch, WriteOptions};
use tokio::sync::oneshot;

use super::mark::{Durable, Mark};
use super::{Shared, SyncPolicy, keys};
use crate::codec;
use crate::metrics::LogMetrics;
use crate::types::{LogId, TypeConfig, Vote, vote_rank};

/// One batch takes at most this much from the queue, so that a sync's latency stays bounded.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// How far the mark may lag behind the synced log, in time.
const MARK_LAG: Duration = Duration::from_secs(1);

/// Jobs that wait for the thread. openraft merges what it has into few large appends, so this is much.
const QUEUE: usize = 1024;
/// Bytes of entries that wait for the thread, beside what comes alone. A leader whose followers are
/// quicker commits and applies what it has not written yet itself, so no other bound holds here.
const QUEUE_BYTES: usize = 32 << 20;
const FULL_PAUSE: Duration = Duration::from_millis(1);

pub(super) type Done = oneshot::Sender<io::Result<()>>;

/// One thing for the writer to do. Done in the order sent.
pub(super) enum Job {
    Append {
        records: Vec<(u64, Vec<u8>)>,
        last: Option<LogId>,
        callback: IOFlushed<TypeConfig>,
    },
    Vote {
        vote: Vote,
        done: Done,
    },
    /// Remove entries from `first_removed` on.
    Truncate {
        first_removed: u64,
        done: Done,
    },
    /// Remove entries up to and including `upto`. Nobody waits for it: purging again is harmless.
    Purge {
        upto: LogId,
    },
    Sync {
        done: Done,
    },
    Close {
        done: Done,
    },
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Job::Append { records, .. } => records.iter().map(|(_, record)| record.len()).sum(),
            _ => 0,
        }
    }
}

/// What waits for the thread, or what it is writing.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    jobs: AtomicUsize,
    bytes: AtomicUsize,
}

impl Backlog {
    pub fn jobs(&self) -> usize {
        self.jobs.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn done(&self, jobs: usize, bytes: usize) {
        self.jobs.fetch_sub(jobs, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The sending side of the queue. Dropping the last clone waits until the thread has synced the mark,
/// let go of the database and ended: a process that ended before would pull RocksDB's globals from
/// under it.
#[derive(Clone)]
pub(super) struct Writer {
    // Before `_thread`, as fields are dropped in this order: the thread ends once nobody can send.
    jobs: SyncSender<Job>,
    pub backlog: Arc<Backlog>,
    _thread: Arc<JoinOnDrop>,
}

struct JoinOnDrop(Option<thread::JoinHandle<()>>);

impl Drop for JoinOnDrop {
    fn drop(&mut self) {
        if self.0.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the log's writer thread panicked");
        }
    }
}

impl Writer {
    pub fn start(
        db: Arc<DB>,
        shared: Arc<Shared>,
        mark: Mark,
        sync: SyncPolicy,
    ) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let backlog = Arc::new(Backlog::default());
        let durable = mark.value();
        let thread = WriterThread {
            db,
            shared,
            mark,
            durable,
            marked_at: Instant::now(),
            sync: sync != SyncPolicy::Never,
            #[cfg(feature = "planted-bugs")]
            forget_votes: sync == SyncPolicy::ForgetVotes,
            written_committed: None,
            backlog: backlog.clone(),
            metrics: LogMetrics::new(),
        };
        let thread = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || thread.run(&queue))?;
        Ok(Self {
            jobs,
            backlog,
            _thread: Arc::new(JoinOnDrop(Some(thread))),
        })
    }

    /// Queues a job. A full queue holds the caller back, which is openraft's own loop: while the disk
    /// is that far behind, nothing more is taken. Not cancellation safe.
    pub async fn send(&self, mut job: Job) -> io::Result<()> {
        let bytes = job.bytes();
        loop {
            let queued = self.backlog.bytes();
            if bytes > 0 && queued > 0 && queued + bytes > QUEUE_BYTES {
                tokio::time::sleep(FULL_PAUSE).await;
                continue;
            }
            // Counted first, so that the thread never takes off what is not on yet.
            self.backlog.add(bytes);
            let sent = self.jobs.try_send(job);
            if sent.is_err() {
                self.backlog.done(1, bytes);
            }
            match sent {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(unsent)) => {
                    job = unsent;
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                Err(TrySendError::Disconnected(_)) => {
                    return Err(io::Error::other(
                        "the log's writer thread has ended after a failed write, or is closed",
                    ));
                }
            }
        }
    }
}

/// Callbacks of the batch being built.
#[derive(Default)]
struct Waiting {
    jobs: usize,
    bytes: usize,
    appends: Vec<IOFlushed<TypeConfig>>,
    others: Vec<Done>,
}

impl Waiting {
    fn complete(&mut self, result: &io::Result<()>) {
        let copy = || match result {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        for callback in self.appends.drain(..) {
            callback.io_completed(copy());
        }
        for done in self.others.drain(..) {
            // Whoever asked may have given up; the write stands all the same.
            let _ = done.send(copy());
        }
    }
}

struct WriterThread {
    db: Arc<DB>,
    shared: Arc<Shared>,
    mark: Mark,
    /// What is synced in RocksDB now; the mark catches up with it.
    durable: Durable,
    marked_at: Instant,
    sync: bool,
    #[cfg(feature = "planted-bugs")]
    forget_votes: bool,
    written_committed: Option<LogId>,
    backlog: Arc<Backlog>,
    metrics: LogMetrics,
}

impl WriterThread {
    fn run(mut self, queue: &Receiver<Job>) {
        loop {
            let first = match queue.recv_timeout(MARK_LAG) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.advance_mark() {
                        tracing::error!(%error, "the synced mark cannot be written; the log stops");
                        return;
                    }
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut waiting = Waiting::default();
            let mut closing = None;
            let result = self.batch(first, queue, &mut waiting, &mut closing);
            if let Err(error) = &result {
                tracing::error!(%error, "a write to the log failed; the log stops");
            }
            self.backlog.done(waiting.jobs, waiting.bytes);
            waiting.complete(&result);
            let failed = result.is_err();
            if let Some(done) = closing {
                let result = result.and_then(|()| self.advance_mark());
                // This thread lets go of the database before it answers, so that dropping the store
                // closes it.
                drop(self);
                let _ = done.send(result);
                return;
            }
            if failed {
                // Jobs still queued, and later ones, find the channel closed or their callbacks
                // dropped; openraft has the error already.
                return;
            }
            if self.marked_at.elapsed() >= MARK_LAG
                && let Err(error) = self.advance_mark()
            {
                tracing::error!(%error, "the synced mark cannot be written; the log stops");
                return;
            }
        }
        if let Err(error) = self.advance_mark() {
            tracing::error!(%error, "the synced mark cannot be written at the end");
        }
    }

    /// Writes `first` and whatever else is queued, as one synced batch where possible.
    fn batch(
        &mut self,
        first: Job,
        queue: &Receiver<Job>,
        waiting: &mut Waiting,
        closing: &mut Option<Done>,
    ) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        let mut next = Some(first);
        let mut appended: Option<LogId> = None;
        let mut entries = 0;
        let mut voted = None;
        let mut needs_sync = false;
        while let Some(job) = next.take() {
            waiting.jobs += 1;
            waiting.bytes += job.bytes();
            match job {
                Job::Append {
                    records,
                    last,
                    callback,
                } => {
                    entries += records.len();
                    for (index, record) in &records {
                        batch.put(keys::entry(*index), record);
                    }
                    appended = last.or(appended);
                    waiting.appends.push(callback);
                    needs_sync = true;
                }
                #[cfg(feature = "planted-bugs")]
                Job::Vote { done, .. } if self.forget_votes => waiting.others.push(done),
                Job::Vote { vote, done } => {
                    batch.put(keys::meta(keys::VOTE), codec::encode(&vote)?);
                    voted = Some(vote_rank(&vote));
                    waiting.others.push(done);
                    needs_sync = true;
                }
                Job::Purge { upto } => {
                    batch.put(keys::meta(keys::PURGED), codec::encode(&upto)?);
                    batch.delete_range(keys::entry(0), keys::entry(upto.index + 1));
                    // Each record is synced before the next is begun: by that `wal.rs` tells damage
                    // from a torn tail.
                    needs_sync = true;
                }
                Job::Sync { done } => {
                    waiting.others.push(done);
                    needs_sync = true;
                }
                Job::Close { done } => {
                    *closing = Some(done);
                    needs_sync = true;
                    break;
                }
                Job::Truncate {
                    first_removed,
                    done,
                } => {
                    waiting.others.push(done);
                    // What came before must be durable, and the mark below the cut, before the cut.
                    self.write(
                        std::mem::take(&mut batch),
                        true,
                        appended.take(),
                        std::mem::take(&mut entries),
                        voted.take(),
                    )?;
                    self.durable.synced_below = self.durable.synced_below.min(first_removed);
                    self.advance_mark()?;
                    batch.delete_range(keys::entry(first_removed), keys::entries_end());
                    needs_sync = true;
                }
            }
            if batch.size_in_bytes() < MAX_BATCH_BYTES {
                next = queue.try_recv().ok();
            }
        }
        self.write(batch, needs_sync, appended, entries, voted)?;
        if voted.is_some() {
            // A vote must not be forgotten even when RocksDB loses its tail.
            self.advance_mark()?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        mut batch: WriteBatch,
        needs_sync: bool,
        appended: Option<LogId>,
        entries: usize,
        voted: Option<(u64, bool)>,
    ) -> io::Result<()> {
        let committed = self.shared.state.read().committed;
        if committed != self.written_committed {
            batch.put(keys::meta(keys::COMMITTED), codec::encode(&committed)?);
            self.written_committed = committed;
        }
        let sync = needs_sync && self.sync;
        let (began, bytes) = (Instant::now(), batch.size_in_bytes());
        if !batch.is_empty() {
            let mut options = WriteOptions::default();
            options.set_sync(sync);
            self.db
                .write_opt(batch, &options)
                .map_err(keys::storage_error)?;
        } else if sync {
            self.db.flush_wal(true).map_err(keys::storage_error)?;
        }
        if sync {
            self.metrics.synced(began, entries, bytes);
        }
        if let Some(last) = appended {
            self.shared.state.write().tail.written(last.index);
            self.durable.synced_below = last.index + 1;
        }
        if let Some(vote) = voted {
            self.durable.vote = self.durable.vote.max(vote);
        }
        Ok(())
    }

    fn advance_mark(&mut self) -> io::Result<()> {
        self.marked_at = Instant::now();
        if self.sync {
            self.mark.advance(self.durable)?;
        }
        Ok(())
    }
}
