//! EDN, as far as histories use it: <https://github.com/edn-format/edn>. Tags are read over, sets
//! become lists, numbers beyond 64 bits stay as they are written.

use std::io::Write;

use super::{WriteError, fields};
use crate::{FailMeaning, History, HistoryBuilder, Malformed, Value};

/// Whether every event has to have a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    Optional,
    Required,
}

/// How deep values may nest: histories are flat, and the reader calls itself.
const MAX_DEPTH: usize = 64;

pub(super) fn read(text: &str, fail: FailMeaning, keys: Keys) -> Result<History, Malformed> {
    let mut reader = Reader {
        rest: text,
        line: 1,
    };
    let mut builder = HistoryBuilder::new(fail);
    reader.skip_space()?;
    // A vector or list of events, or one event after the other.
    let closing = match reader.peek() {
        Some('[') => Some(']'),
        Some('(') => Some(')'),
        _ => None,
    };
    if closing.is_some() {
        reader.bump();
    }
    loop {
        reader.skip_space()?;
        let line = reader.line;
        match reader.peek() {
            None => match closing {
                None => break,
                Some(closing) => {
                    return Err(reader.refused(format!("the history ends without `{closing}`")));
                }
            },
            Some(character) if Some(character) == closing => {
                reader.bump();
                reader.skip_space()?;
                if reader.peek().is_some() {
                    return Err(reader.refused("something follows the end of the history"));
                }
                break;
            }
            Some(_) => {
                let event = fields::event(&reader.value(0)?, line)?;
                if keys == Keys::Required && event.key.is_none() {
                    return Err(Malformed::new(line, "the event has no `key`"));
                }
                builder.push(event)?;
            }
        }
    }
    Ok(builder.finish())
}

pub(super) fn write(
    history: &History,
    mut output: impl Write,
    keys: Keys,
) -> Result<(), WriteError> {
    let bracketed = keys == Keys::Optional;
    if bracketed {
        output.write_all(b"[")?;
    }
    for (index, event) in history.events().iter().enumerate() {
        if keys == Keys::Required && event.key.is_none() {
            return Err(WriteError::Inexpressible {
                event: index,
                problem: "it has no key".into(),
            });
        }
        if bracketed && index > 0 {
            output.write_all(b"\n ")?;
        }
        output.write_all(b"{")?;
        let fields = fields::fields(event, |name| Value::Keyword(name.clone()));
        for (number, (name, value)) in fields.into_iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(output, "{comma}:{name} {value}")?;
        }
        output.write_all(if bracketed { b"}" } else { b"}\n" })?;
    }
    if bracketed {
        output.write_all(b"]\n")?;
    }
    Ok(())
}

/// One value, and nothing else: for the etcd log, whose values are EDN.
pub(crate) fn value(text: &str, line: u64) -> Result<Value, Malformed> {
    let mut reader = Reader { rest: text, line };
    reader.skip_space()?;
    let value = reader.value(0)?;
    reader.skip_space()?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.refused(format!("{text:?} is more than one value"))),
    }
}

struct Reader<'t> {
    rest: &'t str,
    line: u64,
}

impl<'t> Reader<'t> {
    fn refused(&self, problem: impl Into<String>) -> Malformed {
        Malformed::new(self.line, problem)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.rest = &self.rest[character.len_utf8()..];
        self.line += u64::from(character == '\n');
        Some(character)
    }

    /// White space, commas, comments and discarded values.
    fn skip_space(&mut self) -> Result<(), Malformed> {
        loop {
            match self.peek() {
                Some(character) if character.is_whitespace() || character == ',' => {
                    self.bump();
                }
                Some(';') => {
                    while self.peek().is_some_and(|character| character != '\n') {
                        self.bump();
                    }
                }
                Some('#') if self.rest.starts_with("#_") => {
                    self.rest = &self.rest[2..];
                    self.skip_space()?;
                    self.value(1)?;
                }
                _ => return Ok(()),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Malformed> {
        if depth > MAX_DEPTH {
            return Err(self.refused(format!("values nest deeper than {MAX_DEPTH}")));
        }
        match self.peek() {
            None => Err(self.refused("the text ends where a value should be")),
            Some('[') => self.list(']', depth),
            Some('(') => self.list(')', depth),
            Some('{') => self.map(depth),
            Some('"') => self.string(),
            Some('#') => {
                self.bump();
                if self.peek() == Some('{') {
                    return self.list('}', depth);
                }
                let tag = self.token();
                if tag.is_empty() {
                    return Err(self.refused("`#` is followed by neither a tag nor a set"));
                }
                self.skip_space()?;
                self.value(depth + 1)
            }
            Some(':') => {
                self.bump();
                match self.token() {
                    "" => Err(self.refused("`:` is followed by no name")),
                    name => Ok(Value::keyword(name)),
                }
            }
            Some(character) => match self.token() {
                "" => Err(self.refused(format!("no value begins with {character:?}"))),
                "nil" => Ok(Value::Nil),
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                token => self.number_or_symbol(token),
            },
        }
    }

    /// Everything up to what ends a token.
    fn token(&mut self) -> &'t str {
        let ends = |character: char| {
            character.is_whitespace()
                || matches!(character, ',' | ';' | '"')
                || matches!(character, '[' | ']' | '(' | ')' | '{' | '}')
        };
        let length = self.rest.find(ends).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        token
    }

    fn number_or_symbol(&self, token: &str) -> Result<Value, Malformed> {
        let digits = token.strip_prefix(['-', '+']).unwrap_or(token);
        if !digits.starts_with(|first: char| first.is_ascii_digit()) {
            return Ok(Value::keyword(token));
        }
        let whole = token.strip_suffix('N').unwrap_or(token);
        if let Ok(number) = whole.parse() {
            return Ok(Value::Integer(number));
        }
        // Ratios are numbers too.
        let allowed = |character: char| {
            character.is_ascii_digit() || matches!(character, '.' | 'e' | 'E' | '+' | '-' | '/')
        };
        let number = whole.strip_suffix('M').unwrap_or(whole);
        if number.chars().all(allowed) {
            return Ok(Value::Decimal(number.into()));
        }
        Err(self.refused(format!("{token:?} is no number")))
    }

    fn string(&mut self) -> Result<Value, Malformed> {
        let began = self.line;
        self.bump();
        let mut text = String::new();
        loop {
            match self.bump() {
                None => return Err(Malformed::new(began, "a string has no end")),
                Some('"') => return Ok(Value::text(&text)),
                Some('\\') => match self.bump() {
                    Some('n') => text.push('\n'),
                    Some('r') => text.push('\r'),
                    Some('t') => text.push('\t'),
                    Some('b') => text.push('\u{8}'),
                    Some('f') => text.push('\u{c}'),
                    Some(quoted @ ('"' | '\\')) => text.push(quoted),
                    Some('u') => text.push(self.unicode()?),
                    other => {
                        let other = other.map(String::from).unwrap_or_default();
                        return Err(self.refused(format!("`\\{other}` means nothing in a string")));
                    }
                },
                Some(character) => text.push(character),
            }
        }
    }

    fn unicode(&mut self) -> Result<char, Malformed> {
        let digits = self
            .rest
            .get(..4)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let character = code.and_then(char::from_u32);
        let Some(character) = character else {
            return Err(self.refused("`\\u` is followed by four hexadecimal digits of a character"));
        };
        self.rest = &self.rest[4..];
        Ok(character)
    }

    fn list(&mut self, closing: char, depth: usize) -> Result<Value, Malformed> {
        let began = self.line;
        self.bump();
        let mut items = Vec::new();
        loop {
            self.skip_space()?;
            match self.peek() {
                None => {
                    return Err(Malformed::new(
                        began,
                        format!("no `{closing}` ends this list"),
                    ));
                }
                Some(character) if character == closing => {
                    self.bump();
                    return Ok(Value::list(items));
                }
                Some(_) => items.push(self.value(depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Malformed> {
        let began = self.line;
        self.bump();
        let mut entries: Vec<(Value, Value)> = Vec::new();
        loop {
            self.skip_space()?;
            match self.peek() {
                None => return Err(Malformed::new(began, "no `}` ends this map")),
                Some('}') => {
                    self.bump();
                    return Ok(Value::map(entries));
                }
                Some(_) => {
                    let key = self.value(depth + 1)?;
                    self.skip_space()?;
                    if self.peek() == Some('}') {
                        return Err(self.refused(format!("the map has no value for {key}")));
                    }
                    if entries.iter().any(|(before, _)| *before == key) {
                        return Err(self.refused(format!("the map has {key} twice")));
                    }
                    entries.push((key, self.value(depth + 1)?));
                }
            }
        }
    }
}
