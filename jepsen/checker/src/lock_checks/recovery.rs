//! Liveness: when all faults are healed the system must work again, within a bounded time.

use std::collections::BTreeMap;

use super::CheckReport;
use super::record::name;
use crate::{History, OperationId, Outcome, Process};

/// When the system must work again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The function of the nemesis's event that says that all is healed; the last one counts.
    pub healed: &'static str,
    /// How long after that the system may still fail, in milliseconds.
    pub within_ms: u64,
    /// How many operations must have been begun later than that for a conclusion.
    pub least_operations: usize,
    /// Of fewer operations of a function it says nothing that none succeeded: they may all have been refused
    /// with reason.
    pub least_of_each: usize,
}

impl Default for Recovery {
    fn default() -> Self {
        Recovery {
            healed: "heal-all",
            within_ms: 10_000,
            least_operations: 20,
            least_of_each: 5,
        }
    }
}

/// Of the operations that begin later than `within_ms` after everything was healed, none stays
/// without an answer, and each function succeeds for somebody. (Refusals are answers: a lock may be
/// held.)
#[must_use]
pub fn recovery(history: &History, rules: Recovery) -> CheckReport {
    let mut report = CheckReport::new(
        "recovery",
        "once faults are healed, every operation is answered and each function succeeds again",
    );
    let healed = history.events().iter().rev().find(|event| {
        matches!(event.process, Process::Named(_)) && &*event.function == rules.healed
    });
    let Some(healed) = healed else {
        return report.unknown(format!(
            "no event `{}` says that faults were healed",
            rules.healed
        ));
    };
    let Some(healed_ns) = healed.time_ns else {
        return report.unknown(format!("the event `{}` has no time", rules.healed));
    };
    let from_ns = healed_ns.saturating_add(rules.within_ms.saturating_mul(1_000_000));
    // By function: the operations, and whether one succeeded.
    let mut functions: BTreeMap<&str, (Vec<OperationId>, bool)> = BTreeMap::new();
    for operation in history.operations() {
        if history
            .event(operation.invocation)
            .time_ns
            .is_none_or(|time| time <= from_ns)
        {
            continue;
        }
        report.examined += 1;
        let function = functions.entry(&operation.function).or_default();
        function.0.push(operation.id);
        match operation.outcome {
            Outcome::Ok(_) => function.1 = true,
            Outcome::Fail(_) => {}
            Outcome::Info => report.find(
                [operation.id],
                format!(
                    "{} began more than {} ms after all was healed, and was never answered",
                    name(history, operation.id),
                    rules.within_ms
                ),
            ),
        }
    }
    let failed = |(operations, succeeded): &(Vec<OperationId>, bool)| {
        !succeeded && operations.len() >= rules.least_of_each
    };
    for (function, (operations, _)) in functions.iter().filter(|(_, it)| failed(it)) {
        report.find(
            operations.iter().copied().take(10),
            format!(
                "none of {} `{function}` succeeded that began more than {} ms after all was healed",
                operations.len(),
                rules.within_ms
            ),
        );
    }
    if report.examined < rules.least_operations && report.findings_in_all == 0 {
        let why = format!(
            "{} operations began more than {} ms after all was healed; {} are needed",
            report.examined, rules.within_ms, rules.least_operations
        );
        return report.unknown(why);
    }
    report.conclude("no operation began after all was healed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock_checks::Conclusion;
    use crate::lock_checks::tests::Script;

    const RULES: Recovery = Recovery {
        healed: "heal-all",
        within_ms: 100,
        least_operations: 2,
        least_of_each: 1,
    };

    fn broken_then_healed() -> Script {
        let mut script = Script::new();
        let lost = script.invoke(1, "acquire", "a", "nil");
        script.info(lost);
        script.nemesis("heal-all");
        let slow = script.invoke(2, "acquire", "a", "nil");
        script.info(slow);
        script.wait_ms(200);
        script
    }

    #[test]
    fn a_system_that_works_again_passes_and_its_earlier_failures_do_not_count() {
        let mut script = broken_then_healed();
        script.call(3, "acquire", "a", "nil", "1");
        let refused = script.invoke(4, "acquire", "a", "nil");
        script.fail(refused, "lock_held");
        let report = recovery(&script.history(), RULES);
        assert_eq!(report.conclusion, Conclusion::Pass, "{report:?}");
        assert_eq!(report.examined, 2);
    }

    #[test]
    fn an_operation_without_an_answer_after_healing_is_found() {
        let mut script = broken_then_healed();
        script.call(3, "acquire", "a", "nil", "1");
        script.invoke(4, "acquire", "a", "nil");
        let report = recovery(&script.history(), RULES);
        assert_eq!(report.conclusion, Conclusion::Fail);
        assert_eq!(report.findings_in_all, 1, "{report:?}");
    }

    #[test]
    fn a_function_that_never_succeeds_after_healing_is_found() {
        let mut script = broken_then_healed();
        script.call(3, "acquire", "a", "nil", "1");
        let refused = script.invoke(4, "renew", "a", "nil");
        script.fail(refused, "lease_ended");
        let report = recovery(&script.history(), RULES);
        assert!(
            report.findings[0].words.contains("none of 1 `renew`"),
            "{report:?}"
        );
    }

    #[test]
    fn too_little_after_healing_or_no_healing_at_all_tells_nothing() {
        let mut script = broken_then_healed();
        script.call(3, "acquire", "a", "nil", "1");
        let report = recovery(&script.history(), RULES);
        assert!(
            matches!(report.conclusion, Conclusion::Unknown(_)),
            "{report:?}"
        );
        let report = recovery(&Script::new().history(), RULES);
        assert!(
            matches!(report.conclusion, Conclusion::Unknown(_)),
            "{report:?}"
        );
    }
}
