//! The answering side of peer connections.
//!
//! Nothing is served before the handshake has shown the right magic, version, cluster and node ids.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::channel::{Channel, ReadHalf, WriteHalf};
use super::connection::write_frames;
use super::frame::{self, MAX_FRAME_BYTES, MAX_HANDSHAKE_BYTES, MAX_STRANGER_BYTES};
use super::messages::{Founding, Hello, MAGIC, Reply, Request, VERSION, Welcome};
use super::rarely::Rarely;
use crate::machine::Priority;
use crate::membership::{Administered, AdministrationCall};
use crate::node::NodeProgress;
use crate::snapshot::{PartialSnapshot, SnapshotStore};
use crate::types::{ClusterId, NodeId, ProposalId, SnapshotMeta, TypeConfig, Vote};

/// A caller must shake hands within this, TLS included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections being served at once; more are closed unanswered. A peer uses four.
const MAX_CONNECTIONS: usize = 1024;
const WRITE_QUEUE: usize = 1024;
/// Appends of one pipeline that wait for openraft.
const APPEND_QUEUE: usize = 64;
/// Requests of one connection that are being served may hold this many bytes together; a request
/// counts for the second at least. Beyond, the connection is not read. One frame more may be in its
/// buffer.
const REQUEST_BYTES: (usize, usize) = (2 * MAX_FRAME_BYTES, 16 << 10);
/// A caller that belongs to no cluster asks something this often, or is closed.
const STRANGER_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) type AppendResults =
    futures::stream::BoxStream<'static, Result<StreamAppendResult<TypeConfig>, String>>;

/// Who answers, and for which cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub node: NodeId,
    pub cluster: ClusterId,
}

/// What a running node does with its peers' requests. Errors become [`Reply::Failed`].
pub(crate) trait Handler: Send + Sync + 'static {
    fn append(&self, requests: ReceiverStream<AppendEntriesRequest<TypeConfig>>) -> AppendResults;
    fn vote(
        &self,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
    ) -> BoxFuture<'_, Result<VoteResponse<TypeConfig>, String>>;
    fn transfer_leader(
        &self,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> BoxFuture<'_, Result<TransferLeaderResponse<TypeConfig>, String>>;
    fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        snapshot: PartialSnapshot,
    ) -> BoxFuture<'_, Result<Vote, String>>;
    /// Proposes on behalf of a peer; `Some` says why this node does not take it. `refused` is called
    /// when it was taken and never entered the log.
    fn propose(
        &self,
        term: u64,
        id: ProposalId,
        priority: Priority,
        command: Bytes,
        refused: Box<dyn FnOnce() + Send>,
    ) -> Option<Reply>;
    fn has_space(&self) -> bool;
    fn read_index(&self) -> BoxFuture<'_, Result<Option<u64>, String>>;
    fn status(&self) -> NodeProgress;
    /// Reads or changes the membership, or hands the leadership over.
    fn administer(&self, call: AdministrationCall) -> BoxFuture<'_, Administered>;
    /// Founding questions, from nodes that belong to no cluster yet.
    fn founding(&self) -> Arc<dyn FoundingHandler>;
}

/// What a node says and does while a cluster is being founded, and of it ever after.
pub(crate) trait FoundingHandler: Send + Sync + 'static {
    fn identify(&self, initial_peers: Vec<String>) -> Result<Reply, String>;
    /// Agrees durably, once in this node's life. Blocking.
    fn agree(&self, founding: Founding) -> Result<(), String>;
}

/// Accepts connections for the life of a node.
pub(crate) struct Acceptor {
    listener: TcpListener,
    channel: Channel,
    refusals: Arc<Rarely>,
}

impl Acceptor {
    pub fn new(listener: TcpListener, channel: Channel) -> Self {
        Self {
            listener,
            channel,
            refusals: Arc::default(),
        }
    }

    /// Shakes hands with callers as `node`, a member of `cluster`, or of none while one is founded.
    pub(super) fn greeter(&self, node: NodeId, cluster: Option<ClusterId>) -> Greeter {
        Greeter {
            node,
            cluster,
            channel: self.channel.clone(),
            refusals: self.refusals.clone(),
        }
    }

    pub(super) async fn accept(&self, connections: &mut JoinSet<()>) -> Option<TcpStream> {
        while connections.try_join_next().is_some() {}
        match self.listener.accept().await {
            Ok(_) if connections.len() >= MAX_CONNECTIONS => {
                tracing::warn!("closed a peer connection: {MAX_CONNECTIONS} are open");
                None
            }
            Ok((stream, _)) => Some(stream),
            Err(error) => {
                // Out of file descriptors, usually; accepting again at once would spin.
                tracing::warn!(%error, "cannot accept a peer connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }
}

/// Answers founding questions until dropped.
pub(crate) async fn serve_bootstrap(
    acceptor: &Acceptor,
    node: NodeId,
    founding: Arc<dyn FoundingHandler>,
) {
    let greeter = acceptor.greeter(node, None);
    let mut connections = JoinSet::new();
    loop {
        if let Some(stream) = acceptor.accept(&mut connections).await {
            let (greeter, founding) = (greeter.clone(), founding.clone());
            connections.spawn(async move {
                let served = async {
                    let caller = greeter.greet(stream).await?;
                    serve_founding(caller, founding).await
                };
                if let Err(error) = served.await {
                    tracing::debug!(%error, "a founding connection ended");
                }
            });
        }
    }
}

/// Serves peers of one cluster until dropped.
pub(crate) async fn serve_peers(
    acceptor: Acceptor,
    identity: Identity,
    handler: Arc<dyn Handler>,
    snapshots: SnapshotStore,
) {
    let greeter = acceptor.greeter(identity.node, Some(identity.cluster));
    let mut connections = JoinSet::new();
    loop {
        if let Some(stream) = acceptor.accept(&mut connections).await {
            let (greeter, handler, snapshots) =
                (greeter.clone(), handler.clone(), snapshots.clone());
            connections.spawn(async move {
                if let Err(error) = serve_peer(stream, greeter, handler, snapshots).await {
                    tracing::debug!(%error, "a peer connection ended");
                }
            });
        }
    }
}

/// Who called, after the handshake.
pub(super) struct Caller {
    read: BufReader<ReadHalf>,
    write: WriteHalf,
    /// Whether it belongs to the cluster. One that does not may only ask of founding.
    pub(super) is_member: bool,
}

#[cfg(test)]
impl Caller {
    pub(super) async fn next_request(&mut self) -> io::Result<Request> {
        let received = frame::read(&mut self.read, &mut Vec::new(), MAX_FRAME_BYTES).await?;
        Ok(received.body)
    }
}

/// Answers nothing but founding questions on this connection.
async fn serve_founding(mut caller: Caller, founding: Arc<dyn FoundingHandler>) -> io::Result<()> {
    let (replies, queue) = mpsc::channel(WRITE_QUEUE);
    let writer = write_frames(caller.write, queue);
    let reader = async move {
        let mut buffer = Vec::new();
        loop {
            let next = frame::read(&mut caller.read, &mut buffer, MAX_STRANGER_BYTES);
            let Ok(request) = timeout(STRANGER_IDLE_TIMEOUT, next).await else {
                return Err(io::ErrorKind::TimedOut.into());
            };
            let request = request?;
            let reply = founding_reply(founding.clone(), request.body).await;
            send(&replies, request.number, &reply).await?;
        }
    };
    tokio::select! {
        ended = reader => ended,
        ended = writer => ended,
    }
}

/// Shakes hands with those who call.
#[derive(Clone)]
pub(super) struct Greeter {
    node: NodeId,
    cluster: Option<ClusterId>,
    channel: Channel,
    refusals: Arc<Rarely>,
}

impl Greeter {
    /// Shakes hands in time, or says why not. With a cluster, the caller must belong to it or only
    /// ask of founding.
    pub(super) async fn greet(&self, stream: TcpStream) -> io::Result<Caller> {
        let from = stream.peer_addr()?.ip();
        let greeted = timeout(HANDSHAKE_TIMEOUT, self.shake_hands(stream))
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "no handshake in time",
                ))
            });
        if let Err(error) = &greeted
            // A connection that only ends is a check of the port, or a peer that was restarted.
            && error.get_ref().is_some()
            && self.refusals.may_say(&format!("{from} {error}"))
        {
            tracing::warn!(%from, "refused a peer connection: {error}");
        }
        greeted
    }

    async fn shake_hands(&self, stream: TcpStream) -> io::Result<Caller> {
        let (read, mut write) = self.channel.accept(stream).await?;
        let mut read = BufReader::with_capacity(64 << 10, read);
        let hello = frame::read::<Hello>(&mut read, &mut Vec::new(), MAX_HANDSHAKE_BYTES)
            .await?
            .body;
        let refusal = refusal(&hello, self.node, self.cluster);
        let welcome = match &refusal {
            None => Welcome::Accepted { node: self.node },
            Some(why) => Welcome::Refused { why: why.clone() },
        };
        write.write_all(&frame::encode(0, &welcome)?).await?;
        write.flush().await?;
        match refusal {
            None => Ok(Caller {
                read,
                write,
                is_member: hello.cluster.is_some(),
            }),
            Some(why) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("node {}: {why}", hello.from),
            )),
        }
    }
}

fn refusal(hello: &Hello, node: NodeId, cluster: Option<ClusterId>) -> Option<String> {
    if hello.magic != MAGIC {
        return Some("this is not a peer's handshake".to_owned());
    }
    if hello.version != VERSION {
        return Some(format!(
            "peer protocol version {} is not known here; this node speaks version {VERSION}",
            hello.version
        ));
    }
    match (hello.cluster, cluster) {
        (Some(theirs), Some(ours)) if theirs != ours => Some(format!(
            "this node belongs to cluster {ours}, the caller to cluster {theirs}"
        )),
        (Some(_), None) => Some("this node belongs to no cluster yet".to_owned()),
        _ => match hello.to {
            Some(to) if to != node => Some(format!(
                "this is node {node}, not node {to}: a data directory was replaced or an address \
                 is used twice"
            )),
            _ => None,
        },
    }
}

async fn founding_reply(founding: Arc<dyn FoundingHandler>, request: Request) -> Reply {
    let reply = match request {
        Request::Identify { initial_peers } => founding.identify(initial_peers),
        Request::Agree(proposed) => {
            match tokio::task::spawn_blocking(move || founding.agree(proposed)).await {
                Ok(agreed) => agreed.map(|()| Reply::Agreed),
                Err(error) => Err(error.to_string()),
            }
        }
        _ => Err("only a member of the cluster may ask this".to_owned()),
    };
    reply.unwrap_or_else(Reply::Failed)
}

async fn send(replies: &mpsc::Sender<Bytes>, number: u64, reply: &Reply) -> io::Result<()> {
    replies
        .send(frame::encode(number, reply)?)
        .await
        .map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// One pipeline of appends being served.
struct AppendSession {
    number: u64,
    requests: mpsc::Sender<QueuedAppend>,
}

/// An append's number, itself, and its part of the connection's memory.
type QueuedAppend = (u64, AppendEntriesRequest<TypeConfig>, OwnedSemaphorePermit);

async fn serve_peer(
    stream: TcpStream,
    greeter: Greeter,
    handler: Arc<dyn Handler>,
    snapshots: SnapshotStore,
) -> io::Result<()> {
    let caller = greeter.greet(stream).await?;
    if !caller.is_member {
        return serve_founding(caller, handler.founding()).await;
    }
    let Caller {
        mut read, write, ..
    } = caller;
    let (replies, queue) = mpsc::channel(WRITE_QUEUE);
    let writer = write_frames(write, queue);
    let reader = async move {
        let mut buffer = Vec::new();
        let mut tasks = JoinSet::new();
        let mut session: Option<AppendSession> = None;
        let mut receiving: Option<PartialSnapshot> = None;
        let memory = Arc::new(Semaphore::new(REQUEST_BYTES.0));
        loop {
            let received = frame::read(&mut read, &mut buffer, MAX_FRAME_BYTES).await?;
            let (number, request) = (received.number, received.body);
            let bytes = received.bytes.max(REQUEST_BYTES.1) as u32;
            let held = memory.clone().acquire_many_owned(bytes).await;
            let held = held.map_err(io::Error::other)?;
            while tasks.try_join_next().is_some() {}
            match request {
                Request::Append {
                    session: of,
                    request,
                } => {
                    if session.as_ref().is_none_or(|current| current.number != of) {
                        let (requests, queue) = mpsc::channel(APPEND_QUEUE);
                        tasks.spawn(serve_appends(handler.clone(), queue, replies.clone()));
                        session = Some(AppendSession {
                            number: of,
                            requests,
                        });
                    }
                    if let Some(current) = &session {
                        // The session may have ended with a conflict; what was still under way is
                        // dropped, as the caller expects.
                        let _ = current.requests.send((number, request, held)).await;
                    }
                }
                Request::SnapshotBegin { .. }
                | Request::SnapshotChunk { .. }
                | Request::SnapshotEnd { .. } => {
                    // In line: chunks keep their order, and a slow disk slows the sender.
                    let reply = receive(&handler, &snapshots, &mut receiving, request).await;
                    if !matches!(reply, Reply::SnapshotGoesOn) {
                        receiving = None;
                    }
                    send(&replies, number, &reply).await?;
                }
                Request::Propose {
                    term,
                    id,
                    priority,
                    command,
                } => {
                    let refused = refuse(replies.clone(), number);
                    if let Some(why) = handler.propose(term, id, priority, command, refused) {
                        send(&replies, number, &why).await?;
                    }
                }
                request => {
                    let (handler, replies) = (handler.clone(), replies.clone());
                    tasks.spawn(async move {
                        let reply = answer(&*handler, request).await;
                        // A lost connection ends the reader too.
                        let _ = send(&replies, number, &reply).await;
                        drop(held);
                    });
                }
            }
        }
    };
    tokio::select! {
        ended = reader => ended,
        ended = writer => ended,
    }
}

/// Tells the proposer that its proposal never entered the log, if the connection still takes it.
fn refuse(replies: mpsc::Sender<Bytes>, number: u64) -> Box<dyn FnOnce() + Send> {
    Box::new(move || {
        let Ok(frame) = frame::encode(number, &Reply::NotProposed) else {
            return;
        };
        if replies.try_send(frame).is_err() {
            tracing::debug!("a peer does not hear that its proposal was refused; it times out");
        }
    })
}

async fn answer(handler: &dyn Handler, request: Request) -> Reply {
    let reply = match request {
        Request::Vote(request) => handler.vote(request, false).await.map(Reply::Vote),
        Request::PreVote(request) => handler.vote(request, true).await.map(Reply::Vote),
        Request::TransferLeader(request) => handler
            .transfer_leader(request)
            .await
            .map(Reply::TransferLeader),
        Request::ReadIndex => handler.read_index().await.map(Reply::ReadIndex),
        Request::HasSpace => Ok(Reply::HasSpace(handler.has_space())),
        Request::Status => Ok(Reply::Status(handler.status())),
        Request::Administer(call) => Ok(Reply::Administered(handler.administer(call).await)),
        _ => Err("this request has no place on this connection".to_owned()),
    };
    reply.unwrap_or_else(Reply::Failed)
}

/// Feeds one pipeline of appends to openraft and sends its results back in order.
async fn serve_appends(
    handler: Arc<dyn Handler>,
    mut queue: mpsc::Receiver<QueuedAppend>,
    replies: mpsc::Sender<Bytes>,
) {
    let (numbers, mut waiting) = mpsc::channel(2 * APPEND_QUEUE);
    let (requests, input) = mpsc::channel(1);
    let mut results = handler.append(ReceiverStream::new(input));
    let feed = async move {
        while let Some((number, request, _held)) = queue.recv().await {
            if numbers.send(number).await.is_err() || requests.send(request).await.is_err() {
                return;
            }
        }
    };
    let answer = async move {
        while let Some(result) = results.next().await {
            let Some(number) = waiting.recv().await else {
                return;
            };
            let reply = result.map_or_else(Reply::Failed, Reply::Append);
            if send(&replies, number, &reply).await.is_err() {
                return;
            }
        }
    };
    // When the results end (conflict, higher vote), the feed ends with them; when the feed ends,
    // results still on their way are sent.
    tokio::pin!(answer);
    tokio::select! {
        () = &mut answer => {}
        () = feed => answer.await,
    }
}

async fn receive(
    handler: &Arc<dyn Handler>,
    snapshots: &SnapshotStore,
    receiving: &mut Option<PartialSnapshot>,
    request: Request,
) -> Reply {
    let blocking = async |work: Box<dyn FnOnce() -> io::Result<PartialSnapshot> + Send>| {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    };
    let result = match (request, receiving.take()) {
        (Request::SnapshotBegin { bytes }, _) => {
            tracing::info!(bytes, "receiving a snapshot");
            let store = snapshots.clone();
            blocking(Box::new(move || store.receive(bytes))).await
        }
        (Request::SnapshotChunk { bytes }, Some(mut partial)) => {
            blocking(Box::new(move || {
                partial.append(&bytes)?;
                Ok(partial)
            }))
            .await
        }
        (Request::SnapshotEnd { vote }, Some(partial)) => {
            return match verified(partial).await {
                Ok((meta, partial)) => match handler.install(vote, meta, partial).await {
                    Ok(vote) => Reply::SnapshotInstalled { vote },
                    Err(error) => Reply::Failed(error),
                },
                Err(error) => Reply::Failed(error.to_string()),
            };
        }
        _ => Err("a snapshot's part came without its beginning".to_owned()),
    };
    match result {
        Ok(partial) => {
            *receiving = Some(partial);
            Reply::SnapshotGoesOn
        }
        Err(error) => Reply::Failed(error),
    }
}

async fn verified(partial: PartialSnapshot) -> io::Result<(SnapshotMeta, PartialSnapshot)> {
    tokio::task::spawn_blocking(move || Ok((partial.verify()?, partial)))
        .await
        .map_err(io::Error::other)?
}
