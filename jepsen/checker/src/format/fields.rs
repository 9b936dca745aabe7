//! What EDN and JSON events have in common: a map of fields. It reads no text.

use std::sync::Arc;

use crate::{Event, EventKind, Malformed, Process, Value};

/// Makes an event of a map.
pub(super) fn event(fields: &Value, line: u64) -> Result<Event, Malformed> {
    let refused = |problem: String| Malformed::new(line, problem);
    if !matches!(fields, Value::Map(_)) {
        return Err(refused(format!("an event is a map, not {fields}")));
    }
    let required = |name: &str| {
        fields
            .field(name)
            .ok_or_else(|| refused(format!("the event has no `{name}`: {fields}")))
    };
    // A field that is there and nil says as little as one that is not.
    let optional = |name: &str| fields.field(name).filter(|value| !value.is_nil());

    let process = match required("process")? {
        Value::Integer(number) => Process::Client(u64::try_from(*number).map_err(|_| {
            refused(format!(
                "`process` is a number from 0 or a name, not {number}"
            ))
        })?),
        Value::Text(name) | Value::Keyword(name) => Process::Named(name.clone()),
        other => {
            return Err(refused(format!(
                "`process` is a number from 0 or a name, not {other}"
            )));
        }
    };
    let kind = required("type")?;
    let kind = kind.as_words().and_then(event_kind).ok_or_else(|| {
        refused(format!(
            "`type` is one of invoke, ok, fail and info, not {kind}"
        ))
    })?;
    let function = required("f")?;
    let function: Arc<str> = function
        .as_words()
        .ok_or_else(|| refused(format!("`f` is the name of a function, not {function}")))?
        .into();
    let number = |name: &str| {
        let number = |value: &Value| {
            value
                .as_integer()
                .and_then(|number| u64::try_from(number).ok())
                .ok_or_else(|| refused(format!("`{name}` is a whole number from 0, not {value}")))
        };
        optional(name).map(number).transpose()
    };
    let words = |name: &str| {
        let words = |value: &Value| match value.as_words() {
            Some(words) => Ok(Arc::<str>::from(words)),
            None => Err(refused(format!("`{name}` is a string, not {value}"))),
        };
        optional(name).map(words).transpose()
    };
    let position = match words("position")? {
        Some(words) => Some(words.parse().map_err(refused)?),
        None => None,
    };
    Ok(Event {
        process,
        kind,
        function,
        key: optional("key").cloned(),
        value: fields.field("value").cloned().unwrap_or_default(),
        error: optional("error").cloned(),
        time_ns: number("time")?,
        request: words("request")?,
        position,
        recorded_index: number("index")?,
        line,
    })
}

pub(super) fn event_kind(name: &str) -> Option<EventKind> {
    [
        EventKind::Invoke,
        EventKind::Ok,
        EventKind::Fail,
        EventKind::Info,
    ]
    .into_iter()
    .find(|kind| kind.name() == name)
}

/// The fields of an event, in the order in which people read them. `word` makes a value of a name
/// of the vocabulary (a type, a function, `nemesis`).
pub(super) fn fields(
    event: &Event,
    word: impl Fn(&Arc<str>) -> Value,
) -> Vec<(&'static str, Value)> {
    let number = |number: u64| match i64::try_from(number) {
        Ok(number) => Value::Integer(number),
        Err(_) => Value::Decimal(number.to_string().into()),
    };
    let process = match &event.process {
        Process::Client(client) => number(*client),
        Process::Named(name) => word(name),
    };
    let mut fields = vec![
        ("process", process),
        ("type", word(&event.kind.name().into())),
        ("f", word(&event.function)),
    ];
    fields.extend(event.key.clone().map(|key| ("key", key)));
    fields.push(("value", event.value.clone()));
    fields.extend(event.error.clone().map(|error| ("error", error)));
    fields.extend(event.time_ns.map(|time| ("time", number(time))));
    fields.extend(
        event
            .request
            .clone()
            .map(|request| ("request", Value::Text(request))),
    );
    let position = event
        .position
        .map(|position| Value::text(&position.to_string()));
    fields.extend(position.map(|position| ("position", position)));
    fields.extend(event.recorded_index.map(|index| ("index", number(index))));
    fields
}
