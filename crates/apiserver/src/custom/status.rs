//! What definitions say of themselves: accepted names, conditions.

use super::definition::{Condition, Definition, Names};
use super::names::Verdict;
use crate::meta;
use crate::storage::KindStore;
use base64::Engine;
use machinery::Status;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Says whether the community that a group's name belongs to has approved of it.
pub(super) const APPROVED: &str = "KubernetesAPIApprovalPolicyConformant";
const APPROVAL: &str = "api-approved.kubernetes.io";

/// What a definition is to say of its approval; none for groups that need none.
pub(super) fn approval(definition: &Definition) -> Option<Condition> {
    let group = &*definition.spec.group;
    let protected = ["k8s.io", "kubernetes.io"]
        .into_iter()
        .any(|owner| group.strip_suffix(owner).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    if !protected {
        return None;
    }
    let is_url = |text: &str| text.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some() && uri.scheme().is_some());
    Some(match definition.metadata.annotations.get(APPROVAL).map_or("", |text| text) {
        "" => condition(
            APPROVED,
            false,
            "MissingAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVAL:?}, see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ),
        text if text.starts_with("unapproved") => {
            condition(APPROVED, false, "UnapprovedAnnotation", format!("not approved: {text:?}"))
        }
        text if is_url(text) => condition(APPROVED, true, "ApprovedAnnotation", format!("approved in {text}")),
        text => condition(
            APPROVED,
            false,
            "InvalidAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111, got: {text:?}"
            ),
        ),
    })
}

/// Writes what was decided about names into the status of a definition that wants these names.
pub(super) async fn tell(definitions: &KindStore, definition: &Definition, verdict: &Verdict) -> Result<(), Status> {
    let approved = approval(definition);
    let result = definitions.update("", &definition.metadata.name, |object| {
        if meta::text(object, "uid") != definition.metadata.uid {
            return Ok(());
        }
        meta::member(object, "status").insert("acceptedNames".to_owned(), names_value(&verdict.names));
        set_condition(object, &verdict.accepted);
        set_condition(object, &verdict.established);
        if let Some(approved) = &approved {
            set_condition(object, approved);
        }
        Ok(())
    });
    match result.await {
        Err(status) if status.code == 404 => Ok(()),
        other => other.map(|_| ()),
    }
}

fn names_value(names: &Names) -> Value {
    let mut map = Map::new();
    let mut put = |field: &str, value: Value, empty: bool| {
        if !empty {
            map.insert(field.to_owned(), value);
        }
    };
    put("plural", json!(names.plural), false);
    put("singular", json!(names.singular), names.singular.is_empty());
    put("shortNames", json!(names.short_names), names.short_names.is_empty());
    put("kind", json!(names.kind), false);
    put("listKind", json!(names.list_kind), names.list_kind.is_empty());
    put("categories", json!(names.categories), names.categories.is_empty());
    Value::Object(map)
}

/// Sets a condition; its time changes with its status only.
pub(crate) fn set_condition(object: &mut Value, condition: &Condition) {
    let mut value = json!({
        "type": condition.kind, "status": condition.status, "lastTransitionTime": machinery::time::now(),
        "reason": condition.reason, "message": condition.message,
    });
    let conditions = meta::member(object, "status").entry("conditions").or_insert(Value::Null);
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    match list.iter_mut().find(|known| known["type"] == value["type"]) {
        Some(known) => {
            if known["status"] == value["status"] {
                value["lastTransitionTime"] = known["lastTransitionTime"].take();
            }
            *known = value;
        }
        None => list.push(value),
    }
}

/// How discovery names the version that objects are stored in.
pub(super) fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let hash = Sha256::digest(format!("{group}/{version}/{kind}"));
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

/// A condition.
pub(crate) fn condition(kind: &str, good: bool, reason: &str, message: impl Into<String>) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: if good { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approvals() {
        let definition = |group: &str, text: Option<&str>| {
            let annotations = text.map(|text| json!({APPROVAL: text})).unwrap_or_else(|| json!({}));
            let object = json!({"metadata": {"annotations": annotations}, "spec": {"group": group}});
            approval(&Definition::read(object.to_string().as_bytes()).unwrap()).map(|it| (it.status, it.reason))
        };
        for (group, text, expected) in [
            ("x.io", None, None),
            ("notk8s.io", None, None),
            ("k8s.io", None, Some(("False", "MissingAnnotation"))),
            ("a.kubernetes.io", Some("https://a/b"), Some(("True", "ApprovedAnnotation"))),
            ("a.k8s.io", Some("unapproved, try"), Some(("False", "UnapprovedAnnotation"))),
            ("a.k8s.io", Some("no"), Some(("False", "InvalidAnnotation"))),
        ] {
            let expected = expected.map(|(status, reason)| (status.to_owned(), reason.to_owned()));
            assert_eq!(definition(group, text), expected, "{group} {text:?}");
        }
    }
}
