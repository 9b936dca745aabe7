//! Looks at a data directory that no node uses, for operators: what is in it, and whether it is whole.
//!
//! It takes the directory's lock, reads everything with every checksum, and never changes, makes or
//! removes a file.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use openraft::EntryPayload;

use crate::error::StartError;
use crate::identity::Identity;
use crate::log::{Examined, examine};
use crate::machine::StateMachine;
use crate::membership::Membership;
use crate::snapshot::SnapshotStore;
use crate::types::{ClusterId, Entry, LogId, NodeId, StoredMembership};

/// Where an entry stands: its term and its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// The term of the leader that made it.
    pub term: u64,
    /// Its log index.
    pub index: u64,
}

impl LogPosition {
    fn of(log_id: LogId) -> Self {
        Self {
            term: log_id.leader_id.term,
            index: log_id.index,
        }
    }
}

/// Whom a node voted for last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteRecord {
    /// In which term.
    pub term: u64,
    /// For which node.
    pub node: NodeId,
    /// Whether that node is known to have won.
    pub committed: bool,
}

/// What the synced mark says was once durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncedMark {
    /// The term of the newest vote.
    pub vote_term: u64,
    /// Every entry below this index was synced.
    pub synced_below: u64,
    /// One of its two slots does not hold: a write torn by a power cut, or damage.
    pub one_slot_spoiled: bool,
}

/// The newest snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Its file.
    pub path: PathBuf,
    /// The last entry that it covers; `None` for an empty state.
    pub last: Option<LogPosition>,
    /// Bytes of the whole file.
    pub bytes: u64,
}

/// What a data directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The node that it belongs to.
    pub node: NodeId,
    /// The cluster of that node; `None` before one is founded.
    pub cluster: Option<ClusterId>,
    /// The node's vote.
    pub vote: Option<VoteRecord>,
    /// The newest membership in the log or the snapshot, committed or not; `None` when there is none.
    pub membership: Option<Membership>,
    /// The first entry in the log, when there is one.
    pub first: Option<LogPosition>,
    /// The last entry in the log, or the last purged when there is none.
    pub last: Option<LogPosition>,
    /// The last entry that is gone from the log: a snapshot covers it.
    pub purged: Option<LogPosition>,
    /// The last entry that this node knew to be committed, or an earlier one: it is written lazily.
    pub committed: Option<LogPosition>,
    /// `None` when there is no log yet, or it cannot be believed.
    pub mark: Option<SyncedMark>,
    /// `None` when there is none, or it cannot be believed.
    pub snapshot: Option<SnapshotRecord>,
    /// The write-ahead log ends in a record that does not hold, and what the mark vouches for lies
    /// before it: ordinary after a crash.
    pub torn_tail: bool,
    /// Why a node would not start on it, one sentence each. Empty: nothing is known to be wrong.
    pub problems: Vec<String>,
}

/// Reads what is in `directory`. Blocking; takes as long as reading all of it.
///
/// # Errors
/// [`StartError::InUse`] while a node runs on it; [`StartError::Storage`] when it is no data
/// directory, cannot be read, or its identity is damaged.
pub fn inspect(directory: &Path) -> Result<Inspection, StartError> {
    look(directory, |_| Ok(()), |_| Ok(()))
}

/// As [`inspect`], and decodes every command and restores the snapshot into a machine like
/// `machine`, so that a sound directory is one that this build can go on with.
///
/// # Errors
/// As for [`inspect`].
pub fn verify<M: StateMachine>(directory: &Path, machine: &M) -> Result<Inspection, StartError> {
    let command = |entry: &Entry| match &entry.payload {
        EntryPayload::Normal(proposal) => postcard::from_bytes::<M::Command>(&proposal.command)
            .map(drop)
            .map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("entry {} holds no known command: {error}", entry.log_id),
                )
            }),
        EntryPayload::Blank | EntryPayload::Membership(_) => Ok(()),
    };
    look(directory, command, |mut body| {
        machine.restore(&mut body).map(drop)
    })
}

fn look(
    directory: &Path,
    each: impl FnMut(&Entry) -> io::Result<()>,
    state: impl FnOnce(&mut dyn Read) -> io::Result<()>,
) -> Result<Inspection, StartError> {
    let (_lock, identity) = Identity::peek(directory)?;
    let log = Identity::log_in(directory);
    let mut problems = Vec::new();
    let Examined {
        mark,
        contents,
        problems: in_log,
        torn,
    } = match (identity.log_made, log.exists()) {
        // Between its beginning and its founding a node has none.
        (false, false) => Examined::default(),
        (true, false) => {
            problems.push("its log was made once and is gone".to_owned());
            Examined::default()
        }
        (_, true) => examine(&log, each),
    };
    problems.extend(in_log.iter().map(ToString::to_string));
    let known = contents.is_some();
    let contents = contents.unwrap_or_default();

    let mut membership = contents.membership.clone();
    let mut snapshot = None;
    match newest_snapshot(directory, state) {
        Ok(None) => {}
        Ok(Some((found, in_snapshot))) => {
            if membership.is_none() {
                membership = Some(in_snapshot);
            }
            snapshot = Some(found);
        }
        Err(error) => problems.push(error.to_string()),
    }
    let covered = snapshot.as_ref().and_then(|snapshot| snapshot.last);
    let purged = contents.purged.map(LogPosition::of);
    if known
        && snapshot_is_missing(
            purged.map(|purged| purged.index),
            covered.map(|covered| covered.index),
        )
    {
        problems.push(missing_snapshot(purged.map_or(0, |purged| purged.index)));
    }
    Ok(Inspection {
        node: identity.node,
        cluster: identity.cluster(),
        vote: contents.vote.map(|vote| VoteRecord {
            term: vote.leader_id().term,
            node: vote.leader_id().voted_for,
            committed: vote.is_committed(),
        }),
        membership: membership.map(|stored| {
            let committed = stored.log_id().map(|log_id| log_id.index)
                <= contents.committed.map(|committed| committed.index);
            Membership::new(&stored, committed)
        }),
        first: contents.first.map(LogPosition::of),
        last: contents.last.map(LogPosition::of),
        purged,
        committed: contents.committed.map(LogPosition::of),
        mark: mark.map(|reading| SyncedMark {
            vote_term: reading.value.vote.0,
            synced_below: reading.value.synced_below,
            one_slot_spoiled: reading.one_slot_spoiled,
        }),
        snapshot,
        torn_tail: torn,
        problems,
    })
}

fn newest_snapshot(
    directory: &Path,
    state: impl FnOnce(&mut dyn Read) -> io::Result<()>,
) -> io::Result<Option<(SnapshotRecord, StoredMembership)>> {
    let folder = Identity::snapshots_in(directory);
    if !folder.exists() {
        return Ok(None);
    }
    let Some((meta, file)) = SnapshotStore::existing(&folder).newest()? else {
        return Ok(None);
    };
    let record = SnapshotRecord {
        path: file.path().to_owned(),
        last: meta.last_log_id.map(LogPosition::of),
        bytes: file.bytes()?,
    };
    state(&mut file.body()?).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("snapshot {}: {error}", record.path.display()),
        )
    })?;
    Ok(Some((record, meta.last_membership)))
}

/// Whether entries are gone from the log that no snapshot covers: the state cannot be rebuilt.
pub(crate) fn snapshot_is_missing(purged: Option<u64>, covered: Option<u64>) -> bool {
    purged.is_some() && covered < purged
}

pub(crate) fn missing_snapshot(purged: u64) -> String {
    format!("entries up to {purged} were purged behind a snapshot, and that snapshot is gone")
}

#[cfg(test)]
mod tests;
