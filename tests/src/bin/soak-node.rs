//! A node of the soak: `raft-core` with a state machine that keeps what it applied, in order.
//!
//! The driver (`tests::soak`) asks it over a socket and ends it by a signal, or by closing its
//! standard input.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use raft_core::{
    Config, EntryContext, MachineError, Member, MembershipChange, Node, ProposeError,
    SnapshotWriter, Start, StateMachine, SyncPolicy,
};
use tests::soak::{Reply, Request, read, write};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tracing_subscriber::EnvFilter;

/// Few, so that a short run takes snapshots, purges its log and sends snapshots to who lags.
const SNAPSHOT_AFTER_ENTRIES: u64 = 1_000;
const KEEP_ENTRIES: u64 = 200;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    name: String,
    #[arg(long)]
    data: PathBuf,
    /// Where peers reach this node.
    #[arg(long)]
    peer: SocketAddr,
    /// Where the driver does.
    #[arg(long)]
    control: SocketAddr,
    #[arg(long, value_delimiter = ',')]
    initial_peers: Vec<String>,
    #[arg(long, value_delimiter = ',', conflicts_with = "initial_peers")]
    join: Vec<String>,
    #[arg(long)]
    unsafe_no_sync: bool,
    #[arg(long)]
    without_snapshots: bool,
}

/// Proposal and log index, in the order applied. A freeze copies it: long enough for a test.
#[derive(Default)]
struct Sequence(Vec<(u64, u64)>);

impl StateMachine for Sequence {
    type Command = u64;
    type Response = ();

    fn apply(&mut self, entry: EntryContext, id: u64) -> Result<(), MachineError> {
        self.0.push((id, entry.index));
        Ok(())
    }

    fn freeze(&self) -> SnapshotWriter {
        let frozen = self.0.clone();
        Box::new(move |out| {
            for (id, index) in frozen {
                out.write_all(&id.to_le_bytes())?;
                out.write_all(&index.to_le_bytes())?;
            }
            Ok(())
        })
    }

    fn restore(&self, snapshot: &mut dyn Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        snapshot.read_to_end(&mut bytes)?;
        let (pairs, rest) = bytes.as_chunks::<16>();
        if !rest.is_empty() {
            return Err(io::Error::other("a snapshot ends within a pair"));
        }
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let pairs = pairs.iter();
        Ok(Self(
            pairs
                .map(|pair| (number(&pair[..8]), number(&pair[8..])))
                .collect(),
        ))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("PALISADE_LOG").unwrap_or_else(|_| "info".into()))
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    tokio::select! {
        result = run(Arguments::parse()) => match result {
            Ok(why) => tracing::error!("the node has failed: {why}"),
            Err(error) => tracing::error!("cannot run: {error}"),
        },
        () = standard_input_closed() => return ExitCode::SUCCESS,
    }
    ExitCode::FAILURE
}

/// The driver is gone.
async fn standard_input_closed() {
    let (gone, closed) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // An error says as much as an end.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = gone.send(());
    });
    let _ = closed.await;
}

/// Runs until the node fails; returns why.
async fn run(arguments: Arguments) -> Result<String, Box<dyn std::error::Error>> {
    let peer = arguments.peer.to_string();
    let start = match (arguments.initial_peers, arguments.join) {
        (peers, join) if join.is_empty() => Start::InitialPeers(peers),
        (_, join) => Start::Join(join),
    };
    let member = Member::new(arguments.name, peer);
    let mut config = Config::new(arguments.data, member, start);
    config.snapshot_after_entries = match arguments.without_snapshots {
        true => u64::MAX,
        false => SNAPSHOT_AFTER_ENTRIES,
    };
    config.keep_entries = KEEP_ENTRIES;
    if arguments.unsafe_no_sync {
        config.sync = SyncPolicy::Never;
    }
    let peers = TcpListener::bind(arguments.peer).await?;
    let node = Arc::new(Node::start(config, peers, Sequence::default(), ()).await?);
    let control = TcpListener::bind(arguments.control).await?;
    loop {
        tokio::select! {
            accepted = control.accept() => {
                let (stream, _) = accepted?;
                tokio::spawn(serve(stream, node.clone()));
            }
            why = node.failed() => return Ok(why),
        }
    }
}

async fn serve(stream: TcpStream, node: Arc<Node<Sequence>>) {
    let (input, mut output) = stream.into_split();
    let mut input = BufReader::new(input);
    while let Ok(Some(request)) = read(&mut input).await {
        let reply = answer(&node, request).await;
        if write(&mut output, &reply).await.is_err() {
            return;
        }
    }
}

async fn answer(node: &Node<Sequence>, request: Request) -> Reply {
    let within = |limit_ms| Instant::now() + Duration::from_millis(limit_ms);
    match request {
        Request::Propose { id, limit_ms } => match node.propose(&id, within(limit_ms)).await {
            Ok(applied) => Reply::Applied {
                index: applied.index,
            },
            Err(ProposeError::Unknown) => Reply::Unknown,
            Err(refused) => Reply::Refused(refused.to_string()),
        },
        Request::CatchUp { index, limit_ms } => {
            done(node.wait_applied(index, within(limit_ms)).await)
        }
        Request::Dump => Reply::Sequence(node.read(|state| state.0.to_vec())),
        Request::Status => Reply::Status {
            node: node.id().to_string(),
            leads: node.is_leader(),
            votes: node.membership().is_voter(node.id()),
        },
        Request::Remove { node: id, limit_ms } => match id.parse() {
            Ok(id) => {
                let change = MembershipChange::Remove { node: id };
                done(node.change_membership(change, None, within(limit_ms)).await)
            }
            Err(error) => Reply::Refused(error.to_string()),
        },
        Request::Transfer { limit_ms } => {
            done(node.transfer_leadership(None, within(limit_ms)).await)
        }
    }
}

fn done<T>(result: Result<T, impl std::fmt::Display>) -> Reply {
    match result {
        Ok(_) => Reply::Done,
        Err(error) => Reply::Refused(error.to_string()),
    }
}
