//! `/metrics`: that a scraper can read it, that it tells what happens, and nothing that it must not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use lock_api::path;
use serde_json::json;
use tests::{Acquire, Cluster, Scrape, eventually};

const LOCK: &str = "a-name-that-nobody-else-may-see";
const OWNER: &str = "an-owner-that-nobody-else-may-see";

/// What `docs/operations.md` says about metrics.
const OPERATIONS: &str = include_str!("../../docs/operations.md");

#[tokio::test]
async fn every_metric_is_documented_moves_and_tells_no_names() {
    let cluster = Cluster::builder(3)
        .arguments(["--snapshot-after-entries", "20", "--keep-entries", "5"])
        .start()
        .await;
    let before = Scrape::of(&cluster.http(0)).await;
    let acquire = || Acquire::new(LOCK).with("owner", OWNER).with("value", OWNER);
    let mut secrets = Vec::new();
    for round in 0..30 {
        let http = cluster.http(round % 3);
        let granted = acquire().granted(&http).await;
        acquire().send(&http).await.expect_problem(409, "lock_held");
        granted.renew(&http).await.expect(200);
        granted.release(&http).await.expect(200);
        secrets.push(granted.request.lease().to_owned());
    }

    let leader = cluster.leader().await;
    for node in 0..cluster.len() {
        let http = cluster.http(node);
        let scrape = eventually("the gauges are as fresh as the counters", async || {
            let scrape = Scrape::of(&http).await;
            let built = scrape.get("raft_snapshot_last_bytes", &[("phase", "build")]);
            let leads = scrape.get("raft_is_leader", &[]) == Some(f64::from(node == leader));
            let applied = scrape.get("raft_applied_index", &[]) >= Some(120.0);
            (built > Some(0.0) && leads && applied).then_some(scrape)
        })
        .await;
        let get = |name: &str, labels: &[(&str, &str)]| {
            let found = scrape.get(name, labels);
            found.unwrap_or_else(|| panic!("no {name}{labels:?} in\n{}", scrape.text()))
        };
        let acquired = |status| [("route", path::ACQUIRE), ("status", status)];
        let requests = "palisade_http_requests_total";
        assert_eq!(get(requests, &acquired("200")), 10.0);
        assert_eq!(get(requests, &acquired("409")), 10.0);
        assert_eq!(
            get("palisade_refusals_total", &[("code", "lock_held")]),
            10.0
        );
        // Every node applies every grant.
        assert_eq!(get("palisade_grants_total", &[]), 30.0);
        assert!(get("palisade_renew_entry_leases_count", &[]) >= 10.0);
        assert!(get("raft_proposals_total", &[("outcome", "applied")]) >= 40.0);
        assert!(get("raft_apply_seconds_count", &[]) >= 120.0);
        assert!(get("raft_log_sync_seconds_count", &[]) > 0.0);
        assert!(get("raft_log_sync_entries_sum", &[]) >= 120.0);
        assert!(get("raft_log_sync_bytes_sum", &[]) > 1000.0);
        assert!(get("raft_snapshot_index", &[]) >= 20.0);
        assert!(get("raft_committed_index", &[]) >= get("raft_applied_index", &[]));
        assert!(get("raft_last_log_index", &[]) >= get("raft_committed_index", &[]));

        for family in scrape.families() {
            let row = format!("| `{family}` |");
            assert!(
                OPERATIONS.contains(&row),
                "{family} is not in docs/operations.md"
            );
        }
        for hidden in [LOCK, OWNER]
            .into_iter()
            .chain(secrets.iter().map(String::as_str))
        {
            assert!(
                !scrape.text().contains(hidden),
                "{hidden} is in\n{}",
                scrape.text()
            );
        }
    }
    let applied = ("raft_proposals_total", [("outcome", "applied")]);
    let after = Scrape::of(&cluster.http(0)).await;
    assert!(after.get(applied.0, &applied.1) > before.get(applied.0, &applied.1));
}

#[tokio::test]
async fn the_leader_tells_how_far_each_peer_lags_and_that_one_is_gone() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    let http = cluster.http(leader);
    let name = |node: usize| format!("n{}", node + 1);
    let lag = async || {
        Scrape::of(&http)
            .await
            .by_label("raft_peer_lag_entries", "peer")
    };
    eventually("nobody lags", async || {
        let lag = lag().await;
        let level = |node: &usize| lag.get(&name(*node)) == Some(&0.0);
        (lag.len() == 2 && others.iter().all(level)).then_some(())
    })
    .await;

    cluster.kill9(others[0]);
    for number in 0..20 {
        let lock = format!("while-one-is-gone-{number}");
        Acquire::new(&lock).granted(&http).await;
    }
    eventually("the peer that is gone lags", async || {
        let scrape = Scrape::of(&http).await;
        let of = |metric, node| scrape.by_label(metric, "peer").get(&name(node)).copied();
        let lags = of("raft_peer_lag_entries", others[0]) >= Some(20.0);
        let silent = of("raft_peer_acknowledged_seconds", others[0]) >= Some(1.0);
        let heard = of("raft_peer_acknowledged_seconds", others[1]) < Some(1.0);
        let failed = scrape.by_label("raft_connection_failures_total", "peer_id");
        let failed = failed.values().any(|failures| *failures > 0.0);
        (lags && silent && heard && failed).then_some(())
    })
    .await;

    cluster.restart(others[0]);
    eventually("it catches up", async || {
        (lag().await.get(&name(others[0])) == Some(&0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_waits_for_its_peers_answers_metrics_and_unknown_paths_share_a_label() {
    let cluster = Cluster::builder(3).prepare();
    let mut node = cluster.command(0).spawn().unwrap();
    let http = cluster.http(0);
    eventually("it listens", async || http.try_get("/healthz").await.ok()).await;
    for path in ["/v1/nothing", "/another", path::LOCKS] {
        http.get(path).await;
    }
    http.post(path::RENEW, &json!({})).await;
    let scrape = Scrape::of(&http).await;
    let requests = scrape.get(
        "palisade_http_requests_total",
        &[("route", "none"), ("status", "404")],
    );
    assert_eq!(requests, Some(2.0), "{}", scrape.text());
    node.kill().unwrap();
    node.wait().unwrap();
}
