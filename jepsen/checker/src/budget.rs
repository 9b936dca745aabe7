//! How much a check may spend. The crate has no clock: a deadline is the caller's, as a question.

use std::fmt;

/// The bounds of a check. What exceeds one ends as *unknown*, never in a crash or in swap.
#[derive(Clone, Copy)]
pub struct Budget<'a> {
    /// The most steps of the specification for one partition. Deterministic: the same history under
    /// the same limit always ends in the same verdict.
    pub steps: u64,
    /// The most bytes that all partitions may remember together. Each worker has an equal share.
    pub memory_bytes: u64,
    /// Asked now and then, from every worker: `true` ends the check. Where a deadline goes.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl Budget<'_> {
    /// No limit but a gibibyte of memory.
    pub const GENEROUS: Budget<'static> = Budget {
        steps: u64::MAX,
        memory_bytes: 1 << 30,
        stop: &|| false,
    };
}

impl fmt::Debug for Budget<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Budget")
            .field("steps", &self.steps)
            .field("memory_bytes", &self.memory_bytes)
            .finish_non_exhaustive()
    }
}

/// Which bound ended a check before it was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum UnknownReason {
    /// [`Budget::steps`].
    #[error("not decided within {limit} steps; allow more, or record shorter histories")]
    Steps {
        /// The limit.
        limit: u64,
    },
    /// [`Budget::memory_bytes`].
    #[error(
        "not decided within {limit_bytes} bytes of memory; allow more, or record shorter histories"
    )]
    Memory {
        /// The worker's share of the limit.
        limit_bytes: u64,
    },
    /// [`Budget::stop`] said so.
    #[error("not decided before the check was told to stop; allow more time")]
    Stopped,
    /// More calls are under way at one moment than the search can track.
    #[error("{calls} calls are under way at once, more than the {limit} that the search can track")]
    TooConcurrent {
        /// How many are.
        calls: usize,
        /// How many could be.
        limit: usize,
    },
}
