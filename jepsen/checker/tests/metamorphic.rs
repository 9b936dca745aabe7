//! What must not change a verdict, and what must.
//!
//! `PALISADE_HISTORIES` sets how many histories each test makes (2,000; 300 in debug builds),
//! `PALISADE_SEED` the first one's seed; history number N has the seed plus N.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test: a crash is how it fails"
)]

mod support;

use jepsen_checker::models::AnyModel;
use jepsen_checker::{
    Budget, Event, EventIndex, EventKind, FailMeaning, History, Operation, Origin, Outcome,
    Process, Report, Settings, Value, Verdict,
};
use rand::RngExt;
use rand::rngs::StdRng;
use support::{KINDS, Kind, Run, legal, seeded, tampered};

fn check_with(kind: Kind, history: &History, settings: &Settings) -> Report {
    let model: AnyModel = kind.model().parse().unwrap();
    model.check(history, settings, &Budget::GENEROUS).unwrap()
}

fn check(kind: Kind, history: &History) -> Report {
    check_with(
        kind,
        history,
        &Settings {
            explain: false,
            ..Settings::default()
        },
    )
}

/// Calls `test` with histories that are legal by construction.
fn for_legal_histories(operations: u32, mut test: impl FnMut(Kind, History, Vec<u32>, StdRng)) {
    let default = if cfg!(debug_assertions) { 300 } else { 2_000 };
    let setting = |name| {
        std::env::var(name)
            .ok()
            .map(|number| number.parse::<u64>().unwrap())
    };
    let count = setting("PALISADE_HISTORIES").unwrap_or(default);
    let first = setting("PALISADE_SEED").unwrap_or(1);
    for seed in first..first + count {
        println!("PALISADE_SEED={seed} PALISADE_HISTORIES=1");
        let mut rng = seeded(seed);
        let kind = KINDS[(seed % KINDS.len() as u64) as usize];
        let fail = match rng.random_bool(0.5) {
            true => FailMeaning::Observation,
            false => FailMeaning::DidNotHappen,
        };
        let processes = rng.random_range(2..=8);
        let unknown_percent = [0, 1, 3][rng.random_range(0..3)];
        let run = Run {
            kind,
            operations,
            processes,
            fail,
            unknown_percent,
        };
        let (history, witness) = legal(run, &mut rng);
        test(kind, history, witness, rng);
    }
}

#[test]
fn a_legal_history_is_accepted_and_proven() {
    for_legal_histories(60, |kind, history, _witness, _| {
        let proven = check_with(kind, &history, &Settings::default());
        assert!(proven.verdict.is_valid(), "{kind:?}: {:?}", proven.verdict);
        for part in &proven.partitions {
            let Verdict::Valid { linearization } = &part.verdict else {
                panic!("a part is not")
            };
            assert_is_order(
                &history,
                &part.operations,
                linearization.iter().map(|c| c.origin),
            );
        }
        let searched = Settings {
            fast_paths: false,
            ..Settings::default()
        };
        assert!(check_with(kind, &history, &searched).verdict.is_valid());
    });
}

/// The order has all that is known to have happened, nothing twice, and keeps to real time.
fn assert_is_order(
    history: &History,
    operations: &[jepsen_checker::OperationId],
    order: impl Iterator<Item = Origin>,
) {
    let mut latest = EventIndex(0);
    let mut seen = std::collections::BTreeSet::new();
    for origin in order {
        let Origin::Operation(id) = origin else {
            continue;
        };
        let operation = history.operation(id);
        assert!(seen.insert(id), "twice");
        latest = latest.max(operation.invocation);
        if operation.outcome != Outcome::Info {
            assert!(operation.completion.unwrap() > latest, "out of order");
        }
    }
    for id in operations {
        let happened = matches!(history.operation(*id).outcome, Outcome::Ok(_));
        assert!(!happened || seen.contains(id), "left out");
    }
}

#[test]
fn widening_operations_keeps_a_legal_history_legal() {
    for_legal_histories(40, |kind, history, _, mut rng| {
        // With leases, events have times, and later ones would expire more: only earlier ones less.
        if kind == Kind::LeaseLock {
            return;
        }
        let mut events = history.events().to_vec();
        for _ in 0..events.len() * 4 {
            let at = rng.random_range(0..events.len() - 1);
            let (first, second) = (&events[at], &events[at + 1]);
            // A completion that comes later, or an invocation that comes earlier.
            let widens = first.process != second.process
                && (first.kind != EventKind::Invoke || second.kind == EventKind::Invoke);
            if widens {
                events.swap(at, at + 1);
            }
        }
        let wide = rebuilt(events, &history);
        let report = check(kind, &wide);
        assert!(report.verdict.is_valid(), "{kind:?}: {:?}", report.verdict);
    });
}

/// The same history with events changed; times and indexes are renewed.
fn rebuilt(events: Vec<Event>, history: &History) -> History {
    let numbered = (0u64..).zip(events).map(|(index, mut event)| {
        event.recorded_index = Some(index);
        event.time_ns = Some(index * 1_000_000);
        event
    });
    History::new(numbered, history.fail_meaning()).unwrap()
}

/// Whole numbers that are registers' values or lock tokens are not names: order matters for tokens.
fn renamed(value: &Value, kind: Kind) -> Value {
    match value {
        Value::Integer(number) if !kind.is_lock() => Value::Integer(1_000 - 7 * number),
        Value::List(items) => Value::list(items.iter().map(|item| renamed(item, kind))),
        other => other.clone(),
    }
}

#[test]
fn renaming_processes_values_and_keys_changes_nothing() {
    for_legal_histories(12, |kind, history, _, mut rng| {
        let history = tampered(&history, &mut rng).unwrap_or(history);
        let renamed = history.events().iter().cloned().map(|mut event| {
            if let Process::Client(client) = event.process {
                event.process = Process::Client(7 + 3 * client);
            }
            event.value = renamed(&event.value, kind);
            event
        });
        let renamed = rebuilt(renamed.collect(), &history);
        let (before, after) = (check(kind, &history), check(kind, &renamed));
        assert_eq!(prefix_end(&before), prefix_end(&after), "{kind:?}");
        assert_eq!(before.verdict.is_valid(), after.verdict.is_valid());
    });
}

fn prefix_end(report: &Report) -> Option<EventIndex> {
    match &report.verdict {
        Verdict::Invalid(violation) => Some(violation.prefix_end),
        _ => None,
    }
}

#[test]
fn a_planted_impossible_reply_is_found() {
    let mut planted = 0;
    for_legal_histories(60, |kind, history, _, mut rng| {
        let mut events = history.events().to_vec();
        let Some(at) = plant(kind, &history, &mut events, &mut rng) else {
            return;
        };
        planted += 1;
        let report = check(kind, &rebuilt(events, &history));
        // No later than there: the plant may also break what came before it returned.
        let Verdict::Invalid(violation) = &report.verdict else {
            panic!("{kind:?}: {:?}", report.verdict);
        };
        assert_eq!(violation.prefix_end.0 as usize, at, "{kind:?}");
    });
    let count = std::env::var("PALISADE_HISTORIES").map_or(300, |count| count.parse().unwrap());
    assert!(count < 100 || planted > count / 3, "planted only {planted}");
}

/// Makes one reply impossible; at which event it shows.
fn plant(
    kind: Kind,
    history: &History,
    events: &mut Vec<Event>,
    rng: &mut StdRng,
) -> Option<usize> {
    if !kind.is_lock() {
        // A value that nobody ever wrote.
        let reads: Vec<usize> = (0..events.len())
            .filter(|&at| {
                let event = &events[at];
                event.kind == EventKind::Ok && matches!(&*event.function, "read" | "get")
            })
            .collect();
        let at = *reads.get(rng.random_range(0..reads.len().max(1)))?;
        let nowhere = if kind == Kind::KeyValue {
            "zz".into()
        } else {
            Value::Integer(-1)
        };
        events[at].value = nowhere;
        return Some(at);
    }
    if matches!(kind, Kind::LeaseLock) {
        return None;
    }
    // Somebody else is granted everything while an exclusive grant, or all permits, are certainly
    // held: after the grant's answer and before its holder asked for anything else.
    let alone = |at: &usize| {
        let event = &events[*at];
        let operation = history
            .operations()
            .iter()
            .find(|operation| operation.completion == Some(EventIndex(*at as u32)));
        let Some(operation) = operation else {
            return false;
        };
        let all = match kind {
            Kind::Semaphore => {
                operation.input.field("permits") == Some(&Value::Integer(support::PERMITS))
            }
            _ => operation.input.is_nil(),
        };
        // Owners are shared between processes, so that one may release for another.
        let owned = operation.input.field("owner").is_some();
        // Anybody may release a plain mutex: only without a release beside it is it certain.
        let certain = kind != Kind::Mutex || nobody_releases(history, operation);
        event.kind == EventKind::Ok && &*event.function == "acquire" && all && !owned && certain
    };
    let grants: Vec<usize> = (0..events.len()).filter(alone).collect();
    let at = *grants.get(rng.random_range(0..grants.len().max(1)))?;
    let key = history
        .operations()
        .iter()
        .find(|operation| operation.completion == Some(EventIndex(at as u32)))
        .and_then(|operation| operation.key.clone());
    let stranger = Process::Client(1_000_000);
    let mut invoke = Event::new(stranger.clone(), EventKind::Invoke, "acquire", Value::Nil);
    invoke.key = key.clone();
    let mut ok = Event::new(stranger, EventKind::Ok, "acquire", Value::Nil);
    ok.key = key;
    events.insert(at + 1, invoke);
    events.insert(at + 2, ok);
    Some(at + 2)
}

/// No release of any lock is under way while this acquire is, nor open from before.
fn nobody_releases(history: &History, acquire: &Operation) -> bool {
    history.operations().iter().all(|operation| {
        let after = Some(operation.invocation) > acquire.completion;
        let before =
            operation.outcome != Outcome::Info && operation.completion < Some(acquire.invocation);
        &*operation.function != "release" || after || before
    })
}
