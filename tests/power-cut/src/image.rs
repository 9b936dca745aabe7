//! What would be left after a power cut: the journal, folded.

use crate::journal::{DirectoryId, Entry, EntryKind, Inode, Record, Sequence};
use std::collections::BTreeMap;

/// The durable state of everything under the directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub top: Option<DirectoryId>,
    pub files: BTreeMap<Inode, DurableFile>,
    pub directories: BTreeMap<DirectoryId, DurableDirectory>,
    /// How many processes attached.
    pub attached: u64,
    /// How many syncs succeeded, lied, failed since the journal began.
    pub synced: u64,
    pub lied: u64,
    pub failed: u64,
    /// Why the journal is not the truth, if it is not.
    pub gave_up: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DurableFile {
    pub length_bytes: u64,
    synced_at: Sequence,
    /// What was durable where it was changed since, oldest first.
    pub overwritten: Vec<Overwritten>,
    /// A sync of it failed.
    pub failed: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overwritten {
    pub offset: u64,
    pub bytes: Vec<u8>,
    sequence: Sequence,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DurableDirectory {
    pub entries: Vec<Entry>,
    pub synced_at: Sequence,
    /// A sync of it failed.
    pub failed: bool,
}

impl Image {
    pub(crate) fn fold(records: Vec<Record>) -> Image {
        let mut image = Image::default();
        for record in records {
            image.add(record);
        }
        image
    }

    fn add(&mut self, record: Record) {
        match record {
            Record::Began { directory } => self.top = Some(directory),
            Record::Attached { .. } => self.attached += 1,
            Record::FileSynced {
                file,
                length_bytes,
                sequence,
            } => {
                self.count_sync();
                self.files
                    .entry(file)
                    .or_default()
                    .synced(length_bytes, sequence);
            }
            Record::DirectorySynced {
                directory,
                entries,
                sequence,
            } => {
                self.count_sync();
                self.list(directory, entries, sequence);
            }
            Record::Overwriting {
                file,
                offset,
                bytes,
                sequence,
            } => {
                let file = self.files.entry(file).or_default();
                file.overwritten.push(Overwritten {
                    offset,
                    bytes,
                    sequence,
                });
            }
            Record::Forgotten { file } => {
                self.files.remove(&file);
            }
            Record::SyncLied => self.lied += 1,
            Record::FileSyncFailed { file } => {
                self.failed += 1;
                self.files.entry(file).or_default().failed = true;
            }
            Record::DirectorySyncFailed { directory } => {
                self.failed += 1;
                self.directories.entry(directory).or_default().failed = true;
            }
            Record::GaveUp { reason } => {
                self.gave_up.get_or_insert(reason);
            }
        }
    }

    /// Counts a sync by a process, not what `Cut` itself stated before any ran.
    fn count_sync(&mut self) {
        if self.attached > 0 {
            self.synced += 1;
        }
    }

    fn list(&mut self, directory: DirectoryId, entries: Vec<Entry>, sequence: Sequence) {
        for entry in &entries {
            if let EntryKind::File(file) = entry.kind {
                self.files.entry(file).or_default();
            }
        }
        let directory = self.directories.entry(directory).or_default();
        // Two syncs at once may end in the other order: the one that began later saw more.
        if sequence >= directory.synced_at {
            directory.entries = entries;
            directory.synced_at = sequence;
        }
    }
}

impl DurableFile {
    fn synced(&mut self, length_bytes: u64, sequence: Sequence) {
        if sequence < self.synced_at {
            return;
        }
        self.length_bytes = length_bytes;
        self.synced_at = sequence;
        // What was changed before the sync began is durable as changed.
        self.overwritten
            .retain(|overwritten| overwritten.sequence > sequence);
    }
}

impl DurableDirectory {
    /// Whether it lists `file`, under any name.
    pub(crate) fn lists(&self, file: Inode) -> bool {
        self.files().any(|listed| listed == file)
    }

    /// The files that it lists.
    pub(crate) fn files(&self) -> impl Iterator<Item = Inode> + '_ {
        self.entries.iter().filter_map(|entry| match entry.kind {
            EntryKind::File(file) => Some(file),
            EntryKind::Directory { .. } | EntryKind::Symlink { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Inode = Inode(5);

    fn synced(length_bytes: u64, sequence: u64) -> Record {
        Record::FileSynced {
            file: FILE,
            length_bytes,
            sequence: Sequence(sequence),
        }
    }

    fn overwriting(sequence: u64) -> Record {
        Record::Overwriting {
            file: FILE,
            offset: 0,
            bytes: vec![sequence as u8],
            sequence: Sequence(sequence),
        }
    }

    fn kept(records: Vec<Record>) -> (u64, Vec<u8>) {
        let image = Image::fold(records);
        let file = &image.files[&FILE];
        (
            file.length_bytes,
            file.overwritten.iter().map(|o| o.bytes[0]).collect(),
        )
    }

    #[test]
    fn a_sync_makes_what_was_written_before_it_began_durable() {
        assert_eq!(
            kept(vec![synced(10, 1), overwriting(2), synced(10, 3)]),
            (10, vec![])
        );
    }

    #[test]
    fn what_was_written_while_a_sync_ran_is_not_durable() {
        let records = vec![synced(10, 1), overwriting(2), overwriting(4), synced(10, 3)];
        assert_eq!(kept(records), (10, vec![4]));
    }

    #[test]
    fn of_two_syncs_at_once_the_one_that_began_later_counts() {
        assert_eq!(kept(vec![synced(20, 4), synced(10, 2)]), (20, vec![]));
    }
}
