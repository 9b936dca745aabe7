//! Taking a lock: the options, the wait over many HTTP requests, and what is left behind when the
//! caller goes away.

use std::time::Duration;

use lock_api::{
    AcquireRequest, DEFAULT_TTL_MS, FencingToken, GrantedResponse, LeaseSecret, LockName,
    LockValue, MAX_HTTP_WAIT_MS, Owner, QueuedResponse, RequestId, path,
};

use crate::call::{AttemptLimit, Effect, Ids};
use crate::client::{unreadable, whole_milliseconds};
use crate::transport::Request;
use crate::{BootTime, Client, Error, new_lease_secret, new_request_id};

/// What to take, and how.
#[derive(Debug, Clone)]
pub struct LockOptions {
    pub(crate) lock: LockName,
    pub(crate) ttl: Duration,
    pub(crate) wait: Duration,
    pub(crate) owner: Option<Owner>,
    pub(crate) value: Option<LockValue>,
    pub(crate) stop_time: Duration,
    pub(crate) lease: LeaseSecret,
    pub(crate) request_id: RequestId,
}

impl LockOptions {
    /// A try for the lock with this name, with a TTL of 15 s, a stop time of 1 s, and fresh ids.
    ///
    /// # Errors
    /// [`Error::InvalidText`] unless the name has 1 to 512 bytes without control characters.
    pub fn new(lock: impl Into<String>) -> Result<Self, Error> {
        Ok(Self {
            lock: LockName::new(lock)?,
            ttl: Duration::from_millis(DEFAULT_TTL_MS),
            wait: Duration::ZERO,
            owner: None,
            value: None,
            stop_time: Duration::from_secs(1),
            lease: new_lease_secret(),
            request_id: new_request_id()?,
        })
    }

    /// How long the lock outlives the last renewal.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long to wait in the queue, in cluster time; zero tries once.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Who takes the lock, for people.
    #[must_use]
    pub fn owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// A value that anybody can read while the lock is held, such as the holder's address.
    #[must_use]
    pub fn value(mut self, value: LockValue) -> Self {
        self.value = Some(value);
        self
    }

    /// How long the holder needs to stop what it does once [`HeldLock::lost`](crate::HeldLock::lost)
    /// returns. The local deadline comes that much earlier. Used by [`Client::lock`] only.
    #[must_use]
    pub fn stop_time(mut self, stop_time: Duration) -> Self {
        self.stop_time = stop_time;
        self
    }

    /// The ids to send: to repeat a request whose outcome is unknown, with otherwise the same options.
    #[must_use]
    pub fn ids(mut self, lease: LeaseSecret, request_id: RequestId) -> Self {
        self.lease = lease;
        self.request_id = request_id;
        self
    }
}

/// A grant, and what must be known of the sending to believe it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Acquired {
    /// The cluster's answer.
    pub granted: GrantedResponse,
    /// The lock's fencing token.
    pub token: FencingToken,
    /// When the sending that was answered began.
    pub sent: BootTime,
    /// Whether the lock was granted at once, to the first sending that can have had an effect. Only
    /// then may a local deadline be counted from `sent`; otherwise renew first.
    pub at_once: bool,
}

impl Client {
    /// Takes a lock, waiting in its queue if the options say so. The caller renews: see
    /// [`Client::lock`] for a lock that keeps itself.
    ///
    /// A lost answer is asked for again, with the same ids, on other nodes.
    ///
    /// # Errors
    /// [`Error::Refused`] with `lock_held` or `wait_timeout` when the lock was not free in time;
    /// [`Error::Unavailable`] when no node could serve the request; [`Error::Unknown`] when no answer
    /// came in time.
    ///
    /// Cancellation safe in that the options still have the ids: after dropping the future the
    /// request may wait or hold; repeat it, or [`Client::cancel`] it.
    pub async fn acquire(&self, options: &LockOptions) -> Result<Acquired, Error> {
        let body = AcquireRequest {
            lock: Some(options.lock.clone()),
            lease: Some(options.lease.clone()),
            ttl_ms: Some(whole_milliseconds(options.ttl)),
            owner: options.owner.clone(),
            wait_ms: whole_milliseconds(options.wait),
            value: options.value.clone(),
            request_id: Some(options.request_id.clone()),
            ..AcquireRequest::default()
        };
        let request = Request::post(path::ACQUIRE, &body)?;
        let ids = Ids {
            lease: Some(options.lease.clone()),
            request_id: Some(options.request_id.clone()),
        };
        let deadline = BootTime::now() + options.wait + self.request_timeout();
        let mut call = self.call(
            request,
            Effect::OnceFor { wait: options.wait },
            ids,
            deadline,
        );
        loop {
            let limit = match options.wait.is_zero() {
                true => AttemptLimit::without_wait(self.attempt_timeout()),
                false => poll_limit(options.ttl, self.attempt_timeout(), call.endpoint_is_well()),
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
                    let Some(token) = granted.token else {
                        let reason = "the answer has no token".to_owned();
                        call.unreadable(answer.sent, reason).await?;
                        continue;
                    };
                    let at_once =
                        answer.first_sending && granted.position == granted.queued_position;
                    return Ok(Acquired {
                        granted,
                        token,
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
    pub(crate) fn new(client: &Client, options: &LockOptions) -> Self {
        let ids = Some((options.lease.clone(), options.request_id.clone()));
        Self {
            client: client.clone(),
            ids,
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
