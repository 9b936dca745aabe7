//! The simulated network: seeded delays, losses and cuts, in order per connection, as TCP is.
//!
//! A message that is lost breaks its connection; the sender learns that only by its time-out.

use std::collections::VecDeque;
use std::fmt::{Debug, Display};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use openraft::async_runtime::Select2;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::TypeConfigExt;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::process::Process;
use super::world::{Endpoint, World};
use super::{C, Simulated};
use crate::apply::SnapshotData;
use crate::node::links::{Forward, Forwarded, Refusal};
use crate::node::proposer::Sealing;
use crate::runtime::InstantOf;
use crate::types::{Member, NodeId, Vote};

/// After this long without an answer a connection is given up.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// Appends on the way to one follower, as in the real transport.
const APPEND_WINDOW: usize = 2;
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
const LOSS: f64 = 0.003;
/// The share of messages that take long, longer than an election timeout at times.
const SLOW: f64 = 0.01;

type BoxStream<'a, T> = openraft::base::BoxStream<'a, T>;
type Snapshot = openraft::type_config::alias::SnapshotOf<C, SnapshotData>;

/// The network as one process sees it.
#[derive(Clone)]
pub(super) struct Wire {
    pub world: World,
    pub from: Endpoint,
}

impl Wire {
    /// How long a message is on its way; `None` when it never arrives.
    fn depart(&self, to: NodeId, what: &dyn Display) -> Option<Duration> {
        let (world, from) = (&self.world, self.from);
        if !world.lives(from) {
            return None;
        }
        if world.is_cut(from.node, to) || world.chance(LOSS) {
            world.note(format_args!("{from} -> n{} lost: {what}", to.0));
            return None;
        }
        world.note(format_args!("{from} -> n{}: {what}", to.0));
        Some(match world.chance(SLOW) {
            true => world.millis(10..300),
            false => world.micros(50..2_000),
        })
    }

    /// The process that a message reaches after its delay.
    fn arrive(&self, to: NodeId, what: &dyn Display) -> Option<Arc<Process>> {
        let (world, from) = (&self.world, self.from);
        let target = world.running(to);
        let Some(target) = target.filter(|_| !world.is_cut(from.node, to)) else {
            world.note(format_args!("{from} -> n{} lost on its way: {what}", to.0));
            return None;
        };
        world.note(format_args!("{} <- {from}: {what}", target.endpoint));
        Some(target)
    }

    async fn leg(&self, to: NodeId, what: &(dyn Display + Sync)) -> Option<Arc<Process>> {
        let delay = self.depart(to, what)?;
        C::sleep(delay).await;
        self.arrive(to, what)
    }

    /// Brings an answer back, to the same life of the process that asked.
    async fn back(&self, from: &Process, what: &(dyn Display + Sync)) -> Option<()> {
        let reply = Wire {
            world: self.world.clone(),
            from: from.endpoint,
        };
        let reached = reply.leg(self.from.node, what).await?;
        (reached.endpoint == self.from).then_some(())
    }

    /// Asks `to`; `None` when there is no answer in time. The request goes its way even when the
    /// caller gives up.
    async fn ask<T: Debug + Send + 'static, F: Future<Output = Option<T>> + Send>(
        &self,
        to: NodeId,
        what: String,
        serve: impl FnOnce(Arc<Process>) -> F + Send + 'static,
    ) -> Option<T> {
        let (done, answer) = oneshot::channel();
        let wire = self.clone();
        C::spawn(async move {
            let target = wire.leg(to, &what).await?;
            let result = serve(target.clone()).await?;
            let what = format!("{result:?}");
            wire.back(&target, &what).await?;
            done.send(result).ok()
        });
        let lost_after = C::now() + REPLY_TIMEOUT;
        match C::timeout_at(lost_after, answer).await {
            Ok(Ok(result)) => Some(result),
            Ok(Err(_)) => {
                C::sleep_until(lost_after).await;
                None
            }
            Err(_) => None,
        }
    }

    /// A direction of a connection: what goes in comes out in order, later, until it breaks.
    fn line<T: Send + 'static>(
        &self,
        to: NodeId,
        label: fn(&T) -> String,
    ) -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
        let (input, mut sent) = mpsc::channel::<T>(64);
        // What is on its way at once; more waits to depart.
        let (flying, mut landing) = mpsc::channel(1024);
        let (out, output) = mpsc::channel(64);
        let wire = self.clone();
        C::spawn(async move {
            let mut last = C::now();
            while let Some(item) = sent.recv().await {
                let Some(delay) = wire.depart(to, &label(&item)) else {
                    return;
                };
                last = last.max(C::now() + delay);
                if flying.send((last, item)).await.is_err() {
                    return;
                }
            }
        });
        let wire = self.clone();
        C::spawn(async move {
            while let Some((at, item)) = landing.recv().await {
                C::sleep_until(at).await;
                if wire.arrive(to, &label(&item)).is_none() || out.send(item).await.is_err() {
                    return;
                }
            }
        });
        (input, output)
    }

    /// The far end of a pipeline of appends: feeds openraft there, and sends its results back.
    async fn serve_appends(
        self,
        to: NodeId,
        mut requests: mpsc::Receiver<AppendEntriesRequest<C>>,
        results: mpsc::Sender<StreamAppendResult<C>>,
    ) {
        let Some(first) = requests.recv().await else {
            return;
        };
        let Some(target) = self.world.running(to) else {
            return;
        };
        let reply = Wire {
            world: self.world.clone(),
            from: target.endpoint,
        };
        let (back, mut answers) = reply.line(self.from.node, |result| format!("{result:?}"));
        let (feed, input) = mpsc::channel(1);
        let mut served = target
            .raft
            .stream_append(ReceiverStream::new(input))
            .boxed();
        let world = self.world.clone();
        C::spawn(async move {
            let mut next = Some(first);
            while let Some(request) = next {
                if !world.lives(target.endpoint) || feed.send(request).await.is_err() {
                    return;
                }
                next = requests.recv().await;
            }
        });
        C::spawn(async move {
            while let Some(Ok(result)) = served.next().await {
                if back.send(result).await.is_err() {
                    return;
                }
            }
        });
        while let Some(result) = answers.recv().await {
            if !self.world.lives(self.from) || results.send(result).await.is_err() {
                return;
            }
        }
    }
}

fn network_error() -> RPCError<C> {
    NetworkError::from_string("no answer in time").into()
}

impl RaftNetworkFactory<C> for Wire {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, _member: &Member) -> Peer {
        Peer {
            wire: self.clone(),
            to: target,
        }
    }
}

/// One target.
pub(super) struct Peer {
    wire: Wire,
    to: NodeId,
}

/// A pipeline of appends at the leader's end.
struct Pipeline<S> {
    requests: Option<S>,
    up: mpsc::Sender<AppendEntriesRequest<C>>,
    down: mpsc::Receiver<StreamAppendResult<C>>,
    /// When each answer is due.
    waiting: VecDeque<InstantOf<Simulated>>,
}

impl<S: Stream<Item = AppendEntriesRequest<C>> + Send + Unpin> Pipeline<S> {
    async fn next(&mut self) -> Option<Result<StreamAppendResult<C>, RPCError<C>>> {
        loop {
            let requests = match self.waiting.len() < APPEND_WINDOW {
                true => self.requests.as_mut(),
                false => None,
            };
            let due = self.waiting.front().copied();
            let down = &mut self.down;
            let answered = async {
                match due {
                    Some(due) => match C::timeout_at(due, down.recv()).await {
                        Ok(Some(result)) => Some(result),
                        Ok(None) => {
                            C::sleep_until(due).await;
                            None
                        }
                        Err(_) => None,
                    },
                    None => std::future::pending().await,
                }
            };
            let step = match requests {
                Some(requests) => C::select2(Box::pin(answered), requests.next()).await,
                None if due.is_none() => return None,
                None => Select2::First(answered.await),
            };
            match step {
                Select2::First(answer) => {
                    self.waiting.pop_front();
                    return Some(answer.ok_or_else(network_error));
                }
                Select2::Second(None) => self.requests = None,
                Select2::Second(Some(request)) => {
                    self.waiting.push_back(C::now() + REPLY_TIMEOUT);
                    if self.up.send(request).await.is_err() {
                        // Broken; the time-out will tell.
                        self.requests = None;
                    }
                }
            }
        }
    }
}

impl RaftNetworkV2<C> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<C>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        self.wire
            .ask(self.to, format!("append {request}"), |target| async move {
                target.raft.append_entries(request).await.ok()
            })
            .await
            .ok_or_else(network_error)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> openraft::base::BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<C>, RPCError<C>>>, RPCError<C>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<C>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            if self.wire.world.running(self.to).is_none() {
                // As the real transport does: openraft itself would try again at once.
                C::sleep(RECONNECT_PAUSE).await;
                return Err(Unreachable::from_string("connection refused").into());
            }
            let (world, from) = (self.wire.world.clone(), self.wire.from);
            let input = input.inspect(move |request| {
                if world.lives(from) {
                    world.leads(request.vote.leader_id().term, from.node);
                }
            });
            let (up, requests) = self
                .wire
                .line(self.to, |request| format!("append {request}"));
            let (results, down) = mpsc::channel(64);
            let wire = self.wire.clone();
            C::spawn(wire.serve_appends(self.to, requests, results));
            let pipeline = Pipeline {
                requests: Some(input),
                up,
                down,
                waiting: VecDeque::new(),
            };
            let replies = stream::unfold(Some(pipeline), |pipeline| async {
                let mut pipeline = pipeline?;
                let reply = pipeline.next().await?;
                let goes_on = matches!(reply, Ok(Ok(_)));
                Some((reply, goes_on.then_some(pipeline)))
            });
            let replies: BoxStream<'s, _> = Box::pin(replies);
            Ok(replies)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<C>,
        _option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        self.wire
            .ask(self.to, format!("vote {request}"), |target| async move {
                target.raft.vote(request).await.ok()
            })
            .await
            .ok_or_else(network_error)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<C>,
        _option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        self.wire
            .ask(
                self.to,
                format!("pre-vote {request}"),
                |target| async move { target.raft.pre_vote(request).await.ok() },
            )
            .await
            .ok_or_else(network_error)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let what = format!("snapshot {}", snapshot.meta);
        let sent = self.wire.ask(self.to, what, move |target| async move {
            target.raft.install_full_snapshot(vote, snapshot).await.ok()
        });
        match C::select2(Box::pin(cancel), Box::pin(sent)).await {
            Select2::First(closed) => Err(closed.into()),
            Select2::Second(Some(response)) => Ok(response),
            Select2::Second(None) => Err(network_error().into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        let what = format!("transfer {request}");
        self.wire
            .ask(self.to, what, |target| async move {
                target.raft.handle_transfer_leader(request).await.ok()
            })
            .await
            .ok_or_else(network_error)
    }
}

impl Forward for Wire {
    fn forward(
        &self,
        leader: NodeId,
        proposal: Forwarded,
    ) -> BoxFuture<'_, Option<BoxFuture<'static, Refusal>>> {
        Box::pin(async move {
            // A process that does not run refuses the connection; one that is cut off is silent.
            self.world.running(leader)?;
            let (refuse, refused) = oneshot::channel();
            C::spawn(deliver(self.clone(), leader, proposal, refuse));
            let refused: BoxFuture<'static, Refusal> = Box::pin(async {
                match refused.await {
                    Ok(refusal) => refusal,
                    Err(_) => std::future::pending().await,
                }
            });
            Some(refused)
        })
    }
}

/// Brings a proposal to a leader, which does what the real transport's handler does with it.
async fn deliver(
    wire: Wire,
    leader: NodeId,
    proposal: Forwarded,
    refuse: oneshot::Sender<Refusal>,
) {
    let id = proposal.id;
    let what = format!("propose {}/{:x}", id.node, id.sequence);
    let Some(target) = wire.leg(leader, &what).await else {
        return;
    };
    let Some(permit) = target
        .admission
        .admit(proposal.priority, proposal.command.len())
    else {
        if wire.back(&target, &"overloaded").await.is_some() {
            let _ = refuse.send(Refusal::Overloaded);
        }
        return;
    };
    let refused = {
        let (wire, target) = (wire.clone(), target.clone());
        Box::new(move || {
            C::spawn(async move {
                if wire.back(&target, &"not taken").await.is_some() {
                    let _ = refuse.send(Refusal::NotTaken);
                }
            });
        })
    };
    let sealing = Sealing {
        id,
        command: proposal.command,
        term: proposal.term,
        permit,
        span: tracing::Span::none(),
        refused,
    };
    if let Err(unsent) = target.proposals.try_send(sealing) {
        (unsent.into_inner().refused)();
    }
}
