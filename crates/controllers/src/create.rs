//! Making and deleting pods on behalf of an owner, with events, expectations and a slow start.

use std::sync::Arc;

use client::{EventType, Recorder};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::control::{Error, Shared, code, is_namespace_terminating, message};
use crate::expectations::Expectations;

/// The longest prefix of a generated name.
const PREFIX_MAX: usize = 58;

/// Five characters that make a name unique.
pub(crate) fn suffix() -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(ALPHABET[fastrand::usize(..ALPHABET.len())])).collect()
}

/// `prefix` and a random end, short enough for a label.
pub(crate) fn generate_name(prefix: &str) -> String {
    format!("{}{}", cut(prefix), suffix())
}

fn cut(prefix: &str) -> &str {
    let mut end = prefix.len().min(PREFIX_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    &prefix[..end]
}

/// A pod as the template wants it, named `prefix` and something random.
pub(crate) fn from_template(template: &PodTemplateSpec, namespace: &str, prefix: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            name: Some(generate_name(prefix)),
            generate_name: Some(prefix.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Who pods are made and deleted for.
pub(crate) struct For<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) recorder: &'a Recorder,
    pub(crate) expectations: &'a Expectations,
    pub(crate) owner: &'a ObjectReference,
    pub(crate) namespace: &'a str,
}

impl For<'_> {
    fn uid(&self) -> &str {
        self.owner.uid.as_deref().unwrap_or_default()
    }

    /// Creates all `pods`: one, then two, then four at a time, as long as none fails.
    ///
    /// When every pod would be refused (a quota, an admission policy), that is found out with one call and not with hundreds.
    pub(crate) async fn create(&self, pods: Vec<Pod>) -> Result<(), Error> {
        let mut rest = pods.into_iter();
        let mut batch = 1;
        loop {
            let now: Vec<Pod> = rest.by_ref().take(batch).collect();
            if now.is_empty() {
                return Ok(());
            }
            let names = now.iter().filter_map(|p| p.metadata.name.as_deref());
            self.expectations.creating(self.uid(), names);
            let results = join_all(now.into_iter().map(|pod| self.create_one(pod))).await;
            results.into_iter().collect::<Result<Vec<()>, Error>>()?;
            batch *= 2;
        }
    }

    async fn create_one(&self, mut pod: Pod) -> Result<(), Error> {
        let api = self.shared.api::<Pod>(self.namespace);
        let _turn = self.shared.pod_calls.acquire().await;
        loop {
            let name = pod.metadata.name.clone().unwrap_or_default();
            match api.create(&PostParams::default(), &pod).await {
                Ok(_) => {
                    self.recorder.event(
                        self.owner,
                        EventType::Normal,
                        "SuccessfulCreate",
                        format!("Created pod: {name}"),
                    );
                    return Ok(());
                }
                Err(source) => {
                    self.expectations.created(self.uid(), &name);
                    let taken = code(&source) == 409 && !source.to_string().contains("quota");
                    if let Some(prefix) = pod.metadata.generate_name.clone().filter(|_| taken) {
                        // The name is another pod's by chance: take another.
                        let other = generate_name(&prefix);
                        self.expectations.creating(self.uid(), [other.as_str()]);
                        pod.metadata.name = Some(other);
                        continue;
                    }
                    if !is_namespace_terminating(&source) {
                        let text = format!("Error creating: {}", message(&source));
                        self.recorder.event(self.owner, EventType::Warning, "FailedCreate", text);
                    }
                    return Err(Error::Call { step: "create pod", name, source });
                }
            }
        }
    }

    /// Deletes all `pods` at once.
    pub(crate) async fn delete(&self, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let uids = pods.iter().filter_map(|p| p.metadata.uid.as_deref());
        self.expectations.deleting(self.uid(), uids);
        let results = join_all(pods.iter().map(|pod| self.delete_one(pod))).await;
        results.into_iter().collect()
    }

    async fn delete_one(&self, pod: &Pod) -> Result<(), Error> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let exactly = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let how = DeleteParams::default().preconditions(exactly);
        let _turn = self.shared.pod_calls.acquire().await;
        match self.shared.api::<Pod>(self.namespace).delete(&name, &how).await {
            Ok(_) => {
                self.recorder.event(self.owner, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(source) => {
                self.expectations.deleted(self.uid(), pod.metadata.uid.as_deref().unwrap_or_default());
                if matches!(code(&source), 404 | 409) {
                    return Ok(());
                }
                let text = format!("Error deleting: {}", message(&source));
                self.recorder.event(self.owner, EventType::Warning, "FailedDelete", text);
                Err(Error::Call { step: "delete pod", name, source })
            }
        }
    }
}
