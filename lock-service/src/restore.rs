//! `palisaded restore`: makes the data directory of a new cluster's first node from a backup.
//!
//! Nothing is served here. The first start of that node proposes `Command::Restore`, and serves only
//! once it is applied: see `raft_core::restore`.

use std::path::PathBuf;

use clap::Args;
use lock_model::{ClusterId, Command, Entry, Response, Token};
use raft_core::{BackupInfo, Restored, StartError};

use crate::clock::token_floor;
use crate::machine::{LockMachine, Surroundings};

/// Flags of `palisaded restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// The backup, as `GET /v1/cluster/backup` gave it
    #[arg(long, value_name = "FILE")]
    pub backup: PathBuf,

    /// An empty directory, for the first node of the new cluster
    #[arg(long, env = "PALISADE_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Every new token will be larger than this, and than all that the backup knows [default: from
    /// the clock, 2^20 for each second since 1970]
    #[arg(long, value_name = "TOKEN")]
    pub token_floor: Option<u64>,

    /// Grant nothing for so many milliseconds of cluster time, because locks granted after the
    /// backup may still be held [default: the largest TTL that the backup's settings allow]
    #[arg(long, value_name = "MS")]
    pub hold_ms: Option<u64>,
}

/// Restores. Blocking.
///
/// # Errors
/// When the backup is damaged or of another build, the directory is not empty, or the floor is one
/// that the lock table refuses.
pub fn restore(args: &RestoreArgs) -> Result<Restored, StartError> {
    let machine = LockMachine::new(Surroundings::default());
    let first = |info: &BackupInfo, state: &LockMachine, cluster: raft_core::ClusterId| {
        let command = Command::Restore {
            cluster_id: ClusterId(cluster.0.to_be_bytes()),
            token_floor: args.token_floor.map_or_else(token_floor, Token),
            hold_ms: args
                .hold_ms
                .unwrap_or_else(|| state.table.settings().ttl_max_ms),
        };
        // Tried on a copy: what the table refuses must not become the new cluster's first entry.
        let mut table = state.table.clone();
        let at = Entry {
            index: info.index + 1,
            now: table.clock(),
        };
        match table.apply(at, &command).response {
            Response::Refused(refusal) => Err(format!("the backup cannot be restored: {refusal}")),
            _ => Ok(Some(command)),
        }
    };
    raft_core::restore(&args.backup, &args.data_dir, &machine, first)
}
