//! `CLOCK_BOOTTIME`: the monotonic clock that goes on while the machine is suspended. All deadlines of
//! this crate are read from it; nothing here reads a wall clock.

use std::io;
use std::ops::Add;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A point in time on `CLOCK_BOOTTIME` of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        Self(Duration::try_from(now).unwrap_or(Duration::ZERO))
    }

    /// The point in time this long after the machine's boot.
    pub fn since_boot(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// Time since the machine's boot.
    pub fn elapsed_since_boot(self) -> Duration {
        self.0
    }

    /// Time from `earlier` until this point; zero when it comes before.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Time from now until this point; zero once it is reached.
    pub fn remaining(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }

    /// Whether this point is reached.
    pub fn is_reached(self) -> bool {
        Self::now() >= self
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// An async timer on `CLOCK_BOOTTIME`. A sleep that ends during a suspend is over when the machine
/// wakes up, unlike tokio's own, which would go on sleeping.
#[derive(Debug)]
pub struct BootTimer(AsyncFd<OwnedFd>);

impl BootTimer {
    /// Makes a timer. Must be called inside a tokio runtime with IO enabled.
    ///
    /// # Errors
    /// When the process or the machine has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        #[expect(
            deprecated,
            reason = "unsound only for types whose descriptor can change; an OwnedFd's cannot, and \
                      the replacement is unsafe"
        )]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self(timer))
    }

    /// Sleeps until `deadline`; at once when it is already reached. Should the timer itself fail, it
    /// returns early rather than late.
    ///
    /// Cancellation safe: dropping the future has no effect.
    pub async fn sleep_until(&mut self, deadline: BootTime) {
        while !deadline.is_reached() {
            let Ok(value) = Timespec::try_from(deadline.0) else {
                return;
            };
            let once = Itimerspec {
                it_interval: Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                },
                it_value: value,
            };
            if timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::ABSTIME, &once).is_err() {
                return;
            }
            let Ok(mut ready) = self.0.readable().await else {
                return;
            };
            // Setting the timer again forgets the expiration, so it need not be read.
            ready.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_timer_never_ends_early_and_can_be_used_again() {
        let mut timer = BootTimer::new().unwrap();
        for _ in 0..3 {
            let deadline = BootTime::now() + Duration::from_millis(20);
            timer.sleep_until(deadline).await;
            assert!(deadline.is_reached());
        }
    }

    #[tokio::test]
    async fn a_deadline_in_the_past_is_over_at_once() {
        let mut timer = BootTimer::new().unwrap();
        timer
            .sleep_until(BootTime::since_boot(Duration::ZERO))
            .await;
    }

    #[tokio::test]
    async fn a_sleep_that_was_dropped_does_not_disturb_the_next() {
        let mut timer = BootTimer::new().unwrap();
        let short = BootTime::now() + Duration::from_millis(1);
        tokio::select! {
            biased;
            () = timer.sleep_until(short) => {}
            () = tokio::task::yield_now() => {}
        }
        let deadline = BootTime::now() + Duration::from_millis(30);
        timer.sleep_until(deadline).await;
        assert!(deadline.is_reached());
    }
}
