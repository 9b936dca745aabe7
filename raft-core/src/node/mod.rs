//! A running member of a group: start, propose, read, watch, stop.

pub(crate) mod admission;
mod backup;
mod duplicate;
mod handler;
pub(crate) mod links;
mod membership;
pub(crate) mod pending;
mod plan;
pub(crate) mod proposer;
mod reads;
pub(crate) mod retention;
mod sampler;
#[cfg(test)]
mod snapshot_tests;
mod space;
mod standing;
pub(crate) mod status;
mod steward;
mod transfer;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use parking_lot::RwLock;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span, debug, debug_span};

use crate::apply::{AppliedReceiver, Applier};
use crate::backup::PendingRestore;
use crate::config::{Config, Start};
use crate::error::{ProposeError, ReadError, StartError};
use crate::founding::{FoundingState, SharedFounding, check_initial_peers};
use crate::identity::DataDirectory;
use crate::joining::{HOW_TO_COME_BACK, others_to_join};
use crate::log::{LogStore, with_remedy};
use crate::machine::{Priority, Stamper, StateMachine};
use crate::metrics::{ProposalMetrics, describe};
use crate::runtime::{InstantOf, Runtime, Tokio, before};
use crate::snapshot::SnapshotStore;
use crate::transport::{
    Acceptor, Channel, Dialer, Founding, Identity, NetworkFactory, Reply, Request, Transfers,
    Whereabouts, serve_bootstrap, serve_peers,
};
use crate::types::{ClusterId, NodeId, ProposalId, TypeConfig};
use admission::{Admission, Permit};
use handler::PeerHandler;
use links::{Forward, Forwarded, Links, Refusal};
use pending::{Outcome, Pending};
use proposer::{Proposer, Sealing};
use reads::{Ask, Reader};
use retention::Retention;
use sampler::Sampler;
use space::SpaceWatch;
use standing::Standing;
use status::MetricsReceiver;
pub use status::{MemberStatus, NodeProgress, Role, Status, StatusWatch};
use steward::Steward;

/// The largest encoded command. It must fit into a frame with room for others.
pub const MAX_COMMAND_BYTES: usize = 4 << 20;
const READ_QUEUE: usize = 4096;
/// How often a running node looks whether it has failed.
const FAILURE_CHECK: Duration = Duration::from_millis(100);
/// A leader that stops has this long to hand its leadership over.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// What raft still does with the log of a stopped node ends within this.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a refused proposal is tried again, growing up to the second value.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// A proposal's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied<R> {
    /// The log index of its entry.
    pub index: u64,
    /// What this node's [`StateMachine::apply`] answered.
    pub response: R,
}

/// A running node. Dropping it stops it without ceremony; [`Node::stop`] also flushes.
pub struct Node<M: StateMachine> {
    raft: Raft<TypeConfig, Applier<M>>,
    machine: Arc<RwLock<M>>,
    metrics: MetricsReceiver,
    applied: AppliedReceiver,
    pending: Arc<Pending<M::Response>>,
    admission: Arc<Admission>,
    outcomes: ProposalMetrics,
    proposals: mpsc::Sender<Sealing>,
    reads: mpsc::Sender<Ask>,
    links: Arc<Links>,
    log: LogStore,
    identity: Identity,
    steward: Arc<Steward<M>>,
    standing: watch::Receiver<standing::State>,
    founding: SharedFounding,
    /// Aborted when dropped.
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl<M: StateMachine> Node<M> {
    /// Starts a node: opens the data directory, founds a cluster where asked to, and begins to
    /// serve peers on `listener`. Returns when this node is a member of a cluster; with
    /// [`Start::InitialPeers`] that waits, without limit, for all of them, with [`Start::Join`] for a
    /// leader that takes this node in. A caller that gives up drops the future; starting again later
    /// goes on where it stopped.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        config: Config,
        listener: TcpListener,
        machine: M,
        stamper: impl Stamper,
    ) -> Result<Self, StartError> {
        describe();
        let admission = Arc::new(Admission::new(&config).map_err(StartError::Configuration)?);
        let path = config.data_directory.clone();
        let directory = run_blocking(move || DataDirectory::open(&path)).await?;
        let (security, own) = (config.security.clone(), config.member.peer_address.clone());
        let channel = run_blocking(move || Channel::open(&security, &own)).await?;
        if directory.was_removed() {
            let node = directory.node();
            return Err(StartError::NotAMember(format!(
                "this node ({node}) was removed from its cluster. {HOW_TO_COME_BACK}"
            )));
        }
        let (log_path, snapshot_path) = (directory.log(), directory.snapshots());
        let (plan, has_log) = (directory.restore_plan(), directory.has_log());
        let restoring = run_blocking(move || PendingRestore::open(&plan)).await?;
        let restored_as = restoring.as_ref().map(PendingRestore::cluster);
        let initial_peers = match &config.start {
            Start::InitialPeers(peers) => peers.clone(),
            Start::Existing | Start::Alone | Start::Join(_) => Vec::new(),
        };
        let acceptor = Acceptor::new(listener, channel.clone());
        let founding = Arc::new(FoundingState::new(
            directory,
            config.member.clone(),
            initial_peers,
            channel.clone(),
        ));
        let agreed = found(&config, &founding, &acceptor, restored_as).await?;
        let identity = Identity {
            node: founding.node(),
            cluster: agreed.cluster,
        };

        let (sync, made, member) = (config.sync, founding.clone(), config.member.clone());
        let (log, snapshots, restoring) = run_blocking(move || {
            let snapshots = SnapshotStore::open(&snapshot_path)?;
            // Before the log is opened, which changes it: a node that is refused is left as it is.
            snapshots.newest().map_err(with_remedy)?;
            if let Some(restoring) = restoring.as_ref().filter(|_| !has_log) {
                restoring.import(&snapshots, identity.node, member)?;
            }
            let log = LogStore::open(&log_path, sync)?;
            made.log_was_made()?;
            Ok((log, snapshots, restoring))
        })
        .await?;
        let pending = Arc::new(Pending::new(identity.node, rand::random()));
        let applier = {
            let (pending, snapshots, log) = (pending.clone(), snapshots.clone(), log.clone());
            let stall_after = config.rebase_after;
            let open = move || -> std::io::Result<Applier<M>> {
                let beside = Some(log.clone());
                let applier: Applier<M> =
                    Applier::open(machine, pending, snapshots, beside, stall_after)?;
                log.check_covered_by(applier.watch_applied().borrow_watched().index())?;
                Ok(applier)
            };
            run_blocking(move || Ok(open().map_err(with_remedy)?)).await?
        };
        let (machine, applied) = (applier.machine(), applier.watch_applied());
        let (applied_bytes, transfers) = (applier.applied_bytes(), Transfers::default());
        let raft_config = config
            .to_openraft(&identity.cluster.to_string())
            .map_err(StartError::Configuration)?;
        let dialer = Dialer::new(identity.node, Some(identity.cluster), channel);
        let in_snapshot = snapshots.current().map(|(meta, _)| meta.last_membership);
        let memberships = log.found_membership().into_iter().chain(in_snapshot);
        let known_at = memberships
            .filter_map(|stored| Some(stored.membership().get_node(&identity.node)?.clone()))
            .map(|member| member.peer_address)
            .filter(|address| *address != config.member.peer_address);
        duplicate::refuse_duplicate(&dialer, identity.node, known_at.collect()).await?;
        let whereabouts = Arc::new(OnceLock::new());
        let raft = Raft::new(
            identity.node,
            Arc::new(raft_config),
            NetworkFactory {
                dialer: dialer.clone(),
                whereabouts: whereabouts.clone(),
                transfers: transfers.clone(),
            },
            log.clone(),
            applier,
        )
        .await
        .map_err(|fatal| StartError::Raft(fatal.to_string()))?;

        let metrics = raft.metrics();
        let whereabouts_now: Box<Whereabouts> =
            Box::new(move |node| links::address_of(&metrics, node));
        // Set nowhere else.
        let _ = whereabouts.set(whereabouts_now);
        let links = Arc::new(Links::new(dialer.clone(), raft.metrics()));
        let (proposals, proposal_queue) = mpsc::channel(admission.most_proposals());
        let (reads, read_queue) = mpsc::channel(READ_QUEUE);
        let mut tasks = JoinSet::new();
        let proposer = Proposer {
            raft: raft.clone(),
            queue: proposal_queue,
            applied: applied.clone(),
            stamper,
            rebase_after: config.rebase_after,
            leads: None,
            stalls: 0,
        };
        tasks.spawn(proposer.run());
        let retention = Retention {
            raft: raft.clone(),
            applied_bytes,
            transfers,
            snapshot_after_bytes: config.snapshot_after_bytes,
            keep_entries: config.keep_entries,
        };
        tasks.spawn(retention.run());
        let reader = Reader {
            raft: raft.clone(),
            links: links.clone(),
            queue: read_queue,
        };
        tasks.spawn(reader.run());
        let steward = Arc::new(Steward {
            raft: raft.clone(),
            metrics: raft.metrics(),
            dialer,
            identity,
            machine: machine.clone(),
            pending: pending.clone(),
            proposals: proposals.clone(),
            admission: admission.clone(),
            changing: Arc::default(),
        });
        let handler = PeerHandler {
            raft: raft.clone(),
            proposals: proposals.clone(),
            admission: admission.clone(),
            founding: founding.clone(),
            steward: steward.clone(),
        };
        tasks.spawn(serve_peers(
            acceptor,
            identity,
            Arc::new(handler),
            snapshots,
        ));
        let space = SpaceWatch {
            directory: config.data_directory.clone(),
            floor_bytes: config.free_space_floor_bytes,
            admission: admission.clone(),
            steward: steward.clone(),
            links: links.clone(),
        };
        tasks.spawn(space.run());
        let standing = Standing::new(steward.clone(), founding.clone(), config.member);
        let standing_now = standing.state.subscribe();
        tasks.spawn(standing.run());
        let sampler = Sampler {
            metrics: raft.metrics(),
            admission: admission.clone(),
            pending: pending.clone(),
            proposals: proposals.clone(),
            backlog: log.backlog(),
        };
        tasks.spawn(sampler.run());
        let node = Self {
            metrics: raft.metrics(),
            raft,
            machine,
            applied,
            pending,
            admission,
            outcomes: ProposalMetrics::new(),
            proposals,
            reads,
            links,
            log,
            identity,
            steward,
            standing: standing_now,
            founding: founding.clone(),
            tasks: tasks.into(),
        };
        match node.come_in(&founding, &agreed, restoring).await {
            Ok(()) => Ok(node),
            Err(error) => {
                if let Err(error) = node.stop().await {
                    tracing::warn!(%error, "a node that could not start did not stop cleanly either");
                }
                Err(error)
            }
        }
    }

    /// Waits until this node is a member of a cluster that works.
    async fn come_in(
        &self,
        founding: &FoundingState,
        agreed: &Founding,
        restoring: Option<PendingRestore>,
    ) -> Result<(), StartError> {
        self.initialise(founding, agreed).await?;
        self.wait_until_member().await?;
        match restoring {
            Some(restoring) => self.finish_restore(restoring).await,
            None => Ok(()),
        }
    }

    /// Waits until a joining node has been taken in.
    async fn wait_until_member(&self) -> Result<(), StartError> {
        let mut standing = self.standing.clone();
        let settled = async {
            match standing
                .wait_for(|state| *state != standing::State::Joining)
                .await
            {
                Ok(state) => state.clone(),
                // The task never ends while it joins; the other branch says why it did.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            state = settled => match state {
                standing::State::Refused(why) => Err(StartError::NotAMember(why)),
                // A removal right after is reported by `failed`.
                _ => Ok(()),
            },
            why = self.failed() => Err(StartError::Raft(why)),
        }
    }

    /// As the first founding member, gathers the others' agreements and writes the first entry.
    async fn initialise(
        &self,
        founding: &FoundingState,
        agreed: &Founding,
    ) -> Result<(), StartError> {
        let fatal = |error: String| StartError::Raft(error);
        let initialised = self
            .raft
            .is_initialized()
            .await
            .map_err(|error| fatal(error.to_string()))?;
        if initialised || !founding.is_first(agreed) {
            return Ok(());
        }
        founding.gather_agreements(agreed).await?;
        let members: BTreeMap<_, _> = agreed
            .members
            .iter()
            .map(|member| (member.node, member.member.clone()))
            .collect();
        self.raft
            .initialize(members)
            .await
            .map_err(|error| fatal(error.to_string()))?;
        tracing::info!(cluster = %agreed.cluster, "the cluster is founded");
        Ok(())
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.identity.node
    }

    /// The cluster this node belongs to.
    pub fn cluster_id(&self) -> ClusterId {
        self.identity.cluster
    }

    /// What this node knows of the group now.
    pub fn status(&self) -> Status {
        let mut status = Status::new(&self.metrics.borrow_watched());
        if let standing::State::Removed(why) = &*self.standing.borrow() {
            status.failure = Some(why.clone());
        }
        status
    }

    /// Follows the status.
    pub fn watch(&self) -> StatusWatch {
        StatusWatch {
            metrics: self.metrics.clone(),
        }
    }

    /// Whether this node leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// Waits until this node has failed for good (a storage error, an `apply` that gave up, or its
    /// removal from the cluster), and says why. A stopped node has failed too. Cancellation safe.
    pub async fn failed(&self) -> String {
        loop {
            if let Some(failure) = self.status().failure {
                return failure;
            }
            // Looked at now and then: the metrics change with every entry, and waking a task for
            // each costs more than it tells.
            tokio::time::sleep(FAILURE_CHECK).await;
        }
    }

    /// Asks one member how far it has come; its own answer, not this node's opinion. `None` when it
    /// does not answer within `limit`. Cancellation safe.
    pub async fn progress_of(&self, member: NodeId, limit: Duration) -> Option<NodeProgress> {
        if member == self.identity.node {
            return Some(self.status().progress);
        }
        match self.links.to(member)?.call(&Request::Status, limit).await {
            Ok(Reply::Status(progress)) => Some(progress),
            _ => None,
        }
    }

    /// Proposes a command and waits until this node has applied it. Works on any node: a follower
    /// forwards to the leader, and goes on with the next leader only when the command provably never
    /// entered a log. It is therefore applied at most once.
    ///
    /// # Errors
    /// [`ProposeError::Unknown`] when the deadline comes after the command may have entered a log;
    /// every other error means that it was not applied and never will be. One of them,
    /// [`ProposeError::Overloaded`], comes at once, when too much is in flight here or at the leader
    /// for the command's [`Priority`].
    ///
    /// # Cancellation
    /// A dropped call leaves the outcome unknown. What it had in flight counts as such until it has
    /// left this node's queues.
    pub fn propose(
        &self,
        command: &M::Command,
        deadline: std::time::Instant,
    ) -> impl Future<Output = Result<Applied<M::Response>, ProposeError>> + Send + use<'_, M> {
        let priority = M::priority(command);
        let command = encode(command);
        async move {
            let result = match command {
                Ok(command) => self.propose_encoded(priority, command, deadline).await,
                Err(error) => Err(error),
            };
            self.outcomes.ended(&result);
            result
        }
    }

    async fn propose_encoded(
        &self,
        priority: Priority,
        command: Bytes,
        deadline: std::time::Instant,
    ) -> Result<Applied<M::Response>, ProposeError> {
        let Some(permit) = self.admission.admit(priority, command.len()) else {
            return Err(ProposeError::Overloaded);
        };
        let (id, outcome) = self.pending.register();
        let _forget = Forget {
            pending: &self.pending,
            id,
        };
        let span = debug_span!("proposal", proposal = %id, bytes = command.len());
        let deadline = Tokio::instant(deadline);
        Attempts::<_, _, Tokio> {
            node: Parts {
                me: self.identity.node,
                metrics: &self.metrics,
                applied: &self.applied,
                proposals: &self.proposals,
                peers: &*self.links,
            },
            id,
            priority,
            command,
            permit,
            outcome,
            deadline,
        }
        .run()
        .instrument(span)
        .await
    }

    /// Waits until reads of this node's machine see everything that was acknowledged anywhere before
    /// this call. Concurrent calls share a round to the leader. Cancellation safe.
    ///
    /// # Errors
    /// See [`ReadError`]; nothing is changed by a read.
    pub async fn read_barrier(&self, deadline: std::time::Instant) -> Result<(), ReadError> {
        let deadline = Instant::from_std(deadline);
        let index = loop {
            let (ask, answer) = oneshot::channel();
            let round = async {
                self.reads.send(ask).await.ok()?;
                answer.await.ok()?
            };
            match timeout_at(deadline, round).await {
                Ok(Some(index)) => break index,
                Ok(None) if self.reads.is_closed() => return Err(ReadError::NoLeader),
                Ok(None) => {}
                Err(_) => return Err(ReadError::NoLeader),
            }
        };
        self.wait_applied(index, deadline.into_std()).await
    }

    /// Waits until this node has applied up to `index`. Cancellation safe.
    ///
    /// # Errors
    /// [`ReadError::Behind`] at the deadline.
    pub async fn wait_applied(
        &self,
        index: u64,
        deadline: std::time::Instant,
    ) -> Result<(), ReadError> {
        let mut applied = self.applied.clone();
        let reached = applied.wait_until(|applied| applied.index() >= Some(index));
        match timeout_at(Instant::from_std(deadline), reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ReadError::Behind),
        }
    }

    /// Reads this node's machine as it is now; linearizable only behind a [`Node::read_barrier`].
    /// Applying waits meanwhile: keep it short.
    pub fn read<T>(&self, read: impl FnOnce(&M) -> T) -> T {
        read(&self.machine.read())
    }

    /// Takes a snapshot now, behind which the log is purged as configured, within about a second.
    /// Returns when it is asked for, not when it is done. Cancellation safe: a dropped call may have
    /// asked for it.
    ///
    /// # Errors
    /// When the node has stopped.
    pub async fn trigger_snapshot(&self) -> Result<(), String> {
        self.raft
            .trigger()
            .snapshot()
            .await
            .map_err(|fatal| fatal.to_string())
    }

    /// Stops: a leader first hands its leadership over if it can, within a few seconds; then raft
    /// ends, the log is synced and closed. What is proposed later is refused. Once the node is dropped
    /// too, its data directory and its address can be used again.
    ///
    /// # Errors
    /// When the last sync fails; everything acknowledged was durable before.
    ///
    /// # Cancellation
    /// A dropped call leaves the node half stopped: call it again, or drop the node.
    pub async fn stop(&self) -> std::io::Result<()> {
        self.resign().await;
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not end cleanly");
        }
        // They hold the listener and the data directory.
        self.tasks.lock().await.shutdown().await;
        let closed = self.log.close().await;
        self.log.released(RELEASE_TIMEOUT).await;
        self.founding.leave_directory();
        closed
    }
}

fn encode(command: &impl Serialize) -> Result<Bytes, ProposeError> {
    let command = postcard::to_allocvec(command)
        .map_err(|error| ProposeError::Encoding(error.to_string()))?;
    match command.len() {
        ..=MAX_COMMAND_BYTES => Ok(command.into()),
        bytes => Err(ProposeError::TooLarge {
            bytes,
            limit: MAX_COMMAND_BYTES,
        }),
    }
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?
}

/// Comes to the founding that this node belongs to, whatever `start` says.
async fn found(
    config: &Config,
    founding: &SharedFounding,
    acceptor: &Acceptor,
    restored_as: Option<ClusterId>,
) -> Result<Founding, StartError> {
    if let Some(cluster) = restored_as.filter(|_| founding.agreed().is_none()) {
        let founding = founding.clone();
        run_blocking(move || founding.found_restored(cluster)).await?;
    }
    if founding.agreed().is_none() {
        match &config.start {
            Start::Existing => {
                return Err(StartError::Configuration(
                    "the data directory is empty and there is nothing to found: give \
                     --initial-peers, the same list on every node, or --join to come into a \
                     running cluster"
                        .to_owned(),
                ));
            }
            Start::Alone => {
                let founding = founding.clone();
                run_blocking(move || founding.found_alone()).await?;
            }
            Start::InitialPeers(peers) => {
                check_initial_peers(peers, founding.own_address())?;
                tokio::select! {
                    agreed = founding.wait_until_agreed() => agreed?,
                    () = serve_bootstrap(acceptor, founding.node(), founding.clone()) => {}
                }
            }
            Start::Join(via) => {
                let others = others_to_join(via, founding.own_address())?;
                tokio::select! {
                    joined = founding.join(&others, config.stay_learner) => joined?,
                    () = serve_bootstrap(acceptor, founding.node(), founding.clone()) => {}
                }
            }
        }
    }
    founding
        .agreed()
        .ok_or_else(|| StartError::Raft("the founding ended without an agreement".to_owned()))
}

/// Forgets a proposal that nobody waits for any more.
pub(crate) struct Forget<'a, T> {
    pub pending: &'a Pending<T>,
    pub id: ProposalId,
}

impl<T> Drop for Forget<'_, T> {
    fn drop(&mut self) {
        self.pending.forget(self.id);
    }
}

/// What a proposal meets on its way through the node that received it.
pub(crate) struct Parts<'a, R: Runtime, P> {
    pub me: NodeId,
    pub metrics: &'a MetricsReceiver<R>,
    pub applied: &'a AppliedReceiver<R>,
    pub proposals: &'a mpsc::Sender<Sealing>,
    pub peers: &'a P,
}

/// One proposal's way into a log, over as many leaders as it provably takes.
pub(crate) struct Attempts<'a, T, P, R: Runtime = Tokio> {
    pub node: Parts<'a, R, P>,
    pub id: ProposalId,
    pub priority: Priority,
    pub command: Bytes,
    pub permit: Arc<Permit>,
    pub outcome: oneshot::Receiver<Outcome<T>>,
    pub deadline: InstantOf<R>,
}

/// How one attempt ended.
enum Attempt<R> {
    Done(Result<Applied<R>, ProposeError>),
    /// The command is in no log and will be in none.
    NeverEntered,
}

impl<T: Send, P: Forward, R: Runtime> Attempts<'_, T, P, R> {
    pub async fn run(mut self) -> Result<Applied<T>, ProposeError> {
        let mut pause = RETRY_PAUSE.0;
        loop {
            let Some((leader, term)) = self.leader().await else {
                return Err(ProposeError::NotProposed);
            };
            let attempt = if leader == self.node.me {
                self.locally(term).await
            } else {
                self.remotely(leader, term).await
            };
            match attempt {
                Attempt::Done(result) => return result,
                Attempt::NeverEntered => {}
            }
            if InstantOf::<R>::now() + pause >= self.deadline {
                return Err(ProposeError::NotProposed);
            }
            // Another leader, or another term, ends the pause early.
            let until = InstantOf::<R>::now() + pause;
            let _ = before::<R, _>(until, self.passed(leader, term)).await;
            pause = (pause * 2).min(RETRY_PAUSE.1);
        }
    }

    /// The leader and its term, waiting for one until the deadline.
    async fn leader(&self) -> Option<(NodeId, u64)> {
        let mut metrics = self.node.metrics.clone();
        loop {
            {
                let now = metrics.borrow_and_update();
                if let Some(leader) = now.current_leader {
                    return Some((leader, now.current_term));
                }
            }
            match before::<R, _>(self.deadline, metrics.changed()).await {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// Waits until this node knows of another leader than this one in this term, or of none.
    async fn passed(&self, leader: NodeId, term: u64) {
        let mut metrics = self.node.metrics.clone();
        loop {
            {
                let now = metrics.borrow_and_update();
                if (now.current_leader, now.current_term) != (Some(leader), term) {
                    return;
                }
            }
            if metrics.changed().await.is_err() {
                // Raft has stopped; nobody leads here any more.
                return std::future::pending().await;
            }
        }
    }

    async fn locally(&mut self, term: u64) -> Attempt<T> {
        if !self.permit.has_space_for(self.priority) {
            return Attempt::Done(Err(ProposeError::DiskFull));
        }
        let (refuse, refused) = oneshot::channel();
        let sealing = Sealing {
            id: self.id,
            command: self.command.clone(),
            term,
            span: Span::current(),
            permit: self.permit.clone(),
            refused: Box::new(move || {
                let _ = refuse.send(());
            }),
        };
        // The queue has room for all that is admitted; it is closed when this node has stopped.
        if self.node.proposals.try_send(sealing).is_err() {
            return Attempt::Done(Err(ProposeError::NotProposed));
        }
        self.watch_outcome(term, async {
            match refused.await {
                Ok(()) => Attempt::NeverEntered,
                // Dropped without a word: only the apply can tell.
                Err(_) => std::future::pending().await,
            }
        })
        .await
    }

    async fn remotely(&mut self, leader: NodeId, term: u64) -> Attempt<T> {
        let forward = self.node.peers.forward(
            leader,
            Forwarded {
                term,
                id: self.id,
                priority: self.priority,
                command: self.command.clone(),
                permit: self.permit.clone(),
            },
        );
        let refused = match before::<R, _>(self.deadline, forward).await {
            Some(Some(refused)) => refused,
            Some(None) | None => return Attempt::NeverEntered,
        };
        debug!(%leader, term, "forwarded");
        self.watch_outcome(term, async {
            match refused.await {
                Refusal::NotTaken => Attempt::NeverEntered,
                Refusal::Overloaded => Attempt::Done(Err(ProposeError::Overloaded)),
                Refusal::DiskFull => Attempt::Done(Err(ProposeError::DiskFull)),
            }
        })
        .await
    }

    /// Waits for whatever tells the outcome of an attempt made with the leader of `term`: this
    /// node's apply, the leader's refusal, or an applied entry of a later term. The last is proof:
    /// terms never fall along a log, so every entry of `term` that will ever be committed stands
    /// before it, and has been applied here without this one among them.
    async fn watch_outcome(
        &mut self,
        term: u64,
        refused: impl Future<Output = Attempt<T>> + Send,
    ) -> Attempt<T> {
        let mut applied = self.node.applied.clone();
        tokio::select! {
            biased;
            outcome = &mut self.outcome => return Attempt::Done(settle(outcome.ok())),
            refusal = refused => return refusal,
            passed = applied.wait_until(|applied| applied.term() > term) => {
                if passed.is_err() {
                    return Attempt::Done(Err(ProposeError::Unknown));
                }
            }
            () = TypeConfig::<R>::sleep_until(self.deadline) => {
                return Attempt::Done(Err(ProposeError::Unknown));
            }
        }
        // The apply answers before it publishes, so an answer would be here by now.
        match self.outcome.try_recv() {
            Ok(outcome) => Attempt::Done(settle(Some(outcome))),
            Err(_) => Attempt::NeverEntered,
        }
    }
}

fn settle<T>(outcome: Option<Outcome<T>>) -> Result<Applied<T>, ProposeError> {
    match outcome {
        Some(Outcome::Applied { index, response }) => {
            debug!(index, "answered");
            Ok(Applied { index, response })
        }
        Some(Outcome::OutOfSight) | None => Err(ProposeError::Unknown),
    }
}

#[cfg(test)]
mod tests;
