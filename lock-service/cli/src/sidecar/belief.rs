//! What the sidecar may say of who leads.
//!
//! Of itself: that it leads, until its local deadline and not a moment longer, by the clock. Of
//! others: what a linearizable read has found that was sent no earlier than the asker allows. When
//! neither is there it is unsure, and says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use lock_client::{
    BootTime, CLOCK_RATE_DIFFERENCE_PERCENT, Election, FencingToken, Leadership, LockValue,
    Observation, Owner,
};
use serde::Serialize;
use tokio::sync::{Notify, watch};

use crate::arguments::SidecarArguments;
use crate::exit::say;

/// How long an answer may wait for the cluster.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// How often what is published is looked at again without news: beliefs end by the clock.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Who leads, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Belief {
    Leader(KnownLeader),
    /// The cluster says that nobody does.
    Nobody,
    Unsure,
}

/// A leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct KnownLeader {
    pub(super) name: String,
    pub(super) token: FencingToken,
    pub(super) value: Option<LockValue>,
    /// Whether it is this candidate.
    pub(super) is_self: bool,
    /// When it began to lead, on this machine's clock since boot.
    #[serde(skip)]
    pub(super) since: BootTime,
}

impl KnownLeader {
    pub(super) fn age(&self) -> Duration {
        BootTime::now().saturating_since(self.since)
    }
}

/// This candidate's own leadership.
struct Own {
    leadership: Leadership,
    since: BootTime,
}

pub(super) struct Beliefs {
    election: Election,
    id: Owner,
    value: Option<LockValue>,
    max_age: Duration,
    period: Duration,
    own: Mutex<Option<Own>>,
    /// The token of the leadership that this candidate had last.
    own_token: Mutex<Option<FencingToken>>,
    newest: Mutex<Option<Observation>>,
    /// Whose turn it is to ask the cluster: one at a time, and those who wait share the answer.
    turn: tokio::sync::Mutex<()>,
    news: Notify,
    published: watch::Sender<Belief>,
}

impl Beliefs {
    pub(super) fn new(election: Election, arguments: &SidecarArguments, period: Duration) -> Self {
        Self {
            election,
            id: arguments.id.clone(),
            value: arguments.value.clone(),
            max_age: arguments.max_age,
            period,
            own: Mutex::new(None),
            own_token: Mutex::new(None),
            newest: Mutex::new(None),
            turn: tokio::sync::Mutex::new(()),
            news: Notify::new(),
            published: watch::Sender::new(Belief::Unsure),
        }
    }

    /// This candidate leads from now on.
    pub(super) fn elected(&self, leadership: Leadership) {
        *locked(&self.own_token) = Some(leadership.guard().token_unchecked());
        let since = BootTime::now();
        *locked(&self.own) = Some(Own { leadership, since });
        self.news.notify_waiters();
    }

    /// This candidate does not lead any more, or will not in a moment.
    pub(super) fn not_leading(&self) -> Option<Leadership> {
        let own = locked(&self.own).take();
        self.news.notify_waiters();
        own.map(|own| own.leadership)
    }

    /// Whether this candidate leads at this moment.
    pub(super) fn is_leader(&self) -> bool {
        let own = locked(&self.own);
        own.as_ref().is_some_and(|own| own.leadership.is_leader())
    }

    /// Who leads, by what is known already: of others only what was asked at `not_before` or later.
    fn known(&self, not_before: BootTime) -> Belief {
        if let Some(own) = &*locked(&self.own)
            && let Ok(token) = own.leadership.token()
        {
            return Belief::Leader(KnownLeader {
                name: self.id.to_string(),
                token,
                value: self.value.clone(),
                is_self: true,
                since: own.since,
            });
        }
        let newest = locked(&self.newest);
        let Some(found) = newest.as_ref().filter(|found| found.sent >= not_before) else {
            return Belief::Unsure;
        };
        let Some(leader) = &found.leader else {
            return Belief::Nobody;
        };
        // The cluster may still count us as leader when we do not.
        if Some(leader.token) == *locked(&self.own_token) {
            return Belief::Unsure;
        }
        let rates = leader.remaining * CLOCK_RATE_DIFFERENCE_PERCENT / 100;
        if (found.sent + leader.remaining.saturating_sub(rates)).is_reached() {
            return Belief::Unsure;
        }
        let since = found.sent.elapsed_since_boot().saturating_sub(leader.age);
        Belief::Leader(KnownLeader {
            name: leader.id.as_ref().map(Owner::to_string).unwrap_or_default(),
            token: leader.token,
            value: leader.value.clone(),
            is_self: false,
            since: BootTime::since_boot(since),
        })
    }

    /// Who leads, for somebody who asks now. Asks the cluster if what is known is too old.
    pub(super) async fn ask(&self) -> Belief {
        let now = BootTime::now().elapsed_since_boot();
        let not_before = BootTime::since_boot(now.saturating_sub(self.max_age));
        match self.known(not_before) {
            Belief::Unsure => {}
            known => return known,
        }
        // Without an answer in time it stays unsure.
        let _ = tokio::time::timeout(READ_LIMIT, self.read(not_before)).await;
        self.known(not_before)
    }

    /// Asks the cluster, unless somebody else has since `not_before`.
    async fn read(&self, not_before: BootTime) {
        let _turn = self.turn.lock().await;
        let fresh = |found: &Observation| found.sent >= not_before;
        if locked(&self.newest).as_ref().is_some_and(fresh) {
            return;
        }
        if let Ok(found) = self.election.leader().await {
            self.found(found);
        }
    }

    fn found(&self, found: Observation) {
        {
            let mut newest = locked(&self.newest);
            if newest
                .as_ref()
                .is_some_and(|newest| newest.sent > found.sent)
            {
                return;
            }
            *newest = Some(found);
        }
        self.news.notify_waiters();
    }

    /// Follows the election, for ever.
    pub(super) async fn observe(self: Arc<Self>) {
        let mut observations = std::pin::pin!(self.election.observe(self.period));
        let mut sees = true;
        while let Some(observation) = observations.next().await {
            let saw = std::mem::replace(&mut sees, observation.is_ok());
            match observation {
                Ok(found) => {
                    if !saw {
                        say("the cluster tells again who leads");
                    }
                    self.found(found);
                }
                // Too many of these, and what is published becomes unsure.
                Err(error) if saw => say(format_args!("cannot see who leads: {error}. Trying on.")),
                Err(_) => {}
            }
        }
    }

    /// Publishes what is believed, for ever.
    pub(super) async fn publish(self: Arc<Self>) {
        // A read may fail and the next succeed before anything is called unsure.
        let patience = self.period * 2 + READ_LIMIT;
        loop {
            let news = self.news.notified();
            let now = BootTime::now().elapsed_since_boot();
            let belief = self.known(BootTime::since_boot(now.saturating_sub(patience)));
            self.published.send_if_modified(|published| {
                let news = !same(published, &belief);
                if news {
                    *published = belief;
                }
                news
            });
            let _ = tokio::time::timeout(LOOK_AGAIN, news).await;
        }
    }

    /// What is believed, as it changes.
    pub(super) fn published(&self) -> watch::Receiver<Belief> {
        self.published.subscribe()
    }
}

/// Whether two beliefs are of the same leader. Each read finds its age a little differently.
fn same(one: &Belief, other: &Belief) -> bool {
    match (one, other) {
        (Belief::Leader(one), Belief::Leader(other)) => {
            (one.token, one.is_self, &one.value) == (other.token, other.is_self, &other.value)
        }
        (one, other) => one == other,
    }
}

/// A panic while it was locked is no reason to stop: each of these is replaced as a whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
