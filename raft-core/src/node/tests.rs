//! Groups of real nodes in one process: real sockets, real RocksDB, loopback.

use std::time::Instant;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
#[path = "membership_tests.rs"]
mod membership;
use crate::testing::Register;
use crate::types::Member;

const LONG: Duration = Duration::from_secs(30);

struct Group {
    folder: TempDir,
    addresses: Vec<String>,
    nodes: Vec<Option<Node<Register>>>,
}

fn deadline() -> Instant {
    Instant::now() + LONG
}

impl Group {
    async fn start(size: usize) -> Self {
        Self::start_with(size, |_| {}).await
    }

    async fn start_with(size: usize, adjust: impl Fn(&mut Config)) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..size {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses: Vec<String> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().to_string())
            .collect();
        let mut group = Self {
            folder: tempfile::tempdir().unwrap(),
            addresses,
            nodes: Vec::new(),
        };
        let starting = listeners.into_iter().enumerate().map(|(number, listener)| {
            let mut config = group.config(number);
            adjust(&mut config);
            Node::start(config, listener, Register::default(), ())
        });
        let started = timeout(LONG, futures::future::join_all(starting))
            .await
            .expect("the group is founded in time");
        group.nodes = started
            .into_iter()
            .map(|node| Some(node.unwrap()))
            .collect();
        group
    }

    fn config(&self, number: usize) -> Config {
        let member = Member {
            name: format!("n{number}"),
            peer_address: self.addresses[number].clone(),
            service_address: String::new(),
        };
        let start = match self.addresses.len() {
            1 => Start::Alone,
            _ => Start::InitialPeers(self.addresses.clone()),
        };
        Config::new(self.folder.path().join(format!("n{number}")), member, start)
    }

    fn node(&self, number: usize) -> &Node<Register> {
        self.nodes[number].as_ref().unwrap()
    }

    async fn stop(&mut self, number: usize) {
        self.nodes[number].take().unwrap().stop().await.unwrap();
    }

    async fn restart(&mut self, number: usize) {
        let config = self.config(number);
        let listener = TcpListener::bind(&self.addresses[number]).await.unwrap();
        let node = timeout(LONG, Node::start(config, listener, Register::default(), ()))
            .await
            .unwrap()
            .unwrap();
        self.nodes[number] = Some(node);
    }

    async fn leader(&self) -> usize {
        let by = deadline();
        loop {
            for (number, node) in self.nodes.iter().enumerate() {
                if node.as_ref().is_some_and(Node::is_leader) {
                    return number;
                }
            }
            assert!(Instant::now() < by, "no leader in time");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn commands(&self, number: usize) -> Vec<u64> {
        self.node(number).read(|machine| {
            machine
                .seen
                .iter()
                .map(|(_, _, command)| *command)
                .collect()
        })
    }

    async fn caught_up(&self, number: usize) -> Vec<u64> {
        self.node(number).read_barrier(deadline()).await.unwrap();
        self.commands(number)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_to_any_node_is_applied_once_on_every_node_in_one_order() {
    let group = Group::start(3).await;
    for command in 0..30_u64 {
        let node = group.node(command as usize % 3);
        node.propose(&command, deadline()).await.unwrap();
    }
    for number in 0..3 {
        assert_eq!(group.caught_up(number).await, (0..30).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_behind_a_barrier_sees_what_another_node_acknowledged() {
    let group = Group::start(3).await;
    for command in 0..50_u64 {
        let writer = group.node(command as usize % 3);
        writer.propose(&command, deadline()).await.unwrap();
        let reader = (command as usize + 1) % 3;
        assert_eq!(group.caught_up(reader).await.last(), Some(&command));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_in_flight_over_a_leaders_end_are_applied_at_most_once_and_never_lost_when_acknowledged()
 {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let follower = (leader + 1) % 3;
    let acknowledged = {
        let stopped = group.nodes[leader].take().unwrap();
        let node = group.node(follower);
        let propose = async {
            let mut acknowledged = Vec::new();
            for command in 0..200_u64 {
                match node.propose(&command, deadline()).await {
                    Ok(_) => acknowledged.push(command),
                    Err(ProposeError::Unknown) => {}
                    Err(error) => panic!("a majority runs: {error}"),
                }
            }
            acknowledged
        };
        let stop = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            stopped.stop().await.unwrap();
        };
        tokio::join!(propose, stop).0
    };
    assert!(acknowledged.len() > 100);
    let third = 3 - leader - follower;
    let mut seen = group.caught_up(third).await;
    for command in &acknowledged {
        assert!(seen.contains(command), "{command} was acknowledged");
    }
    seen.sort_unstable();
    let before = seen.len();
    seen.dedup();
    assert_eq!(before, seen.len(), "nothing is applied twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_is_there_after_all_nodes_restart() {
    let mut group = Group::start(3).await;
    for command in 0..20_u64 {
        group.node(0).propose(&command, deadline()).await.unwrap();
    }
    for number in 0..3 {
        group.stop(number).await;
    }
    for number in 0..3 {
        group.restart(number).await;
    }
    assert_eq!(group.caught_up(1).await, (0..20).collect::<Vec<_>>());
    group.node(2).propose(&99, deadline()).await.unwrap();
    assert_eq!(group.caught_up(0).await.last(), Some(&99));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_behind_a_purged_log_catches_up_by_snapshot() {
    let mut group = Group::start_with(3, |config| {
        config.snapshot_after_entries = 50;
        config.keep_entries = 5;
    })
    .await;
    let leader = group.leader().await;
    let absent = (leader + 1) % 3;
    group.stop(absent).await;
    for command in 0..3000_u64 {
        group
            .node(leader)
            .propose(&command, deadline())
            .await
            .unwrap();
    }
    let by = deadline();
    while group.node(leader).status().progress.purged_index < Some(1000) {
        assert!(Instant::now() < by, "the log is purged behind snapshots");
        group.node(leader).propose(&7, deadline()).await.unwrap();
    }
    group.restart(absent).await;
    let seen = group.caught_up(absent).await;
    assert_eq!(seen[..3000], (0..3000).collect::<Vec<_>>());
    let snapshot = group.node(absent).status().progress.snapshot_index;
    assert!(snapshot >= Some(1000), "came by snapshot: {snapshot:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_acknowledged_and_the_error_says_what_is_known() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    group.stop((leader + 1) % 3).await;
    group.stop((leader + 2) % 3).await;
    let soon = || Instant::now() + Duration::from_millis(1500);
    let error = group.node(leader).propose(&1, soon()).await.unwrap_err();
    assert!(
        matches!(error, ProposeError::Unknown | ProposeError::NotProposed),
        "{error}"
    );
    let error = group.node(leader).propose(&2, soon()).await.unwrap_err();
    assert_eq!(
        error,
        ProposeError::NotProposed,
        "its leadership has lapsed"
    );
    assert_eq!(
        group.node(leader).read_barrier(soon()).await,
        Err(ReadError::NoLeader)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_told_so_and_founds_no_second_cluster() {
    let mut group = Group::start(3).await;
    group.node(0).propose(&5, deadline()).await.unwrap();
    group.stop(0).await;
    std::fs::remove_dir_all(group.folder.path().join("n0")).unwrap();
    let listener = TcpListener::bind(&group.addresses[0]).await.unwrap();
    let started = timeout(
        LONG,
        Node::start(group.config(0), listener, Register::default(), ()),
    );
    let error = started.await.unwrap().err().unwrap();
    assert!(matches!(error, StartError::NotAMember(_)), "{error}");
    group.node(1).propose(&6, deadline()).await.unwrap();
    assert_eq!(group.caught_up(2).await, vec![5, 6]);
}

#[tokio::test]
async fn initial_peers_that_make_no_sense_are_refused() {
    for (peers, expected) in [
        (vec!["h:1", "h:2"], "not among the initial peers"),
        (vec!["127.0.0.1:9", "h:1", "h:1"], "listed twice"),
        (vec!["127.0.0.1:9"], "cluster of one"),
    ] {
        let peers: Vec<String> = peers.into_iter().map(str::to_owned).collect();
        let error = check_initial_peers(&peers, "127.0.0.1:9").unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// Counts upwards; a rebase starts the next ten.
struct Tens(u64);

impl Stamper for Tens {
    fn rebase(&mut self) {
        self.0 = self.0 / 10 * 10 + 10;
    }

    fn stamp(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_stamps_in_log_order_from_a_base_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let member = Member {
        peer_address: listener.local_addr().unwrap().to_string(),
        ..Member::default()
    };
    let config = Config::new(folder.path(), member, Start::Alone);
    let node = Node::start(config, listener, Register::default(), Tens(0))
        .await
        .unwrap();
    for command in 0..5 {
        node.propose(&command, deadline()).await.unwrap();
    }
    let stamps: Vec<u64> = node.read(|machine| machine.seen.iter().map(|seen| seen.1).collect());
    assert_eq!(stamps.len(), 5);
    assert!(stamps[0] > 10, "rebased before the first stamp: {stamps:?}");
    assert!(stamps.is_sorted(), "{stamps:?}");
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_exceeds_the_bound_is_refused_at_once_and_gives_nothing_back_before_it_leaves_the_queues()
 {
    let mut group = Group::start_with(1, |config| config.max_in_flight_proposals = 4).await;
    group.leader().await;
    let node = Arc::new(group.nodes[0].take().unwrap());
    node.propose(&1, deadline()).await.unwrap();

    // While a reader looks at the machine nothing is applied.
    let (look_away, looking) = std::sync::mpsc::sync_channel::<()>(0);
    let (began, reading) = oneshot::channel();
    let reader = node.clone();
    let reader = tokio::task::spawn_blocking(move || {
        reader.read(|_| {
            began.send(()).unwrap();
            looking.recv().unwrap();
        });
    });
    reading.await.unwrap();
    let soon = || Instant::now() + Duration::from_millis(50);
    // Three of four are for ordinary proposals, and their callers give up.
    for command in 2..5 {
        let error = node.propose(&command, soon()).await.unwrap_err();
        assert_eq!(error, ProposeError::Unknown);
    }
    assert_eq!(node.admission.in_flight().proposals, 3);
    let error = node.propose(&5, deadline()).await.unwrap_err();
    assert_eq!(error, ProposeError::Overloaded);
    let urgent = Register::URGENT;
    let error = node.propose(&urgent, soon()).await.unwrap_err();
    assert_eq!(error, ProposeError::Unknown, "the rest is kept for it");
    let error = node.propose(&urgent, deadline()).await.unwrap_err();
    assert_eq!(error, ProposeError::Overloaded);

    look_away.send(()).unwrap();
    reader.await.unwrap();
    let by = deadline();
    while node.admission.in_flight().proposals > 0 {
        assert!(Instant::now() < by, "what is applied is given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seen = node.read(|machine| machine.seen.len());
    assert_eq!(
        seen, 5,
        "what was taken is applied, what was refused is not"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_full_refuses_what_others_forward() {
    let mut group = Group::start_with(3, |config| config.max_in_flight_proposals = 4).await;
    let leader = group.leader().await;
    let follower = (leader + 1) % 3;
    group.node(follower).propose(&1, deadline()).await.unwrap();
    let taken = group.node(leader).admission.clone();
    let held: Vec<_> = std::iter::from_fn(|| taken.admit(Priority::Critical, 8)).collect();
    assert_eq!(held.len(), 4);
    let error = group
        .node(follower)
        .propose(&2, deadline())
        .await
        .unwrap_err();
    assert_eq!(error, ProposeError::Overloaded);
    drop(held);
    group.node(follower).propose(&3, deadline()).await.unwrap();
    group.stop(leader).await;
    assert_eq!(group.caught_up(follower).await, vec![1, 3]);
}
