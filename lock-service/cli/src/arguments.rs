//! The command line's grammar.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use lock_api::{MembershipVersion, NodeId};
use lock_client::{
    DEFAULT_ENDPOINTS, Endpoint, FencingToken, LeaseId, LockName, LockValue, Owner, parse_endpoints,
};

use crate::duration;

/// Locks with fencing tokens, from the command line.
#[derive(Debug, Parser)]
#[command(name = "palisade", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,

    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How the cluster is reached.
#[derive(Debug, Args)]
pub(crate) struct ConnectionArguments {
    /// Addresses of the cluster's nodes, separated by commas: http://HOST:PORT or https://HOST:PORT
    #[arg(
        long,
        env = "PALISADE_ENDPOINTS",
        global = true,
        value_name = "URLS",
        default_value = DEFAULT_ENDPOINTS,
        value_parser = Endpoints::parse
    )]
    pub(crate) endpoints: Endpoints,

    /// File that holds the bearer token, for clusters that ask for one [env: PALISADE_TOKEN holds
    /// the token itself]
    #[arg(long, env = "PALISADE_TOKEN_FILE", global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// PEM file of the certificate authorities to believe for https [default: the machine's]
    #[arg(long, env = "PALISADE_CA", global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
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
    Sidecar(Box<SidecarArguments>),
    /// Show the cluster's members, and which one leads
    Status,
    Locks(LocksArguments),
    /// Show one lock: who holds it, who waits for it and why
    LockInfo {
        /// Name of the lock
        name: LockName,
    },
    /// List the leases: who has them, what they hold and wait for
    Leases,
    Watch(WatchArguments),
    FenceCheck(FenceCheckArguments),
    /// Look at the cluster's members and change them
    #[command(subcommand, arg_required_else_help = true)]
    Members(MembersCommand),
    Backup(BackupArguments),
    ForceRelease(ForceReleaseArguments),
    /// Print a script that completes palisade's arguments in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    Man(ManArguments),
    /// Kills a command's process group when palisade dies. Started by palisade itself
    #[command(name = crate::guard::SUBCOMMAND, hide = true)]
    Guard,
}

/// Run a command while a lock is held
///
/// The command gets PALISADE_LOCK, PALISADE_FENCING_TOKEN, PALISADE_LOCKS (JSON, all locks with their
/// tokens) and PALISADE_ENDPOINTS. It runs in a process group of its own. When the lock is lost the
/// group gets SIGTERM and, after the grace, SIGKILL, all before the cluster could grant the lock to
/// another. When the command exits, what is left of its group is ended before the lock is released.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: palisade lock reports/nightly --ttl 30s -- ./make-report

Exit status: the command's own (128+N when signal N ended it), or
  2    wrong arguments          69   cluster unreachable
  70   lock lost while the command ran
  75   lock not acquired in time (or --conflict-exit-code)
  126  command cannot be run    127  command not found

While the command is stopped by Ctrl-Z so is palisade: the lock is not renewed, and when it is
lost the command is killed. A command that leaves its process group (setsid) is not watched.")]
pub(crate) struct LockArguments {
    /// Names of the locks: all of them are taken at once, or none
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<LockName>,

    /// Hold the locks together with other sharers
    #[arg(long, short, conflicts_with_all = ["permits", "limit"])]
    pub(crate) shared: bool,

    /// Take so many of the lock's permits
    #[arg(long, value_name = "N", requires = "limit", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) permits: Option<u32>,

    /// How many permits the lock has: everybody must say the same
    #[arg(long, value_name = "M", requires = "permits", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,

    /// How long the lock outlives the last renewal; it is renewed at a third of this
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration::parse)]
    pub(crate) ttl: Duration,

    /// How long to wait for the lock
    #[arg(
        long,
        short,
        visible_alias = "timeout",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = duration::parse,
        conflicts_with = "try_once"
    )]
    pub(crate) wait: Duration,

    /// Do not wait: fail if the lock is not free
    #[arg(long = "try", short = 'n', visible_alias = "nonblock")]
    pub(crate) try_once: bool,

    /// Exit status when the lock is not acquired in time
    #[arg(long, short = 'E', value_name = "STATUS", default_value_t = crate::exit::NOT_ACQUIRED)]
    pub(crate) conflict_exit_code: u8,

    /// Shell command to start when the lock is lost, beside the SIGTERM. It is not waited for
    #[arg(long, value_name = "CMD")]
    pub(crate) on_lost: Option<String>,

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

/// Take part in an election for an app, and tell it over HTTP who leads
///
/// GET / answers {"name": ID}, as the Kubernetes leader-elector sidecar did. GET /leader adds token,
/// value and age; GET /is-leader is 200 or 503; GET /events streams changes. Whoever leads here
/// answers for itself until its local deadline; of others only what the cluster has confirmed is
/// told, and 503 when it cannot be asked.
#[derive(Debug, Args)]
#[command(after_help = "\
Resigns and ends with status 0 on SIGTERM and SIGINT, and with status 70 when the process of --pid
ends. Commands run with `sh -c`, with PALISADE_ELECTION, PALISADE_ID and PALISADE_FENCING_TOKEN.")]
pub(crate) struct SidecarArguments {
    /// Name of the election, which is the name of its lock
    #[arg(long, value_name = "NAME", env = "PALISADE_ELECTION")]
    pub(crate) election: LockName,

    /// Name under which this candidate leads; unique, such as the pod's name
    #[arg(long, value_name = "ID", env = "PALISADE_ID")]
    pub(crate) id: Owner,

    /// Address to serve HTTP on. Keep it local: it has no authentication
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:4040", value_parser = parse_address)]
    pub(crate) http: SocketAddr,

    /// What the leader has to say, such as the app's address
    #[arg(long, value_name = "TEXT")]
    pub(crate) value: Option<LockValue>,

    /// How long the leadership outlives its last renewal: the longest time without a leader when one
    /// is killed
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration::parse)]
    pub(crate) ttl: Duration,

    /// How long the app needs to stop leading. The sidecar says so that much earlier
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    pub(crate) stop_time: Duration,

    /// How old an answer about another leader may be; 0 asks the cluster for each answer
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration::parse)]
    pub(crate) max_age: Duration,

    /// Shell command to start when this candidate is elected
    #[arg(long, value_name = "CMD")]
    pub(crate) on_elected: Option<String>,

    /// Shell command to start when the leadership is lost or given up
    #[arg(long, value_name = "CMD")]
    pub(crate) on_lost: Option<String>,

    /// File that holds the leader as JSON while it is known, for apps that cannot ask; a hint
    #[arg(long, value_name = "PATH")]
    pub(crate) leader_file: Option<PathBuf>,

    /// The app's health check (http): while it does not answer 2xx, this candidate resigns and does
    /// not stand
    #[arg(long, value_name = "URL", conflicts_with = "pid")]
    pub(crate) health_url: Option<String>,

    /// How often the health check is made, and how long it may take
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration::parse)]
    pub(crate) health_interval: Duration,

    /// The app's process: when it ends, the sidecar resigns and ends
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<i32>,
}

/// List the locks that are held, waited for or delayed
#[derive(Debug, Args)]
pub(crate) struct LocksArguments {
    /// Only those whose names begin so
    #[arg(default_value = "")]
    pub(crate) prefix: String,
}

/// Print what happens to locks, as it happens
#[derive(Debug, Args)]
pub(crate) struct WatchArguments {
    /// The one lock to watch [default: all]
    #[arg(conflicts_with = "prefix")]
    pub(crate) name: Option<LockName>,

    /// Watch all whose names begin so
    #[arg(long)]
    pub(crate) prefix: Option<String>,

    /// Begin behind this position (index.ordinal) instead of now
    #[arg(long, value_name = "POSITION")]
    pub(crate) after: Option<String>,
}

/// Ask whether a fencing token is still the newest of its lock
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 current (a hint: true a moment ago), 1 superseded (final), 3 larger than any token yet.")]
pub(crate) struct FenceCheckArguments {
    /// Name of the lock
    pub(crate) name: LockName,

    /// The token
    #[arg(value_parser = parse_token)]
    pub(crate) token: FencingToken,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MembersCommand {
    /// List the members
    List,
    /// Give a learner that has caught up its vote
    Promote {
        /// The learner's id
        #[arg(value_parser = parse_node)]
        node: NodeId,
        #[command(flatten)]
        condition: Condition,
    },
    /// Take a member out, for good
    Remove {
        /// The member's id
        #[arg(value_parser = parse_node)]
        node: NodeId,
        #[command(flatten)]
        condition: Condition,
    },
    /// A voter goes and a learner gets its vote, in one change
    Replace {
        /// Id of the voter that goes
        #[arg(value_parser = parse_node)]
        old: NodeId,
        /// Id of the learner that has caught up
        #[arg(value_parser = parse_node)]
        new: NodeId,
        #[command(flatten)]
        condition: Condition,
    },
    /// Change what the membership says about a member
    Address {
        /// The member's id
        #[arg(value_parser = parse_node)]
        node: NodeId,
        /// Its new name
        #[arg(long)]
        name: Option<String>,
        /// Where peers reach it now, as HOST:PORT
        #[arg(long)]
        peer: Option<String>,
        /// Where clients reach it now, as HOST:PORT
        #[arg(long)]
        http: Option<String>,
        #[command(flatten)]
        condition: Condition,
    },
    /// Make another voter the leader
    Transfer {
        /// Who is to lead [default: the voter whose log is furthest]
        #[arg(value_parser = parse_node)]
        to: Option<NodeId>,
    },
    /// Finish a change of voters that was interrupted
    FinishChange {
        #[command(flatten)]
        condition: Condition,
    },
    /// Have a node take a snapshot
    Snapshot,
}

/// On what a change is based.
#[derive(Debug, Args)]
pub(crate) struct Condition {
    /// Change nothing unless the membership is at this version, as `members list` shows it
    #[arg(long, value_name = "TERM-INDEX")]
    pub(crate) if_membership: Option<MembershipVersion>,
}

/// Take a backup of the whole cluster
#[derive(Debug, Args)]
pub(crate) struct BackupArguments {
    /// File to write, which must not exist; `-` is standard output
    pub(crate) file: PathBuf,
}

/// End the lease that holds a lock, when its holder cannot
///
/// All that the lease holds is held back until its holder must have noticed, unless --now is given.
#[derive(Debug, Args)]
pub(crate) struct ForceReleaseArguments {
    /// Name of the lock
    pub(crate) name: LockName,

    /// Token of the holder, as `lock-info` shows it
    #[arg(long, value_parser = parse_token)]
    pub(crate) token: FencingToken,

    /// Id of the holder's lease, as `lock-info` shows it
    #[arg(long, value_name = "ID")]
    pub(crate) lease: LeaseId,

    /// Free everything at once. Only safe when the holder is known to have stopped
    #[arg(long)]
    pub(crate) now: bool,
}

/// Print a manual page, or write all of them
#[derive(Debug, Args)]
#[command(after_help = "\
`palisade man --out ~/.local/share/man/man1`, and `man palisade-lock` finds its page.")]
pub(crate) struct ManArguments {
    /// The command whose page to print, such as `members promote` [default: palisade's own]
    #[arg(value_name = "COMMAND", conflicts_with = "out")]
    pub(crate) command: Vec<String>,

    /// Write a page for every command into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

fn parse_node(text: &str) -> Result<NodeId, String> {
    // A name can look like an id, so names are not taken.
    text.parse()
        .map_err(|_| "expected a node's id, as `palisade members list` shows it".to_owned())
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected an IP address and a port, such as 127.0.0.1:4040".to_owned())
}

fn parse_token(text: &str) -> Result<FencingToken, String> {
    let number: Result<u64, _> = text.parse();
    number
        .map(FencingToken)
        .map_err(|_| "expected a fencing token, a number as `palisade locks` shows it".to_owned())
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
                "ftp://a",
                "lock",
                "a",
                "--",
                "true",
            ],
            &["palisade", "lock", "a", "--permits", "2", "--", "true"],
            &[
                "palisade",
                "lock",
                "a",
                "--shared",
                "--permits",
                "2",
                "--limit",
                "3",
                "--",
                "true",
            ],
        ] {
            assert!(Arguments::try_parse_from(line).is_err(), "{line:?}");
        }
        let line = [
            "palisade", "lock", "a", "b", "--wait", "1s", "--", "ls", "--wait", "-l",
        ];
        let Command::Lock(lock) = Arguments::try_parse_from(line).unwrap().command else {
            panic!("not a lock");
        };
        assert_eq!(lock.names.len(), 2);
        assert_eq!(lock.command, ["ls", "--wait", "-l"]);
    }
}
