//! Reads and writes histories as text. Every reader checks what it reads and names the line of what
//! it refuses; none opens a file.
//!
//! | format | one event | `fail` means |
//! |---|---|---|
//! | [EDN](read_edn) (Jepsen, Knossos) | a map: `{:process 0, :type :invoke, :f :read, :value nil}` | what the caller says; by convention *did not happen* |
//! | [JSON lines](read_json_lines) | an object on a line, the same fields | what the caller says |
//! | [etcd log](read_etcd_log) | `INFO  jepsen.util - 0  :invoke  :read  nil` | an observation |
//! | [kv](read_kv) | an EDN map on a line, with a `:key` | nothing fails |
//!
//! # Fields of EDN and JSON events
//!
//! `process` (a number; or a name such as `nemesis`, whose events are shown and not checked), `type`
//! (`invoke`, `ok`, `fail`, `info`) and `f` are required. `value`, `key`, `error`, `time` (nanoseconds),
//! `index` (rising), `request` (a string) and `position` (`"index.ordinal"`) may be there. Other fields
//! are ignored. JSON numbers that are not whole are read as 64-bit floats.

mod edn;
mod etcd;
mod fields;
mod json;

use std::io::{Read, Write};

use crate::{FailMeaning, History, Malformed};

pub(crate) use edn::value as edn_value;

/// A way to write a history down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// EDN as Jepsen and Knossos write it.
    Edn,
    /// A JSON object on each line.
    JsonLines,
    /// Jepsen's log of one cas-register on etcd.
    Etcd,
    /// EDN maps with keys, for `get`, `put` and `append`.
    Kv,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 4] = [Format::Edn, Format::JsonLines, Format::Etcd, Format::Kv];

    /// The name by which people choose it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Edn => "edn",
            Format::JsonLines => "jsonl",
            Format::Etcd => "etcd",
            Format::Kv => "kv",
        }
    }

    /// What `fail` means in it, unless somebody knows better.
    #[must_use]
    pub fn fail_meaning(self) -> FailMeaning {
        match self {
            Format::Edn | Format::JsonLines | Format::Kv => FailMeaning::DidNotHappen,
            Format::Etcd => FailMeaning::Observation,
        }
    }

    /// Reads a history in this format.
    ///
    /// # Errors
    ///
    /// The input's, or the first line that is not part of a well-formed history.
    pub fn read(self, input: impl Read, fail_meaning: FailMeaning) -> Result<History, ReadError> {
        let text = text(input)?;
        Ok(match self {
            Format::Edn => edn::read(&text, fail_meaning, edn::Keys::Optional)?,
            Format::JsonLines => json::read(&text, fail_meaning)?,
            Format::Etcd => etcd::read(&text, fail_meaning)?,
            Format::Kv => edn::read(&text, fail_meaning, edn::Keys::Required)?,
        })
    }

    /// Writes a history in this format. What [`read`](Format::read) makes of it is the same history,
    /// lines and, in JSON, keywords (they become text) apart.
    ///
    /// # Errors
    ///
    /// The output's, or an event that the format cannot express; what came before it has been
    /// written then.
    pub fn write(self, history: &History, output: impl Write) -> Result<(), WriteError> {
        match self {
            Format::Edn => edn::write(history, output, edn::Keys::Optional),
            Format::JsonLines => json::write(history, output),
            Format::Etcd => etcd::write(history, output),
            Format::Kv => edn::write(history, output, edn::Keys::Required),
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Format::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| {
                let names = Format::ALL.map(Format::name).join(", ");
                format!("there is no format {name:?}; there are {names}")
            })
    }
}

/// [`Format::read`] of [`Format::Edn`].
///
/// # Errors
///
/// As there.
pub fn read_edn(input: impl Read, fail_meaning: FailMeaning) -> Result<History, ReadError> {
    Format::Edn.read(input, fail_meaning)
}

/// [`Format::read`] of [`Format::JsonLines`].
///
/// # Errors
///
/// As there.
pub fn read_json_lines(input: impl Read, fail_meaning: FailMeaning) -> Result<History, ReadError> {
    Format::JsonLines.read(input, fail_meaning)
}

/// [`Format::read`] of [`Format::Etcd`], with failures as observations.
///
/// # Errors
///
/// As there.
pub fn read_etcd_log(input: impl Read) -> Result<History, ReadError> {
    Format::Etcd.read(input, Format::Etcd.fail_meaning())
}

/// [`Format::read`] of [`Format::Kv`].
///
/// # Errors
///
/// As there.
pub fn read_kv(input: impl Read) -> Result<History, ReadError> {
    Format::Kv.read(input, Format::Kv.fail_meaning())
}

/// Why no history could be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The input failed.
    #[error("the history could not be read: {0}")]
    Io(#[from] std::io::Error),
    /// The input is no well-formed history.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Why a history could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The output failed.
    #[error("the history could not be written: {0}")]
    Io(#[from] std::io::Error),
    /// The format has no way to say it.
    #[error("event {event}: {problem}; write it as EDN or JSON lines")]
    Inexpressible {
        /// Where the event stands, from 0.
        event: usize,
        /// What cannot be said.
        problem: String,
    },
}

fn text(mut input: impl Read) -> Result<String, ReadError> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count() as u64;
        Malformed::new(line, "this is not UTF-8 text").into()
    })
}
