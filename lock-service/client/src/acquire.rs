//! Taking locks: what is asked for, the wait over many HTTP requests, and what is left behind when the
//! caller goes away.

use std::sync::Arc;
use std::time::Duration;

use lock_api::{
    AcquireRequest, DEFAULT_TTL_MS, GrantedResponse, LeaseHold, LeaseSecret, LockMode, LockName,
    LockRequest as WireLock, LockValue, MAX_HTTP_WAIT_MS, Owner, QueuedResponse, RequestId, path,
};

use crate::call::{AttemptLimit, Effect, Ids};
use crate::client::{unreadable, whole_milliseconds};
use crate::keeper::{AtEnd, Beginning, Keeper, check_ttl};
use crate::transport::WireRequest;
use crate::{BootTime, Client, Error, LockGuard, Loss, new_lease_secret, new_request_id};

/// How long a holder needs to stop unless it says otherwise.
pub(crate) const DEFAULT_STOP_TIME: Duration = Duration::from_secs(1);

/// What a lock is taken with: a lease of its own ([`OwnLease`]), or that of a session
/// ([`SessionLease`]), whose TTL, owner and stop time are set already.
pub trait LeaseKind: sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

/// A lease that is made for one request, and ends with it.
#[derive(Debug, Clone)]
pub struct OwnLease {
    client: Client,
    ttl: Duration,
    stop_time: Duration,
    owner: Option<Owner>,
    lease: LeaseSecret,
    request_id: Option<RequestId>,
}

/// The lease of a [`Session`](crate::Session).
#[derive(Debug, Clone)]
pub struct SessionLease(pub(crate) Arc<Keeper>);

impl sealed::Sealed for OwnLease {}
impl sealed::Sealed for SessionLease {}
impl LeaseKind for OwnLease {}
impl LeaseKind for SessionLease {}

#[derive(Debug, Clone)]
struct Wanted {
    name: String,
    mode: Option<LockMode>,
    permits: Option<(u32, u32)>,
}

/// What to take, and how: nothing is sent before [`LockRequest::acquire`].
#[derive(Debug, Clone)]
#[must_use = "nothing is taken before `acquire`"]
pub struct LockRequest<L: LeaseKind = OwnLease> {
    lease: L,
    first: Wanted,
    others: Vec<Wanted>,
    wait: Duration,
    value: Option<LockValue>,
    lock_delay: Duration,
}

impl Client {
    /// Asks for a lock with a lease of its own, TTL 15 s: exclusively, as a try, unless the request
    /// is told otherwise.
    ///
    /// ```no_run
    /// # async fn run(client: lock_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// let guard = client
    ///     .lock("nightly-billing")
    ///     .ttl(Duration::from_secs(10))
    ///     .wait(Duration::from_secs(30))
    ///     .acquire()
    ///     .await?;
    /// println!("fencing token {}", guard.token()?);
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock(&self, name: impl Into<String>) -> LockRequest<OwnLease> {
        LockRequest::new(
            name.into(),
            OwnLease {
                client: self.clone(),
                ttl: Duration::from_millis(DEFAULT_TTL_MS),
                stop_time: DEFAULT_STOP_TIME,
                owner: None,
                lease: new_lease_secret(),
                request_id: None,
            },
        )
    }
}

impl<L: LeaseKind> LockRequest<L> {
    pub(crate) fn new(name: String, lease: L) -> Self {
        Self {
            lease,
            first: Wanted {
                name,
                mode: None,
                permits: None,
            },
            others: Vec::new(),
            wait: Duration::ZERO,
            value: None,
            lock_delay: Duration::ZERO,
        }
    }

    fn last(&mut self) -> &mut Wanted {
        self.others.last_mut().unwrap_or(&mut self.first)
    }

    /// Takes another lock as well: all of them at once, or none. It is exclusive unless the next
    /// call says otherwise. No name may come twice.
    pub fn and(mut self, name: impl Into<String>) -> Self {
        self.others.push(Wanted {
            name: name.into(),
            mode: None,
            permits: None,
        });
        self
    }

    /// Holds the lock that was named last together with other sharers.
    pub fn shared(mut self) -> Self {
        let last = self.last();
        last.mode = Some(LockMode::Shared);
        last.permits = None;
        self
    }

    /// Takes `permits` of the `limit` permits that the lock that was named last has. All who hold it
    /// or wait for it at one time must name the same limit. Its tokens cannot be compared by a
    /// guarded resource.
    pub fn permits(mut self, permits: u32, limit: u32) -> Self {
        let last = self.last();
        last.mode = Some(LockMode::Permits);
        last.permits = Some((permits, limit));
        self
    }

    /// How long to wait in the queue, in cluster time; zero, the default, tries once.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// A value that anybody can read while the lock is held, such as the holder's address.
    pub fn value(mut self, value: LockValue) -> Self {
        self.value = Some(value);
        self
    }

    /// How long the locks stay ungrantable when the lease ends by expiry or by somebody else's hand;
    /// not at all unless set.
    pub fn lock_delay(mut self, delay: Duration) -> Self {
        self.lock_delay = delay;
        self
    }

    /// The body without lease and ids, and the names in the order in which they were asked for.
    fn body(&self) -> Result<(AcquireRequest, Vec<LockName>), Error> {
        let mut locks = Vec::with_capacity(1 + self.others.len());
        for wanted in std::iter::once(&self.first).chain(&self.others) {
            locks.push(WireLock {
                name: LockName::new(wanted.name.as_str())?,
                mode: wanted.mode.clone(),
                permits: wanted.permits.map(|(permits, _)| permits),
                limit: wanted.permits.map(|(_, limit)| limit),
            });
        }
        let names = locks.iter().map(|lock| lock.name.clone()).collect();
        let mut body = AcquireRequest {
            wait_ms: whole_milliseconds(self.wait),
            value: self.value.clone(),
            lock_delay_ms: match whole_milliseconds(self.lock_delay) {
                0 => None,
                ms => Some(ms),
            },
            ..AcquireRequest::default()
        };
        if self.others.is_empty()
            && let Some(one) = locks.pop()
        {
            body.lock = Some(one.name);
            (body.mode, body.permits, body.limit) = (one.mode, one.permits, one.limit);
        } else {
            body.locks = Some(locks);
        }
        Ok((body, names))
    }
}

impl LockRequest<OwnLease> {
    /// How long the lock outlives the last renewal.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.lease.ttl = ttl;
        self
    }

    /// Who takes the lock, for people.
    pub fn owner(mut self, owner: Owner) -> Self {
        self.lease.owner = Some(owner);
        self
    }

    /// How long the holder needs to stop what it does once [`LockGuard::lost`] returns. The local
    /// deadline comes that much earlier; 1 s unless set.
    pub fn stop_time(mut self, stop_time: Duration) -> Self {
        self.lease.stop_time = stop_time;
        self
    }

    /// The ids to send: to repeat a request whose outcome is unknown, with otherwise the same options.
    pub fn ids(mut self, lease: LeaseSecret, request_id: RequestId) -> Self {
        self.lease.lease = lease;
        self.lease.request_id = Some(request_id);
        self
    }

    /// Takes the locks and keeps them until they are released, dropped or lost. A lost answer is
    /// asked for again, with the same ids, on other nodes. When the locks were granted after waiting,
    /// or the answer had to be asked for again, the lease is renewed once before this returns: only a
    /// renewal tells how old the grant is.
    ///
    /// # Errors
    /// [`Error::Refused`] with `lock_held` or `wait_timeout` when a lock was not free in time;
    /// [`Error::Unavailable`] when no node could serve the request; [`Error::Unknown`] when no answer
    /// came in time; [`Error::TtlTooShort`] when the TTL has no room for the margin, the stop time
    /// and one renewal; [`Error::LostBeforeUse`] when the first renewal found the locks lost;
    /// [`Error::InvalidText`] for a name that is none.
    ///
    /// Cancellation safe: if the future is dropped, or fails with [`Error::Unknown`], the acquire is
    /// cancelled (and a grant released) in the background, as well as that can be done; at the
    /// latest it ends with its wait and its TTL. See [`Client::settle`].
    pub async fn acquire(self) -> Result<LockGuard, Error> {
        let (mut body, names) = self.body()?;
        let OwnLease {
            client,
            ttl,
            stop_time,
            owner,
            lease,
            request_id,
        } = self.lease;
        check_ttl(ttl, stop_time)?;
        let request_id = match request_id {
            Some(request_id) => request_id,
            None => new_request_id()?,
        };
        body.lease = Some(lease.clone());
        body.ttl_ms = Some(whole_milliseconds(ttl));
        body.owner = owner;
        body.request_id = Some(request_id.clone());
        let mut cancel = CancelOnDrop::new(&client, &lease, &request_id);
        let acquired = client.acquire(&body, ttl).await;
        let (holds, acquired) = match acquired.and_then(|acquired| in_order(names, acquired)) {
            Ok(done) => done,
            Err(error) => {
                if !matches!(error, Error::Unknown { .. }) {
                    cancel.disarm();
                }
                return Err(error);
            }
        };
        let beginning = Beginning {
            sent: acquired.sent,
            ttl: Duration::from_millis(acquired.granted.ttl_ms),
            renew_after_ms: acquired.granted.renew_after_ms,
            holds: holds.iter().map(|hold| hold.token).collect(),
        };
        let renew_first = !acquired.at_once;
        let granted_at = acquired.sent;
        let keeper = Keeper::start(
            &client,
            &lease,
            stop_time,
            beginning,
            renew_first,
            AtEnd::Leave,
        );
        let keeper = keeper.await.map_err(|error| match error {
            Error::Unknown {
                lease, failures, ..
            } => Error::Unknown {
                lease,
                request_id: Some(request_id),
                failures,
            },
            error => error,
        })?;
        let guard = LockGuard::new(Arc::new(keeper), holds, granted_at, true);
        // A renewal may have found that somebody else has released.
        if let Err(loss) = guard.check() {
            return Err(Error::LostBeforeUse(loss));
        }
        cancel.disarm();
        Ok(guard)
    }
}

impl LockRequest<SessionLease> {
    /// Takes the locks with the session's lease. While it waits the session goes on to be renewed;
    /// when the session is lost the wait ends.
    ///
    /// # Errors
    /// As for a lease of its own, and [`Error::Lost`] when the session was lost. `already_held` and
    /// `already_waiting` when the session holds one of the locks, or waits for it.
    ///
    /// Cancellation safe in the same way.
    pub async fn acquire(self) -> Result<LockGuard, Error> {
        let (mut body, names) = self.body()?;
        let keeper = self.lease.0;
        let client = keeper.client().clone();
        let session = keeper.view(&[], client.now());
        session.check().map_err(Error::Lost)?;
        let request_id = new_request_id()?;
        body.lease = Some(keeper.lease().clone());
        body.request_id = Some(request_id.clone());
        let mut cancel = CancelOnDrop::new(&client, keeper.lease(), &request_id);
        let acquired = tokio::select! {
            biased;
            loss = session.lost() => Err(Error::Lost(loss)),
            acquired = client.acquire(&body, keeper.ttl()) => acquired,
        };
        let (holds, _) = match acquired.and_then(|acquired| in_order(names, acquired)) {
            Ok(done) => done,
            Err(error) => {
                if !matches!(error, Error::Unknown { .. }) {
                    cancel.disarm();
                }
                return Err(error);
            }
        };
        cancel.disarm();
        // The session's own deadline covers the grant: the lease that holds it lives at least as
        // long. No deadline is counted from this answer.
        let granted_at = client.now();
        let guard = LockGuard::new(keeper, holds, granted_at, false);
        match guard.check() {
            Ok(_) => Ok(guard),
            Err(loss) => Err(Error::LostBeforeUse(loss)),
        }
    }
}

/// The holds in the order in which they were asked for.
fn in_order(names: Vec<LockName>, acquired: Acquired) -> Result<(Vec<LeaseHold>, Acquired), Error> {
    let find = |name: LockName| {
        let hold = acquired.granted.locks.iter().find(|hold| hold.lock == name);
        hold.cloned().ok_or(Error::LostBeforeUse(Loss::NotHeld))
    };
    let holds = names.into_iter().map(find).collect::<Result<_, _>>()?;
    Ok((holds, acquired))
}

/// A grant, and what must be known of the sending to believe it.
#[derive(Debug)]
struct Acquired {
    granted: GrantedResponse,
    /// When the sending that was answered began.
    sent: BootTime,
    /// Whether the locks were granted at once, to the first sending that can have had an effect. Only
    /// then may a local deadline be counted from `sent`; otherwise renew first.
    at_once: bool,
}

impl Client {
    /// Sends an acquire, which has its ids, until it is decided.
    async fn acquire(&self, body: &AcquireRequest, ttl: Duration) -> Result<Acquired, Error> {
        let request = WireRequest::post(path::ACQUIRE, body)?;
        let ids = Ids {
            lease: body.lease.clone(),
            request_id: body.request_id.clone(),
        };
        let wait = Duration::from_millis(body.wait_ms);
        let deadline = self.now() + wait + self.request_timeout();
        let mut call = self.call(request, Effect::OnceFor { wait }, ids, deadline);
        loop {
            let limit = match wait.is_zero() {
                true => AttemptLimit::without_wait(self.attempt_timeout()),
                false => poll_limit(ttl, self.attempt_timeout(), call.endpoint_is_well()),
            };
            let answer = call.next_answer(limit, &[]).await?;
            if answer.reply.status == 202 {
                match serde_json::from_slice::<QueuedResponse>(&answer.reply.body) {
                    Ok(queued) => {
                        tracing::debug!(position = %queued.position, "still queued");
                        call.took_effect(answer.sent);
                    }
                    Err(error) => call.unreadable(answer.sent, unreadable(&error)).await?,
                }
                continue;
            }
            match serde_json::from_slice::<GrantedResponse>(&answer.reply.body) {
                Ok(granted) => {
                    let at_once =
                        answer.first_sending && granted.position == granted.queued_position;
                    return Ok(Acquired {
                        granted,
                        sent: answer.sent,
                        at_once,
                    });
                }
                Err(error) => call.unreadable(answer.sent, unreadable(&error)).await?,
            }
        }
    }
}

/// How long one request of a wait may take. A node that hangs must be noticed long before the TTL of
/// a grant that it may have hidden has passed; so waits are cut into pieces that end, here, within
/// three quarters of a TTL, and the first piece on a node that has not answered yet is short.
fn poll_limit(ttl: Duration, attempt_timeout: Duration, endpoint_is_well: bool) -> AttemptLimit {
    let first = attempt_timeout.min(ttl * 3 / 4);
    if !endpoint_is_well {
        return AttemptLimit {
            here: first,
            server: first * 3 / 4,
        };
    }
    let server = (ttl / 2).min(Duration::from_millis(MAX_HTTP_WAIT_MS));
    AttemptLimit {
        here: server + attempt_timeout.min(ttl / 4),
        server,
    }
}

/// Cancels an acquire whose caller went away before it was decided, in the background.
pub(crate) struct CancelOnDrop {
    client: Client,
    ids: Option<(LeaseSecret, RequestId)>,
}

impl CancelOnDrop {
    pub(crate) fn new(client: &Client, lease: &LeaseSecret, request_id: &RequestId) -> Self {
        Self {
            client: client.clone(),
            ids: Some((lease.clone(), request_id.clone())),
        }
    }

    /// The acquire was decided, or somebody else looks after its grant now.
    pub(crate) fn disarm(&mut self) {
        self.ids = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some((lease, request_id)) = self.ids.take() else {
            return;
        };
        let client = self.client.clone();
        self.client.clean_up(async move {
            if let Err(error) = client.cancel(&lease, &request_id).await {
                tracing::debug!(%error, "cancel of an abandoned acquire failed");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_of_a_wait_ends_before_a_grant_hidden_in_it_could_expire() {
        for ttl_ms in [1_000, 2_000, 5_000, 15_000, 60_000, 3_600_000] {
            let ttl = Duration::from_millis(ttl_ms);
            for well in [false, true] {
                let limit = poll_limit(ttl, Duration::from_secs(2), well);
                assert!(limit.here <= ttl * 3 / 4, "TTL {ttl_ms}: {limit:?}");
                assert!(limit.server < limit.here, "TTL {ttl_ms}: {limit:?}");
                assert!(limit.server <= Duration::from_millis(MAX_HTTP_WAIT_MS));
            }
        }
    }
}
