//! One simulated process: the real parts of a node, put together over a simulated disk and network.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::Select2;
use openraft::async_runtime::watch::{WatchReceiver, WatchSender};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{WatchReceiverOf, WatchSenderOf};
use parking_lot::RwLock;
use tokio::sync::mpsc;

use super::network::Wire;
use super::world::{Endpoint, World};
use super::{C, Simulated};
use crate::apply::{AppliedReceiver, Applier};
use crate::config::{Config, Start};
use crate::error::ProposeError;
use crate::machine::{EntryContext, MachineError, Priority, SnapshotWriter, Stamper, StateMachine};
use crate::memory::MemoryLog;
use crate::node::admission::Admission;
use crate::node::pending::Pending;
use crate::node::proposer::{Proposer, Sealing};
use crate::node::{Applied, Attempts, Forget, Parts};
use crate::snapshot::SnapshotStore;
use crate::testing::Register;
use crate::types::{Member, NodeId};

/// Keeps every command, and tells the world what it applies.
pub(super) struct Witness {
    pub register: Register,
    world: World,
    at: Endpoint,
}

impl StateMachine for Witness {
    type Command = u64;
    type Response = usize;

    fn apply(&mut self, entry: EntryContext, command: u64) -> Result<usize, MachineError> {
        self.world.applies(self.at, entry, command);
        if self
            .register
            .seen
            .last()
            .is_some_and(|last| last.0 >= entry.index)
        {
            self.world
                .violation(format!("{} applies index {} again", self.at, entry.index));
        }
        self.register.apply(entry, command)
    }

    fn freeze(&self) -> SnapshotWriter {
        self.world.note(format_args!("{} freezes", self.at));
        self.register.freeze()
    }

    fn restore(&self, snapshot: &mut dyn Read) -> io::Result<Self> {
        let register = self.register.restore(snapshot)?;
        self.world.note(format_args!(
            "{} restores {} commands",
            self.at,
            register.seen.len()
        ));
        for (index, stamp, command) in &register.seen {
            self.world.holds(self.at, *index, *stamp, *command);
        }
        self.world.state().snapshots_installed += 1;
        Ok(Self {
            register,
            world: self.world.clone(),
            at: self.at,
        })
    }
}

/// Counts up, never below what the applied state has seen: stamps must rise along the log.
struct Counter {
    last: u64,
    machine: Arc<RwLock<Witness>>,
    world: World,
    at: Endpoint,
}

impl Stamper for Counter {
    fn rebase(&mut self) {
        let machine = self.machine.read();
        let applied = machine.register.seen.last().map_or(0, |seen| seen.1);
        self.last = self.last.max(applied);
        self.world
            .note(format_args!("{} rebases to {}", self.at, self.last));
    }

    fn stamp(&mut self) -> u64 {
        self.last += 1;
        self.world
            .note(format_args!("{} stamps {}", self.at, self.last));
        self.last
    }
}

pub(super) struct Process {
    pub endpoint: Endpoint,
    pub raft: Raft<C, Applier<Witness, Simulated>>,
    pub machine: Arc<RwLock<Witness>>,
    pub applied: AppliedReceiver<Simulated>,
    pub proposals: mpsc::Sender<Sealing>,
    pub admission: Arc<Admission>,
    pub log: MemoryLog<Simulated>,
    /// While set, nothing is synced.
    pub disk_hangs: AtomicBool,
    pending: Arc<Pending<usize>>,
    wire: Wire,
    ended: WatchReceiverOf<C, bool>,
    end: WatchSenderOf<C, bool>,
}

const SNAPSHOT_AFTER_ENTRIES: u64 = 150;
const KEEP_ENTRIES: u64 = 20;

fn config() -> Config {
    let mut config = Config::new("", Member::default(), Start::Existing);
    config.snapshot_after_entries = SNAPSHOT_AFTER_ENTRIES;
    config
}

impl Process {
    /// Starts a process on what `log` and `folder` hold.
    pub async fn start(
        world: &World,
        endpoint: Endpoint,
        log: MemoryLog<Simulated>,
        folder: &Path,
    ) -> Arc<Self> {
        let config = config();
        let pending = Arc::new(Pending::new(endpoint.node, world.number(0..u64::MAX)));
        let witness = Witness {
            register: Register::default(),
            world: world.clone(),
            at: endpoint,
        };
        let snapshots = SnapshotStore::open(folder).unwrap();
        let rebase_after = config.rebase_after;
        let applier = Applier::<_, Simulated>::open(
            witness,
            pending.clone(),
            snapshots,
            Some(log.clone()),
            rebase_after,
        )
        .unwrap();
        let (machine, applied) = (applier.machine(), applier.watch_applied());
        let wire = Wire {
            world: world.clone(),
            from: endpoint,
        };
        let raft = Raft::new(
            endpoint.node,
            Arc::new(config.to_openraft("simulation").unwrap()),
            wire.clone(),
            log.clone(),
            applier,
        )
        .await
        .unwrap();
        let admission = Arc::new(Admission::new(&config).unwrap());
        let (proposals, queue) = mpsc::channel(admission.most_proposals());
        let proposer = Proposer {
            raft: raft.clone(),
            queue,
            applied: applied.clone(),
            stamper: Counter {
                last: 0,
                machine: machine.clone(),
                world: world.clone(),
                at: endpoint,
            },
            rebase_after,
            leads: None,
            stalls: 0,
        };
        C::spawn(proposer.run());
        let (end, ended) = C::watch_channel(false);
        let process = Arc::new(Self {
            endpoint,
            raft,
            machine,
            applied,
            proposals,
            admission,
            log,
            disk_hangs: AtomicBool::new(false),
            pending,
            wire,
            ended,
            end,
        });
        world.note(format_args!("{endpoint} starts"));
        world.state().running.insert(endpoint.node, process.clone());
        C::spawn(sync_now_and_then(world.clone(), process.clone()));
        C::spawn(purge_now_and_then(world.clone(), process.clone()));
        C::spawn(watch_state(world.clone(), process.clone()));
        process
    }

    /// As a power cut ends it: what was not synced is lost, and nothing that it does later matters.
    /// Returns the log as the next process finds it, and how many entries were lost.
    pub async fn crash(&self, world: &World) -> (MemoryLog<Simulated>, usize) {
        world.state().running.remove(&self.endpoint.node);
        let (log, lost) = self.log.crash();
        world.note(format_args!(
            "{} crashes, {lost} entries lost",
            self.endpoint
        ));
        self.end.send_if_modified(|ended| {
            *ended = true;
            true
        });
        // Its tasks must be gone before the next process opens the same folder.
        self.raft.shutdown().await.unwrap();
        (log, lost)
    }

    /// As [`Node::propose`](crate::Node::propose). A crash leaves the outcome unknown.
    pub async fn propose(
        &self,
        command: u64,
        limit: Duration,
    ) -> Result<Applied<usize>, ProposeError> {
        let command = postcard::to_allocvec(&command).unwrap();
        let Some(permit) = self.admission.admit(Priority::Normal, command.len()) else {
            return Err(ProposeError::Overloaded);
        };
        let (id, outcome) = self.pending.register();
        let _forget = Forget {
            pending: &self.pending,
            id,
        };
        let metrics = self.raft.metrics();
        let attempts = Attempts::<_, _, Simulated> {
            node: Parts {
                me: self.endpoint.node,
                metrics: &metrics,
                applied: &self.applied,
                proposals: &self.proposals,
                peers: &self.wire,
            },
            id,
            priority: Priority::Normal,
            command: command.into(),
            permit,
            outcome,
            deadline: C::now() + limit,
        };
        let mut ended = self.ended.clone();
        let crash = ended.wait_until(|ended| *ended);
        match C::select2(Box::pin(crash), Box::pin(attempts.run())).await {
            Select2::First(_) => Err(ProposeError::Unknown),
            Select2::Second(result) => result,
        }
    }
}

/// The disk: syncs what has gathered, group by group, unless it hangs.
async fn sync_now_and_then(world: World, process: Arc<Process>) {
    while world.lives(process.endpoint) {
        C::sleep(world.micros(200..3_000)).await;
        if process.log.is_dirty()
            && !process.disk_hangs.load(Ordering::Relaxed)
            && process.log.sync().is_err()
        {
            return;
        }
    }
}

/// As `node::retention` does, in smaller portions: what a snapshot covers goes, but for a rest.
async fn purge_now_and_then(world: World, process: Arc<Process>) {
    loop {
        C::sleep(world.millis(200..1_000)).await;
        if !world.lives(process.endpoint) {
            return;
        }
        let snapshot = process.raft.metrics().borrow_watched().snapshot;
        let upto = snapshot.and_then(|last| last.index.checked_sub(KEEP_ENTRIES));
        if let Some(upto) = upto
            && process.raft.trigger().purge_log(upto).await.is_err()
        {
            return;
        }
    }
}

/// Tells the trace, and the check of leaders, what this node takes itself for.
async fn watch_state(world: World, process: Arc<Process>) {
    let mut metrics = process.raft.metrics();
    let mut before = None;
    loop {
        {
            let now = metrics.borrow_and_update();
            if !world.lives(process.endpoint) {
                return;
            }
            let state = (now.current_term, now.state, now.current_leader);
            if before != Some(state) {
                before = Some(state);
                let leader = state.2.map_or(0, |leader| leader.0);
                world.note(format_args!(
                    "{} is {:?} in term {}, leader n{leader}",
                    process.endpoint, state.1, state.0
                ));
            }
            if state.1.is_leader() {
                world.leads(state.0, process.endpoint.node);
            }
            if let Err(fatal) = &now.running_state {
                world.violation(format!("{} stops: {fatal}", process.endpoint));
                return;
            }
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// The ids of all nodes.
pub(super) fn nodes() -> [NodeId; 3] {
    [1, 2, 3].map(NodeId)
}
