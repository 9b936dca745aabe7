//! The state machine's side of openraft: applies entries, freezes and installs snapshots.
//!
//! It owns the user's machine, answers the proposals that this node made, and publishes how far it
//! has applied. It never writes to the log.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::Histogram;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::async_runtime::watch::{WatchReceiver, WatchSender};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{WatchReceiverOf, WatchSenderOf};
use parking_lot::{Mutex, RwLock};

#[cfg(test)]
use crate::log::LogStore;
use crate::machine::{EntryContext, SnapshotWriter, StateMachine};
use crate::metrics::apply_seconds;
use crate::node::pending::Pending;
use crate::node::retention::AppliedBytes;
use crate::runtime::{InstantOf, Runtime, Tokio};
use crate::snapshot::{PartialSnapshot, SnapshotFile, SnapshotStore};
use crate::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// How far this node has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Applied<R: Runtime = Tokio> {
    pub last: Option<LogId>,
    /// When an entry was last applied: the proposer's sign that commits go on.
    pub at: InstantOf<R>,
    /// How often so long passed between two entries that the time must not count.
    pub stalls: u64,
}

/// Follows how far this node has applied.
pub(crate) type AppliedReceiver<R = Tokio> = WatchReceiverOf<TypeConfig<R>, Applied<R>>;
type AppliedSender<R> = WatchSenderOf<TypeConfig<R>, Applied<R>>;

impl<R: Runtime> Applied<R> {
    /// Index and term of the last applied entry.
    pub fn index(&self) -> Option<u64> {
        self.last.map(|last| last.index)
    }

    pub fn term(&self) -> u64 {
        self.last.map_or(0, |last| last.leader_id.term)
    }
}

/// A snapshot as openraft passes it around: one of ours, or one just received.
#[derive(Debug)]
pub(crate) enum SnapshotData {
    /// A file in the snapshot folder.
    Whole(SnapshotFile),
    /// Received and verified, not yet adopted.
    Received(PartialSnapshot),
}

/// The log beside which snapshots are kept.
pub(crate) trait SyncLog: Send + Sync + 'static {
    /// Makes everything appended so far durable.
    fn sync(&self) -> BoxFuture<'_, io::Result<()>>;
}

/// Applies committed entries to the user's machine.
pub(crate) struct Applier<M: StateMachine, R: Runtime = Tokio> {
    machine: Arc<RwLock<M>>,
    pending: Arc<Pending<M::Response>>,
    /// A mutex only because openraft wants state machines to be `Sync`.
    publisher: Mutex<AppliedSender<R>>,
    applied: AppliedReceiver<R>,
    membership: StoredMembership,
    snapshots: SnapshotStore,
    /// Synced before a snapshot takes its name. `None` only where no crash is staged.
    log: Option<Arc<dyn SyncLog>>,
    /// What counts as a stall: see [`Config::rebase_after`](crate::Config::rebase_after).
    stall_after: Duration,
    applied_bytes: AppliedBytes,
    seconds: Histogram,
}

impl<M: StateMachine, R: Runtime> Applier<M, R> {
    /// Loads the newest snapshot, if any, into a machine that replaces `machine`. Blocking.
    pub fn open(
        machine: M,
        pending: Arc<Pending<M::Response>>,
        snapshots: SnapshotStore,
        log: Option<impl SyncLog>,
        stall_after: Duration,
    ) -> io::Result<Self> {
        let mut last = None;
        let mut membership = StoredMembership::default();
        let machine = match snapshots.newest()? {
            None => machine,
            Some((meta, file)) => {
                last = meta.last_log_id;
                membership = meta.last_membership;
                machine.restore(&mut file.body()?)?
            }
        };
        let (publisher, applied) = TypeConfig::<R>::watch_channel(Applied {
            last,
            at: TypeConfig::<R>::now(),
            stalls: 0,
        });
        Ok(Self {
            machine: Arc::new(RwLock::new(machine)),
            pending,
            publisher: Mutex::new(publisher),
            applied,
            membership,
            snapshots,
            log: log.map(|log| Arc::new(log) as Arc<dyn SyncLog>),
            stall_after,
            applied_bytes: AppliedBytes::default(),
            seconds: apply_seconds(),
        })
    }

    /// Counts what is applied between snapshots.
    pub fn applied_bytes(&self) -> AppliedBytes {
        self.applied_bytes.clone()
    }

    /// The state as it is now, and where it stands. For whoever runs in line with `apply`, so that the
    /// one is exactly as old as the other.
    pub fn freeze(&self) -> (SnapshotWriter, SnapshotMeta) {
        let meta = SnapshotMeta {
            last_log_id: self.applied.borrow_watched().last,
            last_membership: self.membership.clone(),
        };
        (self.machine.read().freeze(), meta)
    }

    /// The machine, for reads.
    pub fn machine(&self) -> Arc<RwLock<M>> {
        self.machine.clone()
    }

    /// How far this node has applied, from now on.
    pub fn watch_applied(&self) -> AppliedReceiver<R> {
        self.applied.clone()
    }

    fn publish(&mut self, last: Option<LogId>) {
        let at = TypeConfig::<R>::now();
        let stall_after = self.stall_after;
        self.publisher.get_mut().send_if_modified(|applied| {
            let stalled = at - applied.at > stall_after;
            *applied = Applied {
                last,
                at,
                stalls: applied.stalls + u64::from(stalled),
            };
            true
        });
    }
}

/// A frozen state and where it stands; built into a file later, on a blocking thread.
pub(crate) struct Builder<R: Runtime = Tokio> {
    // A mutex only because openraft wants builders to be `Sync`.
    writer: Mutex<Option<SnapshotWriter>>,
    meta: SnapshotMeta,
    snapshots: SnapshotStore,
    log: Option<Arc<dyn SyncLog>>,
    runtime: PhantomData<R>,
}

impl<R: Runtime> RaftSnapshotBuilder<TypeConfig<R>> for Builder<R> {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let writer = self
            .writer
            .get_mut()
            .take()
            .ok_or_else(|| io::Error::other("this frozen state was built already"))?;
        let (snapshots, meta) = (self.snapshots.clone(), self.meta.clone());
        let partial = R::blocking(move || snapshots.build(&meta, writer)).await?;
        if let Some(log) = &self.log {
            log.sync().await?;
        }
        let (snapshots, meta) = (self.snapshots.clone(), self.meta.clone());
        let file = R::blocking(move || snapshots.adopt(partial, &meta)).await?;
        tracing::info!(snapshot = %self.meta, "snapshot built");
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: SnapshotData::Whole(file),
        })
    }
}

impl<M: StateMachine, R: Runtime> RaftStateMachine<TypeConfig<R>> for Applier<M, R> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder<R>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied.borrow_watched().last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig<R>>, io::Error>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let log_id = entry.log_id;
            let mut answer = None;
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(log_id), membership);
                }
                EntryPayload::Normal(proposal) => {
                    let command = postcard::from_bytes(&proposal.command).map_err(|error| {
                        io::Error::new(
                            io::ErrorKind::InvalidData,
                            format!(
                                "entry {log_id} holds a command that this build cannot read \
                                 ({error}); run the build that wrote it, or a newer one"
                            ),
                        )
                    })?;
                    let context = EntryContext {
                        index: log_id.index,
                        term: log_id.leader_id.term,
                        stamp: proposal.stamp,
                    };
                    let began = Instant::now();
                    let response = self
                        .machine
                        .write()
                        .apply(context, command)
                        .map_err(io::Error::other)?;
                    self.seconds.record(began.elapsed());
                    answer = Some((proposal.id, response));
                    self.applied_bytes.add(proposal.command.len());
                }
            }
            if let Some((id, response)) = answer {
                self.pending.complete(id, log_id.index, response);
            }
            self.publish(Some(log_id));
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder<R>> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder<R> {
        self.applied_bytes.reset();
        // Frozen here, in line with `apply`, so that the data is exactly as old as the metadata.
        let (writer, meta) = self.freeze();
        Builder {
            writer: Mutex::new(Some(writer)),
            meta,
            snapshots: self.snapshots.clone(),
            log: self.log.clone(),
            runtime: PhantomData,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let (source, received) = match snapshot {
            SnapshotData::Received(partial) => (partial.file()?, Some(partial)),
            SnapshotData::Whole(file) if self.snapshots.holds(&file) => (file, None),
            SnapshotData::Whole(file) => {
                let (snapshots, source) = (self.snapshots.clone(), file.clone());
                (
                    file,
                    Some(R::blocking(move || snapshots.copy(&source)).await?),
                )
            }
        };
        let machine = self.machine.clone();
        let restored = R::blocking(move || machine.read().restore(&mut source.body()?)).await?;
        if let Some(partial) = received {
            if let Some(log) = &self.log {
                log.sync().await?;
            }
            let (snapshots, meta) = (self.snapshots.clone(), meta.clone());
            R::blocking(move || snapshots.adopt(partial, &meta)).await?;
        }
        let replaced = std::mem::replace(&mut *self.machine.write(), restored);
        // A large state takes its time to go.
        R::blocking(move || {
            drop(replaced);
            Ok(())
        })
        .await?;
        self.applied_bytes.reset();
        self.membership = meta.last_membership.clone();
        // Entries that this node proposed may be inside the snapshot: their answers are lost here.
        self.pending.lose_sight();
        self.publish(meta.last_log_id);
        tracing::info!(snapshot = %meta, "snapshot installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        // Applying waits for this: a file is checked when it is made, received or found at start, and
        // by whoever gets it, not here.
        Ok(self.snapshots.current().map(|(meta, file)| Snapshot {
            meta,
            snapshot: SnapshotData::Whole(file),
        }))
    }
}

#[cfg(test)]
impl<M: StateMachine + Default> Applier<M> {
    pub fn for_tests(snapshots: SnapshotStore, log: Option<LogStore>) -> Self {
        Self::open(
            M::default(),
            Arc::default(),
            snapshots,
            log,
            Duration::from_secs(1),
        )
        .unwrap()
    }
}
