//! A reader of `GET /v1/events` that shows every server-sent event as it came.

use std::collections::VecDeque;

use lock_api::EventPosition;
use reqwest::Response;
use serde_json::Value;

use crate::http::{Http, Reply};

/// One server-sent event.
#[derive(Clone, Debug, PartialEq)]
pub struct SentEvent {
    /// Its name.
    pub name: String,
    /// Its id, where it has one.
    pub id: Option<String>,
    /// Its data.
    pub data: Value,
}

/// An open stream.
#[derive(Debug)]
pub struct EventStream {
    response: Response,
    text: String,
    ready: VecDeque<SentEvent>,
}

impl Http {
    /// Opens a stream, resumed behind an id where there is one.
    ///
    /// # Errors
    /// The answer, when it is no stream.
    ///
    /// # Panics
    /// When no answer came.
    pub async fn watch(&self, query: &str, last_id: Option<&str>) -> Result<EventStream, Reply> {
        let path = format!("{}?{query}", lock_api::path::EVENTS);
        let headers = last_id.map(|id| (lock_api::LAST_EVENT_ID_HEADER, id));
        let response = self
            .open(&path, headers.as_slice())
            .await
            .unwrap_or_else(|error| panic!("GET {path}: {error:?}"));
        if response.status() != 200 {
            let reply = Reply::read(response).await;
            return Err(reply.unwrap_or_else(|error| panic!("GET {path}: {error:?}")));
        }
        Ok(EventStream {
            response,
            text: String::new(),
            ready: VecDeque::new(),
        })
    }
}

impl EventStream {
    /// The next event; `None` when the stream has ended or broken off.
    ///
    /// # Panics
    /// When none comes, not even a heartbeat, or it is not what the format says.
    pub async fn next(&mut self) -> Option<SentEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let chunk = tokio::time::timeout(crate::PATIENCE, self.response.chunk()).await;
            let chunk = chunk.expect("a stream is never silent for long").ok()??;
            self.text
                .push_str(std::str::from_utf8(&chunk).expect("whole characters"));
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                self.ready.push_back(parse(event));
                self.text = rest.to_owned();
            }
        }
    }

    /// The next event that is no heartbeat.
    ///
    /// # Panics
    /// When the stream ends before.
    pub async fn next_event(&mut self) -> SentEvent {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if event.name != lock_api::HEARTBEAT_EVENT {
                return event;
            }
        }
    }

    /// So many events that are no heartbeats.
    ///
    /// # Panics
    /// When the stream ends before.
    pub async fn take(&mut self, count: usize) -> Vec<SentEvent> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            events.push(self.next_event().await);
        }
        events
    }
}

fn parse(text: &str) -> SentEvent {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(str::to_owned)
    };
    let id = field("id");
    if let Some(id) = &id {
        id.parse::<EventPosition>().expect("an id is a position");
    }
    let data = field("data").unwrap_or_else(|| panic!("no data: {text}"));
    SentEvent {
        name: field("event").unwrap_or_else(|| panic!("no name: {text}")),
        id,
        data: serde_json::from_str(&data).expect("data is JSON"),
    }
}
