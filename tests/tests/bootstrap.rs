//! How a cluster comes to be, once, and what keeps a second one from being made in its place.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tests::{Acquire, Cluster, eventually, holder, palisaded};

/// Runs `palisaded serve` on ports of the system's choice until it ends by itself.
fn serve(arguments: &[&str]) -> Output {
    palisaded()
        .args(["serve", "--listen-http", "127.0.0.1:0"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn cluster_id(cluster: &Cluster, node: usize) -> Value {
    cluster.http(node).get("/v1/cluster").await.expect(200)["cluster_id"].clone()
}

/// Waits until the node has logged these words after the first `skipped` bytes.
async fn until_logged(cluster: &Cluster, node: usize, skipped: usize, words: &[&str]) {
    let what = format!("n{} logs {words:?}", node + 1);
    eventually(&what, async || {
        let log = &cluster.log(node)[skipped..];
        words.iter().all(|word| log.contains(word)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_wiped_node_is_refused_says_why_and_founds_no_second_cluster() {
    let mut cluster = Cluster::start().await;
    let held = Acquire::new("job")
        .ttl_ms(600_000)
        .granted(&cluster.http(0))
        .await;
    let founded = cluster_id(&cluster, 1).await;
    // The first one is who led the founding.
    cluster.kill9(0);
    cluster.wipe(0);
    for _ in 0..2 {
        cluster.restart(0);
        let status = cluster.wait_end(0).await;
        assert_eq!(status.code(), Some(1));
        let log = cluster.log(0);
        for words in [
            founded.as_str().unwrap(),
            "was wiped",
            "must not vote",
            "will not found a second cluster",
        ] {
            assert!(log.contains(words), "{words}: {log}");
        }
    }
    for node in [1, 2] {
        cluster.wait_node_ready(node).await;
        assert_eq!(cluster_id(&cluster, node).await, founded);
        assert_eq!(
            holder(&cluster.http(node).lock("job").await)["token"],
            held.token
        );
    }
}

#[tokio::test]
async fn a_wiped_node_does_not_make_a_quorum_with_the_one_that_is_left() {
    let mut cluster = Cluster::start().await;
    let held = Acquire::new("job")
        .ttl_ms(600_000)
        .granted(&cluster.http(2))
        .await;
    cluster.kill9_all();
    cluster.wipe(0);
    let logged = cluster.log(0).len();
    cluster.restart(0);
    // Alone it waits, says for whom, and serves nobody.
    let [second, third] = [1, 2].map(|node| cluster.peer_address(node).to_string());
    until_logged(&cluster, 0, logged, &["waiting for", &second, &third]).await;
    let reply = Acquire::new("job").send(&cluster.http(0)).await;
    reply.expect_problem(503, "no_leader");

    cluster.restart(1);
    assert_eq!(cluster.wait_end(0).await.code(), Some(1));
    cluster.restart(0);
    assert_eq!(cluster.wait_end(0).await.code(), Some(1));
    let reply = cluster.http(1).get_with_timeout_ms("/readyz", 1_500).await;
    reply.expect_problem(503, "no_leader");

    cluster.restart(2);
    cluster.wait_ready().await;
    assert_eq!(
        holder(&cluster.http(1).lock("job").await)["token"],
        held.token
    );
}

#[tokio::test]
async fn a_node_that_waits_for_its_peers_says_for_whom_and_serves_nobody_yet() {
    let mut cluster = Cluster::builder(3).prepare();
    cluster.restart(0);
    cluster.restart(1);
    let missing = cluster.peer_address(2).to_string();
    for node in [0, 1] {
        until_logged(&cluster, node, 0, &["waiting for", &missing]).await;
        let http = cluster.http(node);
        assert_eq!(http.get("/healthz").await.status, 200);
        for path in ["/readyz", "/v1/cluster", "/v1/locks?name=a"] {
            let problem = http.get(path).await.expect_problem(503, "no_leader");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("waits for its peers"), "{problem}");
        }
        let reply = Acquire::new("a").send(&http).await;
        reply.expect_problem(503, "no_leader");
    }
    cluster.restart(2);
    cluster.wait_ready().await;
    let ids = [0, 1, 2].map(|node| cluster_id(&cluster, node));
    let [first, second, third] = ids;
    let first = first.await;
    assert_eq!((second.await, third.await), (first.clone(), first));
}

#[tokio::test]
async fn the_same_command_again_changes_nothing() {
    let mut cluster = Cluster::start().await;
    let held = Acquire::new("job")
        .ttl_ms(600_000)
        .granted(&cluster.http(0))
        .await;
    let before = members(&cluster).await;
    for node in 0..3 {
        cluster.terminate(node).await;
    }
    cluster.restart_all();
    cluster.wait_ready().await;
    assert_eq!(members(&cluster).await, before);
    assert_eq!(
        holder(&cluster.http(2).lock("job").await)["token"],
        held.token
    );
}

/// Cluster id and who its members are.
async fn members(cluster: &Cluster) -> Value {
    let view = cluster.http(0).get("/v1/cluster").await.expect(200);
    let members = view["members"].as_array().unwrap().iter().map(|member| {
        json!([
            member["node_id"],
            member["name"],
            member["peer_address"],
            member["voter"]
        ])
    });
    json!([view["cluster_id"], members.collect::<Vec<_>>()])
}

#[tokio::test]
async fn nodes_with_different_lists_found_nothing_until_the_lists_agree() {
    let differs = Arc::new(AtomicBool::new(true));
    let mut cluster = {
        let differs = differs.clone();
        let builder = Cluster::builder(3).customise(move |files, command| {
            if files.number != 2 || !differs.load(Ordering::SeqCst) {
                return;
            }
            let list = command
                .get_envs()
                .find(|(name, _)| *name == "PALISADE_INITIAL_PEERS");
            let list = list.unwrap().1.unwrap().to_str().unwrap();
            let reversed: Vec<&str> = list.rsplit(',').collect();
            command.env("PALISADE_INITIAL_PEERS", reversed.join(","));
        });
        builder.launch().await
    };
    until_logged(&cluster, 0, 0, &["the initial peers differ"]).await;
    until_logged(&cluster, 2, 0, &["the initial peers differ"]).await;
    for node in 0..3 {
        cluster
            .http(node)
            .get("/readyz")
            .await
            .expect_problem(503, "no_leader");
    }
    cluster.terminate(2).await;
    differs.store(false, Ordering::SeqCst);
    cluster.restart(2);
    cluster.wait_ready().await;
}

#[tokio::test]
async fn a_second_process_on_a_data_directory_is_refused_and_the_first_goes_on() {
    let cluster = Cluster::start().await;
    let data = cluster.files(0).data.to_str().unwrap();
    let output = serve(&["--data-dir", data, "--listen-peer", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("in use by another process"),
        "{}",
        stderr(&output)
    );
    Acquire::new("job").granted(&cluster.http(0)).await;
}

#[test]
fn a_node_that_could_found_nothing_sensible_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let cases: [(&[&str], i32, &str); 5] = [
        (&[], 1, "give --initial-peers"),
        (
            &["--initial-peers", "127.0.0.1:2,127.0.0.1:3"],
            1,
            "not among the initial peers",
        ),
        (
            &["--initial-peers", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:2"],
            1,
            "listed twice",
        ),
        (&["--initial-peers", "127.0.0.1:1"], 1, "a list of one"),
        (&["--no-such-flag"], 2, "--no-such-flag"),
    ];
    for (arguments, status, words) in cases {
        let mut all = vec!["--data-dir", data.to_str().unwrap()];
        all.extend([
            "--listen-peer",
            "127.0.0.1:0",
            "--advertise-peer",
            "127.0.0.1:1",
        ]);
        all.extend(arguments);
        let output = serve(&all);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(words),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    let output = serve(&[
        "--listen-peer",
        "0.0.0.0:0",
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("--insecure"),
        "{}",
        stderr(&output)
    );
}
