//! Puts reports into words: text for a terminal, JSON for programs. It decides nothing and finds
//! nothing out; pages are in `html`.

mod json;
mod read;
mod text;

use crate::lock_checks::Conclusion;
use crate::witness::{Contradiction, WitnessVerdict};
use crate::{Event, History, OperationId, Origin, Outcome, UnknownReason, Value, Verdict};

pub use json::{checks_json, report_json, witness_json};
pub use read::read_violation;
pub use text::{checks_text, report_text, witness_text};

/// `valid`, `invalid` or `unknown`.
#[must_use]
pub fn verdict_name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Valid { .. } => "valid",
        Verdict::Invalid(_) => "invalid",
        Verdict::Unknown(_) => "unknown",
    }
}

/// An operation in a few words, from the history alone: `write 3`, `read -> 4`.
#[must_use]
pub fn operation_words(history: &History, id: OperationId) -> String {
    let operation = history.operation(id);
    let mut words = operation.function.to_string();
    let mut say = |value: &Value| {
        if !value.is_nil() {
            words.push(' ');
            words.push_str(&value.to_string());
        }
    };
    if let Some(key) = &operation.key {
        say(key);
    }
    say(&operation.input);
    let answer = match &operation.outcome {
        Outcome::Ok(value) if *value == operation.input => None,
        Outcome::Ok(value) => Some(value.to_string()),
        Outcome::Fail(_) => Some("refused".to_owned()),
        Outcome::Info => Some("?".to_owned()),
    };
    match answer {
        Some(answer) => format!("{words} -> {answer}"),
        None => words,
    }
}

/// Objects as people name them; nothing for histories without keys.
pub(crate) fn objects_words(objects: &[Value]) -> Option<String> {
    let named: Vec<String> = objects
        .iter()
        .filter(|object| !object.is_nil())
        .map(ToString::to_string)
        .collect();
    match named.len() {
        0 => None,
        1..=5 => Some(named.join(", ")),
        more => Some(format!("{}, … ({more} in all)", named[..5].join(", "))),
    }
}

/// Where an event is in its input: `line 7`, else its number.
pub(crate) fn place_words(history: &History, event: crate::EventIndex) -> String {
    let recorded: &Event = history.event(event);
    match (recorded.line, recorded.recorded_index) {
        (0, None) => format!("event {}", event.0),
        (0, Some(index)) => format!("index {index}"),
        (line, None) => format!("line {line}"),
        (line, Some(index)) => format!("line {line}, index {index}"),
    }
}

/// Who did what, and where: `process 3, lines 12 to 15`.
pub(crate) fn origin_words(history: &History, origin: Origin) -> String {
    let id = origin.operation();
    let operation = history.operation(id);
    let begin = place_words(history, operation.invocation);
    let place = match operation.completion {
        Some(end) => format!("{begin} to {}", place_words(history, end)),
        None => begin,
    };
    match origin {
        Origin::Operation(_) => format!("#{}, process {}, {place}", id.0, operation.client),
        Origin::Derived(_) => format!(
            "follows from #{}, process {}, {place}",
            id.0, operation.client
        ),
    }
}

/// Why a verdict is unknown, as a stable word for programs.
fn unknown_name(reason: UnknownReason) -> &'static str {
    match reason {
        UnknownReason::Steps { .. } => "steps",
        UnknownReason::Memory { .. } => "memory",
        UnknownReason::Stopped => "stopped",
        UnknownReason::TooConcurrent { .. } => "too_concurrent",
    }
}

fn witness_name(verdict: &WitnessVerdict) -> &'static str {
    match verdict {
        WitnessVerdict::Proven => "proven",
        WitnessVerdict::Refuted(_) => "refuted",
        WitnessVerdict::Unknown(_) => "unknown",
    }
}

/// What contradicts the claimed order, as a sentence.
#[must_use]
pub fn contradiction_words(history: &History, contradiction: &Contradiction) -> String {
    let name = |id: &OperationId| {
        let origin = Origin::Operation(*id);
        format!(
            "`{}` ({})",
            operation_words(history, *id),
            origin_words(history, origin)
        )
    };
    match contradiction {
        Contradiction::RealTime {
            ended_first,
            ended_first_position,
            began_later,
            began_later_position,
        } => format!(
            "{} had ended before {} began, but claims position {ended_first_position}, after its \
             {began_later_position}",
            name(ended_first),
            name(began_later)
        ),
        Contradiction::Refused {
            operation,
            position,
            call,
            state,
            reason,
        } => format!(
            "at position {position} the state is {state}, and {} cannot answer `{call}`: {reason}",
            name(operation)
        ),
        Contradiction::NotInLog {
            operation,
            position,
            in_log,
        } if in_log.is_empty() => format!(
            "{} was answered as of position {position}, but the log does not have its request",
            name(operation)
        ),
        Contradiction::NotInLog {
            operation,
            position,
            in_log,
        } => {
            let positions: Vec<String> = in_log.iter().map(ToString::to_string).collect();
            format!(
                "{} was answered as of position {position}, but the log has its request at {}",
                name(operation),
                positions.join(", ")
            )
        }
        Contradiction::SamePosition {
            operations: [one, other],
            position,
        } => {
            format!(
                "{} and {} both claim position {position}",
                name(one),
                name(other)
            )
        }
    }
}

fn conclusion_words(conclusion: &Conclusion) -> String {
    match conclusion {
        Conclusion::Unknown(why) => format!("unknown: {why}"),
        other => other.name().to_owned(),
    }
}

#[cfg(test)]
mod tests;
