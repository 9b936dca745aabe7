//! Mutual TLS between peers: loads certificates, loads them again when they change, and puts what
//! goes wrong into words that say what to do.
//!
//! TLS 1.3 only, and no session is ever resumed: each connection checks both certificates, as they
//! are then. Key material is never logged.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, InconsistentKeys, RootCertStore, ServerConfig,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::security::{MutualTls, Pem};

/// No chain of certificates is longer.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// The certificates of one node, as they are now.
pub(crate) struct Tls {
    settings: MutualTls,
    /// `host:port` under which peers reach this node.
    own_address: String,
    current: Mutex<Current>,
}

struct Current {
    texts: Texts,
    ends: Ends,
    /// Why newer files were refused, so that it is said once.
    refused: Option<String>,
}

/// What the sources held when they were last used.
#[derive(PartialEq, Eq)]
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// Both ends of a connection, ready to shake hands.
#[derive(Clone)]
pub(super) struct Ends {
    pub connector: TlsConnector,
    pub acceptor: TlsAcceptor,
}

impl Tls {
    /// Loads and checks everything. Blocking.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(super) fn open(settings: MutualTls, own_address: &str) -> Result<Self, String> {
        let texts = Texts::read(&settings)?;
        let ends = load(&settings, &texts, own_address)?;
        Ok(Self {
            settings,
            own_address: own_address.to_owned(),
            current: Mutex::new(Current {
                texts,
                ends,
                refused: None,
            }),
        })
    }

    /// The ends for a new connection, of files that may have changed.
    pub(super) async fn ends(self: &Arc<Self>) -> io::Result<Ends> {
        let tls = self.clone();
        tokio::task::spawn_blocking(move || tls.look())
            .await
            .map_err(io::Error::other)
    }

    /// Loads what has changed, or keeps what there is. Blocking.
    fn look(&self) -> Ends {
        let mut current = self.current.lock();
        let loaded = Texts::read(&self.settings).and_then(|texts| {
            if texts == current.texts {
                return Ok(None);
            }
            let ends = load(&self.settings, &texts, &self.own_address)?;
            Ok(Some((texts, ends)))
        });
        match loaded {
            Ok(changed) => {
                current.refused = None;
                if let Some((texts, ends)) = changed {
                    tracing::info!("new peer connections use the renewed certificates");
                    (current.texts, current.ends) = (texts, ends);
                }
            }
            Err(why) if current.refused.as_ref() != Some(&why) => {
                tracing::error!(
                    "the changed peer certificates cannot be used, so the old ones stay: {why}"
                );
                current.refused = Some(why);
            }
            Err(_) => {}
        }
        current.ends.clone()
    }
}

impl Texts {
    fn read(settings: &MutualTls) -> Result<Self, String> {
        Ok(Self {
            certificate: read("certificate", &settings.certificate)?,
            key: read("key", &settings.key)?,
            ca: read("CA", &settings.ca)?,
        })
    }
}

fn read(what: &str, pem: &Pem) -> Result<Vec<u8>, String> {
    let path = match pem {
        Pem::Text(text) => return Ok(text.clone()),
        Pem::File(path) => path,
    };
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PEM_BYTES + 1).read_to_end(&mut text))
        .map_err(|error| format!("the peer {what} {pem} cannot be read: {error}"))?;
    match text.len() as u64 > MAX_PEM_BYTES {
        true => Err(format!("the peer {what} {pem} is longer than 1 MiB")),
        false => Ok(text),
    }
}

fn certificates(
    what: &str,
    pem: &Pem,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("the peer {what} {pem} holds no PEM certificate")),
        Err(error) => Err(format!("the peer {what} {pem} is not PEM: {error}")),
    }
}

/// Builds both ends and checks this node's certificate as its peers will.
fn load(settings: &MutualTls, texts: &Texts, own_address: &str) -> Result<Ends, String> {
    let MutualTls {
        certificate,
        key,
        ca,
    } = settings;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates("certificate", certificate, &texts.certificate)?;
    let private = || {
        // The parser's own words might quote the key.
        PrivateKeyDer::from_pem_slice(&texts.key).map_err(|_| {
            format!("the peer key {key} holds no PEM private key that is not encrypted")
        })
    };
    let mut roots = RootCertStore::empty();
    for root in certificates("CA", ca, &texts.ca)? {
        roots
            .add(root)
            .map_err(|error| format!("the peer CA {ca} cannot be used: {error}"))?;
    }
    let roots = Arc::new(roots);

    let config_error = |error: rustls::Error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            format!("the peer key {key} does not belong to the certificate {certificate}")
        }
        other => {
            format!("the peer certificate {certificate} with key {key} cannot be used: {other}")
        }
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| format!("the peer CA {ca} cannot be used: {error}"))?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(config_error)?
        .with_client_cert_verifier(verifier.clone())
        .with_single_cert(chain.clone(), private()?)
        .map_err(config_error)?;
    // A resumed session would go on with certificates that were checked long ago.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(config_error)?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain.clone(), private()?)
        .map_err(config_error)?;
    client.resumption = Resumption::disabled();

    check_own(&chain, &*verifier, roots, provider, own_address)
        .map_err(|why| format!("the peer certificate {certificate} cannot be used: {why}"))?;
    Ok(Ends {
        connector: TlsConnector::from(Arc::new(client)),
        acceptor: TlsAcceptor::from(Arc::new(server)),
    })
}

/// Checks this node's certificate as its peers will, so that what they would refuse is said here.
fn check_own(
    chain: &[CertificateDer<'static>],
    as_client: &dyn ClientCertVerifier,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    own_address: &str,
) -> Result<(), String> {
    let Some((own, between)) = chain.split_first() else {
        return Err("it is empty".to_owned());
    };
    let now = UnixTime::now();
    as_client
        .verify_client_cert(own, between, now)
        .map_err(|error| words(&error))?;
    let as_server = rustls::client::WebPkiServerVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|error| error.to_string())?;
    let name = server_name(own_address).map_err(|error| error.to_string())?;
    match as_server.verify_server_cert(own, between, &name, &[], now) {
        Ok(_) => Ok(()),
        Err(error) if is_of_the_name(&error) => {
            // Whom the others dial is in the membership, which may say otherwise than the settings.
            tracing::warn!(
                "peers that dial this node at {own_address} will refuse its certificate, which is \
                 valid for another host: {}",
                words(&error)
            );
            Ok(())
        }
        Err(error) => Err(words(&error)),
    }
}

fn is_of_the_name(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

/// The name that a certificate must be valid for when `address` (`host:port`) is dialled.
pub(super) fn server_name(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{address}: {host} is neither a host name nor an IP address"),
        )
    })
}

/// What a certificate or a peer's complaint means, and what to do.
fn words(error: &rustls::Error) -> String {
    use CertificateError as C;
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            C::Expired | C::ExpiredContext { .. } => {
                format!("the certificate has expired; renew it ({why})")
            }
            C::NotValidYet | C::NotValidYetContext { .. } => {
                format!("the certificate is not valid yet; check the clocks ({why})")
            }
            C::UnknownIssuer | C::BadSignature => {
                "the certificate was not issued by the CA of this node's settings; all nodes take \
                 certificates of one CA"
                    .to_owned()
            }
            C::InvalidPurpose | C::InvalidPurposeContext { .. } => format!(
                "the certificate's extended key usage must name both serverAuth and clientAuth, or \
                 be left out ({why})"
            ),
            C::NotValidForName | C::NotValidForNameContext { .. } => format!(
                "the certificate is not valid for that host; issue one with the host's name or IP \
                 address as subjectAltName ({why})"
            ),
            other => other.to_string(),
        },
        rustls::Error::NoCertificatesPresented => {
            "the other side shows no certificate; give it one of this CA".to_owned()
        }
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied => {
                format!(
                    "the other side refuses this node's certificate ({alert:?}); its log says why"
                )
            }
            other => {
                format!("the other side ended the TLS handshake ({other:?}); its log says why")
            }
        },
        rustls::Error::InvalidMessage(_) => {
            "the other side does not speak TLS; give every node a certificate, a key and the CA, \
             or none of them"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// The same error, in words where it comes from TLS.
pub(super) fn explained(error: io::Error) -> io::Error {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(tls) => io::Error::new(error.kind(), words(tls)),
        None => error,
    }
}
