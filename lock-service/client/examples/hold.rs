//! Holds a lock, and says on each line of standard input whether it may still be believed to.
//!
//! ```text
//! hold LOCK TTL_MS URL…
//! ```
//!
//! prints `held TOKEN` at first, then `token TOKEN` or `lost: WHY` for each line that it reads.
#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::error::Error;
use std::time::Duration;

use lock_client::Client;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: hold LOCK TTL_MS URL…";
    let lock = arguments.next().ok_or(usage)?;
    let ttl = Duration::from_millis(arguments.next().ok_or(usage)?.parse()?);
    let nodes: Vec<String> = arguments.collect();
    let client = Client::connect(&nodes).await?;
    let guard = client.lock(lock).ttl(ttl).acquire().await?;
    println!("held {}", guard.token()?);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while lines.next_line().await?.is_some() {
        match guard.token() {
            Ok(token) => println!("token {token}"),
            Err(loss) => println!("lost: {loss}"),
        }
    }
    Ok(())
}
