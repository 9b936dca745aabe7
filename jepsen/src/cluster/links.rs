//! The network of a cluster, whichever backend carries it: who is at its ends, and what may be done to
//! what passes from one end to another. A rule governs one direction, whoever dialled: what a node answers
//! to its peer is stopped by the rule of its own direction. Nothing here knows faults by name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::namespaces::Namespaces;
use super::proxies::Proxies;
use crate::system::ClientLinks;

/// An end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum End {
    /// A node, by its number.
    Node(usize),
    /// A client, by its number.
    Client(usize),
}

/// What happens to what is sent in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rule {
    /// It passes.
    #[default]
    Pass,
    /// Nothing passes until another rule is set; connections look alive.
    Blackhole,
    /// Each piece is late by so much, and up to so much more.
    Delay {
        /// At least.
        least: Duration,
        /// Added at random, up to this.
        jitter: Duration,
    },
    /// So many of a hundred packets are dropped, at random.
    Loss {
        /// From 1 to 99.
        percent: u8,
    },
    /// Connections are reset, and new ones too.
    Reset,
    /// The far end is gone, and this one is not told: what is sent is swallowed. When the rule ends the
    /// connection is reset.
    HalfOpen,
}

/// What a rule takes that not every backend has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Treatment {
    /// To be late.
    Delay,
    /// To lose single packets.
    Loss,
    /// To end connections at one end only.
    HalfOpen,
}

impl Rule {
    /// What it takes, if that is anything special.
    fn takes(self) -> Option<Treatment> {
        match self {
            Rule::Delay { .. } => Some(Treatment::Delay),
            Rule::Loss { .. } => Some(Treatment::Loss),
            Rule::HalfOpen => Some(Treatment::HalfOpen),
            Rule::Pass | Rule::Blackhole | Rule::Reset => None,
        }
    }
}

/// Rules by direction, but for those that let everything pass.
pub(super) type Rules = BTreeMap<(End, End), Rule>;

/// How nodes and links are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Backend {
    /// Processes on loopback, with a TCP proxy on every link
    Processes,
    /// A network namespace for each node, and packets that are dropped: Linux, as root or where
    /// unprivileged users may make user namespaces
    Namespaces,
}

impl Backend {
    /// All of them.
    pub(crate) const ALL: [Backend; 2] = [Backend::Processes, Backend::Namespaces];

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Processes => "processes",
            Backend::Namespaces => "namespaces",
        }
    }

    /// Why it can never treat a link like that.
    pub(crate) fn lacks(self, treatment: Treatment) -> Option<&'static str> {
        match (self, treatment) {
            (Backend::Processes, Treatment::Loss) => Some("its proxies see no packets"),
            (Backend::Namespaces, Treatment::Delay) => {
                Some("nftables drops packets and delays none")
            }
            _ => None,
        }
    }
}

/// Where a node serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeAddresses {
    /// Clients.
    pub(super) client: SocketAddr,
    /// Its peers.
    pub(super) peer: SocketAddr,
    /// What its peers dial.
    pub(super) advertised_peer: SocketAddr,
}

/// Who is where.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    /// By number.
    pub(super) nodes: Vec<NodeAddresses>,
    /// By number.
    pub(super) clients: Vec<ClientLinks>,
}

#[derive(Debug)]
enum Carrier {
    Proxies(Proxies),
    Namespaces(Namespaces),
}

/// The links of a cluster. Dropping it ends them, and leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Network {
    carrier: Carrier,
    rules: Mutex<Rules>,
}

impl Network {
    /// Links between all nodes, and from all clients to all nodes; everything passes.
    pub(super) async fn build(
        backend: Backend,
        nodes: usize,
        clients: usize,
        seed: u64,
    ) -> Result<(Self, Layout), String> {
        let (carrier, layout) = match backend {
            Backend::Processes => {
                let built = Proxies::build(nodes, clients, seed);
                let (proxies, layout) = built.map_err(|error| error.to_string())?;
                (Carrier::Proxies(proxies), layout)
            }
            Backend::Namespaces => {
                let (namespaces, layout) = Namespaces::build(nodes, clients).await?;
                (Carrier::Namespaces(namespaces), layout)
            }
        };
        let network = Network {
            carrier,
            rules: Mutex::default(),
        };
        Ok((network, layout))
    }

    /// Sets the rule of one direction, from the next [`Network::apply`] on.
    pub(crate) fn set(&self, from: End, to: End, rule: Rule) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if rule == Rule::Pass {
            rules.remove(&(from, to));
        } else {
            rules.insert((from, to), rule);
        }
    }

    /// Puts what was set into effect, all of it at once. If that fails, everything passes again.
    ///
    /// # Errors
    /// What could not be done; also, that afterwards the links could not be mended.
    pub(crate) async fn apply(&self) -> Result<(), String> {
        let rules = {
            let rules = self.rules.lock();
            rules.unwrap_or_else(PoisonError::into_inner).clone()
        };
        let failed = match self.put(&rules).await {
            Ok(()) => return Ok(()),
            Err(why) => why,
        };
        match self.heal_all().await {
            Ok(_) => Err(failed),
            Err(why) => Err(format!(
                "{failed}; and the links could not be mended: {why}"
            )),
        }
    }

    async fn put(&self, rules: &Rules) -> Result<(), String> {
        let backend = match &self.carrier {
            Carrier::Proxies(_) => Backend::Processes,
            Carrier::Namespaces(_) => Backend::Namespaces,
        };
        let lacks = |rule: &Rule| rule.takes().and_then(|treatment| backend.lacks(treatment));
        if let Some(why) = rules.values().find_map(lacks) {
            return Err(why.to_owned());
        }
        match &self.carrier {
            Carrier::Proxies(proxies) => {
                proxies.set(rules);
                Ok(())
            }
            Carrier::Namespaces(namespaces) => namespaces.set(rules).await,
        }
    }

    /// Lets everything pass. How many packets a rule met since it was set, where packets are counted.
    ///
    /// # Errors
    /// The links could not be mended.
    pub(crate) async fn heal_all(&self) -> Result<Option<u64>, String> {
        {
            let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
            rules.clear();
        }
        match &self.carrier {
            Carrier::Proxies(proxies) => {
                proxies.set(&Rules::new());
                Ok(None)
            }
            Carrier::Namespaces(namespaces) => {
                let met = namespaces.packets_met().await;
                namespaces.set(&Rules::new()).await?;
                met.map(Some)
            }
        }
    }

    /// Has a command run where the node is.
    pub(super) fn enter(&self, node: usize, command: &mut Command) {
        match &self.carrier {
            Carrier::Proxies(_) => {}
            Carrier::Namespaces(namespaces) => namespaces.enter(node, command),
        }
    }

    /// A node runs as this process, or does not run. While it does not, dialling it is refused.
    pub(super) fn node_is_up(&self, node: usize, pid: Option<u32>) {
        match &self.carrier {
            Carrier::Proxies(proxies) => proxies.node_is_up(node, pid),
            // Its system refuses by itself.
            Carrier::Namespaces(_) => {}
        }
    }
}
