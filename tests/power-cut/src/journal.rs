//! The journal: what became durable, in the order in which it did.
//!
//! Append-only, one `write` per record on an `O_APPEND` descriptor, so that records of several
//! threads and processes never mix and the file outlives SIGKILL (it need not outlive a real power
//! cut). A record is `magic, length, checksum, postcard(Record)`; the last byte of the magic is the
//! format's version. A record that a kill tore is skipped: the operation that it speaks of had not
//! returned.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sys;

const MAGIC: [u8; 4] = *b"PCJ\x01";
const HEADER_BYTES: usize = 12;

/// A regular file's inode number. The keep folder's link pins it, so it means one file for as long
/// as the journal speaks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Inode(pub u64);

/// A directory. Directories cannot be pinned by links, so the time of birth tells apart those that
/// had the same inode number one after the other (0 where the file system does not know it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct DirectoryId {
    pub inode: u64,
    pub born_ns: u64,
}

/// A point in the order of events, across threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Sequence(pub u64);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// The first record: what is under `directory`, as the records that follow state, is durable.
    Began { directory: DirectoryId },
    /// A process runs under the shim.
    Attached { pid: u32 },
    /// A sync of a file, which began at `sequence` and found `length_bytes`, has succeeded.
    FileSynced {
        file: Inode,
        length_bytes: u64,
        sequence: Sequence,
    },
    /// A sync of a directory, which began at `sequence` and found `entries`, has succeeded.
    DirectorySynced {
        directory: DirectoryId,
        entries: Vec<Entry>,
        sequence: Sequence,
    },
    /// What is durable at `offset` of a file, about to be changed.
    Overwriting {
        file: Inode,
        offset: u64,
        bytes: Vec<u8>,
        sequence: Sequence,
    },
    /// No durable directory lists the file any more, nor does any other: its number is free.
    Forgotten { file: Inode },
    /// A sync returned 0 and did nothing.
    SyncLied,
    /// A sync of a file failed; no later one counts.
    FileSyncFailed { file: Inode },
    /// A sync of a directory failed; no later one counts.
    DirectorySyncFailed { directory: DirectoryId },
    /// The journal is no longer the truth.
    GaveUp { reason: String },
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Not always UTF-8.
    pub name: Vec<u8>,
    pub kind: EntryKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum EntryKind {
    File(Inode),
    Directory { id: DirectoryId, mode: u32 },
    Symlink { target: Vec<u8> },
}

/// A journal that is open for appending. Whoever has one open is counted as running.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    identity: (u64, u64),
}

impl Journal {
    /// Makes a new, empty journal.
    pub(crate) fn create(path: &Path) -> Result<Journal> {
        let file = OpenOptions::new().append(true).create_new(true).open(path);
        match file {
            Ok(file) => Journal::attach(file, path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::JournalExists(path.to_owned()))
            }
            Err(error) => Err(Error::io("creating", path)(error)),
        }
    }

    /// Opens an existing journal.
    pub(crate) fn open(path: &Path) -> Result<Journal> {
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .map_err(Error::io("opening", path))?;
        Journal::attach(file, path)
    }

    fn attach(file: File, path: &Path) -> Result<Journal> {
        // Out of the way of programs that expect, or close, small descriptors.
        let file = sys::move_descriptor_up(file);
        file.lock_shared().map_err(Error::io("locking", path))?;
        let metadata = file.metadata().map_err(Error::io("reading", path))?;
        Ok(Journal {
            file,
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// Appends one record. Not synced: the journal need only outlive the process.
    pub(crate) fn append(&self, record: &Record) -> io::Result<()> {
        // A program may close descriptors that it did not open, and get the number again for a file
        // of its own: never write the journal into that.
        let stat = sys::fstat(self.file.as_raw_fd()).ok_or_else(io::Error::last_os_error)?;
        if (stat.device, stat.inode) != self.identity {
            return Err(io::Error::other(
                "the program closed the journal's descriptor",
            ));
        }
        let bytes = encode(record)?;
        let written = (&self.file).write(&bytes)?;
        if written != bytes.len() {
            return Err(io::Error::other(
                "a record was cut short (is the disk full?)",
            ));
        }
        Ok(())
    }

    /// As [`append`](Journal::append), with the error that callers outside of the shim want.
    pub(crate) fn put(&self, record: &Record) -> Result<()> {
        self.append(record)
            .map_err(Error::io("appending to", &self.path))
    }

    /// Tries to be the only one who has the journal open; false if somebody else has.
    pub(crate) fn lock_alone(&self) -> Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(Error::io("locking", &self.path)(error)),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Closing alone would leave it locked while a child that some other thread just forked has
        // not yet executed its program. Failing leaves the lock to the close.
        let _ = self.file.unlock();
    }
}

/// Every whole record of the journal, in order.
pub(crate) fn read(path: &Path) -> Result<Vec<Record>> {
    let bytes = std::fs::read(path).map_err(Error::io("reading", path))?;
    let records = decode_all(&bytes);
    match records.first() {
        Some(Record::Began { .. }) => Ok(records),
        _ => Err(Error::NotAJournal(path.to_owned())),
    }
}

fn encode(record: &Record) -> io::Result<Vec<u8>> {
    let payload = postcard::to_stdvec(record).map_err(io::Error::other)?;
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

fn decode_all(mut bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while bytes.len() >= HEADER_BYTES {
        match decode(bytes) {
            Some((record, used)) => {
                records.push(record);
                bytes = &bytes[used..];
            }
            None => bytes = &bytes[1..],
        }
    }
    records
}

/// The record at the start of `bytes`, and its size; none if no whole, sound record starts there.
fn decode(bytes: &[u8]) -> Option<(Record, usize)> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (length, rest) = rest.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let payload = rest.get(..u32::from_le_bytes(*length) as usize)?;
    if crc32fast::hash(payload) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let record = postcard::from_bytes(payload).ok()?;
    Some((record, HEADER_BYTES + payload.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_records() -> Vec<Record> {
        let directory = DirectoryId {
            inode: 7,
            born_ns: 8,
        };
        vec![
            Record::Began { directory },
            Record::Overwriting {
                file: Inode(3),
                offset: 9,
                bytes: MAGIC.repeat(3),
                sequence: Sequence(1),
            },
            Record::FileSynced {
                file: Inode(3),
                length_bytes: 100,
                sequence: Sequence(2),
            },
        ]
    }

    #[test]
    fn records_read_back_as_written() {
        let bytes: Vec<u8> = some_records()
            .iter()
            .flat_map(|r| encode(r).unwrap())
            .collect();
        assert_eq!(decode_all(&bytes), some_records());
    }

    #[test]
    fn a_torn_record_is_skipped_and_those_after_it_are_read() {
        let records = some_records();
        let whole: Vec<Vec<u8>> = records.iter().map(|r| encode(r).unwrap()).collect();
        for kept in 0..whole[1].len() {
            let mut bytes = whole[0].clone();
            bytes.extend_from_slice(&whole[1][..kept]);
            assert_eq!(
                decode_all(&bytes),
                records[..1],
                "torn at {kept}, at the end"
            );
            bytes.extend_from_slice(&whole[2]);
            let expected = [records[0].clone(), records[2].clone()];
            assert_eq!(
                decode_all(&bytes),
                expected,
                "torn at {kept}, in the middle"
            );
        }
    }

    #[test]
    fn another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut bytes = encode(&some_records()[0]).unwrap();
        bytes[3] = 2;
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(read(&path), Err(Error::NotAJournal(_))));
    }
}
