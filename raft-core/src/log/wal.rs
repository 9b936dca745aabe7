//! Tells a torn tail of RocksDB's write-ahead log from damage in the middle of it.
//!
//! Recovery stops at the first record that does not hold. The writer syncs each record before it
//! begins the next (`writer.rs`), so a record that does not hold and has another one behind it was
//! durable once: it was damaged, and not torn. The synced mark says the same, about a second late;
//! this says it at once. It never decides where a log ends: RocksDB does.
//!
//! The format is RocksDB's (`db/log_format.h`): blocks of 32 KiB of fragments, each with a masked
//! CRC-32C over type and payload, its length and its type.
//!
//! Not told: damage to the newest record, which looks as if it was torn; and damage to the length
//! of a record in the block where the newest begins, behind which nothing can be found. Where syncs
//! are left out (`SyncPolicy::Never`), a power cut can leave what looks like damage; nobody can say
//! then what such a log has lost, so it is refused too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;

/// How a fragment belongs to its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A record begins here.
    Begins,
    /// It began before.
    GoesOn,
}

/// A record that was durable and does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub file: PathBuf,
    /// Where it is.
    pub offset: usize,
    /// Where the next record is that holds.
    pub next: usize,
}

/// The first damage in any log of a database. Reads whole files, one at a time.
pub(super) fn damage(database: &Path) -> io::Result<Option<Damage>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(database)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            files.push(path);
        }
    }
    files.sort();
    for file in files {
        if let Some((offset, next)) = damage_in(&fs::read(&file)?) {
            return Ok(Some(Damage { file, offset, next }));
        }
    }
    Ok(None)
}

/// Where a fragment that does not hold is, and the next record behind it.
fn damage_in(log: &[u8]) -> Option<(usize, usize)> {
    let bad = find(log, 0, |_| false).err()?;
    // What follows is where its length says, if that is right, and at every block.
    let mut from = length(log, bad).map_or(next_block(bad), |length| bad + HEADER_BYTES + length);
    while from < log.len() {
        match find(log, from, |part| part == Part::Begins) {
            Ok(next) => return next.map(|next| (bad, next)),
            Err(at) => from = next_block(at),
        }
    }
    None
}

/// Goes from fragment to fragment until one is `wanted`, and says where; `None` at the end of the log.
/// The error is where a fragment does not hold.
fn find(log: &[u8], from: usize, wanted: impl Fn(Part) -> bool) -> Result<Option<usize>, usize> {
    let mut at = from;
    while at < log.len() {
        if next_block(at) - at < HEADER_BYTES {
            at = next_block(at);
            continue;
        }
        let (part, length) = fragment(log, at).ok_or(at)?;
        if wanted(part) {
            return Ok(Some(at));
        }
        at += HEADER_BYTES + length;
    }
    Ok(None)
}

fn next_block(at: usize) -> usize {
    (at / BLOCK_BYTES + 1) * BLOCK_BYTES
}

/// The length that a header claims, if that much can be there.
fn length(log: &[u8], at: usize) -> Option<usize> {
    let bytes = log.get(at + 4..at + 6)?;
    let length = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    (at + HEADER_BYTES + length <= next_block(at).min(log.len())).then_some(length)
}

/// A fragment that holds.
fn fragment(log: &[u8], at: usize) -> Option<(Part, usize)> {
    let length = length(log, at)?;
    let sealed = log.get(at + 6..at + HEADER_BYTES + length)?;
    let part = match sealed[0] {
        1 | 2 => Part::Begins,
        3 | 4 => Part::GoesOn,
        _ => return None,
    };
    let checksum = crc32c::crc32c(sealed)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8);
    (log[at..at + 4] == checksum.to_le_bytes()).then_some((part, length))
}

#[cfg(test)]
mod tests {
    use rocksdb::{DB, Options, WriteBatch, WriteOptions};

    use super::super::tests::database_file;
    use super::*;

    /// A log that RocksDB wrote, of records of these sizes, and where each begins.
    fn written(sizes: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::default();
        options.create_if_missing(true);
        let db = DB::open(&options, folder.path().join("rocksdb")).unwrap();
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        let (mut log, mut begins) = (Vec::new(), Vec::new());
        for size in sizes {
            begins.push(log.len());
            let mut batch = WriteBatch::default();
            batch.put(b"key", vec![7; *size]);
            db.write_opt(batch, &synced).unwrap();
            log = fs::read(database_file(folder.path(), "log")).unwrap();
        }
        (log, begins)
    }

    #[test]
    fn a_whole_log_and_one_that_was_cut_anywhere_are_no_damage() {
        let (log, _) = written(&[10, 300, 70_000, 20, 40_000, 5]);
        assert_eq!(find(&log, 0, |_| false), Ok(None));
        for length in (0..log.len()).step_by(11) {
            assert_eq!(damage_in(&log[..length]), None, "cut to {length}");
        }
    }

    #[test]
    fn a_record_that_lost_any_of_its_pages_is_torn_when_it_is_the_last() {
        let (log, begins) = written(&[10, 300, 70_000]);
        let last = begins[2];
        for page in (last / 4096 + 1)..log.len() / 4096 {
            let mut torn = log.clone();
            torn[page * 4096..(page + 1) * 4096].fill(0);
            assert!(find(&torn, 0, |_| false).is_err());
            assert_eq!(damage_in(&torn), None, "page {page}");
        }
    }

    #[test]
    fn a_flipped_bit_before_the_last_record_is_damage_but_in_lengths_of_the_last_block() {
        let (log, begins) = written(&[10, 300, 70_000, 20, 30, 40]);
        let last_block = log.len() / BLOCK_BYTES * BLOCK_BYTES;
        let last = *begins.last().unwrap();
        let is_length = |at: usize| {
            begins
                .iter()
                .any(|begin| (begin + 4..begin + 6).contains(&at))
        };
        let mut missed = 0;
        for at in (0..last).filter(|at| at % 13 == 0 || *at > last - 200 || *at < 400) {
            let mut flipped = log.clone();
            flipped[at] ^= 1 << (at % 8);
            match damage_in(&flipped) {
                Some((bad, next)) => {
                    assert!(bad <= at && at < next, "bit at {at}: {bad}, {next}");
                    assert!(begins.contains(&next), "bit at {at}: {next}");
                }
                None => {
                    assert!(at >= last_block && is_length(at), "bit at {at} is missed");
                    missed += 1;
                }
            }
        }
        assert!(missed <= 4, "{missed}");
        for at in last..log.len() {
            let mut flipped = log.clone();
            flipped[at] ^= 1 << (at % 8);
            assert_eq!(damage_in(&flipped), None, "bit at {at} of the last record");
        }
    }
}
