//! The first illegal step: drawn by the checker's own page, from what `results.json` keeps of it and the
//! history as it was recorded.

use std::collections::BTreeSet;

use jepsen_checker::explain::read_violation;
use jepsen_checker::html::{Fragment, TimelineOptions};
use jepsen_checker::{
    History, Method, OperationId, Origin, PartitionReport, Report, Statistics, Value, Verdict,
    Violation,
};
use serde_json::Value as Json;

use super::moments::locks;
use crate::run_directory::{CheckResult, FindingRecord};

/// The most violations that are drawn.
const MOST_DRAWN: usize = 2;

/// One violation, drawn.
pub(super) struct ViolationView {
    pub(super) check: String,
    /// Escaped already.
    pub(super) markup: String,
}

/// What contradicts the order that positions claim, as evidence: the operations' lines are in the report.
pub(super) fn contradiction(report: &Json) -> Option<FindingRecord> {
    let contradiction = &report["contradiction"];
    let operations = contradiction["operations"].as_array()?;
    let events = operations
        .iter()
        .flat_map(|operation| [&operation["invocation"], &operation["completion"]]);
    Some(FindingRecord {
        words: contradiction["words"].as_str()?.to_owned(),
        lines: events.filter_map(|event| event["line"].as_u64()).collect(),
    })
}

/// The violations that checks keep.
pub(super) fn violations(
    checks: &[&CheckResult],
    history: Option<&History>,
    problems: &mut Vec<String>,
) -> Vec<ViolationView> {
    let mut views = Vec::new();
    for check in checks {
        let violation = check.report.as_ref().map(|report| &report["violation"]);
        let (Some(violation @ Json::Object(_)), Some(history)) = (violation, history) else {
            continue;
        };
        if views.len() == MOST_DRAWN {
            continue;
        }
        match read_violation(history, violation) {
            Ok(violation) => views.push(ViolationView {
                check: check.check.clone(),
                markup: draw(history, violation),
            }),
            Err(problem) => problems.push(format!(
                "the first illegal step of {} cannot be drawn: {problem}",
                check.check
            )),
        }
    }
    views
}

fn draw(history: &History, violation: Violation) -> String {
    let operations = operations(history, &violation);
    let verdict = Verdict::Invalid(Box::new(violation.clone()));
    let report = Report {
        model: "",
        verdict: verdict.clone(),
        partitions: vec![PartitionReport {
            objects: violation.objects,
            operations,
            verdict,
            method: Method::Search,
            statistics: Statistics::default(),
        }],
    };
    Fragment::of_report("", history, &report, TimelineOptions::default()).to_string()
}

/// What belongs in the picture: operations on the same locks, those that the explanation names, and those of
/// leases that did any of these.
fn operations(history: &History, violation: &Violation) -> Vec<OperationId> {
    let objects: BTreeSet<&Value> = violation.objects.iter().collect();
    let orders = &violation.partial_linearizations;
    let calls = orders.iter().flat_map(|partial| {
        let calls = partial.calls.iter().map(|call| call.origin);
        calls.chain(partial.alternatives.iter().map(|call| call.origin))
    });
    let mut wanted: BTreeSet<OperationId> = calls.map(Origin::operation).collect();
    wanted.insert(violation.stuck);
    let of_resource =
        |function: &str| function.starts_with("guarded-") || function.starts_with("unguarded-");
    for operation in history.operations() {
        let named = locks(operation.key.as_ref(), &operation.input);
        let on_objects = named.iter().any(|lock| objects.contains(lock));
        if on_objects && !of_resource(&operation.function) {
            wanted.insert(operation.id);
        }
    }
    let lease = |id: &OperationId| history.operation(*id).input.field("lease");
    let leases: BTreeSet<&Value> = wanted.iter().filter_map(lease).collect();
    let of_lease = history.operations().iter().filter(|operation| {
        let lease = operation.input.field("lease");
        operation.key.is_none() && lease.is_some_and(|lease| leases.contains(lease))
    });
    let of_lease: Vec<OperationId> = of_lease.map(|operation| operation.id).collect();
    wanted.extend(of_lease);
    wanted.into_iter().collect()
}
