//! What a holder and its waiters notice when nodes die: the time that it takes, and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Acquire, Cluster, Granted, Http, eventually, holder, queue};

/// Cluster time counts whole milliseconds; a few stamps are rounded on the way.
const ROUNDING_MS: u64 = 5;

fn clients(cluster: &Cluster, nodes: &[usize]) -> Vec<Http> {
    nodes.iter().map(|node| cluster.http(*node)).collect()
}

fn others(of: usize) -> [usize; 2] {
    [(of + 1) % 3, (of + 2) % 3]
}

/// Releases one waiter's grant after the other's; every grant must come in turn.
async fn pass_through(waiting: Vec<tokio::task::JoinHandle<Granted>>, http: &Http) -> Vec<u64> {
    let mut tokens = Vec::new();
    for waiter in waiting {
        let granted = waiter.await.unwrap();
        assert_eq!(holder(&http.lock("job").await)["token"], granted.token);
        tokens.push(granted.token);
        assert_eq!(granted.release(http).await.expect(200)["was_held"], true);
    }
    tokens
}

#[tokio::test]
async fn a_lock_its_token_and_its_queue_survive_the_kill_of_the_leader() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let held = Acquire::new("job")
        .ttl_ms(30_000)
        .granted(&cluster.http(leader))
        .await;
    let mut waiting = Vec::new();
    let mut expected = Vec::new();
    for waiter in 0..6 {
        let request = Acquire::new("job").wait_ms(120_000);
        // Each begins on another node and goes on elsewhere when its node dies.
        let nodes = clients(&cluster, &[waiter % 3, (waiter + 1) % 3, (waiter + 2) % 3]);
        let task = {
            let request = request.clone();
            tokio::spawn(async move { request.granted_by_any(&nodes).await })
        };
        request.seen_queued(&cluster.http(0)).await;
        expected.push(request.lease_id());
        waiting.push(task);
    }

    cluster.kill9(leader);
    for node in others(leader) {
        let http = cluster.http(node);
        let renewal = eventually("a renewal goes through", async || {
            let reply = held.renew(&http).await;
            (reply.body["retryable"] != true).then(|| reply.expect(200))
        })
        .await;
        assert_eq!(renewal["holds"][0]["token"], held.token, "{renewal}");
        let view = http.lock("job").await;
        assert_eq!(holder(&view)["token"], held.token);
        assert_eq!(queue(&view), expected);
    }

    let survivor = cluster.http(others(leader)[0]);
    assert_eq!(held.release(&survivor).await.expect(200)["was_held"], true);
    let tokens = pass_through(waiting, &survivor).await;
    assert!(tokens[0] > held.token);
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
}

#[tokio::test]
async fn waiters_through_a_living_node_are_granted_once_each_whenever_the_leader_dies() {
    let mut cluster = Cluster::start().await;
    // Beside the release that they wait for.
    for death in ["before", "amid", "after"] {
        let leader = cluster.leader().await;
        let [through, other] = others(leader).map(|node| cluster.http(node));
        let held = Acquire::new("job").granted(&through).await;
        // One waits in a single request, the other asks again and again.
        let parked = Acquire::new("job").wait_ms(120_000);
        let parked_waits = parked.spawn(&through);
        parked.seen_queued(&other).await;
        let polling = Acquire::new("job").wait_ms(120_000);
        let polls = {
            let (request, http) = (polling.clone(), through.clone());
            tokio::spawn(async move {
                loop {
                    let path = lock_api::path::ACQUIRE;
                    let reply = http.post_with_timeout_ms(path, 200, request.body()).await;
                    // A 504 names lease and request as a 202 does: ask again.
                    let goes_on = reply.status == 202 || reply.body["retryable"] == true;
                    if !goes_on {
                        return reply.expect(200);
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        };
        polling.seen_queued(&other).await;

        let release = async {
            eventually("the release goes through", async || {
                let reply = held.release(&through).await;
                (reply.body["retryable"] != true).then(|| reply.expect(200))
            })
            .await
        };
        match death {
            "before" => {
                cluster.kill9(leader);
                release.await;
            }
            // It is polled first, so the request is on its way.
            "amid" => {
                tokio::join!(release, async { cluster.kill9(leader) });
            }
            _ => {
                release.await;
                cluster.kill9(leader);
            }
        }
        let first = parked_waits.await.unwrap().expect(200);
        assert!(first["token"].as_u64().unwrap() > held.token, "{first}");
        // It asks again on the other node, as if the answer had been lost: the same grant.
        let nodes = [other.clone()];
        let again = parked.granted_by_any(&nodes).await;
        assert_eq!(again.token, first["token"].as_u64().unwrap());
        assert!(!polls.is_finished(), "two hold at once");
        again.release(&through).await.expect(200);
        let second = polls.await.unwrap()["token"].as_u64().unwrap();
        let again = polling.granted_by_any(&nodes).await;
        assert_eq!(again.token, second);
        // Not one grant more than these.
        assert_eq!(second, first["token"].as_u64().unwrap() + 1);
        again.release(&other).await.expect(200);
        let view = other.lock("job").await;
        assert_eq!((&view["holders"], &view["queue"]), (&json!([]), &json!([])));
        cluster.restart(leader);
        cluster.wait_ready().await;
    }
}

#[tokio::test]
async fn a_leader_that_hangs_is_replaced_and_nothing_changes_when_it_comes_back() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let held = Acquire::new("job")
        .ttl_ms(30_000)
        .granted(&cluster.http(leader))
        .await;
    let stopped_pid = cluster.pid(leader);
    cluster.stop(leader);

    let survivors = others(leader);
    let new_leader = cluster.leader_among(&survivors).await;
    assert_ne!(new_leader, leader);
    let nodes = clients(&cluster, &survivors);
    let second = Acquire::new("other").granted_by_any(&nodes).await;
    held.release(&nodes[0]).await.expect(200);
    let third = Acquire::new("job").granted_by_any(&nodes).await;
    assert!(held.token < second.token && second.token < third.token);

    cluster.cont(leader);
    assert_eq!(cluster.pid(leader), stopped_pid);
    cluster.wait_node_ready(leader).await;
    // What the old leader says now is what the others decided meanwhile.
    let http = cluster.http(leader);
    assert_eq!(holder(&http.lock("job").await)["token"], third.token);
    assert_eq!(holder(&http.lock("other").await)["token"], second.token);
    assert_eq!(held.release(&http).await.expect(200)["was_held"], false);
    assert_eq!(holder(&http.lock("job").await)["token"], third.token);
}

/// Everything in the state that time alone does not change.
async fn state(http: &Http) -> Value {
    let locks = http.get("/v1/locks?prefix=").await.expect(200);
    let locks = locks["locks"].as_array().unwrap().iter().map(|lock| {
        let queue = lock["queue"].as_array().unwrap().iter().map(|waiter| {
            json!([
                waiter["lease_id"],
                waiter["owner"],
                waiter["queued_position"]
            ])
        });
        let holder = holder(lock);
        json!({
            "lock": lock["lock"],
            "holder": [holder["lease_id"], holder["owner"], holder["token"], holder["value"]],
            "queue": queue.collect::<Vec<_>>(),
        })
    });
    let leases = http.get("/v1/leases").await.expect(200);
    let leases = leases["leases"].as_array().unwrap().iter().map(|lease| {
        let waits = lease["waits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|wait| &wait["lock"]);
        json!({
            "lease": lease["lease_id"],
            "terms": [lease["owner"], lease["ttl_ms"], lease["explicit"]],
            "holds": lease["holds"],
            "waits": waits.collect::<Vec<_>>(),
        })
    });
    json!({"locks": locks.collect::<Vec<_>>(), "leases": leases.collect::<Vec<_>>()})
}

#[tokio::test]
async fn everything_is_as_it_was_after_kill9_of_all_nodes() {
    let mut cluster = Cluster::start().await;
    let gone = Acquire::new("gone").granted(&cluster.http(0)).await;
    gone.release(&cluster.http(0)).await.expect(200);
    let open = json!({"lease": tests::new_secret(), "ttl_ms": 60_000, "owner": "batch"});
    cluster.http(1).post("/v1/leases", &open).await.expect(200);
    let secret = open["lease"].as_str().unwrap();
    for lock in ["a", "b"] {
        Acquire::new(lock)
            .on_lease(secret)
            .granted(&cluster.http(1))
            .await;
    }
    let held = Acquire::new("job")
        .with("value", "10.0.0.1:80")
        .with("owner", "billing");
    let held = held.granted(&cluster.http(2)).await;
    let mut waiting = Vec::new();
    for waiter in 0..4 {
        let request = Acquire::new("job").wait_ms(120_000);
        let nodes = clients(&cluster, &[waiter % 3, (waiter + 1) % 3, (waiter + 2) % 3]);
        let task = {
            let request = request.clone();
            tokio::spawn(async move { request.granted_by_any(&nodes).await })
        };
        request.seen_queued(&cluster.http(0)).await;
        waiting.push(task);
    }
    let before = state(&cluster.http(0)).await;

    cluster.kill9_all();
    cluster.restart_all();
    cluster.wait_ready().await;
    for node in 0..3 {
        assert_eq!(state(&cluster.http(node)).await, before, "n{}", node + 1);
    }
    let http = cluster.http(1);
    assert_eq!(gone.release(&http).await.expect(200)["was_held"], false);
    held.renew(&http).await.expect(200);
    assert_eq!(held.release(&http).await.expect(200)["was_held"], true);
    let tokens = pass_through(waiting, &http).await;
    assert!(tokens[0] > held.token);
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
}

/// What was left of a lease, at some instant between two that are known.
#[derive(Clone, Copy, Debug)]
struct Remaining {
    not_before: Instant,
    not_after: Instant,
    remaining_ms: u64,
}

impl Remaining {
    /// Reads what is left of the holder's lease. Cluster time moves with entries: one is written
    /// first, so that the answer is no older than this call.
    async fn of(lock: &str, nodes: &[Http]) -> Self {
        let not_before = Instant::now();
        let marker = format!("marker-{:08x}", rand::random::<u32>());
        Acquire::new(&marker).granted_by_any(nodes).await;
        let view = nodes[0].lock(lock).await;
        Self {
            not_before,
            not_after: Instant::now(),
            remaining_ms: holder(&view)["remaining_ms"].as_u64().unwrap(),
        }
    }

    /// That it is right after `self`, if no more than `counted` went by in cluster time.
    fn assert_right_before(&self, later: &Self, counted: Duration) {
        let counted_ms = u64::try_from(counted.as_millis()).unwrap() + ROUNDING_MS;
        assert!(
            later.remaining_ms <= self.remaining_ms,
            "time was given back: {self:?} {later:?}"
        );
        assert!(
            later.remaining_ms + counted_ms >= self.remaining_ms,
            "more time was taken than {counted_ms} ms: {self:?} {later:?}"
        );
    }
}

#[tokio::test]
async fn remaining_time_neither_shrinks_nor_comes_back_over_failovers() {
    let mut cluster = Cluster::start().await;
    let all = clients(&cluster, &[0, 1, 2]);
    Acquire::new("job").ttl_ms(120_000).granted(&all[0]).await;
    let mut last = Remaining::of("job", &all).await;
    for _ in 0..3 {
        let leader = cluster.leader().await;
        cluster.kill9(leader);
        let nodes = clients(&cluster, &others(leader));
        let now = Remaining::of("job", &nodes).await;
        last.assert_right_before(&now, now.not_after - last.not_before);
        cluster.restart(leader);
        cluster.wait_ready().await;
        last = now;
    }
    // And time goes on.
    let marker_ms = last.remaining_ms - 1_000;
    eventually("cluster time goes on", async || {
        let now = Remaining::of("job", &all).await;
        (now.remaining_ms < marker_ms).then_some(())
    })
    .await;
}

#[tokio::test]
async fn time_during_which_all_nodes_are_down_does_not_count() {
    let mut cluster = Cluster::start().await;
    let all = clients(&cluster, &[0, 1, 2]);
    let held = Acquire::new("job").ttl_ms(10_000).granted(&all[0]).await;
    let before = Remaining::of("job", &all).await;
    cluster.kill9_all();
    let down = Instant::now();
    tokio::time::sleep(Duration::from_secs(12)).await;
    let up = Instant::now();
    cluster.restart_all();
    cluster.wait_ready().await;
    let after = Remaining::of("job", &all).await;
    before.assert_right_before(&after, (down - before.not_before) + (after.not_after - up));
    held.renew(&all[2]).await.expect(200);
}

/// A leader counts a second without a commit, and no more.
const COUNTED_WITHOUT_COMMIT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn time_during_which_there_is_no_quorum_does_not_count() {
    let mut cluster = Cluster::start().await;
    let all = clients(&cluster, &[0, 1, 2]);
    let held = Acquire::new("job").ttl_ms(10_000).granted(&all[0]).await;
    let leader = cluster.leader().await;
    let before = Remaining::of("job", &all).await;
    for follower in others(leader) {
        cluster.kill9(follower);
    }
    let down = Instant::now();
    tokio::time::sleep(Duration::from_secs(12)).await;
    let up = Instant::now();
    cluster.restart_all();
    let after = Remaining::of("job", &all).await;
    let counted = (down - before.not_before) + (after.not_after - up) + COUNTED_WITHOUT_COMMIT;
    before.assert_right_before(&after, counted);
    held.renew(&all[2]).await.expect(200);
}

#[tokio::test]
async fn time_during_which_all_nodes_hang_does_not_count() {
    let mut cluster = Cluster::start().await;
    let all = clients(&cluster, &[0, 1, 2]);
    let held = Acquire::new("job").ttl_ms(10_000).granted(&all[0]).await;
    let leader = cluster.leader().await;
    let before = Remaining::of("job", &all).await;
    for follower in others(leader) {
        cluster.stop(follower);
    }
    let down = Instant::now();
    // An entry is on its way by now, for good or bad: the leader writes one twice a second.
    tokio::time::sleep(Duration::from_millis(700)).await;
    cluster.stop(leader);
    tokio::time::sleep(Duration::from_secs(12)).await;
    let up = Instant::now();
    cluster.cont(leader);
    for follower in others(leader) {
        cluster.cont(follower);
    }
    let after = Remaining::of("job", &all).await;
    let counted = (down - before.not_before) + (after.not_after - up) + COUNTED_WITHOUT_COMMIT;
    before.assert_right_before(&after, counted);
    held.renew(&all[2]).await.expect(200);
}
