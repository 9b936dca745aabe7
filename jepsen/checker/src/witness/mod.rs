//! The log witness: a system that answers with positions in its log claims an order of its
//! operations. Here the claim is verified: the order keeps to real time, the log agrees, and the
//! sequential specification answers the same. Then the history is linearizable, proven in
//! O(n log n), for histories of any size. It searches for no other order: a claim that fails says
//! that the system contradicts itself, and `check` says whether another order exists.

mod assign;
mod dump;
mod replay;

use crate::models::AnyModel;
use crate::{History, Malformed, Model, OperationId, Position};

pub use dump::{LogDump, LogEntry};

/// What became of the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessVerdict {
    /// The order is a linearization: the history is linearizable.
    Proven,
    /// The claim is false.
    Refuted(Contradiction),
    /// Not enough is known to decide, and what is missing.
    Unknown(String),
}

/// Where the claim first fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contradiction {
    /// One operation ended before another began, but its position comes later.
    RealTime {
        /// The one that ended first.
        ended_first: OperationId,
        /// Its position.
        ended_first_position: Position,
        /// The one that began after that.
        began_later: OperationId,
        /// Its position, the smaller one.
        began_later_position: Position,
    },
    /// The specification refuses the answer at that position.
    Refused {
        /// The operation.
        operation: OperationId,
        /// Its position.
        position: Position,
        /// The call with its answer, in the model's words.
        call: String,
        /// The state before it, in the model's words.
        state: String,
        /// Why it is refused, in the model's words.
        reason: String,
    },
    /// The answer's position is not where the log has the request, or the log does not have it at all
    /// and the call changes the state.
    NotInLog {
        /// The operation.
        operation: OperationId,
        /// The position in its answer.
        position: Position,
        /// Where the log has its request.
        in_log: Vec<Position>,
    },
    /// Two operations that change the state claim one position.
    SamePosition {
        /// The operations.
        operations: [OperationId; 2],
        /// The position.
        position: Position,
    },
}

/// What the witness found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessReport {
    /// The model's name.
    pub model: &'static str,
    /// What became of the claim.
    pub verdict: WitnessVerdict,
    /// How many operations have a place in the order.
    pub placed: usize,
    /// Operations of unknown outcome that the log has: they took effect.
    pub unknown_applied: usize,
    /// Operations of unknown outcome that the log does not have: they never took effect.
    pub unknown_dropped: usize,
}

/// Verifies the order that the positions claim.
///
/// A call that changes the state has a position of its own. One that observes may share one: it saw the
/// state after it. The log decides the operations of unknown outcome by their request ids; without a
/// log (`None`) any such operation whose call may change the state leaves the verdict unknown.
///
/// # Errors
///
/// As [`check`](crate::check).
pub fn witness<M: Model>(
    model: &M,
    history: &History,
    log: Option<&LogDump>,
) -> Result<WitnessReport, Malformed> {
    let mut report = WitnessReport {
        model: model.name(),
        verdict: WitnessVerdict::Proven,
        placed: 0,
        unknown_applied: 0,
        unknown_dropped: 0,
    };
    let parts = crate::check::partition(model, history)?;
    let mut problems = Vec::with_capacity(parts.len());
    for part in &parts {
        problems.push(model.problem(history, &part.operations)?);
    }
    let outcome = assign::assign(history, log, &problems, &mut report).and_then(|places| {
        assign::respect_real_time(&places)?;
        replay::replay(problems, &places)
    });
    if let Err(verdict) = outcome {
        report.verdict = verdict;
    }
    Ok(report)
}

impl AnyModel {
    /// [`witness`] with this model.
    ///
    /// # Errors
    ///
    /// As [`witness`].
    pub fn witness(
        &self,
        history: &History,
        log: Option<&LogDump>,
    ) -> Result<WitnessReport, Malformed> {
        match self {
            AnyModel::Register(model) => witness(model, history, log),
            AnyModel::CasRegister(model) => witness(model, history, log),
            AnyModel::KeyValue(model) => witness(model, history, log),
            AnyModel::Locks(model) => witness(model, history, log),
        }
    }
}

#[cfg(test)]
mod tests;
