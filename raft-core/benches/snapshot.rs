//! A large snapshot moves between two processes: how fast, and with how much memory beside the state.
//!
//! Two nodes run in this process, the third in another. The third is stopped and left behind a purged
//! log, so that it needs a snapshot when it comes back. The machine's state is a rule that generates
//! bytes: its snapshot is written and checked in passing, so that all memory taken is the transfer's.
//! Meanwhile proposals go on, and their times are reported too: quiet, while the snapshot is written,
//! and while it is sent.
//!
//! `cargo bench --profile release -p raft-core --bench snapshot` (`make bench-snapshot` runs it).
//! `SNAPSHOT_MIB` sets the size. Fails when either side takes more than 96 MiB.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft_core::{
    Config, EntryContext, MachineError, Member, Node, SnapshotWriter, Start, StateMachine,
};
use tokio::net::TcpListener;

/// What a transfer may take beside the state, on either side. RocksDB's and the allocator's part of
/// it is most.
const MEMORY_LIMIT_KIB: u64 = 96 << 10;
const DEADLINE: Duration = Duration::from_secs(600);
const BLOCK_BYTES: usize = 64 << 10;

/// Bytes that follow from a number, and a count of commands.
#[derive(Clone, Default)]
struct Generated {
    blocks: u64,
    count: u64,
    frozen: Arc<AtomicU64>,
    restored: Arc<AtomicBool>,
}

fn block(number: u64, into: &mut [u8]) {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in into.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

impl StateMachine for Generated {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, _entry: EntryContext, _command: u64) -> Result<u64, MachineError> {
        self.count += 1;
        Ok(self.count)
    }

    fn freeze(&self) -> SnapshotWriter {
        self.frozen.fetch_add(1, Ordering::Relaxed);
        let (blocks, count) = (self.blocks, self.count);
        Box::new(move |out| {
            out.write_all(&blocks.to_le_bytes())?;
            out.write_all(&count.to_le_bytes())?;
            let mut bytes = vec![0; BLOCK_BYTES];
            for number in 0..blocks {
                block(number, &mut bytes);
                out.write_all(&bytes)?;
            }
            Ok(())
        })
    }

    fn restore(&self, snapshot: &mut dyn Read) -> io::Result<Self> {
        let mut number = [0; 8];
        snapshot.read_exact(&mut number)?;
        let blocks = u64::from_le_bytes(number);
        snapshot.read_exact(&mut number)?;
        let count = u64::from_le_bytes(number);
        let (mut bytes, mut expected) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
        for number in 0..blocks {
            snapshot.read_exact(&mut bytes)?;
            block(number, &mut expected);
            assert!(bytes == expected, "block {number} is not what was sent");
        }
        self.restored.store(true, Ordering::Relaxed);
        Ok(Self {
            blocks,
            count,
            ..self.clone()
        })
    }
}

fn config(folder: &Path, peers: &[String], number: usize) -> Config {
    let member = Member {
        name: format!("n{number}"),
        peer_address: peers[number].clone(),
        service_address: String::new(),
    };
    let start = Start::InitialPeers(peers.to_vec());
    let mut config = Config::new(folder.join(format!("n{number}")), member, start);
    config.snapshot_after_entries = u64::MAX;
    config.keep_entries = 10;
    config
}

async fn start(
    folder: &Path,
    peers: &[String],
    number: usize,
    machine: Generated,
) -> Node<Generated> {
    let listener = TcpListener::bind(&peers[number]).await.unwrap();
    let starting = Node::start(config(folder, peers, number), listener, machine, ());
    tokio::time::timeout(DEADLINE, starting)
        .await
        .unwrap()
        .unwrap()
}

/// One line of `/proc/self/status`, in KiB.
fn memory_kib(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    let number = found
        .unwrap()
        .trim_start_matches(':')
        .split_whitespace()
        .next();
    number.unwrap().parse().unwrap()
}

/// Resident memory now; the peak is counted anew from here.
fn begin_memory() -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    memory_kib("VmRSS")
}

fn said(line: &str) -> Option<Vec<u64>> {
    let numbers = line.strip_prefix("restored ")?;
    numbers
        .split(' ')
        .map(|number| number.parse().ok())
        .collect()
}

/// The third node, in a process of its own: until its standard input ends.
async fn follower(folder: PathBuf, peers: Vec<String>) {
    let machine = Generated::default();
    let restored = machine.restored.clone();
    let before = begin_memory();
    let started = Instant::now();
    let node = start(&folder, &peers, 2, machine).await;
    println!("started");
    let (ended, mut end) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        // However it ends, the parent is done.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        drop(ended);
    });
    let mut told = false;
    while end.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
        if !told && restored.load(Ordering::Relaxed) {
            node.read_barrier(Instant::now() + DEADLINE).await.unwrap();
            let taken = started.elapsed().as_millis();
            println!("restored {taken} {before} {}", memory_kib("VmHWM"));
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.stop().await.unwrap();
}

struct Follower {
    child: Child,
    lines: io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Follower {
    fn spawn(folder: &Path, peers: &[String]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--follower".as_ref(), folder.as_os_str()])
            .args(peers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn next_line(mut self) -> (Self, String) {
        tokio::task::spawn_blocking(move || {
            let line = self.lines.next().expect("the follower goes on").unwrap();
            (self, line)
        })
        .await
        .unwrap()
    }

    async fn stop(mut self) {
        drop(self.child.stdin.take());
        let ended = tokio::task::spawn_blocking(move || self.child.wait()).await;
        assert!(ended.unwrap().unwrap().success());
    }
}

/// Proposes one after the other until told to stop, and gives the times taken.
fn load(node: &Arc<Node<Generated>>) -> (Arc<AtomicBool>, tokio::task::JoinHandle<Vec<Duration>>) {
    let (node, stop) = (node.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let mut taken = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let started = Instant::now();
            node.propose(&7, started + DEADLINE).await.unwrap();
            taken.push(started.elapsed());
        }
        taken
    });
    (stop, task)
}

async fn end_load(name: &str, load: (Arc<AtomicBool>, tokio::task::JoinHandle<Vec<Duration>>)) {
    load.0.store(true, Ordering::Relaxed);
    let mut taken = load.1.await.unwrap();
    taken.sort_unstable();
    let at = |share: f64| {
        let position = (taken.len() as f64 * share) as usize;
        taken[position.min(taken.len() - 1)].as_secs_f64() * 1e3
    };
    println!(
        "proposals, {name:<34} {:>6}  p50 {:>7.2}  p99 {:>7.2}  worst {:>8.2} ms",
        taken.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let by = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < by, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn leader() {
    let mib = std::env::var("SNAPSHOT_MIB").map_or(1024, |mib| mib.parse::<u64>().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let peers: Vec<String> = {
        let listeners: Vec<_> = (0..3)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let address = |listener: &std::net::TcpListener| listener.local_addr().unwrap().to_string();
        listeners.iter().map(address).collect()
    };
    let machine = || Generated {
        blocks: (mib << 20) / BLOCK_BYTES as u64,
        ..Generated::default()
    };
    let away = Follower::spawn(folder.path(), &peers);
    let (first, second, (away, line)) = tokio::join!(
        start(folder.path(), &peers, 0, machine()),
        start(folder.path(), &peers, 1, machine()),
        away.next_line()
    );
    assert_eq!(line, "started");
    first.read_barrier(Instant::now() + DEADLINE).await.unwrap();
    away.stop().await;
    let nodes = [Arc::new(first), Arc::new(second)];
    // Elects one of the two, where the third led.
    nodes[0]
        .propose(&7, Instant::now() + DEADLINE)
        .await
        .unwrap();
    let leading = || nodes.iter().find(|node| node.is_leader());
    until("one of the two leads", || leading().is_some()).await;
    let node = leading().unwrap();

    for _ in 0..40 {
        let many = (0..64).map(|_| node.propose(&7, Instant::now() + DEADLINE));
        for done in futures::future::join_all(many).await {
            done.unwrap();
        }
    }
    let quiet = load(node);
    tokio::time::sleep(Duration::from_secs(5)).await;
    end_load("quiet", quiet).await;

    let before = begin_memory();
    let building = load(node);
    let started = Instant::now();
    node.trigger_snapshot().await.unwrap();
    until("the snapshot is built", || {
        node.status().progress.snapshot_index.is_some()
    })
    .await;
    let taken = started.elapsed().as_secs_f64();
    end_load("while the snapshot is written", building).await;
    println!(
        "written: {mib} MiB in {taken:.1} s, {:.0} MiB/s; peak memory +{} MiB",
        mib as f64 / taken,
        (memory_kib("VmHWM") - before) >> 10
    );
    until("the log is purged", || {
        node.status().progress.purged_index.is_some()
    })
    .await;

    let before = begin_memory();
    let sending = load(node);
    let (back, _) = Follower::spawn(folder.path(), &peers).next_line().await;
    let (back, line) = back.next_line().await;
    end_load("while it is sent, checked, restored", sending).await;
    let numbers = said(&line).expect("the follower restored a snapshot");
    let (taken, follower_grew) = (numbers[0] as f64 / 1e3, numbers[2] - numbers[1]);
    let leader_grew = memory_kib("VmHWM") - before;
    println!(
        "moved: {mib} MiB in {taken:.1} s from the follower's start, {:.0} MiB/s; peak memory: \
         sender +{} MiB, receiver +{} MiB",
        mib as f64 / taken,
        leader_grew >> 10,
        follower_grew >> 10
    );
    back.stop().await;
    assert!(
        leader_grew < MEMORY_LIMIT_KIB,
        "the sender took {leader_grew} KiB"
    );
    assert!(
        follower_grew < MEMORY_LIMIT_KIB,
        "the receiver took {follower_grew} KiB"
    );
    for node in nodes {
        node.stop().await.unwrap();
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match arguments.next().as_deref() {
        Some("--follower") => {
            let folder = PathBuf::from(arguments.next().unwrap());
            runtime.block_on(follower(folder, arguments.collect()));
        }
        // Cargo says `--bench`.
        _ => runtime.block_on(leader()),
    }
}
