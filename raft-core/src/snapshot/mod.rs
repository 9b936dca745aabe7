//! Snapshot files: built, checksummed, received, opened.
//!
//! A file is written under a temporary name, checksummed, fsynced and renamed, and the folder is
//! fsynced: whatever carries a snapshot's name is whole. Only the newest is kept; one that is being
//! sent stays readable through its open file. This module never decides when to snapshot.
//!
//! Layout: magic, header length (u32 LE), header (versioned postcard: the metadata), the machine's
//! bytes, and at the end their length (u64 LE) and the CRC-32 of everything before it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::codec;
use crate::directory;
use crate::types::SnapshotMeta;

const MAGIC: &[u8; 8] = b"PALISNAP";
const TRAILER_BYTES: u64 = 12;
const MAX_HEADER_BYTES: usize = 1 << 20;
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
}

fn invalid(path: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("snapshot {}: {why}", path.display()),
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
        Ok(Self {
            folder: folder.to_owned(),
            partials: Arc::default(),
            current: Arc::default(),
        })
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

    /// Starts a file of this store under a temporary name.
    pub fn begin(&self) -> io::Result<PartialSnapshot> {
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
        })
    }

    /// Whether `file` is one of this folder, whole and named.
    pub fn holds(&self, file: &SnapshotFile) -> bool {
        file.path.parent() == Some(&self.folder)
    }

    /// Copies a whole file of another folder. Blocking.
    pub fn copy(&self, source: &SnapshotFile) -> io::Result<PartialSnapshot> {
        let mut partial = self.begin()?;
        io::copy(&mut source.reader(0)?, &mut partial)?;
        Ok(partial)
    }

    /// Writes a snapshot with `write` and makes it ready to [`adopt`](Self::adopt). Blocking.
    pub fn build(
        &self,
        meta: &SnapshotMeta,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<PartialSnapshot> {
        let mut partial = self.begin()?;
        let mut out = Summing {
            inner: BufWriter::with_capacity(1 << 20, &mut partial),
            checksum: crc32fast::Hasher::new(),
            bytes: 0,
        };
        let header = codec::encode(meta)?;
        let header_bytes = u32::try_from(header.len()).map_err(io::Error::other)?;
        out.write_all(MAGIC)?;
        out.write_all(&header_bytes.to_le_bytes())?;
        out.write_all(&header)?;
        let body_start = out.bytes;
        write(&mut out)?;
        let body_bytes = out.bytes - body_start;
        out.write_all(&body_bytes.to_le_bytes())?;
        let checksum = out.checksum.clone().finalize();
        out.inner.write_all(&checksum.to_le_bytes())?;
        out.inner.flush()?;
        drop(out);
        Ok(partial)
    }

    /// Gives a complete, verified file its name, durably, and removes older ones. Blocking.
    ///
    /// The caller has synced the log first, or a crash could leave the snapshot beside a log that
    /// contradicts it.
    pub fn adopt(&self, partial: PartialSnapshot, meta: &SnapshotMeta) -> io::Result<SnapshotFile> {
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

    /// Bytes of the whole file.
    pub fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads up to `buffer.len()` bytes at `offset`. Blocking.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&*self.file, buffer, offset)
    }

    fn header(&self) -> io::Result<(SnapshotMeta, u64)> {
        let mut file = self.reader(0)?;
        let mut start = [0; 12];
        file.read_exact(&mut start)?;
        if &start[..8] != MAGIC {
            return Err(invalid(&self.path, "this is not a snapshot file"));
        }
        let header_bytes = u32::from_le_bytes([start[8], start[9], start[10], start[11]]) as usize;
        if header_bytes > MAX_HEADER_BYTES {
            return Err(invalid(&self.path, "its header is too long"));
        }
        let mut header = vec![0; header_bytes];
        file.read_exact(&mut header)?;
        let meta = codec::decode("snapshot header", &header)?;
        Ok((meta, 12 + header_bytes as u64))
    }

    fn reader(&self, offset: u64) -> io::Result<BufReader<ReadAt>> {
        Ok(BufReader::with_capacity(
            1 << 20,
            ReadAt {
                file: self.file.clone(),
                offset,
            },
        ))
    }

    /// The machine's bytes. Blocking.
    pub fn body(&self) -> io::Result<impl Read> {
        let (_, body_start) = self.header()?;
        let body_bytes = self
            .bytes()?
            .checked_sub(body_start + TRAILER_BYTES)
            .ok_or_else(|| invalid(&self.path, "it is cut short"))?;
        Ok(self.reader(body_start)?.take(body_bytes))
    }

    /// Checks length and checksum of the whole file and returns its metadata. Blocking.
    pub fn verify(&self) -> io::Result<SnapshotMeta> {
        let (meta, body_start) = self.header()?;
        let total = self.bytes()?;
        let body_bytes = total
            .checked_sub(body_start + TRAILER_BYTES)
            .ok_or_else(|| invalid(&self.path, "it is cut short"))?;
        let mut hasher = crc32fast::Hasher::new();
        let mut summed = self.reader(0)?.take(total - 4);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = summed.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        let mut trailer = [0; TRAILER_BYTES as usize];
        self.reader(total - TRAILER_BYTES)?
            .read_exact(&mut trailer)?;
        let mut length = [0; 8];
        length.copy_from_slice(&trailer[..8]);
        if u64::from_le_bytes(length) != body_bytes {
            return Err(invalid(&self.path, "it is cut short"));
        }
        if trailer[8..] != hasher.finalize().to_le_bytes() {
            return Err(invalid(&self.path, "its checksum does not hold"));
        }
        Ok(meta)
    }
}

/// Reads a shared file at an offset of its own.
struct ReadAt {
    file: Arc<File>,
    offset: u64,
}

impl Read for ReadAt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(&*self.file, buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

struct Summing<W> {
    inner: W,
    checksum: crc32fast::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.checksum.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
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
