//! `palisade lock`: run a command while a lock is held.

mod group;
mod run;
mod signals;
mod terminal;

use std::process::ExitCode;
use std::time::Duration;

use lock_api::ErrorCode;
use lock_client::{
    Client, Error, LeaseId, LockGuard, LockName, LockRequest, Owner, fits, smallest_ttl,
};

use crate::arguments::LockArguments;
use crate::{duration, exit, output};
use signals::Signals;

/// Part of the stop time, beside the grace: what SIGKILL may take to reach every process of a group.
const KILL_ALLOWANCE: Duration = Duration::from_millis(100);
const LONGEST_DEFAULT_GRACE: Duration = Duration::from_secs(2);
/// How long a wait that is given up may take to tell the cluster so.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long asking for the holder's name may hold up the end.
const HOLDER_TIMEOUT: Duration = Duration::from_secs(2);
/// The smallest TTL that a cluster takes unless it is set otherwise. It is only for advice: a
/// cluster that takes less is not hindered.
const CLUSTERS_SMALLEST_TTL: Duration = Duration::from_secs(2);

/// Takes the lock, runs the command, and returns the exit status.
pub(crate) async fn run(client: Client, arguments: LockArguments) -> ExitCode {
    let grace = match grace(arguments.ttl, arguments.grace) {
        Ok(grace) => grace,
        Err(message) => return exit::fail(exit::USAGE, message),
    };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            return exit::fail(
                exit::UNAVAILABLE,
                format_args!("cannot watch signals: {error}"),
            );
        }
    };
    let held = match acquire(&client, &arguments, grace, &mut signals).await {
        Ok(held) => held,
        Err(status) => return status,
    };
    run::run(&client, held, &arguments, grace, signals).await
}

/// The grace to use, if it fits into the TTL.
fn grace(ttl: Duration, asked: Option<Duration>) -> Result<Duration, String> {
    let default = |ttl: Duration| (ttl / 5).min(LONGEST_DEFAULT_GRACE);
    let grace = asked.unwrap_or_else(|| default(ttl));
    if fits(ttl, grace + KILL_ALLOWANCE) {
        return Ok(grace);
    }
    let smallest = match asked {
        Some(grace) => smallest_ttl(grace + KILL_ALLOWANCE),
        // The default grace grows with the TTL, so the smallest is found by trying.
        None => (1..)
            .map(Duration::from_millis)
            .find(|ttl| fits(*ttl, default(*ttl) + KILL_ALLOWANCE))
            .unwrap_or(Duration::MAX),
    };
    let smallest = smallest.max(CLUSTERS_SMALLEST_TTL);
    let hint = if asked.is_some() {
        ", or give a shorter --grace"
    } else {
        ""
    };
    Err(format!(
        "--ttl {} is too short to stop the command in time (grace {}, margin 350ms and 1% of the \
         TTL, 500ms for a renewal): the smallest is {}{hint}",
        duration::show(ttl),
        duration::show(grace),
        duration::show(smallest),
    ))
}

async fn acquire(
    client: &Client,
    arguments: &LockArguments,
    grace: Duration,
    signals: &mut Signals,
) -> Result<LockGuard, ExitCode> {
    let name = names(arguments);
    let wait = if arguments.try_once {
        Duration::ZERO
    } else {
        arguments.wait
    };
    let Some((first, others)) = arguments.names.split_first() else {
        return Err(exit::fail(exit::USAGE, "no lock is named"));
    };
    let in_mode =
        |request: LockRequest| match (arguments.shared, arguments.permits, arguments.limit) {
            (true, ..) => request.shared(),
            (false, Some(permits), Some(limit)) => request.permits(permits, limit),
            _ => request,
        };
    let mut request = in_mode(client.lock(first.as_str()));
    for other in others {
        request = in_mode(request.and(other.as_str()));
    }
    request = request
        .ttl(arguments.ttl)
        .wait(wait)
        .stop_time(grace + KILL_ALLOWANCE);
    if let Some(owner) = arguments.owner.clone().or_else(default_owner) {
        request = request.owner(owner);
    }
    let lock = request.acquire();
    let waiting = output::tell(async {
        let holder = match holder(client, &arguments.names).await {
            Some(holder) => format!(", {holder}"),
            None => String::new(),
        };
        let longest = duration::show(wait);
        format!("waiting for {name}{holder}, for {longest} at most; Ctrl-C leaves the queue")
    });
    let interrupted = async {
        loop {
            let signal = signals.next().await;
            match signal {
                // A wait that is stopped goes on in the cluster, and here when continued.
                libc::SIGTSTP => terminal::stop_self(),
                libc::SIGCONT | libc::SIGWINCH => {}
                signal => return signal,
            }
        }
    };
    let result = tokio::select! {
        result = lock => result,
        never = waiting, if !wait.is_zero() => match never {},
        signal = interrupted => {
            // The wait was dropped, and is being cancelled in the background.
            if !client.settle(CANCEL_TIMEOUT).await {
                exit::say(format_args!(
                    "the cluster did not confirm that the wait for {name} is over; it ends by \
                     itself within {}",
                    duration::show(wait + arguments.ttl)
                ));
            }
            return Err(ExitCode::from(exit::by_signal(signal)));
        }
    };
    match result {
        Ok(held) => Ok(held),
        Err(error) => {
            client.settle(CANCEL_TIMEOUT).await;
            let holder = match &error {
                Error::Refused { problem } if problem.code == ErrorCode::WaitTimeout => {
                    holder(client, &arguments.names).await
                }
                _ => None,
            };
            let status = match exit::of(&error) {
                exit::NOT_ACQUIRED => arguments.conflict_exit_code,
                status => status,
            };
            Err(exit::fail(
                status,
                describe(&error, arguments, wait, holder),
            ))
        }
    }
}

/// The names of the locks, for people.
fn names(arguments: &LockArguments) -> String {
    let quoted = arguments.names.iter().map(|name| format!("\"{name}\""));
    quoted.collect::<Vec<_>>().join(", ")
}

/// Who holds one of the locks now, as far as the cluster says so in time: the refusal of a wait does
/// not name anybody.
async fn holder(client: &Client, names: &[LockName]) -> Option<String> {
    let look = async {
        for name in names {
            let view = client.lock_view(name).await.ok()?;
            if let Some(holder) = view.lock.holders.first() {
                return Some(held_by(holder.owner.as_ref(), &holder.lease_id));
            }
        }
        None
    };
    tokio::time::timeout(HOLDER_TIMEOUT, look).await.ok()?
}

fn held_by(owner: Option<&Owner>, lease: &LeaseId) -> String {
    match owner {
        Some(owner) => format!("held by {owner} (lease {lease})"),
        None => format!("held by lease {lease}"),
    }
}

/// What went wrong, and what to do.
fn describe(
    error: &Error,
    arguments: &LockArguments,
    wait: Duration,
    holder: Option<String>,
) -> String {
    let name = names(arguments);
    match error {
        Error::Refused { problem } if exit::of(error) == exit::NOT_ACQUIRED => {
            if problem.code == ErrorCode::ModeMismatch {
                return format!("{name} cannot be had in this mode: {problem}");
            }
            let named = |lease| held_by(problem.holder_owner.as_ref(), lease);
            let reason = problem.holder_lease_id.as_ref().map(named).or(holder);
            let reason = reason.unwrap_or_else(|| problem.to_string());
            match wait.is_zero() {
                true => format!("{name} is not free: {reason}. Try later, or --wait."),
                false => format!(
                    "{name} was not free within {}: {reason}. Try later, or wait longer.",
                    duration::show(wait)
                ),
            }
        }
        Error::Unavailable { .. } => format!("{error}. Check --endpoints and `palisade status`."),
        Error::Unknown { .. } => format!(
            "{error}. If {name} was granted nevertheless, it frees itself within {}.",
            duration::show(wait + arguments.ttl)
        ),
        _ => error.to_string(),
    }
}

/// `user@host:pid`, as far as it is known and fit for an owner.
fn default_owner() -> Option<Owner> {
    let user = std::env::var("USER")
        .map(|user| user + "@")
        .unwrap_or_default();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Owner::new(format!("{user}{}:{}", host.trim(), std::process::id())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_grace_is_two_seconds_but_at_most_a_fifth_of_the_ttl() {
        assert_eq!(grace(ms(15_000), None), Ok(ms(2_000)));
        assert_eq!(grace(ms(2_000), None), Ok(ms(400)));
        assert_eq!(grace(ms(15_000), Some(ms(5_000))), Ok(ms(5_000)));
    }

    #[test]
    fn a_ttl_without_room_is_refused_with_the_smallest_one_that_has_it() {
        for asked in [None, Some(ms(0)), Some(ms(2_000)), Some(ms(30_000))] {
            let message = grace(ms(100), asked).unwrap_err();
            let smallest = message.split("the smallest is ").nth(1).unwrap();
            let smallest = smallest.split(", ").next().unwrap();
            let smallest = duration::parse(smallest).unwrap();
            assert!(grace(smallest, asked).is_ok(), "{message}");
            assert!(smallest >= CLUSTERS_SMALLEST_TTL, "{message}");
            if smallest > CLUSTERS_SMALLEST_TTL {
                assert!(grace(smallest - ms(1), asked).is_err(), "{message}");
            }
        }
    }
}
