//! Pods get the number behind their priority class.

use super::{creates_pod, is};
use crate::context::{AdmissionPlugin, AdmissionRequest, Operation};
use crate::meta;
use crate::storage::{Entry, KindStore};
use async_trait::async_trait;
use machinery::Status;
use serde_json::{Value, json};
use std::sync::Arc;

const GROUP: &str = "scheduling.k8s.io";

pub(super) struct Priority {
    pub(super) classes: Arc<KindStore>,
}

impl Priority {
    /// The class of pods that name none: of several, the lowest.
    fn default(&self) -> Option<(String, i64, String)> {
        let read = |entry: &Arc<Entry>| {
            let class = entry.value();
            class["globalDefault"].as_bool().unwrap_or_default().then(|| facts(&class))
        };
        self.classes.list(None).iter().filter_map(read).min_by_key(|(_, value, _)| *value)
    }
}

fn facts(class: &Value) -> (String, i64, String) {
    let policy = match meta::text_at(class, &["preemptionPolicy"]) {
        "" => "PreemptLowerPriority",
        policy => policy,
    };
    (meta::name(class).to_owned(), class["value"].as_i64().unwrap_or_default(), policy.to_owned())
}

#[async_trait]
impl AdmissionPlugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        if !creates_pod(request) {
            return Ok(());
        }
        let Some(pod) = request.object.as_deref_mut() else { return Ok(()) };
        let class = match meta::text_at(pod, &["spec", "priorityClassName"]) {
            "" => self.default().unwrap_or_else(|| (String::new(), 0, "PreemptLowerPriority".to_owned())),
            name => match self.classes.get("", name) {
                Some(entry) => facts(&entry.value()),
                None => {
                    let why = format!("no PriorityClass with name {name} was found");
                    return Err(Status::forbidden("", "pods", meta::name(pod), why));
                }
            },
        };
        let (name, value, policy) = class;
        let pod_name = meta::name(pod).to_owned();
        let spec = meta::member(pod, "spec");
        let given = |field: &str| spec.get(field).filter(|v| !v.is_null()).cloned();
        if given("priority").is_some_and(|priority| priority != value) {
            let why = format!(
                "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name",
                given("priority").unwrap_or_default()
            );
            return Err(Status::forbidden("", "pods", &pod_name, why));
        }
        if given("preemptionPolicy").is_some_and(|p| p.as_str() != Some(&policy)) {
            let why = format!(
                "the string value of PreemptionPolicy ({}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name",
                given("preemptionPolicy").and_then(|p| p.as_str().map(str::to_owned)).unwrap_or_default()
            );
            return Err(Status::forbidden("", "pods", &pod_name, why));
        }
        if !name.is_empty() {
            spec.insert("priorityClassName".to_owned(), json!(name));
        }
        spec.insert("priority".to_owned(), json!(value));
        spec.insert("preemptionPolicy".to_owned(), json!(policy));
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !is(request, GROUP, "priorityclasses") || !writes {
            return Ok(());
        }
        let Some(class) = request.object.as_deref() else { return Ok(()) };
        let name = meta::name(class);
        let becomes_default = class["globalDefault"].as_bool().unwrap_or_default();
        match self.default() {
            Some((other, ..)) if becomes_default && other != name => {
                let why = format!("PriorityClass {other} is already marked as default. Only one default can exist");
                Err(Status::forbidden(GROUP, "priorityclasses", name, why))
            }
            _ => Ok(()),
        }
    }
}
