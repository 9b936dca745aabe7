//! A small HTTP/1.1 server for tests, on an OS-chosen loopback port, whose every answer is decided by
//! the test: also no answer at all, and a connection that is closed instead. It keeps what it was
//! asked. Shared by the tests of lock-client and palisade-cli.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test support: not every test uses all of it, and a failure here is a failed test"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What to do about a request.
pub enum Reaction {
    /// Answer with this status and body.
    Answer(u16, Value),
    /// Answer after a while.
    Later(Duration, u16, Value),
    /// Close the connection without an answer.
    Drop,
    /// Keep the connection open and never answer.
    Hang,
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub body: Value,
    pub timeout_ms: u64,
    pub authorization: Option<String>,
    pub at: Instant,
}

type Handler = dyn Fn(&Request) -> Reaction + Send + Sync;

#[derive(Default)]
struct Log {
    requests: Mutex<Vec<Request>>,
    changed: Condvar,
}

/// A running server. Its threads end with the test process.
pub struct FakeServer {
    pub endpoint: String,
    log: Arc<Log>,
}

impl FakeServer {
    pub fn start(handler: impl Fn(&Request) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Log::default());
        let handler: Arc<Handler> = Arc::new(handler);
        let server_log = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, handler) = (Arc::clone(&server_log), Arc::clone(&handler));
                std::thread::spawn(move || serve(&stream.unwrap(), &log, &*handler));
            }
        });
        Self { endpoint, log }
    }

    /// Everything that was asked so far on a path.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        let requests = self.log.requests.lock().unwrap();
        requests
            .iter()
            .filter(|request| request.path == path)
            .cloned()
            .collect()
    }

    /// Waits until a path was asked for `count` times.
    pub fn wait_for(&self, path: &str, count: usize) -> Vec<Request> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut requests = self.log.requests.lock().unwrap();
        loop {
            let matching: Vec<Request> = requests
                .iter()
                .filter(|request| request.path == path)
                .cloned()
                .collect();
            if matching.len() >= count {
                return matching;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{path} was asked {} times, not {count}",
                matching.len()
            );
            requests = self.log.changed.wait_timeout(requests, left).unwrap().0;
        }
    }
}

fn serve(stream: &TcpStream, log: &Log, handler: &Handler) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        log.requests.lock().unwrap().push(request.clone());
        log.changed.notify_all();
        let (status, body) = match handler(&request) {
            Reaction::Answer(status, body) => (status, body),
            Reaction::Later(delay, status, body) => {
                std::thread::sleep(delay);
                (status, body)
            }
            Reaction::Drop => return,
            Reaction::Hang => loop {
                std::thread::park();
            },
        };
        let body = body.to_string();
        let kind = if status < 400 {
            "application/json"
        } else {
            "application/problem+json"
        };
        let answer = format!(
            "HTTP/1.1 {status} Scripted\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if (&mut &*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut length, mut timeout_ms, mut authorization) = (0, 0, None);
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "authorization" => authorization = Some(value.trim().to_owned()),
            "palisade-timeout-ms" => timeout_ms = value.trim().parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).unwrap()
    };
    Some(Request {
        path,
        body,
        timeout_ms,
        authorization,
        at: Instant::now(),
    })
}

/// The token of every grant made here. Answers ask for renewals at a tenth of the TTL, which leaves a
/// busy machine more time than a third would.
pub const TOKEN: u64 = 42;

/// 200: the acquire is granted, at the position at which it was queued, or at a later one.
pub fn granted(request: &Request, at_once: bool) -> Reaction {
    let ttl_ms = request.body["ttl_ms"].as_u64().unwrap();
    let queued_position = if at_once { "7.0" } else { "5.0" };
    let body = json!({
        "granted": true, "lock": request.body["lock"], "token": TOKEN,
        "locks": [{"lock": request.body["lock"], "mode": "exclusive", "token": TOKEN}],
        "lease": request.body["lease"], "lease_id": "0".repeat(32),
        "request_id": request.body["request_id"], "ttl_ms": ttl_ms,
        "renew_after_ms": ttl_ms / 10, "remaining_ms": ttl_ms,
        "position": "7.0", "queued_position": queued_position,
    });
    Reaction::Answer(200, body)
}

/// 202: still queued.
pub fn queued(request: &Request) -> Reaction {
    let body = json!({
        "granted": false, "lease": request.body["lease"], "lease_id": "0".repeat(32),
        "request_id": request.body["request_id"], "position": "6.0",
        "queue": [{"lock": request.body["lock"], "place": 1, "length": 1, "queued_position": "5.0"}],
    });
    Reaction::Answer(202, body)
}

/// 200: the lease is renewed and holds the lock.
pub fn renewed(ttl_ms: u64) -> Reaction {
    let body = json!({
        "lease_id": "0".repeat(32), "ttl_ms": ttl_ms, "renew_after_ms": ttl_ms / 10,
        "remaining_ms": ttl_ms, "position": "9.0", "an_unknown_field": true,
        "holds": [{"lock": "a", "mode": "exclusive", "token": TOKEN}],
    });
    Reaction::Answer(200, body)
}

/// 200: released.
pub fn released() -> Reaction {
    let tokens = json!([{"token": TOKEN, "was_held": true}]);
    Reaction::Answer(
        200,
        json!({"was_held": true, "tokens": tokens, "position": "10.0"}),
    )
}

/// 200: the wait is over.
pub fn cancelled() -> Reaction {
    Reaction::Answer(200, json!({"result": "cancelled", "position": "11.0"}))
}

/// A problem with this code.
pub fn problem(code: &str) -> Reaction {
    let problem = lock_api::Problem::new(code.into(), "scripted by the test");
    Reaction::Answer(problem.status, serde_json::to_value(problem).unwrap())
}
