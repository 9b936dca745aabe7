//! Decides what one change of the membership means now, or why it is refused. Pure: it is told what
//! the leader knows and touches nothing.
//!
//! Every refusal here protects the quorum: after the change, and while it is joint, a majority of the
//! voters must be alive and have the log.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;

use crate::membership::{
    MAX_MEMBER_TEXT_BYTES, MemberField, Membership, MembershipChange, MembershipError,
};
use crate::types::{Member, NodeId};

/// A member that lags the leader by no more entries than this has caught up. Under load some are
/// always on their way.
pub(super) const CAUGHT_UP_ENTRIES: u64 = 1_000;

/// What the leader knows when it decides.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub me: NodeId,
    pub membership: Membership,
    pub last_log_index: u64,
    /// The last index that each member is known to have.
    pub matched: BTreeMap<NodeId, Option<u64>>,
    /// Members that the leader has heard from lately, itself included.
    pub heard: BTreeSet<NodeId>,
}

/// What to hand to openraft; `None` when everything is as asked for already.
pub(super) type Step = Option<ChangeMembers<NodeId, Member>>;

impl Group {
    /// Entries in the leader's log that the member is not known to have.
    pub fn lag_entries(&self, node: NodeId) -> Option<u64> {
        if node == self.me {
            return Some(0);
        }
        let matched = (*self.matched.get(&node)?)?;
        Some(self.last_log_index.saturating_sub(matched))
    }

    pub fn plan(&self, change: &MembershipChange) -> Result<Step, MembershipError> {
        let membership = &self.membership;
        if !membership.committed {
            return Err(MembershipError::InProgress);
        }
        if membership.is_joint() {
            return match self.leads_to(change) {
                true => self.finish(),
                false => Err(MembershipError::Interrupted),
            };
        }
        let voters = membership.goal();
        match change {
            MembershipChange::AddLearner { node, member } => {
                if membership.contains(*node) {
                    return Ok(None);
                }
                self.check_member(*node, member)?;
                let added = BTreeMap::from([(*node, member.clone())]);
                Ok(Some(ChangeMembers::AddNodes(added)))
            }
            MembershipChange::Promote { node } => {
                self.check_known(*node)?;
                if voters.contains(node) {
                    return Ok(None);
                }
                self.check_caught_up(*node)?;
                self.change_voters(with(&voters, *node))
            }
            MembershipChange::Remove { node } => {
                self.check_known(*node)?;
                if !voters.contains(node) {
                    return Ok(Some(ChangeMembers::RemoveNodes([*node].into())));
                }
                let rest = without(&voters, *node);
                if rest.is_empty() {
                    return Err(MembershipError::LastVoter { node: *node });
                }
                self.change_voters(rest)
            }
            MembershipChange::Replace { old, new } => {
                self.check_known(*new)?;
                if voters.contains(new) {
                    return match membership.contains(*old) {
                        true => Err(MembershipError::NotALearner { node: *new }),
                        false => Ok(None),
                    };
                }
                self.check_known(*old)?;
                if !voters.contains(old) {
                    return Err(MembershipError::NotAVoter { node: *old });
                }
                self.check_caught_up(*new)?;
                self.change_voters(with(&without(&voters, *old), *new))
            }
            MembershipChange::Update { node, member } => {
                self.check_known(*node)?;
                if membership.members.get(node) == Some(member) {
                    return Ok(None);
                }
                self.check_member(*node, member)?;
                let changed = BTreeMap::from([(*node, member.clone())]);
                Ok(Some(ChangeMembers::SetNodes(changed)))
            }
            MembershipChange::Finish => Ok(None),
        }
    }

    /// Whom the leadership may go to.
    pub fn successor(&self, to: Option<NodeId>) -> Result<NodeId, MembershipError> {
        if !self.membership.committed {
            return Err(MembershipError::InProgress);
        }
        if let Some(to) = to {
            self.check_known(to)?;
            if !self.membership.is_voter(to) {
                return Err(MembershipError::NotAVoter { node: to });
            }
            self.check_caught_up(to)?;
            return Ok(to);
        }
        let voters = self.membership.goal();
        let ready = |node: &NodeId| *node != self.me && self.check_caught_up(*node).is_ok();
        voters
            .into_iter()
            .filter(ready)
            .min_by_key(|node| self.lag_entries(*node))
            .ok_or(MembershipError::NoSuccessor)
    }

    /// Whether the interrupted change is the one asked for.
    fn leads_to(&self, change: &MembershipChange) -> bool {
        let goal = self.membership.goal();
        match change {
            MembershipChange::Finish => true,
            MembershipChange::Promote { node } => goal.contains(node),
            MembershipChange::Remove { node } => {
                self.membership.is_voter(*node) && !goal.contains(node)
            }
            MembershipChange::Replace { old, new } => goal.contains(new) && !goal.contains(old),
            MembershipChange::AddLearner { .. } | MembershipChange::Update { .. } => false,
        }
    }

    fn finish(&self) -> Result<Step, MembershipError> {
        self.check_live(&self.membership.goal())?;
        // No voter is added: openraft goes on from the joint membership to its goal.
        Ok(Some(ChangeMembers::AddVoterIds(BTreeSet::new())))
    }

    fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<Step, MembershipError> {
        self.check_live(&voters)?;
        Ok(Some(ChangeMembers::ReplaceAllVoters(voters)))
    }

    fn check_live(&self, voters: &BTreeSet<NodeId>) -> Result<(), MembershipError> {
        let live = voters.intersection(&self.heard).count();
        let needed = voters.len() / 2 + 1;
        if live < needed {
            return Err(MembershipError::QuorumLost {
                voters: voters.len(),
                live,
                needed,
            });
        }
        Ok(())
    }

    fn check_known(&self, node: NodeId) -> Result<(), MembershipError> {
        match self.membership.contains(node) {
            true => Ok(()),
            false => Err(MembershipError::UnknownMember { node }),
        }
    }

    fn check_caught_up(&self, node: NodeId) -> Result<(), MembershipError> {
        if !self.heard.contains(&node) {
            return Err(MembershipError::Silent { node });
        }
        let lag_entries = self.lag_entries(node);
        if lag_entries.is_none_or(|lag| lag > CAUGHT_UP_ENTRIES) {
            return Err(MembershipError::Lagging {
                node,
                lag_entries,
                limit: CAUGHT_UP_ENTRIES,
            });
        }
        Ok(())
    }

    /// Name and addresses can be used, and nobody else has them.
    fn check_member(&self, node: NodeId, member: &Member) -> Result<(), MembershipError> {
        let mut others = self.membership.members.iter();
        let fields = |member: &Member| {
            [
                (MemberField::Name, member.name.clone()),
                (MemberField::PeerAddress, member.peer_address.clone()),
                (MemberField::ServiceAddress, member.service_address.clone()),
            ]
        };
        for (field, value) in fields(member) {
            check_text(field, &value)?;
        }
        others.try_for_each(|(other, theirs)| {
            if *other == node {
                return Ok(());
            }
            for ((field, value), (_, taken)) in fields(member).into_iter().zip(fields(theirs)) {
                if !value.is_empty() && value == taken {
                    return Err(MembershipError::Duplicate {
                        field,
                        value,
                        node: *other,
                    });
                }
            }
            Ok(())
        })
    }
}

fn check_text(field: MemberField, value: &str) -> Result<(), MembershipError> {
    let invalid = |why: &str| {
        Err(MembershipError::Invalid {
            field,
            why: format!("`{value}` {why}"),
        })
    };
    if field == MemberField::Name && value.is_empty() {
        return invalid("is empty");
    }
    if value.len() > MAX_MEMBER_TEXT_BYTES {
        return invalid(&format!("is longer than {MAX_MEMBER_TEXT_BYTES} bytes"));
    }
    if value.chars().any(char::is_control) {
        return invalid("holds a control character");
    }
    let is_address = || {
        let parts = value.rsplit_once(':');
        parts.is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
    };
    if field == MemberField::PeerAddress && !is_address() {
        return invalid("is not HOST:PORT");
    }
    Ok(())
}

fn with(voters: &BTreeSet<NodeId>, node: NodeId) -> BTreeSet<NodeId> {
    let mut voters = voters.clone();
    voters.insert(node);
    voters
}

fn without(voters: &BTreeSet<NodeId>, node: NodeId) -> BTreeSet<NodeId> {
    let mut voters = voters.clone();
    voters.remove(&node);
    voters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::MembershipVersion;

    const LAST: u64 = 50_000;

    fn member(number: u64) -> Member {
        Member {
            name: format!("n{number}"),
            peer_address: format!("host{number}:7201"),
            service_address: format!("host{number}:7101"),
        }
    }

    fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    /// Node 1 leads; everybody is alive and has everything.
    fn group(voters: &[u64], learners: &[u64]) -> Group {
        let all: Vec<u64> = voters.iter().chain(learners).copied().collect();
        Group {
            me: NodeId(1),
            membership: Membership {
                version: Some(MembershipVersion { term: 1, index: 5 }),
                committed: true,
                voters: vec![set(voters)],
                members: all.iter().map(|n| (NodeId(*n), member(*n))).collect(),
            },
            last_log_index: LAST,
            matched: all.iter().map(|n| (NodeId(*n), Some(LAST))).collect(),
            heard: set(&all),
        }
    }

    fn dead(mut group: Group, nodes: &[u64]) -> Group {
        for node in nodes {
            group.heard.remove(&NodeId(*node));
        }
        group
    }

    fn voters(nodes: &[u64]) -> Result<Step, MembershipError> {
        Ok(Some(ChangeMembers::ReplaceAllVoters(set(nodes))))
    }

    fn promote(node: u64) -> MembershipChange {
        MembershipChange::Promote { node: NodeId(node) }
    }

    fn remove(node: u64) -> MembershipChange {
        MembershipChange::Remove { node: NodeId(node) }
    }

    fn replace(old: u64, new: u64) -> MembershipChange {
        MembershipChange::Replace {
            old: NodeId(old),
            new: NodeId(new),
        }
    }

    #[test]
    fn a_learner_that_has_caught_up_gets_a_vote_and_one_that_lags_does_not() {
        let mut group = group(&[1, 2, 3], &[4]);
        assert_eq!(group.plan(&promote(4)), voters(&[1, 2, 3, 4]));
        assert_eq!(group.plan(&promote(2)), Ok(None), "it votes already");
        for (matched, lag_entries) in [
            (
                Some(LAST - CAUGHT_UP_ENTRIES - 1),
                Some(CAUGHT_UP_ENTRIES + 1),
            ),
            (None, None),
        ] {
            group.matched.insert(NodeId(4), matched);
            let expected = MembershipError::Lagging {
                node: NodeId(4),
                lag_entries,
                limit: CAUGHT_UP_ENTRIES,
            };
            assert_eq!(group.plan(&promote(4)), Err(expected));
        }
        let silent = MembershipError::Silent { node: NodeId(4) };
        assert_eq!(dead(group, &[4]).plan(&promote(4)), Err(silent));
    }

    #[test]
    fn a_voter_is_removed_only_if_the_live_rest_is_a_majority() {
        let all = group(&[1, 2, 3], &[]);
        assert_eq!(all.plan(&remove(3)), voters(&[1, 2]));
        assert_eq!(all.plan(&remove(1)), voters(&[2, 3]), "the leader itself");
        let one_dead = dead(all, &[3]);
        assert_eq!(one_dead.plan(&remove(3)), voters(&[1, 2]), "the dead one");
        let lost = MembershipError::QuorumLost {
            voters: 2,
            live: 1,
            needed: 2,
        };
        assert_eq!(one_dead.plan(&remove(2)), Err(lost));
        let last = MembershipError::LastVoter { node: NodeId(1) };
        assert_eq!(group(&[1], &[2]).plan(&remove(1)), Err(last));
    }

    #[test]
    fn a_promotion_that_the_living_could_not_carry_is_refused() {
        // Four voters need three.
        let two_dead = dead(group(&[1, 2, 3, 4], &[5]), &[3, 4]);
        assert_eq!(two_dead.plan(&promote(5)), voters(&[1, 2, 3, 4, 5]));
        let mut group = dead(group(&[1, 2, 3], &[4]), &[3]);
        assert_eq!(group.plan(&promote(4)), voters(&[1, 2, 3, 4]));
        group.heard.remove(&NodeId(2));
        let lost = MembershipError::QuorumLost {
            voters: 4,
            live: 2,
            needed: 3,
        };
        assert_eq!(group.plan(&promote(4)), Err(lost));
    }

    #[test]
    fn a_learner_is_removed_whatever_its_state_and_a_stranger_is_not_known() {
        let group = dead(group(&[1, 2, 3], &[4]), &[4, 2]);
        let step = ChangeMembers::RemoveNodes(set(&[4]));
        assert_eq!(group.plan(&remove(4)), Ok(Some(step)));
        for change in [remove(9), promote(9), replace(2, 9), replace(9, 4)] {
            let unknown = MembershipError::UnknownMember { node: NodeId(9) };
            let mut alive = group.clone();
            alive.heard.insert(NodeId(4));
            assert_eq!(alive.plan(&change), Err(unknown), "{change:?}");
        }
    }

    #[test]
    fn a_dead_voter_is_replaced_by_a_learner_in_one_change() {
        let alive = dead(group(&[1, 2, 3], &[4]), &[3]);
        assert_eq!(alive.plan(&replace(3, 4)), voters(&[1, 2, 4]));
        let silent = MembershipError::Silent { node: NodeId(4) };
        assert_eq!(dead(alive, &[4]).plan(&replace(3, 4)), Err(silent));
        let not_voter = MembershipError::NotAVoter { node: NodeId(5) };
        assert_eq!(
            group(&[1, 2, 3], &[4, 5]).plan(&replace(5, 4)),
            Err(not_voter)
        );
        let not_learner = MembershipError::NotALearner { node: NodeId(2) };
        assert_eq!(
            group(&[1, 2, 3], &[]).plan(&replace(3, 2)),
            Err(not_learner)
        );
        let done = group(&[1, 2, 4], &[]).plan(&replace(3, 4));
        assert_eq!(done, Ok(None), "a repeat");
    }

    #[test]
    fn nothing_begins_while_a_change_is_under_way() {
        let mut group = group(&[1, 2, 3], &[4]);
        group.membership.committed = false;
        for change in [promote(4), remove(3), MembershipChange::Finish] {
            assert_eq!(group.plan(&change), Err(MembershipError::InProgress));
        }
        assert_eq!(group.successor(None), Err(MembershipError::InProgress));
    }

    #[test]
    fn an_interrupted_change_is_finished_by_a_call_or_by_its_repeat_and_blocks_all_others() {
        let mut group = group(&[1, 2, 3], &[4, 5]);
        group.membership.voters = vec![set(&[1, 2, 3]), set(&[1, 2, 4])];
        let finish = Ok(Some(ChangeMembers::AddVoterIds(BTreeSet::new())));
        for change in [
            MembershipChange::Finish,
            replace(3, 4),
            promote(4),
            remove(3),
        ] {
            assert_eq!(group.plan(&change), finish, "{change:?}");
        }
        for change in [promote(5), remove(2), replace(2, 5)] {
            let interrupted = Err(MembershipError::Interrupted);
            assert_eq!(group.plan(&change), interrupted, "{change:?}");
        }
        let lost = MembershipError::QuorumLost {
            voters: 3,
            live: 1,
            needed: 2,
        };
        let alone = dead(group, &[2, 4]);
        assert_eq!(alone.plan(&MembershipChange::Finish), Err(lost));
    }

    #[test]
    fn a_name_or_an_address_belongs_to_one_member() {
        let group = group(&[1, 2, 3], &[]);
        let add = |member| MembershipChange::AddLearner {
            node: NodeId(4),
            member,
        };
        let fresh = ChangeMembers::AddNodes([(NodeId(4), member(4))].into());
        assert_eq!(group.plan(&add(member(4))), Ok(Some(fresh)));
        for (field, taken) in [
            (
                MemberField::Name,
                Member {
                    name: "n2".to_owned(),
                    ..member(4)
                },
            ),
            (
                MemberField::PeerAddress,
                Member {
                    peer_address: "host2:7201".to_owned(),
                    ..member(4)
                },
            ),
            (
                MemberField::ServiceAddress,
                Member {
                    service_address: "host2:7101".to_owned(),
                    ..member(4)
                },
            ),
        ] {
            match group.plan(&add(taken)) {
                Err(MembershipError::Duplicate {
                    field: found, node, ..
                }) => {
                    assert_eq!((found, node), (field, NodeId(2)));
                }
                other => panic!("{field}: {other:?}"),
            }
        }
        for address in ["", "host", "host:", ":1", "host:0", "host:70000", "a\n:1"] {
            let wrong = Member {
                peer_address: address.to_owned(),
                ..member(4)
            };
            let refused = group.plan(&add(wrong));
            assert!(
                matches!(refused, Err(MembershipError::Invalid { .. })),
                "{address}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_member_keeps_its_own_name_when_it_moves_and_a_repeat_changes_nothing() {
        let group = group(&[1, 2, 3], &[]);
        let moved = Member {
            peer_address: "elsewhere:7201".to_owned(),
            ..member(2)
        };
        let update = |node, member| MembershipChange::Update {
            node: NodeId(node),
            member,
        };
        let step = ChangeMembers::SetNodes([(NodeId(2), moved.clone())].into());
        assert_eq!(group.plan(&update(2, moved)), Ok(Some(step)));
        assert_eq!(group.plan(&update(2, member(2))), Ok(None));
        let unknown = MembershipError::UnknownMember { node: NodeId(9) };
        assert_eq!(group.plan(&update(9, member(9))), Err(unknown));
    }

    #[test]
    fn the_leadership_goes_to_the_voter_that_is_furthest_and_never_to_one_that_lags() {
        let mut group = group(&[1, 2, 3], &[4]);
        group.matched.insert(NodeId(2), Some(LAST - 5));
        assert_eq!(group.successor(None), Ok(NodeId(3)));
        assert_eq!(group.successor(Some(NodeId(2))), Ok(NodeId(2)));
        let learner = MembershipError::NotAVoter { node: NodeId(4) };
        assert_eq!(group.successor(Some(NodeId(4))), Err(learner));
        group.matched.insert(NodeId(2), Some(1));
        assert!(matches!(
            group.successor(Some(NodeId(2))),
            Err(MembershipError::Lagging { .. })
        ));
        let group = dead(group, &[3]);
        assert_eq!(group.successor(None), Err(MembershipError::NoSuccessor));
        let silent = MembershipError::Silent { node: NodeId(3) };
        assert_eq!(group.successor(Some(NodeId(3))), Err(silent));
    }
}
