//! Two in one place: locks that were granted again before the lease of the holder could have
//! expired, and holders that believed at the same time. Both are intervals that must not overlap;
//! they differ in where an interval ends. Judges by the history's times only.

use std::collections::HashMap;

use super::record::name;
use super::{CheckReport, Grant, Holder, LockRecord, Mode};
use crate::{EventIndex, Value};

/// What the system promises about leases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeaseRules {
    /// The TTL of leases whose history does not tell it, in milliseconds.
    pub ttl_ms: u64,
    /// By how much the rates of two clocks may differ, as a part of one: 0.01 is a percent.
    pub rho: f64,
    /// How long before its lease ends a holder stops believing, beside `rho`, in milliseconds.
    pub margin_ms: u64,
}

impl Default for LeaseRules {
    /// Palisade's defaults.
    fn default() -> Self {
        LeaseRules {
            ttl_ms: 15_000,
            rho: 0.01,
            margin_ms: 250,
        }
    }
}

impl LeaseRules {
    fn ttl_ns(&self, grant: &Grant) -> u64 {
        grant
            .ttl_ns
            .unwrap_or(self.ttl_ms.saturating_mul(1_000_000))
    }

    /// The shortest time, on the history's clock, after which a lease of this TTL can have expired.
    fn shortest_life_ns(&self, ttl_ns: u64) -> u64 {
        // Parts of a nanosecond are lost in the cast: in favour of the system.
        (ttl_ns as f64 * (1.0 - self.rho.clamp(0.0, 1.0))) as u64
    }
}

/// No lock is granted to another before its holder released it or
/// `(last successful renewal or grant, when it was sent) + TTL * (1 - rho)` has passed.
///
/// Assert it only where clocks kept to `rho`. It relies on the history having all that can end a
/// hold; an ending of unknown outcome counts as one that took effect.
#[must_use]
pub fn early_expiry(record: &LockRecord<'_>, rules: LeaseRules) -> CheckReport {
    let report = CheckReport::new(
        "early expiry",
        "no lock is granted to another before its holder's lease could have expired",
    );
    judge(report, record, |bases, grant| {
        let life = rules.shortest_life_ns(rules.ttl_ns(grant));
        bases.last_ns().map(|last| last.saturating_add(life))
    })
}

/// No two holders that exclude each other believe to hold at the same time: from the answer until
/// they begin to release, or until the local deadline
/// `(last answered renewal or grant, when it was sent) + TTL - rho * TTL - margin`.
///
/// Assert it only where clocks kept to `rho` and no process was paused: a paused holder believes
/// longer than it can know, which is what tokens are for.
#[must_use]
pub fn holder_overlap(record: &LockRecord<'_>, rules: LeaseRules) -> CheckReport {
    let report = CheckReport::new(
        "holder overlap",
        "no two holders that exclude each other believe to hold a lock at the same time",
    );
    judge(report, record, |bases, grant| {
        let believed = rules
            .shortest_life_ns(rules.ttl_ns(grant))
            .saturating_sub(rules.margin_ms.saturating_mul(1_000_000));
        bases.believed_until_ns(believed)
    })
}

/// What moves the deadline of a lease: a grant or a successful renewal.
struct Base {
    sent_ns: u64,
    answered_ns: u64,
    is_grant: bool,
}

/// Those of one lease from one grant on, by answer.
struct Bases<'r>(&'r [Base]);

impl<'r> Bases<'r> {
    fn from(all: &'r [Base], grant: &Grant, sent_ns: Option<u64>, answered_ns: u64) -> Self {
        let first = all.partition_point(|base| base.answered_ns < answered_ns);
        let all = &all[first..];
        // A client that names no lease may have lost its own, and have a new one since its next grant.
        let another = |base: &Base| base.is_grant && Some(base.sent_ns) != sent_ns;
        let end = match grant.holder {
            Holder::Lease(_) => None,
            Holder::Owner(_) | Holder::Client(_) => all.iter().position(another),
        };
        Bases(&all[..end.unwrap_or(all.len())])
    }

    fn last_ns(&self) -> Option<u64> {
        self.0.iter().map(|base| base.sent_ns).max()
    }

    /// Until when a holder believes that believes so long after each sending. Once it stopped, a late
    /// answer changes nothing.
    fn believed_until_ns(&self, believed_ns: u64) -> Option<u64> {
        let mut until = None;
        for base in self.0 {
            if until.is_some_and(|until| base.answered_ns >= until) {
                break;
            }
            until = until.max(Some(base.sent_ns.saturating_add(believed_ns)));
        }
        until
    }
}

/// A hold: surely from, surely until.
struct Hold<'g> {
    grant: &'g Grant,
    from_ns: u64,
    until_ns: u64,
}

fn judge<'r>(
    mut report: CheckReport,
    record: &'r LockRecord<'_>,
    lease_ends_ns: impl Fn(Bases<'_>, &Grant) -> Option<u64>,
) -> CheckReport {
    let history = record.history;
    let timeless = history
        .events()
        .iter()
        .position(|event| event.time_ns.is_none());
    if let Some(index) = timeless.filter(|_| !record.grants.is_empty()) {
        return report.unknown(format!("event {index} has no time"));
    }
    let mut holds: HashMap<&Value, Vec<Hold<'r>>> = HashMap::new();
    let bases = bases(record);
    let endings = Endings::of(record);
    for grant in &record.grants {
        let Some(from_ns) = record.time_ns(grant.completed) else {
            continue;
        };
        let all = bases.get(&grant.holder).map_or(&[][..], Vec::as_slice);
        let of_lease = Bases::from(all, grant, record.time_ns(grant.invoked), from_ns);
        let ended_ns = endings.first_after(record, grant).unwrap_or(u64::MAX);
        let Some(lease_ends_ns) = lease_ends_ns(of_lease, grant) else {
            continue;
        };
        let until_ns = ended_ns.min(lease_ends_ns);
        holds.entry(&grant.lock).or_default().push(Hold {
            grant,
            from_ns,
            until_ns,
        });
        report.examined += 1;
    }
    let mut by_lock: Vec<_> = holds.into_iter().collect();
    by_lock.sort_by_key(|(lock, _)| *lock);
    for (lock, mut holds) in by_lock {
        start_before_later_tokens(&mut holds);
        overlaps(record, lock, holds, &mut report);
    }
    report.conclude("the history grants no lock")
}

fn bases(record: &LockRecord<'_>) -> HashMap<Holder, Vec<Base>> {
    let mut bases: HashMap<Holder, Vec<Base>> = HashMap::new();
    let mut add = |holder: &Holder, invoked: EventIndex, completed: EventIndex, is_grant| {
        if let (Some(sent_ns), Some(answered_ns)) =
            (record.time_ns(invoked), record.time_ns(completed))
        {
            bases.entry(holder.clone()).or_default().push(Base {
                sent_ns,
                answered_ns,
                is_grant,
            });
        }
    };
    for grant in &record.grants {
        add(&grant.holder, grant.invoked, grant.completed, true);
    }
    for renewal in &record.renewals {
        add(&renewal.holder, renewal.invoked, renewal.completed, false);
    }
    #[expect(clippy::iter_over_hash_type, reason = "each list is sorted by itself")]
    for list in bases.values_mut() {
        list.sort_by_key(|base| base.answered_ns);
    }
    bases
}

/// A grant with a smaller token came before one with a larger token, so it held when that was
/// answered, however late its own answer was.
fn start_before_later_tokens(holds: &mut [Hold<'_>]) {
    holds.sort_by_key(|hold| hold.grant.token);
    let mut earliest = u64::MAX;
    for hold in holds
        .iter_mut()
        .rev()
        .filter(|hold| hold.grant.token.is_some())
    {
        earliest = earliest.min(hold.from_ns);
        hold.from_ns = earliest;
    }
}

/// Sweeps the holds of one lock by time.
fn overlaps(
    record: &LockRecord<'_>,
    lock: &Value,
    mut holds: Vec<Hold<'_>>,
    report: &mut CheckReport,
) {
    holds.retain(|hold| hold.from_ns < hold.until_ns);
    holds.sort_by_key(|hold| (hold.from_ns, hold.grant.token, hold.grant.operation));
    let mut current: Vec<Hold<'_>> = Vec::new();
    for hold in holds {
        current.retain(|other| other.until_ns > hold.from_ns);
        if let Some(other) = current
            .iter()
            .find(|other| excludes(other, &hold, &current))
        {
            let beyond_ms = (other.until_ns - hold.from_ns) as f64 / 1e6;
            report.find(
                [other.grant.operation, hold.grant.operation],
                format!(
                    "{lock} went to {} by {} while {} held it by {}, {beyond_ms:.3} ms too early",
                    hold.grant.holder,
                    name(record.history, hold.grant.operation),
                    other.grant.holder,
                    name(record.history, other.grant.operation),
                ),
            );
        }
        current.push(hold);
    }
}

fn excludes(one: &Hold<'_>, other: &Hold<'_>, current: &[Hold<'_>]) -> bool {
    match (one.grant.mode, other.grant.mode) {
        (Mode::Shared, Mode::Shared) => false,
        (Mode::Permits { .. }, Mode::Permits { permits, limit }) => {
            let taken: u64 = current
                .iter()
                .map(|hold| match hold.grant.mode {
                    Mode::Permits { permits, .. } => permits,
                    Mode::Exclusive | Mode::Shared => 0,
                })
                .sum();
            taken.saturating_add(permits) > limit
        }
        _ => true,
    }
}

/// The endings, by what they name.
struct Endings<'r> {
    by_holder: HashMap<&'r Holder, Vec<usize>>,
    /// Those that name none.
    by_anyone: Vec<usize>,
}

impl<'r> Endings<'r> {
    fn of(record: &'r LockRecord<'_>) -> Self {
        let mut endings = Endings {
            by_holder: HashMap::new(),
            by_anyone: Vec::new(),
        };
        for (index, ending) in record.endings.iter().enumerate() {
            match &ending.holder {
                Some(holder) => endings.by_holder.entry(holder).or_default().push(index),
                None => endings.by_anyone.push(index),
            }
        }
        endings
    }

    /// When the first of them that may have ended this hold was sent, in nanoseconds.
    fn first_after(&self, record: &LockRecord<'_>, grant: &Grant) -> Option<u64> {
        let of = |list: &[usize]| {
            list.iter()
                .map(|index| &record.endings[*index])
                .find(|ending| ending.may_end(grant))
                .and_then(|ending| record.time_ns(ending.invoked))
        };
        let own = self.by_holder.get(&grant.holder).and_then(|list| of(list));
        let others = of(&self.by_anyone);
        own.into_iter().chain(others).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock_checks::Conclusion;
    use crate::lock_checks::tests::Script;

    const RULES: LeaseRules = LeaseRules {
        ttl_ms: 1_000,
        rho: 0.01,
        margin_ms: 100,
    };

    fn early(script: &Script) -> CheckReport {
        let history = script.history();
        early_expiry(&LockRecord::read(&history).unwrap(), RULES)
    }

    fn overlap(script: &Script) -> CheckReport {
        let history = script.history();
        holder_overlap(&LockRecord::read(&history).unwrap(), RULES)
    }

    #[test]
    fn a_lock_may_be_granted_again_after_a_release_or_when_the_lease_can_have_expired() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "nil", "1");
        script.call(1, "release", "a", "1", "nil");
        script.call(2, "acquire", "a", "nil", "2");
        // Sent at 5 ms: it may be gone at 995 ms, and is answered at 997 ms.
        script.wait_ms(989).call(3, "acquire", "a", "nil", "3");
        assert_eq!(early(&script).conclusion, Conclusion::Pass);
        assert_eq!(overlap(&script).conclusion, Conclusion::Pass);
        assert_eq!(early(&script).examined, 3);
    }

    #[test]
    fn a_lock_that_is_granted_before_the_lease_can_have_expired_is_found() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "nil", "1");
        script.wait_ms(900).call(2, "acquire", "a", "nil", "2");
        let report = early(&script);
        assert_eq!(report.conclusion, Conclusion::Fail);
        assert_eq!(report.findings[0].operations.len(), 2);
        // Until 991 ms; granted at 904 ms.
        assert!(
            report.findings[0].words.contains("87.000 ms too early"),
            "{report:?}"
        );
        // The holder stopped believing at 891 ms.
        assert_eq!(overlap(&script).conclusion, Conclusion::Pass);
    }

    #[test]
    fn a_renewal_counts_from_its_sending_and_an_unanswered_one_not_at_all() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "nil", "1");
        script.wait_ms(500).call(1, "renew", "a", "nil", "nil");
        script.wait_ms(600).call(2, "acquire", "a", "nil", "2");
        assert_eq!(early(&script).conclusion, Conclusion::Fail);
        assert_eq!(overlap(&script).conclusion, Conclusion::Fail);

        let mut script = Script::new();
        script.call(1, "acquire", "a", "nil", "1");
        script.wait_ms(500);
        let renewal = script.invoke(1, "renew", "a", "nil");
        script.info(renewal);
        script.wait_ms(600).call(2, "acquire", "a", "nil", "2");
        assert_eq!(early(&script).conclusion, Conclusion::Pass);
    }

    #[test]
    fn an_unknown_release_excuses_and_a_refused_one_does_not() {
        for (refused, conclusion) in [(false, Conclusion::Pass), (true, Conclusion::Fail)] {
            let mut script = Script::new();
            script.call(1, "acquire", "a", "nil", "1");
            let release = script.invoke(1, "release", "a", "1");
            if refused {
                script.fail(release, "token_stale");
            } else {
                script.info(release);
            }
            script.call(2, "acquire", "a", "nil", "2");
            assert_eq!(early(&script).conclusion, conclusion);
        }
    }

    #[test]
    fn a_release_of_another_token_or_lock_excuses_nothing() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "{:lease :x}", "{:token 5}");
        script.call(1, "release", "b", "{:lease :x, :token 5}", "nil");
        script.call(1, "release", "a", "{:lease :x, :token 4}", "nil");
        script.call(1, "release", "a", "{:lease :y, :token 5}", "nil");
        script.call(2, "acquire", "a", "{:lease :z}", "{:token 6}");
        assert_eq!(early(&script).conclusion, Conclusion::Fail);
    }

    #[test]
    fn a_forced_release_excuses_whoever_asked_for_it() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "{:lease :x}", "{:token 5}");
        script.call(9, "force-release", "a", "{:token 5}", "nil");
        script.call(2, "acquire", "a", "{:lease :z}", "{:token 6}");
        assert_eq!(early(&script).conclusion, Conclusion::Pass);
    }

    #[test]
    fn the_holder_of_a_smaller_token_held_even_if_its_answer_came_last() {
        let mut script = Script::new();
        let first = script.invoke(1, "acquire", "a", "nil");
        script.call(2, "acquire", "a", "nil", "6");
        script.call(2, "release", "a", "6", "nil");
        script.ok(first, "5");
        let report = early(&script);
        assert_eq!(report.conclusion, Conclusion::Fail, "{report:?}");
    }

    #[test]
    fn sharers_and_permits_within_the_limit_stand_beside_each_other() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "{:mode :shared}", "{:token 1}");
        script.call(2, "acquire", "a", "{:mode :shared}", "{:token 1}");
        for client in 3..5 {
            let input = "{:mode :permits, :permits 1, :limit 2}";
            script.call(
                client,
                "acquire",
                "p",
                input,
                &format!("{{:token {client}}}"),
            );
        }
        assert_eq!(early(&script).conclusion, Conclusion::Pass);
        assert_eq!(overlap(&script).conclusion, Conclusion::Pass);
        script.call(
            5,
            "acquire",
            "p",
            "{:mode :permits, :permits 1, :limit 2}",
            "{:token 9}",
        );
        assert_eq!(early(&script).findings_in_all, 1);
        script.call(6, "acquire", "a", "nil", "{:token 10}");
        assert_eq!(overlap(&script).findings_in_all, 2);
    }

    #[test]
    fn a_lease_that_lives_on_after_its_lock_went_to_another_is_found_whatever_the_clocks_say() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "{:lease :x}", "{:token 5}");
        script
            .wait_ms(5_000)
            .call(2, "acquire", "a", "{:lease :y}", "{:token 6}");
        assert_eq!(early(&script).conclusion, Conclusion::Pass);
        script.call(1, "renew", "a", "{:lease :x}", "nil");
        assert_eq!(early(&script).conclusion, Conclusion::Fail);
        assert_eq!(
            overlap(&script).conclusion,
            Conclusion::Pass,
            "it had stopped believing"
        );
    }

    #[test]
    fn a_client_that_names_no_lease_may_take_the_lock_again_after_losing_it() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "nil", "1");
        script.wait_ms(1_000).call(2, "acquire", "a", "nil", "2");
        script.wait_ms(1_000).call(1, "acquire", "a", "nil", "3");
        script.call(1, "renew", "a", "nil", "nil");
        assert_eq!(early(&script).conclusion, Conclusion::Pass);
        assert_eq!(overlap(&script).conclusion, Conclusion::Pass);
    }

    #[test]
    fn without_times_nothing_is_concluded() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "nil", "1");
        let mut events = script.history().events().to_vec();
        events[0].time_ns = None;
        let history = crate::History::new(events, crate::FailMeaning::Observation).unwrap();
        let report = early_expiry(&LockRecord::read(&history).unwrap(), RULES);
        assert!(matches!(report.conclusion, Conclusion::Unknown(_)));
    }
}
