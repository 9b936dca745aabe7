//! What the shim does around a sync.

use super::process::{Shim, State, descriptor_path};
use crate::fsync::Fsync;
use crate::image::DurableDirectory;
use crate::journal::{DirectoryId, Entry, EntryKind, Inode, Record, Sequence};
use crate::keep::directory_id;
use crate::sys;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

pub(super) enum Syncing {
    /// Nothing of ours: just sync.
    NotOurs,
    /// Do not sync but return this error, or 0 for none.
    Instead(libc::c_int),
    Begun(Begun),
}

/// What a sync found when it began.
pub(super) enum Begun {
    File {
        file: Inode,
        length_bytes: u64,
        sequence: Sequence,
    },
    Directory {
        directory: DirectoryId,
        entries: Vec<Entry>,
        sequence: Sequence,
    },
}

enum Target {
    File(Inode),
    Directory(DirectoryId),
}

impl Shim {
    pub(super) fn begin_sync(&self, descriptor: RawFd) -> Syncing {
        let Some(target) = self.sync_target(descriptor) else {
            return Syncing::NotOurs;
        };
        let Some(fsync) = self.fsync() else {
            return Syncing::NotOurs;
        };
        let number = self.syncs.fetch_add(1, Ordering::SeqCst);
        match fsync {
            Fsync::Honest => {}
            Fsync::Slow(pause) => std::thread::sleep(pause),
            Fsync::FailAfter(count) if number < count => {}
            Fsync::FailAfter(_) => {
                self.fail_instead(descriptor, &target);
                return Syncing::Instead(libc::EIO);
            }
            Fsync::Lie => {
                self.record(&Record::SyncLied);
                return Syncing::Instead(0);
            }
        }
        let begun = match target {
            Target::File(file) => self.begin_file_sync(descriptor, file),
            Target::Directory(directory) => self.begin_directory_sync(descriptor, directory),
        };
        match self.or_give_up("noting what a sync covers", begun) {
            Some(Some(begun)) => Syncing::Begun(begun),
            Some(None) | None => Syncing::NotOurs,
        }
    }

    /// What is asked for now: the control file goes before the environment.
    fn fsync(&self) -> Option<Fsync> {
        let mut words = String::new();
        match File::open(&self.fsync_file).and_then(|mut file| file.read_to_string(&mut words)) {
            Ok(_) => self.or_give_up(
                "reading <journal>.fsync",
                words.parse().map_err(io::Error::other),
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(self.fsync),
            Err(error) => self.or_give_up("reading <journal>.fsync", Err(error)),
        }
    }

    /// What a descriptor refers to, if that is under the directory.
    fn sync_target(&self, descriptor: RawFd) -> Option<Target> {
        let stat = sys::fstat(descriptor)?;
        if stat.device != self.device {
            return None;
        }
        let target = match stat.kind {
            sys::Kind::File => Target::File(Inode(stat.inode)),
            sys::Kind::Directory => {
                let metadata = fs::metadata(descriptor_path(descriptor));
                Target::Directory(directory_id(
                    &self.or_give_up("reading a directory", metadata)?,
                ))
            }
            sys::Kind::Other => return None,
        };
        let known = match &target {
            Target::File(file) => self.shared().files.contains_key(file),
            Target::Directory(directory) => self.shared().directories.contains_key(directory),
        };
        (known || self.lies_below(descriptor)).then_some(target)
    }

    /// None if the file has no name any more, so that nothing of it can survive.
    fn begin_file_sync(&self, descriptor: RawFd, file: Inode) -> io::Result<Option<Begun>> {
        let mut state = self.alone();
        if !state.files.contains_key(&file) && !self.keep.pin_open(descriptor, file)? {
            return Ok(None);
        }
        let stat = sys::fstat(descriptor).ok_or_else(io::Error::last_os_error)?;
        let tracked = state.files.entry(file).or_default();
        tracked.protected_bytes = tracked.protected_bytes.max(stat.size_bytes);
        tracked.syncs_running += 1;
        let sequence = self.next_sequence();
        Ok(Some(Begun::File {
            file,
            length_bytes: stat.size_bytes,
            sequence,
        }))
    }

    fn begin_directory_sync(
        &self,
        descriptor: RawFd,
        directory: DirectoryId,
    ) -> io::Result<Option<Begun>> {
        let mut state = self.alone();
        let entries = match self.keep.list(&descriptor_path(descriptor)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None), // removed
            Err(error) => return Err(error),
        };
        for entry in &entries {
            if let EntryKind::File(file) = entry.kind {
                state.files.entry(file).or_default();
            }
        }
        state.directory_syncs_running += 1;
        let sequence = self.next_sequence();
        Ok(Some(Begun::Directory {
            directory,
            entries,
            sequence,
        }))
    }

    pub(super) fn end_sync(&self, begun: Begun, result: libc::c_int, errno: libc::c_int) {
        let lost = matches!(errno, libc::EIO | libc::ENOSPC | libc::EDQUOT);
        match begun {
            Begun::File {
                file,
                length_bytes,
                sequence,
            } => {
                let mut state = self.alone();
                let Some(tracked) = state.files.get_mut(&file) else {
                    return;
                };
                tracked.syncs_running -= 1;
                if result == 0 && !tracked.failed {
                    if tracked.syncs_running == 0 {
                        tracked.protected_bytes = length_bytes;
                    }
                    self.record(&Record::FileSynced {
                        file,
                        length_bytes,
                        sequence,
                    });
                } else if result != 0 && lost {
                    tracked.failed = true;
                    self.record(&Record::FileSyncFailed { file });
                }
            }
            Begun::Directory {
                directory,
                entries,
                sequence,
            } => {
                self.alone().directory_syncs_running -= 1;
                if result == 0 {
                    self.end_directory_sync(directory, entries, sequence);
                } else if lost {
                    self.fail(&Target::Directory(directory));
                }
            }
        }
    }

    fn end_directory_sync(&self, directory: DirectoryId, entries: Vec<Entry>, sequence: Sequence) {
        let mut state = self.alone();
        let durable = state.directories.entry(directory).or_default();
        if durable.failed || sequence < durable.synced_at {
            return;
        }
        self.record(&Record::DirectorySynced {
            directory,
            entries: entries.clone(),
            sequence,
        });
        let before = std::mem::replace(&mut durable.entries, entries);
        durable.synced_at = sequence;
        let before = DurableDirectory {
            entries: before,
            ..DurableDirectory::default()
        };
        for file in before.files() {
            let dropped = self.drop_if_gone(&mut state, file);
            self.or_give_up("dropping a file that is gone for good", dropped);
        }
    }

    /// Forgets a file that no durable directory lists and that has no name left.
    fn drop_if_gone(&self, state: &mut State, file: Inode) -> io::Result<()> {
        let in_use = state
            .files
            .get(&file)
            .is_none_or(|tracked| tracked.syncs_running > 0);
        // A running sync of another directory may be about to list it.
        if in_use
            || state.directory_syncs_running > 0
            || state
                .directories
                .values()
                .any(|directory| directory.lists(file))
            || self.keep.has_other_names(file)?
        {
            return Ok(());
        }
        // In this order, as a kill may come between: a link too many is harmless.
        self.record(&Record::Forgotten { file });
        state.files.remove(&file);
        self.keep.remove(file)
    }

    fn fail_instead(&self, descriptor: RawFd, target: &Target) {
        // A file that has no name any more cannot be pinned, and need not be: none of it survives.
        let pinned = match *target {
            Target::File(file) => self.keep.pin_open(descriptor, file),
            Target::Directory(_) => Ok(true),
        };
        if self.or_give_up("keeping a file", pinned) == Some(true) {
            self.fail(target);
        }
    }

    fn fail(&self, target: &Target) {
        let mut state = self.alone();
        match *target {
            Target::File(file) => {
                state.files.entry(file).or_default().failed = true;
                self.record(&Record::FileSyncFailed { file });
            }
            Target::Directory(directory) => {
                state.directories.entry(directory).or_default().failed = true;
                self.record(&Record::DirectorySyncFailed { directory });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cut;
    use crate::shim::Span;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    /// Calls the shim by hand, for what a process could only do by chance: change a file while a sync
    /// of it runs.
    struct ByHand {
        folder: tempfile::TempDir,
        cut: Cut,
        shim: Shim,
    }

    impl ByHand {
        fn begin() -> ByHand {
            let folder = tempfile::tempdir().unwrap();
            let (data, journal) = (folder.path().join("data"), folder.path().join("journal"));
            let cut = Cut::begin(&data, &journal).unwrap();
            let shim = Shim::attach(&data, &journal).unwrap();
            ByHand { folder, cut, shim }
        }

        fn create(&self, name: &str) -> File {
            File::create(self.folder.path().join("data").join(name)).unwrap()
        }

        fn begin_sync(&self, file: &File) -> Begun {
            match self.shim.begin_sync(file.as_raw_fd()) {
                Syncing::Begun(begun) => begun,
                Syncing::NotOurs | Syncing::Instead(_) => panic!("{:?}", self.folder),
            }
        }

        fn sync(&self, file: &File) {
            let begun = self.begin_sync(file);
            self.shim.end_sync(begun, 0, 0);
        }

        fn write_at(&self, file: &File, offset: u64, text: &str) {
            let span = Span::At(offset, text.len() as u64);
            let changing = self.shim.before_change(file.as_raw_fd(), span);
            file.write_all_at(text.as_bytes(), offset).unwrap();
            drop(changing);
        }

        fn sync_folder(&self) {
            self.sync(&File::open(self.folder.path().join("data")).unwrap());
        }

        fn content_after_cut(self, name: &str) -> String {
            drop(self.shim);
            self.cut.apply().unwrap();
            fs::read_to_string(self.folder.path().join("data").join(name)).unwrap()
        }
    }

    #[test]
    fn what_is_overwritten_while_its_first_sync_runs_is_put_back() {
        let by_hand = ByHand::begin();
        let file = by_hand.create("log");
        by_hand.write_at(&file, 0, "AAAA");
        by_hand.sync_folder();
        let begun = by_hand.begin_sync(&file);
        by_hand.write_at(&file, 1, "BB");
        by_hand.write_at(&file, 4, "CC");
        by_hand.shim.end_sync(begun, 0, 0);
        assert_eq!(by_hand.content_after_cut("log"), "AAAA");
    }

    #[test]
    fn what_a_longer_running_sync_covers_stays_protected_when_a_shorter_one_ends() {
        let by_hand = ByHand::begin();
        let file = by_hand.create("log");
        by_hand.write_at(&file, 0, "AAAA");
        by_hand.sync_folder();
        let first = by_hand.begin_sync(&file);
        by_hand.write_at(&file, 4, "BBBB");
        let second = by_hand.begin_sync(&file);
        by_hand.shim.end_sync(first, 0, 0);
        by_hand.write_at(&file, 4, "CC");
        by_hand.shim.end_sync(second, 0, 0);
        assert_eq!(by_hand.content_after_cut("log"), "AAAABBBB");
    }

    #[test]
    fn a_sync_that_the_system_fails_ends_what_counts() {
        let by_hand = ByHand::begin();
        let file = by_hand.create("log");
        by_hand.write_at(&file, 0, "AAAA");
        by_hand.sync(&file);
        by_hand.sync_folder();
        by_hand.write_at(&file, 4, "BBBB");
        let begun = by_hand.begin_sync(&file);
        by_hand.shim.end_sync(begun, -1, libc::EIO);
        by_hand.sync(&file);
        assert_eq!(by_hand.content_after_cut("log"), "AAAA");
    }

    #[test]
    fn a_name_made_while_the_directorys_sync_runs_is_not_durable() {
        let by_hand = ByHand::begin();
        let folder = File::open(by_hand.folder.path().join("data")).unwrap();
        let kept = by_hand.create("kept");
        by_hand.sync(&kept);
        let begun = by_hand.begin_sync(&folder);
        by_hand.create("late");
        by_hand.shim.end_sync(begun, 0, 0);
        let late = by_hand.folder.path().join("data/late");
        let folder = by_hand.folder.path().to_owned();
        drop(by_hand.shim);
        by_hand.cut.apply().unwrap();
        assert!(folder.join("data/kept").exists() && !late.exists());
    }
}
