//! What the client can do, one function for each part. docs/client.md quotes them, and a test runs
//! this against a real cluster and compares what it prints with what the page shows.
//!
//! ```text
//! tour PART [ENDPOINTS]
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::error::Error as StdError;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use lock_client::{Client, DEFAULT_ENDPOINTS, Error, EventType, FencingToken, LockName};

type Outcome = Result<(), Box<dyn StdError>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let part = arguments.next().unwrap_or_default();
    let endpoints = arguments.next();
    let endpoints = endpoints.as_deref().unwrap_or(DEFAULT_ENDPOINTS);
    let client = Client::connect(endpoints.split(',')).await?;
    match part.as_str() {
        "billing" => billing(&client).await,
        "modes" => modes(&client).await,
        "refusal" => refusal(&client).await,
        "sessions" => sessions(&client).await,
        "elections" => elections(&client).await,
        "watches" => watches(&client).await,
        "fences" => fences(&client).await,
        _ => Err("usage: tour billing|modes|refusal|sessions|elections|watches|fences".into()),
    }
}

async fn bill(token: FencingToken) {
    println!("billed under token {token}");
}

async fn billing(client: &Client) -> Outcome {
    let guard = client
        .lock("nightly-billing")
        .ttl(Duration::from_secs(15))
        .wait(Duration::from_secs(30))
        .acquire()
        .await?;
    // Drops the work as soon as the lock is lost.
    guard.run(bill(guard.token()?)).await?;
    guard.release().await?;
    Ok(())
}

async fn modes(client: &Client) -> Outcome {
    let request = client.lock("catalogue").shared();
    let guard = request.and("api-quota").permits(2, 10).acquire().await?;
    for hold in guard.holds() {
        println!("{} ({}), token {}", hold.lock, hold.mode, hold.token);
    }
    guard.release().await?;
    Ok(())
}

async fn refusal(client: &Client) -> Outcome {
    let guard = client.lock("orders").acquire().await?;
    match client.lock("orders").acquire().await {
        // The cluster decided: it had no effect and, with these ids, never will.
        Err(Error::Refused { problem }) => println!("refused: {}", problem.code),
        // It had no effect: no node could serve it in time.
        Err(Error::Unavailable { failures }) => println!("nobody answers: {failures:?}"),
        // It may have had its effect. What it took frees itself after the TTL.
        Err(Error::Unknown { request_id, .. }) => println!("what became of {request_id:?}?"),
        Err(other) => return Err(other.into()),
        Ok(_) => println!("never: somebody else holds it"),
    }
    guard.release().await?;
    Ok(())
}

async fn sessions(client: &Client) -> Outcome {
    let session = client.session().ttl(Duration::from_secs(10)).open().await?;
    let reader = session.lock("catalogue").shared().acquire().await?;
    let writer = session.lock("orders").and("invoices").acquire().await?;
    println!("one lease: {}", reader.lease_id() == writer.lease_id());
    writer.release().await?;
    session.close().await?; // releases the rest
    Ok(())
}

async fn elections(client: &Client) -> Outcome {
    let election = client.election("billing/leader".parse()?);
    let candidate = election.candidate("one".parse()?);
    let leadership = candidate.value("10.0.0.1:80".parse()?).campaign().await?;
    println!("leads under token {}", leadership.token()?);
    if let Some(leader) = election.leader().await?.leader {
        println!("its value: {:?}", leader.value);
    }
    // Lead until `leadership.lost()`. Stop leading before you resign.
    leadership.resign().await?;
    Ok(())
}

async fn watches(client: &Client) -> Outcome {
    let name: LockName = "orders".parse()?;
    let view = client.lock_view(&name).await?;
    client.lock("orders").acquire().await?.release().await?;
    // Nothing that happens behind the view is missed.
    let events = client.watch_lock(name).after(view.position.into());
    let mut events = pin!(events.stream());
    while let Some(event) = events.next().await {
        let event = event?;
        println!("{} {}", event.lock, event.event_type);
        if event.event_type == EventType::Released {
            break;
        }
    }
    Ok(())
}

async fn fences(client: &Client) -> Outcome {
    let name: LockName = "orders".parse()?;
    let old = client.lock("orders").acquire().await?;
    let token = old.token()?;
    old.release().await?;
    let new = client.lock("orders").acquire().await?;
    println!("{}", client.fence(&name, token).await?.verdict);
    new.release().await?;
    Ok(())
}
