//! What a webhook is asked, and what it answers: `AdmissionReview`.

use crate::context::{AdmissionRequest, UserInfo};
use crate::meta;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use machinery::Status;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
}

/// A request in the form one webhook wants to see it in.
pub(crate) struct Shown {
    pub(crate) kind: Kind,
    pub(crate) resource: Resource,
    pub(crate) object: Option<Value>,
    pub(crate) old_object: Option<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    kind: &'static str,
    api_version: String,
    request: Request<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: &'a str,
    kind: &'a Kind,
    resource: &'a Resource,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub_resource: &'a str,
    request_kind: Kind,
    request_resource: Resource,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_sub_resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    operation: &'static str,
    user_info: User<'a>,
    object: Option<&'a Value>,
    old_object: Option<&'a Value>,
    dry_run: bool,
    options: Option<Value>,
}

#[derive(Serialize)]
struct User<'a> {
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
}

impl<'a> User<'a> {
    fn of(user: &'a UserInfo) -> User<'a> {
        User { username: &user.name, uid: &user.uid, groups: &user.groups, extra: &user.extra }
    }
}

/// Encodes the review of a request.
pub(crate) fn encode(version: &str, uid: &str, request: &AdmissionRequest<'_>, shown: &Shown, own: Kind) -> Bytes {
    let attributes = request.attributes;
    let review = Review {
        kind: "AdmissionReview",
        api_version: format!("admission.k8s.io/{version}"),
        request: Request {
            uid,
            kind: &shown.kind,
            resource: &shown.resource,
            sub_resource: &attributes.subresource,
            request_kind: own,
            request_resource: Resource {
                group: attributes.group.clone(),
                version: attributes.version.clone(),
                resource: attributes.resource.clone(),
            },
            request_sub_resource: &attributes.subresource,
            name: &attributes.name,
            namespace: &attributes.namespace,
            operation: request.operation.as_str(),
            user_info: User::of(&attributes.user),
            object: shown.object.as_ref(),
            old_object: shown.old_object.as_ref(),
            dry_run: request.dry_run,
            options: request.call.options(request.operation),
        },
    };
    // Writing JSON to memory cannot fail.
    serde_json::to_vec(&review).unwrap_or_default().into()
}

/// What a webhook said.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    /// Operations of a JSON patch.
    pub(crate) patch: Option<Value>,
    /// Why not: a `Status`, or null.
    pub(crate) result: Value,
    pub(crate) warnings: Vec<String>,
    /// Facts for the audit log.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Reads an answer; the error is the end of upstream's message.
pub(crate) fn verify(body: &[u8], version: &str, uid: &str, mutating: bool) -> Result<Verdict, String> {
    let review: Value = serde_json::from_slice(body).map_err(|error| format!("failed to call webhook: {error}"))?;
    let invalid = |why: String| Err(format!("received invalid webhook response: {why}"));
    let Some(response) = meta::at(&review, &["response"]).filter(|response| response.is_object()) else {
        return invalid("webhook response was absent".to_owned());
    };
    if version == "v1" {
        let given = meta::text_at(response, &["uid"]);
        if given != uid {
            return invalid(format!("expected response.uid={uid:?}, got {given:?}"));
        }
        let (api_version, kind) = (meta::text_at(&review, &["apiVersion"]), meta::text_at(&review, &["kind"]));
        if (api_version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
            let expected = "admission.k8s.io/v1, Kind=AdmissionReview";
            let slash = if api_version.contains('/') { "" } else { "/" };
            return invalid(format!("expected webhook response of {expected}, got {slash}{api_version}, Kind={kind}"));
        }
    }
    let patch = match (meta::text_at(response, &["patch"]), meta::at(response, &["patchType"])) {
        ("", None) => None,
        (_, _) if !mutating && version == "v1" => {
            let field = if meta::text_at(response, &["patch"]).is_empty() { "patchType" } else { "patch" };
            return invalid(format!("validating webhook may not return response.{field}"));
        }
        _ if !mutating => None,
        ("", Some(_)) if version == "v1" => {
            return invalid("webhook returned response.patchType but not response.patch".to_owned());
        }
        ("", _) => None,
        (_, None) if version == "v1" => {
            return invalid("webhook returned response.patch but not response.patchType".to_owned());
        }
        (_, Some(kind)) if version == "v1" && kind != "JSONPatch" => {
            return Err(format!("unsupported patch type {kind}"));
        }
        (patch, _) => Some(decode_patch(patch)?),
    };
    let texts = |field: &str| meta::at(response, &[field]).cloned();
    Ok(Verdict {
        allowed: response["allowed"].as_bool().unwrap_or(false),
        patch,
        result: meta::at(response, &["status"]).cloned().unwrap_or_default(),
        warnings: texts("warnings").and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default(),
        annotations: texts("auditAnnotations").and_then(|map| serde_json::from_value(map).ok()).unwrap_or_default(),
    })
}

fn decode_patch(patch: &str) -> Result<Value, String> {
    let undecodable = |why: String| format!("received undecodable patch in webhook response: {why}");
    let bytes = BASE64_STANDARD.decode(patch).map_err(|error| undecodable(error.to_string()))?;
    let operations: Value = serde_json::from_slice(&bytes).map_err(|error| undecodable(error.to_string()))?;
    if operations.is_array() { Ok(operations) } else { Err(undecodable("it is no list of operations".to_owned())) }
}

/// The refusal that a webhook wants.
pub(crate) fn refusal(name: &str, result: &Value) -> Status {
    let mut given = if result.is_object() { result.clone() } else { json!({}) };
    given["kind"] = json!("Status");
    let text = |field: &str| meta::text_at(&given, &[field]).to_owned();
    let by = format!("admission webhook {name:?} denied the request");
    let message = match (&*text("message"), &*text("reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let code = given["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
    let status = Status::from_value(&given).unwrap_or_else(|| Status::new(code, "", ""));
    Status { code, message, ..status }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(operations: &str) -> String {
        BASE64_STANDARD.encode(operations)
    }

    #[test]
    fn answers_that_are_none() {
        let review = |response: Value| {
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}).to_string()
        };
        let good = patch("[]");
        for (body, mutating, expected) in [
            ("{}".to_owned(), true, "received invalid webhook response: webhook response was absent"),
            (
                review(json!({"uid": "x"})),
                true,
                r#"received invalid webhook response: expected response.uid="u", got "x""#,
            ),
            (
                json!({"response": {"uid": "u"}}).to_string(),
                true,
                "received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind=",
            ),
            (
                review(json!({"uid": "u", "patch": good})),
                true,
                "received invalid webhook response: webhook returned response.patch but not response.patchType",
            ),
            (
                review(json!({"uid": "u", "patchType": "JSONPatch"})),
                true,
                "received invalid webhook response: webhook returned response.patchType but not response.patch",
            ),
            (
                review(json!({"uid": "u", "patch": good, "patchType": "JSONPatch"})),
                false,
                "received invalid webhook response: validating webhook may not return response.patch",
            ),
            (
                review(json!({"uid": "u", "patch": patch("{}"), "patchType": "JSONPatch"})),
                true,
                "received undecodable patch in webhook response: it is no list of operations",
            ),
            (
                review(json!({"uid": "u", "patch": good, "patchType": "Merge"})),
                true,
                "unsupported patch type \"Merge\"",
            ),
        ] {
            assert_eq!(verify(body.as_bytes(), "v1", "u", mutating), Err(expected.to_owned()), "{body}");
        }
        assert!(verify(b"<html>", "v1", "u", true).is_err());
    }

    #[test]
    fn refusals() {
        for (result, code, message) in [
            (Value::Null, 400, r#"admission webhook "a" denied the request without explanation"#),
            (json!({"reason": "Tired"}), 400, r#"admission webhook "a" denied the request: Tired"#),
            (json!({"code": 200, "message": "no"}), 400, r#"admission webhook "a" denied the request: no"#),
            (
                json!({"code": 403, "message": "no", "reason": "Forbidden"}),
                403,
                r#"admission webhook "a" denied the request: no"#,
            ),
        ] {
            let status = refusal("a", &result);
            assert_eq!((status.code, &*status.message), (code, message), "{result}");
        }
    }
}
