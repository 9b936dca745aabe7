//! The search for a linearization: Wing and Gong's algorithm (1993) with Lowe's memory of visited
//! configurations (2017) and Horn and Kroening's list of entries to lift and unlift (2015). It
//! decides one partition and explains nothing in words.
//!
//! # How it works
//!
//! The calls that returned stand in a list, by invocation. A *configuration* is what took effect so
//! far and the state that it led to. From a configuration, every call that was invoked before the
//! first return of those still in the list may take effect next; it is lifted out of the list, and put
//! back when the search returns. When the list is empty, the calls lifted are a linearization.
//!
//! What keeps it fast, each of it exact (no verdict depends on luck, there is no hashing without
//! comparison):
//!
//! * **Compact configurations.** All calls that return before the first one left have taken effect, so
//!   a position among the returns stands for all of them, and only those under way at that moment
//!   need a bit. Calls that never overlap share one. States are numbered.
//! * **Observers at once.** A call that never changes a state may take effect as soon as it is legal:
//!   any continuation without it goes on just so behind it. So reads never cause a choice.
//! * **Equal open calls in order.** Open calls that are equal are interchangeable, so the one that was
//!   invoked first is used first.
//! * **Fewer open calls are better.** Of two configurations that differ only in the open calls used,
//!   one that used a subset can do whatever the other can: the other is not visited.
//!
//! In which order choices are tried is a matter of speed alone; a specification may say which states
//! look right.
//!
//! # The shortest illegal prefix
//!
//! The furthest position that any configuration reached names the return that none could pass. Up to
//! the event before it there is a linearization, with it there is none, and that remains so if
//! the history ended there. Answers that calls under way get later count as known, as in Knossos.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};

use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::{Budget, Moment, Problem, Specification, Statistics, Step, TimedCall, UnknownReason};

/// What the search found.
pub(crate) struct Searched<S: Specification> {
    pub found: Found,
    /// States by the numbers in [`Taken`].
    pub states: Vec<S::State>,
    pub statistics: Statistics,
}

pub(crate) enum Found {
    Linearization(Vec<Taken>),
    Stuck {
        /// The index of the call whose return cannot be passed.
        call: u32,
        /// How many returns can be.
        passed: u32,
        /// The longest ways to get there: one for each state.
        dead_ends: Vec<DeadEnd>,
    },
    Unknown(UnknownReason),
}

pub(crate) struct DeadEnd {
    pub order: Vec<Taken>,
    pub state: u32,
}

/// A call that took effect, and the number of the state after it.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    pub call: u32,
    pub state: u32,
}

/// Decides a problem. Keeps at most `dead_ends` dead ends.
pub(crate) fn search<S: Specification>(
    problem: &mut Problem<S>,
    dead_ends: usize,
    budget: &Budget<'_>,
) -> Searched<S> {
    if !problem.specification.is_guided() {
        return run(
            problem,
            Guide {
                looks_ahead: false,
                blind_to: NONE,
            },
            dead_ends,
            budget,
        );
    }
    let searched = run(problem, AHEAD, 0, budget);
    match searched.found {
        Found::Stuck { passed, .. } => {
            shortest_illegal_prefix(problem, passed, searched.statistics, dead_ends, budget)
        }
        _ => searched,
    }
}

const AHEAD: Guide = Guide {
    looks_ahead: true,
    blind_to: NONE,
};

/// Looking ahead refutes a configuration for a call that returns late, so the furthest position is
/// only where the search for the shortest illegal prefix begins: that many returns can be passed.
fn shortest_illegal_prefix<S: Specification>(
    problem: &mut Problem<S>,
    passed: u32,
    mut statistics: Statistics,
    dead_ends: usize,
    budget: &Budget<'_>,
) -> Searched<S> {
    let left = |spent: Statistics| Budget {
        steps: budget.steps.saturating_sub(spent.steps),
        ..*budget
    };
    let mut returns: Vec<(Moment, u32)> = (0u32..)
        .zip(&problem.calls)
        .filter_map(|(index, timed)| Some((timed.returned?, index)))
        .collect();
    returns.sort_unstable();

    // Invariant: the first `legal` returns can be passed, the first `illegal` cannot. Most often it
    // is the very next one, so the strides begin small.
    let (mut legal, mut illegal) = (passed as usize, returns.len());
    let mut stride = 1;
    while illegal - legal > 1 {
        let middle = legal + stride.min((illegal - legal) / 2);
        stride *= 2;
        let left = left(statistics);
        let search = |part: &mut Problem<S>, _: &[u32]| run(part, AHEAD, 0, &left);
        let searched = in_prefix(problem, returns[middle - 1].0, search);
        statistics.add(searched.statistics);
        match searched.found {
            Found::Linearization(_) => legal = middle,
            Found::Stuck { passed, .. } => {
                illegal = middle;
                legal = legal.max(passed as usize);
            }
            // It is illegal all the same. This is the shortest prefix that is known to be.
            Found::Unknown(_) => break,
        }
    }

    let (end, stuck) = returns[illegal - 1];
    let mut searched = if dead_ends > 0 {
        in_prefix(problem, end, |part, indexes| {
            let stuck = indexes
                .iter()
                .position(|&index| index == stuck)
                .unwrap_or(0) as u32;
            ways_to(part, stuck, dead_ends, &left(statistics))
        })
    } else {
        let found = Found::Stuck {
            call: stuck,
            passed: 0,
            dead_ends: Vec::new(),
        };
        Searched {
            found,
            states: Vec::new(),
            statistics: Statistics::default(),
        }
    };
    statistics.add(searched.statistics);
    searched.statistics = statistics;
    searched
}

/// The ways to get to a call whose return is the last and cannot be passed.
fn ways_to<S: Specification>(
    problem: &mut Problem<S>,
    stuck: u32,
    dead_ends: usize,
    budget: &Budget<'_>,
) -> Searched<S> {
    let little = Budget {
        steps: budget.steps.min(EXPLANATION_STEPS),
        ..*budget
    };
    let guide = Guide {
        looks_ahead: true,
        blind_to: stuck,
    };
    let searched = run(problem, guide, dead_ends, &little);
    if matches!(searched.found, Found::Stuck { call, .. } if call == stuck) {
        return searched;
    }
    // Too many ways. One is better than none: how it goes without this call.
    let mut statistics = searched.statistics;
    let timed = &mut problem.calls[stuck as usize];
    timed.invoked = timed.returned.take().unwrap_or(timed.invoked);
    let mut searched = run(problem, AHEAD, 0, &little);
    statistics.add(searched.statistics);
    let dead_ends = match searched.found {
        Found::Linearization(order) => {
            // The initial state is the first.
            let state = order.last().map_or(0, |taken| taken.state);
            vec![DeadEnd { order, state }]
        }
        _ => Vec::new(),
    };
    searched.found = Found::Stuck {
        call: stuck,
        passed: 0,
        dead_ends,
    };
    searched.statistics = statistics;
    searched
}

/// How many steps it may take to find out in which ways an illegal prefix is.
const EXPLANATION_STEPS: u64 = 1_000_000;

/// Runs a search in the problem as it stood at a moment, and numbers what it found as in the whole.
fn in_prefix<S: Specification>(
    problem: &mut Problem<S>,
    end: Moment,
    search: impl FnOnce(&mut Problem<S>, &[u32]) -> Searched<S>,
) -> Searched<S> {
    let (indexes, calls): (Vec<u32>, Vec<TimedCall<S::Call>>) = (0u32..)
        .zip(&problem.calls)
        .filter(|(_, timed)| timed.invoked < end)
        .map(|(index, timed)| {
            let returned = timed.returned.filter(|&returned| returned <= end);
            (
                index,
                TimedCall {
                    returned,
                    ..timed.clone()
                },
            )
        })
        .unzip();
    let whole = std::mem::replace(&mut problem.calls, calls);
    let mut searched = search(problem, &indexes);
    problem.calls = whole;
    let renumber = |order: &mut Vec<Taken>| {
        order
            .iter_mut()
            .for_each(|taken| taken.call = indexes[taken.call as usize]);
    };
    match &mut searched.found {
        Found::Linearization(order) => renumber(order),
        Found::Stuck {
            call, dead_ends, ..
        } => {
            *call = indexes[*call as usize];
            dead_ends
                .iter_mut()
                .for_each(|end| renumber(&mut end.order));
        }
        Found::Unknown(_) => {}
    }
    searched
}

/// How far a search looks ahead.
#[derive(Clone, Copy)]
struct Guide {
    /// Whether it gives up where a call under way is out of reach.
    looks_ahead: bool,
    /// Unless it is this one.
    blind_to: u32,
}

/// One search.
fn run<S: Specification>(
    problem: &mut Problem<S>,
    guide: Guide,
    dead_ends: usize,
    budget: &Budget<'_>,
) -> Searched<S> {
    let layout = Layout::new(problem);
    let (slots, open) = (layout.slots, layout.open.len());
    // A few sizes of bit sets: nearly all histories fit into the first.
    if slots <= 64 && open <= 64 {
        Search::<S, 1, 1>::new(problem, &layout, guide, dead_ends, budget).run()
    } else if slots <= 64 && open <= 512 {
        Search::<S, 1, 8>::new(problem, &layout, guide, dead_ends, budget).run()
    } else if slots <= 1024 && open <= 4096 {
        Search::<S, 16, 64>::new(problem, &layout, guide, dead_ends, budget).run()
    } else {
        let (calls, limit) = if slots > 1024 {
            (slots, 1024)
        } else {
            (open, 4096)
        };
        Searched {
            found: Found::Unknown(UnknownReason::TooConcurrent { calls, limit }),
            states: Vec::new(),
            statistics: Statistics {
                calls: problem.calls.len() as u64,
                ..Statistics::default()
            },
        }
    }
}

const NONE: u32 = u32::MAX;

/// What does not change during a search. Calls that returned have *ranks*, by invocation; open calls
/// have ranks of their own.
struct Layout {
    /// By rank: the call's index, interval, slot, and whether it only observes.
    required: Vec<Required>,
    /// Ranks by return.
    returns: Vec<u32>,
    /// The most calls that are under way at once.
    slots: usize,
    /// By rank: open calls that can change something.
    open: Vec<Open>,
    /// Calls that reset, by invocation.
    resets: Vec<(Moment, Rank)>,
}

struct Required {
    call: u32,
    invoked: Moment,
    returned: Moment,
    /// Its bit while it is under way; calls that never overlap may share one.
    slot: u32,
    observes: bool,
}

struct Open {
    call: u32,
    invoked: Moment,
    /// The equal open call before it, or [`NONE`].
    twin: u32,
}

impl Layout {
    fn new<S: Specification>(problem: &Problem<S>) -> Layout {
        let mut required = Vec::new();
        let mut open = Vec::new();
        for (index, timed) in (0u32..).zip(&problem.calls) {
            let observes = problem.specification.observes(&timed.call);
            match timed.returned {
                Some(returned) => required.push(Required {
                    call: index,
                    invoked: timed.invoked,
                    returned,
                    slot: 0,
                    observes,
                }),
                // Whether anybody reads what is never answered makes no difference.
                None if observes => {}
                None => open.push(Open {
                    call: index,
                    invoked: timed.invoked,
                    twin: NONE,
                }),
            }
        }
        required.sort_by_key(|call| call.invoked);
        open.sort_by_key(|call| call.invoked);

        let mut returns: Vec<u32> = (0..required.len() as u32).collect();
        returns.sort_by_key(|&rank| required[rank as usize].returned);

        let mut slots = 0;
        let mut free = Vec::new();
        let mut returning = returns.iter().copied().peekable();
        for rank in 0..required.len() {
            while let Some(ended) = returning
                .next_if(|&ended| required[ended as usize].returned < required[rank].invoked)
            {
                free.push(required[ended as usize].slot);
            }
            required[rank].slot = free.pop().unwrap_or_else(|| {
                slots += 1;
                slots - 1
            });
        }

        let mut last_equal: HashMap<&S::Call, u32, FxBuildHasher> = HashMap::default();
        for (rank, entry) in (0u32..).zip(&mut open) {
            let call = &problem.calls[entry.call as usize].call;
            entry.twin = last_equal.insert(call, rank).unwrap_or(NONE);
        }
        let resets = |call: u32| {
            problem
                .specification
                .resets(&problem.calls[call as usize].call)
        };
        let of_required = (0u32..)
            .zip(&required)
            .filter(|(_, entry)| resets(entry.call));
        let of_open = (0u32..).zip(&open).filter(|(_, entry)| resets(entry.call));
        let mut resets: Vec<(Moment, Rank)> = of_required
            .map(|(rank, entry)| (entry.invoked, Rank::Required(rank)))
            .chain(of_open.map(|(rank, entry)| (entry.invoked, Rank::Open(rank))))
            .collect();
        resets.sort_by_key(|(invoked, _)| *invoked);
        Layout {
            required,
            returns,
            slots: slots as usize,
            open,
            resets,
        }
    }
}

/// A list of ranks out of which any may be lifted and, in reverse order, put back.
struct List {
    next: Vec<u32>,
    previous: Vec<u32>,
}

impl List {
    /// All ranks below `length`; `length` itself is both ends.
    fn new(length: usize) -> List {
        let length = length as u32;
        List {
            next: (0..=length)
                .map(|rank| if rank == length { 0 } else { rank + 1 })
                .collect(),
            previous: (0..=length)
                .map(|rank| rank.checked_sub(1).unwrap_or(length))
                .collect(),
        }
    }

    fn end(&self) -> u32 {
        self.next.len() as u32 - 1
    }

    fn first(&self) -> u32 {
        self.after(self.end())
    }

    fn after(&self, rank: u32) -> u32 {
        self.next[rank as usize]
    }

    fn lift(&mut self, rank: u32) {
        let (before, after) = (self.previous[rank as usize], self.next[rank as usize]);
        self.next[before as usize] = after;
        self.previous[after as usize] = before;
    }

    fn unlift(&mut self, rank: u32) {
        let (before, after) = (self.previous[rank as usize], self.next[rank as usize]);
        self.next[before as usize] = rank;
        self.previous[after as usize] = rank;
    }
}

/// A set of small numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Bits<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> Bits<WORDS> {
    const EMPTY: Self = Bits([0; WORDS]);

    fn insert(&mut self, bit: u32) {
        self.0[bit as usize / 64] |= 1 << (bit % 64);
    }

    fn remove(&mut self, bit: u32) {
        self.0[bit as usize / 64] &= !(1 << (bit % 64));
    }

    fn contains(&self, bit: u32) -> bool {
        self.0[bit as usize / 64] >> (bit % 64) & 1 == 1
    }

    fn is_subset(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .all(|(mine, its)| mine & !its == 0)
    }
}

impl<const WORDS: usize> Hash for Bits<WORDS> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for word in self.0 {
            hasher.write_u64(word);
        }
    }
}

/// A configuration without its open calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key<const R: usize> {
    position: u32,
    state: u32,
    under_way: Bits<R>,
}

/// The smallest sets of open calls with which a [`Key`] was visited; none includes another.
struct Visited<const O: usize> {
    first: Bits<O>,
    more: Vec<Bits<O>>,
}

/// Where the search may have to return to.
struct Frame<const R: usize, const O: usize> {
    position: u32,
    state: u32,
    under_way: Bits<R>,
    open_used: Bits<O>,
    /// How many calls have taken effect.
    taken: usize,
    /// Its choices: the next one to try, and where they begin and end.
    next_choice: usize,
    first_choice: usize,
    last_choice: usize,
}

/// A call that may take effect next, and the state that it leads to.
#[derive(Clone, Copy)]
struct Choice {
    rank: Rank,
    state: u32,
}

#[derive(Clone, Copy)]
enum Rank {
    Required(u32),
    Open(u32),
}

struct Search<'p, S: Specification, const R: usize, const O: usize> {
    specification: &'p mut S,
    calls: &'p [TimedCall<S::Call>],
    layout: &'p Layout,
    guide: Guide,
    budget: &'p Budget<'p>,

    states: Vec<S::State>,
    /// By state: whether the specification thinks that it may be on the right way.
    promising: Vec<bool>,
    state_numbers: FxHashMap<S::State, u32>,
    visited: FxHashMap<Key<R>, Visited<O>>,

    // The configuration that the search is at.
    position: u32,
    under_way: Bits<R>,
    open_used: Bits<O>,
    required: List,
    lifted: Vec<bool>,
    open: List,
    taken: Vec<Choice>,

    frames: Vec<Frame<R, O>>,
    choices: Vec<Choice>,

    furthest: u32,
    dead_ends: Vec<DeadEnd>,
    dead_ends_limit: usize,

    statistics: Statistics,
    state_bytes: u64,
    visited_more_bytes: u64,
}

/// What became of a configuration that the search came to.
enum Entered {
    /// Its choices are on the stack.
    Frame,
    /// Nothing new.
    Pruned,
    /// Everything that returned has taken effect.
    Complete,
}

impl<'p, S: Specification, const R: usize, const O: usize> Search<'p, S, R, O> {
    fn new(
        problem: &'p mut Problem<S>,
        layout: &'p Layout,
        guide: Guide,
        dead_ends_limit: usize,
        budget: &'p Budget<'p>,
    ) -> Self {
        let calls = problem.calls.len() as u64;
        Search {
            specification: &mut problem.specification,
            calls: &problem.calls,
            layout,
            guide,
            budget,
            states: Vec::new(),
            promising: Vec::new(),
            state_numbers: FxHashMap::default(),
            visited: FxHashMap::default(),
            position: 0,
            under_way: Bits::EMPTY,
            open_used: Bits::EMPTY,
            required: List::new(layout.required.len()),
            lifted: vec![false; layout.required.len()],
            open: List::new(layout.open.len()),
            taken: Vec::new(),
            frames: Vec::new(),
            choices: Vec::new(),
            furthest: 0,
            dead_ends: Vec::new(),
            dead_ends_limit,
            statistics: Statistics {
                calls,
                ..Statistics::default()
            },
            state_bytes: 0,
            visited_more_bytes: 0,
        }
    }

    fn run(mut self) -> Searched<S> {
        let found = match self.depth_first() {
            Ok(found) => found,
            Err(reason) => Found::Unknown(reason),
        };
        self.statistics.memory_peak_bytes = self.memory_bytes();
        Searched {
            found,
            states: self.states,
            statistics: self.statistics,
        }
    }

    fn depth_first(&mut self) -> Result<Found, UnknownReason> {
        let initial = self.specification.initial();
        let initial = self.number(initial);
        let mut entered = self.enter(initial)?;
        loop {
            if matches!(entered, Entered::Complete) {
                return Ok(Found::Linearization(self.order()));
            }
            let Some(frame) = self.frames.last_mut() else {
                let stuck = self.layout.returns[self.furthest as usize];
                let mut dead_ends = std::mem::take(&mut self.dead_ends);
                // The sort is stable: what was found first stays first.
                dead_ends.sort_by_key(|end| std::cmp::Reverse(end.order.len()));
                let call = self.layout.required[stuck as usize].call;
                return Ok(Found::Stuck {
                    call,
                    passed: self.furthest,
                    dead_ends,
                });
            };
            let next = (frame.next_choice < frame.last_choice).then_some(frame.next_choice);
            frame.next_choice += 1;
            self.return_to_last_frame();
            match next {
                Some(choice) => {
                    let choice = self.choices[choice];
                    self.take(choice);
                    self.pass_returns();
                    entered = self.enter(choice.state)?;
                }
                None => {
                    self.note_dead_end();
                    if let Some(frame) = self.frames.pop() {
                        self.choices.truncate(frame.first_choice);
                    }
                    entered = Entered::Pruned;
                }
            }
        }
    }

    /// Comes to a configuration: lets observers take effect, asks whether it is new, and puts what
    /// may come next on the stack.
    fn enter(&mut self, state: u32) -> Result<Entered, UnknownReason> {
        self.ask_budget()?;
        let layout = self.layout;
        let first_choice = self.choices.len();
        let mut rank = self.required.first();
        let deadline = loop {
            let Some(&returning) = layout.returns.get(self.position as usize) else {
                return Ok(Entered::Complete);
            };
            let deadline = layout.required[returning as usize].returned;
            while let Some(call) = layout.required.get(rank as usize)
                && call.invoked < deadline
            {
                let after = self.required.after(rank);
                if call.observes {
                    if self.is_legal(state, call.call) {
                        self.take(Choice {
                            rank: Rank::Required(rank),
                            state,
                        });
                    }
                } else {
                    self.choose(state, call.call, Rank::Required(rank));
                }
                rank = after;
            }
            if !self.pass_returns() {
                break deadline;
            }
        };
        if self.position > self.furthest {
            self.furthest = self.position;
            self.dead_ends.clear();
        }
        if self.guide.looks_ahead && self.is_hopeless(state, deadline) {
            self.choices.truncate(first_choice);
            return Ok(Entered::Pruned);
        }
        if !self.visit(state)? {
            self.choices.truncate(first_choice);
            return Ok(Entered::Pruned);
        }
        let mut rank = self.open.first();
        while let Some(call) = layout.open.get(rank as usize)
            && call.invoked < deadline
        {
            if call.twin == NONE || self.open_used.contains(call.twin) {
                self.choose(state, call.call, Rank::Open(rank));
            }
            rank = self.open.after(rank);
        }
        // What leads to a promising state is tried first, and of that what has to come soonest.
        let returning = layout.returns[self.position as usize];
        let promising = &self.promising;
        self.choices[first_choice..].sort_by_key(|choice| {
            let returns = matches!(choice.rank, Rank::Required(rank) if rank == returning);
            (!promising[choice.state as usize], !returns)
        });
        self.frames.push(Frame {
            position: self.position,
            state,
            under_way: self.under_way,
            open_used: self.open_used,
            taken: self.taken.len(),
            next_choice: first_choice,
            first_choice,
            last_choice: self.choices.len(),
        });
        Ok(Entered::Frame)
    }

    /// Whether a call under way is out of reach of a state.
    fn is_hopeless(&mut self, state: u32, deadline: Moment) -> bool {
        let (layout, calls) = (self.layout, self.calls);
        let mut rank = self.required.first();
        while let Some(entry) = layout.required.get(rank as usize)
            && entry.invoked < deadline
        {
            rank = self.required.after(rank);
            let call = &calls[entry.call as usize].call;
            if entry.call == self.guide.blind_to
                || self
                    .specification
                    .reaches(&self.states[state as usize], call)
            {
                continue;
            }
            // What resets may still come between.
            let mut may_reset = false;
            for &(invoked, reset) in &layout.resets {
                if invoked > entry.returned {
                    break;
                }
                let (is_used, reset) = match reset {
                    Rank::Required(rank) => (
                        self.lifted[rank as usize],
                        layout.required[rank as usize].call,
                    ),
                    Rank::Open(rank) => (
                        self.open_used.contains(rank),
                        layout.open[rank as usize].call,
                    ),
                };
                let reset = &calls[reset as usize].call;
                let specification = &mut *self.specification;
                may_reset = !is_used
                    && match specification.step(&self.states[state as usize], reset) {
                        Step::Refused => true,
                        Step::To(after) => specification.reaches(&after, call),
                        Step::Any(_) => true,
                    };
                if may_reset {
                    break;
                }
            }
            if !may_reset {
                return true;
            }
        }
        false
    }

    fn is_legal(&mut self, state: u32, call: u32) -> bool {
        self.statistics.steps += 1;
        let call = &self.calls[call as usize].call;
        match self.specification.step(&self.states[state as usize], call) {
            Step::Refused => false,
            Step::To(_) => true,
            Step::Any(states) => !states.is_empty(),
        }
    }

    /// Adds the ways to take a call as choices.
    fn choose(&mut self, state: u32, call: u32, rank: Rank) {
        self.statistics.steps += 1;
        let call = &self.calls[call as usize].call;
        match self.specification.step(&self.states[state as usize], call) {
            Step::Refused => {}
            Step::To(after) => {
                let state = self.number(after);
                self.choices.push(Choice { rank, state });
            }
            Step::Any(all) => {
                for after in all {
                    let state = self.number(after);
                    self.choices.push(Choice { rank, state });
                }
            }
        }
    }

    fn number(&mut self, state: S::State) -> u32 {
        if let Some(&number) = self.state_numbers.get(&state) {
            return number;
        }
        let number = self.states.len() as u32;
        // Once in the table, once in the list.
        self.state_bytes += 2 * self.specification.state_bytes(&state) as u64 + 8;
        self.promising.push(self.specification.is_promising(&state));
        self.states.push(state.clone());
        self.state_numbers.insert(state, number);
        number
    }

    fn take(&mut self, choice: Choice) {
        match choice.rank {
            Rank::Required(rank) => {
                self.required.lift(rank);
                self.lifted[rank as usize] = true;
                self.under_way
                    .insert(self.layout.required[rank as usize].slot);
            }
            Rank::Open(rank) => {
                self.open.lift(rank);
                self.open_used.insert(rank);
            }
        }
        self.taken.push(choice);
    }

    /// Moves behind the returns of calls that have taken effect; whether there were any.
    fn pass_returns(&mut self) -> bool {
        let before = self.position;
        while let Some(&rank) = self.layout.returns.get(self.position as usize)
            && self.lifted[rank as usize]
        {
            self.under_way
                .remove(self.layout.required[rank as usize].slot);
            self.position += 1;
        }
        self.position > before
    }

    fn return_to_last_frame(&mut self) {
        let Some(frame) = self.frames.last() else {
            return;
        };
        while self.taken.len() > frame.taken {
            match self.taken.pop().map(|choice| choice.rank) {
                Some(Rank::Required(rank)) => {
                    self.required.unlift(rank);
                    self.lifted[rank as usize] = false;
                }
                Some(Rank::Open(rank)) => self.open.unlift(rank),
                None => break,
            }
        }
        self.position = frame.position;
        self.under_way = frame.under_way;
        self.open_used = frame.open_used;
    }

    /// Remembers the configuration; whether it is worth visiting.
    fn visit(&mut self, state: u32) -> Result<bool, UnknownReason> {
        if self.visited.len() == self.visited.capacity() {
            // The table is about to grow, and holds the old one while it does.
            let entry = size_of::<(Key<R>, Visited<O>)>() as u64 + 1;
            let grown = self.memory_bytes() + 2 * entry * self.visited.capacity() as u64;
            if grown > self.budget.memory_bytes {
                return Err(UnknownReason::Memory {
                    limit_bytes: self.budget.memory_bytes,
                });
            }
        }
        let key = Key {
            position: self.position,
            state,
            under_way: self.under_way,
        };
        let used = self.open_used;
        match self.visited.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Visited {
                    first: used,
                    more: Vec::new(),
                });
            }
            Entry::Occupied(entry) => {
                let Visited { first, more } = entry.into_mut();
                if first.is_subset(&used) || more.iter().any(|other| other.is_subset(&used)) {
                    return Ok(false);
                }
                let before = more.capacity();
                more.retain(|other| !used.is_subset(other));
                if used.is_subset(first) {
                    *first = used;
                } else {
                    more.push(used);
                }
                let grown = more.capacity() - before;
                self.visited_more_bytes += (grown * size_of::<Bits<O>>()) as u64;
            }
        }
        self.statistics.configurations += 1;
        Ok(true)
    }

    /// The last frame has no choice left: if it came as far as any, keeps the way there.
    fn note_dead_end(&mut self) {
        let Some(frame) = self.frames.last() else {
            return;
        };
        if frame.position < self.furthest || self.dead_ends_limit == 0 {
            return;
        }
        let (state, length) = (frame.state, frame.taken);
        let rival = match self.dead_ends.iter().position(|end| end.state == state) {
            Some(same) => Some(same),
            None if self.dead_ends.len() < self.dead_ends_limit => None,
            None => (0..self.dead_ends.len()).min_by_key(|&end| self.dead_ends[end].order.len()),
        };
        match rival {
            Some(rival) if self.dead_ends[rival].order.len() < length => {
                self.dead_ends[rival] = DeadEnd {
                    order: self.order(),
                    state,
                };
            }
            Some(_) => {}
            None => {
                let order = self.order();
                self.dead_ends.push(DeadEnd { order, state });
            }
        }
    }

    fn order(&self) -> Vec<Taken> {
        let index = |rank| match rank {
            Rank::Required(rank) => self.layout.required[rank as usize].call,
            Rank::Open(rank) => self.layout.open[rank as usize].call,
        };
        let taken = self.taken.iter();
        taken
            .map(|choice| Taken {
                call: index(choice.rank),
                state: choice.state,
            })
            .collect()
    }

    fn ask_budget(&mut self) -> Result<(), UnknownReason> {
        if self.statistics.steps > self.budget.steps {
            return Err(UnknownReason::Steps {
                limit: self.budget.steps,
            });
        }
        // Often enough for any deadline that people set, and rare enough to cost nothing.
        if self.statistics.configurations % 1024 == 1023 {
            if (self.budget.stop)() {
                return Err(UnknownReason::Stopped);
            }
            if self.memory_bytes() > self.budget.memory_bytes {
                return Err(UnknownReason::Memory {
                    limit_bytes: self.budget.memory_bytes,
                });
            }
        }
        Ok(())
    }

    /// What the search holds that grows: configurations, states, and the way back.
    fn memory_bytes(&self) -> u64 {
        let visited = self.visited.capacity() * (size_of::<(Key<R>, Visited<O>)>() + 1);
        let frames = self.frames.capacity() * size_of::<Frame<R, O>>();
        let choices = (self.choices.capacity() + self.taken.capacity()) * size_of::<Choice>();
        (visited + frames + choices) as u64 + self.visited_more_bytes + self.state_bytes
    }
}
