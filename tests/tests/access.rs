//! Who may do what over HTTP: bearer tokens, roles, prefixes, HTTPS, and reading the files again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lock_api::path;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, Method, StatusCode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tests::{
    Acquire, Authority, Cluster, NodeCertificate, Reply, eventually, holder, palisaded, position,
};
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

/// What a request takes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Needs {
    /// Not even a token.
    Nothing,
    /// A token of whatever role.
    Token,
    /// This role on some lock.
    Somewhere(&'static str),
    /// This role on the locks that the request names, all of them below [`PREFIX`].
    OnTheLock(&'static str),
    /// This role on every lock.
    Everywhere(&'static str),
}

/// A request, and what it takes.
struct Rule {
    method: Method,
    /// As it stands in the document.
    path: &'static str,
    /// As it is sent, where that is something else.
    sent: Option<String>,
    body: Option<Value>,
    needs: Needs,
}

const ROLES: [&str; 3] = ["read", "lock", "admin"];
const PREFIX: &str = "jobs/";

fn get(path: &'static str, sent: &str, needs: Needs) -> Rule {
    Rule {
        method: Method::GET,
        path,
        sent: (!sent.is_empty()).then(|| format!("{path}?{sent}")),
        body: None,
        needs,
    }
}

fn post(path: &'static str, body: Value, needs: Needs) -> Rule {
    Rule {
        method: Method::POST,
        path,
        sent: None,
        body: Some(body),
        needs,
    }
}

/// Every route. Bodies are such that those who may send them change nothing that matters here; what
/// administers the cluster is judged before its body is read.
fn rules(lease: &Value) -> Vec<Rule> {
    use Needs::{Everywhere, Nothing, OnTheLock, Somewhere, Token};
    let (secret, lease_id) = (&lease["lease"], &lease["lease_id"]);
    let one = |lock: &str| json!({"lock": lock});
    let stale = json!({"lease": secret, "token": 1});
    let update = json!({"lease": secret, "token": 1, "value": null});
    let lease_path = path::LEASE.replace("{id}", lease_id.as_str().unwrap());
    let inspect = Rule {
        sent: Some(lease_path),
        ..get(path::LEASE, "", Everywhere("read"))
    };
    vec![
        get(path::HEALTHZ, "", Nothing),
        get(path::READYZ, "", Nothing),
        get(path::VERSION, "", Nothing),
        get(path::OPENAPI, "", Nothing),
        get(path::METRICS, "", Token),
        get(path::CLUSTER, "", Somewhere("read")),
        post(path::ACQUIRE, one("jobs/a"), OnTheLock("lock")),
        post(
            path::ACQUIRE,
            json!({"locks": [{"name": "jobs/b"}, {"name": "jobs/c"}]}),
            OnTheLock("lock"),
        ),
        post(
            path::ACQUIRE,
            json!({"locks": [{"name": "jobs/d"}, {"name": "other"}]}),
            Everywhere("lock"),
        ),
        post(path::RENEW, json!({"lease": secret}), Somewhere("lock")),
        post(path::RELEASE, stale, Somewhere("lock")),
        post(path::UPDATE, update, Somewhere("lock")),
        post(
            path::CANCEL,
            json!({"lease": secret, "request_id": "unheard"}),
            Somewhere("lock"),
        ),
        post(path::LEASES, json!({"ttl_ms": 60_000}), Somewhere("lock")),
        get(path::LEASES, "", Everywhere("read")),
        inspect,
        get(path::LOCKS, "", Everywhere("read")),
        get(path::LOCKS, "prefix=jobs/", OnTheLock("read")),
        get(path::LOCKS, "name=jobs/held", OnTheLock("read")),
        get(path::FENCE, "lock=jobs/held&token=1", OnTheLock("read")),
        post(
            path::FENCE,
            json!({"checks": [{"lock": "jobs/held", "token": 1}]}),
            OnTheLock("read"),
        ),
        get(path::EVENTS, "lock=jobs/held", OnTheLock("read")),
        get(path::EVENTS, "prefix=jobs/", OnTheLock("read")),
        get(path::EVENTS, "prefix=", Everywhere("read")),
        // A stale token: nobody's lease ends.
        post(
            path::FORCE_RELEASE,
            json!({"lock": "jobs/held", "token": 1, "lease_id": lease_id}),
            OnTheLock("admin"),
        ),
        post(path::PROMOTE, json!({}), Everywhere("admin")),
        post(path::REMOVE, json!({}), Everywhere("admin")),
        post(path::REPLACE, json!({}), Everywhere("admin")),
        post(path::ADDRESS, json!({}), Everywhere("admin")),
        post(path::FINISH_CHANGE, json!({"x": 1}), Everywhere("admin")),
        post(path::TRANSFER, json!({"x": 1}), Everywhere("admin")),
        post(path::SNAPSHOT, json!({}), Everywhere("admin")),
        get(path::BACKUP, "", Everywhere("admin")),
        get(path::SETTINGS, "", Everywhere("admin")),
        post(path::SETTINGS, json!({}), Everywhere("admin")),
        post(path::MODEL_VERSION, json!({}), Everywhere("admin")),
        // By its secret; then, and last of all, by its id.
        post(
            path::REVOKE_LEASE,
            json!({"lease": "0".repeat(32)}),
            Somewhere("lock"),
        ),
        post(
            path::REVOKE_LEASE,
            json!({"lease_id": lease_id}),
            OnTheLock("admin"),
        ),
    ]
}

/// Whether a token with `role`, on `prefix` alone where there is one, fulfils `needs`.
fn fulfils(role: &str, prefix: Option<&str>, needs: Needs) -> bool {
    let rank = |role: &str| ROLES.iter().position(|known| *known == role).unwrap();
    match needs {
        Needs::Nothing | Needs::Token => true,
        Needs::Somewhere(needed) => rank(role) >= rank(needed),
        Needs::OnTheLock(needed) => {
            rank(role) >= rank(needed) && prefix.is_none_or(|prefix| prefix == PREFIX)
        }
        Needs::Everywhere(needed) => rank(role) >= rank(needed) && prefix.is_none(),
    }
}

#[tokio::test]
async fn every_route_of_the_document_lets_in_whom_it_should_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.toml");
    let mut entries = String::new();
    let mut tokens = Vec::new();
    for role in ROLES {
        for prefix in [None, Some(PREFIX), Some("elsewhere/")] {
            let mut arguments = vec!["--name", role, "--role", role];
            arguments.extend(prefix.iter().flat_map(|prefix| ["--prefixes", *prefix]));
            let (token, entry) = make_token(&arguments);
            entries.push_str(&entry);
            tokens.push((token, role, prefix));
        }
    }
    std::fs::write(&file, entries).unwrap();
    let cluster = Cluster::builder(3)
        .arguments(["--auth-file", file.to_str().unwrap()])
        .start()
        .await;
    let admin = tokens
        .iter()
        .find(|(_, role, prefix)| *role == "admin" && prefix.is_none());
    let admin = &admin.unwrap().0;
    let held = Acquire::new("jobs/held");
    let body = Some(held.body().clone());
    let lease = call(&cluster, Some(admin), Method::POST, path::ACQUIRE, body).await;
    let lease = lease.expect(200);
    let rules = rules(&lease);

    let document = cluster.http(0).get(path::OPENAPI).await.expect(200);
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let ruled = rules
        .iter()
        .map(|rule| (rule.method.to_string(), rule.path.to_owned()));
    assert_eq!(described, ruled.collect(), "every route has its rule");

    let client = Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(30));
    let client = client.build().unwrap();
    let base = cluster.http(0).base().to_owned();
    // Only the head is awaited: a stream of events has no end.
    let ask = async |rule: &Rule, token: Option<&str>| {
        let path = rule.sent.as_deref().unwrap_or(rule.path);
        let mut request = client.request(rule.method.clone(), format!("{base}{path}"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = &rule.body {
            request = request.json(body);
        }
        request.send().await.unwrap()
    };
    for rule in &rules {
        let what = format!("{} {:?} {:?}", rule.method, rule.sent, rule.body);
        let what = format!("{}: {what}", rule.path);
        for token in [None, Some("guess")] {
            let status = ask(rule, token).await.status();
            let is_open = rule.needs == Needs::Nothing;
            assert_eq!(
                status == StatusCode::UNAUTHORIZED,
                !is_open,
                "{what}: {status}"
            );
        }
        // Those who may not come first: nothing of what they ask for may happen.
        let may = |role: &str, prefix: Option<&str>| fulfils(role, prefix, rule.needs);
        let (let_in, kept_out): (Vec<_>, Vec<_>) = tokens
            .iter()
            .partition(|(_, role, prefix)| may(role, *prefix));
        for (token, role, prefix) in kept_out {
            let reply = ask(rule, Some(token)).await;
            assert_eq!(
                reply.status(),
                StatusCode::FORBIDDEN,
                "{what} as {role} on {prefix:?}"
            );
            let problem: Value = reply.json().await.unwrap();
            assert_eq!(problem["code"], "forbidden", "{what}: {problem}");
        }
        for (token, role, prefix) in let_in {
            let status = ask(rule, Some(token)).await.status();
            let is_refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status);
            assert!(
                !is_refused && !status.is_server_error(),
                "{what} as {role} on {prefix:?}: {status}"
            );
        }
    }
}

#[tokio::test]
async fn whoever_ends_a_lease_by_hand_must_administer_all_that_it_holds_and_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.toml");
    let (admin, entry) = make_token(&["--name", "ops", "--role", "admin"]);
    let (jobs, jobs_entry) =
        make_token(&["--name", "jobs", "--role", "admin", "--prefixes", PREFIX]);
    std::fs::write(&file, [entry, jobs_entry].concat()).unwrap();
    let cluster = Cluster::builder(3)
        .arguments(["--auth-file", file.to_str().unwrap()])
        .start()
        .await;
    let ask = async |token: &str, path: &str, body: &Value| {
        call(
            &cluster,
            Some(token),
            Method::POST,
            path,
            Some(body.clone()),
        )
        .await
    };
    let other = Acquire::new("other");
    ask(&admin, path::ACQUIRE, other.body()).await.expect(200);
    // One holds a lock elsewhere besides, one waits for it.
    for elsewhere in ["elsewhere", "other"] {
        let held = Acquire::new("jobs/held");
        let granted = ask(&admin, path::ACQUIRE, held.body()).await.expect(200);
        let more = Acquire::new(elsewhere)
            .with("lease", held.lease())
            .with("request_id", "more")
            .wait_ms(60_000);
        let authorization = format!("Bearer {admin}");
        let headers = [
            ("authorization", authorization.as_str()),
            (lock_api::TIMEOUT_HEADER, "300"),
        ];
        let asked = cluster
            .http(0)
            .send(Method::POST, path::ACQUIRE, &headers, Some(more.body()))
            .await
            .unwrap();
        assert!([200, 202].contains(&asked.status), "{asked:?}");
        let by_force = json!({
            "lock": "jobs/held", "token": granted["token"], "lease_id": held.lease_id(), "now": true,
        });
        let by_id = json!({"lease_id": held.lease_id(), "now": true});
        for (path, body) in [
            (path::FORCE_RELEASE, &by_force),
            (path::REVOKE_LEASE, &by_id),
        ] {
            let reply = ask(&jobs, path, body).await;
            reply.expect_problem(403, "forbidden");
        }
        let path = "/v1/locks?name=jobs/held";
        let view = call(&cluster, Some(&admin), Method::GET, path, None).await;
        let view = view.expect(200);
        assert_eq!(holder(&view)["token"], granted["token"]);
        let ended = ask(&admin, path::FORCE_RELEASE, &by_force)
            .await
            .expect(200);
        assert!(position(&ended["position"]) > position(&granted["position"]));
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
