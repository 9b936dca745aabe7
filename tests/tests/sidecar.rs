//! `palisade sidecar` on real clusters: who leads after a kill, a resignation, a failover of the
//! cluster, a pause; and what it answers when it cannot know.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::{Cluster, Http, PATIENCE, eventually, within};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const TTL: Duration = Duration::from_secs(4);
const TTL_OPTIONS: [&str; 4] = ["--ttl", "4s", "--stop-time", "500ms"];
/// What is promised on top of the TTL, or for a resignation.
const PROMISED: Duration = Duration::from_secs(1);

/// A sidecar that runs. Dropping it kills it.
struct Sidecar {
    child: Child,
    http: Http,
}

impl Sidecar {
    async fn start(cluster: &Cluster, id: &str, options: &[&str]) -> Self {
        let mut child = Command::new(tests::palisade())
            .args([
                "sidecar",
                "--election",
                "e",
                "--http",
                "127.0.0.1:0",
                "--id",
                id,
            ])
            .args(TTL_OPTIONS)
            .args(options)
            .env("PALISADE_ENDPOINTS", cluster.endpoints().join(","))
            .env_remove("PALISADE_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("palisade starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let first = first.expect("it says where").unwrap().expect("a line");
        let base = first
            .split("serving ")
            .nth(1)
            .expect("an address")
            .to_owned();
        // Somebody must read on, or it would block; the test's output shows it.
        let id = id.to_owned();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("{id}: {line}");
            }
        });
        Self {
            child,
            http: Http::new(base),
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().expect("it runs").cast_signed())
    }

    fn send(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a signal to an own child");
    }

    async fn leads(&self) -> bool {
        self.http.get("/is-leader").await.status == 200
    }

    async fn wait_to_lead(&self) -> Value {
        eventually("it leads", async || self.leads().await.then_some(())).await;
        self.http.get("/leader").await.expect(200)
    }

    async fn ends(&mut self) -> Option<i32> {
        let end = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        end.expect("it ends").unwrap().code()
    }
}

/// Two candidates, of whom the first leads and the second waits.
async fn pair(cluster: &Cluster, options: &[&str]) -> (Sidecar, Sidecar) {
    let leader = Sidecar::start(cluster, "one", options).await;
    leader.wait_to_lead().await;
    let waiter = Sidecar::start(cluster, "two", &[]).await;
    eventually("the second waits", async || {
        let lock = cluster.http(0).lock("e").await;
        (lock["queue"].as_array()?.len() == 1).then_some(())
    })
    .await;
    (leader, waiter)
}

#[tokio::test]
async fn all_sidecars_name_the_same_leader_and_only_its_own_says_that_it_leads() {
    let cluster = Cluster::start().await;
    let (one, two) = pair(&cluster, &["--value", "10.0.0.1:80"]).await;
    for sidecar in [&one, &two] {
        let name = sidecar.http.get("/").await.expect(200);
        assert_eq!(name, json!({"name": "one"}), "as the leader-elector had it");
        let leader = sidecar.http.get("/leader").await.expect(200);
        assert_eq!(leader["value"], "10.0.0.1:80");
        assert!(leader["token"].as_u64().unwrap() > 0);
        assert!(leader["age_ms"].is_u64() && leader["since"].is_u64());
    }
    assert!(one.leads().await);
    assert_eq!(two.http.get("/is-leader").await.status, 503);
}

#[tokio::test]
async fn after_a_kill_the_next_leads_within_the_ttl_and_a_second() {
    let cluster = Cluster::start().await;
    let (mut one, two) = pair(&cluster, &[]).await;
    one.child.kill().await.unwrap();
    within(TTL + PROMISED, "the next leads", async || {
        two.leads().await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn after_sigterm_the_next_leads_within_a_second_and_the_first_ends_well() {
    let cluster = Cluster::start().await;
    let (mut one, two) = pair(&cluster, &[]).await;
    one.send(Signal::SIGTERM);
    within(PROMISED, "the next leads", async || {
        two.leads().await.then_some(())
    })
    .await;
    assert_eq!(one.ends().await, Some(0));
    assert_eq!(two.http.get("/").await.expect(200)["name"], "two");
}

#[tokio::test]
async fn when_the_raft_leader_is_killed_the_apps_leader_stays() {
    let mut cluster = Cluster::start().await;
    let (one, two) = pair(&cluster, &[]).await;
    let token = one.wait_to_lead().await["token"].clone();
    let old = cluster.leader().await;
    cluster.kill9(old);
    let survivors: Vec<_> = (0..3).filter(|node| *node != old).collect();
    let looks = async {
        loop {
            assert!(one.leads().await, "it must not lose its leadership");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = looks => {}
        _ = cluster.leader_among(&survivors) => {}
    }
    // Its renewals go to the new leader, for longer than the lease would live without them.
    for _ in 0..2 * TTL.as_secs() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(one.leads().await);
    }
    let seen = two.http.get("/leader").await.expect(200);
    assert_eq!((&seen["name"], &seen["token"]), (&json!("one"), &token));
}

#[tokio::test]
async fn a_leader_that_was_paused_past_its_ttl_does_not_say_that_it_leads() {
    let cluster = Cluster::start().await;
    let (one, two) = pair(&cluster, &[]).await;
    one.send(Signal::SIGSTOP);
    let newer = two.wait_to_lead().await;
    one.send(Signal::SIGCONT);
    // The very first answer after it has woken up.
    assert_eq!(one.http.get("/is-leader").await.status, 503);
    let seen = one.http.get("/").await;
    assert!(
        seen.status == 503 || seen.body["name"] == "two",
        "a stale leader: {seen:?}"
    );
    assert!(newer["token"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn without_the_cluster_nobody_is_named() {
    let mut cluster = Cluster::start().await;
    let (one, two) = pair(&cluster, &[]).await;
    cluster.kill9_all();
    assert_eq!(two.http.get("/").await.status, 503);
    assert_eq!(two.http.get("/leader").await.status, 503);
    eventually("the leader gives up at its own deadline", async || {
        (!one.leads().await).then_some(())
    })
    .await;
    assert_eq!(one.http.get("/").await.status, 503);
}

#[tokio::test]
async fn when_the_app_ends_its_sidecar_resigns_and_ends() {
    let cluster = Cluster::start().await;
    let mut app = Command::new("sleep")
        .arg("600")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = app.id().unwrap().to_string();
    let (mut one, two) = pair(&cluster, &["--pid", &pid]).await;
    app.kill().await.unwrap();
    assert_eq!(one.ends().await, Some(70));
    two.wait_to_lead().await;
}

#[tokio::test]
async fn an_app_that_is_ill_does_not_lead_and_stands_again_when_it_is_well() {
    let cluster = Cluster::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    let (well, mut is_well) = tokio::sync::watch::channel(true);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let status = if *is_well.borrow_and_update() {
                "200 OK"
            } else {
                "500 Ill"
            };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let mut request = [0; 1024];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await;
        }
    });
    let options = ["--health-url", &url, "--health-interval", "200ms"];
    let (one, two) = pair(&cluster, &options).await;
    well.send_replace(false);
    two.wait_to_lead().await;
    assert!(!one.leads().await);
    well.send_replace(true);
    eventually("it stands again", async || {
        let lock = cluster.http(0).lock("e").await;
        (lock["queue"].as_array()?.len() == 1).then_some(())
    })
    .await;
    two.send(Signal::SIGTERM);
    one.wait_to_lead().await;
}

#[tokio::test]
async fn commands_and_the_leader_file_follow_the_leadership() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let elected = format!("echo $PALISADE_FENCING_TOKEN > {}", file("elected"));
    let lost = format!("echo $PALISADE_ID > {}", file("lost"));
    let path = file("leader");
    let options = [
        "--on-elected",
        &elected,
        "--on-lost",
        &lost,
        "--leader-file",
        &path,
    ];
    let mut one = Sidecar::start(&cluster, "one", &options).await;
    let leader = one.wait_to_lead().await;
    let read = |name: &str| std::fs::read_to_string(file(name)).ok();
    let token = eventually("--on-elected has run", async || {
        read("elected").filter(|text| !text.is_empty())
    });
    assert_eq!(token.await.trim(), leader["token"].to_string());
    eventually("the file names it", async || {
        let text: Value = serde_json::from_str(&read("leader")?).ok()?;
        (text["name"] == "one").then_some(())
    })
    .await;
    one.send(Signal::SIGTERM);
    assert_eq!(one.ends().await, Some(0));
    assert_eq!(read("lost").unwrap().trim(), "one", "it was waited for");
    assert_eq!(read("leader"), None);
}
