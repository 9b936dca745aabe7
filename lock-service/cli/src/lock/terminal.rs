//! The controlling terminal: given to the command's group while it runs, taken back afterwards.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, getpgid, getpgrp, getppid, getsid, tcgetpgrp, tcsetpgrp};

/// A controlling terminal in whose foreground this process' group was.
#[derive(Debug)]
pub(super) struct Terminal(File);

impl Terminal {
    /// The controlling terminal, if there is one and we are in its foreground.
    pub(super) fn in_foreground() -> Option<Self> {
        let tty = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .ok()?;
        (tcgetpgrp(&tty).ok()? == getpgrp()).then_some(Self(tty))
    }

    /// Its descriptor, for [`set_foreground`] in a forked child.
    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Makes a group the foreground.
    pub(super) fn give_to(&self, group: Pid) {
        // It fails when the terminal or the group is gone; then there is nothing to give.
        let _ = set_foreground(self.0.as_fd(), group);
    }

    /// Whether our own group is in the foreground now.
    pub(super) fn is_ours(&self) -> bool {
        tcgetpgrp(&self.0) == Ok(getpgrp())
    }

    /// Takes the terminal back from a group, unless somebody else has it by now.
    pub(super) fn take_back_from(&self, group: Pid) {
        if tcgetpgrp(&self.0) == Ok(group) {
            self.give_to(getpgrp());
        }
    }
}

/// Makes a group the foreground of a terminal. Async-signal-safe: it only makes system calls.
pub(super) fn set_foreground(terminal: BorrowedFd<'_>, group: Pid) -> nix::Result<()> {
    // A process in the background that gives the terminal away would be stopped by SIGTTOU.
    let mut ttou = SigSet::empty();
    ttou.add(Signal::SIGTTOU);
    ttou.thread_block()?;
    let given = tcsetpgrp(terminal, group);
    ttou.thread_unblock()?;
    given
}

/// Whether there is a shell that would continue us after a stop.
pub(super) fn has_job_control() -> bool {
    let parent = getppid();
    let same_session = getsid(Some(parent)).is_ok_and(|session| getsid(None) == Ok(session));
    // A parent in our own group is stopped with us, by the same shell.
    same_session && getpgid(Some(parent)).is_ok()
}

/// Stops this process' whole group, as the terminal would, until somebody continues it.
pub(super) fn stop_self() {
    if has_job_control() {
        // Our own SIGTSTP is caught; SIGSTOP does the same and cannot be.
        let _ = killpg(getpgrp(), Signal::SIGSTOP);
    }
}
