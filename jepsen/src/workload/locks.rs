//! Workloads on locks alone.

use std::time::Duration;

use rand::RngExt;

use super::worker::{Acquired, Held};
use super::{Worker, Workload};
use crate::system::{Ask, Call, Ending, Feature, Lease, Mode, Reply};

/// The shortest that Palisade allows by default: so that leases do expire in a run.
pub(super) const TTL_MS: u64 = 2_000;
/// Permits of the semaphores.
const PERMITS: u32 = 3;

pub(super) async fn lock(worker: &mut Worker) {
    take_and_use(worker, Workload::Lock, Mode::Exclusive).await;
}

pub(super) async fn read_write(worker: &mut Worker) {
    let mode = if worker.chance(0.7) {
        Mode::Shared
    } else {
        Mode::Exclusive
    };
    take_and_use(worker, Workload::ReadWrite, mode).await;
}

pub(super) async fn semaphore(worker: &mut Worker) {
    let permits = if worker.chance(0.8) { 1 } else { 2 };
    let mode = Mode::Permits {
        permits,
        limit: PERMITS,
    };
    take_and_use(worker, Workload::Semaphore, mode).await;
}

/// Takes a lock, keeps it for a moment, and gives it back, or dies with it.
pub(super) async fn take_and_use(worker: &mut Worker, workload: Workload, mode: Mode) {
    let keys = &worker.shared.keys;
    let mut lock = keys.draw(workload.name(), &mut worker.rng);
    // One of the two first, or the other: who takes them the other way round waits in a circle.
    let takes_partner = worker.has(Feature::Requests) && worker.chance(0.3);
    if takes_partner && worker.chance(0.5) {
        lock = partner(&lock);
    }
    let lease = Lease::draw(&mut worker.rng);
    let wait_ms = if worker.chance(0.4) {
        0
    } else {
        worker.rng.random_range(100..2_500)
    };
    let ask = [Ask {
        lock: lock.clone(),
        mode,
    }];
    if let Some(held) = worker.acquire(&ask, &lease, TTL_MS, wait_ms, None).await {
        if takes_partner {
            take_partner(worker, mode, &held).await;
        }
        use_and_release(worker, &held).await;
    }
    if worker.has(Feature::Read) && worker.chance(0.25) {
        read(worker, &lock).await;
    }
}

/// Takes a second lock by the same lease, which nobody renews meanwhile; perhaps gives it back, takes it
/// again, and is late in giving it back for the first time once more. Each lock has one partner, so that
/// the histories of few locks hang together. A circle of waits ends when a wait or a lease does.
async fn take_partner(worker: &mut Worker, mode: Mode, first: &Held) {
    let [(lock, _)] = &first.locks[..] else {
        return;
    };
    let ask = [Ask {
        lock: partner(lock),
        mode,
    }];
    worker.think(200, 1_200).await;
    let wait_ms = worker.rng.random_range(TTL_MS - 500..TTL_MS + 1_500);
    let lease = &first.lease;
    let Some(held) = worker.acquire(&ask, lease, TTL_MS, wait_ms, None).await else {
        return;
    };
    worker.think(0, 30).await;
    worker.release(&held).await;
    if worker.chance(0.5) {
        let Some(again) = worker.acquire(&ask, lease, TTL_MS, wait_ms, None).await else {
            return;
        };
        worker.release(&held).await;
        worker.think(0, 30).await;
        worker.release(&again).await;
    }
}

fn partner(lock: &str) -> String {
    match lock.strip_suffix('+') {
        Some(lock) => lock.to_owned(),
        None => format!("{lock}+"),
    }
}

async fn use_and_release(worker: &mut Worker, held: &Held) {
    worker.think(0, 60).await;
    if worker.has(Feature::Renew) && worker.chance(0.3) && !worker.renew(&held.lease).await {
        // Whoever cannot renew does not believe any longer.
        return;
    }
    if worker.chance(0.1) {
        // It dies, and the lease expires.
        return;
    }
    if worker.has(Feature::Requests) && worker.chance(0.1) {
        let lease = held.lease.clone();
        worker.call(&Call::Revoke { lease }).await;
    } else {
        worker.release(held).await;
    }
}

async fn read(worker: &mut Worker, lock: &str) {
    let lock = lock.to_owned();
    worker.call(&Call::Read { lock }).await;
}

/// Renews when the lease is about to expire, or just has.
pub(super) async fn lease_churn(worker: &mut Worker) {
    let keys = &worker.shared.keys;
    let lock = keys.draw(Workload::LeaseChurn.name(), &mut worker.rng);
    let lease = Lease::draw(&mut worker.rng);
    let ask = [Ask::exclusive(&lock)];
    let Some(held) = worker.acquire(&ask, &lease, TTL_MS, 3_000, None).await else {
        return;
    };
    for _ in 0..worker.rng.random_range(1..3) {
        worker.think(TTL_MS - 300, TTL_MS + 150).await;
        if worker.is_over() || !worker.renew(&held.lease).await {
            break;
        }
    }
    if worker.chance(0.8) {
        worker.release(&held).await;
    }
}

/// A candidate leads for a while; everybody else looks who does.
pub(super) async fn election(worker: &mut Worker) {
    let keys = &worker.shared.keys;
    let lock = keys.draw(Workload::Election.name(), &mut worker.rng);
    if worker.chance(0.5) {
        read(worker, &lock).await;
        return;
    }
    let lease = Lease::draw(&mut worker.rng);
    let value = Some(format!("candidate-{}", worker.unique()));
    let ask = [Ask::exclusive(&lock)];
    let Some(held) = worker.acquire(&ask, &lease, TTL_MS, 2_000, value).await else {
        return;
    };
    for _ in 0..worker.rng.random_range(1..5) {
        worker.think(50, 300).await;
        if !worker.renew(&held.lease).await {
            return;
        }
        if let (true, Some(token)) = (worker.has(Feature::Update), held.locks[0].1) {
            let value = format!("leader-{}", worker.unique());
            let call = Call::Update {
                lease: held.lease.clone(),
                lock: lock.clone(),
                token,
                value,
            };
            worker.call(&call).await;
        }
    }
    if worker.chance(0.8) {
        worker.release(&held).await;
    }
}

/// Sends the same request to several nodes, hardly waiting for any answer.
pub(super) async fn blind_retries(worker: &mut Worker) {
    let keys = &worker.shared.keys;
    let lock = keys.draw(Workload::BlindRetries.name(), &mut worker.rng);
    let lease = Lease::draw(&mut worker.rng);
    let request = worker.new_request();
    let ask = [Ask::exclusive(&lock)];
    let wait_ms = if worker.chance(0.5) { 0 } else { 500 };
    let patient = worker.set_timeout(Duration::from_millis(10));
    let mut held = None;
    for attempt in 0..6u32 {
        // Each is more patient than the one before, and the last as patient as others.
        let timeout = Duration::from_millis(worker.rng.random_range(2..40) << attempt);
        worker.set_timeout(timeout.min(patient));
        let acquired = worker
            .acquire_as(&ask, &lease, TTL_MS, wait_ms, None, &request)
            .await;
        match acquired {
            Acquired::Yes(now) => held = Some(now),
            Acquired::No => break,
            Acquired::Perhaps => {}
        }
        if held.is_some() && worker.chance(0.6) {
            break;
        }
        worker.go_elsewhere();
    }
    if let Some(held) = &held {
        for attempt in 0..4u32 {
            let timeout = Duration::from_millis(worker.rng.random_range(2..40) << attempt);
            worker.set_timeout(timeout.min(patient));
            let call = Call::Release {
                lease: held.lease.clone(),
                held: held.locks.clone(),
            };
            let answer = worker.call(&call).await;
            let known = matches!(answer.ending, Ending::Done(Reply::Released { .. }));
            if known && worker.chance(0.6) {
                break;
            }
            worker.go_elsewhere();
        }
    }
    worker.set_timeout(patient);
    if held.is_none() {
        worker.give_up(Some(&lock), &lease, &request).await;
    }
}
