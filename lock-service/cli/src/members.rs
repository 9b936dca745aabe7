//! `palisade members`: look at the members and change them.

use std::process::ExitCode;
use std::time::Duration;

use lock_api::{
    AddressRequest, FinishChangeRequest, MemberRequest, MembershipResponse, ReplaceRequest,
    TransferRequest,
};
use lock_client::{Client, Error};

use crate::arguments::MembersCommand;
use crate::output::{self, Output, or_dash};
use crate::{duration, exit, status};

/// A change has to reach every member, and a new voter may have much to read.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Does what was asked for and shows the members after it.
pub(crate) async fn run(client: &Client, command: MembersCommand, output: Output) -> ExitCode {
    let client = client.with_timeout(CHANGE_TIMEOUT);
    let waiting = output::tell(async {
        let longest = duration::show(CHANGE_TIMEOUT);
        format!("waiting for the members, for {longest} at most")
    });
    tokio::select! {
        status = change(&client, command, output) => status,
        never = waiting => match never {},
    }
}

async fn change(client: &Client, command: MembersCommand, output: Output) -> ExitCode {
    let result = match command {
        MembersCommand::List => return status::run(client, output).await,
        MembersCommand::Snapshot => {
            return match client.snapshot().await {
                Ok(answer) => output.show(&answer, |answer| {
                    let before = or_dash(answer.snapshot_index);
                    format!(
                        "{} takes a snapshot; its last is at {before}\n",
                        answer.node_id
                    )
                }),
                Err(error) => exit::failed(&error),
            };
        }
        MembersCommand::Transfer { to } => {
            let request = TransferRequest { to_node_id: to };
            return match client.transfer_leadership(&request).await {
                Ok(answer) => output.show(&answer, |answer| {
                    format!("{} ({}) leads\n", answer.leader.name, answer.leader.node_id)
                }),
                Err(error) => exit::failed(&error),
            };
        }
        MembersCommand::Promote { node, condition } => {
            let request = MemberRequest {
                node_id: node,
                if_membership: condition.if_membership,
            };
            client.promote_member(&request).await
        }
        MembersCommand::Remove { node, condition } => {
            let request = MemberRequest {
                node_id: node,
                if_membership: condition.if_membership,
            };
            client.remove_member(&request).await
        }
        MembersCommand::Replace {
            old,
            new,
            condition,
        } => {
            let request = ReplaceRequest {
                old_node_id: old,
                new_node_id: new,
                if_membership: condition.if_membership,
            };
            client.replace_member(&request).await
        }
        MembersCommand::Address {
            node,
            name,
            peer,
            http,
            condition,
        } => {
            let request = AddressRequest {
                node_id: node,
                name,
                peer_address: peer,
                http_address: http,
                if_membership: condition.if_membership,
            };
            client.readdress_member(&request).await
        }
        MembersCommand::FinishChange { condition } => {
            let request = FinishChangeRequest {
                if_membership: condition.if_membership,
            };
            client.finish_change(&request).await
        }
    };
    show(result, output)
}

fn show(result: Result<MembershipResponse, Error>, output: Output) -> ExitCode {
    let membership = match result {
        Ok(membership) => membership,
        Err(error) => return exit::failed(&error),
    };
    output.show(&membership, |membership| {
        let rows: Vec<_> = membership
            .members
            .iter()
            .map(|member| {
                [
                    member.name.clone(),
                    member.node_id.to_string(),
                    if member.voter { "yes" } else { "no" }.to_owned(),
                    member.http_address.clone(),
                    member.peer_address.clone(),
                ]
            })
            .collect();
        let version = or_dash(membership.membership_version);
        let table = output.table(["NAME", "ID", "VOTER", "HTTP", "PEER"], &rows);
        let unfinished = match membership.joint {
            true => "a change of voters is under way\n",
            false => "",
        };
        format!("version {version}\n{unfinished}\n{table}")
    })
}
