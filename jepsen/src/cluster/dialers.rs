//! Which node has the other end of a connection on loopback: found out from `/proc`, by the socket. Reading
//! the kernel's table takes milliseconds, and a node that cannot reach a peer dials it again and again, so
//! one reading answers for all connections that wait to be told.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The least time from one reading to the next.
const EVERY: Duration = Duration::from_millis(20);
/// A socket is listed within this time after it is connected, or belongs to nobody any more.
const PATIENCE: Duration = Duration::from_millis(200);

/// Ports of both ends, that of the dialler first.
type Ends = (u16, u16);

/// What was read last.
#[derive(Debug, Default)]
pub(super) struct Dialers {
    inner: Mutex<Option<Reading>>,
}

#[derive(Debug)]
struct Reading {
    at: Instant,
    owners: HashMap<Ends, usize>,
}

impl Dialers {
    /// Which of these nodes, told with its process, dials from one port to another. `None` if none does.
    pub(super) async fn who(
        &self,
        ends: Ends,
        nodes: impl Fn() -> Vec<(usize, u32)>,
    ) -> Option<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let next = {
                let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                let fresh = inner.take().filter(|read| read.at.elapsed() < EVERY);
                let read = inner.insert(fresh.unwrap_or_else(|| Reading::now(&nodes())));
                if let Some(node) = read.owners.get(&ends) {
                    return Some(*node);
                }
                read.at + EVERY
            };
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep_until(next).await;
        }
    }
}

impl Reading {
    fn now(nodes: &[(usize, u32)]) -> Self {
        let mut by_inode = HashMap::new();
        for (node, pid) in nodes {
            // It may have ended.
            let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
                continue;
            };
            let links = files
                .flatten()
                .filter_map(|file| std::fs::read_link(file.path()).ok());
            by_inode.extend(links.filter_map(|link| Some((inode(link.to_str()?)?, *node))));
        }
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let sockets = table.lines().skip(1).filter_map(socket);
        let owners = sockets.filter_map(|(ends, inode)| Some((ends, *by_inode.get(&inode)?)));
        Reading {
            owners: owners.collect(),
            at: Instant::now(),
        }
    }
}

fn inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

fn socket(line: &str) -> Option<(Ends, u64)> {
    let mut fields = line.split_whitespace().skip(1);
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    let (local, remote) = (port(fields.next()?)?, port(fields.next()?)?);
    let inode = fields.nth(6)?.parse().ok()?;
    Some(((local, remote), inode))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn the_process_that_dials_is_found_by_its_socket() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = server.local_addr().unwrap().port();
        let stream = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
        let from = stream.local_addr().unwrap().port();
        let own = std::process::id();
        let dialers = Dialers::default;
        assert_eq!(dialers().who((from, to), || vec![(4, own)]).await, Some(4));
        assert_eq!(dialers().who((from, to), || vec![(4, 1)]).await, None);
        assert_eq!(dialers().who((1, to), || vec![(4, own)]).await, None);
        // What connects after a reading is found by the next.
        let dialers = dialers();
        assert_eq!(dialers.who((from, to), || vec![(4, own)]).await, Some(4));
        let later = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
        let ends = (later.local_addr().unwrap().port(), to);
        assert_eq!(dialers.who(ends, || vec![(4, own)]).await, Some(4));
    }
}
