//! `palisade-jepsen run`: a cluster, clients and a nemesis for a while, all from one seed; then the
//! verdict on what was recorded, and the folder that a report is made from.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jepsen_checker::History;
use jepsen_checker::format::Format;
use jepsen_checker::lock_checks::{EventStream, write_event_streams};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::arguments::RunArguments;
use crate::cluster::{Backend, Cluster, Sampler, find_faketime, isolate, probe_namespaces};
use crate::exit;
use crate::judge::{Applied, LockHistory, Plan, RECOVERY_WITHIN, judge};
use crate::nemesis::{self, Fault, Library, Nemesis};
use crate::output::eprint_line;
use crate::recorder::{Recorder, history_of};
use crate::report;
use crate::run_directory::{
    CHECKED, CHECKED_LOG, CLUSTER, ClusterSample, EVENTS, HISTORY, HISTORY_EDN, LOG, LinesWriter,
    NEMESIS, RESULTS, RUN, Results, RunDescription, RunDirectory, RunVerdict,
};
use crate::system::{self, ClientProcess, System};
use crate::workload::{self, Clients, Keys, Resources, Shared, Streams, Worker, Workload};

/// How long a client waits for an answer, beside the wait that it asks for.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long members may take to serve again once everything is mended.
const HEAL_LIMIT: Duration = Duration::from_secs(40);
/// How long operations go on after [`RECOVERY_WITHIN`], to show that everything works again.
const RECOVERY_SHOWS: Duration = Duration::from_secs(4);
/// How long clients may take to end what they are doing.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// How often the history is written while the run goes on, for the case that the harness is killed.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// Names the bug to plant, in the environment of `palisaded-planted`.
pub(crate) const PLANTED_BUG: &str = "PALISADE_PLANTED_BUG";

/// Runs, judges, tells; the exit status.
pub(crate) fn run(arguments: &RunArguments) -> u8 {
    // Before there is any other thread.
    if arguments.backend == Backend::Namespaces
        && let Err(why) = isolate()
    {
        eprint_line(&why);
        return exit::UNUSABLE;
    }
    // One thread, too, because one observer orders the history.
    exit::status_of(async {
        Ok(match run_and_judge(arguments).await? {
            RunVerdict::Valid => exit::VALID,
            RunVerdict::Invalid => exit::INVALID,
            RunVerdict::Unknown => exit::UNKNOWN,
        })
    })
}

/// What is to be run, checked against what there is.
struct Prepared {
    system: Arc<dyn System>,
    version: String,
    faults: Vec<Fault>,
    planned: Vec<String>,
    left_out: Vec<String>,
    nodes: usize,
    clients: usize,
    seed: u64,
    rate: f64,
    time: Duration,
}

fn prepare(arguments: &RunArguments) -> Result<Prepared, String> {
    let system = system::by_name(&arguments.system, arguments.binary.clone())?;
    let version = system.probe()?;
    workload::by_name(&arguments.workload)?;
    let mut left_out = Vec::new();
    let nodes = system.nodes(arguments.nodes)?;
    if nodes != arguments.nodes {
        left_out.push(format!(
            "{} runs {nodes} of {} nodes",
            system.name(),
            arguments.nodes
        ));
    }
    let untreatable = match arguments.backend {
        Backend::Processes => Vec::new(),
        Backend::Namespaces => probe_namespaces()?,
    };
    let mut faults = Vec::new();
    for fault in nemesis::select(&arguments.nemesis)? {
        if let Some(why) = fault.untreatable(arguments.backend, &untreatable) {
            left_out.push(format!("{}: {why}", fault.name()));
            continue;
        }
        let lacks = |need| !system.abilities().contains(need);
        let lacks = fault.needs().iter().find(|need| lacks(need));
        match (lacks, fault.library()) {
            (None, Ok(())) => faults.push(fault),
            (Some(need), _) => left_out.push(format!(
                "{}: {} has no {need:?}",
                fault.name(),
                system.name()
            )),
            (None, Err(why)) => left_out.push(format!("{}: {why}", fault.name())),
        }
    }
    // What was asked for by name must come; of `all`, each group that can.
    let mut planned: Vec<String> = Vec::new();
    for name in &arguments.nemesis {
        match &**name {
            "none" => {}
            "all" => planned.extend(faults.iter().map(|fault| fault.group().to_owned())),
            name => planned.push(name.to_owned()),
        }
    }
    planned.sort_unstable();
    planned.dedup();
    // Of each part of `mixed` a few, so that they get into each other's way.
    let by_workload = if arguments.workload == workload::MIXED {
        27
    } else {
        10
    };
    let clients = arguments.clients.unwrap_or(by_workload);
    Ok(Prepared {
        system,
        version,
        faults,
        planned,
        left_out,
        nodes,
        clients,
        seed: arguments
            .seed
            .unwrap_or_else(|| rand::random_range(0..1 << 32)),
        rate: arguments.rate,
        time: arguments.time,
    })
}

fn unix_ms() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "for people: when a run was; nothing is decided by it"
    )]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

fn shell_word(word: &str) -> String {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "-_./:,=".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn command(arguments: &RunArguments, prepared: &Prepared) -> String {
    // A build with planted bugs is told by the environment which one.
    let planted = std::env::var(PLANTED_BUG).ok();
    let planted = planted.map(|bug| format!("{PLANTED_BUG}={bug}"));
    let mut words: Vec<String> = planted.into_iter().collect();
    words.extend([
        "palisade-jepsen".to_owned(),
        "run".to_owned(),
        "--system".to_owned(),
        arguments.system.clone(),
        "--workload".to_owned(),
        arguments.workload.clone(),
        "--nemesis".to_owned(),
        arguments.nemesis.join(","),
        "--backend".to_owned(),
        arguments.backend.name().to_owned(),
        "--nodes".to_owned(),
        arguments.nodes.to_string(),
        "--clients".to_owned(),
        prepared.clients.to_string(),
        "--time".to_owned(),
        humantime::format_duration(prepared.time)
            .to_string()
            .replace(' ', ""),
        "--rate".to_owned(),
        prepared.rate.to_string(),
        "--seed".to_owned(),
        prepared.seed.to_string(),
    ]);
    if let Some(binary) = &arguments.binary {
        // From the root, so that the command can be given anywhere.
        let binary = std::path::absolute(binary).unwrap_or_else(|_| binary.clone());
        words.extend(["--binary".to_owned(), binary.display().to_string()]);
    }
    let words: Vec<String> = words.iter().map(|word| shell_word(word)).collect();
    words.join(" ")
}

fn default_out(arguments: &RunArguments, seed: u64) -> PathBuf {
    let now =
        humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_millis(unix_ms()));
    let now = now.to_string().replace(':', "");
    let name = format!("{}-{}-{seed}-{now}", arguments.system, arguments.workload);
    Path::new("jepsen-runs").join(name)
}

async fn run_and_judge(arguments: &RunArguments) -> Result<RunVerdict, String> {
    let prepared = prepare(arguments)?;
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| default_out(arguments, prepared.seed));
    let directory = RunDirectory::create(&out)
        .map_err(|error| format!("the folder {} cannot be used: {error}", out.display()))?;
    let spares = if prepared.faults.contains(&Fault::ReplaceMember) {
        3
    } else {
        0
    };
    let files = |error: io::Error| format!("{}: {error}", directory.root().display());
    let mut cluster = Cluster::plan(
        prepared.system.clone(),
        &directory,
        arguments.backend,
        prepared.nodes,
        spares,
        prepared.clients,
        prepared.seed,
    )
    .await?;
    let needs = |library| {
        let mut faults = prepared.faults.iter();
        faults.any(|fault| fault.preload() == Some(library))
    };
    let faketime = match needs(Library::Faketime) {
        true => Some(find_faketime()?),
        false => None,
    };
    cluster.preload(needs(Library::Shim), faketime.as_deref())?;
    let mut description = RunDescription {
        format: "palisade-jepsen-run".to_owned(),
        version: 1,
        system: prepared.system.name().to_owned(),
        system_version: Some(prepared.version.clone()),
        binary: prepared.system.binary().display().to_string(),
        workload: arguments.workload.clone(),
        nemeses: arguments.nemesis.clone(),
        backend: arguments.backend.name().to_owned(),
        nodes: cluster.nodes[..prepared.nodes]
            .iter()
            .map(|node| node.plan.name.clone())
            .collect(),
        clients: prepared.clients as u64,
        seed: prepared.seed,
        rate: prepared.rate,
        time_ms: u64::try_from(prepared.time.as_millis()).unwrap_or(u64::MAX),
        recovery_ms: u64::try_from((RECOVERY_WITHIN + RECOVERY_SHOWS).as_millis())
            .unwrap_or(u64::MAX),
        command: command(arguments, &prepared),
        harness_version: env!("CARGO_PKG_VERSION").to_owned(),
        started_unix_ms: unix_ms(),
        clock_began_unix_ms: None,
        ended_unix_ms: None,
        left_out: prepared.left_out.clone(),
    };
    directory.write(RUN, &description).map_err(files)?;
    eprint_line(&format!(
        "seed {}, in {}",
        prepared.seed,
        directory.root().display()
    ));
    eprint_line(&format!("to repeat: {}", description.command));
    for what in &prepared.left_out {
        eprint_line(&format!("left out: {what}"));
    }

    let started = cluster.start_all().await;
    if let Err(why) = started {
        cluster.stop_all(false).await;
        return Err(format!("the cluster does not come up: {why}"));
    }
    let lasted = exercise(arguments, &prepared, &directory, &mut cluster).await;
    let mut failures = cluster.stop_all(true).await;
    failures.extend(cluster.panics());
    let mut lasted = lasted?;
    lasted.failures.append(&mut failures);

    let ended_unix_ms = unix_ms();
    description.ended_unix_ms = Some(ended_unix_ms);
    description.clock_began_unix_ms =
        Some(ended_unix_ms.saturating_sub(lasted.recorder.now_ns() / 1_000_000));
    description.left_out.extend(lasted.left_out.iter().cloned());
    directory.write(RUN, &description).map_err(files)?;
    let history = lasted
        .recorder
        .history()
        .map_err(|error| format!("the recorded history is malformed: {error}"))?;
    for (name, format) in [(HISTORY, Format::JsonLines), (HISTORY_EDN, Format::Edn)] {
        write_history(&history, format, &directory.path(name))?;
    }
    let records: Vec<(String, PathBuf)> = cluster
        .nodes
        .iter()
        .map(|node| (node.plan.name.clone(), node.plan.applied.clone()))
        .collect();
    let records: Vec<(String, &Path)> = records
        .iter()
        .map(|(name, path)| (name.clone(), &**path))
        .collect();
    let applied = Applied::read(&records).map_err(files)?;
    let samples: Vec<ClusterSample> = directory.read_lines(CLUSTER).map_err(files)?;
    let plan = Plan {
        workloads: &lasted.workloads,
        missing: &lasted.missing,
        planned: &prepared.planned,
        features: &lasted.features,
        streams: &lasted.streams,
        samples: &samples,
        token_scope: prepared.system.token_scope(),
        time: prepared.time,
        failures: &lasted.failures,
        cut_short: &lasted.cut_short,
    };
    let judged = judge(&plan, &history, &lasted.faults, applied.as_ref())
        .map_err(|error| format!("the history cannot be judged: {error}"))?;
    leave(&directory, &judged.locks, applied.as_ref(), &lasted.streams)?;
    let results = judged.results;
    directory.write(RESULTS, &results).map_err(files)?;
    // The verdict stands without its page.
    match report::write(&directory) {
        Ok(page) => eprint_line(&format!("the report is {}", page.display())),
        Err(why) => eprint_line(&format!("no report: {why}")),
    }
    if results.verdict == RunVerdict::Valid && !arguments.keep_data {
        for node in &cluster.nodes {
            // It may never have run.
            let _ = std::fs::remove_dir_all(&node.plan.data);
        }
    }
    tell(&results, &description.left_out, &directory)
        .map_err(|error| format!("cannot print: {error}"))?;
    Ok(results.verdict)
}

/// Writes what the verdict rests on.
fn leave(
    directory: &RunDirectory,
    locks: &LockHistory,
    applied: Option<&Applied>,
    streams: &[EventStream],
) -> Result<(), String> {
    let create = |name: &str| {
        let file = std::fs::File::create(directory.path(name));
        file.map(io::BufWriter::new)
            .map_err(|error| format!("{name}: {error}"))
    };
    let written = |name: &'static str| move |error: io::Error| format!("{name}: {error}");
    write_history(&locks.history, Format::JsonLines, &directory.path(CHECKED))?;
    if !streams.is_empty() {
        let mut out = create(EVENTS)?;
        write_event_streams(streams, &mut out).map_err(written(EVENTS))?;
        out.flush().map_err(written(EVENTS))?;
    }
    if let Some(applied) = applied {
        let mut out = create(LOG)?;
        applied.write(&mut out).map_err(written(LOG))?;
        out.flush().map_err(written(LOG))?;
        let mut out = create(CHECKED_LOG)?;
        locks.write_log(&mut out).map_err(written(CHECKED_LOG))?;
        out.flush().map_err(written(CHECKED_LOG))?;
    }
    Ok(())
}

/// What the exercise left.
struct Lasted {
    recorder: Recorder,
    workloads: Vec<Workload>,
    missing: Vec<String>,
    left_out: Vec<String>,
    features: BTreeSet<system::Feature>,
    streams: Vec<EventStream>,
    faults: Vec<crate::run_directory::FaultRecord>,
    failures: Vec<String>,
    cut_short: Vec<String>,
}

/// Clients and the nemesis side by side, then clients alone.
async fn exercise(
    arguments: &RunArguments,
    prepared: &Prepared,
    directory: &RunDirectory,
    cluster: &mut Cluster,
) -> Result<Lasted, String> {
    let files = |error: io::Error| format!("{}: {error}", directory.root().display());
    let first = cluster.nodes[0].plan.client;
    let features: BTreeSet<_> = prepared.system.features(first).await.into_iter().collect();
    let mut workloads = workload::by_name(&arguments.workload)?;
    let (mut missing, mut left_out) = (Vec::new(), Vec::new());
    let is_mixed = arguments.workload == workload::MIXED;
    workloads.retain(|workload| {
        let Some(lacks) = workload.lacks(&features) else {
            return true;
        };
        let words = format!("{}: {lacks}", workload.name());
        if is_mixed {
            left_out.push(words);
        } else {
            missing.push(words);
        }
        false
    });
    let (stop, stopping) = watch::channel(false);
    let mut processes = Vec::new();
    for number in 0..prepared.clients {
        let links = cluster.links_of(number);
        let started = ClientProcess::start(prepared.system.name(), links).await;
        let process = started
            .map_err(|error| format!("the process of client {number} does not start: {error}"))?;
        processes.push(process);
    }
    let shared = Arc::new(Shared {
        recorder: Recorder::new(),
        streams: Streams::default(),
        resources: Resources::default(),
        keys: Keys::default(),
        clients: Clients::new(processes.iter().map(ClientProcess::handle).collect()),
        features: features.clone(),
        nodes: Mutex::new(cluster.members.clone()),
        unique: AtomicI64::new(1),
        requests: AtomicUsize::new(0),
        stop: stopping,
    });
    let samples = directory.lines(CLUSTER).map_err(files)?;
    let sampling = tokio::spawn(sample(cluster.sampler(), shared.recorder.clone(), samples));
    let saving = tokio::spawn(save(
        shared.recorder.clone(),
        directory.path(HISTORY),
        stop.subscribe(),
    ));
    let mut clients = tokio::task::JoinSet::new();
    for (number, client) in processes.into_iter().enumerate() {
        let Some(workload) = workloads.get(number % workloads.len().max(1)).copied() else {
            break;
        };
        // Far from the nemesis's and the network's draws.
        let rng = StdRng::seed_from_u64(prepared.seed ^ (0xc11e_0000 + number as u64));
        let worker = Worker::new(number, client, CALL_TIMEOUT, rng, shared.clone());
        let pause = Duration::from_secs_f64(4.0 * prepared.clients as f64 / prepared.rate);
        clients.spawn(client_loop(workload, worker, pause));
    }
    let began = Instant::now();
    let faults_out = directory.lines(NEMESIS).map_err(files)?;
    let until = began + prepared.time;
    let mut nemesis = Nemesis::new(
        cluster,
        &shared,
        faults_out,
        prepared.faults.clone(),
        prepared.seed,
        until,
    );
    let (mut failures, mut cut_short) = (Vec::new(), Vec::new());
    let mut interrupt = Box::pin(interrupted());
    let mut now = began;
    let all_run = || shared.clients.ended().is_empty();
    while now < until && failures.is_empty() && cut_short.is_empty() && all_run() {
        now = (now + Duration::from_secs(1)).min(until);
        tokio::select! {
            ended = nemesis.run(now) => failures.extend(ended.err()),
            () = &mut interrupt => cut_short.push("it was interrupted".to_owned()),
        }
        progress(
            began.elapsed(),
            prepared.time,
            &shared.recorder,
            &nemesis.words(),
        );
    }
    if let Err(why) = nemesis.heal_all(HEAL_LIMIT).await {
        failures.push(why);
    }
    let faults = std::mem::take(&mut nemesis.records);
    drop(nemesis);
    if failures.is_empty() && cut_short.is_empty() && all_run() {
        tokio::select! {
            () = tokio::time::sleep(RECOVERY_WITHIN + RECOVERY_SHOWS) => {}
            () = &mut interrupt => cut_short.push("it was interrupted".to_owned()),
        }
    }
    progress_ends();
    stop.send_replace(true);
    let drained = tokio::time::timeout(DRAIN_LIMIT, async {
        while let Some(ended) = clients.join_next().await {
            if let Err(error) = ended {
                cut_short.push(format!("a client of the harness failed: {error}"));
            }
        }
    });
    if drained.await.is_err() {
        clients.shutdown().await;
    }
    cut_short.extend(shared.clients.ended());
    sampling.abort();
    // To its end: the whole history takes this one's place.
    if let Err(error) = saving.await {
        eprint_line(&format!(
            "{HISTORY} was not written during the run: {error}"
        ));
    }
    Ok(Lasted {
        recorder: shared.recorder.clone(),
        workloads,
        missing,
        left_out,
        features,
        streams: shared.streams.all(),
        faults,
        failures,
        cut_short,
    })
}

async fn client_loop(workload: Workload, mut worker: Worker, pause: Duration) {
    while !worker.is_over() {
        let most = pause.mul_f64(2.0 * worker.rng.random_range(0.0..1.0));
        tokio::time::sleep(most).await;
        workload.step(&mut worker).await;
    }
}

async fn sample(sampler: Sampler, recorder: Recorder, mut out: LinesWriter<ClusterSample>) {
    loop {
        let sample = sampler.sample(recorder.now_ns()).await;
        if let Err(error) = out.push(&sample) {
            eprint_line(&format!("{CLUSTER} cannot be written: {error}"));
            return;
        }
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
}

/// Writes the history so far now and then, until it is told to stop. What is written is whole: it takes
/// the place of the last at once.
async fn save(recorder: Recorder, path: PathBuf, mut stop: watch::Receiver<bool>) {
    // A sender that is gone means to stop as well.
    let mut events = Vec::new();
    while tokio::time::timeout(SAVE_EVERY, stop.wait_for(|stop| *stop))
        .await
        .is_err()
    {
        // Only what is new is taken from under the recorder, which must not wait for the rest.
        events.extend(recorder.events_after(events.len()));
        let path = path.clone();
        let saved = tokio::task::spawn_blocking(move || {
            let new = path.with_extension("new");
            let written = history_of(&events)
                .map_err(|error| error.to_string())
                .and_then(|history| write_history(&history, Format::JsonLines, &new))
                .and_then(|()| std::fs::rename(&new, &path).map_err(|error| error.to_string()));
            if written.is_err() {
                // It may not be there.
                let _ = std::fs::remove_file(&new);
            }
            written.map(|()| events)
        });
        match saved.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(saved) => events = saved,
            Err(why) => return eprint_line(&format!("{HISTORY} cannot be written: {why}")),
        }
    }
}

fn write_history(history: &History, format: Format, path: &Path) -> Result<(), String> {
    let words = |error: io::Error| format!("{}: {error}", path.display());
    let mut out = io::BufWriter::new(std::fs::File::create(path).map_err(words)?);
    format
        .write(history, &mut out)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    out.flush().map_err(words)
}

/// Ctrl-C, or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

fn progress(elapsed: Duration, time: Duration, recorder: &Recorder, faults: &str) {
    if std::io::stderr().is_terminal() {
        let (ok, other) = recorder.counts();
        let faults = if faults.is_empty() {
            "no fault"
        } else {
            faults
        };
        // Nobody is told if the terminal went away.
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{:>4} of {} s  {ok} done, {other} refused or unknown  {faults}",
            elapsed.as_secs(),
            time.as_secs()
        );
    }
}

fn progress_ends() {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

/// The verdict, check by check.
fn tell(results: &Results, left_out: &[String], directory: &RunDirectory) -> io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: {}", results.verdict.name(), results.why)?;
    for check in &results.checks {
        let note = if check.counts {
            ""
        } else {
            " (does not count)"
        };
        let line = check.explanation.lines().next().unwrap_or_default();
        writeln!(
            out,
            "  {:8} {}{note}: {line}",
            check.verdict.name(),
            check.check
        )?;
    }
    let (mut ok, mut fail, mut info) = (0, 0, 0);
    for count in &results.operations {
        ok += count.ok;
        fail += count.fail;
        info += count.info;
    }
    let faults: Vec<String> = results
        .faults
        .iter()
        .map(|fault| format!("{} {}", fault.installed, fault.fault))
        .collect();
    writeln!(
        out,
        "  operations: {ok} done, {fail} refused, {info} unknown"
    )?;
    writeln!(
        out,
        "  faults: {}",
        if faults.is_empty() {
            "none".to_owned()
        } else {
            faults.join(", ")
        }
    )?;
    for what in left_out {
        writeln!(out, "  left out: {what}")?;
    }
    writeln!(out, "  in {}", directory.root().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_given_to_a_shell() {
        assert_eq!(shell_word("partition,kill"), "partition,kill");
        assert_eq!(shell_word("a b'c"), r"'a b'\''c'");
    }
}
