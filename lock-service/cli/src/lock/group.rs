//! The command's process group: start it, signal it, see it gone.

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use lock_client::BootTime;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid, getppid};
use rustix::process::{WaitOptions, wait};

use super::terminal::{Terminal, set_foreground};
use crate::guard::Guard;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Exited(i32),
    Signalled(i32),
}

/// What has become of the children since the last look.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) stopped: bool,
    pub(super) guard_died: bool,
}

/// A command and its process group, whose id is the command's process id.
#[derive(Debug)]
pub(super) struct Group {
    id: Pid,
    ended: Option<Ended>,
}

impl Group {
    /// Starts a command in a process group of its own, in the foreground of the terminal if there is
    /// one, known to the guard, and to be killed when this process dies.
    ///
    /// Must be called on the main thread: the death signal is sent when the *thread* that forked
    /// ends.
    #[expect(
        unsafe_code,
        reason = "the death signal and the terminal must be set in the child"
    )]
    pub(super) fn start(
        command: &[OsString],
        environment: &[(&str, String)],
        terminal: Option<&Terminal>,
        guard: &Guard,
        kill_at: BootTime,
    ) -> io::Result<Self> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let mut child = Command::new(program);
        child
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)));
        child.process_group(0);
        // Orphans of the group become children of this process, which can then wait for them.
        prctl::set_child_subreaper(true)?;
        let this_process = getpid();
        let terminal = terminal.map(Terminal::descriptor);
        let guard = guard.descriptor();
        let prepare = move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // If this process died before that, nobody would ever send the signal.
            if getppid() != this_process {
                return Err(Errno::ESRCH.into());
            }
            Guard::introduce(guard, kill_at)?;
            if let Some(terminal) = terminal {
                // SAFETY: `spawn` below runs this while the caller still lends the terminal.
                let terminal = unsafe { BorrowedFd::borrow_raw(terminal) };
                // Without the terminal the command still runs, in the background.
                let _ = set_foreground(terminal, getpid());
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure only makes system calls: it neither allocates
        // nor takes a lock. (The error that it may return is a bare error number.)
        unsafe { child.pre_exec(prepare) };
        // `Group::reap` waits for it, by its id.
        let child = child.spawn()?;
        Ok(Self {
            id: Pid::from_raw(child.id().cast_signed()),
            ended: None,
        })
    }

    /// The group's id, which is the command's process id.
    pub(super) fn id(&self) -> Pid {
        self.id
    }

    /// How the command ended, once it did. Others of its group may still run.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Sends a signal to every process of the group. Nobody there is no failure.
    pub(super) fn signal(&self, number: i32) {
        if let Ok(signal) = Signal::try_from(number) {
            let _ = killpg(self.id, signal);
        }
    }

    /// Whether no process of the group is left. To be asked right after [`Group::reap`]: a process
    /// that ended and was not waited for still counts.
    pub(super) fn is_gone(&self) -> bool {
        self.ended.is_some() && killpg(self.id, None) == Err(Errno::ESRCH)
    }

    /// Waits, without blocking, for every child that has changed: the command, orphans of its group,
    /// the guard.
    pub(super) fn reap(&mut self, guard: Pid) -> Changes {
        let mut changes = Changes::default();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            let pid = Pid::from_raw(pid.as_raw_nonzero().get());
            if status.stopped() {
                changes.stopped |= pid == self.id;
            } else if pid == guard {
                changes.guard_died = true;
            } else if pid == self.id {
                self.ended = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Some(Ended::Exited(code)),
                    (None, Some(signal)) => Some(Ended::Signalled(signal)),
                    (None, None) => continue,
                };
            }
        }
        changes
    }
}
