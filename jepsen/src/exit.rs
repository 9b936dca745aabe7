//! Exit statuses. Part of the command's interface: they never change.

/// Every history is valid.
pub(crate) const VALID: u8 = 0;
/// A history is not.
pub(crate) const INVALID: u8 = 1;
/// A bound was reached before it was decided.
pub(crate) const UNKNOWN: u8 = 2;
/// The arguments, or an input, or an output, cannot be used.
pub(crate) const UNUSABLE: u8 = 3;

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
