//! Modes, several locks at once, force release, and where secrets are not, over HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::{Acquire, Cluster, eventually, holder, new_secret};

fn locks(names: &[(&str, &str)]) -> Value {
    names
        .iter()
        .map(|(name, mode)| json!({"name": name, "mode": mode}))
        .collect()
}

#[tokio::test]
async fn several_locks_in_mixed_modes_are_granted_together_and_explained_while_they_wait() {
    let cluster = Cluster::start().await;
    let [reader, second, writer] = [new_secret(), new_secret(), new_secret()];
    let read = |lease: &str| {
        json!({"locks": locks(&[("a", "shared"), ("b", "shared")]), "lease": lease,
            "request_id": "r", "ttl_ms": 60_000, "owner": "reader"})
    };
    let first = cluster
        .http(0)
        .post("/v1/acquire", &read(&reader))
        .await
        .expect(200);
    let joined = cluster
        .http(1)
        .post("/v1/acquire", &read(&second))
        .await
        .expect(200);
    assert_eq!(
        first["locks"], joined["locks"],
        "sharers have one token each lock"
    );
    let wanted = json!({"locks": locks(&[("c", "exclusive"), ("b", "exclusive")]), "lease": writer,
        "request_id": "w", "wait_ms": 60_000, "ttl_ms": 60_000});
    let queued = cluster
        .http(2)
        .post_with_timeout_ms("/v1/acquire", 300, &wanted)
        .await;
    let queued = queued.expect(202);
    assert_eq!(queued["queue"].as_array().unwrap().len(), 2, "{queued}");
    // `c` is free and idles behind a request that cannot have `b`.
    let view = cluster.http(0).lock("c").await;
    assert_eq!(view["holders"], json!([]), "{view}");
    assert_eq!(view["queue"][0]["mode"], "exclusive", "{view}");
    assert_eq!(view["first_waits_for"]["lock"], "b", "{view}");
    assert_eq!(view["first_waits_for"]["reason"], "held", "{view}");
    assert_eq!(view["first_waits_for"]["holder_owner"], "reader", "{view}");
    for (lease, grants) in [(&reader, &first), (&second, &joined)] {
        let tokens: Vec<_> = grants["locks"].as_array().unwrap().iter().collect();
        let tokens: Vec<_> = tokens.iter().map(|hold| hold["token"].clone()).collect();
        let body = json!({"lease": lease, "tokens": tokens});
        cluster.http(1).post("/v1/release", &body).await.expect(200);
    }
    let granted = cluster
        .http(1)
        .post("/v1/acquire", &wanted)
        .await
        .expect(200);
    let names: Vec<_> = granted["locks"].as_array().unwrap().iter().collect();
    let names: Vec<_> = names
        .iter()
        .map(|hold| hold["lock"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["b", "c"], "{granted}");
    let old = first["locks"][1]["token"].as_u64().unwrap();
    assert!(granted["locks"][0]["token"].as_u64().unwrap() > old);
}

#[tokio::test]
async fn permits_are_granted_up_to_their_limit_which_cannot_change_meanwhile() {
    let cluster = Cluster::start().await;
    let permit = |limit: u32| {
        Acquire::new("pool")
            .with("mode", "permits")
            .with("limit", limit)
    };
    for node in 0..2 {
        permit(2).send(&cluster.http(node)).await.expect(200);
    }
    let full = permit(2).send(&cluster.http(2)).await;
    assert_eq!(full.expect_problem(409, "lock_held")["reason"], "held");
    let other = permit(3).send(&cluster.http(0)).await;
    other.expect_problem(409, "mode_mismatch");
    let exclusive = Acquire::new("pool").send(&cluster.http(1)).await;
    exclusive.expect_problem(409, "mode_mismatch");
    let view = cluster.http(2).lock("pool").await;
    assert_eq!(view["limit"], 2, "{view}");
    assert_eq!(view["holders"].as_array().unwrap().len(), 2, "{view}");
}

#[tokio::test]
async fn a_lock_that_is_released_by_force_is_held_back_and_the_old_holder_is_told() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("job").granted(&cluster.http(0)).await;
    let mut body = json!({
        "lock": "job", "token": held.token + 1, "lease_id": held.request.lease_id(),
    });
    let path = "/v1/locks/force-release";
    let reply = cluster.http(1).post(path, &body).await;
    reply.expect_problem(409, "token_stale");
    assert_eq!(
        holder(&cluster.http(2).lock("job").await)["token"],
        held.token
    );
    body["token"] = json!(held.token);
    let forced = cluster.http(1).post(path, &body).await.expect(200);
    assert_eq!(forced["was_live"], true, "{forced}");
    assert_eq!(forced["released"][0]["token"], held.token, "{forced}");
    assert!(forced["held_back_ms"].as_u64().unwrap() > 0, "{forced}");
    let view = cluster.http(2).lock("job").await;
    assert_eq!(
        (&view["blocked_by"], &view["holders"]),
        (&json!("held_back"), &json!([]))
    );
    let refused = Acquire::new("job").send(&cluster.http(0)).await;
    assert_eq!(
        refused.expect_problem(409, "lock_held")["reason"],
        "held_back"
    );
    held.renew(&cluster.http(2))
        .await
        .expect_problem(409, "lease_ended");
    assert!(
        cluster.log(1).contains("force release of job"),
        "it is in the log"
    );

    let held = Acquire::new("other").granted(&cluster.http(0)).await;
    let body = json!({"lease_id": held.request.lease_id(), "now": true});
    let revoked = cluster
        .http(2)
        .post("/v1/leases/revoke", &body)
        .await
        .expect(200);
    assert_eq!(revoked["held_back_ms"], 0, "{revoked}");
    Acquire::new("other").granted(&cluster.http(1)).await;
}

/// Cluster time counts whole milliseconds, and a stamp may be rounded down by one of them.
const ROUNDING: Duration = Duration::from_millis(2);

#[tokio::test]
async fn a_lock_that_expired_with_a_delay_is_free_only_after_it_and_a_release_has_none() {
    let cluster = Cluster::start().await;
    let delayed = |lock: &str| {
        Acquire::new(lock)
            .with("lock_delay_ms", 5_000)
            .ttl_ms(2_000)
    };
    let released = delayed("other").granted(&cluster.http(0)).await;
    released.release(&cluster.http(1)).await.expect(200);
    Acquire::new("other").granted(&cluster.http(2)).await;

    let expired = delayed("job").granted(&cluster.http(0)).await;
    let waiter = Acquire::new("job").wait_ms(120_000);
    let waiting = waiter.queue_up(&cluster.http(1)).await;
    let view = eventually("the lock is delayed", async || {
        let view = cluster.http(2).lock("job").await;
        (view["blocked_by"] == "delayed").then_some(view)
    })
    .await;
    assert_eq!(view["holders"], json!([]), "{view}");
    assert_eq!(view["first_waits_for"]["reason"], "delayed", "{view}");
    let refused = Acquire::new("job").send(&cluster.http(0)).await;
    let problem = refused.expect_problem(409, "lock_held");
    // Not `queued`: it is not the waiter that keeps the lock.
    assert_eq!(problem["reason"], "delayed", "{problem}");
    let late = expired.renew(&cluster.http(2)).await;
    late.expect_problem(409, "lease_ended");

    let granted = waiting.await.unwrap();
    let lost_after = expired.sent.elapsed();
    assert!(
        lost_after + ROUNDING >= Duration::from_secs(2 + 5),
        "granted after {lost_after:?}"
    );
    assert!(granted.token > expired.token);
}

#[tokio::test]
async fn a_lock_that_is_held_back_goes_to_the_next_after_the_old_deadline_and_the_delay() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("job")
        .ttl_ms(3_000)
        .with("lock_delay_ms", 1_000)
        .granted(&cluster.http(0))
        .await;
    let waiter = Acquire::new("job").wait_ms(120_000);
    let waiting = waiter.queue_up(&cluster.http(1)).await;
    let body = json!({
        "lock": "job", "token": held.token, "lease_id": held.request.lease_id(),
    });
    let path = "/v1/locks/force-release";
    let forced = cluster.http(2).post(path, &body).await.expect(200);
    let held_back_ms = forced["held_back_ms"].as_u64().unwrap();
    assert!((1..=4_000).contains(&held_back_ms), "{forced}");
    // A repeat ends nothing more.
    let again = cluster.http(0).post(path, &body).await;
    again.expect_problem(409, "lease_ended");

    let granted = waiting.await.unwrap();
    let lost_after = held.sent.elapsed();
    assert!(
        lost_after + ROUNDING >= Duration::from_secs(3 + 1),
        "granted after {lost_after:?}"
    );
    assert!(granted.token > held.token);
}

fn files_below(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files_below(&path, found),
            false => found.push((path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
}

#[tokio::test]
async fn a_leases_secret_is_in_no_log_error_listing_metric_snapshot_or_backup() {
    let mut cluster = Cluster::start().await;
    let http = cluster.http(0);
    let held = Acquire::new("job").granted(&http).await;
    let secret = held.request.lease().to_owned();
    let mut shown = Vec::new();
    let reply = Acquire::new("job")
        .on_lease(&secret)
        .with("request_id", "other")
        .send(&http)
        .await;
    shown.push(reply.expect_problem(409, "already_held"));
    let reply = held.release_token(&http, held.token + 1).await;
    shown.push(reply.expect_problem(409, "token_stale"));
    let body = json!({"lease": secret, "token": "wrong"});
    let reply = http.post("/v1/release", &body).await;
    shown.push(reply.expect_problem(400, "invalid_request"));
    for path in [
        "/v1/locks",
        "/v1/leases",
        "/metrics",
        "/v1/cluster",
        "/v1/cluster/backup",
    ] {
        shown.push(http.get(path).await.expect(200));
    }
    http.post("/v1/cluster/snapshot", &json!({}))
        .await
        .expect(200);
    eventually("the snapshot is written", async || {
        cluster.log(0).contains("snapshot built").then_some(())
    })
    .await;
    cluster.kill9_all();
    let mut found = Vec::new();
    files_below(cluster.folder(), &mut found);
    assert!(found.len() > 6, "logs and data");
    for answer in shown {
        found.push(("an answer".to_owned(), answer.to_string().into_bytes()));
    }
    let digits = secret.clone().into_bytes();
    let raw: Vec<u8> = (0..16)
        .map(|at| u8::from_str_radix(&secret[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    for (place, bytes) in found {
        for needle in [&digits, &raw] {
            let shows = bytes
                .windows(needle.len())
                .any(|window| window == needle.as_slice());
            assert!(!shows, "{place} shows the secret");
        }
    }
}
