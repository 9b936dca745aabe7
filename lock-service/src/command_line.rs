//! The command line of `palisaded`: parses, sets up logging, and runs a node or a development cluster.

use std::io::IsTerminal;
use std::process::ExitCode;

use crate::auth::{self, Role};
use crate::config::ServeArgs;
use crate::dev::{self, DevArgs, DevError};
use crate::metrics::Exposition;
use crate::offline::{self, OfflineArgs, Verdict, VerifyArgs};
use crate::planted;
use crate::restore::{RestoreArgs, restore};
use crate::server::{self, Listeners};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Exit status for bad settings.
const USAGE: u8 = 2;
/// Exit status for a node that cannot start, or has failed.
const FAILED: u8 = 1;
/// What still runs when the node has stopped must end within this.
const SHUTDOWN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// openraft reports every failed heartbeat to a peer that is down; its warnings are on request.
const DEFAULT_LOG: &str = "info,openraft=error";

/// A distributed lock service: leases with fencing tokens, replicated by Raft
#[derive(Parser)]
#[command(name = "palisaded", version = planted::VERSION, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one node
    Serve(Box<ServeArgs>),
    /// Found a cluster of one, once, and exit; `serve` then runs it, and others can join it
    Init(Box<ServeArgs>),
    /// Run a cluster on this machine, for trying things out
    Dev(DevArgs),
    /// Show what a stopped node's data directory holds; changes nothing
    Inspect(OfflineArgs),
    /// Check everything in a stopped node's data directory; changes nothing. Exit status 0: sound,
    /// 1: damaged, 2: could not be checked
    Verify(VerifyArgs),
    /// Make the first node of a new cluster from a backup; `serve` then runs it, others join it
    Restore(RestoreArgs),
    /// Make a bearer token for clients: the token on standard error, its entry for --auth-file on
    /// standard output
    Token(TokenArgs),
}

#[derive(clap::Args)]
struct TokenArgs {
    /// Name of its holder, for logs
    #[arg(long)]
    name: String,

    /// What it allows: `lock` includes `read`, `admin` includes both
    #[arg(long)]
    role: Role,

    /// Beginnings of the lock names that it reaches [default: every name]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "PREFIX,…",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    prefixes: Vec<String>,
}

/// Does what the process's arguments say; returns its exit status.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    init_logging();
    #[cfg(feature = "planted-bugs")]
    match planted::plant() {
        Ok(bug) => {
            let bug = bug.unwrap_or("none");
            tracing::warn!(version = planted::VERSION, bug, "a bug is planted");
        }
        Err(error) => return fail(USAGE, &error),
    }
    match cli.command {
        Command::Serve(args) => run(serve(*args)),
        Command::Init(args) => run(init(*args)),
        Command::Dev(args) => run(async {
            match dev::run(args, terminated()).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error @ DevError::Settings(_)) => fail(USAGE, &error),
                Err(error @ DevError::Io(_)) => fail(FAILED, &error),
            }
        }),
        Command::Inspect(args) => look(offline::inspect, &args),
        Command::Verify(args) => look(offline::verify, &args),
        Command::Restore(args) => restored(&args),
        Command::Token(args) => make_token(&args),
    }
}

fn run(work: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, &error),
    };
    let status = runtime.block_on(work);
    // RocksDB has to be closed before the process runs its destructors, so every task ends first.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    status
}

/// Half of the cores: the log's writer and RocksDB need some too, and every worker more costs wake-ups
/// on the way of each request. Measured in docs/decisions/0007.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

fn restored(args: &RestoreArgs) -> ExitCode {
    match restore(args) {
        Ok(restored) => {
            tracing::info!(
                cluster = %restored.cluster,
                backup_of = %restored.backup.cluster,
                index = restored.backup.index,
                "restored as a new cluster into {}; start its first node there with `palisaded \
                 serve`, and the others with --join and empty directories",
                args.data_dir.display()
            );
            ExitCode::SUCCESS
        }
        Err(error) => fail(FAILED, &error),
    }
}

fn look<A>(how: fn(&A, &mut dyn std::io::Write) -> std::io::Result<Verdict>, args: &A) -> ExitCode {
    match how(args, &mut std::io::stdout().lock()) {
        Ok(verdict) => ExitCode::from(verdict as u8),
        Err(error) => fail(FAILED, &error),
    }
}

#[expect(clippy::print_stdout, reason = "the entry is its output")]
fn make_token(args: &TokenArgs) -> ExitCode {
    let (token, entry) = auth::make(&args.name, args.role, &args.prefixes);
    eprintln!("{token}");
    println!("{entry}");
    ExitCode::SUCCESS
}

async fn serve(args: ServeArgs) -> ExitCode {
    let config = match args.resolve() {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    // Mapping one takes milliseconds, in line with apply: docs/decisions/0021.
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "huge pages stay on; now and then a request waits for one");
    }
    let exposition = match Exposition::install() {
        Ok(exposition) => exposition,
        Err(error) => return fail(FAILED, &error),
    };
    let stop_with_stdin = config.stop_with_stdin;
    let shutdown = async move {
        tokio::select! {
            () = terminated() => {}
            () = stdin_ended(), if stop_with_stdin => {}
        }
    };
    let served = async {
        let listeners = Listeners::bind(&config).await?;
        server::run(config, listeners, exposition, shutdown).await
    };
    match served.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &error),
    }
}

async fn init(args: ServeArgs) -> ExitCode {
    match args.resolve() {
        Ok(config) => match server::init(&config).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(FAILED, &error),
        },
        Err(error) => fail(USAGE, &error),
    }
}

fn fail(status: u8, error: &dyn std::fmt::Display) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::from(status)
}

/// Human on a terminal, JSON otherwise; always on standard error. `PALISADE_LOG` filters.
fn init_logging() {
    let filter =
        EnvFilter::try_from_env("PALISADE_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

async fn terminated() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        tracing::error!("signals cannot be handled; only kill -9 will stop this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Reads on a thread of its own: one of the runtime's would hold up the end of the process.
async fn stdin_ended() {
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        // Whether it ended or broke, whoever held the other end is gone.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(ended);
    });
    let _ = end.await;
}
