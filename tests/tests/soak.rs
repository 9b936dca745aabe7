//! The short soak, and its control. `make soak` runs the long one.
//!
//! `PALISADE_TEST_SEED=<seed>` gives the same faults at the same times again; the processes' own timing
//! is another each time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use tests::soak::{Kind, Report, Settings, soak};

const SEED_VARIABLE: &str = "PALISADE_TEST_SEED";

fn seed() -> u64 {
    match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().expect("a seed is a number"),
        Err(_) => rand::random_range(0..1 << 32),
    }
}

async fn run(seconds: u64, sync: bool, faults: &[Kind]) -> Report {
    let seed = seed();
    eprintln!("the same faults again: {SEED_VARIABLE}={seed}");
    let folder = tempfile::tempdir().unwrap();
    let report = soak(Settings {
        seed,
        duration: Duration::from_secs(seconds),
        nodes: 3,
        sync,
        faults: faults.to_vec(),
        folder: folder.path().join("soak"),
    })
    .await;
    eprintln!("{report}");
    if sync && !report.violations.is_empty() {
        eprintln!("kept: {}", folder.keep().display());
    }
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn through_kills_power_cuts_pauses_and_replaced_nodes_all_that_was_acknowledged_is_applied_once_in_one_order()
 {
    let report = run(30, true, &Kind::ALL).await;
    assert_eq!(report.violations, Vec::<String>::new());
    assert!(report.acknowledged > 100, "too little was acknowledged");
    assert!(report.faults.len() >= 3, "too few faults were done");
}

/// The control: a soak that passes here sees nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_syncs_the_soak_sees_that_power_cuts_lose_what_was_acknowledged() {
    let report = run(6, false, &[Kind::PowerCutAll]).await;
    assert!(report.faults[&Kind::PowerCutAll] > 0 && report.acknowledged > 0);
    let lost = |violation: &String| violation.starts_with("lost:");
    assert!(report.violations.iter().any(lost), "nothing was lost");
}
