//! Coverage: whether a run tested what it was to test. It passes or is unknown; it never fails a
//! system.

use super::CheckReport;
use crate::{EventKind, History, Outcome, Process};

/// What a run must have in it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Coverage {
    /// The planned faults: functions of the nemesis. A fault happened if an `info` event without an
    /// error says so; an `invoke` is only the intention.
    pub faults: Vec<String>,
    /// How many operations of a function must have succeeded.
    pub least_successes: Vec<(String, usize)>,
}

/// Every planned fault happened, and enough operations succeeded; else the run is *unknown*,
/// whatever else it shows.
#[must_use]
pub fn coverage(history: &History, planned: &Coverage) -> CheckReport {
    let mut report = CheckReport::new(
        "coverage",
        "the planned faults happened, and enough operations succeeded to show anything",
    );
    report.examined = planned.faults.len() + planned.least_successes.len();
    let mut missing = Vec::new();
    for fault in &planned.faults {
        let happened = history.events().iter().any(|event| {
            matches!(event.process, Process::Named(_))
                && event.kind == EventKind::Info
                && *event.function == **fault
                && event.error.is_none()
        });
        if !happened {
            missing.push(format!("the planned fault `{fault}` did not happen"));
        }
    }
    for (function, least) in &planned.least_successes {
        let succeeded = history
            .operations()
            .iter()
            .filter(|it| *it.function == **function && matches!(it.outcome, Outcome::Ok(_)))
            .count();
        if succeeded < *least {
            missing.push(format!(
                "{succeeded} of `{function}` succeeded, fewer than {least}"
            ));
        }
    }
    if missing.is_empty() {
        report.conclude("nothing was planned")
    } else {
        report.unknown(missing.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock_checks::Conclusion;
    use crate::lock_checks::tests::Script;

    #[test]
    fn a_run_with_its_faults_and_successes_passes() {
        let mut script = Script::new();
        script.nemesis("kill");
        script.call(1, "acquire", "a", "nil", "1");
        let planned = Coverage {
            faults: vec!["kill".into()],
            least_successes: vec![("acquire".into(), 1)],
        };
        assert_eq!(
            coverage(&script.history(), &planned).conclusion,
            Conclusion::Pass
        );
    }

    #[test]
    fn a_fault_that_did_not_happen_or_too_few_successes_make_a_run_unknown() {
        let mut script = Script::new();
        script.nemesis("kill");
        script.call(1, "acquire", "a", "nil", "1");
        let planned = Coverage {
            faults: vec!["kill".into(), "partition".into()],
            least_successes: vec![("acquire".into(), 2)],
        };
        assert_eq!(
            coverage(&script.history(), &planned).conclusion,
            Conclusion::Unknown(
                "the planned fault `partition` did not happen; 1 of `acquire` succeeded, fewer \
                 than 2"
                    .into()
            )
        );
        let nothing = coverage(&script.history(), &Coverage::default());
        assert!(matches!(nothing.conclusion, Conclusion::Unknown(_)));
    }
}
