//! How syncs behave: honestly, as a liar, or failing.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What `fsync` and `fdatasync` do for files and directories under the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// They sync, and what they synced is durable.
    #[default]
    Honest,
    /// They return 0 at once and nothing becomes durable: as with syncs switched off, or a disk whose
    /// cache lies.
    Lie,
    /// After this many more by each process, counted from its start, all fail with `EIO`.
    FailAfter(u64),
    /// They are honest, after a pause: a slow disk. Whole milliseconds.
    Slow(Duration),
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fsync::Honest => f.write_str("honest"),
            Fsync::Lie => f.write_str("lie"),
            Fsync::FailAfter(0) => f.write_str("fail"),
            Fsync::FailAfter(count) => write!(f, "fail-after:{count}"),
            Fsync::Slow(pause) => write!(f, "slow:{}", pause.as_millis()),
        }
    }
}

impl FromStr for Fsync {
    type Err = Error;

    fn from_str(words: &str) -> Result<Fsync> {
        match words.trim() {
            "honest" => Ok(Fsync::Honest),
            "lie" => Ok(Fsync::Lie),
            "fail" => Ok(Fsync::FailAfter(0)),
            other => {
                let number = |prefix| other.strip_prefix(prefix)?.parse::<u64>().ok();
                let fail = || number("fail-after:").map(Fsync::FailAfter);
                let slow =
                    || number("slow:").map(|pause_ms| Fsync::Slow(Duration::from_millis(pause_ms)));
                fail()
                    .or_else(slow)
                    .ok_or_else(|| Error::UnknownFsync(words.to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_behaviour_reads_back_as_written() {
        for fsync in [
            Fsync::Honest,
            Fsync::Lie,
            Fsync::FailAfter(0),
            Fsync::FailAfter(7),
            Fsync::Slow(Duration::from_millis(50)),
        ] {
            assert_eq!(fsync.to_string().parse::<Fsync>().unwrap(), fsync);
        }
    }

    #[test]
    fn an_unknown_behaviour_is_refused() {
        for words in ["", "lies", "fail-after:", "fail-after:-1", "slow:"] {
            assert!(words.parse::<Fsync>().is_err(), "{words:?}");
        }
    }
}
