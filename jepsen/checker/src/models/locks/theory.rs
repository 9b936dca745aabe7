//! A theorem about locks whose grants have tokens.

use std::collections::BTreeMap;

use super::specification::{Grant, LockCall};
use crate::{Method, Theory, TimedCall};

/// Exclusive locks whose grants have known, different tokens: the order of the tokens is the
/// order of the grants, and between two there has to be the release of the first. So only one order is
/// possible, and it is checked against the intervals. Applies where nobody does two things at a
/// time, so that every release has its grant, and there is only one lock.
pub(super) fn unique_tokens(calls: &[TimedCall<LockCall>]) -> Theory {
    let by = Method::UniqueTokens;
    let mut by_holder: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (index, timed) in (0u32..).zip(calls) {
        match &timed.call {
            LockCall::Acquire { holder, grants, .. } => match grants[..] {
                [
                    Grant {
                        lock: 0,
                        shared: false,
                        permits: None,
                        token,
                        ..
                    },
                ] if token.is_some() || timed.returned.is_none() => {
                    by_holder.entry(*holder).or_default().push(index);
                }
                _ => return Theory::Silent,
            },
            LockCall::Release {
                holder,
                lock: 0,
                permits: None,
                ..
            } => {
                by_holder.entry(*holder).or_default().push(index);
            }
            _ => return Theory::Silent,
        }
    }
    // Token, grant, release.
    let mut tenures: Vec<(i64, u32, Option<u32>)> = Vec::new();
    for indexes in by_holder.values_mut() {
        indexes.sort_by_key(|&index| calls[index as usize].invoked);
        let mut holding = None;
        for (place, &index) in indexes.iter().enumerate() {
            let timed = &calls[index as usize];
            let next = indexes
                .get(place + 1)
                .map(|&next| calls[next as usize].invoked);
            if next.is_some_and(|next| timed.returned.is_none_or(|returned| returned > next)) {
                return Theory::Silent;
            }
            match (&timed.call, holding) {
                // Nobody can tell whether it happened, and it can only be in the way.
                (LockCall::Acquire { .. }, _) if timed.returned.is_none() => {}
                (LockCall::Acquire { grants, .. }, None) => {
                    let Some(token) = grants[0].token else {
                        return Theory::Silent;
                    };
                    holding = Some(tenures.len());
                    tenures.push((token, index, None));
                }
                (LockCall::Release { token, .. }, Some(tenure)) => {
                    let (granted, _, release): &mut (i64, u32, Option<u32>) = &mut tenures[tenure];
                    if token.is_some_and(|token| token != *granted) {
                        // Refused for ever, which matters only if it happened.
                        if timed.returned.is_some() {
                            return Theory::Impossible { by };
                        }
                    } else {
                        *release = Some(index);
                    }
                    holding = None;
                }
                (LockCall::Release { .. }, None) if timed.returned.is_none() => {}
                // Acquired twice, or released what it does not hold.
                _ => return Theory::Impossible { by },
            }
        }
    }
    tenures.sort_unstable();
    let last = tenures.len().saturating_sub(1);
    let mut order = Vec::with_capacity(calls.len());
    for (place, (token, grant, release)) in tenures.iter().enumerate() {
        if *token <= 0 || place > 0 && tenures[place - 1].0 == *token {
            return Theory::Impossible { by };
        }
        order.push(*grant);
        match release {
            Some(release) if place < last || calls[*release as usize].returned.is_some() => {
                order.push(*release);
            }
            Some(_) => {}
            // Never given back, and yet granted again.
            None if place < last => return Theory::Impossible { by },
            None => {}
        }
    }
    let mut latest = None;
    for &index in &order {
        let timed = &calls[index as usize];
        latest = latest.max(Some(timed.invoked));
        if timed
            .returned
            .is_some_and(|returned| Some(returned) < latest)
        {
            return Theory::Impossible { by };
        }
    }
    Theory::Order { order, by }
}
