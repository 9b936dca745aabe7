//! What a cut changed: the files before and after.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a cut did. Displays as one line per change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// What became of files, by path.
    pub changes: Vec<Change>,
    /// How many processes ran under the shim since the last cut.
    pub processes: u64,
    /// How many syncs of files and directories made something durable since the last cut.
    pub syncs: u64,
    /// How many syncs lied, as asked for.
    pub lied_syncs: u64,
    /// How many syncs failed, as asked for or truly.
    pub failed_syncs: u64,
}

/// What became of a regular file or symbolic link. Paths are relative to the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Its length went back.
    Resized {
        /// Which.
        path: PathBuf,
        /// Before the cut.
        from_bytes: u64,
        /// What was synced.
        to_bytes: u64,
    },
    /// It has its length, but what was overwritten in place since its last sync is as it was.
    Reverted {
        /// Which.
        path: PathBuf,
    },
    /// It is gone: its name was never synced.
    Vanished {
        /// Which.
        path: PathBuf,
        /// Before the cut.
        from_bytes: u64,
    },
    /// It is back: its removal, or its renaming, was never synced.
    Returned {
        /// Which.
        path: PathBuf,
        /// What was synced.
        to_bytes: u64,
    },
    /// The name is another file's again: the rename over it was never synced.
    Replaced {
        /// Which.
        path: PathBuf,
        /// Length of the file that had the name before the cut.
        from_bytes: u64,
        /// Length of the file that has it now.
        to_bytes: u64,
    },
}

impl Change {
    /// The file's path, relative to the directory.
    pub fn path(&self) -> &Path {
        match self {
            Change::Resized { path, .. }
            | Change::Reverted { path }
            | Change::Vanished { path, .. }
            | Change::Returned { path, .. }
            | Change::Replaced { path, .. } => path,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path().display();
        match self {
            Change::Resized {
                from_bytes,
                to_bytes,
                ..
            } => {
                write!(
                    f,
                    "{path}: {from_bytes} bytes, of which {to_bytes} were synced"
                )
            }
            Change::Reverted { .. } => write!(f, "{path}: overwritten in place, put back"),
            Change::Vanished { from_bytes, .. } => {
                write!(f, "{path}: gone, with {from_bytes} bytes")
            }
            Change::Returned { to_bytes, .. } => write!(f, "{path}: back, with {to_bytes} bytes"),
            Change::Replaced {
                from_bytes,
                to_bytes,
                ..
            } => {
                write!(
                    f,
                    "{path}: another file of {from_bytes} bytes, now {to_bytes} bytes"
                )
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "power cut: {} files changed; {} syncs by {} processes, {} lied, {} failed",
            self.changes.len(),
            self.syncs,
            self.processes,
            self.lied_syncs,
            self.failed_syncs,
        )?;
        self.changes
            .iter()
            .try_for_each(|change| writeln!(f, "  {change}"))
    }
}

/// The files under a directory, by relative path.
pub(crate) type Survey = BTreeMap<PathBuf, Seen>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub inode: u64,
    pub size_bytes: u64,
    pub symlink: bool,
}

/// Looks at everything under a directory that is not a directory.
pub(crate) fn survey(directory: &Path) -> Result<Survey> {
    let mut seen = Survey::new();
    look(directory, Path::new(""), &mut seen)?;
    Ok(seen)
}

fn look(directory: &Path, relative: &Path, seen: &mut Survey) -> Result<()> {
    let here = directory.join(relative);
    for entry in fs::read_dir(&here).map_err(Error::io("listing", &here))? {
        let entry = entry.map_err(Error::io("listing", &here))?;
        let metadata = entry
            .metadata()
            .map_err(Error::io("reading", &entry.path()))?;
        let path = relative.join(entry.file_name());
        if metadata.is_dir() {
            look(directory, &path, seen)?;
        } else {
            let symlink = metadata.is_symlink();
            seen.insert(
                path,
                Seen {
                    inode: metadata.ino(),
                    size_bytes: metadata.len(),
                    symlink,
                },
            );
        }
    }
    Ok(())
}

/// What differs. `reverted` says whether a file's content was put back.
pub(crate) fn compare(
    before: &Survey,
    after: &Survey,
    reverted: impl Fn(u64) -> bool,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for (path, was) in before {
        let path = path.clone();
        match after.get(&path) {
            None => changes.push(Change::Vanished {
                path,
                from_bytes: was.size_bytes,
            }),
            Some(now) => changes.extend(difference(path, was, now, &reverted)),
        }
    }
    let returned = after.iter().filter(|(path, _)| !before.contains_key(*path));
    changes.extend(returned.map(|(path, now)| Change::Returned {
        path: path.clone(),
        to_bytes: now.size_bytes,
    }));
    changes.sort_by(|a, b| a.path().cmp(b.path()));
    changes
}

fn difference(
    path: PathBuf,
    was: &Seen,
    now: &Seen,
    reverted: impl Fn(u64) -> bool,
) -> Option<Change> {
    let (from_bytes, to_bytes) = (was.size_bytes, now.size_bytes);
    // A cut makes symbolic links anew, so their inodes say nothing.
    if was.inode != now.inode && !(was.symlink && now.symlink) {
        Some(Change::Replaced {
            path,
            from_bytes,
            to_bytes,
        })
    } else if from_bytes != to_bytes {
        Some(Change::Resized {
            path,
            from_bytes,
            to_bytes,
        })
    } else if reverted(now.inode) {
        Some(Change::Reverted { path })
    } else {
        None
    }
}
