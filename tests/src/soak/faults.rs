//! Faults from a seed. What is drawn, and when, depends on the seed alone; a fault whose target is
//! busy with another one is left out, and the report counts only what was done.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::cluster::Cluster;
use super::{Report, Settings};

/// A fault of all nodes waits this long until none is busy with another fault.
const BUSY_LIMIT: Duration = Duration::from_secs(2);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL of one node, and a restart later.
    Kill,
    /// SIGKILL of all nodes at once.
    KillAll,
    /// One node loses its power.
    PowerCut,
    /// All nodes lose their power at once.
    PowerCutAll,
    /// SIGSTOP of one node, and SIGCONT later.
    Pause,
    /// The leader hands over.
    Transfer,
    /// A node is killed for good, and a new one joins in its place.
    Replace,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Kill,
        Self::KillAll,
        Self::PowerCut,
        Self::PowerCutAll,
        Self::Pause,
        Self::Transfer,
        Self::Replace,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::KillAll => "kill-all",
            Self::PowerCut => "power-cut",
            Self::PowerCutAll => "power-cut-all",
            Self::Pause => "pause",
            Self::Transfer => "transfer",
            Self::Replace => "replace",
        })
    }
}

/// One fault: when, what, to whom, for how long.
#[derive(Clone, Copy, Debug)]
struct Fault {
    at: Duration,
    kind: Kind,
    /// A node's number; the size of the cluster stands for whoever leads.
    target: usize,
    lasts: Duration,
    /// Of the ends that a power cut tears.
    seed: u64,
}

fn schedule(settings: &Settings) -> Vec<Fault> {
    let mut dice = StdRng::seed_from_u64(settings.seed);
    let mut faults = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        at += Duration::from_millis(dice.random_range(300..2_000));
        if at >= settings.duration {
            return faults;
        }
        faults.push(Fault {
            at,
            kind: settings.faults[dice.random_range(0..settings.faults.len())],
            target: dice.random_range(0..=settings.nodes),
            lasts: Duration::from_millis(dice.random_range(0..1_500)),
            seed: dice.random_range(0..u64::MAX),
        });
    }
}

/// What the tasks that do faults report.
#[derive(Clone, Default)]
struct Done {
    counts: Arc<Mutex<BTreeMap<Kind, usize>>>,
    files_cut: Arc<Mutex<usize>>,
    violations: Arc<Mutex<Vec<String>>>,
}

impl Done {
    fn count(&self, kind: Kind) {
        *self.counts.lock().unwrap().entry(kind).or_default() += 1;
    }
}

/// Does the faults that the settings' seed gives, waits for the settings' duration, and heals.
pub async fn inject(settings: &Settings, cluster: &Arc<Cluster>) -> Report {
    let begun = Instant::now();
    let done = Done::default();
    let mut tasks = JoinSet::new();
    // One node at a time may be lost for good.
    let replacing = Arc::new(tokio::sync::Mutex::new(()));
    for fault in schedule(settings) {
        sleep_until((begun + fault.at).into()).await;
        let (cluster, done, replacing) = (cluster.clone(), done.clone(), replacing.clone());
        tasks.spawn(async move {
            let one_at_a_time = match fault.kind {
                Kind::Replace => match replacing.try_lock_owned() {
                    Ok(guard) => Some(guard),
                    Err(_) => return,
                },
                _ => None,
            };
            inflict(fault, &cluster, &done).await;
            drop(one_at_a_time);
        });
    }
    sleep_until((begun + settings.duration).into()).await;
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a fault can be done");
    }
    for mut slot in cluster.all_slots().await {
        slot.restart();
    }
    Report {
        violations: done.violations.lock().unwrap().clone(),
        acknowledged: 0,
        unknown: 0,
        refused: 0,
        faults: done.counts.lock().unwrap().clone(),
        files_cut: *done.files_cut.lock().unwrap(),
    }
}

async fn inflict(fault: Fault, cluster: &Arc<Cluster>, done: &Done) {
    let target = match fault.target < cluster.size() {
        true => fault.target,
        false => cluster.leader().await.unwrap_or(0),
    };
    let mut dice = StdRng::seed_from_u64(fault.seed);
    match fault.kind {
        Kind::KillAll | Kind::PowerCutAll => {
            let Ok(mut slots) = timeout(BUSY_LIMIT, cluster.all_slots()).await else {
                return;
            };
            // As close together as can be: all die before any file is looked at.
            for slot in &mut slots {
                slot.condemn();
            }
            for slot in &mut slots {
                match fault.kind {
                    Kind::KillAll => slot.kill(),
                    _ => *done.files_cut.lock().unwrap() += slot.cut_power(&mut dice),
                }
            }
            done.count(fault.kind);
            tokio::time::sleep(fault.lasts).await;
            for slot in &mut slots {
                slot.restart();
            }
        }
        Kind::Transfer => {
            if cluster.transfer(target).await {
                done.count(fault.kind);
            }
        }
        Kind::Kill | Kind::PowerCut | Kind::Pause | Kind::Replace => {
            let Some(mut slot) = cluster.try_slot(target) else {
                return;
            };
            done.count(fault.kind);
            match fault.kind {
                Kind::Kill => {
                    slot.kill();
                    tokio::time::sleep(fault.lasts).await;
                }
                Kind::PowerCut => {
                    *done.files_cut.lock().unwrap() += slot.cut_power(&mut dice);
                    tokio::time::sleep(fault.lasts).await;
                }
                Kind::Pause => {
                    slot.signal(Signal::SIGSTOP);
                    tokio::time::sleep(fault.lasts).await;
                    slot.signal(Signal::SIGCONT);
                }
                _ => {
                    if let Err(why) = cluster.replace(&mut slot).await {
                        done.violations.lock().unwrap().push(why);
                    }
                }
            }
            slot.restart();
        }
    }
}
