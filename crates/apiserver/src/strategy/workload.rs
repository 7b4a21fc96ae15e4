//! Kinds that need a line or two beyond their facts.

use super::{Facts, Part, Strategy};
use crate::meta;
use serde_json::{Value, json};

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
