//! Renewals travel together: all that arrive at this node while one entry of renewals is on its way
//! go into the next. Each is executed, and each gets an answer of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_model::{Command, LeaseId, LockTable, Outcome, Renewal, Renewed, Response};
use raft_core::{Node, ProposeError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use crate::machine::LockMachine;
use crate::metrics::renew_leases;
use crate::planted::{ServiceBug, is_planted};

/// Leases in one entry at the most.
const MAX_LEASES: usize = 4096;
/// An entry that has not come back within this is given up and proposed again, so that one lost
/// frame never holds up everybody's renewals for longer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// Answers leave this long before the deadline of whoever asked.
const MARGIN: Duration = Duration::from_millis(20);
/// Before an entry that was refused at once is proposed again.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);
/// Requests that wait for the next entry.
const QUEUE: usize = 4096;

/// What the model answered to one request's leases, in its order.
pub type Renewals = Result<Vec<Renewal>, ProposeError>;

struct Ask {
    leases: Vec<LeaseId>,
    deadline: Instant,
    answer: oneshot::Sender<Renewals>,
}

/// The way for renewals into the log.
#[derive(Clone)]
pub struct Renewer {
    asks: mpsc::Sender<Ask>,
    node: Arc<Node<LockMachine>>,
}

impl Renewer {
    /// Starts the task that collects renewals; it ends with the last clone.
    pub fn start(node: Arc<Node<LockMachine>>) -> Self {
        let (asks, queue) = mpsc::channel(QUEUE);
        tokio::spawn(collect(node.clone(), queue));
        Self { asks, node }
    }

    /// Renews these leases, together with whatever else arrives. Dropping the call leaves the
    /// outcome unknown.
    pub async fn renew(&self, leases: Vec<LeaseId>, deadline: Instant) -> Renewals {
        let foreseen = match is_planted(ServiceBug::RenewalBeforeCommit) {
            true => self.node.read(|machine| foresee(&machine.table, &leases)),
            false => None,
        };
        let (answer, answered) = oneshot::channel();
        let ask = Ask {
            leases,
            deadline,
            answer,
        };
        self.asks
            .try_send(ask)
            .map_err(|_| ProposeError::Overloaded)?;
        if let Some(renewals) = foreseen {
            return Ok(renewals);
        }
        match timeout_at(deadline.into(), answered).await {
            Ok(Ok(renewals)) => renewals,
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }
}

/// What the model is going to answer, as it seems before anything is committed.
fn foresee(table: &LockTable, leases: &[LeaseId]) -> Option<Vec<Renewal>> {
    let foresee = |lease: &LeaseId| {
        let view = table.lease(*lease)?;
        Some(Renewal {
            lease: *lease,
            position: table.last_position(),
            result: Ok(Renewed {
                ttl_ms: view.ttl_ms,
                remaining_ms: view.ttl_ms,
                holds: view.holds,
                waits: view.waits.into_iter().map(|wait| wait.request).collect(),
            }),
        })
    };
    leases.iter().map(foresee).collect()
}

async fn collect(node: Arc<Node<LockMachine>>, mut queue: mpsc::Receiver<Ask>) {
    let sizes = renew_leases();
    let mut asks = Vec::new();
    loop {
        if asks.is_empty() {
            match queue.recv().await {
                Some(ask) => asks.push(ask),
                None => return,
            }
        }
        let mut leases: Vec<LeaseId> = asks
            .iter()
            .flat_map(|ask: &Ask| ask.leases.clone())
            .collect();
        while leases.len() < MAX_LEASES
            && let Ok(ask) = queue.try_recv()
        {
            leases.extend_from_slice(&ask.leases);
            asks.push(ask);
        }
        let attempt = Instant::now() + ATTEMPT_TIMEOUT;
        // A little before the first of them gives up, so that it hears what is known.
        let earliest = asks.iter().map(|ask| ask.deadline).min().unwrap_or(attempt);
        let until = attempt.min(earliest.checked_sub(MARGIN).unwrap_or(earliest));
        let size = u32::try_from(leases.len()).unwrap_or(u32::MAX);
        let command = Command::Renew { leases };
        match node.propose(&command, until).await {
            Ok(applied) => {
                sizes.record(f64::from(size));
                answer(std::mem::take(&mut asks), applied.response);
            }
            Err(error) => {
                // A renewal may be executed twice: it only raises deadlines, and those who asked
                // count from when they sent it. So whoever still waits is tried again.
                let now = Instant::now();
                let (waiting, late) = std::mem::take(&mut asks)
                    .into_iter()
                    .partition(|ask: &Ask| now + MARGIN < ask.deadline);
                asks = waiting;
                reply_all(late, &error);
                if error == ProposeError::Overloaded {
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
        }
    }
}

fn answer(asks: Vec<Ask>, outcome: Outcome) {
    let Response::Renewed(renewals) = outcome.response else {
        // The model answers renewals with renewals, but for an unfounded state, which has no leases.
        return reply_all(asks, &ProposeError::NotProposed);
    };
    let mut renewals = renewals.into_iter();
    for ask in asks {
        let own = renewals.by_ref().take(ask.leases.len()).collect();
        // Whoever asked may have met its deadline.
        let _ = ask.answer.send(Ok(own));
    }
}

fn reply_all(asks: Vec<Ask>, error: &ProposeError) {
    for ask in asks {
        let _ = ask.answer.send(Err(error.clone()));
    }
}
