//! What becomes of a node whose disk loses, damages or refuses something: it stops or does not start,
//! says why and what to do, and the others go on. (Power cuts are in `durability.rs`.)

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use power_cut::{Cut, Fsync};
use serde_json::Value;
use tests::{Acquire, Cluster, Granted, PATIENCE, eventually, holder, palisaded, within};

/// No lease of these tests ends before them.
const TTL_MS: u64 = 3_600_000;
/// So few that there is a snapshot, and so many kept that the log still holds everything.
const SNAPSHOTS: [&str; 4] = ["--snapshot-after-entries", "50", "--keep-entries", "100000"];

fn others(of: usize) -> [usize; 2] {
    [(of + 1) % 3, (of + 2) % 3]
}

/// Takes so many locks through one node.
async fn take(cluster: &Cluster, node: usize, name: &str, count: usize) -> Vec<Granted> {
    let mut granted = Vec::new();
    for number in 0..count {
        let request = Acquire::new(&format!("{name}-{number}")).ttl_ms(TTL_MS);
        granted.push(request.granted(&cluster.http(node)).await);
    }
    granted
}

/// Every lock is held as it was granted, by this node's account.
async fn assert_held(cluster: &Cluster, node: usize, granted: &[Granted]) {
    for grant in granted {
        let lock = cluster.http(node).lock(grant.request.lock()).await;
        assert_eq!(holder(&lock)["token"], grant.token, "{lock}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

fn replace(directory: &Path, by: &Path) {
    fs::remove_dir_all(directory).unwrap();
    copy(by, directory);
}

/// Every file below a folder, with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

/// Changes the files of a folder that have this ending; there must be one.
fn change(folder: &Path, ending: &str, change: impl Fn(&mut Vec<u8>)) {
    let mut changed = 0;
    for (path, mut bytes) in files(folder) {
        if path.to_string_lossy().ends_with(ending) && !bytes.is_empty() {
            change(&mut bytes);
            fs::write(path, bytes).unwrap();
            changed += 1;
        }
    }
    assert!(changed > 0, "no {ending} in {}", folder.display());
}

fn flip(bytes: &mut [u8], at: usize) {
    bytes[at] ^= 0x04;
}

fn flip_in_the_middle(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    flip(bytes, middle);
}

/// Runs `palisaded inspect` or `verify` and returns its status and what it printed.
fn look(command: &str, directory: &Path, json: bool) -> (i32, String) {
    let output = palisaded()
        .arg(command)
        .arg("--data-dir")
        .arg(directory)
        .args(json.then_some("--json"))
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), printed)
}

/// One way in which a directory is damaged, and the words that tell of it.
struct Damage {
    what: &'static str,
    make: fn(&Path),
    words: &'static [&'static str],
    /// Another build's rather than damaged: not to be rebuilt.
    is_version: bool,
}

const DAMAGES: &[Damage] = &[
    Damage {
        what: "a flipped bit in the write-ahead log",
        make: |data| change(&data.join("log"), ".log", |bytes| flip_in_the_middle(bytes)),
        // Where in a record it is decides how it is found out: by the record behind it, or by the mark.
        words: &["is damaged", "synced", "--join"],
        is_version: false,
    },
    Damage {
        what: "a write-ahead log cut off in synced records",
        make: |data| change(&data.join("log"), ".log", |wal| wal.truncate(wal.len() / 2)),
        words: &["were synced and are gone", "--join"],
        is_version: false,
    },
    Damage {
        what: "a flipped bit in a table",
        make: |data| change(&data.join("log"), ".sst", |table| flip(table, 100)),
        words: &["is damaged", "--join"],
        is_version: false,
    },
    Damage {
        what: "a flipped bit in each slot of the mark",
        make: |data| {
            change(&data.join("log"), "synced-mark", |mark| {
                flip(mark, 14);
                flip(mark, 4096 + 14);
            });
        },
        words: &["neither slot has a valid checksum", "--join"],
        is_version: false,
    },
    Damage {
        what: "a missing mark",
        make: |data| fs::remove_file(data.join("log/synced-mark")).unwrap(),
        words: &["synced-mark is missing", "--join"],
        is_version: false,
    },
    Damage {
        what: "a missing database",
        make: |data| fs::remove_dir_all(data.join("log/rocksdb")).unwrap(),
        words: &["the database is missing", "--join"],
        is_version: false,
    },
    Damage {
        what: "a missing log",
        make: |data| fs::remove_dir_all(data.join("log")).unwrap(),
        words: &["its log", "is gone"],
        is_version: false,
    },
    Damage {
        what: "a flipped bit in the snapshot",
        make: |data| change(data, ".snapshot", |bytes| flip_in_the_middle(bytes)),
        words: &["its checksum does not hold", "--join"],
        is_version: false,
    },
    Damage {
        what: "a flipped bit in the identity",
        make: |data| {
            change(data, "identity.json", |identity| {
                let digit = b"\"node_id\": \"";
                let at = identity
                    .windows(digit.len())
                    .position(|found| found == digit);
                identity[at.unwrap() + digit.len()] ^= 0x01;
            });
        },
        words: &["identity.json is damaged", "checksum", "--join"],
        is_version: false,
    },
    Damage {
        what: "an identity of another version",
        make: |data| {
            change(data, "identity.json", |identity| {
                let text = String::from_utf8(identity.clone()).unwrap();
                *identity = text.replace("\"format\": 2", "\"format\": 9").into();
            });
        },
        words: &["format version 9 is not known", "newer one"],
        is_version: true,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_node_does_not_start_says_why_changes_nothing_and_the_others_go_on() {
    let mut cluster = Cluster::builder(3).arguments(SNAPSHOTS).start().await;
    let mut granted = take(&cluster, 0, "first", 60).await;
    // A restart moves what is in the write-ahead log into a table.
    cluster.terminate(0).await;
    cluster.restart(0);
    cluster.wait_node_ready(0).await;
    granted.extend(take(&cluster, 0, "second", 60).await);
    cluster.terminate(0).await;

    let data = cluster.files(0).data.clone();
    let sound = cluster.folder().join("sound");
    copy(&data, &sound);
    let (status, printed) = look("verify", &data, false);
    assert_eq!(
        (status, printed.lines().last()),
        (0, Some("sound")),
        "{printed}"
    );

    for damage in DAMAGES {
        eprintln!("{}", damage.what);
        replace(&data, &sound);
        (damage.make)(&data);
        let damaged = files(&data);
        let logged = cluster.log(0).len();
        cluster.restart(0);
        let status = cluster.wait_end(0).await;
        assert_eq!(status.code(), Some(1), "{}", damage.what);
        let log = &cluster.log(0)[logged..];
        for words in damage.words {
            assert!(
                log.contains(words),
                "{}: no `{words}` in {log}",
                damage.what
            );
        }
        assert!(!damage.is_version || !log.contains("--join"), "{log}");
        assert!(files(&data) == damaged, "{}: it was changed", damage.what);
        let (status, printed) = look("verify", &data, true);
        let expected = if damage.is_version { 2 } else { 1 };
        assert_eq!(status, expected, "{}: {printed}", damage.what);
        let told: Value = serde_json::from_str(&printed).unwrap();
        assert!(!told["problems"].as_array().unwrap().is_empty(), "{told}");
        assert!(
            files(&data) == damaged,
            "{}: verify changed it",
            damage.what
        );
    }
    for node in others(0) {
        assert_held(&cluster, node, &granted).await;
    }
    replace(&data, &sound);
    cluster.restart(0);
    cluster.wait_node_ready(0).await;
    assert_held(&cluster, 0, &granted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inspect_tells_what_a_stopped_node_holds_and_refuses_a_running_one() {
    let mut cluster = Cluster::builder(3).arguments(SNAPSHOTS).start().await;
    take(&cluster, 0, "lock", 60).await;
    let data = cluster.files(0).data.clone();
    for command in ["inspect", "verify"] {
        let (status, printed) = look(command, &data, false);
        assert_eq!(status, 2, "{printed}");
        assert!(printed.contains("in use by another process"), "{printed}");
    }
    let view = cluster.http(0).get("/v1/cluster").await.expect(200);
    cluster.terminate(0).await;
    let before = files(&data);
    let (status, printed) = look("inspect", &data, true);
    assert_eq!(status, 0, "{printed}");
    let told: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(told["cluster_id"], view["cluster_id"]);
    assert_eq!(told["node_id"], view["answered_by"]);
    assert_eq!(told["members"].as_array().unwrap().len(), 3, "{told}");
    assert!(
        told["log"]["last"]["index"].as_u64().unwrap() >= 60,
        "{told}"
    );
    assert!(
        told["snapshot"]["last"]["index"].as_u64().unwrap() >= 40,
        "{told}"
    );
    assert!(
        told["vote"]["term"].as_u64() >= view["term"].as_u64(),
        "{told}"
    );
    assert_eq!(told["verdict"], "sound");
    let (status, printed) = look("inspect", &data, false);
    assert_eq!(status, 0);
    for word in [
        "node",
        "cluster",
        "vote",
        "last entry",
        "synced mark",
        "snapshot",
    ] {
        assert!(printed.contains(word), "{printed}");
    }
    assert!(files(&data) == before, "it was changed");
    let (status, printed) = look("verify", cluster.folder().join("nothing").as_path(), false);
    assert_eq!(status, 2, "{printed}");
}

#[test]
fn a_directory_of_something_else_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("holiday.jpg"), "a beach").unwrap();
    let output = palisaded()
        .args(["serve", "--alone", "--listen-http", "127.0.0.1:0"])
        .args(["--listen-peer", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("holds holiday.jpg"), "{log}");
    assert_eq!(files(folder.path()).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_directory_brings_no_member_and_takes_none_away() {
    let (mut ours, mut theirs) = tokio::join!(Cluster::start(), Cluster::start());
    let granted = take(&ours, 1, "ours", 3).await;
    theirs.terminate(0).await;
    ours.terminate(0).await;
    let kept = ours.folder().join("kept");
    copy(&ours.files(0).data, &kept);
    replace(&ours.files(0).data, &theirs.files(0).data);
    let logged = ours.log(0).len();
    ours.restart(0);
    eventually("it tells of the other cluster", async || {
        ours.log(0)[logged..]
            .contains("belongs to cluster")
            .then_some(())
    })
    .await;
    assert_held(&ours, 1, &granted).await;
    // Its peers show it as unreachable: whoever answers there is not the one they know.
    let view = ours.http(1).get("/v1/cluster").await.expect(200);
    let members = view["members"].as_array().unwrap();
    let reachable = members.iter().filter(|member| member["reachable"] == true);
    assert_eq!(reachable.count(), 2, "{view}");
    ours.kill9(0);
    replace(&ours.files(0).data, &kept);
    ours.restart(0);
    ours.wait_node_ready(0).await;
    assert_held(&ours, 0, &granted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_another_nodes_directory_does_not_start_while_that_node_runs() {
    let mut cluster = Cluster::start().await;
    let granted = take(&cluster, 1, "lock", 3).await;
    cluster.terminate(1).await;
    let copied = cluster.folder().join("copied");
    copy(&cluster.files(1).data, &copied);
    cluster.restart(1);
    cluster.wait_node_ready(1).await;
    cluster.terminate(0).await;
    replace(&cluster.files(0).data, &copied);
    let logged = cluster.log(0).len();
    cluster.restart(0);
    let status = cluster.wait_end(0).await;
    assert_eq!(status.code(), Some(1));
    let log = &cluster.log(0)[logged..];
    for words in ["runs already", "is a copy of another node's", "--join"] {
        assert!(log.contains(words), "no `{words}` in {log}");
    }
    assert_held(&cluster, 1, &granted).await;
}

/// The nodes of a cluster under the shim.
fn with_shim(cuts: &Arc<Mutex<BTreeMap<PathBuf, Cut>>>) -> tests::ClusterBuilder {
    let cuts = cuts.clone();
    Cluster::builder(3).customise(move |files, command| {
        let mut cuts = cuts.lock().unwrap();
        let cut = cuts.entry(files.data.clone()).or_insert_with(|| {
            Cut::begin(&files.data, files.data.with_extension("journal")).unwrap()
        });
        cut.env_for(command).unwrap();
    })
}

/// Takes locks through `through` until `node` has ended by itself; returns all that were granted.
async fn take_until_it_ends(cluster: &mut Cluster, through: usize, node: usize) -> Vec<Granted> {
    let mut granted = Vec::new();
    let http = cluster.http(through);
    let status = {
        let mut number = 0;
        loop {
            if let Some(status) = cluster.try_end(node) {
                break status;
            }
            number += 1;
            let request = Acquire::new(&format!("until-{number}"))
                .ttl_ms(TTL_MS)
                .with("value", "v".repeat(4000));
            let Ok(reply) = http.try_post(lock_api::path::ACQUIRE, request.body()).await else {
                continue;
            };
            if reply.status == 200 {
                granted.push(request.granted(&http).await);
            }
            assert!(number < 100_000, "it goes on");
        }
    };
    assert_eq!(status.code(), Some(1));
    granted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_fsync_fails_stops_says_so_and_loses_nothing() {
    let cuts = Arc::default();
    let mut cluster = with_shim(&cuts).start().await;
    for victim in [cluster.leader().await, cluster.follower().await] {
        let through = others(victim)[0];
        let logged = cluster.log(victim).len();
        let cut = cuts.lock().unwrap()[&cluster.files(victim).data].clone();
        cut.set_fsync(Fsync::FailAfter(0)).unwrap();
        let granted = take_until_it_ends(&mut cluster, through, victim).await;
        let log = cluster.log(victim)[logged..].to_owned();
        for words in [
            "a write to the log failed",
            "this node has failed and stops",
            "os error 5",
        ] {
            assert!(
                log.to_lowercase().contains(words) || log.contains("Input/output error"),
                "no `{words}` in {log}"
            );
        }
        // What was acknowledged meanwhile is the others' too; the victim comes back without it.
        let report = cut.apply().unwrap();
        assert!(report.failed_syncs > 0, "{report}");
        cluster.restart(victim);
        cluster.wait_node_ready(victim).await;
        assert_held(&cluster, victim, &granted).await;
    }
}

/// So slow that a vote, which waits for two syncs on each side, outlasts the usual election timeout.
const SLOW_SYNC: Duration = Duration::from_millis(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_slow_disks_a_longer_election_timeout_has_a_leader_elected_and_replaced() {
    let mut cluster = Cluster::builder(3)
        .arguments(["--election-timeout-ms", "1500"])
        .slow_syncs(SLOW_SYNC)
        .start()
        .await;
    let leader = cluster.leader().await;
    let granted = take(&cluster, leader, "job", 1).await;
    cluster.kill9(leader);
    let other = others(leader)[0];
    eventually("the others elect", async || {
        let reply = Acquire::new("another").send(&cluster.http(other)).await;
        (reply.status == 200).then_some(())
    })
    .await;
    assert_held(&cluster, other, &granted).await;
}

/// A cluster of which each node's floor can be changed between its starts.
fn with_floors(floors: &Arc<Mutex<[u64; 3]>>) -> tests::ClusterBuilder {
    let floors = floors.clone();
    Cluster::builder(3).customise(move |files, command| {
        let floor = floors.lock().unwrap()[files.number].to_string();
        command.env("PALISADE_FREE_SPACE_FLOOR", floor);
    })
}

/// More than any disk has free.
const NEVER_ENOUGH: u64 = 1 << 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_floor_new_work_is_refused_and_holders_and_reads_go_on() {
    let floors = Arc::new(Mutex::new([0; 3]));
    let mut cluster = with_floors(&floors).start().await;
    let held = take(&cluster, 0, "held", 2).await;
    cluster.kill9_all();
    *floors.lock().unwrap() = [NEVER_ENOUGH; 3];
    cluster.restart_all();
    cluster.wait_ready().await;
    for node in 0..3 {
        let http = cluster.http(node);
        let problem = eventually("new work is refused", async || {
            let reply = Acquire::new("new").send(&http).await;
            (reply.status != 200 && reply.code() != "no_leader").then_some(reply)
        })
        .await
        .expect_problem(503, "disk_full");
        assert_eq!(problem["outcome"], "not_applied", "{problem}");
        assert_held(&cluster, node, &held).await;
        let renewal = serde_json::json!({ "lease": held[0].request.lease() });
        http.post(lock_api::path::RENEW, &renewal).await.expect(200);
    }
    held[1].release(&cluster.http(0)).await.expect(200);
    cluster.kill9_all();
    *floors.lock().unwrap() = [0; 3];
    cluster.restart_all();
    cluster.wait_ready().await;
    take(&cluster, 1, "new", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_below_its_floor_hands_over_to_a_voter_with_space() {
    let floors = Arc::new(Mutex::new([0; 3]));
    let mut cluster = with_floors(&floors).start().await;
    let granted = take(&cluster, 0, "before", 3).await;
    // Only one node has space, whoever is elected first.
    *floors.lock().unwrap() = [NEVER_ENOUGH, NEVER_ENOUGH, 0];
    cluster.kill9_all();
    cluster.restart_all();
    cluster.wait_ready().await;
    eventually("the node with space leads", async || {
        (cluster.leader().await == 2).then_some(())
    })
    .await;
    for node in 0..3 {
        take(&cluster, node, &format!("after-{node}"), 2).await;
        assert_held(&cluster, node, &granted).await;
    }
}

/// A small file system for one node, unmounted in the end.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None` where this machine does not let a test mount one.
    fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(path)
            .output();
        match output {
            Ok(output) if output.status.success() => Some(Self {
                path: path.to_owned(),
            }),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr);
                eprintln!("SKIPPED: no tmpfs can be mounted here: {why}");
                None
            }
            Err(error) => {
                eprintln!("SKIPPED: no `mount` here: {error}");
                None
            }
        }
    }

    fn filler(&self) -> PathBuf {
        self.path.join("lost+found")
    }

    /// Leaves so many bytes free. (`lost+found` is a name that a data directory may hold.)
    fn fill_up_to(&self, free_bytes: u64) {
        let stat = nix::sys::statvfs::statvfs(&self.path).unwrap();
        let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
        let bytes = vec![1; usize::try_from(free.saturating_sub(free_bytes)).unwrap()];
        let filler = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.filler());
        filler.unwrap().write_all(&bytes).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node of a failing test may still use it.
        let unmounted = Command::new("umount").arg("-l").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_is_full_stops_says_so_and_comes_back_when_there_is_space() {
    let mut cluster = Cluster::builder(3)
        .arguments(["--free-space-floor", "0"])
        .prepare();
    let victim = 0;
    let Some(disk) = SmallDisk::mount(&cluster.files(victim).data, 64) else {
        return;
    };
    // From the start, so that RocksDB finds no room to reserve for its log.
    disk.fill_up_to(6 << 20);
    cluster.restart_all();
    cluster.wait_ready().await;
    let through = others(victim)[0];
    let mut granted = take(&cluster, through, "before", 20).await;
    granted.extend(take_until_it_ends(&mut cluster, through, victim).await);
    let log = cluster.log(victim);
    assert!(log.contains("No space left on device"), "{log}");
    assert!(log.contains("this node has failed and stops"), "{log}");
    assert!(granted.len() > 20, "the others went on");
    // Still full: it does not come up, and says why.
    disk.fill_up_to(0);
    let logged = cluster.log(victim).len();
    cluster.restart(victim);
    let status = within(PATIENCE, "it ends", async || cluster.try_end(victim)).await;
    assert_eq!(status.code(), Some(1));
    let log = cluster.log(victim)[logged..].to_owned();
    assert!(log.contains("No space left on device"), "{log}");
    disk.free();
    cluster.restart(victim);
    cluster.wait_node_ready(victim).await;
    assert_held(&cluster, victim, &granted).await;
    cluster.kill9_all();
}
