//! Server-sent events, as WHATWG's HTML standard has them: bytes in, events out. It knows nothing of what
//! they say.

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServerSent {
    pub(super) id: String,
    pub(super) event: String,
    pub(super) data: String,
}

/// Cuts bytes into events.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    now: ServerSent,
}

impl Lines {
    /// Takes the next bytes; the events that they complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<ServerSent> {
        let mut events = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                // The id stays for the events that name none.
                "" if line.is_empty() => {
                    let id = self.now.id.clone();
                    let ended = std::mem::take(&mut self.now);
                    self.now.id = id;
                    if !ended.data.is_empty() {
                        events.push(ended);
                    }
                }
                "id" => value.clone_into(&mut self.now.id),
                "event" => value.clone_into(&mut self.now.event),
                "data" => {
                    if !self.now.data.is_empty() {
                        self.now.data.push('\n');
                    }
                    self.now.data.push_str(value);
                }
                _ => {}
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_wherever_the_bytes_are() {
        let text = "id: 1.0@c\nevent: granted\ndata: {}\n\n: a comment\n\nevent:queued\ndata: 1\ndata: 2\n\n";
        let whole = Lines::default().feed(text.as_bytes());
        let mut lines = Lines::default();
        let pieces: Vec<_> = text
            .as_bytes()
            .iter()
            .flat_map(|byte| lines.feed(&[*byte]))
            .collect();
        assert_eq!(whole, pieces);
        let event = |id: &str, event: &str, data: &str| ServerSent {
            id: id.into(),
            event: event.into(),
            data: data.into(),
        };
        assert_eq!(
            whole,
            [
                event("1.0@c", "granted", "{}"),
                event("1.0@c", "queued", "1\n2")
            ]
        );
    }
}
