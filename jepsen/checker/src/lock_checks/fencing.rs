//! Fencing tokens: a guard that keeps the largest token it has seen must be right to do so. Judges
//! tokens by the real-time order of grants, never by a clock.

use std::collections::HashMap;

use super::record::name;
use super::{CheckReport, Grant, LockRecord, Mode};
use crate::Value;

/// Among which grants tokens are unique and rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenScope {
    /// One counter for the whole cluster, as Palisade's.
    Cluster,
    /// One for each lock.
    Lock,
}

/// Exclusive and permit grants have tokens of their own, and a grant that was asked for after
/// another was answered has a larger token (a sharer may have the one of the hold it joined).
#[must_use]
pub fn fencing(record: &LockRecord<'_>, scope: TokenScope) -> CheckReport {
    let mut report = CheckReport::new(
        "fencing",
        "a token belongs to one hold, and later grants have larger tokens than earlier ones",
    );
    let tokened: Vec<(&Grant, u64)> = record
        .grants
        .iter()
        .filter_map(|grant| Some((grant, grant.token?)))
        .collect();
    report.examined = tokened.len();
    for grant in record.grants.iter().filter(|grant| grant.token.is_none()) {
        report.find(
            [grant.operation],
            format!(
                "{} was granted {} without a token",
                name(record.history, grant.operation),
                grant.lock
            ),
        );
    }
    unique(record, scope, &tokened, &mut report);
    rising(record, scope, &tokened, &mut report);
    report.conclude("the history grants no lock")
}

fn area(scope: TokenScope, grant: &Grant) -> Option<&Value> {
    match scope {
        TokenScope::Cluster => None,
        TokenScope::Lock => Some(&grant.lock),
    }
}

fn unique(
    record: &LockRecord<'_>,
    scope: TokenScope,
    tokened: &[(&Grant, u64)],
    report: &mut CheckReport,
) {
    let mut first: HashMap<(Option<&Value>, u64), &Grant> = HashMap::new();
    for (grant, token) in tokened {
        let before = *first.entry((area(scope, grant), *token)).or_insert(grant);
        let sharers =
            before.mode == Mode::Shared && grant.mode == Mode::Shared && before.lock == grant.lock;
        if !std::ptr::eq(before, *grant) && !sharers {
            report.find(
                [before.operation, grant.operation],
                format!(
                    "{} and {} both got token {token}, for {} and {}",
                    name(record.history, before.operation),
                    name(record.history, grant.operation),
                    before.lock,
                    grant.lock
                ),
            );
        }
    }
}

/// The largest token answered so far.
#[derive(Clone, Copy)]
struct Largest<'g> {
    token: u64,
    grant: &'g Grant,
}

fn rising(
    record: &LockRecord<'_>,
    scope: TokenScope,
    tokened: &[(&Grant, u64)],
    report: &mut CheckReport,
) {
    // Of each area, and of each lock: a sharer's token is that of the hold it joins, so it is
    // compared with the tokens of its own lock only.
    let mut largest: HashMap<Option<&Value>, Largest<'_>> = HashMap::new();
    let mut by_invocation: Vec<&(&Grant, u64)> = tokened.iter().collect();
    by_invocation.sort_by_key(|(grant, _)| grant.invoked);
    // `tokened` is by completion.
    let mut completed = tokened.iter().peekable();
    for (grant, token) in by_invocation {
        while let Some((done, its)) = completed.next_if(|(done, _)| done.completed < grant.invoked)
        {
            for place in [area(scope, done), Some(&done.lock)] {
                let entry = largest.entry(place).or_insert(Largest {
                    token: *its,
                    grant: done,
                });
                if *its > entry.token {
                    *entry = Largest {
                        token: *its,
                        grant: done,
                    };
                }
            }
        }
        let may_join = grant.mode == Mode::Shared;
        let place = if may_join {
            Some(&grant.lock)
        } else {
            area(scope, grant)
        };
        let Some(before) = largest.get(&place) else {
            continue;
        };
        if *token < before.token || *token == before.token && !may_join {
            report.find(
                [before.grant.operation, grant.operation],
                format!(
                    "{} was answered with token {} for {} before {} began, which got {token} for {}",
                    name(record.history, before.grant.operation),
                    before.token,
                    before.grant.lock,
                    name(record.history, grant.operation),
                    grant.lock
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock_checks::Conclusion;
    use crate::lock_checks::tests::Script;

    fn judge(script: &Script, scope: TokenScope) -> CheckReport {
        let history = script.history();
        fencing(&LockRecord::read(&history).unwrap(), scope)
    }

    #[test]
    fn rising_tokens_pass_and_concurrent_grants_may_be_answered_in_any_order() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "nil", "7");
        let late = script.invoke(2, "acquire", "a", "nil");
        script.call(3, "acquire", "a", "nil", "9");
        script.ok(late, "8");
        assert_eq!(
            judge(&script, TokenScope::Cluster).conclusion,
            Conclusion::Pass
        );
    }

    #[test]
    fn a_token_given_twice_is_found() {
        let mut script = Script::new();
        let one = script.invoke(1, "acquire", "a", "nil");
        let two = script.invoke(2, "acquire", "a", "nil");
        script.ok(one, "7");
        script.ok(two, "7");
        let report = judge(&script, TokenScope::Lock);
        assert_eq!(report.conclusion, Conclusion::Fail);
        assert_eq!(report.findings[0].operations.len(), 2);
        assert!(
            report.findings[0].words.contains("both got token 7"),
            "{report:?}"
        );
    }

    #[test]
    fn a_token_below_an_earlier_one_is_found_also_across_locks_if_the_counter_is_the_clusters() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "nil", "7");
        script.call(2, "acquire", "b", "nil", "6");
        assert_eq!(
            judge(&script, TokenScope::Lock).conclusion,
            Conclusion::Pass
        );
        let report = judge(&script, TokenScope::Cluster);
        assert_eq!(report.conclusion, Conclusion::Fail);
        assert_eq!(report.findings_in_all, 1);
    }

    #[test]
    fn sharers_have_the_token_of_their_hold_and_an_exclusive_grant_has_one_of_its_own() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "{:mode :shared}", "{:token 7}");
        script.call(2, "acquire", "b", "nil", "{:token 8}");
        script.call(3, "acquire", "a", "{:mode :shared}", "{:token 7}");
        assert_eq!(
            judge(&script, TokenScope::Cluster).conclusion,
            Conclusion::Pass
        );
        script.call(4, "acquire", "a", "nil", "{:token 7}");
        let report = judge(&script, TokenScope::Lock);
        assert_eq!(report.conclusion, Conclusion::Fail);
        assert_eq!(
            report.findings_in_all, 2,
            "not unique, and not larger: {report:?}"
        );
    }

    #[test]
    fn a_sharer_with_a_token_from_before_an_exclusive_hold_is_found() {
        let mut script = Script::new();
        script.call(1, "acquire", "a", "{:mode :shared}", "{:token 7}");
        script.call(2, "acquire", "a", "nil", "{:token 8}");
        script.call(3, "acquire", "a", "{:mode :shared}", "{:token 7}");
        assert_eq!(
            judge(&script, TokenScope::Cluster).conclusion,
            Conclusion::Fail
        );
    }

    #[test]
    fn a_repeat_of_a_request_is_the_same_grant() {
        let mut script = Script::new();
        script.request(1, "r1", "acquire", "a", "{:lease :x}", "{:token 7}");
        script.call(2, "acquire", "b", "nil", "8");
        script.request(3, "r1", "acquire", "a", "{:lease :x}", "{:token 7}");
        assert_eq!(
            judge(&script, TokenScope::Cluster).conclusion,
            Conclusion::Pass
        );
    }

    #[test]
    fn a_history_without_grants_tells_nothing_and_a_grant_without_a_token_is_found() {
        let mut script = Script::new();
        script.call(1, "renew", "a", "nil", "nil");
        assert!(matches!(
            judge(&script, TokenScope::Lock).conclusion,
            Conclusion::Unknown(_)
        ));
        script.call(1, "acquire", "a", "nil", "nil");
        assert_eq!(
            judge(&script, TokenScope::Lock).conclusion,
            Conclusion::Fail
        );
    }
}
