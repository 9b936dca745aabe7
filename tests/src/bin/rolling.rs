//! Measures a rolling replacement: replaces all three nodes of a cluster by new ones under load, and
//! tells for how long no write went through, and whether any acknowledged one was lost. A benchmark:
//! it asserts nothing about time.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the figures are its output")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};
use tests::{Cluster, Http, Load, eventually};

/// Replaces all nodes of a cluster on loopback under load
#[derive(Parser)]
struct Arguments {
    /// Writers, each one write at a time
    #[arg(long, default_value_t = 8)]
    writers: usize,

    /// Stop each old node with SIGTERM before it is removed, as in a planned replacement, rather than
    /// removing it while it runs
    #[arg(long)]
    stop_first: bool,
}

fn clients(cluster: &Cluster) -> Vec<Http> {
    let running = cluster.running().into_iter();
    running.map(|node| cluster.http(node)).collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut cluster = Cluster::builder(3).unchecked().start().await;
    let load = Load::start(arguments.writers, clients(&cluster));
    let began = Instant::now();
    for old in 0..3 {
        let old_id = cluster.node_id(old).await;
        let new = cluster.join::<&str>(&[]);
        let http = cluster.http(new);
        cluster.wait_node_ready(new).await;
        let new_id = cluster.node_id(new).await;
        eventually("the new node has its vote", async || {
            let view = http.get("/v1/cluster").await.expect(200);
            let members = view["members"].as_array()?;
            let own = members.iter().find(|member| member["node_id"] == *new_id)?;
            (own["voter"] == true).then_some(())
        })
        .await;
        load.use_nodes(clients(&cluster)).await;
        if arguments.stop_first {
            cluster.terminate(old).await;
            load.use_nodes(clients(&cluster)).await;
        }
        let body = json!({"node_id": old_id});
        eventually("the old node is removed", async || {
            let reply = http.post(lock_api::path::REMOVE, &body).await;
            (reply.status == 200).then_some(())
        })
        .await;
        if !arguments.stop_first {
            cluster.wait_end(old).await;
            load.use_nodes(clients(&cluster)).await;
        }
        println!(
            "{:6.1} s: n{} is n{} now",
            began.elapsed().as_secs_f64(),
            old + 1,
            new + 1
        );
    }
    let written = load.finish().await;
    let mut lost = Vec::new();
    for node in clients(&cluster) {
        lost.extend(written.lost_on(&node).await);
    }
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{} writes acknowledged in {:.1} s, {} lost",
        written.locks.len(),
        began.elapsed().as_secs_f64(),
        lost.len()
    );
    println!(
        "nobody was served for {:.0} ms at the longest",
        ms(written.longest_gap())
    );
    println!(
        "one writer waited for {:.0} ms at the longest",
        ms(written.longest_wait)
    );
    for refused in &written.refused {
        println!("a writer was refused: {refused}");
    }
    let view: Value = clients(&cluster)[0].get("/v1/cluster").await.expect(200);
    println!("term {} at the end", view["term"]);
    match lost.is_empty() && written.refused.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
