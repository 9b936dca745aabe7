//! Commands per second on one core: uncontended acquires and releases, and renewals, with 100,000
//! live leases that hold a lock each. In processor time of one thread.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that cannot be run fails; criterion's macros document nothing"
)]

mod support;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lock_model::{Command, Response};
use support::{Node, acquire, lease_id, lock_name, release, thread_time};

const LEASES: u64 = 100_000;

/// Commands are made before the clock runs, so many at a time.
const BATCH: u64 = 10_000;

fn acquire_and_release(node: &mut Node, pairs: u64, request: &mut u64) -> Duration {
    let mut taken = Duration::ZERO;
    let mut left = pairs;
    while left > 0 {
        let batch = left.min(BATCH);
        left -= batch;
        let leases: Vec<u64> = (0..batch).map(|_| node.random(LEASES)).collect();
        let first = *request;
        *request += batch;
        let names: Vec<_> = (first..*request)
            .map(|n| lock_name(10_000_000 + n))
            .collect();
        let acquires: Vec<Command> = leases
            .iter()
            .zip(&names)
            .zip(first..)
            .map(|((lease, name), request)| acquire(*lease, name, request))
            .collect();
        let start = thread_time();
        let tokens: Vec<_> = acquires
            .iter()
            .map(|command| match node.apply(command) {
                Response::Granted(granted) => granted.grants[0].token,
                other => panic!("not granted: {other:?}"),
            })
            .collect();
        taken += thread_time() - start;
        let releases: Vec<Command> = leases
            .iter()
            .zip(&tokens)
            .map(|(lease, token)| release(*lease, *token))
            .collect();
        let start = thread_time();
        for command in &releases {
            let response = node.apply(command);
            assert!(matches!(response, Response::Released(_)));
        }
        taken += thread_time() - start;
    }
    taken
}

fn renew(node: &mut Node, renewals: u64) -> Duration {
    let commands: Vec<Command> = (0..renewals)
        .map(|_| Command::Renew {
            leases: vec![lease_id(node.random(LEASES))],
        })
        .collect();
    let start = thread_time();
    for command in &commands {
        assert!(matches!(node.apply(command), Response::Renewed(_)));
    }
    thread_time() - start
}

fn benchmarks(criterion: &mut Criterion) {
    let mut node = Node::with(LEASES, 1);
    let mut request = 0;
    let mut group = criterion.benchmark_group("100k_leases");
    group.throughput(Throughput::Elements(2));
    group.bench_function("acquire_and_release", |bencher| {
        bencher.iter_custom(|pairs| acquire_and_release(&mut node, pairs, &mut request));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("renew", |bencher| {
        bencher.iter_custom(|renewals| renew(&mut node, renewals));
    });
    group.finish();
}

criterion_group!(throughput, benchmarks);
criterion_main!(throughput);
