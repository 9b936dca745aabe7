//! How connections between peers are protected: settings only, nothing here opens a file.

use std::fmt;
use std::path::PathBuf;

/// How peers' connections are protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PeerSecurity {
    /// Not at all: whoever reaches the peer port can read and change the replicated state. For
    /// loopback, and for networks that are trusted or encrypted otherwise.
    #[default]
    Plaintext,
    /// TLS 1.3; both sides show a certificate and check the other's against the same CA.
    MutualTls(MutualTls),
}

/// What mutual TLS takes. Every node has a certificate and key of its own; the CA is shared.
///
/// Whoever holds a certificate of this CA may connect, so use a CA that signs for nothing else. A
/// node that dials also checks that the certificate is valid for the host it dialled (a DNS name or
/// an IP address among the subject alternative names). Certificates must allow both server and
/// client authentication, or say nothing of their use.
///
/// Files are read again for every new connection, so a renewed certificate needs no restart; open
/// connections go on with the old one. Files that cannot be used leave the old ones in place, and an
/// error in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutualTls {
    /// This node's certificate, followed by intermediate ones if there are any.
    pub certificate: Pem,
    /// The certificate's private key: PKCS#8, SEC1 or PKCS#1, not encrypted.
    pub key: Pem,
    /// The certificates that a peer's chain may end in; several while one CA replaces another.
    pub ca: Pem,
}

/// Something in PEM format, at most 1 MiB.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In a file, read again for every new connection.
    File(PathBuf),
    /// As it is.
    Text(Vec<u8>),
}

impl fmt::Display for Pem {
    /// Where it is, never what it says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Text(text) => write!(f, "the {} bytes given", text.len()),
        }
    }
}

impl fmt::Debug for Pem {
    /// As [`Display`](fmt::Display): keys must not end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_not_printed() {
        let key = Pem::Text(b"secret".to_vec());
        assert_eq!(
            format!("{key} {key:?}"),
            "the 6 bytes given the 6 bytes given"
        );
    }
}
