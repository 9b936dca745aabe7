//! The log that Jepsen's etcd test wrote: a line for each event of one cas-register,
//! `INFO  jepsen.util - PROCESS  :TYPE  :F  VALUE`. The value of a completion may be an error
//! (`:timed-out`) instead.

use std::io::Write;

use super::{WriteError, edn, fields};
use crate::{Event, EventKind, FailMeaning, History, HistoryBuilder, Malformed, Process, Value};

pub(super) fn read(text: &str, fail: FailMeaning) -> Result<History, Malformed> {
    let mut builder = HistoryBuilder::new(fail);
    for (line, text) in (1u64..).zip(text.lines()) {
        if !text.trim().is_empty() {
            builder.push(event(text, line)?)?;
        }
    }
    Ok(builder.finish())
}

fn event(text: &str, line: u64) -> Result<Event, Malformed> {
    let shape = || {
        let problem = "a line is `INFO  jepsen.util - PROCESS  :TYPE  :F  VALUE`";
        Malformed::new(line, format!("{problem}, not {text:?}"))
    };
    let mut rest = text;
    let mut word = || {
        rest = rest.trim_start();
        let length = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        rest = after;
        Some(word).filter(|word| !word.is_empty()).ok_or_else(shape)
    };
    if word()? != "INFO" || word()? != "jepsen.util" || word()? != "-" {
        return Err(shape());
    }
    let process = word()?;
    let kind = word()?;
    let function = word()?.strip_prefix(':').ok_or_else(shape)?;
    let kind = kind
        .strip_prefix(':')
        .and_then(fields::event_kind)
        .ok_or_else(|| {
            Malformed::new(
                line,
                format!("{kind:?} is none of :invoke, :ok, :fail and :info"),
            )
        })?;
    let process = match process.parse() {
        Ok(client) => Process::Client(client),
        Err(_) => match process.strip_prefix(':') {
            Some(name) => Process::Named(name.into()),
            None => return Err(shape()),
        },
    };
    if rest.trim().is_empty() {
        return Err(shape());
    }
    let value = edn::value(rest, line)?;
    let is_error = matches!(kind, EventKind::Fail | EventKind::Info)
        && matches!(value, Value::Keyword(_))
        && matches!(process, Process::Client(_));
    let (value, error) = if is_error {
        (Value::Nil, Some(value))
    } else {
        (value, None)
    };
    let mut event = Event::new(process, kind, function, value);
    event.error = error;
    event.line = line;
    Ok(event)
}

pub(super) fn write(history: &History, mut output: impl Write) -> Result<(), WriteError> {
    for (index, event) in history.events().iter().enumerate() {
        let inexpressible = |problem: &str| WriteError::Inexpressible {
            event: index,
            problem: format!("an etcd log has no place for {problem}"),
        };
        let extras = [
            (event.key.is_some(), "a key"),
            (event.time_ns.is_some(), "a time"),
            (event.request.is_some(), "a request id"),
            (event.position.is_some(), "a position"),
            (event.recorded_index.is_some(), "an index"),
            (
                event.error.is_some() && !event.value.is_nil(),
                "both a value and an error",
            ),
        ];
        if let Some((_, extra)) = extras.into_iter().find(|(is_there, _)| *is_there) {
            return Err(inexpressible(extra));
        }
        let process = match &event.process {
            Process::Client(client) => client.to_string(),
            Process::Named(name) => format!(":{name}"),
        };
        let value = event.error.as_ref().unwrap_or(&event.value);
        if event.error.is_some() && !matches!(value, Value::Keyword(_)) {
            return Err(inexpressible("an error that is no keyword"));
        }
        let (kind, function) = (event.kind.name(), &event.function);
        writeln!(
            output,
            "INFO  jepsen.util - {process}\t:{kind}\t:{function}\t{value}"
        )?;
    }
    Ok(())
}
