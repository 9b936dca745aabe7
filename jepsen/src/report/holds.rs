//! Who held which lock from when to when, as clients saw it: from the answer until the release, or until
//! the lease ran out. It draws nothing, and judges nothing: holds that overlap are two holds.

use std::collections::HashMap;

use jepsen_checker::lock_checks::{Ending, Holder, LeaseRules, LockRecord, Mode};
use jepsen_checker::{OperationId, Value};

/// How a hold came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Somebody was told that it ended.
    Released,
    /// Its lease ran out.
    Expired,
    /// It was still held when the run ended.
    Open,
}

/// One lock, held once.
pub(super) struct Hold {
    pub(super) operation: OperationId,
    pub(super) lock: Value,
    pub(super) mode: Mode,
    pub(super) token: Option<u64>,
    pub(super) holder: Holder,
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
    pub(super) end: End,
    /// It was released, and nobody knows whether that took effect.
    pub(super) perhaps_released: bool,
}

/// All holds, by when they began.
pub(super) fn holds(record: &LockRecord<'_>, end_ns: u64) -> Vec<Hold> {
    let mut endings: HashMap<Option<&Holder>, Vec<&Ending>> = HashMap::new();
    for ending in &record.endings {
        endings
            .entry(ending.holder.as_ref())
            .or_default()
            .push(ending);
    }
    let mut renewals: HashMap<&Holder, Vec<u64>> = HashMap::new();
    for renewal in &record.renewals {
        renewals
            .entry(&renewal.holder)
            .or_default()
            .extend(record.time_ns(renewal.invoked));
    }
    let default_ttl_ns = LeaseRules::default().ttl_ms * 1_000_000;
    let mut holds = Vec::with_capacity(record.grants.len());
    for grant in &record.grants {
        let Some(from_ns) = record.time_ns(grant.completed) else {
            continue;
        };
        let own = endings.get(&Some(&grant.holder)).into_iter().flatten();
        let of_nobody = endings.get(&None).into_iter().flatten();
        let candidates = || {
            let all = own.clone().chain(of_nobody.clone());
            all.filter(|ending| ending.may_end(grant))
        };
        let released_ns = candidates()
            .filter_map(|ending| record.time_ns(ending.completed?))
            .filter(|ended_ns| *ended_ns >= from_ns)
            .min();
        let perhaps_released = released_ns.is_none() && candidates().next().is_some();
        let renewed = renewals.get(&grant.holder).into_iter().flatten();
        let based_ns = renewed
            .copied()
            .chain(record.time_ns(grant.invoked))
            .filter(|based_ns| released_ns.is_none_or(|released_ns| *based_ns < released_ns))
            .max()
            .unwrap_or(from_ns);
        let deadline_ns = based_ns.saturating_add(grant.ttl_ns.unwrap_or(default_ttl_ns));
        let (until_ns, end) = match released_ns {
            Some(released_ns) if released_ns <= deadline_ns => (released_ns, End::Released),
            _ if deadline_ns <= end_ns => (deadline_ns, End::Expired),
            _ => (end_ns, End::Open),
        };
        holds.push(Hold {
            operation: grant.operation,
            lock: grant.lock.clone(),
            mode: grant.mode,
            token: grant.token,
            holder: grant.holder.clone(),
            from_ns,
            until_ns: until_ns.max(from_ns),
            end,
            perhaps_released,
        });
    }
    holds.sort_by_key(|hold| hold.from_ns);
    holds
}

#[cfg(test)]
mod tests {
    use jepsen_checker::format::Format;
    use jepsen_checker::{FailMeaning, History};

    use super::*;

    fn history(lines: &str) -> History {
        Format::JsonLines
            .read(lines.as_bytes(), FailMeaning::Observation)
            .unwrap()
    }

    #[test]
    fn a_hold_lasts_until_its_release_or_its_last_renewal_and_ttl() {
        let history = history(
            r#"{"process":0,"type":"invoke","f":"acquire","key":"lock/0","value":{"lease":"a","ttl_ms":2000},"time":1000}
{"process":0,"type":"ok","f":"acquire","key":"lock/0","value":{"token":1},"time":2000}
{"process":0,"type":"invoke","f":"release","key":"lock/0","value":{"lease":"a","token":1},"time":5000}
{"process":0,"type":"ok","f":"release","key":"lock/0","value":{"was_held":true},"time":6000}
{"process":0,"type":"invoke","f":"acquire","key":"lock/0","value":{"lease":"b","ttl_ms":1},"time":7000}
{"process":0,"type":"ok","f":"acquire","key":"lock/0","value":{"token":2},"time":8000}
{"process":0,"type":"invoke","f":"renew","value":{"lease":"b"},"time":9000}
{"process":0,"type":"ok","f":"renew","value":null,"time":9500}
{"process":0,"type":"invoke","f":"release","key":"lock/0","value":{"lease":"b","token":2},"time":9600}
{"process":0,"type":"info","f":"release","key":"lock/0","value":null,"time":9700}
{"process":1,"type":"invoke","f":"acquire","key":"lock/1","value":{"lease":"c","ttl_ms":2000},"time":10000}
{"process":1,"type":"ok","f":"acquire","key":"lock/1","value":{"token":3},"time":11000}
"#,
        );
        let record = LockRecord::read(&history).unwrap();
        let holds = holds(&record, 5_000_000);
        let told: Vec<_> = holds
            .iter()
            .map(|hold| (hold.from_ns, hold.until_ns, hold.end, hold.perhaps_released))
            .collect();
        assert_eq!(
            told,
            [
                (2_000, 6_000, End::Released, false),
                (8_000, 1_009_000, End::Expired, true),
                (11_000, 5_000_000, End::Open, false),
            ]
        );
    }
}
