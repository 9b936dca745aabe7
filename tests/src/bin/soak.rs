//! `make soak`: rounds of the soak, each on a new cluster and with the next seed, for as long as told.
//!
//! Ends with status 1 at the first broken promise, and leaves that round's data and logs.

#![expect(clippy::print_stdout, reason = "the report is the output")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use tests::soak::{Kind, Settings, soak};

#[derive(Parser)]
struct Arguments {
    /// How long to go on, in seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// How long load and faults last in one round, in seconds.
    #[arg(long, default_value_t = 60)]
    round_seconds: u64,
    /// The first round's seed; random unless given.
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 3)]
    nodes: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let first = arguments
        .seed
        .unwrap_or_else(|| rand::random_range(0..1 << 32));
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    for seed in first.. {
        let folder = match tempfile::tempdir() {
            Ok(folder) => folder,
            Err(error) => {
                println!("cannot make a folder: {error}");
                return ExitCode::FAILURE;
            }
        };
        let settings = Settings {
            seed,
            duration: Duration::from_secs(arguments.round_seconds),
            nodes: arguments.nodes,
            sync: true,
            faults: Kind::ALL.to_vec(),
            folder: folder.path().join("soak"),
        };
        let report = soak(settings).await;
        println!("seed {seed}: {report}");
        if !report.violations.is_empty() {
            println!("kept: {}", folder.keep().display());
            println!(
                "the same faults again: soak --seed {seed} --round-seconds {} --nodes {}",
                arguments.round_seconds, arguments.nodes
            );
            return ExitCode::FAILURE;
        }
        if Instant::now() >= until {
            break;
        }
    }
    ExitCode::SUCCESS
}
