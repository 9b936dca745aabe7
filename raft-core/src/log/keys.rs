//! How the log lies in RocksDB: key layout, and reading what is there.
//!
//! Every key starts with the group, so that several Raft groups can later share one database and
//! one WAL. Big-endian numbers sort as numbers.

use std::io;

use openraft::entry::RaftEntry;
use rocksdb::{DB, Direction, IteratorMode};

use super::tail::size;
use crate::codec;
use crate::types::{Entry, GROUP, LogId};

const META: u8 = 0;
const ENTRY: u8 = 1;

pub(super) const VOTE: &str = "vote";
pub(super) const COMMITTED: &str = "committed";
pub(super) const PURGED: &str = "purged";

fn prefix(kind: u8) -> Vec<u8> {
    let mut key = GROUP.to_be_bytes().to_vec();
    key.push(kind);
    key
}

pub(super) fn meta(name: &str) -> Vec<u8> {
    let mut key = prefix(META);
    key.extend_from_slice(name.as_bytes());
    key
}

pub(super) fn entry(index: u64) -> Vec<u8> {
    let mut key = prefix(ENTRY);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// The first key behind every entry of this group.
pub(super) fn entries_end() -> Vec<u8> {
    prefix(ENTRY + 1)
}

/// Damage is told from other troubles by its kind.
pub(super) fn storage_error(error: rocksdb::Error) -> io::Error {
    let missing = |error: &rocksdb::Error| error.as_ref().contains("No such file");
    match error.kind() {
        rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::NotFound => {
            io::Error::new(io::ErrorKind::InvalidData, error)
        }
        _ if missing(&error) => io::Error::new(io::ErrorKind::InvalidData, error),
        _ => io::Error::other(error),
    }
}

/// The id of the last entry on disk.
pub(super) fn last_entry(db: &DB) -> io::Result<Option<LogId>> {
    let behind = entries_end();
    let mut last = db.iterator(IteratorMode::From(&behind, Direction::Reverse));
    match last.next() {
        None => Ok(None),
        Some(item) => {
            let (key, value) = item.map_err(storage_error)?;
            if !key.starts_with(&prefix(ENTRY)) {
                return Ok(None);
            }
            let entry: Entry = codec::decode("log entry", &value)?;
            Ok(Some(entry.log_id()))
        }
    }
}

/// Entries of `[start, end)` on disk, at most about `max_bytes` but at least one if there is one.
pub(super) fn read_entries(
    db: &DB,
    start: u64,
    end: u64,
    max_bytes: usize,
) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for decoded in iterate(db, start) {
        let decoded = decoded?;
        if decoded.index() >= end || (bytes >= max_bytes && !entries.is_empty()) {
            break;
        }
        bytes += size(&decoded);
        entries.push(decoded);
    }
    Ok(entries)
}

/// Every entry on disk from `start` on, in order.
pub(super) fn iterate(db: &DB, start: u64) -> impl Iterator<Item = io::Result<Entry>> + '_ {
    let from = entry(start);
    let behind = entries_end();
    db.iterator(IteratorMode::From(&from, Direction::Forward))
        .take_while(move |item| match item {
            Ok((key, _)) => key.as_ref() < behind.as_slice(),
            Err(_) => true,
        })
        .map(|item| {
            let (key, value) = item.map_err(storage_error)?;
            let decoded: Entry = codec::decode("log entry", &value)?;
            if key.as_ref() != entry(decoded.index()).as_slice() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("log entry {} lies under another index", decoded.index()),
                ));
            }
            Ok(decoded)
        })
}
