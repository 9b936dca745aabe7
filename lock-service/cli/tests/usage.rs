//! What `palisade` says of itself, and to whoever gives it wrong arguments. No cluster is needed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may crash: that is how it fails"
)]

mod support;

use std::collections::BTreeSet;

use support::{palisade, stderr, stdout};

/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:1";

/// What it printed.
fn run(arguments: &[&str]) -> String {
    let output = palisade(NOBODY).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    stdout(&output)
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("share/man1");
    let said = run(&["man", "--out", out.to_str().unwrap()]);
    let pages: BTreeSet<String> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        said.starts_with(&format!("{} pages in", pages.len())),
        "{said}"
    );
    // Help lists commands between two headings, each indented by two.
    let commands_of = |help: String| {
        let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let commands = commands.take_while(|line| !line.is_empty());
        let names = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
        let names = names.filter(|name| !name.is_empty() && *name != "help");
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut expected = BTreeSet::from(["palisade.1".to_owned()]);
    for command in commands_of(run(&["--help"])) {
        expected.insert(format!("palisade-{command}.1"));
        if command == "members" {
            for change in commands_of(run(&["members", "--help"])) {
                expected.insert(format!("palisade-members-{change}.1"));
            }
        }
    }
    assert!(expected.len() > 20, "{expected:?}");
    assert_eq!(pages, expected);

    let read = |page: &str| std::fs::read_to_string(out.join(page)).unwrap();
    assert_eq!(run(&["man"]), read("palisade.1"));
    assert_eq!(run(&["man", "lock"]), read("palisade-lock.1"));
    let promote = run(&["man", "members", "promote"]);
    assert_eq!(promote, read("palisade-members-promote.1"));
    assert!(promote.contains(".TH palisade-members-promote 1"));
    assert!(run(&["man", "lock"]).contains("reports/nightly \\-\\-ttl 30s \\-\\- ./make"));
    // Pages name each other, so each of them must be there.
    for page in &pages {
        for name in read(page).split("palisade\\-").skip(1) {
            let Some((name, _)) = name.split_once("(1)") else {
                continue;
            };
            let name = format!("palisade-{}.1", name.replace('\\', ""));
            assert!(
                !name.contains(char::is_whitespace) && pages.contains(&name),
                "{page} names {name}"
            );
        }
    }
}

#[test]
fn wrong_arguments_are_2_and_are_told_what_is_right() {
    let wrong: &[(&[&str], &str)] = &[
        (&["lok", "a"], "'lock'"),
        (&["unlock", "a"], "palisade force-release"),
        (
            &["lock", "a", "sh", "-c", "true"],
            "palisade lock NAME -- COMMAND",
        ),
        (
            &["lock", "a", "--lease", "5s", "--", "true"],
            "unexpected argument '--lease'",
        ),
        (
            &["lock", "a", "sleep", "1"],
            "palisade lock NAME -- COMMAND",
        ),
        (
            &["lock", "a", "--ttl", "15", "--", "true"],
            "such as 500ms, 15s",
        ),
        (
            &["lock", "a", "--ttl", "1s", "--", "true"],
            "the smallest is 2s",
        ),
        (&["lock", "", "--", "true"], "expected a lock name"),
        (&["lock", "a", "--permits", "2", "--", "true"], "--limit"),
        (&["lock", "a", "-n", "-w", "1s", "--", "true"], "--try"),
        (&["lock", "a", "-E", "300", "--", "true"], "0..=255"),
        (&["locks", "a", "b"], "Usage: palisade locks"),
        (&["locks", "--endpoints", ""], "http://HOST:PORT"),
        (
            &["locks", "--token-file", "/nowhere"],
            "cannot read /nowhere",
        ),
        (&["lock-info"], "<NAME>"),
        (&["lock-info", "a", "b"], "Usage: palisade lock-info"),
        (&["lock-info", "a\u{7}"], "without control characters"),
        (&["leases", "a"], "Usage: palisade leases"),
        (&["status", "n1"], "Usage: palisade status"),
        (&["watch", "--after", "x"], "4711.0"),
        (&["watch", "a", "--prefix", "b"], "cannot be used with"),
        (&["watch", "a", "b"], "Usage: palisade watch"),
        (&["fence-check", "a"], "<TOKEN>"),
        (&["fence-check", "a", "x"], "`palisade locks` shows it"),
        (&["fence-check", "a", "99999999999999999999"], "a number"),
        (&["members", "promote", "n1"], "`palisade members list`"),
        (&["members", "transfer", "n1"], "`palisade members list`"),
        (
            &["members", "remove", "aa", "--if-membership", "x"],
            "TERM-INDEX",
        ),
        (&["members", "replace", "aa"], "<NEW>"),
        (&["backup"], "<FILE>"),
        (&["backup", "/nowhere/file"], "cannot write /nowhere/file"),
        (&["backup", "/etc/passwd"], "name a new one"),
        (&["force-release", "a"], "--token <TOKEN>"),
        (
            &["force-release", "a", "--token", "1", "--lease", "x"],
            "32 lower-case",
        ),
        (
            &["force-release", "a", "--token", "x", "--lease", "x"],
            "a number",
        ),
        (&["completions", "tcsh"], "bash"),
        (&["completions"], "<SHELL>"),
        (&["man", "lok"], "lock-info"),
        (&["man", "lock", "a"], "has no commands"),
        (&["man", "lock", "--out", "x"], "cannot be used with"),
        (&["sidecar", "--election", "e"], "--id <ID>"),
        (
            &["sidecar", "--election", "e", "--id", "a", "--http", "4040"],
            "127.0.0.1:4040",
        ),
        (
            &["sidecar", "--election", "e", "--id", "a", "--ttl", "1s"],
            "the smallest is",
        ),
        (
            &[
                "sidecar",
                "--election",
                "e",
                "--id",
                "a",
                "--health-url",
                "x",
            ],
            "http://HOST:PORT/PATH",
        ),
        (
            &[
                "sidecar",
                "--election",
                "e",
                "--id",
                "a",
                "--http",
                "192.0.2.1:1",
            ],
            "choose with --http",
        ),
    ];
    for (arguments, right) in wrong {
        let output = palisade(NOBODY).args(*arguments).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(right), "{arguments:?}: {said}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
}
