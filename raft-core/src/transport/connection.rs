//! The calling side of a peer connection.
//!
//! Calls are multiplexed by number. A lost connection fails every call on it; whether the peer did
//! what was asked is then unknown, and the callers treat it so.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::channel::{Channel, ReadHalf, WriteHalf};
use super::frame::{self, MAX_FRAME_BYTES, MAX_HANDSHAKE_BYTES};
use super::messages::{Hello, MAGIC, Reply, Request, VERSION, Welcome};
use super::rarely::Rarely;
use super::tls;
use crate::metrics::connection_failed;
use crate::types::{ClusterId, NodeId};

/// Frames waiting to be written to one peer.
const WRITE_QUEUE: usize = 1024;
/// A connection and its handshake must be done within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The request never left this node.
    #[error("cannot reach the peer: {0}")]
    NotSent(io::Error),
    /// It may or may not have reached the peer.
    #[error("the connection was lost before the answer")]
    Lost,
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// Connects to peers on behalf of one node.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    me: NodeId,
    cluster: Option<ClusterId>,
    channel: Channel,
    refusals: Arc<Rarely>,
}

impl Dialer {
    /// Dials as `me`, a member of `cluster`, or of none while one is founded.
    pub fn new(me: NodeId, cluster: Option<ClusterId>, channel: Channel) -> Self {
        Self {
            me,
            cluster,
            channel,
            refusals: Arc::default(),
        }
    }

    /// Connects and shakes hands. Resolves the name anew. `to` must be who answers.
    pub async fn connect(&self, address: &str, to: Option<NodeId>) -> io::Result<Connection> {
        let opened = timeout(CONNECT_TIMEOUT, self.open(address, to))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(tls::explained);
        if let (Err(_), Some(peer)) = (&opened, to) {
            connection_failed(peer);
        }
        if let Err(error) = &opened
            // A peer that is down is not worth a line; one that is up and will not talk is.
            && error.get_ref().is_some()
            && self.refusals.may_say(&format!("{address} {error}"))
        {
            tracing::warn!(peer = address, "cannot connect to a peer: {error}");
        }
        opened
    }

    async fn open(&self, address: &str, to: Option<NodeId>) -> io::Result<Connection> {
        let (read, mut write) = self.channel.connect(address).await?;
        let hello = Hello {
            magic: MAGIC,
            version: VERSION,
            cluster: self.cluster,
            from: self.me,
            to,
        };
        write.write_all(&frame::encode(0, &hello)?).await?;
        write.flush().await?;
        let mut read = BufReader::with_capacity(64 << 10, read);
        let welcome = frame::read(&mut read, &mut Vec::new(), MAX_HANDSHAKE_BYTES).await?;
        match welcome.body {
            Welcome::Accepted { node } if to.is_none_or(|to| to == node) => {
                Ok(Connection::start(node, read, write))
            }
            Welcome::Accepted { node } => Err(io::Error::other(format!(
                "{address} is node {node}, not the node expected there"
            ))),
            Welcome::Refused { why } => Err(io::Error::new(io::ErrorKind::ConnectionRefused, why)),
        }
    }
}

type Waiting = HashMap<u64, oneshot::Sender<Reply>>;

#[derive(Default)]
struct Calls {
    /// `None` once the connection is lost.
    waiting: Option<Waiting>,
    /// Replies that the peer owes, also to callers that gave up. Proposals are not among them.
    owed: usize,
    /// Since when the peer has owed a reply without giving any.
    owed_since: Option<Instant>,
}

impl Calls {
    fn replied(&mut self, number: u64, reply: &Reply) -> Option<oneshot::Sender<Reply>> {
        let refuses = matches!(
            reply,
            Reply::NotProposed | Reply::Overloaded | Reply::DiskFull
        );
        if !refuses {
            self.owed = self.owed.saturating_sub(1);
            self.owed_since = (self.owed > 0).then(Instant::now);
        }
        self.waiting.as_mut()?.remove(&number)
    }
}

/// A frame and what is kept with it.
struct Holding<H> {
    frame: Bytes,
    _held: H,
}

impl<H> AsRef<[u8]> for Holding<H> {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

/// An open connection to a peer. Dropping it closes it.
pub(crate) struct Connection {
    frames: mpsc::Sender<Bytes>,
    calls: Arc<Mutex<Calls>>,
    next: AtomicU64,
    tasks: [JoinHandle<()>; 2],
}

/// The answer to one call, when it comes. Dropping it forgets the call.
pub(crate) struct Answer {
    number: u64,
    calls: Arc<Mutex<Calls>>,
    reply: oneshot::Receiver<Reply>,
}

impl Answer {
    /// Waits for the reply; `None` when the connection is lost first. Cancellation safe.
    pub async fn wait(&mut self) -> Option<Reply> {
        (&mut self.reply).await.ok()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(waiting) = &mut self.calls.lock().waiting {
            waiting.remove(&self.number);
        }
    }
}

impl Connection {
    fn start(node: NodeId, mut read: BufReader<ReadHalf>, write: WriteHalf) -> Self {
        let calls = Arc::new(Mutex::new(Calls {
            waiting: Some(HashMap::new()),
            ..Calls::default()
        }));
        let (frames, queue) = mpsc::channel(WRITE_QUEUE);
        let reader = {
            let calls = calls.clone();
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                loop {
                    match frame::read::<Reply>(&mut read, &mut buffer, MAX_FRAME_BYTES).await {
                        Ok(reply) => {
                            let waiter = calls.lock().replied(reply.number, &reply.body);
                            if let Some(waiter) = waiter {
                                // The caller may have given up meanwhile.
                                let _ = waiter.send(reply.body);
                            }
                        }
                        Err(error) => {
                            tracing::debug!(peer = %node, %error, "peer connection ended");
                            calls.lock().waiting = None;
                            return;
                        }
                    }
                }
            })
        };
        let writer = {
            let calls = calls.clone();
            tokio::spawn(async move {
                if let Err(error) = write_frames(write, queue).await {
                    tracing::debug!(peer = %node, %error, "peer connection cannot be written");
                }
                calls.lock().waiting = None;
            })
        };
        Self {
            frames,
            calls,
            next: AtomicU64::new(1),
            tasks: [reader, writer],
        }
    }

    /// Whether it is worth calling on: not lost, and no reply owed for longer than `limit`.
    pub fn is_usable(&self, limit: Duration) -> bool {
        let calls = self.calls.lock();
        calls.waiting.is_some() && calls.owed_since.is_none_or(|since| since.elapsed() < limit)
    }

    /// Sends a request that the peer answers in any case; its reply comes through the [`Answer`].
    /// Requests leave in call order.
    pub async fn send(&self, request: &Request) -> Result<Answer, CallError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = frame::encode(number, request).map_err(CallError::NotSent)?;
        self.send_frame(number, frame, true).await
    }

    /// As [`send`](Self::send) for a proposal, keeping `held` until the frame has left this node's
    /// memory.
    pub async fn send_proposal<H: Send + 'static>(
        &self,
        request: &Request,
        held: H,
    ) -> Result<Answer, CallError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = frame::encode(number, request).map_err(CallError::NotSent)?;
        let frame = Bytes::from_owner(Holding { frame, _held: held });
        self.send_frame(number, frame, false).await
    }

    /// `owes_reply` says whether the peer answers in any case.
    async fn send_frame(
        &self,
        number: u64,
        frame: Bytes,
        owes_reply: bool,
    ) -> Result<Answer, CallError> {
        let lost = || CallError::NotSent(io::ErrorKind::ConnectionAborted.into());
        let permit = self.frames.reserve().await.map_err(|_| lost())?;
        let (done, reply) = oneshot::channel();
        {
            let mut calls = self.calls.lock();
            let waiting = calls.waiting.as_mut().ok_or_else(lost)?;
            waiting.insert(number, done);
            if owes_reply {
                calls.owed += 1;
                calls.owed_since.get_or_insert_with(Instant::now);
            }
        }
        permit.send(frame);
        Ok(Answer {
            number,
            calls: self.calls.clone(),
            reply,
        })
    }

    /// Sends a request and waits for its reply within `limit`.
    pub async fn call(&self, request: &Request, limit: Duration) -> Result<Reply, CallError> {
        let mut answer = timeout(limit, self.send(request)).await.map_err(|_| {
            CallError::NotSent(io::Error::new(
                io::ErrorKind::TimedOut,
                "the connection's write queue is full",
            ))
        })??;
        match timeout(limit, answer.wait()).await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(CallError::Lost),
            Err(_) => Err(CallError::TimedOut(limit)),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Writes queued frames, flushing when the queue is empty.
pub(super) async fn write_frames(
    write: WriteHalf,
    mut queue: mpsc::Receiver<Bytes>,
) -> io::Result<()> {
    let mut write = BufWriter::with_capacity(64 << 10, write);
    while let Some(frame) = queue.recv().await {
        write.write_all(&frame).await?;
        while let Ok(frame) = queue.try_recv() {
            write.write_all(&frame).await?;
        }
        write.flush().await?;
    }
    Ok(())
}

/// A connection to one peer that many tasks share and that is opened again when lost.
pub(crate) struct PeerLink {
    dialer: Dialer,
    address: String,
    to: NodeId,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
}

impl PeerLink {
    pub fn new(dialer: Dialer, address: String, to: NodeId) -> Self {
        Self {
            dialer,
            address,
            to,
            connection: tokio::sync::Mutex::default(),
        }
    }

    /// Where this link leads.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The open connection, or a new one.
    pub async fn connection(&self) -> Result<Arc<Connection>, CallError> {
        let mut slot = self.connection.lock().await;
        if let Some(open) = slot.as_ref()
            && open.is_usable(super::network::REPLY_TIMEOUT)
        {
            return Ok(open.clone());
        }
        *slot = None;
        let opened = self
            .dialer
            .connect(&self.address, Some(self.to))
            .await
            .map_err(CallError::NotSent)?;
        Ok(slot.insert(Arc::new(opened)).clone())
    }

    /// Calls the peer within `limit`, connecting first where needed.
    pub async fn call(&self, request: &Request, limit: Duration) -> Result<Reply, CallError> {
        let connection = timeout(limit, self.connection())
            .await
            .map_err(|_| CallError::NotSent(io::ErrorKind::TimedOut.into()))??;
        connection.call(request, limit).await
    }
}
