//! The synced mark: a small file beside RocksDB that says what was once durable.
//!
//! RocksDB's recovery cannot tell a torn, unsynced tail from lost, synced data: both end the log
//! early. The mark can: recovery requires `last index >= mark` and `vote >= mark`. It lags (the
//! writer advances it about once a second and when it is idle), so losing less than about a second
//! of synced entries can go unnoticed; it never runs ahead, because the database is always synced
//! before the mark that speaks of it, and the mark is lowered and synced before a truncation.
//!
//! Two slots, written in turn, each with a sequence number and a checksum, in separate sectors: a
//! torn write spoils at most the slot being written.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::codec::unknown_version;

const MAGIC: &[u8; 8] = b"PALIMARK";
const VERSION: u32 = 1;
const SLOT_BYTES: usize = 64;
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const FILE_BYTES: u64 = 8192;

/// What was durable when the mark was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Durable {
    /// Term of the vote, and whether it was a leader's.
    pub vote: (u64, bool),
    /// One more than the last synced index; 0 when nothing is.
    pub synced_below: u64,
}

pub(super) struct Mark {
    file: File,
    path: PathBuf,
    sequence: u64,
    value: Durable,
}

/// What a mark file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    sequence: u64,
    pub value: Durable,
    /// One slot does not hold: a write torn by a power cut, or damage. The other, one write older,
    /// is what counts then.
    pub one_slot_spoiled: bool,
}

impl Mark {
    /// Makes a new mark file; a process that is killed meanwhile leaves none. The caller syncs the
    /// directory.
    pub fn create(path: &Path) -> io::Result<Self> {
        let partial = path.with_extension("partial");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&partial)?;
        file.set_len(FILE_BYTES)?;
        let mut mark = Self {
            file,
            path: path.to_owned(),
            sequence: 0,
            value: Durable::default(),
        };
        mark.store(Durable::default())?;
        fs::rename(&partial, path)?;
        Ok(mark)
    }

    /// Opens the mark and takes the newest slot whose checksum holds.
    pub fn open(path: &Path) -> io::Result<Self> {
        let reading = Self::read(path)?;
        if reading.one_slot_spoiled {
            tracing::warn!(
                mark = %path.display(),
                "one slot of the synced mark does not hold: a write torn by a power cut, or damage; \
                 the other is used"
            );
        }
        Ok(Self {
            file: OpenOptions::new().read(true).write(true).open(path)?,
            path: path.to_owned(),
            sequence: reading.sequence,
            value: reading.value,
        })
    }

    /// Reads a mark and changes nothing.
    pub fn read(path: &Path) -> io::Result<Reading> {
        let damaged = |why: &str| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {why}", path.display()),
            )
        };
        let file = File::open(path)?;
        if file.metadata()?.len() != FILE_BYTES {
            return Err(damaged("it has not the length of a synced mark"));
        }
        let mut newest: Option<(u64, Durable)> = None;
        let mut spoiled = 0;
        for offset in SLOT_OFFSETS {
            let mut slot = [0; SLOT_BYTES];
            file.read_exact_at(&mut slot, offset)?;
            match decode(&slot, path)? {
                Slot::Empty => {}
                Slot::Spoiled => spoiled += 1,
                Slot::Written(sequence, value) => {
                    if newest.is_none_or(|(newest, _)| newest < sequence) {
                        newest = Some((sequence, value));
                    }
                }
            }
        }
        let (sequence, value) =
            newest.ok_or_else(|| damaged("neither slot has a valid checksum"))?;
        Ok(Reading {
            sequence,
            value,
            one_slot_spoiled: spoiled > 0,
        })
    }

    pub fn value(&self) -> Durable {
        self.value
    }

    /// Replaces the mark, durably. Does nothing when it says so already.
    pub fn advance(&mut self, value: Durable) -> io::Result<()> {
        if value == self.value {
            return Ok(());
        }
        self.store(value)
    }

    fn store(&mut self, value: Durable) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let offset = SLOT_OFFSETS[usize::from(sequence % 2 == 1)];
        self.file
            .write_all_at(&encode(sequence, value), offset)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
            })?;
        self.sequence = sequence;
        self.value = value;
        Ok(())
    }
}

fn encode(sequence: u64, value: Durable) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..12].copy_from_slice(&VERSION.to_le_bytes());
    slot[12..20].copy_from_slice(&sequence.to_le_bytes());
    slot[20..28].copy_from_slice(&value.vote.0.to_le_bytes());
    slot[28] = u8::from(value.vote.1);
    slot[29..37].copy_from_slice(&value.synced_below.to_le_bytes());
    let checksum = crc32fast::hash(&slot[..SLOT_BYTES - 4]);
    slot[SLOT_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
    slot
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

enum Slot {
    /// Never written.
    Empty,
    Spoiled,
    Written(u64, Durable),
}

fn decode(slot: &[u8; SLOT_BYTES], path: &Path) -> io::Result<Slot> {
    if slot == &[0; SLOT_BYTES] {
        return Ok(Slot::Empty);
    }
    let checksum = crc32fast::hash(&slot[..SLOT_BYTES - 4]);
    if &slot[..8] != MAGIC || slot[SLOT_BYTES - 4..] != checksum.to_le_bytes() {
        return Ok(Slot::Spoiled);
    }
    let version = number(&slot[8..12]);
    if version != u64::from(VERSION) {
        return Err(unknown_version(path.display(), version, VERSION));
    }
    Ok(Slot::Written(
        number(&slot[12..20]),
        Durable {
            vote: (number(&slot[20..28]), slot[28] != 0),
            synced_below: number(&slot[29..37]),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durable(term: u64, synced_below: u64) -> Durable {
        Durable {
            vote: (term, true),
            synced_below,
        }
    }

    #[test]
    fn the_newest_value_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let mut mark = Mark::create(&path).unwrap();
        for step in 1..6 {
            mark.advance(durable(step, step * 10)).unwrap();
            assert_eq!(Mark::open(&path).unwrap().value(), durable(step, step * 10));
        }
    }

    #[test]
    fn a_torn_slot_leaves_the_one_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let mut mark = Mark::create(&path).unwrap();
        mark.advance(durable(1, 10)).unwrap();
        mark.advance(durable(2, 20)).unwrap();
        let newest = SLOT_OFFSETS[usize::from(mark.sequence % 2 == 1)];
        mark.file.write_all_at(&[0xff; 30], newest + 10).unwrap();
        assert_eq!(Mark::open(&path).unwrap().value(), durable(1, 10));
        assert!(Mark::read(&path).unwrap().one_slot_spoiled);
    }

    #[test]
    fn a_flipped_bit_never_makes_a_mark_that_was_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let mut mark = Mark::create(&path).unwrap();
        mark.advance(durable(1, 10)).unwrap();
        mark.advance(durable(2, 20)).unwrap();
        let whole = fs::read(&path).unwrap();
        let slots = SLOT_OFFSETS.map(|offset| offset as usize);
        for position in slots.into_iter().flat_map(|slot| slot..slot + SLOT_BYTES) {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[position] ^= 1 << bit;
                fs::write(&path, &bytes).unwrap();
                let read = Mark::read(&path).unwrap();
                assert!(read.one_slot_spoiled, "byte {position} bit {bit}");
                assert!([durable(1, 10), durable(2, 20)].contains(&read.value));
            }
        }
    }

    #[test]
    fn an_unknown_version_is_refused_by_number_and_is_not_called_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let mark = Mark::create(&path).unwrap();
        let mut slot = encode(1, durable(1, 10));
        slot[8] = 7;
        let checksum = crc32fast::hash(&slot[..SLOT_BYTES - 4]);
        slot[SLOT_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        mark.file.write_all_at(&slot, SLOT_OFFSETS[0]).unwrap();
        let error = Mark::read(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("version 7"), "{error}");
    }

    #[test]
    fn two_spoiled_slots_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let mark = Mark::create(&path).unwrap();
        for offset in SLOT_OFFSETS {
            mark.file.write_all_at(&[1; SLOT_BYTES], offset).unwrap();
        }
        assert!(Mark::open(&path).is_err());
    }
}
