//! `palisaded` with bugs that can be planted, under a name of its own: see [`lock_service::planted`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    lock_service::command_line::main()
}
