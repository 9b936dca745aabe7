//! Bodies that are no request, of another content type, or too large.

use tests::Cluster;
use tests::raw::{post, post_json};

use crate::support::{INVALID, Tried, Witness};

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
