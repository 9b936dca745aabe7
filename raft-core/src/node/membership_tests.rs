//! Changes of the membership and of the leader in groups of real nodes in one process.

use std::collections::BTreeSet;
use std::time::Instant;

use tokio::time::timeout;

use super::super::*;
use super::{Group, LONG, deadline};
use crate::membership::{
    MemberField, Membership, MembershipChange, MembershipError, MembershipVersion,
};
use crate::testing::Register;

/// Waits for a condition of the group.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let by = deadline();
    while !holds() {
        assert!(Instant::now() < by, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A group whose leader has heard from everybody, and whose nodes all know who they are.
async fn settled(size: usize) -> Group {
    let group = Group::start(size).await;
    let leader = group.leader().await;
    until("everybody is heard and knows the others", || {
        let heard = group.node(leader).steward.group().heard.len();
        let know = (0..size).all(|number| {
            let membership = group.node(number).membership();
            membership.committed && membership.members.len() == size
        });
        heard == size && know
    })
    .await;
    group
}

/// Listens where a stopped node may not have let go yet, or a peer's dialling has the port.
async fn bind(address: &str) -> TcpListener {
    let by = deadline();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < by, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Group {
    /// Starts one more node, which joins through the first two; returns its number.
    async fn join(&mut self, stay_learner: bool) -> usize {
        let (number, started) = self.try_join(None, stay_learner).await;
        self.nodes[number] = Some(started.unwrap());
        number
    }

    /// The same at an address of choice, without expecting it to succeed.
    async fn try_join(
        &mut self,
        address: Option<String>,
        stay_learner: bool,
    ) -> (usize, Result<Node<Register>, StartError>) {
        let listener = bind(address.as_deref().unwrap_or("127.0.0.1:0")).await;
        let via = self.addresses.iter().take(2).cloned().collect();
        let number = self.addresses.len();
        self.addresses
            .push(listener.local_addr().unwrap().to_string());
        self.nodes.push(None);
        let mut config = self.config(number);
        config.start = Start::Join(via);
        config.stay_learner = stay_learner;
        let started = Node::start(config, listener, Register::default(), ());
        let started = timeout(LONG, started).await.expect("joins in time");
        (number, started)
    }

    /// Restarts a node that joined, or moves one: at its address of now, with what it remembers.
    async fn restart_existing(&mut self, number: usize) {
        let mut config = self.config(number);
        config.start = Start::Existing;
        let by = deadline();
        loop {
            let listener = bind(&self.addresses[number]).await;
            let started = Node::start(config.clone(), listener, Register::default(), ());
            match timeout(LONG, started).await.unwrap() {
                Ok(node) => break self.nodes[number] = Some(node),
                // The tasks of the stopped node end when they next run.
                Err(StartError::InUse(_)) => assert!(Instant::now() < by, "still in use"),
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn id(&self, number: usize) -> NodeId {
        self.node(number).id()
    }

    fn ids(&self, numbers: &[usize]) -> BTreeSet<NodeId> {
        numbers.iter().map(|number| self.id(*number)).collect()
    }

    async fn change(
        &self,
        asked: usize,
        change: MembershipChange,
    ) -> Result<Membership, MembershipError> {
        self.node(asked)
            .change_membership(change, None, deadline())
            .await
    }

    async fn until_voters(&self, seen_by: usize, voters: &BTreeSet<NodeId>) {
        until("these voters", || {
            let membership = self.node(seen_by).membership();
            membership.committed && membership.voters == [voters.clone()]
        })
        .await;
    }

    async fn propose(&self, number: usize, commands: std::ops::Range<u64>) {
        for command in commands {
            let proposed = self.node(number).propose(&command, deadline());
            proposed.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_gets_the_log_and_then_a_vote() {
    let mut group = settled(3).await;
    group.propose(0, 0..50).await;
    let joined = group.join(false).await;
    group.until_voters(0, &group.ids(&[0, 1, 2, joined])).await;
    assert_eq!(group.caught_up(joined).await, (0..50).collect::<Vec<_>>());
    assert_eq!(group.node(joined).cluster_id(), group.node(0).cluster_id());
    let id = group.id(joined);
    // What it is stays with its directory; it does not ask again.
    group.stop(joined).await;
    group.restart_existing(joined).await;
    assert_eq!(group.id(joined), id);
    group.propose(joined, 50..51).await;
    group
        .until_voters(joined, &group.ids(&[0, 1, 2, joined]))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_is_founded_once_and_others_join_it() {
    let mut group = settled(1).await;
    group.stop(0).await;
    let folder = tempfile::tempdir().unwrap();
    let member = group.config(0).member;
    let founded = crate::found_alone(folder.path(), member.clone())
        .await
        .unwrap();
    let again = crate::found_alone(folder.path(), member.clone())
        .await
        .unwrap_err();
    assert!(
        again.to_string().contains(&founded.cluster.to_string()),
        "{again}"
    );

    let listener = bind(&group.addresses[0]).await;
    let config = Config::new(folder.path(), member, Start::Existing);
    let node = Node::start(config, listener, Register::default(), ()).await;
    group.nodes[0] = Some(node.unwrap());
    assert_eq!(group.node(0).cluster_id(), founded.cluster);
    assert_eq!(group.id(0), founded.node);
    group.propose(0, 0..3).await;
    let second = group.join(false).await;
    group.until_voters(0, &group.ids(&[0, second])).await;
    assert_eq!(group.caught_up(second).await, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_stays_one_until_it_is_promoted_and_calls_work_on_any_node() {
    let mut group = settled(3).await;
    let learner = group.join(true).await;
    let id = group.id(learner);
    group.propose(0, 0..5).await;
    assert_eq!(group.caught_up(learner).await, [0, 1, 2, 3, 4]);
    let leader = group.leader().await;
    let status = group.node(leader).status();
    let shown = status.member(id).unwrap();
    assert!(!shown.voter);
    assert!(shown.lag_entries.is_some(), "{shown:?}");

    let promoted = group.change(learner, MembershipChange::Promote { node: id });
    assert!(promoted.await.unwrap().is_voter(id), "asked on the learner");
    let follower = (leader + 1) % 3;
    let removed = group.change(follower, MembershipChange::Remove { node: id });
    assert!(!removed.await.unwrap().contains(id), "asked on a follower");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_says_so_and_does_not_come_back() {
    let mut group = settled(3).await;
    let leader = group.leader().await;
    let removed = (leader + 1) % 3;
    let term = group.node(leader).status().progress.term;
    let remove = MembershipChange::Remove {
        node: group.id(removed),
    };
    let membership = group.change(removed, remove).await.unwrap();
    assert_eq!(membership.voters[0].len(), 2);
    let why = timeout(LONG, group.node(removed).failed()).await.unwrap();
    assert!(
        why.contains("was removed") && why.contains("--join"),
        "{why}"
    );
    // It disturbed nobody.
    assert_eq!(group.node(leader).status().progress.term, term);
    assert!(group.node(leader).is_leader());

    group.stop(removed).await;
    let listener = bind(&group.addresses[removed]).await;
    let started = Node::start(group.config(removed), listener, Register::default(), ());
    let error = timeout(LONG, started).await.unwrap().err().unwrap();
    assert!(matches!(error, StartError::NotAMember(_)), "{error}");
    assert!(error.to_string().contains("was removed"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_can_be_removed_and_another_leads() {
    let group = settled(3).await;
    let leader = group.leader().await;
    let asked = (leader + 1) % 3;
    let remove = MembershipChange::Remove {
        node: group.id(leader),
    };
    group.change(asked, remove).await.unwrap();
    timeout(LONG, group.node(leader).failed()).await.unwrap();
    group.propose(asked, 0..3).await;
    assert_ne!(group.leader().await, leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_voter_is_replaced_and_a_wiped_one_is_told_what_to_do() {
    let mut group = settled(3).await;
    group.propose(0, 0..10).await;
    let dead = (group.leader().await + 1) % 3;
    let dead_id = group.id(dead);
    let address = group.addresses[dead].clone();
    group.stop(dead).await;
    // Its machine comes back with an empty directory and the old address.
    let (_, refused) = group.try_join(Some(address), false).await;
    let error = refused.err().unwrap().to_string();
    for words in ["peer address", &dead_id.to_string(), "remove that member"] {
        assert!(error.contains(words), "{words}: {error}");
    }

    let new = group.join(true).await;
    group.caught_up(new).await;
    let replace = MembershipChange::Replace {
        old: dead_id,
        new: group.id(new),
    };
    let membership = group.change(new, replace.clone()).await.unwrap();
    assert!(!membership.contains(dead_id));
    assert!(membership.is_voter(group.id(new)));
    assert_eq!(membership.voters[0].len(), 3);
    let again = group.change(new, replace).await.unwrap();
    assert_eq!(
        again.version, membership.version,
        "a repeat changes nothing"
    );
    assert_eq!(group.caught_up(new).await, (0..10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_moves_is_found_at_its_new_address() {
    let mut group = settled(3).await;
    for number in 0..3 {
        group.stop(number).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        group.addresses[number] = address.clone();
        group.restart_existing(number).await;
        let id = group.id(number);
        let asked = (number + 1) % 3;
        until("the others know the new address", || {
            let membership = group.node(asked).membership();
            let known = membership.members.get(&id);
            membership.committed && known.is_some_and(|member| member.peer_address == address)
        })
        .await;
        group.propose(number, 0..1).await;
    }
    assert_eq!(group.caught_up(1).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_endanger_the_quorum_are_refused() {
    let mut group = settled(3).await;
    let leader = group.leader().await;
    let (dead, alive) = ((leader + 1) % 3, (leader + 2) % 3);
    let (dead_id, alive_id) = (group.id(dead), group.id(alive));
    group.stop(dead).await;
    until("the silence is noticed", || {
        let refused = group.node(leader).steward.group();
        !refused.heard.contains(&dead_id)
    })
    .await;
    let refused = group.change(alive, MembershipChange::Remove { node: alive_id });
    assert_eq!(
        refused.await,
        Err(MembershipError::QuorumLost {
            voters: 2,
            live: 1,
            needed: 2
        })
    );
    let unknown = NodeId(7);
    let refused = group.change(alive, MembershipChange::Promote { node: unknown });
    assert_eq!(
        refused.await,
        Err(MembershipError::UnknownMember { node: unknown })
    );
    let membership = group.node(leader).membership();
    let stale = MembershipVersion { term: 1, index: 0 };
    let refused = group.node(alive).change_membership(
        MembershipChange::Remove { node: dead_id },
        Some(stale),
        deadline(),
    );
    assert_eq!(
        refused.await,
        Err(MembershipError::Changed {
            expected: stale,
            actual: membership.version.unwrap()
        })
    );
    let mut member = membership.members[&alive_id].clone();
    member.peer_address = membership.members[&dead_id].peer_address.clone();
    let taken = member.peer_address.clone();
    let update = MembershipChange::Update {
        node: alive_id,
        member,
    };
    assert_eq!(
        group.change(alive, update).await,
        Err(MembershipError::Duplicate {
            field: MemberField::PeerAddress,
            value: taken,
            node: dead_id
        })
    );
    assert_eq!(group.node(leader).membership(), membership);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_the_leader_cannot_reach_is_refused() {
    let group = settled(3).await;
    let node = group.id(1);
    let mut member = group.node(0).membership().members[&node].clone();
    // Somebody answers there, and it is another node.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    member.peer_address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let refused = group.change(0, MembershipChange::Update { node, member });
    let leads = group.leader().await == 1;
    match refused.await {
        Err(MembershipError::Unreachable { node: named, .. }) => assert_eq!(named, node),
        // A leader knows its own address best.
        Ok(_) if leads => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_change_blocks_others_until_a_call_finishes_it() {
    let mut group = settled(3).await;
    let learner = group.join(true).await;
    group.caught_up(learner).await;
    let leader = group.leader().await;
    let goal = group.ids(&[0, 1, learner]);
    let old = group.ids(&[0, 1, 2]);
    let nodes = group.node(leader).membership().members;
    // The first of the two entries, by a leader that then forgot about it.
    let joint = openraft::Membership::new(vec![old.clone(), goal.clone()], nodes).unwrap();
    let blank = openraft::EntryPayload::Blank;
    let raft = &group.node(leader).steward.raft;
    raft.append_membership(joint, blank, []).await.unwrap();
    until("the joint membership is known to be committed", || {
        let membership = group.node(leader).membership();
        membership.committed && membership.is_joint()
    })
    .await;
    assert_eq!(
        group.node(leader).status().membership.voters,
        [old, goal.clone()]
    );
    let other = MembershipChange::Remove {
        node: group.id(learner),
    };
    assert_eq!(
        group.change(0, other).await,
        Err(MembershipError::Interrupted)
    );
    group.propose(1, 0..3).await;
    let finished = group
        .change(learner, MembershipChange::Finish)
        .await
        .unwrap();
    assert_eq!(finished.voters.as_slice(), std::slice::from_ref(&goal));
    assert!(!finished.contains(group.id(2)), "the old voter is gone");
    let again = group.change(0, MembershipChange::Finish).await.unwrap();
    assert_eq!(again, finished, "a repeat changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leadership_is_transferred_to_whom_it_should_go() {
    let mut group = settled(3).await;
    let learner = group.join(true).await;
    let leader = group.leader().await;
    let to = group.id((leader + 1) % 3);
    let term = group.node(leader).status().progress.term;
    let asked = (leader + 2) % 3;
    let transferred = group.node(asked).transfer_leadership(Some(to), deadline());
    assert_eq!(transferred.await, Ok(to));
    let leads = &group.node((leader + 1) % 3);
    leads.propose(&1, deadline()).await.unwrap();
    // One election, won by the successor.
    assert_eq!(leads.status().progress.term, term + 1);
    assert!(leads.is_leader());
    let again = leads.transfer_leadership(Some(to), deadline()).await;
    assert_eq!(again, Ok(to), "it leads already");
    let node = group.id(learner);
    assert_eq!(
        leads.transfer_leadership(Some(node), deadline()).await,
        Err(MembershipError::NotAVoter { node })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leadership_is_not_handed_to_a_dead_voter() {
    let mut group = settled(3).await;
    let leader = group.leader().await;
    let dead = (leader + 1) % 3;
    let node = group.id(dead);
    group.stop(dead).await;
    until("the silence is noticed", || {
        !group.node(leader).steward.group().heard.contains(&node)
    })
    .await;
    let to_dead = group
        .node(leader)
        .transfer_leadership(Some(node), deadline());
    assert_eq!(to_dead.await, Err(MembershipError::Silent { node }));
    assert!(group.node(leader).is_leader());
    let to_best = group.node(leader).transfer_leadership(None, deadline());
    assert_eq!(to_best.await, Ok(group.id((leader + 2) % 3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_first() {
    let mut group = settled(3).await;
    group.propose(0, 0..3).await;
    let leader = group.leader().await;
    let term = group.node(leader).status().progress.term;
    group.stop(leader).await;
    // The stop returned after the handover: somebody leads already, in the very next term.
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let knows = |number: usize| group.node(number).status().progress;
    assert!(others.iter().any(|number| group.node(*number).is_leader()));
    assert!(others.iter().all(|number| knows(*number).term == term + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_quorum_stops_naming_itself_and_changes_nothing() {
    let mut group = settled(3).await;
    let leader = group.leader().await;
    group.stop((leader + 1) % 3).await;
    // Its successor may be the one that goes next.
    let leader = group.leader().await;
    let other = (0..3).find(|number| *number != leader && group.nodes[*number].is_some());
    let node = group.node(leader).id();
    let removed = group.id(other.unwrap());
    drop(group.nodes[other.unwrap()].take());
    until("it names no leader", || {
        group.node(leader).status().progress.leader.is_none()
    })
    .await;
    let soon = || Instant::now() + Duration::from_millis(300);
    let change = MembershipChange::Remove { node: removed };
    let refused = group.node(leader).change_membership(change, None, soon());
    assert_eq!(refused.await, Err(MembershipError::NoLeader));
    let transferred = group.node(leader).transfer_leadership(None, soon()).await;
    assert_eq!(transferred, Err(MembershipError::NoLeader));
    assert_eq!(group.node(leader).id(), node);
}
