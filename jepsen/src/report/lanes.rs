//! The timeline: what happened side by side. Lanes of faults by group, of the leader, of each node, and of
//! locks and who held them. Every lock has a place as long as there are places; what is left out is
//! said. Geometry only; it writes no markup.

use std::collections::{BTreeMap, BTreeSet};

use jepsen_checker::lock_checks::Mode;
use jepsen_checker::{History, Value};

use super::holds::{End, Hold};
use super::scale::{self, Tick, TimeScale};
use crate::run_directory::{ClusterSample, FaultOutcome, FaultRecord, NodeSample};

const LANE_HEIGHT: f64 = 20.0;
const GAP: f64 = 3.0;
const AXIS_HEIGHT: f64 = 22.0;
/// The width of a character at natural size, a little more than it is.
const CHARACTER: f64 = 6.4;
/// The most holds that are drawn, one by one or joined.
const MOST_HOLDS: usize = 12_000;
/// The most spans of a lane of a node or of a group of faults.
const MOST_SPANS: usize = 1_500;
/// If more locks than this are drawn, none has its name beside it.
const MOST_NAMES: usize = 2_000;
/// The most lanes of locks.
const MOST_LOCK_LANES: usize = 48;
/// The most locks that checks name and that have a lane of their own.
const MOST_NAMED: usize = 8;
/// The most rows of holds that overlap, within a lane.
const MOST_ROWS: usize = 4;
const LABEL_CHARACTERS: usize = 20;

/// The whole picture.
pub(super) struct Lanes {
    pub(super) height: f64,
    pub(super) ticks: Vec<Tick>,
    pub(super) lanes: Vec<Lane>,
    /// What is not drawn, or not one by one, in sentences.
    pub(super) notes: Vec<String>,
}

pub(super) struct Lane {
    pub(super) label: String,
    /// The label uncut, and what the lane is.
    pub(super) title: String,
    pub(super) y: f64,
    pub(super) height: f64,
    pub(super) text_y: f64,
    /// Whether it begins a group: a line is above it.
    pub(super) begins_group: bool,
    pub(super) spans: Vec<Span>,
    pub(super) words: Vec<Words>,
}

/// Something that lasted.
pub(super) struct Span {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) class: String,
    pub(super) title: String,
}

/// Words that are shown where there is room for them.
pub(super) struct Words {
    pub(super) x: f64,
    pub(super) y: f64,
    /// How much room there is, in the drawing's units.
    pub(super) room: f64,
    /// How much they need, in pixels.
    pub(super) needs: f64,
    pub(super) text: String,
}

/// What the timeline is made from.
pub(super) struct Input<'a> {
    pub(super) end_ns: u64,
    pub(super) faults: &'a [FaultRecord],
    pub(super) samples: &'a [ClusterSample],
    pub(super) history: Option<&'a History>,
    pub(super) holds: &'a [Hold],
    /// Locks that checks name.
    pub(super) named: &'a BTreeSet<Value>,
}

pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// From and until, in words.
pub(super) fn period(from_ns: u64, until_ns: u64) -> String {
    format!(
        "{:.3} s to {:.3} s ({})",
        from_ns as f64 / 1e9,
        until_ns as f64 / 1e9,
        scale::latency(until_ns.saturating_sub(from_ns) as f64 / 1e6)
    )
}

/// Something that lasted, not placed yet.
struct Piece {
    from_ns: u64,
    until_ns: u64,
    class: String,
    label: String,
    title: String,
}

struct Builder {
    time: TimeScale,
    y: f64,
    lanes: Vec<Lane>,
    notes: Vec<String>,
}

/// Draws it.
pub(super) fn lanes(input: &Input<'_>) -> Lanes {
    let time = TimeScale::full(input.end_ns);
    let mut builder = Builder {
        time,
        y: AXIS_HEIGHT,
        lanes: Vec::new(),
        notes: Vec::new(),
    };
    builder.faults(input.faults);
    builder.cluster(input.samples);
    builder.locks(input);
    Lanes {
        height: builder.y + 4.0,
        ticks: time.ticks(12.0),
        lanes: builder.lanes,
        notes: builder.notes,
    }
}

/// Gives each a row so that none overlaps its neighbour in a row; beyond the most rows they share the last.
fn rows(pieces: &[(u64, u64)]) -> (Vec<usize>, usize) {
    let mut ends: Vec<u64> = Vec::new();
    let mut placed = Vec::with_capacity(pieces.len());
    for (from_ns, until_ns) in pieces {
        let free = ends.iter().position(|end| end <= from_ns);
        let row = match free {
            Some(row) => row,
            None if ends.len() < MOST_ROWS => {
                ends.push(0);
                ends.len() - 1
            }
            None => MOST_ROWS - 1,
        };
        ends[row] = ends[row].max(*until_ns);
        placed.push(row);
    }
    (placed, ends.len().max(1))
}

impl Builder {
    fn lane(&mut self, label: &str, title: &str, begins_group: bool, height: f64) -> usize {
        if begins_group {
            self.y += 6.0;
        }
        self.lanes.push(Lane {
            label: cut(label, LABEL_CHARACTERS),
            title: title.to_owned(),
            y: self.y,
            height,
            text_y: self.y + LANE_HEIGHT / 2.0 + 4.0,
            begins_group,
            spans: Vec::new(),
            words: Vec::new(),
        });
        self.y += height + GAP;
        self.lanes.len() - 1
    }

    fn span(&mut self, lane: usize, piece: Piece, row: usize, rows: usize) {
        let (x, end) = (self.time.x(piece.from_ns), self.time.x(piece.until_ns));
        let lane = &mut self.lanes[lane];
        let height = lane.height / rows as f64;
        let width = (end - x).max(0.05);
        let y = lane.y + height * row as f64;
        if !piece.label.is_empty() {
            lane.words.push(Words {
                x,
                y: y + height / 2.0 + 4.0,
                room: width,
                needs: CHARACTER * piece.label.chars().count() as f64 + 6.0,
                text: piece.label,
            });
        }
        lane.spans.push(Span {
            x,
            y,
            width,
            height: (height - 1.0).max(2.0),
            class: piece.class,
            title: piece.title,
        });
    }

    fn faults(&mut self, faults: &[FaultRecord]) {
        let mut groups: BTreeMap<&str, Vec<&FaultRecord>> = BTreeMap::new();
        for fault in faults {
            groups.entry(&fault.group).or_default().push(fault);
        }
        for (number, (group, mut faults)) in groups.into_iter().enumerate() {
            faults.sort_by_key(|fault| fault.begin_ns);
            if faults.len() > MOST_SPANS {
                self.notes.push(format!(
                    "Of {} faults of {group} the first {MOST_SPANS} are drawn.",
                    faults.len()
                ));
                faults.truncate(MOST_SPANS);
            }
            let times: Vec<(u64, u64)> = faults
                .iter()
                .map(|fault| (fault.begin_ns, fault.end_ns))
                .collect();
            let (placed, rows) = rows(&times);
            let title = format!("faults: {group}");
            let height = LANE_HEIGHT * rows as f64;
            let lane = self.lane(group, &title, number == 0, height);
            for (fault, row) in faults.iter().zip(placed) {
                self.span(lane, fault_piece(fault), row, rows);
            }
        }
    }

    fn cluster(&mut self, samples: &[ClusterSample]) {
        if samples.is_empty() {
            return;
        }
        let leaders = leader_pieces(samples);
        let leader = self.lane(
            "leader",
            "who says that it leads, in the highest term",
            true,
            LANE_HEIGHT,
        );
        self.pieces(leader, "leaders", leaders);
        let names: BTreeSet<&str> = samples
            .iter()
            .flat_map(|sample| &sample.nodes)
            // One that stands by to join, and never did, has nothing to show.
            .filter(|node| node.process != "down")
            .map(|node| &*node.node)
            .collect();
        for name in names {
            let title = format!("what {name} said of itself");
            let lane = self.lane(name, &title, false, LANE_HEIGHT);
            self.pieces(lane, name, node_pieces(name, samples));
        }
    }

    fn pieces(&mut self, lane: usize, of: &str, mut pieces: Vec<Piece>) {
        if pieces.len() > MOST_SPANS {
            self.notes.push(format!(
                "Of {} changes of {of} the first {MOST_SPANS} are drawn.",
                pieces.len()
            ));
            pieces.truncate(MOST_SPANS);
        }
        for piece in pieces {
            self.span(lane, piece, 0, 1);
        }
    }

    fn locks(&mut self, input: &Input<'_>) {
        let Some(history) = input.history else {
            return;
        };
        let mut by_lock: BTreeMap<&Value, Vec<&Hold>> = BTreeMap::new();
        for hold in input.holds {
            by_lock.entry(&hold.lock).or_default().push(hold);
        }
        let all = by_lock.len();
        let mut locks: Vec<(&Value, Vec<&Hold>)> = by_lock.into_iter().collect();
        locks.sort_by_key(|(_, holds)| holds[0].from_ns);
        // Locks that a check names first, each alone; the others one after the other in lanes of
        // their workload.
        let mut plan: Vec<LockLane<'_>> = Vec::new();
        let mut others: BTreeMap<String, Vec<LockLane<'_>>> = BTreeMap::new();
        for (lock, holds) in locks {
            let words = super::words(lock);
            if input.named.contains(lock) && plan.len() < MOST_NAMED {
                let mut lane = LockLane::new(words, true);
                lane.push(lock, holds);
                plan.push(lane);
                continue;
            }
            let workload = words.split('/').next().unwrap_or_default().to_owned();
            let lanes = others.entry(workload.clone()).or_default();
            let from_ns = holds[0].from_ns;
            let free = match lanes.iter().position(|lane| lane.end_ns <= from_ns) {
                Some(free) => free,
                None => {
                    lanes.push(LockLane::new(workload, false));
                    lanes.len() - 1
                }
            };
            lanes[free].push(lock, holds);
        }
        // Fairly: the first lane of every workload, then the second.
        let room = MOST_LOCK_LANES.max(plan.len()) - plan.len();
        let mut allowed: BTreeMap<&str, usize> = BTreeMap::new();
        let deepest = others.values().map(Vec::len).max().unwrap_or(0);
        for depth in 0..deepest {
            for (workload, lanes) in &others {
                if depth < lanes.len() && allowed.values().sum::<usize>() < room {
                    *allowed.entry(workload).or_default() += 1;
                }
            }
        }
        let allowed: BTreeMap<String, usize> = allowed
            .into_iter()
            .map(|(workload, count)| (workload.to_owned(), count))
            .collect();
        for (workload, lanes) in others {
            let count = allowed.get(&workload).copied().unwrap_or(0);
            plan.extend(lanes.into_iter().take(count));
        }
        let drawn: usize = plan.iter().map(|lane| lane.locks.len()).sum();
        if drawn < all {
            self.notes.push(format!(
                "{} of {} locks are drawn.",
                scale::grouped(drawn as u64),
                scale::grouped(all as u64)
            ));
        }
        let rows = || plan.iter().flat_map(|lane| &lane.rows);
        let count: usize = rows().map(Vec::len).sum();
        let groups =
            |grain_ns: u64| -> usize { rows().map(|row| joined(row, grain_ns).count()).sum() };
        let mut grain_ns = 0;
        // Ends at the latest when all holds of a row are one.
        while groups(grain_ns) > MOST_HOLDS {
            grain_ns = (grain_ns * 2).max(input.end_ns / 20_000).max(1);
        }
        if grain_ns > 0 {
            self.notes.push(format!(
                "Of {} holds those shorter than {} are drawn joined with their neighbours.",
                scale::grouped(count as u64),
                scale::latency(grain_ns as f64 / 1e6)
            ));
        }
        let names_locks = drawn <= MOST_NAMES;
        if !names_locks {
            self.notes
                .push("There are too many locks to write all their names.".to_owned());
        }
        let mut last: Option<String> = None;
        for lane in plan {
            let begins = last.as_ref() != Some(&lane.label) && (last.is_none() || !lane.is_named);
            self.lock_lane(history, &lane, begins, grain_ns, names_locks);
            last = Some(lane.label);
        }
    }

    fn lock_lane(
        &mut self,
        history: &History,
        lane: &LockLane<'_>,
        begins_group: bool,
        grain_ns: u64,
        names_locks: bool,
    ) {
        let title = match lane.is_named {
            true => format!("holders of {}, which a check names", lane.label),
            false => format!("holders of locks of {}", lane.label),
        };
        let index = self.lane(&lane.label, &title, begins_group, LANE_HEIGHT);
        for (row, holds) in lane.rows.iter().enumerate() {
            for group in joined(holds, grain_ns) {
                self.span(index, hold_piece(history, group), row, lane.rows.len());
            }
        }
        let locks = lane.locks.iter();
        for lock in locks.filter(|_| names_locks && !lane.is_named) {
            let text = super::words(lock.lock);
            let x = self.time.x(lock.from_ns);
            let y = self.lanes[index].text_y;
            self.lanes[index].words.push(Words {
                x,
                y,
                room: self.time.x(lock.until_ns) - x,
                needs: CHARACTER * text.chars().count() as f64 + 6.0,
                text,
            });
        }
    }
}

/// A lock and when it was held.
struct HeldLock<'a> {
    lock: &'a Value,
    from_ns: u64,
    until_ns: u64,
}

/// Locks that were held one after the other.
struct LockLane<'a> {
    label: String,
    locks: Vec<HeldLock<'a>>,
    /// All their holds, in rows so that none overlaps its neighbour.
    rows: Vec<Vec<&'a Hold>>,
    is_named: bool,
    end_ns: u64,
}

impl<'a> LockLane<'a> {
    fn new(label: String, is_named: bool) -> Self {
        LockLane {
            label,
            locks: Vec::new(),
            rows: Vec::new(),
            is_named,
            end_ns: 0,
        }
    }

    /// Adds a lock that was held when none of the others was; its holds are sorted by begin.
    fn push(&mut self, lock: &'a Value, holds: Vec<&'a Hold>) {
        let times: Vec<(u64, u64)> = holds
            .iter()
            .map(|hold| (hold.from_ns, hold.until_ns))
            .collect();
        let (placed, count) = rows(&times);
        self.rows.resize(self.rows.len().max(count), Vec::new());
        for (hold, row) in holds.into_iter().zip(placed) {
            self.rows[row].push(hold);
        }
        let until_ns = times.iter().map(|times| times.1).max().unwrap_or(0);
        self.locks.push(HeldLock {
            lock,
            from_ns: times.first().map_or(0, |times| times.0),
            until_ns,
        });
        self.end_ns = self.end_ns.max(until_ns);
    }
}

/// Neighbours that are shorter than the grain, and nearer, are drawn as one.
fn joined<'a, 'h>(holds: &'a [&'h Hold], grain_ns: u64) -> impl Iterator<Item = &'a [&'h Hold]> {
    holds.chunk_by(move |one, next| {
        let short = |hold: &Hold| hold.until_ns - hold.from_ns < grain_ns;
        short(one) && short(next) && next.from_ns.saturating_sub(one.until_ns) < grain_ns
    })
}

fn fault_piece(fault: &FaultRecord) -> Piece {
    let (class, became) = match fault.outcome {
        FaultOutcome::Installed => ("fault", "installed"),
        FaultOutcome::Skipped => ("fault skipped", "skipped"),
        FaultOutcome::Indeterminate => ("fault indeterminate", "indeterminate"),
    };
    let mut title = format!(
        "{}, {became}\n{}\n{}",
        fault.fault,
        fault.target,
        period(fault.begin_ns, fault.end_ns)
    );
    if let Some(reason) = &fault.reason {
        title.push('\n');
        title.push_str(reason);
    }
    Piece {
        from_ns: fault.begin_ns,
        until_ns: fault.end_ns,
        class: class.to_owned(),
        label: format!("{}: {}", fault.fault, fault.target),
        title,
    }
}

/// Equal neighbours become one, which lasts until the next sample that differs.
fn runs<T: PartialEq + Clone>(
    samples: &[ClusterSample],
    state: impl Fn(&ClusterSample) -> T,
) -> Vec<(T, u64, u64)> {
    let mut runs: Vec<(T, u64, u64)> = Vec::new();
    for sample in samples {
        let now = state(sample);
        if let Some((before, _, until_ns)) = runs.last_mut() {
            *until_ns = sample.time_ns;
            if *before == now {
                continue;
            }
        }
        runs.push((now, sample.time_ns, sample.time_ns));
    }
    runs
}

fn leader_pieces(samples: &[ClusterSample]) -> Vec<Piece> {
    let leader = |sample: &ClusterSample| {
        let leading = sample
            .nodes
            .iter()
            .filter(|node| node.leads && node.reachable);
        let highest = leading.max_by_key(|node| node.term);
        highest.map(|node| (node.node.clone(), node.term))
    };
    let mut pieces = Vec::new();
    for (leader, from_ns, until_ns) in runs(samples, leader) {
        let Some((name, term)) = leader else {
            continue;
        };
        let label = match term {
            Some(term) => format!("{name}, term {term}"),
            None => name,
        };
        pieces.push(Piece {
            from_ns,
            until_ns,
            class: format!("leader t{}", term.unwrap_or(0) % 2),
            title: format!("{label}\n{}", period(from_ns, until_ns)),
            label,
        });
    }
    pieces
}

fn node_pieces(name: &str, samples: &[ClusterSample]) -> Vec<Piece> {
    let state = |sample: &ClusterSample| {
        let node: Option<&NodeSample> = sample.nodes.iter().find(|node| node.node == name);
        node.map(|node| (node.process.clone(), node.reachable, node.leads, node.term))
    };
    let mut pieces = Vec::new();
    for (state, from_ns, until_ns) in runs(samples, state) {
        let Some((process, reachable, leads, term)) = state else {
            continue;
        };
        let term = term.map_or_else(String::new, |term| format!(", term {term}"));
        let (class, label) = match (&*process, reachable, leads) {
            ("down", ..) => ("down", "down".to_owned()),
            ("paused", ..) => ("paused", "paused".to_owned()),
            (_, false, _) => ("silent", "no answer".to_owned()),
            (_, true, true) => ("leads", format!("leads{term}")),
            (_, true, false) => ("follows", format!("follows{term}")),
        };
        pieces.push(Piece {
            from_ns,
            until_ns,
            class: format!("node {class}"),
            title: format!("{name}: {process}, {label}\n{}", period(from_ns, until_ns)),
            label,
        });
    }
    pieces
}

fn hold_piece(history: &History, group: &[&Hold]) -> Piece {
    let first = group[0];
    let until_ns = group.iter().map(|hold| hold.until_ns).max();
    let until_ns = until_ns.unwrap_or(first.until_ns);
    let lock = super::words(&first.lock);
    if group.len() > 1 {
        return Piece {
            from_ns: first.from_ns,
            until_ns,
            class: "hold many".to_owned(),
            label: String::new(),
            title: format!(
                "{} holds, one after the other, from {lock} to {}\n{}",
                group.len(),
                super::words(&group[group.len() - 1].lock),
                period(first.from_ns, until_ns)
            ),
        };
    }
    let operation = history.operation(first.operation);
    let mode = match first.mode {
        Mode::Exclusive => "exclusive".to_owned(),
        Mode::Shared => "shared".to_owned(),
        Mode::Permits { permits, .. } => format!("{permits} permits"),
    };
    let end = match (first.end, first.perhaps_released) {
        (End::Released, _) => "released",
        (End::Expired, false) => "lease ran out",
        (End::Expired, true) => "lease ran out, or released: that answer was lost",
        (End::Open, _) => "held to the end",
    };
    let token = first
        .token
        .map_or_else(String::new, |token| format!(", token {token}"));
    let line = history.event(operation.invocation).line;
    Piece {
        from_ns: first.from_ns,
        until_ns,
        class: format!(
            "hold h{}{}",
            operation.client % 6,
            if first.end == End::Released {
                ""
            } else {
                " expired"
            }
        ),
        label: String::new(),
        title: format!(
            "{lock}: process {}, {mode}{token}\n{}\n{}, {end}; line {line}",
            operation.client,
            first.holder,
            period(first.from_ns, until_ns)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_stands_in_rows_and_what_does_not_in_one() {
        let (placed, count) = rows(&[(0, 10), (10, 20), (5, 15), (20, 30)]);
        assert_eq!(placed, [0, 0, 1, 0]);
        assert_eq!(count, 2);
        let crowd = vec![(0, 10); 9];
        let (placed, count) = rows(&crowd);
        assert_eq!(count, MOST_ROWS);
        assert_eq!(placed.iter().max(), Some(&(MOST_ROWS - 1)));
    }

    fn sample(time_ns: u64, leads: bool, term: u64) -> ClusterSample {
        ClusterSample {
            time_ns,
            nodes: vec![NodeSample {
                node: "n1".into(),
                process: "running".into(),
                reachable: true,
                leads,
                leader: None,
                term: Some(term),
                applied_index: None,
            }],
        }
    }

    #[test]
    fn a_leader_lasts_until_another_sample_says_otherwise() {
        let samples = [
            sample(0, true, 1),
            sample(10, true, 1),
            sample(20, false, 1),
            sample(30, true, 3),
        ];
        let pieces = leader_pieces(&samples);
        let told: Vec<_> = pieces
            .iter()
            .map(|piece| (&*piece.label, piece.from_ns, piece.until_ns))
            .collect();
        assert_eq!(told, [("n1, term 1", 0, 20), ("n1, term 3", 30, 30)]);
        let states: Vec<String> = node_pieces("n1", &samples)
            .into_iter()
            .map(|piece| piece.label)
            .collect();
        assert_eq!(
            states,
            ["leads, term 1", "follows, term 1", "leads, term 3"]
        );
    }
}
