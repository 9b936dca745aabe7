//! Changes of the membership and of the leader: finds the leader, and on it carries them out.
//!
//! What a change means and whether it is allowed is decided in `plan`; how the leadership is handed
//! over, in `transfer`. One change or transfer runs at a time, and one that has begun goes on to its
//! end when its caller gives up.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::{ChangeMembershipRequest, ClientWriteResponse};
use openraft::{Precondition, Raft};
use parking_lot::RwLock;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::admission::Admission;
use super::pending::Pending;
use super::plan::Group;
use super::proposer::Sealing;
use super::status::{MetricsReceiver, Status};
use crate::apply::Applier;
use crate::machine::StateMachine;
use crate::membership::{
    Administered, Administration, AdministrationCall, Membership, MembershipChange,
    MembershipError, MembershipVersion,
};
use crate::transport::{CallError, Dialer, Identity, Reply, Request};
use crate::types::{LogId, NodeId, TypeConfig};

/// Pause before a call that found no leader is tried again, growing up to the second value.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// A leader that was removed has this long to hand its leadership over.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Steward<M: StateMachine> {
    pub raft: Raft<TypeConfig, Applier<M>>,
    pub metrics: MetricsReceiver,
    pub dialer: Dialer,
    pub identity: Identity,
    pub machine: Arc<RwLock<M>>,
    pub pending: Arc<Pending<M::Response>>,
    pub proposals: mpsc::Sender<Sealing>,
    pub admission: Arc<Admission>,
    /// Held by whatever changes the membership or the leader.
    pub changing: Arc<Mutex<()>>,
}

/// Asks the node at `address` within `limit`, on a connection of its own: what it asks for may take
/// long, and a shared one would be given up for it.
pub(super) async fn call(
    dialer: &Dialer,
    address: &str,
    to: Option<NodeId>,
    call: AdministrationCall,
) -> Administered {
    let limit = Duration::from_millis(call.limit_ms);
    let asked = async {
        let connection = dialer
            .connect(address, to)
            .await
            .map_err(CallError::NotSent)?;
        connection.call(&Request::Administer(call), limit).await
    };
    let refused = Administered::Refused;
    match timeout(limit, asked).await {
        Ok(Ok(Reply::Administered(administered))) => administered,
        Ok(Ok(Reply::Failed(why))) => refused(MembershipError::Raft(why)),
        Ok(Err(CallError::NotSent(error))) => {
            tracing::debug!(address, %error, "cannot ask a member to change the membership");
            refused(MembershipError::NoLeader)
        }
        Ok(Ok(_) | Err(CallError::Lost | CallError::TimedOut(_))) | Err(_) => {
            refused(MembershipError::Unknown)
        }
    }
}

impl<M: StateMachine> Steward<M> {
    /// The newest membership that this node knows.
    pub fn membership(&self) -> Membership {
        Status::new(&self.metrics.borrow_watched()).membership
    }

    /// The newest membership that this node knows to be committed.
    pub fn committed_membership(&self) -> Membership {
        let metrics = self.metrics.borrow_watched();
        Membership::new(&metrics.committed_membership_config, true)
    }

    /// Asks the leader, wherever it is, until the deadline.
    pub async fn ask(
        self: &Arc<Self>,
        what: Administration,
        deadline: Instant,
    ) -> Result<Administered, MembershipError> {
        let mut pause = RETRY_PAUSE.0;
        let mut metrics = self.metrics.clone();
        for turn in 0.. {
            // Seen from here on, so that a change of leadership during the attempt ends the pause.
            metrics.borrow_and_update();
            match self.attempt(&what, turn, deadline).await {
                Administered::Refused(MembershipError::NoLeader) => {}
                Administered::Refused(error) => return Err(error),
                done => return Ok(done),
            }
            if Instant::now() + pause >= deadline {
                break;
            }
            if let Ok(Err(_)) = timeout(pause, WatchReceiver::changed(&mut metrics)).await {
                // Raft has stopped here: there would be no pause between further attempts.
                break;
            }
            pause = (pause * 2).min(RETRY_PAUSE.1);
        }
        Err(MembershipError::NoLeader)
    }

    /// Asks the leader, or in other turns somebody else, who may know a newer one.
    async fn attempt(
        self: &Arc<Self>,
        what: &Administration,
        turn: usize,
        deadline: Instant,
    ) -> Administered {
        if self.leads().is_ok() {
            return self.here(what.clone(), deadline).await;
        }
        let (leader, mut others) = {
            let status = Status::new(&self.metrics.borrow_watched());
            let me = self.identity.node;
            let mut others: Vec<_> = status
                .membership
                .members
                .into_iter()
                .filter(|(node, _)| *node != me)
                .collect();
            let leader = status.progress.leader;
            let known = others.iter().position(|(node, _)| Some(*node) == leader);
            (known.map(|position| others.remove(position)), others)
        };
        let target = match leader {
            Some(leader) if turn.is_multiple_of(2) || others.is_empty() => Some(leader),
            _ if others.is_empty() => None,
            _ => Some(others.swap_remove(turn / 2 % others.len())),
        };
        match target {
            None => Administered::Refused(MembershipError::NoLeader),
            Some((node, member)) => {
                let asked = call_for(what.clone(), deadline, true);
                call(&self.dialer, &member.peer_address, Some(node), asked).await
            }
        }
    }

    /// Answers a peer: itself as the leader, else by passing the call on, once.
    pub async fn serve(self: &Arc<Self>, asked: AdministrationCall) -> Administered {
        let deadline = Instant::now() + Duration::from_millis(asked.limit_ms);
        if matches!(asked.what, Administration::Committed) || self.leads().is_ok() {
            return self.here(asked.what, deadline).await;
        }
        let leader = {
            let status = Status::new(&self.metrics.borrow_watched());
            let leader = status.leader();
            leader.map(|leader| (leader.node, leader.member.peer_address.clone()))
        };
        match leader {
            Some((node, address)) if asked.may_forward && node != self.identity.node => {
                let passed_on = call_for(asked.what, deadline, false);
                call(&self.dialer, &address, Some(node), passed_on).await
            }
            _ => Administered::Refused(MembershipError::NoLeader),
        }
    }

    async fn here(self: &Arc<Self>, what: Administration, deadline: Instant) -> Administered {
        let done = match what {
            Administration::Change { change, expected } => self
                .change(&change, expected, deadline)
                .await
                .map(Administered::Membership),
            Administration::HandOver { to } => {
                self.hand_over(to, deadline).await.map(Administered::Leader)
            }
            Administration::Committed => Ok(Administered::Membership(self.committed_membership())),
        };
        done.unwrap_or_else(Administered::Refused)
    }

    /// The term in which this node leads with a quorum and has applied its own first entry.
    pub(super) fn leads(&self) -> Result<u64, MembershipError> {
        let metrics = self.metrics.borrow_watched();
        let term = metrics.current_term;
        let ready = metrics
            .last_applied
            .is_some_and(|last| last.leader_id.term == term);
        let leads = metrics.state.is_leader()
            && Status::new(&metrics).progress.leader == Some(self.identity.node);
        match leads && ready {
            true => Ok(term),
            false => Err(MembershipError::NoLeader),
        }
    }

    pub(super) fn begin(&self) -> Result<OwnedMutexGuard<()>, MembershipError> {
        let free = self.changing.clone().try_lock_owned();
        free.map_err(|_| MembershipError::InProgress)
    }

    /// What this node knows as the leader.
    pub(super) fn group(&self) -> Group {
        self.group_and_log_id().0
    }

    fn group_and_log_id(&self) -> (Group, Option<LogId>) {
        let metrics = self.metrics.borrow_watched();
        let me = self.identity.node;
        let status = Status::new(&metrics);
        let heard = status
            .members
            .iter()
            .filter(|member| member.heard == Some(true))
            .map(|member| member.node)
            .chain([me])
            .collect();
        let matched = metrics.replication.iter().flatten();
        let group = Group {
            me,
            membership: status.membership,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            matched: matched
                .map(|(node, matched)| (*node, matched.map(|log_id| log_id.index)))
                .collect(),
            heard,
        };
        (group, *metrics.membership_config.log_id())
    }

    async fn change(
        self: &Arc<Self>,
        change: &MembershipChange,
        expected: Option<MembershipVersion>,
        deadline: Instant,
    ) -> Result<Membership, MembershipError> {
        let term = self.leads()?;
        let changing = self.begin()?;
        let (group, based_on) = self.group_and_log_id();
        if let (Some(expected), Some(actual)) = (expected, group.membership.version)
            && expected != actual
        {
            return Err(MembershipError::Changed { expected, actual });
        }
        let Some(step) = group.plan(change)? else {
            return Ok(group.membership);
        };
        self.check_reachable(&group, change).await?;
        tracing::info!(?change, "changing the membership");
        // Removed voters go for good; a learner that should stay one is not made by a removal.
        let request = ChangeMembershipRequest::new(step, false).with_preconditions([
            Precondition::LastMembershipLogId {
                last_membership_log_id: based_on,
            },
        ]);
        let (done, outcome) = oneshot::channel();
        let steward = self.clone();
        tokio::spawn(async move {
            let changed = steward.raft.change_membership_with_payload(request).await;
            let changed = match changed {
                Ok(changed) => Ok(changed.uniform),
                Err(error) => Err(steward.explain(error, based_on)),
            };
            let outcome = changed.map(|entry| membership_of(&entry));
            let leaves = outcome
                .as_ref()
                .is_ok_and(|membership| !membership.contains(steward.identity.node));
            // Whoever asked may have met its deadline.
            let _ = done.send(outcome);
            if leaves {
                let deadline = Instant::now() + LEAVING_TIMEOUT;
                let handed_over = steward.hand_over_in_turn(None, term, deadline).await;
                tracing::info!(?handed_over, "the leader was removed");
            }
            drop(changing);
        });
        match timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(MembershipError::Unknown),
        }
    }

    /// A member that cannot be reached would only be found out when it is needed.
    async fn check_reachable(
        &self,
        group: &Group,
        change: &MembershipChange,
    ) -> Result<(), MembershipError> {
        let (node, member) = match change {
            MembershipChange::AddLearner { node, member }
            | MembershipChange::Update { node, member } => (*node, member),
            _ => return Ok(()),
        };
        let address = &member.peer_address;
        let known = group.membership.members.get(&node);
        if node == self.identity.node || known.is_some_and(|known| known.peer_address == *address) {
            return Ok(());
        }
        match self.dialer.connect(address, Some(node)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(MembershipError::Unreachable {
                node,
                address: address.clone(),
                why: error.to_string(),
            }),
        }
    }

    /// What openraft's refusal of a change means. `based_on` is the membership before it.
    fn explain(
        &self,
        error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
        based_on: Option<LogId>,
    ) -> MembershipError {
        let write = match error {
            RaftError::APIError(write) => write,
            RaftError::Fatal(fatal) => {
                tracing::warn!(%fatal, "a change of the membership was cut short");
                return MembershipError::Unknown;
            }
        };
        match write {
            // The first of two entries may have been written; the log tells.
            ClientWriteError::ForwardToLeader(_) if self.group_and_log_id().1 == based_on => {
                MembershipError::NoLeader
            }
            ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_) => {
                MembershipError::Unknown
            }
            ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_))
            | ClientWriteError::PreconditionFailed(_) => MembershipError::InProgress,
            ClientWriteError::ChangeMembershipError(refused) => {
                MembershipError::Raft(refused.to_string())
            }
        }
    }
}

fn membership_of(entry: &ClientWriteResponse<TypeConfig>) -> Membership {
    let membership = entry.membership.clone().unwrap_or_default();
    let stored = openraft::StoredMembership::new(Some(entry.log_id), membership);
    Membership::new(&stored, true)
}

pub(super) fn call_for(
    what: Administration,
    deadline: Instant,
    may_forward: bool,
) -> AdministrationCall {
    let left = deadline.saturating_duration_since(Instant::now());
    AdministrationCall {
        what,
        limit_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        may_forward,
    }
}
