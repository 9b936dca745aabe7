//! [`Exchange`] over HTTP/1.1, with TLS where the endpoint asks for it. It never retries.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use lock_api::{JSON_CONTENT_TYPE, TIMEOUT_HEADER};
use rustls::{CertificateError, InvalidMessage};

use crate::transport::{Exchange, NoReply, WireReply, WireRequest};
use crate::{Endpoint, Error};

/// A node on a reachable machine accepts at once; another endpoint is tried after this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections are kept for the next call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Connections to all endpoints, kept for the next request.
pub(crate) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    authorization: Option<HeaderValue>,
}

impl Http {
    pub(crate) fn new(
        bearer_token: Option<&str>,
        tls: rustls::ClientConfig,
    ) -> Result<Self, Error> {
        let authorization = match bearer_token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                    Error::SetUp("the bearer token has characters that no token has".to_owned())
                })?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Ok(Self {
            client,
            authorization,
        })
    }

    fn request(
        &self,
        endpoint: &Endpoint,
        request: &WireRequest,
    ) -> hyper::http::Result<Request<Full<Bytes>>> {
        let url = format!("{endpoint}{}", request.path);
        let mut builder = match request.body {
            None => Request::get(url),
            Some(_) => Request::post(url).header(CONTENT_TYPE, JSON_CONTENT_TYPE),
        };
        builder = builder
            .header(ACCEPT, "*/*")
            .header(USER_AGENT, concat!("palisade/", env!("CARGO_PKG_VERSION")));
        if let Some(limit) = request.server_timeout {
            builder = builder.header(TIMEOUT_HEADER, limit.as_millis().max(1).to_string());
        }
        if let Some(authorization) = &self.authorization {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        builder.body(Full::new(request.body.clone().unwrap_or_default()))
    }
}

impl Exchange for Http {
    fn send<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        request: &'a WireRequest,
    ) -> BoxFuture<'a, Result<WireReply, NoReply>> {
        Box::pin(async move {
            let request = self.request(endpoint, request).map_err(|error| NoReply {
                may_have_arrived: false,
                reason: error.to_string(),
            })?;
            let sending = self.client.request(request).await;
            let response = sending.map_err(|error| NoReply {
                // Only a connection that was never made proves that nothing was sent.
                may_have_arrived: !error.is_connect(),
                reason: match error.is_connect() {
                    true => format!("cannot connect ({})", root_cause(&error)),
                    false => lost(&error),
                },
            })?;
            let status = response.status().as_u16();
            let body = stream::try_unfold(response.into_body(), |mut body| async move {
                loop {
                    match body.frame().await {
                        None => return Ok(None),
                        Some(Ok(frame)) => {
                            // Trailers say nothing to us.
                            if let Ok(piece) = frame.into_data() {
                                return Ok(Some((piece, body)));
                            }
                        }
                        Some(Err(error)) => {
                            return Err(NoReply {
                                may_have_arrived: true,
                                reason: lost(&error),
                            });
                        }
                    }
                }
            });
            Ok(WireReply {
                status,
                body: body.boxed(),
            })
        })
    }
}

fn lost(error: &(dyn std::error::Error + 'static)) -> String {
    format!("the connection was lost ({})", root_cause(error))
}

/// The root cause is what helps: "connection refused" rather than "client error (Connect)".
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    loop {
        // What is inside an I/O error is not its source.
        let inside = cause.downcast_ref().and_then(io::Error::get_ref);
        match inside.map(|inside| inside as _).or(cause.source()) {
            Some(next) => cause = next,
            None => break,
        }
    }
    let advice = match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)), _) => {
            "; does it serve http, not https?"
        }
        (Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)), _) => {
            "; name the authority that issued it"
        }
        (_, Some(answer)) if hyper::Error::is_parse(answer) => "; does it serve https, not http?",
        _ => "",
    };
    format!("{cause}{advice}")
}
