//! `palisaded dev`: a cluster on this machine, for trying things out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Acquire, Http, eventually, free_in_a_row, holder, palisaded, within};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A running `palisaded dev` and what it said.
struct Dev {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
    nodes: Vec<DevNode>,
}

struct DevNode {
    http: Http,
    pid: u32,
}

impl Dev {
    /// Starts three nodes and waits until it says that they are ready.
    async fn start(data: &Path, http_port: u16, peer_port: u16) -> Self {
        let mut dev = Self::launch(data, http_port, peer_port).await;
        dev.says("ready").await;
        dev
    }

    /// Starts three nodes and waits until it says where they are.
    async fn launch(data: &Path, http_port: u16, peer_port: u16) -> Self {
        let mut process = Command::from(palisaded())
            .args(["dev", "--nodes", "3", "--data"])
            .arg(data)
            .args(["--http-port", &http_port.to_string()])
            .args(["--peer-port", &peer_port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut dev = Self {
            process,
            output,
            nodes: Vec::new(),
        };
        for port in http_port..http_port + 3 {
            let url = format!("http://127.0.0.1:{port}");
            let line = dev.says(&url).await;
            let pid = line.split("pid ").nth(1).unwrap().split_whitespace().next();
            let pid = pid.unwrap().parse().unwrap();
            dev.nodes.push(DevNode {
                http: Http::new(url),
                pid,
            });
        }
        dev
    }

    /// Reads on until a line has these words.
    async fn says(&mut self, words: &str) -> String {
        let what = format!("dev says {words:?}");
        within(tests::PATIENCE, &what, async || {
            let line = self.output.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("it ended before it said {words:?}"));
            line.contains(words).then_some(line)
        })
        .await
    }

    /// As Ctrl-C does.
    async fn interrupt(mut self) {
        let pid = self.process.id().unwrap();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).unwrap();
        let status = eventually("dev ends", async || self.process.try_wait().unwrap()).await;
        assert!(status.success(), "{status}");
        for node in &self.nodes {
            assert!(!is_alive(node.pid), "a node outlives dev");
        }
    }
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

#[tokio::test]
async fn a_development_cluster_stops_with_ctrl_c_and_goes_on_from_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let (http_port, peer_port) = (free_in_a_row(3), free_in_a_row(3));
    let dev = Dev::start(folder.path(), http_port, peer_port).await;
    let held = Acquire::new("job")
        .ttl_ms(600_000)
        .granted(&dev.nodes[0].http)
        .await;
    assert_eq!(
        holder(&dev.nodes[2].http.lock("job").await)["token"],
        held.token
    );
    dev.interrupt().await;

    let dev = Dev::start(folder.path(), http_port, peer_port).await;
    assert_eq!(
        holder(&dev.nodes[1].http.lock("job").await)["token"],
        held.token
    );
    dev.interrupt().await;
}

#[tokio::test]
async fn a_node_that_ends_is_named_and_the_others_serve() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(folder.path(), free_in_a_row(3), free_in_a_row(3)).await;
    let first = dev.nodes[0].pid;
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL).unwrap();
    let line = dev.says("n1 ended").await;
    assert!(line.contains("signal 9"), "{line}");
    let others = [dev.nodes[1].http.clone(), dev.nodes[2].http.clone()];
    Acquire::new("job").granted_by_any(&others).await;
    dev.interrupt().await;
}

#[tokio::test]
async fn the_nodes_do_not_outlive_a_development_cluster_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(folder.path(), free_in_a_row(3), free_in_a_row(3)).await;
    dev.process.kill().await.unwrap();
    eventually("the nodes end", async || {
        let alive = dev.nodes.iter().any(|node| is_alive(node.pid));
        (!alive).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_cannot_start_is_named_at_once_and_ctrl_c_still_works() {
    let folder = tempfile::tempdir().unwrap();
    // A data directory that holds something else is refused.
    std::fs::create_dir(folder.path().join("n2")).unwrap();
    std::fs::write(folder.path().join("n2/diary"), "").unwrap();
    let mut dev = Dev::launch(folder.path(), free_in_a_row(3), free_in_a_row(3)).await;
    // Long before it gives up waiting for all of them to be ready.
    within(Duration::from_secs(30), "the node is named", async || {
        Some(dev.says("n2 ended").await)
    })
    .await;
    dev.interrupt().await;
}

#[tokio::test]
async fn a_second_dev_on_the_same_ports_says_so_and_starts_nothing() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (http_port, peer_port) = (free_in_a_row(3), free_in_a_row(3));
    let running = Dev::start(first.path(), http_port, peer_port).await;
    let mut command = Command::from(palisaded());
    command
        .args(["dev", "--nodes", "3", "--data"])
        .arg(second.path())
        .args(["--http-port", &http_port.to_string()])
        .args(["--peer-port", &peer_port.to_string()])
        .kill_on_drop(true);
    let output = tokio::time::timeout(tests::PATIENCE, command.output()).await;
    let output = output.expect("it ends by itself").unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another `palisaded dev`"), "{said}");
    let left = std::fs::read_dir(second.path()).unwrap().count();
    assert_eq!(left, 0, "it made files");
    running.interrupt().await;
}

/// Ends `palisaded dev` with these arguments by itself, with this status; what it said.
async fn refused(arguments: &str, data: &Path, status: i32) -> String {
    let mut command = Command::from(palisaded());
    command
        .arg("dev")
        .args(arguments.split_whitespace())
        .arg("--data")
        .arg(data)
        .kill_on_drop(true);
    let output = tokio::time::timeout(tests::PATIENCE, command.output()).await;
    let output = output.expect("it ends by itself").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{said}");
    said
}

#[tokio::test]
async fn data_is_not_taken_for_another_cluster_and_settings_that_cannot_work_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (http_port, peer_port) = (free_in_a_row(3), free_in_a_row(3));
    let other_ports = |nodes: u16| {
        let (http, peer) = (free_in_a_row(9), free_in_a_row(9));
        format!("--nodes {nodes} --http-port {http} --peer-port {peer}")
    };
    let running = Dev::start(folder.path(), http_port, peer_port).await;
    let said = refused(&other_ports(3), folder.path(), 1).await;
    assert!(said.contains("another `palisaded dev` runs with"), "{said}");
    running.interrupt().await;

    // Its nodes know each other by their peer ports, and how many they are.
    for nodes in [3, 4] {
        let said = refused(&other_ports(nodes), folder.path(), 2).await;
        let goes_on = format!("--nodes 3 --peer-port {peer_port}");
        assert!(said.contains(&goes_on), "{said}");
    }
    let new = folder.path().join("new");
    let overlapping = format!("--http-port {http_port} --peer-port {}", http_port + 1);
    for (arguments, words) in [
        (&*overlapping, "apart"),
        ("--http-port 0", "--http-port"),
        ("--http-port 65535", "65535"),
    ] {
        let said = refused(arguments, &new, 2).await;
        assert!(said.contains(words), "{said}");
        assert!(!new.exists(), "it made files");
    }
    let file = folder.path().join("dev.json");
    let said = refused(&other_ports(3), &file, 1).await;
    assert!(said.contains("dev.json"), "{said}");
}
