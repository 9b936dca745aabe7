//! The cluster, its members and its health, as any node tells them; and positions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{Acquire, Cluster, Http, eventually, holder, position};

fn members(view: &Value) -> &Vec<Value> {
    view["members"].as_array().unwrap()
}

fn named<'a>(view: &'a Value, name: &str) -> &'a Value {
    let named = members(view).iter().find(|member| member["name"] == name);
    named.unwrap_or_else(|| panic!("{name} is missing: {view}"))
}

#[tokio::test]
async fn every_node_names_all_members_their_addresses_and_the_leader() {
    let cluster = Cluster::start().await;
    Acquire::new("job").granted(&cluster.http(0)).await;
    let leader = cluster.leader().await;
    let mut told = BTreeSet::new();
    for node in 0..3 {
        let view = cluster.http(node).get("/v1/cluster").await.expect(200);
        assert_eq!(members(&view).len(), 3, "{view}");
        let own = named(&view, &format!("n{}", node + 1));
        assert_eq!(view["answered_by"], own["node_id"], "{view}");
        assert_eq!(view["leader"]["name"], format!("n{}", leader + 1), "{view}");
        for member in 0..3 {
            let name = format!("n{}", member + 1);
            let shown = named(&view, &name);
            assert_eq!(
                shown["http_address"],
                cluster.http_address(member).to_string()
            );
            assert_eq!(
                shown["peer_address"],
                cluster.peer_address(member).to_string()
            );
            assert_eq!(
                (&shown["voter"], &shown["reachable"]),
                (&json!(true), &json!(true))
            );
            let role = if member == leader {
                "leader"
            } else {
                "follower"
            };
            assert_eq!(shown["role"], role, "{view}");
            assert_eq!(shown["term"], view["term"], "{view}");
            let index = |field: &str| shown[field].as_u64().unwrap();
            assert!(index("applied_index") <= index("committed_index"), "{view}");
            assert!(
                index("committed_index") <= index("last_log_index"),
                "{view}"
            );
            assert!(index("applied_index") > 0, "{view}");
            told.insert((
                name,
                shown["node_id"].to_string(),
                view["cluster_id"].to_string(),
            ));
        }
    }
    assert_eq!(
        told.len(),
        3,
        "the nodes disagree on who they are: {told:?}"
    );
    let ids: BTreeSet<_> = told.iter().map(|(_, id, _)| id).collect();
    assert_eq!(ids.len(), 3, "node ids are not unique: {told:?}");
}

#[tokio::test]
async fn a_member_that_is_down_is_shown_so_and_the_rest_is_told_all_the_same() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    cluster.kill9(leader);
    let asked = (leader + 1) % 3;
    let new_leader = cluster.leader().await;
    let view = eventually("the leader is known", async || {
        let view = cluster.http(asked).get("/v1/cluster").await.expect(200);
        (view["leader"]["name"] == format!("n{}", new_leader + 1)).then_some(view)
    })
    .await;
    let gone = named(&view, &format!("n{}", leader + 1));
    assert_eq!(gone["reachable"], false, "{view}");
    for field in [
        "role",
        "term",
        "last_log_index",
        "committed_index",
        "applied_index",
    ] {
        assert_eq!(gone[field], Value::Null, "{field}: {view}");
    }
    assert_eq!(
        gone["http_address"],
        cluster.http_address(leader).to_string()
    );
    for alive in cluster.running() {
        let member = named(&view, &format!("n{}", alive + 1));
        assert_eq!(member["reachable"], true, "{view}");
        assert!(member["term"].as_u64() > Some(1), "{view}");
    }
}

#[tokio::test]
async fn healthz_never_asks_for_a_quorum_and_readyz_does() {
    let mut cluster = Cluster::start().await;
    for node in 0..3 {
        let http = cluster.http(node);
        assert_eq!(http.get("/healthz").await.expect(200), "ok\n");
        let ready = http.get("/readyz").await.expect(200);
        assert_eq!(ready["ready"], true);
        assert!(position(&ready["position"]).index > 0);
    }
    cluster.kill9(1);
    cluster.kill9(2);
    let http = cluster.http(0);
    let reply = http.get_with_timeout_ms("/readyz", 1_000).await;
    assert!(reply.header("retry-after").is_some());
    reply.expect_problem(503, "no_leader");
    assert_eq!(http.get("/healthz").await.expect(200), "ok\n");
    assert_eq!(http.get("/version").await.status, 200);
    cluster.restart_all();
    cluster.wait_ready().await;
}

#[tokio::test]
async fn the_version_names_program_and_api() {
    let cluster = Cluster::start().await;
    let version = cluster.http(2).get("/version").await.expect(200);
    assert_eq!(version["program"], "palisaded");
    assert_eq!(version["api_version"], 1);
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

async fn stale_at(http: &Http, name: &str, min_position: &str, timeout_ms: &str) -> tests::Reply {
    let headers = [
        (lock_api::MIN_POSITION_HEADER, min_position),
        (lock_api::TIMEOUT_HEADER, timeout_ms),
    ];
    let path = format!("/v1/locks?name={name}&consistency=stale");
    http.get_with(&path, &headers).await
}

#[tokio::test]
async fn a_min_position_lets_a_client_read_its_own_writes_on_any_node() {
    let cluster = Cluster::start().await;
    for round in 0..60 {
        let name = format!("job-{round}");
        let reply = Acquire::new(&name).send(&cluster.http(round % 3)).await;
        let written = reply.header(lock_api::POSITION_HEADER).unwrap().to_owned();
        let granted = reply.expect(200);
        assert_eq!(granted["position"], written);
        for other in [1, 2] {
            let http = cluster.http((round + other) % 3);
            let view = stale_at(&http, &name, &written, "5000").await.expect(200);
            assert_eq!(holder(&view)["token"], granted["token"]);
            assert!(position(&view["position"]) >= position(&granted["position"]));
        }
    }
    // A position that does not come is not waited for beyond the deadline.
    let position = cluster.http(0).get("/readyz").await.expect(200);
    let position = tests::position(&position["position"]);
    let future = format!("{}.0", position.index + 1_000_000);
    let reply = stale_at(&cluster.http(1), "job-1", &future, "300").await;
    reply.expect_problem(503, "no_leader");
}

#[tokio::test]
async fn answers_carry_the_position_at_which_they_are_true() {
    let cluster = Cluster::start().await;
    let http = cluster.http(1);
    let granted = Acquire::new("job").granted(&cluster.http(0)).await;
    let lease = granted.request.lease();
    let mut last = granted.position;
    let posts = [
        ("/v1/renew", json!({"lease": lease}), 200),
        ("/v1/acquire", json!({"lock": "job"}), 409),
        ("/v1/release", json!({"lease": lease, "token": 1}), 409),
        (
            "/v1/release",
            json!({"lease": lease, "token": granted.token}),
            200,
        ),
        ("/v1/renew", json!({"lease": lease}), 409),
        ("/v1/leases", json!({"ttl_ms": 60_000}), 200),
        ("/v1/renew", json!({"lease": tests::new_secret()}), 404),
    ];
    for (path, body, status) in posts {
        let reply = http.post(path, &body).await;
        let header = reply.header(lock_api::POSITION_HEADER).map(str::to_owned);
        let body = reply.expect(status);
        assert_eq!(
            body["position"].as_str(),
            header.as_deref(),
            "{path}: {body}"
        );
        let position = position(&body["position"]);
        assert!(position > last, "{path}: {position} after {last}");
        last = position;
    }
    let lock = format!("/v1/fence?lock=job&token={}", granted.token + 7);
    for path in [
        "/v1/locks?name=job",
        "/v1/locks?prefix=",
        "/v1/leases",
        "/readyz",
        &lock,
    ] {
        let reply = cluster.http(2).get(path).await;
        let header = reply.header(lock_api::POSITION_HEADER).map(str::to_owned);
        assert_eq!(reply.body["position"].as_str(), header.as_deref(), "{path}");
        let position = position(&reply.body["position"]);
        assert!(position >= last, "{path}: {position} after {last}");
    }
}
