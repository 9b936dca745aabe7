//! Judges recorded histories of concurrent systems: is what clients saw *linearizable*, that is, could
//! every operation have taken effect at one moment between its invocation and its completion, in an
//! order that a sequential specification allows? And if not, where does it break, and why?
//!
//! It is pure: it reads no clock, opens no file, prints nothing, and never runs the system that it
//! judges. Input and output are the caller's [`Read`](std::io::Read) and [`Write`](std::io::Write), a
//! deadline is a question that the caller answers ([`Budget::stop`]), and the same history under
//! the same [`Budget`] always gets the same report.
//!
//! ```text
//!  text ──► format ──► History ──► Model ──► Problem ──► theorem, or search ──► Report
//!                                  (parts that share no object, side by side)
//! ```
//!
//! # Histories
//!
//! A [`History`] is a list of [events](Event), each an invocation or a completion by a client, in the
//! order in which one observer saw them. It is checked while it is built: a client does one thing at a
//! time, and nothing after an outcome that it does not know. [`format`] reads and writes Jepsen's and
//! Knossos's EDN, JSON lines, etcd logs and kv histories.
//!
//! An operation that was *refused* (`fail`) tells different things in different formats: see
//! [`FailMeaning`]. One whose outcome is *unknown* (`info`) stays open to the end: it may take effect
//! at any time after its invocation, or never.
//!
//! # Verdicts
//!
//! * [`Verdict::Valid`]: linearizable, with an order that proves it.
//! * [`Verdict::Invalid`]: not linearizable. The [`Violation`] names the shortest illegal prefix, and
//!   for each way to explain everything before it, why each call that could come next does not help.
//! * [`Verdict::Unknown`]: a bound of the [`Budget`] was reached first. Deciding linearizability is
//!   NP-complete (Gibbons and Korach 1997), so this exists, and is no pass.
//!
//! # Where the algorithms come from
//!
//! * J. Wing, C. Gong: Testing and Verifying Concurrent Objects, 1993. The search.
//! * G. Lowe: Testing for Linearizability, 2017. The memory of configurations, and taking effect just
//!   in time.
//! * A. Horn, D. Kroening: Faster Linearizability Checking via P-Compositionality, 2015. The list of
//!   entries, and the parts.
//! * P. Gibbons, E. Korach: Testing Shared Memories, 1997. Registers whose values are unique.
//! * Knossos (Jepsen) and Porcupine: which formats and models there are, and what they mean.
//!
//! # Example
//!
//! See [`check`], and [`models::AnyModel`] for a model that is chosen at run time.
#![forbid(unsafe_code)]

mod budget;
mod check;
pub mod explain;
pub mod format;
mod history;
pub mod html;
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
