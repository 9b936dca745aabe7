//! Exactly once: however often a request is sent, it has one effect. Looks at answers and event
//! streams; the committed log is the log witness's to judge.

use std::collections::HashMap;
use std::sync::Arc;

use super::record::name;
use super::{CheckReport, EventStream, Grant, Holder, LockEventKind, LockRecord, Mode};
use crate::{OperationId, Value};

/// One grant for each request and lock, in answers and in events, and one release for each token.
#[must_use]
pub fn exactly_once(record: &LockRecord<'_>, streams: &[EventStream]) -> CheckReport {
    let mut report = CheckReport::new(
        "exactly once",
        "a request has one effect, however often it is sent and answered",
    );
    grants(record, &mut report);
    releases(record, &mut report);
    for stream in streams {
        granted_events(record, stream, &mut report);
    }
    report.conclude(
        "no operation has a request id, no release says whether anything was held, and \
                     there are no events",
    )
}

fn grants(record: &LockRecord<'_>, report: &mut CheckReport) {
    let mut first: HashMap<(&Holder, &Arc<str>, &Value), &Grant> = HashMap::new();
    for grant in &record.grants {
        let Some(request) = &grant.request else {
            continue;
        };
        report.examined += 1;
        // The record folds repeats with the same token into one.
        if let Some(before) = first.insert((&grant.holder, request, &grant.lock), grant) {
            let token = |grant: &Grant| match grant.token {
                Some(token) => format!("token {token}"),
                None => "no token".to_owned(),
            };
            report.find(
                [before.operation, grant.operation],
                format!(
                    "request {request} of {} was granted {} twice: {} by {}, {} by {}",
                    grant.holder,
                    grant.lock,
                    token(before),
                    name(record.history, before.operation),
                    token(grant),
                    name(record.history, grant.operation)
                ),
            );
        }
    }
}

fn releases(record: &LockRecord<'_>, report: &mut CheckReport) {
    // Sharers have one token, and each releases it; one who joins them again has it again.
    type Hold<'r> = (Option<&'r Holder>, Option<&'r Value>, u64);
    let mut granted: HashMap<Hold<'_>, usize> = HashMap::new();
    for grant in &record.grants {
        if let (Mode::Shared, Some(token)) = (grant.mode, grant.token) {
            let hold = (Some(&grant.holder), Some(&grant.lock), token);
            *granted.entry(hold).or_default() += 1;
        }
    }
    let mut held: HashMap<Hold<'_>, Vec<OperationId>> = HashMap::new();
    for ending in record
        .endings
        .iter()
        .filter(|ending| ending.was_held == Some(true))
    {
        for token in &ending.tokens {
            report.examined += 1;
            let hold = (ending.holder.as_ref(), ending.lock.as_ref(), *token);
            let most = granted.get(&hold).copied().unwrap_or(1).max(1);
            let ended = held.entry(hold).or_default();
            ended.push(ending.operation);
            if let (true, [.., before, _]) = (ended.len() > most, &ended[..]) {
                report.find(
                    [*before, ending.operation],
                    format!(
                        "{} and {} both say that they released the hold of token {token}",
                        name(record.history, *before),
                        name(record.history, ending.operation)
                    ),
                );
            }
        }
    }
}

fn granted_events(record: &LockRecord<'_>, stream: &EventStream, report: &mut CheckReport) {
    let mut first = HashMap::new();
    for event in &stream.events {
        let (Some(request), LockEventKind::Granted) = (&event.request, event.kind) else {
            continue;
        };
        report.examined += 1;
        let key = (&event.lease, request, &event.lock);
        if let Some(before) = first.insert(key, event.position) {
            let senders = record
                .history
                .operations()
                .iter()
                .filter(|operation| record.history.request(operation) == Some(request));
            report.find(
                senders.map(|operation| operation.id),
                format!(
                    "request {request} was granted {} at {before} and again at {}, says {}",
                    event.lock, event.position, stream.node
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock_checks::tests::Script;
    use crate::lock_checks::{Conclusion, read_event_streams};

    fn judge(script: &Script) -> CheckReport {
        let history = script.history();
        exactly_once(&LockRecord::read(&history).unwrap(), &[])
    }

    #[test]
    fn a_request_that_is_sent_twice_and_answered_alike_passes() {
        let mut script = Script::new();
        script.request(1, "r1", "acquire", "a", "{:lease :x}", "{:token 7}");
        script.request(2, "r1", "acquire", "a", "{:lease :x}", "{:token 7}");
        script.request(2, "r1", "acquire", "a", "{:lease :y}", "{:token 8}");
        script.call(
            1,
            "release",
            "a",
            "{:lease :x, :token 7}",
            "{:was_held true}",
        );
        script.call(
            2,
            "release",
            "a",
            "{:lease :x, :token 7}",
            "{:was_held false}",
        );
        assert_eq!(judge(&script).conclusion, Conclusion::Pass);
    }

    #[test]
    fn a_request_with_two_grants_is_found() {
        let mut script = Script::new();
        script.request(1, "r1", "acquire", "a", "{:lease :x}", "{:token 7}");
        script.request(2, "r1", "acquire", "a", "{:lease :x}", "{:token 8}");
        let report = judge(&script);
        assert_eq!(report.conclusion, Conclusion::Fail);
        assert!(
            report.findings[0].words.contains("token 7 by #0"),
            "{report:?}"
        );
    }

    #[test]
    fn a_token_that_is_released_twice_is_found() {
        let mut script = Script::new();
        script.call(
            1,
            "release",
            "a",
            "{:lease :x, :token 7}",
            "{:was_held true}",
        );
        script.call(
            2,
            "release",
            "a",
            "{:lease :x, :token 7}",
            "{:was_held true}",
        );
        assert_eq!(judge(&script).conclusion, Conclusion::Fail);
    }

    #[test]
    fn sharers_release_one_token_each_for_itself() {
        let mut script = Script::new();
        for lease in [":x", ":y"] {
            script.call(
                1,
                "release",
                "a",
                &format!("{{:lease {lease}, :token 7}}"),
                "{:was_held true}",
            );
        }
        assert_eq!(judge(&script).conclusion, Conclusion::Pass);
    }

    #[test]
    fn a_request_that_was_granted_twice_in_the_events_is_found_with_its_operations() {
        let mut script = Script::new();
        script.request(1, "r1", "acquire", "a", "{:lease :x}", "{:token 7}");
        let history = script.history();
        let streams = read_event_streams(concat!(
            r#"{"node":"n1","position":"4.0","event":"granted","lock":"a","token":7,"lease":"x","request_id":"r1"}"#,
            "\n",
            r#"{"node":"n1","position":"6.0","event":"granted","lock":"a","token":8,"lease":"x","request_id":"r1"}"#,
        ))
        .unwrap();
        let report = exactly_once(&LockRecord::read(&history).unwrap(), &streams);
        assert_eq!(report.conclusion, Conclusion::Fail);
        assert_eq!(report.findings[0].operations, [OperationId(0)]);
    }
}
