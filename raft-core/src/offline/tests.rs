use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::*;
use crate::config::{Config, Start};
use crate::node::Node;
use crate::testing::Register;
use crate::types::Member;

/// Every file below a folder, with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
            found.insert(path, Vec::new());
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

async fn node(folder: &Path) -> Node<Register> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let member = Member {
        name: "alone".to_owned(),
        peer_address: listener.local_addr().unwrap().to_string(),
        ..Member::default()
    };
    let mut config = Config::new(folder, member, Start::Alone);
    config.snapshot_after_entries = 20;
    config.keep_entries = 5;
    Node::start(config, listener, Register::default(), ())
        .await
        .unwrap()
}

/// A directory that a node of one was stopped on, with a purged log behind a snapshot.
async fn stopped() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path()).await;
    let by = Instant::now() + Duration::from_secs(30);
    // Purging comes in batches.
    while node.status().progress.purged_index.is_none() {
        node.propose(&7, by).await.unwrap();
    }
    node.stop().await.unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_tells_everything_and_changes_nothing() {
    let folder = stopped().await;
    let before = files(folder.path());
    let seen = verify(folder.path(), &Register::default()).unwrap();
    assert_eq!(seen.problems, Vec::<String>::new());
    assert!(!seen.torn_tail);
    let (first, last) = (seen.first.unwrap(), seen.last.unwrap());
    assert_eq!(seen.purged.unwrap().index + 1, first.index);
    assert_eq!(seen.mark.unwrap().synced_below, last.index + 1);
    assert!(seen.committed.unwrap().index <= last.index);
    assert!(seen.snapshot.unwrap().last.unwrap().index >= seen.purged.unwrap().index);
    assert_eq!(seen.vote.unwrap().node, seen.node);
    let members = seen.membership.unwrap().members;
    let names: Vec<_> = members.values().map(|member| &member.name).collect();
    assert_eq!(names, ["alone"]);
    assert!(seen.cluster.is_some());
    assert_eq!(inspect(folder.path()).unwrap().last, Some(last));
    assert!(files(folder.path()) == before, "a file was changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_nodes_directory_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path()).await;
    let error = inspect(folder.path()).unwrap_err();
    assert!(matches!(error, StartError::InUse(_)), "{error}");
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_gone_behind_a_purged_log_is_missed() {
    let folder = stopped().await;
    fs::remove_dir_all(folder.path().join("snapshots")).unwrap();
    let seen = inspect(folder.path()).unwrap();
    assert!(
        seen.problems[0].contains("that snapshot is gone"),
        "{seen:?}"
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config::new(folder.path(), Member::default(), Start::Existing);
    let error = Node::start(config, listener, Register::default(), ()).await;
    let error = error.err().unwrap().to_string();
    assert!(error.contains("that snapshot is gone"), "{error}");
    assert!(error.contains("--join"), "{error}");
}

#[test]
fn what_is_no_data_directory_is_not_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let error = inspect(folder.path()).unwrap_err().to_string();
    assert!(error.contains("identity.json"), "{error}");
}
