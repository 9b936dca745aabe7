//! Measures acquire+release cycles per second: each client takes and gives back a lock of its own, as
//! fast as it can, over one kept-alive connection. It also says how many terms passed meanwhile: on
//! healthy nodes every one is a spurious election. A benchmark, not a test: it asserts nothing.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the figures are its output")]

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use lock_api::path;
use reqwest::Method;
use tests::measure::{Latencies, call, release_of};
use tests::raw::{RawConnection, post_json};
use tests::{Cluster, Http, new_secret};
use tokio::task::JoinSet;

/// Before a client whose connection was lost opens another.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
const TTL_MS: u64 = 60_000;

/// Acquire+release cycles per second of a Palisade cluster
#[derive(Parser)]
struct Arguments {
    /// Clients, each with a lock of its own; 0 leaves the cluster idle
    #[arg(long, default_value_t = 1)]
    clients: usize,

    /// For how long
    #[arg(long, default_value_t = 10)]
    seconds: u64,

    /// Nodes to spread the clients over
    #[arg(long, value_delimiter = ',', value_name = "ADDR:PORT,…")]
    endpoints: Vec<SocketAddr>,

    /// Start three nodes on loopback, from the binaries beside this one or in PALISADE_BIN_DIR
    #[arg(
        long,
        conflicts_with = "endpoints",
        required_unless_present = "endpoints"
    )]
    start: bool,

    /// Each client keeps one lease and names its requests, as busy clients should; without, every
    /// cycle makes a lease and ends it
    #[arg(long)]
    keep_lease: bool,
}

/// What one client has seen: how long each call took that succeeded.
#[derive(Default)]
struct Seen {
    acquires: Latencies,
    releases: Latencies,
    errors: u64,
    last_error: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let cluster = match arguments.start {
        true => Some(Cluster::builder(3).unchecked().start().await),
        false => None,
    };
    let endpoints = match &cluster {
        Some(cluster) => (0..cluster.len())
            .map(|node| cluster.http_address(node))
            .collect(),
        None => arguments.endpoints,
    };
    let first_term = term(&endpoints).await;
    let began = Instant::now();
    let until = began + Duration::from_secs(arguments.seconds);
    let mut clients = JoinSet::new();
    for number in 0..arguments.clients {
        let client = Client::new(number, arguments.keep_lease);
        clients.spawn(client.run(endpoints[number % endpoints.len()], until));
    }
    let mut all = Seen::default();
    while let Some(seen) = clients.join_next().await {
        match seen {
            Ok(seen) => all.add(seen),
            Err(error) => {
                eprintln!("a client failed: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    tokio::time::sleep_until(until.into()).await;
    all.print(arguments.clients, began.elapsed());
    match (first_term, term(&endpoints).await) {
        (Some(first), Some(last)) => println!("  terms: {first} to {last}"),
        _ => println!("  terms: not known, no node answered"),
    }
    ExitCode::SUCCESS
}

/// The newest term that any of the nodes knows.
async fn term(endpoints: &[SocketAddr]) -> Option<u64> {
    let mut newest = None;
    for endpoint in endpoints {
        let asked = Http::new(format!("http://{endpoint}"));
        if let Ok(reply) = asked.send(Method::GET, path::CLUSTER, &[], None).await {
            newest = newest.max(reply.body["term"].as_u64());
        }
    }
    newest
}

/// One client and its prepared requests.
struct Client {
    lock: String,
    /// The lease that it keeps.
    kept: Option<String>,
    cycles: u64,
    seen: Seen,
}

impl Client {
    fn new(number: usize, keep_lease: bool) -> Self {
        Self {
            // Another run's locks are other ones: it may have died holding them.
            lock: format!("cycles/{:08x}/{number}", rand::random::<u32>()),
            kept: keep_lease.then(new_secret),
            cycles: 0,
            seen: Seen::default(),
        }
    }

    async fn run(mut self, endpoint: SocketAddr, until: Instant) -> Seen {
        while Instant::now() < until {
            if let Err(error) = self.run_connected(endpoint, until).await {
                self.seen.errors += 1;
                self.seen.last_error = Some(error.to_string());
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
        self.seen
    }

    async fn run_connected(&mut self, endpoint: SocketAddr, until: Instant) -> io::Result<()> {
        let mut connection = RawConnection::open(endpoint).await?;
        if let Some(lease) = &self.kept {
            let body = format!(r#"{{"lease":"{lease}","ttl_ms":{TTL_MS}}}"#);
            call(&mut connection, &post_json(path::LEASES, body.as_bytes())).await?;
        }
        let mut renewed = Instant::now();
        while Instant::now() < until {
            let acquire = post_json(path::ACQUIRE, self.acquire_body().as_bytes());
            let began = Instant::now();
            let granted = call(&mut connection, &acquire).await?;
            self.seen.acquires.add(began.elapsed());

            let release = post_json(path::RELEASE, release_of(&granted)?.as_bytes());
            let began = Instant::now();
            call(&mut connection, &release).await?;
            self.seen.releases.add(began.elapsed());

            if let Some(lease) = &self.kept
                && renewed.elapsed() > Duration::from_millis(TTL_MS / 3)
            {
                renewed = Instant::now();
                let body = format!(r#"{{"lease":"{lease}"}}"#);
                call(&mut connection, &post_json(path::RENEW, body.as_bytes())).await?;
            }
        }
        Ok(())
    }

    fn acquire_body(&mut self) -> String {
        let lock = &self.lock;
        self.cycles += 1;
        match &self.kept {
            Some(lease) => {
                let request = self.cycles;
                format!(r#"{{"lock":"{lock}","lease":"{lease}","request_id":"{request}"}}"#)
            }
            None => format!(r#"{{"lock":"{lock}","ttl_ms":{TTL_MS}}}"#),
        }
    }
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.acquires.append(other.acquires);
        self.releases.append(other.releases);
        self.errors += other.errors;
        self.last_error = other.last_error.or(self.last_error.take());
    }

    fn print(self, clients: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        println!(
            "{clients} clients, {seconds:.1} s: {:.0} cycles/s",
            self.releases.count() as f64 / seconds
        );
        println!("  acquire: {}", self.acquires);
        println!("  release: {}", self.releases);
        println!("  errors: {}", self.errors);
        if let Some(error) = self.last_error {
            println!("  last error: {error}");
        }
    }
}
