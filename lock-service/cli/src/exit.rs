//! Exit statuses. Part of the command's interface: they never change.

use std::fmt::Display;
use std::process::ExitCode;

use lock_api::ErrorCode;
use lock_client::Error;

/// The arguments are wrong, or the cluster called the request invalid.
pub(crate) const USAGE: u8 = 2;
/// No node could serve the request in time (EX_UNAVAILABLE).
pub(crate) const UNAVAILABLE: u8 = 69;
/// The lock was lost while the command ran (EX_SOFTWARE).
pub(crate) const LOST: u8 = 70;
/// The lock was not acquired in time (EX_TEMPFAIL).
pub(crate) const NOT_ACQUIRED: u8 = 75;
/// The command was found but cannot be run.
pub(crate) const CANNOT_EXECUTE: u8 = 126;
/// The command was not found.
pub(crate) const NOT_FOUND: u8 = 127;
/// Added to the number of the signal that ended a process.
pub(crate) const SIGNAL_BASE: i32 = 128;

/// Says what happened and returns the status.
pub(crate) fn fail(status: u8, message: impl Display) -> ExitCode {
    say(message);
    ExitCode::from(status)
}

/// A line on standard error.
pub(crate) fn say(message: impl Display) {
    eprintln!("palisade: {message}");
}

/// Says what went wrong with a call, and what to try, and returns its status.
pub(crate) fn failed(error: &Error) -> ExitCode {
    let advice = match error {
        Error::Unavailable { .. } => " Check --endpoints, and `palisade status`.",
        Error::Unknown { .. } => " It may have been done: look before you repeat it.",
        Error::Refused { problem } => match problem.code {
            ErrorCode::Unauthenticated => " Give a bearer token: --token-file, or PALISADE_TOKEN.",
            ErrorCode::Forbidden => " Use a token with the role and the names that this needs.",
            ErrorCode::NotFound => " Is the cluster older than this command?",
            ErrorCode::ChangeInterrupted => " Run `palisade members finish-change`.",
            ErrorCode::MemberNotFound | ErrorCode::MembershipChanged => {
                " Look at `palisade members list`, then try again."
            }
            _ => "",
        },
        _ => "",
    };
    failed_with(error, advice)
}

/// [`failed`] with advice of the caller's.
pub(crate) fn failed_with(error: &Error, advice: impl Display) -> ExitCode {
    let text = error.to_string();
    let text = text.trim_end_matches('.');
    fail(of(error), format_args!("{text}.{advice}"))
}

/// The status of a process that a signal ended, as shells have it.
pub(crate) fn by_signal(signal: i32) -> u8 {
    u8::try_from(SIGNAL_BASE + signal).unwrap_or(u8::MAX)
}

/// The status for an acquire, or another call, that failed.
pub(crate) fn of(error: &Error) -> u8 {
    match error {
        Error::InvalidEndpoint { .. }
        | Error::NoEndpoints
        | Error::InvalidText(_)
        | Error::TtlTooShort { .. } => USAGE,
        Error::Refused { problem } => match problem.code {
            ErrorCode::InvalidRequest
            | ErrorCode::TooLarge
            | ErrorCode::Unauthenticated
            | ErrorCode::Forbidden => USAGE,
            ErrorCode::NotFound
            | ErrorCode::MethodNotAllowed
            | ErrorCode::UnsupportedMediaType
            | ErrorCode::Internal
            | ErrorCode::Other(_) => UNAVAILABLE,
            _ => NOT_ACQUIRED,
        },
        Error::LostBeforeUse(_) | Error::Lost(_) => NOT_ACQUIRED,
        _ => UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_api::Problem;

    #[test]
    fn refusals_are_told_apart_by_what_the_caller_can_do() {
        let refused = |code: ErrorCode| {
            of(&Error::Refused {
                problem: Box::new(Problem::new(code, "")),
            })
        };
        assert_eq!(refused(ErrorCode::LockHeld), NOT_ACQUIRED);
        assert_eq!(refused(ErrorCode::WaitTimeout), NOT_ACQUIRED);
        assert_eq!(refused(ErrorCode::InvalidRequest), USAGE);
        assert_eq!(refused(ErrorCode::Other("new".into())), UNAVAILABLE);
        assert_eq!(
            of(&Error::Unavailable {
                failures: Vec::new()
            }),
            UNAVAILABLE
        );
    }

    #[test]
    fn a_signal_is_128_and_its_number() {
        assert_eq!(by_signal(libc::SIGTERM), 143);
    }
}
