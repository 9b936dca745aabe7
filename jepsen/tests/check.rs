//! `palisade-jepsen check` as users see it: output, exit status, page.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may crash: that is how it fails"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

/// A read that sees what was never written, on line 4.
const INVALID: &str = r#"{:process 0 :type :invoke :f :write :value "<b>1</b>"}
{:process 0 :type :ok :f :write :value "<b>1</b>"}
{:process 1 :type :invoke :f :read :value nil}
{:process 1 :type :ok :f :read :value "<i>2</i>"}
"#;

const VALID: &str = r#"{"process":0,"type":"invoke","f":"write","value":1}
{"process":0,"type":"ok","f":"write","value":1}
{"process":1,"type":"invoke","f":"read","value":null}
{"process":1,"type":"ok","f":"read","value":1}
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade-jepsen"));
    command.arg("check");
    command
}

fn run(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    command()
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn assert_status(output: &Output, status: i32) {
    assert_eq!(
        output.status.code(),
        Some(status),
        "{}{}",
        stdout(output),
        stderr(output)
    );
}

/// A recorded history of `../shared/histories`, if it is there.
fn recorded(name: &str) -> Option<PathBuf> {
    let root = Path::new("../../shared/histories");
    let path = root.join(name);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn a_valid_history_exits_0_and_says_what_was_guessed() {
    let folder = Folder::new();
    let output = run(&[&folder.write("h.jsonl", VALID)]);
    assert_status(&output, 0);
    let text = stdout(&output);
    assert!(
        text.contains("h.jsonl: valid, 2 operations, format jsonl (guessed), model register"),
        "{text}"
    );
    assert!(text.contains("valid: linearizable as register"), "{text}");
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_page_that_cannot_be_written_does_not_take_the_verdict_with_it() {
    let folder = Folder::new();
    for (history, status) in [(INVALID, 1), (VALID, 3)] {
        let file = folder.write("h", history);
        let output = run(&[&file, &"--html", &"/nowhere/page.html"]);
        assert_status(&output, status);
        assert!(stdout(&output).contains("valid"), "{}", stdout(&output));
        assert!(
            stderr(&output).contains("/nowhere/page.html"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn an_invalid_history_exits_1_and_is_explained() {
    let folder = Folder::new();
    let file = folder.write("h.edn", INVALID);
    let output = run(&[&file, &"--model", &"cas-register", &"--format", &"edn"]);
    assert_status(&output, 1);
    let text = stdout(&output);
    assert!(text.contains("format edn, model cas-register"), "{text}");
    assert!(
        text.contains("The shortest illegal prefix ends at line 4"),
        "{text}"
    );
    assert!(text.contains("refused: "), "{text}");
}

#[test]
fn what_cannot_be_decided_within_its_bounds_exits_2_and_says_which() {
    // Many writes are open and no read tells their order: no theorem helps with repeated values.
    let mut text = String::new();
    for process in 0..24 {
        text.push_str(&format!(
            "{{:process {process} :type :invoke :f :cas :value [{} {}]}}\n",
            process % 3,
            (process + 1) % 3
        ));
    }
    for read in [7, 1] {
        text.push_str(&format!(
            "{{:process 90 :type :invoke :f :read :value nil}}\n\
             {{:process 90 :type :ok :f :read :value {read}}}\n"
        ));
    }
    let folder = Folder::new();
    let file = folder.write("h.edn", &text);
    let output = run(&[&file, &"--model", &"cas-register:0", &"--steps", &"2"]);
    assert_status(&output, 2);
    assert!(
        stdout(&output).contains("unknown: not decided within 2 steps"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn what_is_malformed_exits_3_and_names_the_line() {
    let folder = Folder::new();
    let file = folder.write("h.edn", &INVALID.replacen(":type :ok", ":type :fine", 1));
    let output = run(&[&file]);
    assert_status(&output, 3);
    assert!(
        stderr(&output).contains("unusable: line 2: "),
        "{}",
        stderr(&output)
    );
    assert_eq!(stdout(&output), "");
}

#[test]
fn what_cannot_be_used_exits_3_and_says_why() {
    let folder = Folder::new();
    let valid = folder.write("h.jsonl", VALID);
    let locks = folder.write("l.edn", "{:process 0 :type :invoke :f :acquire :value nil}");
    let missing = folder.path("missing.edn");
    let nowhere = folder.path("no/such/folder.html");
    let cases: [(&[&dyn AsRef<std::ffi::OsStr>], &str); 10] = [
        (&[], "required"),
        (&[&valid, &"--model", &"registers"], "there is no model"),
        (&[&valid, &"--format", &"xml"], "there is no format"),
        (&[&valid, &"--timeout", &"1 fortnight"], "write it as in"),
        (&[&valid, &"--what"], "unexpected argument"),
        (&[&missing], "cannot be read: No such file"),
        (&[&locks], "do not tell the model; name one with --model"),
        (&[&valid, &valid, &"--html", &"x.html"], "name one FILE"),
        (&[&"-", &"-"], "name `-` once"),
        (&[&valid, &"--html", &nowhere], "cannot be written"),
    ];
    for (arguments, words) in cases {
        let output = run(arguments);
        assert_status(&output, 3);
        assert!(
            stderr(&output).contains(words),
            "{words}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn help_and_version_exit_0() {
    for argument in ["--help", "--version"] {
        let output = Command::new(env!("CARGO_BIN_EXE_palisade-jepsen"))
            .arg(argument)
            .output()
            .unwrap();
        assert_status(&output, 0);
        assert!(stdout(&output).contains("palisade-jepsen"));
    }
}

#[test]
fn standard_input_is_read_for_a_dash() {
    let mut child = command()
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(INVALID.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_status(&output, 1);
    assert!(
        stdout(&output).starts_with("-: invalid, 2 operations"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn several_files_have_a_line_each_and_the_worst_status_wins() {
    let folder = Folder::new();
    let valid = folder.write("valid.jsonl", VALID);
    let invalid = folder.write("invalid.edn", INVALID);
    let missing = folder.path("missing.edn");
    let output = run(&[&valid, &invalid, &missing]);
    assert_status(&output, 1);
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].contains("valid.jsonl: valid, ") && lines[1].contains("invalid.edn: invalid, ")
    );
    assert!(stderr(&output).contains("missing.edn: unusable: "));
    assert_status(&run(&[&valid, &missing]), 3);
    assert_status(&run(&[&valid, &valid]), 0);
}

#[test]
fn json_is_an_object_for_each_file_also_for_those_that_cannot_be_used() {
    let folder = Folder::new();
    let invalid = folder.write("invalid.edn", INVALID);
    let missing = folder.path("missing.edn");
    let output = run(&[&"--json", &invalid, &missing]);
    assert_status(&output, 1);
    let objects: Vec<Json> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), 2);
    assert_eq!(objects[0]["status"], "invalid");
    assert_eq!(objects[0]["report"]["violation"]["prefix_end"]["line"], 4);
    assert_eq!(objects[1]["status"], "unusable");
    assert!(
        objects[1]["error"]
            .as_str()
            .unwrap()
            .contains("cannot be read")
    );
}

#[test]
fn the_page_shows_the_stuck_operation_escaped_and_loads_nothing() {
    let folder = Folder::new();
    let file = folder.write("h.edn", INVALID);
    let page = folder.path("page.html");
    let output = run(&[&file, &"--html", &page]);
    assert_status(&output, 1);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    assert!(
        page.contains("read -&#62; &#34;&#60;i&#62;2&#60;/i&#62;&#34;"),
        "{page}"
    );
    assert!(
        !page.contains("<i>2") && !page.contains("<b>1"),
        "not escaped"
    );
    for reference in ["http:", "https:", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(reference), "{reference}");
    }
}

#[test]
fn the_log_witness_proves_and_refutes() {
    let folder = Folder::new();
    let history = |answer: u32| {
        format!(
            r#"{{"process":0,"type":"invoke","f":"write","value":1,"request":"a"}}
{{"process":0,"type":"info","f":"write","value":1}}
{{"process":1,"type":"invoke","f":"read","value":null,"request":"b"}}
{{"process":1,"type":"ok","f":"read","value":{answer},"position":"4.0"}}
"#
        )
    };
    let log = folder.write(
        "log.jsonl",
        "{\"format\":\"palisade-log\",\"version\":1,\"first_index\":1,\"last_index\":4}\n\
         {\"index\":3,\"request_id\":\"a\",\"command\":{\"write\":1}}\n",
    );
    let proven = run(&[&folder.write("proven.jsonl", &history(1)), &"--log", &log]);
    assert_status(&proven, 0);
    assert!(
        stdout(&proven).contains("valid: proven by the log"),
        "{}",
        stdout(&proven)
    );
    let refuted = run(&[&folder.write("refuted.jsonl", &history(2)), &"--log", &log]);
    assert_status(&refuted, 1);
    assert!(
        stdout(&refuted).contains("at position 4.0 the state is"),
        "{}",
        stdout(&refuted)
    );
    let bad = folder.write("bad.jsonl", "{\"format\":\"other\"}\n");
    let unusable = run(&[&folder.write("h.jsonl", &history(1)), &"--log", &bad]);
    assert_status(&unusable, 3);
    assert!(
        stderr(&unusable).contains("bad.jsonl: line 1: "),
        "{}",
        stderr(&unusable)
    );
}

#[test]
fn recorded_histories_get_their_verdicts() {
    let cases: [(&str, &[&str], i32); 4] = [
        ("etcd/etcd_000.log", &[], 1),
        ("etcd/etcd_002.log", &[], 0),
        ("kv/c10-ok.txt", &[], 0),
        ("mutex/etcd.edn", &["--model", "mutex"], 1),
    ];
    for (name, arguments, status) in cases {
        let Some(path) = recorded(name) else { continue };
        let output = command()
            .arg::<&Path>(&path)
            .args(arguments)
            .output()
            .unwrap();
        assert_status(&output, status);
        if name.starts_with("mutex") {
            assert!(
                stdout(&output).contains("index 1119"),
                "{}",
                stdout(&output)
            );
        }
    }
}
