//! The data directory: who this node is, and that only one process uses it.
//!
//! The identity file is replaced whole and durably, and only ever gains: a node id when it is made,
//! and a founding, or the cluster that it joined, once in the node's life. It carries a checksum over
//! what it says: a node must not go by an id or a cluster that a flipped bit made up.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::codec::unknown_version;
use crate::directory;
use crate::error::StartError;
use crate::joining::Joined;
use crate::log::HOW_TO_REBUILD;
use crate::membership::MembershipVersion;
use crate::transport::{Founding, FoundingMember};
use crate::types::{ClusterId, Member, NodeId};

const IDENTITY: &str = "identity.json";
const LOCK: &str = "lock";
const LOG: &str = "log";
const SNAPSHOTS: &str = "snapshots";
const FORMAT: u64 = 2;
/// What a directory may hold that is about to become a data directory; `lost+found` is a file
/// system's own.
const NO_HINDRANCE: [&str; 4] = [LOCK, IDENTITY_PARTIAL, PLAN_PARTIAL, "lost+found"];
/// A state from a backup that waits for the first start: see [`crate::backup`].
const PLAN: &str = "restore";
const PLAN_PARTIAL: &str = "restore.partial";
const IDENTITY_PARTIAL: &str = "identity.json.partial";

/// The identity file, for people too: ids are hexadecimal text.
#[derive(Serialize, Deserialize)]
struct IdentityFile {
    format: u64,
    node_id: String,
    founding: Option<FoundingRecord>,
    /// Whether the log was made: from then on its absence is a loss, not a beginning.
    log_made: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    joined: Option<JoinedRecord>,
    /// Whether the node was removed from its cluster: it must not come back as itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    removed: bool,
    /// CRC-32 of all the other fields, as 8 hexadecimal digits.
    checksum: String,
}

impl IdentityFile {
    /// Over what was understood, so that white space does not matter and nothing else goes unseen.
    fn expected_checksum(&self) -> Result<String, serde_json::Error> {
        let mut fields = serde_json::to_value(self)?;
        if let Some(fields) = fields.as_object_mut() {
            fields.remove("checksum");
        }
        let text = serde_json::to_vec(&fields)?;
        Ok(format!("{:08x}", crc32fast::hash(&text)))
    }
}

#[derive(Serialize, Deserialize)]
struct JoinedRecord {
    cluster_id: String,
    via: Vec<String>,
    learner: bool,
    added: Option<MembershipVersion>,
    promoted: bool,
}

#[derive(Serialize, Deserialize)]
struct FoundingRecord {
    cluster_id: String,
    members: Vec<MemberRecord>,
}

#[derive(Serialize, Deserialize)]
struct MemberRecord {
    node_id: String,
    name: String,
    peer_address: String,
    service_address: String,
}

/// An opened, locked data directory.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    node: NodeId,
    founding: Option<Founding>,
    log_made: bool,
    joined: Option<Joined>,
    removed: bool,
    /// Held until the directory is left.
    lock: Option<Lock>,
}

/// The right to use a data directory.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, never read")] File);

impl Lock {
    fn take(file: File, directory: &Path) -> Result<Self, StartError> {
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                Err(StartError::InUse(directory.display().to_string()))
            }
            Err(TryLockError::Error(error)) => Err(context(directory, error)),
        }
    }
}

fn context(path: &Path, error: io::Error) -> StartError {
    StartError::Storage(io::Error::new(
        error.kind(),
        format!("data directory {}: {error}", path.display()),
    ))
}

/// Refuses a directory that holds something and was never ours.
fn check_not_foreign(path: &Path, may_be_restored: bool) -> Result<(), StartError> {
    let names = match fs::read_dir(path) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(context(path, error)),
    };
    for entry in names {
        let name = entry.map_err(|error| context(path, error))?.file_name();
        if name == LOG || name == SNAPSHOTS {
            return Err(context(
                path,
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "it holds {} and no {IDENTITY}: it was damaged, or only a part of it was \
                         put here. Put the whole directory back. {HOW_TO_REBUILD}",
                        name.display()
                    ),
                ),
            ));
        }
        if name == PLAN && !may_be_restored {
            return Err(StartError::Configuration(format!(
                "the directory {} holds a restored state already: start the node there, or give \
                 an empty directory",
                path.display()
            )));
        }
        if name != PLAN && !NO_HINDRANCE.iter().any(|harmless| name == *harmless) {
            return Err(StartError::Configuration(format!(
                "the directory {} is not empty and is no data directory of this program: it holds \
                 {} and no {IDENTITY}. Give an empty directory, or the right one",
                path.display(),
                name.display()
            )));
        }
    }
    Ok(())
}

fn open_locked(path: &Path) -> Result<Lock, StartError> {
    directory::create_durable(path).map_err(|error| context(path, error))?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK))
        .map_err(|error| context(path, error))?;
    Lock::take(lock, path)
}

/// An empty directory, locked, to restore into.
#[derive(Debug)]
pub(crate) struct DirectoryForRestore {
    path: PathBuf,
    _lock: Lock,
}

impl DirectoryForRestore {
    /// Blocking.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        if path.join(IDENTITY).exists() {
            return Err(StartError::Configuration(format!(
                "the directory {} is a node's data directory already: restore into an empty one",
                path.display()
            )));
        }
        check_not_foreign(path, false)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: open_locked(path)?,
        })
    }

    pub fn partial_plan(&self) -> PathBuf {
        self.path.join(PLAN_PARTIAL)
    }

    pub fn plan(&self) -> PathBuf {
        self.path.join(PLAN)
    }
}

impl DataDirectory {
    /// Opens or makes the directory and takes its lock. Blocking.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let context = |error| context(path, error);
        let file = path.join(IDENTITY);
        let known = file.exists();
        if !known {
            check_not_foreign(path, true)?;
        }
        let lock = open_locked(path)?;
        if known {
            let identity = Identity::read(path).map_err(context)?;
            if identity.log_made && !path.join(LOG).exists() {
                return Err(context(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "its log is gone: {LOG}/ was made once and is missing. A node without its \
                         log must not vote as the one it was: put the whole directory back. \
                         {HOW_TO_REBUILD}"
                    ),
                )));
            }
            return Ok(Self {
                path: path.to_owned(),
                node: identity.node,
                founding: identity.founding,
                log_made: identity.log_made,
                joined: identity.joined,
                removed: identity.removed,
                lock: Some(lock),
            });
        }
        let mut node = NodeId(0);
        while node.0 == 0 {
            node = NodeId(rand::random::<u64>() >> 16);
        }
        let directory = Self {
            path: path.to_owned(),
            node,
            founding: None,
            log_made: false,
            joined: None,
            removed: false,
            lock: Some(lock),
        };
        directory.store().map_err(context)?;
        Ok(directory)
    }

    /// Gives the directory up; nothing is written to it from here any more.
    pub fn leave(&mut self) {
        self.lock = None;
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    pub fn founding(&self) -> Option<&Founding> {
        self.founding.as_ref()
    }

    pub fn restore_plan(&self) -> PathBuf {
        self.path.join(PLAN)
    }

    /// Whether a log was made here.
    pub fn has_log(&self) -> bool {
        self.log_made
    }

    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    pub fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    /// Remembers the founding this node agreed to, durably. The caller has checked that there is
    /// none yet.
    pub fn agree(&mut self, founding: &Founding) -> io::Result<()> {
        self.founding = Some(founding.clone());
        self.store()
    }

    pub fn joined(&self) -> Option<&Joined> {
        self.joined.as_ref()
    }

    /// Whether the node was removed from its cluster.
    pub fn was_removed(&self) -> bool {
        self.removed
    }

    /// Remembers the cluster that this node joins, or how far that has come, durably.
    pub fn join(&mut self, joined: Joined) -> io::Result<()> {
        self.joined = Some(joined);
        self.store()
    }

    /// Remembers that the node was removed from its cluster, durably.
    pub fn removed_from_cluster(&mut self) -> io::Result<()> {
        self.removed = true;
        self.store()
    }

    /// Remembers that the log exists, durably: from now on its absence is a loss.
    pub fn log_was_made(&mut self) -> io::Result<()> {
        if self.log_made {
            return Ok(());
        }
        self.log_made = true;
        self.store()
    }

    fn store(&self) -> io::Result<()> {
        if self.lock.is_none() {
            return Err(io::Error::other("the node has left its data directory"));
        }
        let mut contents = IdentityFile {
            checksum: String::new(),
            format: FORMAT,
            node_id: self.node.to_string(),
            log_made: self.log_made,
            removed: self.removed,
            joined: self.joined.as_ref().map(|joined| JoinedRecord {
                cluster_id: joined.cluster.to_string(),
                via: joined.via.clone(),
                learner: joined.learner,
                added: joined.added,
                promoted: joined.promoted,
            }),
            founding: self.founding.as_ref().map(|founding| FoundingRecord {
                cluster_id: founding.cluster.to_string(),
                members: founding
                    .members
                    .iter()
                    .map(|founding| MemberRecord {
                        node_id: founding.node.to_string(),
                        name: founding.member.name.clone(),
                        peer_address: founding.member.peer_address.clone(),
                        service_address: founding.member.service_address.clone(),
                    })
                    .collect(),
            }),
        };
        contents.checksum = contents.expected_checksum()?;
        let text = serde_json::to_vec_pretty(&contents)?;
        let partial = self.path.join(IDENTITY_PARTIAL);
        let mut file = File::create(&partial)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&partial, self.path.join(IDENTITY))?;
        directory::sync(&self.path)
    }
}

/// What an identity file says.
#[derive(Debug)]
pub(crate) struct Identity {
    pub node: NodeId,
    pub founding: Option<Founding>,
    pub log_made: bool,
    pub joined: Option<Joined>,
    pub removed: bool,
}

impl Identity {
    /// Takes the directory's lock and reads who it belongs to; makes and changes nothing. Blocking.
    pub fn peek(path: &Path) -> Result<(Option<Lock>, Self), StartError> {
        // A copy may have been made without the lock: then nobody can hold it.
        let lock = match File::open(path.join(LOCK)) {
            Ok(file) => Some(Lock::take(file, path)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(context(path, error)),
        };
        match Self::read(path) {
            Ok(identity) => Ok((lock, identity)),
            Err(error) => Err(context(path, error)),
        }
    }

    /// The cluster that it founded or joined.
    pub fn cluster(&self) -> Option<ClusterId> {
        let founded = self.founding.as_ref().map(|founding| founding.cluster);
        founded.or(self.joined.as_ref().map(|joined| joined.cluster))
    }

    pub fn log_in(directory: &Path) -> PathBuf {
        directory.join(LOG)
    }

    pub fn snapshots_in(directory: &Path) -> PathBuf {
        directory.join(SNAPSHOTS)
    }

    fn read(directory: &Path) -> io::Result<Self> {
        let text = fs::read(directory.join(IDENTITY)).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("its {IDENTITY} cannot be read: {error}"),
            )
        })?;
        let damaged = |why: &dyn std::fmt::Display| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("its {IDENTITY} is damaged: {why}. {HOW_TO_REBUILD}"),
            )
        };
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
        match value["format"].as_u64() {
            Some(FORMAT) => {}
            Some(other) => return Err(unknown_version(format!("its {IDENTITY}"), other, FORMAT)),
            None => return Err(damaged(&"it names no format")),
        }
        let file: IdentityFile = serde_json::from_value(value).map_err(|error| damaged(&error))?;
        if file.checksum != file.expected_checksum()? {
            return Err(damaged(
                &"its checksum does not hold (was it edited by hand?)",
            ));
        }
        parse(file).map_err(|error| damaged(&error))
    }
}

fn parse(file: IdentityFile) -> Result<Identity, crate::types::ParseIdError> {
    let founding = file.founding.map(|record| {
        let members = record.members.into_iter().map(|member| {
            Ok(FoundingMember {
                node: member.node_id.parse()?,
                member: Member {
                    name: member.name,
                    peer_address: member.peer_address,
                    service_address: member.service_address,
                },
            })
        });
        Ok(Founding {
            cluster: record.cluster_id.parse()?,
            members: members.collect::<Result<_, crate::types::ParseIdError>>()?,
        })
    });
    let joined = file.joined.map(|record| {
        Ok(Joined {
            cluster: record.cluster_id.parse()?,
            via: record.via,
            learner: record.learner,
            added: record.added,
            promoted: record.promoted,
        })
    });
    Ok(Identity {
        node: file.node_id.parse()?,
        founding: founding.transpose()?,
        log_made: file.log_made,
        joined: joined.transpose()?,
        removed: file.removed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founding_of(node: NodeId) -> Founding {
        Founding {
            cluster: ClusterId(7),
            members: vec![FoundingMember {
                node,
                member: Member {
                    name: "a".to_owned(),
                    peer_address: "host:1".to_owned(),
                    service_address: "host:2".to_owned(),
                },
            }],
        }
    }

    #[test]
    fn a_directory_keeps_its_node_id_and_founding_and_another_gets_another_id() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = DataDirectory::open(folder.path()).unwrap();
        let founding = founding_of(directory.node());
        directory.agree(&founding).unwrap();
        let node = directory.node();
        drop(directory);
        let directory = DataDirectory::open(folder.path()).unwrap();
        assert_eq!(directory.node(), node);
        assert_eq!(directory.founding(), Some(&founding));
        let other = tempfile::tempdir().unwrap();
        assert_ne!(DataDirectory::open(other.path()).unwrap().node(), node);
    }

    #[test]
    fn a_directory_remembers_the_cluster_it_joined_and_its_removal() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = DataDirectory::open(folder.path()).unwrap();
        let joined = Joined {
            cluster: ClusterId(u128::MAX - 1),
            via: vec!["host:1".to_owned()],
            learner: true,
            added: Some(MembershipVersion { term: 2, index: 9 }),
            promoted: false,
        };
        directory.join(joined.clone()).unwrap();
        assert!(!directory.was_removed());
        directory.removed_from_cluster().unwrap();
        drop(directory);
        let directory = DataDirectory::open(folder.path()).unwrap();
        assert_eq!(directory.joined(), Some(&joined));
        assert!(directory.was_removed());
    }

    #[test]
    fn two_processes_cannot_use_one_directory() {
        let folder = tempfile::tempdir().unwrap();
        let _first = DataDirectory::open(folder.path()).unwrap();
        assert!(matches!(
            DataDirectory::open(folder.path()),
            Err(StartError::InUse(_))
        ));
    }

    #[test]
    fn a_log_without_an_identity_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("log")).unwrap();
        let error = DataDirectory::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("identity.json"), "{error}");
    }

    #[test]
    fn a_log_that_was_made_and_is_gone_is_a_loss_and_not_a_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = DataDirectory::open(folder.path()).unwrap();
        fs::create_dir(directory.log()).unwrap();
        directory.log_was_made().unwrap();
        drop(directory);
        drop(DataDirectory::open(folder.path()).unwrap());
        fs::remove_dir(folder.path().join(LOG)).unwrap();
        let error = DataDirectory::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("its log is gone"), "{error}");
    }

    #[test]
    fn an_unknown_format_is_refused_by_number() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDirectory::open(folder.path()).unwrap());
        let file = folder.path().join(IDENTITY);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"format\": 2", "\"format\": 9")).unwrap();
        let error = DataDirectory::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("format version 9"), "{error}");
        assert!(!error.contains("damaged"), "{error}");
    }

    #[test]
    fn a_flipped_bit_in_the_identity_never_makes_another_identity() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = DataDirectory::open(folder.path()).unwrap();
        directory.agree(&founding_of(directory.node())).unwrap();
        let (node, founding) = (directory.node(), directory.founding().cloned());
        drop(directory);
        let file = folder.path().join(IDENTITY);
        let whole = fs::read(&file).unwrap();
        for position in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[position] ^= 1 << bit;
                fs::write(&file, &bytes).unwrap();
                // White space between fields may change; what they say may not.
                if let Ok((_, read)) = Identity::peek(folder.path()) {
                    assert_eq!(
                        (read.node, &read.founding),
                        (node, &founding),
                        "byte {position} bit {bit}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_directory_that_holds_something_else_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("passwd"), "root").unwrap();
        let error = DataDirectory::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("holds passwd"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_root_of_a_new_file_system_is_as_good_as_an_empty_directory() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        DataDirectory::open(folder.path()).unwrap();
    }
}
