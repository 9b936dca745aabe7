//! Clocks that run too fast or too slow. A process has one rate from its start to its end: monotonic clocks
//! do not jump, and a rate that changed under way would be a jump.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Fault;
use super::install::{Begun, Environment, Mend, Result, Seen};
use crate::cluster::ProcessState;
use crate::run_directory::FaultOutcome;

/// How long the next node waits for one that came back. It may be cut off from the others.
const READY_LIMIT: Duration = Duration::from_secs(5);

impl Environment<'_> {
    /// Some members are restarted one after the other, each with a rate of its own.
    pub(super) async fn clock_rate(&mut self, fault: Fault, rng: &mut StdRng) -> Result<Begun> {
        let mut nodes = self.cluster.running();
        if nodes.is_empty() {
            return Err("no node runs".to_owned());
        }
        nodes.shuffle(rng);
        nodes.truncate(rng.random_range(1..=nodes.len()));
        let mut words = Vec::new();
        let mut failed = None;
        for node in &nodes {
            // Two nodes of the first kind differ by less than DESIGN section 3's rho.
            let off = match fault {
                Fault::ClockRate => rng.random_range(0.001..0.0045),
                _ => rng.random_range(0.05..0.5),
            };
            let rate = if rng.random_bool(0.5) {
                1.0 + off
            } else {
                1.0 - off
            };
            words.push(format!("{} x{rate:.4}", self.cluster.name(*node)));
            failed = self.restart_at(*node, Some(rate)).await.err().or(failed);
        }
        let mut begun = self.installed(words.join(", "), &nodes, Mend::Rates(nodes.clone()));
        if let Some(why) = failed {
            begun.outcome = FaultOutcome::Indeterminate;
            begun.reason = Some(why);
        }
        Ok(begun)
    }

    async fn restart_at(&mut self, node: usize, rate: Option<f64>) -> Result<()> {
        let stopped = match self.cluster.state(node) {
            ProcessState::Down => Ok(()),
            _ => self.cluster.terminate(node).await,
        };
        self.cluster.nodes[node].preload.set_rate(rate);
        self.cluster.start(node)?;
        // A partition may keep it from serving; the next is restarted all the same.
        let _ = self.cluster.wait_ready(node, READY_LIMIT).await;
        stopped
    }

    pub(super) async fn mend_rates(&mut self, nodes: Vec<usize>) -> Result<Seen> {
        let mut failed = None;
        for node in nodes {
            failed = self.restart_at(node, None).await.err().or(failed);
        }
        match failed {
            None => Ok(Seen::Untold),
            Some(why) => Err(why),
        }
    }
}
