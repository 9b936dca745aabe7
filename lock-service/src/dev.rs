//! `palisaded dev`: a cluster of real `palisaded serve` processes on loopback, for trying things
//! out. It never restarts a node that ends: it says how to.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use clap::Args;
use lock_api::{DEFAULT_HTTP_PORT, DEFAULT_PEER_PORT, path};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// A node has this long to stop when asked to, and is killed then.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The cluster must answer within this.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_PAUSE: Duration = Duration::from_millis(100);

/// Flags of `palisaded dev`.
#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,

    /// Where the nodes keep their data and logs; an existing cluster goes on
    #[arg(long, value_name = "DIR", default_value = "./palisade-data")]
    pub data: PathBuf,

    /// HTTP port of the first node; the others follow
    #[arg(long, default_value_t = DEFAULT_HTTP_PORT)]
    pub http_port: u16,

    /// Peer port of the first node; the others follow
    #[arg(long, default_value_t = DEFAULT_PEER_PORT)]
    pub peer_port: u16,
}

struct DevNode {
    name: String,
    http: SocketAddr,
    child: Child,
    pid: u32,
    log: PathBuf,
}

/// Starts the nodes, prints where they are, and keeps them until `shutdown` resolves.
///
/// # Errors
/// When a node cannot be started, or the cluster does not come up.
#[allow(
    clippy::print_stdout,
    reason = "what this command prints is what it is for"
)]
pub async fn run(args: DevArgs, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    ports_are_free(&args)?;
    std::fs::create_dir_all(&args.data)?;
    let program = std::env::current_exe()?;
    let mut nodes = Vec::new();
    for number in 0..args.nodes {
        nodes.push(start(&program, &args, number)?);
    }
    println!(
        "Palisade, {} nodes, data in {}",
        args.nodes,
        args.data.display()
    );
    for node in &nodes {
        println!(
            "  {}  http://{}  pid {}  log {}",
            node.name,
            node.http,
            node.pid,
            node.log.display()
        );
    }
    tokio::pin!(shutdown);
    let urls: Vec<String> = nodes
        .iter()
        .map(|node| format!("http://{}", node.http))
        .collect();
    let (stop, stopping) = watch::channel(());
    let mut running = JoinSet::new();
    for node in nodes {
        running.spawn(keep(node, stopping.clone()));
    }
    let ready = timeout(READY_TIMEOUT, ready(&urls));
    tokio::pin!(ready);
    let mut waits_for_ready = true;
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            ready = &mut ready, if waits_for_ready => {
                waits_for_ready = false;
                match ready {
                    Ok(()) => println!("ready; stop with Ctrl-C"),
                    Err(_) => println!("not ready within 60 s; see the logs"),
                }
            }
            ended = running.join_next() => match ended {
                Some(Ok((name, status))) => println!(
                    "{name} ended ({status}); the others go on. Stop and start `palisaded dev` \
                     with the same --data to have it back"
                ),
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Err(io::Error::other("all nodes have ended; see their logs")),
            },
        }
    }
    println!("stopping");
    drop(stop);
    let all_ended = async { while running.join_next().await.is_some() {} };
    if timeout(STOP_TIMEOUT, all_ended).await.is_err() {
        println!("some nodes did not stop in time and are killed");
    }
    Ok(())
}

/// The address of a node, by the port of the first.
fn address(first: u16, number: u16) -> io::Result<SocketAddr> {
    let port = first
        .checked_add(number)
        .ok_or_else(|| io::Error::other("the ports go beyond 65535"))?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Refuses to start where others answer already: they would be taken for these nodes.
fn ports_are_free(args: &DevArgs) -> io::Result<()> {
    for number in 0..args.nodes {
        for first in [args.http_port, args.peer_port] {
            let address = address(first, number)?;
            std::net::TcpListener::bind(address).map_err(|error| {
                io::Error::other(format!(
                    "cannot listen on {address}: {error}. Is another `palisaded dev` running? \
                     --http-port and --peer-port move this one"
                ))
            })?;
        }
    }
    Ok(())
}

fn start(program: &Path, args: &DevArgs, number: u16) -> io::Result<DevNode> {
    let peers: Vec<String> = (0..args.nodes)
        .map(|other| format!("127.0.0.1:{}", args.peer_port.saturating_add(other)))
        .collect();
    let name = format!("n{}", number + 1);
    let http = address(args.http_port, number)?;
    let log = args.data.join(format!("{name}.log"));
    let log_file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)?;
    let mut command = Command::new(program);
    command
        .arg("serve")
        .args(["--name", &name])
        .arg("--data-dir")
        .arg(args.data.join(&name))
        .args(["--listen-http", &http.to_string()])
        .args([
            "--listen-peer",
            &address(args.peer_port, number)?.to_string(),
        ])
        // The end of this process, however it comes, ends the nodes too.
        .arg("--stop-with-stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log_file)
        // Ctrl-C reaches this process alone, which then stops the nodes in order.
        .process_group(0)
        .kill_on_drop(true);
    match args.nodes {
        1 => command.arg("--alone"),
        _ => command.arg("--initial-peers").arg(peers.join(",")),
    };
    let child = command.spawn()?;
    let pid = child
        .id()
        .ok_or_else(|| io::Error::other(format!("{name} ended at once; see {}", log.display())))?;
    Ok(DevNode {
        name,
        http,
        child,
        pid,
        log,
    })
}

/// Waits for a node's end; asks for it, by closing its standard input, once `stopping` has no sender.
async fn keep(mut node: DevNode, mut stopping: watch::Receiver<()>) -> (String, String) {
    let stdin = node.child.stdin.take();
    let asked = async {
        while stopping.changed().await.is_ok() {}
        drop(stdin);
        std::future::pending::<Infallible>().await
    };
    let ended = tokio::select! {
        ended = node.child.wait() => ended,
        never = asked => match never {},
    };
    let status = match ended {
        Ok(status) => status_text(status),
        Err(error) => error.to_string(),
    };
    (node.name, status)
}

fn status_text(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

async fn ready(urls: &[String]) {
    let Ok(client) = reqwest::Client::builder()
        .timeout(Duration::from_secs(2))
        .build()
    else {
        return std::future::pending().await;
    };
    for url in urls {
        loop {
            let answer = client.get(format!("{url}{}", path::READYZ)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                break;
            }
            sleep(READY_PAUSE).await;
        }
    }
}
