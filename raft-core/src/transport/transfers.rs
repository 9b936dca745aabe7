//! Which snapshots are being sent, so that the log behind them is kept until they have arrived.
//!
//! openraft protects entries that it is streaming to a follower, but not those that a follower will
//! need once the snapshot on its way to it is installed. Purged meanwhile, they would cost it another
//! snapshot, and under load another after that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// After a transfer the log behind it is kept this long: until the follower has begun to take
/// entries, from when on openraft protects them, or until a broken transfer has begun again.
const KEPT_AFTER: Duration = Duration::from_secs(10);

/// The snapshots that this node sends or has just sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transfers {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    sending: BTreeMap<u64, Transfer>,
    damaged: bool,
}

#[derive(Debug)]
struct Transfer {
    index: u64,
    ended: Option<Instant>,
}

/// One transfer under way. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Sending {
    transfers: Transfers,
    number: u64,
}

impl Transfers {
    /// A snapshot that reaches to `index` begins to be sent.
    pub fn begin(&self, index: u64) -> Sending {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state
            .sending
            .insert(number, Transfer { index, ended: None });
        Sending {
            transfers: self.clone(),
            number,
        }
    }

    /// The lowest index whose followers must stay in the log.
    pub fn oldest(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let recent = |ended: Instant| ended.elapsed() < KEPT_AFTER;
        state
            .sending
            .retain(|_, transfer| transfer.ended.is_none_or(recent));
        state.sending.values().map(|transfer| transfer.index).min()
    }

    /// The newest snapshot cannot be sent, because its file is damaged.
    pub fn found_damage(&self) {
        self.state.lock().damaged = true;
    }

    /// Whether damage was found since this was last asked.
    pub fn take_damage(&self) -> bool {
        std::mem::take(&mut self.state.lock().damaged)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(transfer) = self.transfers.state.lock().sending.get_mut(&self.number) {
            transfer.ended = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_transfer_counts_until_a_while_after_its_end() {
        let transfers = Transfers::default();
        assert_eq!(transfers.oldest(), None);
        let old = transfers.begin(10);
        let _new = transfers.begin(20);
        assert_eq!(transfers.oldest(), Some(10));
        drop(old);
        assert_eq!(transfers.oldest(), Some(10));
        let long_ago = Instant::now().checked_sub(KEPT_AFTER).unwrap();
        transfers.state.lock().sending.get_mut(&0).unwrap().ended = Some(long_ago);
        assert_eq!(transfers.oldest(), Some(20));
    }
}
