//! Opens the log and decides whether what is there can be believed.
//!
//! It never repairs: a log that lost what was once synced is refused, with what is missing and how
//! to rebuild the node from its peers, because a Raft node that forgot an acknowledged entry or a
//! vote can elect a leader that lacks committed entries.

use std::io;
use std::path::Path;

use openraft::entry::RaftEntry;
use rocksdb::{DB, DBRecoveryMode, Options};

use super::keys;
use super::mark::Mark;
use crate::codec;
use crate::directory::{create_durable, sync};
use crate::types::{LogId, Vote, vote_rank};

const DATABASE: &str = "rocksdb";
const MARK: &str = "synced-mark";
const HOW_TO_REBUILD: &str = "This node must not vote with it. Keep the directory for analysis. To \
    get its state from its peers, remove this node from the cluster, and start it with an empty data \
    directory and --join";

pub(super) struct Recovered {
    pub db: DB,
    pub mark: Mark,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
}

fn refused(directory: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the log in {} is damaged: {why}. {HOW_TO_REBUILD}",
            directory.display()
        ),
    )
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    // Stop at the first record that does not hold; the mark then tells a torn tail from a loss.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_paranoid_checks(true);
    options.set_max_total_wal_size(256 << 20);
    options.set_write_buffer_size(32 << 20);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_keep_log_file_num(4);
    options
}

pub(super) fn open(directory: &Path) -> io::Result<Recovered> {
    create_durable(directory)?;
    let database = directory.join(DATABASE);
    let mark_path = directory.join(MARK);
    let existed = database.join("CURRENT").exists();
    let mark = if mark_path.exists() {
        Mark::open(&mark_path).map_err(|error| refused(directory, error))?
    } else if existed {
        return Err(refused(directory, "its synced mark is missing"));
    } else {
        let mark = Mark::create(&mark_path)?;
        // Before the database, or a power cut could leave a database without its mark.
        sync(directory)?;
        mark
    };
    if !existed && mark.value() != Default::default() {
        return Err(refused(
            directory,
            "the mark says that entries or a vote were synced, and the database is missing",
        ));
    }
    let db = DB::open(&options(), &database).map_err(|error| refused(directory, error))?;
    for folder in [directory, &database] {
        sync(folder)?;
    }

    let vote = read_meta::<Vote>(&db, keys::VOTE).map_err(|error| refused(directory, error))?;
    let committed = read_meta::<Option<LogId>>(&db, keys::COMMITTED)
        .map_err(|error| refused(directory, error))?
        .flatten();
    let purged =
        read_meta::<LogId>(&db, keys::PURGED).map_err(|error| refused(directory, error))?;
    let last = check_entries(&db, purged).map_err(|error| refused(directory, error))?;

    let durable = mark.value();
    let below = last.map_or(0, |last| last.index + 1);
    if below < durable.synced_below {
        return Err(refused(
            directory,
            format!(
                "entries {below} to {} were synced and are gone",
                durable.synced_below - 1
            ),
        ));
    }
    let rank = vote.as_ref().map_or((0, false), vote_rank);
    if rank < durable.vote {
        return Err(refused(
            directory,
            format!(
                "a vote of term {} was synced, and the newest found is of term {}",
                durable.vote.0, rank.0
            ),
        ));
    }
    Ok(Recovered {
        db,
        mark,
        vote,
        committed: committed.min(last),
        purged,
        last,
    })
}

fn read_meta<T: serde::de::DeserializeOwned>(db: &DB, name: &str) -> io::Result<Option<T>> {
    db.get(keys::meta(name))
        .map_err(keys::storage_error)?
        .map(|bytes| codec::decode(name, &bytes))
        .transpose()
}

/// Every entry decodes, they follow each other without a hole from the purged one on, and terms
/// never fall. Returns the last id.
fn check_entries(db: &DB, purged: Option<LogId>) -> io::Result<Option<LogId>> {
    let mut last = purged;
    for entry in keys::iterate(db, purged.map_or(0, |purged| purged.index + 1)) {
        let log_id = entry?.log_id();
        let expected = last.map_or(0, |last| last.index + 1);
        if log_id.index != expected || last.is_some_and(|last| last > log_id) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("entry {log_id} follows {last:?}, not index {expected}"),
            ));
        }
        last = Some(log_id);
    }
    Ok(last)
}
