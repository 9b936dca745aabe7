//! From requests to commands, and from outcomes to replies: everything between the routes and the
//! replicated state machine.
//!
//! A request's ids are fixed once, here, for all internal retries; a retry of the same command is
//! raft-core's business, and it never applies one twice.

mod acquire;
mod admin;
pub mod wire;

use std::sync::Arc;
use std::time::Instant;

use lock_api::{
    CancelResponse, CancelResult, CreateLeaseRequest, ErrorCode, FencingToken,
    LeaseCreatedResponse, LeaseSecret, Problem, ReleaseResponse, ReleasedToken, RenewAnswer,
    Renewal, RequestId, RevokeLeaseResponse, UpdateRequest, UpdateResponse,
};
use lock_model::{Cancelled, Command, LeaseId, Outcome, Position, Renewed, Response, Token};
use parking_lot::Mutex;
use raft_core::Node;
use tokio::sync::Semaphore;

pub use self::acquire::Acquired;
use crate::events::Hub;
use crate::machine::LockMachine;
use crate::planted::{ServiceBug, is_planted};
use crate::problem::{Failure, refused};
use crate::renewals::Renewer;
use crate::waiters::Waiters;

/// Backups that one node writes at once; each holds on to a frozen state.
const MAX_BACKUPS: usize = 2;

fn model_lease(secret: &LeaseSecret) -> LeaseId {
    LeaseId(secret.id().to_bytes())
}

fn internal(what: &str) -> Failure {
    Problem::new(
        ErrorCode::Internal,
        format!("{what}; this is a defect of the server"),
    )
    .into()
}

/// The lock service of one node.
pub struct Service {
    node: Arc<Node<LockMachine>>,
    waiters: Waiters,
    hub: Hub,
    renewer: Renewer,
    /// When the last read began that was proven to be current.
    confirmed_at: Mutex<Option<Instant>>,
    backups: Arc<Semaphore>,
}

impl Service {
    pub fn new(node: Arc<Node<LockMachine>>, waiters: Waiters, hub: Hub) -> Self {
        Self {
            renewer: Renewer::start(node.clone()),
            node,
            waiters,
            hub,
            confirmed_at: Mutex::new(None),
            backups: Arc::new(Semaphore::new(MAX_BACKUPS)),
        }
    }

    pub fn shared_node(&self) -> Arc<Node<LockMachine>> {
        self.node.clone()
    }

    /// One permit for each backup that this node may write at once.
    pub fn backups(&self) -> Arc<Semaphore> {
        self.backups.clone()
    }

    pub fn node(&self) -> &Node<LockMachine> {
        &self.node
    }

    /// All who watch locks on this node.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// HTTP requests that wait on this node for their grant.
    pub fn parked_requests(&self) -> usize {
        self.waiters.len()
    }

    async fn propose(&self, command: &Command, deadline: Instant) -> Result<Outcome, Failure> {
        let outcome = self.node.propose(command, deadline).await?.response;
        match &outcome.response {
            Response::Refused(refusal) => Err(refused(refusal, outcome.position)),
            _ => Ok(outcome),
        }
    }

    /// Waits until this node's state is as fresh as asked for.
    ///
    /// Returns, for a stale read, how old the state may be, in milliseconds, when that is known.
    pub async fn freshen(
        &self,
        consistency: lock_api::Consistency,
        min_position: Option<lock_api::Position>,
        deadline: Instant,
    ) -> Result<Option<u64>, Failure> {
        if let Some(position) = min_position {
            self.node.wait_applied(position.index, deadline).await?;
        }
        match consistency {
            lock_api::Consistency::Linearizable
                if is_planted(ServiceBug::ReadsWithoutReadIndex) =>
            {
                Ok(None)
            }
            lock_api::Consistency::Linearizable => {
                let began = Instant::now();
                self.node.read_barrier(deadline).await?;
                let mut confirmed_at = self.confirmed_at.lock();
                *confirmed_at = (*confirmed_at).max(Some(began));
                Ok(None)
            }
            lock_api::Consistency::Stale => {
                let age = self.confirmed_at.lock().map(|at| at.elapsed().as_millis());
                Ok(age.map(|age| u64::try_from(age).unwrap_or(u64::MAX)))
            }
        }
    }

    /// Renews leases; one answer each, in order, and the position of the first.
    pub async fn renew(
        &self,
        secrets: &[LeaseSecret],
        deadline: Instant,
    ) -> Result<Vec<(RenewAnswer, Position)>, Failure> {
        let leases = secrets.iter().map(model_lease).collect();
        let renewals = self.renewer.renew(leases, deadline).await?;
        let answer = |renewal: lock_model::Renewal| {
            let (renewed, problem) = match renewal.result {
                Ok(renewed) => (Some(renewal_body(&renewed)), None),
                Err(refusal) => {
                    let mut failure = refused(&refusal, renewal.position);
                    failure.0.lease_id = Some(wire::lease_id(renewal.lease));
                    (None, Some(*failure.0))
                }
            };
            let answer = RenewAnswer {
                lease_id: wire::lease_id(renewal.lease),
                renewal: renewed,
                problem,
            };
            (answer, renewal.position)
        };
        Ok(renewals.into_iter().map(answer).collect())
    }

    pub async fn release(
        &self,
        secret: &LeaseSecret,
        tokens: &[FencingToken],
        deadline: Instant,
    ) -> Result<ReleaseResponse, Failure> {
        let command = Command::Release {
            lease: model_lease(secret),
            tokens: tokens.iter().map(|token| Token(token.0)).collect(),
        };
        let outcome = self.propose(&command, deadline).await?;
        let Response::Released(released) = outcome.response else {
            return Err(internal("a release was answered with something else"));
        };
        Ok(ReleaseResponse {
            was_held: released.iter().all(|released| released.was_held),
            tokens: released
                .iter()
                .map(|released| ReleasedToken {
                    token: FencingToken(released.token.0),
                    was_held: released.was_held,
                })
                .collect(),
            position: wire::position(outcome.position),
        })
    }

    pub async fn update(
        &self,
        request: &UpdateRequest,
        deadline: Instant,
    ) -> Result<UpdateResponse, Failure> {
        let command = Command::Update {
            lease: model_lease(&request.lease),
            token: Token(request.token.0),
            value: wire::model_value(request.value.as_ref())?,
        };
        let outcome = self.propose(&command, deadline).await?;
        let Response::Updated { lock } = outcome.response else {
            return Err(internal("an update was answered with something else"));
        };
        Ok(UpdateResponse {
            lock: wire::lock_name(&lock)
                .ok_or_else(|| internal("a lock with an impossible name was updated"))?,
            position: wire::position(outcome.position),
        })
    }

    pub async fn cancel(
        &self,
        secret: &LeaseSecret,
        request_id: &RequestId,
        deadline: Instant,
    ) -> Result<CancelResponse, Failure> {
        let command = Command::Cancel {
            lease: model_lease(secret),
            request: wire::model_request_id(request_id)?,
        };
        let outcome = self.propose(&command, deadline).await?;
        let Response::Cancelled(cancelled) = outcome.response else {
            return Err(internal("a cancel was answered with something else"));
        };
        Ok(CancelResponse {
            result: match cancelled {
                Cancelled::Waiting => CancelResult::Cancelled,
                Cancelled::Granted { .. } => CancelResult::Released,
                Cancelled::Decided => CancelResult::AlreadyEnded,
                Cancelled::Unknown => CancelResult::Recorded,
            },
            position: wire::position(outcome.position),
        })
    }

    pub async fn create_lease(
        &self,
        request: &CreateLeaseRequest,
        deadline: Instant,
    ) -> Result<LeaseCreatedResponse, Failure> {
        let secret = request
            .lease
            .clone()
            .unwrap_or_else(|| LeaseSecret::from_bytes(rand::random()));
        let default_ttl = |machine: &LockMachine| machine.table.settings().ttl_default_ms;
        let command = Command::OpenLease {
            lease: model_lease(&secret),
            ttl_ms: match request.ttl_ms {
                Some(ttl_ms) => ttl_ms,
                None => self.node.read(default_ttl),
            },
            owner: wire::model_owner(request.owner.as_ref())?,
            metadata: wire::model_metadata(&request.metadata)?,
        };
        let outcome = match self.propose(&command, deadline).await {
            Ok(outcome) => outcome,
            Err(mut failure) => {
                if failure.0.outcome == lock_api::Outcome::Unknown {
                    failure.0.lease = Some(secret);
                }
                return Err(failure);
            }
        };
        let Response::LeaseOpened {
            ttl_ms,
            remaining_ms,
            ..
        } = outcome.response
        else {
            return Err(internal("a new lease was answered with something else"));
        };
        Ok(LeaseCreatedResponse {
            lease_id: secret.id(),
            lease: secret,
            warning: ttl_warning(ttl_ms),
            ttl_ms,
            renew_after_ms: ttl_ms / 3,
            remaining_ms,
            position: wire::position(outcome.position),
        })
    }

    pub async fn revoke(
        &self,
        secret: &LeaseSecret,
        deadline: Instant,
    ) -> Result<RevokeLeaseResponse, Failure> {
        let command = Command::Revoke {
            lease: model_lease(secret),
        };
        let outcome = self.propose(&command, deadline).await?;
        let Response::Revoked { was_live, released } = outcome.response else {
            return Err(internal("a revocation was answered with something else"));
        };
        Ok(RevokeLeaseResponse {
            lease_id: secret.id(),
            was_live,
            released: wire::holds(&released),
            held_back_ms: 0,
            position: wire::position(outcome.position),
        })
    }
}

fn renewal_body(renewed: &Renewed) -> Renewal {
    Renewal {
        ttl_ms: renewed.ttl_ms,
        renew_after_ms: renewed.ttl_ms / 3,
        remaining_ms: renewed.remaining_ms,
        holds: wire::holds(&renewed.holds),
        waits: renewed.waits.iter().filter_map(wire::request_id).collect(),
    }
}

/// Below this a failover (about a second, and what the machines add) may outlast a lease.
const SHORT_TTL_MS: u64 = 5_000;

fn ttl_warning(ttl_ms: u64) -> Option<String> {
    (ttl_ms < SHORT_TTL_MS).then(|| {
        format!(
            "a TTL below {SHORT_TTL_MS} ms leaves little room to renew while the cluster elects a \
             leader"
        )
    })
}
