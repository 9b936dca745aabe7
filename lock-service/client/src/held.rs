//! A lock that keeps itself: renewed in the background, believed until its local deadline, and not a
//! moment longer.

use std::fmt;
use std::time::Duration;

use lock_api::{ErrorCode, FencingToken, LeaseId, LeaseSecret, LockName, Problem, ReleaseResponse};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::acquire::CancelOnDrop;
use crate::client::whole_milliseconds;
use crate::{BootTime, BootTimer, Client, Error, LockOptions, Renewed, local_deadline as rule};

/// Why a lock is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// No renewal was confirmed before the local deadline. Nobody else can hold the lock before the
    /// stop time has passed, but the cluster may still count it as held for a while.
    NotRenewed {
        /// What the last renewal that ended said, if any did.
        last_failure: Option<String>,
    },
    /// The cluster said that the lease has ended.
    LeaseEnded(Box<Problem>),
    /// The lease lives, but does not hold the lock any more: somebody who knows its secret released
    /// it.
    NotHeld,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRenewed { last_failure: None } => {
                f.write_str("no node confirmed a renewal before the local deadline")
            }
            Self::NotRenewed {
                last_failure: Some(failure),
            } => {
                write!(
                    f,
                    "no node confirmed a renewal before the local deadline ({failure})"
                )
            }
            Self::LeaseEnded(problem) => write!(f, "the cluster ended the lease ({problem})"),
            Self::NotHeld => f.write_str("the lease does not hold the lock any more"),
        }
    }
}

/// Whether a lock is held, as its holder knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldState {
    /// Held until this local deadline at least; a confirmed renewal moves it.
    Held {
        /// Stop before this, unless it moves.
        deadline: BootTime,
    },
    /// Lost, for good.
    Lost(Loss),
}

/// A lock that is held and renewed at a third of its TTL, in a task of its own.
///
/// Dropping it stops renewing and releases in the background, as well as that can be done;
/// [`HeldLock::release`] waits for the answer.
#[derive(Debug)]
pub struct HeldLock {
    client: Client,
    lock: LockName,
    token: FencingToken,
    lease: LeaseSecret,
    ttl: Duration,
    state: watch::Receiver<HoldState>,
    renewer: JoinHandle<()>,
    released: bool,
}

impl Client {
    /// Takes a lock and keeps it until it is released, dropped or lost. When the lock was granted
    /// after waiting, or the answer had to be asked for again, it is renewed once before this
    /// returns: only a renewal tells how old the grant is.
    ///
    /// # Errors
    /// As [`Client::acquire`], and: [`Error::TtlTooShort`] when the TTL has no room for the margin,
    /// the stop time and one renewal; [`Error::LostBeforeUse`] when the first renewal found the lock
    /// lost.
    ///
    /// Cancellation safe: if the future is dropped, or fails with [`Error::Unknown`], the acquire is
    /// cancelled (and a grant released) in the background, as well as that can be done; at the
    /// latest it ends with its wait and its TTL. See [`Client::settle`].
    pub async fn lock(&self, options: LockOptions) -> Result<HeldLock, Error> {
        check_ttl(options.ttl, options.stop_time)?;
        let timers = (new_timer()?, new_timer()?);
        let mut cancel = CancelOnDrop::new(self, &options);
        let acquired = match self.acquire(&options).await {
            Ok(acquired) => acquired,
            Err(error) => {
                if !matches!(error, Error::Unknown { .. }) {
                    cancel.disarm();
                }
                return Err(error);
            }
        };
        let (granted, token) = (acquired.granted, acquired.token);
        let ttl = Duration::from_millis(granted.ttl_ms);
        check_ttl(ttl, options.stop_time)?;
        let mut hold = Hold {
            client: self.clone(),
            lease: options.lease.clone(),
            token,
            stop_time: options.stop_time,
            renew_at: acquired.sent + renewal_period(ttl, granted.renew_after_ms),
            deadline: rule::local_deadline(acquired.sent, ttl, options.stop_time),
            attempt_timeout: (ttl / 6).min(self.attempt_timeout()),
            last_failure: None,
        };
        if !acquired.at_once {
            let limit = BootTime::now() + self.request_timeout().min(ttl);
            let renewed = self
                .renew_until(&options.lease, limit, hold.attempt_timeout)
                .await;
            hold.deadline = BootTime::since_boot(Duration::ZERO);
            match renewed {
                Ok(renewed) => hold.confirm(&renewed).map_err(Error::LostBeforeUse)?,
                Err(Error::Refused { problem }) => {
                    return Err(Error::LostBeforeUse(Loss::LeaseEnded(problem)));
                }
                // The grant may still be there, so this is not "had no effect".
                Err(Error::Unavailable { failures } | Error::Unknown { failures, .. }) => {
                    return Err(Error::Unknown {
                        lease: Some(options.lease.clone()),
                        request_id: Some(options.request_id.clone()),
                        failures,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        if hold.deadline.is_reached() {
            return Err(Error::LostBeforeUse(Loss::NotRenewed {
                last_failure: None,
            }));
        }
        cancel.disarm();
        let (sender, state) = watch::channel(HoldState::Held {
            deadline: hold.deadline,
        });
        Ok(HeldLock {
            client: self.clone(),
            lock: options.lock,
            token,
            lease: options.lease,
            ttl,
            state,
            renewer: tokio::spawn(hold.keep(sender, timers)),
            released: false,
        })
    }
}

impl HeldLock {
    /// The lock's name.
    pub fn lock(&self) -> &LockName {
        &self.lock
    }

    /// The fencing token: give it to the guarded resource with every request.
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// The lease's public id.
    pub fn lease_id(&self) -> LeaseId {
        self.lease.id()
    }

    /// The lease's TTL, as the cluster said.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether the lock may be believed at this moment. It reads the clock itself, so it is right
    /// even when no task has run for a while.
    pub fn is_held(&self) -> bool {
        match &*self.state.borrow() {
            HoldState::Held { deadline } => !deadline.is_reached() && !self.renewer.is_finished(),
            HoldState::Lost(_) => false,
        }
    }

    /// A view of the state that changes with every confirmed renewal and with the loss.
    pub fn watch(&self) -> watch::Receiver<HoldState> {
        self.state.clone()
    }

    /// Waits until the lock is lost: the local deadline has come without a confirmed renewal, or the
    /// cluster said that the lease has ended. From then on there is the stop time to stop.
    ///
    /// Cancellation safe.
    pub async fn lost(&self) -> Loss {
        let mut state = self.state.clone();
        match state
            .wait_for(|state| matches!(state, HoldState::Lost(_)))
            .await
            .as_deref()
        {
            Ok(HoldState::Lost(loss)) => loss.clone(),
            // The task that renews has gone: nothing keeps the lock any more.
            _ => Loss::NotRenewed {
                last_failure: Some("the renewing task has ended".into()),
            },
        }
    }

    /// Stops renewing and releases the lock. Stop using what it guards before.
    ///
    /// # Errors
    /// [`Error::Refused`] with `token_stale`, `lease_ended` or `lease_not_found` when there was
    /// nothing left to release. After [`Error::Unavailable`] and [`Error::Unknown`] the lock frees
    /// itself when its TTL has passed.
    ///
    /// Cancellation safe: dropping the future leaves the release to happen or not; the lock frees
    /// itself when its TTL has passed.
    pub async fn release(mut self) -> Result<ReleaseResponse, Error> {
        self.released = true;
        self.renewer.abort();
        self.client.release(&self.lease, self.token).await
    }

    /// Stops renewing without releasing: the lock frees itself when its TTL has passed. For when
    /// what it guards may still be in use.
    pub fn abandon(mut self) {
        self.released = true;
        self.renewer.abort();
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        self.renewer.abort();
        if self.released || matches!(&*self.state.borrow(), HoldState::Lost(_)) {
            return;
        }
        let (client, lease, token) = (self.client.clone(), self.lease.clone(), self.token);
        self.client.clean_up(async move {
            if let Err(error) = client.release(&lease, token).await {
                tracing::debug!(%error, "release of a dropped lock failed");
            }
        });
    }
}

/// What the renewing task knows.
struct Hold {
    client: Client,
    lease: LeaseSecret,
    token: FencingToken,
    stop_time: Duration,
    renew_at: BootTime,
    deadline: BootTime,
    attempt_timeout: Duration,
    last_failure: Option<String>,
}

impl Hold {
    /// Renews until the lock is lost.
    async fn keep(
        mut self,
        state: watch::Sender<HoldState>,
        (mut deadline_timer, mut renewal_timer): (BootTimer, BootTimer),
    ) {
        let loss = loop {
            let deadline = self.deadline;
            let step = tokio::select! {
                // The deadline is looked at first and needs nothing but the clock.
                biased;
                () = deadline_timer.sleep_until(deadline) => Err(self.not_renewed()),
                step = self.renew(&mut renewal_timer) => step,
            };
            match step {
                Err(loss) => break loss,
                Ok(()) => {
                    state.send_replace(HoldState::Held {
                        deadline: self.deadline,
                    });
                }
            }
        };
        tracing::debug!(%loss, "lock lost");
        state.send_replace(HoldState::Lost(loss));
    }

    /// Waits until a renewal is due and renews, trying on until it is confirmed. The caller ends it
    /// at the deadline.
    async fn renew(&mut self, timer: &mut BootTimer) -> Result<(), Loss> {
        loop {
            timer.sleep_until(self.renew_at).await;
            match self
                .client
                .renew_until(&self.lease, self.deadline, self.attempt_timeout)
                .await
            {
                // Once the deadline has come the lock is lost, whatever comes later.
                Ok(_) if self.deadline.is_reached() => return Err(self.not_renewed()),
                Ok(renewed) => return self.confirm(&renewed),
                Err(Error::Refused { problem })
                    if matches!(
                        problem.code,
                        ErrorCode::LeaseEnded | ErrorCode::LeaseNotFound
                    ) =>
                {
                    return Err(Loss::LeaseEnded(problem));
                }
                Err(error) => {
                    tracing::debug!(%error, "renewal failed");
                    self.last_failure = Some(error.to_string());
                    self.renew_at = BootTime::now() + self.attempt_timeout / 4;
                }
            }
        }
    }

    /// Takes over the deadline of an executed renewal, unless it came too late or found the lock
    /// gone.
    fn confirm(&mut self, renewed: &Renewed) -> Result<(), Loss> {
        let renewal = &renewed.response.renewal;
        if !renewal.holds.iter().any(|hold| hold.token == self.token) {
            return Err(Loss::NotHeld);
        }
        let ttl = Duration::from_millis(renewal.ttl_ms);
        let deadline = rule::local_deadline(renewed.sent, ttl, self.stop_time);
        if deadline.is_reached() {
            return Err(self.not_renewed());
        }
        self.deadline = self.deadline.max(deadline);
        self.renew_at = renewed.sent + renewal_period(ttl, renewal.renew_after_ms);
        self.last_failure = None;
        Ok(())
    }

    fn not_renewed(&self) -> Loss {
        Loss::NotRenewed {
            last_failure: self.last_failure.clone(),
        }
    }
}

/// When to renew after a sending: when the cluster says, but at a third of the TTL at the latest.
fn renewal_period(ttl: Duration, renew_after_ms: u64) -> Duration {
    Duration::from_millis(renew_after_ms).clamp(ttl / 20, ttl / 3)
}

fn check_ttl(ttl: Duration, stop_time: Duration) -> Result<(), Error> {
    if rule::fits(ttl, stop_time) {
        return Ok(());
    }
    Err(Error::TtlTooShort {
        ttl_ms: whole_milliseconds(ttl),
        stop_time_ms: whole_milliseconds(stop_time),
        smallest_ttl_ms: whole_milliseconds(rule::smallest_ttl(stop_time)),
    })
}

fn new_timer() -> Result<BootTimer, Error> {
    BootTimer::new().map_err(|error| Error::SetUp(format!("cannot make a timer: {error}")))
}
