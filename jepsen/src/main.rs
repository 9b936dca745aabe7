//! `palisade-jepsen`, the command line of the harness. `run` breaks a real cluster and judges what its
//! clients saw; `self-test` shows that it finds what is broken; `check` judges histories that somebody recorded; `report` makes a page of
//! a run. The judging is jepsen-checker's; here are processes, networks, files, clocks and terminals. It
//! talks to built binaries, and never links what it tests.

mod arguments;
mod check;
mod cluster;
mod exit;
mod guess;
mod judge;
mod list;
mod nemesis;
mod output;
mod progress;
mod recorder;
mod report;
mod run;
mod run_directory;
mod self_test;
mod system;
mod workload;

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
        Command::Run(arguments) => run::run(&arguments),
        Command::SelfTest(arguments) => self_test::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::List => list::list(),
        Command::Client => exit::status_of(async {
            let served = system::serve_client().await;
            served
                .map(|()| exit::VALID)
                .map_err(|error| error.to_string())
        }),
    })
}
