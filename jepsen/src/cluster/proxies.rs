//! The network of a cluster on loopback: a TCP proxy on every link from a node to a node and from a
//! client to a node, with rules for each direction. It never sees what is said on a link, nor packets.
//!
//! Stopped bytes are kept back, as TCP would keep and resend them, and delivered when the rule ends. All
//! nodes dial the same address of a peer; which node dials is asked of its neighbour, `dialers`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::dialers::Dialers;
use super::links::{End, Layout, NodeAddresses, Rule, Rules};
use crate::system::ClientLinks;

/// Rules by direction, and which nodes are up.
#[derive(Clone, Debug, Default)]
struct State {
    rules: Rules,
    /// Nodes that run.
    up: HashSet<usize>,
    /// By node: the id of its process, also of one that is ending.
    pids: HashMap<usize, u32>,
}

impl State {
    fn rule(&self, from: End, to: End) -> Rule {
        self.rules.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Whether a connection between the two must not be.
    fn resets(&self, one: End, other: End) -> bool {
        self.rule(one, other) == Rule::Reset || self.rule(other, one) == Rule::Reset
    }
}

/// The proxies of a cluster. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Proxies {
    state: Arc<watch::Sender<State>>,
    dialers: Arc<Dialers>,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// Keep the ports from other runs.
    _claims: Vec<UdpSocket>,
    seed: u64,
}

impl Proxies {
    /// No links yet.
    fn new(claims: Vec<UdpSocket>, seed: u64) -> Self {
        Proxies {
            _claims: claims,
            state: Arc::new(watch::Sender::new(State::default())),
            dialers: Arc::default(),
            tasks: Mutex::new(Vec::new()),
            seed,
        }
    }

    /// Links between all nodes, and from all clients to all nodes.
    pub(super) fn build(nodes: usize, clients: usize, seed: u64) -> io::Result<(Self, Layout)> {
        let (ports, claims) = free_ports(nodes * 3 + nodes * clients)?;
        let mut ports = ports
            .into_iter()
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let mut next = || {
            ports
                .next()
                .ok_or_else(|| io::Error::other("too few ports"))
        };
        let proxies = Proxies::new(claims, seed);
        let mut layout = Layout::default();
        for number in 0..nodes {
            let node = NodeAddresses {
                client: next()?,
                peer: next()?,
                advertised_peer: next()?,
            };
            proxies.link(None, number, node.advertised_peer, node.peer);
            layout.nodes.push(node);
        }
        for client in 0..clients {
            let mut links = ClientLinks::default();
            for (number, node) in layout.nodes.iter().enumerate() {
                let listen = next()?;
                proxies.link(Some(End::Client(client)), number, listen, node.client);
                links.nodes.push(listen);
            }
            layout.clients.push(links);
        }
        Ok((proxies, layout))
    }

    /// These rules from now on. What no proxy can do is refused before it comes here.
    pub(super) fn set(&self, rules: &Rules) {
        self.state
            .send_modify(|state| state.rules.clone_from(rules));
    }

    /// A node runs as this process, or does not run. While it does not, dialling it is refused.
    pub(super) fn node_is_up(&self, node: usize, pid: Option<u32>) {
        self.state.send_modify(|state| match pid {
            Some(pid) => {
                state.up.insert(node);
                state.pids.insert(node, pid);
            }
            None => {
                state.up.remove(&node);
            }
        });
    }

    /// Forwards what `dialler`, or whichever node dials, sends to `listen`, to the node at `target`.
    fn link(&self, dialler: Option<End>, node: usize, listen: SocketAddr, target: SocketAddr) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let link = Link {
            dialler,
            node,
            listen,
            target,
            state: self.state.clone(),
            dialers: self.dialers.clone(),
            seed: self.seed ^ ((u64::from(listen.port())) << 32),
        };
        tasks.push(tokio::spawn(link.run()));
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        for task in tasks {
            task.abort();
        }
    }
}

#[derive(Clone)]
struct Link {
    dialler: Option<End>,
    node: usize,
    listen: SocketAddr,
    target: SocketAddr,
    state: Arc<watch::Sender<State>>,
    dialers: Arc<Dialers>,
    seed: u64,
}

impl Link {
    async fn run(self) {
        let mut state = self.state.subscribe();
        let mut connections = tokio::task::JoinSet::new();
        let mut number = 0;
        loop {
            let is_up = |state: &State| state.up.contains(&self.node);
            if state.wait_for(is_up).await.is_err() {
                return;
            }
            let Ok(listener) = TcpListener::bind(self.listen).await else {
                // An outgoing connection of somebody may have the port for a moment.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, from)) = accepted else { continue };
                        number += 1;
                        connections.spawn(self.clone().connection(stream, from, number));
                    }
                    down = state.wait_for(|state| !is_up(state)) => {
                        if down.is_err() {
                            return;
                        }
                        break;
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        }
    }

    async fn connection(self, near: TcpStream, from: SocketAddr, number: u64) {
        let mut state = self.state.subscribe();
        let Some(dialler) = self.who_dials(from).await else {
            return reset(&near);
        };
        let node = End::Node(self.node);
        // A connection that nothing may pass is not even made at the far end.
        let may_begin = |state: &State| {
            let stopped = |rule| matches!(rule, Rule::Blackhole | Rule::HalfOpen);
            state.resets(dialler, node) || !stopped(state.rule(dialler, node))
        };
        match state.wait_for(may_begin).await {
            Ok(now) if !now.resets(dialler, node) => {}
            _ => return reset(&near),
        }
        let Ok(far) = TcpStream::connect(self.target).await else {
            return reset(&near);
        };
        // Both ends are on this machine: without this small pieces wait for each other.
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let seed = self.seed ^ number;
        let there = Pump::new(&self.state, dialler, node, seed).run(&near, &far);
        let back = Pump::new(&self.state, node, dialler, !seed).run(&far, &near);
        let mut cut = self.state.subscribe();
        let is_cut = |state: &State| {
            let half_open = |from, to| state.rule(from, to) == Rule::HalfOpen;
            state.resets(dialler, node) || half_open(dialler, node) || half_open(node, dialler)
        };
        let both = async { tokio::join!(there, back) };
        let cut_as = tokio::select! {
            _ = both => None,
            cut = cut.wait_for(is_cut) => cut.ok().map(|state| state.resets(dialler, node)),
        };
        match cut_as {
            None => {}
            Some(true) => [&near, &far].into_iter().for_each(reset),
            Some(false) => {
                // The node's end is told; the dialler sends into nothing.
                reset(&far);
                drop(far);
                swallow(&near, &mut cut, is_cut).await;
                reset(&near);
            }
        }
    }

    /// Which node has the other end of this connection.
    async fn who_dials(&self, from: SocketAddr) -> Option<End> {
        if self.dialler.is_some() {
            return self.dialler;
        }
        let nodes = || {
            let state = self.state.borrow();
            let mut nodes: Vec<_> = state.pids.iter().map(|(node, pid)| (*node, *pid)).collect();
            nodes.sort_unstable();
            nodes
        };
        let ends = (from.port(), self.listen.port());
        self.dialers.who(ends, nodes).await.map(End::Node)
    }
}

/// Closing it answers with RST instead of FIN.
fn reset(stream: &TcpStream) {
    // If the socket is gone already there is nothing to reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => bytes = bytes.get(written?..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// Reads and forgets, until the rule ends or the dialler does.
async fn swallow(
    stream: &TcpStream,
    state: &mut watch::Receiver<State>,
    is_cut: impl Fn(&State) -> bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            _ = state.wait_for(|state| !is_cut(state)) => return,
            read = read(stream, &mut buffer) => {
                if !matches!(read, Ok(1..)) {
                    return;
                }
            }
        }
    }
}

/// One direction of one connection.
struct Pump {
    state: watch::Receiver<State>,
    from: End,
    to: End,
    rng: StdRng,
}

impl Pump {
    fn new(state: &watch::Sender<State>, from: End, to: End, seed: u64) -> Self {
        Pump {
            state: state.subscribe(),
            from,
            to,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    async fn run(mut self, input: &TcpStream, output: &TcpStream) {
        const PIECE: usize = 16 * 1024;
        // Delayed pieces are on their way side by side, as on a long wire.
        let (late, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(64);
        let (from, to) = (self.from, self.to);
        let mut state = self.state.clone();
        let reading = async move {
            let mut last = Instant::now();
            loop {
                let mut piece = vec![0; PIECE];
                let Ok(length @ 1..) = read(input, &mut piece).await else {
                    return;
                };
                piece.truncate(length);
                let delay = match self.state.borrow().rule(from, to) {
                    Rule::Delay { least, jitter } => {
                        least + jitter.mul_f64(self.rng.random_range(0.0..=1.0))
                    }
                    _ => Duration::ZERO,
                };
                // A stream keeps its order.
                last = last.max(Instant::now() + delay);
                if late.send((last, piece)).await.is_err() {
                    return;
                }
            }
        };
        let writing = async move {
            while let Some((at, piece)) = due.recv().await {
                if at > Instant::now() {
                    tokio::time::sleep_until(at).await;
                }
                let passes = |state: &State| {
                    !matches!(state.rule(from, to), Rule::Blackhole | Rule::HalfOpen)
                };
                if state.wait_for(passes).await.is_err() || write_all(output, &piece).await.is_err()
                {
                    return;
                }
            }
            // The far end hears the end of the stream after everything before it.
            let passes = |state: &State| state.rule(from, to) != Rule::Blackhole;
            let _ = state.wait_for(passes).await;
            let _ = SockRef::from(output).shutdown(std::net::Shutdown::Write);
        };
        tokio::join!(reading, writing);
    }
}

/// Ports of loopback that nobody listens on, below the range that outgoing connections get theirs from:
/// a node that is down must find its port free when it comes back. Another run beside this one would find
/// it free, too, so each is claimed by a UDP socket of the same number, which is in nobody's way.
fn free_ports(count: usize) -> io::Result<(Vec<u16>, Vec<UdpSocket>)> {
    const LOWEST: u16 = 10_000;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let end = range
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
        .max(LOWEST + 1_000);
    let (mut ports, mut claims) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..10_000 {
        if ports.len() == count {
            return Ok((ports, claims));
        }
        let port = rand::random_range(LOWEST..end);
        let address = (Ipv4Addr::LOCALHOST, port);
        if let (Ok(claim), Ok(_)) = (
            UdpSocket::bind(address),
            std::net::TcpListener::bind(address),
        ) {
            ports.push(port);
            claims.push(claim);
        }
    }
    Err(io::Error::other(format!(
        "there are no {count} free ports from {LOWEST} to {end} on loopback"
    )))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// An echo server behind a link of client 0, and a client's connection to it.
    async fn echo() -> (Proxies, SocketAddr) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut input, mut output) = stream.split();
                    let _ = tokio::io::copy(&mut input, &mut output).await;
                });
            }
        });
        let (ports, claims) = free_ports(1).unwrap();
        let (network, port) = (Proxies::new(claims, 1), ports[0]);
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        network.node_is_up(0, Some(std::process::id()));
        network.link(Some(End::Client(0)), 0, listen, target);
        (network, listen)
    }

    async fn dial(listen: SocketAddr) -> TcpStream {
        loop {
            if let Ok(stream) = TcpStream::connect(listen).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn says(stream: &mut TcpStream, word: &[u8; 4]) -> io::Result<()> {
        stream.write_all(word).await?;
        hears(stream, word).await
    }

    async fn hears(stream: &mut TcpStream, word: &[u8; 4]) -> io::Result<()> {
        let mut heard = [0; 4];
        let read = stream.read_exact(&mut heard);
        tokio::time::timeout(Duration::from_secs(10), read).await??;
        assert_eq!(&heard, word);
        Ok(())
    }

    #[tokio::test]
    async fn what_a_black_hole_kept_back_arrives_when_it_ends() {
        for (from, to) in [
            (End::Client(0), End::Node(0)),
            (End::Node(0), End::Client(0)),
        ] {
            let (network, listen) = echo().await;
            let mut stream = dial(listen).await;
            says(&mut stream, b"one ").await.unwrap();
            network.set(&Rules::from([((from, to), Rule::Blackhole)]));
            stream.write_all(b"two ").await.unwrap();
            let mut nothing = [0];
            let quiet = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut nothing));
            assert!(quiet.await.is_err(), "{from:?} to {to:?} passed");
            network.set(&Rules::new());
            hears(&mut stream, b"two ").await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_reset_link_ends_connections_and_lets_none_begin() {
        let (network, listen) = echo().await;
        let mut stream = dial(listen).await;
        says(&mut stream, b"one ").await.unwrap();
        network.set(&Rules::from([(
            (End::Node(0), End::Client(0)),
            Rule::Reset,
        )]));
        assert!(hears(&mut stream, b"none").await.is_err());
        let mut other = dial(listen).await;
        assert!(says(&mut other, b"none").await.is_err());
        network.set(&Rules::new());
        says(&mut dial(listen).await, b"two ").await.unwrap();
    }

    #[tokio::test]
    async fn a_half_open_connection_looks_alive_until_it_is_reset_in_the_end() {
        let (network, listen) = echo().await;
        let mut stream = dial(listen).await;
        says(&mut stream, b"one ").await.unwrap();
        network.set(&Rules::from([(
            (End::Client(0), End::Node(0)),
            Rule::HalfOpen,
        )]));
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(b"two ").await.unwrap();
        let mut nothing = [0];
        let quiet = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut nothing));
        assert!(quiet.await.is_err());
        network.set(&Rules::new());
        assert!(hears(&mut stream, b"none").await.is_err());
    }

    #[test]
    fn a_port_of_a_node_that_is_down_is_not_given_to_another_run() {
        let (ports, claims) = free_ports(50).unwrap();
        let beside = UdpSocket::bind((Ipv4Addr::LOCALHOST, ports[0]));
        assert!(beside.is_err(), "{ports:?}");
        drop(claims);
        UdpSocket::bind((Ipv4Addr::LOCALHOST, ports[0])).unwrap();
    }

    #[tokio::test]
    async fn a_node_that_is_down_refuses_connections() {
        let (network, listen) = echo().await;
        drop(dial(listen).await);
        network.node_is_up(0, None);
        let refused = async {
            while TcpStream::connect(listen).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), refused)
            .await
            .unwrap();
    }
}
