//! Paths of the API's resources.

/// One constant for each path.
pub mod path {
    /// `POST`: take a lock, or wait for it.
    pub const ACQUIRE: &str = "/v1/acquire";
    /// `POST`: renew one lease or several.
    pub const RENEW: &str = "/v1/renew";
    /// `POST`: release what a lease holds.
    pub const RELEASE: &str = "/v1/release";
    /// `POST`: change what a lock shows.
    pub const UPDATE: &str = "/v1/update";
    /// `POST`: give up a wait.
    pub const CANCEL: &str = "/v1/cancel";
    /// `POST`: make an explicit lease. `GET`: list leases.
    pub const LEASES: &str = "/v1/leases";
    /// `GET`: one lease, by its id.
    pub const LEASE: &str = "/v1/leases/{id}";
    /// `POST`: end a lease by its secret; by its id, as administrator.
    pub const REVOKE_LEASE: &str = "/v1/leases/revoke";
    /// `GET`: one lock by `name`, or a listing by `prefix`.
    pub const LOCKS: &str = "/v1/locks";
    /// `POST`: end the lease that holds a lock, as administrator.
    pub const FORCE_RELEASE: &str = "/v1/locks/force-release";
    /// `GET`: what happens to a lock, or to all whose names begin alike, as server-sent events.
    pub const EVENTS: &str = "/v1/events";
    /// `GET`: is this token still the newest of its lock? `POST`: the same for several.
    pub const FENCE: &str = "/v1/fence";
    /// `GET`: members of the cluster and which one leads.
    pub const CLUSTER: &str = "/v1/cluster";
    /// `POST`: give a learner its vote.
    pub const PROMOTE: &str = "/v1/cluster/promote";
    /// `POST`: take a member out.
    pub const REMOVE: &str = "/v1/cluster/remove";
    /// `POST`: replace a voter by a learner.
    pub const REPLACE: &str = "/v1/cluster/replace";
    /// `POST`: change a member's name or addresses.
    pub const ADDRESS: &str = "/v1/cluster/address";
    /// `POST`: make another voter the leader.
    pub const TRANSFER: &str = "/v1/cluster/transfer";
    /// `POST`: finish a change of voters that was interrupted.
    pub const FINISH_CHANGE: &str = "/v1/cluster/finish-change";
    /// `POST`: have the node that is asked take a snapshot.
    pub const SNAPSHOT: &str = "/v1/cluster/snapshot";
    /// `GET`: the limits and durations of the lock table. `POST`: change some.
    pub const SETTINGS: &str = "/v1/cluster/settings";
    /// `POST`: raise the version of the lock table's rules.
    pub const MODEL_VERSION: &str = "/v1/cluster/model-version";
    /// `GET`: a backup of the whole cluster, as a file.
    pub const BACKUP: &str = "/v1/cluster/backup";
    /// `GET`: the process lives (never the quorum).
    pub const HEALTHZ: &str = "/healthz";
    /// `GET`: a linearizable read works.
    pub const READYZ: &str = "/readyz";
    /// `GET`: metrics in Prometheus's text format.
    pub const METRICS: &str = "/metrics";
    /// `GET`: this API, described in OpenAPI's words.
    pub const OPENAPI: &str = "/openapi.json";
    /// `GET`: what is running.
    pub const VERSION: &str = "/version";
}
