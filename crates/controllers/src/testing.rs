//! Builders of the objects the tests of the plans are made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use crate::discover::Resource;

/// The time `seconds` after the epoch.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a test's time is in range")
}

/// The wire's time of `seconds` after the epoch.
pub(crate) fn time(seconds: i64) -> Time {
    Time(at(seconds))
}

/// Labels from pairs.
pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Parses any object from JSON.
pub(crate) fn object<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> K {
    serde_json::from_value(value).expect("a test's object is well formed")
}

/// A namespaced resource of the core group.
pub(crate) fn resource(plural: &str) -> Arc<Resource> {
    let api = kube::core::ApiResource {
        group: String::new(),
        version: "v1".into(),
        api_version: "v1".into(),
        kind: plural.into(),
        plural: plural.into(),
    };
    Arc::new(Resource { api, namespaced: true, verbs: Vec::new() })
}

/// A running pod on node `n1` in namespace `default`, not ready, created at second 1.
pub(crate) fn pod(name: &str) -> PodBuilder {
    PodBuilder(Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some(format!("uid-{name}")),
            creation_timestamp: Some(time(1)),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            node_name: Some("n1".to_owned()),
            containers: vec![Container { name: "c".to_owned(), ..Container::default() }],
            ..PodSpec::default()
        }),
        status: Some(PodStatus { phase: Some("Running".to_owned()), ..PodStatus::default() }),
    })
}

/// A pod being built.
pub(crate) struct PodBuilder(Pod);

impl PodBuilder {
    fn status(&mut self) -> &mut PodStatus {
        self.0.status.get_or_insert_default()
    }
    pub(crate) fn node(mut self, node: &str) -> Self {
        self.0.spec.get_or_insert_default().node_name = Some(node.to_owned()).filter(|n| !n.is_empty());
        self
    }
    pub(crate) fn phase(mut self, phase: &str) -> Self {
        self.status().phase = Some(phase.to_owned());
        self
    }
    pub(crate) fn condition(mut self, kind: &str, status: &str, since: i64) -> Self {
        self.status().conditions.get_or_insert_default().push(PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            last_transition_time: Some(time(since)),
            ..PodCondition::default()
        });
        self
    }
    pub(crate) fn ready(self, since: i64) -> Self {
        self.condition("Ready", "True", since)
    }
    pub(crate) fn ip(mut self, ip: &str) -> Self {
        self.status().pod_ip = Some(ip.to_owned());
        self.status().pod_ips = Some(vec![k8s_openapi::api::core::v1::PodIP { ip: ip.to_owned() }]);
        self
    }
    pub(crate) fn cost(mut self, cost: &str) -> Self {
        let key = "controller.kubernetes.io/pod-deletion-cost".to_owned();
        self.0.metadata.annotations.get_or_insert_default().insert(key, cost.to_owned());
        self
    }
    pub(crate) fn restarts(mut self, count: i32) -> Self {
        let status = ContainerStatus { name: "c".to_owned(), restart_count: count, ..ContainerStatus::default() };
        self.status().container_statuses = Some(vec![status]);
        self
    }
    pub(crate) fn created(mut self, seconds: i64) -> Self {
        self.0.metadata.creation_timestamp = Some(time(seconds));
        self
    }
    pub(crate) fn deleted(mut self, seconds: i64) -> Self {
        self.0.metadata.deletion_timestamp = Some(time(seconds));
        self
    }
    pub(crate) fn labels(mut self, pairs: &[(&str, &str)]) -> Self {
        self.0.metadata.labels.get_or_insert_default().extend(labels(pairs));
        self
    }
    pub(crate) fn finalizer(mut self, name: &str) -> Self {
        self.0.metadata.finalizers.get_or_insert_default().push(name.to_owned());
        self
    }
    pub(crate) fn owner(mut self, kind: &str, name: &str, uid: &str) -> Self {
        self.0.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]);
        self
    }
    pub(crate) fn spec(mut self, change: impl FnOnce(&mut PodSpec)) -> Self {
        change(self.0.spec.get_or_insert_default());
        self
    }
    pub(crate) fn edit_status(mut self, change: impl FnOnce(&mut PodStatus)) -> Self {
        change(self.status());
        self
    }
    pub(crate) fn build(self) -> Pod {
        self.0
    }
    pub(crate) fn arc(self) -> Arc<Pod> {
        Arc::new(self.0)
    }
}
