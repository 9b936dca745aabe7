//! Requests that are sent more than once, answers that are lost, and clients that go away.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use serde_json::{Value, json};
use tests::raw::{RawConnection, post_json};
use tests::{Acquire, Cluster, Http, eventually, holder, new_secret, position, queue};

/// Sends an acquire on a connection of its own and does not read the answer.
async fn send_unheard(cluster: &Cluster, node: usize, body: &Value) -> RawConnection {
    let mut connection = RawConnection::open(cluster.http_address(node))
        .await
        .unwrap();
    let request = post_json("/v1/acquire", body.to_string().as_bytes());
    connection.send(&request).await.unwrap();
    connection
}

async fn until_held(http: &Http, request: &Acquire) {
    eventually("the lock is held", async || {
        let lock = http.lock(request.lock()).await;
        let holds = lock["holders"][0]["lease_id"] == request.lease_id();
        holds.then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_acquire_whose_answer_was_lost_is_granted_once_however_often_it_is_repeated() {
    let mut cluster = Cluster::start().await;
    let request = Acquire::new("job");
    let connection = send_unheard(&cluster, 0, request.body()).await;
    until_held(&cluster.http(1), &request).await;
    drop(connection);

    let token = holder(&cluster.http(1).lock("job").await)["token"]
        .as_u64()
        .unwrap();
    let first = request.granted(&cluster.http(1)).await;
    assert_eq!(first.token, token);
    let second = request.granted(&cluster.http(2)).await;
    assert_eq!(second.token, token);
    assert_eq!(second.queued_position, first.queued_position);
    assert!(
        second.remaining_ms <= first.remaining_ms,
        "a repeat moved the deadline"
    );

    let leader = cluster.leader().await;
    cluster.kill9(leader);
    for node in cluster.running() {
        let third = request.granted_by_any(&[cluster.http(node)]).await;
        assert_eq!(third.token, token);
        assert!(third.remaining_ms <= second.remaining_ms);
        assert_eq!(
            holder(&cluster.http(node).lock("job").await)["token"],
            token
        );
    }
    // Not one token more was spent.
    let next = Acquire::new("next")
        .granted(&cluster.http(cluster.running()[0]))
        .await;
    assert_eq!(next.token, token + 1);
}

#[tokio::test]
async fn acquires_that_a_failover_catches_are_granted_once_each() {
    const REQUESTS: usize = 24;
    let mut cluster = Cluster::start().await;
    let mut last_token = Acquire::new("first").granted(&cluster.http(0)).await.token;
    for round in 0..3 {
        let leader = cluster.leader().await;
        let requests: Vec<_> = (0..REQUESTS)
            .map(|number| {
                let request = Acquire::new(&format!("job-{round}-{number}"));
                let nodes: Vec<_> = (0..3)
                    .map(|node| cluster.http((number + node) % 3))
                    .collect();
                tokio::spawn(async move { request.granted_by_any(&nodes).await })
            })
            .collect();
        // Some have been sent by now, and few are answered.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        cluster.kill9(leader);
        let mut tokens = Vec::new();
        for request in requests {
            let granted = request.await.unwrap();
            let http = cluster.http((leader + 1) % 3);
            assert_eq!(
                holder(&http.lock(granted.request.lock()).await)["token"],
                granted.token
            );
            tokens.push(granted.token);
        }
        tokens.sort_unstable();
        let spent: Vec<u64> = (last_token + 1..).take(REQUESTS).collect();
        assert_eq!(tokens, spent, "a token was spent twice or in vain");
        last_token += REQUESTS as u64;
        cluster.restart(leader);
        cluster.wait_ready().await;
    }
}

#[tokio::test]
async fn a_repeat_after_the_release_is_told_that_the_grant_has_ended() {
    let cluster = Cluster::start().await;
    let secret = new_secret();
    let open = json!({"lease": secret, "ttl_ms": 60_000});
    cluster.http(0).post("/v1/leases", &open).await.expect(200);
    // On a lease that lives on, and on one that ended with its only grant.
    for request in [Acquire::new("a").on_lease(&secret), Acquire::new("b")] {
        let granted = request.granted(&cluster.http(0)).await;
        granted.release(&cluster.http(1)).await.expect(200);
        for node in 0..3 {
            let reply = request.send(&cluster.http(node)).await;
            let problem = reply.expect_problem(409, "grant_ended");
            assert_eq!(problem["token"], granted.token);
        }
        assert_eq!(
            cluster.http(0).lock(request.lock()).await["holders"],
            json!([])
        );
    }
}

#[tokio::test]
async fn a_repeat_after_its_lease_ended_is_told_so_and_has_no_effect() {
    let cluster = Cluster::start().await;
    let secret = new_secret();
    let open = json!({"lease": secret, "ttl_ms": 2_000});
    cluster.http(0).post("/v1/leases", &open).await.expect(200);
    let first = Acquire::new("a").on_lease(&secret);
    let last = Acquire::new("b").on_lease(&secret);
    first.granted(&cluster.http(0)).await;
    last.granted(&cluster.http(1)).await;
    eventually("the lease expires", async || {
        let locks = cluster.http(2).get("/v1/locks?prefix=").await.expect(200);
        (locks["locks"] == json!([])).then_some(())
    })
    .await;
    for node in 0..3 {
        let http = cluster.http(node);
        first.send(&http).await.expect_problem(409, "lease_ended");
        // What remembers an ended lease knows its last grant.
        last.send(&http).await.expect_problem(409, "grant_ended");
        let new = Acquire::new("c").on_lease(&secret);
        new.send(&http).await.expect_problem(409, "lease_ended");
        let locks = http.get("/v1/locks?prefix=").await.expect(200);
        assert_eq!(locks["locks"], json!([]));
    }
}

#[tokio::test]
async fn a_repeat_with_another_body_is_refused_by_its_request_id() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("job");
    held.granted(&cluster.http(0)).await;
    let waiting = Acquire::new("job").wait_ms(120_000);
    let task = waiting.spawn(&cluster.http(1));
    waiting.seen_queued(&cluster.http(1)).await;
    for request in [&held, &waiting] {
        for (field, value) in [
            ("lock", json!("other")),
            ("owner", json!("somebody")),
            ("value", json!("else")),
            ("wait_ms", json!(5)),
            ("ttl_ms", json!(61_000)),
        ] {
            let reply = request
                .clone()
                .with(field, value)
                .send(&cluster.http(2))
                .await;
            let problem = reply.expect_problem(400, "invalid_request");
            assert_eq!(problem["field"], "request_id", "{field}: {problem}");
        }
    }
    let view = cluster.http(0).lock("job").await;
    assert_eq!(holder(&view)["lease_id"], held.lease_id());
    assert_eq!(queue(&view), [waiting.lease_id()]);
    assert_eq!(cluster.http(0).lock("other").await["holders"], json!([]));
    assert!(!task.is_finished());
}

#[tokio::test]
async fn a_refusal_stays_the_same_when_it_is_repeated() {
    let cluster = Cluster::start().await;
    let secret = new_secret();
    let open = json!({"lease": secret, "ttl_ms": 60_000});
    cluster.http(0).post("/v1/leases", &open).await.expect(200);
    let held = Acquire::new("job").granted(&cluster.http(0)).await;
    let refused = Acquire::new("job").on_lease(&secret);
    refused
        .send(&cluster.http(0))
        .await
        .expect_problem(409, "lock_held");
    held.release(&cluster.http(0)).await.expect(200);
    refused
        .send(&cluster.http(1))
        .await
        .expect_problem(409, "lock_held");
    assert_eq!(cluster.http(2).lock("job").await["holders"], json!([]));
}

#[tokio::test]
async fn a_cancelled_wait_leaves_the_queue_and_its_request_never_gets_the_lock() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("job").granted(&cluster.http(0)).await;
    let waiter = Acquire::new("job").wait_ms(120_000);
    let waiting = waiter.spawn(&cluster.http(1));
    waiter.seen_queued(&cluster.http(1)).await;
    let cancelled = waiter.cancel(&cluster.http(2)).await.expect(200);
    assert_eq!(cancelled["result"], "cancelled");
    waiting.await.unwrap().expect_problem(409, "wait_timeout");
    assert_eq!(
        queue(&cluster.http(0).lock("job").await),
        Vec::<String>::new()
    );
    let again = waiter.cancel(&cluster.http(0)).await.expect(200);
    assert_eq!(again["result"], "already_ended");
    held.release(&cluster.http(0)).await.expect(200);
    waiter
        .send(&cluster.http(1))
        .await
        .expect_problem(409, "wait_timeout");
    assert_eq!(cluster.http(2).lock("job").await["holders"], json!([]));
}

#[tokio::test]
async fn a_cancel_after_the_grant_releases_and_the_next_waiter_gets_the_lock() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("job").granted(&cluster.http(0)).await;
    let next = Acquire::new("job").wait_ms(120_000);
    let waiting = next.queue_up(&cluster.http(1)).await;
    let cancelled = held.request.cancel(&cluster.http(2)).await.expect(200);
    assert_eq!(cancelled["result"], "released");
    assert!(waiting.await.unwrap().token > held.token);
    held.request
        .send(&cluster.http(0))
        .await
        .expect_problem(409, "grant_ended");
}

#[tokio::test]
async fn a_cancel_that_overtakes_its_request_keeps_it_from_the_lock() {
    let cluster = Cluster::start().await;
    let request = Acquire::new("job").wait_ms(120_000);
    let cancelled = request.cancel(&cluster.http(0)).await.expect(200);
    assert_eq!(cancelled["result"], "recorded");
    request
        .send(&cluster.http(1))
        .await
        .expect_problem(409, "wait_timeout");
    let view = cluster.http(2).lock("job").await;
    assert_eq!((&view["holders"], &view["queue"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn a_wait_goes_on_in_the_same_place_on_another_node() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("job").granted(&cluster.http(0)).await;
    // The node chooses lease and request id, and the answer names them.
    let body = json!({"lock": "job", "wait_ms": 120_000, "ttl_ms": 60_000});
    let queued = cluster
        .http(0)
        .post_with_timeout_ms("/v1/acquire", 1_000, &body)
        .await;
    let queued = queued.expect(202);
    assert_eq!(queued["granted"], false, "{queued}");
    assert_eq!(queued["queue"][0]["lock"], "job", "{queued}");
    assert_eq!(queued["queue"][0]["place"], 1, "{queued}");
    let first = Acquire::new("job")
        .wait_ms(120_000)
        .with("lease", queued["lease"].clone())
        .with("request_id", queued["request_id"].clone());

    let second = Acquire::new("job").wait_ms(120_000);
    let second_waits = second.queue_up(&cluster.http(1)).await;
    for node in [1, 2, 0] {
        let again = cluster
            .http(node)
            .post_with_timeout_ms("/v1/acquire", 300, first.body())
            .await;
        let again = again.expect(202);
        let place = &again["queue"][0];
        assert_eq!(
            (&place["place"], &place["length"]),
            (&json!(1), &json!(2)),
            "{again}"
        );
        assert_eq!(
            place["queued_position"],
            queued["queue"][0]["queued_position"]
        );
        assert!(position(&again["position"]) >= position(&queued["position"]));
    }
    let first_waits = first.queue_up(&cluster.http(2)).await;
    held.release(&cluster.http(0)).await.expect(200);
    let granted = first_waits.await.unwrap();
    assert_eq!(
        granted.queued_position,
        position(&queued["queue"][0]["queued_position"])
    );
    assert!(!second_waits.is_finished());
    granted.release(&cluster.http(1)).await.expect(200);
    assert!(second_waits.await.unwrap().token > granted.token);
}

#[tokio::test]
async fn a_waiter_that_cannot_be_asked_for_again_is_cancelled_when_its_client_goes_away() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("job").granted(&cluster.http(0)).await;
    for node in 0..3 {
        for named in [
            json!({}),
            json!({"lease": new_secret()}),
            json!({"request_id": "mine"}),
        ] {
            let mut body = json!({"lock": "job", "wait_ms": 120_000});
            for (field, value) in named.as_object().unwrap() {
                body[field] = value.clone();
            }
            let connection = send_unheard(&cluster, node, &body).await;
            let queue_has = async |length: usize| {
                eventually("the queue has changed", async || {
                    let view = cluster.http((node + 1) % 3).lock("job").await;
                    (queue(&view).len() == length).then_some(())
                })
                .await;
            };
            queue_has(1).await;
            drop(connection);
            queue_has(0).await;
        }
    }
    held.release(&cluster.http(0)).await.expect(200);
    assert_eq!(cluster.http(1).lock("job").await["holders"], json!([]));
}

#[tokio::test]
async fn a_waiter_with_its_own_names_keeps_its_place_when_its_connection_is_lost() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("job").granted(&cluster.http(0)).await;
    let named = Acquire::new("job").wait_ms(120_000);
    let connection = send_unheard(&cluster, 1, named.body()).await;
    named.seen_queued(&cluster.http(0)).await;
    drop(connection);
    // When the same node has noticed the loss of a later connection, it has noticed that one.
    let body = json!({"lock": "job", "wait_ms": 120_000});
    let connection = send_unheard(&cluster, 1, &body).await;
    let queue_is = async |length: usize| {
        eventually("the queue has changed", async || {
            let queue = queue(&cluster.http(2).lock("job").await);
            (queue.len() == length).then_some(queue)
        })
        .await
    };
    queue_is(2).await;
    drop(connection);
    assert_eq!(queue_is(1).await, [named.lease_id()]);

    held.release(&cluster.http(0)).await.expect(200);
    let granted = named.granted(&cluster.http(2)).await;
    assert!(granted.token > held.token);
}

#[tokio::test]
async fn a_grant_to_a_waiter_that_is_gone_ends_with_its_lease_and_the_next_is_served() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("job").granted(&cluster.http(0)).await;
    let mut stream = cluster.http(2).watch("lock=job", None).await.unwrap();
    // It named its request, so its place is kept for it.
    let gone = Acquire::new("job").ttl_ms(3_000).wait_ms(120_000);
    let connection = send_unheard(&cluster, 1, gone.body()).await;
    gone.seen_queued(&cluster.http(0)).await;
    let next = Acquire::new("job").wait_ms(120_000);
    let next_waits = next.queue_up(&cluster.http(1)).await;
    drop(connection);

    held.release(&cluster.http(0)).await.expect(200);
    until_held(&cluster.http(2), &gone).await;
    // Nobody renews, so what is left only shrinks.
    let mut left_ms = 3_000;
    let expired = eventually("the grant ends", async || {
        let lock = cluster.http(0).lock("job").await;
        let holder = holder(&lock);
        if holder["lease_id"] != gone.lease_id() {
            return Some(holder.clone());
        }
        let now_ms = holder["remaining_ms"].as_u64().unwrap();
        assert!(now_ms <= left_ms, "{now_ms} ms after {left_ms} ms: {lock}");
        left_ms = now_ms;
        None
    })
    .await;
    assert_eq!(expired["lease_id"], next.lease_id());
    let served = next_waits.await.unwrap();
    let events = stream.take(6).await;
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event.name.as_str(),
                event.data["lease_id"].as_str().unwrap(),
            )
        })
        .collect();
    let (first, gone_id, next_id) = (held.request.lease_id(), gone.lease_id(), next.lease_id());
    assert_eq!(
        told,
        [
            ("queued", gone_id.as_str()),
            ("queued", &next_id),
            ("released", &first),
            ("granted", &gone_id),
            ("expired", &gone_id),
            ("granted", &next_id),
        ]
    );
    assert_eq!(events[5].data["token"], served.token);
    // Whoever comes back late is told that it had the lock, and disturbs nobody.
    let reply = gone.send(&cluster.http(2)).await;
    reply.expect_problem(409, "grant_ended");
    let lock = cluster.http(1).lock("job").await;
    assert_eq!(holder(&lock)["token"], served.token);
}
