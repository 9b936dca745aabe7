//! Keeps one lease: renews it in a task of its own, and knows until when it may be believed. It does
//! not know what its lease is for; guards and sessions do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_api::{ErrorCode, FencingToken, LeaseSecret};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::client::whole_milliseconds;
use crate::{
    BootTime, Client, Clock, Error, HoldState, Loss, Renewed, Timer, local_deadline as rule,
};

/// What is known of a lease.
#[derive(Debug, Clone)]
pub(crate) enum LeaseState {
    /// It lives until this deadline at least.
    Live {
        deadline: BootTime,
        /// When the renewal that says so was sent, and what the lease held then.
        sent: BootTime,
        holds: Arc<[FencingToken]>,
    },
    Lost(Loss),
}

/// The beginning of a lease that is kept: what was answered to which sending.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) sent: BootTime,
    pub(crate) ttl: Duration,
    pub(crate) renew_after_ms: u64,
    pub(crate) holds: Vec<FencingToken>,
}

/// What happens to the lease when nobody needs it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// Nothing: it ends with what it holds.
    Leave,
    /// It is revoked.
    Revoke,
}

/// A lease that is kept until this is dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    client: Client,
    lease: LeaseSecret,
    ttl: Duration,
    state: watch::Receiver<LeaseState>,
    task: AbortHandle,
    at_end: AtEnd,
    stopped: AtomicBool,
}

impl Keeper {
    /// Renews from now on. With `renew_first` nothing is believed before one renewal was confirmed.
    ///
    /// # Errors
    /// [`Error::TtlTooShort`]; with `renew_first` also [`Error::LostBeforeUse`], and
    /// [`Error::Unknown`] when no renewal was confirmed in time.
    pub(crate) async fn start(
        client: &Client,
        lease: &LeaseSecret,
        stop_time: Duration,
        beginning: Beginning,
        renew_first: bool,
        at_end: AtEnd,
    ) -> Result<Self, Error> {
        let Beginning { sent, ttl, .. } = beginning;
        check_ttl(ttl, stop_time)?;
        let mut timers = Timers::new(&**client.clock())?;
        let mut renewer = Renewer {
            client: client.clone(),
            lease: lease.clone(),
            stop_time,
            renew_at: sent + renewal_period(ttl, beginning.renew_after_ms),
            deadline: rule::local_deadline(sent, ttl, stop_time),
            sent,
            holds: beginning.holds.into(),
            attempt_timeout: (ttl / 6).min(client.attempt_timeout()),
            last_failure: None,
        };
        if renew_first {
            renewer.deadline = BootTime::since_boot(Duration::ZERO);
            renewer.renew_once(ttl).await?;
        }
        if client.now() >= renewer.deadline {
            return Err(Error::LostBeforeUse(renewer.not_renewed()));
        }
        let (sender, state) = watch::channel(renewer.state());
        let task = tokio::spawn(async move { renewer.keep(sender, &mut timers).await });
        Ok(Self {
            client: client.clone(),
            lease: lease.clone(),
            ttl,
            state,
            task: task.abort_handle(),
            at_end,
            stopped: AtomicBool::new(false),
        })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn lease(&self) -> &LeaseSecret {
        &self.lease
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A view for whoever holds `tokens` with the lease since `granted_at`.
    pub(crate) fn view(&self, tokens: &[FencingToken], granted_at: BootTime) -> View {
        View {
            clock: Arc::clone(self.client.clock()),
            state: self.state.clone(),
            tokens: tokens.into(),
            granted_at,
        }
    }

    /// Renews no more. Nothing is believed from now on.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.task.abort();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
        let lost = matches!(&*self.state.borrow(), LeaseState::Lost(_));
        if self.at_end == AtEnd::Leave || lost || self.stopped.load(Ordering::Relaxed) {
            return;
        }
        revoke_in_background(&self.client, &self.lease);
    }
}

/// Ends a lease that nobody needs any more, as well as that can be done.
pub(crate) fn revoke_in_background(client: &Client, lease: &LeaseSecret) {
    let (revoker, lease) = (client.clone(), lease.clone());
    client.clean_up(async move {
        if let Err(error) = revoker.revoke_lease(&lease).await {
            tracing::debug!(%error, "revocation of an abandoned lease failed");
        }
    });
}

/// What somebody who holds with a lease may believe.
#[derive(Debug, Clone)]
pub(crate) struct View {
    clock: Arc<dyn Clock>,
    state: watch::Receiver<LeaseState>,
    tokens: Arc<[FencingToken]>,
    granted_at: BootTime,
}

impl View {
    /// Reads the clock, so it is right even when no task has run for a while.
    pub(crate) fn check(&self) -> Result<BootTime, Loss> {
        let deadline = self.judge(&self.state.borrow())?;
        // `has_changed` fails once the renewing task has gone: nothing keeps the lease any more.
        if self.state.has_changed().is_err() {
            return Err(task_ended());
        }
        match self.clock.now() < deadline {
            true => Ok(deadline),
            false => Err(Loss::NotRenewed { last_failure: None }),
        }
    }

    fn judge(&self, state: &LeaseState) -> Result<BootTime, Loss> {
        match state {
            LeaseState::Lost(loss) => Err(loss.clone()),
            LeaseState::Live {
                deadline,
                sent,
                holds,
            } => {
                let all_held = self.tokens.iter().all(|token| holds.contains(token));
                // A renewal that was sent before the grant came says nothing about it.
                match all_held || *sent < self.granted_at {
                    true => Ok(*deadline),
                    false => Err(Loss::NotHeld),
                }
            }
        }
    }

    /// What is known now; marks it as seen.
    pub(crate) fn seen(&mut self) -> HoldState {
        let state = self.state.borrow_and_update().clone();
        match self.judge(&state) {
            Ok(deadline) => HoldState::Held { deadline },
            Err(loss) => HoldState::Lost(loss),
        }
    }

    /// Waits until something else is known.
    pub(crate) async fn changed(&mut self) -> HoldState {
        match self.state.changed().await {
            Ok(()) => self.seen(),
            Err(_) => HoldState::Lost(task_ended()),
        }
    }

    /// Waits for the loss. Cancellation safe.
    pub(crate) async fn lost(&self) -> Loss {
        let mut state = self.state.clone();
        let lost = state.wait_for(|state| self.judge(state).is_err()).await;
        match lost.as_deref().map(|state| self.judge(state)) {
            Ok(Err(loss)) => loss,
            _ => task_ended(),
        }
    }
}

fn task_ended() -> Loss {
    Loss::NotRenewed {
        last_failure: Some("the lease is not renewed any more".to_owned()),
    }
}

struct Timers {
    deadline: Box<dyn Timer>,
    renewal: Box<dyn Timer>,
}

impl Timers {
    fn new(clock: &dyn Clock) -> Result<Self, Error> {
        let timer = || {
            let made = clock.timer();
            made.map_err(|error| Error::SetUp(format!("cannot make a timer: {error}")))
        };
        Ok(Self {
            deadline: timer()?,
            renewal: timer()?,
        })
    }
}

/// What the renewing task knows.
struct Renewer {
    client: Client,
    lease: LeaseSecret,
    stop_time: Duration,
    renew_at: BootTime,
    deadline: BootTime,
    sent: BootTime,
    holds: Arc<[FencingToken]>,
    attempt_timeout: Duration,
    last_failure: Option<String>,
}

impl Renewer {
    fn state(&self) -> LeaseState {
        LeaseState::Live {
            deadline: self.deadline,
            sent: self.sent,
            holds: Arc::clone(&self.holds),
        }
    }

    /// Renews until the lease is lost.
    async fn keep(mut self, state: watch::Sender<LeaseState>, timers: &mut Timers) {
        let loss = loop {
            let deadline = self.deadline;
            let step = tokio::select! {
                // The deadline is looked at first and needs nothing but the clock.
                biased;
                () = timers.deadline.sleep_until(deadline) => {
                    // A timer may end early.
                    if self.client.now() >= deadline { Err(self.not_renewed()) } else { continue }
                }
                step = self.renew(&mut *timers.renewal) => step,
            };
            match step {
                Err(loss) => break loss,
                Ok(()) => state.send_replace(self.state()),
            };
        };
        tracing::debug!(%loss, "lease lost");
        state.send_replace(LeaseState::Lost(loss));
        // The channel stays open, so that the loss is what everybody sees last.
        state.closed().await;
    }

    /// Waits until a renewal is due and renews, trying on until it is confirmed. The caller ends it
    /// at the deadline.
    async fn renew(&mut self, timer: &mut dyn Timer) -> Result<(), Loss> {
        loop {
            timer.sleep_until(self.renew_at).await;
            match self
                .client
                .renew_until(&self.lease, self.deadline, self.attempt_timeout)
                .await
            {
                // Once the deadline has come the lease is lost, whatever comes later.
                Ok(_) if self.client.now() >= self.deadline => return Err(self.not_renewed()),
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
                    self.renew_at = self.client.now() + self.attempt_timeout / 4;
                }
            }
        }
    }

    /// The renewal before anything is believed.
    async fn renew_once(&mut self, ttl: Duration) -> Result<(), Error> {
        let limit = self.client.now() + self.client.request_timeout().min(ttl);
        let renewed = self
            .client
            .renew_until(&self.lease, limit, self.attempt_timeout)
            .await;
        match renewed {
            Ok(renewed) => {
                self.confirm(&renewed).map_err(Error::LostBeforeUse)?;
                Ok(())
            }
            Err(Error::Refused { problem })
                if matches!(
                    problem.code,
                    ErrorCode::LeaseEnded | ErrorCode::LeaseNotFound
                ) =>
            {
                Err(Error::LostBeforeUse(Loss::LeaseEnded(problem)))
            }
            // The grant may still be there, so this is not "had no effect".
            Err(Error::Unavailable { failures } | Error::Unknown { failures, .. }) => {
                Err(Error::Unknown {
                    lease: Some(self.lease.clone()),
                    request_id: None,
                    failures,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Takes over the deadline of an executed renewal, unless it came too late.
    fn confirm(&mut self, renewed: &Renewed) -> Result<(), Loss> {
        let renewal = &renewed.response.renewal;
        let ttl = Duration::from_millis(renewal.ttl_ms);
        let deadline = rule::local_deadline(renewed.sent, ttl, self.stop_time);
        if self.client.now() >= deadline {
            return Err(self.not_renewed());
        }
        self.deadline = self.deadline.max(deadline);
        self.sent = renewed.sent;
        self.holds = renewal.holds.iter().map(|hold| hold.token).collect();
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

/// Refuses a TTL without room for the margin, the stop time and one renewal.
pub(crate) fn check_ttl(ttl: Duration, stop_time: Duration) -> Result<(), Error> {
    if rule::fits(ttl, stop_time) {
        return Ok(());
    }
    Err(Error::TtlTooShort {
        ttl_ms: whole_milliseconds(ttl),
        stop_time_ms: whole_milliseconds(stop_time),
        smallest_ttl_ms: whole_milliseconds(rule::smallest_ttl(stop_time)),
    })
}
