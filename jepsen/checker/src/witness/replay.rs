//! Runs the sequential specification along the claimed order.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::assign::Place;
use super::{Contradiction, WitnessVerdict};
use crate::{Moment, OperationId, Origin, Position, Problem, Specification, Step, TimedCall};

/// More states than this at once, of a specification that allows several, are not tracked.
const MOST_STATES: usize = 10_000;
/// More expiries than this at one place in the order are not tried.
const MOST_DERIVED_AT_ONCE: usize = 8;

/// Replays all parts; the first refusal by position.
pub(super) fn replay<S: Specification>(
    problems: Vec<Problem<S>>,
    places: &[Place],
) -> Result<(), WitnessVerdict> {
    let mut of_part: Vec<Vec<&Place>> = vec![Vec::new(); problems.len()];
    for place in places {
        of_part[place.part as usize].push(place);
    }
    let mut first: Option<WitnessVerdict> = None;
    let mut first_position = None;
    for (problem, places) in problems.into_iter().zip(of_part) {
        let Err((verdict, position)) = replay_part(problem, &places) else {
            continue;
        };
        let refuted = matches!(verdict, WitnessVerdict::Refuted(_));
        let rank = (!refuted, position);
        if first_position.is_none_or(|first| rank < first) {
            first_position = Some(rank);
            first = Some(verdict);
        }
    }
    first.map_or(Ok(()), Err)
}

type Stop = (WitnessVerdict, Position);

fn replay_part<S: Specification>(problem: Problem<S>, places: &[&Place]) -> Result<(), Stop> {
    let Problem {
        mut specification,
        calls,
    } = problem;
    let mut derived = Derived::of(&calls);
    let first_returns = first_returns(places);
    let mut states = vec![specification.initial()];
    for (place, until) in places.iter().zip(first_returns) {
        let call = &calls[place.call as usize].call;
        let mut after = step_all(&mut specification, &states, call);
        if after.is_empty() {
            after = derived.make_way(&mut specification, &calls, &states, call, until);
        }
        if after.is_empty() {
            let state = &states[0];
            let contradiction = Contradiction::Refused {
                operation: place.operation,
                position: place.position,
                call: specification.describe_call(call),
                state: specification.describe_state(state),
                reason: specification.refusal(state, call),
            };
            return Err((WitnessVerdict::Refuted(contradiction), place.position));
        }
        if after.len() > MOST_STATES {
            let why = format!(
                "more than {MOST_STATES} states are possible at {}",
                place.position
            );
            return Err((WitnessVerdict::Unknown(why), place.position));
        }
        states = after;
        derived.begin(place.operation);
    }
    Ok(())
}

/// For each place, the first return of it and of all that come after it.
fn first_returns(places: &[&Place]) -> Vec<Option<Moment>> {
    let mut first: Option<Moment> = None;
    let mut returns: Vec<_> = places
        .iter()
        .rev()
        .map(|place| {
            first = match (first, place.returned) {
                (Some(first), Some(returned)) => Some(first.min(returned)),
                (first, returned) => first.or(returned),
            };
            first
        })
        .collect();
    returns.reverse();
    returns
}

/// Calls that no client asked for, such as expiries. Nobody answers them, so no position says where
/// they belong: they are taken when a call would be refused without them. A linearization with them
/// is a proof like any other.
///
/// It relies on this: a derived call that is refused after its operation took effect stays refused
/// (the lease was renewed since, or has ended).
struct Derived {
    of_operation: HashMap<OperationId, Vec<u32>>,
    /// Of operations that took effect; themselves not yet refused nor taken.
    possible: Vec<u32>,
}

impl Derived {
    fn of<C>(calls: &[TimedCall<C>]) -> Self {
        let mut of_operation: HashMap<OperationId, Vec<u32>> = HashMap::new();
        for (index, timed) in calls.iter().enumerate() {
            if let Origin::Derived(id) = timed.origin {
                of_operation.entry(id).or_default().push(index as u32);
            }
        }
        Derived {
            of_operation,
            possible: Vec::new(),
        }
    }

    fn begin(&mut self, operation: OperationId) {
        self.possible
            .extend(self.of_operation.remove(&operation).unwrap_or_default());
    }

    /// Takes as few derived calls as make `call` legal, and then `call`; the states after that, none
    /// if nothing helps.
    fn make_way<S: Specification>(
        &mut self,
        specification: &mut S,
        calls: &[TimedCall<S::Call>],
        states: &[S::State],
        call: &S::Call,
        until: Option<Moment>,
    ) -> Vec<S::State> {
        self.possible.retain(|&index| {
            !step_all(specification, states, &calls[index as usize].call).is_empty()
        });
        let in_time: Vec<u32> = self
            .possible
            .iter()
            .copied()
            .filter(|&index| until.is_none_or(|until| calls[index as usize].invoked < until))
            .collect();
        let mut front = vec![(Vec::new(), states.to_vec())];
        for _ in 0..MOST_DERIVED_AT_ONCE {
            let mut next = Vec::new();
            for (taken, states) in &front {
                // In rising order: expiries of different leases commute.
                let from = taken.last().map_or(0, |last| last + 1);
                for at in from..in_time.len() {
                    let derived = &calls[in_time[at] as usize].call;
                    let states = step_all(specification, states, derived);
                    if states.is_empty() {
                        continue;
                    }
                    let mut taken: Vec<usize> = taken.clone();
                    taken.push(at);
                    let after = step_all(specification, &states, call);
                    if !after.is_empty() {
                        let taken: HashSet<u32> = taken.iter().map(|at| in_time[*at]).collect();
                        self.possible.retain(|index| !taken.contains(index));
                        return after;
                    }
                    next.push((taken, states));
                }
                if next.len() > MOST_STATES {
                    return Vec::new();
                }
            }
            front = next;
        }
        Vec::new()
    }
}

fn step_all<S: Specification>(
    specification: &mut S,
    states: &[S::State],
    call: &S::Call,
) -> Vec<S::State> {
    // Nearly always one state that leads to one state.
    if let [state] = states
        && let Step::To(after) = specification.step(state, call)
    {
        return vec![after];
    }
    let mut after = Vec::new();
    for state in states {
        match specification.step(state, call) {
            Step::Refused => {}
            Step::To(next) => after.push(next),
            Step::Any(next) => after.extend(next),
        }
    }
    without_repeats(after)
}

fn without_repeats<T: Clone + Eq + Hash>(items: Vec<T>) -> Vec<T> {
    if items.len() < 2 {
        return items;
    }
    let mut seen = HashSet::new();
    items
        .into_iter()
        .filter(|item| seen.insert(item.clone()))
        .collect()
}
