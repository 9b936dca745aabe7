//! Starts the built `palisade` against a scripted server and looks at the processes it makes.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: not every test uses all of it, and a failure here is a failed test"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[path = "../../../client/tests/fake_server/mod.rs"]
pub mod fake_server;

use fake_server::{FakeServer, Reaction, Request, cancelled, granted, released, renewed};

/// How long a condition may take to come true before the test gives up. No promise of the product.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster that grants at once and does everything else as it should, except renewals.
pub fn cluster(renew: impl Fn(&Request) -> Reaction + Send + Sync + 'static) -> FakeServer {
    cluster_with(|request| granted(request, true), renew)
}

/// A cluster whose acquires and renewals are scripted.
pub fn cluster_with(
    acquire: impl Fn(&Request) -> Reaction + Send + Sync + 'static,
    renew: impl Fn(&Request) -> Reaction + Send + Sync + 'static,
) -> FakeServer {
    FakeServer::start(move |request| match request.path.as_str() {
        "/v1/acquire" => acquire(request),
        "/v1/renew" => renew(request),
        "/v1/release" => released(),
        "/v1/cancel" => cancelled(),
        other => panic!("nobody should ask for {other}"),
    })
}

/// A cluster on which all is well.
pub fn healthy() -> FakeServer {
    cluster(|_| renewed(15_000))
}

/// Started to ignore no signal, also where these tests were (by `nohup`, or by a script with `&`).
pub fn palisade(endpoint: &str) -> Command {
    let mut command = Command::new("env");
    command
        .args(["--default-signal", env!("CARGO_BIN_EXE_palisade")])
        .env("PALISADE_ENDPOINTS", endpoint)
        .stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `palisade lock a OPTIONS -- COMMAND` to its end.
pub fn lock(server: &FakeServer, options: &[&str], command: &[&str]) -> Output {
    start(server, options, command).wait_with_output()
}

/// Starts `palisade lock a OPTIONS -- COMMAND`.
pub fn start(server: &FakeServer, options: &[&str], command: &[&str]) -> Running {
    let mut palisade = palisade(&server.endpoint);
    palisade
        .args(["lock", "a"])
        .args(options)
        .arg("--")
        .args(command);
    Running(Some(palisade.spawn().unwrap()))
}

/// A running `palisade`, which does not outlive a test that fails.
pub struct Running(Option<Child>);

impl Running {
    pub fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    pub fn wait_with_output(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }

    /// Ends it without a word.
    pub fn kill(mut self) {
        let mut child = self.0.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn send(signal: Signal, pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Whether a process exists and is more than a zombie.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}

/// The direct children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    children
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

pub fn command_line(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Waits for something to come true.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A command that writes the process ids of itself and of a grandchild, and then beats into files,
/// both ignoring SIGTERM if told so.
pub struct Family {
    folder: tempfile::TempDir,
    script: String,
}

impl Family {
    pub fn new(ignores_sigterm: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let trap = if ignores_sigterm {
            "trap '' TERM INT HUP;"
        } else {
            ""
        };
        let beat =
            |name: &str| format!("while :; do date +%s%N >> {path}/{name}.beat; sleep 0.01; done");
        let script = format!(
            "{trap} ({}) & echo $! > {path}/grandchild.tmp; mv {path}/grandchild.tmp {path}/grandchild;
             echo $$ > {path}/child.tmp; mv {path}/child.tmp {path}/child; {}",
            beat("grandchild"),
            beat("child")
        );
        Self { folder, script }
    }

    pub fn command(&self) -> [&str; 3] {
        ["sh", "-c", &self.script]
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until both run, and returns their process ids.
    pub fn pids(&self) -> [u32; 2] {
        let beats = |name: &str| beats(&self.file(&format!("{name}.beat"))).len();
        wait_until("both run", || beats("child") > 0 && beats("grandchild") > 0);
        ["child", "grandchild"].map(|name| {
            let pid = std::fs::read_to_string(self.file(name)).unwrap();
            pid.trim().parse().unwrap()
        })
    }

    /// When either of them was last seen running, in nanoseconds of the wall clock.
    pub fn last_beat(&self) -> u128 {
        let last = |name| *beats(&self.file(name)).last().unwrap();
        last("child.beat").max(last("grandchild.beat"))
    }
}

impl Drop for Family {
    /// They do not outlive a test that fails.
    fn drop(&mut self) {
        for name in ["child", "grandchild"] {
            let Ok(pid) = std::fs::read_to_string(self.file(name)) else {
                continue;
            };
            let pid: u32 = pid.trim().parse().unwrap();
            let folder = self.folder.path().display().to_string();
            if is_alive(pid) && command_line(pid).contains(&folder) {
                send(Signal::SIGKILL, pid);
            }
        }
    }
}

fn beats(path: &Path) -> Vec<u128> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// The wall clock, in nanoseconds, as `date +%s%N` has it.
#[expect(
    clippy::disallowed_methods,
    reason = "compared with what `date` prints in the same test"
)]
pub fn wall_clock() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos()
}
