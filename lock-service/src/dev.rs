//! `palisaded dev`: a cluster of real `palisaded serve` processes on loopback, for trying things
//! out. It never restarts a node that ends: it says how to.

use std::convert::Infallible;
use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use clap::Args;
use lock_api::{DEFAULT_HTTP_PORT, DEFAULT_PEER_PORT, path};
use serde::{Deserialize, Serialize};
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

    /// Where the nodes keep their data and logs; an existing cluster goes on, with as many nodes and
    /// the same peer ports
    #[arg(long, value_name = "DIR", default_value = "./palisade-data")]
    pub data: PathBuf,

    /// HTTP port of the first node; the others follow
    #[arg(
        long,
        default_value_t = DEFAULT_HTTP_PORT,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub http_port: u16,

    /// Peer port of the first node; the others follow
    #[arg(
        long,
        default_value_t = DEFAULT_PEER_PORT,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
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
pub async fn run(args: DevArgs, shutdown: impl Future<Output = ()>) -> Result<(), DevError> {
    ports_are_free(&args)?;
    let _held = hold(&args)?;
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
                    "{name} ended ({status}); its log says why. The others go on. Stop and start \
                     `palisaded dev` with the same --data to have it back"
                ),
                Some(Err(error)) => return Err(io::Error::other(error).into()),
                None => return Err(io::Error::other("all nodes have ended; see their logs").into()),
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

/// Why there is no development cluster.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The settings do not fit each other, or the data directory: no other attempt would change that.
    #[error("{0}")]
    Settings(String),
    /// Something cannot be used or started.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The address of a node, by the port of the first.
fn address(first: u16, number: u16) -> Result<SocketAddr, DevError> {
    let port = first
        .checked_add(number)
        .ok_or_else(|| DevError::Settings("the ports go beyond 65535".to_owned()))?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// What the cluster in a data directory was founded with, and cannot be changed from here.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Founded {
    nodes: u16,
    peer_port: u16,
}

/// Makes the data directory, or finds in it the cluster that these settings fit. Nobody else can use it
/// for as long as the file is kept.
fn hold(args: &DevArgs) -> Result<File, DevError> {
    let data = args.data.display();
    std::fs::create_dir_all(&args.data)
        .map_err(|error| io::Error::new(error.kind(), format!("--data {data}: {error}")))?;
    let path = args.data.join("dev.json");
    let in_file =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(in_file)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let why = format!(
                "another `palisaded dev` runs with {data}; stop it, or give another --data"
            );
            return Err(io::Error::other(why).into());
        }
        Err(TryLockError::Error(error)) => return Err(in_file(error).into()),
    }
    let asked = Founded {
        nodes: args.nodes,
        peer_port: args.peer_port,
    };
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(in_file)?;
    let has_run = args.data.join("n1").exists();
    match serde_json::from_str::<Founded>(&text) {
        Ok(founded) if has_run && founded != asked => Err(DevError::Settings(format!(
            "{data} holds a cluster of {} nodes with peer ports from {}: go on with it by --nodes {} \
             --peer-port {}, or give another --data",
            founded.nodes, founded.peer_port, founded.nodes, founded.peer_port
        ))),
        // From before this was noted, or cut: nothing is known of it.
        Err(_) if has_run => Ok(file),
        _ => {
            let text = serde_json::to_vec(&asked).map_err(io::Error::from)?;
            file.set_len(0).map_err(in_file)?;
            file.write_all_at(&text, 0).map_err(in_file)?;
            Ok(file)
        }
    }
}

/// Refuses to start where others answer already: they would be taken for these nodes.
fn ports_are_free(args: &DevArgs) -> Result<(), DevError> {
    let (http, peer) = (args.http_port, args.peer_port);
    if http.abs_diff(peer) < args.nodes {
        return Err(DevError::Settings(format!(
            "each node takes a port of each kind, and --http-port {http} and --peer-port {peer} are \
             less than {} apart",
            args.nodes
        )));
    }
    let mut addresses = Vec::new();
    for number in 0..args.nodes {
        addresses.push(address(http, number)?);
        addresses.push(address(peer, number)?);
    }
    for address in addresses {
        std::net::TcpListener::bind(address).map_err(|error| {
            io::Error::other(format!(
                "cannot listen on {address}: {error}. Is another `palisaded dev` running? A new \
                 cluster can be given other ports and data, by --http-port, --peer-port and --data"
            ))
        })?;
    }
    Ok(())
}

fn start(program: &Path, args: &DevArgs, number: u16) -> Result<DevNode, DevError> {
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
