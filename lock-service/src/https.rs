//! HTTPS for clients: a listener that shakes hands before axum sees a connection.
//!
//! Handshakes run beside each other, each with a deadline, so that a slow client holds up nobody.
//! Certificate and key are read again on SIGHUP; a file that cannot be used changes nothing. No key
//! material is ever logged.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::server::prepare;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once; further connections wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 256;
const ACCEPT_FAILED_PAUSE: Duration = Duration::from_millis(100);
const HTTP_1_1: &[u8] = b"http/1.1";

/// A certificate and its key, as they are now.
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    current: RwLock<TlsAcceptor>,
}

impl Certificate {
    /// Reads both files. Blocking.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn open(chain: &Path, key: &Path) -> Result<Self, String> {
        Ok(Self {
            current: RwLock::new(load(chain, key)?),
            chain: chain.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Reads both files again; open connections go on as they are. Blocking.
    ///
    /// # Errors
    /// As [`Certificate::open`]; what was used before goes on to be used.
    pub fn reload(&self) -> Result<(), String> {
        *self.current.write() = load(&self.chain, &self.key)?;
        Ok(())
    }
}

fn load(chain: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .map_err(|error| format!("--http-cert {}: {error}", chain.display()))?;
    if certificates.is_empty() {
        return Err(format!(
            "--http-cert {} holds no PEM certificate",
            chain.display()
        ));
    }
    // The parser's own words might quote the key.
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        rustls::pki_types::pem::Error::Io(error) => {
            format!("--http-key {}: {error}", key.display())
        }
        _ => format!(
            "--http-key {} holds no PEM private key that is not encrypted",
            key.display()
        ),
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(certificates, private)
        .map_err(|error| {
            format!(
                "--http-cert {} with --http-key {}: {error}",
                chain.display(),
                key.display()
            )
        })?;
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

type Ready = (TlsStream<TcpStream>, SocketAddr);

/// Connections whose handshake is done.
pub struct TlsListener {
    ready: mpsc::Receiver<Ready>,
    local: SocketAddr,
    /// Aborted when dropped, and with it the handshakes under way.
    _accepting: JoinSet<()>,
}

impl TlsListener {
    /// Takes connections from `listener` from now on.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn new(listener: TcpListener, certificate: Arc<Certificate>) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let (done, ready) = mpsc::channel(MAX_HANDSHAKES);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, certificate, done));
        Ok(Self {
            ready,
            local,
            _accepting: accepting,
        })
    }
}

async fn accept(listener: TcpListener, certificate: Arc<Certificate>, done: mpsc::Sender<Ready>) {
    let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut handshakes = JoinSet::new();
    // Neither end is ever closed while this runs.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        while handshakes.try_join_next().is_some() {}
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, usually; accepting again at once would spin.
                tracing::warn!(%error, "cannot accept a client's connection");
                tokio::time::sleep(ACCEPT_FAILED_PAUSE).await;
                continue;
            }
        };
        let (acceptor, done) = (certificate.current.read().clone(), done.clone());
        handshakes.spawn(async move {
            let _slot = slot;
            let shaken = async {
                prepare(&stream)?;
                acceptor.accept(stream).await
            };
            match timeout(HANDSHAKE_TIMEOUT, shaken).await {
                // An error means that the server stops.
                Ok(Ok(stream)) => drop(done.send((stream, from)).await),
                Ok(Err(error)) => tracing::debug!(%from, %error, "a client's TLS handshake failed"),
                Err(_) => tracing::debug!(%from, "a client's TLS handshake took too long"),
            }
        });
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.local)
    }
}
