//! The way from a history to a report: parts it by object, decides the parts side by side, and puts
//! what was found into words. The deciding itself is in `search` and in the models' theorems.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::search::{DeadEnd, Found, Taken, search};
use crate::theory::{self, Decided};
use crate::{
    Alternative, Budget, EventIndex, History, LinearizedCall, Malformed, Method, Model, Moment,
    OperationId, PartialLinearization, PartitionReport, Problem, Report, Settings, Specification,
    Statistics, Step, TimedCall, Value, Verdict, Violation, WhyNot,
};

/// Decides whether a history is linearizable with respect to a model.
///
/// Parts of the history that share no object are decided apart, on [`Settings::workers`] threads.
/// The report does not depend on how many there are, unless [`Budget::stop`] ends it, or the memory,
/// of which each worker has an equal share.
///
/// # Errors
///
/// If the model knows no such operation, or its argument or answer is none of the model's.
///
/// # Example
///
/// ```
/// use jepsen_checker::{Budget, FailMeaning, Settings, check, format, models};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let recorded = br#"
///     {:process 0, :type :invoke, :f :write, :value 1}
///     {:process 0, :type :ok, :f :write, :value 1}
///     {:process 1, :type :invoke, :f :read, :value nil}
///     {:process 1, :type :ok, :f :read, :value nil}"#;
/// let history = format::read_edn(&recorded[..], FailMeaning::DidNotHappen)?;
/// let report =
///     check(&models::Register::default(), &history, &Settings::default(), &Budget::GENEROUS)?;
/// assert!(report.verdict.is_invalid(), "the read missed a write that had ended");
/// # Ok(())
/// # }
/// ```
pub fn check<M: Model>(
    model: &M,
    history: &History,
    settings: &Settings,
    budget: &Budget<'_>,
) -> Result<Report, Malformed> {
    let parts = partition(model, history)?;
    let workers = settings.workers.clamp(1, parts.len().max(1));
    let budget = Budget {
        memory_bytes: budget.memory_bytes / workers as u64,
        ..*budget
    };
    let decide = |part: &Part| check_part(model, history, part, settings, &budget);
    let decided = in_parallel(workers, &parts, &decide);

    let mut partitions = Vec::with_capacity(parts.len());
    for result in decided {
        partitions.push(result?);
    }
    Ok(Report {
        model: model.name(),
        verdict: whole_verdict(&partitions),
        partitions,
    })
}

pub(crate) struct Part {
    objects: Vec<Value>,
    pub(crate) operations: Vec<OperationId>,
}

/// Parts the operations by the objects that they share, directly or through others.
pub(crate) fn partition<M: Model>(model: &M, history: &History) -> Result<Vec<Part>, Malformed> {
    let mut groups = Groups::default();
    let mut numbers: BTreeMap<Value, usize> = BTreeMap::new();
    let mut group_of = Vec::with_capacity(history.operations().len());
    for operation in history.operations() {
        let line = history.event(operation.invocation).line;
        let objects = model
            .objects(history, operation)
            .map_err(|problem| Malformed::new(line, problem))?;
        let mut joined: Option<usize> = None;
        for object in objects {
            let number = *numbers.entry(object).or_insert_with(|| groups.add());
            if let Some(other) = joined {
                groups.join(other, number);
            }
            joined = Some(number);
        }
        group_of.push(joined);
    }
    // By first operation: `slots` maps a group to its part.
    let mut parts: Vec<Part> = Vec::new();
    let mut slots: BTreeMap<usize, usize> = BTreeMap::new();
    for (operation, group) in history.operations().iter().zip(group_of) {
        let Some(group) = group else { continue };
        let slot = *slots.entry(groups.find(group)).or_insert_with(|| {
            parts.push(Part {
                objects: Vec::new(),
                operations: Vec::new(),
            });
            parts.len() - 1
        });
        parts[slot].operations.push(operation.id);
    }
    for (object, number) in numbers {
        if let Some(&slot) = slots.get(&groups.find(number)) {
            parts[slot].objects.push(object);
        }
    }
    Ok(parts)
}

/// Disjoint sets.
#[derive(Default)]
struct Groups {
    parent: Vec<usize>,
}

impl Groups {
    fn add(&mut self) -> usize {
        self.parent.push(self.parent.len());
        self.parent.len() - 1
    }

    fn find(&mut self, mut member: usize) -> usize {
        while self.parent[member] != member {
            self.parent[member] = self.parent[self.parent[member]];
            member = self.parent[member];
        }
        member
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.find(one), self.find(other));
        self.parent[one] = other;
    }
}

/// Applies a function to all items on some threads; the results are in the items' order.
fn in_parallel<T: Sync, R: Send>(
    workers: usize,
    items: &[T],
    function: &(dyn Fn(&T) -> R + Sync),
) -> Vec<R> {
    if workers <= 1 {
        return items.iter().map(function).collect();
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, item)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    items.get(index).map(|item| (index, item))
                } {
                    let result = function(item);
                    // A panic of another worker ends the scope anyway.
                    let mut results = results
                        .lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner());
                    results.push((index, result));
                }
            });
        }
    });
    let mut results = results
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn whole_verdict(partitions: &[PartitionReport]) -> Verdict {
    let verdicts = || partitions.iter().map(|part| &part.verdict);
    let first_violation = verdicts()
        .filter_map(|verdict| match verdict {
            Verdict::Invalid(violation) => Some(violation),
            _ => None,
        })
        .min_by_key(|violation| violation.prefix_end);
    if let Some(violation) = first_violation {
        return Verdict::Invalid(violation.clone());
    }
    let unknown = verdicts().find_map(|verdict| match verdict {
        Verdict::Unknown(reason) => Some(*reason),
        _ => None,
    });
    match unknown {
        Some(reason) => Verdict::Unknown(reason),
        None => Verdict::Valid {
            linearization: Vec::new(),
        },
    }
}

fn check_part<M: Model>(
    model: &M,
    history: &History,
    part: &Part,
    settings: &Settings,
    budget: &Budget<'_>,
) -> Result<PartitionReport, Malformed> {
    let mut problem = model.problem(history, &part.operations)?;
    let (verdict, method, statistics) = decide(&mut problem, settings, budget, &part.objects);
    Ok(PartitionReport {
        objects: part.objects.clone(),
        operations: part.operations.clone(),
        verdict,
        method,
        statistics,
    })
}

fn decide<S: Specification>(
    problem: &mut Problem<S>,
    settings: &Settings,
    budget: &Budget<'_>,
    objects: &[Value],
) -> (Verdict, Method, Statistics) {
    if settings.fast_paths
        && let Some((decided, method)) = theory::decide(problem)
    {
        let calls = problem.calls.len() as u64;
        let statistics = Statistics {
            calls,
            ..Statistics::default()
        };
        let verdict = match decided {
            Decided::Linearization(order) => {
                let linearization = if settings.explain {
                    replay(problem, &order)
                } else {
                    Vec::new()
                };
                Verdict::Valid { linearization }
            }
            Decided::Stuck { call, order } => {
                let mut partial = Vec::new();
                if settings.explain && settings.partial_linearizations > 0 {
                    partial.push(explain_dead_end(problem, call, &order));
                }
                violation(problem, objects, call, partial)
            }
        };
        return (verdict, method, statistics);
    }

    let dead_ends = if settings.explain {
        settings.partial_linearizations
    } else {
        0
    };
    let searched = search(problem, dead_ends, budget);
    let states = &searched.states;
    let verdict = match searched.found {
        Found::Linearization(order) => {
            let linearization = if settings.explain {
                describe(problem, states, &order)
            } else {
                Vec::new()
            };
            Verdict::Valid { linearization }
        }
        Found::Stuck {
            call, dead_ends, ..
        } => {
            let partial = dead_ends
                .iter()
                .map(|end| describe_dead_end(problem, states, call, end));
            let partial = partial.collect();
            violation(problem, objects, call, partial)
        }
        Found::Unknown(reason) => Verdict::Unknown(reason),
    };
    (verdict, Method::Search, searched.statistics)
}

fn violation<S: Specification>(
    problem: &Problem<S>,
    objects: &[Value],
    stuck: u32,
    partial_linearizations: Vec<PartialLinearization>,
) -> Verdict {
    let call = &problem.calls[stuck as usize];
    Verdict::Invalid(Box::new(Violation {
        objects: objects.to_vec(),
        stuck: call.origin.operation(),
        prefix_end: call.returned.map_or(EventIndex(u32::MAX), Moment::event),
        partial_linearizations,
    }))
}

fn describe<S: Specification>(
    problem: &Problem<S>,
    states: &[S::State],
    order: &[Taken],
) -> Vec<LinearizedCall> {
    let linearized = |taken: &Taken| {
        let timed = &problem.calls[taken.call as usize];
        LinearizedCall {
            origin: timed.origin,
            call: problem.specification.describe_call(&timed.call),
            state: problem
                .specification
                .describe_state(&states[taken.state as usize]),
        }
    };
    order.iter().map(linearized).collect()
}

fn describe_dead_end<S: Specification>(
    problem: &mut Problem<S>,
    states: &[S::State],
    stuck: u32,
    end: &DeadEnd,
) -> PartialLinearization {
    let state = &states[end.state as usize];
    let taken: Vec<u32> = end.order.iter().map(|taken| taken.call).collect();
    PartialLinearization {
        calls: describe(problem, states, &end.order),
        state: problem.specification.describe_state(state),
        alternatives: alternatives(problem, state, stuck, &taken),
    }
}

/// States along an order of calls that is known to be legal and deterministic.
fn replay<S: Specification>(problem: &mut Problem<S>, order: &[u32]) -> Vec<LinearizedCall> {
    let mut state = problem.specification.initial();
    let mut linearized = Vec::with_capacity(order.len());
    for &index in order {
        let timed = &problem.calls[index as usize];
        if let Step::To(after) = problem.specification.step(&state, &timed.call) {
            state = after;
        }
        linearized.push(LinearizedCall {
            origin: timed.origin,
            call: problem.specification.describe_call(&timed.call),
            state: problem.specification.describe_state(&state),
        });
    }
    linearized
}

fn explain_dead_end<S: Specification>(
    problem: &mut Problem<S>,
    stuck: u32,
    order: &[u32],
) -> PartialLinearization {
    let calls = replay(problem, order);
    let mut state = problem.specification.initial();
    for &index in order {
        let call = &problem.calls[index as usize].call;
        if let Step::To(after) = problem.specification.step(&state, call) {
            state = after;
        }
    }
    PartialLinearization {
        calls,
        state: problem.specification.describe_state(&state),
        alternatives: alternatives(problem, &state, stuck, order),
    }
}

/// Every call that could come after `taken`, in `state`, before `stuck` returns; `stuck` first.
fn alternatives<S: Specification>(
    problem: &mut Problem<S>,
    state: &S::State,
    stuck: u32,
    taken: &[u32],
) -> Vec<Alternative> {
    let Problem {
        specification,
        calls,
    } = problem;
    let mut is_taken = vec![false; calls.len()];
    for &index in taken {
        is_taken[index as usize] = true;
    }
    let deadline = calls[stuck as usize].returned;
    let could_come = |&index: &u32| {
        let timed: &TimedCall<S::Call> = &calls[index as usize];
        !is_taken[index as usize] && deadline.is_none_or(|deadline| timed.invoked < deadline)
    };
    let mut next: Vec<u32> = (0..calls.len() as u32).filter(could_come).collect();
    next.sort_by_key(|&index| (index != stuck, calls[index as usize].invoked));

    let mut alternatives = Vec::with_capacity(next.len());
    for index in next {
        let timed = &calls[index as usize];
        let states = match specification.step(state, &timed.call) {
            Step::Refused => Vec::new(),
            Step::To(after) => vec![after],
            Step::Any(states) => states,
        };
        let why = if states.is_empty() {
            WhyNot::Refused {
                reason: specification.refusal(state, &timed.call),
            }
        } else {
            let states = states
                .iter()
                .map(|after| specification.describe_state(after))
                .collect();
            WhyNot::LeadsNowhere { states }
        };
        let call = specification.describe_call(&timed.call);
        alternatives.push(Alternative {
            origin: timed.origin,
            call,
            why,
        });
    }
    alternatives
}
