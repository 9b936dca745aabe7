//! `palisaded`: see [`lock_service::command_line`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    lock_service::command_line::main()
}
