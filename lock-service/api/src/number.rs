//! Fencing tokens and positions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A fencing token: the number that a guarded resource compares. Larger is newer; always below 2^53,
/// so JSON readers in every language keep it exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(pub u64);

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in the cluster's history: a Raft log index and a number within that entry. Positions are
/// totally ordered. On the wire the text `index.ordinal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position {
    /// Raft log index.
    pub index: u64,
    /// Number of the response or event within the entry.
    pub ordinal: u32,
}

/// A text that is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a position as `index.ordinal`, for example `4711.0`")]
pub struct InvalidPosition;

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.ordinal)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let (index, ordinal) = text.split_once('.').ok_or(InvalidPosition)?;
        // `parse` alone would take a leading `+`.
        if !all_digits(index) || !all_digits(ordinal) {
            return Err(InvalidPosition);
        }
        Ok(Self {
            index: index.parse().map_err(|_| InvalidPosition)?,
            ordinal: ordinal.parse().map_err(|_| InvalidPosition)?,
        })
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// For fields that count milliseconds and may be absent but never zero.
pub(crate) fn positive_ms<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    match Option::<u64>::deserialize(deserializer)? {
        Some(0) => Err(serde::de::Error::invalid_value(
            serde::de::Unexpected::Unsigned(0),
            &"a positive number of milliseconds",
        )),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_ordered_by_index_then_ordinal_and_travel_as_text() {
        let early: Position = "9.10".parse().unwrap();
        let late: Position = "10.2".parse().unwrap();
        assert!(early < late);
        assert_eq!(serde_json::to_string(&late).unwrap(), "\"10.2\"");
        assert_eq!(serde_json::from_str::<Position>("\"10.2\"").unwrap(), late);
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in [
            "",
            "1",
            ".",
            "1.",
            ".1",
            "+1.0",
            "1.-1",
            "1.2.3",
            "99999999999999999999.0",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }
}
