//! Where everything stands in the picture: rows of processes, bars of operations, points at which
//! they take effect, lanes of faults and leaders. Geometry only; it writes no markup.
//!
//! The horizontal axis counts events, not time: a run of minutes has operations of a millisecond, and
//! what matters is their order. Times are told when pointed at.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use super::words;
use crate::{
    EventIndex, EventKind, History, LinearizedCall, OperationId, Origin, Outcome, PartitionReport,
    Process, Verdict,
};

pub(super) const ROW_HEIGHT: u32 = 34;
const BAR_HEIGHT: u32 = 24;
const LANE_HEIGHT: u32 = 26;
const AXIS_HEIGHT: u32 = 24;
/// The width of the gap between two events without points in it, in pixels.
const GAP: f64 = 54.0;
/// What every point adds to its gap.
const GAP_PER_POINT: f64 = 15.0;
/// The width of a character in a bar, a little more than it is.
const CHARACTER: f64 = 6.7;

/// How much is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineOptions {
    /// The most operations that are drawn one by one: those around the first error, else the first
    /// ones. The overview always has all.
    pub most_operations: usize,
    /// The most orders whose points can be shown.
    pub most_orders: usize,
}

impl Default for TimelineOptions {
    fn default() -> Self {
        TimelineOptions {
            most_operations: 400,
            most_orders: 8,
        }
    }
}

/// A picture of (a part of) a history.
pub(super) struct Timeline {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) rows: Vec<Row>,
    pub(super) lanes: Vec<Lane>,
    pub(super) bars: Vec<Bar>,
    pub(super) orders: Vec<Order>,
    pub(super) ticks: Vec<Tick>,
    /// Where the shortest illegal prefix ends.
    pub(super) error_x: Option<f64>,
    pub(super) overview: Overview,
    /// What is not drawn, as a sentence.
    pub(super) left_out: Option<String>,
}

pub(super) struct Row {
    pub(super) label: String,
    pub(super) y: u32,
    pub(super) text_y: u32,
}

pub(super) struct Lane {
    pub(super) label: String,
    pub(super) text_y: u32,
    pub(super) spans: Vec<Span>,
}

/// Something that lasted.
pub(super) struct Span {
    pub(super) x: f64,
    pub(super) y: u32,
    pub(super) width: f64,
    pub(super) text_y: u32,
    pub(super) label: String,
    pub(super) detail: String,
    /// `fault` or `leader`.
    pub(super) class: &'static str,
}

pub(super) struct Bar {
    pub(super) operation: u32,
    pub(super) x: f64,
    pub(super) y: u32,
    pub(super) width: f64,
    pub(super) height: u32,
    pub(super) text_x: f64,
    pub(super) text_y: u32,
    pub(super) label: String,
    /// `ok`, `fail` or `info`, and `stuck`.
    pub(super) class: String,
    pub(super) title: String,
    pub(super) detail: String,
}

/// An order of calls, drawn as points.
pub(super) struct Order {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) points: Vec<Point>,
}

pub(super) struct Point {
    pub(super) number: usize,
    pub(super) operation: u32,
    pub(super) x: f64,
    pub(super) y: u32,
    pub(super) call: String,
    pub(super) state: String,
    pub(super) derived: bool,
}

pub(super) struct Tick {
    pub(super) x: f64,
    pub(super) label: String,
}

/// The whole part at a glance, 1000 units wide.
pub(super) struct Overview {
    pub(super) buckets: Vec<Bucket>,
    pub(super) faults: Vec<(f64, f64)>,
    pub(super) window_x: f64,
    pub(super) window_width: f64,
    pub(super) error_x: Option<f64>,
}

pub(super) struct Bucket {
    pub(super) x: f64,
    pub(super) width: f64,
    /// Heights of what stands on each other: answered, refused, unknown.
    pub(super) ok: f64,
    pub(super) fail: f64,
    pub(super) info: f64,
}

/// Draws a part of a history.
pub(super) fn timeline(
    history: &History,
    part: &PartitionReport,
    options: TimelineOptions,
) -> Timeline {
    let (stuck, error, orders) = match &part.verdict {
        Verdict::Invalid(violation) => {
            let orders: Vec<&[LinearizedCall]> = violation
                .partial_linearizations
                .iter()
                .map(|it| &*it.calls)
                .collect();
            (Some(violation.stuck), Some(violation.prefix_end), orders)
        }
        Verdict::Valid { linearization } if !linearization.is_empty() => {
            (None, None, vec![&**linearization])
        }
        _ => (None, None, Vec::new()),
    };
    let window = window(history, part, error, options.most_operations);
    let shown = shown(
        history,
        part,
        &window,
        orders.first().copied().unwrap_or_default(),
        stuck,
    );
    let orders = &orders[..orders.len().min(options.most_orders)];
    let mut columns = Columns::of(history, &shown.operations, &window);
    let placed: Vec<Vec<Placed<'_>>> = orders
        .iter()
        .map(|calls| columns.place(history, calls, &shown.operations))
        .collect();
    columns.lay_out();

    let lanes_begin = AXIS_HEIGHT;
    let lanes = lanes(history, &columns, &window, lanes_begin);
    let rows_begin = lanes_begin + LANE_HEIGHT * lanes.len() as u32 + 6;
    let processes: BTreeSet<u64> = shown
        .operations
        .iter()
        .map(|id| history.operation(*id).client)
        .collect();
    let row_of: HashMap<u64, u32> = processes
        .iter()
        .zip(0..)
        .map(|(process, row)| (*process, rows_begin + ROW_HEIGHT * row))
        .collect();
    let bars: Vec<Bar> = shown
        .operations
        .iter()
        .map(|id| {
            bar(
                history,
                *id,
                stuck,
                &columns,
                row_of[&history.operation(*id).client],
            )
        })
        .collect();
    let orders = placed
        .into_iter()
        .enumerate()
        .map(|(number, placed)| order(history, number, placed, &columns, &row_of, error.is_some()))
        .collect();
    Timeline {
        width: columns.width() as u32 + 40,
        height: rows_begin + ROW_HEIGHT * processes.len() as u32 + 8,
        rows: processes
            .iter()
            .map(|process| Row {
                label: format!("process {process}"),
                y: row_of[process],
                text_y: row_of[process] + ROW_HEIGHT / 2 + 4,
            })
            .collect(),
        lanes,
        bars,
        orders,
        ticks: ticks(history, &columns),
        error_x: error.map(|error| columns.x(error)),
        overview: overview(history, part, &window, error),
        left_out: shown.left_out,
    }
}

/// The events that are drawn.
fn window(
    history: &History,
    part: &PartitionReport,
    error: Option<EventIndex>,
    most: usize,
) -> Range<u32> {
    let all = 0..history.events().len() as u32;
    if part.operations.len() <= most {
        return all;
    }
    // More before the error than behind it: the cause comes first.
    let invocation = |index: usize| history.operation(part.operations[index]).invocation;
    let begun = match error {
        Some(error) => part
            .operations
            .partition_point(|id| history.operation(*id).invocation < error),
        None => 0,
    };
    let first = begun
        .saturating_sub(most * 4 / 5)
        .min(part.operations.len() - most);
    let last = first + most;
    let start = if first == 0 { 0 } else { invocation(first).0 };
    let end = if last < part.operations.len() {
        invocation(last).0
    } else {
        all.end
    };
    start..end
}

struct Shown {
    operations: Vec<OperationId>,
    left_out: Option<String>,
}

/// The operations that are drawn: those that touch the window, but not those that were open before it
/// and are known to have taken effect before it.
fn shown(
    history: &History,
    part: &PartitionReport,
    window: &Range<u32>,
    order: &[LinearizedCall],
    stuck: Option<OperationId>,
) -> Shown {
    let touches = |id: &&OperationId| {
        let operation = history.operation(**id);
        let open = matches!(operation.outcome, Outcome::Info);
        let ends = operation.completion.map_or(u32::MAX, |index| index.0);
        operation.invocation.0 < window.end && (open || ends >= window.start)
    };
    // The first call of the order that belongs to an operation that begins in the window.
    let begins_inside = |id: OperationId| history.operation(id).invocation.0 >= window.start;
    let first = order
        .iter()
        .position(|call| begins_inside(call.origin.operation()));
    let settled: BTreeSet<OperationId> = order[..first.unwrap_or(0)]
        .iter()
        .map(|call| call.origin.operation())
        .collect();
    let touching: Vec<OperationId> = part.operations.iter().filter(touches).copied().collect();
    let operations: Vec<OperationId> = touching
        .iter()
        .filter(|id| Some(**id) == stuck || begins_inside(**id) || !settled.contains(id))
        .copied()
        .collect();
    let hidden = part.operations.len() - operations.len();
    let left_out = (hidden > 0).then(|| {
        format!(
            "{} of {} operations are drawn: {}.",
            operations.len(),
            part.operations.len(),
            if stuck.is_some() {
                "those around the first error"
            } else {
                "the first ones"
            }
        )
    });
    Shown {
        operations,
        left_out,
    }
}

/// Horizontal places: one column for each event that is drawn, and the gap behind it.
struct Columns {
    /// Events of the shown operations and of named processes, in order.
    events: Vec<u32>,
    /// Points in the gap behind each event; one more for before the first.
    points: Vec<usize>,
    /// The place of each event, once laid out.
    xs: Vec<f64>,
}

struct Placed<'c> {
    number: usize,
    call: &'c LinearizedCall,
    gap: usize,
    within: usize,
}

impl Columns {
    fn of(history: &History, operations: &[OperationId], window: &Range<u32>) -> Self {
        let mut events = BTreeSet::new();
        for id in operations {
            let operation = history.operation(*id);
            events.insert(operation.invocation.0);
            events.extend(operation.completion.map(|index| index.0));
        }
        let named =
            |index: &u32| matches!(history.event(EventIndex(*index)).process, Process::Named(_));
        events.extend(window.clone().filter(named));
        let events: Vec<u32> = events
            .into_iter()
            .filter(|index| window.contains(index))
            .collect();
        let points = vec![0; events.len() + 1];
        Columns {
            events,
            points,
            xs: Vec::new(),
        }
    }

    /// How many events come up to this one: the number of its gap.
    fn gap_after(&self, event: EventIndex) -> usize {
        self.events.partition_point(|index| *index <= event.0)
    }

    /// Gives each call a gap between its invocation and its completion, in order: the earliest one.
    fn place<'c>(
        &mut self,
        history: &History,
        calls: &'c [LinearizedCall],
        shown: &[OperationId],
    ) -> Vec<Placed<'c>> {
        let mut latest = 0;
        let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
        let mut placed = Vec::new();
        for (number, call) in (1..).zip(calls) {
            let id = call.origin.operation();
            // An expiry comes after its grant, which is before it in the order.
            latest = latest.max(self.gap_after(history.operation(id).invocation));
            if shown.binary_search(&id).is_err() {
                continue;
            }
            let within = taken.entry(latest).or_default();
            placed.push(Placed {
                number,
                call,
                gap: latest,
                within: *within,
            });
            *within += 1;
        }
        for (gap, count) in taken {
            self.points[gap] = self.points[gap].max(count);
        }
        placed
    }

    fn lay_out(&mut self) {
        let mut x = 10.0 + GAP_PER_POINT * self.points[0] as f64;
        self.xs = Vec::with_capacity(self.events.len());
        for points in &self.points[1..] {
            self.xs.push(x);
            x += GAP + GAP_PER_POINT * *points as f64;
        }
        self.xs.push(x);
    }

    /// The place of an event; of one that is not drawn, that of the next.
    fn x(&self, event: EventIndex) -> f64 {
        self.xs[self.events.partition_point(|index| *index < event.0)]
    }

    fn width(&self) -> f64 {
        self.xs.last().copied().unwrap_or(0.0)
    }

    fn point_x(&self, placed: &Placed<'_>) -> f64 {
        let start = match placed.gap {
            0 => 0.0,
            gap => self.xs[gap - 1],
        };
        let end = self.xs[placed.gap.min(self.xs.len() - 1)];
        let count = self.points[placed.gap] as f64;
        start + (end - start) * (placed.within as f64 + 1.0) / (count + 1.0)
    }
}

fn bar(
    history: &History,
    id: OperationId,
    stuck: Option<OperationId>,
    columns: &Columns,
    row_y: u32,
) -> Bar {
    let operation = history.operation(id);
    let x = columns.x(operation.invocation);
    let open = matches!(operation.outcome, Outcome::Info);
    let end = match operation.completion {
        Some(index) if !open => columns.x(index),
        _ => columns.width() + 30.0,
    };
    let width = (end - x).max(6.0);
    let class = match operation.outcome {
        Outcome::Ok(_) => "ok",
        Outcome::Fail(_) => "fail",
        Outcome::Info => "info",
    };
    let is_stuck = Some(id) == stuck;
    let title = crate::explain::operation_words(history, id);
    Bar {
        operation: id.0,
        x,
        y: row_y + (ROW_HEIGHT - BAR_HEIGHT) / 2,
        width,
        height: BAR_HEIGHT,
        text_x: x + 5.0,
        text_y: row_y + ROW_HEIGHT / 2 + 4,
        label: words::cut(&title, ((width - 8.0) / CHARACTER) as usize),
        class: if is_stuck {
            format!("{class} stuck")
        } else {
            class.to_owned()
        },
        detail: words::operation_detail(history, id),
        title,
    }
}

fn order(
    history: &History,
    number: usize,
    placed: Vec<Placed<'_>>,
    columns: &Columns,
    row_of: &HashMap<u64, u32>,
    partial: bool,
) -> Order {
    let points: Vec<Point> = placed
        .iter()
        .map(|placed| {
            let id = placed.call.origin.operation();
            Point {
                number: placed.number,
                operation: id.0,
                x: columns.point_x(placed),
                // At the lower edge of the bar, clear of its label.
                y: row_of[&history.operation(id).client] + (ROW_HEIGHT + BAR_HEIGHT) / 2,
                call: placed.call.call.clone(),
                state: placed.call.state.clone(),
                derived: matches!(placed.call.origin, Origin::Derived(_)),
            }
        })
        .collect();
    let mut path = String::new();
    for (index, point) in points.iter().enumerate() {
        path.push_str(&format!(
            "{}{:.1} {} ",
            if index == 0 { "M" } else { "L" },
            point.x,
            point.y
        ));
    }
    let name = match (partial, number) {
        (false, _) => "linearization".to_owned(),
        (true, 0) => "longest partial linearization".to_owned(),
        (true, other) => format!("dead end {}", other + 1),
    };
    Order { name, path, points }
}

fn lanes(history: &History, columns: &Columns, window: &Range<u32>, begin: u32) -> Vec<Lane> {
    let mut lanes: BTreeMap<&str, Vec<Interval>> = BTreeMap::new();
    for interval in intervals(history) {
        lanes.entry(interval.process).or_default().push(interval);
    }
    lanes
        .into_iter()
        .zip(0..)
        .map(|((process, intervals), number)| {
            let y = begin + LANE_HEIGHT * number;
            let span = |interval: &Interval<'_>| {
                let x = columns.x(EventIndex(interval.start.max(window.start)));
                let end = match interval.end {
                    Some(end) if end < window.end => columns.x(EventIndex(end)),
                    _ => columns.width() + 30.0,
                };
                let width = (end - x).max(8.0);
                Span {
                    x,
                    y: y + 3,
                    width,
                    text_y: y + LANE_HEIGHT / 2 + 4,
                    label: words::cut(&interval.label, ((width - 6.0) / CHARACTER) as usize),
                    detail: words::interval_detail(history, interval.start, interval.end),
                    class: if process == LEADER { "leader" } else { "fault" },
                }
            };
            let visible = |interval: &&Interval<'_>| {
                interval.start < window.end && interval.end.is_none_or(|end| end >= window.start)
            };
            Lane {
                label: process.to_owned(),
                text_y: y + LANE_HEIGHT / 2 + 4,
                spans: intervals.iter().filter(visible).map(span).collect(),
            }
        })
        .collect()
}

/// The process whose events say who leads, each until the next.
const LEADER: &str = "leader";

struct Interval<'h> {
    process: &'h str,
    label: String,
    start: u32,
    /// None if it lasts to the end.
    end: Option<u32>,
}

/// What lasted, from the `info` events of named processes. Of `leader`, each lasts until the next. Of
/// others (the nemesis): `start` until `stop`, `start-F` until `stop-F`, `F` until `heal-F`, and all of
/// them at the latest until an event that begins with `heal`; the rest are moments.
fn intervals(history: &History) -> Vec<Interval<'_>> {
    let functions: HashSet<&str> = history
        .events()
        .iter()
        .map(|event| &*event.function)
        .collect();
    let mut intervals: Vec<Interval<'_>> = Vec::new();
    // By process: what is under way, by the function that ends it.
    let mut open: HashMap<&str, Vec<(String, usize)>> = HashMap::new();
    for (index, event) in (0..).zip(history.events()) {
        // An `invoke` is the intention.
        let (Process::Named(process), EventKind::Info) = (&event.process, event.kind) else {
            continue;
        };
        let (process, function) = (&**process, &*event.function);
        let open = open.entry(process).or_default();
        if process == LEADER || function.starts_with("heal") {
            let own = open.iter().position(|(ends, _)| ends == function);
            let ended = own.map_or(0..open.len(), |at| at..at + 1);
            for (_, at) in open.drain(ended) {
                intervals[at].end = Some(index);
            }
        } else if let Some(at) = open.iter().position(|(ends, _)| ends == function) {
            intervals[open.remove(at).1].end = Some(index);
            continue;
        }
        if process != LEADER && function.starts_with("heal") {
            continue;
        }
        let ends = match function.strip_prefix("start") {
            _ if process == LEADER => Some(String::new()),
            Some(fault) => Some(format!("stop{fault}")),
            None => Some(format!("heal-{function}")).filter(|heal| functions.contains(&**heal)),
        };
        if ends
            .as_ref()
            .is_some_and(|ends| open.iter().any(|(open, _)| open == ends))
        {
            // Said twice, before and after it was done.
            continue;
        }
        let end = if ends.is_none() { Some(index) } else { None };
        open.extend(ends.map(|ends| (ends, intervals.len())));
        let value = match event.value.as_words() {
            Some(words) => words.to_owned(),
            None if event.value.is_nil() => String::new(),
            None => event.value.to_string(),
        };
        let label = match process {
            LEADER if !value.is_empty() => value,
            _ => format!("{function} {value}").trim_end().to_owned(),
        };
        intervals.push(Interval {
            process,
            label,
            start: index,
            end,
        });
    }
    intervals
}

fn ticks(history: &History, columns: &Columns) -> Vec<Tick> {
    let zero = history.events().first().and_then(|event| event.time_ns);
    let mut next = 0.0;
    let mut ticks = Vec::new();
    for (index, x) in columns.events.iter().zip(&columns.xs) {
        if *x < next {
            continue;
        }
        let event = history.event(EventIndex(*index));
        let label = match (event.time_ns, zero) {
            (Some(time), Some(zero)) => words::seconds(time.saturating_sub(zero)),
            _ if event.line > 0 => format!("line {}", event.line),
            _ => format!("event {index}"),
        };
        next = x + 110.0;
        ticks.push(Tick { x: *x, label });
    }
    ticks
}

fn overview(
    history: &History,
    part: &PartitionReport,
    window: &Range<u32>,
    error: Option<EventIndex>,
) -> Overview {
    let length = history.events().len().max(1) as f64;
    let x = |event: u32| 1000.0 * f64::from(event) / length;
    let count = history.events().len().clamp(1, 200);
    let mut buckets = vec![[0_u32; 3]; count];
    for id in &part.operations {
        let operation = history.operation(*id);
        let bucket = operation.invocation.0 as usize * count / history.events().len().max(1);
        let kind = match operation.outcome {
            Outcome::Ok(_) => 0,
            Outcome::Fail(_) => 1,
            Outcome::Info => 2,
        };
        buckets[bucket][kind] += 1;
    }
    let most = buckets
        .iter()
        .map(|counts| counts.iter().sum())
        .max()
        .unwrap_or(0)
        .max(1);
    let width = 1000.0 / count as f64;
    let height = |number: u32| 40.0 * f64::from(number) / f64::from(most);
    Overview {
        buckets: buckets
            .iter()
            .enumerate()
            .filter(|(_, counts)| **counts != [0; 3])
            .map(|(index, counts)| Bucket {
                x: width * index as f64,
                width: width * 0.85,
                ok: height(counts[0]),
                fail: height(counts[1]),
                info: height(counts[2]),
            })
            .collect(),
        faults: intervals(history)
            .iter()
            .filter(|interval| interval.process != LEADER)
            .map(|interval| {
                let end = interval.end.map_or(1000.0, x);
                (x(interval.start), (end - x(interval.start)).max(1.5))
            })
            .collect(),
        window_x: x(window.start),
        window_width: (x(window.end) - x(window.start)).max(2.0),
        error_x: error.map(|error| x(error.0)),
    }
}
