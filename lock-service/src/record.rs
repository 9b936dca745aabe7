//! A record of what this node applied, for the harness: a line of JSON for each entry, with its command
//! and its outcome. Unlike the log it survives purges and snapshots. It is never read here, and nothing
//! depends on it but the node's life: a node that was told to record and cannot, stops.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use lock_model::{Command, Outcome};
use parking_lot::Mutex;
use raft_core::EntryContext;
use serde_json::json;

/// The file.
#[derive(Clone, Debug)]
pub struct AppliedRecord {
    file: Arc<Mutex<File>>,
}

impl AppliedRecord {
    /// Opens the file to append to it.
    ///
    /// # Errors
    /// When it cannot be opened or written to.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)?;
        // A kill may have cut the last line short; what follows stands on a line of its own.
        let mut last = [b'\n'];
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last != [b'\n'] {
            file.write_all(b"\n")?;
        }
        Ok(Self {
            file: Arc::new(Mutex::new(file)),
        })
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(
        &self,
        entry: &EntryContext,
        command: &Command,
        outcome: &Outcome,
    ) -> io::Result<()> {
        let line = json!({
            "index": entry.index,
            "term": entry.term,
            "stamp": entry.stamp,
            "command": command,
            "outcome": outcome,
        });
        let mut line = serde_json::to_vec(&line)?;
        line.push(b'\n');
        self.file.lock().write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use lock_model::{Entry, LockTable, Timestamp};

    use super::*;

    #[test]
    fn entries_after_a_line_that_was_cut_short_stand_on_lines_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("applied.jsonl");
        std::fs::write(&path, "{\"index\":1}\n{\"ind").unwrap();
        let record = AppliedRecord::open(&path).unwrap();
        let entry = EntryContext {
            index: 2,
            term: 1,
            stamp: 5,
        };
        let at = Entry {
            index: 2,
            now: Timestamp(5),
        };
        let outcome = LockTable::new().apply(at, &Command::Tick);
        record.add(&entry, &Command::Tick, &outcome).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert_eq!(
            (&last["index"], &last["command"]),
            (&json!(2), &json!("Tick"))
        );
        assert_eq!(last["outcome"]["position"]["index"], 2);
    }
}
