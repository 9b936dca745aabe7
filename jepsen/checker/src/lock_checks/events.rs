//! Event streams: what every node told whoever listened. Each must be in order, and all must be parts
//! of one sequence, which agrees with what clients were answered.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::record::name;
use super::{CheckReport, LockRecord};
use crate::{Malformed, Operation, Outcome, Position, Value};

/// What happened to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockEventKind {
    /// A request was queued.
    Queued,
    /// A request got the lock.
    Granted,
    /// A request left the queue without it.
    WaitEnded,
    /// The holder gave it up.
    Released,
    /// The holder's lease ran out.
    Expired,
    /// Somebody else ended the holder's lease.
    Forced,
    /// The holder changed what it shows.
    Updated,
}

impl LockEventKind {
    const ALL: [(&'static str, LockEventKind); 7] = [
        ("queued", LockEventKind::Queued),
        ("granted", LockEventKind::Granted),
        ("wait_ended", LockEventKind::WaitEnded),
        ("released", LockEventKind::Released),
        ("expired", LockEventKind::Expired),
        ("forced", LockEventKind::Forced),
        ("updated", LockEventKind::Updated),
    ];

    /// Its name on the wire and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, kind)| *kind == self);
        found.map_or("", |(name, _)| name)
    }

    /// The kind of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(of, _)| *of == name);
        found.map(|(_, kind)| *kind)
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockEvent {
    /// Where it stands in the replicated log.
    pub position: Position,
    /// What happened.
    pub kind: LockEventKind,
    /// To which lock.
    pub lock: Value,
    /// The fencing token of the hold.
    pub token: Option<u64>,
    /// The lease that waits, holds or held.
    pub lease: Option<Arc<str>>,
    /// The request.
    pub request: Option<Arc<str>>,
}

/// What one subscription saw, in the order in which it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventStream {
    /// The node, and the subscription if there are several.
    pub node: Arc<str>,
    /// The events.
    pub events: Vec<LockEvent>,
}

/// Reads event streams from JSON lines, one event each, in the order in which they came:
/// `{"node", "position": "index.ordinal", "event", "lock", "token"?, "lease"?, "request_id"?}`, where
/// `event` is `queued`, `granted`, `wait_ended`, `released`, `expired`, `forced` or `updated`. Further
/// fields are passed over. Streams are in the order of their first events.
///
/// # Errors
///
/// The first line that is no event.
pub fn read_event_streams(text: &str) -> Result<Vec<EventStream>, Malformed> {
    let mut streams: Vec<EventStream> = Vec::new();
    for (number, line) in (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let (node, event) = read_event(line).map_err(|problem| Malformed::new(number, problem))?;
        match streams.iter_mut().find(|stream| *stream.node == *node) {
            Some(stream) => stream.events.push(event),
            None => streams.push(EventStream {
                node: node.into(),
                events: vec![event],
            }),
        }
    }
    Ok(streams)
}

fn read_event(line: &str) -> Result<(String, LockEvent), String> {
    let json: Json = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let text = |name: &str| match json.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(&**text)),
        Some(other) => Err(format!("`{name}` is a string, not {other}")),
    };
    let required = |name: &str| text(name)?.ok_or_else(|| format!("`{name}` is missing"));
    let kind = required("event")?;
    let kind = LockEventKind::by_name(kind).ok_or_else(|| {
        let names = LockEventKind::ALL.map(|(name, _)| name);
        format!("event {kind:?} is none of {}", names.join(", "))
    })?;
    Ok((
        required("node")?.to_owned(),
        LockEvent {
            position: required("position")?.parse()?,
            kind,
            lock: Value::text(required("lock")?),
            token: match json.get("token") {
                None | Some(Json::Null) => None,
                Some(token) => Some(
                    token
                        .as_u64()
                        .ok_or_else(|| format!("`token` is a number, not {token}"))?,
                ),
            },
            lease: text("lease")?.map(Into::into),
            request: text("request_id")?.map(Into::into),
        },
    ))
}

/// Writes event streams as [`read_event_streams`] reads them.
///
/// # Errors
///
/// Those of the writer.
pub fn write_event_streams(streams: &[EventStream], out: &mut dyn Write) -> io::Result<()> {
    for stream in streams {
        for event in &stream.events {
            let line = json!({
                "node": &*stream.node,
                "position": event.position.to_string(),
                "event": event.kind.name(),
                "lock": event.lock.as_words(),
                "token": event.token,
                "lease": event.lease.as_deref(),
                "request_id": event.request.as_deref(),
            });
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// Every stream is ordered, without repeats and without gaps, the same events came from every node,
/// and every grant that a client was told of is among them, once, as it was answered.
#[must_use]
pub fn events(record: &LockRecord<'_>, streams: &[EventStream]) -> CheckReport {
    let mut report = CheckReport::new(
        "events",
        "every node tells the same events, in order, without gaps, and as clients were answered",
    );
    let mut union: BTreeMap<Position, (&EventStream, &LockEvent)> = BTreeMap::new();
    for stream in streams {
        report.examined += stream.events.len();
        for pair in stream.events.windows(2) {
            if pair[1].position <= pair[0].position {
                report.find(
                    [],
                    format!(
                        "{}: {} follows {}",
                        stream.node, pair[1].position, pair[0].position
                    ),
                );
            }
        }
        for event in &stream.events {
            let (first, known) = *union.entry(event.position).or_insert((stream, event));
            if known != event {
                report.find(
                    [],
                    format!(
                        "{} tells {:?} of {} at {}, where {} tells {:?} of {}",
                        stream.node,
                        event.kind,
                        event.lock,
                        event.position,
                        first.node,
                        known.kind,
                        known.lock
                    ),
                );
            }
        }
    }
    for stream in streams {
        gaps(stream, &union, &mut report);
    }
    agreement(record, &union, &mut report);
    report.conclude("there are no event streams")
}

/// Between its first and last event, a stream has every event that any stream has.
fn gaps(
    stream: &EventStream,
    union: &BTreeMap<Position, (&EventStream, &LockEvent)>,
    report: &mut CheckReport,
) {
    let positions: std::collections::BTreeSet<Position> =
        stream.events.iter().map(|event| event.position).collect();
    let (Some(first), Some(last)) = (positions.first(), positions.last()) else {
        return;
    };
    for (position, (other, _)) in union.range(first..=last) {
        if !positions.contains(position) {
            report.find(
                [],
                format!(
                    "{} lacks the event at {position} that {} tells",
                    stream.node, other.node
                ),
            );
        }
    }
}

fn agreement(
    record: &LockRecord<'_>,
    union: &BTreeMap<Position, (&EventStream, &LockEvent)>,
    report: &mut CheckReport,
) {
    let (Some((first, _)), Some((last, _))) = (union.first_key_value(), union.last_key_value())
    else {
        return;
    };
    let mut granted: HashMap<(&Value, u64), Vec<&LockEvent>> = HashMap::new();
    for (_, event) in union
        .values()
        .filter(|(_, event)| event.kind == LockEventKind::Granted)
    {
        if let Some(token) = event.token {
            granted.entry((&event.lock, token)).or_default().push(event);
        }
    }
    let history = record.history;
    for grant in &record.grants {
        let Some(token) = grant.token else { continue };
        let Some(events) = granted.get(&(&grant.lock, token)) else {
            // Only what lies between the first and the last event must be among them.
            let position = history.position(history.operation(grant.operation));
            if position.is_some_and(|position| *first < position && position < *last) {
                report.find(
                    [grant.operation],
                    format!(
                        "{} was granted {} with token {token}, which no event tells",
                        name(history, grant.operation),
                        grant.lock
                    ),
                );
            }
            continue;
        };
        let differs = events.iter().all(|event| {
            matches!((&event.request, &grant.request), (Some(one), Some(other)) if one != other)
        });
        if differs {
            report.find(
                [grant.operation],
                format!(
                    "token {token} of {} went to request {} say the events, and to {}",
                    grant.lock,
                    events[0].request.as_deref().unwrap_or("-"),
                    name(history, grant.operation)
                ),
            );
        }
    }
    let granted: HashMap<_, _> = union
        .values()
        .filter(|(_, event)| event.kind == LockEventKind::Granted)
        .filter_map(|(_, event)| Some((event.request.as_ref()?, *event)))
        .collect();
    let says_ended = |operation: &Operation| {
        let completion = history.completion(operation);
        let error = completion.and_then(|event| event.error.as_ref());
        let code = error.and_then(|error| error.field("code")?.as_words());
        code == Some("grant_ended")
    };
    let mut answered: HashMap<&Arc<str>, bool> = HashMap::new();
    for operation in history
        .operations()
        .iter()
        .filter(|it| &*it.function == "acquire")
    {
        if let Some(request) = history.request(operation) {
            // A repeat may be refused because the grant has ended; so one refusal is not enough, and
            // one that says so is none.
            let refused = matches!(operation.outcome, Outcome::Fail(_)) && !says_ended(operation);
            *answered.entry(request).or_insert(true) &= refused;
        }
    }
    for operation in history
        .operations()
        .iter()
        .filter(|it| &*it.function == "acquire")
    {
        let Some(request) = history.request(operation) else {
            continue;
        };
        if let (Some(event), Some(true)) = (granted.get(request), answered.get(request)) {
            report.find(
                [operation.id],
                format!(
                    "{} was refused, but its request {request} was granted {} at {}",
                    name(history, operation.id),
                    event.lock,
                    event.position
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

    fn event(node: &str, position: &str, token: u64, request: &str) -> String {
        format!(
            r#"{{"node":"{node}","position":"{position}","event":"granted","lock":"a","token":{token},"request_id":"{request}"}}"#
        )
    }

    fn judge(script: &Script, lines: &[String]) -> CheckReport {
        let history = script.history();
        let streams = read_event_streams(&lines.join("\n")).unwrap();
        events(&LockRecord::read(&history).unwrap(), &streams)
    }

    fn granted() -> Script {
        let mut script = Script::new();
        for (number, position) in [(1, "2.0"), (2, "5.0"), (3, "9.0")] {
            let (request, answer) = (format!("r{number}"), format!("{{:token {number}}}"));
            script.request(number, &request, "acquire", "a", "nil", &answer);
            script.at(position);
        }
        script
    }

    fn all(node: &str) -> Vec<String> {
        vec![
            event(node, "2.0", 1, "r1"),
            event(node, "5.0", 2, "r2"),
            event(node, "9.0", 3, "r3"),
        ]
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let streams = read_event_streams(&all("n1").join("\n")).unwrap();
        let mut written = Vec::new();
        write_event_streams(&streams, &mut written).unwrap();
        let written = String::from_utf8(written).unwrap();
        assert_eq!(read_event_streams(&written).unwrap(), streams);
    }

    #[test]
    fn streams_that_agree_pass_wherever_they_begin_and_end() {
        let mut lines = all("n1");
        lines.extend(all("n2").into_iter().skip(1));
        lines.extend(all("n3").into_iter().take(2));
        let report = judge(&granted(), &lines);
        assert_eq!(report.conclusion, Conclusion::Pass, "{report:?}");
        assert_eq!(report.examined, 7);
        assert!(matches!(
            judge(&granted(), &[]).conclusion,
            Conclusion::Unknown(_)
        ));
    }

    #[test]
    fn a_gap_a_repeat_a_wrong_order_and_a_difference_are_each_found() {
        let mut gap = all("n1");
        gap.extend([all("n2")[0].clone(), all("n2")[2].clone()]);
        let mut repeat = all("n1");
        repeat.push(all("n1")[2].clone());
        let mut disorder = all("n1");
        disorder.swap(0, 1);
        let mut other = all("n1");
        other.extend([event("n2", "2.0", 1, "r1"), event("n2", "5.0", 7, "r2")]);
        for (lines, words) in [
            (gap, "n2 lacks the event at 5.0 that n1 tells"),
            (repeat, "n1: 9.0 follows 9.0"),
            (disorder, "n1: 2.0 follows 5.0"),
            (other, "n2 tells Granted of \"a\" at 5.0"),
        ] {
            let report = judge(&granted(), &lines);
            assert_eq!(report.conclusion, Conclusion::Fail, "{words}");
            assert!(report.findings[0].words.contains(words), "{report:?}");
        }
    }

    #[test]
    fn a_grant_that_no_event_tells_is_found_if_it_lies_between_them() {
        let lines = [all("n1")[0].clone(), all("n1")[2].clone()];
        let report = judge(&granted(), &lines);
        assert_eq!(report.findings_in_all, 1, "{report:?}");
        assert!(
            report.findings[0].words.contains("which no event tells"),
            "{report:?}"
        );
        assert_eq!(
            judge(&granted(), &all("n1")[..2]).conclusion,
            Conclusion::Pass
        );
    }

    #[test]
    fn an_event_that_contradicts_an_answer_is_found() {
        let mut lines = all("n1");
        lines[1] = event("n1", "5.0", 2, "r7");
        let report = judge(&granted(), &lines);
        assert!(
            report.findings[0].words.contains("went to request r7"),
            "{report:?}"
        );

        let mut script = granted();
        script.request(4, "r4", "acquire", "a", "nil", "nil");
        let mut events = script.history().events().to_vec();
        if let Some(last) = events.last_mut() {
            last.kind = crate::EventKind::Fail;
        }
        let history = crate::History::new(events, crate::FailMeaning::Observation).unwrap();
        let mut lines = all("n1");
        lines.push(event("n1", "12.0", 4, "r4"));
        let streams = read_event_streams(&lines.join("\n")).unwrap();
        let report = super::events(&LockRecord::read(&history).unwrap(), &streams);
        assert_eq!(report.findings_in_all, 1, "{report:?}");
        assert!(
            report.findings[0].words.contains("was refused, but"),
            "{report:?}"
        );
    }

    #[test]
    fn a_line_that_is_no_event_is_named() {
        let good = event("n1", "2.0", 1, "r1");
        for (bad, words) in [
            ("{", "line 2: EOF"),
            (r#"{"node":"n1"}"#, "line 2: `event` is missing"),
            (
                &good.replace("granted", "grabbed"),
                "line 2: event \"grabbed\" is none of queued",
            ),
            (
                &good.replace("2.0", "2"),
                "line 2: a position is two numbers",
            ),
            (
                &good.replace(":1,", ":-1,"),
                "line 2: `token` is a number, not -1",
            ),
        ] {
            let error = read_event_streams(&format!("{good}\n{bad}"))
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(words), "{error}");
        }
    }
}
