//! How a [`Client`] is made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_api::DEFAULT_REQUEST_TIMEOUT_MS;

use crate::http::Http;
use crate::transport::Transport;
use crate::{BootClock, Client, Clock, Endpoint, Error, Exchange, tls};

/// Collects what a [`Client`] needs.
pub struct ClientBuilder {
    endpoints: Vec<String>,
    request_timeout: Duration,
    attempt_timeout: Duration,
    bearer_token: Option<String>,
    authorities_pem: Option<Vec<u8>>,
    clock: Arc<dyn Clock>,
    exchange: Option<Box<dyn Exchange>>,
}

impl fmt::Debug for ClientBuilder {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("endpoints", &self.endpoints)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            request_timeout: Duration::from_millis(DEFAULT_REQUEST_TIMEOUT_MS),
            attempt_timeout: Duration::from_secs(2),
            bearer_token: None,
            authorities_pem: None,
            clock: Arc::new(BootClock),
            exchange: None,
        }
    }
}

impl ClientBuilder {
    /// Adds the addresses of the cluster's nodes, as `http://host:port`, `https://host:port` or
    /// `host:port`. Any node answers any request; name several, so that the client can go on when one
    /// is down.
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

    /// The bearer token to send with every request, for clusters with an `--auth-file`. Over plain
    /// http anybody on the way can read it.
    #[must_use]
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.bearer_token = Some(token.into());
        self
    }

    /// The certificate authorities to believe for `https` endpoints, as the text of a PEM file; those
    /// of the machine unless set.
    #[must_use]
    pub fn certificate_authorities(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities_pem = Some(pem.into());
        self
    }

    /// The clock to use instead of `CLOCK_BOOTTIME`, for tests.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The network to use instead of HTTP, for tests.
    #[must_use]
    pub fn exchange(mut self, exchange: impl Exchange) -> Self {
        self.exchange = Some(Box::new(exchange));
        self
    }

    /// Makes the client. Nothing is sent yet; see [`Client::connect`].
    ///
    /// # Errors
    /// [`Error::NoEndpoints`], [`Error::InvalidEndpoint`], or [`Error::SetUp`] for a token or
    /// authorities that cannot be used.
    pub fn build(self) -> Result<Client, Error> {
        let endpoints: Vec<Endpoint> = self
            .endpoints
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()?;
        let exchange = match self.exchange {
            Some(exchange) => exchange,
            None => {
                let authorities = self.authorities_pem.as_deref().map(tls::read_pem);
                let authorities = authorities.transpose()?;
                // The machine's authorities are only read when they are needed.
                let authorities = match endpoints.iter().any(Endpoint::is_https) {
                    true => authorities,
                    false => Some(Vec::new()),
                };
                let tls = tls::config(authorities.as_deref())?;
                Box::new(Http::new(self.bearer_token.as_deref(), tls)?)
            }
        };
        let transport = Transport::new(endpoints, exchange, self.clock)?;
        Ok(Client::new(
            transport,
            self.request_timeout,
            self.attempt_timeout,
        ))
    }
}
