//! What the parts of a node that also run in simulation take from their surroundings: tasks, time,
//! channels, and a place for work that blocks.
//!
//! Production has tokio; simulation has one thread and virtual time. Nothing here decides anything.

use std::fmt::Debug;
use std::future::Future;
use std::io;

use openraft::{AsyncRuntime, Instant};

/// Where a node runs. A marker without data, so that types may carry it as a parameter.
pub(crate) trait Runtime: Copy + Default + Debug + Ord + Send + Sync + 'static {
    /// Tasks, timers and channels, as openraft names them.
    type Async: AsyncRuntime;

    /// Runs work that blocks where it holds up no other task. It runs to its end even when the
    /// returned future is dropped.
    fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send;
}

/// A moment of this runtime's clock.
pub(crate) type InstantOf<R> = <<R as Runtime>::Async as AsyncRuntime>::Instant;

/// What `future` answers, or `None` at `deadline`.
///
/// openraft's own time-outs are types that name the future; inside a future that must be `Send`, the
/// compiler cannot follow those over a borrowed one.
pub(crate) async fn before<R: Runtime, F: Future>(
    deadline: InstantOf<R>,
    future: F,
) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = R::Async::sleep_until(deadline) => None,
    }
}

/// Production.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tokio;

impl Tokio {
    /// `moment` on the clock that timers of this runtime go by; now, when it has passed.
    pub fn instant(moment: std::time::Instant) -> InstantOf<Self> {
        InstantOf::<Self>::now() + moment.saturating_duration_since(std::time::Instant::now())
    }
}

impl Runtime for Tokio {
    type Async = openraft::impls::TokioRuntime;

    async fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        tokio::task::spawn_blocking(work)
            .await
            .map_err(io::Error::other)?
    }
}
