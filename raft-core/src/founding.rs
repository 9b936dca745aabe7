//! Founding a cluster: the same command on every host, agreed once, repeatable without harm.
//!
//! The first of the initial peers learns everyone's node id, draws a cluster id and proposes both.
//! Each node remembers its agreement durably before it answers, once in its life, and refuses any
//! other. When all have agreed, the first initialises the group. A node with an empty directory
//! that finds a cluster founded without it stops: it must not vote in place of what was lost.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::error::StartError;
use crate::identity::DataDirectory;
use crate::joining::Joined;
use crate::transport::{
    Channel, Dialer, Founding, FoundingHandler, FoundingMember, Reply, Request,
};
use crate::types::{ClusterId, Member, NodeId};

const ROUND_PAUSE: Duration = Duration::from_millis(200);
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a waiting node says for whom it waits.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// This node's side of the agreement; answers its peers' questions for the life of the node.
pub(crate) struct FoundingState {
    directory: Mutex<DataDirectory>,
    me: FoundingMember,
    initial_peers: Vec<String>,
    agreed: watch::Sender<Option<Founding>>,
    dialer: Dialer,
}

impl FoundingState {
    pub fn new(
        directory: DataDirectory,
        member: Member,
        initial_peers: Vec<String>,
        channel: Channel,
    ) -> Self {
        let joined = directory
            .joined()
            .map(|joined| without_members(joined.cluster));
        let (agreed, _) = watch::channel(directory.founding().cloned().or(joined));
        Self {
            dialer: Dialer::new(directory.node(), None, channel),
            me: FoundingMember {
                node: directory.node(),
                member,
            },
            directory: Mutex::new(directory),
            initial_peers,
            agreed,
        }
    }

    pub fn node(&self) -> NodeId {
        self.me.node
    }

    pub fn own_address(&self) -> &str {
        &self.me.member.peer_address
    }

    pub fn agreed(&self) -> Option<Founding> {
        self.agreed.borrow().clone()
    }

    /// The log exists: see [`DataDirectory::log_was_made`]. Blocking.
    pub fn log_was_made(&self) -> Result<(), StartError> {
        Ok(self.directory.lock().log_was_made()?)
    }

    /// Whether this node leads the founding that it agreed to.
    pub fn is_first(&self, founding: &Founding) -> bool {
        founding
            .members
            .first()
            .is_some_and(|first| first.node == self.me.node)
    }

    /// Gives the data directory up to whoever opens it next.
    pub fn leave_directory(&self) {
        self.directory.lock().leave();
    }

    /// How this node came into a cluster that was there before it; `None` for a founding member.
    pub fn joined(&self) -> Option<Joined> {
        self.directory.lock().joined().cloned()
    }

    /// Remembers the cluster that this node joins.
    pub async fn belong_to(self: &Arc<Self>, joined: Joined) -> Result<(), StartError> {
        let cluster = joined.cluster;
        self.note(move |directory| directory.join(joined)).await?;
        self.agreed.send_replace(Some(without_members(cluster)));
        Ok(())
    }

    /// Remembers how far joining has come.
    pub async fn note_joining(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Joined) + Send + 'static,
    ) -> Result<(), StartError> {
        self.note(move |directory| match directory.joined().cloned() {
            None => Ok(()),
            Some(mut joined) => {
                change(&mut joined);
                directory.join(joined)
            }
        })
        .await
    }

    /// Remembers that this node was removed from its cluster.
    pub async fn note_removed(self: &Arc<Self>) -> Result<(), StartError> {
        self.note(DataDirectory::removed_from_cluster).await
    }

    /// Changes the identity file, on a thread that may wait for the disk.
    async fn note(
        self: &Arc<Self>,
        change: impl FnOnce(&mut DataDirectory) -> io::Result<()> + Send + 'static,
    ) -> Result<(), StartError> {
        let state = self.clone();
        tokio::task::spawn_blocking(move || change(&mut state.directory.lock()))
            .await
            .map_err(|error| StartError::Raft(error.to_string()))??;
        Ok(())
    }

    /// Founds a cluster of one.
    pub fn found_alone(&self) -> Result<(), StartError> {
        self.agree(draw(vec![self.me.clone()]))
            .map_err(StartError::Configuration)
    }

    /// Founds a cluster of one under the id that a restore has chosen.
    pub fn found_restored(&self, cluster: ClusterId) -> Result<(), StartError> {
        let members = vec![self.me.clone()];
        self.agree(Founding { cluster, members })
            .map_err(StartError::Configuration)
    }

    fn others(&self) -> impl Iterator<Item = &String> {
        self.initial_peers
            .iter()
            .filter(|peer| **peer != self.me.member.peer_address)
    }

    /// Waits until this node has agreed to a founding. Runs beside a server that answers peers.
    pub async fn wait_until_agreed(self: &Arc<Self>) -> Result<(), StartError> {
        let leads = self.initial_peers.first() == Some(&self.me.member.peer_address);
        let mut said: Option<Instant> = None;
        let mut agreed = self.agreed.subscribe();
        loop {
            if agreed.borrow_and_update().is_some() {
                return Ok(());
            }
            let answers = join_all(self.others().map(|peer| self.identity_of(peer))).await;
            let mut members = Vec::new();
            let mut silent = Vec::new();
            for answer in answers {
                match answer {
                    Ok((_, Some(founding))) => self.accept_found(founding).await?,
                    Ok((member, None)) => members.push(member),
                    Err(why) => silent.push(why),
                }
            }
            if leads && silent.is_empty() && self.agreed().is_none() {
                self.propose(members).await?;
                continue;
            }
            if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                said = Some(Instant::now());
                let whom = match silent.is_empty() {
                    true => format!("{} to found the cluster", self.initial_peers[0]),
                    false => silent.join("; "),
                };
                tracing::info!("waiting for {whom}");
            }
            // An agreement may arrive meanwhile; either way look again.
            let _ = timeout(ROUND_PAUSE, agreed.changed()).await;
        }
    }

    /// A peer has agreed to a founding: it must be one that counts this very directory in.
    async fn accept_found(self: &Arc<Self>, founding: Founding) -> Result<(), StartError> {
        if founding
            .members
            .iter()
            .any(|member| member.node == self.me.node)
        {
            return self.agree_blocking(founding).await;
        }
        Err(StartError::NotAMember(format!(
            "the initial peers founded cluster {} without this data directory (node {}). The \
             directory is new or was wiped, so this node must not vote in place of the member it \
             used to be, and it will not found a second cluster. If data was lost, this node comes \
             back as a new member: start it with --join instead of --initial-peers, naming members \
             that run, and remove the old member first if it had the same name or addresses",
            founding.cluster, self.me.node
        )))
    }

    async fn propose(self: &Arc<Self>, mut members: Vec<FoundingMember>) -> Result<(), StartError> {
        members.push(self.me.clone());
        let ordered: Option<Vec<FoundingMember>> = self
            .initial_peers
            .iter()
            .map(|peer| {
                members
                    .iter()
                    .find(|member| member.member.peer_address == *peer)
                    .cloned()
            })
            .collect();
        let ordered = ordered.ok_or_else(|| {
            StartError::Configuration(
                "the initial peers do not advertise the addresses they are listed under; give \
                 each its listed address with --advertise-peer"
                    .to_owned(),
            )
        })?;
        self.agree_blocking(draw(ordered)).await
    }

    /// Agrees on a thread that may wait for the disk.
    async fn agree_blocking(self: &Arc<Self>, founding: Founding) -> Result<(), StartError> {
        let state = self.clone();
        tokio::task::spawn_blocking(move || state.agree(founding))
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?
            .map_err(StartError::Configuration)
    }

    /// Gets the agreement of every other founding member. Only the first does this, until done.
    pub async fn gather_agreements(&self, founding: &Founding) -> Result<(), StartError> {
        let mut said: Option<Instant> = None;
        loop {
            let others = founding
                .members
                .iter()
                .filter(|member| member.node != self.me.node);
            let missing: Vec<String> = join_all(others.map(|member| async {
                let address = &member.member.peer_address;
                match self.ask(address, Request::Agree(founding.clone())).await {
                    Ok(Reply::Agreed) => None,
                    Ok(Reply::Failed(why)) | Err(why) => Some(format!("{address}: {why}")),
                    Ok(_) => Some(format!("{address}: an answer of another kind")),
                }
            }))
            .await
            .into_iter()
            .flatten()
            .collect();
            if missing.is_empty() {
                return Ok(());
            }
            if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                said = Some(Instant::now());
                tracing::info!("waiting for agreement of {}", missing.join("; "));
            }
            sleep(ROUND_PAUSE).await;
        }
    }

    /// Who answers at this address, and what it has agreed to.
    pub async fn identity_of(
        &self,
        peer: &str,
    ) -> Result<(FoundingMember, Option<Founding>), String> {
        let question = Request::Identify {
            initial_peers: self.initial_peers.clone(),
        };
        match self.ask(peer, question).await {
            Ok(Reply::Identity { member, agreed }) => Ok((member, agreed)),
            Ok(Reply::Failed(why)) => Err(format!("{peer}: {why}")),
            Ok(_) => Err(format!("{peer}: an answer of another kind")),
            Err(why) => Err(format!("{peer}: {why}")),
        }
    }

    async fn ask(&self, peer: &str, question: Request) -> Result<Reply, String> {
        let connection = self
            .dialer
            .connect(peer, None)
            .await
            .map_err(|error| error.to_string())?;
        connection
            .call(&question, CALL_TIMEOUT)
            .await
            .map_err(|error| error.to_string())
    }
}

impl FoundingHandler for FoundingState {
    fn identify(&self, initial_peers: Vec<String>) -> Result<Reply, String> {
        let agreed = self.agreed();
        if agreed.is_none() && initial_peers != self.initial_peers {
            return Err(format!(
                "the initial peers differ: `{}` there, `{}` here; give every node the same list",
                initial_peers.join(","),
                self.initial_peers.join(",")
            ));
        }
        Ok(Reply::Identity {
            member: self.me.clone(),
            agreed,
        })
    }

    fn agree(&self, founding: Founding) -> Result<(), String> {
        let mut directory = self.directory.lock();
        match directory.founding() {
            Some(agreed) if *agreed == founding => return Ok(()),
            Some(agreed) => {
                return Err(format!(
                    "this node agreed to cluster {} already and agrees to no other",
                    agreed.cluster
                ));
            }
            None => {}
        }
        if !founding.members.contains(&self.me) {
            return Err(format!(
                "the founding does not count this node in as {} ({})",
                self.me.node, self.me.member
            ));
        }
        directory
            .agree(&founding)
            .map_err(|error| format!("cannot remember the agreement: {error}"))?;
        tracing::info!(cluster = %founding.cluster, "agreed to found the cluster");
        self.agreed.send_replace(Some(founding));
        Ok(())
    }
}

fn draw(members: Vec<FoundingMember>) -> Founding {
    Founding {
        cluster: ClusterId(rand::random()),
        members,
    }
}

/// A cluster of one that was founded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founded {
    /// Its only member.
    pub node: NodeId,
    /// The cluster.
    pub cluster: ClusterId,
}

/// Founds a cluster of one in an empty data directory, durably, and starts nothing:
/// [`Node::start`](crate::Node::start) with [`Start::Existing`](crate::Start::Existing) runs it, and
/// others can join it.
///
/// # Errors
/// [`StartError::Configuration`] when the directory belongs to a cluster already.
///
/// # Cancellation
/// A dropped call may yet found the cluster.
pub async fn found_alone(
    data_directory: impl Into<PathBuf>,
    member: Member,
) -> Result<Founded, StartError> {
    let path = data_directory.into();
    tokio::task::spawn_blocking(move || {
        let mut directory = DataDirectory::open(&path)?;
        if directory.restore_plan().exists() {
            return Err(StartError::Configuration(format!(
                "the data directory {} holds a restored state, which becomes a cluster when the \
                 node is started; there is nothing else to found",
                path.display()
            )));
        }
        let founded = directory.founding().map(|founding| founding.cluster);
        if let Some(cluster) = founded.or(directory.joined().map(|joined| joined.cluster)) {
            return Err(StartError::Configuration(format!(
                "the data directory {} belongs to cluster {cluster} already; start the node as it \
                 is, or give another directory",
                path.display()
            )));
        }
        let node = directory.node();
        let founding = draw(vec![FoundingMember { node, member }]);
        directory.agree(&founding)?;
        Ok(Founded {
            node,
            cluster: founding.cluster,
        })
    })
    .await
    .map_err(|error| StartError::Raft(error.to_string()))?
}

/// What a node that joined says of the founding: that there was one, long before it.
fn without_members(cluster: ClusterId) -> Founding {
    Founding {
        cluster,
        members: Vec::new(),
    }
}

/// The peers to found with, checked: this node must be one of them, and none may repeat.
pub(crate) fn check_initial_peers(peers: &[String], own: &str) -> Result<(), StartError> {
    let refuse = |why: String| Err(StartError::Configuration(why));
    if !peers.iter().any(|peer| peer == own) {
        return refuse(format!(
            "this node advertises the peer address {own}, which is not among the initial peers \
             ({}); list it, or set --advertise-peer to the listed address",
            peers.join(",")
        ));
    }
    for (position, peer) in peers.iter().enumerate() {
        if peers[..position].contains(peer) {
            return refuse(format!("the initial peer {peer} is listed twice"));
        }
    }
    if peers.len() == 1 {
        return refuse(
            "a list of one initial peer would found a cluster of one; that takes an explicit \
             request (`palisaded init`)"
                .to_owned(),
        );
    }
    Ok(())
}

/// Shared with the server.
pub(crate) type SharedFounding = Arc<FoundingState>;
