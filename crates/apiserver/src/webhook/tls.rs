//! Whom we trust when we call others: a bundle of authorities, or those the machine trusts.

use pki::Swap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A client's configuration that trusts the authorities of a PEM bundle; those of the machine when the bundle is empty.
pub(crate) fn trusting(bundle: &[u8]) -> Result<ClientConfig, String> {
    Ok(verifying(verifier(bundle)?)?.with_no_client_auth())
}

/// As [`trusting`], showing a certificate.
pub(crate) fn trusting_as(bundle: &[u8], certificate: Arc<Swap>) -> Result<ClientConfig, String> {
    Ok(verifying(verifier(bundle)?)?.with_client_cert_resolver(certificate))
}

/// Trusts whoever answers, and shows a certificate.
pub(crate) fn trusting_anybody(certificate: Arc<Swap>) -> Result<ClientConfig, String> {
    Ok(verifying(serve::client::any_server())?.with_client_cert_resolver(certificate))
}

fn verifier(bundle: &[u8]) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let certificates = match bundle {
        [] => machine(),
        bundle => CertificateDer::pem_slice_iter(bundle)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("unable to load root certificates: {error}"))?,
    };
    let mut roots = RootCertStore::empty();
    // Bundles have a few that rustls cannot use; the others still count.
    roots.add_parsable_certificates(certificates.iter().cloned());
    if roots.is_empty() {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned());
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(OrItself { inner, roots: certificates }))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn verifying(verifier: Arc<dyn ServerCertVerifier>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

fn machine() -> Vec<CertificateDer<'static>> {
    let Some(path) = sys::authorities::bundle() else { return Vec::new() };
    CertificateDer::pem_file_iter(path).map(|found| found.filter_map(Result::ok).collect()).unwrap_or_default()
}

/// Trusts what the roots have signed, and the roots themselves: a server may show the very certificate that it is trusted by, as
/// those do that were made by one `openssl req -x509`.
#[derive(Debug)]
struct OrItself {
    inner: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OrItself {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if found.is_ok() || !self.roots.iter().any(|root| root == end_entity) {
            return found;
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        let bad = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, certificate) = X509Certificate::from_der(end_entity).map_err(bad)?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = certificate.validity();
        match (validity.not_before.timestamp() <= seconds, seconds <= validity.not_after.timestamp()) {
            (true, true) => Ok(ServerCertVerified::assertion()),
            (false, _) => Err(Error::InvalidCertificate(CertificateError::NotValidYet)),
            (_, false) => Err(Error::InvalidCertificate(CertificateError::Expired)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
