//! Palisade's lock service: joins the lock model, the Raft group and the HTTP API.
//!
//! ```text
//! routes/ -> service -> Node::propose -> (raft) -> LockMachine::apply -> Outcome -> routes/
//!                 \-> renewals (coalesced)              \-> waiters (parked requests)
//! ticker: the leader's heartbeat of cluster time        clock: the only clock that is read
//! ```
//!
//! The rules of locking are in `lock-model`, replication is in `raft-core`; this crate decides
//! nothing about either. The binary is `palisaded`.
#![forbid(unsafe_code)]

pub mod auth;
pub mod clock;
pub mod command_line;
pub mod config;
pub mod dev;
mod events;
mod https;
mod machine;
pub mod metrics;
pub mod offline;
pub mod planted;
mod problem;
mod record;
mod renewals;
pub mod restore;
mod routes;
pub mod server;
mod service;
mod ticker;
mod waiters;
