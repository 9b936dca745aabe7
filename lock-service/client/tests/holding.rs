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
use lock_client::{Client, Error, HoldState, LockOptions, Loss};
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

fn options() -> LockOptions {
    LockOptions::new("a")
        .unwrap()
        .ttl(TTL)
        .stop_time(Duration::from_millis(800))
}

#[tokio::test]
async fn confirmed_renewals_move_the_deadline_and_the_lock_outlives_its_ttl() {
    let server = server(|_| renewed(3_000));
    let held = client(&server).lock(options()).await.unwrap();
    let mut state = held.watch();
    let HoldState::Held { deadline: first } = *state.borrow_and_update() else {
        panic!("not held")
    };
    while !first.is_reached() {
        state.changed().await.unwrap();
        let HoldState::Held { deadline } = *state.borrow_and_update() else {
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
    let held = client(&server).lock(options()).await.unwrap();
    let HoldState::Held { deadline } = held.watch().borrow().clone() else {
        panic!("not held")
    };
    let loss = held.lost().await;
    assert!(begun.elapsed() < TTL, "lost after {:?}", begun.elapsed());
    assert!(deadline.is_reached(), "lost before the local deadline");
    assert!(matches!(loss, Loss::NotRenewed { .. }), "{loss}");
    assert!(!held.is_held());
}

#[tokio::test]
async fn a_blocked_runtime_does_not_keep_a_lock_believed() {
    let server = server(|_| Reaction::Hang);
    let held = client(&server).lock(options()).await.unwrap();
    assert!(held.is_held());
    // On this one-threaded runtime no task runs meanwhile, as in a process that was stopped.
    std::thread::sleep(TTL);
    assert!(!held.is_held());
}

#[tokio::test]
async fn an_ended_lease_is_lost_at_once() {
    let server = server(|_| problem("lease_ended"));
    let held = client(&server).lock(options()).await.unwrap();
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
    let held = client(&server).lock(options()).await.unwrap();
    assert_eq!(held.lost().await, Loss::NotHeld);
}

#[tokio::test]
async fn failed_renewals_are_tried_again_until_one_is_confirmed() {
    let server = server(|n| match n % 3 {
        0 => Reaction::Drop,
        1 => problem("no_leader"),
        _ => renewed(3_000),
    });
    let held = client(&server).lock(options()).await.unwrap();
    let mut state = held.watch();
    for _ in 0..3 {
        state.changed().await.unwrap();
        assert!(matches!(*state.borrow(), HoldState::Held { .. }));
    }
}

#[tokio::test]
async fn an_answer_that_comes_after_the_deadline_moves_nothing() {
    let late = || match renewed(3_000) {
        Reaction::Answer(status, body) => Reaction::Later(TTL, status, body),
        other => other,
    };
    let server = server(move |_| late());
    let held = client(&server).lock(options()).await.unwrap();
    held.lost().await;
    tokio::time::sleep(TTL).await;
    assert!(!held.is_held());
    assert!(matches!(held.lost().await, Loss::NotRenewed { .. }));
}

#[tokio::test]
async fn a_ttl_without_room_for_the_stop_time_is_refused_before_anything_is_sent() {
    let server = server(|_| renewed(3_000));
    let options = options().stop_time(Duration::from_secs(3));
    match client(&server).lock(options).await.unwrap_err() {
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
