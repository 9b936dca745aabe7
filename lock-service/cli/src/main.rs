//! `palisade`, the command line of the lock service: run a command while a lock is held, look at the
//! cluster. It talks to the cluster through lock-client only and keeps nothing on disk.

mod arguments;
mod duration;
mod exit;
mod guard;
mod lock;
mod status;

use std::process::ExitCode;

use clap::Parser;
use lock_client::Client;

use crate::arguments::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to standard output, a usage error to standard error. Neither can be
            // reported anywhere else if that fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
        }
    };
    if matches!(arguments.command, Command::Guard) {
        return guard::main();
    }
    log_if_asked();
    let client = Client::builder()
        .endpoints(
            arguments
                .endpoints
                .0
                .iter()
                .map(|endpoint| endpoint.as_str()),
        )
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => return exit::fail(exit::USAGE, error),
    };
    // One thread: the command must be forked from the thread that lives as long as the process,
    // because its death signal follows that thread.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return exit::fail(exit::UNAVAILABLE, format!("cannot start: {error}")),
    };
    let status = runtime.block_on(async {
        match arguments.command {
            Command::Lock(arguments) => lock::run(client, *arguments).await,
            Command::Status(arguments) => status::run(&client, &arguments).await,
            Command::Guard => ExitCode::SUCCESS,
        }
    });
    // A name lookup that hangs must not keep the process.
    runtime.shutdown_background();
    status
}

/// Logs to standard error what `PALISADE_LOG` asks for, for example `lock_client=debug`.
fn log_if_asked() {
    if std::env::var_os("PALISADE_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_env("PALISADE_LOG"))
            .with_writer(std::io::stderr)
            .init();
    }
}
