//! The checker agrees with one that tries every order, on small random histories of every model:
//! on the verdict, and on the event that ends the shortest illegal prefix.
//!
//! `PALISADE_HISTORIES` sets how many histories (100,000; a tenth in debug builds), `PALISADE_SEED` the
//! first one's seed; history number N has the seed plus N.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test: a crash is how it fails"
)]

mod support;

use std::collections::BTreeMap;

use jepsen_checker::models::AnyModel;
use jepsen_checker::{Budget, FailMeaning, History, Method, Report, Settings, Verdict};
use rand::RngExt;
use support::{KINDS, Kind, Run, brute_force, legal, seeded, tampered};

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|number| number.parse().unwrap())
}

fn prefix_end(report: &Report) -> Option<u32> {
    match &report.verdict {
        Verdict::Valid { .. } => None,
        Verdict::Invalid(violation) => Some(violation.prefix_end.0),
        Verdict::Unknown(reason) => panic!("unknown: {reason}"),
    }
}

fn check(kind: Kind, history: &History, settings: &Settings) -> Report {
    let model: AnyModel = kind.model().parse().unwrap();
    model.check(history, settings, &Budget::GENEROUS).unwrap()
}

fn random_history(kind: Kind, seed: u64) -> History {
    let mut rng = seeded(seed);
    let fail = match rng.random_bool(0.5) {
        true => FailMeaning::Observation,
        false => FailMeaning::DidNotHappen,
    };
    let run = Run {
        kind,
        operations: rng.random_range(2..=8),
        processes: rng.random_range(2..=4),
        fail,
        unknown_percent: [0, 10, 30][rng.random_range(0..3)],
    };
    let (history, _) = legal(run, &mut rng);
    match rng.random_bool(0.9) {
        true => tampered(&history, &mut rng).unwrap_or(history),
        false => history,
    }
}

#[test]
fn the_checker_agrees_with_brute_force() {
    let default = if cfg!(debug_assertions) {
        10_000
    } else {
        100_000
    };
    let count = setting("PALISADE_HISTORIES").unwrap_or(default);
    let first = setting("PALISADE_SEED").unwrap_or(1);
    println!("{count} histories from PALISADE_SEED={first}");
    let mut invalid: BTreeMap<Kind, u64> = BTreeMap::new();
    let mut by_theorem: BTreeMap<(bool, &str), u64> = BTreeMap::new();
    for seed in first..first + count {
        let kind = KINDS[(seed % KINDS.len() as u64) as usize];
        let history = random_history(kind, seed);
        let expected = brute_force(kind, &history);
        let plain = Settings {
            explain: false,
            fast_paths: false,
            ..Settings::default()
        };
        let replay = || {
            let events = history.events().iter().map(|event| {
                let (key, error) = (event.key.clone().unwrap_or_default(), &event.error);
                let (process, kind) = (&event.process, event.kind.name());
                let (function, value) = (&event.function, &event.value);
                format!("\n  {process} {kind} {function} {key} {value} {error:?}")
            });
            let fail = history.fail_meaning();
            format!(
                "{kind:?}, {fail:?}: PALISADE_SEED={seed} PALISADE_HISTORIES=1{}",
                events.collect::<String>()
            )
        };
        let searched = check(kind, &history, &plain);
        assert_eq!(prefix_end(&searched), expected, "the search, {}", replay());
        let quick = check(
            kind,
            &history,
            &Settings {
                fast_paths: true,
                ..plain
            },
        );
        assert_eq!(prefix_end(&quick), expected, "with theorems, {}", replay());
        for part in &quick.partitions {
            let name = match part.method {
                Method::Search => continue,
                Method::UniqueValues => "unique values",
                Method::UniqueTokens => "unique tokens",
            };
            *by_theorem
                .entry((part.verdict.is_valid(), name))
                .or_default() += 1;
        }
        if seed % 16 == 0 {
            let explained = check(
                kind,
                &history,
                &Settings {
                    explain: true,
                    workers: 2,
                    ..plain
                },
            );
            assert_eq!(prefix_end(&explained), expected, "explained, {}", replay());
        }
        *invalid.entry(kind).or_default() += u64::from(expected.is_some());
    }
    println!("invalid: {invalid:?}; by theorem (valid, which): {by_theorem:?}");
    if count >= 1_000 {
        for kind in KINDS {
            // Both verdicts, often enough to mean something.
            let (invalid, all) = (invalid[&kind], count / KINDS.len() as u64);
            assert!(
                invalid * 20 > all && invalid * 20 < all * 19,
                "{kind:?}: {invalid} of {all}"
            );
        }
        assert_eq!(by_theorem.len(), 4, "each theorem decided both ways");
    }
}
