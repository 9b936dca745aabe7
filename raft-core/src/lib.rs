//! A replicated state machine, batteries included.
//!
//! Write one trait, [`StateMachine`]; get a durable Raft group: log and snapshots on disk, peers
//! over TCP or mutual TLS, founding from a list of addresses, proposals and linearizable reads on any
//! node, changes of the membership, backups, [`metrics`].
//!
//! ```text
//!            propose                                   read
//!               |                                        |
//!   any node:   v                                        v
//!          Node::propose: admits, or refuses        Node::read_barrier
//!               |  (forwarded once)                      |  (ReadIndex at the leader,
//!   leader:     v                                        |   then wait until applied)
//!          admits what others forward                    |
//!               v                                        |
//!          proposer task: stamps, seals                  |
//!               v                                        |
//!          openraft  <---- transport: append, vote, snapshot ---->  peers
//!               v                                        |
//!          log: memory tail + RocksDB, one fsync per group
//!               v                                        v
//!   every node: StateMachine::apply ------------> Node::read(|machine| ..)
//!               |
//!               +--> the response, to the proposal that this node made
//! ```
//!
//! A replicated counter, whole, is in `examples/counter.rs`: `cargo run --release --example counter`.
//!
//! This is the only crate of Palisade that names openraft or RocksDB, and neither is in its public
//! API. It knows nothing of locks, HTTP or wall clocks.
#![forbid(unsafe_code)]

mod apply;
mod backup;
mod codec;
mod config;
mod directory;
mod error;
mod founding;
mod identity;
mod joining;
mod log;
mod machine;
mod membership;
#[cfg(test)]
mod memory;
pub mod metrics;
mod node;
mod offline;
mod runtime;
mod sealed;
mod security;
#[cfg(test)]
mod simulation;
mod snapshot;
#[cfg(test)]
mod testing;
mod transport;
mod types;

pub use backup::{BackupInfo, Restored, restore, verify_backup};
pub use config::{Config, Start};
pub use error::{BackupError, ProposeError, ReadError, StartError};
pub use founding::{Founded, found_alone};
pub use log::SyncPolicy;
pub use machine::{EntryContext, MachineError, Priority, SnapshotWriter, Stamper, StateMachine};
pub use membership::{
    MAX_MEMBER_TEXT_BYTES, MemberField, Membership, MembershipChange, MembershipError,
    MembershipVersion, ParseVersionError,
};
pub use node::{
    Applied, MAX_COMMAND_BYTES, MemberStatus, Node, NodeProgress, Role, Status, StatusWatch,
};
pub use offline::{
    Inspection, LogPosition, SnapshotRecord, SyncedMark, VoteRecord, inspect, verify,
};
pub use security::{MutualTls, PeerSecurity, Pem};
pub use types::{ClusterId, Member, NodeId, ParseIdError};
