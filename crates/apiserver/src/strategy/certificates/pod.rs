//! PodCertificateRequests: a key of a pod's, and the certificate its signer gave.

use super::{bytes, conditions, signer};
use crate::meta;
use crate::strategy::{Facts, Part, Strategy, conditions as condition_rules};
use jiff::{SignedDuration, Timestamp};
use machinery::field::{FieldError, Path};
use machinery::name;
use pki::{KeyKind, PublicKey, Request};
use serde_json::Value;

/// The largest request, in bytes.
const STUB_BYTES_MAX: usize = 10 << 10;
const CHAIN_BYTES_MAX: usize = 100 << 10;
const UID_MAX: usize = 128;
/// For how many seconds a certificate may be asked for: at least, at most, and at most from a signer of Kubernetes' own.
const SECONDS_MIN: i64 = 3_600;
const SECONDS_MAX: i64 = 91 * 86_400;
const SECONDS_MAX_BUILTIN: i64 = 86_400;
/// How far the beginning of a certificate may be from now, and what must be between its ends and its renewal.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
const MARGIN: SignedDuration = SignedDuration::from_mins(10);
const KINDS: [&str; 3] = ["Issued", "Denied", "Failed"];

pub(in crate::strategy) struct PodCertificateStrategy(pub(in crate::strategy) Facts);

impl Strategy for PodCertificateStrategy {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        spec(object, &mut errors);
        errors
    }

    fn validate_update(&self, part: Part, object: &Value, old: &Value) -> Vec<FieldError> {
        match part {
            Part::Status => status(object, old, Timestamp::now()).err().unwrap_or_default(),
            _ if object.get("spec") != old.get("spec") => {
                let given = object.get("spec").cloned().unwrap_or_default();
                vec![FieldError::invalid(&Path::new("spec"), given, "field is immutable")]
            }
            _ => Vec::new(),
        }
    }
}

fn spec(object: &Value, errors: &mut Vec<FieldError>) {
    let path = Path::new("spec");
    let text = |field: &str| meta::text_at(object, &["spec", field]);
    signer::check(&path.child("signerName"), text("signerName"), errors);
    annotations(object, &path.child("unverifiedUserAnnotations"), errors);
    for (field, uid) in [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")] {
        let wrong = name::dns1123_subdomain(text(field)).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid(&path.child(field), text(field), why)));
        match text(uid).len() {
            0 => errors.push(FieldError::invalid(&path.child(uid), "", "must not be empty")),
            len if len > UID_MAX => errors.push(FieldError::too_long(&path.child(uid), UID_MAX)),
            _ => {}
        }
    }
    let field = path.child("maxExpirationSeconds");
    let Some(seconds) = meta::at(object, &["spec", "maxExpirationSeconds"]).and_then(Value::as_i64) else {
        errors.push(FieldError::required(&field, "must be set"));
        return;
    };
    let max = if signer::is_builtin(text("signerName")) { SECONDS_MAX_BUILTIN } else { SECONDS_MAX };
    if !(SECONDS_MIN..=max).contains(&seconds) {
        let detail = format!("must be in the range [{SECONDS_MIN}, {max}]");
        errors.push(FieldError::invalid(&field, seconds, detail));
    }
    // The older way, a key with a proof of possession, is none of v1.
    match text("stubPKCS10Request").is_empty() {
        false => errors.extend(stub(object)),
        true => errors.push(omitted(
            &path,
            "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set",
        )),
    }
}

/// An invalid value that is not shown.
fn omitted(path: &Path, detail: &str) -> FieldError {
    FieldError { value: None, ..FieldError::invalid(path, Value::Null, detail) }
}

fn annotations(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    const BYTES_MAX: usize = 256 << 10;
    let annotations = meta::at(object, &["spec", "unverifiedUserAnnotations"]).and_then(Value::as_object);
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        size += key.len() + value.as_str().unwrap_or_default().len();
        let key = key.to_ascii_lowercase();
        if !key.contains('/') {
            let detail = "must be a domain-prefixed key (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(path, key, detail));
            continue;
        }
        errors.extend(name::qualified_name(&key).into_iter().map(|why| FieldError::invalid(path, key.as_str(), why)));
    }
    if size > BYTES_MAX {
        errors.push(FieldError::too_long(path, BYTES_MAX));
    }
}

/// What is wrong with the kind of a key: its value as shown, and why.
fn unfit(kind: &KeyKind) -> Option<(String, &'static str)> {
    match kind {
        KeyKind::Ed25519 | KeyKind::Curve(_) | KeyKind::Rsa(3072 | 4096) => None,
        KeyKind::Rsa(bits) => Some((format!("{bits}-bit modulus"), "RSA keys must have modulus size 3072 or 4096")),
        KeyKind::OtherCurve => Some(("curve ".to_owned(), "elliptic public keys must use curve P256, P384, or P521")),
        KeyKind::Unknown => {
            Some((String::new(), "unknown public key type; supported types are Ed25519, ECDSA, and RSA"))
        }
    }
}

fn stub(object: &Value) -> Option<FieldError> {
    let path = Path::new("spec").child("stubPKCS10Request");
    let der = bytes(object, &["spec", "stubPKCS10Request"]);
    if der.len() > STUB_BYTES_MAX {
        return Some(FieldError::too_long(&path, STUB_BYTES_MAX));
    }
    let Ok(request) = Request::from_der(&der) else { return Some(omitted(&path, "must be a valid PKCS#10 CSR")) };
    if let Some((shown, why)) = unfit(&request.key.kind) {
        return Some(if shown.is_empty() { omitted(&path, why) } else { FieldError::invalid(&path, shown, why) });
    }
    request.check_signature().is_err().then(|| omitted(&path, "invalid signature"))
}

/// Whether a request has come to this end.
fn is(object: &Value, kind: &str) -> bool {
    let list = conditions(object.get("status").unwrap_or(&Value::Null));
    list.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// Checks the change of a status: from nothing to one of three ends, and then never again.
fn status(object: &Value, old: &Value, now: Timestamp) -> Result<(), Vec<FieldError>> {
    let path = Path::new("status");
    let of = |object: &Value| object.get("status").cloned().unwrap_or_default();
    let (new, before) = (of(object), of(old));
    check_conditions(conditions(&new), &path.child("conditions"))?;
    let keep = |why: &str| match normal(&new) == normal(&before) {
        true => Ok(()),
        false => Err(vec![omitted(&path, why)]),
    };
    if KINDS.iter().any(|kind| is(old, kind)) {
        return keep("immutable after PodCertificateRequest is issued, denied, or failed");
    }
    if is(object, "Denied") || is(object, "Failed") {
        let others = normal(&new).into_iter().any(|(field, _)| field != "conditions");
        let why = "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
        return if others { Err(vec![omitted(&path, why)]) } else { Ok(()) };
    }
    if is(object, "Issued") {
        return issued(object, now);
    }
    keep("status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"")
}

/// The members of a status that say something.
fn normal(status: &Value) -> Vec<(&String, &Value)> {
    let says = |value: &Value| !value.is_null() && *value != "" && value.as_array().is_none_or(|list| !list.is_empty());
    status.as_object().into_iter().flatten().filter(|(_, value)| says(value)).collect()
}

fn check_conditions(list: &[Value], path: &Path) -> Result<(), Vec<FieldError>> {
    let (mut errors, mut known) = (Vec::new(), 0);
    for (index, condition) in list.iter().enumerate() {
        let (kind, state) = (meta::text_at(condition, &["type"]), meta::text_at(condition, &["status"]));
        // Upstream writes the index as if it were a field.
        let at = path.child(&format!("[{index}]"));
        if !KINDS.contains(&kind) {
            errors.push(FieldError::not_supported(&at.child("type"), kind, &KINDS));
            continue;
        }
        known += 1;
        if known > 1 {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.push(FieldError::invalid(&at.child("type"), kind, detail));
        }
        if state != "True" {
            errors.push(FieldError::not_supported(&at.child("status"), state, &["True"]));
        }
    }
    condition_rules::check(list, path, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Checks that what was issued is a certificate for the key asked for, and that the rest of the status says what it says.
fn issued(object: &Value, now: Timestamp) -> Result<(), Vec<FieldError>> {
    let path = Path::new("status");
    let field = path.child("certificateChain");
    let chain = meta::text_at(object, &["status", "certificateChain"]);
    if chain.len() > CHAIN_BYTES_MAX {
        return Err(vec![FieldError::too_long(&field, CHAIN_BYTES_MAX)]);
    }
    let wrong = |why: &str| vec![FieldError::invalid(&field, chain, why)];
    let blocks = pki::pem::blocks(chain);
    let first =
        blocks.first().ok_or_else(|| wrong("issued certificate chain must contain at least one certificate"))?;
    if first.label != "CERTIFICATE" {
        return Err(wrong("issued certificate chain must consist entirely of CERTIFICATE PEM blocks"));
    }
    let unreadable = |_| wrong("leaf certificate does not parse as valid X.509");
    let leaf = pki::Certificate::from_der(&first.der).map_err(unreadable)?;
    let mut errors = names(&leaf, &field);
    if wanted_key(object)? != leaf.key {
        errors.extend(wrong("leaf certificate was not issued to the requested public key"));
        return Err(errors);
    }
    if let Err(more) = times(object, &leaf, now) {
        errors.extend(more);
        return Err(errors);
    }
    for block in &blocks[1..] {
        if block.label != "CERTIFICATE" {
            errors.extend(wrong("issued certificate chain must consist entirely of CERTFICATE PEM blocks"));
            break;
        }
        if pki::Certificate::from_der(&block.der).is_err() {
            errors.extend(wrong("intermediate certificate does not parse as valid X.509"));
            break;
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn names(leaf: &pki::Certificate, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in &leaf.names.dns {
        let rules = [
            (name.is_empty(), "leaf certificate should not contain empty DNSName"),
            (name.contains(".."), "leaf certificate's DNSName should not contain '..'"),
            (
                name.starts_with('.') || name.ends_with('.'),
                "leaf certificate's DNSName should not start or end with '.'",
            ),
        ];
        let broken = rules.into_iter().filter(|(broken, _)| *broken);
        errors.extend(broken.map(|(_, why)| FieldError::invalid(path, name.as_str(), why)));
    }
    let is_address = |text: &str| text.rsplit_once('@').is_some_and(|(who, at)| !who.is_empty() && !at.is_empty());
    for email in leaf.names.emails.iter().filter(|email| !is_address(email)) {
        errors.push(FieldError::invalid(
            path,
            email.as_str(),
            "leaf certificate should not contain invalid EmailAddress",
        ));
    }
    errors
}

/// The key the request is for; it was checked when the request was made.
fn wanted_key(object: &Value) -> Result<PublicKey, Vec<FieldError>> {
    let path = Path::new("spec").child("stubPKCS10Request");
    let stub = bytes(object, &["spec", "stubPKCS10Request"]);
    let bad = |_| vec![omitted(&path, "must be a valid PKCS#10 CSR")];
    Request::from_der(&stub).map(|request| request.key).map_err(bad)
}

fn times(object: &Value, leaf: &pki::Certificate, now: Timestamp) -> Result<(), Vec<FieldError>> {
    let path = Path::new("status");
    let text = |field: &str| meta::text_at(object, &["status", field]);
    let missing: Vec<_> = [
        ("notBefore", "must be present and consistent with the issued certificate"),
        ("notAfter", "must be present and consistent with the issued certificate"),
        ("beginRefreshAt", "must be present and in the range [notbefore+10min, notafter-10min]"),
    ]
    .into_iter()
    .filter(|(field, _)| text(field).is_empty())
    .map(|(field, why)| FieldError::required(&path.child(field), why))
    .collect();
    if !missing.is_empty() {
        return Err(missing);
    }
    let at = |field: &str| machinery::time::parse(text(field)).unwrap_or_default();
    let (start, end, refresh) = (at("notBefore"), at("notAfter"), at("beginRefreshAt"));
    let life = leaf.not_after - leaf.not_before;
    let max = meta::at(object, &["spec", "maxExpirationSeconds"]).and_then(Value::as_i64).unwrap_or(0);
    let too_long = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({max})");
    let rules = [
        (
            start.as_second() != leaf.not_before,
            "notBefore",
            "must be set to the NotBefore time encoded in the leaf certificate",
        ),
        (
            start.duration_since(now).abs() >= SKEW,
            "notBefore",
            "must be set to within 5 minutes of kube-apiserver's current time",
        ),
        (
            end.as_second() != leaf.not_after,
            "notAfter",
            "must be set to the NotAfter time encoded in the leaf certificate",
        ),
        (life < SECONDS_MIN, "certificateChain", "leaf certificate lifetime must be >= 1 hour"),
        (life > max, "certificateChain", &too_long),
        (
            refresh.duration_since(start) < MARGIN,
            "beginRefreshAt",
            "must be at least 10 minutes after status.notBefore",
        ),
        (end.duration_since(refresh) < MARGIN, "beginRefreshAt", "must be at least 10 minutes before status.notAfter"),
    ];
    let Some((_, field, why)) = rules.into_iter().find(|(broken, ..)| *broken) else { return Ok(()) };
    // Go's way of writing a lifetime.
    let hours = || format!("{}h{}m{}s", life / 3_600, life / 60 % 60, life % 60);
    let shown = if field == "certificateChain" { hours() } else { text(field).to_owned() };
    Err(vec![FieldError::invalid(&path.child(field), shown, why)])
}
