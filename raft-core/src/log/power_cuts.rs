//! Power cuts at random moments, on the log alone: a process appends, votes, truncates and purges, and
//! says what it is about to do and what is acknowledged; its power is cut; what it finds when it comes
//! up again must be the state after some prefix of what it did, with everything acknowledged in it.
//!
//! The process is this test executable again, under the shim of `power-cut`. Each run draws its
//! moments and operations from a seed, and prints it. `PALISADE_CUTS` and `PALISADE_TEST_SEED` choose
//! how many and which; the timing of disk and scheduler is another each time, so a replay repeats the
//! circumstances of a failure and not each step to it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use power_cut::{Cut, Fsync, Tear};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::*;
use crate::types::Proposal;

const SUBJECT: &str = "log::power_cuts::a_log_that_is_worked_on_until_its_power_is_cut";
const DIRECTORY: &str = "PALISADE_POWER_CUT_LOG";
const SUBJECT_SEED: &str = "PALISADE_POWER_CUT_SEED";
const CUTS: &str = "PALISADE_CUTS";
const SEED: &str = "PALISADE_TEST_SEED";
const DEFAULT_CUTS: u64 = 30;
/// Cuts come at most this long after the process was started: many while it still recovers.
const LONGEST_LIFE_MS: u64 = 250;
/// Only a bound on how long a broken subject hangs the test.
const PATIENCE: Duration = Duration::from_secs(60);
/// What its lines begin with, among those of the test framework.
const LINE: &str = "@power-cut ";
const APPENDS_IN_FLIGHT: usize = 8;

/// All that a log holds, as far as it must survive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// Term, and whether it was a leader's.
    vote: (u64, bool),
    purged: Option<(u64, u64)>,
    /// Term and checksum of each entry.
    entries: BTreeMap<u64, (u64, u32)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Step {
    Append(Vec<(u64, u64, u32)>),
    Vote(u64, bool),
    Truncate { first_removed: u64 },
    Purge { term: u64, upto: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    /// What it found when it came up.
    Found(State),
    /// It is about to do this.
    Does(Step),
    /// So many steps are durable.
    Acknowledged(usize),
}

impl State {
    fn last(&self) -> Option<(u64, u64)> {
        let last = self.entries.iter().next_back();
        last.map(|(index, (term, _))| (*term, *index))
            .or(self.purged)
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Append(entries) => {
                for (index, term, checksum) in entries {
                    self.entries.insert(*index, (*term, *checksum));
                }
            }
            Step::Vote(term, committed) => self.vote = (*term, *committed),
            Step::Truncate { first_removed } => {
                self.entries.split_off(first_removed);
            }
            Step::Purge { term, upto } => {
                self.purged = Some((*term, *upto));
                self.entries = self.entries.split_off(&(upto + 1));
            }
        }
    }

    /// The next step, as Raft might take it.
    fn draw(&self, random: &mut StdRng, commands: &mut Vec<bytes::Bytes>) -> Step {
        let behind = self.last().map_or(0, |(_, index)| index + 1);
        let kept = self.entries.len() as u64;
        match random.random_range(0..100) {
            0..5 => match self.vote {
                (term, false) if random.random_bool(0.5) => Step::Vote(term, true),
                (term, _) => Step::Vote(term + 1, false),
            },
            5..10 if kept > 1 => Step::Truncate {
                first_removed: behind - random.random_range(1..kept.min(30)),
            },
            10..16 if kept > 200 => {
                let upto = behind - random.random_range(1..kept);
                let (term, _) = self.entries.get(&upto).copied().unwrap_or_default();
                Step::Purge { term, upto }
            }
            _ => {
                let term = self.vote.0.max(self.last().map_or(0, |(term, _)| term));
                let entries = (0..random.random_range(1..20)).map(|offset| {
                    // Mostly small; now and then some blocks of the WAL long.
                    let most = if random.random_bool(0.02) {
                        100_000
                    } else {
                        300
                    };
                    let mut command = vec![0; random.random_range(0..most)];
                    random.fill(&mut command[..]);
                    let checksum = crc32fast::hash(&command);
                    commands.push(command.into());
                    (behind + offset, term, checksum)
                });
                Step::Append(entries.collect())
            }
        }
    }
}

fn log_id((term, index): (u64, u64)) -> LogId {
    LogId::new(term.into(), index)
}

fn say(line: &Line) {
    let text = serde_json::to_string(line).unwrap();
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{LINE}{text}").unwrap();
    out.flush().unwrap();
}

async fn found(log: &mut LogStore) -> State {
    let state = log.get_log_state().await.unwrap();
    let mut reader = log.get_log_reader().await;
    let entries = reader.try_get_log_entries(..).await.unwrap();
    let described = entries.iter().map(|entry| {
        let openraft::EntryPayload::Normal(proposal) = &entry.payload else {
            panic!("an entry that nobody appended");
        };
        let term = entry.log_id.leader_id.term;
        let checksum = crc32fast::hash(&proposal.command);
        (entry.log_id.index, (term, checksum))
    });
    State {
        vote: log.vote().map_or((0, false), |vote| {
            (vote.leader_id().term, vote.is_committed())
        }),
        purged: state
            .last_purged_log_id
            .map(|purged| (purged.leader_id.term, purged.index)),
        entries: described.collect(),
    }
}

/// Not a test of its own: what the tests below run, and kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other tests of this file, in a process of its own"]
async fn a_log_that_is_worked_on_until_its_power_is_cut() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let seed = std::env::var(SUBJECT_SEED).unwrap().parse().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let mut log = LogStore::open(Path::new(&directory), SyncPolicy::Always).unwrap();
    let mut state = found(&mut log).await;
    say(&Line::Found(state.clone()));
    let room = Arc::new(tokio::sync::Semaphore::new(APPENDS_IN_FLIGHT));
    for done in 1.. {
        let mut commands = Vec::new();
        let step = state.draw(&mut random, &mut commands);
        state.take(&step);
        say(&Line::Does(step.clone()));
        match step {
            Step::Append(entries) => {
                let entries = entries.into_iter().zip(commands);
                let entries = entries.map(|((index, term, _), command)| {
                    let proposal = Proposal {
                        command,
                        ..Proposal::default()
                    };
                    Entry::new(
                        log_id((term, index)),
                        openraft::EntryPayload::Normal(proposal),
                    )
                });
                let permit = room.clone().acquire_owned().await.unwrap();
                let (flushed, wait) = <TypeConfig as TypeConfigExt>::oneshot();
                let entries: Vec<Entry> = entries.collect();
                log.append(entries, IOFlushed::signal(flushed))
                    .await
                    .unwrap();
                tokio::spawn(async move {
                    // An error here is a log that stopped: nothing is acknowledged any more.
                    if let Ok(Ok(())) = wait.await {
                        say(&Line::Acknowledged(done));
                    }
                    drop(permit);
                });
            }
            Step::Vote(term, committed) => {
                let vote = match committed {
                    true => Vote::new_committed(term, 7.into()),
                    false => Vote::new(term, 7.into()),
                };
                log.save_vote(&vote).await.unwrap();
                say(&Line::Acknowledged(done));
            }
            Step::Truncate { first_removed } => {
                let term = state.last().map_or(0, |(term, _)| term);
                let last = first_removed
                    .checked_sub(1)
                    .map(|index| log_id((term, index)));
                log.truncate_after(last).await.unwrap();
                say(&Line::Acknowledged(done));
            }
            // Durable with what comes after it.
            Step::Purge { term, upto } => log.purge(log_id((term, upto))).await.unwrap(),
        }
    }
}

/// What the log may hold when it comes up: the state after any step from `acknowledged` on.
#[derive(Default)]
struct Expected {
    state: State,
    steps: Vec<Step>,
    acknowledged: usize,
}

impl Expected {
    fn check(&self, found: &State) -> Result<(), String> {
        let mut state = self.state.clone();
        for done in 0..=self.steps.len() {
            if let Some(before) = done.checked_sub(1) {
                state.take(&self.steps[before]);
            }
            if done >= self.acknowledged && state == *found {
                return Ok(());
            }
        }
        Err(format!(
            "{} of {} steps were acknowledged, and what was found is the state after none from \
             there on: found vote {:?}, purged {:?}, last {:?}; after all steps it is vote {:?}, \
             purged {:?}, last {:?}",
            self.acknowledged,
            self.steps.len(),
            found.vote,
            found.purged,
            found.last(),
            state.vote,
            state.purged,
            state.last(),
        ))
    }
}

/// What happened, so that a run in which nothing did is not taken for a good one.
#[derive(Debug, Default)]
struct Coverage {
    cuts: u64,
    before_recovery_was_done: u64,
    acknowledged: usize,
    votes: usize,
    truncations: usize,
    purges: usize,
    torn_tails: u64,
}

struct Subject {
    process: Child,
    lines: Receiver<Line>,
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Of a test that fails; else it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(cut: &Cut, seed: u64) -> Subject {
    let mut command = Command::new(std::env::current_exe().unwrap());
    cut.env_for(&mut command).unwrap();
    let mut process = command
        .args([SUBJECT, "--exact", "--ignored", "--nocapture"])
        .env(DIRECTORY, cut.directory())
        .env(SUBJECT_SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(process.stdout.take().unwrap());
    let (sender, lines) = sync_channel(1024);
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            // The last line may be cut off in its middle: the process was killed.
            let line = line.strip_prefix(LINE).map(serde_json::from_str);
            if let Some(Ok(line)) = line
                && sender.send(line).is_err()
            {
                return;
            }
        }
    });
    Subject { process, lines }
}

/// Cuts the power of one log, time and again.
fn run(cuts: u64, seed: u64, fsync: Fsync) -> Result<Coverage, String> {
    eprintln!("replay with {SEED}={seed} {CUTS}={cuts}");
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let cut = Cut::begin(folder.path().join("log"), folder.path().join("journal"))
        .unwrap()
        .with_fsync(fsync);
    let mut expected = Expected::default();
    let mut coverage = Coverage::default();
    for number in 1..=cuts {
        let life = Duration::from_millis(random.random_range(0..LONGEST_LIFE_MS));
        let mut subject = start(&cut, random.random());
        let mut recovered = false;
        let kill_at = Instant::now() + life;
        let mut killed = false;
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let until = if killed { give_up_at } else { kill_at };
            let wait = until.saturating_duration_since(Instant::now());
            match subject.lines.recv_timeout(wait) {
                Ok(Line::Found(state)) => {
                    let checked = expected.check(&state);
                    checked.map_err(|lost| format!("after cut {}: {lost}", number - 1))?;
                    recovered = true;
                    expected = Expected {
                        state,
                        ..Expected::default()
                    };
                }
                Ok(Line::Does(step)) => {
                    match &step {
                        Step::Append(_) => {}
                        Step::Vote(..) => coverage.votes += 1,
                        Step::Truncate { .. } => coverage.truncations += 1,
                        Step::Purge { .. } => coverage.purges += 1,
                    }
                    expected.steps.push(step);
                }
                Ok(Line::Acknowledged(done)) => {
                    expected.acknowledged = expected.acknowledged.max(done);
                }
                Err(RecvTimeoutError::Timeout) if !killed => {
                    // An error means that it ended by itself, which its status tells below.
                    let _ = subject.process.kill();
                    killed = true;
                }
                Err(RecvTimeoutError::Timeout) => panic!("a killed process goes on"),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = subject.process.wait().unwrap();
        if status.code().is_some() {
            return Err(format!(
                "after cut {}: it ended by itself: {status}",
                number - 1
            ));
        }
        let applied = cut.apply_torn(|unsynced_bytes| {
            let kept_bytes = match random.random_range(0..3) {
                0 => 0,
                _ => random.random_range(0..=unsynced_bytes),
            };
            coverage.torn_tails += u64::from(kept_bytes > 0);
            let zeroed_bytes = match random.random_range(0..4) {
                0 => random.random_range(0..=kept_bytes),
                _ => 0,
            };
            Tear {
                kept_bytes,
                zeroed_bytes,
            }
        });
        match applied {
            Ok(_) => coverage.cuts += 1,
            // Killed before it did anything at all.
            Err(power_cut::Error::NeverLoaded(_)) => continue,
            Err(error) => return Err(error.to_string()),
        }
        coverage.before_recovery_was_done += u64::from(!recovered);
        coverage.acknowledged += if recovered { expected.acknowledged } else { 0 };
    }
    Ok(coverage)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn after_power_cuts_at_random_moments_nothing_acknowledged_is_lost_and_no_vote_forgotten() {
    let cuts = number(CUTS).unwrap_or(DEFAULT_CUTS);
    let seed = number(SEED).unwrap_or_else(rand::random);
    let coverage = run(cuts, seed, Fsync::Honest).unwrap();
    eprintln!("{coverage:?}");
    assert!(coverage.acknowledged as u64 > cuts, "{coverage:?}");
    assert!(
        coverage.votes > 0 && coverage.truncations > 0,
        "{coverage:?}"
    );
}

/// Without this one, the test above could pass because nothing is ever lost.
#[test]
fn with_a_disk_that_lies_about_syncs_the_loss_is_noticed() {
    let lost = run(DEFAULT_CUTS, rand::random(), Fsync::Lie).unwrap_err();
    eprintln!("{lost}");
}
