//! Folders of runs that never were: made from a seed, of any length, valid, invalid or unknown. Whatever a
//! run may take from outside (names, targets, errors, node logs) has markup in it.

use std::fmt::Write as _;
use std::fs;

use jepsen_checker::explain::report_json;
use jepsen_checker::format::Format;
use jepsen_checker::models::{AnyModel, Expiry, Locks};
use jepsen_checker::{Budget, FailMeaning, History, Settings};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::run_directory::{
    CLUSTER, CheckResult, ClusterSample, FaultCount, FaultOutcome, FaultRecord, FindingRecord,
    HISTORY, NEMESIS, NodeSample, OperationCount, RESULTS, RUN, Results, RunDescription,
    RunDirectory, RunVerdict,
};

/// In everything that comes from outside. If it is not escaped, the page has one more script.
pub(super) const MARKUP: &str = "<script>alert('x')</script>\"'&<img src=x>";
/// The wall clock when the run's clock began: 2026-11-21T13:53:10Z.
const ZERO_UNIX_MS: u64 = 1_795_269_190_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Locks at a time, each used by clients of its own.
const SLOTS: u64 = 6;
const FIRST_TOKEN: u64 = 1_882_476_200_853_505;

pub(super) struct Fixture {
    pub(super) folder: tempfile::TempDir,
    pub(super) operations: u64,
    pub(super) grants: u64,
}

impl Fixture {
    pub(super) fn directory(&self) -> RunDirectory {
        RunDirectory::open(self.folder.path())
    }

    /// Changes `results.json`.
    pub(super) fn edit_results(&self, edit: impl FnOnce(&mut Results)) {
        let directory = self.directory();
        let mut results: Results = directory.read(RESULTS).unwrap();
        edit(&mut results);
        directory.write(RESULTS, &results).unwrap();
    }
}

struct Writer {
    rng: StdRng,
    events: Vec<(u64, String)>,
    next_process: u64,
    token: u64,
    counts: [u64; 3],
    grants: u64,
}

impl Writer {
    fn event(&mut self, time_ns: u64, process: u64, kind: &str, function: &str, rest: &str) {
        let line = format!(
            r#"{{"process":{process},"type":"{kind}","f":"{function}",{rest},"time":{time_ns}}}"#
        );
        self.events.push((time_ns, line));
    }

    fn latency_ns(&mut self) -> u64 {
        // Long tails: mostly milliseconds, now and then seconds.
        let exponent = self.rng.random_range(5.7_f64..7.3);
        let tail = if self.rng.random_bool(0.01) { 2.0 } else { 0.0 };
        10_f64.powf(exponent + tail) as u64
    }

    /// A client takes a lock, holds and releases it; another is refused in the meantime. When it is over.
    fn cycle(&mut self, key: &str, processes: &mut [u64; 2], began_ns: u64) -> u64 {
        let key = serde_json::to_string(key).unwrap();
        let [holder, other] = *processes;
        let lease = format!("{:016x}", self.rng.random::<u64>());
        let asked = format!(r#""key":{key},"value":{{"lease":"{lease}","ttl_ms":2000}}"#);
        self.event(began_ns, holder, "invoke", "acquire", &asked);
        let granted_ns = began_ns + self.latency_ns();
        if self.rng.random_bool(0.02) {
            let unknown = format!(r#""key":{key},"value":null,"error":{}"#, json!(MARKUP));
            self.event(granted_ns, holder, "info", "acquire", &unknown);
            self.counts[2] += 1;
            processes[0] = self.next_process;
            self.next_process += 1;
            // Nobody can have the lock until the lease that may be has run out.
            return granted_ns + 2_100_000_000;
        }
        let token = self.token;
        self.token += 1;
        self.grants += 1;
        let granted = format!(r#""key":{key},"value":{{"token":{token},"ttl_ms":2000}}"#);
        self.event(granted_ns, holder, "ok", "acquire", &granted);
        let asked_too = format!(r#""key":{key},"value":{{"lease":"x{lease}","ttl_ms":2000}}"#);
        let refused = format!(r#""key":{key},"value":null,"error":{{"code":"lock_held"}}"#);
        self.event(granted_ns + 1_000, other, "invoke", "acquire", &asked_too);
        self.event(granted_ns + 900_000, other, "fail", "acquire", &refused);
        let release_ns = granted_ns + self.rng.random_range(1_000_000..60_000_000);
        let released_ns = release_ns + self.latency_ns().min(1_500 * 1_000_000);
        let release = format!(r#""key":{key},"value":{{"lease":"{lease}","token":{token}}}"#);
        self.event(release_ns, holder, "invoke", "release", &release);
        let was_held = format!(r#""key":{key},"value":{{"was_held":true}}"#);
        self.event(released_ns, holder, "ok", "release", &was_held);
        self.counts[0] += 2;
        self.counts[1] += 1;
        released_ns + self.rng.random_range(1_000_000..80_000_000)
    }

    /// The workload of a slot; the second is one with markup in its name.
    fn key(slot: u64, uses: u64) -> String {
        let number = slot + SLOTS * (uses / 16);
        if slot.is_multiple_of(2) {
            format!("lock/{number}")
        } else {
            format!("bank{MARKUP}/{number}")
        }
    }
}

/// A run with about so many operations.
pub(super) fn synthetic(seed: u64, verdict: RunVerdict, about: u64) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let directory = RunDirectory::open(folder.path());
    let mut writer = Writer {
        rng: StdRng::seed_from_u64(seed),
        events: Vec::new(),
        next_process: 100,
        token: FIRST_TOKEN,
        counts: [0; 3],
        grants: 0,
    };
    let mut slots: Vec<(u64, u64, [u64; 2])> = (0..SLOTS)
        .map(|slot| (slot * 7_000_000, 0, [2 * slot, 2 * slot + 1]))
        .collect();
    while writer.counts.iter().sum::<u64>() < about {
        for slot in 0..SLOTS {
            let (time_ns, uses, mut processes) = slots[slot as usize];
            let key = Writer::key(slot, uses);
            let over_ns = writer.cycle(&key, &mut processes, time_ns);
            slots[slot as usize] = (over_ns, uses + 1, processes);
        }
    }
    let end_ns = slots.iter().map(|slot| slot.0).max().unwrap();
    if verdict == RunVerdict::Invalid {
        break_it(&mut writer, end_ns / 2);
    }
    let faults = faults(end_ns);
    for fault in &faults {
        let value = serde_json::to_string(&fault.target).unwrap();
        for (time_ns, prefix) in [(fault.begin_ns, ""), (fault.end_ns, "heal-")] {
            let line = format!(
                r#"{{"process":"nemesis","type":"info","f":"{prefix}{}","value":{value},"time":{time_ns}}}"#,
                fault.fault
            );
            writer.events.push((time_ns, line));
        }
    }
    writer.events.sort_by_key(|event| event.0);
    let mut text = String::new();
    for (_, line) in &writer.events {
        text.push_str(line);
        text.push('\n');
    }
    fs::write(directory.path(HISTORY), &text).unwrap();
    let mut out = directory.lines(NEMESIS).unwrap();
    for fault in &faults {
        out.push(fault).unwrap();
    }
    let mut out = directory.lines(CLUSTER).unwrap();
    for sample in samples(end_ns) {
        out.push(&sample).unwrap();
    }
    for node in ["n1", "n2", "n3"] {
        write_log(&directory, node, end_ns);
    }
    let run = description(seed, end_ns);
    directory.write(RUN, &run).unwrap();
    let results = results(verdict, &text, &writer.counts, &faults);
    directory.write(RESULTS, &results).unwrap();
    Fixture {
        folder,
        operations: writer.counts.iter().sum(),
        grants: writer.grants,
    }
}

/// Two clients are granted one lock at the same time.
fn break_it(writer: &mut Writer, time_ns: u64) {
    for (process, lease, after_ns) in [(90, "first", 0), (91, "second", 40_000_000)] {
        let time_ns = time_ns + after_ns;
        let token = writer.token;
        writer.token += 1;
        writer.grants += 1;
        let asked = format!(r#""key":"lock/broken","value":{{"lease":"{lease}","ttl_ms":2000}}"#);
        let granted = format!(r#""key":"lock/broken","value":{{"token":{token},"ttl_ms":2000}}"#);
        writer.event(time_ns, process, "invoke", "acquire", &asked);
        writer.event(time_ns + 3_000_000, process, "ok", "acquire", &granted);
        writer.counts[0] += 1;
    }
}

fn faults(end_ns: u64) -> Vec<FaultRecord> {
    let fault = |number: u64, fault: &str, group: &str, outcome, tenth: u64| FaultRecord {
        number,
        fault: fault.to_owned(),
        group: group.to_owned(),
        target: format!("n{}, which led {MARKUP}", number % 3 + 1),
        nodes: vec![format!("n{}", number % 3 + 1)],
        outcome,
        begin_ns: end_ns / 10 * tenth,
        end_ns: end_ns / 10 * (tenth + 1),
        reason: (outcome != FaultOutcome::Installed).then(|| format!("because {MARKUP}")),
    };
    vec![
        fault(
            0,
            "partition-leader",
            "partition",
            FaultOutcome::Installed,
            1,
        ),
        fault(1, "kill-one", "kill", FaultOutcome::Installed, 2),
        fault(2, "pause-leader", "pause", FaultOutcome::Indeterminate, 4),
        fault(3, "partition-bridge", "partition", FaultOutcome::Skipped, 6),
        fault(
            4,
            "partition-leader",
            "partition",
            FaultOutcome::Installed,
            7,
        ),
    ]
}

fn samples(end_ns: u64) -> impl Iterator<Item = ClusterSample> {
    let tenth_ns = end_ns / 10;
    let every_ns = (end_ns / 400).max(250_000_000);
    (0..end_ns / every_ns).map(move |number| {
        let time_ns = number * every_ns;
        // n1 leads, is cut off, and n2 leads from then on.
        let tenth = time_ns / tenth_ns;
        let leader = if tenth < 1 { "n1" } else { "n2" };
        let term = if tenth < 1 { 1 } else { 4 };
        let nodes = ["n1", "n2", "n3"].map(|node| {
            let down = node == "n2" && tenth == 2;
            NodeSample {
                node: node.to_owned(),
                process: if down { "down" } else { "running" }.to_owned(),
                reachable: !down,
                leads: node == leader && !down,
                leader: Some(leader.to_owned()),
                term: Some(term),
                applied_index: Some(number),
            }
        });
        ClusterSample {
            time_ns,
            nodes: nodes.to_vec(),
        }
    })
}

fn write_log(directory: &RunDirectory, node: &str, end_ns: u64) {
    let mut text = String::new();
    let lines = (end_ns / SECOND_NS * 2).min(20_000);
    for number in 0..lines {
        let unix_ms = ZERO_UNIX_MS + end_ns / 1_000_000 * number / lines;
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms);
        let time = humantime::format_rfc3339_millis(time);
        let level = if number % 10 == 3 { "WARN" } else { "INFO" };
        let message = json!(format!("{node} says {number} {MARKUP}"));
        let _ = writeln!(
            text,
            r#"{{"timestamp":"{time}","level":"{level}","message":{message}}}"#
        );
    }
    if node == "n3" {
        text.push_str("thread 'main' panicked at src/<b>.rs:1:1\n");
    }
    fs::create_dir_all(directory.node(node)).unwrap();
    fs::write(directory.node(node).join("log"), text).unwrap();
}

fn description(seed: u64, end_ns: u64) -> RunDescription {
    RunDescription {
        format: "palisade-jepsen-run".to_owned(),
        version: 1,
        system: "palisade".to_owned(),
        system_version: Some(format!("0.1.0 {MARKUP}")),
        binary: "/usr/bin/palisaded".to_owned(),
        workload: "mixed".to_owned(),
        nemeses: vec![
            "partition".into(),
            "kill".into(),
            "pause".into(),
            "clock".into(),
        ],
        backend: "processes".to_owned(),
        nodes: vec!["n1".into(), "n2".into(), "n3".into()],
        clients: 2 * SLOTS,
        seed,
        rate: 250.0,
        time_ms: end_ns / 1_000_000,
        recovery_ms: 9_000,
        command: format!(
            "palisade-jepsen run --workload mixed --seed {seed} --binary 'a b{MARKUP}'"
        ),
        harness_version: "0.1.0".to_owned(),
        started_unix_ms: ZERO_UNIX_MS - 1_500,
        clock_began_unix_ms: Some(ZERO_UNIX_MS),
        ended_unix_ms: Some(ZERO_UNIX_MS + end_ns / 1_000_000),
        left_out: vec![format!("clock faults: {MARKUP}")],
    }
}

fn check(name: &str, verdict: RunVerdict, explanation: &str) -> CheckResult {
    CheckResult {
        check: name.to_owned(),
        promise: format!("the promise of {name}"),
        verdict,
        counts: true,
        examined: 1_234,
        explanation: explanation.to_owned(),
        findings: Vec::new(),
        report: None,
    }
}

fn results(
    verdict: RunVerdict,
    history: &str,
    [ok, fail, info]: &[u64; 3],
    faults: &[FaultRecord],
) -> Results {
    let mut checks = vec![
        check("nodes", RunVerdict::Valid, "none did"),
        check(
            "linearizability",
            RunVerdict::Valid,
            "valid: linearizable as lease-lock",
        ),
        check("fencing", RunVerdict::Valid, "9 examined"),
    ];
    let mut overlap = check(
        "holder overlap",
        RunVerdict::Invalid,
        "two holders of one lock",
    );
    overlap.counts = false;
    checks.push(overlap);
    let mut coverage = check("coverage", RunVerdict::Valid, "5 examined");
    let why = match verdict {
        RunVerdict::Valid => "3 checks found what they look for".to_owned(),
        RunVerdict::Unknown => {
            coverage.verdict = RunVerdict::Unknown;
            coverage.explanation = format!("no fault of `clock` was installed {MARKUP}");
            format!("coverage: {}", coverage.explanation)
        }
        RunVerdict::Invalid => {
            checks[1] = illegal(history);
            checks[2].verdict = RunVerdict::Invalid;
            checks[2].explanation = format!("fail\n  a token came twice {MARKUP}\n  and more");
            checks[2].findings = vec![FindingRecord {
                words: format!("two tokens {MARKUP}"),
                lines: broken_lines(history),
            }];
            "linearizability: no order of the operations is legal".to_owned()
        }
    };
    checks.push(coverage);
    let mut counts: Vec<FaultCount> = Vec::new();
    for fault in faults {
        counts.push(FaultCount {
            fault: fault.fault.clone(),
            group: fault.group.clone(),
            installed: u64::from(fault.outcome == FaultOutcome::Installed),
            skipped: u64::from(fault.outcome == FaultOutcome::Skipped),
            indeterminate: u64::from(fault.outcome == FaultOutcome::Indeterminate),
        });
    }
    Results {
        verdict,
        why,
        checks,
        operations: vec![OperationCount {
            workload: format!("bank{MARKUP}"),
            function: "acquire".to_owned(),
            ok: *ok,
            fail: *fail,
            info: *info,
        }],
        faults: counts,
        judged_ms: 1_500,
    }
}

fn broken_lines(history: &str) -> Vec<u64> {
    let lines = (1..).zip(history.lines());
    lines
        .filter(|(_, line)| line.contains("lock/broken"))
        .map(|(number, _)| number)
        .collect()
}

/// What the checker really says of the broken lock.
fn illegal(text: &str) -> CheckResult {
    let history = Format::JsonLines
        .read(text.as_bytes(), FailMeaning::Observation)
        .unwrap();
    let of_broken = history.events().iter().filter(|event| {
        let key = event.key.as_ref();
        key.and_then(|key| key.as_words()) == Some("lock/broken")
    });
    let part = History::new(of_broken.cloned(), FailMeaning::Observation).unwrap();
    let model = AnyModel::Locks(Locks::lease_lock(Expiry {
        ttl_ms: 2_000,
        ..Expiry::default()
    }));
    let report = model
        .check(&part, &Settings::default(), &Budget::GENEROUS)
        .unwrap();
    assert!(report.verdict.is_invalid(), "{:?}", report.verdict);
    let mut result = check(
        "linearizability",
        RunVerdict::Invalid,
        &jepsen_checker::explain::report_text(&part, &report),
    );
    result.report = Some(report_json(&part, &report));
    result.findings = vec![FindingRecord {
        words: "nothing explains the second acquire".to_owned(),
        lines: broken_lines(text)[2..].to_vec(),
    }];
    result
}
