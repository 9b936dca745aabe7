//! Disks without space. A node that cannot write stops and says why, and comes back with all that it
//! acknowledged: docs/operations.md.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::install::{Begun, Environment, Mend, Result, Seen};
use crate::cluster::ProcessState;

/// What the system calls it, and so every program that says what happened to it.
const WORDS: &str = "No space left on device";

impl Environment<'_> {
    pub(super) fn disk_full(&mut self, rng: &mut StdRng) -> Result<Begun> {
        let mut nodes = self.cluster.running();
        if nodes.is_empty() {
            return Err("no node runs".to_owned());
        }
        nodes.shuffle(rng);
        // Often a minority, so that the others go on meanwhile.
        let minority = ((self.cluster.members.len() - 1) / 2).max(1);
        let most = if rng.random_bool(0.7) {
            minority
        } else {
            nodes.len()
        };
        nodes.truncate(rng.random_range(1..=most));
        for node in &nodes {
            // It is right to stop.
            self.cluster.nodes[*node].may_end = true;
            self.cluster.nodes[*node].preload.set_full(true)?;
        }
        let target = self.cluster.names(&nodes);
        Ok(self.installed(target, &nodes, Mend::FullDisks(nodes.clone())))
    }

    /// Their disks have space, and all of them are started, whether they had stopped or were about to.
    pub(super) fn mend_full_disks(&mut self, nodes: &[usize]) -> Result<Seen> {
        self.cluster.ended_by_themselves();
        let (mut stopped, mut silent) = (Vec::new(), Vec::new());
        for node in nodes.iter().copied() {
            self.cluster.nodes[node].preload.set_full(false)?;
            if self.cluster.state(node) != ProcessState::Down {
                self.cluster.kill(node)?;
            } else if self.cluster.log_says(node, WORDS) {
                stopped.push(node);
            } else {
                silent.push(node);
            }
            self.cluster.nodes[node].may_end = false;
            self.cluster.start(node)?;
        }
        if !silent.is_empty() {
            let silent = self.cluster.names(&silent);
            return Err(format!("{silent} ended and did not say {WORDS:?}"));
        }
        Ok(match stopped.is_empty() {
            true => Seen::Nothing("no node had to write anything".to_owned()),
            false => Seen::Effect(format!("{} stopped", self.cluster.names(&stopped))),
        })
    }
}
