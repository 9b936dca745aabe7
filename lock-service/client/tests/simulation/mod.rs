//! A server with one lock, and machines with clocks, a network and misfortunes of their own, all under
//! tokio's paused clock. It knows the API by its JSON alone.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test support: a failure here is a failed test"
)]

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use lock_api::Problem;
use lock_client::{BootTime, Clock, Endpoint, Exchange, NoReply, Timer, WireReply, WireRequest};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

/// Where a client runs. While it is frozen nothing of it runs, though its clock does.
#[derive(Debug, Clone)]
pub struct Machine(Arc<Mutex<[Instant; 2]>>);

impl Default for Machine {
    fn default() -> Self {
        Self(Arc::new(Mutex::new([Instant::now(); 2])))
    }
}

impl Machine {
    pub fn freeze(&self, length: Duration) {
        self.0.lock().unwrap()[0] = Instant::now() + length;
    }

    pub fn cut_off(&self, length: Duration) {
        self.0.lock().unwrap()[1] = Instant::now() + length;
    }

    async fn thawed(&self) {
        loop {
            let until = self.0.lock().unwrap()[0];
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    fn is_cut_off(&self) -> bool {
        self.0.lock().unwrap()[1] > Instant::now()
    }
}

/// A clock that runs at a rate of its own.
#[derive(Debug, Clone)]
pub struct SimulatedClock {
    origin: Instant,
    offset: Duration,
    rate: f64,
    machine: Machine,
}

impl SimulatedClock {
    pub fn new(rate: f64, number: usize, machine: &Machine) -> Self {
        Self {
            origin: Instant::now(),
            // No two machines were booted at once.
            offset: Duration::from_secs(1_000 * (number as u64 + 1)),
            rate,
            machine: machine.clone(),
        }
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> BootTime {
        BootTime::since_boot(self.offset + self.origin.elapsed().mul_f64(self.rate))
    }

    fn timer(&self) -> io::Result<Box<dyn Timer>> {
        Ok(Box::new(self.clone()))
    }
}

impl Timer for SimulatedClock {
    fn sleep_until(&mut self, deadline: BootTime) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let local = deadline.elapsed_since_boot().saturating_sub(self.offset);
            // Rounded up, or it would end early and be asked again at the same instant.
            let wait = local.div_f64(self.rate) + Duration::from_millis(1);
            sleep_until(self.origin + wait).await;
            self.machine.thawed().await;
        })
    }
}

/// A machine's connection to the server: it loses, delays and reorders.
pub struct SimulatedNetwork {
    server: Arc<Mutex<Server>>,
    machine: Machine,
    random: Mutex<StdRng>,
}

impl SimulatedNetwork {
    pub fn new(server: &Arc<Mutex<Server>>, machine: &Machine, seed: u64) -> Self {
        Self {
            server: Arc::clone(server),
            machine: machine.clone(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }

    /// How long a message takes; `None` when it is lost.
    fn delay(&self) -> Option<Duration> {
        let mut random = self.random.lock().unwrap();
        let ms = match random.random_range(0..20) {
            0 | 1 => return None,
            2 => random.random_range(100..4_000),
            _ => random.random_range(0..30),
        };
        Some(Duration::from_millis(ms))
    }
}

impl Exchange for SimulatedNetwork {
    fn send<'a>(
        &'a self,
        _endpoint: &'a Endpoint,
        request: &'a WireRequest,
    ) -> BoxFuture<'a, Result<WireReply, NoReply>> {
        Box::pin(async move {
            self.machine.thawed().await;
            let (there, back) = (self.delay(), self.delay());
            let (Some(there), false) = (there, self.machine.is_cut_off()) else {
                return std::future::pending().await;
            };
            let server = Arc::clone(&self.server);
            let body: Value = serde_json::from_slice(request.body.as_ref().unwrap()).unwrap();
            let path = request.path.clone();
            let limit = request.server_timeout.unwrap_or(Duration::from_secs(5));
            // What is on its way arrives, also when nobody waits for the answer any more.
            let served = tokio::spawn(async move {
                sleep(there).await;
                let end = Instant::now() + limit;
                loop {
                    let (status, body) = server.lock().unwrap().serve(&path, &body);
                    if status != 202 || Instant::now() >= end {
                        return (status, body);
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            });
            let (status, body) = served.await.unwrap();
            let (Some(back), false) = (back, self.machine.is_cut_off()) else {
                return Err(NoReply {
                    may_have_arrived: true,
                    reason: "the answer was lost".to_owned(),
                });
            };
            sleep(back).await;
            self.machine.thawed().await;
            Ok(WireReply::complete(status, body.to_string()))
        })
    }
}

#[derive(Debug)]
struct Wait {
    lease: String,
    request_id: String,
    ttl: Duration,
    until: Duration,
    queued: u64,
}

#[derive(Debug)]
struct Hold {
    lease: String,
    request_id: String,
    ttl: Duration,
    deadline: Duration,
    token: u64,
    queued: u64,
    granted: u64,
}

/// One lock, whose leases end at the very moment that they may.
#[derive(Debug)]
pub struct Server {
    origin: Instant,
    rate: f64,
    position: u64,
    token: u64,
    held: Option<Hold>,
    queue: VecDeque<Wait>,
    ended_leases: HashSet<String>,
    decided: HashMap<String, &'static str>,
}

impl Server {
    pub fn new(rate: f64) -> Self {
        Self {
            origin: Instant::now(),
            rate,
            position: 0,
            token: 0,
            held: None,
            queue: VecDeque::new(),
            ended_leases: HashSet::new(),
            decided: HashMap::new(),
        }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed().mul_f64(self.rate)
    }

    /// Ends what is due, and grants to the next.
    fn advance(&mut self) {
        let now = self.now();
        if self.held.as_ref().is_some_and(|held| held.deadline <= now) {
            self.end_hold("grant_ended");
        }
        while let Some(position) = self.queue.iter().position(|wait| wait.until <= now) {
            let wait = self.queue.remove(position).unwrap();
            self.decided.insert(wait.request_id, "wait_timeout");
            self.ended_leases.insert(wait.lease);
        }
        if self.held.is_none()
            && let Some(wait) = self.queue.pop_front()
        {
            self.grant(wait);
        }
    }

    fn grant(&mut self, wait: Wait) {
        self.token += 1;
        self.position += 1;
        self.held = Some(Hold {
            lease: wait.lease,
            request_id: wait.request_id,
            ttl: wait.ttl,
            deadline: self.now() + wait.ttl,
            token: self.token,
            queued: wait.queued,
            granted: if wait.queued == 0 { 0 } else { self.position },
        });
    }

    fn end_hold(&mut self, how: &'static str) {
        let held = self.held.take().unwrap();
        self.decided.insert(held.request_id, how);
        self.ended_leases.insert(held.lease);
    }

    fn serve(&mut self, path: &str, body: &Value) -> (u16, Value) {
        self.advance();
        self.position += 1;
        let lease = body["lease"].as_str().unwrap().to_owned();
        let answer = match path {
            "/v1/acquire" => self.acquire(&lease, body),
            "/v1/renew" => self.renew(&lease),
            "/v1/release" => self.release(&lease, body["token"].as_u64().unwrap()),
            "/v1/cancel" => self.cancel(&lease, body["request_id"].as_str().unwrap()),
            other => panic!("nobody should ask for {other}"),
        };
        self.advance();
        answer
    }

    fn acquire(&mut self, lease: &str, body: &Value) -> (u16, Value) {
        let request_id = body["request_id"].as_str().unwrap().to_owned();
        if let Some(code) = self.decided.get(&request_id) {
            return problem(code);
        }
        if self.ended_leases.contains(lease) {
            return problem("lease_ended");
        }
        let holds = |held: &Hold| held.request_id == request_id;
        let is_new = !self.held.as_ref().is_some_and(holds)
            && !self.queue.iter().any(|wait| wait.request_id == request_id);
        if is_new {
            let (wait_ms, ttl_ms) = (body["wait_ms"].as_u64(), body["ttl_ms"].as_u64());
            let wait = Duration::from_millis(wait_ms.unwrap());
            let free = self.held.is_none() && self.queue.is_empty();
            let mut request = Wait {
                lease: lease.to_owned(),
                request_id: request_id.clone(),
                ttl: Duration::from_millis(ttl_ms.unwrap()),
                until: self.now() + wait,
                queued: self.position,
            };
            if free {
                request.queued = 0;
                self.grant(request);
            } else if wait.is_zero() {
                self.decided.insert(request_id, "lock_held");
                self.ended_leases.insert(lease.to_owned());
                return problem("lock_held");
            } else {
                self.queue.push_back(request);
            }
        }
        let common = json!({
            "lease": lease, "lease_id": "0".repeat(32), "request_id": body["request_id"],
        });
        let mut answer = common.as_object().unwrap().clone();
        let holds = |held: &&Hold| held.lease == lease;
        let Some(held) = self.held.as_ref().filter(holds) else {
            answer.insert("granted".into(), json!(false));
            answer.insert("queue".into(), json!([]));
            answer.insert("position".into(), json!(format!("{}.0", self.position)));
            return (202, Value::Object(answer));
        };
        let ttl_ms = held.ttl.as_millis();
        // Granted at once, in this very answer, or not: as the real server says it.
        let (position, queued) = match is_new {
            true => (held.granted, held.queued),
            false => (self.position, held.queued),
        };
        answer.extend(
            json!({
                "granted": true, "lock": "l", "token": held.token,
                "locks": [{"lock": "l", "mode": "exclusive", "token": held.token}],
                "ttl_ms": ttl_ms, "renew_after_ms": ttl_ms / 3, "remaining_ms": ttl_ms,
                "position": format!("{position}.0"), "queued_position": format!("{queued}.0"),
            })
            .as_object()
            .unwrap()
            .clone(),
        );
        (200, Value::Object(answer))
    }

    fn renew(&mut self, lease: &str) -> (u16, Value) {
        let now = self.now();
        let position = format!("{}.0", self.position);
        match self.held.as_mut().filter(|held| held.lease == lease) {
            Some(held) => {
                held.deadline = held.deadline.max(now + held.ttl);
                let ttl_ms = held.ttl.as_millis();
                let body = json!({
                    "lease_id": "0".repeat(32), "ttl_ms": ttl_ms, "renew_after_ms": ttl_ms / 3,
                    "remaining_ms": ttl_ms, "position": position,
                    "holds": [{"lock": "l", "mode": "exclusive", "token": held.token}],
                });
                (200, body)
            }
            None if self.ended_leases.contains(lease) => problem("lease_ended"),
            None => problem("lease_not_found"),
        }
    }

    fn release(&mut self, lease: &str, token: u64) -> (u16, Value) {
        let holds = |held: &Hold| held.lease == lease && held.token == token;
        let was_held = self.held.as_ref().is_some_and(holds);
        if was_held {
            self.end_hold("grant_ended");
        }
        let body = json!({
            "was_held": was_held, "position": format!("{}.0", self.position),
            "tokens": [{"token": token, "was_held": was_held}],
        });
        (200, body)
    }

    fn cancel(&mut self, lease: &str, request_id: &str) -> (u16, Value) {
        let holds = |held: &Hold| held.request_id == request_id;
        let result = if self.held.as_ref().is_some_and(holds) {
            self.end_hold("grant_ended");
            "released"
        } else {
            self.queue.retain(|wait| wait.request_id != request_id);
            self.decided.insert(request_id.to_owned(), "wait_timeout");
            self.ended_leases.insert(lease.to_owned());
            "cancelled"
        };
        let position = format!("{}.0", self.position);
        (200, json!({"result": result, "position": position}))
    }
}

fn problem(code: &str) -> (u16, Value) {
    let problem = Problem::new(code.into(), "simulated");
    (problem.status, serde_json::to_value(problem).unwrap())
}
