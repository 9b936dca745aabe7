//! Listeners: what they are told of all locks, over one connection after another, at one node after
//! another. A subscription is one stream of events, wherever its connections were.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jepsen_checker::Value;
use jepsen_checker::lock_checks::{EventStream, LockEvent};
use rand::RngExt;
use rand::rngs::StdRng;

use super::{Worker, Workload, locks};
use crate::recorder::number;
use crate::system::{Mode, WatchEnding, Watched};

/// How far back a subscription may begin, in events: farther than a snapshot is from the end of the log.
const BACK: usize = 3_000;

/// What all listeners of a run were told.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    streams: Vec<EventStream>,
    /// Events and their places, as one of the listeners after the other was told them.
    told: Vec<(LockEvent, String)>,
}

/// One listener's way through the events.
#[derive(Debug)]
pub(crate) struct Subscription {
    stream: usize,
    place: Option<String>,
}

impl Streams {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All streams so far.
    pub(crate) fn all(&self) -> Vec<EventStream> {
        self.with(|inner| inner.streams.clone())
    }

    /// From now on, or behind an event that somebody was told before.
    fn subscribe(&self, from_now: bool, rng: &mut StdRng) -> Subscription {
        self.with(|inner| {
            let stream = inner.streams.len();
            let oldest = inner.told.len().saturating_sub(BACK);
            let known = match from_now || inner.told.is_empty() {
                true => None,
                false => Some(inner.told[rng.random_range(oldest..inner.told.len())].clone()),
            };
            let (events, place) = match known {
                Some((event, place)) => (vec![event], Some(place)),
                None => (Vec::new(), None),
            };
            inner.streams.push(EventStream {
                node: Arc::from(format!("subscription {stream}")),
                events,
            });
            Subscription { stream, place }
        })
    }

    fn add(&self, subscription: &mut Subscription, watched: &Watched) {
        if let Some(place) = &watched.place {
            subscription.place = Some(place.clone());
        }
        self.with(|inner| {
            let events = watched.events.iter().map(|(event, _)| event.clone());
            inner.streams[subscription.stream].events.extend(events);
            inner.told.extend(watched.events.iter().cloned());
        });
    }
}

/// Uses a lock, or listens for a while and then goes on where it was, elsewhere.
pub(super) async fn events(worker: &mut Worker) {
    if worker.chance(0.4) {
        locks::take_and_use(worker, Workload::Events, Mode::Exclusive).await;
        return;
    }
    let shared = worker.shared.clone();
    let kept = worker.subscription.take().filter(|_| !worker.chance(0.3));
    let mut subscription = match kept {
        Some(subscription) => subscription,
        None => {
            let from_now = worker.chance(0.3);
            shared.streams.subscribe(from_now, &mut worker.rng)
        }
    };
    for _ in 0..worker.rng.random_range(1..4) {
        let lasts = Duration::from_millis(worker.rng.random_range(100..1_500));
        let watched = worker.watch(subscription.place.as_deref(), lasts).await;
        shared.streams.add(&mut subscription, &watched);
        if watched.ending == WatchEnding::Gone {
            return;
        }
        worker.go_elsewhere();
        worker.think(0, 1_000).await;
        if worker.is_over() {
            break;
        }
    }
    worker.subscription = Some(subscription);
}

/// What a listener was told, in the history's words: how many events, and of what place the last is.
pub(super) fn told(watched: &Watched) -> Value {
    crate::recorder::map([
        ("events", number(watched.events.len() as u64)),
        (
            "place",
            watched.place.as_deref().map_or(Value::Nil, Value::text),
        ),
    ])
}
