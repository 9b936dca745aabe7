//! Exit statuses. Part of the command's interface: they never change.

use crate::output::eprint_line;

/// Every history is valid.
pub(crate) const VALID: u8 = 0;
/// A history is not.
pub(crate) const INVALID: u8 = 1;
/// A bound was reached before it was decided.
pub(crate) const UNKNOWN: u8 = 2;
/// The arguments, or an input, or an output, cannot be used.
pub(crate) const UNUSABLE: u8 = 3;

/// Runs a command's work on this thread alone, as children end with the thread that started them; the
/// status that it ends with. A problem is printed, and makes it [`UNUSABLE`].
pub(crate) fn status_of(work: impl Future<Output = Result<u8, String>>) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(work));
    ended.unwrap_or_else(|problem| {
        eprint_line(&problem);
        UNUSABLE
    })
}

/// The status of several: a violation is certain whatever else went wrong, and what could not be
/// read is worse than what could not be decided.
pub(crate) fn worst(one: u8, other: u8) -> u8 {
    [INVALID, UNUSABLE, UNKNOWN]
        .into_iter()
        .find(|status| *status == one || *status == other)
        .unwrap_or(VALID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_is_worst_and_then_what_could_not_be_read() {
        let mut all = [VALID, UNKNOWN, UNUSABLE, INVALID].into_iter();
        assert_eq!(all.clone().fold(VALID, worst), INVALID);
        assert_eq!(all.by_ref().take(3).fold(VALID, worst), UNUSABLE);
        assert_eq!(worst(VALID, UNKNOWN), UNKNOWN);
        assert_eq!(worst(VALID, VALID), VALID);
    }
}
