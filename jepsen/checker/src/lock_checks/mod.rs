//! Checks of lock histories that linearizability does not cover: tokens, time, resources, requests,
//! events, recovery, coverage. Each is one promise with the evidence for its conclusion. None reads
//! a clock: all times are those of the history.
//!
//! The histories speak this vocabulary. Fields are those of a map, in the invocation or the answer.
//!
//! | function | key | invocation | `ok` answer |
//! |---|---|---|---|
//! | `acquire` | the lock | `mode` (`exclusive`, `shared`, `permits`), `permits`, `limit`, `lease`, `ttl_ms`; all optional | the token, or `token`, `lease`, `ttl_ms`; `granted false` if it still waits |
//! | `acquire` | none | `locks`: a list of maps, each with `name` and the above | `locks`: a list of maps, each with `name` and `token` |
//! | `renew` | any | `lease` | anything |
//! | `release` `cancel` `revoke` `force-release` | the lock, if it is one | `lease`, `token` or `tokens`, or the token itself | `was_held` |
//! | `guarded-write` `unguarded-write` | the resource | `token`, `saw` (what it read before), `wrote` | anything |
//! | `guarded-read` `unguarded-read` | the resource | `token` | the value |
//!
//! A holder is a `lease`, else an `owner`, else the process; whoever names no lease has one of its
//! own, the one in the answer if there is one. Written values are unique within a resource.
//! Operations with one request id are repeats of one request, sent again.

mod coverage;
mod events;
mod fencing;
mod holds;
mod record;
mod recovery;
mod requests;
mod resource;
#[cfg(test)]
mod tests;

use crate::OperationId;

pub use coverage::{Coverage, coverage};
pub use events::{
    EventStream, LockEvent, LockEventKind, events, read_event_streams, write_event_streams,
};
pub use fencing::{TokenScope, fencing};
pub use holds::{LeaseRules, early_expiry, holder_overlap};
pub use record::{Ending, Grant, Holder, LockRecord, Mode, Renewal};
pub use recovery::{Recovery, recovery};
pub use requests::exactly_once;
pub use resource::{guarded_resource, unguarded_resource};

/// What a check concludes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// The promise held wherever the history shows whether it did.
    Pass,
    /// It was broken; the findings say where.
    Fail,
    /// The history does not tell, and why.
    Unknown(String),
}

impl Conclusion {
    /// `pass`, `fail` or `unknown`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Conclusion::Pass => "pass",
            Conclusion::Fail => "fail",
            Conclusion::Unknown(_) => "unknown",
        }
    }
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The operations that show it, the earliest first.
    pub operations: Vec<OperationId>,
    /// What they show.
    pub words: String,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// The check's name.
    pub name: &'static str,
    /// What it promises when it passes, as a sentence.
    pub promise: &'static str,
    /// What it concludes.
    pub conclusion: Conclusion,
    /// How many cases it looked at: grants, writes, requests, events.
    pub examined: usize,
    /// The first [`CheckReport::MOST_FINDINGS`] pieces of evidence against the promise, or, of a
    /// control that must fail, for its failure.
    pub findings: Vec<Finding>,
    /// How many there are in all.
    pub findings_in_all: usize,
}

impl CheckReport {
    /// More findings than this are counted and not kept.
    pub const MOST_FINDINGS: usize = 25;

    fn new(name: &'static str, promise: &'static str) -> Self {
        CheckReport {
            name,
            promise,
            conclusion: Conclusion::Pass,
            examined: 0,
            findings: Vec::new(),
            findings_in_all: 0,
        }
    }

    fn find(&mut self, operations: impl IntoIterator<Item = OperationId>, words: String) {
        self.findings_in_all += 1;
        if self.findings.len() < Self::MOST_FINDINGS {
            let mut operations: Vec<_> = operations.into_iter().collect();
            operations.sort_unstable();
            operations.dedup();
            self.findings.push(Finding { operations, words });
        }
    }

    /// Fails if there are findings; else passes, unless there was nothing to examine.
    fn conclude(mut self, nothing_examined: &str) -> Self {
        self.conclusion = if self.findings_in_all > 0 {
            Conclusion::Fail
        } else if self.examined == 0 {
            Conclusion::Unknown(nothing_examined.to_owned())
        } else {
            Conclusion::Pass
        };
        self
    }

    fn unknown(mut self, why: impl Into<String>) -> Self {
        self.conclusion = Conclusion::Unknown(why.into());
        self
    }
}
