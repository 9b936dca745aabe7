//! A session: one lease for many locks, one renewal for all of them.

use std::sync::Arc;
use std::time::Duration;

use lock_api::{DEFAULT_TTL_MS, LeaseId, Owner, RevokeLeaseResponse};

use crate::acquire::{DEFAULT_STOP_TIME, SessionLease};
use crate::keeper::{AtEnd, Beginning, Keeper, View, check_ttl, revoke_in_background};
use crate::{BootTime, Client, Error, LockRequest, Loss, new_lease_secret};

/// How a session is opened. See [`Client::session`].
#[derive(Debug, Clone)]
#[must_use = "no session exists before `open`"]
pub struct SessionRequest {
    client: Client,
    ttl: Duration,
    stop_time: Duration,
    owner: Option<Owner>,
}

/// A lease that is renewed in the background and can hold and wait for many locks.
///
/// It lives while the session or any guard of it does; then it is revoked in the background. When it
/// is lost, so is every lock that it holds.
///
/// ```no_run
/// # async fn run(client: lock_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let session = client.session().open().await?;
/// let reader = session.lock("catalogue").shared().acquire().await?;
/// let writer = session.lock("orders").and("invoices").acquire().await?;
/// writer.release().await?;
/// session.close().await?; // releases the rest
/// # drop(reader);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Session {
    keeper: Arc<Keeper>,
    view: View,
}

impl Client {
    /// Begins a session with a TTL of 15 s unless told otherwise.
    pub fn session(&self) -> SessionRequest {
        SessionRequest {
            client: self.clone(),
            ttl: Duration::from_millis(DEFAULT_TTL_MS),
            stop_time: DEFAULT_STOP_TIME,
            owner: None,
        }
    }
}

impl SessionRequest {
    /// How long the session outlives its last renewal.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Who opens it, for people.
    pub fn owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// How long the holder of its locks needs to stop; 1 s unless set.
    pub fn stop_time(mut self, stop_time: Duration) -> Self {
        self.stop_time = stop_time;
        self
    }

    /// Makes the lease and keeps it.
    ///
    /// # Errors
    /// [`Error::TtlTooShort`]; [`Error::Refused`] with `invalid_request` when the TTL is out of the
    /// cluster's bounds; [`Error::LostBeforeUse`].
    ///
    /// Cancellation safe: if the future is dropped, or fails, the lease is revoked in the background.
    pub async fn open(self) -> Result<Session, Error> {
        check_ttl(self.ttl, self.stop_time)?;
        let mut revoke = RevokeOnDrop {
            client: self.client.clone(),
            lease: Some(new_lease_secret()),
        };
        let Some(lease) = revoke.lease.clone() else {
            return Err(Error::SetUp("no lease secret".to_owned()));
        };
        // Whichever sending made the lease came later, so this is a safe beginning.
        let sent = self.client.now();
        let created = self
            .client
            .create_lease(&lease, self.ttl, self.owner)
            .await?;
        let beginning = Beginning {
            sent,
            ttl: Duration::from_millis(created.ttl_ms),
            renew_after_ms: created.renew_after_ms,
            holds: Vec::new(),
        };
        let renew_first = self.client.now() > sent + beginning.ttl / 3;
        let keeper = Keeper::start(
            &self.client,
            &lease,
            self.stop_time,
            beginning,
            renew_first,
            AtEnd::Revoke,
        )
        .await?;
        revoke.lease = None;
        Ok(Session {
            view: keeper.view(&[], sent),
            keeper: Arc::new(keeper),
        })
    }
}

impl Session {
    /// Asks for a lock with this session's lease.
    pub fn lock(&self, name: impl Into<String>) -> LockRequest<SessionLease> {
        LockRequest::new(name.into(), SessionLease(Arc::clone(&self.keeper)))
    }

    /// The lease's public id.
    pub fn lease_id(&self) -> LeaseId {
        self.keeper.lease().id()
    }

    /// Whether the session may be believed at this moment, and until when at least.
    ///
    /// # Errors
    /// The [`Loss`], from the local deadline on.
    pub fn check(&self) -> Result<BootTime, Loss> {
        self.view.check()
    }

    /// Waits until the session is lost, and with it all that it holds. Cancellation safe.
    pub async fn lost(&self) -> Loss {
        self.view.lost().await
    }

    /// Ends the session, and with it all that it holds and waits for. Its guards are lost.
    ///
    /// # Errors
    /// As [`Client::revoke_lease`]; after [`Error::Unknown`] it may live until its TTL has passed.
    ///
    /// Cancellation safe: if the future is dropped the lease may live until its TTL has passed.
    pub async fn close(self) -> Result<RevokeLeaseResponse, Error> {
        self.keeper.stop();
        let client = self.keeper.client();
        client.revoke_lease(self.keeper.lease()).await
    }
}

/// Revokes a lease whose maker went away before it was kept.
struct RevokeOnDrop {
    client: Client,
    lease: Option<lock_api::LeaseSecret>,
}

impl Drop for RevokeOnDrop {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            revoke_in_background(&self.client, &lease);
        }
    }
}
