//! A dumped committed log, as JSON lines. Reads it, and trusts nothing but its order and its ids.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Malformed, Position};

/// What a replicated log applied between two indexes.
///
/// # Format
///
/// JSON lines. The first says what the dump covers, each other one an entry that was applied:
///
/// ```text
/// {"format":"palisade-log","version":1,"first_index":1,"last_index":40213}
/// {"index":7,"ordinal":0,"request_id":"r-19","command":{"acquire":{"lock":"a"}}}
/// {"index":7,"ordinal":1,"request_id":"r-20","command":{"renew":{"lease":"x"}}}
/// ```
///
/// An entry's place is its log `index` and its `ordinal` within the log entry (0 when absent), the
/// same that responses carry as their position; places rise from line to line. `request_id` is the
/// client's, as in the history. `command` may be any JSON; it is shown to people. Log entries that ask
/// for nothing (membership, ticks) are left out; so indexes may skip, but none between `first_index`
/// and `last_index` that holds a request. Further fields are passed over.
#[derive(Clone, Debug)]
pub struct LogDump {
    /// The first log index that the dump covers.
    pub first_index: u64,
    /// The last one.
    pub last_index: u64,
    /// The requests that were applied, by place.
    pub entries: Vec<LogEntry>,
}

/// One request that was applied.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// Where.
    pub position: Position,
    /// The client's id of the request.
    pub request: Option<Arc<str>>,
    /// What was asked, for people, as it stands in the dump.
    pub command: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct Header {
    format: String,
    version: u64,
    first_index: u64,
    last_index: u64,
}

#[derive(Deserialize)]
struct Line<'a> {
    index: u64,
    #[serde(default)]
    ordinal: u32,
    #[serde(borrow)]
    request_id: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    command: Option<&'a RawValue>,
}

impl LogDump {
    /// Reads a dump.
    ///
    /// # Errors
    ///
    /// The first line that is none of the format's, that lies outside of what the first line
    /// promises, or that does not follow the one before it.
    pub fn read(text: &str) -> Result<Self, Malformed> {
        let mut lines = (1..)
            .zip(text.lines())
            .filter(|(_, line)| !line.trim().is_empty());
        let Some((number, first)) = lines.next() else {
            return Err(Malformed::new(
                1,
                "the dump is empty; its first line says what it covers",
            ));
        };
        let header: Header = serde_json::from_str(first).map_err(|error| {
            Malformed::new(
                number,
                format!("this is not the first line of a log dump: {error}"),
            )
        })?;
        if header.format != "palisade-log" || header.version != 1 {
            let problem = format!(
                "this is {:?}, version {}; what can be read is \"palisade-log\", version 1",
                header.format, header.version
            );
            return Err(Malformed::new(number, problem));
        }
        let mut entries: Vec<LogEntry> = Vec::new();
        for (number, line) in lines {
            let line: Line<'_> = serde_json::from_str(line)
                .map_err(|error| Malformed::new(number, error.to_string()))?;
            let position = Position {
                index: line.index,
                ordinal: line.ordinal,
            };
            if !(header.first_index..=header.last_index).contains(&line.index) {
                let problem = format!(
                    "index {} is not in {} to {}, which the dump covers",
                    line.index, header.first_index, header.last_index
                );
                return Err(Malformed::new(number, problem));
            }
            if let Some(before) = entries.last().filter(|last| last.position >= position) {
                let problem = format!("{position} follows {}: places must rise", before.position);
                return Err(Malformed::new(number, problem));
            }
            entries.push(LogEntry {
                position,
                request: line.request_id.map(|id| id.as_ref().into()),
                command: line.command.map(|command| command.get().into()),
            });
        }
        Ok(LogDump {
            first_index: header.first_index,
            last_index: header.last_index,
            entries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"format":"palisade-log","version":1,"first_index":3,"last_index":9}"#;

    #[test]
    fn a_dump_is_read_with_places_requests_and_commands() {
        let text = format!(
            "{HEADER}\n{}\n\n{}\n",
            r#"{"index":3,"request_id":"a\"b","command":{"put":1},"term":2}"#,
            r#"{"index":3,"ordinal":1}"#
        );
        let dump = LogDump::read(&text).unwrap();
        assert_eq!((dump.first_index, dump.last_index), (3, 9));
        assert_eq!(dump.entries[0].position.to_string(), "3.0");
        assert_eq!(dump.entries[0].request.as_deref(), Some("a\"b"));
        assert_eq!(dump.entries[0].command.as_deref(), Some("{\"put\":1}"));
        assert_eq!(dump.entries[1].position.to_string(), "3.1");
        assert_eq!(dump.entries[1].request, None);
    }

    #[test]
    fn what_is_no_dump_is_refused_with_its_line() {
        for (text, problem) in [
            (String::new(), "line 1: the dump is empty"),
            (
                r#"{"index":3}"#.into(),
                "line 1: this is not the first line of a log dump",
            ),
            (
                HEADER.replace("version\":1", "version\":2"),
                "line 1: this is \"palisade-log\", version 2",
            ),
            (
                format!("{HEADER}\n{{\"index\":10}}"),
                "line 2: index 10 is not in 3 to 9",
            ),
            (
                format!("{HEADER}\n{{\"index\":4}}\n{{\"index\":4}}"),
                "line 3: 4.0 follows 4.0",
            ),
            (
                format!("{HEADER}\n{{\"index\":-4}}"),
                "line 2: invalid value",
            ),
        ] {
            let error = LogDump::read(&text).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{error}");
        }
    }
}
