//! `palisade status`: the cluster's members, and which one leads.

use std::process::ExitCode;

use lock_api::{ClusterResponse, MemberView, NodeId};
use lock_client::{Client, Error};

use crate::exit;
use crate::output::{Output, or_dash};

/// Asks any node and prints its answer.
pub(crate) async fn run(client: &Client, output: Output) -> ExitCode {
    match client.cluster().await {
        Ok(cluster) => output.show(&cluster, |cluster| table(cluster, output)),
        Err(error @ Error::Unavailable { .. }) => {
            exit::failed_with(&error, " Check --endpoints, and whether the nodes run.")
        }
        Err(error) => exit::failed(&error),
    }
}

fn table(cluster: &ClusterResponse, output: Output) -> String {
    let is_gone = |leader: NodeId| {
        let leader = |member: &&MemberView| member.node_id == leader;
        let member = cluster.members.iter().find(leader);
        member.is_some_and(|member| !member.reachable)
    };
    let leader = match &cluster.leader {
        Some(leader) if is_gone(leader.node_id) => format!(
            "{} ({}), the last that was known; it does not answer",
            leader.name, leader.node_id
        ),
        Some(leader) => format!("{} ({})", leader.name, leader.node_id),
        None => "none known: no lock can be granted or renewed until one is elected".to_owned(),
    };
    let mut members: Vec<&MemberView> = cluster.members.iter().collect();
    members.sort_by(|one, other| one.name.cmp(&other.name));
    let rows: Vec<_> = members.into_iter().map(row).collect();
    let mut text = format!(
        "cluster  {}\nleader   {leader}\nterm     {}\n",
        cluster.cluster_id, cluster.term
    );
    if let Some(version) = cluster.membership_version {
        text.push_str(&format!("members  version {version}\n"));
    }
    let voters = || cluster.members.iter().filter(|member| member.voter);
    let (all, here) = (
        voters().count(),
        voters().filter(|voter| voter.reachable).count(),
    );
    if here <= all / 2 {
        text.push_str(&format!(
            "quorum   lost: {here} of {all} voters answer, and nothing can be granted or renewed until \
             {} do\n",
            all / 2 + 1
        ));
    }
    if cluster.joint {
        text.push_str(
            "voters   a change of them is under way; if it stays, it was interrupted: run \
             `palisade members finish-change`\n",
        );
    }
    text.push('\n');
    text.push_str(&output.table(HEADER, &rows));
    text
}

const COLUMNS: usize = 10;
const HEADER: [&str; COLUMNS] = [
    "NAME",
    "ID",
    "ROLE",
    "VOTER",
    "TERM",
    "LAST LOG",
    "COMMITTED",
    "APPLIED",
    "HTTP",
    "PEER",
];

fn row(member: &MemberView) -> [String; COLUMNS] {
    let role = match (&member.role, member.reachable) {
        (Some(role), _) => role.to_string(),
        (None, true) => "-".to_owned(),
        (None, false) => "unreachable".to_owned(),
    };
    [
        member.name.clone(),
        member.node_id.to_string(),
        role,
        if member.voter { "yes" } else { "no" }.to_owned(),
        or_dash(member.term),
        or_dash(member.last_log_index),
        or_dash(member.committed_index),
        or_dash(member.applied_index),
        member.http_address.clone(),
        member.peer_address.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(answering: [bool; 3]) -> ClusterResponse {
        let members = answering
            .iter()
            .zip(["a", "b", "c"])
            .map(|(reachable, name)| {
                serde_json::json!({
                    "node_id": format!("00000000000{name}"), "name": name, "voter": true,
                    "http_address": "h:1", "peer_address": "p:1", "reachable": reachable,
                    "role": null, "term": null,
                })
            });
        let cluster = serde_json::json!({
            "cluster_id": "c0ffee", "answered_by": "00000000000c", "term": 3,
            "leader": {"node_id": "00000000000a", "name": "a"},
            "members": members.collect::<Vec<_>>(),
        });
        serde_json::from_value(cluster).unwrap()
    }

    #[test]
    fn a_leader_that_does_not_answer_and_a_quorum_that_is_lost_are_said() {
        let shown = |answering| table(&cluster(answering), Output::new(false));
        let (gone, lost) = (
            "the last that was known",
            "quorum   lost: 1 of 3 voters answer",
        );
        let well = shown([true, true, true]);
        assert!(!well.contains(gone) && !well.contains("quorum"), "{well}");
        let failing_over = shown([false, true, true]);
        assert!(failing_over.contains(gone), "{failing_over}");
        assert!(!failing_over.contains("quorum"), "{failing_over}");
        let minority = shown([false, false, true]);
        assert!(
            minority.contains(gone) && minority.contains(lost),
            "{minority}"
        );
    }

    #[test]
    fn the_table_shows_each_members_own_numbers_and_a_dash_where_there_are_none() {
        let cluster = serde_json::json!({
            "cluster_id": "c0ffee", "answered_by": "00000000000a", "term": 3,
            "leader": {"node_id": "00000000000a", "name": "n1"},
            "members": [
                {"node_id": "00000000000a", "name": "n1", "voter": true, "http_address": "h:1",
                 "peer_address": "p:1", "reachable": true, "role": "leader", "term": 3,
                 "last_log_index": 120, "committed_index": 119, "applied_index": 118},
                {"node_id": "00000000000b", "name": "n2", "voter": true, "http_address": "h:2",
                 "peer_address": "p:2", "reachable": false, "role": null, "term": null},
            ],
        });
        let cluster = serde_json::from_value(cluster).unwrap();
        let table = table(&cluster, Output::new(false));
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[1], "leader   n1 (00000000000a)");
        let cells = |name: &str| {
            let line = lines.iter().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(
            cells("n1 "),
            [
                "n1",
                "00000000000a",
                "leader",
                "yes",
                "3",
                "120",
                "119",
                "118",
                "h:1",
                "p:1"
            ]
        );
        assert_eq!(
            cells("n2 "),
            [
                "n2",
                "00000000000b",
                "unreachable",
                "yes",
                "-",
                "-",
                "-",
                "-",
                "h:2",
                "p:2"
            ]
        );
    }
}
