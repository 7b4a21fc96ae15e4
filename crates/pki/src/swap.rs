//! TLS configurations whose certificate can be replaced while they are in use.

use crate::{Authority, Error, Identity};
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use std::sync::{Arc, PoisonError, RwLock};

/// A certificate and key that a TLS configuration asks for at each handshake.
pub struct Swap(RwLock<Arc<CertifiedKey>>);

impl std::fmt::Debug for Swap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Swap")
    }
}

impl Swap {
    /// Starts with `identity`.
    pub fn new(identity: &Identity) -> Result<Self, Error> {
        Ok(Self(RwLock::new(certified(identity)?)))
    }

    /// New handshakes use `identity` from now on.
    pub fn replace(&self, identity: &Identity) -> Result<(), Error> {
        let key = certified(identity)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }

    /// What handshakes use now.
    pub fn current(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Swap {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Swap {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, Error> {
    let key = rustls::crypto::ring::sign::any_supported_type(&identity.key()?)?;
    Ok(Arc::new(CertifiedKey::new(vec![identity.certificate()?], key)))
}

fn roots(authorities: &[&Authority]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.certificate().clone())?;
    }
    Ok(roots)
}

/// A server's configuration: TLS 1.2 and later, HTTP/2 and 1.1; a client may show a certificate, which must then be signed by one
/// of these. Where there are several it is the server's matter what to believe of whom.
pub fn server_config(certificate: Arc<Swap>, clients: &[&Authority]) -> Result<ServerConfig, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(clients)?), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| Error::Unusable(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client's configuration: trusts `servers` only; shows a certificate when it has one. No ALPN is offered.
pub fn client_config(servers: &Authority, certificate: Option<Arc<Swap>>) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(&[servers])?);
    Ok(match certificate {
        Some(certificate) => builder.with_client_cert_resolver(certificate),
        None => builder.with_no_client_auth(),
    })
}
