//! What no client should send: each is refused by name, on a connection that stays usable, without a
//! change of state. (That no node panics is checked at the end of every test, by `Cluster`.)

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use serde_json::{Value, json};
use tests::raw::{RawConnection, RawReply, get, post, post_json};
use tests::{Acquire, Cluster, Http, holder, new_secret, queue};

/// A connection to a node that must survive everything that is sent on it.
struct Tried {
    connection: RawConnection,
}

impl Tried {
    async fn on(cluster: &Cluster, node: usize) -> Self {
        let connection = RawConnection::open(cluster.http_address(node))
            .await
            .unwrap();
        Self { connection }
    }

    /// Sends a request that must be refused, and one that must work after it.
    async fn refused(&mut self, request: &[u8], status: u16, code: &str, field: Option<&str>) {
        let shown = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
        let reply = self.call(request, &shown).await;
        let body: Value = serde_json::from_slice(&reply.body)
            .unwrap_or_else(|_| panic!("{reply:?} is no problem, for {shown}"));
        let told = (reply.status, body["code"].as_str(), body["field"].as_str());
        assert_eq!(told, (status, Some(code), field), "{body}, for {shown}");
        assert_eq!(body["status"], status, "{body}");
        assert_eq!(body["outcome"], "not_applied", "{body}, for {shown}");
        assert_eq!(body["retryable"], false, "{body}, for {shown}");
        assert!(!body["detail"].as_str().unwrap().is_empty(), "{body}");
        let reply = self.call(&get("/healthz", ""), &shown).await;
        assert_eq!(reply.status, 200, "after {shown}");
    }

    async fn call(&mut self, request: &[u8], shown: &str) -> RawReply {
        let reply = self.connection.call(request).await;
        let reply = reply.unwrap_or_else(|error| panic!("{error}, for {shown}"));
        assert!(!reply.closes, "the connection ends after {shown}");
        reply
    }
}

/// A state worth protecting, and what of it time does not change.
struct Witness {
    lease: String,
    token: u64,
    before: Value,
}

impl Witness {
    async fn of(cluster: &Cluster) -> Self {
        let held = Acquire::new("held")
            .ttl_ms(600_000)
            .granted(&cluster.http(0))
            .await;
        let waiter = Acquire::new("held").wait_ms(600_000);
        // Its own names keep its place when this connection is dropped.
        let mut connection = RawConnection::open(cluster.http_address(1)).await.unwrap();
        let request = post_json("/v1/acquire", waiter.body().to_string().as_bytes());
        connection.send(&request).await.unwrap();
        waiter.seen_queued(&cluster.http(2)).await;
        drop(connection);
        Self {
            before: state(&cluster.http(0)).await,
            lease: held.request.lease().to_owned(),
            token: held.token,
        }
    }

    async fn assert_unchanged(&self, cluster: &Cluster) {
        for node in 0..3 {
            assert_eq!(
                state(&cluster.http(node)).await,
                self.before,
                "n{}",
                node + 1
            );
        }
        let next = Acquire::new("next").granted(&cluster.http(0)).await;
        assert_eq!(
            next.token,
            self.token + 1,
            "a refused request has spent a token"
        );
    }
}

async fn state(http: &Http) -> Value {
    let locks = http.get("/v1/locks?prefix=").await.expect(200);
    let locks = locks["locks"].as_array().unwrap().iter().map(|lock| {
        json!([
            lock["lock"],
            holder(lock)["lease_id"],
            holder(lock)["token"],
            queue(lock)
        ])
    });
    let leases = http.get("/v1/leases").await.expect(200);
    let leases = leases["leases"].as_array().unwrap().iter();
    let leases = leases.map(|lease| json!([lease["lease_id"], lease["ttl_ms"], lease["holds"]]));
    json!([locks.collect::<Vec<_>>(), leases.collect::<Vec<_>>()])
}

const INVALID: &str = "invalid_request";

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
        ("mode", json!("shared")),
        ("mode", json!(1)),
        ("permits", json!(2)),
        ("limit", json!(2)),
        ("locks", json!([{"name": "a"}])),
        ("lock_delay_ms", json!(5)),
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
        ("/v1/leases", json!({"metadata": {}}), "metadata"),
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
async fn bodies_that_are_no_request_are_refused_whatever_they_are() {
    let cluster = Cluster::start().await;
    let witness = Witness::of(&cluster).await;
    let deep = "[".repeat(60_000);
    let bodies: [&[u8]; 14] = [
        b"",
        b" ",
        b"{",
        b"{\"lock\":",
        b"{\"lock\":\"a\"}x",
        b"{\"lock\":\"a\"}{}",
        b"null",
        b"[]",
        b"[\"new\"]",
        b"[\"0123456789abcdef0123456789abcdef\", 1]",
        b"7",
        b"\"a\"",
        b"\xff\xfe\x00",
        deep.as_bytes(),
    ];
    let paths = [
        "/v1/acquire",
        "/v1/renew",
        "/v1/release",
        "/v1/cancel",
        "/v1/leases",
        "/v1/leases/revoke",
    ];
    let mut tried = Tried::on(&cluster, 0).await;
    for path in paths {
        for body in bodies {
            // Whether a field can be named depends on where the text breaks off.
            let reply = tried.call(&post_json(path, body), path).await;
            let text = String::from_utf8_lossy(&reply.body);
            assert_eq!(reply.status, 400, "{path} {body:?}: {text}");
            assert!(text.contains(INVALID), "{path} {body:?}: {text}");
        }
        let form = "lock=new&ttl_ms=15000";
        for content_type in [
            "content-type: application/x-www-form-urlencoded\r\n",
            "content-type: text/plain\r\n",
            "content-type: application/jsonx\r\n",
            "",
        ] {
            for body in [form, "{\"lock\":\"new\"}"] {
                let request = post(path, content_type, body.as_bytes());
                tried
                    .refused(&request, 415, "unsupported_media_type", None)
                    .await;
            }
        }
        // These are JSON: only the body is wrong.
        for content_type in [
            "content-type: application/json; charset=utf-8\r\n",
            "Content-Type: Application/JSON\r\n",
        ] {
            let reply = tried.call(&post(path, content_type, b"["), path).await;
            assert_eq!(reply.status, 400);
        }
    }
    witness.assert_unchanged(&cluster).await;
}

/// The same bytes in chunks, without a content length.
fn chunked(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: palisade\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for chunk in body.chunks(100_000) {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

#[tokio::test]
async fn a_body_of_10_mb_is_refused_and_its_connection_stays_usable() {
    let cluster = Cluster::start().await;
    let witness = Witness::of(&cluster).await;
    let mut large = b"{\"lock\":\"".to_vec();
    large.resize(10_000_000, b'a');
    large.extend_from_slice(b"\"}");
    let slightly = &large[..lock_api::MAX_BODY_BYTES + 1];
    for path in ["/v1/acquire", "/v1/renew", "/v1/leases"] {
        let mut tried = Tried::on(&cluster, 1).await;
        for body in [&large[..], slightly] {
            let json = "content-type: application/json\r\n";
            tried
                .refused(&post_json(path, body), 413, "too_large", None)
                .await;
            tried
                .refused(&chunked(path, body), 413, "too_large", None)
                .await;
            let waits = format!("{json}expect: 100-continue\r\n");
            tried
                .refused(&post(path, &waits, body), 413, "too_large", None)
                .await;
            let form = "content-type: application/x-www-form-urlencoded\r\n";
            let request = post(path, form, body);
            tried
                .refused(&request, 415, "unsupported_media_type", None)
                .await;
        }
        // Where the limit is, the body counts for what it says.
        let exactly = &large[..lock_api::MAX_BODY_BYTES];
        let reply = tried.call(&post_json(path, exactly), path).await;
        assert_eq!(reply.status, 400);
    }
    witness.assert_unchanged(&cluster).await;
}

#[tokio::test]
async fn queries_are_refused_by_parameter() {
    let cluster = Cluster::start().await;
    let witness = Witness::of(&cluster).await;
    let long = "a".repeat(513);
    let long = long.as_str();
    let cases = [
        (format!("/v1/locks?name={long}"), "name"),
        ("/v1/locks?name=".to_owned(), "name"),
        ("/v1/locks?name=%ff".to_owned(), "name"),
        ("/v1/locks?name=a%0ab".to_owned(), "name"),
        ("/v1/locks?name=a&name=b".to_owned(), "name"),
        ("/v1/locks?name=a&prefix=b".to_owned(), "name"),
        ("/v1/locks?prefix=%c3%28".to_owned(), "prefix"),
        ("/v1/locks?page_size=0".to_owned(), "page_size"),
        ("/v1/locks?page_size=1001".to_owned(), "page_size"),
        ("/v1/locks?page_size=-1".to_owned(), "page_size"),
        ("/v1/locks?page_size=ten".to_owned(), "page_size"),
        (format!("/v1/locks?cursor={long}"), "cursor"),
        ("/v1/locks?consistency=eventual".to_owned(), "consistency"),
        ("/v1/locks?nmae=a".to_owned(), "nmae"),
        ("/v1/fence?token=1".to_owned(), "lock"),
        ("/v1/fence?lock=held".to_owned(), "token"),
        ("/v1/fence?lock=held&token=-1".to_owned(), "token"),
        ("/v1/fence?lock=held&token=abc".to_owned(), "token"),
        (
            "/v1/fence?lock=held&token=99999999999999999999".to_owned(),
            "token",
        ),
        ("/v1/fence?lock=&token=1".to_owned(), "lock"),
        ("/v1/fence?lock=held&token=1&x=1".to_owned(), "x"),
        ("/v1/leases?page_size=0".to_owned(), "page_size"),
        ("/v1/leases?cursor=xyz".to_owned(), "cursor"),
        ("/v1/leases?owner=me".to_owned(), "owner"),
        ("/v1/leases/xyz".to_owned(), "id"),
        ("/v1/leases/%ff".to_owned(), "id"),
        (format!("/v1/leases/{}?x=1", "a".repeat(32)), "x"),
    ];
    let mut tried = Tried::on(&cluster, 2).await;
    for (path, field) in &cases {
        tried
            .refused(&get(path, ""), 400, INVALID, Some(field))
            .await;
    }
    let nobody = format!("/v1/leases/{}", "a".repeat(32));
    tried
        .refused(&get(&nobody, ""), 404, "lease_not_found", None)
        .await;
    // Raw bytes where percent-encoding belongs, and a query of 60 kB: refused, in whatever words.
    for path in [
        &b"/v1/locks?name=\xff\xfe"[..],
        &[b"/v1/locks?name=", &[b'a'; 60_000][..]].concat(),
    ] {
        let request = [b"GET ", path, b" HTTP/1.1\r\nhost: palisade\r\n\r\n"].concat();
        let mut connection = RawConnection::open(cluster.http_address(2)).await.unwrap();
        let reply = connection.call(&request).await.unwrap();
        assert!((400..500).contains(&reply.status), "{reply:?}");
    }
    witness.assert_unchanged(&cluster).await;
}

#[tokio::test]
async fn headers_are_refused_by_name() {
    let cluster = Cluster::start().await;
    let witness = Witness::of(&cluster).await;
    let mut tried = Tried::on(&cluster, 1).await;
    let timeout = lock_api::TIMEOUT_HEADER;
    let min_position = lock_api::MIN_POSITION_HEADER;
    for (name, values) in [
        (
            timeout,
            [
                "0",
                "-1",
                "abc",
                "60001",
                "1.5",
                "",
                "99999999999999999999",
                "é",
            ],
        ),
        (
            min_position,
            [
                "x",
                "5",
                "5.",
                ".5",
                "-1.0",
                "",
                "99999999999999999999.0",
                "é",
            ],
        ),
    ] {
        for value in values {
            let header = format!("{name}: {value}\r\n");
            tried
                .refused(&get("/v1/locks?name=a", &header), 400, INVALID, Some(name))
                .await;
            let header = format!("content-type: application/json\r\n{header}");
            let request = post("/v1/acquire", &header, b"{\"lock\":\"new\"}");
            if name == timeout {
                tried.refused(&request, 400, INVALID, Some(name)).await;
            }
        }
    }
    witness.assert_unchanged(&cluster).await;
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused() {
    let cluster = Cluster::start().await;
    let witness = Witness::of(&cluster).await;
    let mut tried = Tried::on(&cluster, 0).await;
    let body = b"{\"lock\":\"new\"}";
    for path in [
        "/",
        "/v1",
        "/v1/acquire/",
        "/v2/acquire",
        "/v1/locks/held",
        "/v1/%61cquire/x",
    ] {
        tried.refused(&get(path, ""), 404, "not_found", None).await;
        tried
            .refused(&post_json(path, body), 404, "not_found", None)
            .await;
    }
    for path in [
        "/v1/acquire",
        "/v1/release",
        "/v1/renew",
        "/v1/cancel",
        "/v1/leases/revoke",
    ] {
        if path != "/v1/leases/revoke" {
            tried
                .refused(&get(path, ""), 405, "method_not_allowed", None)
                .await;
        }
        for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
            let request = String::from_utf8(post_json(path, body)).unwrap();
            let request = request.replacen("POST", method, 1);
            tried
                .refused(request.as_bytes(), 405, "method_not_allowed", None)
                .await;
        }
    }
    for path in [
        "/v1/locks",
        "/v1/fence",
        "/v1/cluster",
        "/healthz",
        "/readyz",
        "/version",
    ] {
        tried
            .refused(&post_json(path, body), 405, "method_not_allowed", None)
            .await;
    }
    witness.assert_unchanged(&cluster).await;
}

#[tokio::test]
async fn what_is_no_http_costs_its_own_connection_and_nothing_else() {
    let cluster = Cluster::start().await;
    let witness = Witness::of(&cluster).await;
    let head = "POST /v1/acquire HTTP/1.1\r\nhost: palisade\r\ncontent-type: application/json\r\n";
    let many_headers = format!("{head}{}\r\n", "x: y\r\n".repeat(2_000));
    let garbage: [Vec<u8>; 8] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"acquire job please\r\n\r\n".to_vec(),
        b"GET / HTTP/3.0\r\n\r\n".to_vec(),
        format!("{head}content-length: -5\r\n\r\n{{}}").into_bytes(),
        format!("{head}content-length: 99999999999999999999\r\n\r\n{{}}").into_bytes(),
        format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n").into_bytes(),
        format!("{head}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}").into_bytes(),
        many_headers.into_bytes(),
    ];
    for node in 0..3 {
        for request in &garbage {
            let mut connection = RawConnection::open(cluster.http_address(node))
                .await
                .unwrap();
            // The node may close while this is still being sent.
            if connection.send(request).await.is_ok()
                && let Ok(reply) = connection.receive().await
            {
                assert!((400..500).contains(&reply.status), "{reply:?}");
            }
        }
        // Clients that go away in the middle of a request.
        for length in [0, 10, head.len(), head.len() + 20] {
            let request = post_json("/v1/acquire", b"{\"lock\":\"new\",\"ttl_ms\":60000}");
            let mut connection = RawConnection::open(cluster.http_address(node))
                .await
                .unwrap();
            connection.send(&request[..length]).await.unwrap();
        }
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
