//! What the benchmarks share: calls that count as errors when they take too long or are refused, and
//! how long calls took. It decides nothing and asserts nothing.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::time::timeout;

use crate::raw::{RawConnection, RawReply};

/// A call that takes longer is an error.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Calls, and takes everything but 200 for an error.
///
/// # Errors
/// From the connection; `TimedOut` after 10 s; or the answer, when it is another one.
pub async fn call(connection: &mut RawConnection, request: &[u8]) -> io::Result<RawReply> {
    let reply = timeout(CALL_LIMIT, connection.call(request))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    match reply.status {
        200 => Ok(reply),
        status => {
            let body = String::from_utf8_lossy(&reply.body);
            Err(io::Error::other(format!("{status}: {body}")))
        }
    }
}

/// The body of the release of what this answer granted.
///
/// # Errors
/// When it grants nothing.
pub fn release_of(granted: &RawReply) -> io::Result<String> {
    // Cheaper than a parser, and a benchmark shares its cores with the nodes.
    let text = std::str::from_utf8(&granted.body).map_err(io::Error::other)?;
    let after = |name: &str| text.split_once(name).map(|(_, rest)| rest);
    let token = after(r#""token":"#).and_then(|rest| rest.split([',', '}']).next());
    let lease = after(r#""lease":""#).and_then(|rest| rest.split('"').next());
    match (lease, token) {
        (Some(lease), Some(token)) => Ok(format!(r#"{{"lease":"{lease}","token":{token}}}"#)),
        _ => Err(io::Error::other(format!("not a grant: {text}"))),
    }
}

/// What `/proc` says of a process's memory, in KiB: `VmRSS` is what is resident, `VmHWM` its peak.
///
/// # Panics
/// When the process is gone, or has no such field.
pub fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().ok());
    kib.unwrap_or_else(|| panic!("no {field} in\n{status}"))
}

/// How long calls took; shown as their number, quantiles and maximum.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    micros: Vec<u32>,
}

impl Latencies {
    /// One more.
    pub fn add(&mut self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.micros.push(micros);
    }

    /// All that another has.
    pub fn append(&mut self, other: Self) {
        self.micros.extend(other.micros);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.micros.len()
    }

    /// The time that this part of all calls did not exceed; zero when there are none.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let index = (last as f64 * quantile).round() as usize;
        Duration::from_micros(sorted.get(index).copied().unwrap_or(0).into())
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |quantile: f64| self.quantile(quantile).as_secs_f64() * 1000.0;
        write!(
            f,
            "p50 {:.3} ms, p95 {:.3} ms, p99 {:.3} ms, max {:.3} ms",
            ms(0.5),
            ms(0.95),
            ms(0.99),
            ms(1.0)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(1.0), Duration::ZERO);
        for ms in [5, 1, 4, 2, 3] {
            latencies.add(Duration::from_millis(ms));
        }
        for (quantile, ms) in [(0.0, 1), (0.5, 3), (1.0, 5)] {
            assert_eq!(latencies.quantile(quantile), Duration::from_millis(ms));
        }
    }
}
