//! openraft's network traits over our connections: one per target and purpose.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::connection::{Answer, CallError, Connection, Dialer};
use super::messages::{Reply, Request};
use super::transfers::Transfers;
use crate::apply::SnapshotData;
use crate::metrics::SnapshotProgress;
use crate::snapshot::SnapshotFile;
use crate::types::{Member, NodeId, TypeConfig, Vote};

/// The longest that a peer may owe a reply to an append, a vote or a chunk before the connection is
/// given up. It bounds stalls, not elections: heartbeats have their own, shorter deadline.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// A follower installs a received snapshot within this.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);
/// Appends on the way to one follower. While that many are, entries gather for the next, so that one
/// append, and one fsync of the follower, carries many: see docs/decisions/0007.
const APPEND_WINDOW: usize = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
const CHUNK_BYTES: usize = 512 << 10;
/// Chunks on the way; times their size, the memory that a transfer takes.
const CHUNK_WINDOW: usize = 4;

type BoxFuture<'a, T> = openraft::base::BoxFuture<'a, T>;
type BoxStream<'a, T> = openraft::base::BoxStream<'a, T>;
type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Where a member is now, by the newest membership; `None` for whoever is no member.
pub(crate) type Whereabouts = dyn Fn(NodeId) -> Option<String> + Send + Sync;

/// Makes a [`Network`] per target and purpose.
#[derive(Clone)]
pub(crate) struct NetworkFactory {
    pub dialer: Dialer,
    /// Set once raft runs. openraft keeps its networks when an address changes, so each connect asks.
    pub whereabouts: Arc<OnceLock<Box<Whereabouts>>>,
    pub transfers: Transfers,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Network {
        Network {
            dialer: self.dialer.clone(),
            transfers: self.transfers.clone(),
            target,
            whereabouts: self.whereabouts.clone(),
            address: node.peer_address.clone(),
            session: 0,
            connecting: None,
            connection: None,
            failures: 0,
            retry_at: Instant::now(),
        }
    }
}

/// One target, one purpose, one connection at a time.
pub(crate) struct Network {
    dialer: Dialer,
    transfers: Transfers,
    target: NodeId,
    whereabouts: Arc<OnceLock<Box<Whereabouts>>>,
    /// Where the target was when this network was made.
    address: String,
    /// Numbers the pipelines of appends on this connection.
    session: u64,
    /// Kept across calls that are cut short, so that a slow connect still comes to its end.
    connecting: Option<JoinHandle<io::Result<Connection>>>,
    connection: Option<Arc<Connection>>,
    /// Connects that failed in a row, and when to try again. openraft's own backoff only begins once
    /// a pipeline of appends is up.
    failures: u32,
    retry_at: Instant,
}

/// 20 ms, doubled by every failure up to half a second, with jitter so that peers do not meet again.
fn reconnect_pause(failures: u32) -> Duration {
    let pause = FIRST_PAUSE * 2_u32.saturating_pow(failures.min(8));
    pause
        .min(LONGEST_PAUSE)
        .mul_f64(rand::random_range(0.75..1.25))
}

fn unreachable(error: impl std::fmt::Display) -> Unreachable<TypeConfig> {
    Unreachable::from_string(error.to_string())
}

fn network_error(error: impl std::fmt::Display) -> NetworkError<TypeConfig> {
    NetworkError::from_string(error.to_string())
}

fn rpc_error(error: CallError) -> RPCError<TypeConfig> {
    match error {
        CallError::NotSent(_) => unreachable(error).into(),
        CallError::Lost | CallError::TimedOut(_) => network_error(error).into(),
    }
}

fn unexpected(reply: Reply) -> RPCError<TypeConfig> {
    match reply {
        Reply::Failed(why) => network_error(format!("the peer answered: {why}")).into(),
        other => network_error(format!(
            "the peer gave an answer of another kind: {other:?}"
        ))
        .into(),
    }
}

impl Network {
    async fn connection(&mut self) -> Result<Arc<Connection>, Unreachable<TypeConfig>> {
        if let Some(open) = &self.connection
            && open.is_usable(REPLY_TIMEOUT)
        {
            return Ok(open.clone());
        }
        self.connection = None;
        if self.connecting.is_none() {
            sleep_until(self.retry_at).await;
            let now_at = self.whereabouts.get().and_then(|at| at(self.target));
            self.address = now_at.unwrap_or_else(|| std::mem::take(&mut self.address));
        }
        let connecting = self.connecting.get_or_insert_with(|| {
            let (dialer, address, target) =
                (self.dialer.clone(), self.address.clone(), self.target);
            tokio::spawn(async move { dialer.connect(&address, Some(target)).await })
        });
        let connected = connecting.await;
        self.connecting = None;
        let connection = match connected.map_err(io::Error::other).flatten() {
            Ok(connection) => connection,
            Err(error) => {
                self.retry_at = Instant::now() + reconnect_pause(self.failures);
                self.failures += 1;
                return Err(unreachable(format!("{}: {error}", self.address)));
            }
        };
        self.failures = 0;
        Ok(self.connection.insert(Arc::new(connection)).clone())
    }

    async fn call(
        &mut self,
        request: Request,
        limit: Duration,
    ) -> Result<Reply, RPCError<TypeConfig>> {
        let connection = timeout(limit, self.connection())
            .await
            .map_err(|_| unreachable("connecting took too long"))??;
        connection.call(&request, limit).await.map_err(rpc_error)
    }
}

/// A pipeline of appends: requests leave as they come, replies are yielded in request order.
struct Pipeline<S> {
    connection: Arc<Connection>,
    session: u64,
    requests: Option<S>,
    waiting: VecDeque<(Answer, Instant)>,
}

enum Step {
    Send(Option<AppendEntriesRequest<TypeConfig>>),
    Answered(Option<Reply>),
    TimedOut,
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Pipeline<S> {
    async fn step(&mut self) -> Option<Step> {
        let may_send = self.waiting.len() < APPEND_WINDOW;
        match (self.waiting.front_mut(), self.requests.as_mut()) {
            (None, None) => None,
            (None, Some(requests)) => Some(Step::Send(requests.next().await)),
            (Some((answer, deadline)), requests) => {
                let answered = async {
                    match timeout_at(*deadline, answer.wait()).await {
                        Ok(reply) => Step::Answered(reply),
                        Err(_) => Step::TimedOut,
                    }
                };
                match requests {
                    Some(requests) if may_send => tokio::select! {
                        biased;
                        step = answered => Some(step),
                        request = requests.next() => Some(Step::Send(request)),
                    },
                    _ => Some(answered.await),
                }
            }
        }
    }

    async fn next(
        &mut self,
    ) -> Option<Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>> {
        loop {
            match self.step().await? {
                Step::Send(None) => self.requests = None,
                Step::Send(Some(request)) => {
                    let request = Request::Append {
                        session: self.session,
                        request,
                    };
                    match self.connection.send(&request).await {
                        Ok(answer) => self
                            .waiting
                            .push_back((answer, Instant::now() + REPLY_TIMEOUT)),
                        Err(error) => return Some(Err(rpc_error(error))),
                    }
                }
                Step::Answered(reply) => {
                    self.waiting.pop_front();
                    return Some(match reply {
                        Some(Reply::Append(result)) => Ok(result),
                        Some(other) => Err(unexpected(other)),
                        None => Err(rpc_error(CallError::Lost)),
                    });
                }
                Step::TimedOut => return Some(Err(rpc_error(CallError::TimedOut(REPLY_TIMEOUT)))),
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.session += 1;
        let request = Request::Append {
            session: self.session,
            request,
        };
        match self.call(request, option.hard_ttl()).await? {
            Reply::Append(result) => Ok(result.into()),
            other => Err(unexpected(other)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let connection = self.connection().await?;
            self.session += 1;
            let pipeline = Pipeline {
                connection,
                session: self.session,
                requests: Some(input),
                waiting: VecDeque::new(),
            };
            let replies = stream::unfold(Some(pipeline), |pipeline| async {
                let mut pipeline = pipeline?;
                let reply = pipeline.next().await?;
                // After a conflict, a higher vote or an error the session is over.
                let goes_on = matches!(reply, Ok(Ok(_)));
                Some((reply, goes_on.then_some(pipeline)))
            });
            let replies: BoxStream<'s, _> = Box::pin(replies);
            Ok(replies)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Request::Vote(request), REPLY_TIMEOUT).await? {
            Reply::Vote(response) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.call(Request::PreVote(request), REPLY_TIMEOUT).await? {
            Reply::Vote(response) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Whole(file) = snapshot.snapshot else {
            return Err(network_error("only a snapshot of this node's folder can be sent").into());
        };
        let last = snapshot.meta.last_log_id.map_or(0, |last| last.index);
        let _sending = self.transfers.begin(last);
        let (peer, transfers) = (self.target, self.transfers.clone());
        let connection = self.connection().await?;
        tracing::info!(%peer, index = last, "sending a snapshot");
        let sent = tokio::select! {
            closed = cancel => return Err(closed.into()),
            sent = send_snapshot(&connection, peer, vote, file, &transfers) => sent,
        };
        match &sent {
            Ok(_) => tracing::info!(%peer, index = last, "snapshot sent"),
            Err(error) => tracing::warn!(%peer, index = last, %error, "a snapshot was not sent"),
        }
        Ok(sent?)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self
            .call(Request::TransferLeader(request), REPLY_TIMEOUT)
            .await?
        {
            Reply::TransferLeader(response) => Ok(response),
            other => Err(unexpected(other)),
        }
    }
}

/// Streams a snapshot file in chunks, a few at a time, and waits until it is installed.
async fn send_snapshot(
    connection: &Connection,
    to: NodeId,
    vote: Vote,
    file: SnapshotFile,
    transfers: &Transfers,
) -> Result<SnapshotResponse<TypeConfig>, RPCError<TypeConfig>> {
    let total = file.bytes().map_err(network_error)?;
    let mut progress = SnapshotProgress::sending(to, total);
    goes_on(
        connection
            .call(&Request::SnapshotBegin { bytes: total }, REPLY_TIMEOUT)
            .await
            .map_err(rpc_error)?,
    )?;
    let mut waiting: VecDeque<Answer> = VecDeque::new();
    let mut offset = 0;
    while offset < total {
        let source = file.clone();
        let chunk = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; CHUNK_BYTES];
            let read = source.read_at(&mut buffer, offset)?;
            buffer.truncate(read);
            Ok::<_, io::Error>(Bytes::from(buffer))
        })
        .await
        .map_err(network_error)?
        .map_err(network_error)?;
        if chunk.is_empty() {
            return Err(network_error("the snapshot file ended early").into());
        }
        offset += chunk.len() as u64;
        progress.add(chunk.len());
        if waiting.len() >= CHUNK_WINDOW {
            chunk_taken(waiting.pop_front()).await?;
        }
        let request = Request::SnapshotChunk { bytes: chunk };
        waiting.push_back(connection.send(&request).await.map_err(rpc_error)?);
    }
    while !waiting.is_empty() {
        chunk_taken(waiting.pop_front()).await?;
    }
    match connection
        .call(&Request::SnapshotEnd { vote }, INSTALL_TIMEOUT)
        .await
        .map_err(rpc_error)?
    {
        Reply::SnapshotInstalled { vote } => {
            progress.finished();
            Ok(SnapshotResponse::new(vote))
        }
        other => {
            check_source(file, transfers).await;
            Err(unexpected(other))
        }
    }
}

/// A damaged file would be sent, and refused, for ever: asks for a new one, of the state in memory.
async fn check_source(file: SnapshotFile, transfers: &Transfers) {
    let checked = tokio::task::spawn_blocking(move || file.verify()).await;
    if let Ok(Err(error)) = checked {
        tracing::error!("{error}; a new one is taken. Check this node's disk");
        transfers.found_damage();
    }
}

fn goes_on(reply: Reply) -> Result<(), RPCError<TypeConfig>> {
    match reply {
        Reply::SnapshotGoesOn => Ok(()),
        other => Err(unexpected(other)),
    }
}

async fn chunk_taken(answer: Option<Answer>) -> Result<(), RPCError<TypeConfig>> {
    let Some(mut answer) = answer else {
        return Ok(());
    };
    match timeout(REPLY_TIMEOUT * 5, answer.wait()).await {
        Ok(Some(reply)) => goes_on(reply),
        Ok(None) => Err(rpc_error(CallError::Lost)),
        Err(_) => Err(rpc_error(CallError::TimedOut(REPLY_TIMEOUT * 5))),
    }
}
