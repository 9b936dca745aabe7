//! Claims that hold, and claims that do not.

use super::*;
use crate::models::{CasRegister, Expiry, KeyValue, Locks};
use crate::{FailMeaning, format};

fn history(lines: &str) -> History {
    format::read_edn(lines.as_bytes(), FailMeaning::Observation).unwrap()
}

fn log(entries: &[(&str, &str)]) -> LogDump {
    let mut text =
        String::from(r#"{"format":"palisade-log","version":1,"first_index":1,"last_index":1000}"#);
    for (position, request) in entries {
        let (index, ordinal) = position.split_once('.').unwrap();
        text.push_str(&format!(
            "\n{{\"index\":{index},\"ordinal\":{ordinal},\"request_id\":\"{request}\"}}"
        ));
    }
    LogDump::read(&text).unwrap()
}

const TWO_WRITES_AND_A_READ: &str = r#"
    {:process 1 :type :invoke :f :write :value 1 :request "a"}
    {:process 2 :type :invoke :f :write :value 2 :request "b"}
    {:process 2 :type :ok :f :write :value 2 :position "4.0"}
    {:process 1 :type :ok :f :write :value 1 :position "4.1"}
    {:process 3 :type :invoke :f :read :value nil :request "c"}
    {:process 3 :type :ok :f :read :value 1 :position "4.1"}"#;

#[test]
fn a_claim_that_holds_is_a_proof() {
    let history = history(TWO_WRITES_AND_A_READ);
    let model = CasRegister::default();
    let report = witness(&model, &history, None).unwrap();
    assert_eq!(report.verdict, WitnessVerdict::Proven);
    assert_eq!(report.placed, 3);
    let log = log(&[("4.0", "b"), ("4.1", "a")]);
    assert_eq!(
        witness(&model, &history, Some(&log)).unwrap().verdict,
        WitnessVerdict::Proven
    );
}

#[test]
fn an_answer_that_the_order_does_not_explain_is_named_with_the_state() {
    let history = history(&TWO_WRITES_AND_A_READ.replace(":f :read :value 1", ":f :read :value 2"));
    let report = witness(&CasRegister::default(), &history, None).unwrap();
    let WitnessVerdict::Refuted(Contradiction::Refused {
        operation,
        position,
        state,
        ..
    }) = report.verdict
    else {
        panic!("{report:?}");
    };
    assert_eq!(
        (operation, position.to_string()),
        (OperationId(2), "4.1".into())
    );
    assert!(state.contains('1'), "{state}");
}

#[test]
fn positions_that_contradict_real_time_are_named_by_pair() {
    let history = history(&TWO_WRITES_AND_A_READ.replace(
        ":f :read :value 1 :position \"4.1\"",
        ":f :read :value 2 :position \"4.0\"",
    ));
    let report = witness(&CasRegister::default(), &history, None).unwrap();
    assert_eq!(
        report.verdict,
        WitnessVerdict::Refuted(Contradiction::RealTime {
            ended_first: OperationId(0),
            ended_first_position: "4.1".parse().unwrap(),
            began_later: OperationId(2),
            began_later_position: "4.0".parse().unwrap(),
        })
    );
}

#[test]
fn real_time_counts_across_objects() {
    let history = history(
        r#"{:process 1 :type :invoke :f :put :key "x" :value "1"}
           {:process 1 :type :ok :f :put :key "x" :value "1" :position "9.0"}
           {:process 1 :type :invoke :f :put :key "y" :value "1"}
           {:process 1 :type :ok :f :put :key "y" :value "1" :position "8.0"}"#,
    );
    let report = witness(&KeyValue, &history, None).unwrap();
    assert!(
        matches!(
            report.verdict,
            WitnessVerdict::Refuted(Contradiction::RealTime { .. })
        ),
        "{report:?}"
    );
}

#[test]
fn the_log_decides_what_nobody_knows() {
    let text = r#"
        {:process 1 :type :invoke :f :write :value 1 :request "a"}
        {:process 1 :type :info :f :write :value 1}
        {:process 2 :type :invoke :f :write :value 2 :request "b"}
        {:process 2 :type :info :f :write :value 2}
        {:process 3 :type :invoke :f :read :value nil :request "c"}
        {:process 3 :type :ok :f :read :value 1 :position "7.0"}"#;
    let history = history(text);
    let model = CasRegister::default();
    let report = witness(&model, &history, Some(&log(&[("5.0", "a")]))).unwrap();
    assert_eq!(report.verdict, WitnessVerdict::Proven);
    assert_eq!((report.unknown_applied, report.unknown_dropped), (1, 1));

    // The log says that the other one took effect: then the read is wrong.
    let report = witness(&model, &history, Some(&log(&[("5.0", "b")]))).unwrap();
    assert!(
        matches!(
            report.verdict,
            WitnessVerdict::Refuted(Contradiction::Refused { .. })
        ),
        "{report:?}"
    );
    // Nothing says so without a log.
    let report = witness(&model, &history, None).unwrap();
    assert!(
        matches!(report.verdict, WitnessVerdict::Unknown(_)),
        "{report:?}"
    );
    // Nor does a log whose beginning is missing, for what is not in it.
    let mut late = log(&[("5.0", "a")]);
    late.first_index = 4;
    let report = witness(&model, &history, Some(&late)).unwrap();
    assert!(
        matches!(report.verdict, WitnessVerdict::Unknown(_)),
        "{report:?}"
    );
}

#[test]
fn an_answer_whose_request_the_log_has_elsewhere_or_not_at_all_is_found() {
    let history = history(TWO_WRITES_AND_A_READ);
    let model = CasRegister::default();
    for entries in [&[("4.1", "a"), ("5.0", "b")][..], &[("4.1", "a")]] {
        let report = witness(&model, &history, Some(&log(entries))).unwrap();
        let WitnessVerdict::Refuted(Contradiction::NotInLog {
            operation, in_log, ..
        }) = report.verdict
        else {
            panic!("{report:?}");
        };
        assert_eq!(operation, OperationId(1));
        assert_eq!(in_log.len(), entries.len() - 1);
    }
}

#[test]
fn two_effects_at_one_position_are_found_and_what_others_did_leaves_it_unknown() {
    let text = TWO_WRITES_AND_A_READ.replace("\"4.0\"", "\"4.1\"");
    let report = witness(&CasRegister::default(), &history(&text), None).unwrap();
    assert!(
        matches!(
            report.verdict,
            WitnessVerdict::Refuted(Contradiction::SamePosition { .. })
        ),
        "{report:?}"
    );
    let foreign = log(&[("2.0", "z"), ("4.0", "b"), ("4.1", "a")]);
    let report = witness(
        &CasRegister::default(),
        &history(TWO_WRITES_AND_A_READ),
        Some(&foreign),
    )
    .unwrap();
    let WitnessVerdict::Unknown(why) = report.verdict else {
        panic!("{report:?}")
    };
    assert!(why.contains("request z"), "{why}");
}

#[test]
fn an_answer_without_a_position_leaves_it_unknown() {
    let text = TWO_WRITES_AND_A_READ.replace(":position \"4.0\"", "");
    let report = witness(&CasRegister::default(), &history(&text), None).unwrap();
    assert!(
        matches!(report.verdict, WitnessVerdict::Unknown(_)),
        "{report:?}"
    );
}

/// A lease of a second is granted, and the lock goes to another at `granted_ms`.
fn two_leases(granted_ms: u64) -> History {
    history(&format!(
        r#"{{:process 1 :type :invoke :f :acquire :key "a" :value {{:lease "x" :ttl_ms 1000}} :time 0}}
           {{:process 1 :type :ok :f :acquire :key "a" :value {{:token 1}} :position "2.0" :time 1000000}}
           {{:process 2 :type :invoke :f :acquire :key "a" :value {{:lease "y" :ttl_ms 1000}} :time 2000000}}
           {{:process 2 :type :ok :f :acquire :key "a" :value {{:token 2}} :position "3.0" :time {granted_ms}000000}}"#
    ))
}

#[test]
fn a_lease_may_expire_between_positions_but_not_early() {
    let model = Locks::lease_lock(Expiry::default());
    let report = witness(&model, &two_leases(1100), None).unwrap();
    assert_eq!(report.verdict, WitnessVerdict::Proven, "{report:?}");
    let report = witness(&model, &two_leases(900), None).unwrap();
    let WitnessVerdict::Refuted(Contradiction::Refused { operation, .. }) = report.verdict else {
        panic!("{report:?}");
    };
    assert_eq!(operation, OperationId(1));
}

/// Two leases hold the two permits of `a` when a third is granted one, long after: either may have
/// expired. Then the operation is what `last` says.
fn either_may_have_expired(last: &str) -> History {
    let acquire = |process: u64, lease: &str, token: u64, at: u64| {
        format!(
            r#"{{:process {process} :type :invoke :f :acquire :key "a" :value {{:lease "{lease}" :ttl_ms 1000 :mode :permits :limit 2}} :time {at}000000}}
               {{:process {process} :type :ok :f :acquire :key "a" :value {{:token {token}}} :position "{token}.0" :time {}000000}}"#,
            at + 1
        )
    };
    let parts = [
        acquire(1, "x", 1, 0),
        acquire(2, "y", 2, 10),
        acquire(3, "z", 3, 2000),
        last.into(),
    ];
    history(&parts.join("\n"))
}

#[test]
fn whichever_lease_lives_on_the_other_is_the_one_that_expired() {
    let model = Locks::lease_lock(Expiry::default());
    let renew = |process: u64, lease: &str, position: u64, at: u64| {
        format!(
            r#"{{:process {process} :type :invoke :f :renew :value {{:lease "{lease}"}} :time {at}000000}}
               {{:process {process} :type :ok :f :renew :value nil :position "{position}.0" :time {at}000000}}"#
        )
    };
    for (process, lease) in [(1, "x"), (2, "y")] {
        let history = either_may_have_expired(&renew(process, lease, 4, 2100));
        let report = witness(&model, &history, None).unwrap();
        assert_eq!(
            report.verdict,
            WitnessVerdict::Proven,
            "{lease} lives: {report:?}"
        );
    }
    let both = [renew(1, "x", 4, 2100), renew(2, "y", 5, 2200)].join("\n");
    let report = witness(&model, &either_may_have_expired(&both), None).unwrap();
    assert!(
        matches!(
            report.verdict,
            WitnessVerdict::Refuted(Contradiction::Refused { .. })
        ),
        "{report:?}"
    );
}

#[test]
fn all_sharers_may_have_expired_before_one_of_another_generation() {
    let share = |process: u64, lease: &str, token: u64, position: u64, at: u64| {
        format!(
            r#"{{:process {process} :type :invoke :f :acquire :key "a" :value {{:lease "{lease}" :ttl_ms 1000 :mode :shared}} :time {at}000000}}
               {{:process {process} :type :ok :f :acquire :key "a" :value {{:token {token}}} :position "{position}.0" :time {}000000}}"#,
            at + 1
        )
    };
    let model = Locks::lease_lock(Expiry::default());
    for (at, proven) in [(2000, true), (500, false)] {
        let parts = [
            share(1, "x", 1, 1, 0),
            share(2, "y", 1, 2, 10),
            share(3, "z", 5, 3, at),
        ];
        let report = witness(&model, &history(&parts.join("\n")), None).unwrap();
        assert_eq!(
            report.verdict == WitnessVerdict::Proven,
            proven,
            "{report:?}"
        );
    }
}
