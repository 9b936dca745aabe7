//! Writers that take one lock after the other and keep them, on whichever node answers, while nodes
//! come and go; and the proof afterwards that nothing that was acknowledged is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;
use tokio::sync::RwLock;
use tokio::task::JoinHandle;

use crate::acquire::Acquire;
use crate::http::Http;

/// Locks are kept far longer than any test runs.
const TTL_MS: u64 = 3_600_000;
/// One node has this long for a request; then the writer repeats it on the next.
const CALL_TIMEOUT_MS: &str = "1000";
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Writers under way.
pub struct Load {
    prefix: String,
    nodes: Arc<RwLock<Vec<Http>>>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Written>>,
}

/// What writers had acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Fencing tokens by lock.
    pub locks: BTreeMap<String, u64>,
    /// The longest that any one writer waited for an acknowledgement.
    pub longest_wait: Duration,
    /// When each of them was acknowledged, in no order.
    acknowledged: Vec<Instant>,
    /// Refusals that a writer may not be given; the first few.
    pub refused: Vec<String>,
    prefix: String,
}

impl Load {
    /// Starts so many writers on these nodes.
    pub fn start(writers: usize, nodes: Vec<Http>) -> Self {
        let mut load = Self {
            prefix: format!("load-{:08x}/", rand::random::<u32>()),
            nodes: Arc::new(RwLock::new(nodes)),
            stop: Arc::default(),
            writers: Vec::new(),
        };
        for number in 0..writers {
            let prefix = format!("{}{number}/", load.prefix);
            let writer = write(number, prefix, load.nodes.clone(), load.stop.clone());
            load.writers.push(tokio::spawn(writer));
        }
        load
    }

    /// From now on the writers use these nodes.
    pub async fn use_nodes(&self, nodes: Vec<Http>) {
        *self.nodes.write().await = nodes;
    }

    /// Ends the writers and returns what they wrote.
    ///
    /// # Panics
    /// When a writer does.
    pub async fn finish(self) -> Written {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Written {
            prefix: self.prefix,
            ..Written::default()
        };
        for writer in self.writers {
            let written = writer.await.expect("a writer ends well");
            all.locks.extend(written.locks);
            all.acknowledged.extend(written.acknowledged);
            all.longest_wait = all.longest_wait.max(written.longest_wait);
            all.refused.extend(written.refused);
        }
        all
    }
}

async fn write(
    number: usize,
    prefix: String,
    nodes: Arc<RwLock<Vec<Http>>>,
    stop: Arc<AtomicBool>,
) -> Written {
    let mut written = Written::default();
    let mut turn = number;
    let headers = [(lock_api::TIMEOUT_HEADER, CALL_TIMEOUT_MS)];
    for lock in 0_u64.. {
        let request = Acquire::new(&format!("{prefix}{lock:08}")).ttl_ms(TTL_MS);
        let began = Instant::now();
        loop {
            let node = {
                let nodes = nodes.read().await;
                nodes[turn % nodes.len()].clone()
            };
            let path = lock_api::path::ACQUIRE;
            let sent = node.send(Method::POST, path, &headers, Some(request.body()));
            match sent.await {
                Ok(reply) if reply.status == 200 => {
                    let token = reply.body["token"].as_u64().expect("a grant has a token");
                    written.locks.insert(request.lock().to_owned(), token);
                    break;
                }
                Ok(reply) if reply.body["retryable"] == true => {}
                Ok(reply) => {
                    written.refused.push(reply.body.to_string());
                    return written;
                }
                // The node is gone; its answer, if there was one, is asked for elsewhere.
                Err(_) => {}
            }
            if stop.load(Ordering::SeqCst) {
                return written;
            }
            turn += 1;
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        written.acknowledged.push(Instant::now());
        written.longest_wait = written.longest_wait.max(began.elapsed());
        if stop.load(Ordering::SeqCst) {
            break;
        }
    }
    written
}

impl Written {
    /// The longest time between two acknowledgements, whoever got them.
    pub fn longest_gap(&self) -> Duration {
        let mut at = self.acknowledged.clone();
        at.sort_unstable();
        let gaps = at.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    /// What this node does not have of it, or has under another token; empty when nothing is lost.
    ///
    /// # Panics
    /// When the node does not answer.
    pub async fn lost_on(&self, node: &Http) -> Vec<String> {
        let mut held = BTreeMap::new();
        let mut cursor = None;
        loop {
            let mut query = format!("/v1/locks?prefix={}&page_size=1000", self.prefix);
            if let Some(cursor) = &cursor {
                query.push_str(&format!("&cursor={cursor}"));
            }
            let page = node.get(&query).await.expect(200);
            for lock in page["locks"].as_array().expect("a list of locks") {
                let name = lock["lock"].as_str().expect("a name").to_owned();
                held.insert(name, lock["holders"][0]["token"].as_u64());
            }
            match &page["next_cursor"] {
                Value::String(next) => cursor = Some(next.clone()),
                _ => break,
            }
        }
        let lost = self.locks.iter().filter(|(lock, token)| {
            let holds = held.get(*lock).copied().flatten();
            holds != Some(**token)
        });
        lost.map(|(lock, token)| format!("{lock} with token {token}"))
            .collect()
    }
}
