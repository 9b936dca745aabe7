//! Judges recorded histories of concurrent systems. Pure: it reads no clock, opens no file, prints
//! nothing, and never runs the system that it judges.
#![forbid(unsafe_code)]

mod budget;
mod check;
pub mod explain;
pub mod format;
mod history;
pub mod lock_checks;
mod model;
pub mod models;
mod search;
mod theory;
mod value;
mod verdict;
pub mod witness;

pub use budget::{Budget, UnknownReason};
pub use check::check;
pub use history::{
    Event, EventIndex, EventKind, FailMeaning, History, HistoryBuilder, Malformed, Operation,
    OperationId, Outcome, Position, Process,
};
pub use model::{Model, Moment, Origin, Problem, Specification, Step, Theory, TimedCall};
pub use value::Value;
pub use verdict::{
    Alternative, LinearizedCall, Method, PartialLinearization, PartitionReport, Report, Statistics,
    Verdict, Violation, WhyNot,
};

/// How a history is to be checked, beyond its model and its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether the verdict is to be explained: linearizations, states and refusals in words. It
    /// costs time in proportion to the history.
    pub explain: bool,
    /// The most partial linearizations that explain a violation.
    pub partial_linearizations: usize,
    /// Whether to decide by a theorem where one applies. Off for comparing it with the search.
    pub fast_paths: bool,
    /// The most worker threads; 0 means one. Verdicts do not depend on it.
    pub workers: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            explain: true,
            partial_linearizations: 16,
            fast_paths: true,
            workers: 1,
        }
    }
}
