//! ClusterTrustBundles: certificates of authorities, named after their signer.

use super::signer;
use crate::meta;
use crate::strategy::{Facts, Part, Strategy};
use machinery::field::{FieldError, Path};
use machinery::name;
use serde_json::Value;

/// The largest bundle, in bytes.
const BYTES_MAX: usize = 1 << 20;
const OMITTED: &str = "<value omitted>";

pub(in crate::strategy) struct TrustBundleStrategy(pub(in crate::strategy) Facts);

impl Strategy for TrustBundleStrategy {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        rules(object, None)
    }

    fn validate_update(&self, part: Part, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = if part == Part::Main { rules(object, Some(old)) } else { Vec::new() };
        let signer = |object| meta::text_at(object, &["spec", "signerName"]);
        if signer(object) != signer(old) {
            let path = Path::new("spec").child("signerName");
            errors.push(FieldError::invalid(&path, signer(object), "field is immutable"));
        }
        errors
    }
}

fn rules(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let signer = meta::text_at(object, &["spec", "signerName"]);
    let name = meta::name(object);
    let path = Path::new("metadata").child("name");
    errors.extend(name_rule(signer, name).into_iter().map(|why| FieldError::invalid(&path, name, why)));
    let spec = Path::new("spec");
    if !signer.is_empty() {
        signer::check(&spec.child("signerName"), signer, &mut errors);
    }
    let text = |object| meta::text_at(object, &["spec", "trustBundle"]);
    // What was accepted once is not read again.
    if old.is_none_or(|old| text(old) != text(object)) {
        errors.extend(bundle(&spec.child("trustBundle"), text(object)));
    }
    errors
}

fn name_rule(signer: &str, name: &str) -> Vec<String> {
    if signer.is_empty() {
        return match name.contains(':') {
            true => vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()],
            false => name::dns1123_subdomain(name),
        };
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => name::dns1123_subdomain(rest),
        None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")],
    }
}

/// What is wrong with the certificates of a bundle.
fn bundle(path: &Path, text: &str) -> Vec<FieldError> {
    if text.len() > BYTES_MAX {
        return vec![FieldError::too_long(path, BYTES_MAX)];
    }
    let wrong = |why: String| FieldError::invalid(path, OMITTED, why);
    let blocks = pki::pem::blocks(text);
    let errors: Vec<_> = blocks.iter().enumerate().filter_map(|(at, block)| anchor(at, block).map(wrong)).collect();
    if !errors.is_empty() {
        return errors;
    }
    if blocks.is_empty() {
        return vec![wrong("at least one trust anchor must be provided".to_owned())];
    }
    let mut places: std::collections::BTreeMap<&[u8], Vec<usize>> = std::collections::BTreeMap::new();
    for (at, block) in blocks.iter().enumerate() {
        places.entry(&block.der).or_default().push(at);
    }
    let repeated = places.into_values().filter(|places| places.len() > 1);
    let listed = |places: Vec<usize>| places.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
    repeated.map(|places| wrong(format!("duplicate trust anchor (indices [{}])", listed(places)))).collect()
}

/// Why one block is no trust anchor.
fn anchor(at: usize, block: &pki::pem::Block) -> Option<String> {
    if block.label != "CERTIFICATE" {
        return Some(format!("entry {at} has bad block type: {}", block.label));
    }
    if block.headers {
        return Some(format!("entry {at} has PEM block headers"));
    }
    match pki::Certificate::from_der(&block.der) {
        Err(_) => Some(format!("entry {at} does not parse as X.509")),
        Ok(certificate) if !certificate.is_authority => Some(format!("entry {at} does not have the CA bit set")),
        Ok(_) => None,
    }
}
