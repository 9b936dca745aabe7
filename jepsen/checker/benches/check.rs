//! How fast the checker decides recorded and simulated histories. Prints one table at the end, with
//! the targets that the issue sets: five times as fast as a well-known Go checker, which takes 7.6 ms
//! per etcd log on average (slowest 270 ms) and 350 ms for a kv history of 50 clients and 4,000
//! operations.
//!
//! `cargo bench -p jepsen-checker`. Verdicts are asserted; explanations are not made.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a benchmark: its output is a table, and a crash is a failure"
)]

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use jepsen_checker::format::Format;
use jepsen_checker::models::{CasRegister, Expiry, KeyValue, Locks};
use jepsen_checker::{
    Budget, Event, EventKind, FailMeaning, History, Model, Process, Report, Settings, Value, check,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SETTINGS: Settings = Settings {
    explain: false,
    partial_linearizations: 0,
    fast_paths: true,
    workers: 1,
};

fn recorded(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new("../../../shared/histories").join(folder);
    let Ok(entries) = fs::read_dir(&folder) else {
        println!("skipped: there is no {}", folder.display());
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn read(path: &Path, format: Format) -> History {
    format
        .read(fs::File::open(path).unwrap(), format.fail_meaning())
        .unwrap()
}

fn decide(model: &impl Model, history: &History, settings: &Settings) -> Report {
    check(model, black_box(history), settings, &Budget::GENEROUS).unwrap()
}

/// The median of some runs, for the table; criterion's own numbers are in its report.
fn median(mut run: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            let began = Instant::now();
            run();
            began.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

/// A legal run of a map with `clients` clients: every request is served at some moment while it is
/// under way.
fn key_value_run(clients: usize, operations: usize, keys: usize, seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut texts = vec![String::new(); keys];
    #[expect(
        clippy::type_complexity,
        reason = "named by the line that takes it apart"
    )]
    let mut pending: Vec<Option<(usize, &str, String, Option<String>)>> = vec![None; clients];
    let mut events = Vec::new();
    let mut invoked = 0;
    while invoked < operations || pending.iter().any(Option::is_some) {
        let client = rng.random_range(0..clients);
        let process = Process::Client(client as u64);
        match &mut pending[client] {
            None if invoked == operations => {}
            None => {
                let key = rng.random_range(0..keys);
                let function = ["get", "append", "append", "put"][rng.random_range(0..4)];
                // As in the recorded ones: mostly appends and gets, each append its own.
                let function = if function == "put" && rng.random_bool(0.8) {
                    "get"
                } else {
                    function
                };
                let text = format!("x {client} {invoked} y");
                let value = if function == "get" {
                    Value::Nil
                } else {
                    Value::text(&text)
                };
                let mut event = Event::new(process, EventKind::Invoke, function, value);
                event.key = Some(Value::text(&key.to_string()));
                events.push(event);
                pending[client] = Some((key, function, text, None));
                invoked += 1;
            }
            Some((key, function, text, answer)) => match answer {
                None => {
                    match *function {
                        "append" => texts[*key].push_str(text),
                        "put" => texts[*key].clone_from(text),
                        _ => text.clone_from(&texts[*key]),
                    }
                    *answer = Some(text.clone());
                }
                Some(text) => {
                    let mut event = Event::new(process, EventKind::Ok, function, Value::text(text));
                    event.key = Some(Value::text(&key.to_string()));
                    events.push(event);
                    pending[client] = None;
                }
            },
        }
    }
    History::new(events, FailMeaning::DidNotHappen).unwrap()
}

/// A legal run of fenced locks with `clients` clients, each answer served while under way.
fn lock_run(clients: usize, operations: usize, locks: usize, leased: bool, seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut holder: Vec<Option<usize>> = vec![None; locks];
    let mut token = 0;
    // Lock, whether it acquires, the answer.
    let mut pending: Vec<Option<(usize, bool, Option<Value>)>> = vec![None; clients];
    let mut holds: Vec<Option<usize>> = vec![None; clients];
    let mut events = Vec::new();
    let mut invoked = 0;
    while invoked < operations || pending.iter().any(Option::is_some) {
        if invoked >= operations && holder.iter().all(Option::is_some) {
            // Who waits for a lock that nobody gives back would wait for ever.
            break;
        }
        let client = rng.random_range(0..clients);
        let process = Process::Client(client as u64);
        let mut event = |kind, lock: usize, acquires: bool, value: Value| {
            let function = if acquires { "acquire" } else { "release" };
            let mut event = Event::new(process.clone(), kind, function, value);
            event.key = Some(Value::text(&format!("lock-{lock}")));
            event.time_ns = leased.then_some(events.len() as u64 * 1_000_000);
            events.push(event);
        };
        match &mut pending[client] {
            None if invoked >= operations && holds[client].is_none() => {}
            None => {
                let (lock, acquires) = match holds[client] {
                    Some(lock) => (lock, false),
                    None => (rng.random_range(0..locks), true),
                };
                event(EventKind::Invoke, lock, acquires, Value::Nil);
                pending[client] = Some((lock, acquires, None));
                invoked += 1;
            }
            Some((lock, true, answer @ None)) => {
                if holder[*lock].is_none() {
                    holder[*lock] = Some(client);
                    token += 1;
                    *answer = Some(Value::Integer(token));
                } else if invoked >= operations && rng.random_bool(0.01) {
                    pending[client] = None;
                }
            }
            Some((lock, false, answer @ None)) => {
                holder[*lock] = None;
                *answer = Some(Value::Nil);
            }
            Some((lock, acquires, Some(value))) => {
                event(EventKind::Ok, *lock, *acquires, value.clone());
                holds[client] = acquires.then_some(*lock);
                pending[client] = None;
            }
        }
    }
    History::new(events, FailMeaning::DidNotHappen).unwrap()
}

fn benchmark(criterion: &mut Criterion) {
    let mut table: Vec<(String, String, String, u64)> = Vec::new();

    let logs: Vec<History> = recorded("etcd")
        .iter()
        .map(|path| read(path, Format::Etcd))
        .collect();
    if !logs.is_empty() {
        let model = CasRegister::default();
        criterion.bench_function("etcd logs, all", |bencher| {
            bencher.iter(|| {
                logs.iter()
                    .filter(|log| decide(&model, log, &SETTINGS).verdict.is_valid())
                    .count()
            });
        });
        let times: Vec<Duration> = logs
            .iter()
            .map(|log| median(|| drop(black_box(decide(&model, log, &SETTINGS)))))
            .collect();
        let memory = logs
            .iter()
            .map(|log| peak(&decide(&model, log, &SETTINGS)))
            .max()
            .unwrap();
        let average = times.iter().sum::<Duration>() / times.len() as u32;
        let slowest = times.iter().max().unwrap();
        table.push(row("etcd log, average of 52", average, 7.6 / 5.0, memory));
        table.push(row(
            "etcd log, slowest of 52",
            *slowest,
            270.0 / 5.0,
            memory,
        ));
    }

    for path in recorded("kv") {
        let history = read(&path, Format::Kv);
        let time = median(|| drop(black_box(decide(&KeyValue, &history, &SETTINGS))));
        let memory = peak(&decide(&KeyValue, &history, &SETTINGS));
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let count = history.operations().len();
        table.push(row(
            &format!("kv {name}, {count} operations"),
            time,
            f64::NAN,
            memory,
        ));
    }

    let history = key_value_run(50, 4_000, 10, 1);
    let verdict = decide(&KeyValue, &history, &SETTINGS).verdict;
    assert!(verdict.is_valid(), "{verdict:?}");
    criterion.bench_function("kv, 50 clients, 4,000 operations", |bencher| {
        bencher.iter(|| decide(&KeyValue, &history, &SETTINGS));
    });
    let time = median(|| drop(black_box(decide(&KeyValue, &history, &SETTINGS))));
    let memory = peak(&decide(&KeyValue, &history, &SETTINGS));
    table.push(row(
        "kv, 50 clients, 4,000 operations, 10 keys",
        time,
        350.0 / 5.0,
        memory,
    ));

    let searched = Settings {
        fast_paths: false,
        ..SETTINGS
    };
    let fenced = lock_run(50, 100_000, 100, false, 1);
    assert!(
        decide(&Locks::fenced_mutex(), &fenced, &SETTINGS)
            .verdict
            .is_valid()
    );
    let leased = lock_run(50, 100_000, 100, true, 1);
    let lease_lock = Locks::lease_lock(Expiry {
        ttl_ms: 2_000,
        ..Expiry::default()
    });
    assert!(decide(&lease_lock, &leased, &SETTINGS).verdict.is_valid());
    let two = Settings {
        workers: 2,
        ..SETTINGS
    };
    let fenced_mutex = Locks::fenced_mutex();
    for (name, model, history, settings) in [
        (
            "fenced-mutex, 100,000 operations, 100 locks, by theorem",
            &fenced_mutex,
            &fenced,
            SETTINGS,
        ),
        (
            "fenced-mutex, the same, by search",
            &fenced_mutex,
            &fenced,
            searched,
        ),
        (
            "lease-lock, 100,000 operations, 100 locks",
            &lease_lock,
            &leased,
            SETTINGS,
        ),
        ("lease-lock, the same, 2 workers", &lease_lock, &leased, two),
    ] {
        let time = median(|| drop(black_box(decide(model, history, &settings))));
        let memory = peak(&decide(model, history, &settings));
        table.push(row(name, time, f64::NAN, memory));
    }

    println!("\n| history | time | target | memory peak of a part |\n|---|---|---|---|");
    for (name, time, target, memory) in table {
        println!(
            "| {name} | {time} | {target} | {} KiB |",
            memory.div_ceil(1024)
        );
    }
}

fn row(name: &str, time: Duration, target_ms: f64, memory: u64) -> (String, String, String, u64) {
    let target = if target_ms.is_nan() {
        "–".into()
    } else {
        format!("{target_ms:.2} ms")
    };
    (name.into(), milliseconds(time), target, memory)
}

fn peak(report: &Report) -> u64 {
    report.statistics().memory_peak_bytes
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = benchmark
}

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}
