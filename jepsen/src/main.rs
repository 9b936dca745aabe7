//! `palisade-jepsen`, the command line of the harness. It judges recorded histories: `check`; and
//! makes the page of a run: `report`. The judging is jepsen-checker's; here are files, clocks and
//! terminals.

mod arguments;
mod check;
mod exit;
mod guess;
mod output;
mod progress;
mod report;
#[allow(
    dead_code,
    reason = "`run` is being written; the report begins from it"
)]
mod run_directory;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to standard output, a usage error to standard error. Neither can be
            // reported anywhere else if that fails.
            let _ = error.print();
            let status = if error.use_stderr() {
                exit::UNUSABLE
            } else {
                exit::VALID
            };
            return ExitCode::from(status);
        }
    };
    ExitCode::from(match arguments.command {
        Command::Check(arguments) => check::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
    })
}
