//! Renewals travel together: all that arrive at this node while one entry of renewals is on its way
//! go into the next. Each is executed, and each gets an answer of its own.

use std::sync::Arc;
use std::time::Instant;

use lock_model::{Command, LeaseId, Outcome, Renewal, Response};
use raft_core::{Node, ProposeError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use crate::machine::LockMachine;

/// Leases in one entry at the most.
const MAX_LEASES: usize = 4096;
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
}

impl Renewer {
    /// Starts the task that collects renewals; it ends with the last clone.
    pub fn start(node: Arc<Node<LockMachine>>) -> Self {
        let (asks, queue) = mpsc::channel(QUEUE);
        tokio::spawn(collect(node, queue));
        Self { asks }
    }

    /// Renews these leases, together with whatever else arrives. Dropping the call leaves the
    /// outcome unknown.
    pub async fn renew(&self, leases: Vec<LeaseId>, deadline: Instant) -> Renewals {
        let (answer, answered) = oneshot::channel();
        let ask = Ask {
            leases,
            deadline,
            answer,
        };
        self.asks.try_send(ask).map_err(|_| ProposeError::Overloaded)?;
        match timeout_at(deadline.into(), answered).await {
            Ok(Ok(renewals)) => renewals,
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }
}

async fn collect(node: Arc<Node<LockMachine>>, mut queue: mpsc::Receiver<Ask>) {
    let mut left_over = None;
    loop {
        let first = match left_over.take() {
            Some(ask) => ask,
            None => match queue.recv().await {
                Some(ask) => ask,
                None => return,
            },
        };
        let mut leases = first.leases.clone();
        let mut deadline = first.deadline;
        let mut asks = vec![first];
        while let Ok(ask) = queue.try_recv() {
            if leases.len() + ask.leases.len() > MAX_LEASES {
                left_over = Some(ask);
                break;
            }
            leases.extend_from_slice(&ask.leases);
            deadline = deadline.max(ask.deadline);
            asks.push(ask);
        }
        let result = node.propose(&Command::Renew { leases }, deadline).await;
        answer(asks, result.map(|applied| applied.response));
    }
}

fn answer(asks: Vec<Ask>, result: Result<Outcome, ProposeError>) {
    let mut renewals = match result {
        Ok(Outcome {
            response: Response::Renewed(renewals),
            ..
        }) => renewals.into_iter(),
        // The model answers renewals with renewals, but for an unfounded state, which has none.
        Ok(_) => return reply_all(asks, &ProposeError::NotProposed),
        Err(error) => return reply_all(asks, &error),
    };
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
