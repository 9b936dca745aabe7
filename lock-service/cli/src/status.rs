//! `palisade status`: the cluster's members, and which one leads.

use std::process::ExitCode;

use lock_api::{ClusterResponse, MemberView};
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
    let leader = match &cluster.leader {
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
        let cells = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
        assert_eq!(
            cells(5),
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
            cells(6),
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
