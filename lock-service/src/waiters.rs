//! HTTP requests parked on this node until the state machine decides them.
//!
//! Every node applies every grant, so a request can wait on any node. Parking happens before the
//! proposal, so that a grant in between is not missed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lock_model::{Event, EventKind, Grant, Granted, LeaseId, Position, RequestId, WaitEnd};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// What a parked request hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It got its locks, all in one entry; `position` is that of the first.
    Granted {
        granted: Granted,
        position: Position,
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

impl Parked {
    fn tell(&mut self, key: Key, news: &News) {
        for (_, tell) in self.by_request.remove(&key).into_iter().flatten() {
            // A request whose client is gone has left, or is about to.
            let _ = tell.send(news.clone());
        }
    }
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

    /// Tells parked requests what became of them; `events` are all of one entry.
    pub fn tell(&self, events: &[Event]) {
        let mut parked = self.parked.lock();
        if parked.by_request.is_empty() {
            return;
        }
        let mut grants: BTreeMap<Key, (Granted, Position)> = BTreeMap::new();
        for event in events {
            match &event.kind {
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
                } if parked.by_request.contains_key(&(*lease, *request)) => {
                    let grant = Grant {
                        lock: lock.clone(),
                        token: *token,
                        mode: *mode,
                    };
                    let first = || {
                        let granted = Granted {
                            grants: Vec::new(),
                            ttl_ms: *ttl_ms,
                            remaining_ms: *remaining_ms,
                            queued_position: *queued_position,
                            repeated: false,
                        };
                        (granted, event.position)
                    };
                    let (granted, _) = grants.entry((*lease, *request)).or_insert_with(first);
                    granted.grants.push(grant);
                }
                // Of several locks the first to be told of takes the request off: the others say
                // the same.
                EventKind::WaitEnded {
                    lease,
                    request,
                    reason,
                    ..
                } => parked.tell(
                    (*lease, *request),
                    &News::Ended {
                        reason: *reason,
                        position: event.position,
                    },
                ),
                EventKind::Granted { .. }
                | EventKind::Queued { .. }
                | EventKind::Released { .. }
                | EventKind::Expired { .. }
                | EventKind::Forced { .. }
                | EventKind::Updated { .. } => {}
            }
        }
        for (key, (granted, position)) in grants {
            parked.tell(key, &News::Granted { granted, position });
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
    use lock_model::{LockName, Mode, Owner, Token};

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

    #[tokio::test]
    async fn a_request_for_several_locks_hears_of_all_of_them_at_once() {
        let waiters = Waiters::default();
        let request = RequestId::new("r").unwrap();
        let mut place = waiters.park(LeaseId([1; 16]), request);
        let granted = |lock: &str, lease: u8, ordinal: u32| Event {
            position: Position { index: 9, ordinal },
            kind: EventKind::Granted {
                lock: LockName::new(lock).unwrap(),
                lease: LeaseId([lease; 16]),
                owner: Owner::new("").unwrap(),
                request,
                mode: Mode::Exclusive,
                token: Token(u64::from(ordinal)),
                queued_position: Position::default(),
                ttl_ms: 1,
                remaining_ms: 1,
            },
        };
        waiters.tell(&[granted("a", 1, 4), granted("x", 2, 5), granted("b", 1, 6)]);
        let News::Granted { granted, position } = place.news().await else {
            panic!("no grant");
        };
        assert_eq!(position.ordinal, 4);
        let tokens: Vec<_> = granted.grants.iter().map(|grant| grant.token.0).collect();
        assert_eq!(tokens, [4, 6]);
    }

    #[test]
    fn a_place_that_is_dropped_leaves_nothing_behind() {
        let waiters = Waiters::default();
        let place = waiters.park(LeaseId([1; 16]), RequestId::new("r").unwrap());
        drop(place);
        assert!(waiters.parked.lock().by_request.is_empty());
    }
}
