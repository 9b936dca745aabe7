//! Elections: an exclusive lock whose holder is the leader, with its owner for a name and its value
//! for what the leader has to say, usually an address.

use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use lock_api::{
    DEFAULT_TTL_MS, ErrorCode, FencingToken, HolderView, LockName, LockValue, Owner, Position,
};

use crate::acquire::DEFAULT_STOP_TIME;
use crate::{BootTime, Client, Error, LockGuard, Loss, Session};

/// How long one request waits for the leadership before it is made anew.
const CAMPAIGN_WAIT: Duration = Duration::from_secs(3_600);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// An election, which is the lock of the same name.
#[derive(Debug, Clone)]
pub struct Election {
    client: Client,
    name: LockName,
}

/// Somebody who wants to lead: a campaign that was not begun.
#[derive(Debug, Clone)]
#[must_use = "nobody is a candidate before `campaign`"]
pub struct Candidate {
    election: Election,
    id: Owner,
    value: Option<LockValue>,
    ttl: Duration,
    stop_time: Duration,
}

/// The leadership, while it lasts. Only this has a token; resigning takes it.
///
/// Dropping it resigns in the background, as well as that can be done.
#[derive(Debug)]
#[must_use = "dropping the leadership resigns"]
pub struct Leadership {
    guard: LockGuard,
    session: Session,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// Its name; `None` when it took the lock without one.
    pub id: Option<Owner>,
    /// Its value.
    pub value: Option<LockValue>,
    /// The leadership's fencing token.
    pub token: FencingToken,
    /// How long it had led, by the cluster's clock.
    pub age: Duration,
    /// How much was left of its lease.
    pub remaining: Duration,
}

/// What a linearizable read found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Observation {
    /// Who led; nobody if `None`.
    pub leader: Option<Leader>,
    /// When the read was sent, on this machine's clock: what was found was true after that.
    pub sent: BootTime,
    /// The position at which it was true.
    pub position: Position,
}

impl Client {
    /// The election of this name.
    pub fn election(&self, name: LockName) -> Election {
        Election {
            client: self.clone(),
            name,
        }
    }
}

impl Election {
    /// The election's name.
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// A candidate who leads under this name, with a TTL of 15 s unless told otherwise.
    pub fn candidate(&self, id: Owner) -> Candidate {
        Candidate {
            election: self.clone(),
            id,
            value: None,
            ttl: Duration::from_millis(DEFAULT_TTL_MS),
            stop_time: DEFAULT_STOP_TIME,
        }
    }

    /// Who leads, by a linearizable read. Cancellation safe.
    ///
    /// # Errors
    /// See [`Error`]. Without an answer nothing is known: do not go on with an old one.
    pub async fn leader(&self) -> Result<Observation, Error> {
        let sent = self.client.now();
        let view = self.client.lock_view(&self.name).await?;
        let exclusive = |holder: &&HolderView| holder.mode == lock_api::LockMode::Exclusive;
        let leader = view.lock.holders.iter().find(exclusive);
        Ok(Observation {
            leader: leader.map(|holder| Leader {
                id: holder.owner.clone(),
                value: holder.value.clone(),
                token: holder.token,
                age: Duration::from_millis(holder.age_ms),
                remaining: Duration::from_millis(holder.remaining_ms),
            }),
            sent,
            position: view.position,
        })
    }

    /// Reads who leads, over and over: at least once in every `period`, and at once when something
    /// has happened to the lock. A read that fails is an item too; the stream goes on.
    ///
    /// Nothing is sent before it is polled.
    pub fn observe(
        &self,
        period: Duration,
    ) -> impl Stream<Item = Result<Observation, Error>> + Send + use<> {
        let election = self.clone();
        let news = self.client.watch_lock(self.name.clone()).stream();
        let begin = (election, news.boxed(), true, false);
        futures::stream::unfold(
            begin,
            move |(election, mut news, at_once, deaf)| async move {
                let mut deaf = deaf;
                if !at_once {
                    tokio::select! {
                        () = tokio::time::sleep(period) => {}
                        // Without events the period is what is left.
                        event = news.next(), if !deaf => deaf = !matches!(event, Some(Ok(_))),
                    }
                }
                let observation = election.leader().await;
                Some((observation, (election, news, false, deaf)))
            },
        )
    }
}

impl Candidate {
    /// What the leader has to say, such as its address.
    pub fn value(mut self, value: LockValue) -> Self {
        self.value = Some(value);
        self
    }

    /// How long the leadership outlives its last renewal, and so how long the others wait for a
    /// leader that was killed.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long the leader needs to stop once the leadership is lost; 1 s unless set.
    pub fn stop_time(mut self, stop_time: Duration) -> Self {
        self.stop_time = stop_time;
        self
    }

    /// Waits until it leads, however long that takes: first come, first served. It goes on through
    /// outages of the cluster. The wait ends with its lease, so a candidate that was killed is out of
    /// the queue within its TTL.
    ///
    /// # Errors
    /// [`Error::Refused`] and such that would come again: a TTL out of bounds, a forbidden name.
    ///
    /// Cancellation safe: a campaign whose future is dropped is withdrawn in the background.
    pub async fn campaign(&self) -> Result<Leadership, Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.campaign_once().await {
                Ok(leadership) => return Ok(leadership),
                Err(error) if !may_pass(&error) => return Err(error),
                Err(error) => tracing::debug!(%error, "the campaign begins again"),
            }
            tokio::time::sleep(pause.mul_f64(rand::random::<f64>())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn campaign_once(&self) -> Result<Leadership, Error> {
        let session = self.election.client.session();
        let session = session.owner(self.id.clone());
        let session = session.ttl(self.ttl).stop_time(self.stop_time);
        let session = session.open().await?;
        loop {
            let mut request = session
                .lock(self.election.name.as_str())
                .wait(CAMPAIGN_WAIT);
            if let Some(value) = &self.value {
                request = request.value(value.clone());
            }
            match request.acquire().await {
                Ok(guard) => return Ok(Leadership { guard, session }),
                Err(error) if error.code() == Some(&ErrorCode::WaitTimeout) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a later campaign can go better.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Refused { problem } => {
            problem.retryable
                || matches!(
                    problem.code,
                    ErrorCode::LeaseEnded
                        | ErrorCode::LeaseNotFound
                        | ErrorCode::GrantEnded
                        | ErrorCode::WaitTimeout
                        | ErrorCode::Unauthenticated
                )
        }
        Error::Unavailable { .. }
        | Error::Unknown { .. }
        | Error::Lost(_)
        | Error::LostBeforeUse(_) => true,
        _ => false,
    }
}

impl Leadership {
    /// The leadership's fencing token: give it to what the leader changes, with every request.
    ///
    /// # Errors
    /// The [`Loss`], from the local deadline on: it leads no more.
    pub fn token(&self) -> Result<FencingToken, Loss> {
        self.guard.token()
    }

    /// The guard of the lock behind it.
    pub fn guard(&self) -> &LockGuard {
        &self.guard
    }

    /// Whether it leads at this moment, by the clock.
    pub fn is_leader(&self) -> bool {
        self.guard.is_held()
    }

    /// Waits until the leadership is lost. From then on there is the stop time to stop. Cancellation
    /// safe.
    pub async fn lost(&self) -> Loss {
        self.guard.lost().await
    }

    /// Gives the leadership up at once. Stop leading before.
    ///
    /// # Errors
    /// As [`Session::close`]: the leadership then ends with its TTL.
    pub async fn resign(self) -> Result<(), Error> {
        let Self { guard, session } = self;
        guard.abandon();
        session.close().await.map(drop)
    }
}
