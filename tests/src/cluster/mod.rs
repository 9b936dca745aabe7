//! A cluster of real `palisaded serve` processes on loopback.

mod node;
mod ports;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use power_cut::{Cut, Fsync};
use tempfile::TempDir;

use crate::binaries::palisaded;
use crate::http::Http;
use crate::wait::{PATIENCE, eventually, within};
pub use node::NodeFiles;
use node::{Ending, Node, Origin};
pub use ports::free_in_a_row;

/// Starts of a whole cluster before a test gives up on free ports.
const START_ATTEMPTS: u32 = 5;
/// How long a node may take to end after SIGTERM. It may drain requests for 5 s.
const TERMINATE_LIMIT: Duration = Duration::from_secs(30);

type Customise = Arc<dyn Fn(&NodeFiles, &mut Command) + Send + Sync>;

/// How a cluster is started.
#[derive(Clone)]
pub struct ClusterBuilder {
    nodes: usize,
    arguments: Vec<String>,
    checks_invariants: bool,
    customise: Option<Customise>,
}

/// A running cluster. Nodes are numbered from 0.
///
/// Dropping it kills every node. While a test fails it prints the ends of the nodes' logs;
/// otherwise it makes the test fail when a node has panicked, or has ended by itself.
pub struct Cluster {
    nodes: Vec<Node>,
    folder: TempDir,
    builder: ClusterBuilder,
}

impl ClusterBuilder {
    /// Further arguments of `palisaded serve`, for every node.
    #[must_use]
    pub fn arguments<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Nodes as they run in production: without a check of the model's invariants after every entry.
    #[must_use]
    pub fn unchecked(mut self) -> Self {
        self.checks_invariants = false;
        self
    }

    /// Changes each node's command (its environment, say) before every start.
    #[must_use]
    pub fn customise(
        mut self,
        customise: impl Fn(&NodeFiles, &mut Command) + Send + Sync + 'static,
    ) -> Self {
        self.customise = Some(Arc::new(customise));
        self
    }

    /// Has every fsync of every node take longer by `pause`. Takes the place of [`Self::customise`].
    ///
    /// # Panics
    /// At the start, when `power-cut`'s shim is not built.
    #[must_use]
    pub fn slow_syncs(self, pause: Duration) -> Self {
        self.customise(move |files, command| {
            let journal = files.data.with_extension("journal");
            let cut = Cut::begin(&files.data, journal).unwrap();
            let slow = cut.with_fsync(Fsync::Slow(pause));
            slow.env_for(command).unwrap();
        })
    }

    /// Starts the nodes and waits until every one serves linearizable reads.
    ///
    /// # Panics
    /// When they do not come up.
    pub async fn start(self) -> Cluster {
        let cluster = self.launch().await;
        cluster.wait_ready().await;
        cluster
    }

    /// Starts the nodes and waits until each answers HTTP, which it does before it is a member.
    ///
    /// # Panics
    /// When they do not come up.
    pub async fn launch(self) -> Cluster {
        for _ in 0..START_ATTEMPTS {
            let mut cluster = self.prepare();
            for node in &mut cluster.nodes {
                node.start();
            }
            if cluster.all_listen().await {
                return cluster;
            }
            // Another process took a port between its choice and its use.
            cluster.discard();
        }
        panic!("no free ports in {START_ATTEMPTS} attempts");
    }

    /// Chooses ports and folders and starts nothing.
    ///
    /// # Panics
    /// When there are no free ports.
    pub fn prepare(&self) -> Cluster {
        let folder = TempDir::with_prefix("palisade-test-").expect("a folder for the cluster");
        let ports = ports::free(2 * self.nodes);
        let (http, peer) = ports.split_at(self.nodes);
        let address = |port: &u16| SocketAddr::from(([127, 0, 0, 1], *port));
        let peers: Vec<String> = peer.iter().map(|port| address(port).to_string()).collect();
        let origin = Origin::InitialPeers(peers.join(","));
        let nodes = (0..self.nodes).map(|number| {
            let (http, peer) = (address(&http[number]), address(&peer[number]));
            self.node(folder.path(), number, http, peer, origin.clone())
        });
        Cluster {
            nodes: nodes.collect(),
            folder,
            builder: self.clone(),
        }
    }

    fn node(
        &self,
        folder: &Path,
        number: usize,
        http: SocketAddr,
        peer: SocketAddr,
        origin: Origin,
    ) -> Node {
        let name = format!("n{}", number + 1);
        let files = NodeFiles {
            number,
            data: folder.join(&name),
            log: folder.join(format!("{name}.log")),
        };
        let mut arguments = self.arguments.clone();
        if self.checks_invariants {
            arguments.push("--check-invariants".to_owned());
        }
        let customise = self.customise.clone();
        Node::new(name, http, peer, origin, arguments, files, customise)
    }

    /// Founds a cluster of one with `palisaded init` and starts its node.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn init(self) -> Cluster {
        assert_eq!(self.nodes, 1, "init founds a cluster of one");
        for _ in 0..START_ATTEMPTS {
            let mut cluster = self.prepare();
            cluster.nodes[0].set_origin(Origin::Existing);
            let mut init = palisaded();
            let node = &cluster.nodes[0];
            init.args(["init", "--name", node.name(), "--data-dir"])
                .arg(&node.files().data)
                .args(["--listen-http", &node.http_address().to_string()])
                .args(["--listen-peer", &node.peer_address().to_string()]);
            let output = init.output().expect("palisaded starts");
            assert!(output.status.success(), "{output:?}");
            cluster.nodes[0].start();
            if cluster.all_listen().await {
                cluster.wait_ready().await;
                return cluster;
            }
            cluster.discard();
        }
        panic!("no free ports in {START_ATTEMPTS} attempts");
    }
}

impl Cluster {
    /// Begins a cluster of `nodes` nodes.
    pub fn builder(nodes: usize) -> ClusterBuilder {
        ClusterBuilder {
            nodes,
            arguments: Vec::new(),
            checks_invariants: true,
            customise: None,
        }
    }

    /// Three nodes with default settings, ready.
    pub async fn start() -> Self {
        Self::builder(3).start().await
    }

    /// Starts one more node, which joins through all that there are, with these further arguments.
    /// Returns its number at once. When a port is taken the node ends, and the test with it.
    ///
    /// # Panics
    /// When there are no free ports.
    pub fn join<S: AsRef<str>>(&mut self, arguments: &[S]) -> usize {
        let number = self.nodes.len();
        let [http, peer] = free_addresses();
        self.join_at(http, peer, arguments);
        number
    }

    /// [`Cluster::join`] at addresses of the caller's choice.
    ///
    /// # Panics
    /// When the node cannot be started.
    pub fn join_at<S: AsRef<str>>(&mut self, http: SocketAddr, peer: SocketAddr, arguments: &[S]) {
        let number = self.nodes.len();
        let peers: Vec<String> = self
            .nodes
            .iter()
            .map(|node| node.peer_address().to_string())
            .collect();
        let further = arguments
            .iter()
            .map(|argument| argument.as_ref().to_owned());
        let builder = self.builder.clone().arguments(further);
        let origin = Origin::Join(peers.join(","));
        let mut node = builder.node(self.folder.path(), number, http, peer, origin);
        node.start();
        self.nodes.push(node);
    }

    /// Gives a node that does not run other addresses, for its next start.
    ///
    /// # Panics
    /// When it runs, or there are no free ports.
    pub fn relocate(&mut self, node: usize) {
        let [http, peer] = free_addresses();
        self.nodes[node].move_to(http, peer);
    }

    /// The node's id, by its own account.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn node_id(&self, node: usize) -> String {
        let view = self.http(node).get("/v1/cluster").await.expect(200);
        let id = view["answered_by"].as_str();
        id.expect("a node id").to_owned()
    }

    /// How many nodes it has, running or not.
    #[expect(clippy::len_without_is_empty, reason = "a cluster is never empty")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A client of this node.
    pub fn http(&self, node: usize) -> Http {
        self.nodes[node].client().clone()
    }

    /// `http://host:port` of every node.
    pub fn endpoints(&self) -> Vec<String> {
        let base = |node: &Node| node.client().base().to_owned();
        self.nodes.iter().map(base).collect()
    }

    /// Where this node serves HTTP.
    pub fn http_address(&self, node: usize) -> SocketAddr {
        self.nodes[node].http_address()
    }

    /// Where this node serves its peers.
    pub fn peer_address(&self, node: usize) -> SocketAddr {
        self.nodes[node].peer_address()
    }

    /// Where this node's data and log are.
    pub fn files(&self, node: usize) -> &NodeFiles {
        self.nodes[node].files()
    }

    /// Everything that this node has logged, over all its starts.
    pub fn log(&self, node: usize) -> String {
        self.nodes[node].log()
    }

    /// The folder that everything of this cluster lies in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The node's process id.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self, node: usize) -> u32 {
        self.nodes[node].pid()
    }

    /// SIGKILL, and waits for the end of the process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self, node: usize) {
        self.nodes[node].kill9();
    }

    /// SIGKILL to all running nodes, one right after the other.
    pub fn kill9_all(&mut self) {
        for node in &mut self.nodes {
            if node.is_running() {
                node.signal(Signal::SIGKILL);
            }
        }
        for node in &mut self.nodes {
            if node.is_running() {
                node.kill9();
            }
        }
    }

    /// SIGSTOP: the node hangs, its sockets stay open. Returns once all of its threads stand still.
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.signal(Signal::SIGSTOP);
        let deadline = Instant::now() + PATIENCE;
        while !node.stands_still() {
            assert!(Instant::now() < deadline, "{} does not stop", node.name());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// When it does not run.
    pub fn cont(&mut self, node: usize) {
        self.nodes[node].signal(Signal::SIGCONT);
    }

    /// SIGTERM, and waits for the end of the process, which must be a clean one.
    ///
    /// # Panics
    /// When it does not end in time, or not with status 0.
    pub async fn terminate(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.signal(Signal::SIGTERM);
        let status = within(TERMINATE_LIMIT, "a node ends after SIGTERM", async || {
            node.ended()
        })
        .await;
        assert!(status.success(), "{status} after SIGTERM");
        node.forget_end();
    }

    /// Starts a node that does not run, with the command that it was first started with. Returns at
    /// once.
    ///
    /// # Panics
    /// When it runs.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].start();
    }

    /// [`Cluster::restart`] for every node that does not run.
    pub fn restart_all(&mut self) {
        for node in &mut self.nodes {
            if !node.is_running() {
                node.start();
            }
        }
    }

    /// Waits until a node ends by itself, which the test expects.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn wait_end(&mut self, node: usize) -> ExitStatus {
        let node = &mut self.nodes[node];
        let status = eventually("a node ends by itself", async || node.ended()).await;
        node.forget_end();
        status
    }

    /// The node's status, when it has ended by itself, which the test expects.
    pub fn try_end(&mut self, node: usize) -> Option<ExitStatus> {
        let status = self.nodes[node].ended()?;
        self.nodes[node].forget_end();
        Some(status)
    }

    /// Deletes the data of a node that does not run.
    ///
    /// # Panics
    /// When it runs.
    pub fn wipe(&mut self, node: usize) {
        let node = &self.nodes[node];
        assert!(!node.is_running(), "stop a node before wiping it");
        std::fs::remove_dir_all(&node.files().data).expect("the data directory can be deleted");
    }

    /// The command that starts this node, for a second process beside it or for other arguments.
    pub fn command(&self, node: usize) -> Command {
        self.nodes[node].command()
    }

    /// Nodes that run, stopped ones included.
    pub fn running(&self) -> Vec<usize> {
        let runs = |number: &usize| self.nodes[*number].is_running();
        (0..self.nodes.len()).filter(runs).collect()
    }

    /// Waits until every running node serves linearizable reads.
    ///
    /// # Panics
    /// When they do not.
    pub async fn wait_ready(&self) {
        for node in self.running() {
            self.wait_node_ready(node).await;
        }
    }

    /// Waits until this node serves linearizable reads.
    ///
    /// # Panics
    /// When it does not.
    pub async fn wait_node_ready(&self, node: usize) {
        let what = format!("n{} is ready", node + 1);
        eventually(&what, async || {
            let reply = self.http(node).try_get("/readyz").await;
            reply.ok().filter(|reply| reply.status == 200)
        })
        .await;
    }

    /// Waits until a node says that it leads, by its own account, and returns it. `asked` are the
    /// nodes to ask: leave stopped ones out, they do not answer.
    ///
    /// # Panics
    /// When none does.
    pub async fn leader_among(&self, asked: &[usize]) -> usize {
        eventually("a node leads", async || {
            for &node in asked {
                let Ok(reply) = self.http(node).try_get("/v1/cluster").await else {
                    continue;
                };
                let own = &reply.body["answered_by"];
                let leads = reply.body["members"].as_array().is_some_and(|members| {
                    members
                        .iter()
                        .any(|member| member["node_id"] == *own && member["role"] == "leader")
                });
                if leads {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    /// [`Cluster::leader_among`] all running nodes. None of them may be stopped.
    ///
    /// # Panics
    /// When none leads.
    pub async fn leader(&self) -> usize {
        self.leader_among(&self.running()).await
    }

    /// A running node that does not lead.
    ///
    /// # Panics
    /// When there is none.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        let mut others = self.running().into_iter().filter(|node| *node != leader);
        others.next().expect("a running follower")
    }

    /// Whether every node listens; `false` when one found a port taken.
    async fn all_listen(&mut self) -> bool {
        for node in &mut self.nodes {
            let http = node.client().clone();
            let listens = eventually("a node answers /healthz", async || {
                if node.ended().is_some() {
                    return Some(false);
                }
                http.try_get("/healthz").await.ok().map(|_| true)
            })
            .await;
            if !listens {
                let log = node.log();
                assert!(log.contains("cannot listen on"), "a node ended:\n{log}");
                return false;
            }
        }
        true
    }

    /// Ends the nodes without looking at how they fared.
    fn discard(&mut self) {
        for node in &mut self.nodes {
            node.end();
        }
        self.nodes.clear();
    }
}

fn free_addresses() -> [SocketAddr; 2] {
    let ports = ports::free(2);
    [ports[0], ports[1]].map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let endings: Vec<Ending> = self.nodes.iter_mut().map(Node::end).collect();
        if std::thread::panicking() {
            for (node, ending) in self.nodes.iter().zip(endings) {
                if let Ending::ByItself(status) = ending {
                    eprintln!("{} had ended by itself: {status}", node.name());
                }
                node.print_log();
            }
            return;
        }
        for (node, ending) in self.nodes.iter().zip(endings) {
            let log = node.log();
            let name = node.name();
            if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
                node.print_log();
                panic!("{name} panicked: {line}");
            }
            if let Ending::ByItself(status) = ending {
                node.print_log();
                panic!("{name} ended by itself: {status}");
            }
        }
    }
}
