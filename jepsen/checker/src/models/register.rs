//! A register, with and without compare-and-set.

use super::{Ending, Numbers, ending, malformed, malformed_answer, timed, unknown_function};
use crate::{
    History, Malformed, Method, Model, Moment, Operation, OperationId, Outcome, Problem,
    Specification, Step, Theory, TimedCall, Value,
};

/// A register that is read and written.
///
/// `read` answers the value (`nil` is a value like others), `write` has it as its argument. If failures
/// are observations, a failed `read` or `write` tells nothing all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Register {
    /// What it holds at the start.
    pub initial: Value,
}

/// A register with compare-and-set.
///
/// As [`Register`], and `cas` with `[from to]`. If failures are observations, a failed `cas` saw
/// another value than `from`, unless it carries an error instead of its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CasRegister {
    /// What it holds at the start.
    pub initial: Value,
}

impl Model for Register {
    type Specification = RegisterSpecification;

    fn name(&self) -> &'static str {
        "register"
    }

    fn problem(
        &self,
        history: &History,
        operations: &[OperationId],
    ) -> Result<Problem<RegisterSpecification>, Malformed> {
        let mut specification = RegisterSpecification::new(&self.initial);
        let mut calls = Vec::with_capacity(operations.len());
        for &id in operations {
            let operation = history.operation(id);
            match &*operation.function {
                "read" | "write" => {
                    let call = specification.read_or_write(history, operation);
                    calls.extend(call.map(|call| timed(operation, call)));
                }
                _ => {
                    let model = "register";
                    return Err(unknown_function(
                        history,
                        operation,
                        model,
                        "read and write",
                    ));
                }
            }
        }
        Ok(Problem {
            specification,
            calls,
        })
    }
}

impl Model for CasRegister {
    type Specification = RegisterSpecification;

    fn name(&self) -> &'static str {
        "cas-register"
    }

    fn problem(
        &self,
        history: &History,
        operations: &[OperationId],
    ) -> Result<Problem<RegisterSpecification>, Malformed> {
        let mut specification = RegisterSpecification::new(&self.initial);
        let mut calls = Vec::with_capacity(operations.len());
        for &id in operations {
            let operation = history.operation(id);
            let call = match &*operation.function {
                "read" | "write" => specification.read_or_write(history, operation),
                "cas" => specification.compare_and_set(history, operation)?,
                _ => {
                    let (model, functions) = ("cas-register", "read, write and cas");
                    return Err(unknown_function(history, operation, model, functions));
                }
            };
            calls.extend(call.map(|call| timed(operation, call)));
        }
        Ok(Problem {
            specification,
            calls,
        })
    }
}

/// A call of a register; values are numbers that its specification gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegisterCall {
    /// Saw this value.
    Read(u32),
    /// Set this value.
    Write(u32),
    /// Saw the first value and set the second.
    CompareAndSet {
        /// What it saw.
        from: u32,
        /// What it set.
        to: u32,
    },
    /// Saw another value than this.
    Differs(u32),
}

/// The specification of [`Register`] and [`CasRegister`]. A state is the number of the value held.
#[derive(Clone, Debug)]
pub struct RegisterSpecification {
    values: Numbers<Value>,
}

/// The number of the initial value.
const INITIAL: u32 = 0;

impl RegisterSpecification {
    fn new(initial: &Value) -> Self {
        let mut values = Numbers::new();
        values.of(initial);
        RegisterSpecification { values }
    }

    fn read_or_write(&mut self, history: &History, operation: &Operation) -> Option<RegisterCall> {
        match (
            &*operation.function,
            ending(history, operation)?,
            &operation.outcome,
        ) {
            ("read", _, Outcome::Ok(value)) => Some(RegisterCall::Read(self.values.of(value))),
            ("write", Ending::Ok | Ending::Open, _) => {
                Some(RegisterCall::Write(self.values.of(&operation.input)))
            }
            _ => None,
        }
    }

    fn compare_and_set(
        &mut self,
        history: &History,
        operation: &Operation,
    ) -> Result<Option<RegisterCall>, Malformed> {
        let Some([from, to]) = operation.input.as_list() else {
            let problem = format!("`cas` takes [from to], not {}", operation.input);
            return Err(malformed(history, operation, problem));
        };
        if let Outcome::Ok(answer) = &operation.outcome
            && !answer.is_nil()
            && *answer != operation.input
        {
            let problem = format!("`cas` of {} answers {answer}", operation.input);
            return Err(malformed_answer(history, operation, problem));
        }
        let from = self.values.of(from);
        Ok(match ending(history, operation) {
            Some(Ending::Ok | Ending::Open) => Some(RegisterCall::CompareAndSet {
                from,
                to: self.values.of(to),
            }),
            Some(Ending::Refused) => {
                let error = history
                    .completion(operation)
                    .and_then(|event| event.error.as_ref());
                error.is_none().then_some(RegisterCall::Differs(from))
            }
            None => None,
        })
    }
}

impl Specification for RegisterSpecification {
    type Call = RegisterCall;
    type State = u32;

    fn initial(&mut self) -> u32 {
        INITIAL
    }

    #[inline]
    fn step(&mut self, state: &u32, call: &RegisterCall) -> Step<u32> {
        match *call {
            RegisterCall::Write(value) => Step::To(value),
            RegisterCall::Read(value) if value == *state => Step::To(*state),
            RegisterCall::CompareAndSet { from, to } if from == *state => Step::To(to),
            RegisterCall::Differs(value) if value != *state => Step::To(*state),
            _ => Step::Refused,
        }
    }

    fn observes(&self, call: &RegisterCall) -> bool {
        matches!(call, RegisterCall::Read(_) | RegisterCall::Differs(_))
    }

    fn theory(&mut self, calls: &[TimedCall<RegisterCall>]) -> Theory {
        unique_values(self.values.values.len(), calls)
    }

    fn describe_state(&self, state: &u32) -> String {
        self.values.value(*state).to_string()
    }

    fn describe_call(&self, call: &RegisterCall) -> String {
        let value = |number| self.values.value(number);
        match *call {
            RegisterCall::Read(seen) => format!("read -> {}", value(seen)),
            RegisterCall::Write(set) => format!("write {}", value(set)),
            RegisterCall::CompareAndSet { from, to } => {
                format!("cas {} -> {}", value(from), value(to))
            }
            RegisterCall::Differs(from) => format!("cas from {} refused", value(from)),
        }
    }

    fn refusal(&self, state: &u32, call: &RegisterCall) -> String {
        let held = self.values.value(*state);
        match *call {
            RegisterCall::Read(other) | RegisterCall::CompareAndSet { from: other, .. } => {
                format!(
                    "the register holds {held}, not {}",
                    self.values.value(other)
                )
            }
            RegisterCall::Differs(_) => format!("the register does hold {held}"),
            RegisterCall::Write(_) => "a write is always legal".into(),
        }
    }
}

/// Registers whose values are each written once (Gibbons and Korach, Testing Shared Memories, 1997,
/// section 4: reads-from is known). The operations on one value are a *cluster*; they can all be
/// placed next to each other. Between its first return and its last invocation, if they stand in
/// this order, the register must hold its value: a *forward zone*. If they stand in the other
/// order all its operations overlap there, and any moment of that *backward zone* will do. So it is
/// linearizable exactly when no read ends before its write begins, no two forward zones overlap,
/// and no backward zone lies inside of a forward one.
fn unique_values(values: usize, calls: &[TimedCall<RegisterCall>]) -> Theory {
    let by = Method::UniqueValues;
    let mut clusters: Vec<Cluster> = vec![Cluster::default(); values];
    for (index, timed) in (0u32..).zip(calls) {
        match timed.call {
            RegisterCall::Write(INITIAL)
            | RegisterCall::CompareAndSet { .. }
            | RegisterCall::Differs(_) => return Theory::Silent,
            RegisterCall::Write(value) => {
                let cluster = &mut clusters[value as usize];
                if cluster.write.replace(index).is_some() {
                    return Theory::Silent;
                }
            }
            // A read that never ended tells nothing.
            RegisterCall::Read(_) if timed.returned.is_none() => {}
            RegisterCall::Read(value) => clusters[value as usize].reads.push(index),
        }
    }
    let mut forward: Vec<(Span, u32)> = Vec::new();
    let mut backward: Vec<(Span, u32)> = Vec::new();
    for (value, cluster) in (0u32..).zip(&mut clusters) {
        cluster
            .reads
            .sort_by_key(|&read| calls[read as usize].invoked);
        let reads = || cluster.reads.iter().map(|&read| &calls[read as usize]);
        let first_return = reads().filter_map(|read| read.returned).min();
        let last_invocation = reads().map(|read| read.invoked).max();
        let span = if value == INITIAL {
            // Written before everything else.
            match last_invocation {
                Some(last) => Span {
                    first_return: None,
                    last_invocation: last,
                },
                None => continue,
            }
        } else {
            match (
                cluster.write.map(|write| &calls[write as usize]),
                first_return,
            ) {
                (None, None) => continue,
                // Nobody wrote what was read.
                (None, Some(_)) => return Theory::Impossible { by },
                // Open, and nobody saw it: it need not have happened.
                (Some(write), None) if write.returned.is_none() => continue,
                (Some(write), read) => {
                    if read.is_some_and(|read| read < write.invoked) {
                        return Theory::Impossible { by };
                    }
                    let first_return = write.returned.into_iter().chain(read).min();
                    let last_invocation = last_invocation.max(Some(write.invoked));
                    let last_invocation = last_invocation.unwrap_or(write.invoked);
                    Span {
                        first_return,
                        last_invocation,
                    }
                }
            }
        };
        if span.first_return < Some(span.last_invocation) {
            forward.push((span, value));
        } else {
            backward.push((span, value));
        }
    }
    forward.sort_by_key(|(zone, _)| zone.first_return);
    if forward
        .windows(2)
        .any(|pair| pair[1].0.first_return < Some(pair[0].0.last_invocation))
    {
        return Theory::Impossible { by };
    }
    // Every cluster's place: a forward zone's is where it begins, a backward zone's is any moment in
    // it that is outside of all forward zones: where it begins, or where the forward zone that this
    // is in ends. Those of equal places are ordered by what has to be first.
    let mut places: Vec<(Option<Moment>, u8, u32)> = Vec::new();
    for (zone, value) in &backward {
        let begin = zone.last_invocation;
        // The last forward zone that begins before the backward one does.
        let before = forward.partition_point(|(forward, _)| forward.first_return < Some(begin));
        let place = match before.checked_sub(1).map(|index| forward[index].0) {
            Some(forward) if forward.last_invocation > begin => {
                if zone.first_return < Some(forward.last_invocation) {
                    return Theory::Impossible { by };
                }
                forward.last_invocation
            }
            _ => begin,
        };
        places.push((Some(place), 1, *value));
    }
    places.extend(
        forward
            .iter()
            .map(|(zone, value)| (zone.first_return, 0, *value)),
    );
    places.sort();
    let mut order = Vec::with_capacity(calls.len());
    for (_, _, value) in places {
        let cluster = &clusters[value as usize];
        order.extend(cluster.write);
        order.extend(&cluster.reads);
    }
    Theory::Order { order, by }
}

#[derive(Clone, Default)]
struct Cluster {
    write: Option<u32>,
    reads: Vec<u32>,
}

/// A zone, either way round. `first_return` is `None` before everything: the initial value's. An
/// open write without end has reads, whose returns count.
#[derive(Clone, Copy)]
struct Span {
    first_return: Option<Moment>,
    last_invocation: Moment,
}
