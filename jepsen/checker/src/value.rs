//! The values that histories are made of: what EDN and JSON can both say, with an order and a hash.
//! Nothing here knows what a value means.

use std::fmt;
use std::sync::Arc;

/// A value in a history: an argument, a result, a key, an error.
///
/// Values are compared by what they say, so `1` and `"1"` differ, and a map is equal to any map with
/// the same entries (entries are kept sorted by [`Value::map`]). Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Value {
    /// EDN `nil`, JSON `null`: nothing is known, or nothing is there.
    #[default]
    Nil,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number. Larger ones than an `i64` holds are read as [`Value::Decimal`].
    Integer(i64),
    /// Any other number, as it was written: `1.0` and `1.00` differ. Registers hold what was stored,
    /// and no rounding must make two stored values equal.
    Decimal(Arc<str>),
    /// A string.
    Text(Arc<str>),
    /// An EDN keyword or symbol, without the colon. JSON has none: it becomes text there.
    Keyword(Arc<str>),
    /// An EDN vector or list, a JSON array.
    List(Arc<[Value]>),
    /// An EDN map, a JSON object; sorted by key, no key twice.
    Map(Arc<[(Value, Value)]>),
}

impl Value {
    /// A string value.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Value::Text(text.into())
    }

    /// A keyword value; `name` is without the colon.
    #[must_use]
    pub fn keyword(name: &str) -> Self {
        Value::Keyword(name.into())
    }

    /// A list value.
    #[must_use]
    pub fn list(items: impl IntoIterator<Item = Value>) -> Self {
        Value::List(items.into_iter().collect())
    }

    /// A map value. Of entries with the same key the last one stays.
    #[must_use]
    pub fn map(entries: impl IntoIterator<Item = (Value, Value)>) -> Self {
        let sorted: std::collections::BTreeMap<_, _> = entries.into_iter().collect();
        Value::Map(sorted.into_iter().collect())
    }

    /// Whether this is [`Value::Nil`].
    #[must_use]
    pub fn is_nil(&self) -> bool {
        matches!(self, Value::Nil)
    }

    /// The number, if this is a whole one.
    #[must_use]
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The words of a string or of a keyword: EDN tends to say `:held` where JSON says `"held"`.
    #[must_use]
    pub fn as_words(&self) -> Option<&str> {
        match self {
            Value::Text(words) | Value::Keyword(words) => Some(words),
            _ => None,
        }
    }

    /// The items, if this is a list.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// What a map holds under a keyword or string `name`; nothing if this is no map.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Value> {
        let Value::Map(entries) = self else {
            return None;
        };
        entries
            .iter()
            .find(|(key, _)| key.as_words() == Some(name))
            .map(|(_, value)| value)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Integer(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::text(text)
    }
}

/// Writes EDN.
impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Nil => out.write_str("nil"),
            Value::Bool(truth) => write!(out, "{truth}"),
            Value::Integer(number) => write!(out, "{number}"),
            Value::Decimal(number) => out.write_str(number),
            Value::Text(text) => write_edn_string(out, text),
            Value::Keyword(name) => write!(out, ":{name}"),
            Value::List(items) => {
                out.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    let space = if index == 0 { "" } else { " " };
                    write!(out, "{space}{item}")?;
                }
                out.write_str("]")
            }
            Value::Map(entries) => {
                out.write_str("{")?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(out, "{comma}{key} {value}")?;
                }
                out.write_str("}")
            }
        }
    }
}

/// The same as [`Display`](fmt::Display): EDN is its own debug form.
impl fmt::Debug for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

fn write_edn_string(out: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    use fmt::Write;
    out.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            other => out.write_char(other)?,
        }
    }
    out.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_with_the_same_entries_are_equal_whatever_their_order() {
        let one = Value::map([("a".into(), 1.into()), ("b".into(), 2.into())]);
        let other = Value::map([("b".into(), 2.into()), ("a".into(), 1.into())]);
        assert_eq!(one, other);
        assert_eq!(one.field("b"), Some(&Value::Integer(2)));
        assert_eq!(one.field("c"), None);
    }

    #[test]
    fn display_writes_edn() {
        let value = Value::list([
            Value::Nil,
            Value::Bool(true),
            Value::keyword("held"),
            Value::text("say \"no\"\n"),
            Value::map([(Value::keyword("token"), 7.into())]),
        ]);
        assert_eq!(
            value.to_string(),
            r#"[nil true :held "say \"no\"\n" {:token 7}]"#
        );
    }
}
