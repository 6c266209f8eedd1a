//! Encrypted connections: trusted certificates and the client's own.

use redis::{Client, ClientTlsConfig, ConnectionAddr, TlsCertificates};
use rustls::InconsistentKeys;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::error::BackendError;

/// The builder's certificates and key, all as PEM.
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    /// Trusted instead of the system's authorities.
    pub(crate) authority: Option<Vec<u8>>,
    /// The client's certificate chain and its key.
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
}

/// Makes the addresses of servers that are reached by TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    anywhere: ConnectionAddr,
}

impl Tls {
    pub(crate) fn new(certificates: Certificates) -> Result<Tls, BackendError> {
        // redis-rs uses the process's crypto provider, and would panic if there is none, or more
        // than one to choose from.
        if CryptoProvider::get_default().is_none() {
            // Fails if another thread was faster, which is just as good.
            let _ = ring::default_provider().install_default();
        }
        let Certificates { authority, client } = certificates;
        // redis-rs ignores a text without certificates.
        let given = [(authority.as_ref(), "CA"), (client.as_ref().map(|(chain, _)| chain), "client")];
        for (pem, what) in given {
            if pem.is_some_and(|pem| !matches!(CertificateDer::pem_slice_iter(pem).next(), Some(Ok(_)))) {
                return Err(BackendError::configuration(format!("the {what} certificate is not in PEM format")));
            }
        }
        if let Some((chain, key)) = &client {
            check_key_matches(chain, key)?;
        }
        let client_tls = client.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        let anywhere = address("", 0, None);
        let client = Client::build_with_tls(anywhere, TlsCertificates { client_tls, root_cert: authority }).map_err(
            |error| BackendError::configuration(format!("the certificates for TLS cannot be used: {error}")),
        )?;
        Ok(Tls { anywhere: client.get_connection_info().addr().clone() })
    }

    pub(crate) fn address(&self, host: &str, port: u16) -> ConnectionAddr {
        address(host, port, Some(&self.anywhere))
    }
}

/// Checks that a certificate belongs to its key, for kinds of keys that can tell.
fn check_key_matches(chain: &[u8], key: &[u8]) -> Result<(), BackendError> {
    let chain = CertificateDer::pem_slice_iter(chain).filter_map(Result::ok).collect();
    let provider = CryptoProvider::get_default();
    let key = PrivateKeyDer::from_pem_slice(key).ok().zip(provider);
    let Some(Ok(key)) = key.map(|(key, provider)| provider.key_provider.load_private_key(key)) else {
        return Err(BackendError::configuration("the key of the client certificate is not in PEM format"));
    };
    match CertifiedKey::new(chain, key).keys_match() {
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(BackendError::configuration("the client certificate does not match its key"))
        }
        _ => Ok(()),
    }
}

/// An address with the certificates of another one.
fn address(host: &str, port: u16, other: Option<&ConnectionAddr>) -> ConnectionAddr {
    let tls_params = match other {
        Some(ConnectionAddr::TcpTls { tls_params, .. }) => tls_params.clone(),
        _ => None,
    };
    ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params }
}
