//! Watching what happens to locks: one stream over many connections. When a connection ends, it goes
//! on behind the last event, on another node, without a gap and without a repeat.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};
use lock_api::{EventPosition, EventsQuery, LockEvent, LockName, Problem, path};

use crate::sse::Parser;
use crate::transport::{NoReply, Reply, WireRequest};
use crate::{Client, Error};

/// A server that has nothing to say sends comments; without those for this long it is given up.
const SILENCE: Duration = Duration::from_secs(45);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What to watch, and from where on. See [`Client::watch_lock`].
#[derive(Debug, Clone)]
#[must_use = "nothing is watched before `stream`"]
pub struct WatchRequest {
    client: Client,
    query: EventsQuery,
}

impl Client {
    /// Watches one lock, from now on unless told otherwise.
    ///
    /// ```no_run
    /// # async fn run(client: lock_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use futures::StreamExt;
    /// let events = client.watch_lock("nightly-billing".parse()?).stream();
    /// let mut events = std::pin::pin!(events);
    /// while let Some(event) = events.next().await {
    ///     let event = event?;
    ///     println!("{} {}", event.position, event.event_type);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch_lock(&self, name: LockName) -> WatchRequest {
        WatchRequest {
            client: self.clone(),
            query: EventsQuery {
                lock: Some(name),
                ..EventsQuery::default()
            },
        }
    }

    /// Watches all locks whose names begin with `prefix`; the empty prefix means all.
    pub fn watch_prefix(&self, prefix: impl Into<String>) -> WatchRequest {
        WatchRequest {
            client: self.clone(),
            query: EventsQuery {
                prefix: Some(prefix.into()),
                ..EventsQuery::default()
            },
        }
    }
}

impl WatchRequest {
    /// Begins behind this place instead of now.
    pub fn after(mut self, place: EventPosition) -> Self {
        self.query.after = Some(place);
        self
    }

    /// Begins behind everything that has happened when this is called, and says which place that is:
    /// what is done after it has returned will be in the stream. Without it the stream begins when it
    /// is first polled. Errors are those of [`Client::lock_view`].
    ///
    /// Cancellation safe: nothing is changed.
    pub async fn from_now(self) -> Result<(EventPosition, Self), Error> {
        let place = now(&self.client, &self.query).await?;
        Ok((place.clone(), self.after(place)))
    }

    /// The events, in order, each once. Lost connections are mended for as long as it takes. It ends
    /// with the first error: [`Error::Refused`], with `position_gone` when events were missed that are
    /// not kept any more (look at the locks again, then watch from there), or when the caller may not.
    ///
    /// Nothing is sent before it is polled. Dropping it ends the connection.
    pub fn stream(self) -> impl Stream<Item = Result<LockEvent, Error>> + Send + use<> {
        let watch = Watch {
            client: self.client,
            query: self.query,
            connection: None,
            ready: VecDeque::new(),
            failures_in_row: 0,
            ended: false,
        };
        futures::stream::unfold(watch, |mut watch| async move {
            let item = watch.next().await?;
            watch.ended = item.is_err();
            Some((item, watch))
        })
    }
}

struct Watch {
    client: Client,
    query: EventsQuery,
    connection: Option<Connection>,
    ready: VecDeque<LockEvent>,
    failures_in_row: u32,
    ended: bool,
}

struct Connection {
    endpoint: usize,
    body: BoxStream<'static, Result<Bytes, NoReply>>,
    parser: Parser,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<LockEvent, Error>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            let step = match self.connection.take() {
                None => self.connect().await,
                Some(connection) => self.read(connection).await,
            };
            if let Err(error) = step {
                return Some(Err(error));
            }
        }
    }

    /// Connects, or pauses after a failure. An error is final.
    async fn connect(&mut self) -> Result<(), Error> {
        if self.query.after.is_none() {
            // What happens while a connection is lost must not be missed: begin at a known place.
            match now(&self.client, &self.query).await {
                Ok(place) => self.query.after = Some(place),
                Err(error @ Error::Refused { .. }) => return Err(error),
                Err(error) => {
                    self.pause(&error.to_string()).await;
                    return Ok(());
                }
            }
        }
        let request = WireRequest::get(path::EVENTS, &self.query)?;
        let client = self.client.clone();
        let endpoint = client.transport().pick();
        let limit = client.attempt_timeout();
        let reason = match client.transport().open(endpoint, &request, limit).await {
            Ok(reply) if reply.status == 200 => {
                client.transport().succeeded(endpoint);
                self.connection = Some(Connection {
                    endpoint,
                    body: reply.body,
                    parser: Parser::default(),
                });
                return Ok(());
            }
            Ok(reply) => match tokio::time::timeout(limit, Reply::read(reply)).await {
                Ok(Ok(reply)) => match serde_json::from_slice::<Problem>(&reply.body) {
                    Ok(problem) if !problem.retryable => {
                        let problem = Box::new(problem);
                        return Err(Error::Refused { problem });
                    }
                    Ok(problem) => problem.to_string(),
                    Err(_) => format!("HTTP {} that is not Palisade's", reply.status),
                },
                Ok(Err(no_reply)) => no_reply.reason,
                Err(_) => "no answer in time".to_owned(),
            },
            Err(no_reply) => no_reply.reason,
        };
        client.transport().failed(endpoint);
        self.pause(&reason).await;
        Ok(())
    }

    /// Reads on. A connection that has ended is not put back.
    async fn read(&mut self, mut connection: Connection) -> Result<(), Error> {
        let piece = match tokio::time::timeout(SILENCE, connection.body.next()).await {
            Ok(Some(Ok(piece))) => piece,
            end => {
                let reason = match end {
                    Ok(Some(Err(no_reply))) => no_reply.reason,
                    Ok(_) => "the node ended the stream".to_owned(),
                    Err(_) => format!("nothing for {} s", SILENCE.as_secs()),
                };
                self.client.transport().failed(connection.endpoint);
                self.pause(&reason).await;
                return Ok(());
            }
        };
        let Ok(events) = connection.parser.feed(&piece) else {
            self.pause("an event is too long").await;
            return Ok(());
        };
        for event in events {
            if let Some(Ok(place)) = event.id.as_deref().map(str::parse) {
                self.query.after = Some(place);
            }
            match serde_json::from_str::<LockEvent>(&event.data) {
                Ok(event) => self.ready.push_back(event),
                // Another version's kind of message: nothing that this one knows how to tell.
                Err(error) => tracing::debug!(%error, "a message was not understood"),
            }
        }
        if !self.ready.is_empty() {
            self.failures_in_row = 0;
        }
        self.connection = Some(connection);
        Ok(())
    }

    async fn pause(&mut self, reason: &str) {
        tracing::debug!(reason, "the watch was interrupted");
        let bound = (FIRST_PAUSE * (1 << self.failures_in_row.min(7))).min(LONGEST_PAUSE);
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        // Full jitter: the watchers of a node that stops do not come back all at once.
        tokio::time::sleep(bound.mul_f64(rand::random::<f64>())).await;
    }
}

/// The place of everything that happened until now.
async fn now(client: &Client, query: &EventsQuery) -> Result<EventPosition, Error> {
    let position = match &query.lock {
        Some(lock) => client.lock_view(lock).await?.position,
        None => {
            let prefix = query.prefix.as_deref().unwrap_or_default();
            client.locks(prefix, None, Some(1)).await?.position
        }
    };
    Ok(position.into())
}
