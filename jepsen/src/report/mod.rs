//! The report: one page that loads nothing from anywhere, made from a run's folder and from nothing else.
//! The verdict first, check by check; then how to repeat it, the evidence, and what happened side by side.
//! It judges nothing. It is as small for a long run as for a short one: what it leaves out, it says.

mod charts;
mod holds;
mod lanes;
mod logs;
mod moments;
mod scale;
mod sources;
#[cfg(test)]
mod tests;
mod violation;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use askama::Template;
use jepsen_checker::html;
use jepsen_checker::lock_checks::LockRecord;
use jepsen_checker::{History, Outcome, Value};

use crate::arguments::ReportArguments;
use crate::exit;
use crate::output::eprint_line;
use crate::run_directory::{
    CheckResult, FaultOutcome, FaultRecord, NODES, OperationCount, REPORT, RunDirectory, RunVerdict,
};
use charts::{LatencyChart, LatencyRow, RateChart, TokenChart};
use lanes::Lanes;
use logs::LogLine;
use moments::{ByLine, EventRow, Moment};
use scale::{Tick, TimeScale};
use sources::Sources;
use violation::ViolationView;

/// More of an explanation is cut off: it is in `results.json`.
const MOST_EXPLANATION: usize = 20_000;
/// More findings of one check are not listed.
const MOST_FINDINGS: usize = 25;
/// More lines of one finding are not listed.
const MOST_LINES: usize = 8;
/// More reasons are not listed.
const MOST_REASONS: usize = 40;
/// The room that a moment's number takes above a chart.
const LABEL_WIDTH: f64 = 24.0;
/// More shaded periods are not drawn behind charts.
const MOST_SHADES: usize = 400;

/// `palisade-jepsen report DIR`; the exit status.
pub(crate) fn run(arguments: &ReportArguments) -> u8 {
    match write(&RunDirectory::open(&arguments.dir)) {
        Ok(page) => {
            eprint_line(&format!("the report is {}", page.display()));
            exit::VALID
        }
        Err(problem) => {
            eprint_line(&problem);
            exit::UNUSABLE
        }
    }
}

/// Makes the page of a run from its folder, and puts it there as `report.html`: its path. Files that are
/// missing or damaged are told on the page; only without `run.json` there is none.
///
/// # Errors
///
/// What cannot be read or written, in words.
pub(crate) fn write(directory: &RunDirectory) -> Result<PathBuf, String> {
    let sources = Sources::read(directory)?;
    let markup = render(&sources)?;
    let path = directory.path(REPORT);
    let partial = directory.path(&format!("{REPORT}.partial"));
    std::fs::write(&partial, markup)
        .and_then(|()| std::fs::rename(&partial, &path))
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    Ok(path)
}

fn render(sources: &Sources) -> Result<String, String> {
    let template = ReportTemplate {
        page: Page::of(sources),
        checker_css: html::STYLE,
        css: include_str!("../../templates/report.css"),
        checker_script: html::SCRIPT,
        script: include_str!("../../templates/report.js"),
    };
    template
        .render()
        .map_err(|error| format!("the page cannot be made: {error}"))
}

#[derive(Template)]
#[template(path = "report.html")]
struct ReportTemplate {
    page: Page,
    checker_css: &'static str,
    css: &'static str,
    checker_script: &'static str,
    script: &'static str,
}

struct Page {
    title: String,
    verdict: RunVerdict,
    meaning: &'static str,
    why: String,
    seed: u64,
    command: String,
    facts: Vec<(&'static str, String)>,
    left_out: Vec<String>,
    problems: Vec<String>,
    checks: Vec<CheckView>,
    violations: Vec<ViolationView>,
    moments: Vec<MomentView>,
    moments_left_out: usize,
    clock_note: &'static str,
    faults: Vec<FaultRow>,
    fault_reasons: Vec<String>,
    operations: Vec<OperationCount>,
    total: Option<OperationCount>,
    refusals: Vec<Refusal>,
    time_ticks: Vec<Tick>,
    shades: Vec<Shade>,
    lane_shades: Vec<Shade>,
    marks: Vec<Mark>,
    lanes: Lanes,
    latency_rows: Vec<LatencyRow>,
    latency: Vec<LatencyChart>,
    rate: Option<RateChart>,
    tokens: Option<TokenChart>,
    nodes: Vec<NodeView>,
    files: Vec<FileView>,
}

struct CheckView {
    name: String,
    verdict: &'static str,
    word: &'static str,
    promise: String,
    counts: bool,
    examined: String,
    summary: String,
    rest: String,
    findings: Vec<FindingView>,
}

struct FindingView {
    words: String,
    lines: String,
    moment: Option<usize>,
}

struct MomentView {
    number: usize,
    check: String,
    time: String,
    words: String,
    around: String,
    events: Vec<EventRow>,
    logs: Vec<ExcerptView>,
}

struct ExcerptView {
    name: String,
    href: String,
    lines: Vec<LogLine>,
}

struct FaultRow {
    name: String,
    planned: u64,
    installed: u64,
    skipped: u64,
    indeterminate: u64,
    in_effect: String,
    never: bool,
}

struct Refusal {
    function: String,
    outcome: &'static str,
    reason: String,
    times: u64,
}

/// A fault behind a chart.
struct Shade {
    x: f64,
    width: f64,
    doubtful: bool,
    title: String,
}

/// A moment in the drawings.
struct Mark {
    number: usize,
    /// Its number and those of the marks that would be written over it; empty if it is one of these.
    label: String,
    chart_x: f64,
    lane_x: f64,
}

struct NodeView {
    name: String,
    is_there: bool,
    href: String,
    href_words: String,
    size: String,
    lines: String,
    warnings: u64,
    errors: u64,
    panics: Vec<LogLine>,
    panics_in_all: u64,
}

struct FileView {
    href: String,
    size: String,
    what: &'static str,
}

/// A value for people: words without quotation marks, the rest as EDN.
fn words(value: &Value) -> String {
    value
        .as_words()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn time_words(time_ns: u64) -> String {
    format!("{:.3} s", time_ns as f64 / 1e9)
}

fn size_words(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// A path below the run's folder as a link: nothing in it can be taken for markup or another scheme.
fn link(path: &str) -> String {
    let mut link = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_./".contains(&byte) {
            link.push(char::from(byte));
        } else {
            link.push_str(&format!("%{byte:02X}"));
        }
    }
    link
}

impl Page {
    fn of(sources: &Sources) -> Self {
        let run = &sources.run;
        let mut problems = sources.problems.clone();
        let results = sources.results.as_ref();
        let mut checks: Vec<&CheckResult> = results.iter().flat_map(|it| &it.checks).collect();
        // What decides the verdict comes first; the order within is the harness's.
        checks.sort_by_key(|check| match (check.counts, check.verdict) {
            (true, RunVerdict::Invalid) => 0,
            (true, RunVerdict::Unknown) => 1,
            (true, RunVerdict::Valid) => 2,
            (false, RunVerdict::Invalid) => 3,
            (false, _) => 4,
        });
        let end_ns = sources.end_ns();
        let evidence: BTreeSet<u64> = checks
            .iter()
            .filter(|check| check.verdict != RunVerdict::Valid)
            .flat_map(|check| check.findings.iter().take(MOST_FINDINGS))
            .flat_map(|finding| finding.lines.iter().copied())
            .collect();
        let history = sources.history.as_ref();
        let by_line = history.map(|history| ByLine::of(history, &evidence));
        let (found, moments_left_out) = by_line
            .as_ref()
            .map(|by_line| moments::moments(&checks, by_line))
            .unwrap_or_default();
        let named: BTreeSet<Value> = by_line
            .as_ref()
            .map(|by_line| by_line.locks(&evidence.iter().copied().collect::<Vec<_>>()))
            .unwrap_or_default();
        let record = history.and_then(|history| match LockRecord::read(history) {
            Ok(record) => Some(record),
            Err(error) => {
                problems.push(format!("holders and tokens are not shown: {error}"));
                None
            }
        });
        let holds = record
            .as_ref()
            .map(|record| holds::holds(record, end_ns))
            .unwrap_or_default();
        let violations = violation::violations(&checks, history, &mut problems);
        let calls = history.map(charts::calls).unwrap_or_default();
        let (latency_rows, latency) = charts::latency(&calls, end_ns);
        let (nodes, excerpts) = nodes(sources, &found, &mut problems);
        let (operations, total) = operations(sources, &mut problems);
        let (chart_time, lane_time) = (TimeScale::chart(end_ns), TimeScale::full(end_ns));
        let verdict = results.map_or(RunVerdict::Unknown, |results| results.verdict);
        Page {
            title: format!(
                "{} on {}, {} nodes, seed {}",
                run.workload,
                run.system,
                run.nodes.len(),
                run.seed
            ),
            verdict,
            meaning: match (verdict, results) {
                (RunVerdict::Valid, _) => {
                    "Nothing broken was found, and all that was planned happened."
                }
                (RunVerdict::Invalid, _) => "A promise was broken.",
                (RunVerdict::Unknown, Some(_)) => {
                    "Nothing broken was found, but this run does not show that nothing is."
                }
                (RunVerdict::Unknown, None) => "This run was not judged.",
            },
            why: results.map_or_else(String::new, |results| results.why.clone()),
            seed: run.seed,
            command: run.command.clone(),
            facts: facts(sources),
            left_out: run.left_out.clone(),
            checks: checks
                .iter()
                .map(|check| check_view(check, &found))
                .collect(),
            violations,
            time_ticks: chart_time.ticks(10.0),
            shades: shades(&sources.faults, chart_time),
            lane_shades: shades(&sources.faults, lane_time),
            marks: marks(&found, chart_time, lane_time),
            moments: found
                .into_iter()
                .zip(excerpts)
                .map(|(moment, logs)| MomentView {
                    around: moments::circumstances(
                        moment.time_ns,
                        &sources.faults,
                        &sources.samples,
                    ),
                    number: moment.number,
                    check: moment.check,
                    time: time_words(moment.time_ns),
                    words: moment.words,
                    events: moment.events,
                    logs,
                })
                .collect(),
            moments_left_out,
            clock_note: match run.clock_began_unix_ms {
                Some(_) => {
                    "Node logs are matched by the machine's wall clock. Faults of the clock shift them."
                }
                None => {
                    "This run did not record when its clock began: node logs are matched from its start, \
                     and are off by the time that the cluster took to come up."
                }
            },
            faults: fault_rows(sources),
            fault_reasons: fault_reasons(&sources.faults),
            operations,
            total,
            refusals: history.map(refusals).unwrap_or_default(),
            lanes: lanes::lanes(&lanes::Input {
                end_ns,
                faults: &sources.faults,
                samples: &sources.samples,
                history,
                holds: &holds,
                named: &named,
            }),
            latency_rows,
            latency,
            rate: charts::rate(&calls, end_ns),
            tokens: record
                .as_ref()
                .and_then(|record| charts::tokens(record, end_ns, &evidence)),
            nodes,
            files: files(sources),
            problems,
        }
    }
}

fn facts(sources: &Sources) -> Vec<(&'static str, String)> {
    let run = &sources.run;
    let at = |unix_ms: u64| {
        let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(unix_ms));
        time.map_or_else(
            || unix_ms.to_string(),
            |time| humantime::format_rfc3339_seconds(time).to_string(),
        )
    };
    let seconds = |ms: u64| format!("{} s", scale::short(ms as f64 / 1e3));
    let mut facts = vec![
        ("system", run.system.clone()),
        ("version", run.system_version.clone().unwrap_or_default()),
        ("binary", run.binary.clone()),
        ("workload", run.workload.clone()),
        ("nemesis", run.nemeses.join(", ")),
        ("backend", run.backend.clone()),
        ("nodes", run.nodes.join(", ")),
        ("clients", run.clients.to_string()),
        ("rate aimed at", format!("{} per s", scale::short(run.rate))),
        ("time", seconds(run.time_ms)),
        ("recovery", seconds(run.recovery_ms)),
        ("began", at(run.started_unix_ms)),
        (
            "ended",
            run.ended_unix_ms
                .map_or_else(|| "it was cut off".to_owned(), at),
        ),
        ("harness", run.harness_version.clone()),
    ];
    if let Some(results) = &sources.results {
        facts.push(("judged in", seconds(results.judged_ms)));
    }
    facts.retain(|(_, value)| !value.is_empty());
    facts
}

fn check_view(check: &CheckResult, moments: &[Moment]) -> CheckView {
    let explanation = lanes::cut(check.explanation.trim_end(), MOST_EXPLANATION);
    let mut lines = explanation.lines();
    let summary = lines.next().unwrap_or_default().to_owned();
    let has_more = lines.next().is_some();
    let moment = moments.iter().find(|moment| moment.check == check.check);
    CheckView {
        name: check.check.clone(),
        verdict: check.verdict.name(),
        word: match check.verdict {
            RunVerdict::Valid => "kept",
            RunVerdict::Invalid => "broken",
            RunVerdict::Unknown => "not shown",
        },
        promise: check.promise.clone(),
        counts: check.counts,
        examined: scale::grouped(check.examined),
        rest: if has_more { explanation } else { String::new() },
        summary,
        findings: check
            .findings
            .iter()
            .take(MOST_FINDINGS)
            .map(|finding| FindingView {
                words: lanes::cut(&finding.words, MOST_EXPLANATION / 10),
                lines: lines_words(&finding.lines),
                moment: moment
                    .filter(|moment| moment.words == finding.words)
                    .map(|moment| moment.number),
            })
            .collect(),
    }
}

fn lines_words(lines: &[u64]) -> String {
    let shown: Vec<String> = lines
        .iter()
        .take(MOST_LINES)
        .map(ToString::to_string)
        .collect();
    let more = if lines.len() > MOST_LINES {
        ", …"
    } else {
        ""
    };
    format!("{}{more}", shown.join(", "))
}

fn shades(faults: &[FaultRecord], time: TimeScale) -> Vec<Shade> {
    faults
        .iter()
        .filter(|fault| fault.outcome != FaultOutcome::Skipped)
        .take(MOST_SHADES)
        .map(|fault| {
            let x = time.x(fault.begin_ns);
            Shade {
                x,
                width: (time.x(fault.end_ns) - x).max(0.5),
                doubtful: fault.outcome == FaultOutcome::Indeterminate,
                title: format!(
                    "{}: {}\n{}",
                    fault.fault,
                    fault.target,
                    lanes::period(fault.begin_ns, fault.end_ns)
                ),
            }
        })
        .collect()
}

fn marks(moments: &[Moment], chart_time: TimeScale, lane_time: TimeScale) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for moment in moments {
        let chart_x = chart_time.x(moment.time_ns);
        let near = |mark: &&mut Mark| {
            !mark.label.is_empty() && (mark.chart_x - chart_x).abs() < LABEL_WIDTH
        };
        let label = match marks.iter_mut().find(near) {
            Some(mark) => {
                mark.label.push_str(&format!(", {}", moment.number));
                String::new()
            }
            None => moment.number.to_string(),
        };
        marks.push(Mark {
            number: moment.number,
            label,
            chart_x,
            lane_x: lane_time.x(moment.time_ns),
        });
    }
    marks
}

/// By fault, as recorded one by one; and what was asked for and never came.
fn fault_rows(sources: &Sources) -> Vec<FaultRow> {
    #[derive(Default)]
    struct Counts {
        installed: u64,
        skipped: u64,
        indeterminate: u64,
        in_effect_ns: u64,
    }
    let mut counts: BTreeMap<(&str, &str), Counts> = BTreeMap::new();
    for fault in &sources.faults {
        let counts = counts.entry((&fault.group, &fault.fault)).or_default();
        match fault.outcome {
            FaultOutcome::Installed => {
                counts.installed += 1;
                counts.in_effect_ns += fault.end_ns.saturating_sub(fault.begin_ns);
            }
            FaultOutcome::Skipped => counts.skipped += 1,
            FaultOutcome::Indeterminate => counts.indeterminate += 1,
        }
    }
    let never = |name: &&String| {
        !matches!(&***name, "all" | "none")
            && !counts
                .keys()
                .any(|(group, fault)| *name == *group || *name == *fault)
    };
    let missing: Vec<FaultRow> = sources
        .run
        .nemeses
        .iter()
        .filter(never)
        .map(|name| FaultRow {
            name: name.clone(),
            planned: 0,
            installed: 0,
            skipped: 0,
            indeterminate: 0,
            in_effect: String::new(),
            never: true,
        })
        .collect();
    let came = counts.iter().map(|((_, fault), counts)| FaultRow {
        name: (*fault).to_owned(),
        planned: counts.installed + counts.skipped + counts.indeterminate,
        installed: counts.installed,
        skipped: counts.skipped,
        indeterminate: counts.indeterminate,
        in_effect: format!("{:.1} s", counts.in_effect_ns as f64 / 1e9),
        never: false,
    });
    came.chain(missing).collect()
}

fn fault_reasons(faults: &[FaultRecord]) -> Vec<String> {
    faults
        .iter()
        .filter(|fault| fault.outcome != FaultOutcome::Installed)
        .take(MOST_REASONS)
        .map(|fault| {
            let became = match fault.outcome {
                FaultOutcome::Skipped => "skipped",
                _ => "indeterminate",
            };
            format!(
                "{} at {}, {} ({}): {}",
                fault.fault,
                time_words(fault.begin_ns),
                fault.target,
                became,
                fault.reason.as_deref().unwrap_or("no reason was recorded")
            )
        })
        .collect()
}

/// The counts of `results.json`, and their sum. If the history has another sum, that is a problem: one
/// of the files is not of this run.
fn operations(
    sources: &Sources,
    problems: &mut Vec<String>,
) -> (Vec<OperationCount>, Option<OperationCount>) {
    let mut recorded = [0_u64; 3];
    for operation in sources.history.iter().flat_map(History::operations) {
        recorded[match operation.outcome {
            Outcome::Ok(_) => 0,
            Outcome::Fail(_) => 1,
            Outcome::Info => 2,
        }] += 1;
    }
    let of = |[ok, fail, info]: [u64; 3]| OperationCount {
        workload: String::new(),
        function: String::new(),
        ok,
        fail,
        info,
    };
    let Some(results) = &sources.results else {
        return (Vec::new(), sources.history.as_ref().map(|_| of(recorded)));
    };
    let told = results.operations.iter().fold([0; 3], |sum, count| {
        [sum[0] + count.ok, sum[1] + count.fail, sum[2] + count.info]
    });
    if sources.history.is_some() && told != recorded {
        problems.push(format!(
            "results.json counts {told:?} operations (ok, refused, unknown), history.jsonl has {recorded:?}: one \
             of them is not of this run, or was changed"
        ));
    }
    (results.operations.clone(), Some(of(told)))
}

/// Why operations were refused, or are unknown: the most frequent reasons.
fn refusals(history: &History) -> Vec<Refusal> {
    let mut counts: BTreeMap<(&str, &'static str, String), u64> = BTreeMap::new();
    for operation in history.operations() {
        let outcome = match operation.outcome {
            Outcome::Ok(_) => continue,
            Outcome::Fail(_) => "refused",
            Outcome::Info => "unknown",
        };
        let error = history
            .completion(operation)
            .and_then(|event| event.error.as_ref());
        let reason = match error {
            Some(error) => words(error.field("code").unwrap_or(error)),
            None if operation.completion.is_none() => "the run ended first".to_owned(),
            None => "not told".to_owned(),
        };
        let key = (&*operation.function, outcome, without_numbers(&reason));
        *counts.entry(key).or_default() += 1;
    }
    let mut refusals: Vec<Refusal> = counts
        .into_iter()
        .map(|((function, outcome, reason), times)| Refusal {
            function: function.to_owned(),
            outcome,
            reason,
            times,
        })
        .collect();
    refusals.sort_by_key(|refusal| std::cmp::Reverse(refusal.times));
    refusals.truncate(MOST_REASONS / 2);
    refusals
}

/// So that a sentence counts once, whichever port or time is in it: long numbers are left out.
fn without_numbers(reason: &str) -> String {
    let mut kept = String::new();
    for part in reason.split_inclusive(|letter: char| !letter.is_ascii_digit()) {
        let digits = part.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        if digits.len() > 3 {
            kept.push('#');
            kept.push_str(&part[digits.len()..]);
        } else {
            kept.push_str(part);
        }
    }
    lanes::cut(&kept, 160)
}

/// What each node wrote, and for each moment the lines around it.
fn nodes(
    sources: &Sources,
    moments: &[Moment],
    problems: &mut Vec<String>,
) -> (Vec<NodeView>, Vec<Vec<ExcerptView>>) {
    let run = &sources.run;
    let zero_unix_ms = run.clock_began_unix_ms.unwrap_or(run.started_unix_ms);
    let times: Vec<u64> = moments.iter().map(|moment| moment.time_ns).collect();
    let mut views = Vec::new();
    let mut excerpts: Vec<Vec<ExcerptView>> = moments.iter().map(|_| Vec::new()).collect();
    for name in sources.node_names() {
        let path = sources.directory.node(&name).join("log");
        let href_words = format!("{NODES}/{name}/log");
        let href = link(&href_words);
        let (log, is_there) = match logs::read(&path, zero_unix_ms, &times) {
            Ok(log) => (log, true),
            Err(error) => {
                problems.push(format!("{href_words} cannot be read: {error}"));
                (logs::NodeLog::default(), false)
            }
        };
        if is_there && !log.timed && log.lines > 0 {
            problems.push(format!(
                "{href_words} has no times that are understood: no lines of it are shown at moments"
            ));
        }
        for (excerpts, lines) in excerpts.iter_mut().zip(log.excerpts) {
            excerpts.push(ExcerptView {
                name: name.clone(),
                href: href.clone(),
                lines,
            });
        }
        views.push(NodeView {
            name,
            is_there,
            href,
            href_words,
            size: size_words(log.bytes),
            lines: scale::grouped(log.lines),
            warnings: log.warnings,
            errors: log.errors,
            panics: log.panics,
            panics_in_all: log.panics_in_all,
        });
    }
    (views, excerpts)
}

fn files(sources: &Sources) -> Vec<FileView> {
    sources::FILES
        .into_iter()
        .filter_map(|(name, what)| {
            let path: &Path = &sources.directory.path(name);
            let size = std::fs::metadata(path).ok()?.len();
            Some(FileView {
                href: name.to_owned(),
                size: size_words(size),
                what,
            })
        })
        .collect()
}
