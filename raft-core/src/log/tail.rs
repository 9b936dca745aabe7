//! The newest entries of the log, in memory: what replication and apply read almost always.
//!
//! Holds every entry that is not written yet, and older ones up to a budget. Never a source of
//! truth after a restart.

use std::collections::VecDeque;

use openraft::EntryPayload;
use openraft::entry::RaftEntry;

use crate::types::Entry;

/// Written entries are dropped from memory once the tail holds more than this.
const BUDGET_BYTES: usize = 16 << 20;

/// About how many bytes an entry takes, in memory or in a frame.
pub(super) fn size(entry: &Entry) -> usize {
    64 + match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.command.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 256,
    }
}

#[derive(Default)]
pub(super) struct Tail {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    /// Entries below this index are in RocksDB.
    written_below: u64,
}

impl Tail {
    /// The lowest index held.
    pub fn first(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.index())
    }

    /// Adds the next entry. One that does not follow the last replaces what is held, which happens
    /// only when a log starts anew behind a snapshot.
    pub fn push(&mut self, entry: Entry, encoded_bytes: usize) {
        let follows = self
            .entries
            .back()
            .is_none_or(|(last, _)| last.index() + 1 == entry.index());
        if !follows {
            self.entries.clear();
            self.bytes = 0;
        }
        self.bytes += encoded_bytes;
        self.entries.push_back((entry, encoded_bytes));
        while self.bytes > BUDGET_BYTES {
            match self.entries.front() {
                Some((first, _)) if first.index() < self.written_below => self.pop_front(),
                _ => break,
            }
        }
    }

    /// RocksDB now holds everything up to and including `index`.
    pub fn written(&mut self, index: u64) {
        self.written_below = self.written_below.max(index + 1);
    }

    /// Forgets entries from `first_removed` on.
    pub fn truncate(&mut self, first_removed: u64) {
        while let Some((last, bytes)) = self.entries.back() {
            if last.index() < first_removed {
                break;
            }
            self.bytes -= bytes;
            self.entries.pop_back();
        }
    }

    /// RocksDB no longer holds anything from `first_removed` on.
    pub fn unwritten(&mut self, first_removed: u64) {
        self.written_below = self.written_below.min(first_removed);
    }

    /// Forgets entries up to and including `upto`.
    pub fn purge(&mut self, upto: u64) {
        while self.first().is_some_and(|first| first <= upto) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes -= bytes;
        }
    }

    /// Entries of `[start, end)`, at most about `max_bytes` but at least one; `None` when `start`
    /// is older than what is held.
    pub fn read(&self, start: u64, end: u64, max_bytes: usize) -> Option<Vec<Entry>> {
        let first = self.first()?;
        let skip = usize::try_from(start.checked_sub(first)?).ok()?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (entry, _) in self.entries.iter().skip(skip) {
            if entry.index() >= end || (bytes >= max_bytes && !entries.is_empty()) {
                break;
            }
            bytes += size(entry);
            entries.push(entry.clone());
        }
        (!entries.is_empty()).then_some(entries)
    }
}
