//! The numbers that both ends of the wire must agree on. Limits that an operator may change are
//! settings in the replicated state instead, and are not here.

/// Port of the HTTP API unless configured otherwise. `palisaded dev` uses this one and the two
/// after it.
pub const DEFAULT_HTTP_PORT: u16 = 7101;
/// Port for traffic between nodes unless configured otherwise.
pub const DEFAULT_PEER_PORT: u16 = 7201;
/// TTL of a lease whose client names none, in milliseconds.
pub const DEFAULT_TTL_MS: u64 = 15_000;
/// How long a server works on a request that carries no [`TIMEOUT_HEADER`](crate::TIMEOUT_HEADER),
/// in milliseconds, on top of the request's `wait_ms`.
pub const DEFAULT_REQUEST_TIMEOUT_MS: u64 = 5_000;
/// Longest time that one HTTP request waits in a queue before it is answered with 202, in
/// milliseconds. Proxies commonly cut requests after 60 s.
pub const MAX_HTTP_WAIT_MS: u64 = 55_000;
/// Largest request body, in bytes. A larger one is refused with `too_large`.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// Largest number of leases in one renew request.
pub const MAX_LEASES_PER_RENEW: usize = 1_024;
/// Largest number of locks in one acquire request. The setting `locks_per_lease_max` (1,000 by
/// default) bounds it too.
pub const MAX_LOCKS_PER_ACQUIRE: usize = 1_024;
/// Largest number of checks in one fence request.
pub const MAX_FENCE_CHECKS: usize = 1_024;
/// Largest number of tokens in one release request.
pub const MAX_TOKENS_PER_RELEASE: usize = 1_024;
/// Largest (and default) number of entries in one page of a listing.
pub const MAX_PAGE_SIZE: u64 = 1_000;
/// How long an ended lease is remembered by default, in milliseconds of cluster time. A client that
/// lost an answer must not repeat the request after more than half of it: later, the cluster could
/// have forgotten the lease and would take the repeat for a new request.
pub const TOMBSTONE_WINDOW_MS: u64 = 30_000;
