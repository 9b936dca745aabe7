//! Server-sent events, as WHATWG's HTML standard has them: bytes in, events out. Pure.

/// The longest event that is taken, in bytes.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServerSentEvent {
    /// The id that was last sent, with this event or before.
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

/// An event that never ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Cuts a stream of bytes into events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    after_carriage_return: bool,
    id: Option<String>,
    data: Option<String>,
}

impl Parser {
    /// Takes the next bytes and returns the events that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<ServerSentEvent>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_carriage_return = std::mem::take(&mut self.after_carriage_return);
            match byte {
                b'\n' if after_carriage_return => {}
                b'\n' | b'\r' => {
                    self.after_carriage_return = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.end_line(&line));
                }
                byte => self.line.push(byte),
            }
            let length = self.line.len() + self.data.as_ref().map_or(0, String::len);
            if length > MAX_EVENT_BYTES {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, line: &[u8]) -> Option<ServerSentEvent> {
        if line.is_empty() {
            let data = self.data.take()?;
            return Some(ServerSentEvent {
                id: self.id.clone(),
                data,
            });
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "data" => match &mut self.data {
                None => self.data = Some(value.to_owned()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
            },
            // Comments have no name; types stand in the data as well.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Option<&str>, data: &str) -> ServerSentEvent {
        ServerSentEvent {
            id: id.map(str::to_owned),
            data: data.to_owned(),
        }
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let text = ": hello\r\n\r\nid: 7.0\nevent: granted\ndata: {\"a\"\ndata: :1}\n\nid:8.1\rdata:x\r\rdata: é\n\n";
        let expected = vec![
            event(Some("7.0"), "{\"a\"\n:1}"),
            event(Some("8.1"), "x"),
            event(Some("8.1"), "é"),
        ];
        for piece in [1, 2, 3, 7, 1000] {
            let mut parser = Parser::default();
            let events: Vec<_> = text
                .as_bytes()
                .chunks(piece)
                .flat_map(|bytes| parser.feed(bytes).unwrap())
                .collect();
            assert_eq!(events, expected, "pieces of {piece}");
        }
    }

    #[test]
    fn an_event_that_is_not_ended_is_none_and_one_without_end_is_refused() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(b"data: a\n"), Ok(Vec::new()));
        assert_eq!(parser.feed(&vec![b'x'; MAX_EVENT_BYTES + 1]), Err(TooLong));
    }
}
