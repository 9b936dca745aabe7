//! What the black-box tests stand on: real clusters of built `palisaded` processes on loopback, a
//! thin JSON client that hides nothing of the wire, and waiting for conditions with a deadline.
//!
//! It knows the service only by its binaries and its HTTP API ([`soak`] has its own nodes, built on
//! `raft-core` alone). It never links the server, never
//! touches a process that it did not start, and retries nothing on behalf of a test: what a node
//! answered is what the test sees.
//!
//! The binaries are looked for in `PALISADE_BIN_DIR`, else beside the test's own executable.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a failure here is a failed test, and should say where"
)]

mod acquire;
mod binaries;
mod certificates;
mod cluster;
mod events;
mod http;
mod identity;
mod link;
mod load;
pub mod measure;
mod metrics;
pub mod raw;
pub mod soak;
mod wait;

pub use acquire::{Acquire, Granted, holder, position, queue};
pub use binaries::{bin_dir, palisade, palisaded};
pub use certificates::{Authority, NodeCertificate, put};
pub use cluster::{Cluster, ClusterBuilder, NodeFiles, free_in_a_row};
pub use events::{EventStream, SentEvent};
pub use http::{Http, Reply};
pub use identity::{new_secret, secret_id};
pub use link::Link;
pub use load::{Load, Written};
pub use metrics::Scrape;
pub use wait::{PATIENCE, eventually, within};
