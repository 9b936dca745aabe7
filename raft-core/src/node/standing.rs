//! This node's own place in the group, kept by one task for the life of the node: asks to be taken in
//! and for its vote, tells the group its addresses when they have changed, and notices when it has
//! been removed.
//!
//! It only ever asks: the leader decides. What it asks for can be repeated without harm.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::Instant as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::steward::{Steward, call, call_for};
use crate::error::StartError;
use crate::founding::FoundingState;
use crate::machine::StateMachine;
use crate::membership::{
    Administered, Administration, Membership, MembershipChange, MembershipError, MembershipVersion,
};
use crate::types::{Member, NodeId};

/// How often it looks whether something is to be asked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The same while the node comes into the group.
const JOINING_LOOK_EVERY: Duration = Duration::from_millis(50);
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that has heard no leader for this long asks the others whether it still belongs to them.
const SILENCE: Duration = Duration::from_secs(2);
const BELONGING_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the same trouble is said again.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Where this node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has not been taken in yet.
    Joining,
    Member,
    /// It was not taken in, and asking again would not help.
    Refused(String),
    /// It was taken out, for good.
    Removed(String),
}

pub(super) struct Standing<M: StateMachine> {
    pub steward: Arc<Steward<M>>,
    pub founding: Arc<FoundingState>,
    /// What the membership should say of this node.
    pub member: Member,
    pub state: watch::Sender<State>,
    /// The newest membership that this node is known to have belonged to.
    pub belonged: Option<MembershipVersion>,
    pub said: Option<(Instant, String)>,
    /// The membership has had what it should say since this start: what it says later is an
    /// operator's word.
    pub told: bool,
}

impl<M: StateMachine> Standing<M> {
    pub fn new(steward: Arc<Steward<M>>, founding: Arc<FoundingState>, member: Member) -> Self {
        let joined = founding.joined();
        let (state, belonged) = match &joined {
            // A founding member belongs from the beginning.
            None => (State::Member, Some(MembershipVersion { term: 0, index: 0 })),
            Some(joined) if joined.added.is_some() => (State::Member, joined.added),
            Some(_) => (State::Joining, None),
        };
        Self {
            steward,
            founding,
            member,
            state: watch::Sender::new(state),
            belonged,
            said: None,
            told: false,
        }
    }

    pub async fn run(mut self) {
        loop {
            let pause = match self.look().await {
                Ok(pause) => pause,
                Err(error) => {
                    self.say(&error.to_string());
                    LOOK_EVERY
                }
            };
            if matches!(*self.state.borrow(), State::Refused(_) | State::Removed(_)) {
                return;
            }
            sleep(pause).await;
        }
    }

    /// Does what is to be done next; returns when to look again.
    async fn look(&mut self) -> Result<Duration, StartError> {
        let me = self.steward.identity.node;
        // One that is not committed may be lost with its leader: it takes nobody in.
        let committed = self.steward.committed_membership();
        if committed.contains(me) {
            self.belonged = self.belonged.max(committed.version);
            self.state.send_if_modified(|state| {
                let joins = *state == State::Joining;
                if joins {
                    *state = State::Member;
                }
                joins
            });
        } else if self.belonged.is_none() {
            return self.ask_to_be_added().await;
        }
        let membership = self.steward.membership();
        if let Some(version) = self.removed_at(&membership).await {
            self.removed(version).await?;
            return Ok(LOOK_EVERY);
        }
        let Some(known) = membership.members.get(&me) else {
            // Taken in, and the log has not come that far yet.
            return Ok(JOINING_LOOK_EVERY);
        };
        if *known == self.member {
            self.told = true;
        }
        if !self.told {
            let update = MembershipChange::Update {
                node: me,
                member: self.member.clone(),
            };
            match self.ask(update).await {
                Ok(_) => {
                    self.told = true;
                    tracing::info!(member = %self.member, "the membership has this node's new addresses")
                }
                Err(error) => self.say(&format!(
                    "the others still know this node as {known}, not as {}: {error}",
                    self.member
                )),
            }
        }
        self.ask_for_a_vote(&membership).await
    }

    async fn ask_to_be_added(&mut self) -> Result<Duration, StartError> {
        let change = MembershipChange::AddLearner {
            node: self.steward.identity.node,
            member: self.member.clone(),
        };
        match self.ask_anybody(change).await {
            Ok(membership) => {
                self.belonged = membership.version;
                let added = membership.version;
                self.founding
                    .note_joining(move |joined| joined.added = added)
                    .await?;
                tracing::info!("taken in as a learner; the log is on its way");
                return Ok(JOINING_LOOK_EVERY);
            }
            Err(error @ (MembershipError::Duplicate { .. } | MembershipError::Invalid { .. })) => {
                let why = format!("the cluster does not take this node in: {error}");
                self.state.send_replace(State::Refused(why));
            }
            Err(error) => self.say(&format!("waiting to be taken in: {error}")),
        }
        Ok(LOOK_EVERY)
    }

    /// A joined node that is not to stay a learner gets its vote once it has caught up.
    async fn ask_for_a_vote(&mut self, membership: &Membership) -> Result<Duration, StartError> {
        let me = self.steward.identity.node;
        match self.founding.joined() {
            Some(joined) if !joined.learner && !joined.promoted => {}
            _ => return Ok(LOOK_EVERY),
        }
        if !membership.is_voter(me) || membership.is_joint() {
            match self.ask(MembershipChange::Promote { node: me }).await {
                Ok(_) => {}
                // The log is on its way, or somebody else's change.
                Err(MembershipError::Lagging { .. } | MembershipError::InProgress) => {
                    return Ok(JOINING_LOOK_EVERY);
                }
                Err(error) => {
                    self.say(&format!("waiting for a vote: {error}"));
                    return Ok(LOOK_EVERY);
                }
            }
        }
        self.founding
            .note_joining(|joined| joined.promoted = true)
            .await?;
        tracing::info!("this node has a vote");
        Ok(LOOK_EVERY)
    }

    async fn ask(&self, change: MembershipChange) -> Result<Membership, MembershipError> {
        let what = Administration::Change {
            change,
            expected: None,
        };
        let deadline = Instant::now() + ASK_TIMEOUT;
        membership_in(self.steward.ask(what, deadline).await?)
    }

    /// Asks those that it was told of: it knows no members yet.
    async fn ask_anybody(&self, change: MembershipChange) -> Result<Membership, MembershipError> {
        let what = Administration::Change {
            change,
            expected: None,
        };
        let mut outcome = MembershipError::NoLeader;
        for address in self.founding.joined().iter().flat_map(|joined| &joined.via) {
            let deadline = Instant::now() + ASK_TIMEOUT;
            let asked = call_for(what.clone(), deadline, true);
            match call(&self.steward.dialer, address, None, asked).await {
                Administered::Refused(MembershipError::NoLeader) => {}
                Administered::Refused(MembershipError::Unknown) => {
                    outcome = MembershipError::Unknown;
                }
                Administered::Refused(error) => return Err(error),
                done => return membership_in(done),
            }
        }
        Err(outcome)
    }

    /// The committed membership that this node belongs to no more, if there is one: its own log's, or
    /// the one of somebody else who knows more. Those that a lagging node has are older than
    /// `belonged` and prove nothing.
    async fn removed_at(&self, membership: &Membership) -> Option<MembershipVersion> {
        let me = self.steward.identity.node;
        if self.steward.raft.is_leader() {
            // It has its own removal to commit, and hands over after that.
            return None;
        }
        let proves = |theirs: &Membership| {
            let version = theirs.version.filter(|_| !theirs.contains(me))?;
            (Some(version) > self.belonged).then_some(version)
        };
        if let Some(version) = proves(&self.steward.committed_membership()) {
            return Some(version);
        }
        if self.heard_a_leader().await {
            return None;
        }
        let via = self.founding.joined().map(|joined| joined.via);
        let members = membership.members.iter().filter(|(node, _)| **node != me);
        let mut asked: Vec<(Option<NodeId>, String)> = members
            .map(|(node, member)| (Some(*node), member.peer_address.clone()))
            .collect();
        asked.extend(via.into_iter().flatten().map(|address| (None, address)));
        let answers = join_all(asked.iter().map(|(node, address)| {
            let deadline = Instant::now() + BELONGING_TIMEOUT;
            let asked = call_for(Administration::Committed, deadline, false);
            call(&self.steward.dialer, address, *node, asked)
        }));
        let answers = answers.await.into_iter().map(membership_in);
        answers.flatten().find_map(|theirs| proves(&theirs))
    }

    async fn heard_a_leader(&self) -> bool {
        let touched = self
            .steward
            .raft
            .with_raft_state(|state| state.vote_last_modified())
            .await;
        // A node whose raft has ended has failed for another reason.
        touched.is_err() || touched.is_ok_and(|at| at.is_some_and(|at| at.elapsed() < SILENCE))
    }

    async fn removed(&mut self, version: MembershipVersion) -> Result<(), StartError> {
        self.founding.note_removed().await?;
        let why = format!(
            "it was removed from cluster {} (membership {version}). {}",
            self.steward.identity.cluster,
            crate::joining::HOW_TO_COME_BACK
        );
        self.state.send_replace(State::Removed(why));
        Ok(())
    }

    /// Says what is in the way, the same thing only now and then.
    fn say(&mut self, what: &str) {
        let repeats = self
            .said
            .as_ref()
            .is_some_and(|(at, said)| said == what && at.elapsed() < SAY_EVERY);
        if !repeats {
            tracing::warn!("{what}");
            self.said = Some((Instant::now(), what.to_owned()));
        }
    }
}

fn membership_in(answer: Administered) -> Result<Membership, MembershipError> {
    match answer {
        Administered::Membership(membership) => Ok(membership),
        Administered::Refused(error) => Err(error),
        Administered::Leader(_) => Err(MembershipError::Raft(
            "an answer of another kind came".to_owned(),
        )),
    }
}
