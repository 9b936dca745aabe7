//! Every recorded history of `../shared/histories` gets the verdict that its README gives it.
//!
//! They are not part of the repository: where they are absent the tests say `skipped`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use jepsen_checker::format::Format;
use jepsen_checker::models::{CasRegister, KeyValue, Locks};
use jepsen_checker::{Budget, EventIndex, History, Model, Report, Settings, Verdict, check};

/// The files of a folder, sorted; nothing if there are no recorded histories on this machine.
fn recorded(folder: &str) -> Option<Vec<PathBuf>> {
    let root = Path::new("../../../shared/histories");
    if !root.is_dir() {
        eprintln!("skipped: there is no {}", root.display());
        return None;
    }
    let entries = fs::read_dir(root.join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no history in {folder}");
    Some(files)
}

fn read(path: &Path, format: Format) -> History {
    let file = File::open(path).unwrap();
    format
        .read(file, format.fail_meaning())
        .unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// Checks in both ways, which must agree, and returns the searched report.
fn judge(model: &impl Model, history: &History) -> Report {
    let settings = Settings {
        workers: 2,
        fast_paths: false,
        ..Settings::default()
    };
    let searched = check(model, history, &settings, &Budget::GENEROUS).unwrap();
    let settings = Settings {
        fast_paths: true,
        ..settings
    };
    let quick = check(model, history, &settings, &Budget::GENEROUS).unwrap();
    assert_eq!(searched.verdict.is_valid(), quick.verdict.is_valid());
    assert_eq!(prefix_end(&searched), prefix_end(&quick));
    searched
}

fn prefix_end(report: &Report) -> Option<EventIndex> {
    match &report.verdict {
        Verdict::Invalid(violation) => Some(violation.prefix_end),
        Verdict::Valid { .. } | Verdict::Unknown(_) => None,
    }
}

/// The prefix that a violation names is illegal, and the one before it is not.
fn assert_shortest_prefix(model: &impl Model, history: &History, report: &Report) {
    let Some(EventIndex(end)) = prefix_end(report) else {
        return;
    };
    let Verdict::Invalid(violation) = &report.verdict else {
        return;
    };
    assert!(!violation.partial_linearizations.is_empty());
    for partial in &violation.partial_linearizations {
        assert_eq!(partial.alternatives[0].origin.operation(), violation.stuck);
    }
    let settings = Settings {
        explain: false,
        ..Settings::default()
    };
    let before = check(
        model,
        &history.prefix(end as usize),
        &settings,
        &Budget::GENEROUS,
    )
    .unwrap();
    assert!(
        before.verdict.is_valid(),
        "the prefix without event {end} is illegal already"
    );
}

fn assert_verdict(path: &Path, report: &Report, is_linearizable: bool) {
    let as_expected = match report.verdict {
        Verdict::Valid { .. } => is_linearizable,
        Verdict::Invalid(_) => !is_linearizable,
        Verdict::Unknown(_) => false,
    };
    assert!(
        as_expected,
        "{path:?}: {:?}, linearizable: {is_linearizable}",
        report.verdict
    );
}

#[test]
fn etcd_logs_have_their_verdicts() {
    let Some(files) = recorded("etcd") else {
        return;
    };
    let linearizable = [
        "002", "018", "038", "048", "056", "076", "080", "092", "098", "100", "102",
    ];
    assert_eq!(files.len(), 52);
    let mut valid = 0;
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let is_linearizable = linearizable.contains(&name.trim_start_matches("etcd_"));
        let history = read(&path, Format::Etcd);
        let model = CasRegister::default();
        let report = judge(&model, &history);
        assert_verdict(&path, &report, is_linearizable);
        assert_shortest_prefix(&model, &history, &report);
        valid += usize::from(is_linearizable);
    }
    assert_eq!(valid, linearizable.len());
}

#[test]
fn key_value_histories_have_their_verdicts() {
    let Some(files) = recorded("kv") else { return };
    assert_eq!(files.len(), 4);
    for path in files {
        let history = read(&path, Format::Kv);
        let report = judge(&KeyValue, &history);
        let is_linearizable = path.file_stem().unwrap().to_str().unwrap().ends_with("ok");
        assert_verdict(&path, &report, is_linearizable);
        assert_shortest_prefix(&KeyValue, &history, &report);
    }
}

#[test]
fn cas_registers_have_their_verdicts() {
    for (folder, count, is_linearizable) in [("good", 56, true), ("bad", 4, false)] {
        let Some(files) = recorded(&format!("cas-register/{folder}")) else {
            return;
        };
        let files: Vec<_> = files
            .into_iter()
            .filter(|path| path.extension().is_some_and(|e| e == "edn"))
            .collect();
        assert_eq!(files.len(), count);
        for path in files {
            let history = read(&path, Format::Edn);
            let model = CasRegister::default();
            let report = judge(&model, &history);
            assert_verdict(&path, &report, is_linearizable);
            assert_shortest_prefix(&model, &history, &report);
        }
    }
}

#[test]
fn a_lock_whose_lease_expired_is_no_plain_mutex_from_index_1119_on() {
    let Some(files) = recorded("mutex") else {
        return;
    };
    let history = read(&files[0], Format::Edn);
    let report = judge(&Locks::mutex(), &history);
    assert_verdict(&files[0], &report, false);
    let end = prefix_end(&report).unwrap();
    assert_eq!(history.event(end).recorded_index, Some(1119));
}

#[test]
fn what_is_written_is_what_was_read() {
    for (folder, format) in [
        ("etcd", Format::Etcd),
        ("kv", Format::Kv),
        ("cas-register/good", Format::Edn),
        ("cas-register/bad", Format::Edn),
        ("mutex", Format::Edn),
    ] {
        for path in recorded(folder).unwrap_or_default() {
            let history = read(&path, format);
            let mut formats = vec![format, Format::Edn];
            // JSON has no keywords; only this one has any in its values.
            formats.extend((folder == "kv").then_some(Format::JsonLines));
            for format in formats {
                let mut text = Vec::new();
                format.write(&history, &mut text).unwrap();
                let again = format.read(&text[..], history.fail_meaning()).unwrap();
                assert_same(&history, &again, &path);
            }
        }
    }
}

/// The same but for the lines.
fn assert_same(one: &History, other: &History, path: &Path) {
    let without_lines = |history: &History| {
        let events = history.events().iter().cloned();
        events
            .map(|mut event| {
                event.line = 0;
                event
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(without_lines(one), without_lines(other), "{path:?}");
}
