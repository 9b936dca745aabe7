//! What the page promises. How it looks was looked at, in a browser; here is what must not break unseen.

mod fixture;

use std::fs;

use fixture::{Fixture, MARKUP, synthetic};

use super::*;
use crate::run_directory::{FindingRecord, HISTORY, NEMESIS, RESULTS, RUN};

/// Where the tests leave their pages, to be looked at, if this is set.
const KEEP: &str = "PALISADE_KEEP_REPORTS";

fn page(fixture: &Fixture) -> String {
    let path = write(&fixture.directory()).unwrap();
    assert_eq!(path, fixture.folder.path().join(REPORT));
    if let Ok(keep) = std::env::var(KEEP) {
        let name = std::thread::current().name().unwrap_or("page").to_owned();
        let to = Path::new(&keep).join(format!("{}.html", name.replace("::", "-")));
        fs::copy(&path, to).unwrap();
    }
    fs::read_to_string(path).unwrap()
}

fn count(page: &str, words: &str) -> usize {
    page.matches(words).count()
}

fn place(page: &str, words: &str) -> usize {
    page.find(words)
        .unwrap_or_else(|| panic!("{words:?} is not on the page"))
}

/// The element with this id, up to the next section.
fn section<'p>(page: &'p str, id: &str) -> &'p str {
    let from = place(page, &format!("<section id=\"{id}\""));
    let rest = &page[from..];
    rest.split("</section>").next().unwrap_or(rest)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&#38;")
        .replace('<', "&#60;")
        .replace('>', "&#62;")
        .replace('"', "&#34;")
        .replace('\'', "&#39;")
}

#[test]
fn the_verdict_comes_first_then_the_checks_and_how_to_repeat_it() {
    for (verdict, words) in [
        (RunVerdict::Valid, "Nothing broken was found, and all"),
        (RunVerdict::Invalid, "A promise was broken."),
        (RunVerdict::Unknown, "does not show that nothing is"),
    ] {
        let fixture = synthetic(1, verdict, 300);
        let page = page(&fixture);
        let badge = format!("<span class=\"verdict {0}\">{0}</span>", verdict.name());
        let order = [
            place(&page, &badge),
            place(&page, words),
            place(&page, "id=\"checks\""),
            place(&page, "id=\"repeat\""),
            place(&page, "id=\"coverage\""),
            place(&page, "id=\"timeline\""),
            place(&page, "id=\"latency\""),
        ];
        assert!(order.is_sorted(), "{order:?}");
    }
}

#[test]
fn every_check_of_results_json_is_told_the_broken_ones_first_and_those_that_do_not_count_last() {
    let fixture = synthetic(2, RunVerdict::Invalid, 300);
    let page = page(&fixture);
    let checks = section(&page, "checks");
    let results: crate::run_directory::Results = fixture.directory().read(RESULTS).unwrap();
    for check in &results.checks {
        let first = check.explanation.lines().next().unwrap_or_default();
        for words in [&*check.check, &check.promise, first] {
            assert!(checks.contains(&escaped(words)), "{words:?}");
        }
    }
    let order = [
        place(checks, "the promise of linearizability"),
        place(checks, "the promise of fencing"),
        place(checks, "the promise of nodes"),
        place(checks, "does not count"),
        place(checks, "the promise of holder overlap"),
    ];
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(count(checks, ">broken<"), 3);
    assert!(
        checks.contains("1\u{202f}234"),
        "how many cases were examined"
    );
}

#[test]
fn the_seed_and_the_command_to_repeat_it_are_told_exactly() {
    let fixture = synthetic(4_717, RunVerdict::Valid, 100);
    let page = page(&fixture);
    let repeat = section(&page, "repeat");
    assert!(repeat.contains("<code class=\"seed\">4717</code>"));
    let command =
        format!("palisade-jepsen run --workload mixed --seed 4717 --binary 'a b{MARKUP}'");
    assert!(repeat.contains(&format!("<code>{}</code>", escaped(&command))));
    assert!(repeat.contains("2026-11-21T13:53:08Z"));
}

#[test]
fn faults_are_counted_by_what_became_of_them_and_those_that_never_came_are_named() {
    let page = page(&synthetic(3, RunVerdict::Unknown, 300));
    let coverage = section(&page, "coverage");
    let number = |number: u64| format!("<td class=\"number\">{number}</td>");
    let row = |name: &str| {
        let from = place(coverage, &format!("<td>{name}"));
        coverage[from..].split("</tr>").next().unwrap().to_owned()
    };
    // Planned, installed, skipped, indeterminate.
    let two = [2, 2, 0, 0].map(number).concat();
    assert!(row("partition-leader").contains(&two));
    let skipped = [1, 0, 1, 0].map(number).concat();
    assert!(row("partition-bridge").contains(&skipped));
    let indeterminate = [1, 0, 0, 1].map(number).concat();
    assert!(row("pause-leader").contains(&indeterminate));
    assert!(row("clock").contains("asked for, never came"));
    assert!(coverage.contains(&escaped(&format!("because {MARKUP}"))));
}

#[test]
fn operations_are_counted_by_kind_and_outcome_and_another_history_is_noticed() {
    let fixture = synthetic(5, RunVerdict::Valid, 300);
    let results: crate::run_directory::Results = fixture.directory().read(RESULTS).unwrap();
    let [told] = &results.operations[..] else {
        panic!("one line");
    };
    let row = [told.ok, told.fail, told.info]
        .map(|number| format!("<td class=\"number\">{number}</td>"))
        .concat();
    let whole = page(&fixture);
    assert_eq!(
        count(section(&whole, "coverage"), &row),
        2,
        "itself and the sum"
    );
    assert!(section(&whole, "coverage").contains("lock_held"));
    assert_eq!(without_numbers("127.0.0.1:10398 504"), "127.0.0.1:# 504");
    assert!(!whole.contains("This report is not whole"));
    fixture.edit_results(|results| results.operations[0].ok += 1);
    let changed = page(&fixture);
    assert!(changed.contains("This report is not whole"));
    assert!(changed.contains("is not of this run"));
}

#[test]
fn the_timeline_has_lanes_for_faults_leader_and_term_nodes_and_every_hold() {
    let fixture = synthetic(6, RunVerdict::Valid, 300);
    let page = page(&fixture);
    let timeline = section(&page, "timeline");
    for lane in [
        "partition",
        "kill",
        "pause",
        "leader",
        "n1",
        "n2",
        "n3",
        "lock",
    ] {
        assert!(
            timeline.contains(&format!("</title>{lane}</text>")),
            "{lane}"
        );
    }
    assert!(timeline.contains(">n1, term 1</text>"));
    assert!(timeline.contains(">n2, term 4</text>"));
    assert!(timeline.contains("class=\"node down\""));
    assert_eq!(count(timeline, "class=\"fault\""), 3, "installed");
    assert_eq!(count(timeline, "class=\"fault skipped\""), 1);
    assert_eq!(count(timeline, "class=\"fault indeterminate\""), 1);
    assert_eq!(count(timeline, "class=\"hold h") as u64, fixture.grants);
    assert!(timeline.contains("exclusive, token 18824762008535"));
}

#[test]
fn latency_is_drawn_on_a_log_scale_with_quantiles_points_by_outcome_and_faults_behind() {
    let page = page(&synthetic(7, RunVerdict::Valid, 3_000));
    let latency = section(&page, "latency");
    for class in ["q-p50", "q-p90", "q-p99", "q-max"] {
        assert!(latency.contains(&format!("class=\"quantile {class}\" d=\"M")));
    }
    for class in ["ok", "fail", "info"] {
        assert!(latency.contains(&format!("class=\"dots {class}\" d=\"M")));
    }
    for label in [
        ">1 ms</text>",
        ">10 ms</text>",
        ">100 ms</text>",
        ">1 s</text>",
    ] {
        assert!(latency.contains(label), "{label}");
    }
    // All, acquire and release; four faults that were or may have been in effect.
    assert_eq!(count(latency, "<div class=\"chart-of\""), 3);
    assert_eq!(count(latency, "<rect class=\"shade"), 3 * 4);
    assert!(latency.contains("<option value=\"1\">acquire</option>"));
}

#[test]
fn rate_and_tokens_are_drawn_over_time_with_faults_behind() {
    let fixture = synthetic(8, RunVerdict::Valid, 3_000);
    let page = page(&fixture);
    let rate = section(&page, "rate");
    for class in ["ok", "fail", "info"] {
        assert!(rate.contains(&format!("class=\"area {class}\" d=\"M")));
    }
    assert_eq!(count(rate, "<rect class=\"shade"), 4);
    let tokens = section(&page, "tokens");
    assert!(tokens.contains("class=\"dots token\" d=\"M"));
    assert_eq!(count(tokens, "<rect class=\"shade"), 4);
    assert!(tokens.contains("above 1882476200853504"));
    let last = 1_882_476_200_853_504 + fixture.grants;
    assert!(tokens.contains(&format!("the largest is {last}")));
}

#[test]
fn the_first_illegal_step_is_shown_with_its_alternatives_and_its_lock_has_a_lane() {
    let page = page(&synthetic(9, RunVerdict::Invalid, 300));
    let illegal = section(&page, "illegal-1");
    assert!(illegal.contains("The first illegal step (linearizability)"));
    assert!(illegal.contains("class=\"stuck-call\""));
    assert!(illegal.contains("Longest partial linearization"));
    assert!(illegal.contains("class=\"refused\""), "why not");
    assert!(
        illegal.contains("second"),
        "the lease that is granted what is held"
    );
    assert!(page.contains("class=\"bar ok stuck\""));
    assert!(section(&page, "timeline").contains("holders of lock/broken, which a check names"));
    assert!(section(&page, "tokens").contains("<circle class=\"named\""));
}

#[test]
fn a_violation_that_the_history_does_not_have_is_a_problem_and_not_drawn() {
    let fixture = synthetic(9, RunVerdict::Invalid, 300);
    fixture.edit_results(|results| {
        let report = results.checks[1].report.as_mut().unwrap();
        report["violation"]["stuck"]["completion"]["line"] = 999_999.into();
        report["violation"]["stuck"]["invocation"]["line"] = 999_998.into();
    });
    let page = page(&fixture);
    assert!(page.contains("cannot be drawn: the history has no operation at line 999999"));
    assert!(!page.contains("id=\"illegal-1\""));
}

#[test]
fn evidence_comes_with_the_history_and_the_node_logs_around_it() {
    let page = page(&synthetic(10, RunVerdict::Invalid, 600));
    let moments = section(&page, "moments");
    assert_eq!(
        count(moments, "<article class=\"moment\""),
        2,
        "one per check that found some"
    );
    assert!(moments.contains("nothing explains the second acquire"));
    assert_eq!(count(moments, "invoke evidence\""), 1 + 2);
    assert!(moments.contains("<a href=\"nodes/n1/log\">n1's log</a>"));
    let first = moments.split("id=\"moment-2\"").next().unwrap();
    assert!(
        count(first, "n1 says ") >= 3,
        "lines of its log, two each second"
    );
    assert!(first.contains("In effect: ") || first.contains("No fault was in effect"));
    assert!(first.contains("Leading: n2 in term 4."));
    assert!(section(&page, "checks").contains("<a href=\"#moment-1\">"));
    let timeline = section(&page, "timeline");
    assert_eq!(count(timeline, "class=\"to-mark\""), 2);
    assert!(
        section(&page, "rate").contains(">1, 2</text>"),
        "of one time"
    );
}

#[test]
fn a_contradiction_of_the_log_is_evidence_with_its_lines() {
    let fixture = synthetic(21, RunVerdict::Invalid, 300);
    fixture.edit_results(|results| {
        results.checks.truncate(1);
        results.checks[0].verdict = RunVerdict::Invalid;
        results.checks[0].report = Some(serde_json::json!({ "contradiction": {
            "words": "claims another place <b>",
            "operations": [{ "invocation": { "line": 7 }, "completion": { "line": 9 } }],
        }}));
    });
    let page = page(&fixture);
    assert!(section(&page, "checks").contains("claims another place &#60;b&#62;"));
    assert!(section(&page, "checks").contains("history.jsonl line 7, 9"));
    assert_eq!(count(&page, "<article class=\"moment\""), 1);
}

#[test]
fn logs_and_files_are_linked_and_panics_are_told() {
    let page = page(&synthetic(11, RunVerdict::Valid, 300));
    let nodes = section(&page, "nodes");
    for link in [
        "nodes/n1/log",
        "nodes/n3/log",
        "results.json",
        "history.jsonl",
        "run.json",
    ] {
        assert!(nodes.contains(&format!("<a href=\"{link}\">")), "{link}");
    }
    assert!(!nodes.contains("history.edn"), "this run left none");
    assert_eq!(count(nodes, "panicked at src/&#60;b&#62;.rs"), 1);
}

#[test]
fn what_comes_from_outside_is_escaped() {
    for verdict in [RunVerdict::Valid, RunVerdict::Invalid, RunVerdict::Unknown] {
        let page = page(&synthetic(12, verdict, 600));
        assert_eq!(count(&page, "<script"), 1, "only the page's own");
        assert_eq!(count(&page, "</script"), 1, "only the page's own");
        assert_eq!(count(&page, "</style"), 1, "only the page's own");
        assert_eq!(count(&page, "<img"), 0);
        assert!(count(&page, &escaped(MARKUP)) > 50, "it is shown, escaped");
    }
}

#[test]
fn the_page_loads_nothing_from_anywhere_and_links_only_into_its_folder() {
    let page = page(&synthetic(13, RunVerdict::Invalid, 300));
    for reference in [
        "http:", "https:", "src=\"", "url(", "@import", "<link", "<iframe", "fetch(",
    ] {
        assert_eq!(count(&page, reference), 0, "{reference}");
    }
    for link in page.split("href=\"").skip(1) {
        let link = link.split('"').next().unwrap();
        let inside = ["#moment-", "nodes/n"]
            .iter()
            .any(|start| link.starts_with(start));
        let file = sources::FILES.iter().any(|(name, _)| *name == link);
        assert!(inside || file, "{link}");
    }
    assert!(page.contains("prefers-color-scheme:dark"));
}

#[test]
fn a_node_with_a_strange_name_is_linked_safely_and_one_outside_of_the_folder_is_not_read() {
    let fixture = synthetic(14, RunVerdict::Valid, 100);
    let directory = fixture.directory();
    let mut run: crate::run_directory::RunDescription = directory.read(RUN).unwrap();
    run.nodes = vec!["javascript:a\"b".into(), "../n1".into(), "/etc".into()];
    directory.write(RUN, &run).unwrap();
    fs::create_dir(directory.node("javascript:a\"b")).unwrap();
    fs::write(directory.node("javascript:a\"b").join("log"), "x\n").unwrap();
    let page = page(&fixture);
    assert!(page.contains("href=\"nodes/javascript%3Aa%22b/log\""));
    assert!(!page.contains("href=\"nodes/../"));
    assert!(!page.contains("href=\"nodes//etc"));
}

#[test]
fn a_run_that_was_cut_off_has_a_page_that_says_what_is_missing() {
    let fixture = synthetic(15, RunVerdict::Valid, 300);
    let directory = fixture.directory();
    fs::remove_file(directory.path(RESULTS)).unwrap();
    let mut faults = fs::read_to_string(directory.path(NEMESIS)).unwrap();
    faults.truncate(faults.len() - 30);
    fs::write(directory.path(NEMESIS), faults).unwrap();
    let page = page(&fixture);
    assert!(page.contains("<span class=\"verdict unknown\">unknown</span>"));
    assert!(page.contains("This run was not judged."));
    assert!(page.contains("nemesis.jsonl is used up to line 5"));
    assert_eq!(
        count(section(&page, "timeline"), "class=\"fault\""),
        2,
        "the whole lines"
    );
}

#[test]
fn a_history_that_cannot_be_read_leaves_the_verdict_and_the_faults() {
    let fixture = synthetic(16, RunVerdict::Invalid, 300);
    fs::write(fixture.directory().path(HISTORY), "{\"process\":\n").unwrap();
    let page = page(&fixture);
    assert!(page.contains("history.jsonl cannot be read, so no operation is shown: line 1"));
    assert!(page.contains("<span class=\"verdict invalid\">invalid</span>"));
    assert!(section(&page, "timeline").contains("class=\"fault\""));
    assert!(section(&page, "latency").contains("No operation ended."));
}

#[test]
fn a_folder_of_no_run_and_one_of_another_version_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = write(&RunDirectory::open(folder.path())).unwrap_err();
    assert!(error.contains("run.json cannot be read"), "{error}");
    let fixture = synthetic(17, RunVerdict::Valid, 50);
    let directory = fixture.directory();
    let mut run: crate::run_directory::RunDescription = directory.read(RUN).unwrap();
    run.version = 2;
    directory.write(RUN, &run).unwrap();
    let error = write(&directory).unwrap_err();
    assert!(error.contains("version 2"), "{error}");
}

#[test]
fn the_same_folder_gives_the_same_page() {
    let fixture = synthetic(18, RunVerdict::Invalid, 2_000);
    assert_eq!(page(&fixture), page(&fixture));
}

#[test]
fn more_evidence_than_fits_is_bounded_and_told() {
    let fixture = synthetic(19, RunVerdict::Invalid, 300);
    fixture.edit_results(|results| {
        let found = results.checks[2].findings.clone();
        for number in 0..40 {
            let mut more = results.checks[2].clone();
            more.check = format!("more {number}");
            more.explanation = "word ".repeat(50_000);
            more.findings = vec![
                FindingRecord {
                    words: "long ".repeat(5_000),
                    lines: found[0].lines.clone(),
                };
                100
            ];
            results.checks.push(more);
        }
    });
    let page = page(&fixture);
    assert_eq!(
        count(&page, "<article class=\"moment\""),
        moments::MOST_MOMENTS
    );
    assert!(page.contains("34 further checks have evidence of their own"));
    assert!(page.len() < 10_000_000, "{} bytes", page.len());
}

#[test]
fn the_page_of_a_long_run_is_small_and_says_what_it_leaves_out() {
    let fixture = synthetic(20, RunVerdict::Invalid, 1_000_000);
    assert!(fixture.operations >= 1_000_000);
    let page = page(&fixture);
    assert!(page.len() < 10_000_000, "{} bytes", page.len());
    let latency = section(&page, "latency");
    assert!(latency.contains("points are drawn: of those that would lie on each other, one"));
    let timeline = section(&page, "timeline");
    assert!(timeline.contains("are drawn joined with their neighbours"));
    assert!(
        timeline.contains("holders of lock/broken"),
        "what a check names is always there"
    );
    assert!(page.contains("id=\"illegal-1\""));
}
