//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

/// How long a condition that must come true may take before a test gives up. No promise of the
/// product: only a bound on how long a broken test hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is `Some`, and returns it. Cancellation safe.
///
/// # Panics
/// When that takes longer than [`PATIENCE`]; `what` says what never came true.
pub async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, probe).await
}

/// [`eventually`] with a limit of its own. A probe that hangs is given up at the limit too.
///
/// # Panics
/// At the limit; `what` says what never came true.
pub async fn within<T>(
    limit: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + limit;
    let asking = async {
        loop {
            if let Some(answer) = probe().await {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout_at(deadline.into(), asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}
