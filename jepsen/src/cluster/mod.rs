//! A cluster of real processes on this machine: started, broken and mended node by node. It knows no
//! faults by name and records nothing; it does what it is told and says whether that worked.

mod dialers;
mod links;
mod namespaces;
mod preload;
mod process;
mod proxies;

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use links::{Backend, End, Network, Rule, Treatment};
pub(crate) use namespaces::{isolate, probe as probe_namespaces};
use preload::Preload;
pub(crate) use preload::{find_faketime, find_shim};
pub(crate) use process::{Process, ends_with_this_thread, this_program};

use crate::run_directory::{ClusterSample, NodeSample, RunDirectory};
use crate::system::{ClientLinks, NodePlan, Origin, System};

/// How long a cluster may take until every node serves.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a node may take to end after SIGTERM.
const TERMINATE_LIMIT: Duration = Duration::from_secs(20);

/// One node.
pub(crate) struct Node {
    /// Where it is.
    pub(crate) plan: NodePlan,
    origin: Origin,
    log: std::path::PathBuf,
    /// How long its log was when it was started last, in bytes.
    logged_before: u64,
    process: Option<Process>,
    /// What is loaded into it.
    pub(crate) preload: Preload,
    /// It may end by itself: its disk fails.
    pub(crate) may_end: bool,
}

/// What a node's process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessState {
    /// It runs.
    Running,
    /// It is stopped by SIGSTOP.
    Paused,
    /// There is none.
    Down,
}

impl ProcessState {
    /// As in samples.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ProcessState::Running => "running",
            ProcessState::Paused => "paused",
            ProcessState::Down => "down",
        }
    }
}

/// The nodes, their network and their clients' links.
pub(crate) struct Cluster {
    /// By number. Spare ones are there too, and down.
    pub(crate) nodes: Vec<Node>,
    /// Numbers of the nodes that are members.
    pub(crate) members: Vec<usize>,
    /// The links.
    pub(crate) network: Network,
    /// What runs on the nodes.
    pub(crate) system: Arc<dyn System>,
    /// By client.
    client_links: Vec<ClientLinks>,
    /// What each process does, for those who look on.
    states: Arc<Mutex<Vec<ProcessState>>>,
}

impl Cluster {
    /// Lays out nodes, spare ones, and clients' links, and starts nothing.
    pub(crate) async fn plan(
        system: Arc<dyn System>,
        directory: &RunDirectory,
        backend: Backend,
        members: usize,
        spares: usize,
        clients: usize,
        seed: u64,
    ) -> Result<Self, String> {
        let count = members + spares;
        let (network, layout) = Network::build(backend, count, clients, seed).await?;
        let peers: Vec<SocketAddr> = layout.nodes[..members]
            .iter()
            .map(|node| node.advertised_peer)
            .collect();
        let mut nodes = Vec::with_capacity(count);
        for (number, addresses) in layout.nodes.iter().enumerate() {
            let name = format!("n{}", number + 1);
            let folder = directory.node(&name);
            std::fs::create_dir_all(&folder)
                .map_err(|error| format!("{}: {error}", folder.display()))?;
            let plan = NodePlan {
                client: addresses.client,
                peer: addresses.peer,
                advertised_peer: addresses.advertised_peer,
                data: folder.join("data"),
                applied: folder.join("applied.jsonl"),
                name,
            };
            let origin = match number < members {
                true => Origin::Founds(peers.clone()),
                false => Origin::Joins(peers.clone()),
            };
            nodes.push(Node {
                plan,
                origin,
                log: folder.join("log"),
                logged_before: 0,
                process: None,
                preload: Preload::default(),
                may_end: false,
            });
        }
        Ok(Cluster {
            states: Arc::new(Mutex::new(vec![ProcessState::Down; nodes.len()])),
            nodes,
            members: (0..members).collect(),
            network,
            system,
            client_links: layout.clients,
        })
    }

    /// Has libraries loaded into all nodes from their first start on.
    pub(crate) fn preload(
        &mut self,
        with_cuts: bool,
        faketime: Option<&Path>,
    ) -> Result<(), String> {
        for node in &mut self.nodes {
            node.preload = Preload::new(&node.plan.data, with_cuts, faketime)?;
        }
        Ok(())
    }

    /// A client's way to each node.
    pub(crate) fn links_of(&self, client: usize) -> ClientLinks {
        self.client_links.get(client).cloned().unwrap_or_default()
    }

    /// A node's name.
    pub(crate) fn name(&self, node: usize) -> String {
        self.nodes[node].plan.name.clone()
    }

    /// The names of these, as words.
    pub(crate) fn names(&self, nodes: &[usize]) -> String {
        let names: Vec<String> = nodes.iter().map(|node| self.name(*node)).collect();
        names.join(" ")
    }

    /// What a node's process does.
    pub(crate) fn state(&self, node: usize) -> ProcessState {
        match &self.nodes[node].process {
            None => ProcessState::Down,
            Some(process) if process.is_paused() => ProcessState::Paused,
            Some(_) => ProcessState::Running,
        }
    }

    /// Whether a node has never been started.
    pub(crate) fn is_unused(&self, node: usize) -> bool {
        self.nodes[node].process.is_none() && !self.nodes[node].log.exists()
    }

    /// Members whose process runs.
    pub(crate) fn running(&self) -> Vec<usize> {
        let runs = |node: &usize| self.state(*node) == ProcessState::Running;
        self.members.iter().copied().filter(runs).collect()
    }

    /// Starts a node that is down.
    pub(crate) fn start(&mut self, number: usize) -> Result<(), String> {
        let system = self.system.clone();
        let node = &mut self.nodes[number];
        let mut command = system.command(&node.plan, &node.origin);
        node.preload.prepare(&mut command)?;
        self.network.enter(number, &mut command);
        node.logged_before = std::fs::metadata(&node.log).map_or(0, |log| log.len());
        let process = Process::start(&mut command, &node.log)
            .map_err(|error| format!("{} cannot be started: {error}", node.plan.name))?;
        self.network.node_is_up(number, Some(process.pid()));
        node.process = Some(process);
        self.publish(number);
        Ok(())
    }

    /// Tells those who look on what a node's process does now.
    fn publish(&self, number: usize) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states[number] = self.state(number);
    }

    /// Takes the process of a node that is to end.
    fn take(&mut self, number: usize) -> Result<Process, String> {
        self.network.node_is_up(number, None);
        let node = &mut self.nodes[number];
        let process = node.process.take();
        self.publish(number);
        process.ok_or_else(|| format!("{} does not run", self.name(number)))
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, number: usize) -> Result<(), String> {
        let process = self.take(number)?;
        let pid = process.pid();
        process.kill().map_err(|error| error.to_string())?;
        self.nodes[number].preload.forget(pid);
        Ok(())
    }

    /// SIGTERM. An end with another status than 0 is an error.
    pub(crate) async fn terminate(&mut self, number: usize) -> Result<(), String> {
        let name = self.name(number);
        let process = self.take(number)?;
        let pid = process.pid();
        let ended = process.terminate(TERMINATE_LIMIT).await;
        self.nodes[number].preload.forget(pid);
        let status = ended.map_err(|error| format!("{name}: {error}"))?;
        // Some programs end by the signal itself.
        if status.success() || status.signal() == Some(nix::libc::SIGTERM) {
            Ok(())
        } else {
            Err(format!("{name} ended after SIGTERM with {status}"))
        }
    }

    fn process(&mut self, number: usize) -> Result<&mut Process, String> {
        let node = &mut self.nodes[number];
        let name = &node.plan.name;
        node.process
            .as_mut()
            .ok_or_else(|| format!("{name} does not run"))
    }

    /// SIGSTOP.
    pub(crate) fn pause(&mut self, number: usize) -> Result<(), String> {
        let paused = self.process(number)?.pause();
        self.publish(number);
        paused.map_err(|error| format!("{}: {error}", self.name(number)))
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self, number: usize) -> Result<(), String> {
        let resumed = self.process(number)?.resume();
        self.publish(number);
        resumed.map_err(|error| format!("{}: {error}", self.name(number)))
    }

    /// Nodes that ended without having been told to, in words. Each is told once.
    pub(crate) fn ended_by_themselves(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            let ended = node.process.as_mut().map(Process::ended);
            if let Some(Ok(Some(status))) = ended {
                if let Some(process) = node.process.take() {
                    node.preload.forget(process.pid());
                }
                self.network.node_is_up(number, None);
                self.publish(number);
                if !self.nodes[number].may_end {
                    words.push(format!("{} ended by itself: {status}", self.name(number)));
                }
            }
        }
        words
    }

    /// Starts all members and waits until each serves.
    pub(crate) async fn start_all(&mut self) -> Result<(), String> {
        for number in self.members.clone() {
            self.start(number)?;
        }
        for number in self.members.clone() {
            self.wait_ready(number, START_LIMIT).await?;
        }
        Ok(())
    }

    /// Waits until a node serves.
    pub(crate) async fn wait_ready(
        &mut self,
        number: usize,
        limit: Duration,
    ) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        let address = self.nodes[number].plan.client;
        while !self.system.ready(address).await {
            if let [words, ..] = &self.ended_by_themselves()[..] {
                return Err(format!(
                    "{words}; its log says: {}",
                    self.last_words(number)
                ));
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "{} does not serve after {} s; its log says: {}",
                    self.name(number),
                    limit.as_secs(),
                    self.last_words(number)
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The last line of a node's log.
    pub(crate) fn last_words(&self, number: usize) -> String {
        last_line(&self.nodes[number].log)
    }

    /// Whether a node's process said this since it was started.
    pub(crate) fn log_says(&self, number: usize, words: &str) -> bool {
        let node = &self.nodes[number];
        let log = std::fs::read(&node.log).unwrap_or_default();
        let said = usize::try_from(node.logged_before).unwrap_or(usize::MAX);
        let said = log.get(said..).unwrap_or_default();
        String::from_utf8_lossy(said).contains(words)
    }

    /// Lines of nodes' logs that say that a program panicked.
    pub(crate) fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        for node in &self.nodes {
            let log = std::fs::read(&node.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            found.extend(
                log.lines()
                    .filter(|line| line.contains("panicked at"))
                    .map(|line| format!("{}: {line}", node.plan.name)),
            );
        }
        found
    }

    /// Who leads, by what running members say of themselves, of those the newest term.
    pub(crate) async fn leader(&self) -> Option<usize> {
        let asked = self.running();
        let plans: Vec<NodePlan> = asked
            .iter()
            .map(|node| self.nodes[*node].plan.clone())
            .collect();
        let samples = plans.iter().map(|plan| self.system.sample(plan));
        let samples = futures::future::join_all(samples).await;
        let leaders = asked.iter().zip(samples).filter_map(|(node, sample)| {
            let sample = sample?;
            sample.leads.then_some((sample.term, *node))
        });
        leaders.max().map(|(_, node)| node)
    }

    /// What is needed to sample the cluster without holding on to it.
    pub(crate) fn sampler(&self) -> Sampler {
        Sampler {
            system: self.system.clone(),
            nodes: self.nodes.iter().map(|node| node.plan.clone()).collect(),
            states: self.states.clone(),
        }
    }

    /// Ends what runs, kindly if `kind`; what went wrong.
    pub(crate) async fn stop_all(&mut self, kind: bool) -> Vec<String> {
        let mut problems = self.ended_by_themselves();
        for number in 0..self.nodes.len() {
            if self.nodes[number].process.is_none() {
                continue;
            }
            let ended = if kind {
                self.terminate(number).await
            } else {
                self.kill(number)
            };
            problems.extend(ended.err());
        }
        problems
    }
}

fn last_line(log: &Path) -> String {
    let log = std::fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    log.lines().last().unwrap_or("nothing").to_owned()
}

/// A look at all nodes.
#[derive(Clone)]
pub(crate) struct Sampler {
    system: Arc<dyn System>,
    nodes: Vec<NodePlan>,
    states: Arc<Mutex<Vec<ProcessState>>>,
}

impl Sampler {
    /// Asks every node that runs how it is.
    pub(crate) async fn sample(&self, time_ns: u64) -> ClusterSample {
        let states = {
            let states = self.states.lock();
            states.unwrap_or_else(PoisonError::into_inner).clone()
        };
        let ask = |(plan, state): (&NodePlan, ProcessState)| {
            let plan = plan.clone();
            async move {
                let told = match state {
                    ProcessState::Running => self.system.sample(&plan).await,
                    ProcessState::Paused | ProcessState::Down => None,
                };
                NodeSample {
                    process: state.name().to_owned(),
                    ..told.unwrap_or(NodeSample {
                        node: plan.name,
                        process: String::new(),
                        reachable: false,
                        leads: false,
                        leader: None,
                        term: None,
                        applied_index: None,
                    })
                }
            }
        };
        let nodes = futures::future::join_all(self.nodes.iter().zip(states).map(ask)).await;
        ClusterSample { time_ns, nodes }
    }
}
