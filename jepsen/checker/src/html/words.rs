//! Words for places that are small or pointed at.

use std::fmt::Write;

use crate::{EventIndex, History, OperationId, Outcome};

/// Cuts a text to so many characters; nothing if hardly any fit.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    if most < 3 {
        return String::new();
    }
    let kept: String = text.chars().take(most - 1).collect();
    format!("{kept}…")
}

/// A time since the start, in seconds.
pub(super) fn seconds(ns: u64) -> String {
    format!("{:.6} s", ns as f64 / 1e9)
}

fn event_words(history: &History, index: EventIndex) -> String {
    let event = history.event(index);
    let zero = history.events().first().and_then(|first| first.time_ns);
    let mut words = String::new();
    let _ = match event.line {
        0 => write!(words, "event {}", index.0),
        line => write!(words, "line {line}"),
    };
    if let Some(index) = event.recorded_index {
        let _ = write!(words, ", index {index}");
    }
    if let (Some(time), Some(zero)) = (event.time_ns, zero) {
        let _ = write!(words, ", {}", seconds(time.saturating_sub(zero)));
    }
    words
}

/// All that is known of an operation, a line each.
pub(super) fn operation_detail(history: &History, id: OperationId) -> String {
    let operation = history.operation(id);
    let mut lines = vec![
        format!("operation #{}, process {}", id.0, operation.client),
        format!("invoked: {}", event_words(history, operation.invocation)),
    ];
    let end = operation
        .completion
        .map(|index| event_words(history, index));
    lines.push(match (&operation.outcome, end) {
        (Outcome::Ok(_), Some(end)) => format!("ok: {end}"),
        (Outcome::Fail(_), Some(end)) => format!("refused: {end}"),
        (_, Some(end)) => format!("outcome unknown: {end}"),
        (_, None) => "outcome unknown: never completed".to_owned(),
    });
    if let (Some(began), Some(ended)) = (
        history.event(operation.invocation).time_ns,
        operation
            .completion
            .and_then(|index| history.event(index).time_ns),
    ) {
        lines.push(format!(
            "took: {:.3} ms",
            ended.saturating_sub(began) as f64 / 1e6
        ));
    }
    if let Some(error) = history
        .completion(operation)
        .and_then(|event| event.error.as_ref())
    {
        lines.push(format!("error: {error}"));
    }
    if let Some(request) = history.request(operation) {
        lines.push(format!("request: {request}"));
    }
    if let Some(position) = history.position(operation) {
        lines.push(format!("position: {position}"));
    }
    lines.join("\n")
}

/// A fault or a term of a leader.
pub(super) fn interval_detail(history: &History, start: u32, end: Option<u32>) -> String {
    let from = event_words(history, EventIndex(start));
    match end {
        Some(end) if end == start => from,
        Some(end) => format!("from {from}\nto {}", event_words(history, EventIndex(end))),
        None => format!("from {from}\nto the end"),
    }
}
