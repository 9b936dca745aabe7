//! Each model by example: what it accepts, what it refuses, and what it says about it. And the bounds of
//! a check.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use jepsen_checker::format;
use jepsen_checker::models::{AnyModel, Expiry, Locks};
use jepsen_checker::{
    Budget, FailMeaning, History, Method, Settings, UnknownReason, Verdict, WhyNot, check,
};

/// A history from lines `PROCESS TYPE F VALUE [KEY]`, times in ms before `@`.
fn history(lines: &str, fail: FailMeaning) -> History {
    let mut text = String::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (time, line) = line.split_once('@').unwrap_or(("0", line));
        let time: u64 = time.trim().parse::<u64>().unwrap() * 1_000_000;
        let mut words = line.trim().splitn(4, ' ');
        let (process, kind) = (words.next().unwrap(), words.next().unwrap());
        let (function, rest) = (words.next().unwrap(), words.next().unwrap_or("nil"));
        let (value, rest) = rest.split_once(" | ").unwrap_or((rest, ""));
        text.push_str(&format!(
            "{{:process {process}, :type :{kind}, :f :{function}, :value {value}, :time {time}{rest}}}\n"
        ));
    }
    format::read_edn(text.as_bytes(), fail).unwrap()
}

fn verdict_of(model: &str, history: &History) -> Verdict {
    let model: AnyModel = model.parse().unwrap();
    let report = model
        .check(history, &Settings::default(), &Budget::GENEROUS)
        .unwrap();
    let searched = Settings {
        fast_paths: false,
        ..Settings::default()
    };
    let searched = model.check(history, &searched, &Budget::GENEROUS).unwrap();
    assert_eq!(report.verdict.is_valid(), searched.verdict.is_valid());
    report.verdict
}

fn accepts(model: &str, lines: &str) {
    let verdict = verdict_of(model, &history(lines, FailMeaning::Observation));
    assert!(verdict.is_valid(), "{model}: {lines}: {verdict:?}");
}

/// Refused, for this reason in one of the explanations.
fn refuses(model: &str, lines: &str, reason: &str) {
    let verdict = verdict_of(model, &history(lines, FailMeaning::Observation));
    let Verdict::Invalid(violation) = &verdict else {
        panic!("{model}: {lines}: {verdict:?}")
    };
    let reasons: Vec<&WhyNot> = violation
        .partial_linearizations
        .iter()
        .flat_map(|partial| {
            partial
                .alternatives
                .iter()
                .map(|alternative| &alternative.why)
        })
        .collect();
    let is_it =
        |why: &&&WhyNot| matches!(why, WhyNot::Refused { reason: words } if words == reason);
    assert!(
        reasons.iter().any(|why| is_it(&why)),
        "{model}: {lines}: {reasons:?}"
    );
}

#[test]
fn a_failed_cas_is_an_observation_where_failures_are() {
    let lines = "0 invoke write 1
        0 ok write 1
        0 invoke cas [1 2]
        0 fail cas [1 2]";
    refuses("cas-register", lines, "the register does hold 1");
    let dropped = history(lines, FailMeaning::DidNotHappen);
    assert!(verdict_of("cas-register", &dropped).is_valid());
    // One that failed for another reason saw nothing.
    accepts(
        "cas-register",
        &lines.replace("fail cas [1 2]", "fail cas nil | , :error :timed-out"),
    );
}

#[test]
fn an_open_write_may_take_effect_late_or_never() {
    let open = "0 invoke write 1
        0 info write 1
        1 invoke read nil";
    accepts(
        "register",
        &format!("{open}\n1 ok read nil\n1 invoke read nil\n1 ok read 1"),
    );
    let undone = format!("{open}\n1 ok read 1\n1 invoke read nil\n1 ok read nil");
    refuses("register", &undone, "the register holds 1, not nil");
}

#[test]
fn a_mutex_has_one_holder_and_its_owner_alone_releases() {
    let twice = "0 invoke acquire
        0 ok acquire
        1 invoke acquire
        1 ok acquire";
    refuses("mutex", twice, "the lock: somebody holds it already");
    refuses("owner-mutex", twice, "the lock: process 0 holds");
    let others = "0 invoke acquire
        0 ok acquire
        1 invoke release
        1 ok release";
    accepts("mutex", others);
    refuses("owner-mutex", others, "process 1 does not hold the lock");
    // The owner that the operation names, whoever asks for it.
    accepts(
        "owner-mutex",
        &others
            .replace("acquire", "acquire {:owner 7}")
            .replace("invoke release", "invoke release {:owner 7}"),
    );
}

#[test]
fn fencing_tokens_rise_with_every_grant() {
    let lines = |second: &str| {
        format!(
            "0 invoke acquire
        0 ok acquire 5
        0 invoke release 5
        0 ok release
        1 invoke acquire
        1 ok acquire {second}"
        )
    };
    accepts("fenced-mutex", &lines("6"));
    accepts("fenced-mutex", &lines("nil"));
    refuses(
        "fenced-mutex",
        &lines("5"),
        "the lock: token 5 is not above 5, which the last one reached",
    );
    accepts("owner-mutex", &lines("5"));
    // A grant whose answer was lost took a token too.
    let lost = "0 invoke acquire {:owner 1}
        0 ok acquire 5
        0 invoke release {:owner 1}
        0 ok release
        1 invoke acquire {:owner 2}
        1 info acquire
        2 invoke release {:owner 2}
        2 ok release
        2 invoke acquire {:owner 3}
        2 ok acquire 6";
    refuses(
        "fenced-mutex",
        lost,
        "the lock: token 6 is not above 6, which the last one reached",
    );
    accepts(
        "fenced-mutex",
        &lost.replace("ok acquire 6", "ok acquire 7"),
    );
}

#[test]
fn sharers_have_one_token_and_no_exclusive_holder_beside_them() {
    let shared = |token| {
        format!(
            "0 invoke acquire {{:mode :shared}}
        0 ok acquire 5
        1 invoke acquire {{:mode :shared}}
        1 ok acquire {token}"
        )
    };
    accepts("rw-lock", &shared(5));
    refuses(
        "rw-lock",
        &shared(6),
        "the lock: token 6 is not 5, which the other sharers have: process 0",
    );
    let exclusive = format!("{}\n2 invoke acquire\n2 ok acquire 6", shared(5));
    refuses(
        "rw-lock",
        &exclusive,
        "the lock: process 0 holds a share with token 5, process 1 holds a share with token 5",
    );
}

#[test]
fn a_semaphore_has_no_more_permits_than_its_limit() {
    let lines = |permits| {
        format!(
            "0 invoke acquire {{:permits 2}}
        0 ok acquire
        1 invoke acquire {{:permits {permits}}}
        1 ok acquire
        0 invoke release {{:permits 1}}
        0 ok release
        0 invoke acquire
        0 ok acquire"
        )
    };
    accepts("semaphore:3", &lines(1));
    refuses(
        "semaphore:3",
        &lines(2),
        "the lock: process 0 holds 2 of 3 permits",
    );
    let more = "0 invoke acquire
        0 ok acquire
        0 invoke release {:permits 2}
        0 ok release";
    refuses("semaphore:3", more, "process 0 has 1 permits, not 2");
}

#[test]
fn several_locks_are_granted_all_or_none() {
    let lines = |third: &str| {
        format!(
            "0 invoke acquire {{:locks [\"a\" {{:name \"b\", :mode :shared}}]}}
        0 ok acquire {{:locks [{{:name \"a\", :token 1}} {{:name \"b\", :token 2}}]}}
        1 invoke acquire {{:locks [{third}]}}
        1 ok acquire"
        )
    };
    accepts("multi-lock", &lines("\"c\" {:name \"b\", :mode :shared}"));
    refuses(
        "multi-lock",
        &lines("\"c\" \"b\""),
        "lock \"b\": process 0 holds a share with token 2",
    );
    // A refusal has to have a reason.
    let refused = "0 invoke acquire {:locks [\"a\" \"b\"]}
        0 fail acquire nil | , :error \"lock_held\"";
    refuses("multi-lock", refused, "all that it asked for is free");
    accepts(
        "multi-lock",
        &refused.replace("\"lock_held\"", "{:code \"lock_held\", :reason \"queued\"}"),
    );
}

/// One lease holds a lock, renewed at 500 ms; another is granted it at `at_ms`.
fn second_lease(at_ms: u64, expiry: Expiry) -> Verdict {
    let lines = format!(
        "0@0 invoke acquire {{:lease \"a\"}}
        1@0 ok acquire 1
        500@0 invoke renew {{:lease \"a\"}}
        501@0 ok renew
        600@1 invoke acquire {{:lease \"b\"}}
        {at_ms}@1 ok acquire 2"
    );
    let history = history(&lines, FailMeaning::Observation);
    let model = Locks::lease_lock(expiry);
    check(&model, &history, &Settings::default(), &Budget::GENEROUS)
        .unwrap()
        .verdict
}

#[test]
fn a_lease_expires_no_earlier_than_its_last_renewal_allows() {
    let expiry = Expiry {
        ttl_ms: 1_000,
        rho_millionths: 10_000,
    };
    // Renewed at 500 ms, for a second less 1%.
    assert!(second_lease(1_489, expiry).is_invalid());
    assert!(second_lease(1_490, expiry).is_valid());
    assert!(
        second_lease(
            1_490,
            Expiry {
                rho_millionths: 0,
                ..expiry
            }
        )
        .is_invalid()
    );
}

#[test]
fn a_lease_that_ended_stays_ended() {
    let lines = "0@0 invoke acquire {:lease \"a\", :ttl_ms 10}
        1@0 ok acquire 1
        20@1 invoke acquire {:lease \"b\", :ttl_ms 10}
        21@1 ok acquire 2
        22@0 invoke renew {:lease \"a\"}
        23@0 ok renew";
    refuses("lease-lock", lines, "lease \"a\" has ended");
    accepts(
        "lease-lock",
        &lines.replace("ok renew", "fail renew nil | , :error :lease-ended"),
    );
    // And one that was not due has not.
    let early = "0@0 invoke acquire {:lease \"a\", :ttl_ms 10}
        1@0 ok acquire 1
        2@0 invoke renew {:lease \"a\", :ttl_ms 10}
        3@0 fail renew nil | , :error :lease-ended";
    refuses("lease-lock", early, "lease \"a\" lives, and holds a lock");
    let revoked = early.replace(
        "2@0 invoke",
        "2@1 invoke revoke {:lease \"a\"}\n2@1 ok revoke\n2@0 invoke",
    );
    accepts("lease-lock", &revoked);
}

#[test]
fn a_violation_says_how_far_it_came_and_why_no_further() {
    let lines = "0 invoke write 1
        1 invoke write 2
        0 ok write 1
        2 invoke read nil
        2 ok read 3
        1 ok write 2";
    let history = history(lines, FailMeaning::DidNotHappen);
    for fast_paths in [true, false] {
        let settings = Settings {
            fast_paths,
            ..Settings::default()
        };
        let model: AnyModel = "register".parse().unwrap();
        let report = model.check(&history, &settings, &Budget::GENEROUS).unwrap();
        let method = if fast_paths {
            Method::UniqueValues
        } else {
            Method::Search
        };
        assert_eq!(report.partitions[0].method, method);
        let Verdict::Invalid(violation) = report.verdict else {
            panic!("it read what was not there")
        };
        assert_eq!((violation.stuck.0, violation.prefix_end.0), (2, 4));
        let partial = &violation.partial_linearizations[0];
        assert_eq!(partial.alternatives[0].call, "read -> 3");
        let reason = format!("the register holds {}, not 3", partial.state);
        assert_eq!(partial.alternatives[0].why, WhyNot::Refused { reason });
        assert_eq!(partial.calls.last().unwrap().state, partial.state);
        let states: Vec<&str> = violation
            .partial_linearizations
            .iter()
            .map(|partial| &*partial.state)
            .collect();
        assert!(
            fast_paths || states.len() == 2,
            "with 1 and with 2: {states:?}"
        );
    }
}

/// Many overlapping writes, of few values so that no theorem helps, and a read of none of them.
fn hard_history(clients: u64) -> History {
    let mut lines = String::new();
    for client in 0..clients {
        lines.push_str(&format!(
            "{client} invoke cas [{} {}]\n",
            client % 7,
            (client + 3) % 11
        ));
    }
    lines.push_str("1000 invoke write 0\n1000 ok write 0\n1001 invoke read\n1001 ok read 99\n");
    for client in 0..clients {
        let end = if client % 2 == 0 { "ok" } else { "info" };
        lines.push_str(&format!("{client} {end} cas nil\n"));
    }
    history(&lines, FailMeaning::DidNotHappen)
}

#[test]
fn hard_cases_end_as_unknown_within_their_bounds() {
    let history = hard_history(60);
    let model: AnyModel = "cas-register".parse().unwrap();
    let judge = |budget: &Budget<'_>| {
        let report = model.check(&history, &Settings::default(), budget).unwrap();
        let Verdict::Unknown(reason) = report.verdict else {
            panic!("{:?}", report.verdict)
        };
        (reason, report.partitions[0].statistics)
    };
    let (reason, statistics) = judge(&Budget {
        steps: 10_000,
        ..Budget::GENEROUS
    });
    assert_eq!(reason, UnknownReason::Steps { limit: 10_000 });
    assert!(statistics.steps < 11_000, "{statistics:?}");

    let limit_bytes = 1 << 20;
    let (reason, statistics) = judge(&Budget {
        memory_bytes: limit_bytes,
        ..Budget::GENEROUS
    });
    assert_eq!(reason, UnknownReason::Memory { limit_bytes });
    assert!(
        statistics.memory_peak_bytes <= limit_bytes + limit_bytes / 8,
        "{statistics:?}"
    );

    let asked = std::sync::atomic::AtomicU32::new(0);
    let stop = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= 3;
    let (reason, _) = judge(&Budget {
        stop: &stop,
        ..Budget::GENEROUS
    });
    assert_eq!(reason, UnknownReason::Stopped);
}

#[test]
fn more_calls_at_once_than_can_be_tracked_are_unknown() {
    let mut lines = String::new();
    for client in 0..1_100 {
        lines.push_str(&format!("{client} invoke write {}\n", client % 5));
    }
    for client in 0..1_100 {
        lines.push_str(&format!("{client} ok write {}\n", client % 5));
    }
    let verdict = verdict_of("register", &history(&lines, FailMeaning::DidNotHappen));
    let reason = UnknownReason::TooConcurrent {
        calls: 1_100,
        limit: 1_024,
    };
    assert_eq!(verdict, Verdict::Unknown(reason));
}

#[test]
fn hundreds_of_calls_at_once_are_no_limit() {
    for clients in [70, 600] {
        let mut lines = String::new();
        for client in 0..clients {
            lines.push_str(&format!("{client} invoke write {}\n", client % 5));
        }
        for client in 0..clients {
            let end = if client % 2 == 0 { "ok" } else { "info" };
            lines.push_str(&format!("{client} {end} write {}\n", client % 5));
        }
        lines.push_str("5000 invoke read\n5000 ok read 3\n");
        accepts("register", &lines);
        let read = "5000 invoke read\n5000 ok read 3\n";
        let early =
            lines
                .replace(read, "")
                .replacen("0 ok write 0", &format!("{read}0 ok write 0"), 1);
        accepts("register", &early);
    }
}
