//! What all parts of one kubelet share.

use crate::config::Config;
use crate::downward::NodeFacts;
use crate::node::Capacity;
use crate::objects::Objects;
use crate::spec;
use crate::tokens::Tokens;
use crate::writer::Writer;
use client::{EventType, Informer, Recorder};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Shared by all parts; immutable but for what its members guard themselves.
pub struct Context {
    /// Configuration.
    pub config: Config,
    /// What the node has.
    pub capacity: Capacity,
    /// Where the server listens.
    pub port: Option<u16>,
    /// ConfigMaps and Secrets.
    pub objects: Objects,
    /// Tokens of service accounts.
    pub tokens: Tokens,
    /// Services of the cluster.
    pub services: Informer<Service>,
    /// This node's object.
    pub node: Informer<Node>,
    /// Takes statuses to the API.
    pub writer: Writer,
    /// Records events.
    pub recorder: Recorder,
    /// Sandboxes and containers made at one time.
    pub starts: Semaphore,
    /// Image pulls at one time.
    pub pulls: Semaphore,
    /// The name sandboxes get on the node's network.
    pub hostname: String,
    /// Ends everything.
    pub token: CancellationToken,
}

/// The shared context.
pub type Shared = Arc<Context>;

fn reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

impl Context {
    /// An event about a pod.
    pub fn pod_event(&self, pod: &Pod, kind: EventType, reason: &str, message: impl Into<String>) {
        self.recorder.event(&reference(pod, None), kind, reason, message);
    }

    /// An event about a container of a pod.
    pub fn container_event(&self, pod: &Pod, name: &str, kind: EventType, reason: &str, message: impl Into<String>) {
        self.recorder.event(&reference(pod, Some(spec::field_path(pod, name))), kind, reason, message);
    }

    /// An event about the node.
    pub fn node_event(&self, kind: EventType, reason: &str, message: impl Into<String>) {
        let name = &self.config.node_name;
        let reference = ObjectReference {
            kind: Some("Node".into()),
            name: Some(name.clone()),
            uid: Some(name.clone()),
            ..ObjectReference::default()
        };
        self.recorder.event(&reference, kind, reason, message);
    }

    /// Addresses and sizes for the downward API.
    pub fn facts(&self, pod_ips: &[String]) -> NodeFacts {
        NodeFacts {
            host_ips: self.config.node_ips.clone(),
            pod_ips: pod_ips.to_vec(),
            allocatable_cpu_milli: self.capacity.cpu_milli,
            allocatable_memory: self.capacity.memory_bytes,
        }
    }

    /// The variables services give to a pod's containers.
    pub fn service_env(&self, pod: &Pod) -> BTreeMap<String, String> {
        let mut services: Vec<Arc<Service>> = self.services.get("default/kubernetes").into_iter().collect();
        if spec::spec(pod).enable_service_links != Some(false) {
            services.extend(self.services.list_in(spec::namespace(pod)));
        }
        let services: Vec<&Service> = services.iter().map(|s| &**s).collect();
        crate::env::service_links(&services)
    }
}

impl Context {
    /// The runtime.
    pub fn runtime(&self) -> &dyn cri::RuntimeService {
        &*self.config.runtime
    }

    /// The images.
    pub fn images(&self) -> &dyn cri::ImageService {
        &*self.config.images
    }
}
