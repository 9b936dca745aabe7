//! `palisade status`: the cluster's members, and which one leads.

use std::io::Write;
use std::process::ExitCode;

use lock_api::{ClusterResponse, MemberView};
use lock_client::Client;

use crate::arguments::StatusArguments;
use crate::exit;

/// Asks any node and prints its answer.
pub(crate) async fn run(client: &Client, arguments: &StatusArguments) -> ExitCode {
    let cluster = match client.cluster().await {
        Ok(cluster) => cluster,
        Err(error) => {
            let status = exit::of(&error);
            return exit::fail(
                status,
                format_args!("{error}. Check --endpoints and the nodes."),
            );
        }
    };
    let text = match arguments.json {
        true => serde_json::to_string_pretty(&cluster).map(|json| json + "\n"),
        false => Ok(table(&cluster)),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => return exit::fail(exit::UNAVAILABLE, error),
    };
    // A reader that has gone away (`| head`) is no failure of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn table(cluster: &ClusterResponse) -> String {
    let leader = match &cluster.leader {
        Some(leader) => format!("{} ({})", leader.name, leader.node_id),
        None => "none known: no lock can be granted or renewed until one is elected".to_owned(),
    };
    let mut rows = vec![HEADER.map(str::to_owned)];
    let mut members: Vec<&MemberView> = cluster.members.iter().collect();
    members.sort_by(|one, other| one.name.cmp(&other.name));
    rows.extend(members.into_iter().map(row));
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = format!(
        "cluster  {}\nleader   {leader}\nterm     {}\n",
        cluster.cluster_id, cluster.term
    );
    if let Some(version) = cluster.membership_version {
        text.push_str(&format!("members  version {version}\n"));
    }
    if cluster.joint {
        text.push_str(
            "voters   a change of them is under way; if it stays, it was interrupted: POST \
             /v1/cluster/finish-change\n",
        );
    }
    text.push('\n');
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
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
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
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
        number(member.term),
        number(member.last_log_index),
        number(member.committed_index),
        number(member.applied_index),
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
        let table = table(&serde_json::from_value(cluster).unwrap());
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
