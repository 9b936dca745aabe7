//! The signals that are passed on to the command.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Passed on. The rest either cannot be caught, or are about this process itself (SIGCHLD, SIGPIPE,
/// SIGSEGV...), or are real-time signals, which nobody sends to a wrapper.
const PASSED_ON: [i32; 10] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
    libc::SIGTSTP,
    libc::SIGCONT,
];

/// A stream of the signals that this process gets.
#[derive(Debug)]
pub(super) struct Signals {
    passed_on: Vec<(i32, Signal)>,
    children: Signal,
}

impl Signals {
    /// Begins to catch them. A signal that this process was started to ignore (`nohup`, a shell's
    /// background job) stays ignored, for the command too.
    pub(super) fn new() -> io::Result<Self> {
        let passed_on = PASSED_ON
            .into_iter()
            .filter(|number| !is_ignored(*number))
            .map(|number| Ok((number, signal(SignalKind::from_raw(number))?)))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            passed_on,
            children: signal(SignalKind::child())?,
        })
    }

    /// The next signal to pass on. Cancellation safe.
    pub(super) async fn next(&mut self) -> i32 {
        poll_fn(|context| {
            for (number, signal) in &mut self.passed_on {
                if let Poll::Ready(Some(())) = signal.poll_recv(context) {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next signal to pass on, or `None` when some child's state has changed. Cancellation safe.
    pub(super) async fn next_or_child(&mut self) -> Option<i32> {
        poll_fn(|context| {
            if let Poll::Ready(Some(())) = self.children.poll_recv(context) {
                return Poll::Ready(None);
            }
            for (number, signal) in &mut self.passed_on {
                if let Poll::Ready(Some(())) = signal.poll_recv(context) {
                    return Poll::Ready(Some(*number));
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[expect(unsafe_code, reason = "nothing safe reads a signal's disposition")]
fn is_ignored(number: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action changes nothing, and the old one is written to our own memory, which
    // is initialised (zeroed) in any case.
    let action = unsafe {
        libc::sigaction(number, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}
