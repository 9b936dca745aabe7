//! What a snapshot of a million locks costs those who go on: how long an apply takes at worst while
//! one is taken, written and held. And how much memory a held lock takes.
//!
//! Latencies are of this thread's processor time, so that other load on the machine is not counted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark that cannot be run fails, and prints its result"
)]

mod support;

use std::time::Duration;

use lock_model::LockTable;
use support::{Node, acquire, lock_name, release, thread_time};

const LEASES: u64 = 100_000;
const LOCKS_EACH: u64 = 10;

/// Memory that this process really has, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

/// Acquires and releases at random; how long each apply took, longest last.
fn work(
    node: &mut Node,
    pairs: u64,
    first: u64,
    mut before: impl FnMut(u64, &LockTable),
) -> Vec<Duration> {
    let mut taken = Vec::new();
    for n in 0..pairs {
        let lease = node.random(LEASES);
        // In all places among the names that there are.
        let name = format!(
            "tenants/{:03}/jobs/{:08}x{}",
            n % 500,
            node.random(1_000_000),
            first + n
        );
        let command = acquire(
            lease,
            &lock_model::LockName::new(&name).unwrap(),
            99_000_000 + first + n,
        );
        before(n, &node.table);
        let start = thread_time();
        let response = node.apply(&command);
        taken.push(thread_time() - start);
        let lock_model::Response::Granted(granted) = response else {
            panic!("not granted: {response:?}");
        };
        let command = release(lease, granted.grants[0].token);
        let start = thread_time();
        node.apply(&command);
        taken.push(thread_time() - start);
    }
    taken.sort();
    taken
}

fn report(what: &str, taken: &[Duration]) {
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize];
    println!(
        "{what:45} median {:?}, 99% {:?}, 99.99% {:?}, worst {:?}",
        at(0.5),
        at(0.99),
        at(0.9999),
        at(1.0)
    );
}

fn main() {
    let empty = Node::with(LEASES, 0);
    let before = resident();
    drop(empty);
    let mut node = Node::with(LEASES, LOCKS_EACH);
    let locks = LEASES * LOCKS_EACH;
    println!("{:?}", node.table.counts());
    println!(
        "bytes for each of {locks} held locks: {}",
        (resident() - before) / locks
    );

    report("no snapshot", &work(&mut node, 200_000, 0, |_, _| {}));

    // A copy is taken again and again, and held until the next.
    let mut frozen = None;
    let mut freezing = Vec::new();
    let taken = work(&mut node, 200_000, 200_000, |n, table| {
        if n % 20_000 == 0 {
            let start = thread_time();
            let copy = table.freeze();
            freezing.push(thread_time() - start);
            frozen = Some(copy);
        }
    });
    freezing.sort();
    report("taking a copy", &freezing);
    report("with a copy taken every 40,000 commands", &taken);

    // Written by another thread meanwhile, and dropped there.
    let frozen = node.table.freeze();
    let writer = std::thread::spawn(move || {
        let mut out = std::io::BufWriter::new(std::io::sink());
        frozen.write(&mut out).unwrap();
    });
    let taken = work(&mut node, 200_000, 400_000, |_, _| {});
    writer.join().unwrap();
    report("with a snapshot being written", &taken);
    assert!(node.table.lock(&lock_name(7)).is_some());
}
