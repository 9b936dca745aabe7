//! Power cuts: every node loses what it did not sync, and the cluster nothing that it acknowledged.
//!
//! `kill -9` alone loses nothing that was written; the kernel still has it. Here the nodes run under
//! the shim of `power-cut`, which takes their files back to what was synced. It is a preload library:
//! `cargo build --release -p power-cut --examples` builds it (`make test` does).
//!
//! Each run draws how many grants are acknowledged before a cut, and prints the seed of that draw.
//! `PALISADE_TEST_SEED=<seed>` draws the same numbers again; the nodes' own timing is another each
//! time, so a replay repeats the circumstances of a failure and not each step to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use power_cut::{Cut, Fsync, Report};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tests::{Acquire, Cluster, ClusterBuilder, Http, holder};
use tokio::sync::mpsc;

const SEED_VARIABLE: &str = "PALISADE_TEST_SEED";
/// No lease of these tests ends before them.
const TTL_MS: u64 = 3_600_000;
const CLIENTS_PER_NODE: usize = 4;
const ROUNDS: usize = 3;
/// Grants to acknowledge before a cut: from the first ones to several snapshots later.
const GRANTS: Range<usize> = 20..500;
/// So few that snapshots are taken, and the log is purged behind them, between any two cuts.
const SNAPSHOTS: [&str; 4] = ["--snapshot-after-entries", "100", "--keep-entries", "50"];
/// Between two tries through a node that has no leader.
const PAUSE: Duration = Duration::from_millis(20);

/// The power supply of each node of a cluster.
#[derive(Clone, Default)]
struct Power {
    cuts: Arc<Mutex<BTreeMap<PathBuf, Cut>>>,
}

/// A grant that a client was told of.
#[derive(Debug)]
struct Acknowledged {
    lock: String,
    lease_id: String,
    token: u64,
}

/// Clients that take one lock after another, until their node is gone.
struct Load {
    grants: mpsc::Receiver<Acknowledged>,
    acknowledged: Vec<Acknowledged>,
}

impl Power {
    /// Three nodes whose power can be cut, with these arguments.
    fn cluster(&self, arguments: &[&str]) -> ClusterBuilder {
        let cuts = self.cuts.clone();
        Cluster::builder(3)
            .arguments(arguments.iter().copied())
            .customise(move |files, command| {
                let mut cuts = cuts.lock().unwrap();
                let cut = cuts.entry(files.data.clone()).or_insert_with(|| {
                    Cut::begin(&files.data, files.data.with_extension("journal")).unwrap()
                });
                cut.env_for(command).unwrap();
            })
    }

    fn of(&self, cluster: &Cluster, node: usize) -> Cut {
        self.cuts.lock().unwrap()[&cluster.files(node).data].clone()
    }

    /// Cuts the power of one node.
    fn cut(&self, cluster: &mut Cluster, node: usize) -> Report {
        cluster.kill9(node);
        self.lose(cluster, node)
    }

    /// Cuts the power of all nodes at once.
    fn cut_all(&self, cluster: &mut Cluster) -> Vec<Report> {
        cluster.kill9_all();
        (0..cluster.len())
            .map(|node| self.lose(cluster, node))
            .collect()
    }

    fn lose(&self, cluster: &Cluster, node: usize) -> Report {
        let report = self.of(cluster, node).apply().unwrap();
        eprintln!("n{}: {report}", node + 1);
        report
    }
}

impl Load {
    /// Starts clients of all nodes. The locks' names begin with `name`.
    fn start(cluster: &Cluster, name: &str) -> Self {
        let (sender, grants) = mpsc::channel(1);
        for node in 0..cluster.len() {
            for client in 0..CLIENTS_PER_NODE {
                let name = format!("{name}-n{}-c{client}", node + 1);
                tokio::spawn(acquire_until_gone(cluster.http(node), name, sender.clone()));
            }
        }
        Self {
            grants,
            acknowledged: Vec::new(),
        }
    }

    /// Returns as soon as so many more grants are acknowledged.
    async fn acknowledge(&mut self, more: usize) {
        for _ in 0..more {
            let grant = self.grants.recv().await;
            self.acknowledged
                .push(grant.expect("clients go on while there are nodes"));
        }
    }

    /// Everything that was acknowledged until the last client found its node gone.
    async fn until_all_are_gone(mut self) -> Vec<Acknowledged> {
        while let Some(grant) = self.grants.recv().await {
            self.acknowledged.push(grant);
        }
        self.acknowledged
    }

    /// Stops the clients.
    async fn stop(mut self) -> Vec<Acknowledged> {
        self.grants.close();
        self.until_all_are_gone().await
    }
}

async fn acquire_until_gone(http: Http, name: String, grants: mpsc::Sender<Acknowledged>) {
    for number in 0.. {
        let request = Acquire::new(&format!("{name}-{number}")).ttl_ms(TTL_MS);
        let Ok(reply) = http.try_post(lock_api::path::ACQUIRE, request.body()).await else {
            return;
        };
        match reply.status {
            200 => {
                let grant = Acknowledged {
                    lock: request.lock().to_owned(),
                    lease_id: request.lease_id(),
                    token: reply.body["token"].as_u64().unwrap(),
                };
                if grants.send(grant).await.is_err() {
                    return;
                }
            }
            // Nothing acknowledged: there is no leader, or nobody knows.
            503 | 504 => tokio::time::sleep(PAUSE).await,
            status => panic!("a free lock was refused with {status}: {}", reply.body),
        }
    }
}

/// Holder and token of every lock that is held, as one node tells it.
async fn held(http: &Http) -> BTreeMap<String, (String, u64)> {
    let mut held = BTreeMap::new();
    let mut path = "/v1/locks?prefix=".to_owned();
    loop {
        let page = http.get(&path).await.expect(200);
        for lock in page["locks"].as_array().unwrap() {
            let holder = holder(lock);
            held.insert(
                lock["lock"].as_str().unwrap().to_owned(),
                (
                    holder["lease_id"].as_str().unwrap().to_owned(),
                    holder["token"].as_u64().unwrap(),
                ),
            );
        }
        match &page["next_cursor"] {
            Value::Null => return held,
            cursor => path = format!("/v1/locks?prefix=&cursor={}", cursor.as_str().unwrap()),
        }
    }
}

/// Whether everything acknowledged is there, through every node, and the next token is a new one.
async fn check(cluster: &Cluster, acknowledged: &[Acknowledged]) -> Result<(), String> {
    for node in 0..cluster.len() {
        let held = held(&cluster.http(node)).await;
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|grant| {
                held.get(&grant.lock)
                    .is_none_or(|(lease, token)| (lease, token) != (&grant.lease_id, &grant.token))
            })
            .collect();
        if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
            return Err(format!(
                "n{} lost {} of {} acknowledged grants, from {first:?} to {last:?}",
                node + 1,
                lost.len(),
                acknowledged.len(),
            ));
        }
    }
    let newest = acknowledged.iter().map(|grant| grant.token).max();
    let probe = Acquire::new("probe").ttl_ms(TTL_MS);
    let next = probe.granted(&cluster.http(0)).await;
    next.release(&cluster.http(0)).await.expect(200);
    match newest {
        Some(newest) if next.token <= newest => Err(format!(
            "token {} was given out after {newest} was acknowledged",
            next.token
        )),
        _ => Ok(()),
    }
}

fn draws() -> StdRng {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(seed) => seed.parse().expect("a seed is a number"),
        Err(_) => rand::random::<u64>(),
    };
    eprintln!("replay with {SEED_VARIABLE}={seed}");
    StdRng::seed_from_u64(seed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_survives_a_power_cut_of_all_nodes() {
    let mut draws = draws();
    let power = Power::default();
    let mut cluster = power.cluster(&SNAPSHOTS).start().await;
    let mut acknowledged = Vec::new();
    for round in 1..=ROUNDS {
        let mut load = Load::start(&cluster, &format!("round{round}"));
        load.acknowledge(draws.random_range(GRANTS)).await;
        for report in power.cut_all(&mut cluster) {
            assert!(report.syncs > 0, "the shim saw no sync: {report}");
        }
        acknowledged.extend(load.until_all_are_gone().await);
        cluster.restart_all();
        cluster.wait_ready().await;
        if let Err(lost) = check(&cluster, &acknowledged).await {
            panic!("after cut {round}: {lost}");
        }
    }
}

/// The check that [`everything_acknowledged_survives_a_power_cut_of_all_nodes`] makes, after one cut.
async fn check_after_a_cut(
    power: &Power,
    cluster: &mut Cluster,
) -> (Vec<Report>, Result<(), String>) {
    let mut load = Load::start(cluster, "round1");
    load.acknowledge(GRANTS.end).await;
    let reports = power.cut_all(cluster);
    let acknowledged = load.until_all_are_gone().await;
    cluster.restart_all();
    cluster.wait_ready().await;
    (reports, check(cluster, &acknowledged).await)
}

// Without the two that follow, the test above could pass because nothing is ever lost.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_sync_switched_off_a_power_cut_loses_acknowledged_grants() {
    let power = Power::default();
    // Without snapshots, which are synced all the same: the last one could have saved everything.
    let mut cluster = power.cluster(&["--unsafe-no-sync"]).start().await;
    let (_, lost) = check_after_a_cut(&power, &mut cluster).await;
    eprintln!("{}", lost.unwrap_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_disks_that_lie_about_syncs_a_power_cut_loses_acknowledged_grants() {
    let power = Power::default();
    let mut cluster = power.cluster(&SNAPSHOTS).start().await;
    for node in 0..cluster.len() {
        power.of(&cluster, node).set_fsync(Fsync::Lie).unwrap();
    }
    let (reports, lost) = check_after_a_cut(&power, &mut cluster).await;
    for report in reports {
        assert!(report.lied_syncs > 0, "no sync was lied about: {report}");
    }
    eprintln!("{}", lost.unwrap_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_power_was_cut_catches_up_with_those_that_went_on() {
    let mut draws = draws();
    let power = Power::default();
    let mut cluster = power.cluster(&SNAPSHOTS).start().await;
    let mut acknowledged = Vec::new();
    for victim in [cluster.leader().await, cluster.follower().await] {
        let mut load = Load::start(&cluster, &format!("victim{}", victim + 1));
        load.acknowledge(draws.random_range(GRANTS)).await;
        power.cut(&mut cluster, victim);
        load.acknowledge(draws.random_range(GRANTS)).await;
        cluster.restart(victim);
        cluster.wait_node_ready(victim).await;
        acknowledged.extend(load.stop().await);
        if let Err(lost) = check(&cluster, &acknowledged).await {
            panic!("after the cut of n{}: {lost}", victim + 1);
        }
    }
}
