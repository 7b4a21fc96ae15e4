//! Certificates and requests for them (PKCS #10) that others made, read without trusting them.

use crate::identity::parse;
use crate::key::{KeyKind, PublicKey};
use crate::{Error, pem};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

const REQUEST: &str = "CERTIFICATE REQUEST";

/// The alternative names of a subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AltNames {
    /// DNS names.
    pub dns: Vec<String>,
    /// E-mail addresses.
    pub emails: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// URIs.
    pub uris: Vec<String>,
}

impl AltNames {
    fn read(names: &[GeneralName<'_>]) -> Self {
        let mut read = Self::default();
        for name in names {
            match name {
                GeneralName::DNSName(name) => read.dns.push((*name).to_owned()),
                GeneralName::RFC822Name(email) => read.emails.push((*email).to_owned()),
                GeneralName::URI(uri) => read.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => read.ips.extend(address(bytes)),
                _ => {}
            }
        }
        read
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into()),
        _ => <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into()),
    }
}

/// Why a request is not one, in the words clients know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The first block is something else, or there is none.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Block,
    /// It cannot be read.
    #[error("asn1: structure error: {0}")]
    Malformed(String),
}

/// A request for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Common name of the subject; empty when there is none.
    pub common_name: String,
    /// Organizations of the subject, in their order.
    pub organizations: Vec<String>,
    /// Alternative names asked for.
    pub names: AltNames,
    /// The key the certificate is for.
    pub key: PublicKey,
    /// The subject in DER.
    pub(crate) subject: Vec<u8>,
    /// Nothing but a key: no subject, no attributes.
    pub bare: bool,
    signed: bool,
}

impl Request {
    /// Reads the first block of a PEM text.
    pub fn from_pem(text: &[u8]) -> Result<Self, RequestError> {
        let block = pem::blocks(&String::from_utf8_lossy(text)).into_iter().next();
        Self::from_der(&block.filter(|block| block.label == REQUEST).ok_or(RequestError::Block)?.der)
    }

    /// Reads a request in DER; trailing bytes are an error.
    pub fn from_der(der: &[u8]) -> Result<Self, RequestError> {
        let malformed = |why: &dyn std::fmt::Display| RequestError::Malformed(why.to_string());
        let request = match X509CertificationRequest::from_der(der) {
            Ok(([], request)) => request,
            Ok(_) => return Err(malformed(&"trailing data")),
            Err(error) => return Err(malformed(&error)),
        };
        let info = &request.certification_request_info;
        let names = request.requested_extensions().into_iter().flatten().find_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(names) => Some(AltNames::read(&names.general_names)),
            _ => None,
        });
        let subject = &info.subject;
        Ok(Self {
            common_name: texts(subject.iter_common_name()).pop().unwrap_or_default(),
            organizations: texts(subject.iter_organization()),
            names: names.unwrap_or_default(),
            key: PublicKey::of(&info.subject_pki),
            subject: subject.as_raw().to_vec(),
            bare: is_empty(subject) && info.attributes().is_empty(),
            signed: request.verify_signature().is_ok(),
        })
    }

    /// Whether the request is signed with its own key. Signatures on P-521 cannot be checked and count as bad.
    pub fn check_signature(&self) -> Result<(), &'static str> {
        match self.key.kind {
            _ if self.signed => Ok(()),
            KeyKind::Rsa(_) => Err("crypto/rsa: verification error"),
            KeyKind::Curve(521) | KeyKind::OtherCurve | KeyKind::Unknown => {
                Err("x509: cannot verify signature: algorithm unimplemented")
            }
            KeyKind::Curve(_) => Err("x509: ECDSA verification failure"),
            KeyKind::Ed25519 => Err("x509: Ed25519 verification failure"),
        }
    }
}

fn texts<'a>(attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>) -> Vec<String> {
    attributes.filter_map(|attribute| attribute.as_str().ok().map(str::to_owned)).collect()
}

fn is_empty(name: &X509Name<'_>) -> bool {
    name.iter().next().is_none()
}

/// A certificate somebody hands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// It may sign others.
    pub is_authority: bool,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
    /// Whom it names besides its subject.
    pub names: AltNames,
    /// Whose key it vouches for.
    pub key: PublicKey,
}

impl Certificate {
    /// Reads one in DER; trailing bytes are an error.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let certificate = parse(der)?;
        let unusable = |e: x509_parser::error::X509Error| Error::Unusable(e.to_string());
        let names = certificate.subject_alternative_name().map_err(unusable)?;
        let constraints = certificate.basic_constraints().map_err(unusable)?;
        Ok(Self {
            is_authority: constraints.is_some_and(|constraints| constraints.value.ca),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            names: names.map(|names| AltNames::read(&names.value.general_names)).unwrap_or_default(),
            key: PublicKey::of(certificate.public_key()),
        })
    }
}
