//! Machines for this crate's own tests.

use std::io::{self, Read};

use crate::machine::{EntryContext, MachineError, Priority, SnapshotWriter, StateMachine};

/// Remembers every command with its index and stamp.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Register {
    pub seen: Vec<(u64, u64, u64)>,
}

impl Register {
    /// The one command that is critical.
    pub const URGENT: u64 = u64::MAX;
}

impl StateMachine for Register {
    type Command = u64;
    type Response = usize;

    fn apply(&mut self, entry: EntryContext, command: u64) -> Result<usize, MachineError> {
        self.seen.push((entry.index, entry.stamp, command));
        Ok(self.seen.len())
    }

    fn priority(command: &u64) -> Priority {
        match *command {
            Self::URGENT => Priority::Critical,
            _ => Priority::Normal,
        }
    }

    fn freeze(&self) -> SnapshotWriter {
        let seen = self.seen.clone();
        Box::new(move |out| {
            let bytes = postcard::to_allocvec(&seen).map_err(io::Error::other)?;
            out.write_all(&bytes)
        })
    }

    fn restore(&self, snapshot: &mut dyn Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        snapshot.read_to_end(&mut bytes)?;
        let seen = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
        Ok(Self { seen })
    }
}
