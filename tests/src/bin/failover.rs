//! Measures failover: kills the leader with SIGKILL, again and again, and times how long the next write
//! takes on a node that is left. A benchmark, not a test: it asserts nothing about time.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the figures are its output")]

use std::time::{Duration, Instant};

use clap::Parser;
use tests::{Acquire, Cluster};

/// Nodes settle for this long before a kill, at the least and at the most: not in step with heartbeats.
const SETTLE_MS: std::ops::Range<u64> = 1_500..2_500;

/// Time from kill -9 of the leader to the next write that succeeds, on three nodes on loopback
#[derive(Parser)]
struct Arguments {
    /// How often
    #[arg(long, default_value_t = 20)]
    runs: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments = Arguments::parse();
    let mut cluster = Cluster::builder(3).unchecked().start().await;
    let mut times = Vec::new();
    for run in 1..=arguments.runs {
        let leader = cluster.leader().await;
        let left: Vec<_> = cluster
            .running()
            .into_iter()
            .filter(|node| *node != leader)
            .map(|node| cluster.http(node))
            .collect();
        // A write before, so that the way to the leader is as warm as it usually is.
        let before = Acquire::new(&format!("failover/{run}/before"));
        before.granted(&left[run % left.len()]).await;
        cluster.kill9(leader);
        let killed = Instant::now();
        let after = Acquire::new(&format!("failover/{run}/after"));
        after.granted_by_any(&left[run % left.len()..]).await;
        let took = killed.elapsed();
        println!("run {run}: {:.0} ms", took.as_secs_f64() * 1000.0);
        times.push(took);
        cluster.restart(leader);
        cluster.wait_ready().await;
        let settle = rand::random_range(SETTLE_MS);
        tokio::time::sleep(Duration::from_millis(settle)).await;
    }
    times.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    println!(
        "{} kills of the leader: median {:.0} ms, best {:.0} ms, worst {:.0} ms until the next write",
        times.len(),
        ms(times.get(times.len() / 2)),
        ms(times.first()),
        ms(times.last()),
    );
}
