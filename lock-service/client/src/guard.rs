//! A guard: locks that are held, believed until their local deadline, and not a moment longer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_api::{
    FencingToken, LeaseHold, LeaseId, LockName, LockValue, Problem, ReleaseResponse, UpdateResponse,
};

use crate::keeper::{Keeper, View};
use crate::{BootTime, Error};

/// Why a lock is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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

/// Locks that are held, all by one request, and renewed at a third of their TTL in a task of its own.
///
/// [`LockGuard::lost`] returns before the cluster could grant the lock to another. A process that was
/// frozen cannot be told in time, so every use of the guard looks at the clock as well:
/// [`LockGuard::token`] is refused once the deadline has passed, whether or not any task has run.
///
/// Dropping it stops renewing and releases in the background, as well as that can be done;
/// [`LockGuard::release`] waits for the answer, and takes the guard, so that nothing is used after:
///
/// ```compile_fail
/// # async fn run(guard: lock_client::LockGuard) {
/// guard.release().await;
/// guard.token(); // the guard has moved
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the lock is released as soon as its guard is dropped"]
pub struct LockGuard {
    keeper: Arc<Keeper>,
    /// In the order of the request; never empty.
    holds: Vec<LeaseHold>,
    tokens: Vec<FencingToken>,
    view: View,
    owns_lease: bool,
    given_up: bool,
}

impl LockGuard {
    /// `holds` is not empty, and `first` is its first.
    pub(crate) fn new(
        keeper: Arc<Keeper>,
        holds: Vec<LeaseHold>,
        granted_at: BootTime,
        owns_lease: bool,
    ) -> Self {
        let tokens: Vec<_> = holds.iter().map(|hold| hold.token).collect();
        Self {
            view: keeper.view(&tokens, granted_at),
            keeper,
            holds,
            tokens,
            owns_lease,
            given_up: false,
        }
    }

    /// The fencing token of the lock that was asked for first: give it to the guarded resource with
    /// every request. Tokens of permits cannot be compared; for exclusive and shared locks a later
    /// holder's is larger.
    ///
    /// # Errors
    /// The [`Loss`], from the local deadline on: do not use the lock any more.
    pub fn token(&self) -> Result<FencingToken, Loss> {
        self.check()?;
        Ok(self.token_unchecked())
    }

    /// The token without a look at the clock: for logs, and to compare.
    pub fn token_unchecked(&self) -> FencingToken {
        self.tokens.first().copied().unwrap_or(FencingToken(0))
    }

    /// The token of one lock of several; `None` when it is not among them.
    ///
    /// # Errors
    /// As [`LockGuard::token`].
    pub fn token_of(&self, lock: &LockName) -> Result<Option<FencingToken>, Loss> {
        self.check()?;
        let hold = self.holds.iter().find(|hold| hold.lock == *lock);
        Ok(hold.map(|hold| hold.token))
    }

    /// All that is held, in the order in which it was asked for.
    pub fn holds(&self) -> &[LeaseHold] {
        &self.holds
    }

    /// The lease's public id.
    pub fn lease_id(&self) -> LeaseId {
        self.keeper.lease().id()
    }

    /// The lease's TTL, as the cluster said.
    pub fn ttl(&self) -> Duration {
        self.keeper.ttl()
    }

    /// Whether the lock may be believed at this moment, and until when at least. It reads the clock
    /// itself, so it is right even when no task has run for a while.
    ///
    /// # Errors
    /// The [`Loss`], from the local deadline on.
    pub fn check(&self) -> Result<BootTime, Loss> {
        self.view.check()
    }

    /// Whether [`LockGuard::check`] succeeds.
    pub fn is_held(&self) -> bool {
        self.check().is_ok()
    }

    /// Waits until the lock is lost: the local deadline has come without a confirmed renewal, or the
    /// cluster said that the lease has ended. From then on there is the stop time to stop.
    ///
    /// Cancellation safe.
    pub async fn lost(&self) -> Loss {
        self.view.lost().await
    }

    /// Runs a future for as long as the lock is held, and drops it when the lock is lost.
    ///
    /// # Errors
    /// The [`Loss`], when it came before the future's end. What the future did until then is done.
    ///
    /// Cancellation safe if the future is.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, Loss> {
        tokio::select! {
            biased;
            loss = self.lost() => Err(loss),
            done = work => self.check().map(|_| done),
        }
    }

    /// Follows the state: every confirmed renewal, and the loss.
    pub fn watch(&self) -> HoldWatch {
        HoldWatch {
            view: self.view.clone(),
            begun: false,
        }
    }

    /// Changes the value that the lock that was asked for first shows.
    ///
    /// # Errors
    /// As [`Client::update`](crate::Client::update), and [`Error::Lost`] from the local deadline on.
    ///
    /// Cancellation safe: a change whose future is dropped may or may not have happened.
    pub async fn update(&self, value: Option<LockValue>) -> Result<UpdateResponse, Error> {
        let token = self.token().map_err(Error::Lost)?;
        let (client, lease) = (self.keeper.client(), self.keeper.lease());
        client.update(lease, token, value).await
    }

    /// Releases, and waits for the answer. Stop using what is guarded before.
    ///
    /// # Errors
    /// [`Error::Refused`] with `token_stale`, `lease_ended` or `lease_not_found` when there was
    /// nothing left to release. After [`Error::Unavailable`] and [`Error::Unknown`] the lock frees
    /// itself when its lease ends.
    ///
    /// Cancellation safe: dropping the future leaves the release to happen or not; the lock frees
    /// itself when its lease ends.
    pub async fn release(mut self) -> Result<ReleaseResponse, Error> {
        self.give_up();
        let (client, lease) = (self.keeper.client(), self.keeper.lease());
        client.release(lease, &self.tokens).await
    }

    /// Stops renewing without releasing: the lock frees itself when its TTL has passed. For when
    /// what it guards may still be in use. In a session this drops the guard only; the session goes
    /// on to hold the lock.
    pub fn abandon(mut self) {
        self.give_up();
    }

    fn give_up(&mut self) {
        self.given_up = true;
        if self.owns_lease {
            self.keeper.stop();
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.given_up {
            return;
        }
        let lost = matches!(self.view.seen(), HoldState::Lost(_));
        self.give_up();
        if lost {
            return;
        }
        let client = self.keeper.client().clone();
        let (lease, tokens) = (
            self.keeper.lease().clone(),
            std::mem::take(&mut self.tokens),
        );
        self.keeper.client().clean_up(async move {
            if let Err(error) = client.release(&lease, &tokens).await {
                tracing::debug!(%error, "release of a dropped guard failed");
            }
        });
    }
}

/// Follows what the holder of a lock knows. See [`LockGuard::watch`].
#[derive(Debug, Clone)]
pub struct HoldWatch {
    view: View,
    begun: bool,
}

impl HoldWatch {
    /// The state: at once the first time, and then each time that it has changed.
    ///
    /// Cancellation safe.
    pub async fn next(&mut self) -> HoldState {
        if !self.begun {
            self.begun = true;
            return self.view.seen();
        }
        self.view.changed().await
    }
}
