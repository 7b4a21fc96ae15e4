//! Kinds that need a line or two beyond their facts.

use super::{Facts, Part, Strategy};
use crate::meta;
use serde_json::{Map, Value, json};

/// DaemonSets count the changes of their template.
pub(super) struct DaemonSetStrategy(pub(super) Facts);

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl Strategy for DaemonSetStrategy {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn prepare_create(&self, object: &mut Value) {
        self.0.prepare_create(object);
        set_template_generation(object, 1);
    }

    fn prepare_update(&self, part: Part, object: &mut Value, old: &Value) {
        self.0.prepare_update(part, object, old);
        let template = |value: &Value| meta::at(value, &["spec", "template"]).cloned();
        let changed = part == Part::Main && template(object) != template(old);
        let was = meta::at(old, &["metadata", "annotations", TEMPLATE_GENERATION]);
        let was = was.and_then(Value::as_str).and_then(|text| text.parse().ok()).unwrap_or(1);
        set_template_generation(object, was + i64::from(changed));
    }
}

fn set_template_generation(object: &mut Value, generation: i64) {
    let annotations = meta::metadata(object).entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string().into());
    }
}

/// Jobs make a selector of their own.
pub(super) struct JobStrategy(pub(super) Facts);

impl Strategy for JobStrategy {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn prepare_create(&self, object: &mut Value) {
        self.0.prepare_create(object);
        let manual = meta::at(object, &["spec", "manualSelector"]).and_then(Value::as_bool).unwrap_or(false);
        if !manual {
            generate_selector(object);
        }
    }
}

/// Labels the template with the job's uid and name and selects by the uid, unless the user did.
fn generate_selector(job: &mut Value) {
    let uid: Value = meta::text(job, "uid").into();
    let name: Value = meta::name(job).into();
    let spec = meta::member(job, "spec");
    let mut template = spec.remove("template").unwrap_or_else(|| json!({}));
    let labels = meta::metadata(&mut template).entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        for (key, value) in [
            ("job-name", &name),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("batch.kubernetes.io/controller-uid", &uid),
        ] {
            labels.entry(key).or_insert_with(|| value.clone());
        }
    }
    spec.insert("template".to_owned(), template);
    let selector = spec.entry("selector").or_insert_with(|| json!({}));
    if let Some(selector) = selector.as_object_mut() {
        let wanted = selector.entry("matchLabels").or_insert_with(|| json!({}));
        if let Some(wanted) = wanted.as_object_mut() {
            wanted.entry("batch.kubernetes.io/controller-uid").or_insert(uid);
        }
    }
}

/// Volumes and claims begin pending; a volume remembers when its phase changed.
pub(super) struct VolumeStrategy(pub(super) Facts);

impl VolumeStrategy {
    fn is_volume(object: &Value) -> bool {
        object.get("kind").is_some_and(|kind| kind == "PersistentVolume")
    }
}

impl Strategy for VolumeStrategy {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn prepare_create(&self, object: &mut Value) {
        self.0.prepare_create(object);
        object["status"] = json!({"phase": "Pending"});
        if Self::is_volume(object) {
            object["status"]["lastPhaseTransitionTime"] = machinery::time::now().into();
        }
    }

    fn prepare_update(&self, part: Part, object: &mut Value, old: &Value) {
        self.0.prepare_update(part, object, old);
        if part != Part::Status || !Self::is_volume(object) {
            return;
        }
        let field = |value: &Value, name: &str| meta::at(value, &["status", name]).cloned();
        let (before, now) = (field(old, "lastPhaseTransitionTime"), field(object, "lastPhaseTransitionTime"));
        let moved = field(old, "phase") != field(object, "phase");
        let time = match (moved, now) {
            (false, None) => before,
            (true, now) if now.is_none() || now == before => Some(machinery::time::now().into()),
            (_, now) => now,
        };
        meta::set(meta::member(object, "status"), "lastPhaseTransitionTime", time);
    }
}

/// Secrets keep their type.
pub(super) struct SecretStrategy(pub(super) Facts);

impl Strategy for SecretStrategy {
    fn facts(&self) -> &Facts {
        &self.0
    }

    fn prepare_update(&self, part: Part, object: &mut Value, old: &Value) {
        self.0.prepare_update(part, object, old);
        if meta::text_at(object, &["type"]).is_empty() {
            meta::copy(object, old, "type");
        }
    }
}

/// Certificate requests: conditions by approval, certificates by status.
pub(super) struct CertificateStrategy(pub(super) Facts);

impl Strategy for CertificateStrategy {
    fn facts(&self) -> &Facts {
        &self.0
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
                meta::set(&mut merged, "certificate", status.get("certificate").or(before.get("certificate")).cloned());
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

fn is_approval(condition: &&Value) -> bool {
    matches!(meta::text_at(condition, &["type"]), "Approved" | "Denied")
}

/// A new list of conditions in its order, with the approvals and denials of the old one: a status cannot change these.
fn with_approvals(new: &[Value], old: &[Value]) -> Vec<Value> {
    let mut kept = old.iter().filter(is_approval);
    let mut list = Vec::with_capacity(new.len());
    for condition in new {
        if is_approval(&condition) {
            list.extend(kept.next().cloned());
        } else {
            list.push(condition.clone());
        }
    }
    list.extend(kept.cloned());
    list
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_keeps_approvals_and_an_approval_keeps_the_certificate() {
        let strategy = CertificateStrategy(Facts::of("certificates.k8s.io", "certificatesigningrequests", true));
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
            (Part::Status, list(&["Approved"]), list(&["Denied"]), vec!["Approved"], "new"),
            (Part::Status, list(&["Approved"]), list(&[]), vec!["Approved"], "new"),
            (Part::Status, list(&[]), list(&["Approved"]), vec![], "new"),
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
