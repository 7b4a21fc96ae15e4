//! A certificate authority: signs leafs, and checks what others present.

use crate::identity::parse;
use crate::request::{AltNames, Request};
use crate::sign::{self, Leaf};
use crate::{Error, Identity, Profile, Subject, Usage, pem};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer};
use rcgen::{KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber};
use rustls_pki_types::CertificateDer;
use std::time::{Duration, SystemTime};
use x509_parser::extensions::ParsedExtension;

/// How long an authority lives.
pub(crate) const AUTHORITY_LIFE: Duration = Duration::from_secs(3_652 * 24 * 60 * 60);
/// How long a leaf lives.
pub(crate) const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// A certificate that lives less than this is not cut short for having begun earlier (as upstream's signer has it).
const SHORT: Duration = Duration::from_secs(8 * 60 * 60);
/// Certificates begin this much in the past, for clients whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// A certificate authority with its private key.
pub struct Authority {
    identity: Identity,
    der: CertificateDer<'static>,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one, signed by itself.
    pub fn create(common_name: &str, now: SystemTime) -> Result<Self, Error> {
        let failed = |source| Error::Issue { name: common_name.to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, common_name);
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + AUTHORITY_LIFE).into();
        params.serial_number = Some(SerialNumber::from_slice(&serial().map_err(failed)?));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(failed)?;
        Self::from_identity(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Takes up an existing one.
    pub fn from_identity(identity: Identity) -> Result<Self, Error> {
        let der = identity.certificate()?;
        if !parse(&der)?.is_ca() {
            return Err(Error::Unusable("the certificate is not an authority's".into()));
        }
        let not_after = identity.validity()?.1;
        let unusable = |e: rcgen::Error| Error::Unusable(e.to_string());
        let key = KeyPair::from_pem(&identity.key_pem).map_err(unusable)?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(unusable)?;
        Ok(Self { identity, der, not_after, issuer })
    }

    /// Its certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.identity.certificate_pem
    }

    /// Its certificate in DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// When it ceases to be valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A new key and a certificate for it, one year (or the authority's rest of life) from `now`.
    pub fn issue(&self, profile: &Profile, now: SystemTime) -> Result<Identity, Error> {
        let failed = |source| Error::Issue { name: profile.common_name.clone(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let public = key.subject_public_key_info();
        let names = AltNames { dns: profile.dns.clone(), ips: profile.ips.clone(), ..AltNames::default() };
        let usage = match profile.usage {
            Usage::Server => "server auth",
            Usage::Client => "client auth",
        };
        let leaf = Leaf {
            subject: &sign::subject(&profile.common_name, &profile.organizations),
            names: &names,
            key: &public,
            usages: &["digital signature", usage],
            valid: (now - BACKDATE, (now + LEAF_LIFE).min(self.not_after)),
        };
        let der = self.certify(&leaf).map_err(failed)?;
        Ok(Identity { certificate_pem: pem::write("CERTIFICATE", &der), key_pem: key.serialize_pem() })
    }

    /// A certificate (PEM) for what a request asks: its subject, its alternative names and its key, for these usages and this long.
    ///
    /// It begins five minutes ago, for clients whose clock is behind; those five minutes count when it lives eight hours or longer.
    /// None outlives the authority.
    pub fn sign<S: AsRef<str>>(
        &self,
        request: &Request,
        usages: &[S],
        life: Duration,
        now: SystemTime,
    ) -> Result<String, Error> {
        let unknown = |words: Vec<String>| Error::Unusable(format!("unrecognized usage values: {words:?}"));
        crate::usage::read(usages).map_err(unknown)?;
        if self.not_after <= now {
            return Err(Error::Unusable("the signer has expired".into()));
        }
        let end = now + if life < SHORT { life } else { life - BACKDATE };
        let leaf = Leaf {
            subject: &request.subject,
            names: &request.names,
            key: &request.key.der,
            usages,
            valid: (now - BACKDATE, end.min(self.not_after)),
        };
        let failed = |source| Error::Issue { name: request.common_name.clone(), source };
        Ok(pem::write("CERTIFICATE", &self.certify(&leaf).map_err(failed)?))
    }

    fn certify<S: AsRef<str>>(&self, leaf: &Leaf<'_, S>) -> Result<Vec<u8>, rcgen::Error> {
        let own = parse(&self.der).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let own_key = own.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        });
        sign::certificate(leaf, own.subject().as_raw(), own_key, self.issuer.key(), &serial()?)
    }

    /// Whether this authority signed that certificate.
    pub fn signed(&self, certificate: &[u8]) -> Result<bool, Error> {
        let own = parse(&self.der)?;
        let other = parse(certificate)?;
        Ok(other.issuer() == own.subject() && other.verify_signature(Some(own.public_key())).is_ok())
    }
}

/// The subject of a peer's certificate, checked against `authority`: signed by it, valid at `now`, for clients.
/// TLS has done this already for connections of our own servers; use it for certificates that come another way.
pub fn verified_peer(authority: &Authority, certificate: &[u8], now: SystemTime) -> Result<Subject, Error> {
    if !authority.signed(certificate)? {
        return Err(Error::Unusable("the certificate is not signed by this authority".into()));
    }
    let parsed = parse(certificate)?;
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
    let validity = parsed.validity();
    if seconds < validity.not_before.timestamp() || seconds > validity.not_after.timestamp() {
        return Err(Error::Unusable("the certificate has expired or is not valid yet".into()));
    }
    let usage = parsed.extended_key_usage().map_err(|e| Error::Unusable(e.to_string()))?;
    if !usage.is_some_and(|usage| usage.value.client_auth || usage.value.any) {
        return Err(Error::Unusable("the certificate is not for clients".into()));
    }
    Subject::of(certificate)
}

/// 127 random bits: positive, and never the same twice.
fn serial() -> Result<[u8; 16], rcgen::Error> {
    let mut bytes = [0_u8; 16];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(bytes)
}
