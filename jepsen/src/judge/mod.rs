//! From what was recorded to a verdict. Each checker says what it promises and what it found; here is
//! only which of them a run can be held to, and how their conclusions add up. A run is valid when nothing
//! broken was found *and* it shows what it was to show.

mod applied;
mod locks;
mod log_rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jepsen_checker::explain::{checks_text, report_json, report_text, witness_json, witness_text};
use jepsen_checker::lock_checks::{
    CheckReport, Conclusion, Coverage, EventStream, LeaseRules, LockRecord, Recovery, TokenScope,
    coverage, early_expiry, events, exactly_once, fencing, guarded_resource, holder_overlap,
    recovery, unguarded_resource,
};
use jepsen_checker::models::{AnyModel, Expiry, Locks};
use jepsen_checker::witness::WitnessVerdict;
use jepsen_checker::{Budget, Event, History, Malformed, Outcome, Settings, Value, Verdict};

pub(crate) use applied::Applied;
pub(crate) use locks::LockHistory;

use crate::nemesis::{Fault, HEALED};
use crate::recorder::{count_operations, workload_of};
use crate::run_directory::{
    CheckResult, ClusterSample, FaultCount, FaultOutcome, FaultRecord, FindingRecord, Results,
    RunVerdict,
};
use crate::system::Feature;
use crate::workload::Workload;

/// How long the search for a linearization may take.
const SEARCH_LIMIT: Duration = Duration::from_secs(120);
/// How much it may remember.
const SEARCH_MEMORY_BYTES: u64 = 3 << 30;
/// After healing, what still fails until then is forgiven.
pub(crate) const RECOVERY_WITHIN: Duration = Duration::from_secs(5);

const RECOVERY: Recovery = Recovery {
    healed: HEALED,
    within_ms: RECOVERY_WITHIN.as_millis() as u64,
    least_operations: 10,
    least_of_each: 5,
};

/// What a run was to be.
pub(crate) struct Plan<'a> {
    /// The workloads that ran.
    pub(crate) workloads: &'a [Workload],
    /// Those that were asked for by name and could not run, and why.
    pub(crate) missing: &'a [String],
    /// Single faults or groups that must have come.
    pub(crate) planned: &'a [String],
    /// What the system has.
    pub(crate) features: &'a BTreeSet<Feature>,
    /// How its tokens rise.
    pub(crate) token_scope: TokenScope,
    /// How long faults and operations ran side by side.
    pub(crate) time: Duration,
    /// What went wrong with nodes or with the run itself, in words: broken promises.
    pub(crate) failures: &'a [String],
    /// What listeners were told.
    pub(crate) streams: &'a [EventStream],
    /// What nodes said of themselves.
    pub(crate) samples: &'a [ClusterSample],
    /// Why the run shows less than it was to: it was interrupted, or could not be healed.
    pub(crate) cut_short: &'a [String],
}

/// What judging leaves.
pub(crate) struct Judged {
    /// The verdict.
    pub(crate) results: Results,
    /// What the lock models were given.
    pub(crate) locks: LockHistory,
}

/// Judges a run.
pub(crate) fn judge(
    plan: &Plan<'_>,
    history: &History,
    faults: &[FaultRecord],
    applied: Option<&Applied>,
) -> Result<Judged, Malformed> {
    let started = Instant::now();
    let mut checks = vec![nodes_check(plan)];
    let record = LockRecord::read(history)?;
    let locks = locks::lock_history(history, applied)?;
    checks.extend(linearizability(&locks)?);
    if let Some(applied) = applied {
        checks.push(replicas_agree(applied));
        checks.extend(log_checks(applied, plan.samples));
    }
    let log: Vec<EventStream> = applied.map(Applied::event_stream).into_iter().collect();
    if plan.workloads.contains(&Workload::Events) {
        let streams = [plan.streams, &log].concat();
        checks.push(counted(history, &events(&record, &streams)));
    }
    for report in lock_reports(plan, history, &record, &log, faults)? {
        checks.push(counted(history, &report));
    }
    // Those who do not wait for answers show nothing of it.
    let is_patient = |workload: &Workload| *workload != Workload::BlindRetries;
    // Nor does a run whose clients or faults ended before it did.
    if plan.workloads.iter().any(is_patient) && plan.cut_short.is_empty() {
        let patient = without_impatient(history)?;
        checks.push(counted(&patient, &recovery(&patient, RECOVERY)));
    }
    checks.push(coverage_check(plan, history, faults));
    without_clocks(&mut checks, faults);
    let (verdict, why) = sum(&checks);
    let results = Results {
        verdict,
        why,
        checks,
        operations: count_operations(history),
        faults: count_faults(faults),
        judged_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    Ok(Judged { results, locks })
}

/// Where clocks ran wilder than leases are promised for, what rests on time does not count.
fn without_clocks(checks: &mut [CheckResult], faults: &[FaultRecord]) {
    const BY_TIME: [&str; 4] = [
        "linearizability",
        "log witness",
        "early expiry",
        "holder overlap",
    ];
    let drifted = faults.iter().any(|fault| {
        fault.fault == Fault::ClockDrift.name() && fault.outcome != FaultOutcome::Skipped
    });
    let by_time = |check: &&mut CheckResult| BY_TIME.contains(&&*check.check);
    for check in checks.iter_mut().filter(|_| drifted).filter(by_time) {
        check.counts = false;
    }
}

/// Invalid if any check that counts is, else unknown if any is.
fn sum(checks: &[CheckResult]) -> (RunVerdict, String) {
    let named = |verdict| {
        let which = checks
            .iter()
            .filter(|check| check.counts && check.verdict == verdict);
        which.collect::<Vec<_>>()
    };
    let first_words = |check: &CheckResult| {
        let line = check.explanation.lines().next().unwrap_or_default();
        format!("{}: {line}", check.check)
    };
    let broken = named(RunVerdict::Invalid);
    if !broken.is_empty() {
        let words: Vec<String> = broken.iter().map(|check| first_words(check)).collect();
        return (RunVerdict::Invalid, words.join("; "));
    }
    let unknown = named(RunVerdict::Unknown);
    if !unknown.is_empty() {
        let words: Vec<String> = unknown.iter().map(|check| first_words(check)).collect();
        return (RunVerdict::Unknown, words.join("; "));
    }
    let count = checks.iter().filter(|check| check.counts).count();
    let why = format!("{count} checks found what they look for, and all that was planned happened");
    (RunVerdict::Valid, why)
}

fn check(name: &str, promise: &str, verdict: RunVerdict, explanation: String) -> CheckResult {
    CheckResult {
        check: name.to_owned(),
        promise: promise.to_owned(),
        verdict,
        counts: true,
        examined: 0,
        explanation,
        findings: Vec::new(),
        report: None,
    }
}

/// Nodes do not panic, end, or fail to come back.
fn nodes_check(plan: &Plan<'_>) -> CheckResult {
    let promise = "no node panics, ends by itself, or stays away after everything is healed";
    let (verdict, words) = match plan.failures {
        [] => (RunVerdict::Valid, "none did".to_owned()),
        failures => (RunVerdict::Invalid, failures.join("; ")),
    };
    check("nodes", promise, verdict, words)
}

fn lines_of(history: &History, id: jepsen_checker::OperationId) -> Vec<u64> {
    let operation = history.operation(id);
    let events = std::iter::once(operation.invocation).chain(operation.completion);
    events.map(|event| history.event(event).line).collect()
}

/// The search and the witness: two ways to one promise.
fn linearizability(locks: &LockHistory) -> Result<Vec<CheckResult>, Malformed> {
    let promise =
        "every lock, lease and token behaves as if one node did everything, one after the other";
    let model = AnyModel::Locks(Locks::lease_lock(Expiry {
        ttl_ms: 15_000,
        ..Expiry::default()
    }));
    let deadline = Instant::now() + SEARCH_LIMIT;
    let budget = Budget {
        steps: u64::MAX,
        memory_bytes: SEARCH_MEMORY_BYTES,
        stop: &|| Instant::now() >= deadline,
    };
    let settings = Settings {
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        ..Settings::default()
    };
    let report = model.check(&locks.history, &settings, &budget)?;
    let verdict = match &report.verdict {
        Verdict::Valid { .. } => RunVerdict::Valid,
        Verdict::Invalid(_) => RunVerdict::Invalid,
        Verdict::Unknown(_) => RunVerdict::Unknown,
    };
    let decided = if locks.log.is_some() {
        format!(
            "\nof operations of unknown outcome the log shows {} to have taken effect; {} had none, or \
             tell nothing",
            locks.resolved, locks.dropped
        )
    } else {
        String::new()
    };
    let mut searched = check(
        "linearizability",
        promise,
        verdict,
        format!(
            "{}{decided}",
            report_text(&locks.history, &report).trim_end()
        ),
    );
    searched.examined = locks.history.operations().len() as u64;
    if let Verdict::Invalid(violation) = &report.verdict {
        searched.report = Some(report_json(&locks.history, &report));
        searched.findings.push(FindingRecord {
            words: format!(
                "nothing explains {}",
                jepsen_checker::explain::operation_words(&locks.history, violation.stuck)
            ),
            lines: lines_of(&locks.history, violation.stuck),
        });
    }
    let mut results = vec![searched];
    if locks.log.is_some() {
        let report = model.witness(&locks.history, locks.log.as_ref())?;
        let verdict = match &report.verdict {
            WitnessVerdict::Proven => RunVerdict::Valid,
            WitnessVerdict::Refuted(_) => RunVerdict::Invalid,
            WitnessVerdict::Unknown(_) => RunVerdict::Unknown,
        };
        let words = witness_text(&locks.history, &report);
        let promise =
            "the positions of answers are an order that explains them, and the log has them there";
        let mut witnessed = check("log witness", promise, verdict, words.trim_end().to_owned());
        witnessed.examined = report.placed as u64;
        if verdict == RunVerdict::Invalid {
            witnessed.report = Some(witness_json(&locks.history, &report));
        }
        results.push(witnessed);
    }
    // What one of them shows the other need not show as well.
    let one_shows = results
        .iter()
        .any(|result| result.verdict == RunVerdict::Valid);
    for result in &mut results {
        result.counts = !(one_shows && result.verdict == RunVerdict::Unknown);
    }
    Ok(results)
}

/// What is wrong with the log itself, by rule.
fn log_checks(applied: &Applied, samples: &[ClusterSample]) -> [CheckResult; 3] {
    let lease_times = "nothing is done for a lease whose deadline has passed in cluster time, and none \
                       expires before its own";
    [
        (
            "terms",
            "terms never fall along the log, and each has one leader",
            log_rules::terms(applied, samples),
        ),
        ("lease times", lease_times, log_rules::lease_times(applied)),
        (
            "queue order",
            "no request is granted a lock while one waits for it that was there before",
            log_rules::queue_order(applied),
        ),
    ]
    .map(|(name, promise, ruled)| {
        let (verdict, words) = match (&ruled.broken[..], ruled.examined) {
            ([first, ..], _) => (RunVerdict::Invalid, first.clone()),
            ([], 0) => (
                RunVerdict::Unknown,
                "there was nothing to examine".to_owned(),
            ),
            ([], examined) => (RunVerdict::Valid, format!("{examined} examined")),
        };
        let mut result = check(name, promise, verdict, words);
        result.examined = ruled.examined;
        result.findings = findings(&ruled.broken);
        result
    })
}

/// The first of what was found, without lines of the history.
fn findings(words: &[String]) -> Vec<FindingRecord> {
    let first = words.iter().take(CheckReport::MOST_FINDINGS);
    let record = |words: &String| FindingRecord {
        words: words.clone(),
        lines: Vec::new(),
    };
    first.map(record).collect()
}

fn replicas_agree(applied: &Applied) -> CheckResult {
    let promise = "every node that applies an entry of the log comes to the same outcome";
    let (verdict, words) = match (&applied.disagreements[..], applied.len()) {
        ([], 0) => (RunVerdict::Unknown, "no entry was applied".to_owned()),
        ([], entries) => {
            let words = format!(
                "{entries} entries, applied {} times, with one outcome",
                applied.lines
            );
            (RunVerdict::Valid, words)
        }
        (disagreements, _) => (RunVerdict::Invalid, disagreements[0].clone()),
    };
    let mut result = check("replicas agree", promise, verdict, words);
    result.examined = applied.lines;
    result.findings = findings(&applied.disagreements);
    result
}

/// The checks of the checker's crate that this run can be held to.
fn lock_reports(
    plan: &Plan<'_>,
    history: &History,
    record: &LockRecord<'_>,
    log: &[EventStream],
    faults: &[FaultRecord],
) -> Result<Vec<CheckReport>, Malformed> {
    let rules = LeaseRules::default();
    let has = |feature| plan.features.contains(&feature);
    let runs = |workload| plan.workloads.contains(&workload);
    let mut reports = Vec::new();
    if has(Feature::Tokens) {
        reports.push(fencing(record, plan.token_scope));
    }
    reports.push(early_expiry(record, rules));
    reports.push(holder_overlap(record, rules));
    if has(Feature::Requests) {
        reports.push(exactly_once(record, log));
    }
    let writes = runs(Workload::FencedCounter) || runs(Workload::Bank);
    if writes && has(Feature::Tokens) {
        reports.push(guarded_resource(history)?);
    }
    let paused = faults.iter().any(|fault| {
        fault.fault == Fault::PauseClients.name() && fault.outcome == FaultOutcome::Installed
    });
    if runs(Workload::FencedCounter) && paused {
        reports.push(unguarded_resource(history)?);
    }
    Ok(reports)
}

/// The history without those who give up on purpose before an answer can come.
fn without_impatient(history: &History) -> Result<History, Malformed> {
    let of_impatient = |event: &Event| {
        let key = event.key.as_ref().and_then(Value::as_words);
        let workload = key.and_then(|key| key.split_once('/'));
        workload.is_some_and(|(workload, _)| workload == Workload::BlindRetries.name())
    };
    let events = history.events().iter();
    let patient = events.filter(|event| !of_impatient(event)).cloned();
    History::new(patient, history.fail_meaning())
}

fn counted(history: &History, report: &CheckReport) -> CheckResult {
    let verdict = match report.conclusion {
        Conclusion::Pass => RunVerdict::Valid,
        Conclusion::Fail => RunVerdict::Invalid,
        Conclusion::Unknown(_) => RunVerdict::Unknown,
    };
    let words = match &report.conclusion {
        Conclusion::Unknown(why) => why.clone(),
        // The control passes by what it finds.
        Conclusion::Pass if report.findings_in_all > 0 => format!(
            "{} examined; found {}, as it should",
            report.examined, report.findings_in_all
        ),
        Conclusion::Pass => format!("{} examined", report.examined),
        Conclusion::Fail => checks_text(std::slice::from_ref(report))
            .trim_end()
            .to_owned(),
    };
    let mut result = check(report.name, report.promise, verdict, words);
    result.examined = report.examined as u64;
    result.findings = report
        .findings
        .iter()
        .map(|finding| FindingRecord {
            words: finding.words.clone(),
            lines: finding
                .operations
                .iter()
                .flat_map(|id| lines_of(history, *id))
                .collect(),
        })
        .collect();
    result
}

/// Whether the run was what it was to be.
fn coverage_check(plan: &Plan<'_>, history: &History, faults: &[FaultRecord]) -> CheckResult {
    let mut planned = Coverage::default();
    for name in plan.planned {
        // Of a group, any fault will do.
        let came = faults.iter().find(|fault| {
            (fault.group == *name || fault.fault == *name)
                && fault.outcome == FaultOutcome::Installed
        });
        planned
            .faults
            .push(came.map_or(name.clone(), |fault| fault.fault.clone()));
    }
    let least = usize::try_from(plan.time.as_secs())
        .unwrap_or(usize::MAX)
        .clamp(5, 50);
    let functions: BTreeSet<&str> = plan
        .workloads
        .iter()
        .flat_map(|workload| workload.must_succeed())
        .copied()
        .filter(|function| {
            !function.starts_with("guarded") || plan.features.contains(&Feature::Tokens)
        })
        .collect();
    planned
        .least_successes
        .extend(functions.into_iter().map(|name| (name.to_owned(), least)));
    let mut result = counted(history, &coverage(history, &planned));
    let mut missing: Vec<String> = match result.verdict {
        RunVerdict::Valid => Vec::new(),
        _ => vec![result.explanation.clone()],
    };
    let acquired = acquired_by_workload(history);
    for workload in plan.workloads {
        let count = acquired.get(workload.name()).copied().unwrap_or(0);
        if count < 5 {
            missing.push(format!(
                "`{}` was granted {count} locks, fewer than 5",
                workload.name()
            ));
        }
    }
    missing.extend(plan.missing.iter().cloned());
    missing.extend(plan.cut_short.iter().cloned());
    if !missing.is_empty() {
        result.verdict = RunVerdict::Unknown;
        result.explanation = missing.join("; ");
    }
    result
}

fn acquired_by_workload(history: &History) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for operation in history.operations() {
        if &*operation.function == "acquire"
            && matches!(operation.outcome, Outcome::Ok(_))
            && let Some(workload) = workload_of(operation)
        {
            *counts.entry(workload).or_default() += 1;
        }
    }
    counts
}

fn count_faults(faults: &[FaultRecord]) -> Vec<FaultCount> {
    let mut counts: BTreeMap<(&str, &str), [u64; 3]> = BTreeMap::new();
    for fault in faults {
        let by_outcome = counts.entry((&fault.group, &fault.fault)).or_default();
        match fault.outcome {
            FaultOutcome::Installed => by_outcome[0] += 1,
            FaultOutcome::Skipped => by_outcome[1] += 1,
            FaultOutcome::Indeterminate => by_outcome[2] += 1,
        }
    }
    let count =
        |((group, fault), [installed, skipped, indeterminate]): ((&str, &str), [u64; 3])| {
            FaultCount {
                fault: fault.to_owned(),
                group: group.to_owned(),
                installed,
                skipped,
                indeterminate,
            }
        };
    counts.into_iter().map(count).collect()
}
