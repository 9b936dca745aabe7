//! Snapshots on their way to a follower that lags: broken, slow, damaged, under load.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::machine::{EntryContext, MachineError, SnapshotWriter};
use crate::types::Member;

const LONG: Duration = Duration::from_secs(60);
/// What every snapshot weighs beside the commands.
const PADDING_BYTES: usize = 8 << 20;

/// A sum over all commands, with snapshots that take a while to send.
#[derive(Clone, Debug, Default)]
struct Heavy {
    count: u64,
    sum: u64,
    restored: Arc<AtomicU64>,
}

impl StateMachine for Heavy {
    type Command = Vec<u8>;
    type Response = u64;

    fn apply(&mut self, entry: EntryContext, command: Vec<u8>) -> Result<u64, MachineError> {
        let bytes = command.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        self.sum = self.sum.wrapping_mul(31).wrapping_add(bytes + entry.index);
        self.count += 1;
        Ok(self.count)
    }

    fn freeze(&self) -> SnapshotWriter {
        let (count, sum) = (self.count, self.sum);
        Box::new(move |out| {
            out.write_all(&count.to_le_bytes())?;
            out.write_all(&sum.to_le_bytes())?;
            out.write_all(&vec![0x5a; PADDING_BYTES])
        })
    }

    fn restore(&self, snapshot: &mut dyn Read) -> io::Result<Self> {
        let mut number = || {
            let mut bytes = [0; 8];
            snapshot.read_exact(&mut bytes)?;
            Ok::<_, io::Error>(u64::from_le_bytes(bytes))
        };
        let (count, sum) = (number()?, number()?);
        let padding = io::copy(snapshot, &mut io::sink())?;
        assert_eq!(padding, PADDING_BYTES as u64);
        self.restored.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            count,
            sum,
            restored: self.restored.clone(),
        })
    }
}

/// Stands before one node's peer port.
struct Proxy {
    address: SocketAddr,
    /// Connections towards the node are cut once, after so many bytes on one of them.
    cut_after: Arc<AtomicU64>,
    /// Whether bytes towards the node only trickle.
    slow: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

const NEVER: u64 = u64::MAX;

impl Proxy {
    async fn before(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut_after = Arc::new(AtomicU64::new(NEVER));
        let slow = Arc::new(AtomicBool::new(false));
        let mut task = JoinSet::new();
        let (cut, slows) = (cut_after.clone(), slow.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (caller, _) = listener.accept().await.unwrap();
                let (cut, slows) = (cut.clone(), slows.clone());
                connections.spawn(async move {
                    if let Ok(callee) = TcpStream::connect(node).await {
                        forward(caller, callee, &cut, &slows).await;
                    }
                });
            }
        });
        Self {
            address,
            cut_after,
            slow,
            _task: task,
        }
    }
}

async fn forward(caller: TcpStream, callee: TcpStream, cut_after: &AtomicU64, slow: &AtomicBool) {
    let (mut from, mut to_caller) = caller.into_split();
    let (mut from_callee, mut to) = callee.into_split();
    let there = async {
        let mut buffer = vec![0; 64 << 10];
        let mut forwarded = 0;
        loop {
            let read = match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            };
            forwarded += read as u64;
            if forwarded >= cut_after.load(Ordering::Relaxed) {
                cut_after.store(NEVER, Ordering::Relaxed);
                return;
            }
            if slow.load(Ordering::Relaxed) && read > 8 << 10 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ = tokio::io::copy(&mut from_callee, &mut to_caller) => {}
    }
}

/// Three nodes; the last one is reached through a proxy, and is stopped, behind a purged log.
struct Lagging {
    folder: TempDir,
    listen: Vec<SocketAddr>,
    advertised: Vec<String>,
    nodes: Vec<Node<Heavy>>,
    leader: usize,
    proxy: Proxy,
}

fn deadline() -> Instant {
    Instant::now() + LONG
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let by = deadline();
    while !holds() {
        assert!(Instant::now() < by, "in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const ABSENT: usize = 2;

impl Lagging {
    fn config(&self, number: usize) -> Config {
        let member = Member {
            name: format!("n{number}"),
            peer_address: self.advertised[number].clone(),
            service_address: String::new(),
        };
        let start = Start::InitialPeers(self.advertised.clone());
        let mut config = Config::new(self.folder(number), member, start);
        config.snapshot_after_entries = 500;
        config.keep_entries = 10;
        config
    }

    fn folder(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("n{number}"))
    }

    async fn start(&self, number: usize) -> Node<Heavy> {
        let listener = TcpListener::bind(self.listen[number]).await.unwrap();
        let starting = Node::start(self.config(number), listener, Heavy::default(), ());
        timeout(LONG, Box::pin(starting)).await.unwrap().unwrap()
    }

    async fn prepare() -> Self {
        let mut listen = Vec::new();
        for _ in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listen.push(listener.local_addr().unwrap());
        }
        let proxy = Proxy::before(listen[ABSENT]).await;
        let mut advertised: Vec<String> = listen.iter().map(ToString::to_string).collect();
        advertised[ABSENT] = proxy.address.to_string();
        let mut group = Self {
            folder: tempfile::tempdir().unwrap(),
            listen,
            advertised,
            nodes: Vec::new(),
            leader: 0,
            proxy,
        };
        let (first, second, absent) =
            tokio::join!(group.start(0), group.start(1), group.start(ABSENT));
        absent.read_barrier(deadline()).await.unwrap();
        absent.stop().await.unwrap();
        drop(absent);
        group.nodes = vec![first, second];
        // Without a leader among the two, they elect one.
        group.propose().await;
        let by = deadline();
        while group.nodes[group.leader].status().progress.purged_index < Some(1000) {
            assert!(Instant::now() < by, "the log is purged behind snapshots");
            group.propose().await;
        }
        group
    }

    async fn propose(&mut self) {
        let command = vec![1; 10];
        let proposed = self.nodes[self.leader].propose(&command, deadline());
        proposed.await.unwrap();
        if let Some(leader) = self.nodes.iter().position(Node::is_leader) {
            self.leader = leader;
        }
    }

    /// Waits until the node that was absent has what the leader has.
    async fn same_as_leader(&self, absent: &Node<Heavy>) {
        absent.read_barrier(deadline()).await.unwrap();
        let state = |node: &Node<Heavy>| node.read(|heavy| (heavy.count, heavy.sum));
        let expected = state(&self.nodes[self.leader]);
        until("both nodes hold the same", || state(absent) == expected).await;
    }

    fn snapshot_files(&self, number: usize) -> Vec<PathBuf> {
        let folder = self.folder(number).join("snapshots");
        let items = std::fs::read_dir(folder).unwrap();
        items.map(|item| item.unwrap().path()).collect()
    }
}

fn is_partial(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "partial")
}

fn restored(node: &Node<Heavy>) -> u64 {
    node.read(|heavy| heavy.restored.load(Ordering::Relaxed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_is_cut_begins_again_and_leaves_nothing_behind() {
    let group = Lagging::prepare().await;
    let cut_after = PADDING_BYTES as u64 / 2;
    group.proxy.cut_after.store(cut_after, Ordering::Relaxed);
    let absent = group.start(ABSENT).await;
    group.same_as_leader(&absent).await;
    assert_eq!(group.proxy.cut_after.load(Ordering::Relaxed), NEVER, "cut");
    assert_eq!(restored(&absent), 1);
    until("only the whole snapshot is left", || {
        let files = group.snapshot_files(ABSENT);
        !files.is_empty() && !files.iter().any(|path| is_partial(path))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_behind_a_slow_transfer_is_kept_so_that_one_snapshot_is_enough() {
    let mut group = Lagging::prepare().await;
    group.proxy.slow.store(true, Ordering::Relaxed);
    let started_at = group.nodes[group.leader].status().progress.snapshot_index;
    let absent = group.start(ABSENT).await;
    // Load goes on all the while: snapshots come and the log behind them could go.
    while restored(&absent) == 0 {
        group.propose().await;
    }
    let newest = group.nodes[group.leader].status().progress.snapshot_index;
    assert!(
        newest > started_at.map(|index| index + 1024),
        "the load outran the transfer: {started_at:?} {newest:?}"
    );
    group.same_as_leader(&absent).await;
    assert_eq!(restored(&absent), 1, "one snapshot was enough");
    // And the log goes in the end.
    let transferred = started_at.unwrap();
    let by = deadline();
    while group.nodes[group.leader].status().progress.purged_index <= Some(transferred + 1024) {
        assert!(Instant::now() < by, "the log is purged after the transfer");
        group.propose().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_refused_by_the_follower_and_taken_anew() {
    let group = Lagging::prepare().await;
    let leader = group.leader;
    until("no snapshot is being built", || {
        let files = group.snapshot_files(leader);
        files.len() == 1 && !is_partial(&files[0])
    })
    .await;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&group.snapshot_files(leader)[0])
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", PADDING_BYTES as u64 / 2).unwrap();
    let absent = group.start(ABSENT).await;
    group.same_as_leader(&absent).await;
    assert_eq!(restored(&absent), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_taken_for_the_bytes_applied() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let member = Member {
        peer_address: listener.local_addr().unwrap().to_string(),
        ..Member::default()
    };
    let mut config = Config::new(folder.path().join("n"), member, Start::Alone);
    config.snapshot_after_bytes = 1 << 20;
    let node = Node::start(config, listener, Heavy::default(), ())
        .await
        .unwrap();
    let mut last = 0;
    for _ in 0..5 {
        last = node
            .propose(&vec![0; 250_000], deadline())
            .await
            .unwrap()
            .index;
    }
    until("a snapshot of all five commands", || {
        node.status().progress.snapshot_index >= Some(last)
    })
    .await;
}
