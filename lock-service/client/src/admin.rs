//! What operators do: look at the cluster, change its members, end what others hold, take a backup.

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use lock_api::{
    AddressRequest, ClusterResponse, FencingToken, FinishChangeRequest, ForceReleaseRequest,
    ForceReleaseResponse, LeaseId, LockName, MemberRequest, MembershipResponse, Problem,
    ReplaceRequest, RevokeLeaseRequest, RevokeLeaseResponse, SnapshotRequest, SnapshotResponse,
    TransferRequest, TransferResponse, path,
};

use crate::transport::{Reply, WireRequest};
use crate::{AttemptFailure, Client, Error};

impl Client {
    /// The cluster as one node sees it. Cancellation safe.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node answers.
    pub async fn cluster(&self) -> Result<ClusterResponse, Error> {
        self.read(path::CLUSTER, &()).await
    }

    /// Gives a learner that has caught up its vote. Repeating is harmless.
    ///
    /// # Errors
    /// [`Error::Refused`] says why not; after [`Error::Unknown`] the change goes on, and may succeed.
    /// So for every change of the members. Cancellation safe in the same way.
    pub async fn promote_member(&self, body: &MemberRequest) -> Result<MembershipResponse, Error> {
        self.write(path::PROMOTE, body, None, None).await
    }

    /// Takes a member out, for good. Repeating is harmless.
    ///
    /// # Errors
    /// As [`Client::promote_member`].
    pub async fn remove_member(&self, body: &MemberRequest) -> Result<MembershipResponse, Error> {
        self.write(path::REMOVE, body, None, None).await
    }

    /// A voter goes and a learner gets its vote, in one change. Repeating is harmless.
    ///
    /// # Errors
    /// As [`Client::promote_member`].
    pub async fn replace_member(&self, body: &ReplaceRequest) -> Result<MembershipResponse, Error> {
        self.write(path::REPLACE, body, None, None).await
    }

    /// Changes a member's name or addresses. Repeating is harmless.
    ///
    /// # Errors
    /// As [`Client::promote_member`].
    pub async fn readdress_member(
        &self,
        body: &AddressRequest,
    ) -> Result<MembershipResponse, Error> {
        self.write(path::ADDRESS, body, None, None).await
    }

    /// Finishes a change of voters that was interrupted. Repeating is harmless.
    ///
    /// # Errors
    /// As [`Client::promote_member`].
    pub async fn finish_change(
        &self,
        body: &FinishChangeRequest,
    ) -> Result<MembershipResponse, Error> {
        self.write(path::FINISH_CHANGE, body, None, None).await
    }

    /// Makes another voter the leader.
    ///
    /// # Errors
    /// As [`Client::promote_member`].
    pub async fn transfer_leadership(
        &self,
        body: &TransferRequest,
    ) -> Result<TransferResponse, Error> {
        self.write(path::TRANSFER, body, None, None).await
    }

    /// Has one node take a snapshot, in the background.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn snapshot(&self) -> Result<SnapshotResponse, Error> {
        self.write(path::SNAPSHOT, &SnapshotRequest {}, None, None)
            .await
    }

    /// Ends the lease that holds a lock. With `now` everything that it held is free at once, which is
    /// only safe when its holder is known to have stopped; otherwise it is held back until the
    /// holder must have noticed.
    ///
    /// # Errors
    /// [`Error::Refused`] when that lease does not hold that lock under that token.
    ///
    /// Cancellation safe: if the future is dropped it may or may not have happened.
    pub async fn force_release(
        &self,
        lock: LockName,
        token: FencingToken,
        lease_id: LeaseId,
        now: bool,
    ) -> Result<ForceReleaseResponse, Error> {
        let body = ForceReleaseRequest {
            lock,
            token,
            lease_id,
            now: now.then_some(true),
        };
        self.write(path::FORCE_RELEASE, &body, None, None).await
    }

    /// Ends somebody else's lease by its id; `now` as in [`Client::force_release`].
    ///
    /// # Errors
    /// [`Error::Refused`] with `lease_not_found` when the cluster does not know it.
    ///
    /// Cancellation safe: if the future is dropped it may or may not have happened.
    pub async fn revoke_lease_by_id(
        &self,
        lease_id: LeaseId,
        now: bool,
    ) -> Result<RevokeLeaseResponse, Error> {
        let body = RevokeLeaseRequest {
            lease_id: Some(lease_id),
            now: now.then_some(true),
            ..RevokeLeaseRequest::default()
        };
        self.write(path::REVOKE_LEASE, &body, None, None).await
    }

    /// A backup of the whole cluster, piece by piece. It is complete only when the stream ends
    /// without an error. Every endpoint is asked once.
    ///
    /// # Errors
    /// [`Error::Refused`] when this caller may not; [`Error::Unavailable`] when no node begins one.
    /// Cancellation safe.
    pub async fn backup(&self) -> Result<BoxStream<'static, Result<Bytes, String>>, Error> {
        let request = WireRequest::get(path::BACKUP, &())?;
        let mut failures = Vec::new();
        for _ in self.endpoints() {
            let endpoint = self.transport().pick();
            let limit = self.request_timeout();
            let reason = match self.transport().open(endpoint, &request, limit).await {
                Ok(reply) if reply.status == 200 => {
                    self.transport().succeeded(endpoint);
                    let pieces = reply.body.map(|piece| piece.map_err(|error| error.reason));
                    return Ok(pieces.boxed());
                }
                Ok(reply) => match Reply::read(reply).await {
                    Ok(reply) => match serde_json::from_slice::<Problem>(&reply.body) {
                        Ok(problem) if !problem.retryable => {
                            let problem = Box::new(problem);
                            return Err(Error::Refused { problem });
                        }
                        Ok(problem) => problem.to_string(),
                        Err(_) => format!("HTTP {} that is not Palisade's", reply.status),
                    },
                    Err(no_reply) => no_reply.reason,
                },
                Err(no_reply) => no_reply.reason,
            };
            self.transport().failed(endpoint);
            let endpoint = self.endpoints()[endpoint].clone();
            failures.push(AttemptFailure { endpoint, reason });
        }
        Err(Error::Unavailable { failures })
    }
}
