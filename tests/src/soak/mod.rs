//! A soak of `raft-core`: real processes, sockets and RocksDB, under load and random faults.
//!
//! The nodes are the program `soak-node`, which keeps the sequence of what it applied. Faults come
//! from a seed: kills, power cuts (`power-cut`), pauses, hand-overs of the leadership, and replacing
//! a node by a new one. In the end everything is healed and every node's sequence is compared with
//! what the clients were told. The seed repeats the faults and their times; the processes' own
//! timing is another in each run, so a replay repeats the circumstances of a failure, not each step.

mod cluster;
mod faults;
mod history;
mod protocol;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use cluster::Cluster;
pub use faults::Kind;
use history::History;
pub use history::Outcome;
pub use protocol::{Connection, Reply, Request, read, write};

const CLIENTS: u64 = 8;
/// Proposals over one connection before a client goes to another node.
const PROPOSALS_PER_CONNECTION: u32 = 20;
/// Longer than any healed cluster takes to agree and to catch up, on a busy machine.
const HEALED_WITHIN: Duration = Duration::from_secs(90);

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Decides the faults and their times.
    pub seed: u64,
    /// How long load and faults last, before all is healed.
    pub duration: Duration,
    /// Nodes at any time.
    pub nodes: usize,
    /// `false` switches the nodes' syncs off: then power cuts must lose what was acknowledged.
    pub sync: bool,
    /// The faults to draw from.
    pub faults: Vec<Kind>,
    /// Where the nodes keep their data and logs; must not exist.
    pub folder: PathBuf,
}

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    /// Broken promises. Empty when all is well.
    pub violations: Vec<String>,
    /// Proposals whose application was acknowledged.
    pub acknowledged: usize,
    /// Proposals of which nobody knows: a time-out, or a connection that ended.
    pub unknown: usize,
    /// Proposals that were refused, and so must not have been applied.
    pub refused: usize,
    /// How often each fault was done.
    pub faults: BTreeMap<Kind, usize>,
    /// Files that power cuts took something from.
    pub files_cut: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged, {} unknown, {} refused; faults:",
            self.acknowledged, self.unknown, self.refused
        )?;
        for (kind, count) in &self.faults {
            write!(f, " {kind}={count}")?;
        }
        write!(
            f,
            "; {} files lost something to a power cut",
            self.files_cut
        )?;
        for violation in &self.violations {
            write!(f, "\nVIOLATION: {violation}")?;
        }
        Ok(())
    }
}

/// Runs once.
///
/// # Panics
/// When the run cannot be staged: a program is missing, a folder cannot be written.
pub async fn soak(settings: Settings) -> Report {
    let history = Arc::new(History::default());
    let cluster = Arc::new(Cluster::found(&settings).await);
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(
            StdRng::seed_from_u64(settings.seed.wrapping_add(number)),
            cluster.clone(),
            history.clone(),
            stop.clone(),
        ));
    }
    let mut report = faults::inject(&settings, &cluster).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client ends by itself");
    }
    let (acknowledged, unknown, refused) = history.counts();
    (report.acknowledged, report.unknown, report.refused) = (acknowledged, unknown, refused);
    let healed = tokio::time::timeout(HEALED_WITHIN, cluster.sequences(&history)).await;
    match healed {
        Ok(sequences) => report.violations.extend(history.check(&sequences)),
        Err(_) => report.violations.push(format!(
            "the healed cluster did not agree within {HEALED_WITHIN:?}"
        )),
    }
    report.violations.extend(cluster.ended_by_themselves());
    cluster.stop().await;
    report
}

/// Proposes one number after the other, through one node after the other.
async fn client(
    mut dice: StdRng,
    cluster: Arc<Cluster>,
    history: Arc<History>,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        let node = dice.random_range(0..cluster.size());
        let Some(mut connection) = cluster.connect(node).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        for _ in 0..PROPOSALS_PER_CONNECTION {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let limit = Duration::from_millis(dice.random_range(200..2_000));
            let id = history.begin();
            let outcome = connection.propose(id, limit).await;
            let lost = outcome == Outcome::Unknown;
            history.end(id, outcome);
            if lost {
                break;
            }
            tokio::time::sleep(Duration::from_micros(dice.random_range(0..4_000))).await;
        }
    }
}

/// Waits until `probe` is `Some`, or until `limit`.
async fn wait_for<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    mut probe: impl FnMut() -> F,
) -> Option<T> {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = probe().await {
            return Some(found);
        }
        if Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}
