//! Watching locks on this node: one task reads new events from the replicated state and hands them
//! to the watches that they concern.
//!
//! Nothing is kept for a watch but a short queue. One that does not keep up loses its queue, never
//! an event: it reads on from the ring of events in the state, and is told so when the ring has
//! lost its place. A snapshot that replaces the state brings its ring, so it makes no difference.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_model::{Event, LockName, Position};
use parking_lot::Mutex;
use raft_core::Node;
use tokio::sync::{Notify, mpsc};
use tokio::time::{timeout, timeout_at};

use crate::machine::LockMachine;

/// Events that wait for one watch.
const QUEUE: usize = 256;
/// Events looked at under one lock of the state.
const BATCH: usize = 1_024;
/// How often a watch hears how far it is while nothing happens to its locks.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// How often the position moves on while there are no events at all.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Which events a watch wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Those of one lock.
    Lock(LockName),
    /// Those of all locks whose names begin so.
    Prefix(String),
}

impl Filter {
    fn wants(&self, lock: &LockName) -> bool {
        match self {
            Self::Lock(name) => name == lock,
            Self::Prefix(prefix) => lock.as_str().starts_with(prefix.as_str()),
        }
    }
}

type Queue = (u64, mpsc::Sender<Arc<Event>>);

#[derive(Debug, Default)]
struct Shared {
    /// All events up to here have been handed out.
    handed_out: Position,
    next: u64,
    stopped: bool,
    by_lock: HashMap<LockName, Vec<Queue>>,
    by_prefix: HashMap<String, Vec<Queue>>,
}

impl Shared {
    fn hand_out(&mut self, event: &Arc<Event>) {
        let lock = event.kind.lock();
        // A queue that is full, or whose watch is gone, is dropped.
        let give = |queues: &mut Vec<Queue>| {
            queues.retain(|(_, queue)| queue.try_send(event.clone()).is_ok());
        };
        if let Some(queues) = self.by_lock.get_mut(lock) {
            give(queues);
        }
        #[expect(
            clippy::iter_over_hash_type,
            reason = "each watch has its own queue; their order does not matter"
        )]
        for (prefix, queues) in &mut self.by_prefix {
            if lock.as_str().starts_with(prefix.as_str()) {
                give(queues);
            }
        }
    }

    fn forget_all(&mut self) {
        self.by_lock.clear();
        self.by_prefix.clear();
    }
}

/// All watches of this node.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    shared: Arc<Mutex<Shared>>,
    news: Arc<Notify>,
}

impl Hub {
    /// The state has new events.
    pub fn look(&self) {
        self.news.notify_one();
    }

    /// How many watches are served from their queues now.
    pub fn len(&self) -> usize {
        let shared = self.shared.lock();
        let by_lock: usize = shared.by_lock.values().map(Vec::len).sum();
        let by_prefix: usize = shared.by_prefix.values().map(Vec::len).sum();
        by_lock + by_prefix
    }

    /// Ends all watches, and every later one at once.
    pub fn stop(&self) {
        let mut shared = self.shared.lock();
        shared.stopped = true;
        shared.forget_all();
    }

    /// Hands new events out, until it is dropped.
    pub async fn run(self, node: Arc<Node<LockMachine>>) {
        loop {
            // Whether there is news or not, the position moves on.
            let _ = timeout(LOOK_INTERVAL, self.news.notified()).await;
            while self.hand_out(&node) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// One batch; whether there is more.
    fn hand_out(&self, node: &Node<LockMachine>) -> bool {
        // Held throughout: a watch that enters is told from where on its queue is complete.
        let mut shared = self.shared.lock();
        let from = shared.handed_out;
        let nobody_watches = shared.by_lock.is_empty() && shared.by_prefix.is_empty();
        let (events, up_to) = node.read(|machine| {
            let table = &machine.table;
            if nobody_watches {
                return (Some(Vec::new()), table.last_position());
            }
            match table.events_after(from) {
                Err(_) => (None, table.last_position()),
                Ok(events) => {
                    let events: Vec<_> = events.take(BATCH).cloned().map(Arc::new).collect();
                    let up_to = match events.last() {
                        Some(last) if events.len() == BATCH => last.position,
                        _ => table.last_position(),
                    };
                    (Some(events), up_to)
                }
            }
        });
        let more = events.as_ref().is_some_and(|events| events.len() == BATCH);
        match events {
            Some(events) => {
                for event in &events {
                    shared.hand_out(event);
                }
            }
            // The ring has moved past this task: everyone reads on from the ring, and finds out.
            None => shared.forget_all(),
        }
        shared.handed_out = up_to;
        more
    }

    /// A queue for what happens behind the position returned; `None` once stopped.
    fn enter(&self, filter: &Filter) -> Option<(Subscription, Position)> {
        let (sender, events) = mpsc::channel(QUEUE);
        let mut shared = self.shared.lock();
        if shared.stopped {
            return None;
        }
        let number = shared.next;
        shared.next += 1;
        let queue = (number, sender);
        match filter {
            Filter::Lock(lock) => shared.by_lock.entry(lock.clone()).or_default().push(queue),
            Filter::Prefix(prefix) => {
                shared
                    .by_prefix
                    .entry(prefix.clone())
                    .or_default()
                    .push(queue);
            }
        }
        let subscription = Subscription {
            hub: self.clone(),
            filter: filter.clone(),
            number,
            events,
        };
        Some((subscription, shared.handed_out))
    }

    fn leave(&self, filter: &Filter, number: u64) {
        let mut shared = self.shared.lock();
        let others = |queues: &mut Vec<Queue>| {
            queues.retain(|(other, _)| *other != number);
            queues.is_empty()
        };
        match filter {
            Filter::Lock(lock) => {
                if shared.by_lock.get_mut(lock).is_some_and(others) {
                    shared.by_lock.remove(lock);
                }
            }
            Filter::Prefix(prefix) => {
                if shared.by_prefix.get_mut(prefix).is_some_and(others) {
                    shared.by_prefix.remove(prefix);
                }
            }
        }
    }
}

struct Subscription {
    hub: Hub,
    filter: Filter,
    number: u64,
    events: mpsc::Receiver<Arc<Event>>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.leave(&self.filter, self.number);
    }
}

/// What a watch is told.
#[derive(Debug)]
pub enum Told {
    /// Something happened.
    Event(Arc<Event>),
    /// All events up to here have been told.
    Heartbeat(Position),
    /// Some events behind what has been told are not kept any more; the oldest position from which
    /// they are. The watch ends.
    Gone(Position),
}

/// One watch.
pub struct Watch {
    node: Arc<Node<LockMachine>>,
    hub: Hub,
    filter: Filter,
    /// Everything up to here has been looked at: told, or in `ready`, or not wanted.
    seen: Position,
    ready: VecDeque<Arc<Event>>,
    /// `None`: it has to enter.
    subscription: Option<Subscription>,
    /// Up to where the ring has to be read, before the subscription goes on.
    behind: Option<Position>,
    next_heartbeat: Instant,
    has_ended: bool,
}

impl Watch {
    /// Watches what happens behind `after`, which this node must have applied. The first that it
    /// tells is a heartbeat, unless there are events.
    pub fn new(node: Arc<Node<LockMachine>>, hub: Hub, filter: Filter, after: Position) -> Self {
        Self {
            node,
            hub,
            filter,
            seen: after,
            ready: VecDeque::new(),
            subscription: None,
            behind: None,
            next_heartbeat: Instant::now(),
            has_ended: false,
        }
    }

    /// The next that it is told; `None` when it has ended.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.next_heartbeat = Instant::now() + HEARTBEAT_INTERVAL;
                return Some(Told::Event(event));
            }
            if self.has_ended {
                return None;
            }
            if let Some(up_to) = self.behind {
                if let Err(oldest) = self.read_ring(up_to) {
                    self.has_ended = true;
                    return Some(Told::Gone(oldest));
                }
                // The ring may be long, and this task does nothing but look for its own.
                tokio::task::yield_now().await;
                continue;
            }
            let Some(subscription) = &mut self.subscription else {
                let (subscription, handed_out) = self.hub.enter(&self.filter)?;
                self.subscription = Some(subscription);
                self.behind = Some(handed_out);
                continue;
            };
            match timeout_at(self.next_heartbeat.into(), subscription.events.recv()).await {
                Ok(Some(event)) => self.take(event),
                Ok(None) => self.subscription = None,
                Err(_) => {
                    if let Some(position) = self.heartbeat() {
                        self.next_heartbeat = Instant::now() + HEARTBEAT_INTERVAL;
                        return Some(Told::Heartbeat(position));
                    }
                }
            }
        }
    }

    fn take(&mut self, event: Arc<Event>) {
        if event.position > self.seen {
            self.seen = event.position;
            self.ready.push_back(event);
        }
    }

    /// The position up to which everything has been told, unless there is something to tell.
    fn heartbeat(&mut self) -> Option<Position> {
        let handed_out = self.hub.shared.lock().handed_out;
        let subscription = self.subscription.as_mut()?;
        match subscription.events.try_recv() {
            Ok(event) => {
                self.take(event);
                None
            }
            Err(mpsc::error::TryRecvError::Empty) => {
                // The queue was whole until now, and what it had up to then was taken.
                self.seen = self.seen.max(handed_out);
                Some(self.seen)
            }
            Err(mpsc::error::TryRecvError::Disconnected) => {
                self.subscription = None;
                None
            }
        }
    }

    /// Reads on in the ring towards `up_to`.
    fn read_ring(&mut self, up_to: Position) -> Result<(), Position> {
        if self.seen >= up_to {
            self.behind = None;
            return Ok(());
        }
        let (wanted, looked_at) = self.node.read(|machine| {
            let mut looked_at = None;
            let wanted: Vec<_> = machine
                .table
                .events_after(self.seen)?
                .take_while(|event| event.position <= up_to)
                .take(BATCH)
                .inspect(|event| looked_at = Some(event.position))
                .filter(|event| self.filter.wants(event.kind.lock()))
                .cloned()
                .map(Arc::new)
                .collect();
            Ok((wanted, looked_at))
        })?;
        self.ready.extend(wanted);
        self.seen = looked_at.unwrap_or(up_to);
        Ok(())
    }
}
