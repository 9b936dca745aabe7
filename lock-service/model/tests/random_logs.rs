//! Long random logs: once against all promises of the model, once against an independent
//! specification.
//!
//! Each test prints its seed. `PALISADE_SEED=N` runs that log again, `PALISADE_STEPS=N` sets its
//! length.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a step that breaks a promise fails its test, which says how to run it again"
)]

mod common;
mod history;
mod specification;
mod workload;

use std::collections::BTreeMap;

use common::{check_invariants, encode, through_a_snapshot};
use history::History;
use lock_model::{Command, Entry, Event, LockTable, Outcome};
use specification::Specification;
use workload::Workload;

/// Another log in every run of the tests, and the same again when asked for.
fn seed() -> u64 {
    let given = std::env::var("PALISADE_SEED").ok();
    let seed = given.map_or_else(
        || u64::from(std::process::id()).wrapping_mul(0x9e37_79b9),
        |seed| seed.parse().expect("PALISADE_SEED is a number"),
    );
    println!("replay with PALISADE_SEED={seed}");
    seed
}

/// A million takes some 20 seconds in release, and minutes in a debug build.
const STEPS: u64 = if cfg!(debug_assertions) {
    100_000
} else {
    1_000_000
};

fn steps() -> u64 {
    let given = std::env::var("PALISADE_STEPS").ok();
    given.map_or(STEPS, |steps| {
        steps.parse().expect("PALISADE_STEPS is a number")
    })
}

/// How often what happened, so that a log in which nothing happens proves nothing.
#[derive(Default)]
struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    /// Counts the first word or words of what is printed: the names of variants.
    fn count(&mut self, what: &impl std::fmt::Debug) {
        let text = format!("{what:?}");
        let name: String = text
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '(')
            .collect();
        *self.0.entry(name).or_default() += 1;
    }

    fn check(&self, all: &[&str]) {
        let missing: Vec<_> = all.iter().filter(|it| !self.0.contains_key(**it)).collect();
        assert!(
            missing.is_empty(),
            "{missing:?} never happened: {:#?}",
            self.0
        );
    }
}

/// Every answer and event that there is, but for those that a random log cannot cause.
const ALL: [&str; 46] = [
    "Founded",
    "Ticked",
    "LeaseOpened",
    "Granted(Granted",
    "Queued(Queued",
    "Renewed(",
    "Released(",
    "Cancelled(Waiting",
    "Cancelled(Granted",
    "Cancelled(Decided",
    "Cancelled(Unknown",
    "Revoked",
    "Ended",
    "SettingsChanged",
    "ModelVersionRaised",
    "Restored",
    "Refused(Unfounded",
    "Refused(InvalidSettings(SettingsError",
    "Refused(TooLong",
    "Refused(LockCount",
    "Refused(TokenCount",
    "Refused(TtlOutOfBounds",
    "Refused(TtlDiffers",
    "Refused(LeaseExists",
    "Refused(RequestMismatch",
    "Refused(LimitReached",
    "Refused(LockHeld",
    "Refused(AlreadyHeld",
    "Refused(AlreadyWaiting",
    "Refused(GrantEnded",
    "Refused(WaitTimedOut",
    "Refused(Cancelled",
    "Refused(LeaseEnded",
    "Refused(LeaseNotFound",
    "Refused(TokenStale",
    "Refused(LockNamedTwice",
    "Refused(PermitsOutOfBounds",
    "Refused(LockDelayTooLong",
    "Refused(ModeMismatch",
    "Refused(HeldBack",
    "Refused(TokenFloorTooHigh",
    "Queued",
    "WaitEnded",
    "Expired",
    "Forced",
    "Updated",
];

/// Runs a random log; `check` sees each step.
fn run(
    seed: u64,
    steps: u64,
    mut check: impl FnMut(&LockTable, Entry, &Command, &Outcome, &LockTable) -> Result<(), String>,
) -> Coverage {
    let mut coverage = Coverage::default();
    // Several logs, because what the first settings of a log are decides much of what can happen.
    for log in 0..steps.div_ceil(5_000) {
        let mut workload = Workload::new(seed.wrapping_add(log));
        let mut table = LockTable::new();
        for step in 0..steps.min(5_000) {
            let (entry, command) = workload.next(&table);
            let before = table.clone();
            let outcome = table.apply(entry, &command);
            coverage.count(&outcome.response);
            for event in &outcome.events {
                coverage.count(&event.kind);
            }
            if let Err(broken) = check(&before, entry, &command, &outcome, &table) {
                panic!(
                    "seed {seed}, log {log}, step {step}: {broken}\n{entry:?} {command:?}\n{outcome:#?}"
                );
            }
        }
    }
    coverage
}

/// Whoever was queued first is before everybody in all its queues. So among all who wait there is
/// always one that waits for holders and time alone, and no waiters wait for each other in a circle.
fn check_that_no_deadlock_is_possible(table: &LockTable) -> Result<(), String> {
    let queues: Vec<Vec<_>> = table
        .locks("", None)
        .map(|lock| lock.queue.iter().map(|it| it.queued_position).collect())
        .collect();
    let first = queues.iter().flatten().min();
    let is_before_all = |queue: &Vec<_>| match first {
        Some(first) if queue.contains(first) => queue.first() == Some(first),
        _ => true,
    };
    let rises = |queue: &Vec<_>| queue.is_sorted_by(|a, b| a < b);
    if queues
        .iter()
        .all(|queue| is_before_all(queue) && rises(queue))
    {
        Ok(())
    } else {
        Err(format!("{first:?} is not first everywhere: {queues:?}"))
    }
}

fn every_promise(steps: u64) {
    let mut history = History::default();
    let coverage = run(seed(), steps, |before, entry, command, outcome, after| {
        if before.last_position().index == 0 {
            history = History::default();
        }
        check_invariants(after)?;
        check_that_no_deadlock_is_possible(after)?;
        history.check(before, entry, command, outcome, after)?;
        if entry.index % 64 == 0 {
            through_a_snapshot(after)?;
        }
        Ok(())
    });
    coverage.check(&ALL);
}

fn as_specified(steps: u64) {
    let mut specification = Specification::default();
    let mut restored = LockTable::new();
    let coverage = run(seed(), steps, |before, entry, command, outcome, after| {
        if before.last_position().index == 0 {
            specification = Specification::default();
            restored = LockTable::new();
        }
        let expected = specification.apply(entry, command);
        if *outcome != expected {
            return Err(format!("the specification says {expected:#?}"));
        }
        let events: Vec<&Event> = after.events().collect();
        if events != specification.events.iter().collect::<Vec<_>>() {
            return Err("other events are kept than specified".to_owned());
        }
        if entry.index % 16 == 0 {
            specification.check_reads(after)?;
        }
        // A second state, which comes out of a snapshot now and then, goes the same way.
        if entry.index % 97 == 0 {
            restored = through_a_snapshot(&restored)?;
        }
        if restored.apply(entry, command) != *outcome {
            return Err("a restored state answers otherwise".to_owned());
        }
        if entry.index % 97 == 0 && encode(&restored) != encode(after) {
            return Err("a restored state has become another".to_owned());
        }
        Ok(())
    });
    coverage.check(&ALL);
}

#[test]
fn a_long_random_log_keeps_every_promise() {
    every_promise(steps());
}

#[test]
fn a_long_random_log_is_answered_as_specified() {
    as_specified(steps());
}
