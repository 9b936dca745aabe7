//! A cluster of network namespaces: every node has one, with an address of its own, and a router between
//! them drops packets. It has no proxies, so what a fault does to a connection is the kernel's TCP's doing.
//!
//! ```text
//! the harness  10.77.0.2, client C from 10.77.0.(100+C) --- 10.77.0.1  router  10.77.N.1 --- 10.77.N.2  node N
//! ```
//!
//! The router is a namespace of its own with one nftables chain, which every packet passes on its way:
//! dropped by the sender's own rules it would be told, which no network does. All namespaces are open
//! files of the harness and have no names, so the kernel takes them away when the harness ends, however.

mod ruleset;
mod tools;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::links::{Layout, NodeAddresses, Rules, Treatment};
use super::{End, Rule};
use crate::system::ClientLinks;
use tools::{Namespace, ip, nft, ss};

pub(crate) use tools::isolate;

/// Where every node serves clients.
const CLIENT_PORT: u16 = 7101;
/// Where every node serves its peers.
const PEER_PORT: u16 = 7201;
/// The router's end of each of its links.
const NEAR: u8 = 1;
/// The other end.
const FAR: u8 = 2;

/// Nodes' namespaces and the router between them.
#[derive(Debug)]
pub(super) struct Namespaces {
    router: Namespace,
    nodes: Vec<Namespace>,
}

/// An address on the link of a number: 0 is the harness's, the next are the nodes'.
fn on_link(link: usize, host: u8) -> Ipv4Addr {
    // At most 12 nodes and 100 clients: the command line's bounds.
    let link = u8::try_from(link).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, 77, link, host)
}

fn address(end: End) -> Ipv4Addr {
    match end {
        End::Node(node) => on_link(node + 1, FAR),
        End::Client(client) => on_link(0, u8::try_from(100 + client).unwrap_or(u8::MAX)),
    }
}

impl Namespaces {
    /// All of it. The calling thread must be in a network namespace of its own: [`isolate`].
    pub(super) async fn build(nodes: usize, clients: usize) -> Result<(Self, Layout), String> {
        let forwards = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
        let router = Namespace::new(forwards)?;
        let mut own = format!(
            "link set lo up\n\
             link add name router type veth peer name link0 netns {}\n\
             addr add {}/24 dev router\n",
            router.path(),
            on_link(0, FAR),
        );
        let clients = 0..clients;
        for client in clients.clone() {
            own += &format!("addr add {}/24 dev router\n", address(End::Client(client)));
        }
        own += &format!(
            "link set router up\nroute add default via {}\n",
            on_link(0, NEAR)
        );
        let mut namespaces = Namespaces {
            router,
            nodes: Vec::new(),
        };
        ip(None, &own).await?;
        namespaces.connect(0).await?;
        let mut layout = Layout::default();
        for node in 0..nodes {
            let namespace = Namespace::new(|| Ok(()))?;
            let link = node + 1;
            let add = format!(
                "link add name link{link} type veth peer name router netns {}\n",
                namespace.path()
            );
            ip(Some(&namespaces.router), &add).await?;
            namespaces.connect(link).await?;
            let far = format!(
                "link set lo up\naddr add {}/24 dev router\nlink set router up\nroute add default via {}\n",
                on_link(link, FAR),
                on_link(link, NEAR)
            );
            ip(Some(&namespace), &far).await?;
            namespaces.nodes.push(namespace);
            let address = IpAddr::from(on_link(link, FAR));
            let peer = SocketAddr::new(address, PEER_PORT);
            layout.nodes.push(NodeAddresses {
                client: SocketAddr::new(address, CLIENT_PORT),
                peer,
                advertised_peer: peer,
            });
        }
        let serving: Vec<SocketAddr> = layout.nodes.iter().map(|node| node.client).collect();
        layout.clients.extend(clients.map(|client| ClientLinks {
            from: Some(address(End::Client(client)).into()),
            nodes: serving.clone(),
        }));
        namespaces.set(&Rules::new()).await?;
        Ok((namespaces, layout))
    }

    /// The router's end of a link.
    async fn connect(&self, link: usize) -> Result<(), String> {
        let near = format!(
            "addr add {}/24 dev link{link}\nlink set link{link} up\n",
            on_link(link, NEAR)
        );
        ip(Some(&self.router), &near).await
    }

    /// These rules from now on, all at once.
    pub(super) async fn set(&self, rules: &Rules) -> Result<(), String> {
        nft(&self.router, &["-f", "-"], &ruleset::text(rules, address)?).await?;
        for (node, namespace) in self.nodes.iter().enumerate() {
            let lost = rules
                .iter()
                .filter(|((_, to), rule)| *to == End::Node(node) && **rule == Rule::HalfOpen)
                .map(|((from, _), _)| format!("dst {}", address(*from)));
            let lost: Vec<String> = lost.collect();
            if !lost.is_empty() {
                // What this end has to say of it is dropped on its way.
                let lost = lost.join(" or ");
                let words = ["-K", "-t"].into_iter().chain(lost.split(' '));
                ss(Some(namespace), &words.collect::<Vec<_>>()).await?;
            }
        }
        Ok(())
    }

    /// How many packets rules have dropped or refused since they were set.
    pub(super) async fn packets_met(&self) -> Result<u64, String> {
        let text = nft(&self.router, &ruleset::COUNTER, "").await?;
        ruleset::counted(&text).ok_or_else(|| format!("nft lists a counter as {text:?}"))
    }

    /// Has a command run in a node's namespace.
    pub(super) fn enter(&self, node: usize, command: &mut Command) {
        if let Some(namespace) = self.nodes.get(node) {
            namespace.enter(command);
        }
    }
}

/// Builds a small network elsewhere and tries what faults need: why this machine can do none of it; or
/// which treatments it cannot give, and why. The calling thread must be [isolated](isolate).
pub(crate) fn probe() -> Result<Vec<(Treatment, String)>, String> {
    let thread = std::thread::spawn(|| {
        isolate()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime
            .map_err(|error| error.to_string())?
            .block_on(probe_here())
    });
    let probed = thread.join();
    probed.unwrap_or_else(|_| Err("a thread panicked".to_owned()))
}

async fn probe_here() -> Result<Vec<(Treatment, String)>, String> {
    let (namespaces, _) = Namespaces::build(1, 1).await?;
    let rule = |rule| Rules::from([((End::Client(0), End::Node(0)), rule)]);
    for basic in [Rule::Blackhole, Rule::Reset] {
        namespaces.set(&rule(basic)).await?;
    }
    namespaces.packets_met().await?;
    let mut lacks = Vec::new();
    if let Err(why) = namespaces.set(&rule(Rule::Loss { percent: 1 })).await {
        lacks.push((Treatment::Loss, why));
    }
    if let Err(why) = probe_half_open().await {
        lacks.push((Treatment::HalfOpen, why));
    }
    Ok(lacks)
}

/// Whether a connection can be ended from outside.
async fn probe_half_open() -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(words)?;
    let mut near = TcpStream::connect(listener.local_addr().map_err(words)?).map_err(words)?;
    let (mut far, from) = listener.accept().map_err(words)?;
    near.write_all(b"x").map_err(words)?;
    let port = from.port().to_string();
    ss(None, &["-K", "-t", "dport", "=", &port]).await?;
    far.set_read_timeout(Some(Duration::from_secs(5)))
        .map_err(words)?;
    let mut heard = Vec::new();
    match far.read_to_end(&mut heard) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => Ok(()),
        other => Err(format!("ss -K ends no connection here: {other:?}")),
    }
}

#[cfg(test)]
mod tests;
