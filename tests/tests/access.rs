//! Who may do what over HTTP: bearer tokens, roles, prefixes, HTTPS, and reading the files again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tests::{Authority, Cluster, NodeCertificate, Reply, eventually, palisaded};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A bearer token and its entry for the file, as `palisaded token` prints them.
fn make_token(arguments: &[&str]) -> (String, String) {
    let output = palisaded().arg("token").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stderr).trim().to_owned(), text(output.stdout))
}

async fn call(
    cluster: &Cluster,
    token: Option<&str>,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Reply {
    let authorization = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = authorization
        .iter()
        .map(|value| ("authorization", value.as_str()))
        .collect();
    cluster
        .http(0)
        .send(method, path, &headers, body.as_ref())
        .await
        .unwrap()
}

fn hang_up(cluster: &Cluster, node: usize) {
    let pid = Pid::from_raw(i32::try_from(cluster.pid(node)).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
}

async fn logged(cluster: &Cluster, words: &str) {
    eventually(&format!("the log says `{words}`"), async || {
        cluster.log(0).contains(words).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_opens_what_its_role_and_prefixes_reach_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.toml");
    let (reader, reader_entry) = make_token(&["--name", "dashboard", "--role", "read"]);
    let (locker, locker_entry) =
        make_token(&["--name", "billing", "--role", "lock", "--prefixes", "jobs/"]);
    let (admin, admin_entry) = make_token(&["--name", "ops", "--role", "admin"]);
    std::fs::write(&file, [reader_entry, locker_entry].concat()).unwrap();
    let cluster = Cluster::builder(3)
        .arguments(["--auth-file", file.to_str().unwrap()])
        .start()
        .await;

    // Nobody, and nobody known.
    for token in [None, Some("guess"), Some("")] {
        let reply = call(&cluster, token, Method::GET, "/v1/locks", None).await;
        assert_eq!(reply.status, 401, "{reply:?}");
        assert_eq!(reply.body["code"], "unauthenticated");
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
    }
    for open in ["/healthz", "/readyz", "/version"] {
        let reply = call(&cluster, None, Method::GET, open, None).await;
        assert_eq!(reply.status, 200, "{open}");
    }

    // A locker locks below its prefix, and only there.
    let acquire = |lock: &str| Some(json!({ "lock": lock }));
    let (post, get) = (Method::POST, Method::GET);
    let granted = call(
        &cluster,
        Some(&locker),
        post.clone(),
        "/v1/acquire",
        acquire("jobs/a"),
    )
    .await;
    assert_eq!(granted.status, 200, "{granted:?}");
    for (token, method, path, body) in [
        (&locker, &post, "/v1/acquire", acquire("other")),
        (&locker, &get, "/v1/locks", None),
        (&locker, &get, "/v1/locks?name=other", None),
        (&locker, &get, "/v1/fence?lock=other&token=1", None),
        (&locker, &get, "/v1/leases", None),
        (&locker, &post, "/v1/cluster/snapshot", Some(json!({}))),
        (&reader, &post, "/v1/acquire", acquire("jobs/b")),
        (&reader, &post, "/v1/cluster/snapshot", Some(json!({}))),
    ] {
        let reply = call(&cluster, Some(token), method.clone(), path, body).await;
        assert_eq!(reply.status, 403, "{path}: {reply:?}");
        assert_eq!(reply.body["code"], "forbidden");
        assert_eq!(reply.body["outcome"], "not_applied");
    }
    let other = call(
        &cluster,
        Some(&reader),
        get.clone(),
        "/v1/locks?name=other",
        None,
    )
    .await;
    assert_eq!(other.body["holders"], json!([]), "{other:?}");
    for (token, path) in [
        (&locker, "/v1/locks?prefix=jobs/"),
        (&locker, "/v1/locks?name=jobs/a"),
        (&locker, "/v1/cluster"),
        (&reader, "/v1/locks"),
        (&reader, "/v1/leases"),
    ] {
        let reply = call(&cluster, Some(token), get.clone(), path, None).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
    }
    let body = json!({ "lease": granted.body["lease"], "token": granted.body["token"] });
    let released = call(
        &cluster,
        Some(&locker),
        post.clone(),
        "/v1/release",
        Some(body),
    )
    .await;
    assert_eq!(released.status, 200, "{released:?}");

    // A file that cannot be read changes nothing; one that can counts from then on.
    std::fs::write(&file, "nonsense").unwrap();
    hang_up(&cluster, 0);
    logged(&cluster, "the old bearer tokens stay").await;
    let reply = call(&cluster, Some(&reader), get.clone(), "/v1/locks", None).await;
    assert_eq!(reply.status, 200);
    std::fs::write(&file, admin_entry).unwrap();
    hang_up(&cluster, 0);
    logged(&cluster, "read the bearer tokens again").await;
    let reply = call(&cluster, Some(&reader), get, "/v1/locks", None).await;
    assert_eq!(reply.status, 401);
    let snapshot = Some(json!({}));
    let reply = call(
        &cluster,
        Some(&admin),
        post,
        "/v1/cluster/snapshot",
        snapshot,
    )
    .await;
    assert_eq!(reply.status, 200, "{reply:?}");

    let log = cluster.log(0);
    for secret in [
        &reader,
        &locker,
        &admin,
        granted.body["lease"].as_str().unwrap(),
    ] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}

/// `GET /healthz` over TLS, trusting `ca` alone; the status line, or why there is none.
async fn get_healthz(address: SocketAddr, ca: &Path) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::from(address.ip());
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())?;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    Ok(answer.lines().next().unwrap().to_owned())
}

#[tokio::test]
async fn https_serves_with_the_certificate_as_it_is_after_sighup_and_no_slow_client_stops_it() {
    const HERE: &str = "IP:127.0.0.1";
    const OK: &str = "HTTP/1.1 200 OK";
    let (old, new) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let files = NodeCertificate::below(folder.path());
    old.issue("old", HERE).install(&files);
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let mut cluster = Cluster::builder(3)
        .arguments([
            "--http-cert".to_owned(),
            path(&files.certificate),
            "--http-key".to_owned(),
            path(&files.key),
        ])
        .prepare();
    // It answers while it waits for its peers.
    cluster.restart(0);
    let address = cluster.http_address(0);
    eventually("the node listens", async || {
        TcpStream::connect(address).await.ok()
    })
    .await;

    // Connections that never shake hands hold up nobody.
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(get_healthz(address, &old.ca()).await.unwrap(), OK);
    get_healthz(address, &new.ca()).await.unwrap_err();

    std::fs::write(&files.key, "not a key").unwrap();
    hang_up(&cluster, 0);
    logged(&cluster, "the old certificate stays").await;
    assert_eq!(get_healthz(address, &old.ca()).await.unwrap(), OK);

    new.issue("new", HERE).install(&files);
    hang_up(&cluster, 0);
    logged(&cluster, "use the certificate as it is").await;
    assert_eq!(get_healthz(address, &new.ca()).await.unwrap(), OK);
    get_healthz(address, &old.ca()).await.unwrap_err();
    drop(silent);
}
