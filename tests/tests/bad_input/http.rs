//! Queries, headers, paths, methods, and what is no HTTP at all.

use tests::Cluster;
use tests::raw::{RawConnection, get, post, post_json};

use crate::support::{INVALID, Tried, Witness};

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
