//! The lock model as a replicated state machine: applies, freezes, restores, and tells those who
//! wait on this node.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;

use ::metrics::Counter;
use lock_model::{
    Command, Entry, EventKind, LockTable, Outcome, Refusal, Response, Timestamp, invariants,
};
use parking_lot::Mutex;
use raft_core::{EntryContext, MachineError, Priority, SnapshotWriter, StateMachine};
use tokio::sync::Notify;

use crate::clock::{AppliedClock, unix_ms};
use crate::events::Hub;
use crate::metrics::grants;
use crate::planted::{ServiceBug, is_planted};
use crate::record::AppliedRecord;
use crate::waiters::Waiters;

/// Wakes the ticker when something falls due before it meant to look again.
#[derive(Clone, Debug, Default)]
pub struct Alarm {
    set_for: Arc<Mutex<Option<Timestamp>>>,
    ring: Arc<Notify>,
}

impl Alarm {
    /// The ticker looks again at `at`, or earlier.
    pub fn set(&self, at: Timestamp) {
        *self.set_for.lock() = Some(at);
    }

    /// Waits until something falls due before the time set. Cancellation safe.
    pub async fn rung(&self) {
        self.ring.notified().await;
    }

    fn due(&self, at: Option<Timestamp>) {
        let Some(at) = at else { return };
        let mut set_for = self.set_for.lock();
        if set_for.is_none_or(|set_for| at < set_for) {
            *set_for = Some(at);
            self.ring.notify_one();
        }
    }
}

/// What outlives a state: the connections between the machine and this node's tasks.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub waiters: Waiters,
    pub clock: AppliedClock,
    pub alarm: Alarm,
    pub events: Hub,
    /// Check the model's invariants after every entry, and stop this node when one is broken. Slow:
    /// for tests.
    pub check_invariants: bool,
    /// Where to write down each entry and its outcome, before anybody hears of it.
    pub record: Option<AppliedRecord>,
}

/// The replicated lock table of one node.
#[derive(Debug)]
pub struct LockMachine {
    pub table: LockTable,
    surroundings: Surroundings,
    grants: Counter,
}

impl LockMachine {
    pub fn new(surroundings: Surroundings) -> Self {
        Self {
            table: LockTable::new(),
            surroundings,
            grants: grants(),
        }
    }

    fn check(&self) -> Result<(), MachineError> {
        if !self.surroundings.check_invariants {
            return Ok(());
        }
        match invariants::check(&self.table).as_slice() {
            [] => Ok(()),
            violations => Err(MachineError(format!("{violations:?}"))),
        }
    }
}

/// The moment at which an entry with this stamp is applied: the stamp, but for a planted bug.
fn now(stamp: u64) -> Timestamp {
    match is_planted(ServiceBug::WallClockInApply) {
        true => Timestamp(stamp.max(unix_ms())),
        false => Timestamp(stamp),
    }
}

impl StateMachine for LockMachine {
    type Command = Command;
    type Response = Outcome;

    fn apply(&mut self, entry: EntryContext, command: Command) -> Result<Outcome, MachineError> {
        let at = Entry {
            index: entry.index,
            now: now(entry.stamp),
        };
        let outcome = self.table.apply(at, &command);
        if let Response::Refused(refusal @ Refusal::EntryOutOfOrder { .. }) = &outcome.response {
            return Err(MachineError(refusal.to_string()));
        }
        self.check()?;
        if let Some(record) = &self.surroundings.record {
            record.add(&entry, &command, &outcome).map_err(|error| {
                MachineError(format!("what was applied cannot be recorded: {error}"))
            })?;
        }
        self.surroundings.clock.applied(self.table.clock());
        self.surroundings.alarm.due(self.table.next_deadline());
        self.surroundings.waiters.tell(&outcome.events);
        if !outcome.events.is_empty() {
            self.surroundings.events.look();
        }
        let is_grant = |kind: &EventKind| matches!(kind, EventKind::Granted { .. });
        let granted = outcome.events.iter().filter(|event| is_grant(&event.kind));
        self.grants.increment(granted.count() as u64);
        Ok(outcome)
    }

    fn priority(command: &Command) -> Priority {
        match command {
            // Overload must not end a healthy holder's lease, nor stop the clock that ends others'.
            Command::Found { .. }
            | Command::Restore { .. }
            | Command::Tick
            | Command::Renew { .. } => Priority::Critical,
            Command::Release { .. } | Command::Cancel { .. } | Command::Revoke { .. } => {
                Priority::High
            }
            _ => Priority::Normal,
        }
    }

    /// Cluster time moves up to the handover, so that it extends leases by no more than itself.
    fn before_handover(&self) -> Option<Command> {
        self.table.next_deadline().map(|_| Command::Tick)
    }

    fn freeze(&self) -> SnapshotWriter {
        let frozen = self.table.freeze();
        Box::new(move |out| {
            let mut out = BufWriter::new(out);
            frozen.write(&mut out)?;
            out.flush()
        })
    }

    fn restore(&self, snapshot: &mut dyn Read) -> io::Result<Self> {
        let table = LockTable::read(&mut BufReader::new(snapshot)).map_err(io::Error::other)?;
        self.surroundings.clock.applied(table.clock());
        self.surroundings.alarm.due(table.next_deadline());
        self.surroundings.waiters.look_again();
        self.surroundings.events.look();
        Ok(Self {
            table,
            surroundings: self.surroundings.clone(),
            grants: self.grants.clone(),
        })
    }
}
