//! JSON lines: an event on each, blank lines between them ignored.

use std::fmt;
use std::io::Write;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{WriteError, fields};
use crate::{FailMeaning, History, HistoryBuilder, Malformed, Value};

pub(super) fn read(text: &str, fail: FailMeaning) -> Result<History, Malformed> {
    let mut builder = HistoryBuilder::new(fail);
    for (line, text) in (1u64..).zip(text.lines()) {
        if text.trim().is_empty() {
            continue;
        }
        let Json(value) = serde_json::from_str(text)
            .map_err(|error| Malformed::new(line, format!("this is no JSON value: {error}")))?;
        builder.push(fields::event(&value, line)?)?;
    }
    Ok(builder.finish())
}

pub(super) fn write(history: &History, mut output: impl Write) -> Result<(), WriteError> {
    for event in history.events() {
        output.write_all(b"{")?;
        let fields = fields::fields(event, |name| Value::Text(name.clone()));
        for (number, (name, value)) in fields.into_iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(output, "{comma}\"{name}\":")?;
            write_value(&mut output, &value)?;
        }
        output.write_all(b"}\n")?;
    }
    Ok(())
}

fn write_value(output: &mut impl Write, value: &Value) -> std::io::Result<()> {
    match value {
        Value::Nil => output.write_all(b"null"),
        Value::Bool(truth) => write!(output, "{truth}"),
        Value::Integer(number) => write!(output, "{number}"),
        // JSON knows no ratios and the like.
        Value::Decimal(number) if serde_json::from_str::<f64>(number).is_ok() => {
            output.write_all(number.as_bytes())
        }
        Value::Decimal(text) | Value::Text(text) | Value::Keyword(text) => {
            Ok(serde_json::to_writer(output, &**text)?)
        }
        Value::List(items) => {
            output.write_all(b"[")?;
            for (number, item) in items.iter().enumerate() {
                output.write_all(if number == 0 { b"" } else { b"," })?;
                write_value(output, item)?;
            }
            output.write_all(b"]")
        }
        Value::Map(entries) => {
            output.write_all(b"{")?;
            for (number, (key, value)) in entries.iter().enumerate() {
                output.write_all(if number == 0 { b"" } else { b"," })?;
                let name = key.as_words().map_or_else(|| key.to_string(), String::from);
                serde_json::to_writer(&mut *output, &name)?;
                output.write_all(b":")?;
                write_value(output, value)?;
            }
            output.write_all(b"}")
        }
    }
}

/// A [`Value`] read from JSON: no field twice, whole numbers as such.
struct Json(Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor).map(Json)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(match i64::try_from(number) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Decimal(number.to_string().into()),
        })
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Decimal(format!("{number:?}").into()))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Json(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::list(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map: Vec<(Value, Value)> = Vec::new();
        while let Some((name, Json(value))) = entries.next_entry::<String, Json>()? {
            let name = Value::text(&name);
            if map.iter().any(|(before, _)| *before == name) {
                return Err(A::Error::custom(format!("the object has {name} twice")));
            }
            map.push((name, value));
        }
        Ok(Value::map(map))
    }
}
