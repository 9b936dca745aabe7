//! A link to a node that can be cut, in the way that networks are: nothing comes through any more,
//! nobody is told, and what was sent meanwhile arrives when the link is mended.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::Cluster;

/// Forwards connections to one address. Dropping it cuts it for good.
///
/// Unlike in a real cut, a new connection is accepted meanwhile; no byte of it goes further.
#[derive(Debug)]
pub struct Link {
    endpoint: String,
    is_cut: watch::Sender<bool>,
}

impl Link {
    /// A link to every node of a cluster, in their order.
    ///
    /// # Panics
    /// When the system has no ports.
    pub async fn to_all(cluster: &Cluster) -> Vec<Self> {
        let mut links = Vec::new();
        for node in 0..cluster.len() {
            links.push(Self::to(cluster.http_address(node)).await);
        }
        links
    }

    /// `http://host:port` of the near end of each.
    pub fn endpoints(links: &[Self]) -> Vec<String> {
        links.iter().map(|link| link.endpoint.clone()).collect()
    }

    /// A link to this address.
    ///
    /// # Panics
    /// When the system has no ports.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a listener has an address");
        let (is_cut, watched) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, target, watched.clone()));
            }
        });
        Self {
            endpoint: format!("http://{address}"),
            is_cut,
        }
    }

    /// Lets nothing through from now on.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Lets through what comes from now on, and what came meanwhile.
    pub fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

async fn forward(client: TcpStream, target: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    passable(&mut is_cut).await;
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    tokio::join!(
        pump(from_client, to_server, is_cut.clone()),
        pump(from_server, to_client, is_cut)
    );
}

/// Ends when one end has; the other is told by the end of what it reads.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut is_cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        passable(&mut is_cut).await;
        let done = match read {
            Ok(count @ 1..) => to.write_all(&buffer[..count]).await,
            // A write end that is dropped is shut down.
            Ok(0) | Err(_) => return,
        };
        if done.is_err() {
            return;
        }
    }
}

/// Waits until the link is whole: for ever, once it is dropped.
async fn passable(is_cut: &mut watch::Receiver<bool>) {
    if is_cut.wait_for(|cut| !cut).await.is_err() {
        std::future::pending::<()>().await;
    }
}
