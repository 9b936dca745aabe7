//! `palisade watch`: what happens to locks, one line for each event, until it is interrupted.

use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use futures::StreamExt;
use lock_client::{Client, Error, LockEvent};

use crate::arguments::WatchArguments;
use crate::exit;
use crate::output::{Output, or_dash};

/// Between attempts to begin, each of which has its own deadline.
const PAUSE: Duration = Duration::from_secs(1);

/// Prints events until the reader goes away or the stream ends with an error.
pub(crate) async fn run(client: &Client, arguments: WatchArguments, output: Output) -> ExitCode {
    let mut request = match arguments.name {
        Some(name) => client.watch_lock(name),
        None => client.watch_prefix(arguments.prefix.unwrap_or_default()),
    };
    match arguments.after.as_deref().map(str::parse) {
        Some(Ok(place)) => request = request.after(place),
        Some(Err(error)) => return exit::fail(exit::USAGE, format_args!("--after: {error}")),
        None => loop {
            match request.clone().from_now().await {
                Ok((place, from_now)) => {
                    exit::say(format_args!("watching from {place} on"));
                    request = from_now;
                    break;
                }
                Err(error @ Error::Unavailable { .. }) => {
                    exit::say(format_args!("{error}. Trying on."));
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return exit::failed(&error),
            }
        },
    }
    let mut events = pin!(request.stream());
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => return exit::failed(&error),
        };
        let line = match output.json {
            true => serde_json::to_string(&event).map(|json| json + "\n"),
            false => Ok(line(&event)),
        };
        match line {
            Ok(line) if output.write(&line) => {}
            Ok(_) => return ExitCode::SUCCESS,
            Err(error) => return exit::fail(exit::UNAVAILABLE, error),
        }
    }
    ExitCode::SUCCESS
}

fn line(event: &LockEvent) -> String {
    let mut line = format!(
        "{}  {:10}  {}",
        event.position,
        event.event_type.as_str(),
        event.lock
    );
    if let Some(token) = event.token {
        line.push_str(&format!("  token {token}"));
    }
    if let Some(owner) = &event.owner {
        line.push_str(&format!("  {owner}"));
    }
    if let Some(reason) = &event.reason {
        line.push_str(&format!("  ({})", or_dash(Some(reason))));
    }
    line + "\n"
}
