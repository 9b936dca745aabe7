//! What the nodes applied: a line for each entry of the replicated log, with what came of it, from
//! every node that applied it. Reads it, finds where nodes disagree, and answers what became of a
//! request. It knows the form of Palisade's record and nothing of how the lock model decides.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use jepsen_checker::lock_checks::{EventStream, LockEvent, LockEventKind};
use jepsen_checker::{Position, Value};
use serde_json::{Value as Json, json};

/// The record of a run: each entry once.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    entries: BTreeMap<u64, Json>,
    /// Entries that two nodes, or one at two times, applied with another command or outcome, in words.
    pub(crate) disagreements: Vec<String>,
    /// Lines, repeats included.
    pub(crate) lines: u64,
    acquires: BTreeMap<(String, String), Acquire>,
    releases: BTreeMap<(String, Vec<u64>), Vec<Effect>>,
    cancels: BTreeMap<(String, String), Vec<Effect>>,
    revocations: BTreeMap<String, Vec<Effect>>,
    renewals: BTreeMap<String, Vec<Effect>>,
}

/// What became of an acquire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acquire {
    /// Lock and token of each, once it was granted.
    pub(crate) held: Vec<(String, u64)>,
    /// Where it was granted; of a grant of several locks one place for each, and that of the answer.
    pub(crate) granted_at: Vec<Position>,
    /// Where a repeat of it was answered.
    pub(crate) repeated_at: Vec<Position>,
    /// Its TTL.
    pub(crate) ttl_ms: Option<u64>,
}

/// A command that changed something, or found nothing to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Where.
    pub(crate) position: Position,
    /// Whether something was held, waited for or live until then. `None` if it was refused.
    pub(crate) had_effect: Option<bool>,
}

pub(super) fn position(of: &Json) -> Option<Position> {
    Some(Position {
        index: of["index"].as_u64()?,
        ordinal: u32::try_from(of["ordinal"].as_u64()?).ok()?,
    })
}

/// The variant of an enum and its fields, as serde writes them.
pub(super) fn variant(of: &Json) -> Option<(&str, &Json)> {
    match of {
        Json::String(name) => Some((name, &Json::Null)),
        Json::Object(fields) => fields.iter().next().map(|(name, fields)| (&**name, fields)),
        _ => None,
    }
}

impl Applied {
    /// Reads the files of all nodes; none if no node wrote one.
    pub(crate) fn read(files: &[(String, &Path)]) -> std::io::Result<Option<Self>> {
        let mut applied = Applied::default();
        let mut found = false;
        for (node, file) in files {
            let text = match std::fs::read(file) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                bytes => bytes?,
            };
            found = true;
            // SIGKILL can cut the last line of a start short: what it began is in other files.
            for line in String::from_utf8_lossy(&text).lines() {
                if let Ok(entry) = serde_json::from_str::<Json>(line) {
                    applied.add(node, entry);
                }
            }
        }
        applied.index_all();
        Ok(found.then_some(applied))
    }

    fn index_all(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        for entry in entries.values() {
            self.index(entry);
        }
        self.entries = entries;
    }

    /// The record of one node that applied these.
    #[cfg(test)]
    pub(super) fn of(entries: &[Json]) -> Self {
        let mut applied = Applied::default();
        for entry in entries {
            applied.add("n1", entry.clone());
        }
        applied.index_all();
        applied
    }

    fn add(&mut self, node: &str, entry: Json) {
        let Some(index) = entry["index"].as_u64() else {
            return;
        };
        self.lines += 1;
        match self.entries.get(&index) {
            None => {
                self.entries.insert(index, entry);
            }
            Some(known) if *known != entry => self.disagreements.push(format!(
                "{node} applied entry {index} as {entry}, and it was applied as {known} before"
            )),
            Some(_) => {}
        }
    }

    fn index(&mut self, entry: &Json) {
        let outcome = &entry["outcome"];
        let at = position(&outcome["position"]);
        for event in outcome["events"].as_array().into_iter().flatten() {
            if let Some((name, fields)) = variant(&event["kind"])
                && name.starts_with("Granted")
                && let (Some(lease), Some(request)) =
                    (fields["lease"].as_str(), fields["request"].as_str())
            {
                let key = (lease.to_owned(), request.to_owned());
                let acquire = self.acquires.entry(key).or_default();
                acquire.granted_at.extend(position(&event["position"]));
                if let (Some(lock), Some(token)) =
                    (fields["lock"].as_str(), fields["token"].as_u64())
                    // What is granted twice is told by the checks of the log; it is held once.
                    && acquire.held.iter().all(|(held, _)| held != lock)
                {
                    acquire.held.push((lock.to_owned(), token));
                }
                acquire.ttl_ms = fields["ttl_ms"].as_u64().or(acquire.ttl_ms);
            }
        }
        let (Some((command, asked)), Some((response, answer)), Some(at)) = (
            variant(&entry["command"]),
            variant(&outcome["response"]),
            at,
        ) else {
            return;
        };
        let lease = asked["lease"].as_str().unwrap_or_default().to_owned();
        let request = || asked["request"].as_str().unwrap_or_default().to_owned();
        let effect = |had_effect| Effect {
            position: at,
            had_effect,
        };
        let refused = response == "Refused";
        if command.starts_with("Acquire") {
            let acquire = self.acquires.entry((lease, request())).or_default();
            if answer["repeated"] == true {
                acquire.repeated_at.push(at);
            } else if response.starts_with("Granted") {
                acquire.granted_at.push(at);
            }
        } else if command.starts_with("Release") {
            let mut tokens: Vec<u64> = asked["tokens"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Json::as_u64)
                .collect();
            tokens.sort_unstable();
            let held = answer.as_array().is_some_and(|released| {
                released.iter().all(|released| released["was_held"] == true)
            });
            let list = self.releases.entry((lease, tokens)).or_default();
            list.push(effect((!refused).then_some(held)));
        } else if command.starts_with("Cancel") {
            let released = matches!(variant(answer), Some(("Granted", _)));
            let list = self.cancels.entry((lease, request())).or_default();
            list.push(effect((!refused).then_some(released)));
        } else if command.starts_with("Revoke") {
            let live = answer["was_live"] == true;
            let list = self.revocations.entry(lease).or_default();
            list.push(effect((!refused).then_some(live)));
        } else if command.starts_with("Renew") {
            for renewal in answer.as_array().into_iter().flatten() {
                if let (Some(lease), Some(at)) =
                    (renewal["lease"].as_str(), position(&renewal["position"]))
                {
                    let renewed = renewal["result"].get("Ok").is_some();
                    self.renewals
                        .entry(lease.to_owned())
                        .or_default()
                        .push(Effect {
                            position: at,
                            had_effect: renewed.then_some(true),
                        });
                }
            }
        }
    }

    /// Entries by index.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, &Json)> {
        self.entries.iter().map(|(index, entry)| (*index, entry))
    }

    /// All events, as a listener is told them.
    pub(super) fn event_stream(&self) -> EventStream {
        let events = self.entries.values();
        let events = events.flat_map(|entry| entry["outcome"]["events"].as_array());
        EventStream {
            node: "the log".into(),
            events: events.flatten().filter_map(lock_event).collect(),
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The last index.
    pub(crate) fn last_index(&self) -> u64 {
        self.entries.keys().next_back().copied().unwrap_or(0)
    }

    /// Writes the entries that somebody asked for, in the form of a dumped log.
    pub(crate) fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let header = json!({
            "format": "palisade-log",
            "version": 1,
            "first_index": 1,
            "last_index": self.last_index(),
        });
        writeln!(out, "{header}")?;
        for (index, entry) in &self.entries {
            if entry["command"] == "Tick" {
                continue;
            }
            let asked = variant(&entry["command"]).map(|(_, fields)| &fields["request"]);
            let line = json!({
                "index": index,
                "ordinal": entry["outcome"]["position"]["ordinal"],
                "request_id": asked.unwrap_or(&Json::Null),
                "command": entry["command"],
                "response": entry["outcome"]["response"],
                "events": entry["outcome"]["events"],
            });
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    /// What became of an acquire; `None` if it is not in the log.
    pub(crate) fn acquire(&self, lease: &str, request: &str) -> Option<&Acquire> {
        self.acquires.get(&(lease.to_owned(), request.to_owned()))
    }

    /// Acquires that were granted: lease and request.
    pub(crate) fn granted(&self) -> impl Iterator<Item = (&str, &str, &Acquire)> {
        let granted = self.acquires.iter();
        granted
            .filter(|(_, acquire)| !acquire.granted_at.is_empty())
            .map(|((lease, request), acquire)| (&**lease, &**request, acquire))
    }

    /// Releases of these tokens, sorted, by this lease.
    pub(crate) fn releases(&self, lease: &str, tokens: Vec<u64>) -> &[Effect] {
        list(self.releases.get(&(lease.to_owned(), tokens)))
    }

    /// Cancels of this request.
    pub(crate) fn cancels(&self, lease: &str, request: &str) -> &[Effect] {
        list(self.cancels.get(&(lease.to_owned(), request.to_owned())))
    }

    /// Revocations of this lease.
    pub(crate) fn revocations(&self, lease: &str) -> &[Effect] {
        list(self.revocations.get(lease))
    }

    /// Renewals of this lease.
    pub(crate) fn renewals(&self, lease: &str) -> &[Effect] {
        list(self.renewals.get(lease))
    }
}

fn lock_event(event: &Json) -> Option<LockEvent> {
    let (name, fields) = variant(&event["kind"])?;
    let text = |name: &str| fields[name].as_str();
    let mut kind = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !kind.is_empty() {
            kind.push('_');
        }
        kind.extend(letter.to_lowercase());
    }
    Some(LockEvent {
        position: position(&event["position"])?,
        kind: LockEventKind::by_name(&kind)?,
        lock: Value::text(text("lock")?),
        token: fields["token"].as_u64(),
        lease: text("lease").map(Into::into),
        request: text("request").map(Into::into),
    })
}

fn list(effects: Option<&Vec<Effect>>) -> &[Effect] {
    effects.map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use jepsen_checker::lock_checks::{LockRecord, exactly_once};
    use jepsen_checker::{FailMeaning, History};

    use super::*;

    fn read(files: &[&str]) -> Applied {
        let folder = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (number, text) in files.iter().enumerate() {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, text).unwrap();
            paths.push((format!("n{number}"), path));
        }
        let files: Vec<(String, &Path)> = paths
            .iter()
            .map(|(name, path)| (name.clone(), &**path))
            .collect();
        Applied::read(&files).unwrap().unwrap()
    }

    const QUEUED: &str = r#"{"index":5,"command":{"Acquire":{"lease":"aa","request":"r1"}},"outcome":{"position":{"index":5,"ordinal":0},"response":{"Queued":{"repeated":false}},"events":[]}}"#;
    const GRANTED_LATER: &str = r#"{"index":7,"command":{"Release":{"lease":"bb","tokens":[3]}},"outcome":{"position":{"index":7,"ordinal":0},"response":{"Released":[{"token":3,"was_held":true}]},"events":[{"position":{"index":7,"ordinal":2},"kind":{"Granted":{"lock":"l","lease":"aa","request":"r1","token":4,"ttl_ms":2000}}}]}}"#;

    #[test]
    fn a_request_that_was_queued_and_granted_by_another_entry_is_found_with_its_token() {
        let applied = read(&[
            &format!("{QUEUED}\n{GRANTED_LATER}\n{{\"index\":8,"),
            QUEUED,
        ]);
        assert_eq!(applied.len(), 2);
        assert_eq!(applied.disagreements, [""; 0]);
        let acquire = applied.acquire("aa", "r1").unwrap();
        assert_eq!(acquire.held, [("l".to_owned(), 4)]);
        assert_eq!(acquire.granted_at[0].to_string(), "7.2");
        assert_eq!(applied.releases("bb", vec![3])[0].had_effect, Some(true));
        assert_eq!(applied.acquire("aa", "r2"), None);
    }

    #[test]
    fn a_request_that_a_broken_system_granted_twice_holds_by_the_first_grant() {
        let again = GRANTED_LATER.replace("\"index\":7", "\"index\":9");
        let again = again.replace("\"token\":4", "\"token\":6");
        let applied = read(&[&format!("{QUEUED}\n{GRANTED_LATER}\n{again}")]);
        let acquire = applied.acquire("aa", "r1").unwrap();
        assert_eq!(acquire.held, [("l".to_owned(), 4)]);
        let log = applied.event_stream();
        let history = History::new([], FailMeaning::Observation).unwrap();
        let report = exactly_once(&LockRecord::read(&history).unwrap(), &[log]);
        assert_eq!(report.findings_in_all, 1, "{:?}", report.findings);
    }

    #[test]
    fn events_are_told_as_to_a_listener() {
        let mut ended: Json = serde_json::from_str(GRANTED_LATER).unwrap();
        let wait_ended = json!({"position": {"index": 7, "ordinal": 3}, "kind": {"WaitEnded": {"lock": "l", "lease": "cc", "request": "r2"}}});
        ended["outcome"]["events"]
            .as_array_mut()
            .unwrap()
            .push(wait_ended);
        let stream = Applied::of(&[ended]).event_stream();
        let kinds: Vec<_> = stream
            .events
            .iter()
            .map(|event| event.kind.name())
            .collect();
        assert_eq!(kinds, ["granted", "wait_ended"]);
        assert_eq!(stream.events[0].token, Some(4));
        assert_eq!(stream.events[1].request.as_deref(), Some("r2"));
    }

    #[test]
    fn nodes_that_applied_an_entry_with_another_outcome_disagree() {
        let other = QUEUED.replace("Queued", "Granted");
        let applied = read(&[QUEUED, &other]);
        assert_eq!(applied.disagreements.len(), 1);
        assert!(applied.disagreements[0].contains("n1 applied entry 5"));
    }
}
