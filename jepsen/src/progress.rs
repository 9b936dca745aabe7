//! Says on a terminal that a long check is under way.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Checks that take no longer than this say nothing.
const QUIET: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_millis(500);

/// Runs `work`; while it takes long, and if standard error is a terminal, a line there counts the
/// seconds, and is wiped at the end.
pub(crate) fn during<T>(name: &str, timeout: Duration, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let started = Instant::now();
    let (done, is_done) = sync_channel::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut wait = QUIET;
            let mut said = false;
            while is_done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = EVERY;
                said = true;
                // Nobody is told if the terminal went away.
                let _ = write!(
                    std::io::stderr(),
                    "\r\x1b[Kchecking {name}: {} s of {} s at most",
                    started.elapsed().as_secs(),
                    timeout.as_secs_f64().ceil()
                );
            }
            if said {
                let _ = write!(std::io::stderr(), "\r\x1b[K");
            }
        });
        let result = work();
        drop(done);
        result
    })
}
