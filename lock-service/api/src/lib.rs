//! The wire format of Palisade's HTTP API, version 1: JSON bodies, header names, error codes and the
//! limits that both ends must agree on.
//!
//! It is shared by the server (`lock-service`) and the client (`lock-client`), so the two cannot
//! disagree on a field name. It never does IO, never reads a clock and never draws randomness, and
//! it is not the log format: commands are other types, in `lock-model`.
//!
//! Rules of evolution:
//! - **Requests** refuse unknown fields by name. A field that this server does not serve yet is thus
//!   refused rather than ignored: nobody gets an exclusive lock who asked for a shared one.
//! - **Responses** tolerate unknown fields and unknown values of open enums, so that an old client
//!   keeps working with a new server.
//! - Error codes are append-only.
//!
//! All times are milliseconds in a `u64`, all tokens stay below 2^53, positions are text
//! (`index.ordinal`), lease secrets and ids are 32 lower-case hexadecimal digits.

#![forbid(unsafe_code)]

mod acquire;
mod cluster;
mod decode;
mod events;
mod fence;
mod headers;
mod identity;
mod leases;
mod limits;
mod locks;
mod membership;
mod number;
mod open_enum;
mod paths;
mod problem;
#[cfg(feature = "openapi")]
mod schema;
mod settings;
mod text;

pub use acquire::{
    AcquireRequest, GrantedResponse, Holding, LockMode, LockRequest, QueuePlace, QueuedResponse,
};
pub use acquire::{CancelRequest, CancelResponse, CancelResult, UpdateRequest, UpdateResponse};
pub use acquire::{ReleaseRequest, ReleaseResponse, ReleasedToken};
pub use cluster::{
    ClusterId, ClusterResponse, LeaderView, MemberRole, MemberView, NodeId, ReadyResponse,
    VersionResponse,
};
pub use decode::{InvalidRequest, decode_request};
pub use events::{
    EndReason, EventPosition, EventType, EventsQuery, HEARTBEAT_EVENT, HeartbeatEvent, LockEvent,
    PROBLEM_EVENT,
};
pub use fence::{
    FenceAnswer, FenceBatchRequest, FenceBatchResponse, FenceCheck, FenceQuery, FenceResponse,
    FenceVerdict,
};
pub use headers::{
    JSON_CONTENT_TYPE, LAST_EVENT_ID_HEADER, MIN_POSITION_HEADER, POSITION_HEADER,
    PROBLEM_CONTENT_TYPE, TIMEOUT_HEADER,
};
pub use identity::{InvalidHex, LeaseId, LeaseSecret};
pub use leases::{
    CreateLeaseRequest, LeaseCreatedResponse, LeaseHold, LeasePage, LeaseQuery, LeaseResponse,
    LeaseView, LeaseWait, LeasesQuery, RenewAnswer, RenewManyResponse, RenewRequest, RenewResponse,
    Renewal, RevokeLeaseRequest, RevokeLeaseResponse,
};
pub use limits::{
    DEFAULT_HTTP_PORT, DEFAULT_PEER_PORT, DEFAULT_REQUEST_TIMEOUT_MS, DEFAULT_TTL_MS,
    MAX_BODY_BYTES, MAX_FENCE_CHECKS, MAX_HTTP_WAIT_MS, MAX_LEASES_PER_RENEW,
    MAX_LOCKS_PER_ACQUIRE, MAX_PAGE_SIZE, MAX_TOKENS_PER_RELEASE, TOMBSTONE_WINDOW_MS,
};
pub use locks::{
    BlockReason, Consistency, ForceReleaseRequest, ForceReleaseResponse, HolderView, LockDelay,
    LockPage, LockResponse, LockView, LocksQuery, Obstacle, WaiterView,
};
pub use membership::{
    AddressRequest, FinishChangeRequest, InvalidMembershipVersion, MemberEntry, MemberRequest,
    MembershipResponse, MembershipVersion, ReplaceRequest, SnapshotRequest, SnapshotResponse,
    TransferRequest, TransferResponse,
};
pub use number::{FencingToken, InvalidPosition, Position};
pub use paths::path;
pub use problem::{ErrorCode, Outcome, Problem};
pub use settings::{
    ChangeSettingsRequest, ModelVersionRequest, ModelVersionResponse, Settings, SettingsResponse,
};
pub use text::{InvalidText, LockName, LockValue, Owner, RequestId};
