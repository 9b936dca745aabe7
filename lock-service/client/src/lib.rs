//! The async Rust client of Palisade, the lock service.
//!
//! [`Client::lock`] takes a lock and keeps it: a [`HeldLock`] renews its lease in the background and
//! knows until when it may be believed. [`Client::acquire`], [`Client::renew`] and the rest are the
//! HTTP API, call by call.
//!
//! ```no_run
//! # async fn run() -> Result<(), lock_client::Error> {
//! use std::time::Duration;
//! let client = lock_client::Client::builder()
//!     .endpoints(["http://127.0.0.1:7101", "http://127.0.0.1:7102", "http://127.0.0.1:7103"])
//!     .build()?;
//! let options = lock_client::LockOptions::new("nightly-billing")?.wait(Duration::from_secs(30));
//! let held = client.lock(options).await?;
//! tokio::select! {
//!     _ = bill(held.token()) => held.release().await.map(drop),
//!     loss = held.lost() => { eprintln!("stopped: {loss}"); Ok(()) }
//! }
//! # }
//! # async fn bill(token: lock_client::FencingToken) {}
//! ```
//!
//! # What it promises
//! - **Exactly once.** Every acquire carries a lease secret and a request id of its own, and every
//!   repeat is the same bytes. An answer that was lost is asked for again, on another node, for at most
//!   half of the time for which the cluster remembers ended leases.
//! - **A lost answer is never called a failure.** When the deadline comes first, the error is
//!   [`Error::Unknown`] and carries the ids.
//! - **Local deadlines** (DESIGN section 3, Time) are counted from the *sending* of the last executed
//!   renewal, on `CLOCK_BOOTTIME`, which goes on while the machine is suspended. They depend on no
//!   HTTP call returning. A virtual machine frozen by its hypervisor can still be wrong: only
//!   fencing tokens protect against that.
//! - **Cancellation.** Every future may be dropped at any await point. Each method says what the
//!   cluster may have done by then.
//!
//! Linux only (it uses `CLOCK_BOOTTIME` timers). No TLS yet.

#![forbid(unsafe_code)]

mod acquire;
mod boot_time;
mod builder;
mod call;
mod client;
mod endpoint;
mod error;
mod held;
mod identity;
mod local_deadline;
mod transport;

pub use acquire::{Acquired, LockOptions};
pub use boot_time::{BootTime, BootTimer};
pub use builder::ClientBuilder;
pub use client::{Client, Renewed};
pub use endpoint::{DEFAULT_ENDPOINTS, Endpoint, parse_endpoints};
pub use error::{AttemptFailure, Error};
pub use held::{HeldLock, HoldState, Loss};
pub use identity::{new_lease_secret, new_request_id};
pub use local_deadline::{
    CLOCK_RATE_DIFFERENCE_PERCENT, FIXED_MARGIN_MS, RENEWAL_ALLOWANCE_MS, fits, local_deadline,
    margin, smallest_ttl,
};
pub use lock_api::{FencingToken, LeaseId, LeaseSecret, LockName, Owner, Problem, RequestId};
