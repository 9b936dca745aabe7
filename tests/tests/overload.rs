//! Overload: more is asked than the disks take. What is too much is refused at once, holders keep
//! their locks, and memory stays bounded.
//!
//! Every fsync of every node takes longer by [`SYNC_MS`] (the shim of `power-cut`, in its slow mode),
//! and few proposals may be in flight, so that a few clients offer far more than is taken.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lock_api::{TIMEOUT_HEADER, path};
use serde_json::json;
use tests::measure::memory_kib;
use tests::raw::{RawConnection, post};
use tests::{Acquire, Cluster, Granted, Http, Scrape, new_secret, within};

const SYNC_MS: u64 = 30;
const IN_FLIGHT: [&str; 2] = ["--max-in-flight-proposals", "8"];
const IN_FLIGHT_BYTES: [&str; 2] = ["--max-in-flight-bytes", "65536"];
const HOLDERS: usize = 6;
const TTL_MS: u64 = 4_000;
const CLIENTS: usize = 60;
/// So short that most clients give up what was taken before it is applied, and send again: what they
/// gave up must not pile up.
const CLIENT_TIMEOUT_MS: u64 = 60;
/// Between a client's requests. Without it the test would measure the CPU.
const PAUSE: Duration = Duration::from_millis(15);
const VALUE_BYTES: usize = 4_000;
/// How much more is offered than taken before the flood ends, and for how many TTLs it lasts at least.
const EXCESS: u64 = 10;
const TTLS: u32 = 4;
/// What a node's memory may grow by, beside twice what was taken, which lies in the log's tail and in
/// RocksDB's memtable. More than that is thrown at each node.
const GROWTH_LIMIT_KIB: u64 = 32 << 10;
const LIMIT: Duration = Duration::from_secs(300);

/// What became of the flood's requests.
#[derive(Debug, Default)]
struct Flood {
    over: AtomicBool,
    offered: AtomicU64,
    overloaded: AtomicU64,
}

/// Tries for a lock that is held, again and again, each time as somebody new.
async fn try_again_and_again(address: SocketAddr, lock: String, flood: Arc<Flood>) {
    let mut connection = RawConnection::open(address).await.unwrap();
    let headers =
        format!("content-type: application/json\r\n{TIMEOUT_HEADER}: {CLIENT_TIMEOUT_MS}\r\n");
    let value = "x".repeat(VALUE_BYTES);
    while !flood.over.load(Ordering::Relaxed) {
        let body = json!({
            "lock": lock, "lease": new_secret(), "request_id": "r", "value": value,
        });
        flood.offered.fetch_add(1, Ordering::Relaxed);
        let request = post(path::ACQUIRE, &headers, body.to_string().as_bytes());
        let reply = connection.call(&request).await.unwrap();
        let body = String::from_utf8_lossy(&reply.body);
        match reply.status {
            // Taken: refused by the state machine, or given up.
            409 | 504 => {}
            503 if body.contains("\"overloaded\"") => {
                assert!(body.contains("\"not_applied\""), "{body}");
                flood.overloaded.fetch_add(1, Ordering::Relaxed);
            }
            // Nobody led for the time that this client had.
            503 if body.contains("\"no_leader\"") => {}
            status => panic!("{status} {body}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Renews until told to stop, as a client does: again at once when it is told to. Returns how often.
async fn keep(granted: Granted, nodes: Vec<Http>, flood: Arc<Flood>) -> (Granted, u64) {
    let mut renewals = 0;
    for http in nodes.iter().cycle() {
        if flood.over.load(Ordering::Relaxed) {
            break;
        }
        let reply = granted.renew(http).await;
        match reply.status {
            200 => {
                renewals += 1;
                tokio::time::sleep(Duration::from_millis(TTL_MS / 3)).await;
            }
            // Never `overloaded`: a share is kept for renewals.
            503 | 504 => assert_ne!(reply.code(), "overloaded", "{}", reply.body),
            status => panic!("a holder's renewal was answered {status}: {}", reply.body),
        }
    }
    (granted, renewals)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_what_the_disks_take_ends_no_lease_and_takes_no_memory() {
    let cluster = Cluster::builder(3)
        .arguments(IN_FLIGHT)
        .arguments(IN_FLIGHT_BYTES)
        .slow_syncs(Duration::from_millis(SYNC_MS))
        .start()
        .await;
    let nodes: Vec<Http> = (0..cluster.len()).map(|node| cluster.http(node)).collect();
    let flood = Arc::new(Flood::default());
    let mut holders = Vec::new();
    for number in 0..HOLDERS {
        let request = Acquire::new(&format!("held-{number}")).ttl_ms(TTL_MS);
        let granted = request.granted_by_any(&nodes).await;
        holders.push(tokio::spawn(keep(granted, nodes.clone(), flood.clone())));
    }
    let before: Vec<u64> = (0..cluster.len())
        .map(|node| memory_kib(cluster.pid(node), "VmRSS"))
        .collect();
    let committed = async || {
        let mut most = 0.0_f64;
        for http in &nodes {
            let scrape = Scrape::of(http).await;
            most = most.max(scrape.get("raft_committed_index", &[]).unwrap());
        }
        most as u64
    };
    let committed_before = committed().await;

    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let address = cluster.http_address(client % cluster.len());
            let lock = format!("held-{}", client % HOLDERS);
            tokio::spawn(try_again_and_again(address, lock, flood.clone()))
        })
        .collect();
    let offered_kib = || flood.offered.load(Ordering::Relaxed) * VALUE_BYTES as u64 / 1024;
    let allowed_kib = |taken: u64| GROWTH_LIMIT_KIB + 2 * taken * VALUE_BYTES as u64 / 1024;
    let taken = within(LIMIT, "far more is offered than taken", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let taken = committed().await - committed_before;
        let offered = flood.offered.load(Ordering::Relaxed);
        let enough = offered > EXCESS * taken
            && offered_kib() > allowed_kib(taken) * cluster.len() as u64
            && began.elapsed() > TTLS * Duration::from_millis(TTL_MS);
        enough.then_some(taken)
    })
    .await;
    flood.over.store(true, Ordering::Relaxed);
    let lasted = began.elapsed();
    for client in clients {
        client.await.unwrap();
    }

    let mut renewals = 0;
    for holder in holders {
        let (granted, own) = holder.await.unwrap();
        assert!(own > 0);
        renewals += own;
        let released = granted.release(&cluster.http(0)).await.expect(200);
        assert_eq!(
            released["was_held"], true,
            "the lease lived through the flood"
        );
    }
    assert!(flood.overloaded.load(Ordering::Relaxed) > 0);
    let mut grown = Vec::new();
    for (node, before) in before.into_iter().enumerate() {
        let scrape = Scrape::of(&cluster.http(node)).await;
        let get = |name| scrape.get(name, &[]).unwrap();
        let mean_sync = get("raft_log_sync_seconds_sum") / get("raft_log_sync_seconds_count");
        assert!(
            mean_sync * 1000.0 >= SYNC_MS as f64,
            "the disk is slow: {mean_sync} s"
        );
        let peak = memory_kib(cluster.pid(node), "VmHWM");
        grown.push(peak.saturating_sub(before));
    }
    eprintln!(
        "{taken} entries taken of {} requests with {} MiB in {lasted:?}, {} refused as overloaded; \
         {renewals} renewals of {HOLDERS} leases; memory grew by {grown:?} KiB",
        flood.offered.load(Ordering::Relaxed),
        offered_kib() >> 10,
        flood.overloaded.load(Ordering::Relaxed),
    );
    for growth in grown {
        assert!(growth < allowed_kib(taken), "memory grew by {growth} KiB");
    }
}

#[tokio::test]
async fn a_refusal_for_overload_says_when_to_come_back() {
    // Nothing is applied without a majority, so two requests fill what one node takes.
    let mut cluster = Cluster::builder(3)
        .arguments(["--max-in-flight-proposals", "2"])
        .start()
        .await;
    let leader = cluster.leader().await;
    for node in (0..3).filter(|node| *node != leader) {
        cluster.stop(node);
    }
    let http = cluster.http(leader);
    let waiting: Vec<_> = (0..2).map(|_| Acquire::new("job").spawn(&http)).collect();
    let reply = within(LIMIT, "the node is full", async || {
        let another = Acquire::new("job");
        let reply = http.post_with_timeout_ms(path::ACQUIRE, 50, another.body());
        let reply = reply.await;
        (reply.code() == "overloaded").then_some(reply)
    })
    .await;
    assert_eq!(reply.header("retry-after"), Some("1"));
    let problem = reply.expect_problem(503, "overloaded");
    assert_eq!(problem["retryable"], true);
    assert_eq!(problem["outcome"], "not_applied");
    for node in (0..3).filter(|node| *node != leader) {
        cluster.cont(node);
    }
    for reply in waiting {
        // Taken, or refused, or given up: but answered.
        reply.await.unwrap();
    }
}
