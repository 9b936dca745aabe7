//! How a held lock is kept and lost.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may crash: that is how it fails"
)]

mod fake_server;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake_server::{FakeServer, Reaction, granted, problem, released, renewed};
use lock_client::{Client, Error, HoldState, LockGuard, LockRequest, Loss};
use serde_json::json;

const TTL: Duration = Duration::from_millis(3_000);

/// Grants at once, and reacts to the n-th renewal (from 0) as the test says.
fn server(renew: impl Fn(usize) -> Reaction + Send + Sync + 'static) -> FakeServer {
    let count = AtomicUsize::new(0);
    FakeServer::start(move |request| match request.path.as_str() {
        "/v1/acquire" => granted(request, true),
        "/v1/renew" => renew(count.fetch_add(1, Ordering::SeqCst)),
        "/v1/release" => released(),
        other => panic!("nobody should ask for {other}"),
    })
}

fn client(server: &FakeServer) -> Client {
    Client::builder()
        .endpoints([&server.endpoint])
        .build()
        .unwrap()
}

fn request(server: &FakeServer) -> LockRequest {
    client(server)
        .lock("a")
        .ttl(TTL)
        .stop_time(Duration::from_millis(800))
}

async fn take(server: &FakeServer) -> LockGuard {
    request(server).acquire().await.unwrap()
}

#[tokio::test]
async fn confirmed_renewals_move_the_deadline_and_the_lock_outlives_its_ttl() {
    let server = server(|_| renewed(3_000));
    let held = take(&server).await;
    let mut watch = held.watch();
    let HoldState::Held { deadline: first } = watch.next().await else {
        panic!("not held")
    };
    while !first.is_reached() {
        let HoldState::Held { deadline } = watch.next().await else {
            panic!("lost")
        };
        assert!(deadline > first);
    }
    assert!(held.is_held());
    held.release().await.unwrap();
}

#[tokio::test]
async fn when_renewals_hang_the_lock_is_lost_before_its_ttl() {
    let server = server(|_| Reaction::Hang);
    let begun = Instant::now();
    let held = take(&server).await;
    let deadline = held.check().unwrap();
    let loss = held.lost().await;
    assert!(begun.elapsed() < TTL, "lost after {:?}", begun.elapsed());
    assert!(deadline.is_reached(), "lost before the local deadline");
    assert!(matches!(loss, Loss::NotRenewed { .. }), "{loss}");
    assert!(!held.is_held());
}

#[tokio::test]
async fn a_blocked_runtime_does_not_keep_a_lock_believed() {
    let server = server(|_| Reaction::Hang);
    let held = take(&server).await;
    assert!(held.is_held());
    // On this one-threaded runtime no task runs meanwhile, as in a process that was stopped.
    std::thread::sleep(TTL);
    assert!(!held.is_held());
    assert!(held.token().is_err(), "its first use is refused");
}

#[tokio::test]
async fn an_ended_lease_is_lost_at_once() {
    let server = server(|_| problem("lease_ended"));
    let held = take(&server).await;
    assert!(matches!(held.lost().await, Loss::LeaseEnded(_)));
}

#[tokio::test]
async fn a_lease_that_no_longer_holds_the_lock_is_a_loss() {
    let server = server(|_| {
        let body = json!({
            "lease_id": "0".repeat(32), "ttl_ms": 3_000, "renew_after_ms": 300,
            "remaining_ms": 3_000, "position": "9.0", "holds": [],
        });
        Reaction::Answer(200, body)
    });
    let held = take(&server).await;
    assert_eq!(held.lost().await, Loss::NotHeld);
}

#[tokio::test]
async fn failed_renewals_are_tried_again_until_one_is_confirmed() {
    let server = server(|n| match n % 3 {
        0 => Reaction::Drop,
        1 => problem("no_leader"),
        _ => renewed(3_000),
    });
    let held = take(&server).await;
    let mut watch = held.watch();
    for _ in 0..4 {
        assert!(matches!(watch.next().await, HoldState::Held { .. }));
    }
}

#[tokio::test]
async fn an_answer_that_comes_after_the_deadline_moves_nothing() {
    let late = || match renewed(3_000) {
        Reaction::Answer(status, body) => Reaction::Later(TTL, status, body),
        other => other,
    };
    let server = server(move |_| late());
    let held = take(&server).await;
    held.lost().await;
    tokio::time::sleep(TTL).await;
    assert!(!held.is_held());
    assert!(matches!(held.lost().await, Loss::NotRenewed { .. }));
}

#[tokio::test]
async fn a_ttl_without_room_for_the_stop_time_is_refused_before_anything_is_sent() {
    let server = server(|_| renewed(3_000));
    let request = request(&server).stop_time(Duration::from_secs(3));
    match request.acquire().await.unwrap_err() {
        Error::TtlTooShort {
            ttl_ms: 3_000,
            smallest_ttl_ms,
            ..
        } => {
            assert!(smallest_ttl_ms > 3_000);
        }
        other => panic!("{other}"),
    }
    assert!(server.requests("/v1/acquire").is_empty());
}

#[tokio::test]
async fn work_under_a_guard_is_dropped_when_the_lock_is_lost() {
    let server = server(|_| problem("lease_ended"));
    let held = take(&server).await;
    let worked = held.run(std::future::pending::<()>()).await;
    assert!(matches!(worked, Err(Loss::LeaseEnded(_))));

    let healthy = self::server(|_| renewed(3_000));
    let held = take(&healthy).await;
    assert_eq!(held.run(async { 7 }).await, Ok(7));
}

#[tokio::test]
async fn the_guards_of_a_session_share_its_renewals_and_end_with_it() {
    let server = FakeServer::start(|request| match request.path.as_str() {
        "/v1/leases" => {
            let body = json!({
                "lease": request.body["lease"], "lease_id": "0".repeat(32), "ttl_ms": 3_000,
                "renew_after_ms": 300, "remaining_ms": 3_000, "position": "1.0",
            });
            Reaction::Answer(200, body)
        }
        "/v1/acquire" => {
            assert!(
                request.body.get("ttl_ms").is_none(),
                "the session has its own"
            );
            granted_with(request)
        }
        "/v1/renew" => renewed(3_000),
        "/v1/release" => released(),
        "/v1/leases/revoke" => {
            let body = json!({
                "lease_id": "0".repeat(32), "was_live": true, "position": "3.0",
            });
            Reaction::Answer(200, body)
        }
        other => panic!("nobody should ask for {other}"),
    });
    let session = client(&server).session();
    let session = session.ttl(TTL).stop_time(Duration::from_millis(100));
    let session = session.open().await.unwrap();
    let first = session.lock("a").acquire().await.unwrap();
    // A renewal that was sent after the grant lists its token, or the guard would be lost.
    let mut watch = first.watch();
    for _ in 0..3 {
        assert!(matches!(watch.next().await, HoldState::Held { .. }));
    }
    let lease = server.requests("/v1/leases")[0].body["lease"].clone();
    assert_eq!(server.requests("/v1/acquire")[0].body["lease"], lease);
    session.close().await.unwrap();
    assert!(first.token().is_err(), "the session is closed");
    assert!(session_revoked_once(&server));
}

fn session_revoked_once(server: &FakeServer) -> bool {
    server.requests("/v1/leases/revoke").len() == 1
}

/// A grant to a request that names no TTL.
fn granted_with(request: &fake_server::Request) -> Reaction {
    let mut request = request.clone();
    request.body["ttl_ms"] = json!(3_000);
    granted(&request, true)
}
