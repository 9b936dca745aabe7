//! A backup becomes a new cluster: `palisaded restore`, and what its first start owes the clients.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tests::{Acquire, Cluster, Granted, eventually, palisaded};

/// No lease of these tests ends before them.
const TTL_MS: u64 = 3_600_000;

async fn cluster_id(cluster: &Cluster) -> Value {
    cluster.http(0).get("/v1/cluster").await.expect(200)["cluster_id"].clone()
}

/// A backup of a cluster that goes on and gives out more tokens, which the backup does not know.
async fn backed_up(folder: &Path) -> (PathBuf, Value, Vec<Granted>) {
    let cluster = Cluster::start().await;
    let mut granted = Vec::new();
    for number in 0..10 {
        let request = Acquire::new(&format!("before-{number}")).ttl_ms(TTL_MS);
        granted.push(request.granted(&cluster.http(number % 3)).await);
    }
    let url = format!("{}{}", cluster.http(1).base(), lock_api::path::BACKUP);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let bytes = client.get(url).send().await.unwrap().bytes().await.unwrap();
    let path = folder.join("palisade.backup");
    std::fs::write(&path, bytes).unwrap();
    for number in 0..10 {
        let request = Acquire::new(&format!("after-{number}")).ttl_ms(TTL_MS);
        granted.push(request.granted(&cluster.http(number % 3)).await);
    }
    let id = cluster_id(&cluster).await;
    (path, id, granted)
}

fn restore(backup: &Path, directory: &Path, arguments: &[&str]) -> Output {
    palisaded()
        .arg("restore")
        .arg("--backup")
        .arg(backup)
        .arg("--data-dir")
        .arg(directory)
        .args(arguments)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_cluster_is_a_new_one_without_the_old_leases_and_its_tokens_are_above_all_old_ones()
 {
    let folder = tempfile::tempdir().unwrap();
    let (backup, old_id, granted) = backed_up(folder.path()).await;
    let mut cluster = Cluster::builder(1).prepare();
    let directory = cluster.files(0).data.clone();
    let output = restore(&backup, &directory, &["--hold-ms", "0"]);
    assert!(output.status.success(), "{output:?}");
    let again = restore(&backup, &directory, &[]);
    assert!(!again.status.success(), "{again:?}");
    for _ in 0..2 {
        cluster.restart_all();
        cluster.wait_ready().await;
        assert_ne!(cluster_id(&cluster).await, old_id);
        let http = cluster.http(0);
        for grant in &granted {
            let lock = http.lock(grant.request.lock()).await;
            assert_eq!(lock["holders"], json!([]), "{lock}");
            let renewal = json!({ "lease": grant.request.lease() });
            let reply = http.post(lock_api::path::RENEW, &renewal).await;
            assert!(matches!(reply.status, 404 | 409), "{}", reply.body);
        }
        let newest = granted.iter().map(|grant| grant.token).max().unwrap();
        let next = Acquire::new("before-0").granted(&http).await;
        assert!(next.token > newest, "{} after {newest}", next.token);
        next.release(&http).await.expect(200);
        cluster.terminate(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_cluster_holds_grants_back_because_later_ones_may_still_be_held() {
    let folder = tempfile::tempdir().unwrap();
    let (backup, ..) = backed_up(folder.path()).await;
    let mut cluster = Cluster::builder(1).prepare();
    let output = restore(&backup, &cluster.files(0).data, &["--hold-ms", "3000"]);
    assert!(output.status.success(), "{output:?}");
    cluster.restart_all();
    cluster.wait_ready().await;
    let http = cluster.http(0);
    let refused = Acquire::new("job").send(&http).await;
    refused.expect_problem(503, "held_back");
    eventually("the hold passes", async || {
        let reply = Acquire::new("job").send(&http).await;
        (reply.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_is_refused_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (backup, ..) = backed_up(folder.path()).await;
    let whole = std::fs::read(&backup).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for bytes in [&flipped[..], &whole[..whole.len() - 3]] {
        std::fs::write(&backup, bytes).unwrap();
        let directory = folder.path().join("new");
        let output = restore(&backup, &directory, &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!directory.exists());
    }
}
