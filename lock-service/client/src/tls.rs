//! TLS of the client: which certificate authorities it believes. Servers are always verified.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::Error;

/// Reads the certificates of a PEM file's text.
pub(crate) fn read_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Error::SetUp(
            "the CA file holds no PEM certificate".to_owned(),
        )),
        Err(error) => Err(Error::SetUp(format!("the CA file is not PEM: {error}"))),
    }
}

/// Believes these authorities and no others, or those of the machine when there are none given.
pub(crate) fn config(
    authorities: Option<&[CertificateDer<'static>]>,
) -> Result<ClientConfig, Error> {
    let set_up = |error: rustls::Error| Error::SetUp(format!("TLS: {error}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(set_up)?;
    let config = match authorities {
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in authorities {
                roots.add(authority.clone()).map_err(set_up)?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        None => builder
            .with_platform_verifier()
            .map_err(set_up)?
            .with_no_client_auth(),
    };
    Ok(config)
}
