//! Staging a power cut from the outside: before, during and after the process runs.

use crate::error::{Error, Result};
use crate::fsync::Fsync;
use crate::image::{DurableFile, Image};
use crate::journal::{self, DirectoryId, EntryKind, Inode, Journal, Record, Sequence};
use crate::keep::{Keep, directory_id};
use crate::library::library;
use crate::survey::{Report, compare, survey};
use crate::{DIRECTORY_VARIABLE, FSYNC_VARIABLE, JOURNAL_VARIABLE};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const PRELOAD_VARIABLE: &str = "LD_PRELOAD";
/// Behind the journal's path: the file that is there while the disk is full.
pub(crate) const FULL_SUFFIX: &str = ".full";

/// What a disk had written of the bytes that were appended to a file and not synced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tear {
    /// So many, from the first one on; at most all of them.
    pub kept_bytes: u64,
    /// So many of these, at their end, as zeros: the length was written and the content was not.
    pub zeroed_bytes: u64,
}

/// A directory whose power will be cut. What the model keeps and loses is in the crate's
/// documentation.
#[derive(Debug, Clone)]
pub struct Cut {
    directory: PathBuf,
    journal: PathBuf,
    fsync: Fsync,
}

impl Cut {
    /// Starts a journal for a directory, which is made if it is not there. All that is in it now
    /// counts as durable; what anybody changes in it from now on without the shim counts as not
    /// synced.
    ///
    /// # Errors
    /// When the journal exists, or is not on the directory's file system and outside of it, or
    /// something under the directory is on another file system.
    pub fn begin(directory: impl AsRef<Path>, journal: impl AsRef<Path>) -> Result<Cut> {
        let (directory, journal) = (directory.as_ref(), journal.as_ref());
        fs::create_dir_all(directory).map_err(Error::io("creating", directory))?;
        let directory = directory
            .canonicalize()
            .map_err(Error::io("resolving", directory))?;
        let journal = std::path::absolute(journal).map_err(Error::io("resolving", journal))?;
        let folder = journal.parent().unwrap_or(Path::new("/"));
        let folder = folder
            .canonicalize()
            .map_err(Error::io("resolving", folder))?;
        let device = |path: &Path| {
            fs::metadata(path)
                .map(|metadata| metadata.dev())
                .map_err(Error::io("reading", path))
        };
        if folder.starts_with(&directory) || device(&folder)? != device(&directory)? {
            return Err(Error::JournalMisplaced { journal, directory });
        }
        let cut = Cut {
            directory,
            journal,
            fsync: Fsync::Honest,
        };
        cut.begin_journal()?;
        Ok(cut)
    }

    /// The same cut, with syncs that behave as told from the start of every process.
    pub fn with_fsync(self, fsync: Fsync) -> Cut {
        Cut { fsync, ..self }
    }

    /// Changes how syncs behave in the processes that run, and in later ones, until the next
    /// [`apply`](Cut::apply).
    ///
    /// # Errors
    /// When the file beside the journal cannot be written.
    pub fn set_fsync(&self, fsync: Fsync) -> Result<()> {
        let (control, new) = (self.beside(".fsync"), self.beside(".fsync.new"));
        fs::write(&new, fsync.to_string()).map_err(Error::io("writing", &new))?;
        fs::rename(&new, &control).map_err(Error::io("renaming to", &control))
    }

    /// Has the disk be full, or have space again, for the processes that run and later ones, until
    /// the next [`apply`](Cut::apply). What that means is in the crate's documentation.
    ///
    /// # Errors
    /// When the file beside the journal cannot be made or removed.
    pub fn set_full(&self, full: bool) -> Result<()> {
        let control = self.beside(FULL_SUFFIX);
        match full {
            true => fs::write(&control, "").map_err(Error::io("writing", &control)),
            false => remove_if_there(&control),
        }
    }

    /// Sets the environment in which a command runs under the shim. Its own `LD_PRELOAD`, or else
    /// this process's, is kept behind the shim's.
    ///
    /// # Errors
    /// [`Error::LibraryNotBuilt`].
    pub fn env_for(&self, command: &mut Command) -> Result<()> {
        let mut preload = library()?.into_os_string();
        if let Some(others) = preloaded(command) {
            preload.push(":");
            preload.push(others);
        }
        command
            .env(PRELOAD_VARIABLE, preload)
            .env(DIRECTORY_VARIABLE, &self.directory)
            .env(JOURNAL_VARIABLE, &self.journal)
            .env(FSYNC_VARIABLE, self.fsync.to_string());
        Ok(())
    }

    /// The directory, resolved.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Cuts the power: takes the directory back to what was synced, and starts the journal anew, so
    /// that the next process finds a freshly booted machine. Everybody who ran under the shim must be
    /// dead and waited for.
    ///
    /// # Errors
    /// When no process ran under the shim, one still does, or the shim gave up, the directory is
    /// untouched. After an IO error it may be half cut.
    pub fn apply(&self) -> Result<Report> {
        self.apply_torn(|_| Tear::default())
    }

    /// As [`apply`](Cut::apply), but of files that have grown since their last sync it keeps what
    /// `tear` says of the bytes that were not synced, of which it is told the number: a disk may have
    /// written any part of them. Files whose sync failed keep none.
    ///
    /// # Errors
    /// As for [`apply`](Cut::apply).
    pub fn apply_torn(&self, mut tear: impl FnMut(u64) -> Tear) -> Result<Report> {
        let journal = Journal::open(&self.journal)?;
        if !journal.lock_alone()? {
            return Err(Error::StillRunning(self.journal.clone()));
        }
        let image = Image::fold(journal::read(&self.journal)?);
        if let Some(reason) = image.gave_up {
            return Err(Error::GaveUp(reason));
        }
        let Some(top) = image.top.filter(|_| image.attached > 0) else {
            return Err(Error::NeverLoaded(self.journal.clone()));
        };
        let before = survey(&self.directory)?;
        let reverted = self.restore_files(&image, &mut tear)?;
        self.restore_names(&image, top)?;
        let after = survey(&self.directory)?;
        self.end_journal()?;
        self.begin_journal()?;
        Ok(Report {
            changes: compare(&before, &after, |inode| reverted.contains(&Inode(inode))),
            processes: image.attached,
            syncs: image.synced,
            lied_syncs: image.lied,
            failed_syncs: image.failed,
        })
    }

    fn keep(&self) -> Keep {
        Keep::beside(&self.journal)
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        with_suffix(&self.journal, suffix)
    }

    fn begin_journal(&self) -> Result<()> {
        let journal = Journal::create(&self.journal)?;
        let keep = self.keep();
        fs::create_dir(keep.folder()).map_err(Error::io("creating", keep.folder()))?;
        let metadata = fs::metadata(&self.directory);
        let metadata = metadata.map_err(Error::io("reading", &self.directory))?;
        journal.put(&Record::Began {
            directory: directory_id(&metadata),
        })?;
        state_directory(&journal, &keep, &self.directory)
    }

    fn end_journal(&self) -> Result<()> {
        let keep = self.keep();
        fs::remove_dir_all(keep.folder()).map_err(Error::io("removing", keep.folder()))?;
        remove_if_there(&self.beside(".fsync"))?;
        remove_if_there(&self.beside(FULL_SUFFIX))?;
        fs::remove_file(&self.journal).map_err(Error::io("removing", &self.journal))
    }

    /// Puts every kept file back to what was synced; returns those whose content changed within that.
    fn restore_files(
        &self,
        image: &Image,
        tear: &mut dyn FnMut(u64) -> Tear,
    ) -> Result<BTreeSet<Inode>> {
        let keep = self.keep();
        let mut reverted = BTreeSet::new();
        for (&file, durable) in &image.files {
            let path = keep.path(file);
            if restore_file(&path, durable, tear).map_err(Error::io("restoring", &path))? {
                reverted.insert(file);
            }
        }
        Ok(reverted)
    }

    /// Builds the durable tree aside, from kept links, and moves it into the emptied directory.
    fn restore_names(&self, image: &Image, top: DirectoryId) -> Result<()> {
        let stage = self.beside(".stage");
        fs::create_dir(&stage).map_err(Error::io("creating", &stage))?;
        build(&stage, image, top, &self.keep())?;
        for entry in children(&self.directory)? {
            let removed = if entry.is_dir() && !entry.is_symlink() {
                fs::remove_dir_all(&entry)
            } else {
                fs::remove_file(&entry)
            };
            removed.map_err(Error::io("removing", &entry))?;
        }
        for entry in children(&stage)? {
            let to = self.directory.join(entry.file_name().unwrap_or_default());
            fs::rename(&entry, &to).map_err(Error::io("renaming to", &to))?;
        }
        fs::remove_dir(&stage).map_err(Error::io("removing", &stage))
    }
}

/// Records everything under a directory as durable.
fn state_directory(journal: &Journal, keep: &Keep, directory: &Path) -> Result<()> {
    let entries = keep
        .list(directory)
        .map_err(Error::io("listing", directory))?;
    for entry in &entries {
        let path = directory.join(OsStr::from_bytes(&entry.name));
        match entry.kind {
            EntryKind::File(file) => {
                let metadata = fs::metadata(&path).map_err(Error::io("reading", &path))?;
                journal.put(&Record::FileSynced {
                    file,
                    length_bytes: metadata.len(),
                    sequence: Sequence::default(),
                })?;
            }
            EntryKind::Directory { .. } => state_directory(journal, keep, &path)?,
            EntryKind::Symlink { .. } => {}
        }
    }
    let metadata = fs::metadata(directory).map_err(Error::io("reading", directory))?;
    journal.put(&Record::DirectorySynced {
        directory: directory_id(&metadata),
        entries,
        sequence: Sequence::default(),
    })
}

/// Puts a file back to what was synced; true if that changed bytes within its synced length.
fn restore_file(
    path: &Path,
    durable: &DurableFile,
    tear: &mut dyn FnMut(u64) -> Tear,
) -> io::Result<bool> {
    let content = OpenOptions::new().read(true).write(true).open(path)?;
    let mut reverted = false;
    for overwritten in durable.overwritten.iter().rev() {
        let mut now = vec![0; overwritten.bytes.len()];
        let same =
            content.read_exact_at(&mut now, overwritten.offset).is_ok() && now == overwritten.bytes;
        if !same {
            content.write_all_at(&overwritten.bytes, overwritten.offset)?;
            reverted = true;
        }
    }
    let length_bytes = content.metadata()?.len();
    let unsynced_bytes = length_bytes.saturating_sub(durable.length_bytes);
    let tear = match unsynced_bytes {
        0 => Tear::default(),
        _ if durable.failed => Tear::default(),
        unsynced => tear(unsynced),
    };
    let kept_bytes = tear.kept_bytes.min(unsynced_bytes);
    let zeroed_bytes = tear.zeroed_bytes.min(kept_bytes);
    let end_bytes = durable.length_bytes + kept_bytes;
    // Cut off and grown again: the bytes between are zero.
    content.set_len(end_bytes - zeroed_bytes)?;
    content.set_len(end_bytes)?;
    Ok(reverted)
}

/// Builds what survives of a directory in an empty one.
fn build(into: &Path, image: &Image, directory: DirectoryId, keep: &Keep) -> Result<()> {
    // One that was never synced survives empty.
    let entries = image
        .directories
        .get(&directory)
        .map_or(&[][..], |durable| &durable.entries);
    for entry in entries {
        let path = into.join(OsStr::from_bytes(&entry.name));
        match &entry.kind {
            EntryKind::File(file) => {
                fs::hard_link(keep.path(*file), &path).map_err(Error::io("restoring", &path))?;
            }
            EntryKind::Directory { id, mode } => {
                fs::create_dir(&path).map_err(Error::io("creating", &path))?;
                build(&path, image, *id, keep)?;
                fs::set_permissions(&path, Permissions::from_mode(*mode))
                    .map_err(Error::io("restoring the mode of", &path))?;
            }
            EntryKind::Symlink { target } => {
                symlink(OsStr::from_bytes(target), &path).map_err(Error::io("restoring", &path))?;
            }
        }
    }
    Ok(())
}

fn children(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(directory).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    });
    listed.map_err(Error::io("listing", directory))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("removing", path)(error))
        }
        _ => Ok(()),
    }
}

fn preloaded(command: &Command) -> Option<OsString> {
    let own = command
        .get_envs()
        .find(|(name, _)| *name == PRELOAD_VARIABLE);
    match own {
        Some((_, value)) => value.map(OsStr::to_owned),
        None => std::env::var_os(PRELOAD_VARIABLE),
    }
}

/// `path` with more at its end.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}
