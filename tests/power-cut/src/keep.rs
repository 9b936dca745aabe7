//! The keep folder: a hard link to every file that the journal speaks of.
//!
//! A link keeps what was unlinked or renamed over, so that the cut can bring it back, and it pins the
//! inode number, so that it means one file only.

use crate::journal::{DirectoryId, Entry, EntryKind, Inode};
use crate::sys;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// How often a name may change its file while it is being linked.
const ATTEMPTS: u32 = 100;

pub(crate) struct Keep {
    folder: PathBuf,
}

impl Keep {
    /// The keep folder of a journal.
    pub(crate) fn beside(journal: &Path) -> Keep {
        Keep {
            folder: crate::cut::with_suffix(journal, ".keep"),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kept link of a file.
    pub(crate) fn path(&self, file: Inode) -> PathBuf {
        self.folder.join(file.0.to_string())
    }

    /// Opens a file by its kept link, to read what is about to be changed.
    pub(crate) fn open(&self, file: Inode) -> io::Result<File> {
        File::open(self.path(file))
    }

    /// Links the file that is open as `descriptor`. False if it has no name any more.
    pub(crate) fn pin_open(&self, descriptor: RawFd, file: Inode) -> io::Result<bool> {
        self.pin(file, |kept| sys::link_open_file(descriptor, kept))
    }

    /// Links `file` with `link`. False if that did not find it, or found another.
    fn pin(&self, file: Inode, link: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<bool> {
        let kept = self.path(file);
        match link(&kept) {
            Ok(()) => {}
            // A link under this number can only be to this file: it pins the number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        if fs::symlink_metadata(&kept)?.ino() == file.0 {
            return Ok(true);
        }
        fs::remove_file(&kept)?;
        Ok(false)
    }

    /// Whether the file has any name but its kept one.
    pub(crate) fn has_other_names(&self, file: Inode) -> io::Result<bool> {
        Ok(fs::symlink_metadata(self.path(file))?.nlink() > 1)
    }

    /// Lets go of a file.
    pub(crate) fn remove(&self, file: Inode) -> io::Result<()> {
        fs::remove_file(self.path(file))
    }

    /// The entries of a directory, each file of it pinned. An entry that goes away meanwhile is left
    /// out.
    pub(crate) fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name();
            if let Some(kind) = self.entry(&directory.join(&name))? {
                entries.push(Entry {
                    name: name.into_vec(),
                    kind,
                });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn entry(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        for _ in 0..ATTEMPTS {
            let metadata = match fs::symlink_metadata(path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let kind = metadata.file_type();
            if kind.is_dir() {
                let mode = metadata.permissions().mode();
                return Ok(Some(EntryKind::Directory {
                    id: directory_id(&metadata),
                    mode,
                }));
            } else if kind.is_symlink() {
                match fs::read_link(path) {
                    Ok(target) => {
                        let target = target.into_os_string().into_vec();
                        return Ok(Some(EntryKind::Symlink { target }));
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                }
            } else if !kind.is_file() {
                return Ok(None);
            }
            let file = Inode(metadata.ino());
            if self.pin(file, |kept| fs::hard_link(path, kept))? {
                return Ok(Some(EntryKind::File(file)));
            }
        }
        Err(io::Error::other(format!(
            "{} changed all the time",
            path.display()
        )))
    }
}

/// A directory's identity, from its metadata.
pub(crate) fn directory_id(metadata: &Metadata) -> DirectoryId {
    let born_ns = metadata
        .created()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0);
    DirectoryId {
        inode: metadata.ino(),
        born_ns,
    }
}
