//! Nodes that join, leave, are replaced and move, and the leadership that is handed over, through
//! real processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{Acquire, Cluster, Http, Load, Reply, Scrape, eventually, holder};

const NO_ARGUMENTS: [&str; 0] = [];

async fn view(http: &Http) -> Value {
    http.get("/v1/cluster").await.expect(200)
}

/// Ids of the members with a vote, and of those without.
fn members(view: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let id = |member: &Value| member["node_id"].as_str().unwrap().to_owned();
    let members = view["members"].as_array().unwrap();
    let with = |vote: bool| {
        let of = members.iter().filter(|member| member["voter"] == vote);
        of.map(id).collect()
    };
    (with(true), with(false))
}

/// Waits until this node shows exactly these voters, and no change under way.
async fn until_voters(http: &Http, expected: &BTreeSet<String>) {
    let what = format!("{} shows the voters {expected:?}", http.base());
    eventually(&what, async || {
        let reply = http.try_get("/v1/cluster").await.ok()?;
        if reply.status != 200 || reply.body["joint"] != false {
            return None;
        }
        (members(&reply.body).0 == *expected).then_some(())
    })
    .await;
}

async fn ids(cluster: &Cluster, nodes: &[usize]) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for node in nodes {
        ids.insert(cluster.node_id(*node).await);
    }
    ids
}

/// Waits until a node that joins has been taken in.
async fn until_member(cluster: &Cluster, node: usize) -> String {
    cluster.wait_node_ready(node).await;
    cluster.node_id(node).await
}

async fn post(http: &Http, what: &str, body: Value) -> Reply {
    http.post(&format!("/v1/cluster/{what}"), &body).await
}

/// Repeats a change as long as it is refused for a reason that passes.
async fn change(http: &Http, what: &str, body: Value) -> Value {
    eventually(what, async || {
        let reply = post(http, what, body.clone()).await;
        (reply.body["retryable"] != true).then_some(reply)
    })
    .await
    .expect(200)
}

#[tokio::test]
async fn a_node_that_joins_gets_the_state_and_a_vote() {
    let mut cluster = Cluster::start().await;
    let held = Acquire::new("job").ttl_ms(600_000);
    let held = held.granted(&cluster.http(0)).await;
    let joined = cluster.join(&NO_ARGUMENTS);
    until_member(&cluster, joined).await;
    let everybody = ids(&cluster, &[0, 1, 2, joined]).await;
    for node in 0..4 {
        until_voters(&cluster.http(node), &everybody).await;
    }
    let http = cluster.http(joined);
    assert_eq!(holder(&http.lock("job").await)["token"], held.token);
    held.release(&http).await.expect(200);

    // It needs no --join any more, and with it does nothing again.
    cluster.terminate(joined).await;
    cluster.restart(joined);
    cluster.wait_node_ready(joined).await;
    assert_eq!(ids(&cluster, &[0, 1, 2, joined]).await, everybody);
}

#[tokio::test]
async fn a_learner_serves_without_a_vote_until_it_is_promoted_and_ends_when_removed() {
    let mut cluster = Cluster::start().await;
    let joined = cluster.join(&["--learner"]);
    let id = until_member(&cluster, joined).await;
    let http = cluster.http(joined);
    let voters = ids(&cluster, &[0, 1, 2]).await;
    until_voters(&http, &voters).await;
    assert_eq!(members(&view(&http).await).1, BTreeSet::from([id.clone()]));
    Acquire::new("job").granted(&http).await;

    // Any node takes the call, and a repeat changes nothing.
    let promoted = change(&http, "promote", json!({"node_id": id})).await;
    let again = change(&cluster.http(0), "promote", json!({"node_id": id})).await;
    assert_eq!(promoted["membership_version"], again["membership_version"]);
    until_voters(&http, &ids(&cluster, &[0, 1, 2, joined]).await).await;

    change(&http, "remove", json!({"node_id": id})).await;
    let status = cluster.wait_end(joined).await;
    assert_eq!(status.code(), Some(1));
    let log = cluster.log(joined);
    assert!(log.contains("it was removed from cluster"), "{log}");
    until_voters(&cluster.http(0), &voters).await;
    let body = json!({"node_id": id});
    post(&cluster.http(0), "remove", body)
        .await
        .expect_problem(404, "member_not_found");
}

#[tokio::test]
async fn a_dead_node_is_replaced_and_its_remains_are_told_what_to_do() {
    let mut cluster = Cluster::start().await;
    let held = Acquire::new("job").ttl_ms(600_000);
    let held = held.granted(&cluster.http(0)).await;
    let dead = cluster.follower().await;
    let dead_id = cluster.node_id(dead).await;
    let alive: Vec<usize> = (0..3).filter(|node| *node != dead).collect();
    let (http, peer) = (cluster.http_address(dead), cluster.peer_address(dead));
    cluster.kill9(dead);

    // The same machine with an empty disk.
    cluster.join_at(http, peer, &NO_ARGUMENTS);
    let wiped = cluster.len() - 1;
    // Often: it was once killed by an abort, when it ended while its database was being closed.
    for _ in 0..10 {
        assert_eq!(cluster.wait_end(wiped).await.code(), Some(1));
        cluster.restart(wiped);
    }
    assert_eq!(cluster.wait_end(wiped).await.code(), Some(1));
    let log = cluster.log(wiped);
    for words in ["peer address", &dead_id, "remove that member first"] {
        assert!(log.contains(words), "{words}: {log}");
    }

    let new = cluster.join(&["--learner"]);
    let new_id = until_member(&cluster, new).await;
    let body = json!({"old_node_id": dead_id, "new_node_id": new_id});
    let replaced = change(&cluster.http(alive[0]), "replace", body).await;
    assert_eq!(replaced["joint"], false);
    let voters = ids(&cluster, &[alive[0], alive[1], new]).await;
    until_voters(&cluster.http(new), &voters).await;
    let lock = cluster.http(new).lock("job").await;
    assert_eq!(holder(&lock)["token"], held.token);

    // The dead node comes back with all that it had.
    cluster.restart(dead);
    assert_eq!(cluster.wait_end(dead).await.code(), Some(1));
    let log = cluster.log(dead);
    assert!(log.contains("it was removed from cluster"), "{log}");
    // It remembers that.
    cluster.restart(dead);
    assert_eq!(cluster.wait_end(dead).await.code(), Some(1));
    let log = cluster.log(dead);
    assert!(log.contains("was removed from its cluster"), "{log}");
    until_voters(&cluster.http(new), &voters).await;
}

/// Kills all voters but the leader of three; the leader, and they.
async fn leave_the_leader_alone(cluster: &mut Cluster) -> (usize, Vec<usize>) {
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    for node in &others {
        cluster.kill9(*node);
    }
    (leader, others)
}

/// The last entry in a node's log, by its own metrics.
async fn last_log_index(http: &Http) -> Option<f64> {
    let metrics = http.try_get("/metrics").await.ok()?;
    Scrape::parse(metrics.body.as_str()?).get("raft_last_log_index", &[])
}

#[tokio::test]
async fn a_node_is_taken_in_by_a_committed_membership_and_can_be_stopped_before_that() {
    let mut cluster = Cluster::start().await;
    let (mut old_leader, mut others) = leave_the_leader_alone(&mut cluster).await;
    // The old leader writes and sends a membership with the new node that it cannot commit.
    let joining = cluster.join(&NO_ARGUMENTS);
    let mut refusals = 0;
    while !eventually(
        "the membership is written, or it is too late for that",
        async || {
            let is_written = cluster.log(old_leader).contains("changing the membership");
            let refused = cluster
                .log(joining)
                .matches("waiting to be taken in")
                .count();
            (is_written || refused > refusals).then_some(is_written)
        },
    )
    .await
    {
        // It asked when the leader no longer led, a second after the others had died.
        cluster.stop(joining);
        refusals = cluster
            .log(joining)
            .matches("waiting to be taken in")
            .count();
        for node in &others {
            cluster.restart(*node);
        }
        (old_leader, others) = leave_the_leader_alone(&mut cluster).await;
        cluster.cont(joining);
    }
    for _ in 0..10 {
        eventually("the node has the old leader's log", async || {
            let theirs = last_log_index(&cluster.http(old_leader)).await?;
            (last_log_index(&cluster.http(joining)).await? == theirs).then_some(())
        })
        .await;
        cluster.terminate(joining).await;
        cluster.restart(joining);
    }
    eventually("it says that it waits", async || {
        let log = cluster.log(joining);
        log.contains("waiting to be taken in").then_some(())
    })
    .await;
    assert!(!cluster.log(joining).contains("serving"));

    // That membership is lost, and a newer one without the node is made meanwhile.
    cluster.stop(joining);
    cluster.kill9(old_leader);
    for node in &others {
        cluster.restart(*node);
    }
    let another = cluster.join(&["--learner"]);
    until_member(&cluster, another).await;
    cluster.cont(joining);
    until_member(&cluster, joining).await;
    cluster.restart(old_leader);
    cluster.wait_node_ready(old_leader).await;
    let voters = ids(&cluster, &[0, 1, 2, joining]).await;
    until_voters(&cluster.http(another), &voters).await;
}

#[tokio::test]
async fn a_wiped_node_comes_back_under_its_old_address_once_the_old_one_is_removed() {
    let mut cluster = Cluster::start().await;
    let wiped = cluster.follower().await;
    let old_id = cluster.node_id(wiped).await;
    let alive: Vec<usize> = (0..3).filter(|node| *node != wiped).collect();
    let (http, peer) = (cluster.http_address(wiped), cluster.peer_address(wiped));
    cluster.kill9(wiped);
    let body = json!({"node_id": old_id});
    change(&cluster.http(alive[0]), "remove", body).await;
    cluster.join_at(http, peer, &NO_ARGUMENTS);
    let new = cluster.len() - 1;
    let new_id = until_member(&cluster, new).await;
    assert_ne!(new_id, old_id);
    let voters = ids(&cluster, &[alive[0], alive[1], new]).await;
    until_voters(&cluster.http(new), &voters).await;
}

#[tokio::test]
async fn a_node_that_moves_tells_the_others_where_it_is() {
    let mut cluster = Cluster::start().await;
    let held = Acquire::new("job").ttl_ms(600_000);
    let held = held.granted(&cluster.http(0)).await;
    for node in 0..3 {
        let id = cluster.node_id(node).await;
        cluster.terminate(node).await;
        cluster.relocate(node);
        cluster.restart(node);
        cluster.wait_node_ready(node).await;
        let http = cluster.http_address(node).to_string();
        let peer = cluster.peer_address(node).to_string();
        for asked in 0..3 {
            eventually("everybody knows the new addresses", async || {
                let view = view(&cluster.http(asked)).await;
                let members = view["members"].as_array()?.iter();
                let member = members.clone().find(|member| member["node_id"] == *id)?;
                let known = (&member["http_address"], &member["peer_address"]);
                (known == (&json!(http), &json!(peer)) && member["reachable"] == true).then_some(())
            })
            .await;
        }
    }
    let http = cluster.http(1);
    assert_eq!(holder(&http.lock("job").await)["token"], held.token);
    held.release(&http).await.expect(200);
}

#[tokio::test]
async fn all_nodes_are_replaced_under_load_and_no_acknowledged_write_is_lost() {
    let mut cluster = Cluster::start().await;
    let clients = |cluster: &Cluster| -> Vec<Http> {
        let running = cluster.running().into_iter();
        running.map(|node| cluster.http(node)).collect()
    };
    let load = Load::start(4, clients(&cluster));
    for old in 0..3 {
        let old_id = cluster.node_id(old).await;
        let new = cluster.join(&NO_ARGUMENTS);
        let new_id = until_member(&cluster, new).await;
        eventually("the new node has its vote", async || {
            let view = view(&cluster.http(new)).await;
            members(&view).0.contains(&new_id).then_some(())
        })
        .await;
        load.use_nodes(clients(&cluster)).await;
        change(&cluster.http(new), "remove", json!({"node_id": old_id})).await;
        assert_eq!(cluster.wait_end(old).await.code(), Some(1));
        load.use_nodes(clients(&cluster)).await;
    }
    let voters = ids(&cluster, &[3, 4, 5]).await;
    until_voters(&cluster.http(5), &voters).await;
    let written = load.finish().await;
    assert!(written.refused.is_empty(), "{:?}", written.refused);
    assert!(written.locks.len() > 100, "{}", written.locks.len());
    for node in 3..6 {
        let lost = written.lost_on(&cluster.http(node)).await;
        assert!(lost.is_empty(), "n{}: {lost:?}", node + 1);
    }
}

#[tokio::test]
async fn an_interrupted_change_is_shown_blocks_others_and_is_finished_by_a_call() {
    let mut cluster = Cluster::builder(1).init().await;
    let second = cluster.join(&["--learner"]);
    let second_id = until_member(&cluster, second).await;
    let third = cluster.join(&["--learner"]);
    let third_id = until_member(&cluster, third).await;
    let first = cluster.http(0);
    // The second hangs: the joint membership, which needs it, is written and cannot be committed.
    let promote = json!({"node_id": second_id});
    loop {
        cluster.stop(second);
        let path = "/v1/cluster/promote";
        let reply = first.post_with_timeout_ms(path, 500, &promote).await;
        if reply.code() != "member_not_ready" {
            reply.expect_problem(504, "deadline_exceeded");
            break;
        }
        // The leader had noticed the silence first.
        cluster.cont(second);
        cluster.wait_node_ready(second).await;
    }
    // The leader dies before the change ends; whoever leads next finds it half done.
    cluster.kill9(0);
    cluster.cont(second);
    cluster.restart(0);
    cluster.wait_ready().await;
    let both = BTreeSet::from([cluster.node_id(0).await, second_id.clone()]);
    eventually("the change is shown", async || {
        let view = view(&first).await;
        (view["joint"] == true && members(&view).0 == both).then_some(())
    })
    .await;
    Acquire::new("job").granted(&first).await;
    let other = post(&first, "promote", json!({"node_id": third_id})).await;
    let problem = other.expect_problem(409, "change_interrupted");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("/v1/cluster/finish-change"), "{detail}");

    let finished = change(&cluster.http(second), "finish-change", json!({})).await;
    assert_eq!(finished["joint"], false);
    until_voters(&first, &both).await;
    let again = change(&first, "finish-change", json!({})).await;
    assert_eq!(again["membership_version"], finished["membership_version"]);
    change(&first, "promote", json!({"node_id": third_id})).await;
}

#[tokio::test]
async fn what_would_endanger_the_cluster_is_refused_with_words() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    let (dead, alive) = (others[0], others[1]);
    let (dead_id, alive_id) = (cluster.node_id(dead).await, cluster.node_id(alive).await);
    let dead_peer = cluster.peer_address(dead).to_string();
    let http = cluster.http(alive);
    cluster.kill9(dead);
    post(&http, "transfer", json!({"to_node_id": dead_id}))
        .await
        .expect_problem(409, "member_not_ready");
    let other_version = json!({"node_id": alive_id, "if_membership": "9-9"});
    post(&http, "remove", other_version)
        .await
        .expect_problem(409, "membership_changed");
    // Of three voters one is dead; the leader notices that within a second.
    eventually("the leader has not heard from the dead one", async || {
        let view = view(&cluster.http(leader)).await;
        let members = view["members"].as_array()?;
        let dead = members
            .iter()
            .find(|member| member["node_id"] == *dead_id)?;
        (dead["heard_by_leader"] == false).then_some(())
    })
    .await;
    let leading_id = cluster.node_id(leader).await;
    let problem = post(&http, "remove", json!({"node_id": alive_id}))
        .await
        .expect_problem(409, "change_refused");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("only 1 are alive"), "{detail}");

    let taken = json!({"node_id": alive_id, "peer_address": dead_peer});
    let problem = post(&http, "address", taken)
        .await
        .expect_problem(409, "change_refused");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("belongs to member"), "{detail}");
    for (what, body, field) in [
        ("promote", json!({}), "node_id"),
        ("promote", json!({"node_id": "n2"}), "node_id"),
        ("remove", json!({"node_id": "a", "now": true}), "now"),
        (
            "remove",
            json!({"node_id": "a", "if_membership": "7"}),
            "if_membership",
        ),
        ("replace", json!({"old_node_id": "a"}), "new_node_id"),
        (
            "address",
            json!({"node_id": leading_id, "http_address": "x"}),
            "http_address",
        ),
        (
            "address",
            json!({"node_id": leading_id, "peer_address": "x"}),
            "peer_address",
        ),
        (
            "address",
            json!({"node_id": leading_id, "name": ""}),
            "name",
        ),
        ("transfer", json!({"to": "a"}), "to"),
        ("finish-change", json!({"force": true}), "force"),
        ("snapshot", json!({"all": true}), "all"),
    ] {
        let problem = post(&http, what, body).await;
        let problem = problem.expect_problem(400, "invalid_request");
        assert_eq!(problem["field"], field, "{what}: {problem}");
    }
    let nothing = post(&http, "address", json!({"node_id": leading_id})).await;
    nothing.expect_problem(400, "invalid_request");
    assert_eq!(
        members(&view(&http).await).0.len(),
        3,
        "nothing was changed"
    );
}

#[tokio::test]
async fn what_the_members_say_of_a_running_node_can_be_changed() {
    let cluster = Cluster::start().await;
    let id = cluster.node_id(2).await;
    let peer = cluster.peer_address(2).to_string();
    let body = json!({"node_id": id, "name": "renamed", "http_address": "db3.example:7101"});
    let changed = change(&cluster.http(0), "address", body).await;
    let members = changed["members"].as_array().unwrap();
    let member = members.iter().find(|member| member["node_id"] == *id);
    let expected = json!({
        "node_id": id, "name": "renamed", "voter": true, "peer_address": peer,
        "http_address": "db3.example:7101",
    });
    assert_eq!(member, Some(&expected));
    eventually("the node itself knows", async || {
        let view = view(&cluster.http(2)).await;
        let members = view["members"].as_array()?;
        let own = members.iter().find(|member| member["node_id"] == *id)?;
        (own["name"] == "renamed").then_some(())
    })
    .await;
}

/// Term and leader, by this node's account.
async fn leadership(http: &Http) -> (u64, String) {
    leadership_after(0, http).await
}

/// The same, of a later term than this one.
async fn leadership_after(term: u64, http: &Http) -> (u64, String) {
    eventually("a leader is known", async || {
        let view = view(http).await;
        let leader = view["leader"]["node_id"].as_str()?.to_owned();
        let current = view["term"].as_u64()?;
        (current > term).then_some((current, leader))
    })
    .await
}

#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_before_it_goes() {
    let mut cluster = Cluster::start().await;
    let held = Acquire::new("job").ttl_ms(600_000);
    let held = held.granted(&cluster.http(0)).await;
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let other = cluster.http((leader + 1) % 3);
        let (term, led) = leadership(&other).await;
        cluster.terminate(leader).await;
        // Its process has ended, and somebody leads already, in the very next term: there was one
        // election, and it was no time-out's.
        let (next, leads) = leadership_after(term, &other).await;
        assert_eq!(next, term + 1);
        assert_ne!(leads, led);
        let log = cluster.log(leader);
        assert!(log.contains("handed the leadership over"), "{log}");
        assert_eq!(holder(&other.lock("job").await)["token"], held.token);
        cluster.restart(leader);
        cluster.wait_ready().await;
    }
}

#[tokio::test]
async fn the_leadership_goes_where_it_is_sent_and_stays_when_that_would_not_do() {
    let mut cluster = Cluster::start().await;
    let learner = cluster.join(&["--learner"]);
    let learner_id = until_member(&cluster, learner).await;
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    let (to, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let to_id = cluster.node_id(to).await;
    let http = cluster.http(third);
    let (term, _) = leadership(&http).await;
    let body = json!({"to_node_id": to_id});
    let reply = post(&http, "transfer", body).await.expect(200);
    assert_eq!(reply["leader"]["node_id"], to_id);
    // The node that passed the call on may hear of it a moment later.
    let transferred = leadership_after(term, &http).await;
    assert_eq!(transferred, (term + 1, to_id.clone()));
    Acquire::new("job").granted(&http).await;

    let to_learner = json!({"to_node_id": learner_id});
    post(&http, "transfer", to_learner)
        .await
        .expect_problem(409, "change_refused");
    let to_nobody = json!({"to_node_id": "0000000000ff"});
    post(&http, "transfer", to_nobody)
        .await
        .expect_problem(404, "member_not_found");
    let hanging_id = cluster.node_id(leader).await;
    cluster.stop(leader);
    // The signal takes a moment to stop all of its threads.
    eventually("it hangs", async || {
        let view = view(&http).await;
        let members = view["members"].as_array()?;
        let member = members
            .iter()
            .find(|member| member["node_id"] == *hanging_id)?;
        (member["reachable"] == false).then_some(())
    })
    .await;
    let to_hanging = json!({"to_node_id": hanging_id});
    post(&http, "transfer", to_hanging)
        .await
        .expect_problem(409, "member_not_ready");
    assert_eq!(leadership(&http).await, (term + 1, to_id));
    cluster.cont(leader);
}

#[tokio::test]
async fn a_snapshot_is_taken_when_asked_for() {
    let cluster = Cluster::start().await;
    Acquire::new("job").granted(&cluster.http(1)).await;
    let id = cluster.node_id(1).await;
    let reply = post(&cluster.http(1), "snapshot", json!({}))
        .await
        .expect(200);
    assert_eq!(reply["node_id"], id);
    assert!(reply["snapshot_index"].is_null(), "{reply}");
    eventually("the snapshot is there", async || {
        let view = view(&cluster.http(1)).await;
        let members = view["members"].as_array()?.iter();
        let own = members.clone().find(|member| member["node_id"] == *id)?;
        own["snapshot_index"].as_u64()
    })
    .await;
}

#[tokio::test]
async fn a_cluster_of_one_is_founded_once() {
    let mut cluster = Cluster::builder(1).init().await;
    let founded = view(&cluster.http(0)).await["cluster_id"].clone();
    cluster.terminate(0).await;
    let again = tests::palisaded()
        .args(["init", "--data-dir"])
        .arg(&cluster.files(0).data)
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(1));
    let words = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(words.contains(founded.as_str().unwrap()), "{words}");
    cluster.restart(0);
    cluster.wait_ready().await;
    assert_eq!(view(&cluster.http(0)).await["cluster_id"], founded);
}
