//! Decoding of requests: bodies, queries, headers. Every refusal names the field, and the
//! connection stays usable.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use futures::StreamExt;
use lock_api::{
    DEFAULT_REQUEST_TIMEOUT_MS, ErrorCode, EventPosition, JSON_CONTENT_TYPE, MAX_BODY_BYTES,
    MIN_POSITION_HEADER, Problem, TIMEOUT_HEADER, decode_request,
};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::problem::{Failure, invalid};

/// Too large a body is read to its end and thrown away, so that the connection stays usable, but
/// only up to here.
const MAX_DISCARDED_BYTES: usize = 64 << 20;
/// A body must arrive within this.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time that a request may ask for, beside its wait.
const MAX_TIMEOUT_MS: u64 = 60_000;

/// A JSON body.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let is_json = is_json(request.headers());
        // Read in any case: an unread body would cost the client its connection.
        let read = tokio::time::timeout(BODY_TIMEOUT, read_body(request.into_body()))
            .await
            .map_err(|_| invalid(None, "the body did not arrive within 10 s"))?;
        if !is_json {
            return Err(Problem::new(
                ErrorCode::UnsupportedMediaType,
                "the body must be JSON and say so; send the header content-type: application/json",
            )
            .into());
        }
        let bytes = read?;
        if bytes.is_empty() {
            return Err(invalid(None, "the body is empty; send a JSON object"));
        }
        match decode_request(&bytes) {
            Ok(body) => Ok(Self(body)),
            Err(error) => Err(invalid(error.field.as_deref(), error.detail)),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case(JSON_CONTENT_TYPE))
}

async fn read_body(body: Body) -> Result<Vec<u8>, Failure> {
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut total = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| invalid(None, format!("the body broke off: {error}")))?;
        total += chunk.len();
        if total > MAX_DISCARDED_BYTES {
            break;
        }
        if total <= MAX_BODY_BYTES {
            bytes.extend_from_slice(&chunk);
        }
    }
    if total > MAX_BODY_BYTES {
        return Err(Problem::new(
            ErrorCode::TooLarge,
            format!("the body is larger than {MAX_BODY_BYTES} bytes"),
        )
        .into());
    }
    Ok(bytes)
}

/// Query parameters.
pub struct UrlQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for UrlQuery<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        for pair in parts.uri.query().unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // Decoders replace what is not UTF-8, which would make another name of it.
            if percent_decode_str(value).decode_utf8().is_err() {
                let detail = format!("`{name}`: must be UTF-8, percent-encoded");
                return Err(invalid(Some(name), detail));
            }
        }
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(query)) => Ok(Self(query)),
            Err(error) => Err(query_error(&error.body_text())),
        }
    }
}

/// `Failed to deserialize query string: FIELD: DETAIL`, or DETAIL alone that quotes the field.
fn query_error(text: &str) -> Failure {
    let detail = text
        .strip_prefix("Failed to deserialize query string: ")
        .unwrap_or(text);
    let named = detail.split_once(": ").map(|(field, _)| field);
    let is_name = |field: &&str| {
        field
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let quoted = || detail.split('`').nth(1);
    invalid(named.filter(is_name).or_else(quoted), detail)
}

/// What every request may say in its headers.
pub struct Terms {
    /// How long the server may work on it.
    pub timeout: Duration,
    /// Whether that is the default, and not the client's own word.
    pub timeout_is_default: bool,
    /// When the request arrived.
    pub began: Instant,
    /// What the answering node must have applied first.
    pub min_position: Option<EventPosition>,
}

impl Terms {
    /// When the request must be answered.
    pub fn deadline(&self) -> Instant {
        self.began + self.timeout
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Terms {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let began = Instant::now();
        let asked = text(&parts.headers, TIMEOUT_HEADER)?;
        let timeout_ms = match asked {
            None => DEFAULT_REQUEST_TIMEOUT_MS,
            Some(value) => value
                .parse()
                .ok()
                .filter(|timeout_ms| (1..=MAX_TIMEOUT_MS).contains(timeout_ms))
                .ok_or_else(|| {
                    let detail = format!("`{TIMEOUT_HEADER}`: expected 1 to {MAX_TIMEOUT_MS}");
                    invalid(Some(TIMEOUT_HEADER), detail)
                })?,
        };
        let min_position = text(&parts.headers, MIN_POSITION_HEADER)?
            .map(|value| {
                value.parse().map_err(|error| {
                    let detail = format!("`{MIN_POSITION_HEADER}`: {error}");
                    invalid(Some(MIN_POSITION_HEADER), detail)
                })
            })
            .transpose()?;
        Ok(Self {
            timeout: Duration::from_millis(timeout_ms),
            timeout_is_default: asked.is_none(),
            began,
            min_position,
        })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Failure> {
    headers
        .get(name)
        .map(|value| {
            value
                .to_str()
                .map_err(|_| invalid(Some(name), format!("`{name}`: must be ASCII")))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_error_names_its_field() {
        for (text, field) in [
            (
                "Failed to deserialize query string: token: invalid digit found in string",
                Some("token"),
            ),
            (
                "Failed to deserialize query string: missing field `lock`",
                Some("lock"),
            ),
            (
                "Failed to deserialize query string: unknown field `x`, expected one of `name`",
                Some("x"),
            ),
        ] {
            assert_eq!(query_error(text).0.field.as_deref(), field);
        }
    }
}
