//! Reads what nodes wrote, once, in one pass, however long it is: how much there is, what was wrong, and
//! the lines around certain moments. It believes the times that nodes write, which a fault of the clock
//! changes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// So long before a moment lines are of interest.
const BEFORE_NS: i128 = 2_000_000_000;
/// So long after it.
const AFTER_NS: i128 = 1_000_000_000;
const MOST_BEFORE: usize = 14;
const MOST_AFTER: usize = 8;
/// More of a line is cut off.
const MOST_CHARACTERS: usize = 400;
/// The most panics that are shown of a node.
const MOST_PANICS: usize = 3;

/// What a node's log says.
#[derive(Debug, Default)]
pub(super) struct NodeLog {
    pub(super) bytes: u64,
    pub(super) lines: u64,
    pub(super) warnings: u64,
    pub(super) errors: u64,
    /// The first ones, and when.
    pub(super) panics: Vec<LogLine>,
    pub(super) panics_in_all: u64,
    /// Whether any line had a time.
    pub(super) timed: bool,
    /// For each moment that was asked for, the lines around it.
    pub(super) excerpts: Vec<Vec<LogLine>>,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LogLine {
    /// Its number, from 1.
    pub(super) number: u64,
    /// Nanoseconds since the run's clock began; of a line without a time, that of the line before.
    pub(super) time_ns: Option<i128>,
    pub(super) text: String,
}

impl LogLine {
    /// Its time in the run, in words.
    pub(super) fn time(&self) -> String {
        self.time_ns
            .map_or_else(String::new, |ns| format!("{:.3} s", ns as f64 / 1e9))
    }

    pub(super) fn is_bad(&self) -> bool {
        let (_, is_error) = level(&self.text);
        is_error || is_panic(&self.text)
    }
}

/// Reads a log; the lines around each of `moments_ns`. `zero_unix_ms` is the wall clock's time at the zero
/// of the run's.
pub(super) fn read(path: &Path, zero_unix_ms: u64, moments_ns: &[u64]) -> io::Result<NodeLog> {
    let file = File::open(path)?;
    let mut log = NodeLog {
        bytes: file.metadata()?.len(),
        ..NodeLog::default()
    };
    let mut around: Vec<(VecDeque<LogLine>, Vec<LogLine>)> =
        vec![(VecDeque::new(), Vec::new()); moments_ns.len()];
    let mut input = BufReader::new(file);
    let mut bytes = Vec::new();
    let mut time_ns = None;
    while input.read_until(b'\n', &mut bytes)? > 0 {
        log.lines += 1;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end();
        if let Some(unix_ns) = unix_ns(text) {
            time_ns = Some(unix_ns - i128::from(zero_unix_ms) * 1_000_000);
            log.timed = true;
        }
        let (is_warning, is_error) = level(text);
        log.warnings += u64::from(is_warning);
        log.errors += u64::from(is_error);
        let line = || LogLine {
            number: log.lines,
            time_ns,
            text: super::lanes::cut(text, MOST_CHARACTERS),
        };
        if is_panic(text) {
            log.panics_in_all += 1;
            if log.panics.len() < MOST_PANICS {
                log.panics.push(line());
            }
        }
        for (moment_ns, (before, after)) in moments_ns.iter().zip(&mut around) {
            let Some(distance) = time_ns.map(|time_ns| time_ns - i128::from(*moment_ns)) else {
                continue;
            };
            if (-BEFORE_NS..=0).contains(&distance) {
                before.push_back(line());
                if before.len() > MOST_BEFORE {
                    before.pop_front();
                }
            } else if (1..=AFTER_NS).contains(&distance) && after.len() < MOST_AFTER {
                after.push(line());
            }
        }
        bytes.clear();
    }
    log.excerpts = around
        .into_iter()
        .map(|(before, after)| before.into_iter().chain(after).collect())
        .collect();
    Ok(log)
}

fn is_panic(line: &str) -> bool {
    line.contains("panicked at")
}

/// Whether it is a warning, whether it is an error: as Palisade, etcd and others write it.
fn level(line: &str) -> (bool, bool) {
    let head: String = line.chars().take(120).collect();
    let has = |words: &[&str]| words.iter().any(|word| head.contains(word));
    (
        has(&["\"WARN\"", "\"warn\"", " WARN "]),
        has(&["\"ERROR\"", "\"error\"", "\"fatal\"", " ERROR "]),
    )
}

/// The first RFC 3339 time near the beginning of a line, in nanoseconds of the Unix epoch.
fn unix_ns(line: &str) -> Option<i128> {
    let head = line.get(..line.len().min(120)).unwrap_or(line);
    let bytes = head.as_bytes();
    let at = (0..bytes.len().saturating_sub(19)).find(|at| {
        let shape = b"dddd-dd-ddTdd:dd:dd";
        let is_like = |(byte, like): (&u8, &u8)| match like {
            b'd' => byte.is_ascii_digit(),
            like => byte == like,
        };
        bytes[*at..].iter().zip(shape).all(is_like)
    })?;
    let time = head.get(at..)?;
    let length = time.find(|letter: char| !letter.is_ascii_digit() && !"-T:.".contains(letter));
    let (time, zone) = time.split_at(length.unwrap_or(time.len()));
    // An offset's minus was taken for a part of the time: only `Z` and `+` are what logs write here.
    let offset_s = zone_offset_s(zone);
    let parsed = humantime::parse_rfc3339(&format!("{time}Z")).ok()?;
    let since = parsed.duration_since(UNIX_EPOCH).ok()?;
    Some(i128::try_from(since.as_nanos()).ok()? - i128::from(offset_s) * 1_000_000_000)
}

/// `+hh:mm` or `+hhmm` in seconds; anything else is none.
fn zone_offset_s(zone: &str) -> i64 {
    let digits: String = zone
        .strip_prefix('+')
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_digit)
        .take(4)
        .collect();
    match digits.parse::<i64>() {
        Ok(number) if digits.len() == 4 => (number / 100 * 60 + number % 100) * 60,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_palisade_and_etcd_write_them() {
        let palisade =
            r#"{"timestamp":"2026-11-21T13:53:24.327565Z","level":"INFO","message":"x"}"#;
        assert_eq!(unix_ns(palisade), Some(1_795_269_204_327_565_000));
        let etcd = r#"{"level":"warn","ts":"2026-11-21T14:53:24.327565+0100","msg":"y"}"#;
        assert_eq!(unix_ns(etcd), unix_ns(palisade));
        assert_eq!(unix_ns("note: run with RUST_BACKTRACE=1"), None);
        assert_eq!(unix_ns("é2026-13-41T99:99:99Z"), None);
        assert_eq!(level(etcd), (true, false));
        assert_eq!(level(palisade), (false, false));
    }

    #[test]
    fn lines_around_a_moment_are_found_and_a_panic_without_a_time_has_that_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut text = String::new();
        for second in 10..60 {
            text += &format!(
                "{{\"timestamp\":\"2026-11-21T13:53:{second}.500Z\",\"level\":\"INFO\"}}\n"
            );
        }
        text += "thread 'main' panicked at src/main.rs:1:1:\n\u{fffd}no\n";
        std::fs::write(&path, text).unwrap();
        let zero_unix_ms = 1_795_269_190_000; // 13:53:10
        let log = read(&path, zero_unix_ms, &[20_000_000_000, 500_000_000_000]).unwrap();
        let numbers: Vec<u64> = log.excerpts[0].iter().map(|line| line.number).collect();
        assert_eq!(numbers, [19, 20, 21], "18.5 s, 19.5 s and 20.5 s");
        assert!(log.excerpts[1].is_empty());
        assert_eq!((log.lines, log.panics_in_all), (52, 1));
        assert_eq!(log.panics[0].time(), "49.500 s");
    }
}
