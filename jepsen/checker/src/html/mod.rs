//! One self-contained page: verdict first, then the first illegal step with its alternatives, then
//! the picture. It loads nothing from anywhere and works from a file. It decides nothing.

mod timeline;
mod words;

use std::fmt;

use askama::Template;

use crate::explain;
use crate::lock_checks::CheckReport;
use crate::{
    Alternative, History, Origin, PartialLinearization, PartitionReport, Report, Verdict,
    Violation, WhyNot,
};

pub use timeline::TimelineOptions;
use timeline::{Timeline, timeline};

/// So many calls before the stuck one are listed.
const CALLS_LISTED: usize = 200;
/// So many calls that could come next are listed for each dead end.
const ALTERNATIVES_LISTED: usize = 100;
/// So many parts have a picture of their own.
const PARTS_DRAWN: usize = 5;
/// So many parts have a line in the table.
const PARTS_LISTED: usize = 500;

/// What the page says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageVerdict {
    /// All is well.
    Valid,
    /// Something is wrong.
    Invalid,
    /// Not enough is known.
    Unknown,
}

impl PageVerdict {
    fn name(self) -> &'static str {
        match self {
            PageVerdict::Valid => "valid",
            PageVerdict::Invalid => "invalid",
            PageVerdict::Unknown => "unknown",
        }
    }
}

impl From<&Verdict> for PageVerdict {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Valid { .. } => PageVerdict::Valid,
            Verdict::Invalid(_) => PageVerdict::Invalid,
            Verdict::Unknown(_) => PageVerdict::Unknown,
        }
    }
}

/// A page in the making. Write it out with [`Display`](fmt::Display).
///
/// Everything that comes from a history is escaped. Lanes are drawn from the history's named
/// processes: of `leader`, each `info` event (its value says who) lasts until the next; of any other,
/// `start-F` lasts until `stop-F`, `F` until `heal-F`.
pub struct Page {
    title: String,
    verdict: PageVerdict,
    headline: String,
    facts: Vec<(String, String)>,
    checks: Vec<CheckReport>,
    reports: Vec<ReportView>,
}

impl Page {
    /// A page with a verdict and a sentence that says what it means, and nothing else yet.
    #[must_use]
    pub fn new(title: &str, verdict: PageVerdict, headline: &str) -> Self {
        Page {
            title: title.to_owned(),
            verdict,
            headline: headline.to_owned(),
            facts: Vec::new(),
            checks: Vec::new(),
            reports: Vec::new(),
        }
    }

    /// The page of one report.
    #[must_use]
    pub fn of_report(
        title: &str,
        history: &History,
        report: &Report,
        options: TimelineOptions,
    ) -> Self {
        let headline = match &report.verdict {
            Verdict::Valid { .. } => format!("The history is linearizable as {}.", report.model),
            Verdict::Unknown(reason) => format!("Whether it is linearizable is {reason}."),
            Verdict::Invalid(_) => {
                format!("No order of its operations is legal as {}.", report.model)
            }
        };
        Page::new(title, PageVerdict::from(&report.verdict), &headline)
            .with_report("", history, report, options)
    }

    /// Adds a line of facts: a name and a value.
    #[must_use]
    pub fn with_fact(mut self, name: &str, value: &str) -> Self {
        self.facts.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a table of checks.
    #[must_use]
    pub fn with_checks(mut self, checks: &[CheckReport]) -> Self {
        self.checks.extend_from_slice(checks);
        self
    }

    /// Adds a report with its explanation and pictures, under a heading (which may be empty).
    #[must_use]
    pub fn with_report(
        mut self,
        heading: &str,
        history: &History,
        report: &Report,
        options: TimelineOptions,
    ) -> Self {
        self.reports
            .push(ReportView::of(heading, history, report, options));
        self
    }
}

impl fmt::Display for Page {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let template = PageTemplate {
            page: self,
            css: STYLE,
            script: SCRIPT,
        };
        template.render_into(out).map_err(|_| fmt::Error)
    }
}

/// The style sheet that a page with a [`Fragment`] needs.
pub const STYLE: &str = include_str!("../../templates/page.css");
/// The script that a page with a [`Fragment`] needs, after everything else in the body. It wants
/// `<aside id="inspector" hidden><b></b><pre></pre><p></p></aside>` there.
pub const SCRIPT: &str = include_str!("../../templates/page.js");

/// What a [`Page`] shows of one report, its explanation and pictures, for a page of somebody else's.
/// Write it out with [`Display`](fmt::Display); it is escaped already.
pub struct Fragment(ReportView);

impl Fragment {
    /// Draws a report under a heading, which may be empty.
    #[must_use]
    pub fn of_report(
        heading: &str,
        history: &History,
        report: &Report,
        options: TimelineOptions,
    ) -> Self {
        Fragment(ReportView::of(heading, history, report, options))
    }
}

impl fmt::Display for Fragment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let template = ReportTemplate { report: &self.0 };
        template.render_into(out).map_err(|_| fmt::Error)
    }
}

#[derive(Template)]
#[template(path = "report.html")]
struct ReportTemplate<'r> {
    report: &'r ReportView,
}

#[derive(Template)]
#[template(path = "page.html")]
struct PageTemplate<'p> {
    page: &'p Page,
    css: &'static str,
    script: &'static str,
}

struct ReportView {
    heading: String,
    parts: Vec<PartView>,
    table: Vec<PartRow>,
    /// Parts without a picture or a line.
    undrawn: usize,
    unlisted: usize,
}

struct PartRow {
    name: String,
    verdict: &'static str,
    operations: usize,
}

struct PartView {
    name: Option<String>,
    verdict: &'static str,
    words: String,
    violation: Option<ViolationView>,
    timeline: Timeline,
}

struct ViolationView {
    place: String,
    stuck: String,
    stuck_origin: String,
    dead_ends: Vec<DeadEndView>,
}

struct DeadEndView {
    name: String,
    hidden: usize,
    calls: Vec<CallRow>,
    state: String,
    alternatives: Vec<AlternativeRow>,
    alternatives_hidden: usize,
}

struct CallRow {
    number: usize,
    call: String,
    origin: String,
    operation: u32,
    state: String,
}

struct AlternativeRow {
    call: String,
    origin: String,
    operation: u32,
    refused: bool,
    why: String,
}

impl ReportView {
    fn of(heading: &str, history: &History, report: &Report, options: TimelineOptions) -> Self {
        // The violations by when they show, then what is unknown, then the largest valid part.
        let mut parts: Vec<&PartitionReport> = report.partitions.iter().collect();
        parts.sort_by_key(|part| match &part.verdict {
            Verdict::Invalid(violation) => (0, violation.prefix_end.0 as usize),
            Verdict::Unknown(_) => (1, usize::MAX - part.operations.len()),
            Verdict::Valid { .. } => (2, usize::MAX - part.operations.len()),
        });
        let wanted = parts
            .iter()
            .filter(|part| !part.verdict.is_valid())
            .count()
            .max(1);
        let drawn = wanted.min(PARTS_DRAWN).min(parts.len());
        let row = |part: &&PartitionReport| PartRow {
            name: explain::objects_words(&part.objects).unwrap_or_else(|| "all".to_owned()),
            verdict: explain::verdict_name(&part.verdict),
            operations: part.operations.len(),
        };
        let table: Vec<PartRow> = if parts.len() > 1 {
            parts.iter().take(PARTS_LISTED).map(row).collect()
        } else {
            Vec::new()
        };
        ReportView {
            heading: heading.to_owned(),
            parts: parts[..drawn]
                .iter()
                .map(|part| PartView::of(history, part, options))
                .collect(),
            unlisted: if table.is_empty() {
                0
            } else {
                parts.len() - table.len()
            },
            table,
            undrawn: wanted.saturating_sub(drawn),
        }
    }
}

impl PartView {
    fn of(history: &History, part: &PartitionReport, options: TimelineOptions) -> Self {
        let (violation, words) = match &part.verdict {
            Verdict::Invalid(violation) => {
                (Some(ViolationView::of(history, violation)), String::new())
            }
            Verdict::Valid { .. } => (
                None,
                format!("{} operations, linearizable.", part.operations.len()),
            ),
            Verdict::Unknown(reason) => (
                None,
                format!("{} operations: {reason}.", part.operations.len()),
            ),
        };
        PartView {
            name: explain::objects_words(&part.objects),
            verdict: explain::verdict_name(&part.verdict),
            words,
            violation,
            timeline: timeline(history, part, options),
        }
    }
}

impl ViolationView {
    fn of(history: &History, violation: &Violation) -> Self {
        ViolationView {
            place: explain::place_words(history, violation.prefix_end),
            stuck: explain::operation_words(history, violation.stuck),
            stuck_origin: explain::origin_words(history, Origin::Operation(violation.stuck)),
            dead_ends: violation
                .partial_linearizations
                .iter()
                .enumerate()
                .map(|(number, end)| DeadEndView::of(history, number, end))
                .collect(),
        }
    }
}

impl DeadEndView {
    fn of(history: &History, number: usize, end: &PartialLinearization) -> Self {
        let hidden = end.calls.len().saturating_sub(CALLS_LISTED);
        let call = |(number, call): (usize, &crate::LinearizedCall)| CallRow {
            number,
            call: call.call.clone(),
            origin: explain::origin_words(history, call.origin),
            operation: call.origin.operation().0,
            state: call.state.clone(),
        };
        let alternative = |alternative: &Alternative| AlternativeRow {
            call: alternative.call.clone(),
            origin: explain::origin_words(history, alternative.origin),
            operation: alternative.origin.operation().0,
            refused: matches!(alternative.why, WhyNot::Refused { .. }),
            why: match &alternative.why {
                WhyNot::Refused { reason } => reason.clone(),
                WhyNot::LeadsNowhere { states } => {
                    format!(
                        "possible, then {}; nothing is explained by it",
                        states.join(" or ")
                    )
                }
            },
        };
        let listed = end.alternatives.len().min(ALTERNATIVES_LISTED);
        DeadEndView {
            name: if number == 0 {
                "Longest partial linearization".to_owned()
            } else {
                format!("Dead end {}", number + 1)
            },
            hidden,
            calls: (1..).zip(&end.calls).skip(hidden).map(call).collect(),
            state: end.state.clone(),
            alternatives: end.alternatives[..listed].iter().map(alternative).collect(),
            alternatives_hidden: end.alternatives.len() - listed,
        }
    }
}

#[cfg(test)]
mod tests;
