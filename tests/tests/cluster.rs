//! The cluster, its members and its health, as any node tells them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use tests::Cluster;

#[tokio::test]
async fn the_cluster_view_names_every_member_and_the_leader() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    for node in 0..cluster.len() {
        let view = cluster.http(node).get("/v1/cluster").await.expect(200);
        let members = view["members"].as_array().unwrap();
        assert_eq!(members.len(), 3, "{view}");
        assert_eq!(view["leader"]["name"], format!("n{}", leader + 1), "{view}");
    }
}
