//! The processes of a soak: started, killed, paused, cut from power, replaced, asked.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use power_cut::{Cut, Error, Tear};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::OwnedMutexGuard;

use super::history::History;
use super::protocol::{Connection, Reply, Request};
use super::{Outcome, Settings, wait_for};
use crate::binaries::bin_dir;
use crate::cluster::free_in_a_row;

const NODE: &str = "soak-node";
/// One try of a request that is repeated until it succeeds.
const TRY: Duration = Duration::from_secs(5);
/// A healthy cluster replaces a node within this, whatever else happens to it meanwhile.
const REPLACED_WITHIN: Duration = Duration::from_secs(90);
const FOUNDED_WITHIN: Duration = Duration::from_secs(60);

/// A place in the cluster, with its addresses. The node that fills it may be replaced.
pub struct Slot {
    number: usize,
    /// Nodes that filled it before.
    generation: u32,
    arguments: Vec<String>,
    data: PathBuf,
    log: PathBuf,
    cut: Cut,
    /// Whether a power cut may keep a part of what was not synced.
    tears: bool,
    process: Option<Child>,
    /// Whether we ended that process.
    condemned: bool,
    ended: Arc<Mutex<Vec<String>>>,
}

pub struct Cluster {
    folder: PathBuf,
    sync: bool,
    peers: Vec<SocketAddr>,
    controls: Vec<SocketAddr>,
    slots: Vec<Arc<tokio::sync::Mutex<Slot>>>,
    /// Processes that nobody ended.
    ended: Arc<Mutex<Vec<String>>>,
}

impl Slot {
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn start(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log: File = log.expect("the log can be written");
        let mut command = Command::new(bin_dir().join(NODE));
        command
            .args(&self.arguments)
            .arg("--data")
            .arg(&self.data)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        self.cut
            .env_for(&mut command)
            .expect("the power-cut library is built");
        self.condemned = false;
        self.process = Some(command.spawn().expect("soak-node is built"));
    }

    /// Goes on with what the disk holds.
    pub fn restart(&mut self) {
        if !self.is_running() {
            self.start();
        }
    }

    /// Sends SIGKILL and does not wait.
    pub fn condemn(&mut self) {
        let Some(process) = &mut self.process else {
            return;
        };
        if let Ok(Some(status)) = process.try_wait()
            && !self.condemned
        {
            self.ended.lock().unwrap().push(format!(
                "n{} ended by itself: {status}; see {}",
                self.number,
                self.log.display()
            ));
        }
        self.condemned = true;
        // The kernel keeps what was written. A child that has ended already is no error.
        process.kill().expect("a child can be killed");
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.condemn();
        if let Some(mut process) = self.process.take() {
            process.wait().expect("a child can be waited for");
        }
    }

    /// Kills, and loses what was not synced, but for torn ends that `dice` draws. Returns how many
    /// files lost something. Blocking.
    pub fn cut_power(&mut self, dice: &mut StdRng) -> usize {
        if !self.is_running() {
            return 0;
        }
        self.kill();
        let torn = |unsynced| {
            let kept_bytes = dice.random_range(0..=unsynced);
            Tear {
                kept_bytes,
                zeroed_bytes: dice.random_range(0..=kept_bytes),
            }
        };
        let report = match self.tears {
            true => self.cut.apply_torn(torn),
            false => self.cut.apply(),
        };
        match report {
            Ok(report) => report.changes.len(),
            // It was killed before it began.
            Err(Error::NeverLoaded(_)) => 0,
            Err(error) => panic!("cannot cut the power of n{}: {error}", self.number),
        }
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            let id = i32::try_from(process.id()).expect("a process id fits");
            // It may have ended; then the next kill tells.
            let _ = kill(Pid::from_raw(id), signal);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
        self.kill();
    }
}

impl Cluster {
    /// Starts the nodes and waits until they lead and follow.
    pub async fn found(settings: &Settings) -> Self {
        fs::create_dir_all(&settings.folder).expect("the folder can be made");
        let size = u16::try_from(settings.nodes).expect("few nodes");
        let first = free_in_a_row(2 * size);
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let ended = Arc::default();
        let mut cluster = Self {
            folder: settings.folder.clone(),
            sync: settings.sync,
            peers: (first..first + size).map(address).collect(),
            controls: (first + size..first + 2 * size).map(address).collect(),
            slots: Vec::new(),
            ended,
        };
        let peers = cluster.listed(None);
        for number in 0..settings.nodes {
            let mut slot = cluster.slot(number, 0, &["--initial-peers", &peers]);
            slot.start();
            cluster.slots.push(Arc::new(tokio::sync::Mutex::new(slot)));
        }
        let led = wait_for(FOUNDED_WITHIN, || cluster.leader()).await;
        assert!(led.is_some(), "no leader within {FOUNDED_WITHIN:?}");
        cluster
    }

    /// The peers' addresses, but for one.
    fn listed(&self, without: Option<usize>) -> String {
        let listed = self.peers.iter().enumerate();
        let listed = listed.filter(|(number, _)| Some(*number) != without);
        let listed: Vec<String> = listed.map(|(_, peer)| peer.to_string()).collect();
        listed.join(",")
    }

    fn slot(&self, number: usize, generation: u32, start: &[&str]) -> Slot {
        let data = self.folder.join(format!("n{number}-{generation}"));
        let journal = self.folder.join(format!("n{number}-{generation}.journal"));
        let (peer, control) = (self.peers[number], self.controls[number]);
        let mut arguments = vec![
            format!("--name=n{number}"),
            format!("--peer={peer}"),
            format!("--control={control}"),
        ];
        arguments.extend(start.iter().map(|argument| (*argument).to_owned()));
        if !self.sync {
            arguments.push("--unsafe-no-sync".to_owned());
            // Those are synced all the same: the last one could save everything.
            arguments.push("--without-snapshots".to_owned());
        }
        Slot {
            number,
            generation,
            arguments,
            cut: Cut::begin(&data, journal).expect("a journal can be begun"),
            data,
            // Without syncs a torn database may be refused, where it is to be seen to lose.
            tears: self.sync,
            log: self.folder.join(format!("n{number}.log")),
            process: None,
            condemned: false,
            ended: self.ended.clone(),
        }
    }

    pub fn size(&self) -> usize {
        self.controls.len()
    }

    pub async fn connect(&self, node: usize) -> Option<Connection> {
        Connection::open(self.controls[node]).await
    }

    /// The slot, unless something is being done to it.
    pub fn try_slot(&self, number: usize) -> Option<OwnedMutexGuard<Slot>> {
        self.slots[number].clone().try_lock_owned().ok()
    }

    /// Every slot, once nothing is being done to any.
    pub async fn all_slots(&self) -> Vec<OwnedMutexGuard<Slot>> {
        let mut all = Vec::new();
        for slot in &self.slots {
            all.push(slot.clone().lock_owned().await);
        }
        all
    }

    async fn ask(&self, node: usize, request: &Request, limit: Duration) -> Option<Reply> {
        self.connect(node).await?.ask(request, limit).await
    }

    /// Its id, and whether it leads and votes.
    async fn status(&self, node: usize) -> Option<(String, bool, bool)> {
        match self.ask(node, &Request::Status, TRY / 5).await? {
            Reply::Status { node, leads, votes } => Some((node, leads, votes)),
            _ => None,
        }
    }

    /// The node that takes itself for the leader, if one answers.
    pub async fn leader(&self) -> Option<usize> {
        for number in 0..self.size() {
            if self.status(number).await.is_some_and(|(_, leads, _)| leads) {
                return Some(number);
            }
        }
        None
    }

    /// Has somebody else lead. Nothing comes of it when nobody can.
    pub async fn transfer(&self, through: usize) -> bool {
        let limit_ms = u64::try_from(TRY.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Transfer { limit_ms };
        self.ask(through, &request, TRY).await == Some(Reply::Done)
    }

    /// Puts a new node, with an empty directory, in the place of the one in `slot`.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn replace(&self, slot: &mut OwnedMutexGuard<Slot>) -> Result<(), String> {
        let (number, generation) = (slot.number, slot.generation + 1);
        let old = wait_for(REPLACED_WITHIN, || self.status(number)).await;
        let (old, _, _) = old.ok_or(format!("n{number} does not answer"))?;
        slot.kill();
        // Whoever takes a dead member's name has to wait until that member is removed.
        let remove = Request::Remove {
            node: old.clone(),
            limit_ms: u64::try_from(TRY.as_millis()).unwrap_or(u64::MAX),
        };
        let mut through = (0..self.size()).filter(|other| *other != number).cycle();
        let removed = wait_for(REPLACED_WITHIN, || {
            let other = through.next().unwrap_or_default();
            let remove = &remove;
            async move {
                let answer = self.ask(other, remove, TRY).await;
                answer.filter(|reply| *reply == Reply::Done)
            }
        });
        if removed.await.is_none() {
            return Err(format!(
                "{old}, once n{number}, was not removed within {REPLACED_WITHIN:?}"
            ));
        }
        let others = self.listed(Some(number));
        **slot = self.slot(number, generation, &["--join", &others]);
        slot.start();
        let joined = wait_for(REPLACED_WITHIN, || async {
            self.status(number).await.filter(|(_, _, votes)| *votes)
        });
        match joined.await {
            Some(_) => Ok(()),
            None => Err(format!(
                "n{number} did not become a voter within {REPLACED_WITHIN:?}"
            )),
        }
    }

    /// What each node applied, once all of them have applied everything.
    pub async fn sequences(&self, history: &History) -> BTreeMap<String, Vec<(u64, u64)>> {
        let last = loop {
            let id = history.begin();
            let outcome = match self.connect(0).await {
                Some(mut connection) => connection.propose(id, TRY).await,
                None => Outcome::Refused,
            };
            history.end(id, outcome);
            if let Outcome::Applied { index } = outcome {
                break index;
            }
        };
        let limit_ms = u64::try_from(TRY.as_millis()).unwrap_or(u64::MAX);
        let catch_up = Request::CatchUp {
            index: last,
            limit_ms,
        };
        let mut sequences = BTreeMap::new();
        for node in 0..self.size() {
            let sequence = loop {
                if self.ask(node, &catch_up, TRY).await == Some(Reply::Done)
                    && let Some(Reply::Sequence(sequence)) =
                        self.ask(node, &Request::Dump, TRY).await
                {
                    break sequence;
                }
                tokio::time::sleep(TRY / 50).await;
            };
            sequences.insert(format!("n{node}"), sequence);
        }
        sequences
    }

    /// Processes that ended although nobody ended them.
    pub fn ended_by_themselves(&self) -> Vec<String> {
        self.ended.lock().unwrap().clone()
    }

    /// Ends all processes.
    pub async fn stop(&self) {
        for mut slot in self.all_slots().await {
            slot.kill();
        }
    }
}
