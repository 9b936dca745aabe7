//! `palisade-jepsen run` as its users know it: a command that breaks a real cluster of `palisaded`
//! processes and ends with a verdict and a folder. Build the binaries first (`make test` does).
//!
//! Seeds are fixed; a failure prints the verdict and the command that repeats the run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may crash: that is how it fails"
)]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn jepsen() -> Command {
    Command::new(env!("CARGO_BIN_EXE_palisade-jepsen"))
}

/// `palisaded`, which cargo built beside the program under test.
fn palisaded() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_palisade-jepsen")).with_file_name("palisaded");
    let named = std::env::var_os("PALISADE_BIN_DIR").map(|dir| Path::new(&dir).join("palisaded"));
    let found = named.unwrap_or(beside);
    assert!(
        found.is_file(),
        "{} is not there; build it first: cargo build --release -p lock-service",
        found.display()
    );
    found
}

fn temporary_folder() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("palisade-jepsen-test-")
        .tempdir()
        .unwrap()
}

/// `palisade-jepsen run`, of this binary, into this folder.
fn run_command(binary: &Path, arguments: &str, folder: &Path) -> Command {
    let mut command = jepsen();
    command
        .arg("run")
        .args(arguments.split_whitespace())
        .arg("--binary")
        .arg(binary)
        .arg("--out")
        .arg(folder);
    command
}

struct Run {
    output: Output,
    folder: tempfile::TempDir,
}

impl Run {
    fn of(arguments: &str) -> Self {
        Self::with(&palisaded(), arguments)
    }

    fn with(binary: &Path, arguments: &str) -> Self {
        let folder = temporary_folder();
        let output = run_command(binary, arguments, folder.path()).output();
        let output = output.unwrap();
        Run { output, folder }
    }

    fn words(&self) -> String {
        format!(
            "{}{}",
            String::from_utf8_lossy(&self.output.stdout),
            String::from_utf8_lossy(&self.output.stderr)
        )
    }

    fn status(&self) -> i32 {
        self.output.status.code().expect("an exit status")
    }

    fn json(&self, name: &str) -> Value {
        let text = std::fs::read(self.folder.path().join(name)).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    fn check(&self, name: &str) -> Value {
        let results = self.json("results.json");
        let checks = results["checks"].as_array().unwrap().clone();
        let found = checks.into_iter().find(|check| check["check"] == name);
        found.unwrap_or_else(|| panic!("no check {name}:\n{}", self.words()))
    }
}

#[test]
fn a_cluster_under_partitions_kills_and_pauses_is_found_valid_and_leaves_what_a_report_needs() {
    let run = Run::of(
        "--workload mixed --nemesis partition,kill,pause,restart --nodes 3 --time 30s --rate 120 \
         --seed 17",
    );
    assert_eq!(run.status(), 0, "{}", run.words());
    assert_eq!(run.check("linearizability")["verdict"], "valid");
    assert_eq!(run.check("log witness")["verdict"], "valid");
    assert_eq!(run.check("replicas agree")["verdict"], "valid");
    for name in [
        "history.jsonl",
        "history.edn",
        "nemesis.jsonl",
        "cluster.jsonl",
        "log.jsonl",
        "report.html",
        "nodes/n1/log",
    ] {
        let length = std::fs::metadata(run.folder.path().join(name))
            .unwrap()
            .len();
        assert!(length > 0, "{name} is empty");
    }
    let description = run.json("run.json");
    assert_eq!(description["seed"], 17);
    assert!(
        description["command"]
            .as_str()
            .unwrap()
            .contains("--seed 17")
    );
    // What was checked can be checked again, by the command that takes anybody's histories.
    let again = jepsen()
        .args([
            "check",
            "--model",
            "lease-lock",
            "--fail",
            "observation",
            "--log",
        ])
        .arg(run.folder.path().join("checked-log.jsonl"))
        .arg(run.folder.path().join("checked.jsonl"))
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(0), "{again:?}");
}

/// The short one of the matrix in docs/testing.md: each workload alone, under two groups of faults that
/// take turns, so that all groups come. A run is short, and a busy machine may get less done in it than a
/// run must show: then it is repeated with twice the time.
#[test]
fn every_workload_is_valid_under_faults_that_take_turns() {
    for (workload, nemesis, seed) in [
        ("lock", "partition,restart", 61),
        ("fenced-counter", "kill,links", 62),
        ("read-write", "pause,transfer", 63),
        ("lease-churn", "disk,partition", 64),
        ("semaphore", "membership,clock-jump", 65),
        ("election", "kill,transfer", 66),
        ("bank", "links,pause", 67),
        ("blind-retries", "disk,snapshot", 68),
        ("events", "snapshot,kill", 69),
    ] {
        let is_valid = ["18s", "36s", "72s"].iter().any(|time| {
            let run = Run::of(&format!(
                "--workload {workload} --nemesis {nemesis} --nodes 3 --time {time} --rate 60 \
                 --seed {seed}"
            ));
            match run.status() {
                0 => true,
                2 => {
                    eprintln!("{workload}, {nemesis}, {time}: {}", run.words());
                    false
                }
                _ => panic!("{workload}, {nemesis}, {time}:\n{}", run.words()),
            }
        });
        assert!(is_valid, "{workload}, {nemesis}: no run showed enough");
    }
}

#[test]
fn handovers_snapshots_and_another_member_break_nothing() {
    let run = Run::of(
        "--workload lock --nemesis transfer,snapshot,membership --nodes 3 --time 15s --seed 5",
    );
    assert_eq!(run.status(), 0, "{}", run.words());
}

#[test]
fn paused_clients_lose_updates_of_an_unguarded_resource_and_none_of_a_guarded_one() {
    let run = Run::of(
        "--workload fenced-counter --nemesis pause-clients --nodes 3 --time 25s --rate 200 --seed 2",
    );
    assert_eq!(run.status(), 0, "{}", run.words());
    assert_eq!(run.check("guarded resource")["verdict"], "valid");
    let control = run.check("unguarded resource");
    assert!(
        !control["findings"].as_array().unwrap().is_empty(),
        "{control}"
    );
}

#[test]
fn a_system_that_does_not_sync_is_convicted_by_power_cuts() {
    if let Err(why) = std::fs::metadata(palisaded().with_file_name("examples/libpower_cut_shim.so"))
    {
        panic!(
            "the preload library is not built ({why}): cargo build --release -p power-cut --examples"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let careless = folder.path().join("palisaded");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = serve ] && [ $# -gt 2 ]; then shift; exec '{0}' serve \
         --unsafe-no-sync \"$@\"; fi\nexec '{0}' \"$@\"\n",
        palisaded().display()
    );
    std::fs::write(&careless, script).unwrap();
    std::fs::set_permissions(&careless, std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = Run::with(
        &careless,
        "--workload lock --nemesis power-cut-all --nodes 3 --time 8s --seed 4",
    );
    assert_eq!(run.status(), 1, "{}", run.words());
}

#[test]
fn a_run_whose_fault_could_not_happen_is_unknown_and_never_valid() {
    let run = Run::of("--nemesis partition-majority-ring --nodes 3 --time 5s --seed 1");
    assert_eq!(run.status(), 2, "{}", run.words());
    let coverage = run.check("coverage");
    assert!(
        coverage["explanation"]
            .as_str()
            .unwrap()
            .contains("partition-majority-ring"),
        "{coverage}"
    );
}

#[test]
fn what_cannot_be_run_is_an_error_of_the_harness() {
    let run = Run::with(Path::new("/nowhere/palisaded"), "--time 1s");
    assert_eq!(run.status(), 3, "{}", run.words());
    for arguments in [
        &["self-test", "--binary", "/nowhere/palisaded-planted"][..],
        &["run", "--nemesis", "earthquake"],
        &["run", "--workload", "chess"],
        &["run", "--system", "zookeeper"],
        &["run", "--nodes", "0"],
        &["run", "--nodes", "1"],
        &["run", "--nemesis", "none,kill"],
    ] {
        let output = jepsen().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_build_without_planted_bugs_is_no_test_of_the_harness() {
    let output = jepsen()
        .arg("self-test")
        .arg("--binary")
        .arg(palisaded())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{words}");
    assert!(words.contains("no bug can be planted in"), "{words}");
}

#[test]
fn the_list_names_workloads_faults_and_systems() {
    let output = jepsen().arg("list").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for name in [
        "fenced-counter",
        "partition-leader",
        "palisade",
        "redis",
        "namespaces",
    ] {
        assert!(text.contains(name), "{text}");
    }
}

/// Why there is no network namespace to be had here.
fn no_namespaces() -> Option<String> {
    let output = jepsen().arg("list").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let backends = text.split("backends (--backend)").nth(1).expect("backends");
    let line = backends.lines().find(|line| line.contains("namespaces"));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    line.contains("not here").then(|| line.trim().to_owned())
}

#[test]
fn packets_dropped_between_namespaces_break_nothing_and_are_counted() {
    if let Some(why) = no_namespaces() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let run = Run::of(
        "--backend namespaces --workload mixed --nemesis partition,links --nodes 3 --time 20s \
         --rate 120 --seed 105",
    );
    assert_eq!(run.status(), 0, "{}", run.words());
    let description = run.json("run.json");
    assert_eq!(description["backend"], "namespaces");
    let command = description["command"].as_str().unwrap();
    assert!(command.contains("--backend namespaces"), "{command}");
    // One that ends with the run may have been too short to meet any.
    let reasons = reasons(&run);
    let met = |reason: &String| reason.ends_with(" packets met it") && !reason.starts_with('0');
    assert!(
        reasons.iter().filter(|reason| met(reason)).count() >= 3,
        "{reasons:?}"
    );
}

#[test]
fn a_fault_that_a_backend_cannot_bring_about_is_left_out_and_makes_the_run_unknown() {
    let run = Run::of("--nemesis links-lossy --nodes 3 --time 5s --seed 1");
    assert_eq!(run.status(), 2, "{}", run.words());
    let left_out = run.json("run.json")["left_out"].to_string();
    assert!(left_out.contains("links-lossy"), "{left_out}");
}

/// Processes whose command line names this folder, and their network namespaces.
fn processes_of(folder: &Path) -> Vec<(u32, PathBuf)> {
    let folder = folder.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_str().unwrap_or_default().parse() else {
            continue;
        };
        // Processes end while they are looked at.
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(folder)
            && let Ok(namespace) = std::fs::read_link(entry.path().join("ns/net"))
        {
            found.push((pid, namespace));
        }
    }
    found
}

#[test]
fn a_harness_that_is_killed_leaves_neither_nodes_nor_namespaces() {
    if let Some(why) = no_namespaces() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let folder = temporary_folder();
    let arguments = "--backend namespaces --nodes 3 --time 300s --seed 3";
    let mut harness = run_command(&palisaded(), arguments, folder.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let until = |count: usize| loop {
        let found = processes_of(folder.path());
        if found.len() == count {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "{found:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    // The harness and three nodes, in four namespaces that are not this one.
    let found = until(4);
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let mut namespaces: Vec<&PathBuf> = found.iter().map(|(_, namespace)| namespace).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    assert!(
        namespaces.len() == 4 && !namespaces.contains(&&own),
        "{found:?}"
    );
    harness.kill().unwrap();
    harness.wait().unwrap();
    until(0);
    // Nothing of it was ever here.
    let devices = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    assert!(!devices.contains("router:"), "{devices}");
}

/// The processes of a harness's clients, and the state of each as `ps` names it.
fn clients_of(harness: u32) -> Vec<(u32, char)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        // Processes end while they are looked at.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let (Some((pid, _)), Some((_, rest))) = (stat.split_once(' '), stat.rsplit_once(") "))
        else {
            continue;
        };
        let mut rest = rest.split(' ');
        let state = rest.next().unwrap().parse().unwrap();
        if rest.next() == Some(&harness.to_string()) && command == b"palisade-jepsen\0client\0" {
            found.push((pid.parse().unwrap(), state));
        }
    }
    found
}

/// A run whose clients are looked at from outside.
struct Watched {
    harness: std::process::Child,
    folder: tempfile::TempDir,
}

impl Watched {
    fn of(arguments: &str) -> Self {
        let folder = temporary_folder();
        let harness = run_command(&palisaded(), arguments, folder.path())
            .args("--nodes 3 --clients 4 --seed 3".split(' '))
            // As a shell starts what can be interrupted from its terminal.
            .process_group(0)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        Watched { harness, folder }
    }

    /// Until there are four clients, of whom so many are stopped.
    fn until_stopped(&self, count: usize) -> Vec<(u32, char)> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let clients = clients_of(self.harness.id());
            let stopped = clients.iter().filter(|(_, state)| *state == 'T').count();
            if clients.len() == 4 && stopped == count {
                return clients;
            }
            assert!(std::time::Instant::now() < deadline, "{clients:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Until it has looked at its cluster at this time of its history.
    fn until_recorded_ns(&self, time_ns: u64) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let last = || -> Option<u64> {
            let samples = std::fs::read_to_string(self.folder.path().join("cluster.jsonl")).ok()?;
            // The last line may be on its way.
            let mut lines = samples.lines().rev();
            lines.find_map(|line| serde_json::from_str::<Value>(line).ok()?["time_ns"].as_u64())
        };
        while last().is_none_or(|last| last < time_ns) {
            assert!(std::time::Instant::now() < deadline, "{:?}", last());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Until the history so far is in a file.
    fn until_saved(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let path = self.folder.path().join("history.jsonl");
        while std::fs::read_to_string(&path).map_or(0, |history| history.lines().count()) == 0 {
            assert!(std::time::Instant::now() < deadline, "no history");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn kill(&self, client: (u32, char)) {
        let killed = Command::new("kill")
            .args(["-9", &client.0.to_string()])
            .status();
        assert!(killed.unwrap().success());
    }

    /// Ctrl-C at its terminal: the whole process group gets the signal.
    fn interrupt(&self) {
        let group = format!("-{}", self.harness.id());
        let interrupted = Command::new("kill").args(["-INT", "--", &group]).status();
        assert!(interrupted.unwrap().success());
    }

    fn must_be_unknown_as(self, words: &str) {
        let run = Run {
            output: self.harness.wait_with_output().unwrap(),
            folder: self.folder,
        };
        assert_eq!(run.status(), 2, "{}", run.words());
        let why = run.json("results.json")["why"].to_string();
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn paused_clients_are_stopped_processes_and_one_that_dies_makes_the_run_unknown() {
    let run = Watched::of("--nemesis pause-clients --time 300s");
    run.until_stopped(1);
    let clients = run.until_stopped(0);
    run.kill(clients[2]);
    run.must_be_unknown_as("the process of client");
}

#[test]
fn a_client_that_dies_while_the_system_recovers_convicts_nobody() {
    let run = Watched::of("--nemesis none --time 1s");
    let clients = run.until_stopped(0);
    run.until_recorded_ns(5_000_000_000);
    run.kill(clients[1]);
    run.must_be_unknown_as("the process of client");
}

#[test]
fn ctrl_c_is_for_the_harness_alone_which_ends_its_run_as_unknown() {
    let run = Watched::of("--nemesis none --time 300s");
    run.until_saved();
    run.interrupt();
    run.must_be_unknown_as("it was interrupted");
}

/// What every fault of the run was seen to do.
fn reasons(run: &Run) -> Vec<String> {
    let faults = std::fs::read_to_string(run.folder.path().join("nemesis.jsonl")).unwrap();
    let faults = faults.lines().map(|line| {
        let fault: Value = serde_json::from_str(line).unwrap();
        fault["reason"].as_str().unwrap_or_default().to_owned()
    });
    faults.collect()
}

#[test]
fn nodes_whose_disks_are_full_stop_and_come_back_with_all_that_they_acknowledged() {
    let run = Run::of("--workload lock --nemesis disk-full --nodes 3 --time 10s --seed 21");
    assert_eq!(run.status(), 0, "{}", run.words());
    let reasons = reasons(&run);
    assert!(
        reasons.iter().any(|reason| reason.ends_with(" stopped")),
        "{reasons:?}"
    );
}

#[test]
fn under_clocks_that_run_wild_tokens_are_asserted_and_leases_are_not() {
    let run =
        Run::of("--workload fenced-counter --nemesis clock-drift --nodes 3 --time 12s --seed 7");
    let left_out = run.json("run.json")["left_out"].to_string();
    if left_out.contains("libfaketime is not installed") {
        eprintln!("SKIPPED: {left_out}");
        assert_eq!(run.status(), 2, "{}", run.words());
        return;
    }
    assert_eq!(run.status(), 0, "{}", run.words());
    for by_time in ["linearizability", "early expiry", "holder overlap"] {
        assert_eq!(run.check(by_time)["counts"], false, "{by_time}");
    }
    for by_token in ["fencing", "guarded resource"] {
        let check = run.check(by_token);
        assert_eq!(
            (&check["counts"], &check["verdict"]),
            (&true.into(), &"valid".into())
        );
    }
}
