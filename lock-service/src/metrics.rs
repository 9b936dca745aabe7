//! The lock service's own metrics, and their exposition for Prometheus together with `raft_core`'s.
//!
//! Labels hold routes, statuses and codes, never a lock's name, an owner or a secret.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use lock_api::ErrorCode;
use lock_model::Counts;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// How often samples that nobody asked for are folded into their histograms.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Whatever no route takes.
const NO_ROUTE: &str = "none";

/// Bounds of buckets for latencies: from a memory-backed disk's sync to a request that times out.
const SECONDS: [f64; 17] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
];
const COUNTS: [f64; 7] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];
const BYTES: [f64; 8] = [
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
];

/// Declares each metric once: its kind, the constant, the name, the unit, the meaning.
macro_rules! declare {
    ($($describe:ident $constant:ident = $name:literal, $unit:ident: $meaning:literal;)*) => {
        $(#[doc = $meaning]
        const $constant: &str = $name;)*

        fn describe() {
            $($describe!($constant, Unit::$unit, $meaning);)*
        }
    };
}

declare! {
    describe_counter HTTP_REQUESTS = "palisade_http_requests_total", Count:
        "Requests answered, by route and status.";
    describe_histogram HTTP_REQUEST_SECONDS = "palisade_http_request_seconds", Seconds:
        "Time from a request's head to its answer, by route; an acquire that waits counts its wait.";
    describe_counter REFUSALS = "palisade_refusals_total", Count:
        "Requests answered with a problem, by its code.";
    describe_gauge LEASES = "palisade_leases", Count:
        "Live leases in the replicated state.";
    describe_gauge LOCKS = "palisade_locks", Count:
        "Locks that are held or waited for, in the replicated state.";
    describe_gauge WAITERS = "palisade_waiters", Count:
        "Requests in the queues of the replicated state.";
    describe_gauge ENDED_LEASES = "palisade_ended_leases", Count:
        "Ended leases that the replicated state remembers.";
    describe_gauge PARKED_REQUESTS = "palisade_parked_requests", Count:
        "HTTP requests that wait on this node for their grant.";
    describe_gauge WATCHES = "palisade_watches", Count:
        "Event streams that are open on this node.";
    describe_counter GRANTS = "palisade_grants_total", Count:
        "Grants that this node has applied; after a start also those that it applies again.";
    describe_counter TICKS = "palisade_ticks_total", Count:
        "Entries that this node proposed only to let cluster time pass.";
    describe_histogram RENEW_LEASES = "palisade_renew_entry_leases", Count:
        "Leases renewed by one log entry.";
}

/// The one recorder of this process.
#[derive(Clone)]
pub struct Exposition {
    recorder: PrometheusHandle,
}

impl Exposition {
    /// Makes the recorder that everything in this process records to from now on.
    ///
    /// # Errors
    /// When the process has one already.
    pub fn install() -> Result<Self, BuildError> {
        let suffix = |suffix: &str| Matcher::Suffix(suffix.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(suffix("_seconds"), &SECONDS)?
            .set_buckets_for_metric(suffix("_entries"), &COUNTS)?
            .set_buckets_for_metric(suffix("_leases"), &COUNTS)?
            .set_buckets_for_metric(suffix("_bytes"), &BYTES)?
            .build_recorder();
        let exposition = Self {
            recorder: recorder.handle(),
        };
        ::metrics::set_global_recorder(recorder).map_err(BuildError::FailedToSetGlobalRecorder)?;
        describe();
        raft_core::metrics::describe();
        Ok(exposition)
    }

    /// Everything, in Prometheus's text format.
    pub fn render(&self) -> String {
        self.recorder.render()
    }

    /// Keeps memory bounded while nobody scrapes. Runs until it is dropped.
    pub async fn upkeep(self) {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            self.recorder.run_upkeep();
        }
    }
}

/// What the replicated state and this node hold now.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
pub fn holds(counts: Counts, parked_requests: usize, watches: usize) {
    gauge!(LEASES).set(counts.leases as f64);
    gauge!(LOCKS).set(counts.locks as f64);
    gauge!(WAITERS).set(counts.waits as f64);
    gauge!(ENDED_LEASES).set(counts.tombstones as f64);
    gauge!(PARKED_REQUESTS).set(parked_requests as f64);
    gauge!(WATCHES).set(watches as f64);
}

/// Counts grants as they are applied.
pub fn grants() -> Counter {
    counter!(GRANTS)
}

/// Counts ticks as they are applied.
pub fn ticks() -> Counter {
    counter!(TICKS)
}

/// Leases in each entry of renewals.
pub fn renew_leases() -> Histogram {
    histogram!(RENEW_LEASES)
}

/// The code of the problem that an answer carries, for [`measure`].
#[derive(Clone)]
pub struct AnsweredCode(pub Arc<ErrorCode>);

/// Counts and times one request.
pub async fn measure(path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let route = path.map_or_else(|| NO_ROUTE.to_owned(), |path| path.as_str().to_owned());
    let began = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_str().to_owned();
    counter!(HTTP_REQUESTS, "route" => route.clone(), "status" => status).increment(1);
    histogram!(HTTP_REQUEST_SECONDS, "route" => route).record(began.elapsed());
    if let Some(AnsweredCode(code)) = response.extensions().get() {
        counter!(REFUSALS, "code" => code.as_str().to_owned()).increment(1);
    }
    response
}
