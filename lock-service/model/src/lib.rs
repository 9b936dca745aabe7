//! The lock model: leases, locks, wait queues and fencing tokens as a pure, deterministic state
//! machine. It never sees a clock, a random number, a file, a socket or a thread; whoever drives it
//! hands in entries of a replicated log, in order, and gets answers and events back.
//!
//! ```text
//!  Entry { index, now } + Command ──► LockTable::apply ──► Outcome { response, events, more_due }
//! ```
//!
//! The same entries give the same state on every node, for ever. That is all that makes the lock
//! service one service: it grants a lock to one lease only because every node applies the same
//! grants in the same order. So nothing that a node is configured with may change an answer (limits
//! are [`Settings`] in the state), no map is iterated in an order of its own, and nothing panics:
//! what cannot be done is a [`Refusal`], an answer like others.
//!
//! # An example
//!
//! ```
//! use lock_model::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut table = LockTable::new();
//! let found = Command::Found {
//!     cluster_id: ClusterId([7; 16]),
//!     token_floor: Token(100),
//!     settings: Settings::default(),
//!     model_version: ModelVersion::LATEST,
//! };
//! table.apply(Entry { index: 1, now: Timestamp(0) }, &found);
//!
//! let acquire = Command::Acquire(Acquire {
//!     lease: LeaseId([1; 16]),
//!     request: RequestId::new("first")?,
//!     body: BodyHash([0; 16]),
//!     locks: vec![LockRequest { lock: LockName::new("jobs/billing")?, mode: Mode::Exclusive }],
//!     ttl_ms: Some(15_000),
//!     owner: Owner::new("worker-3")?,
//!     wait_ms: 0,
//!     value: None,
//!     lock_delay_ms: 0,
//! });
//! let outcome = table.apply(Entry { index: 2, now: Timestamp(10) }, &acquire);
//! let Response::Granted(granted) = outcome.response else { return Err("not granted".into()) };
//! assert_eq!(granted.grants[0].token, Token(101));
//! # Ok(())
//! # }
//! ```
//!
//! # What an entry does
//!
//! 1. **Time** moves to `max(now, clock)`. What is due ends, in the order of (deadline, id): first
//!    what the command touches, then everything else up to a cap, so that an entry stays short when
//!    a hundred thousand leases end at once. What is overdue is dead to everybody in any case, also
//!    to reads; ending it is only housekeeping. `more_due` asks for another entry soon.
//! 2. **Waiters** at the heads of the queues that moved are granted, locks by name.
//! 3. **The command** runs.
//! 4. **Waiters** again, for what the command freed.
//!
//! Every response and every event gets a [`Position`], `index.ordinal`. Positions are totally
//! ordered: they say in which order things happened, and a waiter's position is its place in the
//! queue. The response stands before the events that its command caused and behind those that were
//! due anyway.
//!
//! # Time
//!
//! `now` is a logical cluster clock in milliseconds that only the leader stamps. It stands still
//! while nothing can be committed, so no lease ends because the cluster was down. Nothing happens
//! between entries: while [`LockTable::next_deadline`] is some, the leader keeps committing (a
//! [`Command::Tick`] if nothing else). A deadline is reached when the clock is *at* it.
//!
//! # Leases
//!
//! A [lease](LeaseView) is what holds and waits; it ends at its deadline unless it is renewed. An
//! explicit one ([`Command::OpenLease`]) lives by its deadline alone. One that an acquire made lives
//! as long as it waits (until its first request's wait deadline), from its first grant on for its
//! TTL, and ends as soon as it neither holds nor waits. Apart from that first grant, deadlines only
//! rise.
//!
//! A lease that anybody but its secret's owner ends ([`Command::ForceRelease`],
//! [`Command::RevokeById`]) holds back all that it held until its deadline, because its owner may
//! not know. An acquire can ask for a *lock delay*, which follows that, and follows expiry.
//!
//! # Locks
//!
//! A lock exists while somebody holds it or waits for it, or its delay runs. It is held exclusively,
//! shared, or by permits ([`Mode`]). An acquire of several locks gets them in one entry, all or
//! nothing, and waits in all their queues. Queues are strictly first come, first served: a request
//! is granted when it heads all its queues and all its locks have room. Whoever was queued first
//! heads all its queues, so waiters never wait for each other in a circle, and whoever comes later
//! never passes.
//!
//! # Tokens
//!
//! Every grant takes the next number of one counter, which starts above the floor that the cluster
//! was founded with and never falls; only who joins sharers gets theirs. So for each lock that is
//! held exclusively or shared a later holder never has a smaller token, and a resource that refuses
//! tokens below the largest it has seen cannot be harmed by a former holder. Permits have tokens of
//! their own each, but several are held at once, so a maximum does not guard them.
//!
//! # Repeats
//!
//! A client that lost an answer repeats its request, with the same lease and request id, as often as
//! it likes: it takes effect once. Holders, waiters and a short list of *decided* requests of each
//! lease remember ids and bodies; an ended lease leaves a tombstone, which for a while answers for
//! it (and so does the tombstone of a lease that never was, when a request was refused or cancelled
//! before there was one). Validation errors and reached limits are not remembered: they changed
//! nothing, and the same request may succeed later.
//!
//! # Where to look
//!
//! | | |
//! |---|---|
//! | what can be asked, answered, refused, told | `command`, `outcome`, `refusal`, `event` |
//! | the rules, step by step | `apply/` |
//! | the state and its indexes | `state`, and what it is made of: `tree`, `ring`, `decisions` |
//! | looking at it | `read` |
//! | snapshots | `snapshot` |
//! | what must always be true | [`invariants`] |
//! | every rule by example | `tests/scripts/*.txt` |

#![forbid(unsafe_code)]

mod apply;
mod command;
mod decisions;
mod event;
mod id;
pub mod invariants;
mod number;
mod outcome;
pub mod planted;
mod read;
mod refusal;
mod ring;
mod settings;
mod snapshot;
mod state;
mod text;
mod tree;

pub use command::{Acquire, Command, Entry, LockRequest, Mode, ModelVersion, UnknownModelVersion};
pub use event::{Event, EventKind, LeaseEnd, ReleasedBy, WaitEnd};
pub use id::{BodyHash, ClusterId, ID_BYTES, IdError, LeaseId};
pub use number::{Position, PositionError, Timestamp, Token};
pub use outcome::{
    Cancelled, Grant, Granted, Outcome, Queued, Released, Renewal, Renewed, Response,
};
pub use read::{
    Counts, DelayView, Fence, HolderView, LeaseView, LockView, ObstacleView, QueuePlace, WaitView,
    WaiterView,
};
pub use refusal::{Field, Limit, LockHeldReason, Refusal};
pub use settings::{Settings, SettingsError};
pub use snapshot::{Frozen, ReadError};
pub use state::{LockTable, Origin};
pub use text::{LockName, Metadata, Owner, RequestId, TextError, Value};
