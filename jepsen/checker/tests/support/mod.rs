//! Random histories, and what they are judged against: a simulated system that is legal by
//! construction, and a brute-force checker. Both rest on [`World`], a second implementation of every
//! specification, written as an implementer would, with nothing shared with the crate's models.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: each test file uses some of them, and a crash is a failure"
)]

use std::collections::{BTreeMap, BTreeSet};

use jepsen_checker::{Event, EventKind, FailMeaning, History, Operation, Outcome, Process, Value};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Register,
    UniqueRegister,
    CasRegister,
    KeyValue,
    Mutex,
    OwnerMutex,
    FencedMutex,
    ReadWriteLock,
    Semaphore,
    MultiLock,
    LeaseLock,
}

pub const KINDS: [Kind; 11] = [
    Kind::Register,
    Kind::UniqueRegister,
    Kind::CasRegister,
    Kind::KeyValue,
    Kind::Mutex,
    Kind::OwnerMutex,
    Kind::FencedMutex,
    Kind::ReadWriteLock,
    Kind::Semaphore,
    Kind::MultiLock,
    Kind::LeaseLock,
];

pub const PERMITS: i64 = 2;
/// Of leases, in steps of a run, which are milliseconds.
pub const TTL_MS: u64 = 12;

impl Kind {
    /// The model's name.
    pub fn model(self) -> &'static str {
        match self {
            Kind::Register | Kind::UniqueRegister => "register",
            Kind::CasRegister => "cas-register",
            Kind::KeyValue => "kv",
            Kind::Mutex => "mutex",
            Kind::OwnerMutex => "owner-mutex",
            Kind::FencedMutex => "fenced-mutex",
            Kind::ReadWriteLock => "rw-lock",
            Kind::Semaphore => "semaphore:2",
            Kind::MultiLock => "multi-lock",
            Kind::LeaseLock => "lease-lock",
        }
    }

    pub fn is_lock(self) -> bool {
        self >= Kind::Mutex
    }

    fn is_fenced(self) -> bool {
        self >= Kind::FencedMutex
    }
}

/// The state of a real system of a kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct World {
    kind: Kind,
    registers: BTreeMap<Value, Value>,
    /// (lock, holder): mode, permits, token.
    holds: BTreeMap<(Value, String), (String, i64, i64)>,
    last_token: BTreeMap<Value, i64>,
    /// By lease: the time in ns after which it may expire.
    deadlines: BTreeMap<String, u64>,
    ended: BTreeSet<String>,
}

/// What is done, by whom, and when it was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub client: u64,
    pub function: String,
    pub key: Option<Value>,
    pub input: Value,
    pub asked_ns: u64,
    /// A number of its own.
    pub id: u32,
}

/// What a system answers.
pub enum Answer {
    Ok(Value),
    /// All codes with which it may refuse.
    Refused(Vec<&'static str>),
}

struct Want {
    lock: Value,
    mode: String,
    permits: i64,
}

impl World {
    pub fn new(kind: Kind) -> Self {
        World {
            kind,
            registers: BTreeMap::new(),
            holds: BTreeMap::new(),
            last_token: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            ended: BTreeSet::new(),
        }
    }

    fn holder(&self, request: &Request) -> String {
        match (request.input.field("lease"), request.input.field("owner")) {
            _ if self.kind == Kind::Mutex => "anybody".into(),
            (Some(lease), _) => format!("lease {lease}"),
            (None, Some(owner)) => format!("owner {owner}"),
            _ => format!("process {}", request.client),
        }
    }

    fn wants(&self, request: &Request) -> Vec<Want> {
        let default_mode = if self.kind == Kind::Semaphore {
            "permits"
        } else {
            "exclusive"
        };
        let want = |lock: Value, fields: &Value| Want {
            lock,
            mode: fields
                .field("mode")
                .and_then(Value::as_words)
                .unwrap_or(default_mode)
                .into(),
            permits: fields
                .field("permits")
                .and_then(Value::as_integer)
                .unwrap_or(1),
        };
        match request.input.field("locks").and_then(Value::as_list) {
            Some(locks) => locks
                .iter()
                .map(|lock| want(lock.field("name").unwrap_or(lock).clone(), lock))
                .collect(),
            None => vec![want(
                request.key.clone().unwrap_or_default(),
                &request.input,
            )],
        }
    }

    /// Serves a request. `token` chooses a fresh token above the one given, for the n-th lock asked for.
    pub fn serve(&mut self, request: &Request, token: &mut dyn FnMut(usize, i64) -> i64) -> Answer {
        let key = request.key.clone().unwrap_or_default();
        let initial = if self.kind == Kind::KeyValue {
            Value::text("")
        } else {
            Value::Nil
        };
        let held = self.registers.get(&key).cloned().unwrap_or(initial);
        match &*request.function {
            "read" | "get" => Answer::Ok(held),
            "write" | "put" => {
                self.registers.insert(key, request.input.clone());
                Answer::Ok(request.input.clone())
            }
            "append" => {
                let text = [held.as_words().unwrap(), request.input.as_words().unwrap()].concat();
                self.registers.insert(key, Value::text(&text));
                Answer::Ok(request.input.clone())
            }
            "cas" => {
                let pair = request.input.as_list().unwrap();
                if held != pair[0] {
                    return Answer::Refused(vec!["differs"]);
                }
                self.registers.insert(key, pair[1].clone());
                Answer::Ok(request.input.clone())
            }
            "acquire" => self.acquire(request, token),
            "release" => self.release(request),
            "renew" => {
                let lease = self.holder(request);
                if self.ended.contains(&lease) {
                    return Answer::Refused(vec!["lease_ended"]);
                }
                self.extend(lease, request);
                Answer::Ok(Value::Nil)
            }
            "revoke" => {
                let lease = self.holder(request);
                self.end(&lease);
                Answer::Ok(Value::Nil)
            }
            other => panic!("nobody asks for {other}"),
        }
    }

    fn acquire(&mut self, request: &Request, token: &mut dyn FnMut(usize, i64) -> i64) -> Answer {
        let holder = self.holder(request);
        let wants = self.wants(request);
        let mut refused = Vec::new();
        if self.kind == Kind::LeaseLock && self.ended.contains(&holder) {
            refused.push("lease_ended");
        }
        for want in &wants {
            let holds = self
                .holds
                .iter()
                .filter(|((lock, _), _)| *lock == want.lock);
            let others: Vec<_> = holds.collect();
            let own = others.iter().any(|((_, other), _)| *other == holder);
            let taken: i64 = others.iter().map(|(_, (_, permits, _))| permits).sum();
            let limit = if self.kind == Kind::Semaphore {
                PERMITS
            } else {
                1
            };
            let fits = match &*want.mode {
                "exclusive" => others.is_empty(),
                "shared" => others.iter().all(|(_, (mode, ..))| mode == "shared"),
                _ => {
                    others.iter().all(|(_, (mode, ..))| mode == "permits")
                        && taken + want.permits <= limit
                }
            };
            let own = own && self.kind != Kind::Semaphore;
            if own {
                refused.push("already_held");
            }
            if own || !fits {
                refused.push("lock_held");
            }
        }
        if !refused.is_empty() {
            return Answer::Refused(refused);
        }
        let mut tokens = Vec::new();
        for (at, want) in wants.into_iter().enumerate() {
            let mut group = self
                .holds
                .iter()
                .filter(|((lock, _), _)| *lock == want.lock);
            let shared = group
                .next()
                .filter(|_| want.mode == "shared")
                .map(|(_, hold)| hold.2);
            let last = self.last_token.entry(want.lock.clone()).or_insert(0);
            let token = shared.unwrap_or_else(|| token(at, *last));
            *last = token;
            tokens.push((want.lock.clone(), token));
            let permits = if want.mode == "permits" {
                want.permits
            } else {
                0
            };
            let hold = self.holds.entry((want.lock, holder.clone()));
            let hold = hold.or_insert((want.mode, 0, token));
            hold.1 += permits;
        }
        if self.kind == Kind::LeaseLock {
            self.extend(holder, request);
        }
        if !self.kind.is_fenced() {
            return Answer::Ok(Value::Nil);
        }
        if request.input.field("locks").is_none() {
            return Answer::Ok(tokens[0].1.into());
        }
        let lock = |(name, token): (Value, i64)| {
            Value::map([("name".into(), name), ("token".into(), token.into())])
        };
        let locks = Value::list(tokens.into_iter().map(lock));
        Answer::Ok(Value::map([("locks".into(), locks)]))
    }

    fn release(&mut self, request: &Request) -> Answer {
        let holder = self.holder(request);
        let token = request.input.field("token").and_then(Value::as_integer);
        let back = request.input.field("permits").and_then(Value::as_integer);
        let wants = self.wants(request);
        for want in &wants {
            let hold = self.holds.get(&(want.lock.clone(), holder.clone()));
            let Some((_, permits, held)) = hold else {
                return Answer::Refused(vec!["not_held"]);
            };
            let wrong_token = self.kind.is_fenced() && token.is_some_and(|token| token != *held);
            if wrong_token || back.is_some_and(|back| back > *permits) {
                return Answer::Refused(vec!["not_held"]);
            }
        }
        for want in wants {
            let key = (want.lock, holder.clone());
            let hold = self.holds.get_mut(&key).unwrap();
            match back {
                Some(back) if back < hold.1 => hold.1 -= back,
                _ => drop(self.holds.remove(&key)),
            }
        }
        Answer::Ok(Value::Nil)
    }

    fn extend(&mut self, lease: String, request: &Request) {
        let deadline = request.asked_ns + TTL_MS * 990_000;
        let before = self.deadlines.entry(lease).or_insert(0);
        *before = deadline.max(*before);
    }

    fn end(&mut self, lease: &str) {
        self.holds.retain(|(_, holder), _| holder != lease);
        self.ended.insert(lease.into());
    }

    /// Leases that live and may expire at some time, and from when.
    fn expirable(&self) -> Vec<(String, u64)> {
        let lives = |(lease, _): &(&String, &u64)| !self.ended.contains(*lease);
        let deadlines = self.deadlines.iter().filter(lives);
        deadlines
            .map(|(lease, deadline)| (lease.clone(), *deadline))
            .collect()
    }

    fn holds_anything(&self, holder: &str) -> bool {
        self.holds.keys().any(|(_, other)| other == holder)
    }
}

pub fn seeded(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

fn pick<T: Clone>(rng: &mut StdRng, items: &[T]) -> T {
    items[rng.random_range(0..items.len())].clone()
}

/// How a run is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub kind: Kind,
    pub operations: u32,
    pub processes: u64,
    pub fail: FailMeaning,
    /// Of 100 operations, how many end unknown.
    pub unknown_percent: u32,
}

struct Pending {
    request: Request,
    /// Set once it took effect.
    answer: Option<Answer>,
}

/// A history that is legal by construction: a system was simulated, and served each request at some
/// moment between its invocation and its completion. Also the operations' ids in that order.
pub fn legal(run: Run, rng: &mut StdRng) -> (History, Vec<u32>) {
    let mut world = World::new(run.kind);
    let mut clients: Vec<(u64, Option<Pending>)> =
        (0..run.processes).map(|id| (id, None)).collect();
    let mut events: Vec<Event> = Vec::new();
    let mut witness = Vec::new();
    let mut invoked = 0;
    let with_owners = rng.random_bool(0.2);
    let keys = rng.random_range(1..=2);
    let mut unique = 0;
    loop {
        let now_ns = events.len() as u64 * 1_000_000;
        if run.kind == Kind::LeaseLock && rng.random_bool(0.3) {
            // What is served from now on is served after this event.
            let may = |(_, deadline): &(String, u64)| *deadline + 1_000_000 <= now_ns;
            let due: Vec<_> = world.expirable().into_iter().filter(may).collect();
            if !due.is_empty() {
                let (lease, _) = pick(rng, &due);
                world.end(&lease);
            }
        }
        let chosen = rng.random_range(0..clients.len());
        let (client, pending) = &mut clients[chosen];
        let event = |kind, function: &str, value| {
            let mut event = Event::new(Process::Client(*client), kind, function, value);
            event.time_ns = Some(now_ns);
            event.recorded_index = Some(now_ns / 1_000_000);
            event
        };
        match pending {
            None if invoked == run.operations => {
                if clients.iter().all(|(_, pending)| pending.is_none()) {
                    break;
                }
            }
            None => {
                let mut request = Request {
                    client: *client,
                    function: String::new(),
                    key: None,
                    input: Value::Nil,
                    asked_ns: now_ns,
                    id: invoked,
                };
                unique += 1;
                ask(run, rng, &world, &mut request, with_owners, keys, unique);
                let mut event = event(EventKind::Invoke, &request.function, request.input.clone());
                event.key = request.key.clone();
                events.push(event);
                invoked += 1;
                *pending = Some(Pending {
                    request,
                    answer: None,
                });
            }
            Some(waiting) => {
                let unknown = rng.random_range(0..100) < run.unknown_percent;
                if waiting.answer.is_none() && (!unknown || rng.random_bool(0.5)) {
                    let answer = world.serve(&waiting.request, &mut |_, last| {
                        last + rng.random_range(1..=2)
                    });
                    waiting.answer = Some(answer);
                    witness.push(waiting.request.id);
                }
                if rng.random_bool(0.3) && !unknown {
                    continue;
                }
                let function = waiting.request.function.clone();
                let answer = waiting.answer.take();
                match answer {
                    None | Some(_) if unknown => {
                        let mut event = event(EventKind::Info, &function, Value::Nil);
                        event.error = Some(Value::keyword("timeout"));
                        events.push(event);
                        *client += run.processes;
                    }
                    Some(Answer::Ok(value)) => events.push(event(EventKind::Ok, &function, value)),
                    Some(Answer::Refused(codes)) => {
                        let value = waiting.request.input.clone();
                        let mut event = event(EventKind::Fail, &function, value);
                        // A failed cas has no error: that it differs is what it saw.
                        let code = pick(rng, &codes);
                        event.error = (code != "differs").then(|| code.into());
                        events.push(event);
                    }
                    None => continue,
                }
                *pending = None;
            }
        }
    }
    (History::new(events, run.fail).unwrap(), witness)
}

/// Thinks of something to ask for.
fn ask(
    run: Run,
    rng: &mut StdRng,
    world: &World,
    request: &mut Request,
    with_owners: bool,
    keys: usize,
    unique: i64,
) {
    let keyed = keys > 1 && run.kind != Kind::MultiLock && run.kind != Kind::LeaseLock;
    if keyed || run.kind == Kind::KeyValue {
        request.key = Some(pick(rng, &["a", "b"][..keys]).into());
    }
    let number = |rng: &mut StdRng| Value::Integer(rng.random_range(1..=3));
    match run.kind {
        Kind::Register | Kind::UniqueRegister | Kind::CasRegister => {
            let functions = ["read", "read", "write", "write", "cas", "cas"];
            let count = if run.kind == Kind::CasRegister { 6 } else { 4 };
            request.function = pick(rng, &functions[..count]).into();
            request.input = match &*request.function {
                "write" if run.kind == Kind::UniqueRegister => unique.into(),
                "write" => number(rng),
                "cas" => Value::list([number(rng), number(rng)]),
                _ => Value::Nil,
            };
        }
        Kind::KeyValue => {
            request.function = pick(rng, &["get", "get", "put", "append", "append"]).into();
            request.input = match &*request.function {
                "get" => Value::Nil,
                // Different ways to say the same.
                _ => pick(rng, &["x", "y", "xx", "xy"]).into(),
            };
        }
        _ => ask_for_locks(run, rng, world, request, with_owners),
    }
}

fn ask_for_locks(
    run: Run,
    rng: &mut StdRng,
    world: &World,
    request: &mut Request,
    with_owners: bool,
) {
    let mut fields: Vec<(Value, Value)> = Vec::new();
    if run.kind == Kind::LeaseLock {
        fields.push(("lease".into(), pick(rng, &["l1", "l2", "l3", "l4"]).into()));
        fields.push(("ttl_ms".into(), (TTL_MS as i64).into()));
    } else if with_owners && run.kind != Kind::Mutex {
        fields.push(("owner".into(), pick(rng, &["o1", "o2"]).into()));
    }
    request.input = Value::map(fields.clone());
    let holder = world.holder(request);
    let mut functions = vec!["acquire", "release"];
    if world.holds_anything(&holder) {
        functions.push("release");
    }
    if run.kind == Kind::LeaseLock {
        functions.extend(["renew", "renew", "revoke"]);
    }
    request.function = pick(rng, &functions).into();
    let acquires = request.function == "acquire";
    match run.kind {
        Kind::ReadWriteLock if acquires && rng.random_bool(0.7) => {
            fields.push(("mode".into(), "shared".into()));
        }
        Kind::Semaphore if rng.random_bool(0.5) => {
            fields.push(("permits".into(), rng.random_range(1..=PERMITS).into()));
        }
        Kind::MultiLock | Kind::LeaseLock
            if matches!(&*request.function, "acquire" | "release") =>
        {
            let names = pick(rng, &[&["a"][..], &["b"], &["a", "b"], &["b", "a"]]);
            let lock = |rng: &mut StdRng, name: &str| {
                let shared = acquires && rng.random_bool(0.4);
                match (shared, rng.random_bool(0.5)) {
                    (false, true) => name.into(),
                    (shared, _) => {
                        let mode = if shared { "shared" } else { "exclusive" };
                        Value::map([("name".into(), name.into()), ("mode".into(), mode.into())])
                    }
                }
            };
            if names.len() == 1 && rng.random_bool(0.5) {
                request.key = Some(names[0].into());
            } else {
                let locks: Vec<Value> = names.iter().map(|name| lock(rng, name)).collect();
                fields.push(("locks".into(), Value::list(locks)));
            }
        }
        _ => {}
    }
    if !acquires && run.kind.is_fenced() && run.kind != Kind::Semaphore && rng.random_bool(0.3) {
        let lock = request.key.clone().unwrap_or_default();
        if let Some((_, _, token)) = world.holds.get(&(lock, holder)) {
            fields.push(("token".into(), (*token).into()));
        }
    }
    request.input = if fields.is_empty() {
        Value::Nil
    } else {
        Value::map(fields)
    };
}

/// Changes something about some events; nothing if that made the history malformed.
pub fn tampered(history: &History, rng: &mut StdRng) -> Option<History> {
    let mut events = history.events().to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let refused = |at: &usize| events[*at].kind == EventKind::Fail;
        let refused: Vec<usize> = (0..events.len()).filter(refused).collect();
        let at = match rng.random_bool(0.4) && !refused.is_empty() {
            true => pick(rng, &refused),
            false => rng.random_range(0..events.len()),
        };
        match rng.random_range(0..6) {
            0 if at + 1 < events.len() => {
                let (one, two) = (events[at].time_ns, events[at + 1].time_ns);
                events.swap(at, at + 1);
                (events[at].time_ns, events[at + 1].time_ns) = (one, two);
            }
            1..=3 if events[at].kind == EventKind::Fail => {
                events[at].kind = EventKind::Ok;
                events[at].error = None;
                if !matches!(&*events[at].function, "cas" | "get") {
                    events[at].value = Value::Nil;
                }
            }
            4 if events[at].kind == EventKind::Ok => {
                events[at].kind = EventKind::Fail;
                if events[at].function.ends_with("e") || &*events[at].function == "renew" {
                    let codes = ["lock_held", "already_held", "not_held", "lease_ended"];
                    events[at].error = Some(pick(rng, &codes).into());
                }
            }
            _ if events[at].kind == EventKind::Ok => {
                let function = events[at].function.clone();
                let value = &mut events[at].value;
                match &*function {
                    "read" => *value = pick(rng, &[Value::Nil, 1.into(), 2.into(), 3.into()]),
                    "get" => *value = pick(rng, &["", "x", "xx", "xy", "xxy", "yx"]).into(),
                    "acquire" => match value {
                        Value::Integer(token) => *token = rng.random_range(1..=6),
                        _ => {
                            // Any other answer tells less, or the same.
                            if rng.random_bool(0.3) {
                                *value = Value::Nil;
                            }
                        }
                    },
                    _ => {}
                }
            }
            _ => {}
        }
    }
    let numbered = (0u64..).zip(events).map(|(index, mut event)| {
        event.recorded_index = Some(index);
        event
    });
    History::new(numbered, history.fail_meaning()).ok()
}

/// Tries every order. Returns the event of the return that none can pass, if there is one.
pub fn brute_force(kind: Kind, history: &History) -> Option<u32> {
    let mut ends: Vec<u32> = history
        .operations()
        .iter()
        .filter(|operation| operation.outcome != Outcome::Info)
        .filter_map(|operation| operation.completion.map(|event| event.0))
        .collect();
    ends.sort_unstable();
    let can_pass = |end: &u32| {
        let mut seen = BTreeSet::new();
        passes(
            &Brute {
                kind,
                history,
                end: *end,
            },
            0,
            &World::new(kind),
            &mut seen,
        )
    };
    // Legal histories are quickest to recognise at once.
    match ends.last() {
        Some(last) if !can_pass(last) => ends.into_iter().find(|end| !can_pass(end)),
        _ => None,
    }
}

struct Brute<'h> {
    kind: Kind,
    history: &'h History,
    /// Operations that return later need not be explained.
    end: u32,
}

fn passes(brute: &Brute<'_>, done: u64, world: &World, seen: &mut BTreeSet<(u64, World)>) -> bool {
    let history = brute.history;
    let is_done = |operation: &&Operation| done >> operation.id.0 & 1 == 1;
    let is_required = |operation: &&Operation| {
        let dropped = history.fail_meaning() == FailMeaning::DidNotHappen
            && matches!(operation.outcome, Outcome::Fail(_));
        let ends = operation
            .completion
            .is_some_and(|event| event.0 <= brute.end);
        ends && operation.outcome != Outcome::Info && !dropped
    };
    let left = || {
        history
            .operations()
            .iter()
            .filter(|operation| !is_done(operation))
    };
    let first_end = left()
        .filter(is_required)
        .filter_map(|operation| operation.completion)
        .min();
    let Some(first_end) = first_end else {
        return true;
    };
    if !seen.insert((done, world.clone())) {
        return false;
    }
    for operation in left().filter(|operation| operation.invocation < first_end) {
        for next in explanations(brute, operation, world) {
            if passes(brute, done | 1 << operation.id.0, &next, seen) {
                return true;
            }
        }
    }
    for (lease, deadline) in world.expirable() {
        // The first event at that time or later has to come before what is still to be explained.
        let due = history
            .events()
            .iter()
            .position(|event| event.time_ns >= Some(deadline));
        if due.is_some_and(|event| event as u32 <= first_end.0) {
            let mut expired = world.clone();
            expired.end(&lease);
            if passes(brute, done, &expired, seen) {
                return true;
            }
        }
    }
    false
}

/// All worlds after an operation that answered as it did.
fn explanations(brute: &Brute<'_>, operation: &Operation, world: &World) -> Vec<World> {
    let history = brute.history;
    let request = Request {
        client: operation.client,
        function: operation.function.to_string(),
        key: operation.key.clone(),
        input: operation.input.clone(),
        asked_ns: history.event(operation.invocation).time_ns.unwrap(),
        id: operation.id.0,
    };
    let error = history
        .completion(operation)
        .and_then(|event| event.error.as_ref());
    let mut after = Vec::new();
    let locks = request
        .input
        .field("locks")
        .and_then(Value::as_list)
        .map_or(1, <[Value]>::len);
    // Tokens that nobody was told may be any: all that any history here could tell apart.
    let known = match &operation.outcome {
        Outcome::Ok(Value::Integer(token)) => Some(vec![*token]),
        Outcome::Ok(answer) => answer.field("locks").and_then(Value::as_list).map(|locks| {
            locks
                .iter()
                .map(|lock| lock.field("token").unwrap().as_integer().unwrap())
                .collect()
        }),
        _ => None,
    };
    let fenced = brute.kind.is_fenced() && request.function == "acquire";
    let choices: Vec<Vec<i64>> = match known {
        Some(tokens) => vec![tokens],
        None if !fenced => vec![vec![0; locks]],
        None if locks == 1 => (1..=12).map(|token| vec![token]).collect(),
        None => (1..=12)
            .flat_map(|one| (1..=12).map(move |two| vec![one, two]))
            .collect(),
    };
    for tokens in choices {
        let mut next = world.clone();
        let mut rising = true;
        let answer = next.serve(&request, &mut |at, last| {
            let token = tokens[at];
            rising &= token > last || !fenced;
            token
        });
        let explained = match (&operation.outcome, answer) {
            (Outcome::Info, Answer::Ok(_)) => rising,
            (Outcome::Info, Answer::Refused(_)) => false,
            (Outcome::Ok(told), Answer::Ok(answer)) => {
                let is_told = match &*operation.function {
                    "read" | "get" => *told == answer,
                    "acquire" if fenced && !told.is_nil() => *told == answer,
                    _ => true,
                };
                rising && is_told
            }
            (Outcome::Ok(_), Answer::Refused(_)) => false,
            (Outcome::Fail(_), answer) => {
                // Whatever is refused leaves everything as it was.
                next = world.clone();
                is_reason(world, &request, error, &answer)
            }
        };
        if explained {
            after.push(next);
        }
    }
    after
}

/// Whether a refusal with this error can be explained; errors that say nothing always can.
fn is_reason(world: &World, request: &Request, error: Option<&Value>, answer: &Answer) -> bool {
    let codes: &[&str] = match answer {
        Answer::Ok(_) => &[],
        Answer::Refused(codes) => codes,
    };
    let ended = || !world.holds_anything(&world.holder(request));
    let Some(error) = error.and_then(Value::as_words) else {
        return request.function != "cas" || codes.contains(&"differs");
    };
    match (&*request.function, error) {
        ("acquire", "lock_held") => codes.contains(&error),
        ("acquire", "already_held") => {
            let holder = world.holder(request);
            let holds = |want: Want| world.holds.contains_key(&(want.lock, holder.clone()));
            world.wants(request).into_iter().any(holds)
        }
        ("release", "not_held") => codes.contains(&"not_held"),
        (_, "lease_ended") if world.kind == Kind::LeaseLock && request.function != "acquire" => {
            ended()
        }
        _ => true,
    }
}
