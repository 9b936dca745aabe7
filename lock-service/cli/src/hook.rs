//! Shell commands that users hang onto events.

use std::io;
use std::process::Stdio;

use tokio::process::{Child, Command};

/// Starts `sh -c COMMAND` in a process group of its own, with these variables. Nothing that this
/// process does afterwards ends it; whoever drops the child need not wait for it.
pub(crate) fn start_hook(command: &str, environment: &[(&str, String)]) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", command])
        .envs(environment.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
}
