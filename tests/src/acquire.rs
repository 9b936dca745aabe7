//! Acquires that name themselves, so that they can be repeated, and what they were granted.

use std::time::{Duration, Instant};

use lock_api::Position;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::http::{Http, Reply};
use crate::identity::{new_secret, secret_id};
use crate::wait::{PATIENCE, eventually};

/// The body of `POST /v1/acquire`, with a lease and a request id of its own.
#[derive(Clone, Debug)]
pub struct Acquire {
    lock: String,
    lease: String,
    request_id: String,
    body: Value,
}

/// A lock that was granted.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The request that it was granted to.
    pub request: Acquire,
    /// The fencing token.
    pub token: u64,
    /// Position of the grant.
    pub position: Position,
    /// Where the request joined the queue.
    pub queued_position: Position,
    /// What was left of the lease, in milliseconds.
    pub remaining_ms: u64,
    /// Just before the request that was answered so was sent.
    pub sent: Instant,
}

impl Acquire {
    /// A try for a lock, with a new lease and a TTL of 60 s.
    pub fn new(lock: &str) -> Self {
        let (lease, request_id) = (new_secret(), format!("r-{:08x}", rand::random::<u32>()));
        Self {
            body: json!({
                "lock": lock, "lease": lease, "request_id": request_id, "ttl_ms": 60_000,
            }),
            lock: lock.to_owned(),
            lease,
            request_id,
        }
    }

    /// The same with one field changed; `null` leaves it out.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let body = self.body.as_object_mut().expect("the body is an object");
        let text = || value.as_str().unwrap_or_default().to_owned();
        match field {
            "lock" => self.lock = text(),
            "lease" => self.lease = text(),
            "request_id" => self.request_id = text(),
            _ => {}
        }
        match value.is_null() {
            true => body.remove(field),
            false => body.insert(field.to_owned(), value),
        };
        self
    }

    /// With another TTL.
    #[must_use]
    pub fn ttl_ms(self, ttl_ms: u64) -> Self {
        self.with("ttl_ms", ttl_ms)
    }

    /// Waiting in the queue for so long.
    #[must_use]
    pub fn wait_ms(self, wait_ms: u64) -> Self {
        self.with("wait_ms", wait_ms)
    }

    /// On a lease that exists: its secret, and no TTL.
    #[must_use]
    pub fn on_lease(self, secret: &str) -> Self {
        self.with("lease", secret).with("ttl_ms", Value::Null)
    }

    /// The lock.
    pub fn lock(&self) -> &str {
        &self.lock
    }

    /// The lease's secret.
    pub fn lease(&self) -> &str {
        &self.lease
    }

    /// The lease's id.
    pub fn lease_id(&self) -> String {
        secret_id(&self.lease)
    }

    /// The request's id.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// What is sent.
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// Sends it once.
    ///
    /// # Panics
    /// When no answer came.
    pub async fn send(&self, http: &Http) -> Reply {
        http.post(lock_api::path::ACQUIRE, &self.body).await
    }

    /// Sends it, and again while it is told to go on waiting, until it is granted.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn granted(&self, http: &Http) -> Granted {
        loop {
            let sent = Instant::now();
            let reply = self.send(http).await;
            if reply.status != 202 {
                return Granted::new(self, sent, &reply.expect(200));
            }
        }
    }

    /// Sends it to one node after the other, the same request every time, as a client does whose
    /// node may fail, until it is granted.
    ///
    /// # Panics
    /// When it is refused for good.
    pub async fn granted_by_any(&self, nodes: &[Http]) -> Granted {
        // A plain loop: async closures in `eventually` would tie this future to one task.
        let deadline = Instant::now() + PATIENCE;
        for http in nodes.iter().cycle() {
            let sent = Instant::now();
            let reply = http.try_post(lock_api::path::ACQUIRE, &self.body).await;
            match reply {
                Ok(reply) if reply.status != 202 && reply.body["retryable"] != true => {
                    return Granted::new(self, sent, &reply.expect(200));
                }
                Ok(reply) => assert!(Instant::now() < deadline, "never granted: {}", reply.body),
                Err(error) => assert!(Instant::now() < deadline, "never granted: {error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("there is no node to ask");
    }

    /// Sends it in a task of its own, once.
    pub fn spawn(&self, http: &Http) -> JoinHandle<Reply> {
        let (request, http) = (self.clone(), http.clone());
        tokio::spawn(async move { request.send(&http).await })
    }

    /// Sends it in a task of its own until it is granted, and returns once it is in the queue.
    ///
    /// # Panics
    /// When it never is.
    pub async fn queue_up(&self, http: &Http) -> JoinHandle<Granted> {
        let waiting = {
            let (request, http) = (self.clone(), http.clone());
            tokio::spawn(async move { request.granted(&http).await })
        };
        self.seen_queued(http).await;
        waiting
    }

    /// Waits until the lock's queue shows this request's lease.
    ///
    /// # Panics
    /// When it never does.
    pub async fn seen_queued(&self, http: &Http) {
        eventually("the request is queued", async || {
            let lock = http.lock(&self.lock).await;
            queue(&lock).contains(&self.lease_id()).then_some(())
        })
        .await;
    }

    /// Cancels it.
    ///
    /// # Panics
    /// When no answer came.
    pub async fn cancel(&self, http: &Http) -> Reply {
        let body = json!({"lease": self.lease, "request_id": self.request_id});
        http.post(lock_api::path::CANCEL, &body).await
    }
}

impl Granted {
    fn new(request: &Acquire, sent: Instant, body: &Value) -> Self {
        assert_eq!(body["granted"], true, "{body}");
        assert_eq!(body["lock"], request.lock, "{body}");
        assert_eq!(body["lease"], request.lease, "{body}");
        assert_eq!(body["lease_id"], request.lease_id(), "{body}");
        Self {
            request: request.clone(),
            token: body["token"].as_u64().expect("a token"),
            position: position(&body["position"]),
            queued_position: position(&body["queued_position"]),
            remaining_ms: body["remaining_ms"].as_u64().expect("remaining time"),
            sent,
        }
    }

    /// Releases it.
    ///
    /// # Panics
    /// When no answer came.
    pub async fn release(&self, http: &Http) -> Reply {
        self.release_token(http, self.token).await
    }

    /// Releases, with the same lease, another token.
    ///
    /// # Panics
    /// When no answer came.
    pub async fn release_token(&self, http: &Http, token: u64) -> Reply {
        let body = json!({"lease": self.request.lease, "token": token});
        http.post(lock_api::path::RELEASE, &body).await
    }

    /// Renews its lease.
    ///
    /// # Panics
    /// When no answer came.
    pub async fn renew(&self, http: &Http) -> Reply {
        http.post(lock_api::path::RENEW, &json!({"lease": self.request.lease}))
            .await
    }
}

/// A position in an answer.
///
/// # Panics
/// When it is none.
pub fn position(value: &Value) -> Position {
    let text = value.as_str().expect("a position is text");
    text.parse().expect("a position is index.ordinal")
}

/// The lease ids in the queue of a lock's view, in order.
///
/// # Panics
/// When it is no such view.
pub fn queue(lock: &Value) -> Vec<String> {
    let queue = lock["queue"].as_array().expect("a lock has a queue");
    let id = |waiter: &Value| waiter["lease_id"].as_str().expect("a lease id").to_owned();
    queue.iter().map(id).collect()
}

/// The one holder of a lock's view.
///
/// # Panics
/// When it is held by nobody, or by several.
pub fn holder(lock: &Value) -> &Value {
    match lock["holders"].as_array().map(Vec::as_slice) {
        Some([holder]) => holder,
        _ => panic!("expected one holder: {lock}"),
    }
}
