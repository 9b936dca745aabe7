//! The nemesis: breaks the cluster while clients use it. Which fault comes when, to whom and for how
//! long is drawn from the seed; whom a fault of the leader meets is found out when it begins. Every
//! fault is recorded with what became of it, and everything is healed at the end.

mod clocks;
mod fault;
mod flip;
mod full_disk;
mod install;

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use fault::Class;
pub(crate) use fault::{Fault, Library, select};
use install::{Begun, Environment, Seen};

use crate::cluster::Cluster;
use crate::recorder::Recorder;
use crate::run_directory::{FaultOutcome, FaultRecord, LinesWriter};
use crate::workload::Shared;

/// The function of the event that says that everything is healed.
pub(crate) const HEALED: &str = "heal-all";

/// Faults under way at a time, each of another class.
const MOST_AT_ONCE: usize = 2;

/// How often a fault lets others go before it that agree with what is under way.
const MOST_PASSED_OVER: usize = 2;

/// A fault that is under way.
struct Active {
    record: FaultRecord,
    class: Class,
    begun: Begun,
    until: Instant,
}

/// The nemesis of a run.
pub(crate) struct Nemesis<'r> {
    environment: Environment<'r>,
    recorder: Recorder,
    out: LinesWriter<FaultRecord>,
    faults: Vec<Fault>,
    deck: VecDeque<Fault>,
    /// How often others went before the first of the deck.
    passed_over: usize,
    rng: StdRng,
    active: Vec<Active>,
    /// When the next fault may begin.
    next: Instant,
    /// When the run ends: what needs longer is not begun.
    ends: Instant,
    begun: u64,
    /// What was recorded so far.
    pub(crate) records: Vec<FaultRecord>,
}

impl<'r> Nemesis<'r> {
    /// One that has these faults to give, until the run ends.
    pub(crate) fn new(
        cluster: &'r mut Cluster,
        shared: &'r Shared,
        out: LinesWriter<FaultRecord>,
        faults: Vec<Fault>,
        seed: u64,
        ends: Instant,
    ) -> Self {
        Nemesis {
            recorder: shared.recorder.clone(),
            environment: Environment::new(cluster, shared),
            out,
            faults,
            deck: VecDeque::new(),
            passed_over: 0,
            rng: StdRng::seed_from_u64(seed),
            active: Vec::new(),
            next: Instant::now() + Duration::from_millis(500),
            ends,
            begun: 0,
            records: Vec::new(),
        }
    }

    /// What is under way, in words, for progress.
    pub(crate) fn words(&self) -> String {
        let names: Vec<&str> = self
            .active
            .iter()
            .map(|active| &*active.record.fault)
            .collect();
        names.join(" ")
    }

    /// The next fault that agrees with what is under way. Every group comes before any comes again.
    fn draw(&mut self) -> Option<Fault> {
        for _ in 0..2 {
            let busy: Vec<Class> = self.active.iter().map(|active| active.class).collect();
            let fits = self
                .deck
                .iter()
                .position(|fault| busy.iter().all(|class| fault.class().agrees_with(*class)));
            match fits {
                // What agrees with little would wait for ever while others go before it.
                Some(at) if at == 0 || self.passed_over < MOST_PASSED_OVER => {
                    self.passed_over = if at == 0 { 0 } else { self.passed_over + 1 };
                    return self.deck.remove(at);
                }
                Some(_) => return None,
                None => {}
            }
            if !self.deck.is_empty() {
                return None;
            }
            self.deck = deal(&self.faults, &mut self.rng);
        }
        None
    }

    /// Breaks and mends until then. Returns early with the reason when a node has ended by itself.
    pub(crate) async fn run(&mut self, until: Instant) -> Result<(), String> {
        let mut look = Instant::now();
        while Instant::now() < until {
            if let [words, ..] = &self.environment.cluster.ended_by_themselves()[..] {
                return Err(words.clone());
            }
            let now = Instant::now();
            let due = self.active.iter().position(|active| active.until <= now);
            if let Some(due) = due {
                let active = self.active.remove(due);
                self.heal(active).await;
                self.next = self.next.max(Instant::now() + self.span(200, 1_000));
            } else if now >= self.next && self.active.len() < MOST_AT_ONCE {
                if let Some(fault) = self.draw() {
                    self.begin(fault).await;
                }
                self.next = Instant::now() + self.span(300, 1_200);
            }
            look = (look + Duration::from_millis(50)).max(Instant::now());
            tokio::time::sleep_until(look).await;
        }
        Ok(())
    }

    fn span(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(least_ms..=most_ms))
    }

    async fn begin(&mut self, fault: Fault) {
        let (least_ms, most_ms) = fault.lasts_ms();
        let lasts = self.span(least_ms, most_ms);
        let begin_ns = self.recorder.now_ns();
        let begun = self
            .environment
            .begin(fault, &mut self.rng, self.ends)
            .await;
        let record = FaultRecord {
            number: self.begun,
            fault: fault.name().to_owned(),
            group: fault.group().to_owned(),
            target: begun.target.clone(),
            nodes: begun.nodes.clone(),
            outcome: begun.outcome,
            begin_ns,
            end_ns: begin_ns,
            reason: begun.reason.clone(),
        };
        self.begun += 1;
        let error = (begun.outcome != FaultOutcome::Installed)
            .then(|| begun.reason.clone().unwrap_or_default());
        self.recorder
            .nemesis(fault.name(), &begun.target, error.as_deref());
        if begun.outcome == FaultOutcome::Skipped {
            self.note(record);
            return;
        }
        self.active.push(Active {
            record,
            class: fault.class(),
            begun,
            until: Instant::now() + lasts,
        });
    }

    async fn heal(&mut self, active: Active) {
        let Active {
            mut record, begun, ..
        } = active;
        match self.environment.heal(begun).await {
            Ok(Seen::Untold) => {}
            Ok(Seen::Effect(words)) => record.reason = Some(words),
            Ok(Seen::Nothing(words)) => {
                record.outcome = FaultOutcome::Indeterminate;
                record.reason = Some(words);
            }
            Err(why) => {
                record.outcome = FaultOutcome::Indeterminate;
                record.reason = Some(format!("it could not be healed: {why}"));
            }
        }
        record.end_ns = self.recorder.now_ns();
        let function = format!("heal-{}", record.fault);
        let error = record.reason.as_deref();
        let error = error.filter(|_| record.outcome != FaultOutcome::Installed);
        self.recorder.nemesis(&function, &record.target, error);
        self.note(record);
    }

    fn note(&mut self, record: FaultRecord) {
        // It is in the results, too; a full disk shows when those are written.
        let _ = self.out.push(&record);
        self.records.push(record);
    }

    /// Mends everything, whatever is known of it, and waits until every member serves.
    pub(crate) async fn heal_all(&mut self, limit: Duration) -> Result<(), String> {
        for active in std::mem::take(&mut self.active) {
            self.heal(active).await;
        }
        let healed = self.environment.heal_all(limit).await;
        self.recorder.nemesis(
            HEALED,
            "everything",
            healed.as_ref().err().map(|why| &**why),
        );
        healed
    }
}

/// All faults in random order, one of each group first.
fn deal(faults: &[Fault], rng: &mut StdRng) -> VecDeque<Fault> {
    let mut shuffled = faults.to_vec();
    shuffled.shuffle(rng);
    let mut rounds: Vec<(usize, usize, Fault)> = Vec::new();
    for (place, fault) in shuffled.into_iter().enumerate() {
        let before = rounds
            .iter()
            .filter(|(_, _, other)| other.group() == fault.group())
            .count();
        rounds.push((before, place, fault));
    }
    rounds.sort_unstable_by_key(|(round, place, _)| (*round, *place));
    rounds.into_iter().map(|(_, _, fault)| fault).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_deals_the_same_faults_and_every_group_before_any_twice() {
        let faults: Vec<Fault> = Fault::ALL.to_vec();
        let deal_with = |seed| deal(&faults, &mut StdRng::seed_from_u64(seed));
        assert_eq!(deal_with(3), deal_with(3));
        assert_ne!(deal_with(3), deal_with(4));
        let groups: BTreeSet<&str> = faults.iter().map(|fault| fault.group()).collect();
        let dealt = deal_with(3);
        assert_eq!(dealt.len(), faults.len());
        let first: BTreeSet<&str> = dealt
            .iter()
            .take(groups.len())
            .map(|fault| fault.group())
            .collect();
        assert_eq!(first, groups);
    }
}
