//! What survives a power cut and what does not, with a real process under the real shim.

#![allow(clippy::unwrap_used, reason = "a test may crash: that is how it fails")]

use power_cut::{Change, Cut, Error, Fsync, Report, Tear};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A directory and a child that works in it.
struct Machine {
    folder: TempDir,
    cut: Cut,
    child: Option<Running>,
}

struct Running {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Machine {
    fn boot() -> Machine {
        Machine::boot_with(Fsync::Honest)
    }

    fn boot_with(fsync: Fsync) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let cut = Cut::begin(folder.path().join("data"), folder.path().join("journal"));
        Machine {
            folder,
            cut: cut.unwrap().with_fsync(fsync),
            child: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("data").join(name)
    }

    /// Has the child obey each line and expects `ok`; starts one if none runs.
    fn run(&mut self, script: &str) {
        for line in script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            assert_eq!(self.say(line), "ok", "{line}");
        }
    }

    fn say(&mut self, line: &str) -> String {
        let child = self.child.get_or_insert_with(|| start(&self.cut));
        writeln!(child.stdin, "{line}").unwrap();
        let mut answer = String::new();
        child.stdout.read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }

    /// SIGKILL.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.process.kill().unwrap();
            child.process.wait().unwrap();
        }
    }

    fn cut_power(&mut self) -> Report {
        self.kill();
        self.cut.apply().unwrap()
    }

    /// The content of a file, or nothing if it is not there.
    fn content(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(cut: &Cut) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_power-cut-child"));
    cut.env_for(&mut command).unwrap();
    command
        .current_dir(cut.directory())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let (stdin, stdout) = (
        process.stdin.take().unwrap(),
        process.stdout.take().unwrap(),
    );
    Running {
        process,
        stdin,
        stdout: BufReader::new(stdout),
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn a_torn_cut_keeps_as_much_of_an_unsynced_tail_as_told_and_nothing_of_what_was_synced_is_lost() {
    for (kept_bytes, zeroed_bytes, expected) in [
        (0, 0, "12"),
        (2, 0, "12ab"),
        (3, 2, "12a\0\0"),
        (99, 0, "12abcd"),
    ] {
        let mut machine = Machine::boot();
        machine.run("append file 12\nfsync file\nfsync-directory .\nappend file abcd");
        machine.kill();
        let tear = Tear {
            kept_bytes,
            zeroed_bytes,
        };
        machine
            .cut
            .apply_torn(|unsynced| {
                assert_eq!(unsynced, 4);
                tear
            })
            .unwrap();
        assert_eq!(machine.content("file"), some(expected));
    }
}

#[test]
fn what_was_synced_stays_and_what_was_appended_since_goes() {
    let mut machine = Machine::boot();
    machine.run("append log AAAA\n fdatasync log\n fsync-directory .\n append log BB");
    machine.kill();
    assert_eq!(
        machine.content("log"),
        some("AAAABB"),
        "a kill alone loses nothing"
    );
    let report = machine.cut_power();
    assert_eq!(machine.content("log"), some("AAAA"));
    let resized = Change::Resized {
        path: "log".into(),
        from_bytes: 6,
        to_bytes: 4,
    };
    assert_eq!(report.changes, [resized]);
    assert_eq!((report.processes, report.syncs), (1, 2));
}

#[test]
fn a_full_disk_refuses_what_would_grow_until_there_is_space_and_takes_what_has_its_space() {
    const ENOSPC: &str = "error 28";
    let mut machine = Machine::boot();
    machine.run("append log AAAA\n fdatasync log\n fsync-directory .");
    machine.cut.set_full(true).unwrap();
    for growing in [
        "append log BB",
        "write-at log 3 BB",
        "append new BB",
        "reserve log 4096",
    ] {
        assert_eq!(machine.say(growing), ENOSPC, "{growing}");
    }
    machine.run("write-at log 2 CC\n fdatasync log\n append ../outside DD");
    assert_eq!(
        machine.content("log"),
        some("AACC"),
        "nothing of it was written"
    );
    machine.cut.set_full(false).unwrap();
    machine.run("append log EE\n fdatasync log\n reserve log 4096");
    machine.cut_power();
    assert_eq!(machine.content("log"), some("AACCEE"));
}

#[test]
fn a_disk_that_is_full_before_the_program_starts_is_full_for_it_and_a_cut_empties_it() {
    let mut machine = Machine::boot();
    machine.cut.set_full(true).unwrap();
    assert_eq!(machine.say("append new AAAA"), "error 28");
    machine.cut_power();
    machine.run("append new AAAA");
}

#[test]
fn a_file_whose_name_was_never_synced_vanishes_although_it_was_synced() {
    let mut machine = Machine::boot();
    machine.run("append new AAAA\n fsync new");
    let report = machine.cut_power();
    assert_eq!(machine.content("new"), None);
    assert_eq!(
        report.changes,
        [Change::Vanished {
            path: "new".into(),
            from_bytes: 4
        }]
    );
}

#[test]
fn a_file_of_which_only_the_name_was_synced_is_empty() {
    let mut machine = Machine::boot();
    machine.run("append new AAAA\n fsync-directory .");
    machine.cut_power();
    assert_eq!(machine.content("new"), some(""));
}

#[test]
fn what_was_there_before_the_journal_began_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir_all(data.join("deep")).unwrap();
    fs::write(data.join("deep/old"), "AAAA").unwrap();
    let cut = Cut::begin(&data, folder.path().join("journal")).unwrap();
    let mut machine = Machine {
        folder,
        cut,
        child: None,
    };
    machine.run("append deep/old BB\n write-at deep/old 0 X");
    machine.cut_power();
    assert_eq!(machine.content("deep/old"), some("AAAA"));
}

#[test]
fn an_overwrite_in_place_is_put_back_unless_it_was_synced() {
    let mut machine = Machine::boot();
    machine.run("append mark AAAABBBB\n fdatasync mark\n fsync-directory .");
    machine.run("write-at mark 0 CCCC\n fdatasync mark");
    machine.run("write-at mark 4 DDDD\n write-at mark 5 EE\n seek mark 1\n append mark F");
    machine.kill();
    assert_eq!(machine.content("mark"), some("CFCCDEED"));
    let report = machine.cut_power();
    assert_eq!(machine.content("mark"), some("CCCCBBBB"));
    assert_eq!(
        report.changes,
        [Change::Reverted {
            path: "mark".into()
        }]
    );
}

#[test]
fn a_truncation_is_undone_unless_it_was_synced() {
    for truncation in ["set-length log 2", "truncate log"] {
        let mut machine = Machine::boot();
        machine.run("append log AAAABBBB\n fsync log\n fsync-directory .");
        machine.run(truncation);
        machine.run("append log C\n write-at log 5 D");
        machine.cut_power();
        assert_eq!(machine.content("log"), some("AAAABBBB"), "{truncation}");

        machine.run(truncation);
        machine.run("fsync log");
        let synced = machine.content("log");
        machine.run("set-length log 0");
        machine.cut_power();
        assert_eq!(machine.content("log"), synced, "{truncation}, synced");
    }
}

#[test]
fn a_large_overwritten_range_is_put_back_whole() {
    let mut machine = Machine::boot();
    let content: String = (0..300_000)
        .map(|n| char::from(b'a' + (n % 26) as u8))
        .collect();
    let big = content.repeat(10);
    fs::write(machine.path("big"), &big).unwrap();
    machine.run("fsync big\n fsync-directory .\n truncate big\n append big X");
    machine.cut_power();
    assert!(machine.content("big") == Some(big), "3 MB differ");
}

#[test]
fn a_rename_is_undone_unless_the_directory_was_synced() {
    let mut machine = Machine::boot();
    machine.run("append current old\n fsync current\n fsync-directory .");
    machine.run("append next newer\n fsync next\n rename next current");
    machine.kill();
    assert_eq!(machine.content("current"), some("newer"));
    let report = machine.cut_power();
    assert_eq!(machine.content("current"), some("old"));
    assert_eq!(
        machine.content("next"),
        None,
        "its name was never synced either"
    );
    let replaced = Change::Replaced {
        path: "current".into(),
        from_bytes: 5,
        to_bytes: 3,
    };
    assert_eq!(report.changes, [replaced]);

    machine.run("append next newer\n fsync next\n rename next current\n fsync-directory .");
    assert_eq!(machine.cut_power().changes, []);
    assert_eq!(machine.content("current"), some("newer"));
}

#[test]
fn an_unlink_is_undone_unless_the_directory_was_synced() {
    let mut machine = Machine::boot();
    machine.run("append a AAAA\n fsync a\n append b BBBB\n fsync b\n fsync-directory .");
    machine.run("unlink a\n fsync-directory .\n unlink b");
    let report = machine.cut_power();
    assert_eq!(
        (machine.content("a"), machine.content("b")),
        (None, some("BBBB"))
    );
    assert_eq!(
        report.changes,
        [Change::Returned {
            path: "b".into(),
            to_bytes: 4
        }]
    );
}

#[test]
fn files_in_a_directory_whose_name_was_never_synced_vanish_with_it() {
    let mut machine = Machine::boot();
    machine.run("mkdir db\n append db/wal AAAA\n fsync db/wal\n fsync-directory db");
    machine.cut_power();
    assert!(!machine.path("db").exists());

    machine.run("mkdir db\n append db/wal AAAA\n fsync db/wal\n fsync-directory .");
    machine.cut_power();
    assert!(machine.path("db").exists());
    assert_eq!(
        machine.content("db/wal"),
        None,
        "the directory's own entries were never synced"
    );
}

#[test]
fn a_renamed_directory_keeps_what_was_synced_in_it() {
    let mut machine = Machine::boot();
    machine.run("mkdir tmp\n append tmp/file AAAA\n fsync tmp/file\n fsync-directory tmp");
    machine.run("rename tmp final\n fsync-directory .\n symlink final/file link");
    machine.run("fsync-directory .");
    assert_eq!(machine.cut_power().changes, []);
    assert_eq!(machine.content("final/file"), some("AAAA"));
    assert_eq!(machine.content("link"), some("AAAA"));
}

#[test]
fn a_new_file_with_a_dead_files_inode_number_inherits_nothing() {
    let mut machine = Machine::boot();
    for round in 0..20 {
        let script = format!(
            "append f{round} AAAA\n fsync f{round}\n fsync-directory .\n unlink f{round}\n \
             close f{round}\n fsync-directory ."
        );
        machine.run(&script);
    }
    // On most file systems this gets the number that the last one freed.
    machine.run("append fresh BBBBBBBB\n fsync-directory .");
    machine.cut_power();
    assert_eq!(
        machine.content("fresh"),
        some(""),
        "its content was never synced"
    );
    let kept = fs::read_dir(machine.folder.path().join("journal.keep"))
        .unwrap()
        .count();
    assert_eq!(kept, 1, "files that are gone for good are not kept");
}

#[test]
fn a_new_directory_with_a_dead_ones_inode_number_inherits_nothing() {
    let mut machine = Machine::boot();
    for round in 0..10 {
        let script = format!(
            "mkdir d{round}\n append d{round}/f AAAA\n fsync d{round}/f\n fsync-directory d{round}\n \
             fsync-directory .\n unlink d{round}/f\n close d{round}/f\n rmdir d{round}"
        );
        machine.run(&script);
    }
    // On most file systems this gets the number that the last one freed.
    machine.run("mkdir fresh\n fsync-directory .");
    machine.cut_power();
    assert!(machine.path("fresh").exists());
    assert_eq!(machine.content("fresh/f"), None);
}

#[test]
fn what_a_later_process_syncs_is_durable() {
    let mut machine = Machine::boot();
    machine.run("append log A\n fsync-directory .\n fsync log\n fsync log\n fsync log");
    machine.kill();
    machine.run("append log B\n fsync log\n append new C\n fsync new\n fsync-directory .");
    machine.cut_power();
    assert_eq!(
        (machine.content("log"), machine.content("new")),
        (some("AB"), some("C"))
    );
}

#[test]
fn a_lying_sync_loses_what_it_acknowledged() {
    let mut machine = Machine::boot_with(Fsync::Lie);
    machine.run("append log AAAA\n fdatasync log\n fsync-directory .");
    let report = machine.cut_power();
    assert_eq!(machine.content("log"), None);
    assert_eq!((report.syncs, report.lied_syncs), (0, 2));
}

#[test]
fn syncs_fail_when_told_to_and_no_later_one_brings_the_data_back() {
    let mut machine = Machine::boot_with(Fsync::FailAfter(2));
    machine.run("append log AAAA\n fsync log\n fsync-directory .\n append log BB");
    assert_eq!(machine.say("fdatasync log"), format!("error {}", libc::EIO));
    machine.cut.set_fsync(Fsync::Honest).unwrap();
    machine.run("fdatasync log\n append other CC\n fsync other\n fsync-directory .");
    let report = machine.cut_power();
    assert_eq!(machine.content("log"), some("AAAA"), "as after a real EIO");
    assert_eq!(
        machine.content("other"),
        some("CC"),
        "another file is not affected"
    );
    assert_eq!(report.failed_syncs, 1);
}

#[test]
fn syncs_can_be_made_to_fail_while_the_process_runs() {
    let mut machine = Machine::boot();
    machine.run("append log AAAA\n fsync log");
    machine.cut.set_fsync(Fsync::FailAfter(0)).unwrap();
    assert_eq!(machine.say("fsync log"), format!("error {}", libc::EIO));
    assert_eq!(
        machine.say("fsync-directory ."),
        format!("error {}", libc::EIO)
    );
    machine.cut_power();
    machine.run("append log AAAA\n fsync log"); // after the cut the machine is sound again
}

#[test]
fn what_an_earlier_process_left_unsynced_is_still_lost() {
    let mut machine = Machine::boot();
    machine.run("append log AAAABBBB\n fsync log\n fsync-directory .\n write-at log 0 CC");
    machine.kill();
    machine.run("append log D\n write-at log 4 EE");
    let report = machine.cut_power();
    assert_eq!(machine.content("log"), some("AAAABBBB"));
    assert_eq!(report.processes, 2);
}

#[test]
fn many_threads_lose_nothing_that_they_synced() {
    let mut machine = Machine::boot();
    machine.run("mkdir files\n fsync-directory .\n storm files 8 50\n append files/0 X");
    let report = machine.cut_power();
    for thread in 0..8 {
        let content = machine.content(&format!("files/{thread}")).unwrap();
        let mut expected: Vec<u8> = (0..50).flat_map(|n| [b'a' + n % 26; 100]).collect();
        expected[..10].fill(b'A' + 49 % 26);
        assert!(content.as_bytes() == expected, "file {thread}");
    }
    assert_eq!(report.changes.len(), 1, "{report}");
}

#[test]
fn a_kill_amid_many_syncs_leaves_each_file_at_some_sync() {
    let mut machine = Machine::boot();
    machine.run("mkdir files");
    for thread in 0..4 {
        fs::write(machine.path(&format!("files/{thread}")), "").unwrap();
    }
    machine.run("fsync-directory files\n fsync-directory .");
    let child = machine.child.as_mut().unwrap();
    writeln!(child.stdin, "storm files 4 100000").unwrap();
    let far_enough = |machine: &Machine| {
        (0..4).all(|n| {
            fs::metadata(machine.path(&format!("files/{n}")))
                .unwrap()
                .len()
                > 5_000
        })
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !far_enough(&machine) {
        assert!(
            Instant::now() < deadline,
            "the child syncs too slowly to be killed amid it"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let report = machine.cut_power();
    assert!(report.syncs > 100, "{report}");
    for thread in 0..4 {
        let content = machine
            .content(&format!("files/{thread}"))
            .unwrap()
            .into_bytes();
        let rounds = content.len() / 100;
        assert!(
            rounds > 0 && content.len().is_multiple_of(100),
            "a cut between two syncs"
        );
        let mark = b'A' + ((rounds - 1) % 26) as u8;
        assert_eq!(
            content[..10],
            [mark; 10],
            "file {thread} of {rounds} rounds"
        );
    }
}

#[test]
fn a_cut_is_refused_while_the_process_runs_or_if_none_ever_did() {
    let mut machine = Machine::boot();
    assert!(matches!(machine.cut.apply(), Err(Error::NeverLoaded(_))));
    machine.run("append log AAAA");
    assert!(matches!(machine.cut.apply(), Err(Error::StillRunning(_))));
    assert_eq!(machine.content("log"), some("AAAA"), "untouched");
    machine.cut_power();
}

#[test]
fn a_cut_is_refused_after_the_shim_gave_up() {
    let mut machine = Machine::boot();
    machine.run("append log AAAA\n fsync log\n fsync-directory .");
    fs::write(machine.folder.path().join("journal.fsync"), "sometimes").unwrap();
    machine.run("fsync log"); // the program does not notice
    machine.kill();
    let refusal = machine.cut.apply().unwrap_err().to_string();
    assert!(refusal.contains("sometimes"), "{refusal}");
}

#[test]
fn a_journal_within_the_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = Cut::begin(folder.path(), folder.path().join("journal"));
    assert!(matches!(refusal, Err(Error::JournalMisplaced { .. })));
}

#[test]
fn a_program_outside_of_the_directory_is_not_disturbed() {
    let mut machine = Machine::boot_with(Fsync::Lie);
    let outside = machine.folder.path().join("outside");
    let outside = outside.display();
    machine.run(&format!("append {outside} AAAA\n fsync {outside}"));
    let report = machine.cut_power();
    assert_eq!(report.lied_syncs, 0);
    assert_eq!(
        fs::read_to_string(machine.folder.path().join("outside")).unwrap(),
        "AAAA"
    );
}
