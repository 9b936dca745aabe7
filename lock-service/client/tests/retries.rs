//! What the client does when answers are refusals, late, or lost.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may crash: that is how it fails"
)]

mod fake_server;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fake_server::{
    FakeServer, Reaction, Request, TOKEN, cancelled, granted, problem, queued, released, renewed,
};
use lock_api::{ErrorCode, FenceVerdict};
use lock_client::{Client, Error, FencingToken, LockGuard};
use serde_json::json;

fn client(servers: &[&FakeServer]) -> Client {
    Client::builder()
        .endpoints(servers.iter().map(|server| &server.endpoint))
        .request_timeout(Duration::from_secs(20))
        .attempt_timeout(Duration::from_millis(500))
        .build()
        .unwrap()
}

/// A server that reacts to the n-th acquire (from 0) as the test says, and to the rest as it should.
fn server(acquire: impl Fn(usize, &Request) -> Reaction + Send + Sync + 'static) -> FakeServer {
    let count = AtomicUsize::new(0);
    FakeServer::start(move |request| match request.path.as_str() {
        "/v1/acquire" => acquire(count.fetch_add(1, Ordering::SeqCst), request),
        "/v1/renew" => renewed(15_000),
        "/v1/release" => released(),
        "/v1/cancel" => cancelled(),
        other => panic!("nobody should ask for {other}"),
    })
}

/// A try for the lock.
async fn take(client: &Client) -> Result<LockGuard, Error> {
    client.lock("a").acquire().await
}

/// Whether the grant had to be renewed before it was believed.
fn was_believed_at_once(servers: &[&FakeServer]) -> bool {
    servers
        .iter()
        .all(|server| server.requests("/v1/renew").is_empty())
}

fn same_ids(requests: &[Request]) -> bool {
    requests.windows(2).all(|pair| pair[0].body == pair[1].body)
        && requests
            .iter()
            .all(|request| request.body["request_id"].is_string())
}

#[tokio::test]
async fn a_503_is_tried_again_and_the_grant_counts_as_the_first() {
    let server = server(|n, request| {
        if n < 2 {
            problem("no_leader")
        } else {
            granted(request, true)
        }
    });
    let client = client(&[&server]);
    let guard = take(&client).await.unwrap();
    assert_eq!(guard.token(), Ok(FencingToken(TOKEN)));
    assert!(
        was_believed_at_once(&[&server]),
        "a 503 proves that nothing was applied"
    );
    assert!(same_ids(&server.requests("/v1/acquire")));
}

#[tokio::test]
async fn a_lost_answer_leads_to_one_repeat_with_the_same_ids_and_is_not_believed() {
    let server = server(|n, request| {
        if n == 0 {
            Reaction::Drop
        } else {
            granted(request, true)
        }
    });
    let client = client(&[&server]);
    let guard = take(&client).await.unwrap();
    let requests = server.requests("/v1/acquire");
    assert_eq!(requests.len(), 2);
    assert!(same_ids(&requests));
    assert!(
        guard.is_held() && !was_believed_at_once(&[&server]),
        "nobody knows which sending was granted"
    );
}

#[tokio::test]
async fn a_504_leads_to_a_repeat_on_the_next_node_with_the_same_ids() {
    static FIRST: AtomicUsize = AtomicUsize::new(0);
    let answer = |_: usize, request: &Request| match FIRST.fetch_add(1, Ordering::SeqCst) {
        0 => problem("deadline_exceeded"),
        _ => granted(request, true),
    };
    let (one, two) = (server(answer), server(answer));
    let client = client(&[&one, &two]);
    let guard = take(&client).await.unwrap();
    assert!(guard.is_held() && !was_believed_at_once(&[&one, &two]));
    let requests = [one.requests("/v1/acquire"), two.requests("/v1/acquire")];
    assert_eq!([requests[0].len(), requests[1].len()], [1, 1]);
    assert!(same_ids(&requests.concat()));
}

#[tokio::test]
async fn a_node_that_hangs_or_refuses_connections_is_passed_over() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone_endpoint = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let hangs = server(|_, _| Reaction::Hang);
    let works = server(|_, request| granted(request, true));
    let client = Client::builder()
        .endpoints([&gone_endpoint, &hangs.endpoint, &works.endpoint])
        .request_timeout(Duration::from_secs(20))
        .attempt_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    for _ in 0..3 {
        drop(take(&client).await.unwrap());
    }
}

#[tokio::test]
async fn a_wait_goes_on_over_202_and_a_queued_grant_is_renewed_before_it_is_believed() {
    let server = server(|n, request| {
        if n < 3 {
            queued(request)
        } else {
            granted(request, false)
        }
    });
    let held = client(&[&server])
        .lock("a")
        .wait(Duration::from_secs(30))
        .acquire()
        .await
        .unwrap();
    assert!(held.is_held());
    let requests = server.requests("/v1/acquire");
    assert_eq!(requests.len(), 4);
    assert!(same_ids(&requests));
    assert_eq!(server.requests("/v1/renew").len(), 1);
    assert!(held.release().await.unwrap().was_held);
}

#[tokio::test]
async fn a_repeated_grant_is_renewed_before_it_is_believed_and_a_first_one_is_not() {
    let repeated = server(|n, request| {
        if n == 0 {
            Reaction::Drop
        } else {
            granted(request, true)
        }
    });
    let held = take(&client(&[&repeated])).await.unwrap();
    assert_eq!(repeated.requests("/v1/renew").len(), 1);
    held.release().await.unwrap();

    let first = server(|_, request| granted(request, true));
    let held = take(&client(&[&first])).await.unwrap();
    assert_eq!(first.requests("/v1/renew").len(), 0);
    held.release().await.unwrap();
}

#[tokio::test]
async fn no_answer_until_the_deadline_is_unknown_and_carries_the_ids() {
    let server = server(|_, _| Reaction::Hang);
    let client = client(&[&server]).with_timeout(Duration::from_millis(1_200));
    let error = take(&client).await.unwrap_err();
    let sent = server.requests("/v1/acquire");
    assert!(sent.len() >= 2 && same_ids(&sent));
    match error {
        Error::Unknown {
            lease: Some(lease),
            request_id: Some(request_id),
            failures,
            ..
        } => {
            assert_eq!(json!(lease.reveal()), sent[0].body["lease"]);
            assert_eq!(json!(request_id.as_str()), sent[0].body["request_id"]);
            assert!(failures[0].reason.contains("no answer"), "{failures:?}");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_503_after_a_lost_answer_does_not_make_the_outcome_known() {
    let server = server(|n, _| {
        if n == 0 {
            Reaction::Drop
        } else {
            problem("no_leader")
        }
    });
    let client = client(&[&server]).with_timeout(Duration::from_millis(800));
    let error = take(&client).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
}

#[tokio::test]
async fn a_refusal_before_the_log_after_a_lost_answer_does_not_make_the_outcome_known() {
    let server = server(|n, _| {
        if n == 0 {
            Reaction::Drop
        } else {
            problem("invalid_request")
        }
    });
    let error = take(&client(&[&server])).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
}

#[tokio::test]
async fn a_decision_after_a_lost_answer_is_the_outcome() {
    let server = server(|n, _| {
        if n == 0 {
            Reaction::Drop
        } else {
            problem("lock_held")
        }
    });
    let error = take(&client(&[&server])).await.unwrap_err();
    assert_eq!(error.code(), Some(&ErrorCode::LockHeld));
}

#[tokio::test]
async fn only_503s_until_the_deadline_are_unavailable_and_say_what_each_node_said() {
    let server = server(|_, _| problem("no_leader"));
    let client = client(&[&server]).with_timeout(Duration::from_millis(500));
    match take(&client).await.unwrap_err() {
        Error::Unavailable { failures, .. } => {
            assert!(failures[0].reason.contains("no_leader"), "{failures:?}");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_answer_that_is_not_palisades_is_not_taken_for_a_refusal() {
    let server = server(|n, request| match n {
        0 => Reaction::Answer(404, json!({"error": "some other program"})),
        1 => Reaction::Answer(200, json!({"granted": "perhaps"})),
        _ => granted(request, true),
    });
    let client = client(&[&server]);
    let guard = take(&client).await.unwrap();
    assert!(guard.is_held() && !was_believed_at_once(&[&server]));
    assert_eq!(server.requests("/v1/acquire").len(), 3);
}

#[tokio::test]
async fn a_dropped_wait_is_cancelled_in_the_background() {
    let server = server(|_, request| queued(request));
    let client = client(&[&server]);
    let mut lock = Box::pin(client.lock("a").wait(Duration::from_secs(600)).acquire());
    while server.requests("/v1/acquire").is_empty() {
        tokio::select! {
            result = &mut lock => panic!("{result:?}"),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    drop(lock);
    assert!(client.settle(Duration::from_secs(20)).await);
    let (acquire, cancel) = (
        &server.requests("/v1/acquire")[0],
        &server.requests("/v1/cancel")[0],
    );
    assert_eq!(acquire.body["lease"], cancel.body["lease"]);
    assert_eq!(acquire.body["request_id"], cancel.body["request_id"]);
}

#[tokio::test]
async fn a_dropped_lock_is_released_in_the_background() {
    let server = server(|_, request| granted(request, true));
    let client = client(&[&server]);
    drop(take(&client).await.unwrap());
    assert!(client.settle(Duration::from_secs(20)).await);
    assert_eq!(server.requests("/v1/release")[0].body["token"], TOKEN);
}

#[tokio::test]
async fn superseded_and_unknown_tokens_are_answers() {
    for (status, verdict) in [(409, "superseded"), (404, "unknown"), (200, "current")] {
        let server = FakeServer::start(move |request| {
            assert_eq!(request.path, "/v1/fence?lock=a+b%26c&token=7");
            let body = json!({"verdict": verdict, "lock": "a b&c", "token": 7, "position": "1.0"});
            Reaction::Answer(status, body)
        });
        let lock = "a b&c".parse().unwrap();
        let answer = client(&[&server])
            .fence(&lock, FencingToken(7))
            .await
            .unwrap();
        assert_eq!(answer.verdict, FenceVerdict::from(verdict));
    }
}

#[tokio::test]
async fn several_locks_and_modes_are_one_request_and_every_lock_has_its_token() {
    let server = FakeServer::start(|request| match request.path.as_str() {
        "/v1/acquire" => {
            let expected = json!([
                {"name": "a", "mode": "shared"},
                {"name": "b"},
                {"name": "c", "mode": "permits", "permits": 2, "limit": 5},
            ]);
            assert_eq!(request.body["locks"], expected);
            assert_eq!(request.body["lock_delay_ms"], 700);
            let Reaction::Answer(status, mut body) = granted(request, true) else {
                panic!("not an answer")
            };
            body["locks"] = json!([
                {"lock": "c", "mode": "permits", "token": 3},
                {"lock": "a", "mode": "shared", "token": 1},
                {"lock": "b", "mode": "exclusive", "token": 2},
            ]);
            Reaction::Answer(status, body)
        }
        "/v1/release" => {
            assert_eq!(request.body["tokens"], json!([1, 2, 3]));
            released()
        }
        other => panic!("nobody should ask for {other}"),
    });
    let request = client(&[&server]).lock("a").shared().and("b").and("c");
    let request = request.permits(2, 5).lock_delay(Duration::from_millis(700));
    let guard = request.acquire().await.unwrap();
    assert_eq!(guard.token(), Ok(FencingToken(1)));
    let b = "b".parse().unwrap();
    assert_eq!(guard.token_of(&b), Ok(Some(FencingToken(2))));
    guard.release().await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_never_serves_is_left_alone_while_others_do() {
    let bad = server(|_, _| problem("no_leader"));
    let good = server(|_, request| granted(request, true));
    let client = client(&[&bad, &good]);
    for _ in 0..30 {
        take(&client).await.unwrap().release().await.unwrap();
    }
    let asked = bad.requests("/v1/acquire").len();
    assert!(asked <= 1, "asked {asked} times, but the other one serves");
}

#[tokio::test]
async fn a_bearer_token_goes_with_every_request_and_is_not_shown() {
    let server = server(|_, request| granted(request, true));
    let builder = Client::builder().endpoints([&server.endpoint]);
    let builder = builder.bearer_token("sesame-7");
    assert!(!format!("{builder:?}").contains("sesame"));
    let client = builder.build().unwrap();
    assert!(!format!("{client:?}").contains("sesame"));
    take(&client).await.unwrap().release().await.unwrap();
    for path in ["/v1/acquire", "/v1/release"] {
        let request = &server.requests(path)[0];
        assert_eq!(request.authorization.as_deref(), Some("Bearer sesame-7"));
    }
}
