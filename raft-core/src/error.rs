//! What can go wrong, sorted by what the caller may conclude from it.

use std::io;

/// A node could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings contradict themselves or the data directory.
    #[error("{0}")]
    Configuration(String),
    /// Another process uses the data directory.
    #[error("the data directory {0} is in use by another process; stop that one first")]
    InUse(String),
    /// The peers founded a cluster without this data directory, or do not take it in, or removed it.
    #[error("{0}")]
    NotAMember(String),
    /// A file, the log or a snapshot cannot be used.
    #[error("{0}")]
    Storage(#[from] io::Error),
    /// openraft refused to start.
    #[error("raft cannot start: {0}")]
    Raft(String),
}

/// Why a proposal has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// It was not applied and never will be: no leader took it before the deadline.
    #[error("no leader took the proposal before the deadline; it was not applied")]
    NotProposed,
    /// It was not applied: its encoding exceeds [`MAX_COMMAND_BYTES`](crate::MAX_COMMAND_BYTES).
    #[error("the command takes {bytes} bytes, more than the limit of {limit}; it was not applied")]
    TooLarge {
        /// Encoded length.
        bytes: usize,
        /// The most allowed.
        limit: usize,
    },
    /// It was not applied: as many proposals are in flight, here or at the leader, as the
    /// [`Config`](crate::Config) allows for its priority. Try again later.
    #[error("too many proposals are in flight; it was not applied, try again later")]
    Overloaded,
    /// It was not applied: the leader's disk is nearly full, and so are those of the others that could
    /// lead; see [`Config::free_space_floor_bytes`](crate::Config::free_space_floor_bytes).
    #[error("the disk is nearly full; it was not applied. Free space on the nodes")]
    DiskFull,
    /// It was not applied: it cannot be encoded.
    #[error("the command cannot be encoded ({0}); it was not applied")]
    Encoding(String),
    /// It was handed to a leader and its outcome is not known: it may yet be applied, or never.
    #[error("the outcome is unknown: the proposal may have been applied, or may yet be")]
    Unknown,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// No point of the log could be confirmed before the deadline; nothing was written.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The node has stopped; nothing was written.
    #[error("this node has stopped: {0}")]
    Stopped(String),
    /// The state could not be written. What was written is no backup.
    #[error("the backup could not be written: {0}")]
    Io(#[from] io::Error),
}

/// Why a linearizable read cannot be served now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader confirmed its leadership before the deadline.
    #[error("no leader confirmed its leadership before the deadline")]
    NoLeader,
    /// This node has not applied far enough before the deadline.
    #[error("this node did not catch up with the cluster before the deadline")]
    Behind,
}
