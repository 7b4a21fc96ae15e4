//! What is wrong with an object, or with the change of one, in upstream's paths and words.
//!
//! Objects come checked against their schema and defaulted. Kinds without checks of their own get those of their metadata and
//! what the schema alone says.

mod at;
mod autoscaling;
mod config;
mod containers;
mod crd;
mod flow;
mod generic;
mod meta;
mod networking;
mod pod;
mod pod_status;
mod policy;
mod probes;
mod quota;
mod rbac;
mod registration;
mod resources;
mod scheduling;
mod security;
mod services;
mod sources;
mod status;
mod storage;
mod storage_core;
mod text;
mod volumes;
mod webhooks;
mod workloads;

use crate::look::Look;
use at::{At, Errors};
use machinery::field::FieldError;
use serde_json::Value;

/// What is wrong with a new object, after its name was generated. Empty when it is good.
pub fn create(group: &str, version: &str, kind: &str, object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::create(group, kind, object, &mut errors);
    match (group, kind) {
        ("", "Pod") => pod::create(object, &mut errors),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::create(object, &mut errors),
        ("", "PodTemplate") => pod::template(&object["template"], &At::root("template"), &mut errors),
        ("", "ReplicationController") | ("apps" | "batch", _) => workloads::create(kind, object, &mut errors),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaling::autoscaler(object, &mut errors),
        ("networking.k8s.io", "Ingress") => networking::ingress(object, &mut errors),
        ("networking.k8s.io", "IngressClass") => networking::ingress_class(object, &mut errors),
        ("networking.k8s.io", "NetworkPolicy") => networking::network_policy(object, &mut errors),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => flow::schema(object, &mut errors),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => flow::level(object, &mut errors),
        ("policy", "PodDisruptionBudget") => policy::disruption_budget(object, &mut errors),
        ("", "Service") => services::service(object, &mut errors),
        ("", "Endpoints") => services::endpoints(object, &mut errors),
        ("discovery.k8s.io", "EndpointSlice") => services::endpoint_slice(object, &mut errors),
        ("", "ConfigMap") => config::config_map(object, &mut errors),
        ("", "Secret") => config::secret(object, &mut errors),
        ("", "Node") => config::node(object, &mut errors),
        ("", "PersistentVolume") => storage_core::volume(object, &mut errors),
        ("", "PersistentVolumeClaim") => storage_core::claim(object, &mut errors),
        ("", "ResourceQuota") => quota::create(object, &mut errors),
        ("", "LimitRange") => config::limit_range(object, &mut errors),
        ("", "Namespace" | "ServiceAccount" | "Event") | ("events.k8s.io", "Event") => {}
        ("coordination.k8s.io", "Lease") => config::lease(object, &mut errors),
        ("scheduling.k8s.io", "PriorityClass") => config::priority_class(object, &mut errors),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => rbac::role(object, kind == "Role", &mut errors),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            rbac::binding(object, kind == "RoleBinding", &mut errors);
        }
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            webhooks::configuration(object, None, &mut errors);
        }
        ("storage.k8s.io", "StorageClass") => storage::class(object, &mut errors),
        ("apiregistration.k8s.io", "APIService") => registration::api_service(object, &mut errors),
        // Judged where certificates can be read.
        ("certificates.k8s.io", _) => {}
        _ => generic::check(group, version, kind, object, &mut errors),
    }
    errors.0
}

/// What is wrong with the change of an object. Empty when it is good.
pub fn update(group: &str, version: &str, kind: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::update(new, old, &mut errors);
    match (group, kind) {
        ("", "Pod") => pod::update(new, old, &mut errors),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::update(new, old, &mut errors),
        ("", "PodTemplate") => pod::template(&new["template"], &At::root("template"), &mut errors),
        ("", "ReplicationController") | ("apps" | "batch", _) => workloads::update(kind, new, old, &mut errors),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaling::autoscaler(new, &mut errors),
        ("networking.k8s.io", "Ingress") => networking::ingress(new, &mut errors),
        ("networking.k8s.io", "IngressClass") => networking::ingress_class_update(new, old, &mut errors),
        ("networking.k8s.io", "NetworkPolicy") => networking::network_policy(new, &mut errors),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => flow::schema(new, &mut errors),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => flow::level(new, &mut errors),
        ("policy", "PodDisruptionBudget") => policy::disruption_budget(new, &mut errors),
        ("", "Service") => services::service_update(new, old, &mut errors),
        ("", "Endpoints") => services::endpoints(new, &mut errors),
        ("discovery.k8s.io", "EndpointSlice") => {
            errors.immutable_fields(new, old, &["addressType"]);
            services::endpoint_slice(new, &mut errors);
        }
        ("", "ConfigMap") => config::config_map_update(new, old, &mut errors),
        ("", "Secret") => config::secret_update(new, old, &mut errors),
        ("", "Node") => config::node_update(new, old, &mut errors),
        ("", "PersistentVolume") => storage_core::volume_update(new, old, &mut errors),
        ("", "PersistentVolumeClaim") => storage_core::claim_update(new, old, &mut errors),
        ("", "ResourceQuota") => quota::update(new, old, &mut errors),
        ("", "LimitRange") => config::limit_range(new, &mut errors),
        ("", "Namespace" | "ServiceAccount" | "Event") | ("events.k8s.io", "Event") => {}
        ("coordination.k8s.io", "Lease") => config::lease(new, &mut errors),
        ("scheduling.k8s.io", "PriorityClass") => config::priority_class_update(new, old, &mut errors),
        ("storage.k8s.io", "StorageClass") => storage::class_update(new, old, &mut errors),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => rbac::role(new, kind == "Role", &mut errors),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            rbac::binding_update(new, old, kind == "RoleBinding", &mut errors);
        }
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            webhooks::configuration(new, Some(old), &mut errors);
        }
        ("apiregistration.k8s.io", "APIService") => registration::api_service(new, &mut errors),
        ("certificates.k8s.io", _) => {}
        _ => generic::check(group, version, kind, new, &mut errors),
    }
    errors.0
}

/// What is wrong with the change of an object's status. Empty when it is good.
pub fn status(group: &str, version: &str, kind: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    let _ = version;
    let mut errors = Errors::default();
    meta::update(new, old, &mut errors);
    match (group, kind) {
        ("apps", _) | ("", "ReplicationController") => status::counts(kind, new, &mut errors),
        ("", "ResourceQuota") => status::resource_quota(new, &mut errors),
        ("", "Pod") => pod_status::check(new, old, &mut errors),
        ("", "Namespace") => status::namespace(new, &mut errors),
        ("", "PersistentVolumeClaim") => status::claim(new, &mut errors),
        ("", "Service") => {
            let at = At::root("status.loadBalancer");
            status::load_balancer(new.at("status.loadBalancer"), &at, &mut errors);
        }
        _ => {}
    }
    errors.0
}

#[cfg(test)]
mod tests;
