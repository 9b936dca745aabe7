//! Watching locks: ordered, without a gap, on any node.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use serde_json::json;
use tests::{
    Acquire, Cluster, EventStream, Scrape, SentEvent, eventually, new_secret, position, within,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

fn names(events: &[SentEvent]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

fn assert_in_order(events: &[SentEvent]) {
    for pair in events.windows(2) {
        let [one, next] = [0, 1].map(|at| position(&pair[at].data["position"]));
        assert!(one < next, "{pair:?}");
    }
}

/// Takes and releases a lock; two events.
async fn once(cluster: &Cluster, node: usize, lock: &str) {
    let granted = Acquire::new(lock).granted(&cluster.http(node)).await;
    granted.release(&cluster.http(node)).await.expect(200);
}

async fn watch(cluster: &Cluster, node: usize, query: &str) -> EventStream {
    cluster.http(node).watch(query, None).await.unwrap()
}

#[tokio::test]
async fn every_node_tells_the_same_events_of_a_prefix_in_the_same_order_without_a_gap() {
    let cluster = Cluster::start().await;
    let mut streams = Vec::new();
    for node in 0..3 {
        streams.push(watch(&cluster, node, "prefix=job-").await);
    }
    for round in 0..30 {
        once(&cluster, round % 3, &format!("job-{}", round % 7)).await;
        once(&cluster, round % 3, "other").await;
    }
    let first = streams[0].take(60).await;
    assert_in_order(&first);
    for pair in first.chunks(2) {
        assert_eq!(names(pair), ["granted", "released"]);
        assert_eq!(pair[0].data["token"], pair[1].data["token"]);
        assert_eq!(pair[0].data["lock"], pair[1].data["lock"]);
        assert_eq!(pair[0].data["mode"], "exclusive");
    }
    for stream in &mut streams[1..] {
        assert_eq!(stream.take(60).await, first);
    }
}

#[tokio::test]
async fn a_lock_is_watched_through_queue_cancel_expiry_update_and_force() {
    let cluster = Cluster::start().await;
    let (http, other) = (cluster.http(0), cluster.http(1));
    let mut stream = watch(&cluster, 2, "lock=job").await;
    let held = Acquire::new("job").ttl_ms(60_000).granted(&http).await;
    let waiting = Acquire::new("job").wait_ms(60_000);
    let answer = waiting.spawn(&other);
    waiting.seen_queued(&http).await;
    waiting.cancel(&other).await.expect(200);
    answer.await.unwrap().expect_problem(409, "wait_timeout");
    let body = json!({"lease": held.request.lease(), "token": held.token, "value": "here"});
    other.post("/v1/update", &body).await.expect(200);
    let body = json!({
        "lock": "job", "token": held.token, "lease_id": held.request.lease_id(), "now": true,
    });
    http.post("/v1/locks/force-release", &body)
        .await
        .expect(200);
    let short = Acquire::new("job").ttl_ms(2_000).granted(&http).await;
    let events = stream.take(7).await;
    let expected = [
        ("granted", None),
        ("queued", None),
        ("wait_ended", Some("cancelled")),
        ("updated", None),
        ("forced", Some("lease_forced")),
        ("granted", None),
        ("expired", None),
    ];
    let found: Vec<_> = events
        .iter()
        .map(|event| (event.name.as_str(), event.data["reason"].as_str()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(events[6].data["token"], short.token);
    assert_in_order(&events);
}

#[tokio::test]
async fn a_watch_goes_on_on_any_node_behind_the_last_event_it_has_seen() {
    let cluster = Cluster::start().await;
    let mut whole = watch(&cluster, 0, "prefix=").await;
    let start = whole.next().await.unwrap();
    assert_eq!(start.name, "heartbeat");
    for round in 0..20 {
        once(&cluster, round % 3, "job").await;
    }
    let whole = whole.take(40).await;
    let mut id = start.id;
    let mut pieces = Vec::new();
    for node in (0..3).cycle().take(8) {
        let mut stream = cluster
            .http(node)
            .watch("lock=job", id.as_deref())
            .await
            .unwrap();
        let piece = stream.take(5).await;
        id = piece.last().unwrap().id.clone();
        pieces.extend(piece);
    }
    assert_eq!(pieces, whole);
    // The query says the same, and the header goes before it.
    let after = format!(
        "lock=job&after={}",
        whole[9].data["position"].as_str().unwrap()
    );
    let mut stream = cluster.http(1).watch(&after, None).await.unwrap();
    assert_eq!(stream.take(30).await, whole[10..]);
    let mut stream = cluster
        .http(1)
        .watch(&after, whole[29].id.as_deref())
        .await
        .unwrap();
    assert_eq!(stream.take(10).await, whole[30..]);
}

#[tokio::test]
async fn a_watch_goes_on_without_a_gap_across_a_node_that_installs_a_snapshot() {
    // A log is purged by a thousand entries at a time; a round is two.
    const ROUNDS: usize = 600;
    let arguments = ["--snapshot-after-entries", "50", "--keep-entries", "1"];
    let mut cluster = Cluster::builder(3).arguments(arguments).start().await;
    let leader = cluster.leader().await;
    let away = cluster.follower().await;
    let mut whole = watch(&cluster, leader, "prefix=").await;
    let start = whole.next().await.unwrap().id;
    once(&cluster, leader, "job").await;
    cluster.kill9(away);
    for round in 0..ROUNDS {
        once(&cluster, leader, &format!("job-{}", round % 3)).await;
    }
    let id = cluster.node_id(leader).await;
    eventually("the log behind the snapshot is gone", async || {
        let view = cluster.http(leader).get("/v1/cluster").await.expect(200);
        let members = view["members"].as_array().unwrap();
        let own = members.iter().find(|member| member["node_id"] == *id)?;
        (own["purged_index"].as_u64()? > 100).then_some(())
    })
    .await;
    cluster.restart(away);
    cluster.wait_ready().await;
    let mut resumed = cluster
        .http(away)
        .watch("prefix=", start.as_deref())
        .await
        .unwrap();
    once(&cluster, leader, "job").await;
    let all = 2 * (ROUNDS + 2);
    let whole = whole.take(all).await;
    assert_eq!(resumed.take(all).await, whole);
    assert!(
        cluster.log(away).contains("snapshot installed"),
        "it was caught up by a snapshot"
    );
}

#[tokio::test]
async fn a_position_that_is_not_kept_or_of_another_cluster_is_gone_and_the_oldest_is_named() {
    let cluster = Cluster::start().await;
    let http = cluster.http(0);
    let body = json!({"events_max": 10});
    let settings = http.post("/v1/cluster/settings", &body).await.expect(200);
    assert_eq!(settings["settings"]["events_max"], 10);
    for round in 0..15 {
        once(&cluster, round % 3, "job").await;
    }
    let reply = http.watch("lock=job&after=1.0", None).await.unwrap_err();
    let problem = reply.expect_problem(410, "position_gone");
    let oldest = problem["oldest_position"].as_str().unwrap().to_owned();
    let mut stream = http.watch("lock=job", Some(&oldest)).await.unwrap();
    assert_eq!(stream.take(10).await.len(), 10);
    let elsewhere = format!("{}@{}", oldest.split('@').next().unwrap(), "0".repeat(32));
    let reply = http.watch("lock=job", Some(&elsewhere)).await.unwrap_err();
    reply.expect_problem(410, "position_gone");
    for bad in [
        "lock=job&after=x",
        "lock=job&prefix=a",
        "",
        "lock=",
        "prefix=&x=1",
    ] {
        let reply = http.watch(bad, None).await.unwrap_err();
        reply.expect_problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_node_that_is_behind_the_position_waits_and_says_so_at_the_deadline() {
    let mut cluster = Cluster::start().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let other = 3 - leader - follower;
    let start = watch(&cluster, leader, "prefix=")
        .await
        .next()
        .await
        .unwrap()
        .id
        .unwrap();
    let index: u64 = start.split('.').next().unwrap().parse().unwrap();
    // Nobody can be there yet: without a quorum nothing is committed.
    cluster.kill9(leader);
    cluster.kill9(other);
    let http = cluster.http(follower);
    let ahead = format!("/v1/events?lock=job&after={}.0", index + 1_000);
    let reply = http.get_with_timeout_ms(&ahead, 300).await;
    reply.expect_problem(503, "no_leader");
    // What it has applied it tells, also alone.
    let mut stream = http.watch("prefix=", Some(&start)).await.unwrap();
    assert_eq!(stream.next().await.unwrap().name, "heartbeat");
}

#[tokio::test]
async fn a_thousand_watches_on_one_node_hear_of_their_own_locks_only() {
    const WATCHES: usize = 1_000;
    let cluster = Cluster::builder(3).unchecked().start().await;
    let http = cluster.http(0);
    let opening = (0..WATCHES).map(|number| {
        let http = http.clone();
        tokio::spawn(async move {
            http.watch(&format!("lock=job-{number}"), None)
                .await
                .unwrap()
        })
    });
    let mut streams = Vec::new();
    for opened in opening.collect::<Vec<_>>() {
        streams.push(opened.await.unwrap());
    }
    let lease = new_secret();
    for chunk in 0..10 {
        let locks: Vec<_> = (0..100)
            .map(|number| json!({"name": format!("job-{}", chunk * 100 + number)}))
            .collect();
        let body = json!({"locks": locks, "lease": lease});
        cluster
            .http(chunk % 3)
            .post("/v1/acquire", &body)
            .await
            .expect(200);
    }
    let mut tokens = Vec::new();
    for (number, stream) in streams.iter_mut().enumerate() {
        let event = stream.next_event().await;
        assert_eq!(event.name, "granted");
        assert_eq!(event.data["lock"], format!("job-{number}"));
        tokens.push(event.data["token"].as_u64().unwrap());
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), WATCHES);
    let body = json!({"lease": lease});
    http.post("/v1/leases/revoke", &body).await.expect(200);
    for stream in &mut streams {
        let event = stream.next_event().await;
        assert_eq!(
            (event.name.as_str(), &event.data["reason"]),
            ("released", &json!("revoke"))
        );
    }
}

#[tokio::test]
async fn a_watch_that_reads_nothing_is_cut_off_and_the_others_miss_nothing() {
    let cluster = Cluster::builder(3).unchecked().start().await;
    let http = cluster.http(0);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut deaf = socket.connect(cluster.http_address(0)).await.unwrap();
    let request = b"GET /v1/events?prefix= HTTP/1.1\r\nhost: n\r\n\r\n";
    deaf.write_all(request).await.unwrap();
    eventually("it watches", async || {
        let watches = Scrape::of(&http).await.get("palisade_watches", &[]);
        (watches == Some(1.0)).then_some(())
    })
    .await;
    let mut reader = watch(&cluster, 0, "prefix=").await;
    let reading = tokio::spawn(async move {
        let events = reader.take(80 * 100).await;
        assert_in_order(&events);
    });
    // Together far more than what the system keeps for a socket that nobody reads.
    let name = |number: usize| format!("{number:0>500}");
    for _ in 0..40 {
        let locks: Vec<_> = (0..100)
            .map(|number| json!({"name": name(number)}))
            .collect();
        let lease = new_secret();
        let body = json!({"locks": locks, "lease": lease});
        http.post("/v1/acquire", &body).await.expect(200);
        let body = json!({"lease": lease});
        http.post("/v1/leases/revoke", &body).await.expect(200);
    }
    reading.await.unwrap();
    let limit = Duration::from_secs(120);
    within(limit, "the connection is cut off", async || {
        // Answered with a reset once the other end is gone.
        deaf.write_all(b"x").await.err()
    })
    .await;
}
