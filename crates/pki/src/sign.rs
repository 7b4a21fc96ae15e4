//! Writing a leaf certificate (RFC 5280) and signing it.
//!
//! By hand, because a name with several organizations (a user in several groups) and a subject that is passed on as it was asked for
//! cannot be had from `rcgen`, whose names hold each attribute once.

use crate::der::{bits, element, identifier, named_bits, octets, positive, sequence, time};
use crate::request::AltNames;
use crate::usage;
use rcgen::{KeyPair, SigningKey};
use std::net::IpAddr;
use std::time::SystemTime;

const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ORGANIZATION: &[u8] = &[0x55, 4, 10];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 17];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 35];
const EXTENDED_USAGE: &[u8] = &[0x55, 0x1d, 37];

/// What a leaf certificate says.
pub(crate) struct Leaf<'a, S> {
    /// Its subject in DER.
    pub(crate) subject: &'a [u8],
    /// Its alternative names.
    pub(crate) names: &'a AltNames,
    /// Its key, as SubjectPublicKeyInfo in DER.
    pub(crate) key: &'a [u8],
    /// What it is for; words nobody knows are left out.
    pub(crate) usages: &'a [S],
    /// From when until when.
    pub(crate) valid: (SystemTime, SystemTime),
}

/// A subject of organizations and a common name.
pub(crate) fn subject(common_name: &str, organizations: &[String]) -> Vec<u8> {
    let part = |kind: &[u8], text: &str| element(0x31, &sequence(&[identifier(kind), element(0x0c, text.as_bytes())]));
    let mut parts: Vec<_> = organizations.iter().map(|name| part(ORGANIZATION, name)).collect();
    parts.push(part(COMMON_NAME, common_name));
    sequence(&parts)
}

/// The signed certificate in DER.
pub(crate) fn certificate<S: AsRef<str>>(
    leaf: &Leaf<'_, S>,
    issuer: &[u8],
    issuer_key: Option<&[u8]>,
    key: &KeyPair,
    serial: &[u8],
) -> Result<Vec<u8>, rcgen::Error> {
    let algorithm = algorithm(key)?;
    let seconds =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
    let extensions = sequence(&extensions(leaf, issuer_key));
    let told = sequence(&[
        element(0xa0, &[2, 1, 2]),
        positive(serial),
        algorithm.clone(),
        issuer.to_vec(),
        sequence(&[time(seconds(leaf.valid.0)), time(seconds(leaf.valid.1))]),
        leaf.subject.to_vec(),
        leaf.key.to_vec(),
        element(0xa3, &extensions),
    ]);
    let signature = key.sign(&told)?;
    Ok(sequence(&[told, algorithm, bits(&signature)]))
}

/// With which algorithm a key signs.
fn algorithm(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let known: [(&rcgen::SignatureAlgorithm, &[u8], bool); 4] = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], false),
        (&rcgen::PKCS_ECDSA_P384_SHA384, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], false),
        (&rcgen::PKCS_ED25519, &[0x2b, 0x65, 0x70], false),
        (&rcgen::PKCS_RSA_SHA256, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11], true),
    ];
    let found = known.into_iter().find(|(algorithm, ..)| key.is_compatible(algorithm));
    let (_, oid, null) = found.ok_or(rcgen::Error::UnsupportedSignatureAlgorithm)?;
    let parameters = if null { element(5, &[]) } else { Vec::new() };
    Ok(sequence(&[identifier(oid), parameters]))
}

fn extension(oid: &[u8], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical = if critical { element(1, &[0xff]) } else { Vec::new() };
    sequence(&[identifier(oid), critical, octets(content)])
}

fn extensions<S: AsRef<str>>(leaf: &Leaf<'_, S>, issuer_key: Option<&[u8]>) -> Vec<Vec<u8>> {
    let (key_usage, extended) = usage::read(leaf.usages).unwrap_or_default();
    let mut list = Vec::new();
    if key_usage != 0 {
        list.push(extension(KEY_USAGE, true, &named_bits(key_usage)));
    }
    if !extended.is_empty() {
        let extended: Vec<_> = extended.into_iter().map(identifier).collect();
        list.push(extension(EXTENDED_USAGE, false, &sequence(&extended)));
    }
    list.push(extension(BASIC_CONSTRAINTS, true, &sequence(&[])));
    if let Some(id) = issuer_key {
        list.push(extension(AUTHORITY_KEY, false, &sequence(&[element(0x80, id)])));
    }
    if !leaf.names.is_empty() {
        // Who has no other name is named by these.
        let critical = leaf.subject == sequence(&[]);
        list.push(extension(ALTERNATIVE_NAMES, critical, &sequence(&names(leaf.names))));
    }
    list
}

fn names(names: &AltNames) -> Vec<Vec<u8>> {
    let texts = |tag: u8, list: &[String]| list.iter().map(|name| element(tag, name.as_bytes())).collect::<Vec<_>>();
    let ips = names.ips.iter().map(|ip| match ip {
        IpAddr::V4(ip) => element(0x87, &ip.octets()),
        IpAddr::V6(ip) => element(0x87, &ip.octets()),
    });
    let mut list = texts(0x82, &names.dns);
    list.extend(texts(0x81, &names.emails));
    list.extend(ips);
    list.extend(texts(0x86, &names.uris));
    list
}
