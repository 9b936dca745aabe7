//! Reports in words, on a history that everybody can judge by hand.

use super::*;
use crate::lock_checks::{LockRecord, TokenScope, fencing};
use crate::models::Register;
use crate::{Budget, FailMeaning, Report, Settings, check, format};

fn stale_read() -> (History, Report) {
    let history = format::read_edn(
        &br#"{:process 0 :type :invoke :f :write :value 1}
             {:process 0 :type :ok :f :write :value 1}
             {:process 1 :type :invoke :f :write :value 2}
             {:process 2 :type :invoke :f :read :value nil}
             {:process 2 :type :ok :f :read :value 7}
             {:process 2 :type :invoke :f :write :value 3}"#[..],
        FailMeaning::DidNotHappen,
    )
    .unwrap();
    let report = check(
        &Register::default(),
        &history,
        &Settings::default(),
        &Budget::GENEROUS,
    )
    .unwrap();
    (history, report)
}

#[test]
fn the_text_names_the_prefix_the_state_and_why_nothing_comes_next() {
    let (history, report) = stale_read();
    let text = report_text(&history, &report);
    for words in [
        "invalid: no order of the operations is legal as register",
        "The shortest illegal prefix ends at line 5: nothing explains",
        "read -> 7  (#2, process 2, line 4 to line 5)",
        "(#0, process 0, line 1 to line 2)",
        "refused: ",
        "(#1, process 1, line 3)",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    assert!(
        !text.contains("#3"),
        "what began after the prefix plays no part:\n{text}"
    );
}

#[test]
fn the_json_has_the_same_for_programs() {
    let (history, report) = stale_read();
    let json = report_json(&history, &report);
    assert_eq!(json["verdict"], "invalid");
    assert_eq!(json["violation"]["prefix_end"]["line"], 5);
    assert_eq!(json["violation"]["stuck"]["operation"], 2);
    assert_eq!(json["violation"]["stuck"]["process"], 2);
    let longest = &json["violation"]["partial_linearizations"][0];
    assert_eq!(longest["calls"][0]["operation"], 0);
    assert_eq!(longest["alternatives"][0]["operation"], 2);
    assert!(longest["alternatives"][0]["refused"].is_string());
    assert_eq!(json["partitions"][0]["verdict"], "invalid");
    assert_eq!(json["operations"], 4);
}

#[test]
fn a_verdict_that_is_unknown_says_which_bound_was_reached() {
    let (history, _) = stale_read();
    let settings = Settings {
        fast_paths: false,
        ..Settings::default()
    };
    let budget = Budget {
        steps: 1,
        ..Budget::GENEROUS
    };
    let report = check(&Register::default(), &history, &settings, &budget).unwrap();
    assert!(report_text(&history, &report).starts_with("unknown: not decided within 1 steps"));
    let json = report_json(&history, &report);
    assert_eq!(
        (&json["verdict"], &json["unknown"]["reason"]),
        (&"unknown".into(), &"steps".into())
    );
}

#[test]
fn checks_have_a_line_each_and_their_findings() {
    let history = format::read_edn(
        &br#"{:process 0 :type :invoke :f :acquire :key "a" :value nil}
             {:process 0 :type :ok :f :acquire :key "a" :value 7}
             {:process 1 :type :invoke :f :acquire :key "a" :value nil}
             {:process 1 :type :ok :f :acquire :key "a" :value 6}"#[..],
        FailMeaning::DidNotHappen,
    )
    .unwrap();
    let checks = [fencing(
        &LockRecord::read(&history).unwrap(),
        TokenScope::Lock,
    )];
    let text = checks_text(&checks);
    assert!(
        text.starts_with("fencing: fail (2 examined)\n  #0 (process 0, acquire)"),
        "{text}"
    );
    let json = checks_json(&checks);
    assert_eq!(json[0]["conclusion"], "fail");
    assert_eq!(
        json[0]["findings"][0]["operations"],
        serde_json::json!([0, 1])
    );
}

#[test]
fn a_violation_is_read_back_from_json_as_it_was_found() {
    let (history, report) = stale_read();
    let Verdict::Invalid(violation) = &report.verdict else {
        panic!("{:?}", report.verdict);
    };
    let json = report_json(&history, &report);
    let back = read_violation(&history, &json["violation"]).unwrap();
    assert_eq!(back, **violation);
}

#[test]
fn a_violation_of_another_history_is_refused_by_its_line() {
    let (history, report) = stale_read();
    let json = report_json(&history, &report);
    let error = read_violation(&history.prefix(3), &json["violation"]).unwrap_err();
    assert!(error.contains("line 5"), "{error}");
}
