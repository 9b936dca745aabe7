//! A JSON client that shows a node's answers as they are: no retries, no failing over.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, Response};
use serde_json::Value;

/// Longer than anything that a node may take; a call that needs longer is a failed test.
const CALL_LIMIT: Duration = Duration::from_secs(90);

/// Calls one node, every time on a connection of its own: one that is left over from before a node
/// was killed would fail the first call after it. (Kept-alive connections: see [`crate::raw`].)
#[derive(Clone, Debug)]
pub struct Http {
    client: Client,
    base: String,
}

/// What a node answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The body as JSON; a string holds a body that is not JSON, null an empty one.
    pub body: Value,
}

impl Http {
    /// A client for the node at `base`, for example `http://127.0.0.1:7101`.
    ///
    /// # Panics
    /// When the system has no resources for one.
    pub fn new(base: impl Into<String>) -> Self {
        let client = Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .connect_timeout(Duration::from_secs(10))
            .timeout(CALL_LIMIT)
            .build()
            .expect("an HTTP client");
        Self {
            client,
            base: base.into(),
        }
    }

    /// `http://host:port`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Sends one request, with these headers, and a JSON body where there is one.
    ///
    /// # Errors
    /// When no complete answer arrived.
    pub async fn send(
        &self,
        method: Method,
        path_and_query: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Reply, reqwest::Error> {
        let mut request = self
            .client
            .request(method, format!("{}{path_and_query}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        Reply::read(request.send().await?).await
    }

    /// GETs, and leaves the body to be read.
    pub(crate) async fn open(
        &self,
        path_and_query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response, reqwest::Error> {
        let mut request = self.client.get(format!("{}{path_and_query}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await
    }

    /// POSTs a JSON body.
    ///
    /// # Errors
    /// When no complete answer arrived.
    pub async fn try_post(&self, path: &str, body: &Value) -> Result<Reply, reqwest::Error> {
        self.send(Method::POST, path, &[], Some(body)).await
    }

    /// POSTs a JSON body.
    ///
    /// # Panics
    /// When no complete answer arrived.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.try_post(path, body)
            .await
            .unwrap_or_else(|error| panic!("POST {}{path}: {error:?}", self.base))
    }

    /// POSTs a JSON body with a time limit for the server.
    ///
    /// # Panics
    /// When no complete answer arrived.
    pub async fn post_with_timeout_ms(&self, path: &str, timeout_ms: u64, body: &Value) -> Reply {
        let timeout_ms = timeout_ms.to_string();
        let headers = [(lock_api::TIMEOUT_HEADER, timeout_ms.as_str())];
        self.send(Method::POST, path, &headers, Some(body))
            .await
            .unwrap_or_else(|error| panic!("POST {}{path}: {error:?}", self.base))
    }

    /// GETs with a time limit for the server.
    ///
    /// # Panics
    /// When no complete answer arrived.
    pub async fn get_with_timeout_ms(&self, path_and_query: &str, timeout_ms: u64) -> Reply {
        let timeout_ms = timeout_ms.to_string();
        let headers = [(lock_api::TIMEOUT_HEADER, timeout_ms.as_str())];
        self.get_with(path_and_query, &headers).await
    }

    /// GETs.
    ///
    /// # Errors
    /// When no complete answer arrived.
    pub async fn try_get(&self, path_and_query: &str) -> Result<Reply, reqwest::Error> {
        self.send(Method::GET, path_and_query, &[], None).await
    }

    /// GETs.
    ///
    /// # Panics
    /// When no complete answer arrived.
    pub async fn get(&self, path_and_query: &str) -> Reply {
        self.get_with(path_and_query, &[]).await
    }

    /// GETs with headers.
    ///
    /// # Panics
    /// When no complete answer arrived.
    pub async fn get_with(&self, path_and_query: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(Method::GET, path_and_query, headers, None)
            .await
            .unwrap_or_else(|error| panic!("GET {}{path_and_query}: {error:?}", self.base))
    }

    /// `GET /v1/locks?name=`: a linearizable read that must succeed. The name must need no escaping.
    ///
    /// # Panics
    /// When it does not succeed.
    pub async fn lock(&self, name: &str) -> Value {
        self.get(&format!("/v1/locks?name={name}"))
            .await
            .expect(200)
    }
}

impl Reply {
    pub(crate) async fn read(response: Response) -> Result<Self, reqwest::Error> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await?;
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())),
        };
        Ok(Reply {
            status,
            headers,
            body,
        })
    }

    /// The body, of an answer that must have this status.
    ///
    /// # Panics
    /// Shows the whole answer when it has another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The body of a problem that must have this status and code.
    ///
    /// # Panics
    /// Shows the whole answer when it is anything else.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.code()), (status, code), "{}", self.body);
        assert_eq!(
            self.header("content-type"),
            Some(lock_api::PROBLEM_CONTENT_TYPE)
        );
        self.body
    }

    /// The problem's code; empty when the answer is no problem.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// A header's value, where it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}
