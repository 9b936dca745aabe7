//! Backups of a whole group, and new clusters made from them.
//!
//! A backup is one sealed file ([`crate::sealed`]): a state at one point of the log, and where it came
//! from. Any node makes one while the group runs ([`Node::backup`](crate::Node::backup)). A restore
//! always makes a **new** cluster: the old one may still run somewhere, and what it acknowledged after
//! the backup is not in the file.
//!
//! A restore happens in two steps. Offline, [`restore`] puts one file, the plan, into an empty data
//! directory. The first start of a node there founds a cluster of one with the plan's state as its
//! first snapshot, proposes the plan's command, and removes the plan once that is applied; until then
//! it serves nobody. Each step can be interrupted anywhere and repeated.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use openraft::Membership;
use serde::{Deserialize, Serialize};

use crate::directory;
use crate::error::StartError;
use crate::identity::DirectoryForRestore;
use crate::machine::StateMachine;
use crate::sealed;
use crate::snapshot::SnapshotStore;
use crate::types::{ClusterId, LogId, Member, NodeId, SnapshotMeta, StoredMembership};

const BACKUP: &sealed::Magic = b"PALIBACK";
const PLAN: &sealed::Magic = b"PALIREST";

/// Where a backup came from. Its encoding is a disk format: append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupInfo {
    /// The cluster that it is a backup of.
    pub cluster: ClusterId,
    /// The node that made it.
    pub node: NodeId,
    /// The term of the last entry in its state.
    pub term: u64,
    /// The log index of the last entry in its state: everything acknowledged before the backup began
    /// is at or below it.
    pub index: u64,
    /// The members then, for information: a restore makes a cluster of its own.
    pub members: Vec<(NodeId, Member)>,
    /// When it was made, in milliseconds since 1970, as whoever asked for it said.
    pub taken_unix_ms: u64,
}

/// What a directory is to become at its first start.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    cluster: ClusterId,
    backup: BackupInfo,
    /// What is proposed before anything else, encoded as commands are.
    first_command: Option<Bytes>,
}

/// A restored directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster, of which the next node to start there is the only member.
    pub cluster: ClusterId,
    /// The backup.
    pub backup: BackupInfo,
}

/// Writes a backup. Blocking.
pub(crate) fn write(
    out: impl Write,
    info: &BackupInfo,
    state: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(64 << 10, out);
    sealed::write(&mut out, BACKUP, info, state)?;
    out.flush()
}

fn open(path: &Path) -> Result<Arc<File>, StartError> {
    File::open(path)
        .map(Arc::new)
        .map_err(|error| about(path, error))
}

fn about(path: &Path, error: io::Error) -> StartError {
    StartError::Storage(io::Error::new(
        error.kind(),
        format!("backup {}: {error}", path.display()),
    ))
}

/// Checks a backup file, length and checksum, and that its state is one that `machine` can restore.
/// Blocking.
///
/// # Errors
/// [`StartError::Storage`], which says what is wrong with the file.
pub fn verify_backup<M: StateMachine>(path: &Path, machine: &M) -> Result<BackupInfo, StartError> {
    read_backup(path, machine).map(|(info, _)| info)
}

fn read_backup<M: StateMachine>(path: &Path, machine: &M) -> Result<(BackupInfo, M), StartError> {
    let file = open(path)?;
    let info = sealed::verify(&file, BACKUP, "its header").map_err(|error| about(path, error))?;
    let mut state = sealed::body(&file, BACKUP).map_err(|error| about(path, error))?;
    let state = machine
        .restore(&mut state)
        .map_err(|error| about(path, error))?;
    Ok((info, state))
}

/// Makes a data directory from a backup: a node that starts there is the only member of a **new**
/// cluster with the backup's state. Other nodes join it. Blocking.
///
/// `first_command` says what that node proposes before it serves anything, given where the backup came
/// from, its state, and the new cluster's id. It is applied at least once, and repeated when the node is
/// interrupted right after: make it one of which a repeat has no effect.
///
/// # Errors
/// [`StartError::Storage`] when the backup is damaged, [`StartError::Configuration`] when
/// `first_command` refuses, or the directory is not empty (what an interrupted restore left there does
/// not count).
pub fn restore<M: StateMachine>(
    backup: &Path,
    directory: &Path,
    machine: &M,
    first_command: impl FnOnce(&BackupInfo, &M, ClusterId) -> Result<Option<M::Command>, String>,
) -> Result<Restored, StartError> {
    let (info, state) = read_backup(backup, machine)?;
    let target = DirectoryForRestore::open(directory)?;
    let cluster = ClusterId(rand::random());
    let first_command = first_command(&info, &state, cluster).map_err(StartError::Configuration)?;
    let first_command = first_command
        .map(|command| postcard::to_allocvec(&command).map(Bytes::from))
        .transpose()
        .map_err(|error| {
            StartError::Configuration(format!("the first command cannot be encoded: {error}"))
        })?;
    let plan = Plan {
        cluster,
        backup: info.clone(),
        first_command,
    };
    let file = open(backup)?;
    let mut state = sealed::body(&file, BACKUP)?;
    let (partial, named) = (target.partial_plan(), target.plan());
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
    sealed::write(&mut out, PLAN, &plan, |out| {
        io::copy(&mut state, out).map(drop)
    })?;
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    fs::rename(&partial, &named)?;
    directory::sync(directory)?;
    Ok(Restored {
        cluster,
        backup: info,
    })
}

/// A plan that waits to be carried out.
#[derive(Debug)]
pub(crate) struct PendingRestore {
    path: PathBuf,
    file: Arc<File>,
    plan: Plan,
}

impl PendingRestore {
    /// The plan in `path`, if there is one, verified. Blocking.
    pub fn open(path: &Path) -> Result<Option<Self>, StartError> {
        if !path.exists() {
            return Ok(None);
        }
        let file = Arc::new(File::open(path)?);
        let plan = sealed::verify(&file, PLAN, "its header").map_err(|error| {
            StartError::Storage(io::Error::new(
                error.kind(),
                format!(
                    "the restored state {}: {error}. Delete the directory and restore again",
                    path.display()
                ),
            ))
        })?;
        Ok(Some(Self {
            path: path.to_owned(),
            file,
            plan,
        }))
    }

    pub fn cluster(&self) -> ClusterId {
        self.plan.cluster
    }

    pub fn first_command(&self) -> Option<&Bytes> {
        self.plan.first_command.as_ref()
    }

    /// Makes the plan's state the first snapshot of a cluster of this one member. Repeating it is
    /// harmless as long as there is no log. Blocking.
    pub fn import(&self, snapshots: &SnapshotStore, me: NodeId, member: Member) -> io::Result<()> {
        // The index goes on, because what was told of the old cluster counts from it; the terms start
        // again, with the votes of the new one.
        let last = LogId::new(0.into(), self.plan.backup.index);
        let voters = [me].into();
        let members = [(me, member)]
            .into_iter()
            .collect::<std::collections::BTreeMap<_, _>>();
        let membership = Membership::new(vec![voters], members).map_err(io::Error::other)?;
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(Some(last), membership),
        };
        let mut state = self.state()?;
        let partial = snapshots.build(&meta, |out| io::copy(&mut state, out).map(drop))?;
        snapshots.adopt(partial, &meta).map(drop)
    }

    fn state(&self) -> io::Result<impl Read> {
        sealed::body(&self.file, PLAN)
    }

    /// It is carried out: nothing reminds of it any more. Blocking.
    pub fn done(&self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        directory::sync(self.path.parent().unwrap_or(Path::new(".")))
    }
}

#[cfg(test)]
mod tests;
