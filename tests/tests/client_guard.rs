//! A program that uses the Rust client, as a process: frozen past its lease, and cut off from the cluster.
//! Its first use of the guard afterwards is refused. (Programs under `palisade lock` are in
//! `palisade_lock.rs`.)

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Acquire, Cluster, bin_dir, eventually};

const TTL_MS: u64 = 4_000;

/// A process that holds a lock through the client.
struct Holder {
    child: Child,
    ask: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    fn of(cluster: &Cluster, lock: &str) -> (Self, u64) {
        let urls = (0..cluster.len()).map(|node| format!("http://{}", cluster.http_address(node)));
        let mut child = Command::new(bin_dir().join("examples/hold"))
            .args([lock, &TTL_MS.to_string()])
            .args(urls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (ask, said) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let said = BufReader::new(said).lines();
        let mut holder = Self { child, ask, said };
        let token = holder.says();
        let token = token.strip_prefix("held ").unwrap().parse().unwrap();
        (holder, token)
    }

    fn says(&mut self) -> String {
        self.said.next().expect("it goes on").unwrap()
    }

    /// Whether its guard still gives the token.
    fn uses(&mut self) -> String {
        writeln!(self.ask, "use").unwrap();
        self.says()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_was_frozen_past_its_lease_is_refused_its_first_use_of_the_guard() {
    let cluster = Cluster::start().await;
    let (mut holder, token) = Holder::of(&cluster, "job");
    assert_eq!(holder.uses(), format!("token {token}"));
    holder.signal(Signal::SIGSTOP);
    let next = eventually("its lease ends", async || {
        let request = Acquire::new("job");
        let reply = request.send(&cluster.http(1)).await;
        (reply.status == 200).then(|| reply.body["token"].as_u64().unwrap())
    })
    .await;
    assert!(next > token);
    holder.signal(Signal::SIGCONT);
    let said = holder.uses();
    assert!(said.starts_with("lost: "), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_reaches_no_node_is_refused_the_guard_before_its_lease_ends() {
    let mut cluster = Cluster::start().await;
    let (mut holder, token) = Holder::of(&cluster, "job");
    assert_eq!(holder.uses(), format!("token {token}"));
    for node in 0..cluster.len() {
        cluster.stop(node);
    }
    // Cluster time stands still meanwhile, so the lease is there when the nodes go on.
    let lost = eventually("the guard's own deadline passes", async || {
        let said = holder.uses();
        said.starts_with("lost: ").then_some(said)
    })
    .await;
    for node in 0..cluster.len() {
        cluster.cont(node);
    }
    assert!(lost.starts_with("lost: "));
    let said = holder.uses();
    assert!(
        said.starts_with("lost: "),
        "once lost, lost for good: {said}"
    );
}
