//! Ports for nodes.
//!
//! They are chosen below the range from which the system gives ports to outgoing connections: a
//! node that is down must find its port free when it comes back, and a peer that keeps dialling it
//! could otherwise be given that very port.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

const LOWEST: u16 = 10_000;
const EPHEMERAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const ATTEMPTS: u32 = 10_000;

/// Ports given out by this process, so that its tests do not take each other's.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// Ports of loopback that nobody listens on.
pub fn free(count: usize) -> Vec<u16> {
    (0..count).map(|_| free_in_a_row(1)).collect()
}

/// The first of so many ports of loopback, one after the other, that nobody listens on.
///
/// # Panics
/// When there are none.
pub fn free_in_a_row(count: u16) -> u16 {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    let end = ephemeral_start().max(LOWEST + 1_000) - count;
    for _ in 0..ATTEMPTS {
        let first = rand::random_range(LOWEST..end);
        let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let mut row = first..first + count;
        if row.all(|port| !given.contains(&port) && free(port)) {
            given.extend(first..first + count);
            return first;
        }
    }
    panic!("no {count} free ports from {LOWEST} to {end}");
}

/// The first port that the system may give to an outgoing connection.
fn ephemeral_start() -> u16 {
    let range = std::fs::read_to_string(EPHEMERAL_RANGE).unwrap_or_default();
    let start = range.split_whitespace().next();
    start.and_then(|start| start.parse().ok()).unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_and_all_can_be_listened_on() {
        let mut ports = free(50);
        let first = free_in_a_row(10);
        ports.extend(first..first + 10);
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 60);
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}
