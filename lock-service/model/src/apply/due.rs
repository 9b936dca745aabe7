//! Step 1 of an entry: ending what is due.
//!
//! What the command touches comes first and always, so that it never meets anything overdue: the
//! leases that it names, the leases that hold the locks that it names, the delays of these locks,
//! and from the front of their queues everyone who is overdue, up to the first who is not. Then whatever else is
//! due, earliest first, until the cap is reached; the rest is left to the next entry.

use std::collections::BTreeSet;

use super::Transition;
use crate::planted::{ModelBug, is_planted};
use crate::state::{Due, DueItem, Lock, LockTable};
use crate::{Command, LeaseEnd, LeaseId, LockName, WaitEnd};

impl LockTable {
    /// Whether some deadline has passed and what it ends has not been ended yet.
    pub(crate) fn is_anything_due(&self) -> bool {
        self.next_deadline().is_some_and(|at| self.is_past(at))
    }
}

impl Transition<'_> {
    pub(super) fn end_what_is_due(&mut self, command: &Command) {
        if !self.table.is_anything_due() {
            return;
        }
        for due in self.touched(command) {
            self.end(due);
        }
        let cap = self.table.settings.expiry_cap;
        let mut freed: u64 = 0;
        while let Some(due) = self
            .table
            .dues
            .first()
            .map(|(due, ())| due.clone())
            .filter(|due| self.table.is_past(due.at))
        {
            let more = freed.saturating_add(self.frees(&due));
            if freed > 0 && more > cap {
                break;
            }
            freed = more;
            self.end(due);
        }
    }

    fn end(&mut self, due: Due) {
        // Ending something else may have ended this.
        if !self.table.dues.contains_key(&due) {
            return;
        }
        match due.what {
            DueItem::Wait(queued_position) => self.end_wait(queued_position, WaitEnd::TimedOut),
            DueItem::Lease(id) if self.stays_alive_to_wait(id) => {}
            DueItem::Lease(id) => {
                self.end_lease(id, LeaseEnd::Expired, false);
            }
            DueItem::Delay(lock) => {
                self.table.end_delay(&lock);
                self.moved.push(lock);
            }
            DueItem::Tombstone(id) => self.table.remove_tombstone(id),
            DueItem::Hold => {
                self.table.held_until = None;
                self.table.dues.remove(&Due::new(due.at, DueItem::Hold));
            }
        }
    }

    /// Whether this lease waits and lives on for another TTL, where that is the planted bug.
    fn stays_alive_to_wait(&mut self, id: LeaseId) -> bool {
        if !is_planted(ModelBug::GrantToADeadLease) {
            return false;
        }
        let now = self.table.clock;
        let Some(lease) = self.table.lease_mut(id) else {
            return false;
        };
        if lease.waits.is_empty() {
            return false;
        }
        let (before, later) = (lease.deadline, now.plus_ms(lease.ttl_ms));
        lease.deadline = later;
        self.table.move_due(id, before, later);
        true
    }

    /// What ending this counts for against the cap: locks and waiters freed, at least 1.
    fn frees(&self, due: &Due) -> u64 {
        let freed = match &due.what {
            DueItem::Wait(place) => self.table.waits.get(place).map(|it| it.locks.len() as u64),
            DueItem::Lease(id) => self.table.leases.get(id).map(|it| it.lock_count()),
            DueItem::Delay(_) | DueItem::Tombstone(_) | DueItem::Hold => None,
        };
        freed.unwrap_or(1).max(1)
    }

    fn touched(&self, command: &Command) -> BTreeSet<Due> {
        let mut touched = BTreeSet::new();
        match command {
            Command::Found { .. }
            | Command::Tick
            | Command::ChangeSettings { .. }
            | Command::RaiseModelVersion { .. }
            | Command::Restore { .. } => {}
            Command::OpenLease { lease, .. }
            | Command::Release { lease, .. }
            | Command::Cancel { lease, .. }
            | Command::Revoke { lease }
            | Command::Update { lease, .. }
            | Command::RevokeById { lease, .. } => self.touch_lease(*lease, &mut touched),
            Command::ForceRelease { lock, lease, .. } => {
                self.touch_lease(*lease, &mut touched);
                self.touch_lock(lock, &mut touched);
            }
            Command::Renew { leases } => leases
                .iter()
                .for_each(|lease| self.touch_lease(*lease, &mut touched)),
            Command::Acquire(acquire) => {
                self.touch_lease(acquire.lease, &mut touched);
                acquire
                    .locks
                    .iter()
                    .for_each(|request| self.touch_lock(&request.lock, &mut touched));
            }
        }
        touched
    }

    fn touch_lease(&self, id: LeaseId, touched: &mut BTreeSet<Due>) {
        let mut touch = |due: Due| {
            if self.table.is_past(due.at) {
                touched.insert(due);
            }
        };
        if let Some(lease) = self.table.leases.get(&id) {
            touch(Due::lease(id, lease.deadline));
            for waiting in &lease.waits {
                if let Some(wait) = self.table.waits.get(&waiting.queued_position) {
                    touch(Due::wait(waiting.queued_position, wait.deadline));
                }
            }
        }
        if let Some(tombstone) = self.table.tombstones.get(&id) {
            touch(Due::tombstone(id, tombstone.deadline));
        }
    }

    fn touch_lock(&self, name: &LockName, touched: &mut BTreeSet<Due>) {
        let Some(lock) = self.table.locks.get(name) else {
            return;
        };
        if let Some(delay) = lock.delay.filter(|delay| self.table.is_past(delay.until)) {
            touched.insert(Due::delay(name, delay.until));
        }
        self.touch_holders(name, lock, touched);
        for (queued_position, ()) in lock.queue.iter() {
            let Some(wait) = self.table.waits.get(queued_position) else {
                continue;
            };
            if self.table.live_lease(wait.lease).is_some() && !self.table.is_past(wait.deadline) {
                break;
            }
            self.touch_lease(wait.lease, touched);
        }
    }

    /// A lock may have very many holders, of which few are overdue: goes through whatever is less,
    /// the holders or all that is due.
    fn touch_holders(&self, name: &LockName, lock: &Lock, touched: &mut BTreeSet<Due>) {
        let holders = lock.holders().count();
        let is_due = |(due, ()): &(&Due, &())| self.table.is_past(due.at);
        let due = || self.table.dues.iter().take_while(is_due);
        if due().take(holders).count() == holders {
            lock.holders()
                .for_each(|holder| self.touch_lease(holder, touched));
            return;
        }
        for (due, ()) in due() {
            let id = match &due.what {
                DueItem::Wait(place) => self.table.waits.get(place).map(|wait| wait.lease),
                DueItem::Lease(id) => Some(*id),
                DueItem::Delay(_) | DueItem::Tombstone(_) | DueItem::Hold => None,
            };
            let holder = id.filter(|id| {
                let lease = self.table.leases.get(id);
                lease.is_some_and(|lease| lease.hold(name).is_some())
            });
            if let Some(id) = holder {
                self.touch_lease(id, touched);
            }
        }
    }
}
