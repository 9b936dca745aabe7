//! Opens the log and decides whether what is there can be believed.
//!
//! It never repairs, and it never changes what it refuses: everything is read and checked through a
//! read-only view first, because opening a database for writing replays its WAL and then deletes it.
//! A log that lost what was once synced is refused, with what is missing and how to rebuild the node
//! from its peers, because a Raft node that forgot an acknowledged entry or a vote can elect a leader
//! that lacks committed entries.

use std::io;
use std::path::Path;

use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use rocksdb::{DB, DBRecoveryMode, Options};

use super::keys;
use super::mark::{Mark, Reading};
use super::wal;
use crate::codec;
use crate::directory::{create_durable, sync};
use crate::types::{Entry, LogId, StoredMembership, Vote, vote_rank};

const DATABASE: &str = "rocksdb";
const MARK: &str = "synced-mark";

pub(super) struct Recovered {
    pub db: DB,
    pub mark: Mark,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub membership: Option<StoredMembership>,
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// The first entry's id, if there is one.
    pub first: Option<LogId>,
    /// The last entry's id, or `purged` when there is none.
    pub last: Option<LogId>,
    /// The newest membership among the entries.
    pub membership: Option<StoredMembership>,
}

/// A log as it was read, without a change to it.
#[derive(Debug, Default)]
pub(crate) struct Examined {
    /// `None` where the file cannot be believed; `problems` says why.
    pub mark: Option<Reading>,
    /// `None` where the database cannot be read.
    pub contents: Option<Contents>,
    /// Everything for which the log is refused. Empty: it is sound.
    pub problems: Vec<io::Error>,
    /// Whether the WAL ends in a record that does not hold, or is followed by one.
    pub torn: bool,
}

/// What is wrong, for whoever starts the node.
fn refused(directory: &Path, why: io::Error) -> io::Error {
    let kind = why.kind();
    let directory = directory.display();
    let verdict = match kind {
        // Another build's; nothing is lost.
        io::ErrorKind::Unsupported => format!("the log in {directory}: {why}"),
        io::ErrorKind::InvalidData => format!("the log in {directory} is damaged: {why}"),
        // Out of descriptors, no permission, an unreadable disk: perhaps whole.
        _ => format!("the log in {directory} cannot be used: {why}"),
    };
    with_remedy(io::Error::new(kind, verdict))
}

/// What to do with a node whose directory is refused.
pub(crate) const HOW_TO_REBUILD: &str = "This node must not vote with it, so it will not start. To rebuild the node from its peers: keep the directory for \
    analysis, remove the node from the cluster, and start it with --join and an empty data \
    directory; it comes back as a new node. If the peers cannot serve either, see `A damaged node` \
    in docs/operations.md first";

/// An error that tells damage, with what to do about it.
pub(crate) fn with_remedy(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidData => {
            io::Error::new(error.kind(), format!("{error}. {HOW_TO_REBUILD}"))
        }
        _ => error,
    }
}

fn damaged(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn options(mode: DBRecoveryMode) -> Options {
    let mut options = Options::default();
    options.set_wal_recovery_mode(mode);
    options.set_paranoid_checks(true);
    options.set_max_total_wal_size(256 << 20);
    options.set_write_buffer_size(32 << 20);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_keep_log_file_num(4);
    options
}

/// Stops at the first record that does not hold; the mark then tells a torn tail from a loss.
const RECOVERY: DBRecoveryMode = DBRecoveryMode::PointInTime;

/// Opens or makes the log in `directory`.
pub(super) fn open(directory: &Path) -> io::Result<Recovered> {
    create_durable(directory)?;
    let database = directory.join(DATABASE);
    let mark_path = directory.join(MARK);
    let exists = mark_path.exists() || database.join("CURRENT").exists();
    let (mark, found) = if exists {
        let examined = examine(directory, |_| Ok(()));
        if let Some(problem) = examined.problems.into_iter().next() {
            return Err(refused(directory, problem));
        }
        let mark = Mark::open(&mark_path).map_err(|error| refused(directory, error))?;
        (mark, examined.contents.unwrap_or_default())
    } else {
        let mark = Mark::create(&mark_path)?;
        // Before the database, or a power cut could leave a database without its mark.
        sync(directory)?;
        (mark, Contents::default())
    };
    let mut options = options(RECOVERY);
    options.create_if_missing(true);
    let db = DB::open(&options, &database)
        .map_err(|error| refused(directory, keys::storage_error(error)))?;
    for folder in [directory, &database] {
        sync(folder)?;
    }
    let Contents {
        vote,
        committed,
        purged,
        last,
        membership,
        ..
    } = found;
    // What is opened is what was read: a cheap look at both ends.
    let opened = read_vote(&db).and_then(|vote| Ok((vote, keys::last_entry(&db)?)));
    let (opened_vote, opened_last) = opened.map_err(|error| refused(directory, error))?;
    if opened_vote != vote || opened_last.or(purged) != last {
        return Err(refused(
            directory,
            damaged("it reads differently when it is opened for writing"),
        ));
    }
    Ok(Recovered {
        db,
        mark,
        vote,
        committed: committed.min(last),
        purged,
        last,
        membership,
    })
}

/// Reads all of a log, with every checksum, and says what is wrong with it. Each entry is shown to
/// `look`. Changes nothing.
pub(crate) fn examine(directory: &Path, look: impl FnMut(&Entry) -> io::Result<()>) -> Examined {
    let mut problems = Vec::new();
    let database = directory.join(DATABASE);
    let mark_path = directory.join(MARK);
    let mark = if mark_path.exists() {
        Mark::read(&mark_path)
            .map_err(|error| problems.push(error))
            .ok()
    } else {
        problems.push(damaged(format!("its {MARK} is missing")));
        None
    };
    let mut torn = false;
    let contents = if database.join("CURRENT").exists() {
        let read = DB::open_for_read_only(&options(RECOVERY), &database, false)
            .map_err(keys::storage_error)
            .and_then(|db| read(&db, look));
        // A second view that forgives nothing tells whether the first one forgave something.
        torn = read.is_ok()
            && DB::open_for_read_only(
                &options(DBRecoveryMode::AbsoluteConsistency),
                &database,
                false,
            )
            .is_err();
        if torn {
            match wal::damage(&database) {
                Ok(None) => {}
                Ok(Some(damage)) => problems.push(damaged(format!(
                    "the record at byte {} of {} does not hold, and was synced before another was \
                     begun, at byte {}",
                    damage.offset,
                    damage.file.display(),
                    damage.next
                ))),
                Err(error) => problems.push(error),
            }
        }
        read.map_err(|error| problems.push(error)).ok()
    } else {
        // The mark is made first: a process may have ended between the two.
        Some(Contents::default())
    };
    if let (Some(mark), Some(contents)) = (&mark, &contents) {
        let exists = database.join("CURRENT").exists();
        check_mark(mark, contents, exists, &mut problems);
    }
    Examined {
        mark,
        contents,
        problems,
        torn,
    }
}

fn check_mark(mark: &Reading, contents: &Contents, exists: bool, problems: &mut Vec<io::Error>) {
    let durable = mark.value;
    if !exists && durable != Default::default() {
        problems.push(damaged(
            "the mark says that entries or a vote were synced, and the database is missing",
        ));
        return;
    }
    let below = contents.last.map_or(0, |last| last.index + 1);
    if below < durable.synced_below {
        problems.push(damaged(format!(
            "entries {below} to {} were synced and are gone",
            durable.synced_below - 1
        )));
    }
    let rank = contents.vote.as_ref().map_or((0, false), vote_rank);
    if rank < durable.vote {
        problems.push(damaged(format!(
            "a vote of term {} was synced, and the newest found is of term {}",
            durable.vote.0, rank.0
        )));
    }
}

fn read_vote(db: &DB) -> io::Result<Option<Vote>> {
    read_meta(db, keys::VOTE)
}

fn read_meta<T: serde::de::DeserializeOwned>(db: &DB, name: &str) -> io::Result<Option<T>> {
    db.get(keys::meta(name))
        .map_err(keys::storage_error)?
        .map(|bytes| codec::decode(name, &bytes))
        .transpose()
}

/// Reads everything. Every entry decodes, they follow each other without a hole from the purged one
/// on, and terms never fall.
fn read(db: &DB, mut look: impl FnMut(&Entry) -> io::Result<()>) -> io::Result<Contents> {
    let purged: Option<LogId> = read_meta(db, keys::PURGED)?;
    let mut contents = Contents {
        vote: read_vote(db)?,
        committed: read_meta::<Option<LogId>>(db, keys::COMMITTED)?.flatten(),
        purged,
        last: purged,
        ..Contents::default()
    };
    for entry in keys::iterate(db, purged.map_or(0, |purged| purged.index + 1)) {
        let entry = entry?;
        let log_id = entry.log_id();
        let last = contents.last;
        let expected = last.map_or(0, |last| last.index + 1);
        if log_id.index != expected || last.is_some_and(|last| last > log_id) {
            let before = last.map_or("the beginning".to_owned(), |last| last.to_string());
            return Err(damaged(format!(
                "entry {log_id} follows {before}, not index {expected}"
            )));
        }
        if let EntryPayload::Membership(membership) = &entry.payload {
            contents.membership = Some(StoredMembership::new(Some(log_id), membership.clone()));
        }
        look(&entry)?;
        contents.first.get_or_insert(log_id);
        contents.last = Some(log_id);
    }
    Ok(contents)
}
