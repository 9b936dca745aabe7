//! Reports as JSON for programs. Field names are promises: they are added to and never change.

use serde_json::{Value as Json, json};

use super::{contradiction_words, operation_words, unknown_name, verdict_name, witness_name};
use crate::lock_checks::{CheckReport, Conclusion};
use crate::witness::{Contradiction, WitnessReport, WitnessVerdict};
use crate::{
    EventIndex, History, LinearizedCall, Method, OperationId, Origin, PartialLinearization, Report,
    Statistics, Value, Verdict, Violation, WhyNot,
};

/// A report. `verdict` is `valid`, `invalid` or `unknown`; `violation` explains an invalid one;
/// `partitions` has every part. Values are in EDN; operations and events are numbered from 0, `line` is
/// that of the input from 1.
#[must_use]
pub fn report_json(history: &History, report: &Report) -> Json {
    let partitions: Vec<Json> = report
        .partitions
        .iter()
        .map(|part| {
            let mut json = verdict_json(history, &part.verdict);
            json["objects"] = objects(&part.objects);
            json["operations"] = part.operations.len().into();
            json["method"] = method_name(part.method).into();
            json["statistics"] = statistics(part.statistics);
            json
        })
        .collect();
    let mut json = verdict_json(history, &report.verdict);
    json["model"] = report.model.into();
    json["events"] = history.events().len().into();
    json["operations"] = history.operations().len().into();
    json["statistics"] = statistics(report.statistics());
    json["partitions"] = partitions.into();
    json
}

fn verdict_json(history: &History, verdict: &Verdict) -> Json {
    let mut json = json!({ "verdict": verdict_name(verdict) });
    match verdict {
        Verdict::Valid { linearization } if linearization.is_empty() => {}
        Verdict::Valid { linearization } => {
            json["linearization"] = calls(history, linearization);
        }
        Verdict::Invalid(violation) => json["violation"] = violation_json(history, violation),
        Verdict::Unknown(reason) => {
            json["unknown"] =
                json!({ "reason": unknown_name(*reason), "words": reason.to_string() });
        }
    }
    json
}

fn violation_json(history: &History, violation: &Violation) -> Json {
    let partial = violation.partial_linearizations.iter();
    let partial = partial.map(|partial| partial_json(history, partial));
    json!({
        "objects": objects(&violation.objects),
        "stuck": operation(history, violation.stuck),
        "prefix_end": event(history, violation.prefix_end),
        "partial_linearizations": partial.collect::<Vec<_>>(),
    })
}

fn partial_json(history: &History, partial: &PartialLinearization) -> Json {
    let alternatives = partial.alternatives.iter().map(|alternative| {
        let mut json = origin(history, alternative.origin);
        json["call"] = (*alternative.call).into();
        match &alternative.why {
            WhyNot::Refused { reason } => json["refused"] = (**reason).into(),
            WhyNot::LeadsNowhere { states } => json["leads_nowhere"] = states.clone().into(),
        }
        json
    });
    json!({
        "calls": calls(history, &partial.calls),
        "state": partial.state,
        "alternatives": alternatives.collect::<Vec<_>>(),
    })
}

fn calls(history: &History, calls: &[LinearizedCall]) -> Json {
    let one = |call: &LinearizedCall| {
        let mut json = origin(history, call.origin);
        json["call"] = (*call.call).into();
        json["state"] = (*call.state).into();
        json
    };
    calls.iter().map(one).collect::<Vec<_>>().into()
}

/// The lines are where the operation begins and ends; 0 is not told.
fn origin(history: &History, origin: Origin) -> Json {
    let operation = history.operation(origin.operation());
    let mut json = json!({ "operation": operation.id.0 });
    let end = operation.completion.map(|end| history.event(end).line);
    let begin = history.event(operation.invocation).line;
    for (name, line) in [("line", Some(begin)), ("end_line", end)] {
        if let Some(line) = line.filter(|line| *line > 0) {
            json[name] = line.into();
        }
    }
    if let Origin::Derived(_) = origin {
        json["derived"] = true.into();
    }
    json
}

fn objects(objects: &[Value]) -> Json {
    objects
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .into()
}

fn event(history: &History, index: EventIndex) -> Json {
    let event = history.event(index);
    json!({
        "event": index.0,
        "line": (event.line > 0).then_some(event.line),
        "index": event.recorded_index,
        "time_ns": event.time_ns,
    })
}

fn operation(history: &History, id: OperationId) -> Json {
    let operation = history.operation(id);
    json!({
        "operation": id.0,
        "process": operation.client,
        "words": operation_words(history, id),
        "invocation": event(history, operation.invocation),
        "completion": operation.completion.map(|index| event(history, index)),
    })
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::Search => "search",
        Method::UniqueValues => "unique_values",
        Method::UniqueTokens => "unique_tokens",
    }
}

fn statistics(statistics: Statistics) -> Json {
    json!({
        "calls": statistics.calls,
        "steps": statistics.steps,
        "configurations": statistics.configurations,
        "memory_peak_bytes": statistics.memory_peak_bytes,
    })
}

/// What the witness found. `verdict` is `proven`, `refuted` or `unknown`; `contradiction` says how a
/// refuted one fails.
#[must_use]
pub fn witness_json(history: &History, report: &WitnessReport) -> Json {
    let mut json = json!({
        "verdict": witness_name(&report.verdict),
        "model": report.model,
        "placed": report.placed,
        "unknown_applied": report.unknown_applied,
        "unknown_dropped": report.unknown_dropped,
    });
    match &report.verdict {
        WitnessVerdict::Proven => {}
        WitnessVerdict::Unknown(why) => json["unknown"] = json!({ "words": why }),
        WitnessVerdict::Refuted(contradiction) => {
            let (kind, ids): (_, Vec<OperationId>) = match contradiction {
                Contradiction::RealTime {
                    ended_first,
                    began_later,
                    ..
                } => ("real_time", vec![*ended_first, *began_later]),
                Contradiction::Refused { operation, .. } => ("refused", vec![*operation]),
                Contradiction::NotInLog { operation, .. } => ("not_in_log", vec![*operation]),
                Contradiction::SamePosition { operations, .. } => {
                    ("same_position", operations.to_vec())
                }
            };
            let operations: Vec<Json> = ids.iter().map(|id| operation(history, *id)).collect();
            json["contradiction"] = json!({
                "kind": kind,
                "operations": operations,
                "words": contradiction_words(history, contradiction),
            });
        }
    }
    json
}

/// What the checks found, in order.
#[must_use]
pub fn checks_json(checks: &[CheckReport]) -> Json {
    let one = |check: &CheckReport| {
        let findings = check.findings.iter().map(|finding| {
            let operations: Vec<u32> = finding.operations.iter().map(|id| id.0).collect();
            json!({ "operations": operations, "words": finding.words })
        });
        let mut json = json!({
            "name": check.name,
            "promise": check.promise,
            "conclusion": check.conclusion.name(),
            "examined": check.examined,
            "findings": findings.collect::<Vec<_>>(),
            "findings_in_all": check.findings_in_all,
        });
        if let Conclusion::Unknown(why) = &check.conclusion {
            json["unknown"] = json!({ "words": why });
        }
        json
    };
    checks.iter().map(one).collect::<Vec<_>>().into()
}
