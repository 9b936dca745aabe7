//! Mutual TLS between the peers of a real cluster, with certificates made as docs/operations.md says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use tests::{
    Acquire, Authority, Cluster, Http, NodeCertificate, eventually, free_in_a_row, holder,
    palisaded, put,
};

const HERE: &str = "IP:127.0.0.1";

/// Three nodes, each with certificate files in its own folder, which a test may change.
struct TlsCluster {
    cluster: Cluster,
    ca: Authority,
    /// Nodes that are started without TLS the next time.
    plaintext: Arc<Mutex<BTreeSet<usize>>>,
}

impl TlsCluster {
    async fn start() -> Self {
        let ca = Authority::new();
        let certificates: Vec<_> = (0..3).map(|n| ca.issue(&format!("n{n}"), HERE)).collect();
        let plaintext = Arc::new(Mutex::new(BTreeSet::new()));
        let without = plaintext.clone();
        let cluster = Cluster::builder(3)
            .customise(move |files, command| {
                if without.lock().unwrap().contains(&files.number) {
                    return;
                }
                let own = own_files(&files.data);
                if !own.certificate.exists() {
                    certificates[files.number].install(&own);
                }
                command.args(own.arguments());
            })
            .start()
            .await;
        Self {
            cluster,
            ca,
            plaintext,
        }
    }

    fn install(&self, node: usize, certificate: &NodeCertificate) {
        certificate.install(&own_files(&self.cluster.files(node).data));
    }

    fn restart(&mut self, node: usize) {
        self.cluster.kill9(node);
        self.cluster.restart(node);
    }

    async fn logs(&self, node: usize, words: &[&str]) {
        let what = format!("n{} logs {words:?}", node + 1);
        eventually(&what, async || {
            let log = self.cluster.log(node);
            let says = |line: &str| words.iter().all(|word| line.contains(word));
            log.lines().any(says).then_some(())
        })
        .await;
    }

    async fn takes_a_lock(&self, node: usize, lock: &str) {
        Acquire::new(lock).granted(&self.cluster.http(node)).await;
    }
}

/// Beside the data directory, which must be empty at first.
fn own_files(data: &std::path::Path) -> NodeCertificate {
    NodeCertificate::below(&data.with_extension("tls"))
}

#[tokio::test]
async fn a_cluster_over_tls_serves_and_fails_over() {
    let mut tls = TlsCluster::start().await;
    let leader = tls.cluster.leader().await;
    let held = Acquire::new("job").granted(&tls.cluster.http(leader)).await;
    tls.cluster.kill9(leader);
    let other = (leader + 1) % 3;
    tls.cluster.wait_node_ready(other).await;
    let http = tls.cluster.http(other);
    assert_eq!(holder(&http.lock("job").await)["token"], held.token);
    tls.takes_a_lock(other, "another").await;
    tls.cluster.restart(leader);
    tls.cluster.wait_node_ready(leader).await;
    let http = tls.cluster.http(leader);
    assert_eq!(holder(&http.lock("job").await)["token"], held.token);
    for node in 0..3 {
        assert!(!tls.cluster.log(node).contains("PRIVATE KEY"));
    }
}

#[tokio::test]
async fn a_node_with_a_certificate_of_another_ca_is_kept_out_until_its_files_are_right() {
    let mut tls = TlsCluster::start().await;
    let node = tls.cluster.follower().await;
    let other_ca = Authority::new();
    tls.install(node, &other_ca.issue("stranger", HERE));
    tls.restart(node);
    tls.logs(node, &["cannot connect to a peer", "not issued by the CA"])
        .await;
    let leader = tls
        .cluster
        .leader_among(&[(node + 1) % 3, (node + 2) % 3])
        .await;
    tls.logs(
        leader,
        &["cannot connect to a peer", "not issued by the CA"],
    )
    .await;
    tls.takes_a_lock(leader, "goes on").await;
    // No restart: the next connections take the files as they are then.
    tls.install(node, &tls.ca.issue("renewed", HERE));
    tls.cluster.wait_node_ready(node).await;
    tls.logs(node, &["use the renewed certificates"]).await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_by_whoever_dials_it() {
    let mut tls = TlsCluster::start().await;
    let node = tls.cluster.follower().await;
    tls.install(node, &tls.ca.issue("elsewhere", "DNS:db9.example"));
    tls.restart(node);
    tls.logs(node, &["WARN", "refuse its certificate", "db9.example"])
        .await;
    let leader = tls
        .cluster
        .leader_among(&[(node + 1) % 3, (node + 2) % 3])
        .await;
    tls.logs(
        leader,
        &[
            "cannot connect to a peer",
            "not valid for that host",
            "db9.example",
        ],
    )
    .await;
    tls.install(node, &tls.ca.issue("here", HERE));
    tls.cluster.wait_node_ready(node).await;
}

#[tokio::test]
async fn a_node_without_tls_and_nodes_with_it_do_not_meet_and_both_say_so() {
    let mut tls = TlsCluster::start().await;
    let node = tls.cluster.follower().await;
    tls.plaintext.lock().unwrap().insert(node);
    tls.restart(node);
    // Each side dials the other.
    tls.logs(
        node,
        &["cannot connect to a peer", "give the caller a certificate"],
    )
    .await;
    tls.logs(
        node,
        &["refused a peer connection", "give this node a certificate"],
    )
    .await;
    let leader = tls
        .cluster
        .leader_among(&[(node + 1) % 3, (node + 2) % 3])
        .await;
    tls.logs(leader, &["refused a peer connection", "does not speak TLS"])
        .await;
    tls.logs(leader, &["cannot connect to a peer", "does not speak TLS"])
        .await;
    tls.plaintext.lock().unwrap().clear();
    tls.restart(node);
    tls.cluster.wait_node_ready(node).await;
}

#[tokio::test]
async fn a_ca_is_replaced_without_a_restart() {
    let mut tls = TlsCluster::start().await;
    let new_ca = Authority::new();
    let renewed: Vec<_> = (0..3)
        .map(|n| new_ca.issue(&format!("n{n}"), HERE))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let both = folder.path().join("both.crt");
    let texts = [&tls.ca.ca(), &new_ca.ca()].map(|path| std::fs::read(path).unwrap());
    std::fs::write(&both, texts.concat()).unwrap();
    // Both CAs everywhere, then the new certificates, then the old CA goes.
    for node in 0..3 {
        let own = own_files(&tls.cluster.files(node).data);
        put(&both, &own.ca);
    }
    for (node, renewed) in renewed.iter().enumerate() {
        let of_both = NodeCertificate {
            ca: both.clone(),
            ..renewed.clone()
        };
        tls.install(node, &of_both);
    }
    for (node, renewed) in renewed.iter().enumerate() {
        tls.install(node, renewed);
    }
    // Forces new connections, to and from nodes that were never restarted.
    let node = tls.cluster.follower().await;
    tls.restart(node);
    tls.cluster.wait_node_ready(node).await;
    tls.takes_a_lock(node, "after").await;
}

/// A process of the test's own, killed when the test is over.
struct Joining(std::process::Child);

impl Drop for Joining {
    fn drop(&mut self) {
        // It may have ended by itself; the test has seen what it wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_node_joins_over_tls() {
    let tls = TlsCluster::start().await;
    let first = free_in_a_row(2);
    let (http, peer) = (
        format!("127.0.0.1:{first}"),
        format!("127.0.0.1:{}", first + 1),
    );
    let through: Vec<String> = (0..3)
        .map(|node| tls.cluster.peer_address(node).to_string())
        .collect();
    let folder = tls.cluster.folder();
    let log = std::fs::File::create(folder.join("n4.log")).unwrap();
    let mut command = palisaded();
    command
        .args(["serve", "--name", "n4", "--stop-with-stdin"])
        .args(["--listen-http", &http, "--listen-peer", &peer])
        .args(["--join", &through.join(",")])
        .arg("--data-dir")
        .arg(folder.join("n4"))
        .args(tls.ca.issue("n4", HERE).arguments())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log);
    let _process = Joining(command.spawn().unwrap());
    let http = Http::new(format!("http://{http}"));
    eventually("the node has joined and is ready", async || {
        let reply = http.try_get("/readyz").await;
        reply.ok().filter(|reply| reply.status == 200)
    })
    .await;
    Acquire::new("through the newcomer").granted(&http).await;
}

/// Runs `serve` until it ends, which it must at once, and returns its status and what it said.
fn refused(configure: impl FnOnce(&mut Command)) -> (Option<i32>, String) {
    let cluster = Cluster::builder(3).prepare();
    let mut command = cluster.command(0);
    configure(&mut command);
    let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
    // Open until the end: a node stops, content, when its standard input ends.
    let _stdin = process.stdin.take();
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn settings_that_cannot_be_used_are_refused_at_start_in_words() {
    let (ca, other) = (Authority::new(), Authority::new());
    let (good, second) = (ca.issue("good", HERE), ca.issue("second", HERE));
    let refused_with = |files: &NodeCertificate| {
        refused(|command| {
            command.args(files.arguments());
        })
    };
    let cases = [
        (
            refused(|command| {
                command.arg("--peer-cert").arg(&good.certificate);
            }),
            2,
            "--peer-key and --peer-ca missing",
        ),
        (
            refused_with(&NodeCertificate {
                key: "/nowhere/a.key".into(),
                ..good.clone()
            }),
            1,
            "/nowhere/a.key cannot be read",
        ),
        (
            refused_with(&NodeCertificate {
                key: second.key.clone(),
                ..good.clone()
            }),
            1,
            "does not belong to the certificate",
        ),
        (
            refused_with(&NodeCertificate {
                ca: other.ca(),
                ..good.clone()
            }),
            1,
            "not issued by the CA",
        ),
    ];
    for ((status, said), expected_status, expected) in cases {
        assert!(said.contains(expected), "expected `{expected}`: {said}");
        assert_eq!(status, Some(expected_status), "{said}");
        assert!(!said.contains("PRIVATE KEY"), "{said}");
    }
}
