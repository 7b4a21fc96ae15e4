//! A public key of a stranger's: of which kind it is.

use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521};
use x509_parser::oid_registry::{OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519};
use x509_parser::x509::SubjectPublicKeyInfo;

/// The kinds of public keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, with the length of its modulus in bits.
    Rsa(usize),
    /// ECDSA on a curve of NIST: 256, 384 or 521 bits.
    Curve(u16),
    /// ECDSA on another curve.
    OtherCurve,
    /// Ed25519.
    Ed25519,
    /// Something else.
    Unknown,
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Of which kind.
    pub kind: KeyKind,
    /// As SubjectPublicKeyInfo in DER.
    pub der: Vec<u8>,
}

impl PublicKey {
    pub(crate) fn of(key: &SubjectPublicKeyInfo<'_>) -> Self {
        let algorithm = &key.algorithm;
        let curve = || algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let kind = match &algorithm.algorithm {
            oid if *oid == OID_PKCS1_RSAENCRYPTION => match key.parsed() {
                Ok(x509_parser::public_key::PublicKey::RSA(rsa)) => KeyKind::Rsa(rsa.key_size()),
                _ => KeyKind::Unknown,
            },
            oid if *oid == OID_KEY_TYPE_EC_PUBLIC_KEY => match curve() {
                Some(curve) if curve == OID_EC_P256 => KeyKind::Curve(256),
                Some(curve) if curve == OID_NIST_EC_P384 => KeyKind::Curve(384),
                Some(curve) if curve == OID_NIST_EC_P521 => KeyKind::Curve(521),
                _ => KeyKind::OtherCurve,
            },
            oid if *oid == OID_SIG_ED25519 => KeyKind::Ed25519,
            _ => KeyKind::Unknown,
        };
        Self { kind, der: key.raw.to_vec() }
    }
}
