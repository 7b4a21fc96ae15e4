//! CertificateSigningRequests: who asks, conditions by `approval`, certificates by `status`; what is wrong with them in upstream's words.

mod bundle;
mod pod;
mod signer;

pub(super) use bundle::TrustBundleStrategy;
pub(super) use pod::PodCertificateStrategy;

use super::{Facts, Part, Strategy};
use crate::context::UserInfo;
use crate::meta;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::field::{FieldError, Path};
use serde_json::{Map, Value, json};

/// What only `approval` can say.
const APPROVALS: [&str; 2] = ["Approved", "Denied"];
/// What can only be true, and is never taken back.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];
/// The old signer, for requests that are there already.
const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// A certificate lives at least so many seconds.
const SECONDS_MIN: i64 = 600;

/// Certificate requests: conditions by approval, certificates by status.
pub(in crate::strategy) struct SigningRequestStrategy(pub(in crate::strategy) Facts);

impl Strategy for SigningRequestStrategy {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn note_creator(&self, object: &mut Value, user: &UserInfo) {
        let spec = meta::member(object, "spec");
        let some = |list: Value| Some(list).filter(|list| list.as_array().is_none_or(|list| !list.is_empty()));
        meta::set(spec, "username", Some(user.name.as_str().into()).filter(|name| name != ""));
        meta::set(spec, "uid", Some(user.uid.as_str().into()).filter(|uid| uid != ""));
        meta::set(spec, "groups", some(json!(user.groups)));
        meta::set(spec, "extra", (!user.extra.is_empty()).then(|| json!(user.extra)));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        rules(object, None)
    }

    fn validate_update(&self, part: Part, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = rules(object, Some(old));
        changes(part, object, old, &mut errors);
        if exclusive(old).is_none() {
            errors.extend(exclusive(object));
        }
        errors
    }

    fn prepare_update(&self, part: Part, object: &mut Value, old: &Value) {
        let status = object.get("status").cloned().unwrap_or_default();
        self.0.prepare_update(part, object, old);
        // The request itself never changes.
        meta::copy(object, old, "spec");
        let before = old.get("status").cloned().unwrap_or_default();
        let mut merged = before.as_object().cloned().unwrap_or_else(Map::new);
        let mut list = match part {
            Part::Approval => conditions(&status).to_vec(),
            Part::Status => {
                meta::set(&mut merged, "certificate", status.get("certificate").cloned());
                with_approvals(conditions(&status), conditions(&before))
            }
            _ => return,
        };
        list.iter_mut().for_each(|condition| set_times(condition, conditions(&before)));
        meta::set(&mut merged, "conditions", (!list.is_empty()).then(|| list.into()));
        object["status"] = merged.into();
    }
}

fn conditions(status: &Value) -> &[Value] {
    status.get("conditions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A new list of conditions, in which the approvals and denials are those of the old one. Where there are more or fewer of them than
/// before the list stays as it is: validation refuses it.
fn with_approvals(new: &[Value], old: &[Value]) -> Vec<Value> {
    let mut list = new.to_vec();
    for kind in APPROVALS {
        let kept: Vec<&Value> = of_type(old, kind).collect();
        if kept.len() == of_type(new, kind).count() {
            let places = list.iter_mut().filter(|condition| meta::text_at(condition, &["type"]) == kind);
            places.zip(kept).for_each(|(place, kept)| place.clone_from(kept));
        }
    }
    list
}

fn of_type<'v>(conditions: &'v [Value], kind: &str) -> impl Iterator<Item = &'v Value> {
    conditions.iter().filter(move |condition| meta::text_at(condition, &["type"]) == kind)
}

/// When a condition was written, and when it became what it says; what the client says of it goes before.
fn set_times(condition: &mut Value, before: &[Value]) {
    let same = |other: &&Value| other["type"] == condition["type"] && other["status"] == condition["status"];
    let since = before.iter().find(same).and_then(|other| other.get("lastTransitionTime")).cloned();
    let now: Value = machinery::time::now().into();
    for (field, value) in [("lastUpdateTime", now.clone()), ("lastTransitionTime", since.unwrap_or(now))] {
        if condition.get(field).is_none_or(Value::is_null) {
            condition[field] = value;
        }
    }
}

/// A field of bytes, decoded; what is no base64 was refused before.
fn bytes(object: &Value, path: &[&str]) -> Vec<u8> {
    STANDARD.decode(meta::text_at(object, path)).unwrap_or_default()
}

/// What is wrong with a request; what is as it was is not judged again.
fn rules(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let same = |field: &[&str]| old.is_some_and(|old| meta::at(old, field) == meta::at(object, field));
    if !same(&["spec"]) {
        request(object, &path, &mut errors);
        usages(object, &path.child("usages"), &mut errors);
        let name = meta::text_at(object, &["spec", "signerName"]);
        let field = path.child("signerName");
        match name == LEGACY {
            true => errors.push(FieldError::invalid(
                &field,
                name,
                "the legacy signerName is not allowed via this API version",
            )),
            false => signer::check(&field, name, &mut errors),
        }
        let seconds = meta::at(object, &["spec", "expirationSeconds"]).and_then(Value::as_i64);
        if let Some(seconds) = seconds.filter(|seconds| *seconds < SECONDS_MIN) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.push(FieldError::invalid(&path.child("expirationSeconds"), seconds, detail));
        }
    }
    let (status, before) = (Path::new("status"), old.and_then(|old| old.get("status")).unwrap_or(&Value::Null));
    let list = conditions(object.get("status").unwrap_or(&Value::Null));
    check_conditions(list, conditions(before), &status.child("conditions"), &mut errors);
    let certificate = bytes(object, &["status", "certificate"]);
    let old_certificate = old.map(|old| bytes(old, &["status", "certificate"])).unwrap_or_default();
    if certificate != old_certificate
        && issued(&old_certificate).is_ok()
        && let Err(why) = issued(&certificate)
    {
        errors.push(FieldError::invalid(&status.child("certificate"), "<certificate data>", why));
    }
    errors
}

fn request(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let parsed = pki::Request::from_pem(&bytes(object, &["spec", "request"])).map_err(|error| error.to_string());
    if let Err(why) = parsed.and_then(|request| request.check_signature().map_err(str::to_owned)) {
        let shown = meta::at(object, &["spec", "request"]).filter(|text| *text != "").cloned().unwrap_or_default();
        errors.push(FieldError::invalid(&path.child("request"), shown, why));
    }
}

fn usages(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let list = meta::at(object, &["spec", "usages"]).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    for (index, usage) in list.iter().enumerate() {
        if !usage.as_str().is_some_and(|usage| pki::USAGES.contains(&usage)) {
            errors.push(FieldError::not_supported(&path.index(index), usage.clone(), &pki::USAGES));
        }
    }
    for (index, usage) in list.iter().enumerate().filter(|(index, usage)| list[..*index].contains(usage)) {
        errors.push(FieldError::duplicate(&path.index(index), usage.clone()));
    }
}

fn check_conditions(list: &[Value], old: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    let kind = |condition: &Value| meta::text_at(condition, &["type"]).to_owned();
    let repeated =
        |list: &[Value]| list.iter().enumerate().any(|(at, c)| list[..at].iter().any(|o| kind(o) == kind(c)));
    let (may_repeat, may_be_empty) = (repeated(old), old.iter().any(|condition| kind(condition).is_empty()));
    for (index, condition) in list.iter().enumerate() {
        let (path, of) = (path.index(index), kind(condition));
        if of.is_empty() && !may_be_empty {
            errors.push(FieldError::required(&path.child("type"), ""));
        }
        let allowed: &[&str] = if FINAL.contains(&of.as_str()) { &["True"] } else { &["False", "True", "Unknown"] };
        match meta::text_at(condition, &["status"]) {
            "" => errors.push(FieldError::required(&path.child("status"), "")),
            status if !allowed.contains(&status) => {
                errors.push(FieldError::not_supported(&path.child("status"), status, allowed));
            }
            _ => {}
        }
        if !may_repeat && list[..index].iter().any(|other| kind(other) == of) {
            errors.push(FieldError::duplicate(&path.child("type"), of));
        }
    }
}

/// The refusal of a request that is both approved and denied.
fn exclusive(object: &Value) -> Option<FieldError> {
    let list = conditions(object.get("status").unwrap_or(&Value::Null));
    if APPROVALS.iter().any(|kind| of_type(list, kind).next().is_none()) {
        return None;
    }
    let [approved, denied] = APPROVALS.map(|kind| format!("conditions[{{\"type\": \"{kind}\"}}]"));
    let detail = format!("must specify at most one of: `{approved}`, `{denied}`");
    Some(FieldError::invalid(&Path::new("status").child("conditions"), format!("{{{approved}, {denied}}}"), detail))
}

/// What a write of this part may not change.
fn changes(part: Part, object: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let status = |object: &Value| conditions(object.get("status").unwrap_or(&Value::Null)).to_vec();
    let (new, before) = (status(object), status(old));
    let path = Path::new("status").child("conditions");
    let count = |list: &[Value], kind: &str| of_type(list, kind).count();
    for kind in FINAL.into_iter().filter(|kind| count(&new, kind) < count(&before, kind)) {
        errors.push(FieldError::forbidden(&path, format!("updates may not remove a condition of type {kind:?}")));
    }
    for kind in APPROVALS.into_iter().filter(|_| part != Part::Approval) {
        if count(&new, kind) > count(&before, kind) {
            errors.push(FieldError::forbidden(&path, format!("updates may not add a condition of type {kind:?}")));
        }
    }
    let certificate = |object: &Value| meta::text_at(object, &["status", "certificate"]).to_owned();
    if certificate(object) != certificate(old) {
        let path = Path::new("status").child("certificate");
        if part != Part::Status {
            errors.push(FieldError::forbidden(&path, "updates may not set certificate content"));
        } else if !certificate(old).is_empty() {
            errors.push(FieldError::forbidden(&path, "updates may not modify existing certificate content"));
        }
    }
}

/// Whether bytes are certificates in PEM, or nothing.
fn issued(bytes: &[u8]) -> Result<(), String> {
    if bytes.is_empty() {
        return Ok(());
    }
    let blocks = pki::pem::blocks(&String::from_utf8_lossy(bytes));
    for block in &blocks {
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.headers {
            return Err("no PEM block headers are permitted".to_owned());
        }
        pki::Certificate::from_der(&block.der).map_err(|error| error.to_string())?;
    }
    if blocks.is_empty() { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_keeps_approvals_and_an_approval_keeps_the_certificate() {
        let strategy = SigningRequestStrategy(Facts::of("certificates.k8s.io", "certificatesigningrequests", true));
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "r"});
        let list = |kinds: &[&str]| kinds.iter().map(|kind| condition(kind)).collect::<Value>();
        for (part, before, given, expected, certificate) in [
            (Part::Approval, list(&[]), list(&["Other", "Approved"]), vec!["Other", "Approved"], "old"),
            (Part::Approval, list(&["Other"]), list(&["Approved"]), vec!["Approved"], "old"),
            (
                Part::Status,
                list(&["Other", "Approved"]),
                list(&["Other", "Approved", "Failed"]),
                vec!["Other", "Approved", "Failed"],
                "new",
            ),
            // What a status may not do stays in, for validation to refuse.
            (Part::Status, list(&["Approved"]), list(&["Denied"]), vec!["Denied"], "new"),
            (Part::Status, list(&["Approved"]), list(&[]), vec![], "new"),
            (Part::Status, list(&[]), list(&["Approved"]), vec!["Approved"], "new"),
            (Part::Main, list(&["Approved"]), list(&["Denied"]), vec!["Approved"], "old"),
        ] {
            let old = json!({"metadata": {"name": "a"}, "spec": {"request": "x"}, "status": {"conditions": before, "certificate": "old"}});
            let mut object = json!({"metadata": {"name": "a"}, "spec": {"request": "y"}, "status": {"conditions": given, "certificate": "new"}});
            strategy.prepare_update(part, &mut object, &old);
            let found: Vec<&str> = conditions(&object["status"]).iter().map(|c| meta::text_at(c, &["type"])).collect();
            assert_eq!(found, expected, "{part:?} {given}");
            assert_eq!(object["status"]["certificate"], certificate);
            assert_eq!(object["spec"]["request"], "x");
        }
    }

    #[test]
    fn conditions_get_times() {
        let mut given = json!({"type": "Approved", "status": "True"});
        set_times(&mut given, &[json!({"type": "Approved", "status": "True", "lastTransitionTime": "t"})]);
        assert_eq!(given["lastTransitionTime"], "t");
        assert!(given["lastUpdateTime"].is_string());
        let mut own = json!({"type": "Approved", "status": "True", "lastTransitionTime": "a", "lastUpdateTime": "b"});
        let before = own.clone();
        set_times(&mut own, &[]);
        assert_eq!(own, before);
    }
}
