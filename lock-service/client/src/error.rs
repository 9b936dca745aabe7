//! What can go wrong, sorted by what is known of the outcome.

use std::fmt;

use lock_api::{ErrorCode, InvalidText, LeaseSecret, Problem, RequestId};

use crate::{Endpoint, Loss};

/// Why one attempt on one endpoint failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttemptFailure {
    /// Where it was tried.
    pub endpoint: Endpoint,
    /// What happened.
    pub reason: String,
}

impl fmt::Display for AttemptFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.reason)
    }
}

struct List<'a>(&'a [AttemptFailure]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, failure) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("; ")?;
            }
            failure.fmt(f)?;
        }
        Ok(())
    }
}

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An endpoint's address is wrong. Nothing was sent.
    #[error("invalid endpoint `{endpoint}`: {reason}")]
    InvalidEndpoint {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The client has no endpoints. Nothing was sent.
    #[error("no endpoints: name at least one node as http://HOST:PORT")]
    NoEndpoints,
    /// A name, owner, value or id is empty, too long or has control characters. Nothing was sent.
    #[error(transparent)]
    InvalidText(#[from] InvalidText),
    /// The TTL has no room for the margin and the stop time. Nothing was sent.
    #[error(
        "a TTL of {ttl_ms} ms is too short to stop in time: the smallest for a stop time of \
         {stop_time_ms} ms is {smallest_ttl_ms} ms"
    )]
    TtlTooShort {
        /// The TTL that was asked for, or that the lease has.
        ttl_ms: u64,
        /// How long stopping takes.
        stop_time_ms: u64,
        /// The smallest TTL that would do.
        smallest_ttl_ms: u64,
    },
    /// The HTTP client or a timer could not be made. Nothing was sent.
    #[error("cannot set up the client: {0}")]
    SetUp(String),
    /// The cluster decided against the request: it had no effect and, with these ids, never will.
    #[error("{problem}")]
    Refused {
        /// Why.
        problem: Box<Problem>,
    },
    /// No node could serve the request before the deadline. It had no effect and never will.
    #[error("no node could serve the request in time ({})", List(.failures))]
    Unavailable {
        /// What each endpoint that was tried said last.
        failures: Vec<AttemptFailure>,
    },
    /// The answer was lost and could not be had again in time: the request may have had its effect,
    /// or may still have it. Whatever an acquire took frees itself after the lease's TTL.
    #[error("the outcome is unknown: no answer in time ({})", List(.failures))]
    Unknown {
        /// The request's lease, to repeat the request with or to revoke.
        lease: Option<LeaseSecret>,
        /// The request's id, to repeat the request with or to cancel.
        request_id: Option<RequestId>,
        /// What each endpoint that was tried said last.
        failures: Vec<AttemptFailure>,
    },
    /// The lock was granted but lost again before it could be returned.
    #[error("the lock was granted and lost before it could be used: {0}")]
    LostBeforeUse(Loss),
    /// The guard or the session that this was asked of is lost. Nothing was sent, or what was sent
    /// ends with the lease.
    #[error("the lock is lost: {0}")]
    Lost(Loss),
}

impl Error {
    /// The cluster's error code, when it refused.
    pub fn code(&self) -> Option<&ErrorCode> {
        match self {
            Self::Refused { problem } => Some(&problem.code),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unavailable_cluster_is_described_endpoint_by_endpoint() {
        let failure = |endpoint: &str, reason: &str| AttemptFailure {
            endpoint: endpoint.parse().unwrap(),
            reason: reason.to_owned(),
        };
        let error = Error::Unavailable {
            failures: vec![
                failure("a:1", "connection refused"),
                failure("b:2", "no_leader"),
            ],
        };
        assert_eq!(
            error.to_string(),
            "no node could serve the request in time \
             (http://a:1: connection refused; http://b:2: no_leader)"
        );
    }
}
