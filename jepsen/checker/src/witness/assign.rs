//! Gives every call its place in the claimed order, and compares that order with real time and with
//! the log. Knows no model.

use std::ops::Range;

use rustc_hash::FxHashMap;

use super::{Contradiction, LogDump, LogEntry, WitnessReport, WitnessVerdict};
use crate::{History, Moment, OperationId, Origin, Outcome, Position, Problem, Specification};

/// A call in the claimed order.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) position: Position,
    /// Whether it only observes: then it comes after what changes the state at its position.
    observes: bool,
    pub(super) operation: OperationId,
    /// Which problem, and which of its calls.
    pub(super) part: u32,
    pub(super) call: u32,
    pub(super) invoked: Moment,
    pub(super) returned: Option<Moment>,
}

/// The places of all calls that took effect, in order.
pub(super) fn assign<S: Specification>(
    history: &History,
    log: Option<&LogDump>,
    problems: &[Problem<S>],
    report: &mut WitnessReport,
) -> Result<Vec<Place>, WitnessVerdict> {
    let mut log = log.map(|log| LogIndex::of(log, history));
    if let Some(foreign) = log.as_mut().and_then(|log| log.foreign.take()) {
        return Err(WitnessVerdict::Unknown(foreign));
    }
    let mut places = Vec::with_capacity(history.operations().len());
    let mut unknown = Vec::new();
    for (part, problem) in problems.iter().enumerate() {
        for (call, timed) in problem.calls.iter().enumerate() {
            let Origin::Operation(id) = timed.origin else {
                continue;
            };
            let operation = history.operation(id);
            let observes = problem.specification.observes(&timed.call);
            let place = |position| Place {
                position,
                observes,
                operation: id,
                part: part as u32,
                call: call as u32,
                invoked: timed.invoked,
                returned: timed.returned,
            };
            let claimed = history.position(operation);
            if let (Outcome::Info, None) = (&operation.outcome, claimed) {
                // An observation that nobody saw shows nothing.
                if !observes {
                    unknown.push(place(Position {
                        index: 0,
                        ordinal: 0,
                    }));
                }
                continue;
            }
            let Some(position) = claimed else {
                return Err(WitnessVerdict::Unknown(format!(
                    "the answer of operation #{} (process {}, {}) carries no position",
                    id.0, operation.client, operation.function
                )));
            };
            if let Some(log) = &mut log {
                log.claim(id, position, observes)?;
            }
            places.push(place(position));
        }
    }
    // By invocation, so that of several sendings of one request the first gets the first entry left.
    unknown.sort_by_key(|place| place.invoked);
    for place in unknown {
        match decide_unknown(history, &mut log, place)? {
            Some(position) => {
                places.push(Place { position, ..place });
                report.unknown_applied += 1;
            }
            None => report.unknown_dropped += 1,
        }
    }
    report.placed = places.len();
    places.sort_by_key(|place| (place.position, place.observes, place.invoked));
    for pair in places.windows(2) {
        if pair[0].position == pair[1].position && !pair[1].observes {
            return Err(WitnessVerdict::Refuted(Contradiction::SamePosition {
                operations: [pair[0].operation, pair[1].operation],
                position: pair[0].position,
            }));
        }
    }
    Ok(places)
}

/// Where an operation of unknown outcome took effect, if it did.
fn decide_unknown(
    history: &History,
    log: &mut Option<LogIndex>,
    place: Place,
) -> Result<Option<Position>, WitnessVerdict> {
    let operation = history.operation(place.operation);
    let why = |why: &str| {
        Err(WitnessVerdict::Unknown(format!(
            "nobody knows whether operation #{} (process {}, {}) took effect: {why}",
            place.operation.0, operation.client, operation.function
        )))
    };
    let Some(log) = log else {
        return why("there is no log to tell");
    };
    if history.request(operation).is_none() {
        return why("it has no request id");
    }
    if let Some(position) = log.claim_next(place.operation) {
        return Ok(Some(position));
    }
    if log.begins_late {
        return why("the log that was dumped does not begin with its first entry");
    }
    Ok(None)
}

/// The log by request.
struct LogIndex {
    /// The number of each operation's request; none without one.
    request_of: Vec<Option<u32>>,
    /// Where the entries of each request begin, by its number; at the end, their count.
    starts: Vec<usize>,
    /// Positions by request, then by place.
    positions: Vec<Position>,
    /// Which of them an answer carried, or an operation of unknown outcome was given.
    claimed: Vec<bool>,
    /// Whether entries before its first index are missing.
    begins_late: bool,
    /// What is in the log that no operation asked for.
    foreign: Option<String>,
}

impl LogIndex {
    fn of(log: &LogDump, history: &History) -> Self {
        let operations = history.operations();
        let mut numbers: FxHashMap<&str, u32> = FxHashMap::default();
        numbers.reserve(operations.len());
        let mut number = |request| {
            let next = numbers.len() as u32;
            *numbers.entry(request).or_insert(next)
        };
        let requests = operations
            .iter()
            .map(|operation| history.request(operation));
        let request_of: Vec<Option<u32>> = requests
            .map(|request| request.map(|request| number(&**request)))
            .collect();

        let known = |entry: &LogEntry| numbers.get(&**entry.request.as_ref()?).copied();
        let requests: Vec<Option<u32>> = log.entries.iter().map(known).collect();
        // Sorted by counting: the log is in order already.
        let mut starts = vec![0; numbers.len() + 1];
        for request in requests.iter().flatten() {
            starts[*request as usize + 1] += 1;
        }
        for request in 0..numbers.len() {
            starts[request + 1] += starts[request];
        }
        let mut next = starts.clone();
        let count = starts.last().copied().unwrap_or(0);
        let mut positions = vec![
            Position {
                index: 0,
                ordinal: 0
            };
            count
        ];
        for (entry, request) in log.entries.iter().zip(&requests) {
            if let Some(request) = request {
                let at = &mut next[*request as usize];
                positions[*at] = entry.position;
                *at += 1;
            }
        }
        let foreign = requests.iter().position(Option::is_none).map(|at| {
            let entry = &log.entries[at];
            format!(
                "the log has {} at {}, request {}, which is not in the history",
                entry.command.as_deref().unwrap_or("an entry"),
                entry.position,
                entry.request.as_deref().unwrap_or("without id"),
            )
        });
        let claimed = vec![false; count];
        LogIndex {
            request_of,
            starts,
            positions,
            claimed,
            begins_late: log.first_index > 1,
            foreign,
        }
    }

    /// Where the entries of an operation's request are.
    fn entries(&self, id: OperationId) -> Range<usize> {
        match self.request_of[id.0 as usize] {
            Some(request) => self.starts[request as usize]..self.starts[request as usize + 1],
            None => 0..0,
        }
    }

    fn claim(
        &mut self,
        id: OperationId,
        position: Position,
        observes: bool,
    ) -> Result<(), WitnessVerdict> {
        let entries = self.entries(id);
        let in_log = &self.positions[entries.clone()];
        if let Some(at) = in_log.iter().position(|place| *place == position) {
            self.claimed[entries.start + at] = true;
        } else if !(observes && in_log.is_empty()) {
            if self.request_of[id.0 as usize].is_none() {
                return Err(WitnessVerdict::Unknown(format!(
                    "operation #{} has no request id to find it in the log by",
                    id.0
                )));
            }
            let in_log = in_log.to_vec();
            return Err(WitnessVerdict::Refuted(Contradiction::NotInLog {
                operation: id,
                position,
                in_log,
            }));
        }
        Ok(())
    }

    /// Claims the first entry of an operation's request that is left.
    fn claim_next(&mut self, id: OperationId) -> Option<Position> {
        let at = self.entries(id).find(|at| !self.claimed[*at])?;
        self.claimed[at] = true;
        Some(self.positions[at])
    }
}

/// No operation that ended before another began comes after it.
pub(super) fn respect_real_time(places: &[Place]) -> Result<(), WitnessVerdict> {
    // Of the places so far, the one that began last.
    let mut latest: Option<&Place> = None;
    for place in places {
        if let Some(latest) = latest
            && place
                .returned
                .is_some_and(|returned| returned < latest.invoked)
        {
            return Err(WitnessVerdict::Refuted(Contradiction::RealTime {
                ended_first: place.operation,
                ended_first_position: place.position,
                began_later: latest.operation,
                began_later_position: latest.position,
            }));
        }
        if latest.is_none_or(|latest| place.invoked > latest.invoked) {
            latest = Some(place);
        }
    }
    Ok(())
}
