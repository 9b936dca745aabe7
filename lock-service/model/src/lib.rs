//! The lock model: leases, locks, queues and fencing tokens as a pure, deterministic state machine.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod apply;
mod command;
mod event;
mod id;
pub mod invariants;
mod number;
mod outcome;
mod read;
mod refusal;
mod settings;
mod snapshot;
mod state;
mod text;

pub use command::{Acquire, Command, Entry, LockRequest, Mode, ModelVersion};
pub use event::{Event, EventKind, LeaseEnd, ReleasedBy, WaitEnd};
pub use id::{BodyHash, ClusterId, ID_BYTES, IdError, LeaseId};
pub use number::{Position, PositionError, Timestamp, Token};
pub use outcome::{
    Cancelled, Grant, Granted, Outcome, Queued, Released, Renewal, Renewed, Response,
};
pub use read::{Counts, Fence, HolderView, LeaseView, LockView, WaitView, WaiterView};
pub use refusal::{Field, Limit, LockHeldReason, Refusal};
pub use settings::{Settings, SettingsError};
pub use snapshot::{Frozen, ReadError};
pub use state::{LockTable, Origin};
pub use text::{LockName, Metadata, Owner, RequestId, TextError, Value};
