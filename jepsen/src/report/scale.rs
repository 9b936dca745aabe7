//! From values to places in a drawing: times, logarithms, ticks with round numbers. Geometry only; it
//! writes no markup.

/// The width of every drawing, in its own units.
pub(super) const WIDTH: f64 = 1000.0;
/// Where charts leave room for the labels of the vertical axis.
pub(super) const LEFT: f64 = 62.0;
const RIGHT: f64 = 10.0;
/// The upper edge of what charts draw.
pub(super) const TOP: f64 = 12.0;
/// The lower edge of what charts draw; time is written below.
pub(super) const BOTTOM: f64 = 232.0;

/// A mark on an axis.
pub(super) struct Tick {
    pub(super) at: f64,
    pub(super) label: String,
}

/// Time from left to right.
#[derive(Clone, Copy)]
pub(super) struct TimeScale {
    /// The end of the run; not zero.
    pub(super) end_ns: u64,
    left: f64,
    width: f64,
}

impl TimeScale {
    /// With room for labels at the left.
    pub(super) fn chart(end_ns: u64) -> Self {
        TimeScale {
            end_ns: end_ns.max(1),
            left: LEFT,
            width: WIDTH - LEFT - RIGHT,
        }
    }

    /// From edge to edge.
    pub(super) fn full(end_ns: u64) -> Self {
        TimeScale {
            end_ns: end_ns.max(1),
            left: 0.0,
            width: WIDTH,
        }
    }

    pub(super) fn x(&self, time_ns: u64) -> f64 {
        let part = time_ns.min(self.end_ns) as f64 / self.end_ns as f64;
        self.left + self.width * part
    }

    /// About so many round times.
    pub(super) fn ticks(&self, about: f64) -> Vec<Tick> {
        let end_s = self.end_ns as f64 / 1e9;
        let step = round_step(end_s / about);
        let mut ticks = Vec::new();
        let mut number = 0;
        loop {
            let time_s = step * f64::from(number);
            if time_s > end_s {
                return ticks;
            }
            ticks.push(Tick {
                at: self.x((time_s * 1e9) as u64),
                label: format!("{} s", short(time_s)),
            });
            number += 1;
        }
    }
}

/// The least of 1, 2, 5, 10, ... that is no less; smaller than 1 likewise.
fn round_step(least: f64) -> f64 {
    let least = least.max(1e-9);
    let decade = 10_f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * decade >= least);
    factor.unwrap_or(10.0) * decade
}

/// A number without a tail of noughts.
pub(super) fn short(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A whole number in groups of three.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A latency in words.
pub(super) fn latency(ms: f64) -> String {
    if ms >= 1000.0 {
        format!("{} s", short((ms / 10.0).round() / 100.0))
    } else if ms >= 10.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{} ms", short((ms * 100.0).round() / 100.0))
    }
}

/// Values from bottom to top, from zero.
pub(super) struct LinearScale {
    most: f64,
}

impl LinearScale {
    pub(super) fn to(most: f64) -> Self {
        LinearScale {
            most: most.max(1e-9),
        }
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * (value / self.most).clamp(0.0, 1.0)
    }

    pub(super) fn ticks(&self) -> Vec<Tick> {
        let step = round_step(self.most / 5.0);
        let count = (self.most / step).floor() as u32;
        (0..=count)
            .map(|number| {
                let value = step * f64::from(number);
                Tick {
                    at: self.y(value),
                    label: if value >= 10_000.0 {
                        grouped(value as u64)
                    } else {
                        short(value)
                    },
                }
            })
            .collect()
    }
}

/// Milliseconds from bottom to top, by whole powers of ten.
pub(super) struct LogScale {
    least: i32,
    most: i32,
}

/// What is faster is drawn as this fast.
const FASTEST_MS: f64 = 0.01;

impl LogScale {
    pub(super) fn of(least_ms: f64, most_ms: f64) -> Self {
        let decade = |ms: f64| ms.max(FASTEST_MS).log10();
        let least = decade(least_ms).floor() as i32;
        let most = (decade(most_ms).ceil() as i32).max(least + 1);
        LogScale { least, most }
    }

    pub(super) fn y(&self, ms: f64) -> f64 {
        let above = ms.max(FASTEST_MS).log10() - f64::from(self.least);
        let part = above / f64::from(self.most - self.least);
        BOTTOM - (BOTTOM - TOP) * part.clamp(0.0, 1.0)
    }

    pub(super) fn ticks(&self) -> Vec<Tick> {
        (self.least..=self.most)
            .map(|exponent| {
                let ms = 10_f64.powi(exponent);
                Tick {
                    at: self.y(ms),
                    label: latency(ms),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = TimeScale::chart(73_000_000_000);
        let ticks = scale.ticks(10.0);
        let labels: Vec<&str> = ticks.iter().map(|tick| &*tick.label).collect();
        assert_eq!(
            labels,
            [
                "0 s", "10 s", "20 s", "30 s", "40 s", "50 s", "60 s", "70 s"
            ]
        );
        assert!(ticks.iter().all(|tick| (LEFT..WIDTH).contains(&tick.at)));
        assert_eq!(TimeScale::full(0).x(5), WIDTH, "a run of no time");
    }

    #[test]
    fn a_latency_of_ten_times_is_one_step_up() {
        let scale = LogScale::of(0.4, 2_300.0);
        let labels: Vec<String> = scale.ticks().into_iter().map(|tick| tick.label).collect();
        assert_eq!(labels, ["0.1 ms", "1 ms", "10 ms", "100 ms", "1 s", "10 s"]);
        let step = scale.y(1.0) - scale.y(10.0);
        assert!((scale.y(10.0) - scale.y(100.0) - step).abs() < 1e-9);
        assert_eq!(scale.y(0.0), BOTTOM);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(grouped(999), "999");
        assert_eq!(short(2.50), "2.5");
        assert_eq!(latency(1.234), "1.23 ms");
        assert_eq!(latency(45.6), "46 ms");
        assert_eq!(latency(12_345.0), "12.35 s");
    }
}
