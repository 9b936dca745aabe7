//! Paths of the API's resources.

/// One constant for each path.
pub mod path {
    /// `POST`: take a lock, or wait for it.
    pub const ACQUIRE: &str = "/v1/acquire";
    /// `POST`: renew one lease or several.
    pub const RENEW: &str = "/v1/renew";
    /// `POST`: release what a lease holds.
    pub const RELEASE: &str = "/v1/release";
    /// `POST`: give up a wait.
    pub const CANCEL: &str = "/v1/cancel";
    /// `POST`: make an explicit lease. `GET`: list leases. `GET /v1/leases/{id}`: inspect one.
    pub const LEASES: &str = "/v1/leases";
    /// `POST`: end a lease by its secret.
    pub const REVOKE_LEASE: &str = "/v1/leases/revoke";
    /// `GET`: one lock by `name`, or a listing by `prefix`.
    pub const LOCKS: &str = "/v1/locks";
    /// `GET`: is this token still the newest of its lock?
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
    /// `GET`: a backup of the whole cluster, as a file.
    pub const BACKUP: &str = "/v1/cluster/backup";
    /// `GET`: the process lives (never the quorum).
    pub const HEALTHZ: &str = "/healthz";
    /// `GET`: a linearizable read works.
    pub const READYZ: &str = "/readyz";
    /// `GET`: metrics in Prometheus's text format.
    pub const METRICS: &str = "/metrics";
    /// `GET`: what is running.
    pub const VERSION: &str = "/version";
}
