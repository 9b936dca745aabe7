//! How a [`Client`] is made.

use std::time::Duration;

use lock_api::DEFAULT_REQUEST_TIMEOUT_MS;

use crate::{Client, Endpoint, Error};

/// Collects what a [`Client`] needs.
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    request_timeout: Duration,
    attempt_timeout: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            request_timeout: Duration::from_millis(DEFAULT_REQUEST_TIMEOUT_MS),
            attempt_timeout: Duration::from_secs(2),
        }
    }
}

impl ClientBuilder {
    /// Adds the addresses of the cluster's nodes, as `http://host:port` or `host:port`. Any node
    /// answers any request; name several, so that the client can go on when one is down.
    #[must_use]
    pub fn endpoints<S: AsRef<str>>(mut self, endpoints: impl IntoIterator<Item = S>) -> Self {
        self.endpoints
            .extend(endpoints.into_iter().map(|text| text.as_ref().to_owned()));
        self
    }

    /// The deadline of a call, retries included, counted from its beginning; 5 s unless set. A call
    /// that waits in a queue may take that much longer than its wait.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long one node may take before the next is asked; 2 s unless set.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Makes the client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::NoEndpoints`], [`Error::InvalidEndpoint`], or [`Error::SetUp`].
    pub fn build(self) -> Result<Client, Error> {
        let endpoints: Vec<Endpoint> = self
            .endpoints
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()?;
        Client::new(endpoints, self.request_timeout, self.attempt_timeout)
    }
}
