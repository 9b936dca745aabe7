//! What the harness can test: how a system's nodes are started, what can be asked of them, and what
//! they can do at all. A system says what it is told and never judges it; one call is one attempt,
//! because repeating is a workload's business.
//!
//! To add one, implement [`System`] and [`Client`], and name them in [`by_name`] and [`client_of`];
//! docs/testing.md has a guide.

mod client_process;
mod etcd;
mod lease;
mod palisade;
mod redis;
mod server_sent;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jepsen_checker::Position;
use jepsen_checker::lock_checks::{LockEvent, TokenScope};
use serde::{Deserialize, Serialize};

pub(crate) use client_process::{ClientHandle, ClientProcess, serve as serve_client};
pub(crate) use lease::Lease;

use crate::run_directory::NodeSample;

/// How a lock is to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    /// Alone.
    Exclusive,
    /// Beside other sharers.
    Shared,
    /// So many permits of so many.
    Permits {
        /// How many.
        permits: u32,
        /// How many there are.
        limit: u32,
    },
}

/// One lock of an acquire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    /// Which.
    pub(crate) lock: String,
    /// How.
    pub(crate) mode: Mode,
}

impl Ask {
    /// To hold a lock alone.
    pub(crate) fn exclusive(lock: &str) -> Self {
        Ask {
            lock: lock.to_owned(),
            mode: Mode::Exclusive,
        }
    }
}

/// Something that a client asks for. One attempt of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    /// To hold all of these, now or within the wait.
    Acquire {
        /// What.
        locks: Vec<Ask>,
        /// By which lease; made by this call if there is none.
        lease: Lease,
        /// The lease's time to live.
        ttl_ms: u64,
        /// How long to wait.
        wait_ms: u64,
        /// The client's name for the request.
        request: String,
        /// What to show with the lock.
        value: Option<String>,
    },
    /// To renew a lease.
    Renew {
        /// Which.
        lease: Lease,
    },
    /// To give up what is held under these tokens.
    Release {
        /// By which lease.
        lease: Lease,
        /// Lock and token of each.
        held: Vec<(String, Option<u64>)>,
    },
    /// To take a request back.
    Cancel {
        /// Of which lease.
        lease: Lease,
        /// Which.
        request: String,
        /// The lock that it asked for, if it is one.
        lock: Option<String>,
    },
    /// To end a lease and all that it holds.
    Revoke {
        /// Which.
        lease: Lease,
    },
    /// To change what is shown with a lock.
    Update {
        /// By which lease.
        lease: Lease,
        /// Which lock.
        lock: String,
        /// Under which token.
        token: u64,
        /// What.
        value: String,
    },
    /// To see who holds a lock now: a linearizable read.
    Read {
        /// Which.
        lock: String,
    },
}

/// What was answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// What became of the call.
    pub(crate) ending: Ending,
    /// The position in the log that the answer names.
    pub(crate) position: Option<Position>,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ending {
    /// It was done.
    Done(Reply),
    /// It was not done and will not be.
    Refused {
        /// The system's code: `lock_held`, `no_leader`, `connection_refused`.
        code: String,
        /// More of it: `held`, `queued`.
        reason: Option<String>,
    },
    /// Nobody knows, and why.
    Unknown(String),
}

impl Answer {
    /// A refusal without a position.
    pub(crate) fn refused(code: &str) -> Self {
        Answer {
            ending: Ending::Refused {
                code: code.to_owned(),
                reason: None,
            },
            position: None,
        }
    }

    /// An outcome that nobody knows.
    pub(crate) fn unknown(why: impl Into<String>) -> Self {
        Answer {
            ending: Ending::Unknown(why.into()),
            position: None,
        }
    }
}

/// A call that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The locks are held.
    Granted {
        /// Lock and token of each; without a token, of systems that have none.
        held: Vec<(String, Option<u64>)>,
        /// The lease's time to live.
        ttl_ms: u64,
    },
    /// The request still waits.
    Waiting,
    /// The lease lives on.
    Renewed {
        /// Its time to live.
        ttl_ms: u64,
    },
    /// It is not held any more.
    Released {
        /// Whether this call did it.
        was_held: bool,
    },
    /// The request neither holds nor waits.
    Cancelled {
        /// Whether it had been granted and this call ended that.
        released: bool,
    },
    /// The lease has ended.
    Revoked,
    /// The value is shown.
    Updated,
    /// Who holds.
    Holders(Vec<HolderSeen>),
}

/// A holder that a read saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HolderSeen {
    /// Its lease, by the name in the history.
    pub(crate) lease: String,
    /// Its token.
    pub(crate) token: Option<u64>,
    /// What it shows.
    pub(crate) value: Option<String>,
}

/// Parts of the vocabulary that not every system has. A workload names what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Feature {
    /// Grants carry fencing tokens.
    Tokens,
    /// Leases can be renewed.
    Renew,
    /// An acquire can wait.
    Wait,
    /// A request can be repeated and taken back by its id.
    Requests,
    /// Shared mode.
    Shared,
    /// Permits.
    Permits,
    /// Several locks in one request.
    SeveralLocks,
    /// A value can be attached and changed.
    Update,
    /// Holders can be read, linearizably.
    Read,
    /// Streams of events.
    Events,
}

impl Feature {
    /// What a system that lacks it has none of.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Feature::Tokens => "fencing tokens",
            Feature::Renew => "renewal of leases",
            Feature::Wait => "acquire that waits",
            Feature::Requests => "request ids",
            Feature::Shared => "shared mode",
            Feature::Permits => "permits",
            Feature::SeveralLocks => "requests for several locks",
            Feature::Update => "values that can be changed",
            Feature::Read => "linearizable reads of holders",
            Feature::Events => "streams of events",
        }
    }
}

/// Things that not every system lets be done to its nodes. A fault names what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Ability {
    /// Nodes talk to each other.
    Peers,
    /// Somebody leads, and it can be found out who.
    Leader,
    /// The leadership can be handed over.
    Transfer,
    /// Members can be added and removed.
    Membership,
    /// Snapshots can be asked for.
    Snapshot,
    /// It reads its clocks by the C library, so that a library can tell it another time.
    LibcClocks,
    /// It survives power cuts, stops when a sync fails, and refuses damaged data.
    Durable,
}

/// Where a node is, and what it has.
#[derive(Clone, Debug)]
pub(crate) struct NodePlan {
    /// Its name.
    pub(crate) name: String,
    /// Where it serves clients.
    pub(crate) client: SocketAddr,
    /// Where it serves its peers.
    pub(crate) peer: SocketAddr,
    /// Under which address its peers dial it.
    pub(crate) advertised_peer: SocketAddr,
    /// Its data.
    pub(crate) data: PathBuf,
    /// Where it writes down what it applies, for systems that can.
    pub(crate) applied: PathBuf,
}

/// A client's way to each node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ClientLinks {
    /// The address that it sends from, if that is told from others'.
    pub(crate) from: Option<IpAddr>,
    /// What it dials, by the node's number.
    pub(crate) nodes: Vec<SocketAddr>,
}

/// How a node comes into its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is of the first ones: these.
    Founds(Vec<SocketAddr>),
    /// It joins through these.
    Joins(Vec<SocketAddr>),
}

/// What an adapter does.
pub(crate) trait System: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Looks whether it is there: its version, or what to do about it.
    fn probe(&self) -> Result<String, String>;

    /// The binary that nodes run.
    fn binary(&self) -> PathBuf;

    /// How many nodes it runs of so many that were asked for; why it cannot run so many.
    fn nodes(&self, asked: usize) -> Result<usize, String> {
        Ok(asked)
    }

    /// The command that starts a node, its environment included.
    fn command(&self, node: &NodePlan, origin: &Origin) -> Command;

    /// What can be asked of it, once it runs.
    fn features<'a>(&'a self, node: SocketAddr) -> BoxFuture<'a, Vec<Feature>>;

    /// What can be done to it.
    fn abilities(&self) -> &'static [Ability];

    /// How tokens rise, where there are some.
    fn token_scope(&self) -> TokenScope;

    /// Whether a node serves.
    fn ready<'a>(&'a self, node: SocketAddr) -> BoxFuture<'a, bool>;

    /// What a node says of itself; `None` when it does not answer in time.
    fn sample<'a>(&'a self, node: &'a NodePlan) -> BoxFuture<'a, Option<NodeSample>>;

    /// Does to a running node what [`Ability`] says.
    fn administer<'a>(
        &'a self,
        node: SocketAddr,
        action: &'a Action,
    ) -> BoxFuture<'a, Result<(), String>>;
}

/// What can be asked of a node by its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Hand the leadership over, to this node by name or to anybody.
    Transfer(Option<String>),
    /// Take a snapshot.
    Snapshot,
    /// Take the member of this name out.
    Remove(String),
}

/// One client's way to a system.
pub(crate) trait Client: Send {
    /// One attempt at one node, within the time; the wait of an acquire comes on top.
    fn call<'a>(
        &'a mut self,
        node: usize,
        call: &'a Call,
        timeout: Duration,
    ) -> BoxFuture<'a, Answer>;

    /// Listens at one node to what happens to all locks, for so long: behind the place that a
    /// [`Watched`] named, or from now on. Systems without [`Feature::Events`] cannot be asked.
    fn watch<'a>(
        &'a mut self,
        _node: usize,
        _after: Option<&'a str>,
        _lasts: Duration,
    ) -> BoxFuture<'a, Watched> {
        let ending = WatchEnding::Broken("the system has no events".to_owned());
        Box::pin(std::future::ready(Watched::nothing(ending)))
    }
}

/// What a listener was told.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// Events and their places, in the order in which they came.
    pub(crate) events: Vec<(LockEvent, String)>,
    /// Where to go on.
    pub(crate) place: Option<String>,
    /// Why it ended.
    pub(crate) ending: WatchEnding,
}

impl Watched {
    /// Nothing was told.
    fn nothing(ending: WatchEnding) -> Self {
        Watched {
            events: Vec::new(),
            place: None,
            ending,
        }
    }
}

/// Why a listener was told no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WatchEnding {
    /// The time was over.
    Over,
    /// The place is not kept any more: there is nothing to go on from.
    Gone,
    /// The node refused, or the stream ended or broke.
    Broken(String),
}

/// The adapters by name, in the order in which people should read them.
pub(crate) const NAMES: [&str; 3] = ["palisade", "etcd", "redis"];

/// An adapter.
pub(crate) fn by_name(name: &str, binary: Option<PathBuf>) -> Result<Arc<dyn System>, String> {
    match name {
        "palisade" => Ok(Arc::new(palisade::Palisade::find(binary)?)),
        "etcd" => Ok(Arc::new(etcd::Etcd::find(binary)?)),
        "redis" => Ok(Arc::new(redis::Redis::find(binary)?)),
        other => Err(format!(
            "there is no system {other:?}; there are {}",
            NAMES.join(", ")
        )),
    }
}

/// A client of the system of this name, that reaches the nodes by these links alone. A process of its own
/// makes it: it has what the links say, and the adapter's constants.
fn client_of(name: &str, links: ClientLinks) -> Result<Box<dyn Client>, String> {
    match name {
        "palisade" => palisade::client(links),
        "etcd" => etcd::client(links),
        "redis" => Ok(redis::client(links)),
        other => Err(format!("there is no system {other:?}")),
    }
}

/// A program by name: in `PATH`, and where Debian puts daemons.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// The first line that a program prints when it is asked for its version.
fn version_line(program: &std::path::Path, argument: &str) -> Result<String, String> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .map_err(|error| format!("{} cannot be started: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if output.status.success() => Ok(line.trim().to_owned()),
        _ => Err(format!(
            "{} {argument} ended with {} and does not say what it is",
            program.display(),
            output.status
        )),
    }
}
