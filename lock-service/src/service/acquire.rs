//! Taking locks: proposing, and waiting on this node for the grant.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_api::{
    AcquireRequest, GrantedResponse, LeaseSecret, LockRequest, MAX_HTTP_WAIT_MS, QueuePlace,
    QueuedResponse, RequestId,
};
use lock_model::{
    Acquire, BodyHash, Command, Granted, LeaseId, Position, Refusal, Response, WaitEnd,
};
use sha2::{Digest, Sha256};
use tokio::time::timeout_at;

use super::{Service, internal, model_lease, ttl_warning, wire};
use crate::problem::{Failure, refused};
use crate::waiters::{News, Place};

/// A cancel that this node sends for a client that is gone has this long.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(30);

/// What became of an acquire.
pub enum Acquired {
    Granted(GrantedResponse),
    Queued(QueuedResponse),
}

impl Service {
    /// Takes the locks that the request names, which are `targets`, or waits for them up to the
    /// deadline or [`MAX_HTTP_WAIT_MS`].
    pub async fn acquire(
        self: &Arc<Self>,
        request: AcquireRequest,
        targets: &[LockRequest],
        propose_timeout: Duration,
        answer_deadline: Instant,
    ) -> Result<Acquired, Failure> {
        let client_named_both = request.lease.is_some() && request.request_id.is_some();
        let names = Names::of(&request)?;
        let acquire = acquire_command(&request, targets, &names)?;
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
                .acquire_once(targets, &command, &names, place, deadline, wait_until)
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

    /// Proposes, and waits in the queue where needed. `None` asks to be called again.
    async fn acquire_once(
        &self,
        targets: &[LockRequest],
        command: &Command,
        names: &Names,
        mut place: Place,
        propose_deadline: Instant,
        wait_until: Instant,
    ) -> Result<Option<Acquired>, Failure> {
        let outcome = self.propose(command, propose_deadline).await?;
        let queued = match outcome.response {
            Response::Granted(granted) => {
                return Ok(Some(names.granted(&granted, outcome.position)));
            }
            Response::Queued(queued) => queued,
            _ => return Err(internal("an acquire was answered with something else")),
        };
        match timeout_at(wait_until.into(), place.news()).await {
            Ok(News::Granted { granted, position }) => Ok(Some(names.granted(&granted, position))),
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
                .still_queued(targets, names, queued.queued_position)
                .map(Some),
        }
    }

    fn still_queued(
        &self,
        targets: &[LockRequest],
        names: &Names,
        queued_position: Position,
    ) -> Result<Acquired, Failure> {
        let locks: Vec<_> = targets
            .iter()
            .map(|target| wire::model_lock(&target.name))
            .collect::<Result<_, _>>()?;
        let (places, position) = self.node.read(|machine| {
            let table = &machine.table;
            let places: Vec<_> = locks
                .iter()
                .map(|lock| table.place_in_queue(lock, queued_position))
                .collect();
            (places, table.last_position())
        });
        let queue = targets
            .iter()
            .zip(places)
            .map(|(target, place)| QueuePlace {
                lock: target.name.clone(),
                place: place.ahead + 1,
                length: place.length,
                queued_position: wire::position(queued_position),
            });
        Ok(Acquired::Queued(QueuedResponse {
            granted: false,
            lease: names.secret.clone(),
            lease_id: names.secret.id(),
            request_id: names.request_id.clone(),
            queue: queue.collect(),
            position: wire::position(position),
        }))
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

fn acquire_command(
    request: &AcquireRequest,
    targets: &[LockRequest],
    names: &Names,
) -> Result<Acquire, Failure> {
    Ok(Acquire {
        lease: model_lease(&names.secret),
        request: wire::model_request_id(&names.request_id)?,
        body: body_hash(request, targets)?,
        locks: targets
            .iter()
            .map(wire::model_request)
            .collect::<Result<_, _>>()?,
        ttl_ms: request.ttl_ms,
        owner: wire::model_owner(request.owner.as_ref())?,
        wait_ms: request.wait_ms,
        value: wire::model_value(request.value.as_ref())?,
        lock_delay_ms: request.lock_delay_ms.unwrap_or(0),
    })
}

/// What must be the same in every repeat of a request: all of its body but the ids that name it.
/// Defaults that were written out, `lock` for `locks` of one, and another order of `locks` make no
/// difference.
fn body_hash(request: &AcquireRequest, targets: &[LockRequest]) -> Result<BodyHash, Failure> {
    let mut locks = Vec::with_capacity(targets.len());
    for target in targets {
        let wanted = wire::model_request(target)?;
        let (mode, permits) = wire::mode(wanted.mode);
        locks.push(LockRequest {
            name: target.name.clone(),
            mode: Some(mode),
            permits,
            limit: wanted.mode.limit(),
        });
    }
    locks.sort_by(|one, other| one.name.cmp(&other.name));
    let anonymous = AcquireRequest {
        locks: Some(locks),
        lock: None,
        mode: None,
        permits: None,
        limit: None,
        lease: None,
        request_id: None,
        lock_delay_ms: request.lock_delay_ms.filter(|delay_ms| *delay_ms > 0),
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
    /// Whether it names its lock as `lock`.
    names_one: bool,
}

impl Names {
    fn of(request: &AcquireRequest) -> Result<Self, Failure> {
        let secret = request
            .lease
            .clone()
            .unwrap_or_else(|| LeaseSecret::from_bytes(rand::random()));
        let request_id = match &request.request_id {
            Some(id) => id.clone(),
            None => RequestId::new(format!("{:032x}", rand::random::<u128>()))
                .map_err(|_| internal("a request id could not be made"))?,
        };
        Ok(Self {
            secret,
            request_id,
            names_one: request.lock.is_some(),
        })
    }

    fn granted(&self, granted: &Granted, position: Position) -> Acquired {
        let locks = wire::holds(&granted.grants);
        let one = locks.first().filter(|_| self.names_one);
        Acquired::Granted(GrantedResponse {
            granted: true,
            lock: one.map(|hold| hold.lock.clone()),
            token: one.map(|hold| hold.token),
            locks,
            lease: self.secret.clone(),
            lease_id: self.secret.id(),
            request_id: self.request_id.clone(),
            ttl_ms: granted.ttl_ms,
            renew_after_ms: granted.ttl_ms / 3,
            remaining_ms: granted.remaining_ms,
            position: wire::position(position),
            queued_position: wire::position(granted.queued_position),
            warning: ttl_warning(granted.ttl_ms),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(body: &str) -> BodyHash {
        let request: AcquireRequest = serde_json::from_str(body).unwrap();
        let targets = request.targets().unwrap();
        body_hash(&request, &targets).unwrap()
    }

    #[test]
    fn a_repeat_may_write_defaults_out_and_change_nothing_else() {
        let plain = hash(r#"{"lock":"a"}"#);
        for same in [
            r#"{"lock":"a","mode":"exclusive","wait_ms":0,"lock_delay_ms":0}"#,
            r#"{"locks":[{"name":"a"}],"request_id":"r"}"#,
        ] {
            assert_eq!(plain, hash(same), "{same}");
        }
        for other in [
            r#"{"lock":"b"}"#,
            r#"{"lock":"a","mode":"shared"}"#,
            r#"{"lock":"a","mode":"permits","limit":1}"#,
            r#"{"lock":"a","wait_ms":1}"#,
            r#"{"lock":"a","lock_delay_ms":1}"#,
            r#"{"lock":"a","value":""}"#,
            r#"{"locks":[{"name":"a"},{"name":"b"}]}"#,
        ] {
            assert_ne!(plain, hash(other), "{other}");
        }
        let several = hash(r#"{"locks":[{"name":"a"},{"name":"b","mode":"shared"}]}"#);
        let turned = hash(r#"{"locks":[{"name":"b","mode":"shared"},{"name":"a"}]}"#);
        assert_eq!(several, turned);
    }
}
