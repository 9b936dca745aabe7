//! Watches the free space below the data directory.
//!
//! A node whose disk is full stops; a leader should not let it come to that. Below the floor it hands
//! its leadership to a voter that has space, and where there is none it refuses ordinary proposals.
//! What holders need goes on, and so does everything that is read. A follower below its floor goes on
//! appending what its leader sends, because it could only stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, interval, timeout};

use super::admission::Admission;
use super::links::Links;
use super::sampler::set;
use super::status::Status;
use super::steward::Steward;
use crate::machine::StateMachine;
use crate::metrics::FREE_SPACE_BYTES;
use crate::transport::{Reply, Request};
use crate::types::NodeId;
use openraft::async_runtime::watch::WatchReceiver;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) struct SpaceWatch<M: StateMachine> {
    pub directory: PathBuf,
    /// 0: never looks.
    pub floor_bytes: u64,
    pub admission: Arc<Admission>,
    pub steward: Arc<Steward<M>>,
    pub links: Arc<Links>,
}

impl<M: StateMachine> SpaceWatch<M> {
    /// Runs for the life of the node.
    pub async fn run(self) {
        if self.floor_bytes == 0 {
            return;
        }
        let mut looks = interval(LOOK_EVERY);
        loop {
            looks.tick().await;
            let Some(free_bytes) = self.free_bytes().await else {
                continue;
            };
            set(FREE_SPACE_BYTES, free_bytes);
            let was_low = !self.admission.has_space();
            let low = is_low(was_low, free_bytes, self.floor_bytes);
            self.admission.set_space(!low);
            if low && self.steward.raft.is_leader() {
                self.hand_over().await;
            }
            match (was_low, low) {
                (false, true) => tracing::error!(
                    free_bytes,
                    floor_bytes = self.floor_bytes,
                    "below the free-space floor: as a leader this node refuses new work unless \
                     another voter can lead; free space, or raise the size of the disk"
                ),
                (true, false) => tracing::info!(free_bytes, "above the free-space floor again"),
                _ => {}
            }
        }
    }

    async fn free_bytes(&self) -> Option<u64> {
        let directory = self.directory.clone();
        let looked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&directory)).await;
        match looked {
            Ok(Ok(stat)) => Some(stat.f_bavail.saturating_mul(stat.f_frsize)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot see how much space is free");
                None
            }
            Err(_) => None,
        }
    }

    /// Hands over to the first voter that says it has space.
    async fn hand_over(&self) {
        let status = Status::new(&self.steward.metrics.borrow_watched());
        let me = self.steward.identity.node;
        let voters = status.members.iter().filter(|member| member.voter);
        for voter in voters.map(|member| member.node).filter(|node| *node != me) {
            if !self.has_space(voter).await {
                continue;
            }
            let deadline = Instant::now() + HAND_OVER_TIMEOUT;
            match self.steward.hand_over(Some(voter), deadline).await {
                Ok(leader) => {
                    tracing::warn!(%leader, "leadership handed over for want of space");
                    return;
                }
                Err(error) => tracing::debug!(%voter, %error, "it cannot lead now"),
            }
        }
    }

    async fn has_space(&self, voter: NodeId) -> bool {
        let Some(link) = self.links.to(voter) else {
            return false;
        };
        let asked = link.call(&Request::HasSpace, ASK_TIMEOUT);
        matches!(
            timeout(ASK_TIMEOUT, asked).await,
            Ok(Ok(Reply::HasSpace(true)))
        )
    }
}

/// Low below the floor, and until a quarter more than it is free again.
fn is_low(was_low: bool, free_bytes: u64, floor_bytes: u64) -> bool {
    match was_low {
        true => free_bytes < floor_bytes.saturating_add(floor_bytes / 4),
        false => free_bytes < floor_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_counts_as_found_again_only_well_above_the_floor() {
        assert!(!is_low(false, 100, 100));
        assert!(is_low(false, 99, 100));
        assert!(is_low(true, 124, 100));
        assert!(!is_low(true, 125, 100));
    }
}
