//! Step 1 of an entry: ending what is due.
//!
//! What the command touches comes first and always, so that it never meets anything overdue: the
//! leases that it names, the leases that hold the locks that it names, and from the front of the
//! queues of these locks everyone who is overdue, up to the first who is not. Then whatever else is
//! due, earliest first, until the cap is reached; the rest is left to the next entry.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Transition;
use crate::state::{Due, DueItem, LockTable};
use crate::{Command, LeaseEnd, LeaseId, LockName, WaitEnd};

impl LockTable {
    /// Whether some deadline has passed and what it ends has not been ended yet.
    pub(crate) fn is_anything_due(&self) -> bool {
        self.dues.get_min().is_some_and(|due| self.is_past(due.at))
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
            .get_min()
            .copied()
            .filter(|due| self.table.is_past(due.at))
        {
            let more = freed.saturating_add(self.frees(due));
            if freed > 0 && more > cap {
                break;
            }
            freed = more;
            self.end(due);
        }
    }

    fn end(&mut self, due: Due) {
        // Ending something else may have ended this.
        if !self.table.dues.contains(&due) {
            return;
        }
        match due.what {
            DueItem::Wait(queued_position) => self.end_wait(queued_position, WaitEnd::TimedOut),
            DueItem::Lease(id) => self.end_lease(id, LeaseEnd::Expired),
            DueItem::Tombstone(id) => self.table.remove_tombstone(id),
        }
    }

    /// What ending this counts for against the cap: locks and waiters freed, at least 1.
    fn frees(&self, due: Due) -> u64 {
        match due.what {
            DueItem::Wait(_) | DueItem::Tombstone(_) => 1,
            DueItem::Lease(id) => self.table.leases.get(&id).map_or(1, |lease| {
                (lease.holds.len() + lease.waits.len()).max(1) as u64
            }),
        }
    }

    fn touched(&self, command: &Command) -> BTreeSet<Due> {
        let mut touched = BTreeSet::new();
        match command {
            Command::Found { .. } | Command::Tick => {}
            Command::OpenLease { lease, .. }
            | Command::Release { lease, .. }
            | Command::Cancel { lease, .. }
            | Command::Revoke { lease } => self.touch_lease(*lease, &mut touched),
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
        let Some(lock) = self.table.locks.get(name).map(Arc::as_ref) else {
            return;
        };
        lock.holders
            .iter()
            .for_each(|holder| self.touch_lease(*holder, touched));
        for queued_position in &lock.queue {
            let Some(wait) = self.table.waits.get(queued_position) else {
                continue;
            };
            if self.table.live_lease(wait.lease).is_some() && !self.table.is_past(wait.deadline) {
                break;
            }
            self.touch_lease(wait.lease, touched);
        }
    }
}
