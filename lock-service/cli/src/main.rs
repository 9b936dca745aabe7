//! `palisade`, the command line of the lock service: run a command while a lock is held, speak for an
//! app in an election, look at the cluster and operate it. It talks to the cluster through
//! lock-client only.

mod admin;
mod arguments;
mod backup;
mod duration;
mod exit;
mod guard;
mod hook;
mod inspect;
mod lock;
mod manual;
mod members;
mod output;
mod sidecar;
mod status;
mod watch;

use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use lock_client::Client;

use crate::arguments::{Arguments, Command, ConnectionArguments};
use crate::output::Output;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(mut error) => {
            advise(&mut error);
            // Help goes to standard output, a usage error to standard error. Neither can be
            // reported anywhere else if that fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
        }
    };
    let output = Output::new(arguments.json);
    match &arguments.command {
        Command::Guard => return guard::main(),
        Command::Completions { shell } => return manual::completions(*shell, output),
        Command::Man(arguments) => return manual::run(arguments, output),
        _ => {}
    }
    log_if_asked();
    let client = match connect(&arguments.connection) {
        Ok(client) => client,
        Err(message) => return exit::fail(exit::USAGE, message),
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
            Command::Sidecar(arguments) => sidecar::run(client, *arguments).await,
            Command::Status => status::run(&client, output).await,
            Command::Locks(arguments) => inspect::locks(&client, &arguments, output).await,
            Command::LockInfo { name } => inspect::lock(&client, &name, output).await,
            Command::Leases => inspect::leases(&client, output).await,
            Command::Watch(arguments) => watch::run(&client, arguments, output).await,
            Command::FenceCheck(arguments) => inspect::fence(&client, &arguments, output).await,
            Command::Members(command) => members::run(&client, command, output).await,
            Command::Backup(arguments) => backup::run(&client, &arguments, output).await,
            Command::ForceRelease(arguments) => {
                admin::force_release(&client, arguments, output).await
            }
            Command::Completions { .. } | Command::Man(_) | Command::Guard => ExitCode::SUCCESS,
        }
    });
    // A name lookup that hangs must not keep the process.
    runtime.shutdown_background();
    status
}

/// Tips for what those try who come from flock(1) or from other lock services.
fn advise(error: &mut clap::Error) {
    if let Some(ContextValue::Strings(names)) = error.get(ContextKind::ValidSubcommand) {
        let shown = names.iter().filter(|name| *name != guard::SUBCOMMAND);
        let shown = ContextValue::Strings(shown.cloned().collect());
        error.insert(ContextKind::ValidSubcommand, shown);
    }
    let of = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let is_lock = std::env::args().any(|argument| argument == "lock");
    let has_dashes = std::env::args().any(|argument| argument == "--");
    let no_command = of(ContextKind::InvalidArg).contains("<COMMAND>");
    let no_dashes = error.kind() == ErrorKind::UnknownArgument && is_lock && !has_dashes;
    let unlocks = matches!(
        of(ContextKind::InvalidSubcommand).as_str(),
        "unlock" | "release"
    );
    if error.kind() == ErrorKind::UnknownArgument {
        // The tip to write dashes before an option that is not known is wrong for every command here.
        error.remove(ContextKind::Suggested);
    }
    let tip = if no_command || no_dashes {
        "two dashes come before the command: palisade lock NAME -- COMMAND"
    } else if unlocks {
        "a lock is free when its command ends; `palisade force-release` takes it from a holder"
    } else {
        return;
    };
    let tips = ContextValue::StyledStrs(vec![tip.into()]);
    error.insert(ContextKind::Suggested, tips);
}

fn connect(arguments: &ConnectionArguments) -> Result<Client, String> {
    let endpoints = arguments.endpoints.0.iter();
    let mut builder = Client::builder().endpoints(endpoints.map(|endpoint| endpoint.as_str()));
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    if let Some(path) = &arguments.token_file {
        let token = String::from_utf8(read(path)?)
            .ok()
            .filter(|token| !token.trim().is_empty())
            .ok_or_else(|| format!("{} holds no token", path.display()))?;
        builder = builder.bearer_token(token.trim());
    } else if let Ok(token) = std::env::var("PALISADE_TOKEN")
        && !token.is_empty()
    {
        builder = builder.bearer_token(token);
    }
    if let Some(path) = &arguments.ca {
        builder = builder.certificate_authorities(read(path)?);
    }
    builder.build().map_err(|error| error.to_string())
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
