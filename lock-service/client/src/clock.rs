//! Where the client reads time: one trait, with `CLOCK_BOOTTIME` behind it in production and tokio's
//! clock, which tests can pause, behind it elsewhere. Nothing else in this crate reads a clock.

use std::fmt;
use std::io;

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::{BootTime, BootTimer};

/// A monotonic clock and its timers. Deadlines of guards are only as good as it is: it must go on
/// while the machine is suspended, and run within 1% of the cluster's clocks.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Now.
    fn now(&self) -> BootTime;

    /// A timer on this clock.
    ///
    /// # Errors
    /// When the process or the machine has no resources left for one.
    fn timer(&self) -> io::Result<Box<dyn Timer>>;
}

/// Sleeps on a [`Clock`].
pub trait Timer: fmt::Debug + Send {
    /// Sleeps until `deadline`; at once when it is already reached. May end early, never late.
    /// Cancellation safe.
    fn sleep_until(&mut self, deadline: BootTime) -> BoxFuture<'_, ()>;
}

/// `CLOCK_BOOTTIME`, the clock of production.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> BootTime {
        BootTime::now()
    }

    fn timer(&self) -> io::Result<Box<dyn Timer>> {
        Ok(Box::new(BootTimer::new()?))
    }
}

impl Timer for BootTimer {
    fn sleep_until(&mut self, deadline: BootTime) -> BoxFuture<'_, ()> {
        Box::pin(Self::sleep_until(self, deadline))
    }
}

/// Tokio's clock, for tests under `tokio::time::pause`. Not for production: it stands still while
/// the machine is suspended.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    origin: Instant,
}

impl TokioClock {
    /// A clock that begins at zero now.
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
        }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> BootTime {
        BootTime::since_boot(self.origin.elapsed())
    }

    fn timer(&self) -> io::Result<Box<dyn Timer>> {
        Ok(Box::new(*self))
    }
}

impl Timer for TokioClock {
    fn sleep_until(&mut self, deadline: BootTime) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep_until(
            self.origin + deadline.elapsed_since_boot(),
        ))
    }
}
