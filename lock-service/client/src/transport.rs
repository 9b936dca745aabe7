//! One HTTP request to one endpoint, and which endpoint to prefer. It never retries.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_api::{JSON_CONTENT_TYPE, TIMEOUT_HEADER};
use reqwest::header::CONTENT_TYPE;
use serde::Serialize;

use crate::{Endpoint, Error};

/// Longest answer that is read, in bytes: a full page of locks with full values fits.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// A node on a reachable machine accepts at once; another endpoint is tried after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections are kept for the next call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// A request, the same bytes on every attempt.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    path: String,
    query: Vec<(String, String)>,
    /// `None` for a GET.
    body: Option<Vec<u8>>,
}

impl Request {
    /// A GET with a query taken from the fields of `query`.
    pub(crate) fn get(path: impl Into<String>, query: &impl Serialize) -> Result<Self, Error> {
        let fields =
            serde_json::to_value(query).map_err(|error| Error::SetUp(error.to_string()))?;
        let query = match fields {
            serde_json::Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| match value {
                    serde_json::Value::String(text) => (name, text),
                    other => (name, other.to_string()),
                })
                .collect(),
            _ => Vec::new(),
        };
        Ok(Self {
            path: path.into(),
            query,
            body: None,
        })
    }

    /// A POST with a JSON body.
    pub(crate) fn post(path: impl Into<String>, body: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(body).map_err(|error| Error::SetUp(error.to_string()))?;
        Ok(Self {
            path: path.into(),
            query: Vec::new(),
            body: Some(body),
        })
    }
}

/// A complete HTTP answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Why there is no complete answer.
#[derive(Debug)]
pub(crate) struct NoReply {
    /// Whether the request may have reached the node.
    pub(crate) may_have_arrived: bool,
    pub(crate) reason: String,
}

#[derive(Debug)]
pub(crate) struct Transport {
    http: reqwest::Client,
    endpoints: Vec<Endpoint>,
    preferred: AtomicUsize,
}

impl Transport {
    pub(crate) fn new(endpoints: Vec<Endpoint>) -> Result<Self, Error> {
        if endpoints.is_empty() {
            return Err(Error::NoEndpoints);
        }
        let http = reqwest::Client::builder()
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            // Retries are made in `call`, and nowhere else.
            .retry(reqwest::retry::never())
            .user_agent(concat!("palisade/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .build()
            .map_err(|error| Error::SetUp(error.to_string()))?;
        // Clients begin at different nodes, so that they share the load.
        let first = rand::random_range(0..endpoints.len());
        Ok(Self {
            http,
            endpoints,
            preferred: AtomicUsize::new(first),
        })
    }

    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Number of the endpoint to try next.
    pub(crate) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed) % self.endpoints.len()
    }

    /// Prefers the endpoint after `failed`, unless somebody else has moved on already.
    pub(crate) fn move_on(&self, failed: usize) {
        let next = (failed + 1) % self.endpoints.len();
        let _ = self
            .preferred
            .compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Sends the request to one endpoint and reads the whole answer, within `limit`. The server is
    /// told to answer within `server_limit`.
    pub(crate) async fn attempt(
        &self,
        endpoint: usize,
        request: &Request,
        limit: Duration,
        server_limit: Duration,
    ) -> Result<Reply, NoReply> {
        let url = format!("{}{}", self.endpoints[endpoint], request.path);
        let builder = match &request.body {
            None => self.http.get(url),
            Some(body) => self
                .http
                .post(url)
                .header(CONTENT_TYPE, JSON_CONTENT_TYPE)
                .body(body.clone()),
        };
        let builder = builder
            .query(&request.query)
            .header(TIMEOUT_HEADER, server_limit.as_millis().max(1).to_string());
        match tokio::time::timeout(limit, exchange(builder)).await {
            Ok(result) => result,
            Err(_) => Err(NoReply {
                may_have_arrived: true,
                reason: format!("no answer within {} ms", limit.as_millis()),
            }),
        }
    }
}

async fn exchange(builder: reqwest::RequestBuilder) -> Result<Reply, NoReply> {
    let mut response = builder.send().await.map_err(no_reply)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(no_reply)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(NoReply {
                may_have_arrived: true,
                reason: format!("the answer is longer than {MAX_ANSWER_BYTES} bytes"),
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, body })
}

fn no_reply(error: reqwest::Error) -> NoReply {
    // Only a connection that was never made proves that nothing was sent.
    let may_have_arrived = !(error.is_connect() || error.is_builder());
    // The root cause is what helps: "connection refused" rather than "error sending request".
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let reason = match may_have_arrived {
        true => format!("the connection was lost ({cause})"),
        false => format!("cannot connect ({cause})"),
    };
    NoReply {
        may_have_arrived,
        reason,
    }
}
