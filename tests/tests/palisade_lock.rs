//! `palisade lock` and `palisade status` against real clusters: exit statuses, what the command gets,
//! failover, and that no process of the command's group outlives the lock.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{Acquire, Cluster, Granted, Http, Link, PATIENCE, eventually, holder, queue};
use tokio::process::{Child, Command};

/// Three renewals fit into it, and a test does not wait long for its end.
const TTL: Duration = Duration::from_secs(6);
const TTL_OPTIONS: [&str; 2] = ["--ttl", "6s"];
/// `/proc/uptime` counts hundredths of a second, rounded down.
const UPTIME_STEP: Duration = Duration::from_millis(10);

/// A `palisade` that runs. Dropping it kills it.
struct Running(Child);

impl Running {
    fn pid(&self) -> u32 {
        self.0.id().expect("it was not waited for")
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("a signal to an own child");
    }

    async fn output(self) -> Output {
        let output = tokio::time::timeout(PATIENCE, self.0.wait_with_output()).await;
        output.expect("palisade ends").unwrap()
    }

    /// Its end, with this status.
    #[track_caller]
    fn ends_with(self, status: i32) -> impl Future<Output = Output> {
        let caller = std::panic::Location::caller();
        async move {
            let output = self.output().await;
            let code = output.status.code();
            assert_eq!(code, Some(status), "{caller}: {}", stderr(&output));
            output
        }
    }
}

fn palisade(endpoints: &[String], arguments: &[&str]) -> Running {
    // It ignores no signal, also where these tests were started to.
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(tests::palisade());
    command
        .args(arguments)
        .env("PALISADE_ENDPOINTS", endpoints.join(","))
        .env_remove("PALISADE_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Running(command.spawn().expect("palisade starts"))
}

/// `palisade lock job OPTIONS -- COMMAND` on all nodes of a cluster.
fn lock(cluster: &Cluster, options: &[&str], command: &[&str]) -> Running {
    lock_at(&cluster.endpoints(), options, command)
}

fn lock_at(endpoints: &[String], options: &[&str], command: &[&str]) -> Running {
    palisade(
        endpoints,
        &[&["lock", "job"], options, &["--"], command].concat(),
    )
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Time since boot, suspends included: `CLOCK_BOOTTIME`, the clock of the families' beats.
fn uptime() -> Duration {
    parse_uptime(&std::fs::read_to_string("/proc/uptime").unwrap()).unwrap()
}

fn parse_uptime(text: &str) -> Option<Duration> {
    let seconds = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_secs_f64(seconds))
}

/// Whether a process exists and is more than a zombie.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}

/// A command and its child, which both ignore SIGTERM and write the time into a file, over and over.
/// The command notes a SIGTERM, and exits with 5 once it is told to.
struct Family(TempDir);

impl Family {
    fn new() -> Self {
        Self(TempDir::with_prefix("palisade-family-").unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn script(&self) -> String {
        let folder = self.0.path().display();
        let beat = |name: &str| {
            format!("read now rest < /proc/uptime; echo $now >> {folder}/{name}.beats; sleep 0.01")
        };
        format!(
            "trap '' TERM HUP INT
             (while :; do {}; done) &
             echo $! > {folder}/grandchild; echo $$ > {folder}/child
             trap ': > {folder}/terminated' TERM
             while [ ! -e {folder}/exit ]; do {}; done; kill -KILL $!; exit 5",
            beat("grandchild"),
            beat("child")
        )
    }

    fn start(&self, endpoints: &[String], options: &[&str]) -> Running {
        lock_at(endpoints, options, &["sh", "-c", &self.script()])
    }

    fn tell_to_exit(&self) {
        std::fs::write(self.file("exit"), "").unwrap();
    }

    /// Waits until both beat, and returns their process ids.
    async fn pids(&self) -> [u32; 2] {
        eventually("child and grandchild run", async || {
            let runs = |name: &str| self.beats(name).last().is_some();
            (runs("child") && runs("grandchild")).then_some(())
        })
        .await;
        ["child", "grandchild"].map(|name| self.pid(name).expect("a process id"))
    }

    fn pid(&self, name: &str) -> Option<u32> {
        let text = std::fs::read_to_string(self.file(name)).ok()?;
        text.trim().parse().ok()
    }

    fn beats(&self, name: &str) -> Vec<Duration> {
        let text = std::fs::read_to_string(self.file(&format!("{name}.beats")));
        let text = text.unwrap_or_default();
        text.lines().filter_map(parse_uptime).collect()
    }

    /// When one of them was last seen running, at the latest.
    fn last_beat(&self) -> Duration {
        let last = |name| *self.beats(name).last().expect("a beat");
        last("child").max(last("grandchild")) + UPTIME_STEP
    }

    /// Waits until both have been seen running after this moment.
    async fn beats_on(&self) {
        let now = uptime();
        eventually("child and grandchild go on", async || {
            let after = |name: &str| self.beats(name).last().is_some_and(|beat| *beat > now);
            (after("child") && after("grandchild")).then_some(())
        })
        .await;
    }
}

impl Drop for Family {
    /// They do not outlive a test that fails.
    fn drop(&mut self) {
        let folder = self.0.path().display().to_string();
        for pid in ["child", "grandchild"].map(|name| self.pid(name)) {
            let Some(pid) = pid else { continue };
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&folder) {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
        }
    }
}

/// The lock's token, once somebody holds it.
async fn token(http: &Http) -> u64 {
    eventually("the lock is held", async || {
        http.lock("job").await["holders"][0]["token"].as_u64()
    })
    .await
}

async fn assert_free(http: &Http) {
    let view = http.lock("job").await;
    assert_eq!(view["holders"], json!([]), "{view}");
    assert_eq!(view["queue"], json!([]), "{view}");
}

/// Waits until a renewal of the lock's lease is executed. Until then the node may fail to answer.
async fn renewed(http: &Http, token: u64) {
    let mut before = u64::MAX;
    eventually("the lease is renewed", async || {
        let reply = http.try_get("/v1/locks?name=job").await.ok()?;
        if reply.status != 200 {
            return None;
        }
        let view = reply.body;
        assert_eq!(holder(&view)["token"], token, "{view}");
        let remaining = holder(&view)["remaining_ms"].as_u64().unwrap();
        // Time passes between two looks, so what is left shrinks, unless a renewal comes.
        let renewed = remaining > before;
        before = remaining;
        renewed.then_some(())
    })
    .await;
}

/// Waits in the queue for the lock through this node.
async fn contender(http: &Http) -> tokio::task::JoinHandle<Granted> {
    Acquire::new("job").wait_ms(60_000).queue_up(http).await
}

#[tokio::test]
async fn the_status_is_the_commands_and_the_lock_is_free_when_palisade_ends() {
    let cluster = Cluster::start().await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("not-executable");
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    let file = file.to_str().unwrap();
    for (command, status) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "exit 255"], 255),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["sh", "-c", "kill -USR1 $$"], 128 + 10),
        (&[file], 126),
        (&["/nonexistent/command"], 127),
    ] {
        let output = lock(&cluster, &["--try"], command).ends_with(status).await;
        if status == 126 || status == 127 {
            assert!(stderr(&output).contains(command[0]), "{}", stderr(&output));
        } else {
            assert_eq!(stderr(&output), "");
        }
        for node in 0..3 {
            assert_free(&cluster.http(node)).await;
        }
    }
}

#[tokio::test]
async fn the_command_gets_the_lock_the_token_and_the_endpoints() {
    let cluster = Cluster::start().await;
    let before = Acquire::new("other").granted(&cluster.http(0)).await;
    let folder = TempDir::new().unwrap();
    let (shown, exit) = (folder.path().join("shown"), folder.path().join("exit"));
    let script = format!(
        "echo \"$PALISADE_LOCK|$PALISADE_FENCING_TOKEN|$PALISADE_ENDPOINTS\" > {0}.new; mv {0}.new {0}
         while [ ! -e {1} ]; do sleep 0.01; done",
        shown.display(),
        exit.display()
    );
    let options = ["--owner", "nightly-billing"];
    let running = lock(&cluster, &options, &["sh", "-c", &script]);
    let shown = eventually("the command runs", async || {
        std::fs::read_to_string(&shown).ok()
    })
    .await;
    let shown: Vec<&str> = shown.trim().split('|').collect();
    let token: u64 = shown[1].parse().unwrap();
    assert!(token > before.token);
    assert_eq!(shown[0], "job");
    assert_eq!(shown[2], cluster.endpoints().join(","));
    for node in 0..3 {
        let view = cluster.http(node).lock("job").await;
        assert_eq!(holder(&view)["token"], token, "{view}");
        assert_eq!(holder(&view)["owner"], "nightly-billing", "{view}");
    }
    std::fs::write(exit, "").unwrap();
    running.ends_with(0).await;
    assert_free(&cluster.http(0)).await;
}

#[tokio::test]
async fn a_lock_that_stays_held_is_75_and_nothing_is_run() {
    let cluster = Cluster::start().await;
    let family = Family::new();
    let options = ["--owner", "first"];
    let first = family.start(&cluster.endpoints(), &options);
    family.pids().await;
    let ran = family.file("ran");
    for options in [&["--try"][..], &["--wait", "1s"], &["--wait", "0"]] {
        let second = lock(&cluster, options, &["touch", ran.to_str().unwrap()]);
        let output = second.ends_with(75).await;
        let message = stderr(&output);
        assert!(message.contains("held by first"), "{options:?}: {message}");
        assert!(!ran.exists(), "{options:?}");
    }
    let view = cluster.http(0).lock("job").await;
    assert_eq!(holder(&view)["owner"], "first", "{view}");
    assert!(queue(&view).is_empty(), "{view}");
    family.tell_to_exit();
    first.ends_with(5).await;
}

#[tokio::test]
async fn a_cluster_whose_nodes_are_all_down_is_69_and_each_is_named() {
    let mut cluster = Cluster::start().await;
    cluster.kill9_all();
    for options in [&["--try"][..], &["--wait", "60s"]] {
        let output = lock(&cluster, options, &["true"]).ends_with(69).await;
        for endpoint in cluster.endpoints() {
            assert!(stderr(&output).contains(&endpoint), "{}", stderr(&output));
        }
    }
    let status = palisade(&cluster.endpoints(), &["status"]);
    status.ends_with(69).await;
}

#[tokio::test]
async fn wrong_usage_is_2_and_a_ttl_that_is_too_short_is_told_the_smallest() {
    let cluster = Cluster::start().await;
    for options in [
        &["--ttl", "15"][..],
        &["--ttl", "2h"],
        &["--unknown"],
        &["--try", "--wait", "1s"],
        &["--wait", "-1s"],
    ] {
        lock(&cluster, options, &["true"]).ends_with(2).await;
    }
    for grace in [&[][..], &["--grace", "3s"], &["--grace", "0"]] {
        let options = [&["--ttl", "100ms"], grace].concat();
        let output = lock(&cluster, &options, &["true"]).ends_with(2).await;
        let message = stderr(&output);
        let smallest = message.split("the smallest is ").nth(1);
        let smallest = smallest.unwrap_or_else(|| panic!("{message}"));
        let smallest = smallest.trim().split(", ").next().unwrap();
        let options = [&["--ttl", smallest], grace].concat();
        lock(&cluster, &options, &["true"]).ends_with(0).await;
    }
    assert_free(&cluster.http(0)).await;
}

#[tokio::test]
async fn those_who_wait_run_one_after_the_other() {
    let cluster = Cluster::start().await;
    let http = cluster.http(0);
    let first = Family::new();
    let running = first.start(&cluster.endpoints(), &[]);
    first.pids().await;
    let mut last = token(&http).await;
    let mut waiting = Vec::new();
    for number in 1..=3 {
        let options = ["--wait", "60s"];
        let print = ["sh", "-c", "echo $PALISADE_FENCING_TOKEN"];
        waiting.push(lock(&cluster, &options, &print));
        eventually("it waits", async || {
            (queue(&http.lock("job").await).len() == number).then_some(())
        })
        .await;
    }
    first.tell_to_exit();
    running.ends_with(5).await;
    for waiting in waiting {
        let output = waiting.ends_with(0).await;
        let token: u64 = stdout(&output).trim().parse().unwrap();
        assert!(token > last, "{token} after {last}");
        last = token;
    }
    assert_free(&http).await;
}

#[tokio::test]
async fn a_wait_that_is_interrupted_leaves_the_queue() {
    let cluster = Cluster::start().await;
    let http = cluster.http(0);
    let holds = Acquire::new("job").granted(&http).await;
    let waiting = lock(&cluster, &["--wait", "60s"], &["true"]);
    eventually("it waits", async || {
        (queue(&http.lock("job").await).len() == 1).then_some(())
    })
    .await;
    waiting.send(Signal::SIGINT);
    waiting.ends_with(130).await;
    let view = http.lock("job").await;
    assert!(queue(&view).is_empty(), "{view}");
    assert_eq!(holder(&view)["token"], holds.token);
}

/// Each node in turn, the leader first, so the one that palisade talks to is among them.
#[tokio::test]
async fn a_command_is_not_disturbed_when_nodes_are_killed_one_after_the_other() {
    let mut cluster = Cluster::start().await;
    let family = Family::new();
    let running = family.start(&cluster.endpoints(), &["--ttl", "10s"]);
    let pids = family.pids().await;
    let token = token(&cluster.http(0)).await;
    let leader = cluster.leader().await;
    for node in (0..3).map(|step| (leader + step) % 3) {
        cluster.kill9(node);
        renewed(&cluster.http((node + 1) % 3), token).await;
        cluster.restart(node);
        cluster.wait_ready().await;
    }
    family.beats_on().await;
    assert_eq!(pids.map(is_alive), [true, true]);
    assert!(!family.file("terminated").exists());
    family.tell_to_exit();
    let output = running.ends_with(5).await;
    assert!(!stderr(&output).contains("LOST"), "{}", stderr(&output));
    for node in 0..3 {
        assert_free(&cluster.http(node)).await;
    }
}

#[tokio::test]
async fn when_all_nodes_hang_the_group_is_dead_before_the_ttl_has_passed() {
    let mut cluster = Cluster::start().await;
    let http = cluster.http(0);
    let family = Family::new();
    let running = family.start(&cluster.endpoints(), &TTL_OPTIONS);
    let pids = family.pids().await;
    let token = token(&http).await;
    // Right after a renewal, so that the bound below is a narrow one.
    renewed(&http, token).await;
    for node in 0..3 {
        cluster.stop(node);
    }
    // No renewal that was confirmed can have been sent after this.
    let no_renewal_since = uptime() + UPTIME_STEP;
    let output = running.ends_with(70).await;
    assert_eq!(pids.map(is_alive), [false, false]);
    assert!(stderr(&output).contains("LOCK LOST"), "{}", stderr(&output));
    let ran = family.last_beat().saturating_sub(no_renewal_since);
    assert!(ran < TTL, "the group ran for {ran:?} of a TTL of {TTL:?}");
    // It was told before it was killed, and not long before it had to be.
    assert!(family.file("terminated").exists());
    assert!(ran > TTL / 3, "the group was ended after {ran:?} already");

    for node in 0..3 {
        cluster.cont(node);
    }
    cluster.wait_ready().await;
    let next = lock(
        &cluster,
        &["--wait", "60s"],
        &["sh", "-c", "echo $PALISADE_FENCING_TOKEN"],
    );
    let next: u64 = stdout(&next.ends_with(0).await).trim().parse().unwrap();
    assert!(next > token, "{next} after {token}");
}

#[tokio::test]
async fn when_the_network_is_cut_the_group_is_dead_before_another_is_granted_the_lock() {
    let cluster = Cluster::start().await;
    let links = Link::to_all(&cluster).await;
    let endpoints = Link::endpoints(&links);
    let family = Family::new();
    let running = family.start(&endpoints, &TTL_OPTIONS);
    let pids = family.pids().await;
    let token = token(&cluster.http(0)).await;
    let contender = contender(&cluster.http(1)).await;
    renewed(&cluster.http(0), token).await;
    links.iter().for_each(Link::cut);
    let granted = contender.await.unwrap();
    assert_eq!(pids.map(is_alive), [false, false]);
    assert!(granted.token > token);
    running.ends_with(70).await;
    // What was lost is not released in the other's stead.
    let view = cluster.http(2).lock("job").await;
    assert_eq!(holder(&view)["token"], granted.token, "{view}");
}

#[tokio::test]
async fn when_palisade_hangs_the_group_is_dead_before_another_is_granted_the_lock() {
    let cluster = Cluster::start().await;
    let family = Family::new();
    let running = family.start(&cluster.endpoints(), &TTL_OPTIONS);
    let pids = family.pids().await;
    let token = token(&cluster.http(0)).await;
    let contender = contender(&cluster.http(1)).await;
    renewed(&cluster.http(0), token).await;
    running.send(Signal::SIGSTOP);
    let granted = contender.await.unwrap();
    assert_eq!(pids.map(is_alive), [false, false]);
    assert!(granted.token > token);
    running.send(Signal::SIGCONT);
    running.ends_with(70).await;
    let view = cluster.http(2).lock("job").await;
    assert_eq!(holder(&view)["token"], granted.token, "{view}");
}

#[tokio::test]
async fn a_kill_of_palisade_itself_ends_the_group_and_the_lock_frees_itself() {
    let cluster = Cluster::start().await;
    let family = Family::new();
    let mut running = family.start(&cluster.endpoints(), &TTL_OPTIONS);
    let pids = family.pids().await;
    let token = token(&cluster.http(0)).await;
    let contender = contender(&cluster.http(1)).await;
    running.0.kill().await.unwrap();
    eventually("the group is dead", async || {
        (pids.map(is_alive) == [false, false]).then_some(())
    })
    .await;
    assert!(
        !contender.is_finished(),
        "granted before the group was dead"
    );
    assert!(contender.await.unwrap().token > token);
}

async fn status(cluster: &Cluster) -> (String, Value) {
    let table = palisade(&cluster.endpoints(), &["status"]);
    let table = stdout(&table.ends_with(0).await);
    let json = palisade(&cluster.endpoints(), &["status", "--json"]);
    let json = json.ends_with(0).await;
    (table, serde_json::from_slice(&json.stdout).unwrap())
}

/// The cells of a member's row.
fn row<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let rows = table.lines().map(|line| line.split_whitespace().collect());
    let mut rows = rows.filter(|cells: &Vec<&str>| cells.first() == Some(&name));
    rows.next().unwrap_or_else(|| panic!("no {name}: {table}"))
}

#[tokio::test]
async fn status_shows_members_leader_term_and_log_indexes_also_when_the_leader_is_down() {
    let mut cluster = Cluster::start().await;
    Acquire::new("job").granted(&cluster.http(0)).await;
    let leader = cluster.leader().await;
    let (table, json) = status(&cluster).await;
    let term = json["term"].as_u64().unwrap();
    assert_eq!(json["leader"]["name"], format!("n{}", leader + 1), "{json}");
    assert!(
        table.contains(&format!("leader   n{} (", leader + 1)),
        "{table}"
    );
    assert!(table.contains(&format!("term     {term}\n")), "{table}");
    for node in 0..3 {
        let row = row(&table, &format!("n{}", node + 1));
        let role = if node == leader { "leader" } else { "follower" };
        assert_eq!(row[2..5], [role, "yes", &term.to_string()], "{table}");
        let indexes: Vec<u64> = row[5..8].iter().map(|cell| cell.parse().unwrap()).collect();
        assert!(indexes[0] >= indexes[1] && indexes[1] >= indexes[2] && indexes[2] > 0);
        let addresses = [cluster.http_address(node), cluster.peer_address(node)];
        assert_eq!(row[8..], addresses.map(|address| address.to_string()));
    }

    cluster.kill9(leader);
    let new_leader = cluster.leader().await;
    // Every endpoint may be the first to be asked, the dead one as well. Those who answer have to
    // hear of their new leader and miss the old one first.
    let (table, json) = eventually("status shows the new leader", async || {
        let (table, json) = status(&cluster).await;
        let dead = row(&table, &format!("n{}", leader + 1));
        let leads = json["leader"]["name"] == format!("n{}", new_leader + 1);
        (leads && dead[2] == "unreachable").then(|| (table.clone(), json))
    })
    .await;
    assert!(json["term"].as_u64().unwrap() > term, "{json}");
    assert_eq!(row(&table, &format!("n{}", leader + 1))[5..8], ["-"; 3]);
    assert_eq!(row(&table, &format!("n{}", new_leader + 1))[2], "leader");
}
