//! From requests to commands, and from outcomes to replies: everything between the routes and the
//! replicated state machine.
//!
//! A request's ids are fixed once, here, for all internal retries; a retry of the same command is
//! raft-core's business, and it never applies one twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_api::{
    AcquireRequest, CancelResponse, CancelResult, CreateLeaseRequest, ErrorCode, FencingToken,
    GrantedResponse, LeaseCreatedResponse, LeaseHold, LeaseSecret, LockMode, MAX_HTTP_WAIT_MS,
    Problem, QueuePlace, QueuedResponse, ReleaseResponse, ReleasedToken, RenewAnswer, Renewal,
    RequestId, RevokeLeaseResponse,
};
use lock_model::{
    Acquire, BodyHash, Cancelled, Command, Grant, Granted, LeaseId, LockRequest, Metadata, Mode,
    Outcome, Position, Refusal, Renewed, Response, Token, WaitEnd,
};
use parking_lot::Mutex;
use raft_core::Node;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use crate::machine::LockMachine;
use crate::problem::{Failure, invalid, refused};
use crate::renewals::Renewer;
use crate::waiters::{News, Place, Waiters};

/// A cancel that this node sends for a client that is gone has this long.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(30);

/// Backups that one node writes at once; each holds on to a frozen state.
const MAX_BACKUPS: usize = 2;

/// Conversions between the wire's types and the model's. Both check the same bounds, so those that
/// can fail do so only for what neither end can produce.
pub mod wire {
    use super::*;

    pub fn position(position: Position) -> lock_api::Position {
        lock_api::Position {
            index: position.index,
            ordinal: position.ordinal,
        }
    }

    pub fn lease_id(lease: LeaseId) -> lock_api::LeaseId {
        lock_api::LeaseId::from_bytes(lease.0)
    }

    pub fn owner(owner: &lock_model::Owner) -> Option<lock_api::Owner> {
        lock_api::Owner::new(owner.as_str()).ok()
    }

    pub fn lock_name(lock: &lock_model::LockName) -> Option<lock_api::LockName> {
        lock_api::LockName::new(lock.as_str()).ok()
    }

    pub fn request_id(request: &lock_model::RequestId) -> Option<RequestId> {
        RequestId::new(request.as_str()).ok()
    }

    /// The model's name of a lock that the wire names.
    pub fn model_lock(lock: &lock_api::LockName) -> Result<lock_model::LockName, Failure> {
        lock_model::LockName::new(lock.as_str())
            .map_err(|error| invalid(Some("lock"), error.to_string()))
    }

    pub fn holds(grants: &[Grant]) -> Vec<LeaseHold> {
        let hold = |grant: &Grant| {
            Some(LeaseHold {
                lock: lock_name(&grant.lock)?,
                mode: LockMode::Exclusive,
                token: FencingToken(grant.token.0),
            })
        };
        grants.iter().filter_map(hold).collect()
    }
}

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

/// What became of an acquire.
pub enum Acquired {
    Granted(GrantedResponse),
    Queued(QueuedResponse),
}

/// The lock service of one node.
pub struct Service {
    node: Arc<Node<LockMachine>>,
    waiters: Waiters,
    renewer: Renewer,
    /// When the last read began that was proven to be current.
    confirmed_at: Mutex<Option<Instant>>,
    backups: Arc<Semaphore>,
}

impl Service {
    pub fn new(node: Arc<Node<LockMachine>>, waiters: Waiters) -> Self {
        Self {
            renewer: Renewer::start(node.clone()),
            node,
            waiters,
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

    /// Takes a lock, or waits for it up to the deadline or [`MAX_HTTP_WAIT_MS`].
    pub async fn acquire(
        self: &Arc<Self>,
        request: AcquireRequest,
        propose_timeout: Duration,
        answer_deadline: Instant,
    ) -> Result<Acquired, Failure> {
        let client_named_both = request.lease.is_some() && request.request_id.is_some();
        let secret = request
            .lease
            .clone()
            .unwrap_or_else(|| LeaseSecret::from_bytes(rand::random()));
        let request_id = match &request.request_id {
            Some(id) => id.clone(),
            None => RequestId::new(format!("{:032x}", rand::random::<u128>()))
                .map_err(|_| internal("a request id could not be made"))?,
        };
        let names = Names { secret, request_id };
        let acquire = self.acquire_command(&request, &names)?;
        let (lease, model_request) = (acquire.lease, acquire.request);
        let command = Command::Acquire(acquire);
        let mut abandoned = Abandoned {
            service: self,
            names: (!client_named_both).then_some((lease, model_request)),
        };
        let wait_until =
            answer_deadline.min(Instant::now() + Duration::from_millis(MAX_HTTP_WAIT_MS));
        let mut was_queued = false;
        let answer = loop {
            let place = self.waiters.park(lease, model_request);
            let deadline = Instant::now() + propose_timeout;
            let step = self
                .acquire_once(&request, &command, &names, place, deadline, wait_until)
                .await;
            match step {
                Ok(Some(acquired)) => break Ok(acquired),
                // The state was replaced by a snapshot: a repeat finds out what it holds.
                Ok(None) => was_queued = true,
                Err(mut failure) => {
                    if was_queued && failure.0.retryable {
                        // It was in the queue, and this node cannot see what became of it.
                        failure = raft_core::ProposeError::Unknown.into();
                    }
                    if failure.0.outcome == lock_api::Outcome::Unknown {
                        failure.0.lease = Some(names.secret.clone());
                        failure.0.request_id = Some(names.request_id.clone());
                    }
                    failure.0.lease_id.get_or_insert(names.secret.id());
                    break Err(failure);
                }
            }
        };
        abandoned.names = None;
        answer
    }

    fn acquire_command(&self, request: &AcquireRequest, names: &Names) -> Result<Acquire, Failure> {
        let text = |field: &'static str| {
            move |error: lock_model::TextError| invalid(Some(field), error.to_string())
        };
        Ok(Acquire {
            lease: model_lease(&names.secret),
            request: lock_model::RequestId::new(names.request_id.as_str())
                .map_err(text("request_id"))?,
            body: body_hash(request)?,
            locks: vec![LockRequest {
                lock: wire::model_lock(&request.lock)?,
                mode: Mode::Exclusive,
            }],
            ttl_ms: request.ttl_ms,
            owner: lock_model::Owner::new(
                request.owner.as_ref().map_or("", |owner| owner.as_str()),
            )
            .map_err(text("owner"))?,
            wait_ms: request.wait_ms,
            value: request
                .value
                .as_ref()
                .map(|value| lock_model::Value::new(value.as_str()))
                .transpose()
                .map_err(text("value"))?,
            lock_delay_ms: 0,
        })
    }

    /// Proposes, and waits in the queue where needed. `None` asks to be called again.
    async fn acquire_once(
        &self,
        request: &AcquireRequest,
        command: &Command,
        names: &Names,
        mut place: Place,
        propose_deadline: Instant,
        wait_until: Instant,
    ) -> Result<Option<Acquired>, Failure> {
        let outcome = self.propose(command, propose_deadline).await?;
        let queued = match outcome.response {
            Response::Granted(granted) => {
                return names.granted(&granted, outcome.position).map(Some);
            }
            Response::Queued(queued) => queued,
            _ => return Err(internal("an acquire was answered with something else")),
        };
        match timeout_at(wait_until.into(), place.news()).await {
            Ok(News::Granted {
                lock,
                mode,
                token,
                position,
                queued_position,
                ttl_ms,
                remaining_ms,
            }) => {
                let granted = Granted {
                    grants: vec![Grant { lock, token, mode }],
                    ttl_ms,
                    remaining_ms,
                    queued_position,
                    repeated: false,
                };
                names.granted(&granted, position).map(Some)
            }
            Ok(News::Ended { reason, position }) => {
                let refusal = match reason {
                    WaitEnd::TimedOut => Refusal::WaitTimedOut,
                    WaitEnd::Cancelled => Refusal::Cancelled,
                    WaitEnd::LeaseEnded { how } => Refusal::LeaseEnded { how },
                };
                Err(refused(&refusal, position))
            }
            Ok(News::LookAgain) => Ok(None),
            Err(_) => self
                .still_queued(request, names, queued.queued_position)
                .map(Some),
        }
    }

    fn still_queued(
        &self,
        request: &AcquireRequest,
        names: &Names,
        queued_position: Position,
    ) -> Result<Acquired, Failure> {
        let lock = wire::model_lock(&request.lock)?;
        let (view, position) = self
            .node
            .read(|machine| (machine.table.lock(&lock), machine.table.last_position()));
        let queue = view.map_or(Vec::new(), |view| view.queue);
        let before = queue
            .iter()
            .take_while(|waiter| waiter.queued_position < queued_position)
            .count();
        Ok(Acquired::Queued(QueuedResponse {
            granted: false,
            lease: names.secret.clone(),
            lease_id: names.secret.id(),
            request_id: names.request_id.clone(),
            queue: vec![QueuePlace {
                lock: request.lock.clone(),
                place: before as u64 + 1,
                length: queue.len() as u64,
                queued_position: wire::position(queued_position),
            }],
            position: wire::position(position),
        }))
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

    pub async fn cancel(
        &self,
        secret: &LeaseSecret,
        request_id: &RequestId,
        deadline: Instant,
    ) -> Result<CancelResponse, Failure> {
        let command = Command::Cancel {
            lease: model_lease(secret),
            request: lock_model::RequestId::new(request_id.as_str())
                .map_err(|error| invalid(Some("request_id"), error.to_string()))?,
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
        let owner = request.owner.as_ref().map_or("", |owner| owner.as_str());
        let command = Command::OpenLease {
            lease: model_lease(&secret),
            ttl_ms: request.ttl_ms.unwrap_or(lock_api::DEFAULT_TTL_MS),
            owner: lock_model::Owner::new(owner)
                .map_err(|error| invalid(Some("owner"), error.to_string()))?,
            metadata: Metadata::default(),
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
        let Response::Revoked { was_live, .. } = outcome.response else {
            return Err(internal("a revocation was answered with something else"));
        };
        Ok(RevokeLeaseResponse {
            lease_id: secret.id(),
            was_live,
            position: wire::position(outcome.position),
        })
    }

    /// Takes an acquire back whose client is gone and cannot know how to ask for it again.
    fn abandon(self: &Arc<Self>, lease: LeaseId, request: lock_model::RequestId) {
        let service = self.clone();
        tokio::spawn(async move {
            let command = Command::Cancel { lease, request };
            let deadline = Instant::now() + ABANDONED_TIMEOUT;
            if let Err(error) = service.node.propose(&command, deadline).await {
                tracing::info!(
                    %lease, %error,
                    "could not cancel a request whose client is gone; its lease ends by itself"
                );
            }
        });
    }
}

fn renewal_body(renewed: &Renewed) -> Renewal {
    Renewal {
        ttl_ms: renewed.ttl_ms,
        renew_after_ms: renewed.ttl_ms / 3,
        remaining_ms: renewed.remaining_ms,
        holds: wire::holds(&renewed.holds),
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

/// What must be the same in every repeat of a request: all of its body but the ids that name it, and
/// defaults that were written out.
fn body_hash(request: &AcquireRequest) -> Result<BodyHash, Failure> {
    let anonymous = AcquireRequest {
        lease: None,
        request_id: None,
        mode: Some(LockMode::Exclusive),
        ..request.clone()
    };
    let bytes = serde_json::to_vec(&anonymous).map_err(|error| internal(&error.to_string()))?;
    let mut hash = [0; lock_model::ID_BYTES];
    hash.copy_from_slice(&Sha256::digest(&bytes)[..lock_model::ID_BYTES]);
    Ok(BodyHash(hash))
}

/// What an acquire is called, by its client or by this node.
struct Names {
    secret: LeaseSecret,
    request_id: RequestId,
}

impl Names {
    fn granted(&self, granted: &Granted, position: Position) -> Result<Acquired, Failure> {
        let [grant] = granted.grants.as_slice() else {
            return Err(internal(
                "a request for one lock was granted another number",
            ));
        };
        Ok(Acquired::Granted(GrantedResponse {
            granted: true,
            lock: wire::lock_name(&grant.lock)
                .ok_or_else(|| internal("a lock with an impossible name was granted"))?,
            token: FencingToken(grant.token.0),
            lease: self.secret.clone(),
            lease_id: self.secret.id(),
            request_id: self.request_id.clone(),
            ttl_ms: granted.ttl_ms,
            renew_after_ms: granted.ttl_ms / 3,
            remaining_ms: granted.remaining_ms,
            position: wire::position(position),
            queued_position: wire::position(granted.queued_position),
            warning: ttl_warning(granted.ttl_ms),
        }))
    }
}

/// Cancels a request when its client goes away before the answer, unless the client named it itself
/// and so can come back for it.
struct Abandoned<'a> {
    service: &'a Arc<Service>,
    names: Option<(LeaseId, lock_model::RequestId)>,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some((lease, request)) = self.names.take() {
            self.service.abandon(lease, request);
        }
    }
}
