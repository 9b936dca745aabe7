//! The guard: a second process of this program that kills the command's whole process group when
//! palisade cannot.
//!
//! The command itself dies with palisade by its parent-death signal, but that reaches only the
//! direct child, and neither helps when palisade is stopped (SIGSTOP, Ctrl-Z) while the lock runs
//! out. So the guard holds the reading end of a pipe. Over it, it learns the group and until when it
//! may live; it kills the group when that time has come on `CLOCK_BOOTTIME`, and when the pipe closes
//! without a word, because palisade has died. It never touches the network.
//!
//! What it cannot do: see processes that left the group (`setsid`), and survive somebody who kills
//! palisade and the guard at once; then only the direct child is sure to die.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use lock_client::BootTime;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;

use crate::exit;

/// The hidden subcommand that runs the guard.
pub(crate) const SUBCOMMAND: &str = "__guard";

/// How long the guard may take to end when it is told to.
const DISMISSAL: Duration = Duration::from_millis(500);

/// One message over the pipe: the group, and until when it may live, in milliseconds on
/// `CLOCK_BOOTTIME`. No group at all tells the guard to end. Shorter than PIPE_BUF, so a message
/// is written and read as a whole. Both ends are the same executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    group: i64,
    kill_at_ms: u64,
}

const MESSAGE_BYTES: usize = 16;

impl Message {
    const END: Self = Self {
        group: 0,
        kill_at_ms: 0,
    };

    fn new(group: Pid, kill_at: BootTime) -> Self {
        let kill_at_ms =
            u64::try_from(kill_at.elapsed_since_boot().as_millis()).unwrap_or(u64::MAX);
        Self {
            group: i64::from(group.as_raw()),
            kill_at_ms,
        }
    }

    fn to_bytes(self) -> [u8; MESSAGE_BYTES] {
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[..8].copy_from_slice(&self.group.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.kill_at_ms.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; MESSAGE_BYTES]) -> Self {
        let (mut group, mut kill_at_ms) = ([0; 8], [0; 8]);
        group.copy_from_slice(&bytes[..8]);
        kill_at_ms.copy_from_slice(&bytes[8..]);
        Self {
            group: i64::from_ne_bytes(group),
            kill_at_ms: u64::from_ne_bytes(kill_at_ms),
        }
    }
}

/// Palisade's end of the pipe.
#[derive(Debug)]
pub(crate) struct Guard {
    pipe: io::PipeWriter,
    pid: Pid,
    alive: bool,
}

impl Guard {
    /// Starts a guard, which is a child of this process in a process group of its own. A group that
    /// runs already is in the pipe before the guard is there to read it, so there is no moment at
    /// which the guard lives and does not know it.
    pub(crate) fn start(running: Option<(Pid, BootTime)>) -> io::Result<Self> {
        let (reader, mut pipe) = io::pipe()?;
        // A guard that does not read must not make palisade wait.
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        if let Some((group, kill_at)) = running {
            pipe.write_all(&Message::new(group, kill_at).to_bytes())?;
        }
        let pid = spawn(reader)?;
        Ok(Self {
            pipe,
            pid,
            alive: true,
        })
    }

    /// The guard's process id.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// The pipe, for [`Guard::introduce`] in a forked child.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.pipe.as_raw_fd()
    }

    /// Tells the guard the calling process' own group, from a child between fork and exec, so that
    /// there is no moment at which the group lives and the guard does not know it.
    ///
    /// Async-signal-safe: it only makes system calls.
    #[expect(
        unsafe_code,
        reason = "between fork and exec only raw system calls are allowed"
    )]
    pub(crate) fn introduce(descriptor: RawFd, kill_at: BootTime) -> io::Result<()> {
        let bytes = Message::new(nix::unistd::getpid(), kill_at).to_bytes();
        // SAFETY: the pointer and the length are those of a live array.
        let written = unsafe { libc::write(descriptor, bytes.as_ptr().cast(), bytes.len()) };
        match written {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Tells the guard until when the group may live.
    pub(crate) fn watch(&mut self, group: Pid, kill_at: BootTime) -> io::Result<()> {
        self.pipe
            .write_all(&Message::new(group, kill_at).to_bytes())
    }

    /// Notes that the guard has died and was waited for: its process id is not its own any more.
    pub(crate) fn has_died(&mut self) {
        self.alive = false;
    }

    /// Ends the guard and waits for it, once the group is gone or has another guard.
    pub(crate) fn dismiss(mut self) {
        if !self.alive {
            return;
        }
        let asked = self.pipe.write_all(&Message::END.to_bytes()).is_ok();
        let end = BootTime::now() + DISMISSAL;
        while asked && !end.is_reached() {
            match nix::sys::wait::waitpid(self.pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG)) {
                Ok(nix::sys::wait::WaitStatus::StillAlive) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => return,
            }
        }
        // It is stopped, perhaps. It must not wake up later and kill a group that got the same id.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }
}

/// Starts the process. `Guard::dismiss`, or the loop that reaps all children, waits for it.
fn spawn(reader: io::PipeReader) -> io::Result<Pid> {
    use std::os::unix::process::CommandExt;
    let child = Command::new("/proc/self/exe")
        .arg0("palisade")
        .arg(SUBCOMMAND)
        .stdin(Stdio::from(reader))
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// The guard's own main: standard input is the pipe.
pub(crate) fn main() -> ExitCode {
    // Only its pipe, SIGKILL and SIGSTOP mean anything to it.
    let _ = SigSet::all().thread_block();
    match keep_watch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::fail(exit::LOST, format_args!("the guard failed: {error}")),
    }
}

fn keep_watch() -> io::Result<()> {
    let mut pipe = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC)?;
    let mut watched: Option<(Pid, BootTime)> = None;
    loop {
        let mut descriptors = [
            PollFd::new(pipe.as_fd(), PollFlags::POLLIN),
            PollFd::new(timer.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut descriptors, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => result?,
        };
        // What palisade says comes first: it may have moved the time.
        if descriptors[0].any().unwrap_or(true) {
            let mut bytes = [0; MESSAGE_BYTES];
            let message = match pipe.read_exact(&mut bytes) {
                Ok(()) => Message::from_bytes(bytes),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    if let Some((group, _)) = watched {
                        let _ = killpg(group, Signal::SIGKILL);
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let Ok(group @ 2..) = i32::try_from(message.group) else {
                return Ok(());
            };
            let kill_at = BootTime::since_boot(Duration::from_millis(message.kill_at_ms));
            watched = Some((Pid::from_raw(group), kill_at));
            set(&timer, kill_at)?;
        } else if let Some((group, kill_at)) = watched
            && kill_at.is_reached()
        {
            let _ = killpg(group, Signal::SIGKILL);
            // Until palisade says that the group is gone, or dies.
            set(&timer, BootTime::now() + Duration::from_millis(100))?;
        }
    }
}

fn set(timer: &TimerFd, at: BootTime) -> io::Result<()> {
    // A time of zero would switch the timer off instead of firing at once.
    let at = at.elapsed_since_boot().max(Duration::from_nanos(1));
    let expiration = Expiration::OneShot(TimeSpec::from_duration(at));
    Ok(timer.set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_pipe() {
        let kill_at = BootTime::since_boot(Duration::from_millis(123_456));
        let message = Message::new(Pid::from_raw(4711), kill_at);
        assert_eq!(
            message,
            Message {
                group: 4711,
                kill_at_ms: 123_456
            }
        );
        assert_eq!(Message::from_bytes(message.to_bytes()), message);
    }
}
