//! Reports as text for a terminal.

use std::fmt::Write;

use super::{
    conclusion_words, contradiction_words, objects_words, operation_words, origin_words,
    place_words,
};
use crate::lock_checks::CheckReport;
use crate::witness::{WitnessReport, WitnessVerdict};
use crate::{History, LinearizedCall, PartialLinearization, Report, Verdict, Violation, WhyNot};

/// So many calls before the stuck one are shown; the page and the JSON have them all.
const CALLS_SHOWN: usize = 12;
/// So many other dead ends are shown.
const DEAD_ENDS_SHOWN: usize = 4;
/// So many calls that could come next are shown for each.
const ALTERNATIVES_SHOWN: usize = 20;

/// A verdict, and the explanation of an invalid one: the shortest illegal prefix, the longest
/// partial linearization, the state behind it, and why nothing can come next.
#[must_use]
pub fn report_text(history: &History, report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = match &report.verdict {
        Verdict::Valid { .. } => writeln!(out, "valid: linearizable as {}", report.model),
        Verdict::Unknown(reason) => writeln!(out, "unknown: {reason}"),
        Verdict::Invalid(violation) => violation_text(&mut out, history, report, violation),
    };
    out
}

fn violation_text(
    out: &mut String,
    history: &History,
    report: &Report,
    violation: &Violation,
) -> std::fmt::Result {
    let of = objects_words(&violation.objects)
        .map(|it| format!(" of {it}"))
        .unwrap_or_default();
    writeln!(
        out,
        "invalid: no order of the operations{of} is legal as {}",
        report.model
    )?;
    writeln!(out)?;
    writeln!(
        out,
        "The shortest illegal prefix ends at {}: nothing explains\n  {}  ({})",
        place_words(history, violation.prefix_end),
        operation_words(history, violation.stuck),
        origin_words(history, crate::Origin::Operation(violation.stuck)),
    )?;
    let Some((longest, others)) = violation.partial_linearizations.split_first() else {
        return Ok(());
    };
    writeln!(out)?;
    writeln!(
        out,
        "The longest order that explains everything before it ends with"
    )?;
    calls_text(out, history, &longest.calls)?;
    dead_end_text(out, history, longest)?;
    for (number, other) in (2..).zip(others.iter().take(DEAD_ENDS_SHOWN)) {
        writeln!(
            out,
            "\nDead end {number} (after {} calls)",
            other.calls.len()
        )?;
        dead_end_text(out, history, other)?;
    }
    if others.len() > DEAD_ENDS_SHOWN {
        writeln!(
            out,
            "\n{} further dead ends are not shown",
            others.len() - DEAD_ENDS_SHOWN
        )?;
    }
    Ok(())
}

fn calls_text(out: &mut String, history: &History, calls: &[LinearizedCall]) -> std::fmt::Result {
    let hidden = calls.len().saturating_sub(CALLS_SHOWN);
    if calls.is_empty() {
        writeln!(out, "  (nothing: it is the first that must take effect)")?;
    }
    if hidden > 0 {
        writeln!(out, "  … {hidden} calls before")?;
    }
    let shown = &calls[hidden..];
    let width = shown
        .iter()
        .map(|call| call.call.chars().count())
        .max()
        .unwrap_or(0)
        .min(40);
    for call in shown {
        writeln!(
            out,
            "  {:width$}  then {}  ({})",
            call.call,
            call.state,
            origin_words(history, call.origin)
        )?;
    }
    Ok(())
}

fn dead_end_text(
    out: &mut String,
    history: &History,
    end: &PartialLinearization,
) -> std::fmt::Result {
    writeln!(
        out,
        "In the state {}, what could come next does not help:",
        end.state
    )?;
    for alternative in end.alternatives.iter().take(ALTERNATIVES_SHOWN) {
        let why = match &alternative.why {
            WhyNot::Refused { reason } => format!("refused: {reason}"),
            WhyNot::LeadsNowhere { states } => {
                format!(
                    "possible, then {}; it explains nothing either",
                    states.join(" or ")
                )
            }
        };
        let origin = origin_words(history, alternative.origin);
        writeln!(out, "  {}  ({origin})\n      {why}", alternative.call)?;
    }
    let hidden = end.alternatives.len().saturating_sub(ALTERNATIVES_SHOWN);
    if hidden > 0 {
        writeln!(out, "  … and {hidden} more")?;
    }
    Ok(())
}

/// What became of the order that the positions claim.
#[must_use]
pub fn witness_text(history: &History, report: &WitnessReport) -> String {
    let decided = format!(
        "{} operations in the order of their positions; of unknown outcome, {} took effect and {} did \
         not",
        report.placed, report.unknown_applied, report.unknown_dropped
    );
    match &report.verdict {
        WitnessVerdict::Proven => {
            format!(
                "valid: proven by the log, linearizable as {} ({decided})\n",
                report.model
            )
        }
        WitnessVerdict::Refuted(contradiction) => format!(
            "invalid: the positions are no linearization: {}\n",
            contradiction_words(history, contradiction)
        ),
        WitnessVerdict::Unknown(why) => format!("unknown: {why}\n"),
    }
}

/// Checks, a line each, with the findings of those that have some.
#[must_use]
pub fn checks_text(checks: &[CheckReport]) -> String {
    let mut out = String::new();
    for check in checks {
        // Writing to a string cannot fail.
        let _ = check_text(&mut out, check);
    }
    out
}

fn check_text(out: &mut String, check: &CheckReport) -> std::fmt::Result {
    writeln!(
        out,
        "{}: {} ({} examined)",
        check.name,
        conclusion_words(&check.conclusion),
        check.examined
    )?;
    for finding in &check.findings {
        writeln!(out, "  {}", finding.words)?;
    }
    let hidden = check.findings_in_all - check.findings.len();
    if hidden > 0 {
        writeln!(out, "  … and {hidden} more")?;
    }
    Ok(())
}
