//! One run: load and faults from a seed, then healing, then the whole-state checks.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft_rt_sim::SimRuntime;
use parking_lot::Mutex;

use super::process::{Process, nodes};
use super::world::{Endpoint, World};
use super::{C, Simulated};
use crate::error::ProposeError;
use crate::memory::MemoryLog;
use crate::runtime::before;
use crate::types::{Member, NodeId};

const CLIENTS: u64 = 4;
const RANDOM_FAULTS: u64 = 14;
const PROPOSE_LIMIT: Duration = Duration::from_secs(2);
/// More virtual time than any run needs.
const LONGEST: Duration = Duration::from_secs(600);
/// A run takes a fraction of a second.
const LONGEST_REAL: Duration = Duration::from_secs(120);

pub(super) struct Run {
    pub trace: Vec<String>,
    pub violations: Vec<String>,
    pub summary: String,
}

/// What the clients know of their proposals.
#[derive(Default)]
struct Outcomes {
    next: u64,
    acknowledged: BTreeMap<u64, u64>,
    unknown: BTreeSet<u64>,
    refused: BTreeSet<u64>,
}

struct Cluster {
    world: World,
    folder: PathBuf,
    lives: BTreeMap<NodeId, u64>,
    /// The disks of nodes that do not run.
    disks: BTreeMap<NodeId, MemoryLog<Simulated>>,
    entries_lost: usize,
    crashes: usize,
    outcomes: Arc<Mutex<Outcomes>>,
    stop: Arc<AtomicBool>,
}

/// Load under faults, then healing and the checks of whole states.
pub(super) fn run(seed: u64) -> Run {
    simulate(seed, async |cluster| cluster.whole_run().await)
}

/// A leader stops before it has applied its first entry, while a proposal waits for that.
pub(super) fn stop_a_leader_that_has_applied_nothing(seed: u64) -> Run {
    simulate(seed, async |cluster| {
        cluster.found().await;
        let first = cluster.leader().await;
        for node in nodes() {
            let process = cluster.process(node);
            process.disk_hangs.store(true, Ordering::Relaxed);
        }
        cluster.crash(first).await;
        let next = cluster.leader().await;
        let process = cluster.process(next);
        let proposal = C::spawn(async move { process.propose(1, PROPOSE_LIMIT).await });
        C::sleep(PROPOSE_LIMIT / 10).await;
        cluster.crash(next).await;
        let result = proposal.await.unwrap();
        cluster.world.note(format_args!("answered {result:?}"));
        C::sleep(PROPOSE_LIMIT).await;
    })
}

/// A proposal to a leader that was cut off long ago.
pub(super) fn propose_to_a_leader_that_is_cut_off(seed: u64) -> Run {
    simulate(seed, async |cluster| {
        cluster.found().await;
        let leader = cluster.leader().await;
        cluster.world.isolate(leader, &nodes());
        C::sleep(PROPOSE_LIMIT).await;
        cluster.world.note("here it comes");
        let result = cluster.process(leader).propose(1, PROPOSE_LIMIT).await;
        cluster.world.note(format_args!("answered {result:?}"));
    })
}

/// Runs a scenario in a thread of its own: a task that spins and never yields keeps the thread, and
/// only a watch on real time tells.
fn simulate(seed: u64, scenario: impl AsyncFnOnce(&mut Cluster) + Send + 'static) -> Run {
    let world = World::new(seed);
    let (done, finished) = sync_channel(1);
    let inside = world.clone();
    thread::spawn(move || done.send(simulate_here(seed, &inside, scenario)));
    let summary = finished.recv_timeout(LONGEST_REAL).unwrap_or_else(|_| {
        world.violation(format!(
            "not done after {LONGEST_REAL:?} of real time: a task spins"
        ));
        String::new()
    });
    let mut state = world.state();
    Run {
        trace: std::mem::take(&mut state.trace),
        violations: std::mem::take(&mut state.violations),
        summary,
    }
}

fn simulate_here(seed: u64, world: &World, scenario: impl AsyncFnOnce(&mut Cluster)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster {
        world: world.clone(),
        folder: folder.path().to_owned(),
        lives: BTreeMap::new(),
        disks: nodes().map(|node| (node, MemoryLog::new(false))).into(),
        entries_lost: 0,
        crashes: 0,
        outcomes: Arc::default(),
        stop: Arc::default(),
    };
    let mut runtime = SimRuntime::with_seed(seed);
    let whole = AssertUnwindSafe(|| {
        runtime.block_on(async {
            let until = C::now() + LONGEST;
            before::<Simulated, _>(until, scenario(&mut cluster)).await
        })
    });
    match catch_unwind(whole) {
        Ok(Some(())) => {}
        Ok(None) => world.violation(format!("not done after {LONGEST:?} of virtual time")),
        // A check in openraft, or the runtime's own of tasks that spin or wait for each other.
        Err(_) => world.violation("a panic, printed above".to_owned()),
    }
    let summary = cluster.summary();
    drop(runtime);
    let running = std::mem::take(&mut world.state().running);
    drop(running);
    summary
}

impl Cluster {
    async fn found(&mut self) {
        for node in nodes() {
            self.restart(node).await;
        }
        let members = nodes().map(|node| (node, Member::default()));
        let first = self.process(NodeId(1));
        first
            .raft
            .initialize(BTreeMap::from(members))
            .await
            .unwrap();
    }

    async fn whole_run(&mut self) {
        self.found().await;
        let clients: Vec<_> = (0..CLIENTS).map(|_| C::spawn(self.client())).collect();
        self.certain_faults().await;
        for _ in 0..RANDOM_FAULTS {
            C::sleep(self.world.millis(50..1_200)).await;
            self.random_fault().await;
        }
        self.heal().await;
        self.stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        self.settle().await;
        self.check();
        for node in nodes() {
            self.crash(node).await;
        }
    }

    fn process(&self, node: NodeId) -> Arc<Process> {
        self.world.running(node).unwrap()
    }

    async fn restart(&mut self, node: NodeId) {
        let Some(disk) = self.disks.remove(&node) else {
            return;
        };
        let life = self.lives.entry(node).or_insert(0);
        *life += 1;
        let endpoint = Endpoint { node, life: *life };
        let folder = self.folder.join(node.to_string());
        Process::start(&self.world, endpoint, disk, &folder).await;
    }

    async fn crash(&mut self, node: NodeId) {
        let Some(process) = self.world.running(node) else {
            return;
        };
        let (disk, lost) = process.crash(&self.world).await;
        self.disks.insert(node, disk);
        self.entries_lost += lost;
        self.crashes += 1;
    }

    async fn heal(&mut self) {
        self.world.note("everything heals");
        self.world.state().cut.clear();
        for node in nodes() {
            self.restart(node).await;
            self.process(node)
                .disk_hangs
                .store(false, Ordering::Relaxed);
        }
    }

    /// Waits for a leader that the others are not cut off from.
    async fn leader(&self) -> NodeId {
        loop {
            for node in nodes() {
                if self
                    .world
                    .running(node)
                    .is_some_and(|process| process.raft.is_leader())
                {
                    return node;
                }
            }
            C::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until as many more proposals were acknowledged.
    async fn acknowledged(&self, more: usize) {
        let count = || self.outcomes.lock().acknowledged.len();
        let until = count() + more;
        while count() < until {
            C::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What every run contains: a partition of the leader, and a crash that loses an unsynced tail.
    async fn certain_faults(&mut self) {
        self.acknowledged(50).await;
        let leader = self.leader().await;
        self.world
            .note(format_args!("the leader n{} is cut off", leader.0));
        self.world.isolate(leader, &nodes());
        self.acknowledged(50).await;
        self.heal().await;
        self.acknowledged(50).await;
        while self.entries_lost == 0 {
            let leader = self.leader().await;
            let process = self.process(leader);
            process.disk_hangs.store(true, Ordering::Relaxed);
            for _ in 0..100 {
                if process.log.is_dirty() {
                    break;
                }
                C::sleep(Duration::from_millis(5)).await;
            }
            self.crash(leader).await;
            self.acknowledged(50).await;
            self.restart(leader).await;
        }
    }

    async fn random_fault(&mut self) {
        let nodes = nodes();
        let node = nodes[self.world.number(0..3) as usize];
        let other = nodes[self.world.number(0..3) as usize];
        let down = nodes
            .iter()
            .filter(|node| self.world.running(**node).is_none());
        let down = down.count();
        match self.world.number(0..10) {
            0 | 1 => {
                self.world.note(format_args!("n{} is cut off", node.0));
                self.world.isolate(node, &nodes);
            }
            2 if node != other => {
                self.world
                    .note(format_args!("n{} no longer reaches n{}", node.0, other.0));
                self.world.state().cut.insert((node, other));
            }
            // Two may be down, rarely three.
            3 | 4 if down < 2 || self.world.chance(0.2) => self.crash(node).await,
            5 => {
                if let Some(process) = self.world.running(node) {
                    let hangs = !process.disk_hangs.load(Ordering::Relaxed);
                    self.world
                        .note(format_args!("the disk of n{} hangs: {hangs}", node.0));
                    process.disk_hangs.store(hangs, Ordering::Relaxed);
                }
            }
            6 => {
                if let Some(process) = self.world.running(node)
                    && let Err(fatal) = process.raft.trigger().snapshot().await
                {
                    self.world.violation(format!("n{}: {fatal}", node.0));
                }
            }
            7 => {
                for node in nodes {
                    self.restart(node).await;
                }
            }
            _ => self.heal().await,
        }
    }

    /// Proposes one command after the other, each at a node drawn anew.
    fn client(&self) -> impl Future<Output = ()> + Send + 'static {
        let (world, outcomes, stop) =
            (self.world.clone(), self.outcomes.clone(), self.stop.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                C::sleep(world.millis(1..30)).await;
                let node = nodes()[world.number(0..3) as usize];
                let Some(process) = world.running(node) else {
                    continue;
                };
                let command = {
                    let mut outcomes = outcomes.lock();
                    outcomes.next += 1;
                    outcomes.next
                };
                let result = process.propose(command, PROPOSE_LIMIT).await;
                world.note(format_args!(
                    "{} answers {command}: {result:?}",
                    process.endpoint
                ));
                let mut outcomes = outcomes.lock();
                match result {
                    Ok(applied) => {
                        outcomes.acknowledged.insert(command, applied.index);
                    }
                    Err(ProposeError::Unknown) => {
                        outcomes.unknown.insert(command);
                    }
                    Err(_) => {
                        outcomes.refused.insert(command);
                    }
                }
            }
        }
    }

    /// Waits until every node has applied all there is.
    async fn settle(&self) {
        let last = loop {
            self.outcomes.lock().next += 1;
            let command = self.outcomes.lock().next;
            match self
                .process(NodeId(1))
                .propose(command, PROPOSE_LIMIT)
                .await
            {
                Ok(applied) => {
                    let mut outcomes = self.outcomes.lock();
                    outcomes.acknowledged.insert(command, applied.index);
                    break applied.index;
                }
                Err(ProposeError::Unknown) => {
                    self.outcomes.lock().unknown.insert(command);
                }
                Err(_) => {
                    self.outcomes.lock().refused.insert(command);
                }
            }
        };
        for node in nodes() {
            let mut applied = self.process(node).applied.clone();
            let reached = applied.wait_until(move |applied| applied.index() >= Some(last));
            if reached.await.is_err() {
                self.world.violation(format!("n{} has stopped", node.0));
            }
        }
    }

    fn check(&self) {
        let outcomes = self.outcomes.lock();
        let seen = |node| self.process(node).machine.read().register.seen.clone();
        let reference = seen(NodeId(1));
        for node in nodes() {
            if seen(node) != reference {
                self.world
                    .violation(format!("n{} and n1 hold different states", node.0));
            }
        }
        if !reference.is_sorted_by(|before, after| before.1 < after.1) {
            self.world
                .violation("stamps do not rise along the log".to_owned());
        }
        let mut indexes = BTreeMap::new();
        for (index, _, command) in &reference {
            if let Some(first) = indexes.insert(*command, *index) {
                self.world
                    .violation(format!("command {command} is at {first} and at {index}"));
            }
            let known =
                outcomes.acknowledged.contains_key(command) || outcomes.unknown.contains(command);
            if !known {
                self.world.violation(format!(
                    "command {command} was applied, but nobody proposed it or it was refused"
                ));
            }
        }
        for (command, index) in &outcomes.acknowledged {
            if indexes.get(command) != Some(index) {
                self.world.violation(format!(
                    "command {command} was acknowledged at {index}, and is at {:?}",
                    indexes.get(command)
                ));
            }
        }
    }

    fn summary(&self) -> String {
        let outcomes = self.outcomes.lock();
        let state = self.world.state();
        format!(
            "{} acknowledged, {} unknown, {} refused; {} leaders, {} crashes that lost {} entries, \
             {} snapshots restored; {} lines of trace",
            outcomes.acknowledged.len(),
            outcomes.unknown.len(),
            outcomes.refused.len(),
            state.leaders.len(),
            self.crashes,
            self.entries_lost,
            state.snapshots_installed,
            state.trace.len(),
        )
    }
}
