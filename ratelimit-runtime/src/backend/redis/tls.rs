//! Encrypted connections: which certificates are trusted, and which are shown.
//!
//! The provider of cryptography is named here, so that none has to be installed for the process.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::config::invalid;
use super::stream::{Address, Socket};
use crate::error::{BackendError, BackendErrorKind};

/// What a builder was given; all as PEM.
#[derive(Clone, Default)]
pub(super) struct Certificates {
    /// Whom to trust instead of whom the system trusts.
    pub(super) authority: Option<Vec<u8>>,
    /// What the client shows, and its key.
    pub(super) client: Option<(Vec<u8>, Vec<u8>)>,
}

/// Makes encrypted connections.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    pub(super) fn new(certificates: &Certificates) -> Result<Tls, BackendError> {
        let mut roots = RootCertStore::empty();
        if let Some(pem) = &certificates.authority {
            for certificate in chain(pem, "CA certificate")? {
                roots.add(certificate).map_err(|error| invalid(format!("the CA certificate is wrong: {error}")))?;
            }
        } else {
            // Some of a system's certificates may be of a kind that cannot be read.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(invalid("no CA certificate is found on this system: name one by `ca_certificate`"));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(roots);
        let config = match &certificates.client {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| invalid("the key of the client certificate is not a private key as PEM"))?;
                config
                    .with_client_auth_cert(chain(certificate, "client certificate")?, key)
                    .map_err(|error| invalid(format!("the client certificate and its key cannot be used: {error}")))?
            }
            None => config.with_no_client_auth(),
        };
        Ok(Tls { config: Arc::new(config) })
    }

    /// Verifies the server and agrees on keys.
    pub(super) fn shake_hands(
        &self,
        mut socket: Socket,
        address: &Address,
    ) -> Result<StreamOwned<ClientConnection, Socket>, BackendError> {
        let Address::Tcp(host, _) = address else {
            return Err(invalid("there is no TLS over a unix socket"));
        };
        let name = ServerName::try_from(host.clone())
            .map_err(|_| invalid(format!("TLS needs a host name or an IP address, and {host} is none")))?;
        let failed = |error: &dyn fmt::Display| {
            BackendError::new(BackendErrorKind::Configuration, format!("TLS with Redis at {address} failed: {error}"))
        };
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name).map_err(|error| failed(&error))?;
        while connection.is_handshaking() {
            if let Err(error) = connection.complete_io(&mut socket) {
                return Err(match error.kind() {
                    // What rustls says of certificates and protocols.
                    std::io::ErrorKind::InvalidData => failed(&error),
                    _ => BackendError::new(
                        BackendErrorKind::Unreachable,
                        format!("Redis at {address} cannot be reached by TLS: {error}"),
                    ),
                });
            }
        }
        Ok(StreamOwned::new(connection, socket))
    }
}

fn chain(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, BackendError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(invalid(format!("the {what} is not one as PEM"))),
    }
}
