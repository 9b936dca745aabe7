//! What a user of this crate writes: the replicated state machine, and optionally a clock for it.
//!
//! Nothing here touches a log, a file or a socket.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Where an entry stands in the log, and what its leader stamped on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryContext {
    /// The entry's log index. Rises from entry to entry, with gaps: membership changes and a new
    /// leader's first entry take indexes too.
    pub index: u64,
    /// The term of the leader that made the entry.
    pub term: u64,
    /// What the leader's [`Stamper`] answered when it sealed the entry; 0 without one.
    pub stamp: u64,
}

/// What a proposal may use of a node's room for proposals in flight. Each keeps a share from those
/// above it in this list; see [`Config::reserved_percent`](crate::Config::reserved_percent).
///
/// It decides who is refused under overload, never the order of what is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Priority {
    /// Ordinary work, refused first.
    #[default]
    Normal,
    /// What lightens the load, such as giving something back.
    High,
    /// What keeps alive that which exists. Few and small, or it starves itself.
    Critical,
}

/// A deterministic failure of [`StateMachine::apply`]: this node stops, before replicas diverge.
///
/// A refusal that a client should see is a `Response`, not this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the state machine cannot go on: {0}")]
pub struct MachineError(pub String);

/// Writes one frozen state to a snapshot file. Runs on a blocking thread.
pub type SnapshotWriter = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// A replicated state machine.
///
/// `apply` sees the same commands in the same order on every node, and must do the same there: no
/// clock, randomness, environment or iteration over a hash map may change what it answers.
pub trait StateMachine: Send + Sync + Sized + 'static {
    /// What is replicated. Its encoding ([postcard](https://docs.rs/postcard)) is a disk format:
    /// append variants, never reorder or change them.
    type Command: Serialize + DeserializeOwned + Send + 'static;
    /// What `apply` answers. Each node computes it for itself; it is never encoded.
    type Response: Send + 'static;

    /// Applies one committed command.
    ///
    /// # Errors
    /// Stops this node; see [`MachineError`].
    fn apply(
        &mut self,
        entry: EntryContext,
        command: Self::Command,
    ) -> Result<Self::Response, MachineError>;

    /// How important a command is when not all can be taken. Asked where it is proposed. All are
    /// [`Priority::Normal`] unless you say otherwise.
    fn priority(_command: &Self::Command) -> Priority {
        Priority::Normal
    }

    /// A command that the leader commits before it hands its leadership over, for state that only a
    /// leader moves (a clock). The default asks for none.
    fn before_handover(&self) -> Option<Self::Command> {
        None
    }

    /// Takes the state as it is now. Must be cheap (persistent data structures, or a small state):
    /// no command is applied meanwhile. The returned writer runs later, on another thread.
    fn freeze(&self) -> SnapshotWriter;

    /// Makes the machine that `snapshot` describes. `self` is the machine it replaces, for side
    /// channels that outlive a state; reads of it go on until the new one takes its place.
    ///
    /// # Errors
    /// When the bytes are not a snapshot of this machine; the node then stops and says so.
    fn restore(&self, snapshot: &mut dyn Read) -> io::Result<Self>;
}

/// Stamps entries on the leader, in log order; how time gets into a log.
///
/// One task calls it, on the leader only. A stamp is given after everything that joins the entry is
/// in it, and the entry is handed to the log under the leadership the stamp was made for, or
/// stamped anew.
pub trait Stamper: Send + 'static {
    /// This node's leadership has begun and its own first entry has been applied, or nothing was
    /// committed for [`Config::rebase_after`](crate::Config::rebase_after) until now or until lately:
    /// time that passed unled or uncommitted must not count. Start again from what the applied state
    /// says.
    fn rebase(&mut self);

    /// The stamp of the next entry.
    fn stamp(&mut self) -> u64;
}

/// For machines that need no stamps.
impl Stamper for () {
    fn rebase(&mut self) {}

    fn stamp(&mut self) -> u64 {
        0
    }
}
