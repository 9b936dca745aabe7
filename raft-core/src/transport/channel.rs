//! What carries a peer connection: plain TCP, or TLS over it. Knows nothing of frames but the one
//! that tells a peer of the other kind what is wrong.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frame;
use super::messages::Welcome;
use super::tls::{Tls, explained, server_name};
use crate::error::StartError;
use crate::security::PeerSecurity;

/// The first byte that a TLS client sends. A peer's plaintext handshake begins with a zero.
const TLS_HANDSHAKE: u8 = 0x16;
/// What a refused caller has sent is read up to here, so that the refusal reaches it.
const DRAINED_BYTES: u64 = 64 << 10;
/// An idle connection is probed after the first, and given up after a few of the second.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));

pub(super) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Opens both ends of peer connections, as the settings say.
#[derive(Clone)]
pub(crate) enum Channel {
    Plaintext,
    Tls(Arc<Tls>),
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plaintext => "plaintext",
            Self::Tls(_) => "mutual TLS",
        })
    }
}

impl Channel {
    /// Loads certificates where there are any. Blocking.
    pub fn open(security: &PeerSecurity, own_address: &str) -> Result<Self, StartError> {
        match security {
            PeerSecurity::Plaintext => Ok(Self::Plaintext),
            PeerSecurity::MutualTls(settings) => Tls::open(settings.clone(), own_address)
                .map(|tls| Self::Tls(Arc::new(tls)))
                .map_err(StartError::Configuration),
        }
    }

    /// Connects to `host:port`; the name is resolved anew.
    pub async fn connect(&self, address: &str) -> io::Result<(ReadHalf, WriteHalf)> {
        let stream = TcpStream::connect(address).await?;
        prepare(&stream)?;
        match self {
            Self::Plaintext => Ok(plain_halves(stream)),
            Self::Tls(tls) => {
                let connector = tls.ends().await?.connector;
                let connected = connector.connect(server_name(address)?, stream).await;
                Ok(tls_halves(connected.map_err(explained)?))
            }
        }
    }

    /// Takes a connection over. A caller of the other kind is told so, in plaintext.
    pub async fn accept(&self, mut stream: TcpStream) -> io::Result<(ReadHalf, WriteHalf)> {
        prepare(&stream)?;
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match (self, first == [TLS_HANDSHAKE]) {
            (Self::Plaintext, false) => Ok(plain_halves(stream)),
            (Self::Tls(tls), true) => {
                let acceptor = tls.ends().await?.acceptor;
                match acceptor.accept(stream).into_fallible().await {
                    Ok(stream) => Ok(tls_halves(stream)),
                    Err((error, mut stream)) => {
                        drain(&mut stream).await;
                        Err(explained(error))
                    }
                }
            }
            (Self::Plaintext, true) => {
                let why = "the caller speaks TLS and this node does not; give this node a \
                           certificate, a key and the CA too";
                refuse(&mut stream, why).await
            }
            (Self::Tls(_), false) => {
                let why = "the caller does not speak TLS and this node takes nothing else; give \
                           the caller a certificate, a key and the CA too";
                refuse(&mut stream, why).await
            }
        }
    }
}

/// Small frames leave at once, and a peer that vanished without a word is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE.0)
        .with_interval(KEEPALIVE.1);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

fn plain_halves(stream: TcpStream) -> (ReadHalf, WriteHalf) {
    let (read, write) = stream.into_split();
    (Box::new(read), Box::new(write))
}

fn tls_halves(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> (ReadHalf, WriteHalf) {
    let (read, write) = tokio::io::split(stream);
    (Box::new(read), Box::new(write))
}

async fn refuse<T>(stream: &mut TcpStream, why: &str) -> io::Result<T> {
    let refused = Welcome::Refused {
        why: why.to_owned(),
    };
    stream.write_all(&frame::encode(0, &refused)?).await?;
    drain(stream).await;
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Ends this side and reads what the caller had sent: a close over unread bytes is a reset, which
/// may overtake what was said last. The handshake's deadline ends it.
async fn drain(stream: &mut TcpStream) {
    if stream.shutdown().await.is_ok() {
        // However it ends, there is nothing more to tell.
        let _ = tokio::io::copy(&mut stream.take(DRAINED_BYTES), &mut tokio::io::sink()).await;
    }
}
