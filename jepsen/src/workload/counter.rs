//! Workloads on resources that locks protect.

use jepsen_checker::Value;

use super::locks::TTL_MS;
use super::worker::Held;
use super::{Worker, Workload};
use crate::recorder::{map, number};
use crate::system::{Ask, Feature, Lease};

fn seen(value: Option<i64>) -> Value {
    value.map_or(Value::Nil, Value::Integer)
}

fn guard(token: Option<u64>) -> Value {
    match token {
        Some(token) => map([("token", number(token))]),
        None => Value::Nil,
    }
}

async fn read(worker: &mut Worker, resource: &str, token: Option<u64>) -> Option<Option<i64>> {
    let function = match token {
        Some(_) => "guarded-read",
        None => "unguarded-read",
    };
    let act = |resources: &super::Resources| {
        let value = resources.read(resource, token)?;
        Ok((seen(value), value))
    };
    worker
        .use_resource(function, resource, guard(token), act)
        .await
}

async fn write(
    worker: &mut Worker,
    resource: &str,
    token: Option<u64>,
    saw: Option<i64>,
    wrote: i64,
) -> bool {
    let function = match token {
        Some(_) => "guarded-write",
        None => "unguarded-write",
    };
    let mut fields = vec![("saw", seen(saw)), ("wrote", Value::Integer(wrote))];
    fields.extend(token.map(|token| ("token", number(token))));
    let act = |resources: &super::Resources| {
        resources.write(resource, token, wrote)?;
        Ok((Value::Nil, ()))
    };
    let written = worker.use_resource(function, resource, map(fields), act);
    written.await.is_some()
}

/// Reads, thinks and writes under a lock: a resource that checks the token, and one that does not.
pub(super) async fn fenced_counter(worker: &mut Worker) {
    let keys = &worker.shared.keys;
    let lock = keys.draw(Workload::FencedCounter.name(), &mut worker.rng);
    let lease = Lease::draw(&mut worker.rng);
    let ask = [Ask::exclusive(&lock)];
    let Some(held) = worker.acquire(&ask, &lease, TTL_MS, 3_000, None).await else {
        return;
    };
    worker.holds(true);
    let token = held.locks[0].1;
    let guarded = match token {
        Some(_) => read(worker, &lock, token).await,
        None => None,
    };
    let control = format!("{lock}:unguarded");
    let unguarded = read(worker, &control, None).await.flatten();
    worker.think(5, 50).await;
    if let Some(saw) = guarded {
        let wrote = worker.unique();
        write(worker, &lock, token, saw, wrote).await;
    }
    let wrote = worker.unique();
    write(worker, &control, None, unguarded, wrote).await;
    worker.holds(false);
    worker.release(&held).await;
}

/// Moves between two accounts that one request locks; both are read before either is written.
pub(super) async fn bank(worker: &mut Worker) {
    let keys = &worker.shared.keys;
    let accounts = keys.draw_two(Workload::Bank.name(), &mut worker.rng);
    let asks = accounts.map(|lock| Ask::exclusive(&lock));
    let lease = Lease::draw(&mut worker.rng);
    let Some(held) = worker.acquire(&asks, &lease, TTL_MS, 3_000, None).await else {
        return;
    };
    transfer(worker, &held).await;
    if worker.has(Feature::Renew) && worker.chance(0.2) {
        worker.renew(&held.lease).await;
    }
    worker.release(&held).await;
}

async fn transfer(worker: &mut Worker, held: &Held) {
    let mut balances = Vec::new();
    for (account, token) in &held.locks {
        let Some(balance) = read(worker, account, *token).await else {
            return;
        };
        balances.push(balance);
    }
    worker.think(5, 50).await;
    for ((account, token), balance) in held.locks.iter().zip(balances) {
        let wrote = worker.unique();
        if !write(worker, account, *token, balance, wrote).await {
            return;
        }
    }
}
