//! A certificate with its chain and key, and what can be read from it.

use crate::Error;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};
use x509_parser::der_parser::asn1_rs::{Oid, oid};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The attribute of a subject that is a user's id.
const UID: Oid<'static> = oid!(1.3.6.1.4.1.57683.2);

/// A certificate and its private key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key, PKCS #8.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("subject", &self.subject().ok()).finish_non_exhaustive()
    }
}

/// Who a certificate names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Common name: the user.
    pub common_name: String,
    /// Organizations: the user's groups.
    pub organizations: Vec<String>,
    /// The user's id, when there is an attribute for it (1.3.6.1.4.1.57683.2); else empty.
    pub uid: String,
    /// SHA-256 of the certificate's DER form, hexadecimal.
    pub fingerprint: String,
    /// When the certificate ceases to be valid, in seconds since 1970.
    pub not_after: i64,
}

impl Subject {
    /// Reads the subject of a certificate in DER.
    pub fn of(der: &[u8]) -> Result<Self, Error> {
        let certificate = parse(der)?;
        let text = |value: Result<&str, _>| {
            value
                .map(str::to_owned)
                .map_err(|_: x509_parser::error::X509Error| Error::Unusable("a subject attribute is not text".into()))
        };
        let subject = certificate.subject();
        Ok(Self {
            common_name: subject.iter_common_name().next().map(|a| text(a.as_str())).transpose()?.unwrap_or_default(),
            organizations: subject.iter_organization().map(|a| text(a.as_str())).collect::<Result<_, _>>()?,
            uid: subject.iter_by_oid(&UID).next().map(|a| text(a.as_str())).transpose()?.unwrap_or_default(),
            not_after: certificate.validity().not_after.timestamp(),
            fingerprint: hex::encode(ring::digest::digest(&ring::digest::SHA256, der)),
        })
    }
}

impl Identity {
    /// Reads both from one PEM text.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let block = |label: &str| {
            let start = pem.find(&format!("-----BEGIN {label}-----"));
            let end_mark = format!("-----END {label}-----");
            let end = pem.find(&end_mark).map(|at| at + end_mark.len());
            start.zip(end).and_then(|(start, end)| pem.get(start..end)).map(|text| format!("{text}\n"))
        };
        let missing = |what: &str| Error::Unusable(format!("there is no {what} in it"));
        let identity = Self {
            certificate_pem: block("CERTIFICATE").ok_or_else(|| missing("certificate"))?,
            key_pem: block("PRIVATE KEY").ok_or_else(|| missing("private key"))?,
        };
        identity.check_pair()?;
        Ok(identity)
    }

    /// Both as one PEM text.
    pub fn to_pem(&self) -> String {
        format!("{}{}", self.certificate_pem, self.key_pem)
    }

    /// The certificate in DER.
    pub fn certificate(&self) -> Result<CertificateDer<'static>, Error> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(|e| Error::Unusable(e.to_string()))
    }

    /// The private key in DER.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| Error::Unusable(e.to_string()))
    }

    /// Whom the certificate names.
    pub fn subject(&self) -> Result<Subject, Error> {
        Subject::of(&self.certificate()?)
    }

    /// When it begins and ceases to be valid.
    pub fn validity(&self) -> Result<(SystemTime, SystemTime), Error> {
        let der = self.certificate()?;
        let certificate = parse(&der)?;
        let validity = certificate.validity();
        let time = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs());
        Ok((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
    }

    /// The moment from which it ought to be renewed: when less than a third of its life is left.
    pub fn renew_at(&self) -> Result<SystemTime, Error> {
        let (start, end) = self.validity()?;
        Ok(end - end.duration_since(start).unwrap_or_default() / 3)
    }

    /// Whether all these names and addresses are among its alternative names.
    pub fn covers(&self, dns: &[String], ips: &[IpAddr]) -> Result<bool, Error> {
        let der = self.certificate()?;
        let certificate = parse(&der)?;
        let extension = certificate.subject_alternative_name().map_err(|e| Error::Unusable(e.to_string()))?;
        let names = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let has_dns = |wanted: &str| names.iter().any(|name| matches!(name, GeneralName::DNSName(n) if *n == wanted));
        let has_ip = |wanted: &IpAddr| {
            let octets = match wanted {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            names.iter().any(|name| matches!(name, GeneralName::IPAddress(n) if *n == octets))
        };
        Ok(dns.iter().all(|name| has_dns(name)) && ips.iter().all(has_ip))
    }

    /// Fails unless key and certificate belong together.
    fn check_pair(&self) -> Result<(), Error> {
        let key = rcgen::KeyPair::from_pem(&self.key_pem).map_err(|e| Error::Unusable(format!("private key: {e}")))?;
        let der = self.certificate()?;
        let certificate = parse(&der)?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(Error::Unusable("certificate and private key do not belong together".into()));
        }
        Ok(())
    }
}

/// Parses a certificate in DER; trailing bytes are an error.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(Error::Unusable("there are bytes after the certificate".into())),
        Err(error) => Err(Error::Unusable(format!("not a certificate: {error}"))),
    }
}
