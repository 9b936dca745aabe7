//! Redis as many use it for locks: `SET key value NX PX ttl`, and a release that deletes the key if it
//! still has the value. One node, no fencing tokens. The control: what it cannot promise, the harness
//! must be able to show.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use futures::future::BoxFuture;
use jepsen_checker::lock_checks::TokenScope;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{
    Ability, Action, Answer, Call, Client, ClientLinks, Ending, Feature, HolderSeen, NodePlan,
    Origin, Reply, System, find_program, version_line,
};
use crate::run_directory::NodeSample;

const SAMPLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Deletes the key if it has the value.
const RELEASE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

/// Redis.
pub(super) struct Redis {
    binary: PathBuf,
}

impl Redis {
    /// The named binary, else Debian's.
    pub(super) fn find(binary: Option<PathBuf>) -> Result<Self, String> {
        let binary = binary.or_else(|| find_program("redis-server"));
        let binary = binary.ok_or(
            "redis-server is not installed (Debian: apt-get install redis-server, then \
             systemctl disable --now redis-server); or name one with --binary",
        )?;
        Ok(Redis { binary })
    }
}

impl System for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn probe(&self) -> Result<String, String> {
        version_line(&self.binary, "--version")
    }

    fn binary(&self) -> PathBuf {
        self.binary.clone()
    }

    fn nodes(&self, _: usize) -> Result<usize, String> {
        Ok(1)
    }

    fn command(&self, node: &NodePlan, _: &Origin) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["--bind", &node.client.ip().to_string()])
            .args(["--port", &node.client.port().to_string()])
            // Nobody else is on the network, and without it only loopback would be.
            .args(["--protected-mode", "no"])
            .arg("--dir")
            // The folder is there; the data folder is Palisade's business.
            .arg(node.data.parent().unwrap_or(&node.data))
            // Whatever it acknowledged it has after a kill, so that only the lock is on trial.
            .args([
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ]);
        command
    }

    fn features<'a>(&'a self, _: SocketAddr) -> BoxFuture<'a, Vec<Feature>> {
        Box::pin(async { vec![Feature::Read] })
    }

    fn abilities(&self) -> &'static [Ability] {
        &[Ability::LibcClocks]
    }

    fn token_scope(&self) -> TokenScope {
        TokenScope::Lock
    }

    fn ready<'a>(&'a self, node: SocketAddr) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let ping = ask(None, node, &["PING"]);
            let answer = tokio::time::timeout(SAMPLE_TIMEOUT, ping).await;
            matches!(answer, Ok(Ok(Resp::Text(text))) if text == "PONG")
        })
    }

    fn sample<'a>(&'a self, node: &'a NodePlan) -> BoxFuture<'a, Option<NodeSample>> {
        Box::pin(async move {
            self.ready(node.client).await.then(|| NodeSample {
                node: node.name.clone(),
                process: String::new(),
                reachable: true,
                leads: true,
                leader: Some(node.name.clone()),
                term: None,
                applied_index: None,
            })
        })
    }

    fn administer<'a>(&'a self, _: SocketAddr, _: &'a Action) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Err("Redis is not asked for this".to_owned()) })
    }
}

/// A reply in Redis's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Resp {
    Text(String),
    Number(i64),
    Nil,
    Error(String),
}

enum AskError {
    /// Nothing was sent.
    NotSent,
    Lost(std::io::Error),
}

impl From<std::io::Error> for AskError {
    fn from(error: std::io::Error) -> Self {
        AskError::Lost(error)
    }
}

async fn connect(from: Option<IpAddr>, node: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = match node {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.connect(node).await
}

/// One command on a connection of its own.
async fn ask(from: Option<IpAddr>, node: SocketAddr, words: &[&str]) -> Result<Resp, AskError> {
    let mut stream = connect(from, node).await.map_err(|_| AskError::NotSent)?;
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(command.as_bytes()).await?;
    let mut reply = Vec::new();
    loop {
        if let Some(reply) = parse(&reply) {
            return Ok(reply);
        }
        if stream.read_buf(&mut reply).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// A whole reply, if it is one already.
fn parse(bytes: &[u8]) -> Option<Resp> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (line, rest) = text.split_once("\r\n")?;
    let (kind, line) = line.split_at_checked(1)?;
    match kind {
        "+" => Some(Resp::Text(line.to_owned())),
        "-" => Some(Resp::Error(line.to_owned())),
        ":" => line.parse().ok().map(Resp::Number),
        "$" if line == "-1" => Some(Resp::Nil),
        "$" => {
            let length: usize = line.parse().ok()?;
            rest.ends_with("\r\n").then_some(())?;
            rest.get(..length).map(|text| Resp::Text(text.to_owned()))
        }
        _ => None,
    }
}

/// A client by these links.
pub(super) fn client(links: ClientLinks) -> Box<dyn Client> {
    Box::new(RedisClient { links })
}

struct RedisClient {
    links: ClientLinks,
}

impl Client for RedisClient {
    fn call<'a>(
        &'a mut self,
        node: usize,
        call: &'a Call,
        timeout: Duration,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let Some(address) = self.links.nodes.get(node) else {
                return Answer::refused("no_such_node");
            };
            let ttl_text;
            let words: Vec<&str> = match call {
                Call::Acquire {
                    locks,
                    lease,
                    ttl_ms,
                    ..
                } => {
                    let [ask] = &locks[..] else {
                        return Answer::refused("not_supported");
                    };
                    ttl_text = ttl_ms.to_string();
                    vec!["SET", &ask.lock, &lease.id, "NX", "PX", &ttl_text]
                }
                Call::Release { lease, held } => {
                    let [(lock, _)] = &held[..] else {
                        return Answer::refused("not_supported");
                    };
                    vec!["EVAL", RELEASE, "1", lock, &lease.id]
                }
                Call::Read { lock } => vec!["GET", lock],
                _ => return Answer::refused("not_supported"),
            };
            match tokio::time::timeout(timeout, ask(self.links.from, *address, &words)).await {
                Ok(Ok(reply)) => Answer {
                    ending: ending(call, &reply),
                    position: None,
                },
                Ok(Err(AskError::NotSent)) => Answer::refused("connection_refused"),
                Ok(Err(AskError::Lost(error))) => Answer::unknown(error.to_string()),
                Err(_) => Answer::unknown("no answer in time"),
            }
        })
    }
}

fn ending(call: &Call, reply: &Resp) -> Ending {
    match (call, reply) {
        (Call::Acquire { locks, ttl_ms, .. }, Resp::Text(_)) => Ending::Done(Reply::Granted {
            held: locks.iter().map(|ask| (ask.lock.clone(), None)).collect(),
            ttl_ms: *ttl_ms,
        }),
        (Call::Acquire { .. }, Resp::Nil) => Ending::Refused {
            code: "lock_held".to_owned(),
            reason: Some("held".to_owned()),
        },
        (Call::Release { .. }, Resp::Number(deleted)) => Ending::Done(Reply::Released {
            was_held: *deleted == 1,
        }),
        (Call::Read { .. }, Resp::Nil) => Ending::Done(Reply::Holders(Vec::new())),
        (Call::Read { .. }, Resp::Text(lease)) => Ending::Done(Reply::Holders(vec![HolderSeen {
            lease: lease.clone(),
            token: None,
            value: None,
        }])),
        // It is loading what it has on disk.
        (_, Resp::Error(error)) if error.starts_with("LOADING") => Ending::Refused {
            code: "no_leader".to_owned(),
            reason: None,
        },
        (_, reply) => Ending::Unknown(format!("{reply:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_parsed_once_they_are_whole() {
        assert_eq!(parse(b"+OK\r\n"), Some(Resp::Text("OK".into())));
        assert_eq!(parse(b":1\r\n"), Some(Resp::Number(1)));
        assert_eq!(parse(b"$-1\r\n"), Some(Resp::Nil));
        assert_eq!(parse(b"$3\r\nabc\r\n"), Some(Resp::Text("abc".into())));
        assert_eq!(parse(b"$3\r\nab"), None);
        assert_eq!(parse(b"$3\r\nabc"), None);
        assert_eq!(parse(b"-ERR no\r\n"), Some(Resp::Error("ERR no".into())));
    }
}
