//! Runs the sequential specification along the claimed order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::slice::from_ref;

use super::assign::Place;
use super::{Contradiction, WitnessVerdict};
use crate::{Moment, OperationId, Origin, Position, Problem, Specification, Step, TimedCall};

/// More states than this at once, of a specification that allows several, are not tracked.
const MOST_STATES: usize = 10_000;
/// More sets of expiries than this at one place in the order are not tried.
const MOST_SETS: usize = 1_000;

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
        let mut after = Vec::new();
        let mut refusing = Vec::new();
        for state in &states {
            let next = step_all(&mut specification, from_ref(state), call);
            if next.is_empty() {
                refusing.push(state);
            }
            after.extend(next);
        }
        if !refusing.is_empty() {
            derived.forget_the_refused(&mut specification, &calls, &states);
            after.extend(derived.make_way(&mut specification, &calls, &refusing, call, until));
        }
        let after = without_repeats(after);
        if after.is_empty() && derived.gave_up {
            let why = format!(
                "the call at {} is refused, but so many expiries are possible before it that not all \
                 were tried",
                place.position
            );
            return Err((WitnessVerdict::Unknown(why), place.position));
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
/// they belong: they are taken when a call would be refused without them, each choice of them as a
/// state of its own. A linearization with them is a proof like any other.
///
/// It relies on two things. A derived call that is refused after its operation took effect stays
/// refused: the lease was renewed since, or has ended. And one that helps a refused call changes why
/// that is refused: reasons name whoever is in the way.
struct Derived {
    of_operation: HashMap<OperationId, Vec<u32>>,
    /// Of operations that took effect; themselves not refused so far.
    possible: Vec<u32>,
    /// Whether some choice was not tried: then a refusal proves nothing.
    gave_up: bool,
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
            gave_up: false,
        }
    }

    fn begin(&mut self, operation: OperationId) {
        self.possible
            .extend(self.of_operation.remove(&operation).unwrap_or_default());
    }

    /// Whatever is refused in all states there can be.
    fn forget_the_refused<S: Specification>(
        &mut self,
        specification: &mut S,
        calls: &[TimedCall<S::Call>],
        states: &[S::State],
    ) {
        self.possible.retain(|&index| {
            !step_all(specification, states, &calls[index as usize].call).is_empty()
        });
    }

    /// Takes derived calls that make `call` legal, no more than it needs, and then `call`; all states
    /// after that, none if nothing helps.
    fn make_way<S: Specification>(
        &mut self,
        specification: &mut S,
        calls: &[TimedCall<S::Call>],
        states: &[&S::State],
        call: &S::Call,
        until: Option<Moment>,
    ) -> Vec<S::State> {
        let in_time =
            |index: &u32| until.is_none_or(|until| calls[*index as usize].invoked < until);
        let in_time: Vec<u32> = self.possible.iter().copied().filter(in_time).collect();
        let mut ways = Vec::new();
        for state in states {
            // Sets of derived calls, sorted, and the states behind them; smaller sets first.
            let mut sets = VecDeque::from([(Vec::new(), (*state).clone())]);
            let mut seen: HashSet<Vec<u32>> = HashSet::new();
            while let Some((taken, state)) = sets.pop_front() {
                let reason = specification.refusal(&state, call);
                for &index in &in_time {
                    for next in
                        step_all(specification, from_ref(&state), &calls[index as usize].call)
                    {
                        let after = step_all(specification, from_ref(&next), call);
                        if !after.is_empty() {
                            ways.extend(after);
                            continue;
                        }
                        let mut taken: Vec<u32> = taken.clone();
                        taken.push(index);
                        taken.sort_unstable();
                        let helps = specification.refusal(&next, call) != reason;
                        if helps && seen.len() < MOST_SETS && seen.insert(taken.clone()) {
                            sets.push_back((taken, next));
                        }
                        self.gave_up |= seen.len() >= MOST_SETS;
                    }
                }
            }
        }
        ways
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
