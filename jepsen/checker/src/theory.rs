//! Deciding by theorem: verifies the orders that a specification's theory proposes, and finds the
//! shortest illegal prefix where it says that none exists. It knows no theorem itself.

use crate::{Method, Problem, Specification, Step, Theory, TimedCall};

/// What a theorem decided.
pub(crate) enum Decided {
    /// Linearizable in this order of call indexes.
    Linearization(Vec<u32>),
    /// Not linearizable.
    Stuck {
        /// The call whose return cannot be passed.
        call: u32,
        /// An order that explains everything before that return.
        order: Vec<u32>,
    },
}

/// Asks the specification's theory, if it has one for these calls.
pub(crate) fn decide<S: Specification>(problem: &mut Problem<S>) -> Option<(Decided, Method)> {
    match problem.specification.theory(&problem.calls) {
        Theory::Silent => None,
        Theory::Order { order, by } => {
            let proven = is_linearization(problem, &order);
            debug_assert!(proven, "{by:?} proposed an order that is no linearization");
            proven.then_some((Decided::Linearization(order), by))
        }
        Theory::Impossible { by } => Some((shortest_illegal_prefix(problem)?, by)),
    }
}

/// Halves the returns until it has found the first that cannot be passed.
fn shortest_illegal_prefix<S: Specification>(problem: &mut Problem<S>) -> Option<Decided> {
    let mut returning: Vec<u32> = (0..problem.calls.len() as u32)
        .filter(|&index| problem.calls[index as usize].returned.is_some())
        .collect();
    returning.sort_by_key(|&index| problem.calls[index as usize].returned);

    // Invariant: the first `legal` returns can be passed, as `order` shows; the first `illegal`
    // cannot.
    let (mut legal, mut illegal) = (0, returning.len());
    let mut order = Vec::new();
    while illegal - legal > 1 {
        let middle = legal + (illegal - legal) / 2;
        match order_of_prefix(problem, returning[middle - 1])? {
            Some(found) => (legal, order) = (middle, found),
            None => illegal = middle,
        }
    }
    Some(Decided::Stuck {
        call: *returning.get(legal)?,
        order,
    })
}

/// An order of the calls up to and including the return of `last`, `Some(None)` if there is none;
/// nothing if the theory is silent.
fn order_of_prefix<S: Specification>(
    problem: &mut Problem<S>,
    last: u32,
) -> Option<Option<Vec<u32>>> {
    let end = problem.calls[last as usize].returned;
    let within = |timed: &TimedCall<S::Call>| end.is_some_and(|end| timed.invoked < end);
    let (indexes, calls): (Vec<u32>, Vec<TimedCall<S::Call>>) = (0u32..)
        .zip(&problem.calls)
        .filter(|(_, timed)| within(timed))
        .map(|(index, timed)| {
            let returned = timed.returned.filter(|&returned| Some(returned) <= end);
            (
                index,
                TimedCall {
                    returned,
                    ..timed.clone()
                },
            )
        })
        .unzip();
    match problem.specification.theory(&calls) {
        Theory::Silent => None,
        Theory::Order { order, .. } => Some(Some(
            order.into_iter().map(|at| indexes[at as usize]).collect(),
        )),
        Theory::Impossible { .. } => Some(None),
    }
}

/// Whether all calls that returned are in `order` once, each within its interval and legal.
fn is_linearization<S: Specification>(problem: &mut Problem<S>, order: &[u32]) -> bool {
    let Problem {
        specification,
        calls,
    } = problem;
    let mut missing: Vec<bool> = calls.iter().map(|timed| timed.returned.is_some()).collect();
    let mut used = vec![false; calls.len()];
    let mut state = specification.initial();
    let mut latest_invocation = None;
    for &index in order {
        let Some(timed) = calls.get(index as usize) else {
            return false;
        };
        latest_invocation = latest_invocation.max(Some(timed.invoked));
        if timed
            .returned
            .is_some_and(|returned| Some(returned) < latest_invocation)
        {
            return false;
        }
        if std::mem::replace(&mut used[index as usize], true) {
            return false;
        }
        missing[index as usize] = false;
        match specification.step(&state, &timed.call) {
            Step::To(after) => state = after,
            Step::Refused | Step::Any(_) => return false,
        }
    }
    !missing.contains(&true)
}
