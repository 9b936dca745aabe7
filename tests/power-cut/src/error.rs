//! What can go wrong around a cut. The shim itself never reports to the program that it runs in: it
//! writes into the journal that it gave up, and `apply` refuses.

use std::io;
use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a cut could not be staged or applied. The directory is as it was, unless stated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed. When it happened inside of `Cut::apply`, the directory may be half
    /// cut: throw it away.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was tried, as in "reading".
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The journal is there already.
    #[error("the journal {} exists already: give each run a fresh one", .0.display())]
    JournalExists(PathBuf),
    /// The journal cannot be where it is.
    #[error("the journal {} must lie outside of the directory {} and on the same file system",
        journal.display(), directory.display())]
    JournalMisplaced {
        /// The journal.
        journal: PathBuf,
        /// The directory to be cut.
        directory: PathBuf,
    },
    /// The journal was written by another version of this crate, or is no journal.
    #[error("{} is not a power-cut journal of this version; rebuild the shim with \
        `cargo build -p power-cut --examples` and start again", .0.display())]
    NotAJournal(PathBuf),
    /// No process ever ran under the shim, so a cut would prove nothing.
    #[error("no process loaded the shim with the journal {}: was its environment set with \
        `Cut::env_for`, and is it dynamically linked?", .0.display())]
    NeverLoaded(PathBuf),
    /// A process still runs under the shim.
    #[error("a process still has the journal {} open: kill it, and its children, and wait for them \
        before the cut", .0.display())]
    StillRunning(PathBuf),
    /// The shim met something that it cannot model, so its journal is no longer the truth.
    #[error("the shim gave up: {0}")]
    GaveUp(String),
    /// The preload library was not built.
    #[error("libpower_cut_shim.so was not found in `examples/` beside any folder above {}: build it with \
        `cargo build -p power-cut --examples` in the same profile and target directory", .0.display())]
    LibraryNotBuilt(PathBuf),
    /// An [`Fsync`](crate::Fsync) in words that mean nothing.
    #[error("`{0}` is not one of honest, lie, fail, fail-after:N")]
    UnknownFsync(String),
}

impl Error {
    /// For `map_err`: an IO error with what was being done, to which path.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}
