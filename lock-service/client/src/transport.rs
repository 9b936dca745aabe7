//! One request to one endpoint, and which endpoint comes next. It never retries.
//!
//! The network is behind [`Exchange`], so that the whole client also runs against a simulated cluster.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use serde::Serialize;
use url::form_urlencoded;

use crate::breaker::{Breakers, RetryBudget};
use crate::{BootTime, Clock, Endpoint, Error};

/// Longest answer that is read, in bytes: a full page of locks with full values fits.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// A request of the HTTP API: a GET, or a POST when there is a body.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WireRequest {
    /// Path and query.
    pub path: String,
    /// A JSON body.
    pub body: Option<Bytes>,
    /// How long the server may work on it (`palisade-timeout-ms`).
    pub server_timeout: Option<Duration>,
}

impl WireRequest {
    /// A GET with a query taken from the fields of `query`.
    pub(crate) fn get(path: impl Into<String>, query: &impl Serialize) -> Result<Self, Error> {
        let fields =
            serde_json::to_value(query).map_err(|error| Error::SetUp(error.to_string()))?;
        let mut path = path.into();
        if let serde_json::Value::Object(fields) = fields
            && !fields.is_empty()
        {
            let fields = fields.into_iter().map(|(name, value)| match value {
                serde_json::Value::String(text) => (name, text),
                other => (name, other.to_string()),
            });
            let mut query = form_urlencoded::Serializer::new(String::new());
            path = format!("{path}?{}", query.extend_pairs(fields).finish());
        }
        Ok(Self {
            path,
            body: None,
            server_timeout: None,
        })
    }

    /// A POST with a JSON body.
    pub(crate) fn post(path: impl Into<String>, body: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(body).map_err(|error| Error::SetUp(error.to_string()))?;
        Ok(Self {
            path: path.into(),
            body: Some(body.into()),
            server_timeout: None,
        })
    }
}

/// An answer whose head has come. Its body follows.
pub struct WireReply {
    /// The HTTP status.
    pub status: u16,
    /// The body, piece by piece.
    pub body: BoxStream<'static, Result<Bytes, NoReply>>,
}

impl fmt::Debug for WireReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireReply")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl WireReply {
    /// An answer that is complete already.
    pub fn complete(status: u16, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self {
            status,
            body: stream::iter([Ok(body)]).boxed(),
        }
    }
}

/// Why there is no complete answer.
#[derive(Debug, Clone)]
pub struct NoReply {
    /// Whether the request may have reached the node.
    pub may_have_arrived: bool,
    /// What happened, for people.
    pub reason: String,
}

/// The network: sends one request to one endpoint. In production HTTP; a simulation in tests.
///
/// Dropping the future, or the body, ends the exchange; the request may still have its effect.
pub trait Exchange: Send + Sync + 'static {
    /// Sends the request and returns once the answer's head is there. The caller sets the time-out.
    fn send<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        request: &'a WireRequest,
    ) -> BoxFuture<'a, Result<WireReply, NoReply>>;
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) async fn read(reply: WireReply) -> Result<Self, NoReply> {
        let WireReply {
            status,
            body: mut pieces,
        } = reply;
        let mut body = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(NoReply {
                    may_have_arrived: true,
                    reason: format!("the answer is longer than {MAX_ANSWER_BYTES} bytes"),
                });
            }
            body.extend_from_slice(&piece);
        }
        Ok(Self { status, body })
    }
}

pub(crate) struct Transport {
    exchange: Box<dyn Exchange>,
    clock: Arc<dyn Clock>,
    endpoints: Vec<Endpoint>,
    breakers: Mutex<Breakers>,
    budget: Mutex<RetryBudget>,
}

impl Transport {
    pub(crate) fn new(
        endpoints: Vec<Endpoint>,
        exchange: Box<dyn Exchange>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        if endpoints.is_empty() {
            return Err(Error::NoEndpoints);
        }
        // Clients begin at different nodes, so that they share the load.
        let first = rand::random_range(0..endpoints.len());
        Ok(Self {
            exchange,
            breakers: Mutex::new(Breakers::new(endpoints.len(), first)),
            budget: Mutex::new(RetryBudget::new(clock.now())),
            clock,
            endpoints,
        })
    }

    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn now(&self) -> BootTime {
        self.clock.now()
    }

    /// Number of the endpoint to try next.
    pub(crate) fn pick(&self) -> usize {
        self.breakers.lock().pick(self.now())
    }

    pub(crate) fn succeeded(&self, endpoint: usize) {
        self.breakers.lock().succeeded(endpoint);
    }

    pub(crate) fn failed(&self, endpoint: usize) {
        self.breakers.lock().failed(endpoint, self.now());
    }

    /// A call begins, which earns a part of a retry.
    pub(crate) fn begin_call(&self) {
        self.budget.lock().call();
    }

    /// Takes a retry from the budget, and says how long to wait for it.
    pub(crate) fn take_retry(&self) -> Duration {
        self.budget.lock().take(self.now())
    }

    /// Sends a request to one endpoint and returns once the answer's head is there, within `limit`.
    pub(crate) async fn open(
        &self,
        endpoint: usize,
        request: &WireRequest,
        limit: Duration,
    ) -> Result<WireReply, NoReply> {
        let sending = self.exchange.send(&self.endpoints[endpoint], request);
        in_time(limit, sending).await
    }

    /// Sends the request to one endpoint and reads the whole answer, within `limit`. The server is
    /// told to answer within `server_limit`.
    pub(crate) async fn attempt(
        &self,
        endpoint: usize,
        request: &WireRequest,
        limit: Duration,
        server_limit: Duration,
    ) -> Result<Reply, NoReply> {
        let request = WireRequest {
            server_timeout: Some(server_limit),
            ..request.clone()
        };
        let exchange = async {
            let reply = self.exchange.send(&self.endpoints[endpoint], &request);
            Reply::read(reply.await?).await
        };
        in_time(limit, exchange).await
    }
}

async fn in_time<T>(
    limit: Duration,
    exchange: impl Future<Output = Result<T, NoReply>>,
) -> Result<T, NoReply> {
    match tokio::time::timeout(limit, exchange).await {
        Ok(result) => result,
        Err(_) => Err(NoReply {
            may_have_arrived: true,
            reason: format!("no answer within {} ms", limit.as_millis()),
        }),
    }
}
