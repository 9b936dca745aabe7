//! Runs one node: peers, HTTP, ticker, until told to stop or until it fails.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use raft_core::{Config, Member, Node, Start, StartError, SyncPolicy};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::auth::Auth;
use crate::clock::ClusterClock;
use crate::config::ServeConfig;
use crate::https::{Certificate, TlsListener};
use crate::machine::{LockMachine, Surroundings};
use crate::metrics::Exposition;
use crate::planted;
use crate::record::AppliedRecord;
use crate::routes::{App, router};
use crate::service::Service;
use crate::ticker::Ticker;

/// Requests under way have this long to end when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// What was sent to a client must be taken within this, or its connection ends.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a server ended otherwise than by being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}; is another process using it?")]
    Listen {
        /// Which address.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// The node cannot start.
    #[error("{0}")]
    Start(#[from] StartError),
    /// The node failed while it ran. It must not go on: what it holds may not be durable.
    #[error("this node has failed and stops: {0}")]
    Failed(String),
    /// The HTTP server failed, or the log could not be closed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The sockets of a node.
pub struct Listeners {
    /// For clients.
    pub http: TcpListener,
    /// For peers.
    pub peer: TcpListener,
}

impl Listeners {
    /// Binds what the settings name.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub async fn bind(config: &ServeConfig) -> Result<Self, ServeError> {
        let bind = async |address: std::net::SocketAddr| {
            TcpListener::bind(address)
                .await
                .map_err(|error| ServeError::Listen {
                    address: address.to_string(),
                    error,
                })
        };
        Ok(Self {
            http: bind(config.listen_http).await?,
            peer: bind(config.listen_peer).await?,
        })
    }
}

/// Serves until `shutdown` resolves or the node fails. HTTP answers from the start: 503 until this
/// node is a member of a cluster.
///
/// # Errors
/// See [`ServeError`].
pub async fn run(
    config: ServeConfig,
    listeners: Listeners,
    exposition: Exposition,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let protection = Protection::open(&config)?;
    let _reloading = AbortOnDrop(tokio::spawn(protection.clone().reload_on_hangup()));
    let upkeep = tokio::spawn(exposition.clone().upkeep());
    let app = App::new(exposition, protection.auth.clone());
    let (stop_http, stopping) = oneshot::channel();
    let http = serve_http(
        listeners.http,
        router(app.clone()),
        protection.certificate,
        stopping,
    )?;

    tokio::pin!(shutdown);
    let started = tokio::select! {
        started = start_node(&config, listeners.peer) => Some(started?),
        () = &mut shutdown => None,
    };
    let mut failure = None;
    if let Some((node, surroundings)) = started {
        let hub = surroundings.events.clone();
        let waiters = surroundings.waiters.clone();
        let service = Arc::new(Service::new(node.clone(), waiters, hub.clone()));
        let events = tokio::spawn(hub.clone().run(node.clone()));
        let ticker = tokio::spawn(
            Ticker {
                node: node.clone(),
                clock: surroundings.clock,
                alarm: surroundings.alarm,
            }
            .run(),
        );
        app.serve(service);
        tracing::info!(
            name = config.name,
            node = %node.id(),
            cluster = %node.cluster_id(),
            http = config.advertise_http,
            "serving"
        );
        tokio::select! {
            () = &mut shutdown => tracing::info!("stopping"),
            why = node.failed() => failure = Some(why),
        }
        // Before the requests under way are waited for: others can be served at once elsewhere.
        node.resign().await;
        ticker.abort();
        // They would hold up the end of the server; whoever watches goes on elsewhere.
        hub.stop();
        let _ = stop_http.send(());
        if failure.is_none() {
            drain(http).await?;
        }
        events.abort();
        match (stop_node(&node).await, &failure) {
            (Err(error), Some(_)) => tracing::debug!(%error, "a failed node does not stop cleanly"),
            (stopped, _) => stopped?,
        }
    } else {
        let _ = stop_http.send(());
        drain(http).await?;
    }
    upkeep.abort();
    match failure {
        None => Ok(()),
        Some(why) => Err(ServeError::Failed(why)),
    }
}

/// What protects the API, read again on SIGHUP.
#[derive(Clone)]
struct Protection {
    auth: Option<Arc<Auth>>,
    certificate: Option<Arc<Certificate>>,
}

impl Protection {
    fn open(config: &ServeConfig) -> Result<Self, ServeError> {
        let unusable = |why: String| ServeError::Start(StartError::Configuration(why));
        let auth = match &config.auth_file {
            None => None,
            Some(path) => {
                let auth = Auth::open(path).map_err(|error| unusable(error.to_string()))?;
                Some(Arc::new(auth))
            }
        };
        let certificate = match &config.http_certificate {
            None => None,
            Some((chain, key)) => Some(Arc::new(Certificate::open(chain, key).map_err(unusable)?)),
        };
        Ok(Self { auth, certificate })
    }

    async fn reload_on_hangup(self) {
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => {
                tracing::error!(%error, "SIGHUP cannot be handled; files are not read again");
                return;
            }
        };
        while hangups.recv().await.is_some() {
            let protection = self.clone();
            let reloaded = tokio::task::spawn_blocking(move || protection.reload()).await;
            if let Err(error) = reloaded {
                tracing::error!(%error, "reading the files again failed");
            }
        }
    }

    fn reload(&self) {
        if let Some(auth) = &self.auth {
            match auth.reload() {
                Ok(entries) => tracing::info!(entries, "read the bearer tokens again"),
                Err(error) => tracing::error!("the old bearer tokens stay: {error}"),
            }
        }
        if let Some(certificate) = &self.certificate {
            match certificate.reload() {
                Ok(()) => tracing::info!("new connections of clients use the certificate as it is"),
                Err(error) => tracing::error!("the old certificate stays: {error}"),
            }
        }
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves the API until `stop`, over TLS where there is a certificate.
fn serve_http(
    listener: TcpListener,
    router: Router,
    certificate: Option<Arc<Certificate>>,
    stop: oneshot::Receiver<()>,
) -> io::Result<JoinHandle<io::Result<()>>> {
    let stopped = async {
        // An error means that the sender is gone, which also means to stop.
        let _ = stop.await;
    };
    Ok(match certificate {
        Some(certificate) => {
            let listener = TlsListener::new(listener, certificate)?;
            let http = axum::serve(listener, router).with_graceful_shutdown(stopped);
            tokio::spawn(http.into_future())
        }
        None => {
            let listener = listener.tap_io(|stream| {
                if let Err(error) = prepare(stream) {
                    tracing::debug!(%error, "a client's connection keeps the system's settings");
                }
            });
            let http = axum::serve(listener, router).with_graceful_shutdown(stopped);
            tokio::spawn(http.into_future())
        }
    })
}

/// Small packets leave at once, and a client that takes nothing for a while is cut off.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT))
}

async fn drain(http: JoinHandle<io::Result<()>>) -> Result<(), ServeError> {
    match timeout(DRAIN_TIMEOUT, http).await {
        Ok(Ok(ended)) => Ok(ended?),
        Ok(Err(error)) => Err(io::Error::other(error).into()),
        Err(_) => {
            tracing::info!("some requests did not end in time and are cut off");
            Ok(())
        }
    }
}

async fn stop_node(node: &Node<LockMachine>) -> Result<(), ServeError> {
    node.stop().await.map_err(|error| {
        ServeError::Failed(format!("the log could not be closed cleanly: {error}"))
    })
}

/// Founds a cluster of one in an empty data directory; `run` then serves it.
///
/// # Errors
/// When the directory belongs to a cluster already, or cannot be used.
pub async fn init(config: &ServeConfig) -> Result<(), ServeError> {
    let founded = raft_core::found_alone(&config.data_dir, member(config)).await?;
    tracing::info!(
        node = %founded.node,
        cluster = %founded.cluster,
        data_dir = %config.data_dir.display(),
        "founded a cluster of one; start it with `palisaded serve` and the same settings, and further \
         nodes with --join {}",
        config.advertise_peer
    );
    Ok(())
}

/// What the membership is to say of this node.
fn member(config: &ServeConfig) -> Member {
    Member {
        name: config.name.clone(),
        peer_address: config.advertise_peer.clone(),
        service_address: config.advertise_http.clone(),
    }
}

async fn start_node(
    config: &ServeConfig,
    listener: TcpListener,
) -> Result<(Arc<Node<LockMachine>>, Surroundings), StartError> {
    let start = if config.alone {
        Start::Alone
    } else if !config.join.is_empty() {
        Start::Join(config.join.clone())
    } else if !config.initial_peers.is_empty() {
        Start::InitialPeers(config.initial_peers.clone())
    } else {
        Start::Existing
    };
    let mut raft = Config::new(&config.data_dir, member(config), start);
    raft.stay_learner = config.learner;
    if let Some(entries) = config.snapshot_after_entries {
        raft.snapshot_after_entries = entries;
    }
    if let Some(bytes) = config.snapshot_after_bytes {
        raft.snapshot_after_bytes = bytes;
    }
    if let Some(bytes) = config.free_space_floor {
        raft.free_space_floor_bytes = bytes;
    }
    if let Some(ms) = config.election_timeout_ms {
        raft.heartbeat_interval = Duration::from_millis(ms / 4);
        raft.election_timeout = (Duration::from_millis(ms), Duration::from_millis(2 * ms));
    }
    if let Some(entries) = config.keep_entries {
        raft.keep_entries = entries;
    }
    if let Some(proposals) = config.max_in_flight_proposals {
        raft.max_in_flight_proposals = proposals;
    }
    if let Some(bytes) = config.max_in_flight_bytes {
        raft.max_in_flight_bytes = bytes;
    }
    raft.security = config.peer_security.clone();
    if config.unsafe_no_sync {
        tracing::warn!("the log is never synced: acknowledged writes are lost in a power cut");
        raft.sync = SyncPolicy::Never;
    }
    if let Some(planted) = planted::sync_policy() {
        raft.sync = planted;
    }
    let record = config.record_applied.as_deref().map(AppliedRecord::open);
    let record = record.transpose().map_err(StartError::Storage)?;
    let surroundings = Surroundings {
        check_invariants: config.check_invariants,
        record,
        ..Surroundings::default()
    };
    let machine = LockMachine::new(surroundings.clone());
    let clock = ClusterClock::new(surroundings.clock.clone());
    let node = Node::start(raft, listener, machine, clock).await?;
    Ok((Arc::new(node), surroundings))
}
