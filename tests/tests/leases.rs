//! Leases: how long they last, what keeps them, and what ends them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Acquire, Cluster, eventually, holder, new_secret, queue, secret_id};

/// Cluster time counts whole milliseconds, and a stamp may be rounded down by one of them.
const ROUNDING: Duration = Duration::from_millis(2);

/// Waits until the lock is free, or the holder another one.
async fn until_lost(cluster: &Cluster, lock: &str, lease_id: &str) {
    eventually("the lock is lost", async || {
        let view = cluster.http(0).lock(lock).await;
        let holders = view["holders"].as_array().unwrap();
        let holds = holders.iter().any(|holder| holder["lease_id"] == lease_id);
        (!holds).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_lock_is_not_lost_before_its_ttl_and_then_goes_to_the_next_waiter() {
    let cluster = Cluster::start().await;
    let ttl = Duration::from_secs(3);
    let first = Acquire::new("job")
        .ttl_ms(3_000)
        .granted(&cluster.http(0))
        .await;
    assert!(first.remaining_ms <= 3_000);
    let waiter = Acquire::new("job").wait_ms(120_000);
    let waiting = waiter.queue_up(&cluster.http(1)).await;

    let second = waiting.await.unwrap();
    let lost_after = first.sent.elapsed();
    assert!(lost_after + ROUNDING >= ttl, "lost after {lost_after:?}");
    assert!(second.token > first.token);

    for node in 0..3 {
        let http = cluster.http(node);
        assert_eq!(holder(&http.lock("job").await)["token"], second.token);
        let problem = first.renew(&http).await.expect_problem(409, "lease_ended");
        assert!(
            problem["detail"].as_str().unwrap().contains("expired"),
            "{problem}"
        );
        // Whoever comes late to release what it lost is told so, and disturbs nobody.
        assert_eq!(first.release(&http).await.expect(200)["was_held"], false);
    }
    assert_eq!(
        holder(&cluster.http(2).lock("job").await)["token"],
        second.token
    );
}

#[tokio::test]
async fn a_lock_whose_holder_is_silent_becomes_free_without_anyone_asking_for_it() {
    let cluster = Cluster::start().await;
    let first = Acquire::new("job")
        .ttl_ms(2_000)
        .granted(&cluster.http(0))
        .await;
    until_lost(&cluster, "job", &first.request.lease_id()).await;
    assert!(first.sent.elapsed() + ROUNDING >= Duration::from_secs(2));
    for node in 0..3 {
        let path = format!("/v1/leases/{}", first.request.lease_id());
        let reply = cluster.http(node).get(&path).await;
        reply.expect_problem(404, "lease_not_found");
    }
}

#[tokio::test]
async fn a_lease_that_is_renewed_all_the_time_never_expires() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("job")
        .ttl_ms(3_000)
        .granted(&cluster.http(0))
        .await;
    let waiter = Acquire::new("job").wait_ms(120_000);
    let waiting = waiter.queue_up(&cluster.http(1)).await;
    let began = Instant::now();
    for node in (0..3).cycle() {
        let renewal = held.renew(&cluster.http(node)).await.expect(200);
        assert_eq!(renewal["ttl_ms"], 3_000);
        assert_eq!(renewal["renew_after_ms"], 1_000);
        assert_eq!(renewal["holds"][0]["lock"], "job");
        assert_eq!(renewal["holds"][0]["token"], held.token);
        let remaining_ms = renewal["remaining_ms"].as_u64().unwrap();
        assert!((1..=3_000).contains(&remaining_ms), "{renewal}");
        assert!(!waiting.is_finished(), "granted beside a renewed lease");
        if began.elapsed() > Duration::from_secs(10) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let last_sent = Instant::now();
    held.renew(&cluster.http(0)).await.expect(200);
    let next = waiting.await.unwrap();
    let lost_after = last_sent.elapsed();
    assert!(
        lost_after + ROUNDING >= Duration::from_secs(3),
        "{lost_after:?}"
    );
    assert!(next.token > held.token);
}

#[tokio::test]
async fn several_leases_are_renewed_at_once_and_each_is_answered_for_itself() {
    let cluster = Cluster::start().await;
    let http = cluster.http(1);
    let live = Acquire::new("a").granted(&http).await;
    let other = Acquire::new("b").granted(&http).await;
    let ended = Acquire::new("c").granted(&http).await;
    ended.release(&http).await.expect(200);
    let unknown = new_secret();
    let leases = [
        live.request.lease(),
        &unknown,
        ended.request.lease(),
        other.request.lease(),
        live.request.lease(),
    ];
    let body = cluster
        .http(2)
        .post("/v1/renew", &json!({"leases": leases}))
        .await
        .expect(200);
    let answers = body["leases"].as_array().unwrap();
    let ids: Vec<_> = answers
        .iter()
        .map(|answer| answer["lease_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, leases.map(secret_id));
    for (answer, token) in [(0, live.token), (3, other.token), (4, live.token)] {
        let answer = &answers[answer];
        assert_eq!(answer["renewal"]["holds"][0]["token"], token, "{answer}");
        assert!(answer.get("problem").is_none(), "{answer}");
    }
    for (answer, code) in [(1, "lease_not_found"), (2, "lease_ended")] {
        assert_eq!(answers[answer]["problem"]["code"], code, "{body}");
        assert!(answers[answer].get("renewal").is_none(), "{body}");
    }
}

#[tokio::test]
async fn an_explicit_lease_holds_several_locks_and_outlives_them() {
    let cluster = Cluster::start().await;
    let secret = new_secret();
    let open = json!({"lease": secret, "ttl_ms": 60_000, "owner": "batch"});
    let opened = cluster.http(0).post("/v1/leases", &open).await.expect(200);
    assert_eq!(opened["lease_id"], secret_id(&secret));
    assert_eq!(
        (&opened["ttl_ms"], &opened["renew_after_ms"]),
        (&json!(60_000), &json!(20_000))
    );
    // A repeat after a lost answer makes no second one.
    cluster.http(1).post("/v1/leases", &open).await.expect(200);

    let first = Acquire::new("a")
        .on_lease(&secret)
        .granted(&cluster.http(1))
        .await;
    let second = Acquire::new("b")
        .on_lease(&secret)
        .granted(&cluster.http(2))
        .await;
    let tokens = |view: &Value| -> Vec<u64> {
        let holds = view["holds"].as_array().unwrap();
        holds
            .iter()
            .map(|hold| hold["token"].as_u64().unwrap())
            .collect()
    };
    let inspect = async |node: usize| {
        let path = format!("/v1/leases/{}", secret_id(&secret));
        cluster.http(node).get(&path).await.expect(200)
    };
    let view = inspect(0).await;
    assert_eq!(tokens(&view), [first.token, second.token], "{view}");
    assert_eq!(
        (&view["owner"], &view["explicit"]),
        (&json!("batch"), &json!(true))
    );
    let renewal = first.renew(&cluster.http(0)).await.expect(200);
    assert_eq!(tokens(&renewal), [first.token, second.token], "{renewal}");

    let both = json!({"lease": secret, "tokens": [first.token, second.token]});
    let released = cluster.http(2).post("/v1/release", &both).await.expect(200);
    assert_eq!(released["was_held"], true, "{released}");
    assert_eq!(tokens(&inspect(1).await), Vec::<u64>::new());
    let listed = cluster.http(1).get("/v1/leases").await.expect(200);
    assert_eq!(
        listed["leases"][0]["lease_id"],
        secret_id(&secret),
        "{listed}"
    );

    let revoke = json!({"lease": secret});
    let revoked = cluster
        .http(0)
        .post("/v1/leases/revoke", &revoke)
        .await
        .expect(200);
    assert_eq!(revoked["was_live"], true);
    let again = cluster
        .http(1)
        .post("/v1/leases/revoke", &revoke)
        .await
        .expect(200);
    assert_eq!(again["was_live"], false);
    let late = Acquire::new("c")
        .on_lease(&secret)
        .send(&cluster.http(2))
        .await;
    late.expect_problem(409, "lease_ended");
    cluster
        .http(2)
        .post("/v1/renew", &revoke)
        .await
        .expect_problem(409, "lease_ended");
}

#[tokio::test]
async fn an_explicit_lease_that_is_not_renewed_expires_with_all_that_it_holds() {
    let cluster = Cluster::start().await;
    let secret = new_secret();
    let sent = Instant::now();
    let open = json!({"lease": secret, "ttl_ms": 2_000});
    cluster.http(0).post("/v1/leases", &open).await.expect(200);
    for lock in ["a", "b"] {
        Acquire::new(lock)
            .on_lease(&secret)
            .granted(&cluster.http(1))
            .await;
    }
    until_lost(&cluster, "a", &secret_id(&secret)).await;
    assert!(sent.elapsed() + ROUNDING >= Duration::from_secs(2));
    assert_eq!(cluster.http(2).lock("b").await["holders"], json!([]));
}

#[tokio::test]
async fn a_revoked_lease_gives_its_lock_to_the_next_and_ends_its_own_waits() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("a").granted(&cluster.http(0)).await;
    let next = Acquire::new("a").wait_ms(120_000);
    let next_waits = next.queue_up(&cluster.http(1)).await;
    let elsewhere = Acquire::new("b").granted(&cluster.http(0)).await;
    let own = Acquire::new("b")
        .on_lease(held.request.lease())
        .wait_ms(120_000);
    let own_waits = own.spawn(&cluster.http(2));
    own.seen_queued(&cluster.http(2)).await;

    let revoke = json!({"lease": held.request.lease()});
    let revoked = cluster
        .http(2)
        .post("/v1/leases/revoke", &revoke)
        .await
        .expect(200);
    assert_eq!(revoked["was_live"], true);
    let granted = next_waits.await.unwrap();
    assert!(granted.token > elsewhere.token);
    own_waits.await.unwrap().expect_problem(409, "lease_ended");
    let view = cluster.http(0).lock("b").await;
    assert_eq!(queue(&view), Vec::<String>::new());
    assert_eq!(holder(&view)["token"], elsewhere.token);
}

#[tokio::test]
async fn the_ttl_is_fixed_when_the_lease_is_made() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("a").granted(&cluster.http(0)).await;
    let other = Acquire::new("b")
        .with("lease", held.request.lease())
        .ttl_ms(30_000);
    let problem = other
        .send(&cluster.http(1))
        .await
        .expect_problem(400, "invalid_request");
    assert_eq!(problem["field"], "ttl_ms");
    assert_eq!(cluster.http(1).lock("b").await["holders"], json!([]));
}

#[tokio::test]
async fn a_wait_ends_at_its_deadline_without_a_grant() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("job").granted(&cluster.http(0)).await;
    let sent = Instant::now();
    let waiter = Acquire::new("job").wait_ms(1_500);
    let reply = waiter.send(&cluster.http(1)).await;
    reply.expect_problem(409, "wait_timeout");
    assert!(sent.elapsed() + ROUNDING >= Duration::from_millis(1_500));
    let view = cluster.http(2).lock("job").await;
    assert_eq!(queue(&view), Vec::<String>::new());
    // And it stays refused, though the lock is free now.
    held.release(&cluster.http(0)).await.expect(200);
    waiter
        .send(&cluster.http(2))
        .await
        .expect_problem(409, "wait_timeout");
}
