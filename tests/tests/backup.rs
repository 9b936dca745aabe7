//! Backups of a running cluster, over HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tests::{Acquire, Cluster, palisaded};

async fn backup(cluster: &Cluster, node: usize, to: &Path) {
    let url = format!("{}{}", cluster.http(node).base(), lock_api::path::BACKUP);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.get(url).send().await.unwrap();
    assert_eq!(response.status(), 200);
    std::fs::write(to, response.bytes().await.unwrap()).unwrap();
}

fn verify(backup: &Path) -> (Output, Value) {
    let output = palisaded()
        .args(["verify", "--json", "--backup"])
        .arg(backup)
        .output()
        .unwrap();
    let told = serde_json::from_slice(&output.stdout).unwrap();
    (output, told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_gives_a_backup_that_is_whole_and_as_new_as_what_was_acknowledged() {
    let cluster = Cluster::start().await;
    let view = cluster.http(0).get("/v1/cluster").await.expect(200);
    for node in 0..3 {
        let mut newest = 0;
        for number in 0..10 {
            let request = Acquire::new(&format!("lock-{node}-{number}"));
            let other = cluster.http((node + 1) % 3);
            newest = request.granted(&other).await.position.index;
        }
        let file = cluster.folder().join(format!("backup-{node}"));
        backup(&cluster, node, &file).await;
        let (output, told) = verify(&file);
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert_eq!(told["cluster_id"], view["cluster_id"]);
        assert!(told["last"]["index"].as_u64().unwrap() >= newest, "{told}");
        assert!(told["taken_unix_ms"].as_u64().unwrap() > 1_600_000_000_000);

        let whole = std::fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        for damaged in [&flipped[..], &whole[..whole.len() - 1], &[]] {
            std::fs::write(&file, damaged).unwrap();
            let (output, told) = verify(&file);
            assert_eq!(output.status.code(), Some(1), "{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_there_is_no_backup_and_the_answer_says_so() {
    let mut cluster = Cluster::start().await;
    cluster.kill9(1);
    cluster.kill9(2);
    let reply = cluster
        .http(0)
        .get_with_timeout_ms(lock_api::path::BACKUP, 1500)
        .await;
    reply.expect_problem(503, "no_leader");
}
