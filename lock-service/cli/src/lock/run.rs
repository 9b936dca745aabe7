//! The time between the grant and the release: the command runs, the lock is renewed, signals are
//! passed on, and whichever ends first ends the other.
//!
//! When the lock is lost the group gets SIGTERM at the local deadline and SIGKILL after the grace.
//! The guard, a process of its own, sends the same SIGKILL, so it comes even when this one is
//! stopped. The lock is released only once the whole group is gone.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use lock_client::{BootTime, BootTimer, Client, HoldState, LockGuard, Loss};

use super::group::{Ended, Group};
use super::signals::Signals;
use super::terminal::{self, Terminal};
use crate::arguments::LockArguments;
use crate::exit::{self, say};
use crate::guard::Guard;
use crate::hook::start_hook;

/// How long the rest of a group may take to end by itself after the command has.
const LINGER: Duration = Duration::from_millis(100);
/// How long killed processes may take to be seen gone.
const CONFIRMATION: Duration = Duration::from_secs(1);
/// How often to look for a group whose last members are not our children, and so send no signal.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Runs the command under the lock and returns the exit status.
pub(super) async fn run(
    client: &Client,
    held: LockGuard,
    arguments: &LockArguments,
    grace: Duration,
    signals: Signals,
) -> ExitCode {
    let started = match Run::start(client, &held, arguments, grace, signals) {
        Ok(run) => run,
        Err(error) => {
            release(held).await;
            let program = arguments
                .command
                .first()
                .map(|text| text.display().to_string());
            let program = program.unwrap_or_default();
            let (status, advice) = match error.kind() {
                io::ErrorKind::NotFound => (
                    exit::NOT_FOUND,
                    ". A line for a shell needs one: sh -c '...'",
                ),
                _ => (exit::CANNOT_EXECUTE, ""),
            };
            return exit::fail(
                status,
                format_args!("cannot run {program}: {error}{advice}"),
            );
        }
    };
    let Some(mut run) = started else {
        held.abandon();
        let message = "the lock was lost before the command could start; nothing was run";
        return exit::fail(exit::NOT_ACQUIRED, message);
    };
    run.until_gone(&held).await;
    run.finish(held).await
}

/// How far the end of the group has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The command runs.
    Running,
    /// The command has ended, others of its group may end by themselves until then.
    Lingering(BootTime),
    /// SIGTERM is sent; SIGKILL follows then.
    Terminated(BootTime),
    /// SIGKILL is sent; whoever is still seen then may be stuck.
    Killed(BootTime),
    /// No process of the group is left.
    Gone,
    /// SIGKILL was sent, and still there are processes.
    Stuck,
}

struct Run {
    group: Group,
    guard: Guard,
    terminal: Option<Terminal>,
    signals: Signals,
    timer: BootTimer,
    grace: Duration,
    deadline: BootTime,
    stage: Stage,
    lost: bool,
    environment: Vec<(&'static str, String)>,
    on_lost: Option<String>,
}

impl Run {
    /// Starts the guard and the command; `None` when the lock was lost before.
    fn start(
        client: &Client,
        held: &LockGuard,
        arguments: &LockArguments,
        grace: Duration,
        signals: Signals,
    ) -> io::Result<Option<Self>> {
        let endpoints: Vec<&str> = client
            .endpoints()
            .iter()
            .map(|endpoint| endpoint.as_str())
            .collect();
        let environment = vec![
            ("PALISADE_LOCK", name_of(held)),
            ("PALISADE_FENCING_TOKEN", held.token_unchecked().to_string()),
            ("PALISADE_LOCKS", serde_json::to_string(held.holds())?),
            ("PALISADE_ENDPOINTS", endpoints.join(",")),
        ];
        let timer = BootTimer::new()?;
        let guard = Guard::start(None)
            .map_err(|error| io::Error::other(format!("the guard did not start: {error}")))?;
        let terminal = Terminal::in_foreground();
        let Ok(deadline) = held.check() else {
            guard.dismiss();
            return Ok(None);
        };
        let group = Group::start(
            &arguments.command,
            &environment,
            terminal.as_ref(),
            &guard,
            deadline + grace,
        );
        let group = match group {
            Ok(group) => group,
            Err(error) => {
                // It may have had the terminal for a moment.
                if let Some(terminal) = &terminal {
                    terminal.give_to(nix::unistd::getpgrp());
                }
                guard.dismiss();
                return Err(error);
            }
        };
        let stage = Stage::Running;
        let lost = false;
        Ok(Some(Self {
            group,
            guard,
            terminal,
            signals,
            timer,
            grace,
            deadline,
            stage,
            lost,
            environment,
            on_lost: arguments.on_lost.clone(),
        }))
    }

    /// Runs until no process of the group is left, or until that cannot be confirmed.
    async fn until_gone(&mut self, held: &LockGuard) {
        // What changed between the start and here is seen at once.
        let mut state = held.watch();
        while !matches!(self.stage, Stage::Gone | Stage::Stuck) {
            let next = self.next_step();
            let signal = tokio::select! {
                // Losing the lock comes before everything else.
                biased;
                loss = held.lost(), if !self.lost => {
                    self.lose(&loss);
                    None
                }
                () = self.timer.sleep_until(next) => None,
                state = state.next(), if !self.lost => {
                    if let HoldState::Held { deadline } = state {
                        self.deadline = deadline;
                        self.tell_guard(deadline + self.grace);
                    }
                    None
                }
                signal = self.signals.next_or_child() => signal,
            };
            if let Some(signal) = signal {
                self.pass_on(signal);
            }
            self.look_at_children(held);
            self.advance();
        }
    }

    /// When something must happen even if nothing does.
    fn next_step(&self) -> BootTime {
        let soon = BootTime::now() + LOOK_AGAIN;
        match self.stage {
            // SIGCHLD is enough; this is for a signal that was lost, which does not happen.
            Stage::Running => BootTime::now() + Duration::from_secs(60),
            Stage::Lingering(at) | Stage::Terminated(at) | Stage::Killed(at) => at.min(soon),
            Stage::Gone | Stage::Stuck => soon,
        }
    }

    /// The lock is lost: the group has the grace to end.
    fn lose(&mut self, loss: &Loss) {
        self.lost = true;
        say(format_args!("LOCK LOST: {loss}. Stopping the command."));
        self.terminate();
        if let Some(command) = &self.on_lost
            && let Err(error) = start_hook(command, &self.environment)
        {
            say(format_args!("cannot start --on-lost: {error}"));
        }
    }

    fn terminate(&mut self) {
        // Not a moment later than the stop time that the local deadline was computed with.
        let kill_at = BootTime::now().min(self.deadline) + self.grace;
        if let Stage::Terminated(_) | Stage::Killed(_) = self.stage {
            return;
        }
        self.stage = Stage::Terminated(kill_at);
        self.group.signal(libc::SIGTERM);
        // A stopped process takes SIGTERM only once it is continued.
        self.group.signal(libc::SIGCONT);
        self.tell_guard(kill_at);
    }

    fn pass_on(&mut self, signal: i32) {
        if signal == libc::SIGCONT && matches!(self.stage, Stage::Running) {
            // A shell has continued us, perhaps in the foreground, where we were not before.
            self.terminal = Terminal::in_foreground().or_else(|| self.terminal.take());
            if let Some(terminal) = &self.terminal
                && terminal.is_ours()
            {
                terminal.give_to(self.group.id());
            }
        }
        self.group.signal(signal);
    }

    fn look_at_children(&mut self, held: &LockGuard) {
        let changes = self.group.reap(self.guard.pid());
        if changes.guard_died {
            say("the guard was ended by somebody; starting another");
            self.guard.has_died();
            self.restart_guard();
        }
        if changes.stopped && self.stage == Stage::Running {
            self.stopped(held);
        }
        if self.group.is_gone() {
            self.stage = Stage::Gone;
        }
    }

    /// The command was stopped. With a shell to continue us we stop as well, and the terminal goes
    /// to the shell; otherwise the lock is kept while the command sleeps.
    fn stopped(&mut self, held: &LockGuard) {
        let Some(terminal) = self
            .terminal
            .as_ref()
            .filter(|_| terminal::has_job_control())
        else {
            say("the command was stopped; the lock is kept and renewed meanwhile");
            return;
        };
        terminal.take_back_from(self.group.id());
        say(format_args!(
            "stopped: \"{}\" is not renewed meanwhile; in {} s it is lost and the command killed",
            name_of(held),
            (self.deadline + self.grace).remaining().as_secs()
        ));
        terminal::stop_self();
        // Here somebody has continued us. The time that has passed is judged by the clock; SIGCONT
        // was caught as well, and is what continues the command.
    }

    /// Goes on to the next stage when it is time to.
    fn advance(&mut self) {
        match self.stage {
            Stage::Running if self.group.ended().is_some() => {
                self.stage = Stage::Lingering(BootTime::now() + LINGER);
            }
            Stage::Lingering(end) if end.is_reached() => {
                say("the command has exited but processes of its group still run; stopping them");
                self.terminate();
            }
            Stage::Terminated(kill_at) if kill_at.is_reached() => {
                self.group.signal(libc::SIGKILL);
                self.stage = Stage::Killed(BootTime::now() + CONFIRMATION);
            }
            Stage::Killed(end) if end.is_reached() => self.stage = Stage::Stuck,
            _ => {}
        }
    }

    fn tell_guard(&mut self, kill_at: BootTime) {
        if self.guard.watch(self.group.id(), kill_at).is_err() {
            self.restart_guard();
        }
    }

    fn restart_guard(&mut self) {
        let kill_at = match self.stage {
            Stage::Terminated(kill_at) => kill_at,
            _ => self.deadline + self.grace,
        };
        match Guard::start(Some((self.group.id(), kill_at))) {
            Ok(guard) => std::mem::replace(&mut self.guard, guard).dismiss(),
            Err(error) => say(format_args!(
                "cannot start the guard ({error}): should palisade be killed now, only the command \
                 itself dies with it, not what it has started"
            )),
        }
    }

    /// Cleans up, releases, and says how it went.
    async fn finish(self, held: LockGuard) -> ExitCode {
        if let Some(terminal) = &self.terminal {
            terminal.take_back_from(self.group.id());
        }
        let lost = self.lost || !held.is_held();
        if self.stage == Stage::Stuck {
            // The guard is left to kill once more when its pipe closes.
            held.abandon();
            say(
                "some process of the command's group is still there after SIGKILL, perhaps stuck in \
                 the kernel; the lock is not released and frees itself when its TTL has passed",
            );
        } else {
            self.guard.dismiss();
            if lost {
                held.abandon();
            } else {
                release(held).await;
            }
        }
        let status = match self.group.ended() {
            _ if lost => exit::LOST,
            Some(Ended::Exited(code)) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
            Some(Ended::Signalled(signal)) => exit::by_signal(signal),
            None => exit::by_signal(libc::SIGKILL),
        };
        if lost && !self.lost {
            say("LOCK LOST before the command ended");
        }
        ExitCode::from(status)
    }
}

async fn release(held: LockGuard) {
    let (name, ttl) = (name_of(&held), held.ttl());
    if let Err(error) = held.release().await {
        say(format_args!(
            "\"{name}\" could not be released ({error}); it frees itself within {}",
            crate::duration::show(ttl)
        ));
    }
}

/// The name of the lock that was named first.
fn name_of(held: &LockGuard) -> String {
    let first = held.holds().first();
    first.map(|hold| hold.lock.to_string()).unwrap_or_default()
}
