use std::io;

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;

use super::*;
use crate::apply::Applier;
use crate::snapshot::SnapshotStore;
use crate::testing::Register;
use crate::types::Proposal;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Applier<Register>, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, Applier<Register>), openraft::StorageError<TypeConfig>>
    {
        let folder = tempfile::tempdir().unwrap();
        let log = LogStore::open(&folder.path().join("log"), SyncPolicy::Always).unwrap();
        let snapshots = SnapshotStore::open(&folder.path().join("snapshots")).unwrap();
        let applier = Applier::for_tests(snapshots, Some(log.clone()));
        Ok((folder, log, applier))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_own_storage_suite_passes_on_the_rocksdb_log() {
    Suite::test_all(Builder).await.unwrap();
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(term.into(), index)
}

fn entry(term: u64, index: u64) -> Entry {
    let proposal = Proposal {
        stamp: index,
        ..Proposal::default()
    };
    Entry::new(
        log_id(term, index),
        openraft::EntryPayload::Normal(proposal),
    )
}

async fn append(log: &mut LogStore, term: u64, indexes: std::ops::Range<u64>) {
    log.blocking_append(indexes.map(|index| entry(term, index)))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(folder.path(), SyncPolicy::Always).unwrap();
    let vote = Vote::new_committed(3, 7.into());
    log.save_vote(&vote).await.unwrap();
    append(&mut log, 3, 0..100).await;
    log.truncate_after(Some(log_id(3, 89))).await.unwrap();
    append(&mut log, 3, 90..95).await;
    log.purge(log_id(3, 9)).await.unwrap();
    log.save_committed(Some(log_id(3, 80))).await.unwrap();
    log.close().await.unwrap();
    drop(log);

    let mut log = LogStore::open(folder.path(), SyncPolicy::Always).unwrap();
    assert_eq!(log.vote(), Some(vote));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(3, 9)));
    assert_eq!(state.last_log_id, Some(log_id(3, 94)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(3, 80)));
    let mut reader = log.get_log_reader().await;
    let entries = reader.try_get_log_entries(0..200).await.unwrap();
    let indexes: Vec<u64> = entries.iter().map(RaftEntry::index).collect();
    assert_eq!(indexes, (10..95).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_log_that_lost_synced_entries_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(folder.path(), SyncPolicy::Always).unwrap();
    append(&mut log, 1, 0..50).await;
    log.close().await.unwrap();
    drop(log);

    // What lost synced data looks like: a database that was younger, beside the newer mark.
    let database = folder.path().join("rocksdb");
    remove_entries(&database, 40);
    let error = reopen_error(folder.path()).await;
    assert!(
        error.contains("entries 40 to 49 were synced and are gone"),
        "{error}"
    );
    assert!(error.contains("--join and an empty data directory"));
}

#[tokio::test]
async fn a_hole_in_the_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(folder.path(), SyncPolicy::Always).unwrap();
    append(&mut log, 1, 0..50).await;
    log.close().await.unwrap();
    drop(log);
    let db = reopen_database(&folder.path().join("rocksdb"));
    db.delete(keys::entry(20)).unwrap();
    db.flush_wal(true).unwrap();
    drop(db);
    let error = reopen_error(folder.path()).await;
    assert!(error.contains("not index 20"), "{error}");
}

#[tokio::test]
async fn a_missing_mark_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(folder.path(), SyncPolicy::Always).unwrap();
    append(&mut log, 1, 0..2).await;
    log.close().await.unwrap();
    drop(log);
    std::fs::remove_file(folder.path().join("synced-mark")).unwrap();
    let error = reopen_error(folder.path()).await;
    assert!(error.contains("mark is missing"), "{error}");
}

#[tokio::test]
async fn a_log_that_was_dropped_without_being_closed_has_let_go_of_its_database() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..50 {
        let mut log = LogStore::open(folder.path(), SyncPolicy::Always).unwrap();
        append(&mut log, 1, index..index + 1).await;
        let database = Arc::downgrade(&log.shared.db);
        drop(log);
        assert_eq!(database.strong_count(), 0);
    }
}

/// A stopped log of 50 entries and a vote, of which all is durable and the mark says so.
async fn stopped_log() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(folder.path(), SyncPolicy::Always).unwrap();
    log.save_vote(&Vote::new_committed(1, 7.into()))
        .await
        .unwrap();
    for start in (0..50).step_by(5) {
        append(&mut log, 1, start..start + 5).await;
    }
    log.close().await.unwrap();
    folder
}

/// The one file of the database with this ending that holds something.
pub(super) fn database_file(folder: &Path, extension: &str) -> std::path::PathBuf {
    let files = std::fs::read_dir(folder.join("rocksdb")).unwrap();
    let mut found: Vec<_> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .filter(|path| path.metadata().unwrap().len() > 0)
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[tokio::test]
async fn a_torn_unsynced_tail_is_dropped_and_all_that_was_synced_is_there() {
    let folder = stopped_log().await;
    let wal = database_file(folder.path(), "log");
    let synced = std::fs::read(&wal).unwrap();
    // The first record again, cut anywhere: what an append leaves that was not synced in time.
    for length in [1, 6, 7, 20] {
        let torn = [&synced[..], &synced[..length]].concat();
        std::fs::write(&wal, torn).unwrap();
        let examined = examine(folder.path(), |_| Ok(()));
        assert!(examined.problems.is_empty(), "{:?}", examined.problems);
        assert_eq!(examined.contents.unwrap().last, Some(log_id(1, 49)));
    }
    let mut log = LogStore::open(folder.path(), SyncPolicy::Always).unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(log_id(1, 49)));
    append(&mut log, 1, 50..60).await;
    log.close().await.unwrap();
    drop(log);
    let examined = examine(folder.path(), |_| Ok(()));
    assert_eq!(examined.contents.unwrap().last, Some(log_id(1, 59)));
    assert!(!examined.torn);
}

#[tokio::test]
async fn a_cut_or_a_flipped_bit_in_synced_records_is_refused_and_nothing_is_changed_by_that() {
    let folder = stopped_log().await;
    let wal = database_file(folder.path(), "log");
    let whole = std::fs::read(&wal).unwrap();
    let mut damaged: Vec<Vec<u8>> = Vec::new();
    for at in (0..whole.len()).step_by(37) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        damaged.push(flipped);
        damaged.push(whole[..at].to_vec());
    }
    for bytes in damaged {
        std::fs::write(&wal, &bytes).unwrap();
        let error = reopen_error(folder.path()).await;
        assert!(error.contains("synced"), "{error}");
        assert!(error.contains("--join"), "{error}");
        assert!(std::fs::read(&wal).unwrap() == bytes, "evidence was lost");
    }
    std::fs::write(&wal, whole).unwrap();
    LogStore::open(folder.path(), SyncPolicy::Always).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_in_records_younger_than_the_mark_is_refused_before_the_last_and_a_cut_is_not()
 {
    let folder = stopped_log().await;
    let mark = folder.path().join("synced-mark");
    std::fs::remove_file(&mark).unwrap();
    // As it was in the beginning, when nothing was synced yet.
    super::mark::Mark::create(&mark).unwrap();
    let wal = database_file(folder.path(), "log");
    let whole = std::fs::read(&wal).unwrap();
    let (mut refused, mut torn) = (0, 0);
    let places = (0..whole.len()).step_by(17);
    for at in places.clone() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&wal, &flipped).unwrap();
        let examined = examine(folder.path(), |_| Ok(()));
        match examined.problems.first() {
            Some(problem) => {
                assert!(problem.to_string().contains("was synced"), "{problem}");
                refused += 1;
            }
            None => torn += 1,
        }
        std::fs::write(&wal, &whole[..at]).unwrap();
        let examined = examine(folder.path(), |_| Ok(()));
        assert!(examined.problems.is_empty(), "{:?}", examined.problems);
    }
    // The last of twelve records, and the lengths of the others.
    assert!(torn < places.len() / 6, "{torn} of {}", places.len());
    assert_eq!(refused + torn, places.len());
}

#[tokio::test]
async fn a_flipped_bit_in_a_table_is_never_served() {
    let folder = stopped_log().await;
    // Opening writes what it recovers from the WAL into a table.
    let log = LogStore::open(folder.path(), SyncPolicy::Always).unwrap();
    log.close().await.unwrap();
    drop(log);
    let table = database_file(folder.path(), "sst");
    let whole = std::fs::read(&table).unwrap();
    let expected = examine(folder.path(), |_| Ok(())).contents.unwrap();
    let mut refused = 0;
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&table, bytes).unwrap();
        let examined = examine(folder.path(), |_| Ok(()));
        if examined.problems.is_empty() {
            // Bytes that carry nothing of the log: statistics, padding.
            assert_eq!(examined.contents.as_ref(), Some(&expected), "byte {at}");
        } else {
            refused += 1;
        }
    }
    assert!(
        refused * 6 > whole.len(),
        "{refused} of {}",
        whole.len() / 3
    );
}

#[tokio::test]
async fn a_record_of_another_version_is_refused_by_number_and_not_called_damage() {
    let folder = stopped_log().await;
    let db = reopen_database(&folder.path().join("rocksdb"));
    let mut record = db.get(keys::entry(49)).unwrap().unwrap();
    record[0] = 9;
    db.put(keys::entry(49), record).unwrap();
    db.flush_wal(true).unwrap();
    drop(db);
    let error = reopen_error(folder.path()).await;
    assert!(error.contains("format version 9"), "{error}");
    assert!(!error.contains("damaged"), "{error}");
    assert!(!error.contains("--join"), "{error}");
}

#[tokio::test]
async fn a_read_older_than_the_memory_tail_comes_from_disk_without_a_hole() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(folder.path(), SyncPolicy::Always).unwrap();
    let command = bytes::Bytes::from(vec![7; 64 << 10]);
    for start in (0..600).step_by(50) {
        let entries = (start..start + 50).map(|index| {
            let proposal = Proposal {
                command: command.clone(),
                ..Proposal::default()
            };
            Entry::new(log_id(1, index), openraft::EntryPayload::Normal(proposal))
        });
        log.blocking_append(entries).await.unwrap();
    }
    let held_from = log.shared.state.read().tail.first().unwrap();
    assert!(
        held_from > 100,
        "the tail keeps to its budget, holds from {held_from}"
    );
    let mut reader = log.get_log_reader().await;
    let entries = reader.try_get_log_entries(0..600).await.unwrap();
    let indexes: Vec<u64> = entries.iter().map(RaftEntry::index).collect();
    assert_eq!(indexes, (0..600).collect::<Vec<_>>());
}

#[tokio::test]
async fn callbacks_of_a_group_come_after_its_entries_are_readable() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(folder.path(), SyncPolicy::Always).unwrap();
    let mut waits = Vec::new();
    for index in 0..100 {
        let (done, wait) = <TypeConfig>::oneshot();
        log.append([entry(1, index)], IOFlushed::signal(done))
            .await
            .unwrap();
        let mut reader = log.get_log_reader().await;
        let read = reader.try_get_log_entries(index..=index).await.unwrap();
        assert_eq!(
            read.len(),
            1,
            "entry {index} is readable when append returns"
        );
        waits.push(wait);
    }
    for wait in waits {
        wait.await.unwrap().unwrap();
    }
}

fn reopen_database(path: &std::path::Path) -> rocksdb::DB {
    rocksdb::DB::open_default(path).unwrap()
}

fn remove_entries(path: &std::path::Path, from: u64) {
    let db = reopen_database(path);
    let mut batch = rocksdb::WriteBatch::default();
    batch.delete_range(keys::entry(from), keys::entries_end());
    db.write(batch).unwrap();
    db.flush_wal(true).unwrap();
}

async fn reopen_error(path: &std::path::Path) -> String {
    let error: io::Error = match LogStore::open(path, SyncPolicy::Always) {
        Ok(_) => panic!("a damaged log must be refused"),
        Err(error) => error,
    };
    error.to_string()
}
