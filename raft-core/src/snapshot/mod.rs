//! Snapshot files: built, checksummed, received, opened.
//!
//! A file is written under a temporary name, checksummed, fsynced and renamed, and the folder is
//! fsynced: whatever carries a snapshot's name is whole. Only the newest is kept; one that is being
//! sent stays readable through its open file. This module never decides when to snapshot.
//!
//! A snapshot is a sealed file ([`crate::sealed`]): its header is the metadata, its body the machine's
//! bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::directory;
use crate::metrics::SnapshotProgress;
use crate::sealed;
use crate::types::SnapshotMeta;

const MAGIC: &sealed::Magic = b"PALISNAP";
const SUFFIX: &str = "snapshot";
const PARTIAL_SUFFIX: &str = "partial";
/// A file is synced this often while it grows. Synced at its end alone, it would have the disk to
/// itself for seconds, and the log's syncs would wait.
const SYNC_BYTES: u64 = 8 << 20;

/// A whole snapshot file. The open file outlives a newer snapshot that takes its place.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
}

/// The folder that holds one group's snapshots.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotStore {
    folder: PathBuf,
    partials: Arc<AtomicU64>,
    current: Arc<Mutex<Option<(SnapshotMeta, SnapshotFile)>>>,
}

/// A snapshot file being received: removed when dropped before [`SnapshotStore::adopt`].
#[derive(Debug)]
pub(crate) struct PartialSnapshot {
    path: PathBuf,
    file: File,
    unsynced: u64,
    progress: Option<SnapshotProgress>,
}

/// Names the file in an error about it.
fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("snapshot {}: {error}", path.display()),
    )
}

impl SnapshotStore {
    /// Opens or makes the folder and removes what an earlier process left half-written.
    pub fn open(folder: &Path) -> io::Result<Self> {
        directory::create_durable(folder)?;
        for item in fs::read_dir(folder)? {
            let path = item?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == PARTIAL_SUFFIX)
            {
                fs::remove_file(path)?;
            }
        }
        Ok(Self::existing(folder))
    }

    /// The folder as it is, for looking: nothing is made or removed.
    pub fn existing(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            partials: Arc::default(),
            current: Arc::default(),
        }
    }

    /// The newest snapshot, its checksum verified, and its metadata.
    ///
    /// # Errors
    /// When the newest file does not hold what it should. An older one is not a substitute: the log
    /// behind it is gone.
    pub fn newest(&self) -> io::Result<Option<(SnapshotMeta, SnapshotFile)>> {
        let Some(path) = self.files()?.pop() else {
            return Ok(None);
        };
        let snapshot = SnapshotFile::open(&path)?;
        let found = (snapshot.verify()?, snapshot);
        *self.current.lock() = Some(found.clone());
        Ok(Some(found))
    }

    /// The newest snapshot that was found or adopted, its checksum not looked at again.
    pub fn current(&self) -> Option<(SnapshotMeta, SnapshotFile)> {
        self.current.lock().clone()
    }

    /// Snapshot files in order of their log index: names start with it, zero-padded.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for item in fs::read_dir(&self.folder)? {
            let path = item?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == SUFFIX)
            {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Starts a file for a snapshot of so many bytes that is about to arrive.
    pub fn receive(&self, bytes: u64) -> io::Result<PartialSnapshot> {
        let mut partial = self.begin()?;
        partial.progress = Some(SnapshotProgress::receiving(bytes));
        Ok(partial)
    }

    /// Starts a file of this store under a temporary name.
    fn begin(&self) -> io::Result<PartialSnapshot> {
        let number = self.partials.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{number}.{PARTIAL_SUFFIX}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(PartialSnapshot {
            path,
            file,
            unsynced: 0,
            progress: None,
        })
    }

    /// Whether `file` is one of this folder, whole and named.
    pub fn holds(&self, file: &SnapshotFile) -> bool {
        file.path.parent() == Some(&self.folder)
    }

    /// Copies a whole file of another folder. Blocking.
    pub fn copy(&self, source: &SnapshotFile) -> io::Result<PartialSnapshot> {
        let mut partial = self.begin()?;
        io::copy(&mut sealed::read_from(&source.file, 0), &mut partial)?;
        Ok(partial)
    }

    /// Writes a snapshot with `write` and makes it ready to [`adopt`](Self::adopt). Blocking.
    pub fn build(
        &self,
        meta: &SnapshotMeta,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<PartialSnapshot> {
        let mut partial = self.begin()?;
        partial.progress = Some(SnapshotProgress::building());
        let mut out = BufWriter::with_capacity(1 << 20, &mut partial);
        sealed::write(&mut out, MAGIC, meta, write)?;
        out.flush()?;
        drop(out);
        Ok(partial)
    }

    /// Gives a complete, verified file its name, durably, and removes older ones. Blocking.
    ///
    /// The caller has synced the log first, or a crash could leave the snapshot beside a log that
    /// contradicts it.
    pub fn adopt(
        &self,
        mut partial: PartialSnapshot,
        meta: &SnapshotMeta,
    ) -> io::Result<SnapshotFile> {
        partial.file.sync_all()?;
        let (index, term) = meta
            .last_log_id
            .map_or((0, 0), |log_id| (log_id.index, log_id.leader_id.term));
        let path = self.folder.join(format!("{index:020}-{term}.{SUFFIX}"));
        fs::rename(&partial.path, &path)?;
        directory::sync(&self.folder)?;
        let adopted = SnapshotFile::open(&path)?;
        let files = self.files()?;
        {
            let mut current = self.current.lock();
            let newer = |(current, _): &(SnapshotMeta, _)| current.last_log_id > meta.last_log_id;
            // One that was received meanwhile may be newer than one that took long to build.
            if !current.as_ref().is_some_and(newer) {
                *current = Some((meta.clone(), adopted.clone()));
            }
        }
        for older in files {
            if older < path {
                fs::remove_file(older)?;
            }
        }
        if let Some(progress) = partial.progress.take() {
            progress.finished();
        }
        Ok(adopted)
    }
}

impl PartialSnapshot {
    /// Appends received bytes. Blocking.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        if let Some(progress) = &mut self.progress {
            progress.add(bytes.len());
        }
        Ok(())
    }

    /// Checks that it is whole and returns its metadata. Blocking.
    pub fn verify(&self) -> io::Result<SnapshotMeta> {
        SnapshotFile {
            path: self.path.clone(),
            file: Arc::new(self.file.try_clone()?),
        }
        .verify()
    }

    /// The file as one that can be read and sent, still under its temporary name.
    pub fn file(&self) -> io::Result<SnapshotFile> {
        Ok(SnapshotFile {
            path: self.path.clone(),
            file: Arc::new(self.file.try_clone()?),
        })
    }
}

impl Write for PartialSnapshot {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.append(buffer)?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PartialSnapshot {
    fn drop(&mut self) {
        // Gone already when it was adopted. A file left behind is removed at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

impl SnapshotFile {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(File::open(path)?),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the whole file.
    pub fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads up to `buffer.len()` bytes at `offset`. Blocking.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&*self.file, buffer, offset)
    }

    /// The machine's bytes. Blocking.
    pub fn body(&self) -> io::Result<impl Read + use<>> {
        sealed::body(&self.file, MAGIC).map_err(|error| about(&self.path, error))
    }

    /// Checks length and checksum of the whole file and returns its metadata. Blocking.
    pub fn verify(&self) -> io::Result<SnapshotMeta> {
        sealed::verify(&self.file, MAGIC, "its header").map_err(|error| about(&self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LogId;

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: Some(LogId::new(2.into(), index)),
            last_membership: Default::default(),
        }
    }

    fn build(store: &SnapshotStore, index: u64, body: &[u8]) -> SnapshotFile {
        let partial = store
            .build(&meta(index), |out| out.write_all(body))
            .unwrap();
        assert_eq!(partial.verify().unwrap(), meta(index));
        store.adopt(partial, &meta(index)).unwrap()
    }

    #[test]
    fn the_newest_snapshot_is_found_again_and_older_ones_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        build(&store, 9, b"nine");
        build(&store, 10, b"ten");
        let (found, file) = SnapshotStore::open(folder.path())
            .unwrap()
            .newest()
            .unwrap()
            .unwrap();
        assert_eq!(found, meta(10));
        let mut body = Vec::new();
        file.body().unwrap().read_to_end(&mut body).unwrap();
        assert_eq!(body, b"ten");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_open_snapshot_stays_readable_when_a_newer_one_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        let old = build(&store, 1, b"old");
        build(&store, 2, b"new");
        old.verify().unwrap();
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        let file = build(&store, 5, b"some state");
        let whole = fs::read(&file.path).unwrap();
        for position in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[position] ^= 0x10;
            fs::write(&file.path, &bytes).unwrap();
            assert!(store.newest().is_err(), "flipped byte {position}");
        }
    }

    #[test]
    fn a_half_written_file_is_removed_at_start() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("0.partial"), b"half").unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        assert!(store.newest().unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
