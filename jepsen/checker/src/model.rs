//! What a sequential specification is, for the search: calls, states, steps. It knows no model.

use std::hash::Hash;

use crate::{EventIndex, History, Malformed, Method, Operation, OperationId, Value};

/// Turns the operations of a history into calls of a sequential specification.
pub trait Model: Sync {
    /// The specification that its calls belong to.
    type Specification: Specification;

    /// The name by which people choose it.
    fn name(&self) -> &'static str;

    /// The objects that an operation touches. Operations that share none, not even through others,
    /// are checked apart: a history is linearizable exactly when each object's part is (Herlihy and
    /// Wing's locality). By default the operation's `key`; operations without one share one object.
    ///
    /// # Errors
    ///
    /// What is wrong with the operation, if that cannot be told.
    fn objects(&self, _history: &History, operation: &Operation) -> Result<Vec<Value>, String> {
        Ok(vec![operation.key.clone().unwrap_or_default()])
    }

    /// The calls of some operations (in the order of invocation), which share no object with any
    /// other. An operation that tells nothing has no call; one may also cause further calls, such as
    /// the expiry of the lease that it was granted.
    ///
    /// # Errors
    ///
    /// If the model knows no such operation, or its argument or answer is none of the model's.
    fn problem(
        &self,
        history: &History,
        operations: &[OperationId],
    ) -> Result<Problem<Self::Specification>, Malformed>;
}

/// A sequential specification: which calls are legal in which state, and where they lead.
///
/// Its methods take `&mut self` so that it may intern what it meets. They must be functions
/// nevertheless: the same question gets the same answer.
pub trait Specification: Send {
    /// A call, with its answer as far as that is known. Equal calls must be interchangeable.
    type Call: Clone + Eq + Hash + Send;
    /// A state of the object.
    type State: Clone + Eq + Hash + Send;

    /// The state at the start.
    fn initial(&mut self) -> Self::State;

    /// What a call does in a state.
    fn step(&mut self, state: &Self::State, call: &Self::Call) -> Step<Self::State>;

    /// Whether a call never changes any state in which it is legal: a read, a refusal that was
    /// observed. The search takes such a call as soon as it is legal; `false` is always safe.
    fn observes(&self, _call: &Self::Call) -> bool {
        false
    }

    /// Whether a call that is not legal in a state may be later, behind any calls that do not
    /// [reset](Specification::resets). The search gives up at once where a call under way is out of
    /// reach. `true` is always safe, and what specifications say that know no better.
    fn reaches(&mut self, _state: &Self::State, _call: &Self::Call) -> bool {
        true
    }

    /// Whether [`reaches`](Specification::reaches) must not look beyond this call. What it leads
    /// to must not depend on the state before.
    fn resets(&self, _call: &Self::Call) -> bool {
        false
    }

    /// Whether `reaches` ever says `false`.
    fn is_guided(&self) -> bool {
        false
    }

    /// Whether a state looks as if it were on the right way, from all that the calls say. The
    /// search tries such states first; a wrong guess costs time and changes no verdict.
    fn is_promising(&mut self, _state: &Self::State) -> bool {
        true
    }

    /// Decides by a theorem, if one applies to exactly these calls. An order is verified before it
    /// is believed; an impossibility is not, so only a proven one may be claimed.
    fn theory(&mut self, _calls: &[TimedCall<Self::Call>]) -> Theory {
        Theory::Silent
    }

    /// The bytes that a state takes, with what it owns.
    fn state_bytes(&self, _state: &Self::State) -> usize {
        size_of::<Self::State>()
    }

    /// A state in words, for people; abbreviate what is long.
    fn describe_state(&self, state: &Self::State) -> String;

    /// A call with its answer, for people: `read -> 3`.
    fn describe_call(&self, call: &Self::Call) -> String;

    /// Why `step` refuses this call in this state. Only asked when it does.
    fn refusal(&self, state: &Self::State, call: &Self::Call) -> String;
}

/// What a call does in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<S> {
    /// It is not legal there.
    Refused,
    /// It leads to exactly one state.
    To(S),
    /// It leads to any of these states, nobody knows which. Empty is the same as refused.
    Any(Vec<S>),
}

/// What a theorem says about some calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Theory {
    /// Nothing: search.
    Silent,
    /// They are linearizable in this order of their indexes. Open calls that do not take effect are
    /// left out.
    Order {
        /// Indexes of calls.
        order: Vec<u32>,
        /// The theorem.
        by: Method,
    },
    /// They are not linearizable.
    Impossible {
        /// The theorem.
        by: Method,
    },
}

/// A moment in a history: at an event, or just before one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The moment of an event.
    #[must_use]
    pub fn at(event: EventIndex) -> Self {
        Moment(2 * u64::from(event.0) + 1)
    }

    /// After the event before it and before the event itself.
    #[must_use]
    pub fn just_before(event: EventIndex) -> Self {
        Moment(2 * u64::from(event.0))
    }

    /// The event that this moment is at, or just before.
    #[must_use]
    pub fn event(self) -> EventIndex {
        EventIndex(u32::try_from(self.0 / 2).unwrap_or(u32::MAX))
    }
}

/// Where a call comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// An operation of the history.
    Operation(OperationId),
    /// No client asked for it: it follows from an operation, as a lease's expiry follows from its
    /// grant.
    Derived(OperationId),
}

impl Origin {
    /// The operation itself, or the one that it follows from.
    #[must_use]
    pub fn operation(self) -> OperationId {
        match self {
            Origin::Operation(id) | Origin::Derived(id) => id,
        }
    }
}

/// A call and the interval in which it takes effect.
#[derive(Clone, Debug)]
pub struct TimedCall<C> {
    /// What was called.
    pub call: C,
    /// Where it comes from.
    pub origin: Origin,
    /// It takes effect after this moment,
    pub invoked: Moment,
    /// and before this one. Without one it is open: any time later, or never.
    pub returned: Option<Moment>,
}

/// What the search is asked to decide: can these calls be put in an order that keeps to their
/// intervals and that the specification allows?
#[derive(Clone, Debug)]
pub struct Problem<S: Specification> {
    /// The specification, with whatever it interned.
    pub specification: S,
    /// The calls, in any order.
    pub calls: Vec<TimedCall<S::Call>>,
}
