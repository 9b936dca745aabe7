//! The client: one method for each route.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_api::{
    CancelRequest, CancelResponse, CreateLeaseRequest, FenceBatchRequest, FenceBatchResponse,
    FenceCheck, FenceQuery, FenceResponse, FencingToken, LeaseCreatedResponse, LeaseId, LeasePage,
    LeaseQuery, LeaseResponse, LeaseSecret, LeasesQuery, LockName, LockPage, LockResponse,
    LockValue, LocksQuery, Owner, ReadyResponse, ReleaseRequest, ReleaseResponse, RenewRequest,
    RenewResponse, RequestId, RevokeLeaseRequest, RevokeLeaseResponse, UpdateRequest,
    UpdateResponse, VersionResponse, path,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;

use crate::call::{AttemptLimit, Call, Effect, Ids};
use crate::transport::{Transport, WireRequest};
use crate::{BootTime, ClientBuilder, Clock, Endpoint, Error};

/// A client of one cluster. Cloning is cheap; clones share their connections.
///
/// Every method has a deadline (see [`ClientBuilder::request_timeout`] and [`Client::with_timeout`])
/// and repeats its request on other nodes until then. Dropping a method's future sends nothing more;
/// what was sent may still have its effect.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
    clean_up: TaskTracker,
    request_timeout: Duration,
    attempt_timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoints", &self.transport.endpoints())
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

/// A renewal that was executed, and when it was sent: what a local deadline is counted from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Renewed {
    /// The cluster's answer.
    pub response: RenewResponse,
    /// When the sending that was answered began.
    pub sent: BootTime,
}

impl Client {
    /// Begins a new client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A client of these nodes with default settings, once one of them has answered.
    ///
    /// # Errors
    /// As [`ClientBuilder::build`]; [`Error::Unavailable`] when no node answers within 5 s.
    ///
    /// Cancellation safe.
    pub async fn connect<S: AsRef<str>>(
        endpoints: impl IntoIterator<Item = S>,
    ) -> Result<Self, Error> {
        let client = Self::builder().endpoints(endpoints).build()?;
        client.version().await?;
        Ok(client)
    }

    pub(crate) fn new(
        transport: Transport,
        request_timeout: Duration,
        attempt_timeout: Duration,
    ) -> Self {
        Self {
            transport: Arc::new(transport),
            clean_up: TaskTracker::new(),
            request_timeout,
            attempt_timeout,
        }
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        self.transport.clock()
    }

    pub(crate) fn now(&self) -> BootTime {
        self.transport.now()
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The same client with another deadline for each call.
    #[must_use]
    pub fn with_timeout(&self, request_timeout: Duration) -> Self {
        Self {
            request_timeout,
            ..self.clone()
        }
    }

    /// The cluster's nodes, as far as this client knows them.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.transport.endpoints()
    }

    /// The deadline of a call, see [`ClientBuilder::request_timeout`].
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    pub(crate) fn attempt_timeout(&self) -> Duration {
        self.attempt_timeout
    }

    /// Waits until the cancels and releases that dropped futures and guards left behind have ended,
    /// but no longer than `timeout`. Call it before the runtime stops. Returns whether all ended.
    ///
    /// Cancellation safe: they go on when this future is dropped.
    pub async fn settle(&self, timeout: Duration) -> bool {
        self.clean_up.close();
        let settled = tokio::time::timeout(timeout, self.clean_up.wait())
            .await
            .is_ok();
        self.clean_up.reopen();
        settled
    }

    /// Runs what a dropped future left to do, if there still is a runtime.
    pub(crate) fn clean_up(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.clean_up.spawn_on(task, &runtime);
        }
    }

    pub(crate) fn call(
        &self,
        request: WireRequest,
        effect: Effect,
        ids: Ids,
        deadline: BootTime,
    ) -> Call<'_> {
        Call::new(
            &self.transport,
            request,
            effect,
            ids,
            deadline,
            self.request_timeout,
        )
    }

    async fn simple<T: DeserializeOwned>(
        &self,
        request: WireRequest,
        effect: Effect,
        ids: Ids,
        accepted: &[u16],
    ) -> Result<(T, BootTime), Error> {
        let deadline = self.now() + self.request_timeout;
        self.until(
            deadline,
            self.attempt_timeout,
            request,
            effect,
            ids,
            accepted,
        )
        .await
    }

    async fn until<T: DeserializeOwned>(
        &self,
        deadline: BootTime,
        attempt_timeout: Duration,
        request: WireRequest,
        effect: Effect,
        ids: Ids,
        accepted: &[u16],
    ) -> Result<(T, BootTime), Error> {
        let mut call = self.call(request, effect, ids, deadline);
        let limit = AttemptLimit::without_wait(attempt_timeout);
        loop {
            let answer = call.next_answer(limit, accepted).await?;
            match serde_json::from_slice(&answer.reply.body) {
                Ok(body) => return Ok((body, answer.sent)),
                Err(error) => call.unreadable(answer.sent, unreadable(&error)).await?,
            }
        }
    }

    pub(crate) async fn read<T: DeserializeOwned>(
        &self,
        path: impl Into<String>,
        query: &impl Serialize,
    ) -> Result<T, Error> {
        let request = WireRequest::get(path, query)?;
        Ok(self
            .simple(request, Effect::Read, Ids::default(), &[])
            .await?
            .0)
    }

    /// Renews a lease and with it everything that it holds.
    ///
    /// # Errors
    /// [`Error::Refused`] with `lease_ended` or `lease_not_found` when there is nothing left to
    /// renew. After [`Error::Unknown`] the lease may have been renewed; do not believe so.
    ///
    /// Cancellation safe: a renewal whose future is dropped may or may not have been executed.
    pub async fn renew(&self, lease: &LeaseSecret) -> Result<Renewed, Error> {
        let deadline = self.now() + self.request_timeout;
        self.renew_until(lease, deadline, self.attempt_timeout)
            .await
    }

    pub(crate) async fn renew_until(
        &self,
        lease: &LeaseSecret,
        deadline: BootTime,
        attempt_timeout: Duration,
    ) -> Result<Renewed, Error> {
        let body = RenewRequest {
            lease: Some(lease.clone()),
            leases: None,
        };
        let request = WireRequest::post(path::RENEW, &body)?;
        let ids = Ids {
            lease: Some(lease.clone()),
            request_id: None,
        };
        let (response, sent) = self
            .until(
                deadline,
                attempt_timeout,
                request,
                Effect::Repeatable,
                ids,
                &[],
            )
            .await?;
        Ok(Renewed { response, sent })
    }

    /// Releases grants, all of them or none. A repeat, also after a lost answer, says
    /// `was_held: false`.
    ///
    /// # Errors
    /// [`Error::Refused`] with `token_stale` when the lease does not hold under one of the tokens;
    /// nothing changed then.
    ///
    /// Cancellation safe: a release whose future is dropped may or may not have happened; without it
    /// the grant ends with its lease.
    pub async fn release(
        &self,
        lease: &LeaseSecret,
        tokens: &[FencingToken],
    ) -> Result<ReleaseResponse, Error> {
        let (token, tokens) = match tokens {
            [token] => (Some(*token), None),
            tokens => (None, Some(tokens.to_vec())),
        };
        let body = ReleaseRequest {
            lease: lease.clone(),
            token,
            tokens,
        };
        self.write(path::RELEASE, &body, Some(lease), None).await
    }

    /// Gives up an acquire. Afterwards it neither waits nor holds: if its grant won the race, it is
    /// released.
    ///
    /// # Errors
    /// [`Error::Refused`] with `lease_not_found` when the cluster does not know the lease. After
    /// [`Error::Unknown`] the wait may go on until its deadline.
    ///
    /// Cancellation safe: a cancel whose future is dropped may or may not have happened.
    pub async fn cancel(
        &self,
        lease: &LeaseSecret,
        request_id: &RequestId,
    ) -> Result<CancelResponse, Error> {
        let body = CancelRequest {
            lease: lease.clone(),
            request_id: request_id.clone(),
        };
        self.write(path::CANCEL, &body, Some(lease), Some(request_id))
            .await
    }

    /// Changes the value that a held lock shows.
    ///
    /// # Errors
    /// [`Error::Refused`] with `token_stale` when the lease does not hold under this token.
    ///
    /// Cancellation safe: a change whose future is dropped may or may not have happened.
    pub async fn update(
        &self,
        lease: &LeaseSecret,
        token: FencingToken,
        value: Option<LockValue>,
    ) -> Result<UpdateResponse, Error> {
        let body = UpdateRequest {
            lease: lease.clone(),
            token,
            value,
        };
        self.write(path::UPDATE, &body, Some(lease), None).await
    }

    /// Makes a lease that lives without holding anything. [`Client::session`] keeps one.
    pub(crate) async fn create_lease(
        &self,
        lease: &LeaseSecret,
        ttl: Duration,
        owner: Option<Owner>,
    ) -> Result<LeaseCreatedResponse, Error> {
        let body = CreateLeaseRequest {
            lease: Some(lease.clone()),
            ttl_ms: Some(whole_milliseconds(ttl)),
            owner,
            ..CreateLeaseRequest::default()
        };
        self.write(path::LEASES, &body, Some(lease), None).await
    }

    /// Ends a lease, and with it everything that it holds and waits for.
    ///
    /// # Errors
    /// [`Error::Refused`] with `lease_not_found` when the cluster does not know the lease. After
    /// [`Error::Unknown`] it may live until its TTL has passed.
    ///
    /// Cancellation safe: if the future is dropped the lease may or may not have ended.
    pub async fn revoke_lease(&self, lease: &LeaseSecret) -> Result<RevokeLeaseResponse, Error> {
        let body = RevokeLeaseRequest {
            lease: Some(lease.clone()),
            ..RevokeLeaseRequest::default()
        };
        self.write(path::REVOKE_LEASE, &body, Some(lease), None)
            .await
    }

    pub(crate) async fn write<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        lease: Option<&LeaseSecret>,
        request_id: Option<&RequestId>,
    ) -> Result<T, Error> {
        let request = WireRequest::post(path, body)?;
        let ids = Ids {
            lease: lease.cloned(),
            request_id: request_id.cloned(),
        };
        let effect = Effect::OnceFor {
            wait: Duration::ZERO,
        };
        Ok(self.simple(request, effect, ids, &[]).await?.0)
    }

    /// Looks at one lease. Cancellation safe.
    ///
    /// # Errors
    /// [`Error::Refused`] with `lease_not_found` when the cluster does not know it.
    pub async fn lease(&self, id: LeaseId) -> Result<LeaseResponse, Error> {
        self.read(format!("{}/{id}", path::LEASES), &LeaseQuery::default())
            .await
    }

    /// One page of all leases. Cancellation safe.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn leases(&self, query: &LeasesQuery) -> Result<LeasePage, Error> {
        self.read(path::LEASES, query).await
    }

    /// Looks at one lock: who holds it, who waits. A free lock has no holders. Cancellation safe.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn lock_view(&self, name: &LockName) -> Result<LockResponse, Error> {
        let query = LocksQuery {
            name: Some(name.clone()),
            ..LocksQuery::default()
        };
        self.read(path::LOCKS, &query).await
    }

    /// One page of the locks whose names begin with `prefix`. Cancellation safe.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn locks(
        &self,
        prefix: &str,
        cursor: Option<String>,
        page_size: Option<u64>,
    ) -> Result<LockPage, Error> {
        let query = LocksQuery {
            prefix: Some(prefix.to_owned()),
            cursor,
            page_size,
            ..LocksQuery::default()
        };
        self.read(path::LOCKS, &query).await
    }

    /// Asks whether a token is still the newest of its lock. Cancellation safe.
    ///
    /// # Errors
    /// See [`Error`]. `superseded` and `unknown` are answers, not errors.
    pub async fn fence(
        &self,
        lock: &LockName,
        token: FencingToken,
    ) -> Result<FenceResponse, Error> {
        let query = FenceQuery {
            lock: lock.clone(),
            token,
            consistency: None,
        };
        let request = WireRequest::get(path::FENCE, &query)?;
        Ok(self
            .simple(request, Effect::Read, Ids::default(), &[404, 409])
            .await?
            .0)
    }

    /// Asks about several tokens at one position. Cancellation safe.
    ///
    /// # Errors
    /// [`Error::Refused`] with `invalid_request` when there are none, or more than 1,024.
    pub async fn fence_many(
        &self,
        checks: impl IntoIterator<Item = (LockName, FencingToken)>,
    ) -> Result<FenceBatchResponse, Error> {
        let check = |(lock, token)| FenceCheck { lock, token };
        let body = FenceBatchRequest {
            checks: checks.into_iter().map(check).collect(),
            consistency: None,
        };
        let request = WireRequest::post(path::FENCE, &body)?;
        Ok(self
            .simple(request, Effect::Read, Ids::default(), &[])
            .await?
            .0)
    }

    /// What some node runs. Cancellation safe.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node answers.
    pub async fn version(&self) -> Result<VersionResponse, Error> {
        self.read(path::VERSION, &()).await
    }

    /// Waits, up to the call's deadline, for a node on which a linearizable read works. Cancellation
    /// safe.
    ///
    /// # Errors
    /// [`Error::Unavailable`] says what each node answered.
    pub async fn ready(&self) -> Result<ReadyResponse, Error> {
        self.read(path::READYZ, &()).await
    }
}

pub(crate) fn unreadable(error: &serde_json::Error) -> String {
    format!("the answer is not what it should be ({error})")
}

/// A duration as the API counts it, rounded up so that a wait is never shorter than asked for.
pub(crate) fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
