//! What all simulated processes share: the seeded dice, the trace, the state of the network, and the
//! record of what was applied, against which every apply is checked on the spot.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use openraft_rt_sim::SimInstant;
use parking_lot::{Mutex, MutexGuard};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::process::Process;
use crate::machine::EntryContext;
use crate::types::NodeId;

/// One life of a node's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    pub node: NodeId,
    pub life: u64,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}.{}", self.node.0, self.life)
    }
}

/// What one log index held when it was first applied: term, stamp, command.
type Fact = (u64, u64, u64);

pub(super) struct State {
    dice: SmallRng,
    pub trace: Vec<String>,
    pub violations: Vec<String>,
    /// Directed pairs between which nothing passes.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    pub running: BTreeMap<NodeId, Arc<Process>>,
    /// Who led in which term.
    pub leaders: BTreeMap<u64, NodeId>,
    pub applied: BTreeMap<u64, Fact>,
    pub snapshots_installed: u64,
}

#[derive(Clone)]
pub(super) struct World {
    state: Arc<Mutex<State>>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let state = State {
            dice: SmallRng::seed_from_u64(seed),
            trace: Vec::new(),
            violations: Vec::new(),
            cut: BTreeSet::new(),
            running: BTreeMap::new(),
            leaders: BTreeMap::new(),
            applied: BTreeMap::new(),
            snapshots_installed: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Adds a line to the trace.
    pub fn note(&self, what: impl fmt::Display) {
        let now = SimInstant::try_now().map_or(Duration::ZERO, SimInstant::elapsed_since_start);
        let line = format!("{:.6} {what}", now.as_secs_f64());
        self.state().trace.push(line);
    }

    pub fn violation(&self, what: String) {
        self.note(format_args!("VIOLATION {what}"));
        self.state().violations.push(what);
    }

    pub fn number(&self, range: Range<u64>) -> u64 {
        self.state().dice.random_range(range)
    }

    pub fn chance(&self, of: f64) -> bool {
        self.state().dice.random_bool(of)
    }

    pub fn micros(&self, range: Range<u64>) -> Duration {
        Duration::from_micros(self.number(range))
    }

    pub fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.number(range))
    }

    /// The process that runs as `node` now.
    pub fn running(&self, node: NodeId) -> Option<Arc<Process>> {
        self.state().running.get(&node).cloned()
    }

    /// Whether that process still runs.
    pub fn lives(&self, endpoint: Endpoint) -> bool {
        self.running(endpoint.node)
            .is_some_and(|process| process.endpoint == endpoint)
    }

    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.state().cut.contains(&(from, to))
    }

    /// Cuts `node` off from all others, both ways.
    pub fn isolate(&self, node: NodeId, of: &[NodeId]) {
        let others = of.iter().filter(|other| **other != node);
        let pairs = others.flat_map(|other| [(node, *other), (*other, node)]);
        self.state().cut.extend(pairs);
    }

    /// There must be one leader in a term.
    pub fn leads(&self, term: u64, node: NodeId) {
        let first = *self.state().leaders.entry(term).or_insert(node);
        if first != node {
            self.violation(format!("term {term} has two leaders, {first} and {node}"));
        }
    }

    /// An index must hold the same on every node, for ever.
    pub fn holds(&self, at: Endpoint, index: u64, stamp: u64, command: u64) {
        let known = self.state().applied.get(&index).copied();
        match known {
            Some((_, same_stamp, same)) if (same_stamp, same) == (stamp, command) => {}
            Some(other) => self.violation(format!(
                "{at} has (stamp {stamp}, command {command}) at index {index}, where another node \
                 applied {other:?}"
            )),
            None => self.violation(format!("{at} has index {index}, which nobody applied")),
        }
    }

    /// A process applies an entry.
    pub fn applies(&self, at: Endpoint, entry: EntryContext, command: u64) {
        if !self.lives(at) {
            // What a dead process does until its tasks notice reaches nobody.
            return;
        }
        self.note(format_args!(
            "{at} applies {}-{} stamp={} command={command}",
            entry.term, entry.index, entry.stamp
        ));
        let fact = (entry.term, entry.stamp, command);
        let first = *self.state().applied.entry(entry.index).or_insert(fact);
        if first != fact {
            self.violation(format!(
                "{at} applies {fact:?} at index {}, where another node applied {first:?}",
                entry.index
            ));
        }
    }
}
