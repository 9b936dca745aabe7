//! `palisade lock` as its users see it: what the command gets, exit statuses, signals.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may crash: that is how it fails"
)]

mod support;

use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use serde_json::json;
use support::fake_server::{FakeServer, Reaction, TOKEN, granted, problem, queued, renewed};
use support::{
    Family, cluster_with, healthy, is_alive, lock, palisade, send, start, stderr, stdout,
    wait_until,
};

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn the_command_gets_lock_token_and_endpoints_and_its_status_is_passed_on() {
    let server = healthy();
    let print = "echo $PALISADE_LOCK $PALISADE_FENCING_TOKEN $PALISADE_ENDPOINTS; exit 7";
    let output = lock(&server, &[], &["sh", "-c", print]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("a {TOKEN} {}\n", server.endpoint));
    assert_eq!(stderr(&output), "");
    assert_eq!(server.requests("/v1/release")[0].body["token"], TOKEN);
    let acquire = &server.requests("/v1/acquire")[0].body;
    assert_eq!(acquire["ttl_ms"], 15_000);
    assert_eq!(acquire["wait_ms"], 30_000);
}

#[test]
fn a_command_ended_by_a_signal_is_128_and_its_number() {
    let output = lock(&healthy(), &[], &["sh", "-c", "kill -KILL $$"]);
    assert_eq!(output.status.code(), Some(137), "{}", stderr(&output));
}

#[test]
fn standard_input_is_the_commands() {
    let server = healthy();
    let mut command = palisade(&server.endpoint);
    let mut child = command
        .args(["lock", "a", "--", "cat"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(stdout(&output), "through\n");
    assert!(output.status.success());
}

#[test]
fn a_command_that_is_not_found_is_127_and_one_that_cannot_run_is_126_and_both_release() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("not-executable");
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    for (command, status) in [("/nonexistent/command", 127), (file.to_str().unwrap(), 126)] {
        let server = healthy();
        let output = lock(&server, &[], &[command]);
        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
        assert!(stderr(&output).contains(command), "{}", stderr(&output));
        assert_eq!(server.requests("/v1/release").len(), 1);
    }
}

#[test]
fn a_lock_that_is_not_acquired_is_75_and_names_the_holder() {
    let server = cluster_with(
        |_| {
            let mut body = match problem("lock_held") {
                Reaction::Answer(_, body) => body,
                _ => unreachable!(),
            };
            body["holder_owner"] = json!("billing-7");
            body["holder_lease_id"] = json!("0123456789abcdef0123456789abcdef");
            Reaction::Answer(409, body)
        },
        |_| renewed(15_000),
    );
    let output = lock(&server, &["--try"], &["true"]);
    assert_eq!(output.status.code(), Some(75));
    let message = stderr(&output);
    assert!(
        message.contains("held by billing-7 (lease 0123456789abcdef"),
        "{message}"
    );
    assert_eq!(server.requests("/v1/acquire")[0].body["wait_ms"], 0);

    // The refusal of a wait names nobody; whoever holds the lock is asked for.
    let view = json!({
        "lock": "a", "position": "9.0", "queue": [],
        "holders": [{
            "owner": "billing-8", "lease_id": "0123456789abcdef0123456789abcdef",
            "mode": "exclusive", "token": TOKEN, "age_ms": 1, "remaining_ms": 1,
        }],
    });
    for (view, named) in [
        (Some(view), "held by billing-8 (lease 0123456789abcdef"),
        (None, "wait_timeout"),
    ] {
        let server = FakeServer::start(move |request| match request.path.split('?').next() {
            Some("/v1/acquire") => problem("wait_timeout"),
            Some("/v1/locks") => match &view {
                Some(view) => Reaction::Answer(200, view.clone()),
                None => problem("not_found"),
            },
            other => panic!("nobody should ask for {other:?}"),
        });
        let output = lock(&server, &["--wait", "1s"], &["true"]);
        assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
        assert!(stderr(&output).contains(named), "{}", stderr(&output));
    }
}

#[test]
fn an_unreachable_cluster_is_69_and_every_endpoint_is_named() {
    let (one, two) = (nobody(), nobody());
    let output = palisade(&format!("{one},{two}"))
        .args(["lock", "a", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
    let message = stderr(&output);
    assert!(
        message.contains(&one) && message.contains(&two),
        "{message}"
    );
}

#[test]
fn wrong_arguments_are_2_whether_found_here_or_by_the_cluster() {
    let server = cluster_with(|_| problem("invalid_request"), |_| renewed(15_000));
    assert_eq!(lock(&server, &[], &["true"]).status.code(), Some(2));
    let sent = server.requests("/v1/acquire").len();
    for options in [
        &["--ttl", "15"][..],
        &["--ttl", "1s"],
        &["--ttl", "4s", "--grace", "3s"],
        &["--wait", "-1s"],
        &["--try", "--wait", "1s"],
        &["--unknown"],
        &["--owner", ""],
        &["--endpoints", "ftp://a"],
    ] {
        let output = lock(&server, options, &["true"]);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{options:?}: {}",
            stderr(&output)
        );
    }
    let output = lock(&server, &["--ttl", "1s"], &["true"]);
    assert!(
        stderr(&output).contains("the smallest is"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        server.requests("/v1/acquire").len(),
        sent,
        "nothing is sent"
    );
}

#[test]
fn a_queued_grant_is_renewed_before_the_command_starts() {
    let count = AtomicUsize::new(0);
    let server = cluster_with(
        move |request| match count.fetch_add(1, Ordering::SeqCst) {
            0 => queued(request),
            _ => granted(request, false),
        },
        |_| problem("lease_ended"),
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ran");
    let output = lock(&server, &[], &["touch", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
    assert!(
        !file.exists(),
        "the command ran under a lock that had ended"
    );
    assert_eq!(server.requests("/v1/renew").len(), 1);
}

#[test]
fn a_lost_answer_leads_to_one_repeat_with_the_same_ids() {
    let count = AtomicUsize::new(0);
    let server = cluster_with(
        move |request| match count.fetch_add(1, Ordering::SeqCst) {
            0 => Reaction::Drop,
            _ => granted(request, true),
        },
        |_| renewed(15_000),
    );
    let output = lock(&server, &[], &["true"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let requests = server.requests("/v1/acquire");
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(
        server.requests("/v1/renew").len(),
        1,
        "a repeated grant is renewed first"
    );
}

#[test]
fn a_failed_release_is_said_and_the_status_is_still_the_commands() {
    let server = FakeServer::start(|request| match request.path.as_str() {
        "/v1/acquire" => granted(request, true),
        "/v1/release" => problem("token_stale"),
        other => panic!("nobody should ask for {other}"),
    });
    let output = lock(&server, &[], &["sh", "-c", "exit 3"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("could not be released"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_is_left_of_the_group_is_ended_before_the_release() {
    let server = healthy();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script = format!("sleep 1000 >/dev/null 2>&1 & echo $! > {}", file.display());
    let output = lock(&server, &[], &["sh", "-c", &script]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("still run"), "{}", stderr(&output));
    let pid = std::fs::read_to_string(&file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(
        !is_alive(pid),
        "the lock was released over a living process"
    );
    assert_eq!(server.requests("/v1/release").len(), 1);
}

#[test]
fn a_signal_is_passed_on_and_the_command_decides() {
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGUSR1, "USR1"),
    ] {
        let server = healthy();
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        let script = format!(
            "trap 'exit 9' {name}; : > {}; while :; do sleep 0.01; done",
            ready.display()
        );
        let child = start(&server, &[], &["sh", "-c", &script]);
        wait_until("the command runs", || ready.exists());
        send(signal, child.id());
        let output = child.wait_with_output();
        assert_eq!(output.status.code(), Some(9), "{name}: {}", stderr(&output));
        assert_eq!(server.requests("/v1/release").len(), 1);
    }
}

#[test]
fn a_signal_without_a_handler_ends_the_command_and_its_group() {
    let server = healthy();
    let family = Family::new(false);
    let child = start(&server, &[], &family.command());
    let pids = family.pids();
    send(Signal::SIGTERM, child.id());
    let output = child.wait_with_output();
    assert_eq!(output.status.code(), Some(143), "{}", stderr(&output));
    assert_eq!(pids.map(is_alive), [false, false]);
}

#[test]
fn a_signal_that_palisade_was_started_to_ignore_stays_ignored_for_the_command() {
    let server = healthy();
    let script = format!(
        "trap '' HUP; exec {} lock a -- sh -c 'kill -HUP $$; echo survived'",
        env!("CARGO_BIN_EXE_palisade")
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .env("PALISADE_ENDPOINTS", &server.endpoint)
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "survived\n", "{}", stderr(&output));
}

#[test]
fn a_signal_while_waiting_cancels_the_wait() {
    let server = cluster_with(queued, |_| renewed(15_000));
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let before = server.requests("/v1/cancel").len();
        let child = start(&server, &["--wait", "1h"], &["true"]);
        let acquires = server.requests("/v1/acquire").len();
        server.wait_for("/v1/acquire", acquires + 1);
        send(signal, child.id());
        let output = child.wait_with_output();
        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
        let cancels = server.requests("/v1/cancel");
        assert_eq!(cancels.len(), before + 1);
        let last = server.requests("/v1/acquire").pop().unwrap();
        assert_eq!(cancels[before].body["request_id"], last.body["request_id"]);
        assert_eq!(cancels[before].body["lease"], last.body["lease"]);
    }
}

#[test]
fn status_shows_the_members_and_which_one_leads() {
    let cluster = json!({
        "cluster_id": "c0ffee", "answered_by": "00000000000a", "term": 3,
        "leader": {"node_id": "00000000000a", "name": "n1"},
        "members": [{
            "node_id": "00000000000a", "name": "n1", "voter": true, "http_address": "h:1",
            "peer_address": "p:1", "reachable": true, "role": "leader", "term": 3,
            "last_log_index": 120, "committed_index": 119, "applied_index": 118,
        }],
    });
    let server = FakeServer::start(move |request| {
        assert_eq!(request.path, "/v1/cluster");
        Reaction::Answer(200, cluster.clone())
    });
    let output = palisade(&server.endpoint).arg("status").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("leader   n1 (00000000000a)"),
        "{}",
        stdout(&output)
    );
    let output = palisade(&server.endpoint)
        .args(["status", "--json"])
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["members"][0]["last_log_index"], 120);

    let output = palisade(&nobody()).arg("status").output().unwrap();
    assert_eq!(output.status.code(), Some(69));
}
