//! Whether the app that the sidecar speaks for is there: by its process, or by its health check.

use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::arguments::SidecarArguments;

/// Failed checks in a row after which the app is ill: one may be bad luck.
const FAILURES_TO_BE_ILL: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HealthState {
    Well,
    Ill,
    /// Its process has ended, for good.
    Ended,
}

/// Watches the app until this is dropped. Without a check it is always well.
pub(super) struct Health {
    state: watch::Receiver<HealthState>,
    task: Option<AbortHandle>,
    /// Keeps the channel open when there is nothing to check.
    _keep: Option<watch::Sender<HealthState>>,
}

impl Health {
    /// Must be called inside a tokio runtime.
    pub(super) fn start(arguments: &SidecarArguments) -> Result<Self, String> {
        match (&arguments.health_url, arguments.pid) {
            (Some(url), _) => {
                let uri: Uri = url
                    .parse()
                    .map_err(|error| format!("--health-url {url}: {error}"))?;
                if uri.scheme_str() != Some("http") || uri.host().is_none() {
                    return Err(format!(
                        "--health-url {url}: expected http://HOST:PORT/PATH"
                    ));
                }
                let (sender, state) = watch::channel(HealthState::Ill);
                let interval = arguments.health_interval.max(Duration::from_millis(10));
                let task = tokio::spawn(check(uri, interval, sender));
                Ok(Self {
                    state,
                    task: Some(task.abort_handle()),
                    _keep: None,
                })
            }
            (None, Some(number)) => {
                let process = open(number).map_err(|error| format!("--pid {number}: {error}"))?;
                let (sender, state) = watch::channel(HealthState::Well);
                let task = tokio::spawn(async move {
                    // It becomes readable when the process ends, and stays so.
                    let ended = process.readable().await.is_ok();
                    let state = if ended {
                        HealthState::Ended
                    } else {
                        HealthState::Ill
                    };
                    sender.send_replace(state);
                    sender.closed().await;
                });
                Ok(Self {
                    state,
                    task: Some(task.abort_handle()),
                    _keep: None,
                })
            }
            (None, None) => {
                let (sender, state) = watch::channel(HealthState::Well);
                Ok(Self {
                    state,
                    task: None,
                    _keep: Some(sender),
                })
            }
        }
    }

    /// Waits until the app is in this state. Cancellation safe.
    pub(super) async fn is(&self, wanted: HealthState) {
        let mut state = self.state.clone();
        if state.wait_for(|state| *state == wanted).await.is_err() {
            // The checking task has gone: nothing is known any more.
            std::future::pending::<()>().await;
        }
    }

    pub(super) async fn well(&self) {
        self.is(HealthState::Well).await;
    }

    /// Waits until it is not known to be well. Cancellation safe.
    pub(super) async fn ill(&self) {
        let mut state = self.state.clone();
        // A checking task that has gone is as bad as an ill app.
        let _ = state.wait_for(|state| *state != HealthState::Well).await;
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A descriptor names the process itself, so a number that is used again cannot be mistaken for it.
fn open(number: i32) -> std::io::Result<AsyncFd<OwnedFd>> {
    let pid = Pid::from_raw(number).ok_or(std::io::ErrorKind::InvalidInput)?;
    let descriptor = pidfd_open(pid, PidfdFlags::empty())?;
    #[expect(
        deprecated,
        reason = "unsound only for types whose descriptor can change; an OwnedFd's cannot, and the \
                  replacement is unsafe"
    )]
    let process = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
    Ok(process)
}

async fn check(uri: Uri, interval: Duration, state: watch::Sender<HealthState>) {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(interval));
    // Every check on a connection of its own: an app that accepts no more is ill.
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector);
    let mut failures = 0_u32;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = tokio::time::timeout(interval, client.get(uri.clone())).await;
        let well = matches!(&answer, Ok(Ok(response)) if response.status().is_success());
        failures = if well { 0 } else { failures.saturating_add(1) };
        let now = match failures {
            0 => HealthState::Well,
            FAILURES_TO_BE_ILL.. => HealthState::Ill,
            _ => continue,
        };
        state.send_if_modified(|state| std::mem::replace(state, now) != now);
    }
}
