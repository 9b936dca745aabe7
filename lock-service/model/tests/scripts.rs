//! Golden scripts: one file in `tests/scripts` for each rule, named by what it promises.
//!
//! A script is blocks of commands and, below `---`, all that they answered. Run the tests with
//! `UPDATE_SCRIPTS=1` to write down what they answer now, then read the difference as a reviewer.
//!
//! Each command is one log entry, indexes counting from 1. `now=N` before a command moves the
//! cluster clock, which otherwise stands. Leases are single capital letters.
//!
//! ```text
//! found [floor=N] [SETTING=N]...     tick                    renew LEASE...
//! open LEASE ttl=MS [owner=O] [KEY:VALUE]...                 revoke LEASE
//! acquire LEASE LOCK... as=REQUEST [ttl=MS] [wait=MS] [delay=MS] [owner=O] [value=V] [body=N]
//! release LEASE TOKEN...             cancel LEASE REQUEST    update LEASE TOKEN [value=V]
//! force-release LOCK TOKEN LEASE [now]                       revoke-by-id LEASE [now]
//! settings [SETTING=N]...            model-version N
//! restore-cluster [cluster=N] [floor=N] [hold=MS]
//! ```
//!
//! A lock is `NAME` (exclusive), `NAME:shared`, or `NAME:2/5` for two of five permits.
//!
//! These look, and are no entries: `locks [PREFIX]`, `leases`, `fence LOCK TOKEN`, `deadline`,
//! `tokens`, `events [AFTER]`, and `restore` (goes on with the state that a snapshot brings back).
//! `index=N` before a command sets the index of its entry.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a script that cannot be run fails its test"
)]

mod common;
mod script;

use std::fs;
use std::path::PathBuf;

use script::Runner;

/// Runs a script; the text as it should be.
fn run(script: &str) -> String {
    let mut runner = Runner::default();
    let mut written = String::new();
    let mut commands = Vec::new();
    let mut in_answers = false;
    for line in script.lines().chain([""]) {
        match line {
            "---" => in_answers = true,
            "" if in_answers => {
                let answers: Vec<String> = commands
                    .drain(..)
                    .flat_map(|command| runner.run(command))
                    .collect();
                written += &format!("---\n{}\n\n", answers.join("\n"));
                in_answers = false;
            }
            _ if in_answers => {}
            _ => {
                written += &format!("{line}\n");
                if !line.is_empty() && !line.starts_with('#') {
                    commands.push(line);
                }
            }
        }
    }
    assert!(
        commands.is_empty(),
        "the last block has no `---` below its commands: {commands:?}"
    );
    written.trim_end().to_owned() + "\n"
}

/// The lines that differ, between those around them that do not.
fn difference(expected: &str, actual: &str) -> String {
    let expected: Vec<&str> = expected.lines().collect();
    let actual: Vec<&str> = actual.lines().collect();
    let same = expected
        .iter()
        .zip(&actual)
        .take_while(|(a, b)| a == b)
        .count();
    let rest = expected.len().min(actual.len()) - same;
    let tail = expected
        .iter()
        .rev()
        .zip(actual.iter().rev())
        .take(rest)
        .take_while(|(a, b)| a == b)
        .count();
    let context = same.saturating_sub(6);
    let lines = |sign: char, lines: &[&str]| -> String {
        lines
            .iter()
            .map(|line| format!("  {sign} {line}\n"))
            .collect()
    };
    lines(' ', &expected[context..same])
        + &lines('-', &expected[same..expected.len() - tail])
        + &lines('+', &actual[same..actual.len() - tail])
        + &lines(
            ' ',
            &expected[expected.len() - tail..(expected.len() - tail + 3).min(expected.len())],
        )
}

#[test]
fn every_script_answers_as_written() {
    let mut paths: Vec<PathBuf> = fs::read_dir("tests/scripts")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() > 20, "scripts are missing: {paths:?}");
    let mut failures = String::new();
    for path in paths {
        let expected = fs::read_to_string(&path).unwrap();
        let actual = run(&expected);
        if std::env::var_os("UPDATE_SCRIPTS").is_some() {
            fs::write(&path, actual).unwrap();
        } else if actual != expected {
            failures += &format!(
                "\n{} (- written, + answered):\n{}",
                path.display(),
                difference(&expected, &actual)
            );
        }
    }
    assert!(
        failures.is_empty(),
        "{failures}\nIf the new answers are right: UPDATE_SCRIPTS=1 cargo test -p lock-model"
    );
}
