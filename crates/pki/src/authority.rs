//! A certificate authority: signs leafs, and checks what others present.

use crate::identity::parse;
use crate::{Error, Identity, Profile, Subject, Usage};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer};
use rcgen::{KeyPair, KeyUsagePurpose, SanType, SerialNumber};
use rustls_pki_types::CertificateDer;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an authority lives.
pub(crate) const AUTHORITY_LIFE: Duration = Duration::from_secs(3_652 * 24 * 60 * 60);
/// How long a leaf lives.
pub(crate) const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
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
        let mut params = params(common_name, &[], now, now + AUTHORITY_LIFE).map_err(failed)?;
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
        let not_after = (now + LEAF_LIFE).min(self.not_after);
        let mut params = params(&profile.common_name, &profile.organizations, now, not_after).map_err(failed)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match profile.usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        for name in &profile.dns {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(failed)?));
        }
        params.subject_alt_names.extend(profile.ips.iter().copied().map(SanType::IpAddress));
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
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

fn params(
    common_name: &str,
    organizations: &[String],
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut name = DistinguishedName::new();
    for organization in organizations {
        name.push(DnType::OrganizationName, organization.as_str());
    }
    name.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = (now - BACKDATE).into();
    params.not_after = not_after.max(now + DAY.min(BACKDATE)).into();
    params.serial_number = Some(serial()?);
    Ok(params)
}

/// 127 random bits: positive, and never the same twice.
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0_u8; 16];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
