//! Gives every call its place in the claimed order, and compares that order with real time and with
//! the log. Knows no model.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Contradiction, LogDump, WitnessReport, WitnessVerdict};
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
                log.claim(history, id, position, observes)?;
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
    let Some(request) = history.request(operation) else {
        return why("it has no request id");
    };
    if let Some(position) = log.next_unclaimed(request) {
        return Ok(Some(position));
    }
    if log.begins_late {
        return why("the log that was dumped does not begin with its first entry");
    }
    Ok(None)
}

/// The log by request.
struct LogIndex {
    /// Positions of each request, the first last.
    of_request: HashMap<Arc<str>, Vec<Position>>,
    claimed: HashSet<Position>,
    /// Whether entries before its first index are missing.
    begins_late: bool,
    /// What is in the log that no operation asked for.
    foreign: Option<String>,
}

impl LogIndex {
    fn of(log: &LogDump, history: &History) -> Self {
        let mut of_request: HashMap<Arc<str>, Vec<Position>> = HashMap::new();
        for operation in history.operations() {
            if let Some(request) = history.request(operation) {
                of_request.entry(request.clone()).or_default();
            }
        }
        let mut foreign = None;
        for entry in log.entries.iter().rev() {
            let known = entry
                .request
                .as_ref()
                .and_then(|request| of_request.get_mut(request));
            match known {
                Some(positions) => positions.push(entry.position),
                None => foreign = Some(entry),
            }
        }
        let foreign = foreign.map(|entry| {
            format!(
                "the log has {} at {}, request {}, which is not in the history",
                entry.command.as_deref().unwrap_or("an entry"),
                entry.position,
                entry.request.as_deref().unwrap_or("without id"),
            )
        });
        LogIndex {
            of_request,
            claimed: HashSet::new(),
            begins_late: log.first_index > 1,
            foreign,
        }
    }

    fn claim(
        &mut self,
        history: &History,
        id: OperationId,
        position: Position,
        observes: bool,
    ) -> Result<(), WitnessVerdict> {
        let request = history.request(history.operation(id));
        let in_log = request.and_then(|request| self.of_request.get(request));
        let in_log = in_log.map_or(&[][..], Vec::as_slice);
        if in_log.contains(&position) {
            self.claimed.insert(position);
        } else if !(observes && in_log.is_empty()) {
            if request.is_none() {
                return Err(WitnessVerdict::Unknown(format!(
                    "operation #{} has no request id to find it in the log by",
                    id.0
                )));
            }
            let in_log = in_log.iter().rev().copied().collect();
            return Err(WitnessVerdict::Refuted(Contradiction::NotInLog {
                operation: id,
                position,
                in_log,
            }));
        }
        Ok(())
    }

    fn next_unclaimed(&mut self, request: &Arc<str>) -> Option<Position> {
        let positions = self.of_request.get_mut(request)?;
        while let Some(position) = positions.pop() {
            if !self.claimed.contains(&position) {
                return Some(position);
            }
        }
        None
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
