//! Three nodes in one thread, on virtual time, over a simulated network and simulated disks.
//!
//! What runs is what production runs: openraft, [`Applier`](crate::apply::Applier),
//! [`Proposer`](crate::node::proposer::Proposer), `Pending`, admission, and the way of a proposal over
//! many leaders. What is replaced is the runtime, the RocksDB log (by the one in memory), the
//! transport, founding, and the task that purges the log. One seed decides everything: delays, losses, faults and load, so the same
//! seed gives the same trace, line by line.

mod network;
mod process;
mod scenario;
mod world;

use std::future::Future;
use std::io;

use openraft_rt_sim::SimRuntime;

use crate::runtime::Runtime;
use crate::types::TypeConfig;

/// One thread, virtual time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Simulated;

impl Runtime for Simulated {
    type Async = SimRuntime;

    /// In place, and in no time: there is only this thread, and the work ends for certain.
    fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send {
        std::future::ready(work())
    }
}

/// Lines of trace shown when a run fails.
const TAIL: usize = 200;

type C = TypeConfig<Simulated>;

fn number_from(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => otherwise,
    }
}

/// The seeds to run: `PALISADE_SIMULATION_SEEDS` of them from `PALISADE_SIMULATION_SEED` on.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let first = number_from("PALISADE_SIMULATION_SEED", 1);
    first..first + number_from("PALISADE_SIMULATION_SEEDS", count)
}

fn how_to_replay(seed: u64) -> String {
    format!(
        "replay: PALISADE_SIMULATION_SEED={seed} PALISADE_SIMULATION_SEEDS=1 \
         cargo test --release -p raft-core simulation"
    )
}

#[test]
fn through_partitions_crashes_and_restarts_every_acknowledged_proposal_is_applied_once_everywhere()
{
    for seed in seeds(8) {
        let run = scenario::run(seed);
        println!("seed {seed}: {}", run.summary);
        assert!(
            run.violations.is_empty(),
            "seed {seed}: {:#?}\n{}\nthe end of the trace:\n{}",
            run.violations,
            how_to_replay(seed),
            run.trace[run.trace.len().saturating_sub(TAIL)..].join("\n"),
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in seeds(2) {
        let (first, second) = (scenario::run(seed).trace, scenario::run(seed).trace);
        let length = first.len().min(second.len());
        let differs = (0..length).find(|&line| first[line] != second[line]);
        if let Some(line) = differs {
            panic!(
                "seed {seed}: line {line} differs:\n  {}\n  {}\n{}",
                first[line],
                second[line],
                how_to_replay(seed)
            );
        }
        assert_eq!(first.len(), second.len(), "{}", how_to_replay(seed));
    }
}

#[test]
fn a_leader_that_lost_its_quorum_pauses_between_the_tries_of_a_proposal() {
    for seed in seeds(3) {
        let trace = scenario::propose_to_a_leader_that_is_cut_off(seed).trace;
        let mut tries = trace
            .iter()
            .skip_while(|line| !line.contains("here it comes"));
        let tries = tries
            .by_ref()
            .filter(|line| line.contains(" stamps "))
            .count();
        let refused = trace
            .iter()
            .any(|line| line.contains("answered Err(NotProposed)"));
        assert!(
            refused && tries < 40,
            "{tries} tries; {}",
            how_to_replay(seed)
        );
    }
}

#[test]
fn a_leader_that_stops_before_its_first_entry_is_applied_leaves_no_task_that_spins() {
    for seed in seeds(3) {
        let run = scenario::stop_a_leader_that_has_applied_nothing(seed);
        let replay = how_to_replay(seed);
        assert!(run.violations.is_empty(), "{:?}; {replay}", run.violations);
        let answered = run.trace.iter().any(|line| line.contains("answered Err("));
        assert!(answered, "{replay}");
    }
}

#[test]
fn another_seed_gives_another_trace() {
    assert_ne!(scenario::run(1).trace, scenario::run(2).trace);
}
