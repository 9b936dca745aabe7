//! The data directory: who this node is, and that only one process uses it.
//!
//! The identity file is replaced whole and durably, and only ever gains: a node id when it is made,
//! and a founding, or the cluster that it joined, once in the node's life.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::directory;
use crate::error::StartError;
use crate::joining::Joined;
use crate::membership::MembershipVersion;
use crate::transport::{Founding, FoundingMember};
use crate::types::{ClusterId, Member, NodeId};

const IDENTITY: &str = "identity.json";
const LOCK: &str = "lock";
const LOG: &str = "log";
const FORMAT: u32 = 1;

/// The identity file, for people too: ids are hexadecimal text.
#[derive(Serialize, Deserialize)]
struct IdentityFile {
    format: u32,
    node_id: String,
    founding: Option<FoundingRecord>,
    /// Whether the log was made: from then on its absence is a loss, not a beginning.
    #[serde(default)]
    log_made: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    joined: Option<JoinedRecord>,
    /// Whether the node was removed from its cluster: it must not come back as itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    removed: bool,
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
    lock: Option<File>,
}

impl DataDirectory {
    /// Opens or makes the directory and takes its lock. Blocking.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let context = |error: io::Error| {
            StartError::Storage(io::Error::new(
                error.kind(),
                format!("data directory {}: {error}", path.display()),
            ))
        };
        directory::create_durable(path).map_err(context)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(context)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StartError::InUse(path.display().to_string()));
            }
            Err(TryLockError::Error(error)) => return Err(context(error)),
        }
        let file = path.join(IDENTITY);
        if file.exists() {
            let text = fs::read_to_string(&file).map_err(context)?;
            let identity = parse(&text)
                .map_err(|why| context(io::Error::other(format!("{IDENTITY}: {why}"))))?;
            if identity.log_made && !path.join(LOG).exists() {
                return Err(context(io::Error::other(format!(
                    "its log is gone: {LOG}/ was made once and is missing. A node without its log \
                     must not vote as the one it was; put the whole directory back, or give this \
                     node an empty one"
                ))));
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
        if path.join(LOG).exists() {
            return Err(context(io::Error::other(format!(
                "it holds a log and no {IDENTITY}; it was damaged, or is not a data directory"
            ))));
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

    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
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
        let contents = IdentityFile {
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
        let text = serde_json::to_vec_pretty(&contents).map_err(io::Error::other)?;
        let partial = self.path.join(format!("{IDENTITY}.partial"));
        let mut file = File::create(&partial)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&partial, self.path.join(IDENTITY))?;
        directory::sync(&self.path)
    }
}

struct Identity {
    node: NodeId,
    founding: Option<Founding>,
    log_made: bool,
    joined: Option<Joined>,
    removed: bool,
}

fn parse(text: &str) -> Result<Identity, String> {
    let file: IdentityFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if file.format != FORMAT {
        return Err(format!(
            "format {} is not known to this build, which reads format {FORMAT}",
            file.format
        ));
    }
    let node = |text: &str| text.parse::<NodeId>().map_err(|error| error.to_string());
    let cluster = |text: &str| text.parse::<ClusterId>().map_err(|error| error.to_string());
    let joined = file
        .joined
        .map(|record| -> Result<Joined, String> {
            Ok(Joined {
                cluster: cluster(&record.cluster_id)?,
                via: record.via,
                learner: record.learner,
                added: record.added,
                promoted: record.promoted,
            })
        })
        .transpose()?;
    let founding = file
        .founding
        .map(|record| -> Result<Founding, String> {
            let cluster = cluster(&record.cluster_id)?;
            let members = record
                .members
                .into_iter()
                .map(|member| {
                    Ok(FoundingMember {
                        node: node(&member.node_id)?,
                        member: Member {
                            name: member.name,
                            peer_address: member.peer_address,
                            service_address: member.service_address,
                        },
                    })
                })
                .collect::<Result<_, String>>()?;
            Ok(Founding { cluster, members })
        })
        .transpose()?;
    Ok(Identity {
        node: node(&file.node_id)?,
        founding,
        log_made: file.log_made,
        joined,
        removed: file.removed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_node_id_and_founding_and_another_gets_another_id() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = DataDirectory::open(folder.path()).unwrap();
        let founding = Founding {
            cluster: ClusterId(7),
            members: vec![FoundingMember {
                node: directory.node(),
                member: Member {
                    name: "a".to_owned(),
                    peer_address: "host:1".to_owned(),
                    service_address: "host:2".to_owned(),
                },
            }],
        };
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
        fs::write(&file, text.replace("\"format\": 1", "\"format\": 9")).unwrap();
        let error = DataDirectory::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("format 9"), "{error}");
    }
}
