//! The numbers of the model: times, tokens and positions. Never reads a clock: a [`Timestamp`] is
//! always handed in or computed from one that was.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A moment of the logical cluster clock, in milliseconds. It has no relation to wall-clock time;
/// only differences mean something, and it stands still while the cluster cannot commit.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment plus `duration_ms`; the end of time instead of an overflow.
    #[must_use]
    pub fn plus_ms(self, duration_ms: u64) -> Self {
        Self(self.0.saturating_add(duration_ms))
    }

    /// The milliseconds from this moment until `later`; 0 when `later` is not later.
    #[must_use]
    pub fn ms_until(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A fencing token: the number that a guarded resource compares. Larger is later.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Token(pub u64);

impl Token {
    /// The largest token that is ever issued: 2^53 − 1, the largest integer up to which JSON
    /// readers in every language are exact.
    pub const MAX: Self = Self((1 << 53) - 1);
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where in the cluster's history a response or an event stands: the Raft log index of its entry
/// and its number within that entry. Written `index.ordinal`. Positions of one cluster are totally
/// ordered, and every response and event has one of its own.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// The Raft log index of the entry.
    pub index: u64,
    /// The number within the entry, from 0.
    pub ordinal: u32,
}

/// Text that should have been a [`Position`] and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a position is two decimal numbers joined by a dot: index.ordinal, for example 1042.0")]
pub struct PositionError;

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.ordinal)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        fn number<N: FromStr>(digits: &str) -> Result<N, PositionError> {
            // `FromStr` for integers also takes a leading plus.
            if digits.bytes().all(|byte| byte.is_ascii_digit()) {
                digits.parse().map_err(|_| PositionError)
            } else {
                Err(PositionError)
            }
        }
        let (index, ordinal) = text.split_once('.').ok_or(PositionError)?;
        Ok(Self {
            index: number(index)?,
            ordinal: number(ordinal)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_text() {
        let position = Position {
            index: 1042,
            ordinal: 7,
        };
        assert_eq!(position.to_string(), "1042.7");
        assert_eq!("1042.7".parse(), Ok(position));
    }

    #[test]
    fn text_that_is_no_position_is_refused() {
        for bad in [
            "",
            "1",
            ".",
            "1.",
            ".1",
            "1.2.3",
            "+1.2",
            "1.+2",
            "-1.0",
            "1.4294967296",
            "a.b",
        ] {
            assert_eq!(bad.parse::<Position>(), Err(PositionError), "{bad:?}");
        }
    }

    #[test]
    fn time_saturates() {
        assert_eq!(Timestamp(5).plus_ms(u64::MAX), Timestamp(u64::MAX));
        assert_eq!(Timestamp(5).ms_until(Timestamp(3)), 0);
    }
}
