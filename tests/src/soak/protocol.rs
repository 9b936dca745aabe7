//! What is said between the driver and a node: one JSON document per line, one answer per request.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::Outcome;

const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// A node answers at its own deadline; a little later it is taken for paused or gone.
const GRACE: Duration = Duration::from_millis(500);

/// What a node is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Propose this number.
    Propose {
        /// Never proposed before.
        id: u64,
        /// Until when, from now.
        limit_ms: u64,
    },
    /// Answer once everything up to this log index is applied.
    CatchUp {
        /// A log index.
        index: u64,
        /// Until when, from now.
        limit_ms: u64,
    },
    /// Everything applied, in order.
    Dump,
    /// Who are you, and what do you take yourself for?
    Status,
    /// Remove this node from the group.
    Remove {
        /// Its id.
        node: String,
        /// Until when, from now.
        limit_ms: u64,
    },
    /// Hand the leadership over to somebody.
    Transfer {
        /// Until when, from now.
        limit_ms: u64,
    },
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Applied at this log index.
    Applied {
        /// The log index.
        index: u64,
    },
    /// It may or may not be applied.
    Unknown,
    /// It was not done and will not be; the text says why.
    Refused(String),
    /// Done.
    Done,
    /// Proposal and log index, in the order they were applied.
    Sequence(Vec<(u64, u64)>),
    /// The state of a node.
    Status {
        /// Its id.
        node: String,
        /// Whether it leads.
        leads: bool,
        /// Whether it votes.
        votes: bool,
    },
}

/// Reads one document. `None` at the end of the connection.
///
/// # Errors
/// When the connection breaks, or the line is no such document.
pub async fn read<T: DeserializeOwned>(
    lines: &mut BufReader<OwnedReadHalf>,
) -> io::Result<Option<T>> {
    let mut line = String::new();
    match lines.read_line(&mut line).await? {
        0 => Ok(None),
        _ => serde_json::from_str(&line)
            .map(Some)
            .map_err(io::Error::other),
    }
}

/// Writes one document.
///
/// # Errors
/// When the connection breaks.
pub async fn write<T: Serialize>(to: &mut OwnedWriteHalf, document: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// A connection from the driver to a node.
pub struct Connection {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Connection {
    /// `None` when nobody listens there.
    pub async fn open(node: SocketAddr) -> Option<Self> {
        let stream = timeout(CONNECT_LIMIT, TcpStream::connect(node)).await;
        let stream = stream.ok()?.ok()?;
        stream.set_nodelay(true).ok()?;
        let (read, write) = stream.into_split();
        Some(Self {
            read: BufReader::new(read),
            write,
        })
    }

    /// `None` when there is no answer within `limit` and a little more.
    pub async fn ask(&mut self, request: &Request, limit: Duration) -> Option<Reply> {
        let asked = async {
            write(&mut self.write, request).await.ok()?;
            read(&mut self.read).await.ok()?
        };
        timeout(limit + GRACE, asked).await.ok()?
    }

    /// Proposes `id`. After [`Outcome::Unknown`] the connection is of no use.
    pub async fn propose(&mut self, id: u64, limit: Duration) -> Outcome {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        match self.ask(&Request::Propose { id, limit_ms }, limit).await {
            Some(Reply::Applied { index }) => Outcome::Applied { index },
            Some(Reply::Refused(_)) => Outcome::Refused,
            _ => Outcome::Unknown,
        }
    }
}
