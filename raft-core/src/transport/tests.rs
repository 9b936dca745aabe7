//! Handshakes over real sockets, with certificates made for the test.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::frame::{self, MAX_HANDSHAKE_BYTES};
use super::messages::{Hello, MAGIC, VERSION};
use super::*;
use crate::security::{MutualTls, PeerSecurity, Pem};
use crate::types::{ClusterId, NodeId};

const LONG: Duration = Duration::from_secs(30);
const HERE: NodeId = NodeId(1);
const CALLER: NodeId = NodeId(2);
const CLUSTER: ClusterId = ClusterId(7);

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn issue(&self, host: &str) -> MutualTls {
        self.issue_with(host, |_| {})
    }

    fn issue_with(&self, host: &str, adjust: impl FnOnce(&mut CertificateParams)) -> MutualTls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        adjust(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        MutualTls {
            certificate: Pem::Text(certificate.pem().into()),
            key: Pem::Text(key.serialize_pem().into()),
            ca: Pem::Text(self.certificate.clone().into()),
        }
    }
}

fn open(settings: MutualTls) -> Channel {
    Channel::open(&PeerSecurity::MutualTls(settings), "127.0.0.1:7201").unwrap()
}

fn refused_at_start(settings: MutualTls) -> String {
    Channel::open(&PeerSecurity::MutualTls(settings), "127.0.0.1:7201")
        .unwrap_err()
        .to_string()
}

/// A node of [`CLUSTER`] that shakes hands with whoever calls.
struct Server {
    address: SocketAddr,
    acceptor: Acceptor,
}

impl Server {
    async fn new(channel: Channel) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            acceptor: Acceptor::new(listener, channel),
        }
    }

    /// Shakes hands with the next caller. The connection is kept open.
    async fn greet(&self) -> io::Result<super::server::Caller> {
        let stream = self.acceptor.accept(&mut JoinSet::new()).await.unwrap();
        let greeter = self.acceptor.greeter(HERE, Some(CLUSTER));
        timeout(LONG, greeter.greet(stream)).await.unwrap()
    }

    /// Both sides' view of one call.
    async fn called_by(
        &self,
        dialer: &Dialer,
    ) -> (
        io::Result<super::server::Caller>,
        io::Result<super::connection::Connection>,
    ) {
        let address = self.address.to_string();
        tokio::join!(self.greet(), dialer.connect(&address, Some(HERE)))
    }

    /// Both sides' complaints about one call, which neither takes.
    async fn refuses(&self, dialer: &Dialer) -> (String, String) {
        let (here, there) = self.called_by(dialer).await;
        (
            here.err().expect("the server refuses").to_string(),
            there.err().expect("the caller is refused").to_string(),
        )
    }
}

fn dialer(channel: Channel) -> Dialer {
    Dialer::new(CALLER, Some(CLUSTER), channel)
}

#[tokio::test]
async fn peers_with_certificates_of_one_ca_talk() {
    let ca = Authority::new();
    let server = Server::new(open(ca.issue("127.0.0.1"))).await;
    let (here, there) = server.called_by(&dialer(open(ca.issue("127.0.0.1")))).await;
    assert!(here.unwrap().is_member);
    there.map(|_| ()).unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_on_both_sides() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = Server::new(open(ours.issue("127.0.0.1"))).await;
    // The caller checks first.
    let (_, there) = server
        .refuses(&dialer(open(theirs.issue("127.0.0.1"))))
        .await;
    assert!(there.contains("not issued by the CA"), "{there}");
    // A caller that trusts the server's CA has to be refused by the server.
    let mut half = theirs.issue("127.0.0.1");
    half.ca = Pem::Text([&ours.certificate[..], &theirs.certificate].concat().into());
    let (here, there) = server.refuses(&dialer(open(half))).await;
    assert!(here.contains("not issued by the CA"), "{here}");
    assert!(there.contains("refuses this node's certificate"), "{there}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_by_whoever_dials() {
    let ca = Authority::new();
    let server = Server::new(open(ca.issue("db1.example"))).await;
    let (_, there) = server.refuses(&dialer(open(ca.issue("127.0.0.1")))).await;
    assert!(there.contains("not valid for that host"), "{there}");
    assert!(there.contains("db1.example"), "{there}");
}

#[tokio::test]
async fn the_name_on_a_callers_certificate_does_not_matter() {
    let ca = Authority::new();
    let server = Server::new(open(ca.issue("127.0.0.1"))).await;
    let (here, there) = server
        .called_by(&dialer(open(ca.issue("db2.example"))))
        .await;
    assert!(here.is_ok() && there.is_ok());
}

#[tokio::test]
async fn plaintext_and_tls_do_not_meet_and_both_sides_say_what_to_do() {
    let ca = Authority::new();
    let tls = Server::new(open(ca.issue("127.0.0.1"))).await;
    let (here, there) = tls.refuses(&dialer(Channel::Plaintext)).await;
    for words in [here, there] {
        assert!(words.contains("does not speak TLS"), "{words}");
        assert!(words.contains("give the caller a certificate"), "{words}");
    }
    let plain = Server::new(Channel::Plaintext).await;
    let (here, there) = plain.refuses(&dialer(open(ca.issue("127.0.0.1")))).await;
    assert!(here.contains("give this node a certificate"), "{here}");
    assert!(there.contains("does not speak TLS"), "{there}");
    assert!(there.contains("give every node a certificate"), "{there}");
}

#[tokio::test]
async fn cluster_and_node_are_checked_under_tls_too() {
    let ca = Authority::new();
    let server = Server::new(open(ca.issue("127.0.0.1"))).await;
    let channel = open(ca.issue("127.0.0.1"));
    let stranger = Dialer::new(CALLER, Some(ClusterId(8)), channel.clone());
    let (here, there) = server.refuses(&stranger).await;
    for words in [here, there] {
        assert!(words.contains("belongs to cluster"), "{words}");
    }
    let dialer = dialer(channel);
    let address = server.address.to_string();
    let (here, there) = tokio::join!(server.greet(), dialer.connect(&address, Some(NodeId(99))));
    assert!(here.err().unwrap().to_string().contains("not node"));
    assert!(there.err().unwrap().to_string().contains("not node"));
}

fn write(folder: &Path, settings: &MutualTls) {
    let parts = [
        ("crt", &settings.certificate),
        ("key", &settings.key),
        ("ca", &settings.ca),
    ];
    for (name, pem) in parts {
        let Pem::Text(text) = pem else {
            panic!("made as text");
        };
        std::fs::write(folder.join(name), text).unwrap();
    }
}

fn files(folder: &TempDir) -> MutualTls {
    let file = |name| Pem::File(folder.path().join(name));
    MutualTls {
        certificate: file("crt"),
        key: file("key"),
        ca: file("ca"),
    }
}

#[tokio::test]
async fn renewed_files_are_used_by_new_connections_and_bad_ones_are_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &old.issue("127.0.0.1"));
    let server = Server::new(open(files(&folder))).await;
    let of_old = dialer(open(old.issue("127.0.0.1")));
    let of_new = dialer(open(new.issue("127.0.0.1")));
    let (open_here, open_there) = server.called_by(&of_old).await;
    let mut open_here = open_here.unwrap();
    let open_there = open_there.map_err(|error| error.to_string()).ok().unwrap();

    // Half of a renewal: the key does not match yet, so the old pair stays.
    let renewed = new.issue("127.0.0.1");
    let Pem::Text(certificate) = &renewed.certificate else {
        panic!("made as text");
    };
    std::fs::write(folder.path().join("crt"), certificate).unwrap();
    let (here, there) = server.called_by(&of_old).await;
    assert!(here.is_ok() && there.is_ok());
    // The files are gone for a moment.
    std::fs::remove_file(folder.path().join("ca")).unwrap();
    let (here, there) = server.called_by(&of_old).await;
    assert!(here.is_ok() && there.is_ok());

    write(folder.path(), &renewed);
    let (here, there) = server.called_by(&of_new).await;
    assert!(here.is_ok() && there.is_ok());
    server.refuses(&of_old).await;

    // What was open goes on.
    let _answer = open_there.send(&Request::Status).await.unwrap();
    let request = open_here.next_request().await.unwrap();
    assert!(matches!(request, Request::Status));
}

#[test]
fn what_cannot_be_used_is_refused_at_start_in_words() {
    let (ca, other) = (Authority::new(), Authority::new());
    let good = ca.issue("127.0.0.1");
    let with = |change: &dyn Fn(&mut MutualTls)| {
        let mut settings = good.clone();
        change(&mut settings);
        refused_at_start(settings)
    };
    let cases = [
        (
            with(&|tls| tls.key = ca.issue("127.0.0.1").key),
            "does not belong to the certificate",
        ),
        (
            with(&|tls| tls.ca = other.issue("127.0.0.1").ca),
            "not issued by the CA",
        ),
        (
            with(&|tls| tls.key = Pem::File("/nowhere/node.key".into())),
            "/nowhere/node.key cannot be read",
        ),
        (
            with(&|tls| tls.certificate = Pem::Text(b"nothing".to_vec())),
            "holds no PEM certificate",
        ),
        (
            with(&|tls| tls.key = tls.certificate.clone()),
            "holds no PEM private key",
        ),
        (
            refused_at_start(ca.issue_with("127.0.0.1", |params| {
                params.not_before = rcgen::date_time_ymd(2000, 1, 1);
                params.not_after = rcgen::date_time_ymd(2001, 1, 1);
            })),
            "has expired",
        ),
        (
            refused_at_start(ca.issue_with("127.0.0.1", |params| {
                params.not_before = rcgen::date_time_ymd(4000, 1, 1);
            })),
            "not valid yet",
        ),
        (
            refused_at_start(ca.issue_with("127.0.0.1", |params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
            })),
            "both serverAuth and clientAuth",
        ),
    ];
    for (said, expected) in cases {
        assert!(said.contains(expected), "expected `{expected}`: {said}");
        assert!(!said.contains("PRIVATE KEY"), "{said}");
    }
}

/// Everything the server says until it closes, which it must.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is an end too.
    let _ = timeout(LONG, stream.read_to_end(&mut said))
        .await
        .expect("the server closes the connection");
    said
}

#[tokio::test]
async fn a_caller_that_says_nothing_is_closed_before_and_within_tls() {
    let ca = Authority::new();
    for channel in [Channel::Plaintext, open(ca.issue("127.0.0.1"))] {
        // Nothing at all, half of a TLS record, half of a plaintext handshake.
        for start in [&[][..], &[0x16, 3, 1, 2, 0, 1][..], &[0, 0, 0, 40][..]] {
            let server = Server::new(channel.clone()).await;
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(start).await.unwrap();
            let (greeted, _) = tokio::join!(server.greet(), until_closed(&mut stream));
            assert!(greeted.is_err());
        }
    }
}

#[tokio::test]
async fn a_handshake_that_comes_byte_by_byte_does_not_outlive_its_deadline() {
    let server = Server::new(Channel::Plaintext).await;
    let (mut read, mut write) = TcpStream::connect(server.address)
        .await
        .unwrap()
        .into_split();
    let drip = async {
        write.write_all(&[0, 0, 8, 0]).await?;
        loop {
            write.write_all(&[0]).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        #[expect(unreachable_code, reason = "names the error's type")]
        Ok::<(), io::Error>(())
    };
    let closed = async {
        let mut said = Vec::new();
        let _ = timeout(LONG, read.read_to_end(&mut said))
            .await
            .expect("the server closes the connection");
    };
    let (greeted, ()) = tokio::join!(server.greet(), async {
        tokio::select! {
            ended = drip => assert!(ended.is_err()),
            () = closed => {}
        }
    });
    assert_eq!(greeted.err().unwrap().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_handshake_that_announces_too_much_is_refused_at_once() {
    let server = Server::new(Channel::Plaintext).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let announced = MAX_HANDSHAKE_BYTES as u32 + 1;
    stream.write_all(&announced.to_be_bytes()).await.unwrap();
    let (greeted, _) = tokio::join!(server.greet(), until_closed(&mut stream));
    assert_eq!(greeted.err().unwrap().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn the_largest_handshake_there_is_fits_its_limit() {
    let hello = Hello {
        magic: MAGIC,
        version: VERSION,
        cluster: Some(ClusterId(u128::MAX)),
        from: NodeId(u64::MAX),
        to: Some(NodeId(u64::MAX)),
    };
    assert!(frame::encode(0, &hello).unwrap().len() < MAX_HANDSHAKE_BYTES);
}
