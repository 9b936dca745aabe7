//! Taking, seeing, refusing and releasing a lock, through any node.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tests::{Acquire, Cluster, Granted, holder, position, queue};

#[tokio::test]
async fn a_lock_taken_through_one_node_is_seen_through_every_other_at_once() {
    let cluster = Cluster::start().await;
    for round in 0..30 {
        let name = format!("job-{round}");
        let request = Acquire::new(&name)
            .with("owner", format!("worker-{round}"))
            .with("value", "10.0.0.1:80");
        let granted = request.granted(&cluster.http(round % 3)).await;
        for other in [1, 2] {
            let view = cluster.http((round + other) % 3).lock(&name).await;
            let holder = holder(&view);
            assert_eq!(holder["lease_id"], request.lease_id(), "{view}");
            assert_eq!(holder["token"], granted.token, "{view}");
            assert_eq!(holder["owner"], format!("worker-{round}"), "{view}");
            assert_eq!(holder["value"], "10.0.0.1:80", "{view}");
            assert!(position(&view["position"]) >= granted.position, "{view}");
        }
    }
}

#[tokio::test]
async fn a_second_try_is_refused_and_told_who_holds() {
    let cluster = Cluster::start().await;
    let first = Acquire::new("job").with("owner", "billing-1");
    first.granted(&cluster.http(0)).await;
    for node in 0..3 {
        let reply = Acquire::new("job").send(&cluster.http(node)).await;
        let problem = reply.expect_problem(409, "lock_held");
        assert_eq!(problem["holder_owner"], "billing-1");
        assert_eq!(problem["holder_lease_id"], first.lease_id());
        assert_eq!(problem["lock"], "job");
        assert_eq!(problem["reason"], "held");
        assert_eq!(problem["queue_length"], 0);
        assert_eq!(problem["outcome"], "not_applied");
        assert_eq!(problem["retryable"], false);
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("billing-1") && detail.contains("wait_ms"),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn the_same_lease_is_told_that_it_holds_already() {
    let cluster = Cluster::start().await;
    let granted = Acquire::new("job").granted(&cluster.http(0)).await;
    let again = Acquire::new("job").on_lease(granted.request.lease());
    let problem = again
        .send(&cluster.http(1))
        .await
        .expect_problem(409, "already_held");
    assert_eq!(problem["token"], granted.token);
}

#[tokio::test]
async fn a_release_frees_the_lock_once_and_a_repeat_is_harmless() {
    let cluster = Cluster::start().await;
    let first = Acquire::new("job").granted(&cluster.http(0)).await;
    let released = first.release(&cluster.http(1)).await.expect(200);
    assert_eq!(released["was_held"], true);
    let view = cluster.http(2).lock("job").await;
    assert_eq!(view["holders"], json!([]));
    assert_eq!(
        first.release(&cluster.http(2)).await.expect(200)["was_held"],
        false
    );

    let second = Acquire::new("job").granted(&cluster.http(0)).await;
    assert!(second.token > first.token);
    // Late, from the one who held before: the new holder is not touched.
    assert_eq!(
        first.release(&cluster.http(0)).await.expect(200)["was_held"],
        false
    );
    assert_eq!(
        holder(&cluster.http(1).lock("job").await)["token"],
        second.token
    );
}

#[tokio::test]
async fn a_stale_token_is_refused_and_changes_nothing() {
    let cluster = Cluster::start().await;
    let first = Acquire::new("job").granted(&cluster.http(0)).await;
    let other = Acquire::new("other").granted(&cluster.http(0)).await;
    let waiter = Acquire::new("job").wait_ms(120_000);
    let waiting = waiter.queue_up(&cluster.http(1)).await;

    for (lease, token) in [
        (&first, first.token - 1),
        (&first, first.token + 1),
        (&first, other.token),
        (&other, first.token),
        (&first, 0),
        (&first, (1 << 53) - 1),
    ] {
        for node in 0..3 {
            let reply = lease.release_token(&cluster.http(node), token).await;
            let problem = reply.expect_problem(409, "token_stale");
            assert_eq!(problem["token"], token);
            assert_eq!(problem["outcome"], "not_applied");
        }
    }
    // All or nothing.
    let body = json!({"lease": first.request.lease(), "tokens": [first.token, other.token]});
    let reply = cluster.http(1).post("/v1/release", &body).await;
    reply.expect_problem(409, "token_stale");

    for node in 0..3 {
        let view = cluster.http(node).lock("job").await;
        assert_eq!(holder(&view)["token"], first.token);
        assert_eq!(queue(&view), [waiter.lease_id()]);
        let view = cluster.http(node).lock("other").await;
        assert_eq!(holder(&view)["token"], other.token);
    }
    assert!(!waiting.is_finished());
    assert_eq!(
        first.release(&cluster.http(2)).await.expect(200)["was_held"],
        true
    );
    assert!(waiting.await.unwrap().token > other.token);
}

#[tokio::test]
async fn a_fence_check_tells_current_superseded_and_unknown_on_every_node() {
    let cluster = Cluster::start().await;
    let first = Acquire::new("job").granted(&cluster.http(0)).await;
    let check = async |token: u64, status: u16, verdict: &str| {
        for node in 0..3 {
            let path = format!("/v1/fence?lock=job&token={token}");
            let body = cluster.http(node).get(&path).await.expect(status);
            assert_eq!(body["verdict"], verdict, "{body}");
        }
    };
    check(first.token, 200, "current").await;
    check(first.token + 1, 404, "unknown").await;
    first.release(&cluster.http(0)).await.expect(200);
    let second = Acquire::new("job").granted(&cluster.http(1)).await;
    check(first.token, 409, "superseded").await;
    check(second.token, 200, "current").await;
}

#[tokio::test]
async fn locks_are_listed_by_prefix_page_by_page() {
    let cluster = Cluster::start().await;
    for number in 0..5 {
        let name = format!("jobs/{number}");
        Acquire::new(&name).granted(&cluster.http(0)).await;
    }
    Acquire::new("other").granted(&cluster.http(0)).await;
    let mut names = Vec::new();
    let mut pages = 0;
    let mut cursor = String::new();
    loop {
        let query = format!("/v1/locks?prefix=jobs/&page_size=2{cursor}");
        let page = cluster.http(1).get(&query).await.expect(200);
        let locks = page["locks"].as_array().unwrap();
        names.extend(
            locks
                .iter()
                .map(|lock| lock["lock"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["jobs/0", "jobs/1", "jobs/2", "jobs/3", "jobs/4"]);
    assert_eq!(pages, 3);
}

/// Clients that contend, and grants that each of them waits for.
const CLIENTS: usize = 20;
const ROUNDS: usize = 10;

#[tokio::test]
async fn contending_clients_get_the_lock_one_at_a_time_in_the_order_of_queueing() {
    let cluster = Cluster::start().await;
    let held = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let nodes: Vec<_> = (0..3).map(|node| cluster.http(node)).collect();
            let held = held.clone();
            tokio::spawn(async move {
                let mut grants = Vec::new();
                for round in 0..ROUNDS {
                    let http = &nodes[(client + round) % 3];
                    let request = Acquire::new("contended").wait_ms(120_000);
                    let granted = request.granted(http).await;
                    assert!(!held.swap(true, Ordering::SeqCst), "two hold at once");
                    tokio::task::yield_now().await;
                    held.store(false, Ordering::SeqCst);
                    // Through another node than the one that granted.
                    let released = granted.release(&nodes[(client + round + 1) % 3]).await;
                    assert_eq!(released.expect(200)["was_held"], true);
                    grants.push(granted);
                }
                grants
            })
        })
        .collect();
    let mut grants: Vec<Granted> = Vec::new();
    for client in clients {
        grants.extend(client.await.unwrap());
    }
    assert_eq!(grants.len(), CLIENTS * ROUNDS);

    grants.sort_by_key(|grant| grant.position);
    for pair in grants.windows(2) {
        assert!(pair[0].token < pair[1].token, "{pair:?}");
        assert!(
            pair[0].queued_position < pair[1].queued_position,
            "{pair:?}"
        );
    }
    let queued = |grant: &&Granted| grant.queued_position < grant.position;
    let waited = grants.iter().filter(queued).count();
    assert!(
        waited > CLIENTS,
        "nobody had to queue: only {waited} waited"
    );
}
