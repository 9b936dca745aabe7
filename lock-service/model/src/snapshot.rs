//! The encoding of a whole state, as snapshots and backups hold it.
//!
//! ```text
//! magic "PALISADE" · format version (u32, little-endian)
//! header · leases · waits · lock delays · tombstones · events · end mark
//! ```
//!
//! The header says how many of each follow. Header, lease, wait, delay, tombstone, event and end
//! mark are one *record* each: its length (u32, little-endian), then its postcard encoding.
//! Everything comes in the order of its key, so equal states have equal bytes, on every node. Locks
//! and deadlines are not written: they follow from the rest, and are rebuilt.
//!
//! Reading trusts nothing: it allocates no more than was really there to read, and checks that
//! what it read is a possible state. It does not detect every flipped bit; whoever keeps the bytes
//! must also keep a checksum.

use std::io::{self, Read, Write};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::planted::{ModelBug, is_planted};
use crate::ring::Ring;
use crate::state::{Delay, Due, DueItem, Founding, Lease, LockTable, Tombstone, Wait};
use crate::{
    ClusterId, Event, LeaseId, LockName, Position, Settings, Timestamp, Token, UnknownModelVersion,
    invariants,
};

const MAGIC: [u8; 8] = *b"PALISADE";

/// The only format so far. Another one means another number, never another meaning of this.
const FORMAT: u32 = 1;

/// No record is longer: a lease holds at most 10,000 locks (`Settings::validate`), whose names and
/// values are shorter than 67,000 bytes together.
const RECORD_MAX_BYTES: u32 = 1 << 30;

/// What comes first: all that there is one of, and how many there are of the rest.
#[derive(Serialize, Deserialize)]
struct Header {
    /// The cluster's id and the model version, of which the number is kept so that an unknown one
    /// can be told from damage.
    founding: Option<(ClusterId, u32)>,
    settings: Settings,
    loosest_settings: Settings,
    clock: Timestamp,
    token_counter: Token,
    last_position: Position,
    held_until: Option<Timestamp>,
    /// The position of the last event that is not in the ring any more.
    events_forgotten: Position,
    leases: u64,
    waits: u64,
    delays: u64,
    tombstones: u64,
    events: u64,
}

/// A lock that cannot be granted for a while.
#[derive(Serialize, Deserialize)]
struct DelayedLock {
    lock: LockName,
    limit: Option<u32>,
    delay: Delay,
}

/// What comes last, so that a state that was cut off between records is noticed.
const END: u32 = u32::from_le_bytes(*b"END.");

/// Why bytes are not the encoding of a state.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading failed, or ended too early.
    #[error("the lock table could not be read: {0}")]
    Io(#[from] io::Error),
    /// The bytes are something else.
    #[error("this is not the encoding of a lock table")]
    NotALockTable,
    /// The format is not known to this build; a newer one may know it.
    #[error(
        "the lock table is in format {found}, this build reads format {FORMAT}; use a newer build"
    )]
    UnknownFormat {
        /// The format's number.
        found: u32,
    },
    /// The state is of a model version that this build does not know.
    #[error(transparent)]
    UnknownModelVersion(#[from] UnknownModelVersion),
    /// The bytes are damaged.
    #[error("the encoding of the lock table is damaged: {what}")]
    Damaged {
        /// What is wrong with them.
        what: String,
    },
}

/// A state as it was at one moment, to be written while the live one goes on.
#[derive(Debug, Clone)]
pub struct Frozen(LockTable);

impl LockTable {
    /// Keeps the state as it is now. Takes no time, whatever its size; the copy shares all that the
    /// live state does not change later.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        Frozen(self.clone())
    }

    /// Reads a state that [`Frozen::write`] wrote, and nothing behind it.
    ///
    /// # Errors
    /// When the bytes are no such state; nothing is kept then. Reads in small pieces: hand in
    /// something buffered.
    pub fn read(from: &mut impl Read) -> Result<Self, ReadError> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(ReadError::NotALockTable);
        }
        let found = read_u32(from)?;
        if found != FORMAT {
            return Err(ReadError::UnknownFormat { found });
        }
        let table = Reader {
            from,
            record: Vec::new(),
        }
        .table()?;
        match invariants::check(&table).first() {
            None => Ok(table),
            Some(violation) => Err(damaged(violation.to_string())),
        }
    }
}

impl Frozen {
    /// Writes the state. Writes in small pieces: hand in something buffered, and flush it.
    ///
    /// # Errors
    /// When `to` fails. What was written then is no state.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let forgetful = forgetful(&self.0);
        let table = forgetful.as_ref().unwrap_or(&self.0);
        to.write_all(&MAGIC)?;
        to.write_all(&FORMAT.to_le_bytes())?;
        let mut writer = Writer {
            to,
            record: Vec::new(),
        };
        let delayed = || {
            table.locks.iter().filter_map(|(name, lock)| {
                let (lock, limit, delay) = (name.clone(), lock.limit, lock.delay?);
                Some(DelayedLock { lock, limit, delay })
            })
        };
        writer.record(&Header {
            founding: table
                .founding
                .map(|founding| (founding.cluster_id, founding.model_version.into())),
            settings: table.settings.clone(),
            loosest_settings: table.loosest_settings.clone(),
            clock: table.clock,
            token_counter: table.token_counter,
            last_position: table.last_position,
            held_until: table.held_until,
            events_forgotten: table.events.forgotten(),
            leases: table.leases.len() as u64,
            waits: table.waits.len() as u64,
            delays: delayed().count() as u64,
            tombstones: table.tombstones.len() as u64,
            events: table.events.len() as u64,
        })?;
        table
            .leases
            .iter()
            .try_for_each(|(id, lease)| writer.record(&(id, lease.as_ref())))?;
        table
            .waits
            .iter()
            .try_for_each(|(place, wait)| writer.record(&(place, wait.as_ref())))?;
        delayed().try_for_each(|delayed| writer.record(&delayed))?;
        table
            .tombstones
            .iter()
            .try_for_each(|(id, tombstone)| writer.record(&(id, tombstone.as_ref())))?;
        table
            .events
            .iter()
            .try_for_each(|event| writer.record(event))?;
        writer.record(&END)
    }
}

/// What a snapshot holds instead of the table, where that is the planted bug.
fn forgetful(table: &LockTable) -> Option<LockTable> {
    let bugs = [
        ModelBug::SnapshotWithoutTokenCounter,
        ModelBug::SnapshotWithoutEndedGrants,
        ModelBug::SnapshotWithoutNewestEvent,
    ];
    let bug = bugs.into_iter().find(|bug| is_planted(*bug))?;
    let mut table = table.clone();
    if bug == ModelBug::SnapshotWithoutNewestEvent {
        let mut events: Vec<Event> = table.events.iter().cloned().collect();
        events.pop();
        table.events = Ring::after(table.events.forgotten());
        for event in events {
            table.events.push(event);
        }
        return Some(table);
    }
    if bug == ModelBug::SnapshotWithoutTokenCounter {
        let held = table.leases.iter().flat_map(|(_, lease)| &lease.holds);
        let largest = held.map(|hold| hold.token).max();
        table.token_counter = largest.unwrap_or_default();
    }
    // Without the counter, too: the ended speak of larger tokens, and would not be believed.
    forget_the_ended(&mut table);
    Some(table)
}

fn forget_the_ended(table: &mut LockTable) {
    let ended: Vec<LeaseId> = table.tombstones.iter().map(|(id, _)| *id).collect();
    for id in ended {
        table.remove_tombstone(id);
    }
    let live: Vec<LeaseId> = table.leases.iter().map(|(id, _)| *id).collect();
    for id in live {
        if let Some(lease) = table.lease_mut(id) {
            (lease.decided, lease.last_grant) = Default::default();
        }
    }
}

struct Writer<'a, W> {
    to: &'a mut W,
    record: Vec<u8>,
}

impl<W: Write> Writer<'_, W> {
    fn record(&mut self, value: &impl Serialize) -> io::Result<()> {
        self.record.clear();
        self.record = postcard::to_extend(value, std::mem::take(&mut self.record))
            .map_err(io::Error::other)?;
        let bytes = u32::try_from(self.record.len())
            .ok()
            .filter(|bytes| *bytes <= RECORD_MAX_BYTES);
        let bytes = bytes.ok_or_else(|| {
            io::Error::other("a record of the lock table is too long to be written")
        })?;
        self.to.write_all(&bytes.to_le_bytes())?;
        self.to.write_all(&self.record)
    }
}

struct Reader<'a, R> {
    from: &'a mut R,
    record: Vec<u8>,
}

impl<R: Read> Reader<'_, R> {
    fn record<T: DeserializeOwned>(&mut self, what: &str) -> Result<T, ReadError> {
        let bytes = read_u32(self.from)?;
        if bytes > RECORD_MAX_BYTES {
            return Err(damaged(format!("{what} of {bytes} bytes")));
        }
        self.record.clear();
        // Grows with what is really there, however long the record claims to be.
        let read = self
            .from
            .take(u64::from(bytes))
            .read_to_end(&mut self.record)?;
        if read < bytes as usize {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match postcard::take_from_bytes(&self.record) {
            Ok((value, [])) => Ok(value),
            Ok(_) => Err(damaged(format!("{what} with something behind it"))),
            Err(error) => Err(damaged(format!("{what}: {error}"))),
        }
    }

    fn table(mut self) -> Result<LockTable, ReadError> {
        let header: Header = self.record("header")?;
        let founding = match header.founding {
            Some((cluster_id, number)) => Some(Founding {
                cluster_id,
                model_version: number.try_into()?,
            }),
            None => None,
        };
        let mut table = LockTable {
            founding,
            settings: header.settings,
            loosest_settings: header.loosest_settings,
            clock: header.clock,
            token_counter: header.token_counter,
            last_position: header.last_position,
            held_until: header.held_until,
            events: Ring::after(header.events_forgotten),
            ..LockTable::default()
        };
        if let Some(until) = table.held_until {
            table.dues.insert(Due::new(until, DueItem::Hold), ());
        }
        for _ in 0..header.leases {
            let (id, lease): (LeaseId, Lease) = self.record("lease")?;
            in_order(table.leases.last().map(|(last, _)| last), &id, "leases")?;
            for hold in &lease.holds {
                table.locks.alter(&hold.lock, |lock| {
                    lock.link(id, hold.mode, || hold.token);
                    true
                });
            }
            table.put_lease(id, lease);
        }
        for _ in 0..header.waits {
            let (place, wait): (Position, Wait) = self.record("wait")?;
            in_order(table.waits.last().map(|(last, _)| last), &place, "waits")?;
            table.queue_wait(place, &wait);
            table.waits.insert(place, Arc::new(wait));
        }
        let mut last_delayed = None;
        for _ in 0..header.delays {
            let DelayedLock { lock, limit, delay } = self.record("lock delay")?;
            in_order(last_delayed.as_ref(), &lock, "lock delays")?;
            table.delay_lock(&lock, limit, delay);
            last_delayed = Some(lock);
        }
        for _ in 0..header.tombstones {
            let (id, tombstone): (LeaseId, Tombstone) = self.record("tombstone")?;
            in_order(
                table.tombstones.last().map(|(last, _)| last),
                &id,
                "tombstones",
            )?;
            table.put_tombstone(id, tombstone);
        }
        for _ in 0..header.events {
            let event: Event = self.record("event")?;
            in_order(
                table.events.iter().next_back().map(|last| &last.position),
                &event.position,
                "events",
            )?;
            table.events.push(event);
        }
        if self.record::<u32>("end mark")? != END {
            return Err(damaged("the end mark is another".to_owned()));
        }
        Ok(table)
    }
}

fn in_order<K: Ord>(last: Option<&K>, next: &K, what: &str) -> Result<(), ReadError> {
    if last.is_some_and(|last| last >= next) {
        return Err(damaged(format!("{what} out of order")));
    }
    Ok(())
}

fn read_u32(from: &mut impl Read) -> Result<u32, ReadError> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn damaged(what: String) -> ReadError {
    ReadError::Damaged { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(table: &LockTable) -> Vec<u8> {
        let mut bytes = Vec::new();
        table.freeze().write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_state_is_read_back_and_what_follows_it_is_left_alone() {
        let bytes = [encoded(&LockTable::new()), b"more".to_vec()].concat();
        let mut from = bytes.as_slice();
        let table = LockTable::read(&mut from).unwrap();
        assert_eq!(from, b"more");
        assert_eq!(encoded(&table), encoded(&LockTable::new()));
    }

    #[test]
    fn something_else_is_not_taken_for_a_lock_table() {
        let error = LockTable::read(&mut b"SQLite format 3\0".as_slice()).unwrap_err();
        assert!(matches!(error, ReadError::NotALockTable), "{error}");
    }

    #[test]
    fn another_format_is_refused_by_its_number() {
        let mut bytes = encoded(&LockTable::new());
        bytes[MAGIC.len()] = 9;
        let error = LockTable::read(&mut bytes.as_slice()).unwrap_err();
        assert!(
            matches!(error, ReadError::UnknownFormat { found: 9 }),
            "{error}"
        );
    }

    /// The beginning of a founded state with so many leases and nothing else.
    fn header(model_version: u32, leases: u64) -> Header {
        let (settings, loosest_settings, clock, token_counter) = Default::default();
        let (last_position, held_until, events_forgotten) = Default::default();
        let (waits, delays, tombstones, events) = Default::default();
        Header {
            founding: Some((ClusterId([1; 16]), model_version)),
            settings,
            loosest_settings,
            clock,
            token_counter,
            last_position,
            held_until,
            events_forgotten,
            leases,
            waits,
            delays,
            tombstones,
            events,
        }
    }

    /// Magic, format and these records.
    fn written(records: impl FnOnce(&mut Writer<'_, Vec<u8>>) -> io::Result<()>) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &FORMAT.to_le_bytes()].concat();
        let record = Vec::new();
        records(&mut Writer {
            to: &mut bytes,
            record,
        })
        .unwrap();
        bytes
    }

    #[test]
    fn another_model_version_is_refused_by_its_number() {
        let bytes = written(|writer| writer.record(&header(9, 0)));
        let error = LockTable::read(&mut bytes.as_slice()).unwrap_err();
        assert!(
            matches!(
                error,
                ReadError::UnknownModelVersion(UnknownModelVersion(9))
            ),
            "{error}"
        );
    }

    #[test]
    fn what_is_out_of_order_or_there_twice_is_refused() {
        let (metadata, holds, waits, decided, last_grant) = Default::default();
        let lease = Lease {
            ttl_ms: 5_000,
            owner: crate::Owner::new("").unwrap(),
            metadata,
            deadline: Timestamp(5_000),
            origin: crate::Origin::Explicit,
            holds,
            waits,
            decided,
            last_grant,
        };
        let read = |ids: [u8; 2]| {
            let bytes = written(|writer| {
                writer.record(&header(1, 2))?;
                for id in ids {
                    writer.record(&(LeaseId([id; 16]), &lease))?;
                }
                writer.record(&END)
            });
            LockTable::read(&mut bytes.as_slice())
        };
        assert_eq!(read([1, 2]).unwrap().counts().leases, 2);
        for ids in [[2, 1], [1, 1]] {
            let error = read(ids).unwrap_err().to_string();
            assert!(error.contains("leases out of order"), "{error}");
        }
    }

    #[test]
    fn a_record_that_claims_to_be_huge_is_refused_without_room_being_made_for_it() {
        let mut bytes = encoded(&LockTable::new());
        let length = MAGIC.len() + 4;
        bytes[length..length + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = LockTable::read(&mut bytes.as_slice()).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
        bytes[length..length + 4].copy_from_slice(&RECORD_MAX_BYTES.to_le_bytes());
        let error = LockTable::read(&mut bytes.as_slice()).unwrap_err();
        assert!(matches!(error, ReadError::Io(_)), "{error}");
    }
}
