use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::*;
use crate::config::{Config, Start};
use crate::node::Node;
use crate::testing::Register;

const FIRST: u64 = 4242;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Waits until the tasks of a node that was stopped here have let go of its directory.
async fn until_free<T>(
    mut work: impl AsyncFnMut() -> Result<T, StartError>,
) -> Result<T, StartError> {
    loop {
        match work().await {
            Err(StartError::InUse(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            other => return other,
        }
    }
}

async fn node(folder: &Path, start: Start) -> Result<Node<Register>, StartError> {
    until_free(async || start_node(folder, start.clone()).await).await
}

async fn start_node(folder: &Path, start: Start) -> Result<Node<Register>, StartError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let member = Member {
        name: "alone".to_owned(),
        peer_address: listener.local_addr().unwrap().to_string(),
        ..Member::default()
    };
    let mut config = Config::new(folder, member, start);
    config.free_space_floor_bytes = 0;
    Node::start(config, listener, Register::default(), ()).await
}

fn commands(node: &Node<Register>) -> Vec<u64> {
    let seen = |machine: &Register| machine.seen.iter().map(|seen| seen.2).collect();
    node.read(seen)
}

/// A backup of the commands 0 to 19, and the folder that it lies in.
async fn backed_up() -> (tempfile::TempDir, PathBuf, BackupInfo) {
    let folder = tempfile::tempdir().unwrap();
    let old = node(&folder.path().join("old"), Start::Alone)
        .await
        .unwrap();
    for command in 0..20 {
        old.propose(&command, soon()).await.unwrap();
    }
    let path = folder.path().join("backup");
    let file = File::create(&path).unwrap();
    let info = old.backup(file, 1_700_000_000_000, soon()).await.unwrap();
    old.stop().await.unwrap();
    (folder, path, info)
}

fn restored(backup: &Path, directory: &Path) -> Result<Restored, StartError> {
    restore(backup, directory, &Register::default(), |_, _, _| {
        Ok(Some(FIRST))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_holds_all_that_was_acknowledged_before_and_a_prefix_of_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let old = Arc::new(
        node(&folder.path().join("old"), Start::Alone)
            .await
            .unwrap(),
    );
    let load = {
        let old = old.clone();
        tokio::spawn(async move {
            for command in 0..2000_u64 {
                old.propose(&command, soon()).await.unwrap();
            }
        })
    };
    let mut backups = Vec::new();
    for number in 0..10 {
        let acknowledged = commands(&old);
        let path = folder.path().join(format!("backup-{number}"));
        let info = old.backup(File::create(&path).unwrap(), 7, soon()).await;
        backups.push((path, acknowledged, info.unwrap()));
    }
    load.await.unwrap();
    let all = old.read(|machine| machine.seen.clone());
    for (path, acknowledged, info) in backups {
        let (found, state) = read_backup(&path, &Register::default()).unwrap();
        assert_eq!(found, info);
        assert!(state.seen.len() >= acknowledged.len());
        assert_eq!(state.seen, all[..state.seen.len()]);
        // The metadata is exactly as old as the state.
        if let Some((index, ..)) = state.seen.last() {
            assert_eq!(*index, info.index);
        }
    }
    old.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_state_is_a_new_cluster_that_begins_with_the_first_command() {
    let (folder, backup, info) = backed_up().await;
    assert_eq!(verify_backup(&backup, &Register::default()).unwrap(), info);
    let directory = folder.path().join("new");
    let made = restored(&backup, &directory).unwrap();
    assert_eq!(made.backup, info);
    assert_ne!(made.cluster, info.cluster);
    for start in [Start::Existing, Start::Existing] {
        let new = node(&directory, start).await.unwrap();
        assert_eq!(new.cluster_id(), made.cluster);
        assert_ne!(new.id(), info.node);
        let mut expected: Vec<u64> = (0..20).collect();
        expected.push(FIRST);
        // Applied before the node serves, and not again by a later start.
        new.read_barrier(soon()).await.unwrap();
        assert_eq!(commands(&new), expected);
        let indexes =
            new.read(|machine| machine.seen.iter().map(|seen| seen.0).collect::<Vec<_>>());
        assert!(indexes.is_sorted(), "{indexes:?}");
        assert!(*indexes.last().unwrap() > info.index);
        assert!(!directory.join("restore").exists());
        new.stop().await.unwrap();
    }
    let verify = async || crate::offline::verify(&directory, &Register::default());
    let seen = until_free(verify).await.unwrap();
    assert_eq!(seen.problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_was_interrupted_before_the_plan_was_forgotten_carries_it_out_again() {
    let (folder, backup, _) = backed_up().await;
    let directory = folder.path().join("new");
    let made = restored(&backup, &directory).unwrap();
    let plan = fs::read(directory.join("restore")).unwrap();
    let new = node(&directory, Start::Existing).await.unwrap();
    new.stop().await.unwrap();
    drop(new);
    fs::write(directory.join("restore"), plan).unwrap();
    let new = node(&directory, Start::Existing).await.unwrap();
    assert_eq!(new.cluster_id(), made.cluster);
    let expected: Vec<u64> = (0..20).chain([FIRST, FIRST]).collect();
    new.read_barrier(soon()).await.unwrap();
    assert_eq!(
        commands(&new),
        expected,
        "once more, and the state is not set back"
    );
    new.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_restore_can_be_repeated_and_a_used_directory_is_refused() {
    let (folder, backup, _) = backed_up().await;
    let directory = folder.path().join("new");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("restore.partial"), "half a st").unwrap();
    restored(&backup, &directory).unwrap();
    let error = restored(&backup, &directory).unwrap_err().to_string();
    assert!(error.contains("restored state already"), "{error}");
    let error = restored(&backup, &folder.path().join("old")).unwrap_err();
    assert!(
        error.to_string().contains("data directory already"),
        "{error}"
    );
    let foreign = folder.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("a-file"), "").unwrap();
    let error = restored(&backup, &foreign).unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_or_plan_is_refused() {
    let (folder, backup, _) = backed_up().await;
    let whole = fs::read(&backup).unwrap();
    let directory = folder.path().join("new");
    for at in (0..whole.len()).step_by(5) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x20;
        for bytes in [&flipped[..], &whole[..at]] {
            fs::write(&backup, bytes).unwrap();
            assert!(restored(&backup, &directory).is_err(), "at {at}");
            assert!(!directory.exists(), "nothing is made of a damaged backup");
        }
    }
    fs::write(&backup, &whole).unwrap();
    restored(&backup, &directory).unwrap();
    let plan = directory.join("restore");
    let mut bytes = fs::read(&plan).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&plan, bytes).unwrap();
    let error = node(&directory, Start::Existing).await.err().unwrap();
    assert!(error.to_string().contains("restore again"), "{error}");
}
