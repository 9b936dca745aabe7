//! The promise that matters most: when the lock is lost, or palisade is, no process of the command's
//! group runs when the cluster may grant the lock to another.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may crash: that is how it fails"
)]

mod support;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use support::fake_server::{FakeServer, Reaction, TOKEN, granted, problem, renewed};
use support::{
    Family, children, cluster, cluster_with, command_line, is_alive, lock, send, start, stderr,
    wait_until, wall_clock,
};

const TTL_MS: u64 = 5_000;
const OPTIONS: [&str; 4] = ["--ttl", "5s", "--grace", "500ms"];

/// A cluster that grants at once, never answers a renewal, and notes when the acquire came. It came
/// after it was sent, so the cluster keeps the lock at least until a TTL after the *sending*.
fn deaf_cluster() -> (FakeServer, Arc<Mutex<u128>>) {
    let came = Arc::new(Mutex::new(0));
    let note = Arc::clone(&came);
    let server = cluster_with(
        move |request| {
            *note.lock().unwrap() = wall_clock();
            granted(request, true)
        },
        |_| Reaction::Hang,
    );
    (server, came)
}

fn assert_stopped_in_time(family: &Family, pids: [u32; 2], came: &Mutex<u128>) {
    assert_eq!(
        pids.map(is_alive),
        [false, false],
        "child and grandchild must be dead"
    );
    let ran_ms = (family.last_beat() - *came.lock().unwrap()) / 1_000_000;
    assert!(
        ran_ms < u128::from(TTL_MS),
        "the command ran for {ran_ms} ms of a TTL of {TTL_MS} ms"
    );
}

#[test]
fn when_renewals_hang_a_stubborn_group_is_killed_before_the_ttl_and_the_status_is_70() {
    let (server, came) = deaf_cluster();
    let family = Family::new(true);
    let child = start(&server, &OPTIONS, &family.command());
    let pids = family.pids();
    let output = child.wait_with_output();
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    assert!(stderr(&output).contains("LOCK LOST"), "{}", stderr(&output));
    assert_stopped_in_time(&family, pids, &came);
    assert!(server.requests("/v1/release").is_empty());
}

#[test]
fn when_palisade_itself_is_stopped_the_guard_kills_the_group_before_the_ttl() {
    let (server, came) = deaf_cluster();
    let family = Family::new(true);
    let child = start(&server, &OPTIONS, &family.command());
    let pids = family.pids();
    send(Signal::SIGSTOP, child.id());
    wait_until("the group is dead", || pids.map(is_alive) == [false, false]);
    assert_stopped_in_time(&family, pids, &came);
    send(Signal::SIGCONT, child.id());
    let output = child.wait_with_output();
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
}

#[test]
fn a_command_that_obeys_sigterm_is_not_killed() {
    let (server, _) = deaf_cluster();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cleaned");
    let script = format!(
        "trap ': > {}; exit 0' TERM; while :; do sleep 0.01; done",
        file.display()
    );
    let child = start(&server, &OPTIONS, &["sh", "-c", &script]);
    let output = child.wait_with_output();
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    assert!(file.exists(), "it had no time to clean up");
}

#[test]
fn an_ended_lease_stops_the_command_at_once() {
    let server = cluster(|_| problem("lease_ended"));
    let family = Family::new(true);
    let child = start(&server, &OPTIONS, &family.command());
    let pids = family.pids();
    let output = child.wait_with_output();
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("lease_ended"),
        "{}",
        stderr(&output)
    );
    assert_eq!(pids.map(is_alive), [false, false]);
}

#[test]
fn the_command_of_on_lost_is_started_at_a_loss_and_only_then() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lost");
    let on_lost = format!(
        "echo $PALISADE_LOCK $PALISADE_FENCING_TOKEN > {}",
        file.display()
    );
    let options = [&OPTIONS[..], &["--on-lost", &on_lost]].concat();
    let well = cluster(|_| renewed(TTL_MS));
    let output = lock(&well, &options, &["true"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!file.exists(), "nothing was lost");

    let ended = cluster(|_| problem("lease_ended"));
    let output = lock(&ended, &options, &["sleep", "600"]);
    assert_eq!(output.status.code(), Some(70), "{}", stderr(&output));
    // It is not waited for.
    wait_until("--on-lost has run", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text == format!("a {TOKEN}\n"))
    });
}

#[test]
fn when_palisade_is_killed_its_whole_group_dies() {
    let server = cluster(|_| renewed(15_000));
    let family = Family::new(true);
    let child = start(&server, &[], &family.command());
    let pids = family.pids();
    child.kill();
    wait_until("child and grandchild are dead", || {
        pids.map(is_alive) == [false, false]
    });
}

#[test]
fn a_guard_that_is_killed_is_replaced() {
    let server = cluster(|_| renewed(15_000));
    let family = Family::new(true);
    let child = start(&server, &[], &family.command());
    let pids = family.pids();
    let guards = |palisade: u32| -> Vec<u32> {
        let children = children(palisade).into_iter();
        children
            .filter(|pid| command_line(*pid).contains("__guard"))
            .collect()
    };
    let first = guards(child.id());
    assert_eq!(first.len(), 1);
    send(Signal::SIGKILL, first[0]);
    wait_until("another guard runs", || {
        guards(child.id())
            .first()
            .is_some_and(|guard| *guard != first[0])
    });
    assert_eq!(pids.map(is_alive), [true, true]);
    child.kill();
    wait_until("child and grandchild are dead", || {
        pids.map(is_alive) == [false, false]
    });
}

#[test]
fn a_stopped_command_keeps_its_lock_where_there_is_no_job_control() {
    let renewals = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&renewals);
    let server = cluster(move |_| {
        seen.store(true, Ordering::SeqCst);
        renewed(15_000)
    });
    let family = Family::new(false);
    let child = start(&server, &[], &family.command());
    let pids = family.pids();
    send(Signal::SIGSTOP, pids[0]);
    renewals.store(false, Ordering::SeqCst);
    wait_until("a renewal after the stop", || {
        renewals.load(Ordering::SeqCst)
    });
    send(Signal::SIGCONT, pids[0]);
    send(Signal::SIGTERM, child.id());
    let output = child.wait_with_output();
    assert_eq!(output.status.code(), Some(143), "{}", stderr(&output));
}
