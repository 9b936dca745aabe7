//! `palisaded`: see [`lock_service::command_line`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// The system's allocator returns a large table's memory in pauses of up to 36 ms, in line with apply.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lock_service::command_line::main()
}
