//! `palisade sidecar` on real clusters: who leads after a kill, a resignation, a failover of the
//! cluster, a pause, a cut of the network; and what it answers when it cannot know.
//!
//! How fast the next leader comes is measured in cluster time ([`Mark`]), so a slow machine makes no
//! difference.

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
use tests::measure::memory_kib;
use tests::{Acquire, Cluster, Http, Link, PATIENCE, eventually, holder};
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
        Self::start_at(&cluster.endpoints(), id, options).await
    }

    async fn start_at(endpoints: &[String], id: &str, options: &[&str]) -> Self {
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
            .env("PALISADE_ENDPOINTS", endpoints.join(","))
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

/// The process that a sidecar speaks for.
fn app() -> Child {
    let mut app = Command::new("sleep");
    app.arg("600").kill_on_drop(true).spawn().unwrap()
}

/// Two candidates, of whom the first leads and the second waits.
async fn pair(cluster: &Cluster, options: &[&str]) -> (Sidecar, Sidecar) {
    let leader = Sidecar::start(cluster, "one", options).await;
    leader.wait_to_lead().await;
    (leader, waiter(cluster).await)
}

/// A second candidate, which waits.
async fn waiter(cluster: &Cluster) -> Sidecar {
    let waiter = Sidecar::start(cluster, "two", &[]).await;
    wait_for_queue(cluster).await;
    waiter
}

/// Waits until one candidate is in the queue.
async fn wait_for_queue(cluster: &Cluster) {
    eventually("a candidate waits", async || {
        let lock = cluster.http(0).lock("e").await;
        (lock["queue"].as_array()?.len() == 1).then_some(())
    })
    .await;
}

/// A moment of cluster time: that of a grant, of a lock that is held on.
struct Mark;

impl Mark {
    const LOCK: &str = "e-mark";

    async fn now(http: &Http) -> Self {
        Acquire::new(Self::LOCK).ttl_ms(600_000).granted(http).await;
        Self
    }

    /// How much later the leadership was granted that lasts now. A listing is of one position, so
    /// both ages in it are of one moment.
    async fn until_leadership(&self, http: &Http) -> Duration {
        let listing = http.get("/v1/locks?prefix=e").await.expect(200);
        let age = |name: &str| {
            let locks = listing["locks"].as_array().unwrap();
            let lock = locks.iter().find(|lock| lock["lock"] == name).unwrap();
            Duration::from_millis(holder(lock)["age_ms"].as_u64().unwrap())
        };
        let later = age(Self::LOCK).checked_sub(age("e"));
        later.expect("the leadership is newer than the mark")
    }
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
async fn after_a_kill_of_app_and_sidecar_the_next_leads_within_the_ttl_and_a_second() {
    let cluster = Cluster::start().await;
    let mut app = app();
    let pid = app.id().unwrap().to_string();
    let (mut one, two) = pair(&cluster, &["--pid", &pid]).await;
    let older = one.wait_to_lead().await["token"].as_u64();
    let mark = Mark::now(&cluster.http(0)).await;
    one.child.start_kill().unwrap();
    app.start_kill().unwrap();
    let newer = two.wait_to_lead().await["token"].as_u64();
    let later = mark.until_leadership(&cluster.http(0)).await;
    assert!(later <= TTL + PROMISED, "{later:?}");
    assert!(newer > older);
    one.child.wait().await.unwrap();
    app.wait().await.unwrap();
}

#[tokio::test]
async fn after_sigterm_the_next_leads_within_a_second_and_the_first_ends_well() {
    let cluster = Cluster::start().await;
    let (mut one, two) = pair(&cluster, &[]).await;
    let mark = Mark::now(&cluster.http(0)).await;
    one.send(Signal::SIGTERM);
    two.wait_to_lead().await;
    let later = mark.until_leadership(&cluster.http(0)).await;
    assert!(later <= PROMISED, "{later:?}");
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
    let http = cluster.http(survivors[0]);
    let age = async || Some(holder(&http.lock("e").await)["age_ms"].as_u64().unwrap());
    let before = age().await.unwrap();
    eventually("twice the TTL has passed", async || {
        assert!(one.leads().await, "it must not lose its leadership");
        let passed = Duration::from_millis(age().await? - before);
        (passed > 2 * TTL).then_some(())
    })
    .await;
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
async fn a_leader_that_is_cut_off_stops_saying_so_before_another_leads_and_follows_it_afterwards() {
    let cluster = Cluster::start().await;
    let links = Link::to_all(&cluster).await;
    let endpoints = Link::endpoints(&links);
    let folder = tempfile::tempdir().unwrap();
    let (lost, leader) = (folder.path().join("lost"), folder.path().join("leader"));
    let on_lost = format!("echo $PALISADE_FENCING_TOKEN > {}", lost.display());
    let leader_file = leader.display().to_string();
    let options = ["--on-lost", &on_lost, "--leader-file", &leader_file];
    let one = Sidecar::start_at(&endpoints, "one", &options).await;
    let older = one.wait_to_lead().await["token"].as_u64().unwrap();
    let two = waiter(&cluster).await;
    let file_names = |name: &str| {
        let text = std::fs::read_to_string(&leader).ok()?;
        let seen: Value = serde_json::from_str(&text).ok()?;
        (seen["name"] == name).then_some(())
    };
    eventually("the file names it", async || file_names("one")).await;

    links.iter().for_each(Link::cut);
    eventually("the other is granted the leadership", async || {
        let lock = cluster.http(0).lock("e").await;
        let token = lock["holders"][0]["token"].as_u64()?;
        (token > older).then_some(())
    })
    .await;
    // Nothing is waited for from here on: at the grant the first must have stopped.
    assert_eq!(one.http.get("/is-leader").await.status, 503);
    assert_eq!(one.http.get("/leader").await.status, 503);
    assert_eq!(one.http.get("/").await.status, 503);
    let newer = two.wait_to_lead().await["token"].as_u64().unwrap();
    let told = eventually("--on-lost has run", async || {
        let text = std::fs::read_to_string(&lost).ok();
        text.filter(|text| !text.is_empty())
    });
    assert_eq!(told.await.trim(), older.to_string());
    eventually("the file is gone", async || {
        (!leader.exists()).then_some(())
    })
    .await;

    // What it sent meanwhile arrives now, and changes nothing.
    links.iter().for_each(Link::mend);
    eventually("it follows the new leader", async || {
        let answer = one.http.get("/").await;
        assert!(!one.leads().await);
        (answer.body["name"] == "two").then_some(())
    })
    .await;
    eventually("the file names the new leader", async || file_names("two")).await;
    wait_for_queue(&cluster).await;
    assert_eq!(two.wait_to_lead().await["token"].as_u64(), Some(newer));
    two.send(Signal::SIGTERM);
    let newest = one.wait_to_lead().await["token"].as_u64().unwrap();
    assert!(newest > newer);
}

#[tokio::test]
async fn a_sidecar_takes_less_than_20_mb_of_memory() {
    let cluster = Cluster::start().await;
    let (one, two) = pair(&cluster, &[]).await;
    for sidecar in [&one, &two] {
        for _ in 0..200 {
            sidecar.http.get("/leader").await.expect(200);
        }
        let peak = memory_kib(sidecar.pid().as_raw().cast_unsigned(), "VmHWM");
        assert!(peak < 20_000, "{peak} KiB");
    }
}

#[tokio::test]
async fn when_the_app_ends_its_sidecar_resigns_and_ends() {
    let cluster = Cluster::start().await;
    let mut app = app();
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
    wait_for_queue(&cluster).await;
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
