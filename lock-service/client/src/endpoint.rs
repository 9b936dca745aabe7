//! Addresses of the cluster's nodes.

use std::fmt;
use std::str::FromStr;

use lock_api::DEFAULT_HTTP_PORT;
use url::Url;

use crate::Error;

/// Where a cluster started by `palisaded dev` listens.
pub const DEFAULT_ENDPOINTS: &str =
    "http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103";

/// The address of one node's HTTP API: `http://host:port` or `https://host:port`. Parsing also takes
/// `host:port` and `host`, without TLS; the port is 7101 unless given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    /// The address as `scheme://host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let invalid = |reason: &str| Error::InvalidEndpoint {
            endpoint: text.to_owned(),
            reason: format!("{reason}; expected http://HOST:PORT or https://HOST:PORT"),
        };
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
            Some(_) => return Err(invalid("only http and https are supported")),
            None => ("http", text),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty() {
            return Err(invalid("the host is missing"));
        }
        if authority.contains(['/', '?', '#', '@']) {
            return Err(invalid("there is more than a host and a port"));
        }
        let has_port = authority
            .rsplit(']')
            .next()
            .is_some_and(|end| end.contains(':'));
        let address = match has_port {
            true => format!("{scheme}://{authority}"),
            false => format!("{scheme}://{authority}:{DEFAULT_HTTP_PORT}"),
        };
        let url = Url::parse(&address).map_err(|error| invalid(&error.to_string()))?;
        match (url.host_str(), url.port_or_known_default()) {
            (Some(host), Some(port)) if port != 0 => Ok(Self(format!("{scheme}://{host}:{port}"))),
            _ => Err(invalid("the host or the port is missing")),
        }
    }
}

/// Parses a comma-separated list of endpoints, as in `PALISADE_ENDPOINTS`.
///
/// # Errors
/// [`Error::InvalidEndpoint`] names the first that is wrong; [`Error::NoEndpoints`] when there is
/// none.
pub fn parse_endpoints(list: &str) -> Result<Vec<Endpoint>, Error> {
    let endpoints: Vec<Endpoint> = list
        .split(',')
        .filter(|text| !text.trim().is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    match endpoints.is_empty() {
        true => Err(Error::NoEndpoints),
        false => Ok(endpoints),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_with_an_optional_scheme_and_port() {
        for (text, expected) in [
            ("http://127.0.0.1:7101", "http://127.0.0.1:7101"),
            ("http://127.0.0.1:7101/", "http://127.0.0.1:7101"),
            ("node-a.example:9000", "http://node-a.example:9000"),
            ("node-a", "http://node-a:7101"),
            ("http://node-a", "http://node-a:7101"),
            ("http://node-a:80", "http://node-a:80"),
            ("[::1]:7102", "http://[::1]:7102"),
            ("[::1]", "http://[::1]:7101"),
            ("https://node-a", "https://node-a:7101"),
            ("https://node-a:443/", "https://node-a:443"),
            (" localhost:1 ", "http://localhost:1"),
        ] {
            assert_eq!(
                text.parse::<Endpoint>().unwrap().as_str(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_the_text_and_what_is_expected() {
        for text in [
            "",
            "http://",
            "ftp://a:1",
            "a:99999",
            "a:b",
            "a:0",
            "http://a/b",
            "u:p@a:1",
            "a:1?x",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains("http://HOST:PORT"), "{text}: {error}");
        }
    }

    #[test]
    fn a_list_is_separated_by_commas_and_never_empty() {
        assert_eq!(parse_endpoints(DEFAULT_ENDPOINTS).unwrap().len(), 3);
        assert_eq!(parse_endpoints("a:1, b:2,").unwrap().len(), 2);
        assert!(matches!(parse_endpoints(" , "), Err(Error::NoEndpoints)));
    }
}
