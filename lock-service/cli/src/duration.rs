//! Durations as people write them: `500ms`, `15s`, `1.5s`, `2m`, `1h`.

use std::time::Duration;

/// The longest duration that is taken, a year: no sum of a few of them can overflow.
const LONGEST_MS: f64 = 365.0 * 24.0 * 3_600_000.0;

/// Parses a duration. A bare `0` needs no unit.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let expected = "expected a number and a unit (ms, s, m, h), such as 500ms, 15s or 2m";
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| expected.to_owned())?;
    let unit_ms = match unit {
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        "" if number == 0.0 => 1.0,
        "" => return Err(format!("the unit is missing; {expected}")),
        _ => return Err(expected.to_owned()),
    };
    let ms = number * unit_ms;
    if ms > LONGEST_MS {
        return Err("too long: a year is the most".to_owned());
    }
    let duration = Duration::from_secs_f64(ms / 1_000.0);
    // Whole milliseconds are what the cluster counts in.
    Ok(Duration::from_millis(
        u64::try_from((duration.as_nanos() + 500_000) / 1_000_000).unwrap_or(u64::MAX),
    ))
}

/// Writes a duration as [`parse`] reads it, rounded up to milliseconds.
pub(crate) fn show(duration: Duration) -> String {
    let ms = duration.as_nanos().div_ceil(1_000_000);
    let (seconds, rest) = (ms / 1_000, ms % 1_000);
    match (seconds, rest) {
        (_, 0) => format!("{seconds}s"),
        (0, _) => format!("{rest}ms"),
        _ => format!("{}s", format!("{seconds}.{rest:03}").trim_end_matches('0')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        for (text, ms) in [
            ("500ms", 500),
            ("15s", 15_000),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_what_is_expected() {
        for text in [
            "",
            "15",
            "s",
            "-1s",
            "1 s",
            "1d",
            "1e3s",
            "1.2.3s",
            "15S",
            "٣s",
            "99999999h",
            "+1s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("15").unwrap_err().contains("unit is missing"));
    }

    #[test]
    fn durations_are_shown_as_they_are_parsed() {
        for text in ["500ms", "15s", "1.5s", "4.341s", "10s", "1.05s", "120s"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
    }
}
