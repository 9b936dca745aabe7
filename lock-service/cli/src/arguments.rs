//! The command line's grammar.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use lock_client::{DEFAULT_ENDPOINTS, Endpoint, LockName, Owner, parse_endpoints};

use crate::duration;

/// Locks with fencing tokens, from the command line.
#[derive(Debug, Parser)]
#[command(name = "palisade", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Addresses of the cluster's nodes, separated by commas
    #[arg(
        long,
        env = "PALISADE_ENDPOINTS",
        global = true,
        value_name = "URLS",
        default_value = DEFAULT_ENDPOINTS,
        value_parser = Endpoints::parse
    )]
    pub(crate) endpoints: Endpoints,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// At least one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints(pub(crate) Vec<Endpoint>);

impl Endpoints {
    fn parse(list: &str) -> Result<Self, String> {
        parse_endpoints(list)
            .map(Self)
            .map_err(|error| error.to_string())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Lock(Box<LockArguments>),
    Status(StatusArguments),
    /// Kills a command's process group when palisade dies. Started by palisade itself
    #[command(name = crate::guard::SUBCOMMAND, hide = true)]
    Guard,
}

/// Run a command while a lock is held
///
/// The command gets PALISADE_LOCK, PALISADE_FENCING_TOKEN and PALISADE_ENDPOINTS. It runs in a
/// process group of its own. When the lock is lost the group gets SIGTERM and, after the grace,
/// SIGKILL, all before the cluster could grant the lock to another. When the command exits, what is
/// left of its group is ended before the lock is released.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: the command's own (128+N when signal N ended it), or
  2    wrong arguments          69   cluster unreachable
  70   lock lost while the command ran
  75   lock not acquired in time
  126  command cannot be run    127  command not found

While the command is stopped by Ctrl-Z so is palisade: the lock is not renewed, and when it is
lost the command is killed. A command that leaves its process group (setsid) is not watched.")]
pub(crate) struct LockArguments {
    /// Name of the lock
    pub(crate) name: LockName,

    /// How long the lock outlives the last renewal; it is renewed at a third of this
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration::parse)]
    pub(crate) ttl: Duration,

    /// How long to wait for the lock
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = duration::parse,
        conflicts_with = "try_once"
    )]
    pub(crate) wait: Duration,

    /// Do not wait: fail if the lock is not free
    #[arg(long = "try")]
    pub(crate) try_once: bool,

    /// Who takes the lock, for people [default: user@host:pid]
    #[arg(long, value_name = "TEXT")]
    pub(crate) owner: Option<Owner>,

    /// Time between SIGTERM and SIGKILL when the lock is lost [default: 2s, but at most a fifth of
    /// the TTL]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub(crate) grace: Option<Duration>,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Show the cluster's members, and which one leads
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// Print the answer of GET /v1/cluster as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_lock_needs_a_name_and_a_command() {
        for line in [
            &["palisade", "lock"][..],
            &["palisade", "lock", "a"],
            &["palisade", "lock", "a", "--"],
            &["palisade", "lock", "", "--", "true"],
            &["palisade", "lock", "a", "--ttl", "15", "--", "true"],
            &[
                "palisade", "lock", "a", "--try", "--wait", "1s", "--", "true",
            ],
            &[
                "palisade",
                "--endpoints",
                "https://a",
                "lock",
                "a",
                "--",
                "true",
            ],
        ] {
            assert!(Arguments::try_parse_from(line).is_err(), "{line:?}");
        }
        let line = [
            "palisade", "lock", "a", "--wait", "1s", "--", "ls", "--wait", "-l",
        ];
        let Command::Lock(lock) = Arguments::try_parse_from(line).unwrap().command else {
            panic!("not a lock");
        };
        assert_eq!(lock.command, ["ls", "--wait", "-l"]);
    }
}
