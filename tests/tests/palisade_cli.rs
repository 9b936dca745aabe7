//! `palisade`'s other commands against real clusters: what they print and how they exit.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::{Output, Stdio};

use serde_json::Value;
use tests::{Acquire, Authority, Cluster, PATIENCE, eventually};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

fn command(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(tests::palisade());
    command
        .args(arguments)
        .env("PALISADE_ENDPOINTS", cluster.endpoints().join(","))
        .env_remove("PALISADE_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs a command to its end, which must have this status.
async fn run(cluster: &Cluster, arguments: &[&str], status: i32) -> String {
    let output = tokio::time::timeout(PATIENCE, command(cluster, arguments).output()).await;
    let Output {
        status: end,
        stdout,
        stderr,
    } = output.expect("it ends").unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(end.code(), Some(status), "{arguments:?}: {stderr}");
    String::from_utf8(stdout).unwrap()
}

async fn json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let text = run(cluster, &[&["--json"], arguments].concat(), 0).await;
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn what_is_held_is_listed_checked_watched_and_released_by_force() {
    let cluster = Cluster::start().await;
    let mut watch = command(&cluster, &["--json", "watch", "--prefix", "jobs/"]);
    let mut watch = watch.spawn().unwrap();
    let mut events = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut said = BufReader::new(watch.stderr.take().unwrap()).lines();
    let begun = tokio::time::timeout(PATIENCE, said.next_line()).await;
    let begun = begun.expect("the watch begins").unwrap().expect("a line");
    assert!(begun.contains("watching from"), "{begun}");

    let arguments = [
        "lock", "jobs/a", "jobs/b", "--owner", "me", "--grace", "100ms", "--ttl", "5s", "--",
        "sleep", "600",
    ];
    let mut holder = command(&cluster, &arguments).spawn().unwrap();
    let view = eventually("the lock is held", async || {
        let view = json(&cluster, &["lock-info", "jobs/a"]).await;
        (view["holders"].as_array()?.len() == 1).then_some(view)
    })
    .await;
    let token = view["holders"][0]["token"].to_string();
    let lease = view["holders"][0]["lease_id"].as_str().unwrap();

    let table = run(&cluster, &["locks", "jobs/"], 0).await;
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("LOCK"), "{table}");
    assert!(
        lines[1].starts_with("jobs/a") && lines[1].contains(&token),
        "{table}"
    );
    assert!(lines[2].starts_with("jobs/b"), "{table}");
    let info = run(&cluster, &["lock-info", "jobs/a"], 0).await;
    assert!(info.contains("me") && info.contains(lease), "{info}");
    let leases = run(&cluster, &["leases"], 0).await;
    assert!(leases.contains("jobs/a jobs/b"), "{leases}");

    run(&cluster, &["fence-check", "jobs/a", &token], 0).await;
    run(&cluster, &["fence-check", "jobs/a", "1"], 1).await;
    run(&cluster, &["fence-check", "jobs/a", "9007199254740000"], 3).await;

    let force = [
        "force-release",
        "jobs/a",
        "--token",
        &token,
        "--lease",
        lease,
        "--now",
    ];
    let said = run(&cluster, &force, 0).await;
    assert!(
        said.contains("jobs/b") && said.contains("free now"),
        "{said}"
    );
    let end = tokio::time::timeout(PATIENCE, holder.wait()).await;
    assert_eq!(end.expect("the holder stops").unwrap().code(), Some(70));

    // What it said was true: nothing since then is missing.
    let mut types = Vec::new();
    while types.last().is_none_or(|last| last != "forced") {
        let line = tokio::time::timeout(PATIENCE, events.next_line()).await;
        let line = line.expect("an event").unwrap().expect("a line");
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["lock"] == "jobs/a" {
            assert_eq!(event["token"].to_string(), token);
            types.push(event["type"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(types, ["granted", "forced"]);
}

#[tokio::test]
async fn sharers_hold_together_permits_are_counted_and_a_conflict_has_the_status_asked_for() {
    let cluster = Cluster::start().await;
    let hold = |options: &[&str]| {
        let line = [options, &["--", "sleep", "600"]].concat();
        command(&cluster, &line).spawn().unwrap()
    };
    let _sharers = [
        hold(&["lock", "s", "--shared"]),
        hold(&["lock", "s", "--shared"]),
        hold(&["lock", "p", "--permits", "2", "--limit", "3"]),
    ];
    eventually("all hold", async || {
        let count = |view: Value| view["holders"].as_array().map(Vec::len);
        let shared = count(json(&cluster, &["lock-info", "s"]).await)?;
        let permits = count(json(&cluster, &["lock-info", "p"]).await)?;
        (shared == 2 && permits == 1).then_some(())
    })
    .await;
    let try_for = |options: &[&'static str]| {
        let begin: &[&str] = &["lock", "--try", "-E", "9"];
        [begin, options, &["--", "true"]].concat()
    };
    run(&cluster, &try_for(&["s"]), 9).await;
    run(
        &cluster,
        &try_for(&["p", "--permits", "2", "--limit", "3"]),
        9,
    )
    .await;
    run(
        &cluster,
        &try_for(&["p", "--permits", "1", "--limit", "3"]),
        0,
    )
    .await;
    run(&cluster, &try_for(&["s", "--shared"]), 0).await;
}

#[tokio::test]
async fn every_command_that_shows_something_shows_it_as_json_too() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let granted = Acquire::new("a").granted(&cluster.http(0)).await;
    let (token, lease) = (granted.token.to_string(), granted.request.lease_id());
    let commands: &[(&[&str], &str)] = &[
        (&["status"], "/members/2/name"),
        (&["locks"], "/0/holders/0/token"),
        (&["lock-info", "a"], "/holders/0/token"),
        (&["leases"], "/0/holds/0/token"),
        (&["fence-check", "a", &token], "/verdict"),
        (&["members", "list"], "/members/2/name"),
        (&["members", "snapshot"], "/node_id"),
        (&["members", "transfer"], "/leader/name"),
        (&["members", "finish-change"], "/membership_version"),
        (&["backup", &file("backup")], "/bytes"),
        (
            &["force-release", "a", "--token", &token, "--lease", &lease],
            "/released/0/lock",
        ),
        (&["man", "--out", &file("man")], "/pages/0"),
    ];
    for (arguments, field) in commands {
        let shown = json(&cluster, arguments).await;
        let value = shown.pointer(field);
        assert!(
            value.is_some_and(|value| !value.is_null()),
            "{arguments:?}: {shown}"
        );
    }
}

#[tokio::test]
async fn who_is_refused_is_told_where_to_look() {
    let cluster = Cluster::start().await;
    let nobody = "0".repeat(32);
    let refused: &[(&[&str], &str)] = &[
        (
            &["members", "promote", "0000000000ff"],
            "`palisade members list`",
        ),
        (
            &["force-release", "a", "--token", "1", "--lease", &nobody],
            "`palisade lock-info a`",
        ),
    ];
    for (arguments, advice) in refused {
        let output = command(&cluster, arguments).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(75), "{arguments:?}: {said}");
        assert!(said.contains(advice), "{arguments:?}: {said}");
    }
    let plain = format!("https://{}", cluster.http_address(0));
    let arguments = ["--endpoints", &plain, "locks"];
    let output = command(&cluster, &arguments).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("does it serve http, not https?"), "{said}");
}

#[tokio::test]
async fn members_are_shown_and_the_leadership_is_transferred() {
    let cluster = Cluster::start().await;
    let table = run(&cluster, &["members", "list"], 0).await;
    assert_eq!(
        table.lines().filter(|line| line.contains(" yes ")).count(),
        3,
        "{table}"
    );
    let leader = cluster.leader().await;
    let other = cluster.node_id((leader + 1) % 3).await;
    let said = run(&cluster, &["members", "transfer", &other], 0).await;
    assert!(said.contains(&other) && said.contains("leads"), "{said}");
    run(&cluster, &["members", "remove", "0000000000ff"], 75).await;
}

#[tokio::test]
async fn a_backup_is_whole_or_not_there_and_never_replaces_a_file() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    let file = path.to_str().unwrap();
    run(&cluster, &["backup", file], 0).await;
    let verify = tests::palisaded()
        .args(["verify", "--backup", file])
        .output();
    let verify = verify.unwrap();
    assert!(verify.status.success(), "{verify:?}");
    run(&cluster, &["backup", file], 2).await;
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 1, "nothing partial is left");
}

#[tokio::test]
async fn completions_and_the_manual_need_no_cluster_and_a_lost_cluster_says_what_to_try() {
    let mut cluster = Cluster::start().await;
    cluster.kill9_all();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&cluster, &["completions", shell], 0).await;
        assert!(script.contains("fence-check"), "{shell}");
    }
    assert!(run(&cluster, &["man"], 0).await.contains(".TH palisade"));
    let output = command(&cluster, &["locks"]).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("--endpoints"), "{said}");
}

#[tokio::test]
async fn https_and_a_bearer_token_open_the_cluster_and_without_them_it_says_what_to_give() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let made = tests::palisaded()
        .args(["token", "--name", "ops", "--role", "admin"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::write(file("token"), made.stderr).unwrap();
    std::fs::write(file("tokens.toml"), made.stdout).unwrap();
    let authority = Authority::new();
    let node = authority.issue("node", "IP:127.0.0.1");
    let mut cluster = Cluster::builder(3)
        .arguments([
            "--http-cert".to_owned(),
            node.certificate.display().to_string(),
            "--http-key".to_owned(),
            node.key.display().to_string(),
            "--auth-file".to_owned(),
            file("tokens.toml"),
        ])
        .prepare();
    for number in 0..3 {
        cluster.restart(number);
    }
    let endpoints: Vec<_> = (0..3)
        .map(|number| format!("https://{}", cluster.http_address(number)))
        .collect();
    let ca = authority.ca().display().to_string();
    let token_file = file("token");
    let try_lock = async |options: &[&str]| {
        let line = [options, &["lock", "a", "--try", "--", "true"]].concat();
        let output = command(&cluster, &line)
            .env("PALISADE_ENDPOINTS", endpoints.join(","))
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let right = ["--ca", &ca, "--token-file", &token_file];
    eventually("the cluster serves", async || {
        let (status, _) = try_lock(&right).await;
        (status == Some(0)).then_some(())
    })
    .await;
    let (status, said) = try_lock(&["--ca", &ca]).await;
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("unauthenticated"), "{said}");
    let (status, said) = try_lock(&["--token-file", &token_file]).await;
    assert_eq!(status, Some(69), "its certificate is not known: {said}");
    assert!(said.contains("name the authority"), "{said}");
    let plain: Vec<_> = endpoints
        .iter()
        .map(|url| url.replace("https", "http"))
        .collect();
    let line = ["--endpoints", &plain.join(","), "locks"];
    let output = command(&cluster, &line).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("does it serve https, not http?"), "{said}");
}
