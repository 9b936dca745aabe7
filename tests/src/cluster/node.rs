//! One `palisaded serve` process and what belongs to it.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Customise;
use crate::binaries::palisaded;
use crate::http::Http;

/// Lines of a node's log that a failing test prints.
const PRINTED_LINES: usize = 200;

/// Where a node's files are.
#[derive(Clone, Debug)]
pub struct NodeFiles {
    /// The node's number in its cluster, from 0.
    pub number: usize,
    /// Its data directory.
    pub data: PathBuf,
    /// Its standard error, over all its starts.
    pub log: PathBuf,
}

/// How a node's last process ended.
pub enum Ending {
    /// The test ended it, or it was not running.
    Wanted,
    /// Nobody told it to.
    ByItself(ExitStatus),
}

/// How a node comes into its cluster. In its environment and not a flag, so that `customise` can
/// change it.
#[derive(Clone, Debug)]
pub enum Origin {
    /// It founds the cluster with these.
    InitialPeers(String),
    /// It joins through these.
    Join(String),
    /// Its data directory knows.
    Existing,
}

/// One node, running or not.
pub struct Node {
    name: String,
    http: SocketAddr,
    peer: SocketAddr,
    origin: Origin,
    arguments: Vec<String>,
    files: NodeFiles,
    customise: Option<Customise>,
    client: Http,
    /// Its standard input stays open with it: `--stop-with-stdin` ends the node when this process
    /// ends, however that happens.
    process: Option<Child>,
}

impl Node {
    pub fn new(
        name: String,
        http: SocketAddr,
        peer: SocketAddr,
        origin: Origin,
        arguments: Vec<String>,
        files: NodeFiles,
        customise: Option<Customise>,
    ) -> Self {
        Self {
            client: Http::new(format!("http://{http}")),
            name,
            http,
            peer,
            origin,
            arguments,
            files,
            customise,
            process: None,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    pub fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    pub fn client(&self) -> &Http {
        &self.client
    }

    pub fn files(&self) -> &NodeFiles {
        &self.files
    }

    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.files.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn print_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let skipped = lines.len().saturating_sub(PRINTED_LINES);
        eprintln!("--- log of {} ({skipped} lines before) ---", self.name);
        for line in &lines[skipped..] {
            eprintln!("{line}");
        }
    }

    /// The command that starts this node; its standard error goes to its log.
    pub fn command(&self) -> Command {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.files.log)
            .expect("the log can be written");
        let mut command = palisaded();
        command
            .arg("serve")
            .args(["--name", &self.name])
            .arg("--data-dir")
            .arg(&self.files.data)
            .args(["--listen-http", &self.http.to_string()])
            .args(["--listen-peer", &self.peer.to_string()])
            .arg("--stop-with-stdin")
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        match &self.origin {
            Origin::InitialPeers(peers) => command.env("PALISADE_INITIAL_PEERS", peers),
            Origin::Join(peers) => command.env("PALISADE_JOIN", peers),
            Origin::Existing => &mut command,
        };
        if let Some(customise) = &self.customise {
            customise(&self.files, &mut command);
        }
        command
    }

    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let process = self.command().spawn().expect("palisaded starts");
        self.process = Some(process);
    }

    pub fn set_origin(&mut self, origin: Origin) {
        self.origin = origin;
    }

    /// From the next start on it is elsewhere.
    pub fn move_to(&mut self, http: SocketAddr, peer: SocketAddr) {
        assert!(self.process.is_none(), "stop {} before it moves", self.name);
        self.client = Http::new(format!("http://{http}"));
        (self.http, self.peer) = (http, peer);
        self.origin = Origin::Existing;
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub fn pid(&self) -> u32 {
        let process = self.process.as_ref();
        process
            .unwrap_or_else(|| panic!("{} does not run", self.name))
            .id()
    }

    pub fn signal(&mut self, signal: Signal) {
        // Once it is reaped its id may be another process's.
        assert!(self.ended().is_none(), "{} ended by itself", self.name);
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("a signal to an own child");
    }

    /// Whether a signal has stopped every thread of the process.
    pub fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        tasks.expect("a running node").flatten().all(|task| {
            // The state follows the name, which is in brackets and may hold anything.
            let stat = std::fs::read_to_string(task.path().join("stat"));
            let state = stat.ok().and_then(|stat| {
                let (_, after) = stat.rsplit_once(") ")?;
                after.chars().next()
            });
            // A thread that is gone stands still too.
            state.is_none_or(|state| state == 'T')
        })
    }

    pub fn kill9(&mut self) {
        let mut process = self.process.take().expect("a running node");
        process.kill().expect("SIGKILL to an own child");
        process.wait().expect("an own child can be waited for");
    }

    /// Its status, when the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let process = self.process.as_mut()?;
        process.try_wait().expect("an own child can be waited for")
    }

    /// Its end was expected; it can be started again.
    pub fn forget_end(&mut self) {
        self.process = None;
    }

    /// Ends the process if there is one, and tells whether it had ended before.
    pub fn end(&mut self) -> Ending {
        if let Some(status) = self.ended() {
            self.process = None;
            return Ending::ByItself(status);
        }
        if self.process.is_some() {
            self.kill9();
        }
        Ending::Wanted
    }
}
