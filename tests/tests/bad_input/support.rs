//! A connection that must survive what is sent on it, and a state that must not change.

use serde_json::{Value, json};
use tests::raw::{RawConnection, RawReply, get, post_json};
use tests::{Acquire, Cluster, Http, holder, queue};

/// A connection to a node that must survive everything that is sent on it.
pub struct Tried {
    connection: RawConnection,
}

impl Tried {
    pub async fn on(cluster: &Cluster, node: usize) -> Self {
        let connection = RawConnection::open(cluster.http_address(node))
            .await
            .unwrap();
        Self { connection }
    }

    /// Sends a request that must be refused, and one that must work after it.
    pub async fn refused(&mut self, request: &[u8], status: u16, code: &str, field: Option<&str>) {
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

    pub async fn call(&mut self, request: &[u8], shown: &str) -> RawReply {
        let reply = self.connection.call(request).await;
        let reply = reply.unwrap_or_else(|error| panic!("{error}, for {shown}"));
        assert!(!reply.closes, "the connection ends after {shown}");
        reply
    }
}

/// A state worth protecting, and what of it time does not change.
pub struct Witness {
    pub lease: String,
    token: u64,
    before: Value,
}

impl Witness {
    pub async fn of(cluster: &Cluster) -> Self {
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

    pub async fn assert_unchanged(&self, cluster: &Cluster) {
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

pub const INVALID: &str = "invalid_request";
