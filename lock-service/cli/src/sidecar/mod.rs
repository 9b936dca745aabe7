//! `palisade sidecar`: takes part in an election for an app, and tells it over HTTP who leads.
//!
//! `belief` decides what may be said, `http` says it, `health` knows whether the app is there. This
//! file campaigns, and resigns.

mod belief;
mod health;
mod http;
mod leader_file;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lock_client::{Candidate, Client, HoldState, Leadership, fits, smallest_ttl};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::arguments::SidecarArguments;
use crate::exit::say;
use crate::hook::start_hook;
use crate::{duration, exit};
use belief::Beliefs;
use health::{Health, HealthState};

/// How long telling the cluster that we resign may take; after that the leadership ends by its TTL.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(3);
/// An app that is not well for so long is told of.
const SAID_AFTER: Duration = Duration::from_secs(2);
/// How often the cluster is asked who leads, besides when it says that something has happened.
const LONGEST_OBSERVATION_PERIOD: Duration = Duration::from_secs(2);

/// Runs until it is told to stop, or its app has ended.
pub(crate) async fn run(client: Client, arguments: SidecarArguments) -> ExitCode {
    if !fits(arguments.ttl, arguments.stop_time) {
        return exit::fail(
            exit::USAGE,
            format_args!(
                "--ttl {} is too short for --stop-time {}: the smallest is {}",
                duration::show(arguments.ttl),
                duration::show(arguments.stop_time),
                duration::show(smallest_ttl(arguments.stop_time)),
            ),
        );
    }
    match Sidecar::start(client, arguments).await {
        Ok(sidecar) => sidecar.campaign_until_stopped().await,
        Err((status, message)) => exit::fail(status, message),
    }
}

/// Why it does not go on.
enum Stop {
    Signalled,
    AppHasEnded,
}

struct Sidecar {
    client: Client,
    arguments: SidecarArguments,
    candidate: Candidate,
    beliefs: Arc<Beliefs>,
    health: Health,
    signals: [Signal; 2],
    /// The server, the observer and the publisher, which end with this.
    tasks: JoinSet<()>,
}

impl Sidecar {
    async fn start(client: Client, arguments: SidecarArguments) -> Result<Self, (u8, String)> {
        let listener = TcpListener::bind(arguments.http).await;
        let listener = listener.map_err(|error| {
            let address = arguments.http;
            let message = format!("cannot serve HTTP on {address}: {error}; choose with --http");
            (exit::USAGE, message)
        })?;
        let catch = |kind| {
            signal(kind).map_err(|error| {
                let message = format!("cannot watch signals: {error}");
                (exit::UNAVAILABLE, message)
            })
        };
        let signals = [
            catch(SignalKind::terminate())?,
            catch(SignalKind::interrupt())?,
        ];
        let health = Health::start(&arguments).map_err(|message| (exit::USAGE, message))?;
        let election = client.election(arguments.election.clone());
        let mut candidate = election.candidate(arguments.id.clone());
        candidate = candidate.ttl(arguments.ttl).stop_time(arguments.stop_time);
        if let Some(value) = &arguments.value {
            candidate = candidate.value(value.clone());
        }
        let period = (arguments.ttl / 3).min(LONGEST_OBSERVATION_PERIOD);
        let beliefs = Arc::new(Beliefs::new(election, &arguments, period));
        let mut tasks = JoinSet::new();
        if let Ok(address) = listener.local_addr() {
            say(format_args!("serving http://{address}"));
        }
        tasks.spawn(http::serve(listener, Arc::clone(&beliefs)));
        tasks.spawn(Arc::clone(&beliefs).observe());
        tasks.spawn(Arc::clone(&beliefs).publish());
        if let Some(path) = arguments.leader_file.clone() {
            tasks.spawn(leader_file::keep(path, beliefs.published()));
        }
        Ok(Self {
            client,
            arguments,
            candidate,
            beliefs,
            health,
            signals,
            tasks,
        })
    }

    async fn campaign_until_stopped(mut self) -> ExitCode {
        let status = loop {
            let leadership = tokio::select! {
                biased;
                stop = stopped(&mut self.signals, &self.health) => break self.end(&stop),
                leadership = elected(&self.candidate, &self.health) => leadership,
            };
            match leadership {
                Ok(leadership) => {
                    if let Some(stop) = self.lead(leadership).await {
                        break self.end(&stop);
                    }
                }
                Err(error) => break exit::failed(&error),
            }
        };
        self.client.settle(RESIGN_TIMEOUT).await;
        self.tasks.shutdown().await;
        if let Some(path) = &self.arguments.leader_file {
            leader_file::remove(path);
        }
        status
    }

    fn end(&self, stop: &Stop) -> ExitCode {
        match stop {
            Stop::Signalled => ExitCode::SUCCESS,
            Stop::AppHasEnded => exit::fail(exit::LOST, "the app's process has ended"),
        }
    }

    /// Leads until the leadership is lost, the app is ill or has ended, or a signal comes.
    async fn lead(&mut self, leadership: Leadership) -> Option<Stop> {
        let token = leadership.guard().token_unchecked();
        let mut hold = leadership.guard().watch();
        self.beliefs.elected(leadership);
        say(format_args!("elected, token {token}"));
        let environment = [
            ("PALISADE_ELECTION", self.arguments.election.to_string()),
            ("PALISADE_ID", self.arguments.id.to_string()),
            ("PALISADE_FENCING_TOKEN", token.to_string()),
        ];
        if let Some(command) = &self.arguments.on_elected
            && let Err(error) = start_hook(command, &environment)
        {
            say(format_args!("cannot start --on-elected: {error}"));
        }
        let lost = async {
            loop {
                if let HoldState::Lost(loss) = hold.next().await {
                    return loss;
                }
            }
        };
        let stop = tokio::select! {
            biased;
            loss = lost => {
                say(format_args!("LEADERSHIP LOST: {loss}"));
                None
            }
            stop = stopped(&mut self.signals, &self.health) => Some(stop),
            () = self.health.ill() => {
                say("the app does not answer its health check: resigning");
                None
            }
        };
        // From here on nobody is told that this candidate leads.
        let leadership = self.beliefs.not_leading();
        self.run_on_lost(&environment).await;
        if let Some(leadership) = leadership
            && leadership.is_leader()
        {
            match timeout(RESIGN_TIMEOUT, leadership.resign()).await {
                Ok(Ok(())) => say("resigned"),
                Ok(Err(error)) => say(format_args!("could not resign ({error})")),
                Err(_) => say("could not resign in time; the leadership ends with its TTL"),
            }
        }
        stop
    }

    /// Runs the command that stops the app's leading, for as long as that may take, so that the
    /// leadership is not given to another before.
    async fn run_on_lost(&self, environment: &[(&str, String)]) {
        let Some(command) = &self.arguments.on_lost else {
            return;
        };
        match start_hook(command, environment) {
            Err(error) => say(format_args!("cannot start --on-lost: {error}")),
            Ok(mut child) => {
                let end = tokio::time::timeout(self.arguments.stop_time, child.wait());
                if end.await.is_err() {
                    say("--on-lost has not ended within the stop time; it is not waited for");
                }
            }
        }
    }
}

/// Stands for election while the app is well. An app that falls ill withdraws its candidate.
async fn elected(candidate: &Candidate, health: &Health) -> Result<Leadership, lock_client::Error> {
    loop {
        if timeout(SAID_AFTER, health.well()).await.is_err() {
            say("no candidate until the app answers its health check");
            health.well().await;
        }
        tokio::select! {
            biased;
            () = health.ill() => {}
            leadership = candidate.campaign() => return leadership,
        }
    }
}

async fn stopped(signals: &mut [Signal; 2], health: &Health) -> Stop {
    let [terminate, interrupt] = signals;
    tokio::select! {
        _ = terminate.recv() => Stop::Signalled,
        _ = interrupt.recv() => Stop::Signalled,
        () = health.is(HealthState::Ended) => Stop::AppHasEnded,
    }
}
