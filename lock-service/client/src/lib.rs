//! The async Rust client of Palisade, the lock service.
//!
//! [`Client::lock`] takes a lock and keeps it: a [`LockGuard`] renews its lease in the background and
//! knows until when it may be believed. [`Session`] holds many locks with one lease, [`Election`]
//! elects leaders, [`Client::watch_lock`] follows what happens. [`Client::renew`] and the rest are
//! the HTTP API, call by call.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use lock_client::Client;
//!
//! let client = Client::connect(["http://127.0.0.1:7101", "http://127.0.0.1:7102"]).await?;
//! let guard = client
//!     .lock("nightly-billing")
//!     .ttl(Duration::from_secs(15))
//!     .wait(Duration::from_secs(30))
//!     .acquire()
//!     .await?;
//! // Drops the work as soon as the lock is lost. Give the token to whatever it changes.
//! guard.run(bill(guard.token()?)).await?;
//! guard.release().await?;
//! # Ok(())
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
//! - **One retry layer**: exponential pauses with full jitter, a budget of retries for the whole
//!   client, a circuit breaker for each endpoint, and a deadline on every call.
//! - **Cancellation.** Every future may be dropped at any await point. Each method says what the
//!   cluster may have done by then.
//!
//! Linux only (it uses `CLOCK_BOOTTIME` timers). In tests, [`ClientBuilder::clock`] and
//! [`ClientBuilder::exchange`] put a paused clock and a simulated cluster in their places.

#![forbid(unsafe_code)]

mod acquire;
mod admin;
mod boot_time;
mod breaker;
mod builder;
mod call;
mod client;
mod clock;
mod election;
mod endpoint;
mod error;
mod guard;
mod http;
mod identity;
mod keeper;
mod local_deadline;
mod session;
mod sse;
mod tls;
mod transport;
mod watch;

pub use acquire::{LeaseKind, LockRequest, OwnLease, SessionLease};
pub use boot_time::{BootTime, BootTimer};
pub use builder::ClientBuilder;
pub use client::{Client, Renewed};
pub use clock::{BootClock, Clock, Timer, TokioClock};
pub use election::{Candidate, Election, Leader, Leadership, Observation};
pub use endpoint::{DEFAULT_ENDPOINTS, Endpoint, parse_endpoints};
pub use error::{AttemptFailure, Error};
pub use guard::{HoldState, HoldWatch, LockGuard, Loss};
pub use identity::{new_lease_secret, new_request_id};
pub use local_deadline::{
    CLOCK_RATE_DIFFERENCE_PERCENT, FIXED_MARGIN_MS, RENEWAL_ALLOWANCE_MS, fits, local_deadline,
    margin, smallest_ttl,
};
pub use lock_api::{
    EventType, FencingToken, LeaseHold, LeaseId, LeaseSecret, LockEvent, LockName, LockValue,
    Owner, Problem, RequestId,
};
pub use session::{Session, SessionRequest};
pub use transport::{Exchange, NoReply, WireReply, WireRequest};
pub use watch::WatchRequest;
