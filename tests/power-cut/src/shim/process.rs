//! What the shim knows in one process, and what it does before bytes change.

use super::{Span, complain};
use crate::error::{Error, Result};
use crate::fsync::Fsync;
use crate::image::{DurableDirectory, Image};
use crate::journal::{self, DirectoryId, Inode, Journal, Record, Sequence};
use crate::keep::Keep;
use crate::{DIRECTORY_VARIABLE, FSYNC_VARIABLE, JOURNAL_VARIABLE};
use crate::{cut, sys};
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How much of what is about to be overwritten goes into one record.
const CHUNK_BYTES: u64 = 1 << 20;

pub(super) struct Shim {
    pub(super) directory: PathBuf,
    pub(super) device: u64,
    pub(super) keep: Keep,
    pub(super) journal: Journal,
    pub(super) state: RwLock<State>,
    /// Orders what is kept of overlapping changes.
    pub(super) keeping: Mutex<()>,
    pub(super) order: Mutex<u64>,
    pub(super) gave_up: AtomicBool,
    pub(super) fsync: Fsync,
    pub(super) fsync_file: PathBuf,
    full_file: PathBuf,
    pub(super) syncs: AtomicU64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) files: BTreeMap<Inode, TrackedFile>,
    pub(super) directories: BTreeMap<DirectoryId, DurableDirectory>,
    pub(super) directory_syncs_running: u32,
}

#[derive(Default)]
pub(super) struct TrackedFile {
    /// What lies below is durable, or will be when a running sync succeeds.
    pub(super) protected_bytes: u64,
    pub(super) syncs_running: u32,
    /// A sync of it failed: no other counts.
    pub(super) failed: bool,
}

impl Shim {
    pub(super) fn from_environment() -> Option<Shim> {
        let directory = std::env::var_os(DIRECTORY_VARIABLE)?;
        let journal = std::env::var_os(JOURNAL_VARIABLE)?;
        match Shim::attach(Path::new(&directory), Path::new(&journal)) {
            Ok(shim) => Some(shim),
            Err(error) => {
                complain(&format!("off, so that no cut will be possible: {error}"));
                None
            }
        }
    }

    pub(super) fn attach(directory: &Path, journal_path: &Path) -> Result<Shim> {
        let directory = directory
            .canonicalize()
            .map_err(Error::io("resolving", directory))?;
        let device = fs::metadata(&directory)
            .map_err(Error::io("reading", &directory))?
            .dev();
        let journal = Journal::open(journal_path)?;
        let image = Image::fold(journal::read(journal_path)?);
        let fsync = match std::env::var(FSYNC_VARIABLE) {
            Ok(words) => words.parse()?,
            Err(_) => Fsync::Honest,
        };
        journal.put(&Record::Attached {
            pid: std::process::id(),
        })?;
        Ok(Shim {
            directory,
            device,
            keep: Keep::beside(journal_path),
            journal,
            order: Mutex::new(0),
            gave_up: AtomicBool::new(image.gave_up.is_some()),
            state: RwLock::new(State::from_image(image)),
            keeping: Mutex::new(()),
            fsync,
            fsync_file: cut::with_suffix(journal_path, ".fsync"),
            full_file: cut::with_suffix(journal_path, cut::FULL_SUFFIX),
            syncs: AtomicU64::new(0),
        })
    }

    pub(super) fn give_up(&self, reason: &str) {
        if self.gave_up.swap(true, Ordering::SeqCst) {
            return;
        }
        complain(reason);
        if let Err(error) = self.journal.append(&Record::GaveUp {
            reason: reason.to_owned(),
        }) {
            complain(&format!("cannot even record that: {error}"));
        }
    }

    /// The value, or none after giving up.
    pub(super) fn or_give_up<T>(&self, doing: &str, result: io::Result<T>) -> Option<T> {
        result
            .map_err(|error| self.give_up(&format!("{doing}: {error}")))
            .ok()
    }

    pub(super) fn record(&self, record: &Record) {
        // After giving up nothing more may count as durable.
        if !self.gave_up.load(Ordering::SeqCst) {
            self.or_give_up("appending to the journal", self.journal.append(record));
        }
    }

    pub(super) fn next_sequence(&self) -> Sequence {
        // The clock orders what one process did after another; the counter, what one did at once.
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        *order = sys::monotonic_ns().max(*order + 1);
        Sequence(*order)
    }

    pub(super) fn shared(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn alone(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is durable of `span`. What it returns is to be held until the change is made.
    pub(super) fn before_change(
        &self,
        descriptor: RawFd,
        span: Span,
    ) -> Option<RwLockReadGuard<'_, State>> {
        let file = self.regular_file(descriptor)?;
        let state = self.shared();
        let protected = state
            .files
            .get(&file)
            .map_or(0, |tracked| tracked.protected_bytes);
        if protected > 0 {
            let (start, end) = match span {
                Span::Here(count) => match sys::cursor(descriptor) {
                    Some(start) => (start, start.saturating_add(count)),
                    None => return Some(state), // it appends
                },
                Span::At(start, count) => (start, start.saturating_add(count)),
                Span::From(start) => (start, u64::MAX),
            };
            self.keep_bytes(file, start, end.min(protected));
        }
        Some(state)
    }

    /// Whether an open file is one of ours and the disk is full.
    pub(super) fn is_full_at(&self, descriptor: RawFd) -> bool {
        self.regular_file(descriptor).is_some()
            && self.full_file.exists()
            && self.lies_below(descriptor)
    }

    /// Whether the disk is full and a change of `span` would make the file longer.
    pub(super) fn has_no_space_for(&self, descriptor: RawFd, span: Span) -> bool {
        if !self.is_full_at(descriptor) {
            return false;
        }
        let length_bytes = sys::fstat(descriptor).map_or(0, |stat| stat.size_bytes);
        match span {
            Span::Here(0) | Span::At(_, 0) | Span::From(_) => false,
            Span::Here(count) => {
                let start = sys::cursor(descriptor).unwrap_or(length_bytes);
                start.saturating_add(count) > length_bytes
            }
            Span::At(start, count) => start.saturating_add(count) > length_bytes,
        }
    }

    /// Whether what a descriptor refers to is under the directory, or was before it was unlinked.
    pub(super) fn lies_below(&self, descriptor: RawFd) -> bool {
        // The path of what was unlinked ends in ` (deleted)`, which does not matter here.
        let path = fs::read_link(descriptor_path(descriptor));
        self.or_give_up("resolving a descriptor (is /proc mounted?)", path)
            .is_some_and(|path| path.starts_with(&self.directory))
    }

    fn keep_bytes(&self, file: Inode, start: u64, end: u64) {
        if start < end && !self.gave_up.load(Ordering::SeqCst) {
            let kept = self.try_keep_bytes(file, start, end);
            self.or_give_up("keeping what is about to be overwritten", kept);
        }
    }

    fn try_keep_bytes(&self, file: Inode, mut start: u64, end: u64) -> io::Result<()> {
        let _ordered = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        // By its kept link: the program's own descriptor may be write-only.
        let content = self.keep.open(file)?;
        while start < end {
            let mut bytes = vec![0; (end - start).min(CHUNK_BYTES) as usize];
            let read = content.read_at(&mut bytes, start)?;
            if read == 0 {
                // Shorter than what is durable: the truncation that made it so kept the rest.
                break;
            }
            bytes.truncate(read);
            let sequence = self.next_sequence();
            self.journal.append(&Record::Overwriting {
                file,
                offset: start,
                bytes,
                sequence,
            })?;
            start += read as u64;
        }
        Ok(())
    }

    /// The file at a path, as the program is about to open or truncate it; none if there is none.
    pub(super) fn open_below(&self, directory: RawFd, path: &CStr) -> Option<File> {
        let folder = match directory {
            libc::AT_FDCWD => PathBuf::new(),
            descriptor => descriptor_path(descriptor),
        };
        let path = folder.join(OsStr::from_bytes(path.to_bytes()));
        // Opening a pipe would wait for its other end, so look first.
        if !fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            return None;
        }
        // If it may be truncated but not read, its kept link cannot be read either.
        File::open(path).ok()
    }

    fn regular_file(&self, descriptor: RawFd) -> Option<Inode> {
        let stat = sys::fstat(descriptor)?;
        (stat.kind == sys::Kind::File && stat.device == self.device).then_some(Inode(stat.inode))
    }

    pub(super) fn is_durable(&self, descriptor: RawFd) -> bool {
        self.regular_file(descriptor).is_some_and(|file| {
            self.shared()
                .files
                .get(&file)
                .is_some_and(|tracked| tracked.protected_bytes > 0)
        })
    }
}

impl State {
    fn from_image(image: Image) -> State {
        let files = image.files.into_iter().map(|(file, durable)| {
            let tracked = TrackedFile {
                protected_bytes: durable.length_bytes,
                syncs_running: 0,
                failed: durable.failed,
            };
            (file, tracked)
        });
        State {
            files: files.collect(),
            directories: image.directories,
            directory_syncs_running: 0,
        }
    }
}

pub(super) fn descriptor_path(descriptor: RawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{descriptor}"))
}
