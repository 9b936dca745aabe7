//! One process of a node: started, signalled, ended, and never outliving the harness. It knows nothing
//! of what runs in it.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A command that starts this very program, also when its file was replaced while it ran.
pub(crate) fn this_program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(env!("CARGO_BIN_NAME"));
    command
}

/// The kernel kills the process that the command starts when the thread that starts it ends, however
/// that comes about.
pub(crate) fn ends_with_this_thread(command: &mut Command) {
    #[expect(
        unsafe_code,
        reason = "the only way to tie a child to this process, however it ends"
    )]
    // SAFETY: between fork and exec only `prctl` is called, which is async-signal-safe.
    unsafe {
        command
            .pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
}

/// A child process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    paused: bool,
}

impl Process {
    /// Starts it; what it prints goes to the end of the file `log`.
    ///
    /// Call it from a thread that lives as long as the process is to: see [`ends_with_this_thread`].
    pub(crate) fn start(command: &mut Command, log: &Path) -> io::Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // Ctrl-C at a terminal is for the harness, which ends its run in order.
            .process_group(0);
        ends_with_this_thread(command);
        Ok(Process {
            child: command.spawn()?,
            paused: false,
        })
    }

    /// Its id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is stopped by [`Process::pause`].
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Its status, if it has ended.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    fn signal(&mut self, signal: Signal) -> io::Result<()> {
        // Once it is waited for, its id may be another process's.
        if let Some(status) = self.ended()? {
            return Err(io::Error::other(format!("it ended by itself: {status}")));
        }
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).map_err(io::Error::from)
    }

    /// SIGSTOP.
    pub(crate) fn pause(&mut self) -> io::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        self.paused = true;
        Ok(())
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self) -> io::Result<()> {
        self.signal(Signal::SIGCONT)?;
        self.paused = false;
        Ok(())
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// SIGTERM, and waits for the end; SIGKILL when that takes too long, which is an error.
    pub(crate) async fn terminate(mut self, limit: Duration) -> io::Result<ExitStatus> {
        if self.paused {
            self.resume()?;
        }
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.kill()?;
        Err(io::Error::other(format!(
            "it did not end within {} s of SIGTERM, and was killed",
            limit.as_secs()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_paused_resumed_and_ended_and_its_words_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo began >&2; exec sleep 60"]);
        let mut process = Process::start(&mut command, &log).unwrap();
        while std::fs::read_to_string(&log).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process.pause().unwrap();
        assert!(process.is_paused());
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
        while !state().contains(") T") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A paused process hears SIGTERM too.
        let status = process.terminate(Duration::from_secs(20)).await.unwrap();
        assert!(!status.success());
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "began\n");
    }
}
