//! What a check says, with enough in it to explain itself. Plain data: how it looks on paper or on
//! a screen is somebody else's business.

use crate::{EventIndex, OperationId, Origin, UnknownReason, Value};

/// A verdict on a history, or on a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is linearizable. With [`Settings::explain`](crate::Settings::explain), here is a proof.
    Valid {
        /// An order of all calls that took effect; empty unless it was asked for, and in the
        /// verdict on a whole history, whose parts have one each.
        linearization: Vec<LinearizedCall>,
    },
    /// It is not linearizable.
    Invalid(Box<Violation>),
    /// A bound was reached first.
    Unknown(UnknownReason),
}

impl Verdict {
    /// Whether it is [`Verdict::Valid`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        matches!(self, Verdict::Valid { .. })
    }

    /// Whether it is [`Verdict::Invalid`].
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self, Verdict::Invalid(_))
    }
}

/// One call in an order of calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearizedCall {
    /// Where it comes from.
    pub origin: Origin,
    /// The call with its answer, in the model's words.
    pub call: String,
    /// The state after it, in the model's words.
    pub state: String,
}

/// Why a history is not linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The objects of the part of the history that shows it.
    pub objects: Vec<Value>,
    /// The operation whose completion cannot be explained.
    pub stuck: OperationId,
    /// Its completion: the last event of the shortest illegal prefix of that part. All events
    /// before it can be explained; with it, nothing can. (If a bound was reached while the shortest was
    /// looked for, it is the shortest that is known to be illegal.)
    pub prefix_end: EventIndex,
    /// Orders of calls that explain everything before `prefix_end` and cannot go on: one for each
    /// state that can be reached, the longest first, at most
    /// [`Settings::partial_linearizations`](crate::Settings::partial_linearizations). Empty if no
    /// explanation was asked for, or none was found within the budget.
    pub partial_linearizations: Vec<PartialLinearization>,
}

/// A way to explain a history up to the point where nothing can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialLinearization {
    /// What took effect, in order.
    pub calls: Vec<LinearizedCall>,
    /// The state after them, before the stuck operation.
    pub state: String,
    /// Every call that could come next, and why it does not help; the stuck operation first.
    pub alternatives: Vec<Alternative>,
}

/// A call that could come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// Where it comes from.
    pub origin: Origin,
    /// The call with its answer, in the model's words.
    pub call: String,
    /// Why it does not help.
    pub why: WhyNot,
}

/// Why a call that could come next does not help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// The specification refuses it in this state.
    Refused {
        /// Why, in the model's words: `the register holds 3, not 4`.
        reason: String,
    },
    /// It is legal, but the stuck operation is refused behind it too, whatever follows.
    LeadsNowhere {
        /// The states after it.
        states: Vec<String>,
    },
}

/// What a check found, whole and by part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The model's name.
    pub model: &'static str,
    /// Invalid if any part is (the violation that shows first); else unknown if any part is; else
    /// valid.
    pub verdict: Verdict,
    /// The parts, by their first operation.
    pub partitions: Vec<PartitionReport>,
}

impl Report {
    /// The sum over the parts; of the peaks, the largest.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        for part in &self.partitions {
            sum.calls += part.statistics.calls;
            sum.add(part.statistics);
        }
        sum
    }
}

/// What a check found about the operations on objects that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionReport {
    /// The objects, sorted. `[nil]` for operations without a key.
    pub objects: Vec<Value>,
    /// Its operations, by invocation.
    pub operations: Vec<OperationId>,
    /// The verdict on them.
    pub verdict: Verdict,
    /// How it was decided.
    pub method: Method,
    /// What it took.
    pub statistics: Statistics,
}

/// How a part was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// The general search.
    Search,
    /// Every value was written once: intervals of values decide.
    UniqueValues,
    /// Every grant has its own token: the order of tokens decides.
    UniqueTokens,
}

/// What a check took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Calls that were to be ordered.
    pub calls: u64,
    /// Steps of the specification that were tried.
    pub steps: u64,
    /// Different (calls that took effect, state) that were visited.
    pub configurations: u64,
    /// The most bytes that the search remembered, by its own count.
    pub memory_peak_bytes: u64,
}

impl Statistics {
    /// Adds what another search took; not its calls, which may be the same.
    pub(crate) fn add(&mut self, other: Statistics) {
        self.steps += other.steps;
        self.configurations += other.configurations;
        self.memory_peak_bytes = self.memory_peak_bytes.max(other.memory_peak_bytes);
    }
}
