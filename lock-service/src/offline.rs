//! `palisaded inspect` and `palisaded verify`: what a data directory holds, and whether it is whole,
//! while no node runs on it. Neither changes anything.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use raft_core::{BackupInfo, Inspection, LogPosition, Member, NodeId, StartError};
use serde_json::{Value, json};

use crate::config::DEFAULT_DATA_DIR;
use crate::machine::{LockMachine, Surroundings};

/// Which directory to look at, and how to tell of it.
#[derive(Args, Clone, Debug)]
pub struct OfflineArgs {
    /// The data directory, of a node that does not run
    #[arg(
        long,
        env = "PALISADE_DATA_DIR",
        value_name = "DIR",
        default_value = DEFAULT_DATA_DIR
    )]
    pub data_dir: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `palisaded verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    directory: OfflineArgs,

    /// Check this backup file instead of a data directory
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    backup: Option<PathBuf>,
}

/// What a look at a directory came to; also the process's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Nothing is known to be wrong.
    Sound = 0,
    /// A node would not start on it.
    Damaged = 1,
    /// It could not be looked at: in use, not there, not readable.
    Unknown = 2,
}

/// Prints what the directory holds. Blocking.
///
/// # Errors
/// When `out` cannot be written to.
pub fn inspect(args: &OfflineArgs, out: &mut dyn Write) -> io::Result<Verdict> {
    print(args, raft_core::inspect(&args.data_dir), out)
}

/// Prints whether all that the directory holds can be believed, and read by this build: each
/// checksum, the log's order, the synced mark, every command, the snapshot's lock table. Blocking.
///
/// # Errors
/// When `out` cannot be written to.
pub fn verify(args: &VerifyArgs, out: &mut dyn Write) -> io::Result<Verdict> {
    let machine = LockMachine::new(Surroundings::default());
    match &args.backup {
        None => {
            let seen = raft_core::verify(&args.directory.data_dir, &machine);
            print(&args.directory, seen, out)
        }
        Some(path) => {
            let seen = raft_core::verify_backup(path, &machine);
            print_backup(path, &args.directory, seen, out)
        }
    }
}

fn print_backup(
    path: &Path,
    args: &OfflineArgs,
    seen: Result<BackupInfo, StartError>,
    out: &mut dyn Write,
) -> io::Result<Verdict> {
    let (verdict, word, problems) = judge(seen.as_ref().map(|_| [].as_slice()));
    if args.json {
        let mut body = seen.as_ref().map_or(json!({}), |info| {
            json!({
                "cluster_id": info.cluster.to_string(),
                "node_id": info.node.to_string(),
                "last": {"term": info.term, "index": info.index},
                "members": info.members.iter().map(|(node, member)| json!({
                    "node_id": node.to_string(),
                    "name": member.name,
                })).collect::<Vec<_>>(),
                "taken_unix_ms": info.taken_unix_ms,
            })
        });
        body["backup"] = json!(path);
        return print_json(body, word, &problems, out).map(|()| verdict);
    }
    writeln!(out, "backup      {}", path.display())?;
    if let Ok(info) = &seen {
        writeln!(out, "cluster     {}", info.cluster)?;
        writeln!(out, "made by     {}", info.node)?;
        writeln!(out, "last entry  index {} (term {})", info.index, info.term)?;
        writeln!(out, "taken       {} ms since 1970", info.taken_unix_ms)?;
    }
    print_verdict(word, &problems, out).map(|()| verdict)
}

/// The verdict, its word, and everything that is wrong.
fn judge(seen: Result<&[String], &StartError>) -> (Verdict, &'static str, Vec<String>) {
    let (verdict, problems) = match seen {
        Ok([]) => (Verdict::Sound, Vec::new()),
        Ok(problems) => (Verdict::Damaged, problems.to_vec()),
        Err(error @ StartError::Storage(io)) if io.kind() == io::ErrorKind::InvalidData => {
            (Verdict::Damaged, vec![error.to_string()])
        }
        Err(error) => (Verdict::Unknown, vec![error.to_string()]),
    };
    let word = match verdict {
        Verdict::Sound => "sound",
        Verdict::Damaged => "damaged",
        Verdict::Unknown => "not checked",
    };
    (verdict, word, problems)
}

fn print_json(
    mut body: Value,
    word: &str,
    problems: &[String],
    out: &mut dyn Write,
) -> io::Result<()> {
    body["verdict"] = json!(word);
    body["problems"] = json!(problems);
    serde_json::to_writer_pretty(&mut *out, &body)?;
    writeln!(out)
}

fn print_verdict(word: &str, problems: &[String], out: &mut dyn Write) -> io::Result<()> {
    for problem in problems {
        writeln!(out, "problem     {problem}")?;
    }
    writeln!(out, "{word}")
}

fn print(
    args: &OfflineArgs,
    seen: Result<Inspection, StartError>,
    out: &mut dyn Write,
) -> io::Result<Verdict> {
    let (verdict, word, problems) = judge(seen.as_ref().map(|seen| seen.problems.as_slice()));
    if args.json {
        let mut body = seen.as_ref().map_or(json!({}), describe);
        body["data_dir"] = json!(args.data_dir);
        return print_json(body, word, &problems, out).map(|()| verdict);
    }
    if let Ok(seen) = &seen {
        table(&args.data_dir, seen, out)?;
    }
    print_verdict(word, &problems, out).map(|()| verdict)
}

fn position(position: Option<LogPosition>) -> Value {
    position.map_or(
        Value::Null,
        |position| json!({"term": position.term, "index": position.index}),
    )
}

fn members(seen: &Inspection) -> impl Iterator<Item = (NodeId, &Member, bool)> {
    seen.membership.iter().flat_map(|membership| {
        let voter = |node: &NodeId| membership.is_voter(*node);
        let each = membership.members.iter();
        each.map(move |(node, member)| (*node, member, voter(node)))
    })
}

fn describe(seen: &Inspection) -> Value {
    let members = members(seen).map(|(node, member, voter)| {
        json!({
            "node_id": node.to_string(),
            "name": member.name,
            "peer_address": member.peer_address,
            "http_address": member.service_address,
            "voter": voter,
        })
    });
    json!({
        "node_id": seen.node.to_string(),
        "cluster_id": seen.cluster.map(|cluster| cluster.to_string()),
        "vote": seen.vote.map(|vote| json!({
            "term": vote.term,
            "node_id": vote.node.to_string(),
            "committed": vote.committed,
        })),
        "members": members.collect::<Vec<_>>(),
        "log": {
            "first": position(seen.first),
            "last": position(seen.last),
            "purged": position(seen.purged),
            "committed": position(seen.committed),
            "torn_tail": seen.torn_tail,
        },
        "synced_mark": seen.mark.map(|mark| json!({
            "vote_term": mark.vote_term,
            "synced_below": mark.synced_below,
            "one_slot_spoiled": mark.one_slot_spoiled,
        })),
        "snapshot": seen.snapshot.as_ref().map(|snapshot| json!({
            "path": snapshot.path,
            "last": position(snapshot.last),
            "bytes": snapshot.bytes,
        })),
    })
}

fn table(directory: &Path, seen: &Inspection, out: &mut dyn Write) -> io::Result<()> {
    let at = |position: Option<LogPosition>| {
        position.map_or("none".to_owned(), |position| {
            format!("index {} (term {})", position.index, position.term)
        })
    };
    writeln!(out, "directory   {}", directory.display())?;
    writeln!(out, "node        {}", seen.node)?;
    match seen.cluster {
        Some(cluster) => writeln!(out, "cluster     {cluster}")?,
        None => writeln!(out, "cluster     none yet")?,
    }
    match seen.vote {
        Some(vote) => writeln!(
            out,
            "vote        term {} for {}{}",
            vote.term,
            vote.node,
            if vote.committed { ", who won" } else { "" }
        )?,
        None => writeln!(out, "vote        none")?,
    }
    for (node, member, voter) in members(seen) {
        writeln!(
            out,
            "member      {node} {} peers {} http {} {}",
            member.name,
            member.peer_address,
            member.service_address,
            if voter { "voter" } else { "learner" }
        )?;
    }
    writeln!(out, "first entry {}", at(seen.first))?;
    writeln!(out, "last entry  {}", at(seen.last))?;
    writeln!(out, "purged      {}", at(seen.purged))?;
    writeln!(out, "committed   {} at least", at(seen.committed))?;
    match seen.mark {
        Some(mark) => writeln!(
            out,
            "synced mark entries below {}, vote of term {}{}",
            mark.synced_below,
            mark.vote_term,
            match mark.one_slot_spoiled {
                true => "; one of its two slots does not hold (a torn write, or damage)",
                false => "",
            }
        )?,
        None => writeln!(out, "synced mark none")?,
    }
    match &seen.snapshot {
        Some(snapshot) => writeln!(
            out,
            "snapshot    up to {}, {} bytes, {}",
            at(snapshot.last),
            snapshot.bytes,
            snapshot.path.display()
        )?,
        None => writeln!(out, "snapshot    none")?,
    }
    if seen.torn_tail {
        writeln!(
            out,
            "note        the write-ahead log ends in a record that does not hold, behind all that \
             the mark vouches for: ordinary after a crash"
        )?;
    }
    Ok(())
}
