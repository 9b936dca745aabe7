//! What is served while nodes are missing, what is refused, and that nothing is lied about.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::raw::{self, RawConnection};
use tests::{Acquire, Cluster, Http, PATIENCE, Reply, eventually, holder};

fn others(of: usize) -> [usize; 2] {
    [(of + 1) % 3, (of + 2) % 3]
}

/// How long a node hangs; long enough for any time-out to have run out.
fn hanging_time() -> Duration {
    let seconds = std::env::var("PALISADE_TEST_HANG_SECONDS").ok();
    let seconds = seconds.map_or(30, |text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds)
}

/// A node's own account in `GET /v1/cluster`.
async fn member(http: &Http, node: usize) -> Value {
    let view = http.get("/v1/cluster").await.expect(200);
    let name = format!("n{}", node + 1);
    let members = view["members"].as_array().unwrap();
    members
        .iter()
        .find(|member| member["name"] == name)
        .unwrap()
        .clone()
}

/// Whether each of these nodes has purged its log beyond this index.
async fn purged_beyond<const N: usize>(cluster: &Cluster, nodes: [usize; N], index: u64) -> bool {
    for node in nodes {
        let member = member(&cluster.http(node), node).await;
        if member["purged_index"]
            .as_u64()
            .is_none_or(|purged| purged <= index)
        {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn two_nodes_serve_while_the_third_hangs_and_it_catches_up_by_snapshot() {
    let few_entries = ["--snapshot-after-entries", "300", "--keep-entries", "50"];
    let mut cluster = Cluster::builder(3).arguments(few_entries).start().await;
    let hanging = cluster.follower().await;
    let serving = others(hanging).map(|node| cluster.http(node));
    let held = Acquire::new("kept")
        .ttl_ms(10_000)
        .granted(&serving[0])
        .await;
    let behind = member(&serving[0], hanging).await["last_log_index"]
        .as_u64()
        .unwrap();

    cluster.stop(hanging);
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut last_token = held.token;
    while began.elapsed() < hanging_time()
        || !purged_beyond(&cluster, others(hanging), behind).await
    {
        assert!(
            began.elapsed() < hanging_time() + PATIENCE,
            "the log is never purged"
        );
        for cycle in 0..50 {
            let http = &serving[cycle % 2];
            let call = Instant::now();
            let granted = Acquire::new("cycle").granted(http).await;
            assert!(granted.token > last_token);
            last_token = granted.token;
            assert_eq!(granted.release(http).await.expect(200)["was_held"], true);
            held.renew(http).await.expect(200);
            slowest = slowest.max(call.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // Three calls, each of which may take 5 s before it is given up.
    assert!(slowest < Duration::from_secs(15), "{slowest:?}");
    let absent = member(&serving[0], hanging).await;
    assert_eq!(
        (&absent["reachable"], &absent["term"]),
        (&json!(false), &Value::Null)
    );

    cluster.cont(hanging);
    cluster.wait_node_ready(hanging).await;
    let http = cluster.http(hanging);
    assert!(purged_beyond(&cluster, [hanging], behind).await);
    assert!(cluster.log(hanging).contains("snapshot installed"));
    assert_eq!(holder(&http.lock("kept").await)["token"], held.token);
    assert_eq!(http.lock("cycle").await["holders"], json!([]));
    // And it takes part again: with one of the others gone, the two are a quorum.
    cluster.kill9(others(hanging)[0]);
    let nodes = [http, cluster.http(others(hanging)[1])];
    assert!(Acquire::new("cycle").granted_by_any(&nodes).await.token > last_token);
}

/// How much later than its deadline an answer may arrive on a busy machine.
const SLACK: Duration = Duration::from_secs(4);
const TIMEOUT_MS: u64 = 1_500;

async fn timely(call: impl Future<Output = Reply>) -> Reply {
    let sent = Instant::now();
    let reply = call.await;
    let took = sent.elapsed();
    assert!(
        took < Duration::from_millis(TIMEOUT_MS) + SLACK,
        "{took:?}: {}",
        reply.body
    );
    reply
}

async fn post(http: &Http, path: &str, body: &Value) -> Reply {
    timely(http.post_with_timeout_ms(path, TIMEOUT_MS, body)).await
}

async fn get(http: &Http, path: &str) -> Reply {
    timely(http.get_with_timeout_ms(path, TIMEOUT_MS)).await
}

/// Checks that a call without a quorum tells what it knows, and returns whether the outcome is open.
fn is_unknown(reply: &Reply) -> bool {
    let told = (
        reply.status,
        reply.code(),
        reply.body["outcome"].as_str().unwrap(),
    );
    assert_eq!(reply.body["retryable"], true, "{}", reply.body);
    match told {
        (503, "no_leader", "not_applied") => {
            assert!(reply.header("retry-after").is_some());
            false
        }
        (504, "deadline_exceeded", "unknown") => true,
        _ => panic!("{}", reply.body),
    }
}

#[tokio::test]
async fn a_leader_without_a_quorum_says_unknown_of_what_it_proposed_and_refuses_the_rest() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let http = cluster.http(leader);
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        let node = cluster.http(number % 3);
        acknowledged.push(Acquire::new(&format!("held-{number}")).granted(&node).await);
    }
    let released = acknowledged.pop().unwrap();
    released.release(&http).await.expect(200);

    for follower in others(leader) {
        cluster.kill9(follower);
    }
    // It does not know yet that it is alone, and takes requests into its log.
    let renewal = json!({"lease": acknowledged[0].request.lease()});
    let release = json!({
        "lease": acknowledged[1].request.lease(), "token": acknowledged[1].token,
    });
    let open = Acquire::new("open");
    let anonymous = json!({"lock": "anonymous"});
    let (opened, anonymous, renewed, also_released) = tokio::join!(
        post(&http, "/v1/acquire", open.body()),
        post(&http, "/v1/acquire", &anonymous),
        post(&http, "/v1/renew", &renewal),
        post(&http, "/v1/release", &release),
    );
    assert!(is_unknown(&opened), "nothing was proposed: {}", opened.body);
    assert_eq!(opened.body["lease"], open.lease());
    assert_eq!(opened.body["request_id"], open.request_id());
    is_unknown(&renewed);
    is_unknown(&also_released);
    if is_unknown(&anonymous) {
        assert!(anonymous.body["lease"].is_string() && anonymous.body["request_id"].is_string());
    }

    // When it knows, it takes nothing.
    let never = eventually("it refuses", async || {
        let request = Acquire::new("never");
        let reply = post(&http, "/v1/acquire", request.body()).await;
        (!is_unknown(&reply)).then_some(request)
    })
    .await;
    let held = acknowledged[2].request.lock();
    let path = format!("/v1/locks?name={held}");
    get(&http, &path).await.expect_problem(503, "no_leader");
    get(&http, "/readyz").await.expect_problem(503, "no_leader");
    get(&http, "/v1/leases")
        .await
        .expect_problem(503, "no_leader");
    get(&http, &format!("/v1/fence?lock={held}&token=1"))
        .await
        .expect_problem(503, "no_leader");
    assert_eq!(get(&http, "/healthz").await.status, 200);
    let view = get(&http, "/v1/cluster").await.expect(200);
    let members = view["members"].as_array().unwrap();
    let reachable = members.iter().filter(|member| member["reachable"] == true);
    assert_eq!(reachable.count(), 1, "{view}");
    assert_eq!(view["leader"], Value::Null, "{view}");
    let stale = get(&http, &format!("{path}&consistency=stale"))
        .await
        .expect(200);
    assert_eq!(holder(&stale)["token"], acknowledged[2].token);
    assert!(stale["stale_by_ms"].as_u64().is_some(), "{stale}");

    cluster.restart_all();
    cluster.wait_ready().await;
    for node in 0..3 {
        let http = cluster.http(node);
        for granted in &acknowledged {
            let view = http.lock(granted.request.lock()).await;
            if granted.token == acknowledged[1].token && view["holders"] == json!([]) {
                continue; // Its release had an unknown outcome: this is one of the two.
            }
            assert_eq!(holder(&view)["token"], granted.token);
        }
        assert_eq!(
            http.lock(released.request.lock()).await["holders"],
            json!([])
        );
        assert_eq!(http.lock(never.lock()).await["holders"], json!([]));
    }
    // The repeat tells what became of the open one, and there is one grant either way.
    let granted = open.granted(&cluster.http((leader + 1) % 3)).await;
    for node in 0..3 {
        assert_eq!(
            holder(&cluster.http(node).lock("open").await)["token"],
            granted.token
        );
    }
    acknowledged[1].release(&http).await.expect(200);
    assert_eq!(
        http.lock(acknowledged[1].request.lock()).await["holders"],
        json!([])
    );
}

#[tokio::test]
async fn a_follower_without_a_quorum_refuses_within_the_deadline_and_reads_stale() {
    let mut cluster = Cluster::start().await;
    let follower = cluster.follower().await;
    let held = Acquire::new("held").granted(&cluster.http(follower)).await;
    for other in others(follower) {
        cluster.kill9(other);
    }
    let http = cluster.http(follower);
    for call in 0..3 {
        let request = Acquire::new(&format!("try-{call}"));
        assert!(!is_unknown(
            &post(&http, "/v1/acquire", request.body()).await
        ));
        let renewal = json!({"lease": held.request.lease()});
        is_unknown(&post(&http, "/v1/renew", &renewal).await);
        get(&http, "/v1/locks?name=held")
            .await
            .expect_problem(503, "no_leader");
    }
    let stale = get(&http, "/v1/locks?name=held&consistency=stale")
        .await
        .expect(200);
    assert_eq!(holder(&stale)["token"], held.token);

    cluster.restart_all();
    cluster.wait_ready().await;
    held.renew(&http).await.expect(200);
    let locks = http.get("/v1/locks?prefix=").await.expect(200);
    assert_eq!(locks["locks"].as_array().unwrap().len(), 1, "{locks}");
}

#[tokio::test]
async fn what_was_forwarded_to_nodes_that_hang_is_unknown_and_a_repeat_tells() {
    let mut cluster = Cluster::start().await;
    let follower = cluster.follower().await;
    let http = cluster.http(follower);
    for other in others(follower) {
        cluster.stop(other);
    }
    let request = Acquire::new("job");
    let reply = post(&http, "/v1/acquire", request.body()).await;
    assert!(
        is_unknown(&reply),
        "it was on its way to the leader: {}",
        reply.body
    );
    for other in others(follower) {
        cluster.cont(other);
    }
    cluster.wait_ready().await;
    let granted = request.granted(&http).await;
    for node in 0..3 {
        let http = cluster.http(node);
        assert_eq!(request.granted(&http).await.token, granted.token);
        assert_eq!(holder(&http.lock("job").await)["token"], granted.token);
    }
}

/// Takes and gives back a lock of its own on one kept-alive connection until told to stop, whatever
/// the node answers. Returns how many calls succeeded, were refused, and have an unknown outcome.
async fn knock(mut connection: RawConnection, lock: String, stop: Arc<AtomicBool>) -> [u64; 3] {
    let headers = "content-type: application/json\r\npalisade-timeout-ms: 1000\r\n";
    let mut answers = [0; 3];
    let mut request = Acquire::new(&lock);
    while !stop.load(Ordering::SeqCst) {
        let body = request.body().to_string();
        let call = raw::post("/v1/acquire", headers, body.as_bytes());
        let reply = connection.call(&call).await.expect("a living node answers");
        assert!(!reply.closes);
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
        match reply.status {
            200 => {
                answers[0] += 1;
                let release = json!({"lease": request.lease(), "token": body["token"]});
                let call = raw::post("/v1/release", headers, release.to_string().as_bytes());
                let released = connection.call(&call).await.expect("a living node answers");
                match released.status {
                    200 => request = Acquire::new(&lock),
                    503 => answers[1] += 1,
                    504 => answers[2] += 1,
                    _ => panic!("{released:?}"),
                }
            }
            // Its release was not confirmed before, and has happened.
            409 if body["code"] == "grant_ended" => request = Acquire::new(&lock),
            503 => answers[1] += 1,
            504 => answers[2] += 1,
            _ => panic!("{body}"),
        }
    }
    answers
}

#[tokio::test]
async fn a_living_node_answers_every_request_on_every_connection_whatever_happens_to_the_others() {
    let mut cluster = Cluster::start().await;
    let alive = cluster.leader().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for client in 0..24 {
        let connection = RawConnection::open(cluster.http_address(alive))
            .await
            .unwrap();
        clients.push(tokio::spawn(knock(
            connection,
            format!("job-{client}"),
            stop.clone(),
        )));
    }
    for _ in 0..3 {
        for other in others(alive) {
            cluster.kill9(other);
        }
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        cluster.restart_all();
        cluster.wait_ready().await;
        // And once over into another leadership.
        cluster.stop(alive);
        cluster.leader_among(&others(alive)).await;
        cluster.cont(alive);
        cluster.wait_ready().await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut all = [0; 3];
    for client in clients {
        for (sum, answers) in all.iter_mut().zip(client.await.unwrap()) {
            *sum += answers;
        }
    }
    let [granted, refused, unknown] = all;
    assert!(
        granted > 100 && refused + unknown > 0,
        "it was never without a quorum: {all:?}"
    );
}
