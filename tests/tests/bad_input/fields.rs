//! Fields of JSON bodies: missing, unknown, of the wrong type, out of bounds.

use serde_json::{Value, json};
use tests::raw::post_json;
use tests::{Acquire, Cluster, new_secret, queue};

use crate::support::{INVALID, Tried, Witness};

#[tokio::test]
async fn fields_of_an_acquire_are_refused_by_name() {
    let cluster = Cluster::start().await;
    let witness = Witness::of(&cluster).await;
    let long = |length: usize| json!("a".repeat(length));
    let cases = [
        ("lock", json!("")),
        ("lock", long(513)),
        ("lock", json!("é".repeat(257))),
        ("lock", json!("a\nb")),
        ("lock", json!("a\u{0}b")),
        ("lock", json!(5)),
        ("lock", json!(["a"])),
        ("lock", Value::Null),
        ("ttl_ms", json!(0)),
        ("ttl_ms", json!(-1)),
        ("ttl_ms", json!(1.5)),
        ("ttl_ms", json!(1e20)),
        ("ttl_ms", json!("15s")),
        ("ttl_ms", json!(true)),
        ("ttl_ms", json!(1_999)),
        ("ttl_ms", json!(3_600_001)),
        ("ttl_ms", json!(u64::MAX)),
        ("wait_ms", json!(-1)),
        ("wait_ms", json!(0.5)),
        ("wait_ms", json!("30s")),
        ("wait_ms", Value::Null),
        ("owner", json!("")),
        ("owner", long(257)),
        ("owner", json!("a\tb")),
        ("owner", json!({})),
        ("value", long(4097)),
        ("value", json!(7)),
        ("lease", json!("")),
        ("lease", json!("short")),
        ("lease", json!("ABABABABABABABABABABABABABABABAB")),
        ("lease", json!(5)),
        ("request_id", json!("")),
        ("request_id", long(65)),
        ("request_id", json!("a\u{7f}")),
        ("mode", json!("intent")),
        ("mode", json!(1)),
        ("permits", json!(2)),
        ("limit", json!(2)),
        ("locks", json!([{"name": "a"}])),
        ("lock_delay_ms", json!(-5)),
        ("lock_delay_ms", json!(3_600_001)),
        ("ttl", json!(15)),
        ("Lock", json!("a")),
    ];
    for node in 0..3 {
        let mut tried = Tried::on(&cluster, node).await;
        for (field, value) in &cases {
            let mut body = json!({"lock": "new"});
            body[field] = value.clone();
            let request = post_json("/v1/acquire", body.to_string().as_bytes());
            tried.refused(&request, 400, INVALID, Some(field)).await;
        }
        // What no JSON library writes.
        for (body, field) in [
            (
                &b"{\"lock\":\"new\",\"ttl_ms\":100000000000000000000}"[..],
                "ttl_ms",
            ),
            (b"{\"lock\":\"new\",\"wait_ms\":1e400}", "wait_ms"),
            (b"{\"lock\":\"a\xff\"}", "lock"),
            (b"{\"lock\":\"\xc3\x28\"}", "lock"),
            (b"{\"lock\":\"\\ud800\"}", "lock"),
            (b"{\"lock\":\"a\",\"lock\":\"b\"}", "lock"),
            (b"{}", "lock"),
        ] {
            tried
                .refused(&post_json("/v1/acquire", body), 400, INVALID, Some(field))
                .await;
        }
    }
    witness.assert_unchanged(&cluster).await;
}

#[tokio::test]
async fn fields_of_the_other_requests_are_refused_by_name() {
    let cluster = Cluster::start().await;
    let witness = Witness::of(&cluster).await;
    let lease = &witness.lease;
    let leases = vec![lease; 1025];
    let tokens = vec![1; 1025];
    let cases = [
        ("/v1/release", json!({"token": 1}), "lease"),
        ("/v1/release", json!({"lease": lease}), "token"),
        (
            "/v1/release",
            json!({"lease": lease, "token": 1, "tokens": [1]}),
            "token",
        ),
        (
            "/v1/release",
            json!({"lease": lease, "tokens": []}),
            "token",
        ),
        (
            "/v1/release",
            json!({"lease": lease, "tokens": tokens}),
            "token",
        ),
        ("/v1/release", json!({"lease": lease, "token": -1}), "token"),
        (
            "/v1/release",
            json!({"lease": lease, "token": "1"}),
            "token",
        ),
        (
            "/v1/release",
            json!({"lease": lease, "token": 1.5}),
            "token",
        ),
        (
            "/v1/release",
            json!({"lease": lease, "tokens": [1, -1]}),
            "tokens[1]",
        ),
        (
            "/v1/release",
            json!({"lease": lease, "token": 1, "lock": "held"}),
            "lock",
        ),
        ("/v1/renew", json!({}), "lease"),
        (
            "/v1/renew",
            json!({"lease": lease, "leases": [lease]}),
            "lease",
        ),
        ("/v1/renew", json!({"leases": []}), "lease"),
        ("/v1/renew", json!({"leases": leases}), "lease"),
        ("/v1/renew", json!({"leases": [lease, "x"]}), "leases[1]"),
        (
            "/v1/renew",
            json!({"lease": lease, "ttl_ms": 5_000}),
            "ttl_ms",
        ),
        ("/v1/cancel", json!({"lease": lease}), "request_id"),
        ("/v1/cancel", json!({"request_id": "r"}), "lease"),
        (
            "/v1/cancel",
            json!({"lease": lease, "request_id": 1}),
            "request_id",
        ),
        ("/v1/leases", json!({"ttl_ms": 0}), "ttl_ms"),
        ("/v1/leases", json!({"ttl_ms": 1_999}), "ttl_ms"),
        ("/v1/leases", json!({"owner": ""}), "owner"),
        ("/v1/leases", json!({"lease": 1}), "lease"),
        ("/v1/leases", json!({"metadata": []}), "metadata"),
        ("/v1/leases/revoke", json!({}), "lease"),
        (
            "/v1/leases/revoke",
            json!({"lease": lease, "lease_id": "x"}),
            "lease_id",
        ),
    ];
    let mut tried = Tried::on(&cluster, 0).await;
    for (path, body, field) in &cases {
        let request = post_json(path, body.to_string().as_bytes());
        tried.refused(&request, 400, INVALID, Some(field)).await;
    }
    // Well-formed, and about nothing that is there.
    let unknown = new_secret();
    for (path, body, status, code) in [
        (
            "/v1/renew",
            json!({"lease": unknown}),
            404,
            "lease_not_found",
        ),
        (
            "/v1/release",
            json!({"lease": unknown, "token": 1}),
            404,
            "lease_not_found",
        ),
        (
            "/v1/release",
            json!({"lease": lease, "token": u64::MAX}),
            409,
            "token_stale",
        ),
        (
            "/v1/release",
            json!({"lease": lease, "token": 1u64 << 53}),
            409,
            "token_stale",
        ),
    ] {
        let request = post_json(path, body.to_string().as_bytes());
        tried.refused(&request, status, code, None).await;
    }
    witness.assert_unchanged(&cluster).await;
}

#[tokio::test]
async fn the_largest_numbers_that_are_allowed_do_no_harm() {
    let cluster = Cluster::start().await;
    let held = Acquire::new("held").granted(&cluster.http(0)).await;
    let waiter = Acquire::new("held").with("wait_ms", u64::MAX);
    let reply = cluster
        .http(1)
        .post_with_timeout_ms("/v1/acquire", 500, waiter.body())
        .await;
    reply.expect(202);
    assert_eq!(
        queue(&cluster.http(2).lock("held").await),
        [waiter.lease_id()]
    );
    held.release(&cluster.http(0)).await.expect(200);
    waiter.granted(&cluster.http(2)).await;
    let path = format!("/v1/fence?lock=held&token={}", u64::MAX);
    let fence = cluster.http(0).get(&path).await.expect(404);
    assert_eq!(fence["verdict"], "unknown");
    let name = "é".repeat(256);
    let value = "v".repeat(4096);
    let request = Acquire::new(&name)
        .with("value", value.as_str())
        .ttl_ms(3_600_000);
    request
        .with("owner", "o".repeat(256))
        .granted(&cluster.http(0))
        .await;
}
