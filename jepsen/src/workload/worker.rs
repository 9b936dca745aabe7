//! One client: its way to the system, its place in the history, its choices. It makes one attempt per
//! call and writes down what it asked and was answered, and nothing that it concluded.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jepsen_checker::{EventKind, Value};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;

use super::events::{self, Streams, Subscription};
use super::{Keys, Resources};
use crate::recorder::{Completion, Invocation, Recorder, map, number};
use crate::system::{
    Answer, Ask, Call, ClientHandle, ClientProcess, Ending, Feature, Lease, Mode, Reply,
    WatchEnding, Watched,
};

/// The clients from outside: what stops them, and which use something.
#[derive(Debug)]
pub(crate) struct Clients {
    handles: Vec<ClientHandle>,
    holding: Vec<AtomicBool>,
}

impl Clients {
    /// These.
    pub(crate) fn new(handles: Vec<ClientHandle>) -> Self {
        Clients {
            holding: handles.iter().map(|_| AtomicBool::new(false)).collect(),
            handles,
        }
    }

    /// How many clients there are.
    pub(crate) fn len(&self) -> usize {
        self.handles.len()
    }

    /// Stops a client's process.
    pub(crate) fn pause(&self, client: usize) -> io::Result<()> {
        self.handles[client].pause()
    }

    /// Lets a client's process go on.
    pub(crate) fn resume(&self, client: usize) -> io::Result<()> {
        self.handles[client].resume()
    }

    /// Clients that use an unguarded resource under a lock right now.
    pub(crate) fn holders(&self) -> Vec<usize> {
        let holds = |client: &usize| self.holding[*client].load(Ordering::Relaxed);
        (0..self.len()).filter(holds).collect()
    }

    /// What became of clients whose processes have ended, which none should.
    pub(crate) fn ended(&self) -> Vec<String> {
        let ended = |(client, handle): (usize, &ClientHandle)| {
            let why = handle.ended()?;
            Some(format!("the process of client {client} ended: {why}"))
        };
        self.handles.iter().enumerate().filter_map(ended).collect()
    }
}

/// What all clients of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The history.
    pub(crate) recorder: Recorder,
    /// What they read and write.
    pub(crate) resources: Resources,
    /// What listeners are told.
    pub(crate) streams: Streams,
    /// The locks.
    pub(crate) keys: Keys,
    /// Who asks.
    pub(crate) clients: Clients,
    /// What the system has.
    pub(crate) features: BTreeSet<Feature>,
    /// The nodes that clients are told of.
    pub(crate) nodes: Mutex<Vec<usize>>,
    /// A number for everything that must be unique.
    pub(crate) unique: AtomicI64,
    /// Requests so far.
    pub(crate) requests: AtomicUsize,
    /// Set when clients are to end.
    pub(crate) stop: watch::Receiver<bool>,
}

/// A grant, as the client has it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// By which lease.
    pub(crate) lease: Lease,
    /// Lock and token of each.
    pub(crate) locks: Vec<(String, Option<u64>)>,
}

/// What an acquire came to.
#[derive(Clone, Debug)]
pub(crate) enum Acquired {
    /// It holds.
    Yes(Held),
    /// It does not.
    No,
    /// It still waits, or nobody knows.
    Perhaps,
}

/// One client.
pub(crate) struct Worker {
    number: usize,
    process: u64,
    node: usize,
    client: ClientProcess,
    /// How long it waits for an answer, beside the wait that it asked for.
    timeout: Duration,
    /// Its choices.
    pub(crate) rng: StdRng,
    /// Where it listens, if it does.
    pub(super) subscription: Option<Subscription>,
    /// What it shares.
    pub(crate) shared: Arc<Shared>,
}

impl Worker {
    /// A client with a number of its own.
    pub(crate) fn new(
        number: usize,
        client: ClientProcess,
        timeout: Duration,
        rng: StdRng,
        shared: Arc<Shared>,
    ) -> Self {
        let mut worker = Worker {
            number,
            process: shared.recorder.new_process(),
            node: 0,
            client,
            timeout,
            rng,
            subscription: None,
            shared,
        };
        worker.go_elsewhere();
        worker
    }

    /// Whether it is to end.
    pub(crate) fn is_over(&self) -> bool {
        *self.shared.stop.borrow()
    }

    /// Whether the system has this.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.shared.features.contains(&feature)
    }

    /// True so often.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    /// Lets some time pass.
    pub(crate) async fn think(&mut self, least_ms: u64, most_ms: u64) {
        let pause_ms = self.rng.random_range(least_ms..=most_ms);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }

    /// Its next calls go to another node.
    pub(crate) fn go_elsewhere(&mut self) {
        let nodes = self
            .shared
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let others: Vec<usize> = nodes
            .iter()
            .copied()
            .filter(|node| *node != self.node)
            .collect();
        if !others.is_empty() {
            self.node = others[self.rng.random_range(0..others.len())];
        }
    }

    /// It uses an unguarded resource, or no longer.
    pub(crate) fn holds(&self, holds: bool) {
        self.shared.clients.holding[self.number].store(holds, Ordering::Relaxed);
    }

    /// A request id that nobody has used.
    pub(crate) fn new_request(&self) -> String {
        let number = self.shared.requests.fetch_add(1, Ordering::Relaxed);
        format!("r{number}")
    }

    /// Waits this long for answers from now on.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) -> Duration {
        std::mem::replace(&mut self.timeout, timeout)
    }

    /// Makes a call, and writes it down.
    pub(crate) async fn call(&mut self, call: &Call) -> Answer {
        let invocation = invocation(call);
        self.shared.recorder.invoke(self.process, &invocation);
        let answer = self.client.call(self.node, call, self.timeout).await;
        let recorder = &self.shared.recorder;
        recorder.complete(self.process, &invocation, completion(&answer));
        match &answer.ending {
            Ending::Done(_) => {}
            Ending::Refused { code, .. } => {
                if matches!(&**code, "no_leader" | "connection_refused" | "overloaded") {
                    self.go_elsewhere();
                }
            }
            Ending::Unknown(_) => {
                self.process = recorder.new_process();
                self.go_elsewhere();
            }
        }
        answer
    }

    /// Asks for locks by a lease, once; a request of which nobody knows what became of it is given up.
    pub(crate) async fn acquire(
        &mut self,
        locks: &[Ask],
        lease: &Lease,
        ttl_ms: u64,
        wait_ms: u64,
        value: Option<String>,
    ) -> Option<Held> {
        let request = self.new_request();
        let acquired = self
            .acquire_as(locks, lease, ttl_ms, wait_ms, value, &request)
            .await;
        match acquired {
            Acquired::Yes(held) => Some(held),
            Acquired::Perhaps => {
                let only = match locks {
                    [ask] => Some(ask.lock.as_str()),
                    _ => None,
                };
                self.give_up(only, lease, &request).await;
                None
            }
            Acquired::No => None,
        }
    }

    /// Asks for locks by a lease, by a request with this id.
    pub(crate) async fn acquire_as(
        &mut self,
        locks: &[Ask],
        lease: &Lease,
        ttl_ms: u64,
        wait_ms: u64,
        value: Option<String>,
        request: &str,
    ) -> Acquired {
        let call = Call::Acquire {
            locks: locks.to_vec(),
            lease: lease.clone(),
            ttl_ms,
            wait_ms: if self.has(Feature::Wait) { wait_ms } else { 0 },
            request: request.to_owned(),
            value,
        };
        match self.call(&call).await.ending {
            Ending::Done(Reply::Granted { held, .. }) => Acquired::Yes(Held {
                lease: lease.clone(),
                locks: held,
            }),
            Ending::Refused { .. } => Acquired::No,
            Ending::Done(_) | Ending::Unknown(_) => Acquired::Perhaps,
        }
    }

    /// Gives back what is held; if nobody knows whether that worked, it may ask again.
    pub(crate) async fn release(&mut self, held: &Held) {
        let call = Call::Release {
            lease: held.lease.clone(),
            held: held.locks.clone(),
        };
        let answer = self.call(&call).await;
        if matches!(answer.ending, Ending::Unknown(_)) && self.chance(0.5) {
            self.call(&call).await;
        }
    }

    /// Renews; whether the lease is known to live on.
    pub(crate) async fn renew(&mut self, lease: &Lease) -> bool {
        let call = Call::Renew {
            lease: lease.clone(),
        };
        matches!(
            self.call(&call).await.ending,
            Ending::Done(Reply::Renewed { .. })
        )
    }

    /// Takes a request back, or leaves it to its fate.
    pub(crate) async fn give_up(&mut self, lock: Option<&str>, lease: &Lease, request: &str) {
        if self.has(Feature::Requests) && self.chance(0.6) {
            let call = Call::Cancel {
                lease: lease.clone(),
                request: request.to_owned(),
                lock: lock.map(String::from),
            };
            self.call(&call).await;
        }
    }

    /// Listens for so long behind a place, or from now on, and writes down that it did.
    pub(super) async fn watch(&mut self, after: Option<&str>, lasts: Duration) -> Watched {
        let invocation = Invocation {
            function: "watch",
            key: None,
            value: map([("after", after.map_or(Value::Nil, Value::text))]),
            request: None,
        };
        let recorder = self.shared.recorder.clone();
        recorder.invoke(self.process, &invocation);
        let watched = self.client.watch(self.node, after, lasts).await;
        // A place says that the node took the listener on, however that ended.
        let completion = match &watched.ending {
            WatchEnding::Broken(why) if watched.place.is_none() => {
                let error = map([("code", Value::text(why))]);
                ended(EventKind::Fail, Value::Nil, Some(error))
            }
            WatchEnding::Gone if watched.place.is_none() => {
                let error = map([("code", Value::text("position_gone"))]);
                ended(EventKind::Fail, Value::Nil, Some(error))
            }
            _ => ended(EventKind::Ok, events::told(&watched), None),
        };
        recorder.complete(self.process, &invocation, completion);
        watched
    }

    /// Does something to a resource, and writes it down. What it is refused, it is told.
    pub(crate) async fn use_resource<T>(
        &mut self,
        function: &'static str,
        resource: &str,
        value: Value,
        act: impl FnOnce(&Resources) -> Result<(Value, T), super::resource::StaleToken>,
    ) -> Option<T> {
        // What a stopped process was about to write, it writes when it wakes.
        self.client.runs().await;
        let invocation = Invocation {
            function,
            key: Some(resource.to_owned()),
            value,
            request: None,
        };
        let recorder = &self.shared.recorder;
        recorder.invoke(self.process, &invocation);
        let (completion, result) = match act(&self.shared.resources) {
            Ok((value, result)) => (ended(EventKind::Ok, value, None), Some(result)),
            Err(stale) => {
                let error = map([
                    ("code", Value::text("token_stale")),
                    ("largest_token", number(stale.largest_token)),
                ]);
                (ended(EventKind::Fail, Value::Nil, Some(error)), None)
            }
        };
        recorder.complete(self.process, &invocation, completion);
        result
    }

    /// A number that was never used before.
    pub(crate) fn unique(&self) -> i64 {
        self.shared.unique.fetch_add(1, Ordering::Relaxed)
    }
}

fn ended(kind: EventKind, value: Value, error: Option<Value>) -> Completion {
    Completion {
        kind,
        value,
        error,
        position: None,
    }
}

fn ask_fields(ask: &Ask, into: &mut Vec<(&'static str, Value)>) {
    match ask.mode {
        Mode::Exclusive => {}
        Mode::Shared => into.push(("mode", Value::text("shared"))),
        Mode::Permits { permits, limit } => into.extend([
            ("mode", Value::text("permits")),
            ("permits", number(permits.into())),
            ("limit", number(limit.into())),
        ]),
    }
}

fn tokened((lock, token): &(String, Option<u64>)) -> Value {
    let token = token.map_or(Value::Nil, number);
    map([("name", Value::text(lock)), ("token", token)])
}

/// A call in the history's words: see [`jepsen_checker::lock_checks`].
fn invocation(call: &Call) -> Invocation {
    let lease_field = |lease: &Lease| ("lease", Value::text(&lease.id));
    let (function, key, value, request) = match call {
        Call::Acquire {
            locks,
            lease,
            ttl_ms,
            wait_ms,
            request,
            ..
        } => {
            let mut fields = vec![
                lease_field(lease),
                ("ttl_ms", number(*ttl_ms)),
                ("wait_ms", number(*wait_ms)),
            ];
            let key = match &locks[..] {
                [ask] => {
                    ask_fields(ask, &mut fields);
                    Some(ask.lock.clone())
                }
                several => {
                    let locks = several.iter().map(|ask| {
                        let mut fields = vec![("name", Value::text(&ask.lock))];
                        ask_fields(ask, &mut fields);
                        map(fields)
                    });
                    fields.push(("locks", Value::list(locks)));
                    None
                }
            };
            ("acquire", key, map(fields), Some(request.clone()))
        }
        Call::Renew { lease } => ("renew", None, map([lease_field(lease)]), None),
        Call::Release { lease, held } => match &held[..] {
            [(lock, token)] => {
                let token = token.map_or(Value::Nil, number);
                let value = map([lease_field(lease), ("token", token)]);
                ("release", Some(lock.clone()), value, None)
            }
            several => {
                let tokens = several.iter().filter_map(|(_, token)| token.map(number));
                let value = map([
                    lease_field(lease),
                    ("locks", Value::list(several.iter().map(tokened))),
                    ("tokens", Value::list(tokens)),
                ]);
                ("release", None, value, None)
            }
        },
        Call::Cancel {
            lease,
            request,
            lock,
        } => {
            let value = map([lease_field(lease), ("request_id", Value::text(request))]);
            ("cancel", lock.clone(), value, None)
        }
        Call::Revoke { lease } => ("revoke", None, map([lease_field(lease)]), None),
        Call::Update {
            lease,
            lock,
            token,
            value,
        } => {
            let value = map([
                lease_field(lease),
                ("token", number(*token)),
                ("value", Value::text(value)),
            ]);
            ("update", Some(lock.clone()), value, None)
        }
        Call::Read { lock } => ("read", Some(lock.clone()), Value::Nil, None),
    };
    Invocation {
        function,
        key,
        value,
        request,
    }
}

fn completion(answer: &Answer) -> Completion {
    let (kind, value, error) = match &answer.ending {
        Ending::Done(reply) => (EventKind::Ok, reply_value(reply), None),
        Ending::Refused { code, reason } => {
            let mut fields = vec![("code", Value::text(code))];
            fields.extend(reason.iter().map(|reason| ("reason", Value::text(reason))));
            (EventKind::Fail, Value::Nil, Some(map(fields)))
        }
        Ending::Unknown(why) => (EventKind::Info, Value::Nil, Some(Value::text(why))),
    };
    Completion {
        kind,
        value,
        error,
        position: answer.position,
    }
}

fn reply_value(reply: &Reply) -> Value {
    match reply {
        Reply::Granted { held, ttl_ms } => match &held[..] {
            [(_, token)] => map([
                ("token", token.map_or(Value::Nil, number)),
                ("ttl_ms", number(*ttl_ms)),
            ]),
            several => map([
                ("locks", Value::list(several.iter().map(tokened))),
                ("ttl_ms", number(*ttl_ms)),
            ]),
        },
        Reply::Waiting => map([("granted", Value::Bool(false))]),
        Reply::Renewed { ttl_ms } => map([("ttl_ms", number(*ttl_ms))]),
        Reply::Released { was_held } => map([("was_held", Value::Bool(*was_held))]),
        Reply::Cancelled { released } => map([("was_held", Value::Bool(*released))]),
        Reply::Revoked | Reply::Updated => Value::Nil,
        Reply::Holders(holders) => Value::list(holders.iter().map(|holder| {
            let value = holder.value.as_deref().map_or(Value::Nil, Value::text);
            map([
                ("lease", Value::text(&holder.lease)),
                ("token", holder.token.map_or(Value::Nil, number)),
                ("value", value),
            ])
        })),
    }
}
