//! A counter on three nodes, all in this process: add on any node, read the sum on any other.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::io::{self, Read};
use std::time::{Duration, Instant};

use raft_core::{Config, EntryContext, MachineError, Member, Node, Start, StateMachine};
use tokio::net::TcpListener;

struct Counter(u64);

impl StateMachine for Counter {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, _: EntryContext, add: u64) -> Result<u64, MachineError> {
        self.0 += add;
        Ok(self.0)
    }

    fn freeze(&self) -> raft_core::SnapshotWriter {
        let sum = self.0;
        Box::new(move |out| write!(out, "{sum}"))
    }

    fn restore(&self, snapshot: &mut dyn Read) -> io::Result<Self> {
        let sum = io::read_to_string(snapshot)?;
        sum.parse().map(Self).map_err(io::Error::other)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let (mut listeners, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        peers.push(listener.local_addr()?.to_string());
        listeners.push(listener);
    }
    let starting = listeners.into_iter().zip(&peers).map(|(listener, own)| {
        let start = Start::InitialPeers(peers.clone());
        let config = Config::new(folder.path().join(own), Member::new("node", own), start);
        Node::start(config, listener, Counter(0), ())
    });
    let nodes = futures::future::try_join_all(starting).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    for node in &nodes {
        let sum = node.propose(&10, deadline).await?.response;
        println!("node {} added 10, which made {sum}", node.id());
    }
    for node in &nodes {
        node.read_barrier(deadline).await?;
        let sum = node.read(|counter| counter.0);
        println!("node {} reads {sum}", node.id());
        assert_eq!(sum, 30);
    }
    Ok(())
}
