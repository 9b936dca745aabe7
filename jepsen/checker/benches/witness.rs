//! How fast the log witness proves a million operations: reading is not in it. Prints one table.
//!
//! `cargo bench -p jepsen-checker --bench witness`. Verdicts are asserted.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a benchmark: its output is a table, and a crash is a failure"
)]

use std::time::{Duration, Instant};

use jepsen_checker::models::{CasRegister, Locks};
use jepsen_checker::witness::{LogDump, LogEntry, WitnessReport, WitnessVerdict, witness};
use jepsen_checker::{Event, EventKind, FailMeaning, History, Model, Position, Process, Value};

const OPERATIONS: u64 = 1_000_000;
/// So many clients are at work at any moment.
const CLIENTS: u64 = 50;
const RUNS: usize = 5;

/// Invocations in waves of all clients, answered in the order of their positions; one in 64 writes
/// loses its answer, and its client goes on under a new id.
fn waves(
    answer: impl Fn(u64) -> (&'static str, Option<Value>, Value, Value),
) -> (History, LogDump) {
    let mut events = Vec::with_capacity(2 * OPERATIONS as usize);
    let mut entries = Vec::with_capacity(OPERATIONS as usize);
    let mut processes: Vec<u64> = (0..CLIENTS).collect();
    for wave in 0..OPERATIONS / CLIENTS {
        for kind in [EventKind::Invoke, EventKind::Ok] {
            for (client, process) in (0..CLIENTS).zip(&mut processes) {
                let number = wave * CLIENTS + client;
                let (function, key, input, output) = answer(number);
                let lost = kind == EventKind::Ok && function == "write" && number % 64 == 0;
                let value = if kind == EventKind::Invoke {
                    input
                } else {
                    output
                };
                let kind = if lost { EventKind::Info } else { kind };
                let mut event = Event::new(Process::Client(*process), kind, function, value);
                event.key = key;
                event.time_ns = Some(events.len() as u64 * 1_000);
                let position = Position {
                    index: 1 + number,
                    ordinal: 0,
                };
                if kind == EventKind::Invoke {
                    let request: std::sync::Arc<str> = format!("r{number}").into();
                    entries.push(LogEntry {
                        position,
                        request: Some(request.clone()),
                        command: None,
                    });
                    event.request = Some(request);
                } else if !lost {
                    event.position = Some(position);
                }
                events.push(event);
                if lost {
                    *process += CLIENTS;
                }
            }
        }
    }
    let history = History::new(events, FailMeaning::Observation).unwrap();
    (
        history,
        LogDump {
            first_index: 1,
            last_index: OPERATIONS,
            entries,
        },
    )
}

fn measure<M: Model>(name: &str, model: &M, history: &History, log: &LogDump) {
    let mut times: Vec<Duration> = Vec::new();
    let mut last: Option<WitnessReport> = None;
    for _ in 0..RUNS {
        let started = Instant::now();
        last = Some(witness(model, history, Some(log)).unwrap());
        times.push(started.elapsed());
    }
    let report = last.unwrap();
    assert_eq!(report.verdict, WitnessVerdict::Proven, "{name}: {report:?}");
    times.sort_unstable();
    println!(
        "| {name} | {} | {} | {:.2} s | {:.2} s |",
        report.placed,
        report.unknown_applied,
        times[RUNS / 2].as_secs_f64(),
        times[RUNS - 1].as_secs_f64()
    );
}

fn main() {
    println!("| history | operations | unknown, decided by the log | median | slowest of {RUNS} |");
    println!("|---|---|---|---|---|");
    // Each write is read by the operation after it.
    let (history, log) = waves(|number| {
        let value = Value::Integer((number / 2) as i64);
        match number % 2 {
            0 => ("write", None, value.clone(), value),
            _ => ("read", None, Value::Nil, value),
        }
    });
    measure("cas-register", &CasRegister::default(), &history, &log);
    // A thousand locks, each acquired and released in turn.
    let (history, log) = waves(|number| {
        let (turn, lock) = (number / 2_000, number % 1_000);
        let owner = (Value::text("owner"), Value::Integer(turn as i64));
        let token = Value::Integer(1 + turn as i64);
        let key = Some(Value::Integer(lock as i64));
        match number / 1_000 % 2 {
            0 => (
                "acquire",
                key,
                Value::map([owner]),
                Value::map([(Value::text("token"), token)]),
            ),
            _ => (
                "release",
                key,
                Value::map([owner, (Value::text("token"), token)]),
                Value::map([(Value::text("was_held"), Value::Bool(true))]),
            ),
        }
    });
    measure(
        "fenced-mutex, 1,000 locks",
        &Locks::fenced_mutex(),
        &history,
        &log,
    );
}
