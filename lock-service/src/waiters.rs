//! HTTP requests parked on this node until the state machine decides them.
//!
//! Every node applies every grant, so a request can wait on any node. Parking happens before the
//! proposal, so that a grant in between is not missed.

use std::collections::HashMap;
use std::sync::Arc;

use lock_model::{Event, EventKind, LeaseId, LockName, Mode, Position, RequestId, Token, WaitEnd};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// What a parked request hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It got its lock.
    Granted {
        lock: LockName,
        mode: Mode,
        token: Token,
        position: Position,
        queued_position: Position,
        ttl_ms: u64,
        remaining_ms: u64,
    },
    /// It waits no more.
    Ended { reason: WaitEnd, position: Position },
    /// This node's state was replaced by a snapshot: ask again.
    LookAgain,
}

type Key = (LeaseId, RequestId);

#[derive(Debug, Default)]
struct Parked {
    next: u64,
    by_request: HashMap<Key, Vec<(u64, oneshot::Sender<News>)>>,
}

/// The parked requests of this node.
#[derive(Clone, Debug, Default)]
pub struct Waiters {
    parked: Arc<Mutex<Parked>>,
}

/// One parked request. Dropping it leaves.
#[derive(Debug)]
pub struct Place {
    waiters: Waiters,
    key: Key,
    number: u64,
    news: oneshot::Receiver<News>,
}

impl Waiters {
    /// Parks a request from now on.
    pub fn park(&self, lease: LeaseId, request: RequestId) -> Place {
        let (tell, news) = oneshot::channel();
        let mut parked = self.parked.lock();
        let number = parked.next;
        parked.next += 1;
        let key = (lease, request);
        parked
            .by_request
            .entry(key)
            .or_default()
            .push((number, tell));
        drop(parked);
        Place {
            waiters: self.clone(),
            key,
            number,
            news,
        }
    }

    /// How many requests are parked, repeats counted once.
    pub fn len(&self) -> usize {
        self.parked.lock().by_request.len()
    }

    /// Tells parked requests what became of them.
    pub fn tell(&self, events: &[Event]) {
        for event in events {
            let (lease, request, news) = match &event.kind {
                EventKind::Granted {
                    lock,
                    lease,
                    request,
                    mode,
                    token,
                    queued_position,
                    ttl_ms,
                    remaining_ms,
                    ..
                } => (
                    *lease,
                    request,
                    News::Granted {
                        lock: lock.clone(),
                        mode: *mode,
                        token: *token,
                        position: event.position,
                        queued_position: *queued_position,
                        ttl_ms: *ttl_ms,
                        remaining_ms: *remaining_ms,
                    },
                ),
                EventKind::WaitEnded {
                    lease,
                    request,
                    reason,
                    ..
                } => (
                    *lease,
                    request,
                    News::Ended {
                        reason: *reason,
                        position: event.position,
                    },
                ),
                EventKind::Queued { .. }
                | EventKind::Released { .. }
                | EventKind::Expired { .. }
                | EventKind::Forced { .. }
                | EventKind::Updated { .. } => continue,
            };
            let mut parked = self.parked.lock();
            if parked.by_request.is_empty() {
                return;
            }
            let told = parked.by_request.remove(&(lease, *request));
            drop(parked);
            for (_, tell) in told.into_iter().flatten() {
                // A request whose client is gone has left, or is about to.
                let _ = tell.send(news.clone());
            }
        }
    }

    /// The state was replaced: whoever waits must ask again.
    #[allow(
        clippy::iter_over_hash_type,
        reason = "everyone is told the same; the order does not matter"
    )]
    pub fn look_again(&self) {
        let all = std::mem::take(&mut self.parked.lock().by_request);
        for (_, tell) in all.into_values().flatten() {
            let _ = tell.send(News::LookAgain);
        }
    }
}

impl Place {
    /// Waits for news. Cancellation safe.
    pub async fn news(&mut self) -> News {
        (&mut self.news).await.unwrap_or(News::LookAgain)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut parked = self.waiters.parked.lock();
        if let Some(places) = parked.by_request.get_mut(&self.key) {
            places.retain(|(number, _)| *number != self.number);
            if places.is_empty() {
                parked.by_request.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(lease: LeaseId, request: &RequestId) -> Event {
        Event {
            position: Position {
                index: 9,
                ordinal: 1,
            },
            kind: EventKind::WaitEnded {
                lock: LockName::new("a").unwrap(),
                lease,
                request: *request,
                queued_position: Position {
                    index: 3,
                    ordinal: 0,
                },
                reason: WaitEnd::TimedOut,
            },
        }
    }

    #[tokio::test]
    async fn everyone_parked_on_a_request_hears_of_it_and_nobody_else() {
        let waiters = Waiters::default();
        let lease = LeaseId([1; 16]);
        let request = RequestId::new("r").unwrap();
        let mut first = waiters.park(lease, request);
        let mut second = waiters.park(lease, request);
        let mut other = waiters.park(lease, RequestId::new("s").unwrap());
        waiters.tell(&[ended(lease, &request)]);
        assert!(matches!(first.news().await, News::Ended { .. }));
        assert!(matches!(second.news().await, News::Ended { .. }));
        assert!(other.news.try_recv().is_err());
        waiters.look_again();
        assert_eq!(other.news().await, News::LookAgain);
    }

    #[test]
    fn a_place_that_is_dropped_leaves_nothing_behind() {
        let waiters = Waiters::default();
        let place = waiters.park(LeaseId([1; 16]), RequestId::new("r").unwrap());
        drop(place);
        assert!(waiters.parked.lock().by_request.is_empty());
    }
}
