//! How each fault is brought about, and how it is mended.

use std::time::Duration;

use power_cut::Fsync;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::time::Instant;

use super::Fault;
use super::flip::Flip;
use crate::cluster::{Cluster, End, ProcessState, Rule};
use crate::run_directory::FaultOutcome;
use crate::system::Action;
use crate::workload::Shared;

/// How long a node may take until it serves after it was started again.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How long a pause of clients waits for one that uses a resource under a lock.
const HOLDER_PATIENCE: Duration = Duration::from_secs(3);

/// How long a node with a flipped bit is watched.
const FLIP_LIMIT: Duration = Duration::from_secs(4);

/// What a fault came to.
pub(super) struct Begun {
    /// To whom and how, in words.
    pub(super) target: String,
    /// The names of the nodes.
    pub(super) nodes: Vec<String>,
    /// Whether it is in effect.
    pub(super) outcome: FaultOutcome,
    /// Why not, or what is peculiar.
    pub(super) reason: Option<String>,
    mend: Mend,
}

/// What mends it.
pub(super) enum Mend {
    /// Nothing: it is over.
    Nothing,
    /// All links pass.
    Links,
    /// These nodes are started.
    Start(Vec<usize>),
    /// These nodes go on.
    Resume(Vec<usize>),
    /// These clients go on.
    Clients(Vec<usize>),
    /// Their clocks are right.
    Clocks(Vec<usize>),
    /// They come back with clocks that run as they should.
    Rates(Vec<usize>),
    /// Their disks have space; those that stopped are started.
    FullDisks(Vec<usize>),
    /// Their syncs are honest.
    Syncs(Vec<usize>),
    /// It lost power after its syncs failed; it is started.
    FailedDisk(usize),
    /// It is started without the flipped bit.
    FlippedBit(usize, Flip),
    /// The task is ended.
    Task(tokio::task::JoinHandle<()>),
}

/// What a fault was seen to do.
pub(super) enum Seen {
    /// Nobody looked.
    Untold,
    /// Something, in words.
    Effect(String),
    /// Nothing, in words: perhaps it never was.
    Nothing(String),
}

/// What a fault is done to.
pub(super) struct Environment<'r> {
    pub(super) cluster: &'r mut Cluster,
    shared: &'r Shared,
}

impl Begun {
    fn skipped(why: impl Into<String>) -> Self {
        Begun {
            target: String::new(),
            nodes: Vec::new(),
            outcome: FaultOutcome::Skipped,
            reason: Some(why.into()),
            mend: Mend::Nothing,
        }
    }
}

/// A fault either is in effect, or why not.
pub(super) type Result<T> = std::result::Result<T, String>;

impl<'r> Environment<'r> {
    pub(super) fn new(cluster: &'r mut Cluster, shared: &'r Shared) -> Self {
        Environment { cluster, shared }
    }

    pub(super) async fn begin(&mut self, fault: Fault, rng: &mut StdRng, until: Instant) -> Begun {
        let begun = match fault {
            Fault::PartitionHalves
            | Fault::PartitionOne
            | Fault::PartitionLeader
            | Fault::PartitionMajorityRing
            | Fault::PartitionOneWay
            | Fault::PartitionBridge => self.partition(fault, rng).await,
            Fault::LinksDelayed
            | Fault::LinksLossy
            | Fault::LinksReset
            | Fault::LinksHalfOpen
            | Fault::LinksClients => self.links(fault, rng).await,
            Fault::KillOne | Fault::KillLeader | Fault::KillMinority | Fault::KillAll => {
                self.kill(fault, rng).await
            }
            Fault::PauseOne | Fault::PauseLeader | Fault::PauseMinority => {
                self.pause(fault, rng).await
            }
            Fault::PauseClients => self.pause_clients(rng, until).await,
            Fault::RestartOne => self.restart_one(rng).await,
            Fault::RestartRolling => self.restart_rolling(until).await,
            Fault::Transfer => self.transfer(rng).await,
            Fault::ReplaceMember => self.replace_member(rng).await,
            Fault::SnapshotStorm => self.snapshot_storm(),
            Fault::ClockJump => self.clock_jump(rng),
            Fault::ClockRate | Fault::ClockDrift => self.clock_rate(fault, rng).await,
            Fault::DiskFull => self.disk_full(rng),
            Fault::PowerCutOne | Fault::PowerCutAll => self.power_cut(fault, rng).await,
            Fault::FsyncSlow => self.fsync_slow(rng),
            Fault::FsyncFails => self.fsync_fails(rng).await,
            Fault::BitFlip => self.bit_flip(rng).await,
        };
        begun.unwrap_or_else(Begun::skipped)
    }

    pub(super) fn installed(&self, target: String, nodes: &[usize], mend: Mend) -> Begun {
        Begun {
            target,
            nodes: nodes.iter().map(|node| self.cluster.name(*node)).collect(),
            outcome: FaultOutcome::Installed,
            reason: None,
            mend,
        }
    }

    /// Members in random order; at least so many, or there is nothing to do it to.
    fn members(&self, least: usize, rng: &mut StdRng) -> Result<Vec<usize>> {
        let mut members = self.cluster.members.clone();
        if members.len() < least {
            return Err(format!("it takes {least} nodes"));
        }
        members.shuffle(rng);
        Ok(members)
    }

    async fn leader(&self) -> Result<usize> {
        let leader = self.cluster.leader().await;
        leader.ok_or_else(|| "no node said that it leads".to_owned())
    }

    /// Nothing passes from any of the one to any of the other.
    fn cut(&self, from: &[usize], to: &[usize]) {
        for from in from {
            for to in to {
                let (from, to) = (End::Node(*from), End::Node(*to));
                self.cluster.network.set(from, to, Rule::Blackhole);
            }
        }
    }

    async fn partition(&mut self, fault: Fault, rng: &mut StdRng) -> Result<Begun> {
        let members = self.members(2, rng)?;
        let name = |nodes: &[usize]| self.cluster.names(nodes);
        let apart = |one: &[usize], other: &[usize]| {
            self.cut(one, other);
            self.cut(other, one);
        };
        let (target, nodes) = match fault {
            Fault::PartitionHalves => {
                let (one, other) = members.split_at(members.len() / 2);
                apart(one, other);
                (format!("{} | {}", name(one), name(other)), one.to_vec())
            }
            Fault::PartitionOne => {
                let (one, others) = members.split_at(1);
                apart(one, others);
                (format!("{} | {}", name(one), name(others)), one.to_vec())
            }
            Fault::PartitionLeader => {
                let leader = self.leader().await?;
                let mut others = members.clone();
                others.retain(|node| *node != leader);
                apart(&[leader], &others);
                let target = format!("{}, which led, | {}", name(&[leader]), name(&others));
                (target, vec![leader])
            }
            Fault::PartitionMajorityRing => {
                let count = members.len();
                if count < 4 {
                    return Err("it takes four nodes".to_owned());
                }
                // Each sees the nearest on both sides, so many that they are a majority with it.
                let reach = (count / 2).div_ceil(2);
                for (place, one) in members.iter().enumerate() {
                    for (other_place, other) in members.iter().enumerate() {
                        let distance = place.abs_diff(other_place);
                        if distance.min(count - distance) > reach {
                            self.cut(&[*one], &[*other]);
                        }
                    }
                }
                (format!("a ring of {}", name(&members)), members.clone())
            }
            Fault::PartitionOneWay => {
                let (one, others) = members.split_at(1);
                if rng.random_bool(0.5) {
                    self.cut(one, others);
                    (format!("{} is heard by nobody", name(one)), one.to_vec())
                } else {
                    self.cut(others, one);
                    (format!("{} hears nobody", name(one)), one.to_vec())
                }
            }
            _ => {
                if members.len() < 3 {
                    return Err("it takes three nodes".to_owned());
                }
                let (bridge, rest) = members.split_at(1);
                let (one, other) = rest.split_at(rest.len() / 2);
                apart(one, other);
                let target = format!("{} | {}, both see {}", name(one), name(other), name(bridge));
                (target, bridge.to_vec())
            }
        };
        self.cluster.network.apply().await?;
        Ok(self.installed(target, &nodes, Mend::Links))
    }

    async fn links(&mut self, fault: Fault, rng: &mut StdRng) -> Result<Begun> {
        let members = self.members(1, rng)?;
        let some = &members[..members.len().div_ceil(2)];
        let network = &self.cluster.network;
        let clients = self.shared.clients.len();
        let name = |nodes: &[usize]| self.cluster.names(nodes);
        let pairs = |ends: &dyn Fn(End, End)| {
            for node in &members {
                for other in members.iter().filter(|other| *other != node) {
                    ends(End::Node(*node), End::Node(*other));
                }
                for client in 0..clients {
                    ends(End::Client(client), End::Node(*node));
                    ends(End::Node(*node), End::Client(client));
                }
            }
        };
        let (target, nodes) = match fault {
            Fault::LinksDelayed => {
                let least = Duration::from_millis(rng.random_range(1..50));
                let jitter = Duration::from_millis(rng.random_range(0..100));
                pairs(&|from, to| network.set(from, to, Rule::Delay { least, jitter }));
                let target = format!("all links, by {least:?} and up to {jitter:?} more");
                (target, members.clone())
            }
            Fault::LinksLossy => {
                let percent = rng.random_range(2..=20);
                pairs(&|from, to| network.set(from, to, Rule::Loss { percent }));
                let target = format!("all links, {percent} of 100 packets");
                (target, members.clone())
            }
            Fault::LinksReset | Fault::LinksHalfOpen => {
                let rule = match fault {
                    Fault::LinksReset => Rule::Reset,
                    _ => Rule::HalfOpen,
                };
                // A minority, or there would be nothing left to look at.
                let few = &members[..((members.len() - 1) / 2).max(1)];
                pairs(&|from, to| {
                    if matches!(to, End::Node(to) if few.contains(&to)) {
                        network.set(from, to, rule);
                    }
                });
                (format!("links to {}", name(few)), few.to_vec())
            }
            _ => {
                let reached: Vec<usize> = members[some.len()..].to_vec();
                for node in some {
                    for client in 0..clients {
                        let (client, node) = (End::Client(client), End::Node(*node));
                        network.set(client, node, Rule::Blackhole);
                        network.set(node, client, Rule::Blackhole);
                    }
                }
                let target = format!("clients reach only {}", name(&reached));
                (target, some.to_vec())
            }
        };
        network.apply().await?;
        Ok(self.installed(target, &nodes, Mend::Links))
    }

    /// Running members for a fault of processes, and how the leader is told of in words.
    pub(super) async fn victims(
        &self,
        fault: Fault,
        rng: &mut StdRng,
    ) -> Result<(Vec<usize>, &'static str)> {
        let mut running = self.cluster.running();
        running.shuffle(rng);
        let minority = ((self.cluster.members.len() - 1) / 2).max(1);
        let (count, words) = match fault {
            Fault::KillLeader | Fault::PauseLeader => {
                return Ok((vec![self.leader().await?], ", which led"));
            }
            Fault::KillMinority | Fault::PauseMinority => (minority, ""),
            Fault::KillAll | Fault::PowerCutAll => (running.len(), ""),
            _ => (1, ""),
        };
        running.truncate(count);
        match running.is_empty() {
            true => Err("no node runs".to_owned()),
            false => Ok((running, words)),
        }
    }

    async fn kill(&mut self, fault: Fault, rng: &mut StdRng) -> Result<Begun> {
        let (victims, words) = self.victims(fault, rng).await?;
        for victim in &victims {
            self.cluster.kill(*victim)?;
        }
        let target = format!("{}{words}", self.cluster.names(&victims));
        Ok(self.installed(target, &victims, Mend::Start(victims.clone())))
    }

    async fn pause(&mut self, fault: Fault, rng: &mut StdRng) -> Result<Begun> {
        let (victims, words) = self.victims(fault, rng).await?;
        for victim in &victims {
            self.cluster.pause(*victim)?;
        }
        let target = format!("{}{words}", self.cluster.names(&victims));
        Ok(self.installed(target, &victims, Mend::Resume(victims.clone())))
    }

    async fn pause_clients(&mut self, rng: &mut StdRng, until: Instant) -> Result<Begun> {
        let (shortest_ms, _) = Fault::PauseClients.lasts_ms();
        if until < Instant::now() + HOLDER_PATIENCE + Duration::from_millis(shortest_ms) {
            return Err("the run ends too soon".to_owned());
        }
        let all = &self.shared.clients;
        let mut clients: Vec<usize> = (0..all.len()).collect();
        clients.shuffle(rng);
        // Who uses a resource is worth waiting for, where anybody does.
        let patience = Instant::now() + HOLDER_PATIENCE;
        let mut holders = all.holders();
        while holders.is_empty() && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(2)).await;
            holders = all.holders();
        }
        clients.sort_by_key(|client| !holders.contains(client));
        clients.truncate((all.len() / 3).max(1));
        for client in &clients {
            if let Err(error) = all.pause(*client) {
                self.resume_clients(clients.iter().copied())?;
                return Err(format!("client {client}: {error}"));
            }
        }
        let holding = clients.iter().filter(|client| holders.contains(client));
        let target = format!(
            "clients {clients:?}, of which {} used an unguarded resource under a lock",
            holding.count()
        );
        Ok(self.installed(target, &[], Mend::Clients(clients)))
    }

    fn resume_clients(&self, clients: impl IntoIterator<Item = usize>) -> Result<()> {
        // All of them, whatever becomes of one.
        let mut all = Ok(());
        for client in clients {
            let resumed = self.shared.clients.resume(client);
            all = all.and(resumed.map_err(|error| format!("client {client}: {error}")));
        }
        all
    }

    async fn restart_one(&mut self, rng: &mut StdRng) -> Result<Begun> {
        let (victims, _) = self.victims(Fault::RestartOne, rng).await?;
        let stopped = self.cluster.terminate(victims[0]).await;
        let target = self.cluster.names(&victims);
        let mut begun = self.installed(target, &victims, Mend::Start(victims.clone()));
        begun.reason = stopped.err();
        Ok(begun)
    }

    async fn restart_rolling(&mut self, until: Instant) -> Result<Begun> {
        let mut restarted = Vec::new();
        let mut reason = None;
        for node in self.cluster.running() {
            if Instant::now() >= until {
                break;
            }
            reason = self.cluster.terminate(node).await.err().or(reason);
            self.cluster.start(node)?;
            restarted.push(node);
            // A partition may keep it from serving; the next is restarted all the same, and nothing is
            // mended until all are.
            let _ = self.cluster.wait_ready(node, Duration::from_secs(2)).await;
        }
        let target = self.cluster.names(&restarted);
        let mut begun = self.installed(target, &restarted, Mend::Nothing);
        begun.reason = reason;
        Ok(begun)
    }

    async fn transfer(&mut self, rng: &mut StdRng) -> Result<Begun> {
        let leader = self.leader().await?;
        let mut others = self.cluster.running();
        others.retain(|node| *node != leader);
        others.shuffle(rng);
        let to = others.first().copied().filter(|_| rng.random_bool(0.7));
        let action = Action::Transfer(to.map(|node| self.cluster.name(node)));
        let address = self.cluster.nodes[leader].plan.client;
        let done = self.cluster.system.administer(address, &action).await;
        let whom = to.map_or("anybody".to_owned(), |node| self.cluster.name(node));
        let target = format!("from {} to {whom}", self.cluster.name(leader));
        let mut begun = self.installed(target, &[leader], Mend::Nothing);
        if let Err(why) = done {
            begun.outcome = FaultOutcome::Indeterminate;
            begun.reason = Some(why);
        }
        Ok(begun)
    }

    /// A spare node joins, gets its vote, and a member goes for good.
    async fn replace_member(&mut self, rng: &mut StdRng) -> Result<Begun> {
        let members = self.members(3, rng)?;
        let spare = (0..self.cluster.nodes.len())
            .find(|node| !members.contains(node) && self.cluster.is_unused(*node))
            .ok_or("every spare node has been used")?;
        let leaves = *self
            .cluster
            .running()
            .iter()
            .find(|node| **node == members[0])
            .ok_or("the member that was to leave does not run")?;
        let target = format!(
            "{} takes the place of {}",
            self.cluster.name(spare),
            self.cluster.name(leaves)
        );
        self.cluster.start(spare)?;
        let mut begun = self.installed(target, &[spare, leaves], Mend::Nothing);
        if let Err(why) = self.replace(spare, leaves).await {
            begun.outcome = FaultOutcome::Indeterminate;
            begun.reason = Some(why);
        }
        self.publish_members();
        Ok(begun)
    }

    async fn replace(&mut self, spare: usize, leaves: usize) -> Result<()> {
        self.cluster.wait_ready(spare, READY_LIMIT).await?;
        self.cluster.members.push(spare);
        let ask = self.cluster.nodes[spare].plan.client;
        let name = self.cluster.name(leaves);
        self.cluster
            .system
            .administer(ask, &Action::Remove(name))
            .await?;
        self.cluster.members.retain(|node| *node != leaves);
        if self.cluster.state(leaves) != ProcessState::Down {
            // It is out, and may have ended by itself.
            let _ = self.cluster.terminate(leaves).await;
        }
        Ok(())
    }

    fn publish_members(&self) {
        let mut nodes = self
            .shared
            .nodes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        nodes.clone_from(&self.cluster.members);
    }

    fn snapshot_storm(&mut self) -> Result<Begun> {
        let system = self.cluster.system.clone();
        let nodes = self.cluster.running();
        let addresses: Vec<_> = nodes
            .iter()
            .map(|node| self.cluster.nodes[*node].plan.client)
            .collect();
        let task = tokio::spawn(async move {
            loop {
                for address in &addresses {
                    // A node that is down takes none; the nodes' logs tell of those that were taken.
                    let _ = system.administer(*address, &Action::Snapshot).await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let target = self.cluster.names(&nodes);
        Ok(self.installed(target, &nodes, Mend::Task(task)))
    }

    fn clock_jump(&mut self, rng: &mut StdRng) -> Result<Begun> {
        let mut nodes = self.members(1, rng)?;
        nodes.retain(|node| !self.cluster.nodes[*node].preload.has_rate());
        if nodes.is_empty() {
            return Err("the clocks of all nodes run too fast or too slow".to_owned());
        }
        let mut words = Vec::new();
        for node in &nodes {
            let most = 10i64.pow(rng.random_range(0..6)).min(86_400);
            let seconds = rng.random_range(-most..=most);
            self.cluster.nodes[*node].preload.jump(seconds)?;
            words.push(format!("{} by {seconds:+} s", self.cluster.name(*node)));
        }
        Ok(self.installed(words.join(", "), &nodes, Mend::Clocks(nodes.clone())))
    }

    async fn power_cut(&mut self, fault: Fault, rng: &mut StdRng) -> Result<Begun> {
        let (victims, _) = self.victims(fault, rng).await?;
        for victim in &victims {
            self.cluster.kill(*victim)?;
        }
        let mut words = Vec::new();
        for victim in &victims {
            // Nothing, all, or any part of what was not synced is left.
            let kept = |unsynced: u64| match rng.random_range(0..3) {
                0 => 0,
                1 => unsynced,
                _ => rng.random_range(0..=unsynced),
            };
            let lost = self.cluster.nodes[*victim].preload.cut_power(kept)?;
            words.push(format!("{} ({lost})", self.cluster.name(*victim)));
        }
        Ok(self.installed(words.join(", "), &victims, Mend::Start(victims.clone())))
    }

    fn fsync_slow(&mut self, rng: &mut StdRng) -> Result<Begun> {
        let members = self.members(1, rng)?;
        let some = members[..rng.random_range(1..=members.len())].to_vec();
        let pause = Duration::from_millis(rng.random_range(10..250));
        for node in &some {
            self.cluster.nodes[*node].preload.slow(pause)?;
        }
        let target = format!("{}, by {pause:?}", self.cluster.names(&some));
        Ok(self.installed(target, &some, Mend::Syncs(some.clone())))
    }

    async fn fsync_fails(&mut self, rng: &mut StdRng) -> Result<Begun> {
        let (victims, _) = self.victims(Fault::FsyncFails, rng).await?;
        let node = victims[0];
        // It is right to stop.
        self.cluster.nodes[node].may_end = true;
        self.cluster.nodes[node]
            .preload
            .set_fsync(Fsync::FailAfter(rng.random_range(0..20)))?;
        let target = self.cluster.names(&victims);
        Ok(self.installed(target, &victims, Mend::FailedDisk(node)))
    }

    fn mend_failed_disk(&mut self, node: usize) -> Result<()> {
        if self.cluster.state(node) != ProcessState::Down {
            self.cluster.kill(node)?;
        }
        self.cluster.nodes[node].may_end = false;
        // The page cache of a disk whose syncs failed is not to be believed.
        self.cluster.nodes[node].preload.cut_power(|_| 0)?;
        self.cluster.start(node)
    }

    /// A node must either be right or refuse to start; never start and be wrong.
    async fn bit_flip(&mut self, rng: &mut StdRng) -> Result<Begun> {
        let (victims, _) = self.victims(Fault::BitFlip, rng).await?;
        let node = victims[0];
        self.cluster.kill(node)?;
        let flip = Flip::draw(&self.cluster.nodes[node].plan.data, rng);
        let flip = flip.map_err(|error| format!("no bit could be flipped: {error}"));
        let target = match &flip {
            Ok(flip) => format!("{}, {}", self.cluster.name(node), flip.words()),
            Err(_) => self.cluster.name(node),
        };
        let mut begun = self.installed(target, &victims, Mend::Nothing);
        self.cluster.nodes[node].may_end = true;
        self.cluster.start(node)?;
        // The others may be cut off from it, so that it cannot serve: that is no refusal.
        let _ = self.cluster.wait_ready(node, FLIP_LIMIT).await;
        self.cluster.ended_by_themselves();
        if self.cluster.state(node) == ProcessState::Down {
            begun.reason = Some(format!("it refused: {}", self.cluster.last_words(node)));
        }
        match flip {
            // What it has not read yet it may refuse at any time, so it does not go on for long like this.
            Ok(flip) => begun.mend = Mend::FlippedBit(node, flip),
            Err(why) => {
                begun.outcome = FaultOutcome::Indeterminate;
                begun.reason = Some(why);
                self.cluster.nodes[node].may_end = false;
            }
        }
        Ok(begun)
    }

    fn mend_flipped_bit(&mut self, node: usize, flip: &Flip) -> Result<()> {
        if self.cluster.state(node) != ProcessState::Down {
            self.cluster.kill(node)?;
        }
        flip.undo().map_err(|error| error.to_string())?;
        self.cluster.nodes[node].may_end = false;
        self.cluster.start(node)
    }

    pub(super) async fn heal(&mut self, begun: Begun) -> Result<Seen> {
        match begun.mend {
            Mend::Links => Ok(match self.cluster.network.heal_all().await? {
                None => Seen::Untold,
                Some(0) => Seen::Nothing("no packet met it".to_owned()),
                Some(packets) => Seen::Effect(format!("{packets} packets met it")),
            }),
            Mend::Rates(nodes) => self.mend_rates(nodes).await,
            Mend::FullDisks(nodes) => self.mend_full_disks(&nodes),
            mend => self.mend(mend).map(|()| Seen::Untold),
        }
    }

    fn mend(&mut self, mend: Mend) -> Result<()> {
        match mend {
            Mend::Nothing | Mend::Links | Mend::Rates(_) | Mend::FullDisks(_) => Ok(()),
            Mend::Start(nodes) => {
                for node in nodes {
                    self.cluster.start(node)?;
                }
                Ok(())
            }
            Mend::Resume(nodes) => {
                for node in nodes {
                    self.cluster.resume(node)?;
                }
                Ok(())
            }
            Mend::Clients(clients) => self.resume_clients(clients),
            Mend::Clocks(nodes) => nodes
                .into_iter()
                .try_for_each(|node| self.cluster.nodes[node].preload.jump(0)),
            Mend::Syncs(nodes) => nodes
                .into_iter()
                .try_for_each(|node| self.cluster.nodes[node].preload.set_fsync(Fsync::Honest)),
            Mend::FailedDisk(node) => self.mend_failed_disk(node),
            Mend::FlippedBit(node, flip) => self.mend_flipped_bit(node, &flip),
            Mend::Task(task) => {
                task.abort();
                Ok(())
            }
        }
    }

    /// Mends whatever can be broken, and waits until every member serves.
    pub(super) async fn heal_all(&mut self, limit: Duration) -> Result<()> {
        self.resume_clients(0..self.shared.clients.len())?;
        self.cluster.network.heal_all().await?;
        for node in self.cluster.members.clone() {
            self.cluster.nodes[node].preload.set_rate(None);
            match self.cluster.state(node) {
                ProcessState::Running => {}
                ProcessState::Paused => self.cluster.resume(node)?,
                ProcessState::Down => self.cluster.start(node)?,
            }
        }
        let deadline = Instant::now() + limit;
        for node in self.cluster.members.clone() {
            let left = deadline.saturating_duration_since(Instant::now());
            self.cluster.wait_ready(node, left).await?;
        }
        Ok(())
    }
}
