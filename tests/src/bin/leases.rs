//! Measures what very many leases cost, each holding a lock: how long nodes that have them take to
//! start and how much memory they have; and how long others wait while all of them expire in the
//! same second. A benchmark: it asserts nothing about time, but fails when leases are not as many as
//! they should be.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the figures are its output")]

use std::fmt::{self, Display};
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use lock_api::path;
use serde_json::json;
use tests::measure::{Latencies, call, memory_kib, release_of};
use tests::raw::{RawConnection, RawReply, get, post_json};
use tests::{Cluster, Scrape, eventually, new_secret};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, sleep_until};

/// Long enough for whatever a measurement does.
const LONG_TTL_MS: u64 = 3_600_000;
/// Between two requests of one connection of the trickle.
const TRICKLE_PAUSE: Duration = Duration::from_millis(10);
/// How long the trickle is watched before anything expires, and after everything has.
const CALM: Duration = Duration::from_secs(10);
/// Between two questions whether a node is ready.
const READY_PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at how many leases there are.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// For everything to expire, and to be forgotten.
const LIMIT: Duration = Duration::from_secs(180);

/// What very many leases cost, each holding a lock
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,

    /// How many leases
    #[arg(long, default_value_t = 100_000, global = true)]
    leases: usize,

    /// Nodes, on loopback, from the binaries beside this one or in PALISADE_BIN_DIR
    #[arg(long, default_value_t = 3, global = true)]
    nodes: usize,

    /// Connections that take the leases
    #[arg(long, default_value_t = 64, global = true)]
    connections: usize,
}

#[derive(Subcommand)]
enum What {
    /// Kill and start nodes: until they serve linearizable reads, and resident memory
    Restart,
    /// Let all leases expire in the same second: how long other requests wait
    Expire {
        /// When they expire, counted from the beginning: taking them must have ended 15 s before
        #[arg(long, default_value_t = 150)]
        after_seconds: u64,

        /// Connections that acquire, read and release all the time, besides
        #[arg(long, default_value_t = 6)]
        trickle: usize,

        /// How many locks and waiters one entry may free, instead of the default
        #[arg(long)]
        expiry_cap: Option<u64>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let builder = Cluster::builder(arguments.nodes).unchecked();
    let cluster = match arguments.nodes {
        1 => builder.init().await,
        _ => builder.start().await,
    };
    println!(
        "{} nodes; resident, empty: {}",
        cluster.len(),
        memory(&cluster)
    );
    let measured = match arguments.what {
        What::Restart => restart(cluster, &arguments).await,
        What::Expire {
            after_seconds,
            trickle,
            expiry_cap,
        } => {
            if let Some(expiry_cap) = expiry_cap {
                let body = json!({"expiry_cap": expiry_cap});
                cluster
                    .http(0)
                    .post(path::SETTINGS, &body)
                    .await
                    .expect(200);
            }
            let at = Instant::now() + Duration::from_secs(after_seconds);
            expire(&cluster, &arguments, at, trickle).await
        }
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn restart(mut cluster: Cluster, arguments: &Arguments) -> io::Result<()> {
    take(&cluster, arguments, |_| LONG_TTL_MS).await?;
    println!("resident, with all leases: {}", memory(&cluster));
    let all: Vec<usize> = cluster.running();
    for log in ["the log that there is", "a snapshot of just now"] {
        if log.contains("snapshot") {
            snapshot(&cluster).await;
        }
        if all.len() > 1 {
            let one = cluster.follower().await;
            kill_and_start(&mut cluster, &[one], arguments.leases, log).await?;
        }
        kill_and_start(&mut cluster, &all, arguments.leases, log).await?;
    }
    Ok(())
}

/// SIGKILL, a start, and the time until each of the nodes serves linearizable reads.
async fn kill_and_start(
    cluster: &mut Cluster,
    nodes: &[usize],
    leases: usize,
    log: &str,
) -> io::Result<()> {
    let before = memory(cluster);
    for node in nodes {
        cluster.kill9(*node);
    }
    let began = Instant::now();
    cluster.restart_all();
    println!(
        "{} of {} nodes killed and started, with {log}:",
        nodes.len(),
        cluster.len()
    );
    println!("  resident before: {before}");
    let mut ready = JoinSet::new();
    for node in nodes {
        let (address, node) = (cluster.http_address(*node), *node);
        ready.spawn(async move { ready_after(address, began).await.map(|took| (node, took)) });
    }
    while let Some(done) = ready.join_next().await {
        let (node, took) = done.map_err(io::Error::other)??;
        println!("  n{} ready after {:.2} s", node + 1, took.as_secs_f64());
    }
    println!("  resident when all are ready: {}", memory(cluster));
    for node in nodes {
        let has = holds(cluster.http_address(*node)).await?.leases;
        if has != leases {
            let why = format!("n{} has {has} leases, not {leases}", node + 1);
            return Err(io::Error::other(why));
        }
    }
    Ok(())
}

/// Asks a node until it serves linearizable reads.
async fn ready_after(node: SocketAddr, began: Instant) -> io::Result<Duration> {
    while began.elapsed() < LIMIT {
        if let Ok(mut connection) = RawConnection::open(node).await
            && call(&mut connection, &get(path::READYZ, "")).await.is_ok()
        {
            return Ok(began.elapsed());
        }
        sleep(READY_PAUSE).await;
    }
    Err(io::Error::other(format!("{node} is not ready")))
}

/// Has every node write a snapshot of all that it has applied.
async fn snapshot(cluster: &Cluster) {
    for node in cluster.running() {
        let http = cluster.http(node);
        let index = async |name| Scrape::of(&http).await.get(name, &[]).unwrap_or_default();
        let applied = index("raft_applied_index").await;
        http.post(path::SNAPSHOT, &json!({})).await.expect(200);
        eventually("the snapshot is written", async || {
            (index("raft_snapshot_index").await >= applied).then_some(())
        })
        .await;
    }
}

async fn expire(
    cluster: &Cluster,
    arguments: &Arguments,
    at: Instant,
    trickle: usize,
) -> io::Result<()> {
    let spread = take(cluster, arguments, move |now| {
        u64::try_from(at.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX)
    })
    .await?;
    let left = at.saturating_duration_since(Instant::now());
    if left < CALM + Duration::from_secs(5) {
        return Err(io::Error::other(
            "taking them took too long: give a larger --after-seconds",
        ));
    }
    println!("resident, with all leases: {}", memory(cluster));
    println!("they all expire within {} ms", spread.as_millis());
    sleep_until((at - CALM).into()).await;

    let over = Arc::new(AtomicBool::new(false));
    let nodes: Vec<SocketAddr> = (0..cluster.len())
        .map(|node| cluster.http_address(node))
        .collect();
    let clients: Vec<JoinHandle<io::Result<Vec<Request>>>> = (0..trickle)
        .map(|number| {
            let client = Trickle::new(number);
            tokio::spawn(client.run(nodes[number % nodes.len()], over.clone()))
        })
        .collect();
    sleep_until((at - Duration::from_millis(500)).into()).await;
    let calm = Span(at - CALM + Duration::from_secs(1), Instant::now());

    // The trickle has leases of its own, which stay.
    let expiring = until(&nodes, |now| now.leases <= trickle, |holds| holds.leases).await?;
    let after = Instant::now();
    println!("resident, all expired: {}", memory(cluster));
    // Ended leases are remembered for a while, and then all forgotten together.
    let forgetting = until(&nodes, |now| now.ended == 0, |holds| holds.ended).await?;
    let between = Span(after, forgetting.0);
    sleep(CALM).await;
    over.store(true, Ordering::SeqCst);
    println!("resident, all forgotten: {}", memory(cluster));

    let mut requests = Vec::new();
    for client in clients {
        requests.extend(client.await.map_err(io::Error::other)??);
    }
    let lasted = |span: &Span| (span.1 - span.0).as_secs_f64();
    println!(
        "the last was gone on every node {:.2} s after the first",
        lasted(&expiring)
    );
    println!(
        "the last was forgotten on every node {:.2} s after the first",
        lasted(&forgetting)
    );
    for (what, span) in [
        ("before", &calm),
        ("while leases expire", &expiring),
        ("between", &between),
        ("while ended leases are forgotten", &forgetting),
    ] {
        println!("{what}, {:.1} s:", lasted(span));
        for kind in Kind::ALL {
            let mut latencies = Latencies::default();
            requests
                .iter()
                .filter(|request| request.kind == kind && request.is_in(span))
                .for_each(|request| latencies.add(request.took));
            println!("  {:4} {kind}: {latencies}", latencies.count());
        }
    }
    Ok(())
}

/// A piece of time.
struct Span(Instant, Instant);

/// Looks at every node until all have come to where `done` says; from the first change of `count` on.
async fn until(
    nodes: &[SocketAddr],
    done: impl Fn(&Holds) -> bool,
    count: impl Fn(&Holds) -> usize,
) -> io::Result<Span> {
    let deadline = Instant::now() + LIMIT;
    let mut first = None;
    let mut began = None;
    while Instant::now() < deadline {
        let looked = Instant::now();
        let mut all_done = true;
        for node in nodes {
            let now = holds(*node).await?;
            let before = *first.get_or_insert(count(&now));
            if count(&now) < before {
                began.get_or_insert(looked);
            }
            all_done &= done(&now);
        }
        if all_done {
            return Ok(Span(began.unwrap_or(looked), Instant::now()));
        }
        sleep(LOOK_PAUSE).await;
    }
    Err(io::Error::other("it does not come to an end"))
}

/// How much a node has applied.
struct Holds {
    leases: usize,
    ended: usize,
}

async fn holds(node: SocketAddr) -> io::Result<Holds> {
    let mut connection = RawConnection::open(node).await?;
    let reply = call(&mut connection, &get(path::METRICS, "")).await?;
    let text = std::str::from_utf8(&reply.body).map_err(io::Error::other)?;
    let gauge = |name: &str| {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.and_then(|value| value.parse().ok());
        value.ok_or_else(|| io::Error::other(format!("no {name}")))
    };
    Ok(Holds {
        leases: gauge("palisade_leases")?,
        ended: gauge("palisade_ended_leases")?,
    })
}

/// Takes a lock for each lease, with the TTL that is right when the request is sent. Returns the
/// longest that an answer took: the deadlines of leases that were meant to end together differ by no
/// more.
async fn take(
    cluster: &Cluster,
    arguments: &Arguments,
    ttl_ms: impl Fn(Instant) -> u64 + Copy + Send + 'static,
) -> io::Result<Duration> {
    let began = Instant::now();
    let mut takers = JoinSet::new();
    for number in 0..arguments.connections {
        let node = cluster.http_address(number % cluster.len());
        let own = (number..arguments.leases).step_by(arguments.connections);
        takers.spawn(async move {
            let mut connection = RawConnection::open(node).await?;
            let mut latencies = Latencies::default();
            for lock in own {
                let (lease, sent) = (new_secret(), Instant::now());
                let body = format!(
                    r#"{{"lock":"leases/{lock}","lease":"{lease}","request_id":"1","ttl_ms":{}}}"#,
                    ttl_ms(sent)
                );
                let acquire = post_json(path::ACQUIRE, body.as_bytes());
                call(&mut connection, &acquire).await?;
                latencies.add(sent.elapsed());
            }
            Ok::<_, io::Error>(latencies)
        });
    }
    let mut latencies = Latencies::default();
    while let Some(taken) = takers.join_next().await {
        latencies.append(taken.map_err(io::Error::other)??);
    }
    println!(
        "{} leases with a lock each taken in {:.1} s: {latencies}",
        latencies.count(),
        began.elapsed().as_secs_f64()
    );
    Ok(latencies.quantile(1.0))
}

/// Resident memory of each node that runs.
fn memory(cluster: &Cluster) -> String {
    let mib = |node: usize| format!("{} MiB", memory_kib(cluster.pid(node), "VmRSS") >> 10);
    let running = cluster.running().into_iter();
    running.map(mib).collect::<Vec<_>>().join(", ")
}

/// What the trickle asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Acquire,
    Read,
    Release,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Acquire, Self::Read, Self::Release];
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Acquire => "acquires",
            Self::Read => "reads",
            Self::Release => "releases",
        })
    }
}

struct Request {
    kind: Kind,
    sent: Instant,
    took: Duration,
}

impl Request {
    /// Whether any of its time is in this span.
    fn is_in(&self, span: &Span) -> bool {
        self.sent <= span.1 && self.sent + self.took >= span.0
    }
}

/// One connection of the trickle, with a lease and a lock of its own.
struct Trickle {
    lock: String,
    lease: String,
    requests: Vec<Request>,
}

impl Trickle {
    fn new(number: usize) -> Self {
        Self {
            lock: format!("trickle/{number}"),
            lease: new_secret(),
            requests: Vec::new(),
        }
    }

    async fn run(mut self, node: SocketAddr, over: Arc<AtomicBool>) -> io::Result<Vec<Request>> {
        let mut connection = RawConnection::open(node).await?;
        let (lock, lease) = (self.lock.clone(), self.lease.clone());
        let open = format!(r#"{{"lease":"{lease}","ttl_ms":{LONG_TTL_MS}}}"#);
        call(&mut connection, &post_json(path::LEASES, open.as_bytes())).await?;
        let read = get(&format!("{}?name={lock}", path::LOCKS), "");
        for round in 0_u64.. {
            if over.load(Ordering::SeqCst) {
                break;
            }
            let body = format!(r#"{{"lock":"{lock}","lease":"{lease}","request_id":"{round}"}}"#);
            let acquire = post_json(path::ACQUIRE, body.as_bytes());
            let granted = self.timed(&mut connection, Kind::Acquire, &acquire).await?;
            self.timed(&mut connection, Kind::Read, &read).await?;
            let release = post_json(path::RELEASE, release_of(&granted)?.as_bytes());
            self.timed(&mut connection, Kind::Release, &release).await?;
        }
        Ok(self.requests)
    }

    async fn timed(
        &mut self,
        connection: &mut RawConnection,
        kind: Kind,
        request: &[u8],
    ) -> io::Result<RawReply> {
        let sent = Instant::now();
        let reply = call(connection, request).await?;
        self.requests.push(Request {
            kind,
            sent,
            took: sent.elapsed(),
        });
        sleep(TRICKLE_PAUSE).await;
        Ok(reply)
    }
}
