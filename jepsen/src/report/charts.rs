//! Latency, rate and tokens over time. It thins points out so that a page stays small, never the ones
//! that stand alone, and says how many it drew. Geometry only; it writes no markup.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;

use jepsen_checker::lock_checks::LockRecord;
use jepsen_checker::{History, Outcome};

use super::scale::{self, LinearScale, LogScale, Tick, TimeScale};

/// The most points of one kind in one drawing.
const MOST_POINTS: usize = 6_000;
/// The most functions that have a latency chart of their own.
const MOST_FUNCTIONS: usize = 8;
/// The most periods that a run is cut into.
const MOST_PERIODS: u64 = 80;

/// How an operation ended: also the name of its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Ok,
    Fail,
    Info,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Ok, Kind::Fail, Kind::Info];

    fn class(self) -> &'static str {
        match self {
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        }
    }
}

/// One call on the system, with its times.
pub(super) struct Call<'h> {
    function: &'h str,
    began_ns: u64,
    /// When it was answered or given up; none if the history ended first.
    ended_ns: Option<u64>,
    kind: Kind,
}

/// The operations that went to the system: not those on the harness's own resources, which take no time.
pub(super) fn calls(history: &History) -> Vec<Call<'_>> {
    let time = |index| history.event(index).time_ns;
    let of_resource =
        |function: &str| function.starts_with("guarded-") || function.starts_with("unguarded-");
    history
        .operations()
        .iter()
        .filter(|operation| !of_resource(&operation.function))
        .filter_map(|operation| {
            Some(Call {
                function: &operation.function,
                began_ns: time(operation.invocation)?,
                ended_ns: operation.completion.and_then(time),
                kind: match operation.outcome {
                    Outcome::Ok(_) => Kind::Ok,
                    Outcome::Fail(_) => Kind::Fail,
                    Outcome::Info => Kind::Info,
                },
            })
        })
        .collect()
}

/// Points of one colour, as the `d` of a path whose round ends are the points.
pub(super) struct Dots {
    pub(super) class: &'static str,
    pub(super) path: String,
}

/// Draws points; of those that would lie on each other, one. Where even that is too many, the cells in
/// which one stands for all grow until it is not. How many were drawn.
fn dots(class: &'static str, points: &[(f64, f64)]) -> (Dots, usize) {
    let mut cell = 0.5;
    loop {
        let mut seen = HashSet::new();
        let kept: Vec<&(f64, f64)> = points
            .iter()
            .filter(|(x, y)| seen.insert(((x / cell) as u32, (y / cell) as u32)))
            .collect();
        if kept.len() > MOST_POINTS {
            cell *= 1.5;
            continue;
        }
        let mut path = String::new();
        for (x, y) in &kept {
            let _ = write!(path, "M{x:.1} {y:.1}h0");
        }
        return (Dots { class, path }, kept.len());
    }
}

/// A line over time, as the `d` of a path.
pub(super) struct Line {
    pub(super) class: &'static str,
    pub(super) label: &'static str,
    pub(super) path: String,
}

/// The periods that a run is cut into.
struct Periods {
    count: usize,
    length_ns: u64,
}

impl Periods {
    fn of(end_ns: u64) -> Self {
        // Half a second at least: less would show clients' own rhythm.
        let count = (end_ns / 500_000_000).clamp(1, MOST_PERIODS);
        Periods {
            count: count as usize,
            length_ns: end_ns.div_ceil(count).max(1),
        }
    }

    fn at(&self, time_ns: u64) -> usize {
        usize::try_from(time_ns / self.length_ns)
            .map_or(self.count - 1, |at| at.min(self.count - 1))
    }

    fn begin_ns(&self, period: usize) -> u64 {
        self.length_ns * period as u64
    }
}

/// Latency of one function, or of all.
pub(super) struct LatencyChart {
    pub(super) function: String,
    pub(super) y_ticks: Vec<Tick>,
    pub(super) dots: Vec<Dots>,
    pub(super) quantiles: Vec<Line>,
    pub(super) drawn: String,
    pub(super) in_all: String,
}

/// Quantiles of a function's successes, in words.
pub(super) struct LatencyRow {
    pub(super) function: String,
    pub(super) count: String,
    /// p50, p90, p99, max.
    pub(super) quantiles: Vec<String>,
}

/// Latencies of successes over the whole run, and their charts: of all functions, then of each.
pub(super) fn latency(calls: &[Call<'_>], end_ns: u64) -> (Vec<LatencyRow>, Vec<LatencyChart>) {
    let mut functions: BTreeMap<&str, usize> = BTreeMap::new();
    for call in calls {
        *functions.entry(call.function).or_default() += 1;
    }
    let mut functions: Vec<(&str, usize)> = functions.into_iter().collect();
    functions.sort_by_key(|(name, count)| (usize::MAX - count, *name));
    let mut rows = Vec::new();
    let mut charts = Vec::new();
    let all = |_: &Call<'_>| true;
    rows.extend(latency_row("all", calls, all));
    charts.extend(latency_chart("all", calls, end_ns, all));
    for (number, (name, _)) in functions.iter().enumerate() {
        let own = |call: &Call<'_>| call.function == *name;
        rows.extend(latency_row(name, calls, own));
        if number < MOST_FUNCTIONS && functions.len() > 1 {
            charts.extend(latency_chart(name, calls, end_ns, own));
        }
    }
    (rows, charts)
}

fn took_ms(call: &Call<'_>) -> Option<f64> {
    Some(call.ended_ns?.saturating_sub(call.began_ns) as f64 / 1e6)
}

/// The value below or at which this part of the sorted values lies.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

const QUANTILES: [(&str, &str, f64); 4] = [
    ("p50", "p50", 0.5),
    ("p90", "p90", 0.9),
    ("p99", "p99", 0.99),
    ("max", "max", 1.0),
];

fn latency_row(
    name: &str,
    calls: &[Call<'_>],
    wanted: impl Fn(&Call<'_>) -> bool,
) -> Option<LatencyRow> {
    let successes = calls
        .iter()
        .filter(|call| call.kind == Kind::Ok && wanted(call));
    let mut values: Vec<f64> = successes.filter_map(took_ms).collect();
    if values.is_empty() {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    Some(LatencyRow {
        function: name.to_owned(),
        count: scale::grouped(values.len() as u64),
        quantiles: QUANTILES
            .iter()
            .map(|(_, _, part)| scale::latency(quantile(&values, *part)))
            .collect(),
    })
}

fn latency_chart(
    name: &str,
    calls: &[Call<'_>],
    end_ns: u64,
    wanted: impl Fn(&Call<'_>) -> bool,
) -> Option<LatencyChart> {
    let points: Vec<(&Call<'_>, u64, f64)> = calls
        .iter()
        .filter(|call| wanted(call))
        .filter_map(|call| Some((call, call.ended_ns?, took_ms(call)?)))
        .collect();
    if points.is_empty() {
        return None;
    }
    let least = points.iter().map(|point| point.2).fold(f64::MAX, f64::min);
    let most = points.iter().map(|point| point.2).fold(0.0, f64::max);
    let (time, log) = (TimeScale::chart(end_ns), LogScale::of(least, most));
    let mut drawn = 0;
    let dots = Kind::ALL.map(|kind| {
        let places: Vec<(f64, f64)> = points
            .iter()
            .filter(|(call, ..)| call.kind == kind)
            .map(|(_, ended_ns, ms)| (time.x(*ended_ns), log.y(*ms)))
            .collect();
        let (dots, count) = dots(kind.class(), &places);
        drawn += count;
        dots
    });
    let periods = Periods::of(end_ns);
    let mut values: Vec<Vec<f64>> = vec![Vec::new(); periods.count];
    for (call, ended_ns, ms) in &points {
        if call.kind == Kind::Ok {
            values[periods.at(*ended_ns)].push(*ms);
        }
    }
    for values in &mut values {
        values.sort_unstable_by(f64::total_cmp);
    }
    let quantiles = QUANTILES.map(|(class, label, part)| {
        let mut path = String::new();
        let mut on = false;
        for (number, values) in values.iter().enumerate() {
            if values.is_empty() {
                on = false;
                continue;
            }
            let (x, end) = (
                time.x(periods.begin_ns(number)),
                time.x(periods.begin_ns(number + 1)),
            );
            let y = log.y(quantile(values, part));
            let pen = if on { 'L' } else { 'M' };
            let _ = write!(path, "{pen}{x:.1} {y:.1}H{end:.1}");
            on = true;
        }
        Line { class, label, path }
    });
    Some(LatencyChart {
        function: name.to_owned(),
        y_ticks: log.ticks(),
        dots: dots
            .into_iter()
            .filter(|dots| !dots.path.is_empty())
            .collect(),
        quantiles: quantiles.into_iter().collect(),
        drawn: scale::grouped(drawn as u64),
        in_all: scale::grouped(points.len() as u64),
    })
}

/// Operations per second.
pub(super) struct RateChart {
    pub(super) y_ticks: Vec<Tick>,
    /// Areas that stand on each other.
    pub(super) areas: Vec<Line>,
    /// How long a period is, in seconds.
    pub(super) period: String,
}

/// Operations per second by outcome, over time: when they ended, or, of those that never did, began.
pub(super) fn rate(calls: &[Call<'_>], end_ns: u64) -> Option<RateChart> {
    if calls.is_empty() {
        return None;
    }
    let periods = Periods::of(end_ns);
    let mut counts = vec![[0_u64; 3]; periods.count];
    for call in calls {
        let time_ns = call.ended_ns.unwrap_or(call.began_ns);
        counts[periods.at(time_ns)][call.kind as usize] += 1;
    }
    let period_s = periods.length_ns as f64 / 1e9;
    let most = counts.iter().map(|counts| counts.iter().sum::<u64>()).max();
    let linear = LinearScale::to(most.unwrap_or(1) as f64 / period_s);
    let time = TimeScale::chart(end_ns);
    let mut below = vec![0_u64; periods.count];
    let labels = ["ok", "refused", "unknown"];
    let mut areas = Vec::new();
    for (kind, label) in Kind::ALL.into_iter().zip(labels) {
        let mut path = String::new();
        for (period, counts) in counts.iter().enumerate() {
            let count = counts[kind as usize];
            let bottom = linear.y(below[period] as f64 / period_s);
            below[period] += count;
            if count > 0 {
                let top = linear.y(below[period] as f64 / period_s);
                let (x, end) = (
                    time.x(periods.begin_ns(period)),
                    time.x(periods.begin_ns(period + 1)),
                );
                let _ = write!(path, "M{x:.1} {bottom:.1}V{top:.1}H{end:.1}V{bottom:.1}Z");
            }
        }
        areas.push(Line {
            class: kind.class(),
            label,
            path,
        });
    }
    Some(RateChart {
        y_ticks: linear.ticks(),
        areas,
        period: scale::short(period_s),
    })
}

/// Tokens against time.
pub(super) struct TokenChart {
    pub(super) y_ticks: Vec<Tick>,
    pub(super) dots: Vec<Dots>,
    /// What the vertical axis counts from.
    pub(super) from: String,
    pub(super) last: String,
    pub(super) drawn: String,
    pub(super) in_all: String,
    /// Points that a check names.
    pub(super) named: Vec<NamedToken>,
}

/// A grant that a check names.
pub(super) struct NamedToken {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) title: String,
}

/// The token of every grant by when it was answered; those of `named` lines of the history stand out.
pub(super) fn tokens(
    record: &LockRecord<'_>,
    end_ns: u64,
    named: &BTreeSet<u64>,
) -> Option<TokenChart> {
    let grants: Vec<_> = record
        .grants
        .iter()
        .filter_map(|grant| Some((grant, grant.token?, record.time_ns(grant.completed)?)))
        .collect();
    let least = grants.iter().map(|(_, token, _)| *token).min()?;
    let most = grants.iter().map(|(_, token, _)| *token).max()?;
    // The first token stands a little above the axis.
    let from = least.saturating_sub(1);
    let linear = LinearScale::to((most - from) as f64);
    let time = TimeScale::chart(end_ns);
    let place = |token: u64, time_ns: u64| (time.x(time_ns), linear.y((token - from) as f64));
    let places: Vec<(f64, f64)> = grants
        .iter()
        .map(|(_, token, time_ns)| place(*token, *time_ns))
        .collect();
    let (dots, drawn) = dots("token", &places);
    let history = record.history;
    let named = grants
        .iter()
        .filter(|(grant, ..)| named.contains(&history.event(grant.completed).line))
        .take(200)
        .map(|(grant, token, time_ns)| {
            let (x, y) = place(*token, *time_ns);
            let title = format!(
                "token {token} of {}, line {}",
                super::words(&grant.lock),
                history.event(grant.completed).line
            );
            NamedToken { x, y, title }
        })
        .collect();
    Some(TokenChart {
        y_ticks: linear.ticks(),
        dots: vec![dots],
        from: from.to_string(),
        last: most.to_string(),
        drawn: scale::grouped(drawn as u64),
        in_all: scale::grouped(grants.len() as u64),
        named,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(function: &'static str, began_ms: u64, took_ms: u64, kind: Kind) -> Call<'static> {
        Call {
            function,
            began_ns: began_ms * 1_000_000,
            ended_ns: Some((began_ms + took_ms) * 1_000_000),
            kind,
        }
    }

    #[test]
    fn quantiles_are_of_the_values_themselves() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0.5), 50.0);
        assert_eq!(quantile(&sorted, 0.99), 99.0);
        assert_eq!(quantile(&sorted, 1.0), 100.0);
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
        let calls: Vec<Call<'_>> = (1..=100)
            .map(|ms| call("acquire", 0, ms, Kind::Ok))
            .chain([call("acquire", 0, 9_999, Kind::Info)])
            .collect();
        let row = latency_row("acquire", &calls, |_| true).unwrap();
        assert_eq!(row.count, "100", "what is not known has no latency");
        assert_eq!(row.quantiles, ["50 ms", "90 ms", "99 ms", "100 ms"]);
    }

    #[test]
    fn of_points_that_lie_on_each_other_one_is_drawn_and_none_that_stands_alone_is_lost() {
        let mut points = vec![(100.0, 100.0); 50_000];
        points.push((900.0, 20.0));
        let (dots, drawn) = dots("ok", &points);
        assert_eq!(drawn, 2);
        assert!(dots.path.contains("M900.0 20.0h0"), "{}", dots.path);
    }

    #[test]
    fn however_many_points_there_are_the_drawing_is_bounded() {
        let points: Vec<(f64, f64)> = (0..200_000)
            .map(|n| (f64::from(n % 997), f64::from(n / 997)))
            .collect();
        let (dots, drawn) = dots("ok", &points);
        assert!((1_000..=MOST_POINTS).contains(&drawn), "{drawn}");
        assert!(dots.path.len() < 16 * MOST_POINTS);
    }

    #[test]
    fn the_rate_counts_every_operation_by_outcome() {
        let calls = [
            call("a", 0, 100, Kind::Ok),
            call("a", 0, 100, Kind::Ok),
            call("a", 1_500, 100, Kind::Fail),
        ];
        let chart = rate(&calls, 2_000_000_000).unwrap();
        assert_eq!(chart.period, "0.5");
        assert_eq!(
            chart.y_ticks.last().unwrap().label,
            "4",
            "two in half a second"
        );
        assert_eq!(chart.areas[0].path.matches('Z').count(), 1);
        assert_eq!(chart.areas[1].path.matches('Z').count(), 1);
        assert_eq!(chart.areas[2].path, "");
    }
}
