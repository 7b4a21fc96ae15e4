//! What a node may read: the objects its pods use, and nothing else's secrets.
//!
//! Answers for users `system:node:NAME` in group `system:nodes`. Reads of secrets, configmaps, claims, volumes and
//! service-account tokens are allowed when a pod bound to the node refers to them; what is the same for all nodes (services,
//! its own Node and Lease, its pods' status, events) is allowed as the role `system:node` has it.

use super::rules::Rule;
use crate::context::{Attributes, Authorizer, Decision, UserInfo};
use crate::meta;
use crate::storage::{Entry, EventType, KindStore, Storage, Subscription};
use futures::FutureExt;
use machinery::Status;
use machinery::selector::FieldSelector;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

const NODES_GROUP: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// Things a pod refers to: kind of thing and name, in the pod's namespace.
pub(crate) type Reference = (&'static str, Box<str>);

struct PodEntry {
    node: Box<str>,
    references: Vec<Reference>,
}

/// What pods refer to, by node.
#[derive(Default)]
struct Graph {
    changes: Option<Subscription>,
    /// What was there when the subscription began, to be learned.
    fresh: Vec<Arc<Entry>>,
    pods: HashMap<Box<str>, PodEntry>,
    /// How many pods of a node refer to a thing: (node, kind, namespace/name).
    used: HashMap<(Box<str>, &'static str, Box<str>), usize>,
}

/// The node authorizer.
pub struct NodeAuthorizer {
    pods: Arc<KindStore>,
    claims: Arc<KindStore>,
    rules: Vec<Rule>,
    graph: Mutex<Graph>,
}

impl NodeAuthorizer {
    /// Reads pods and claims from `storage`.
    pub fn new(storage: &Storage) -> Result<Self, Status> {
        let role = super::policy::cluster_role("system:node");
        Ok(Self {
            pods: storage.kind("", "pods")?,
            claims: storage.kind("", "persistentvolumeclaims")?,
            rules: role.as_ref().map(Rule::parse_all).unwrap_or_default(),
            graph: Mutex::default(),
        })
    }

    fn uses(&self, node: &str, kind: &'static str, namespace: &str, name: &str) -> bool {
        let graph = self.graph.lock();
        let key = |kind, name: String| (Box::from(node), kind, name.into_boxed_str());
        if kind != "persistentvolumes" {
            return graph.used.contains_key(&key(kind, format!("{namespace}/{name}")));
        }
        // A volume is used through the claim bound to it.
        let claims = graph.used.keys().filter(|(of, kind, _)| **of == *node && *kind == "persistentvolumeclaims");
        claims.filter_map(|(_, _, claim)| claim.split_once('/')).any(|(namespace, claim)| {
            let claim = self.claims.get(namespace, claim);
            claim.is_some_and(|claim| meta::text_at(&claim.value(), &["spec", "volumeName"]) == name)
        })
    }

    fn decide(&self, node: &str, a: &Attributes) -> Decision {
        // With each request of a node, needed or not (its lease comes every few seconds), so that changes do not pile up.
        self.graph.lock().refresh(&self.pods);
        let kind = match (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()) {
            ("", "secrets", "") => "secrets",
            ("", "configmaps", "") => "configmaps",
            ("", "persistentvolumeclaims", "" | "status") => "persistentvolumeclaims",
            ("", "persistentvolumes", "") => "persistentvolumes",
            ("", "serviceaccounts", "token") => "serviceaccounts",
            ("", "nodes", "") if reads(a) => return own_node(a, node),
            ("", "pods", "") if reads(a) => return self.pod(a, node),
            ("coordination.k8s.io", "leases", _) => return own(a, node, a.namespace == "kube-node-lease"),
            ("storage.k8s.io", "csinodes", _) => return own(a, node, true),
            _ if self.rules.iter().any(|rule| rule.allows(a)) => return Decision::Allow(String::new()),
            _ => return Decision::NoOpinion(String::new()),
        };
        let may = match (kind, a.verb.as_str()) {
            ("serviceaccounts", verb) => verb == "create",
            ("persistentvolumeclaims", verb) if a.subresource == "status" => matches!(verb, "update" | "patch"),
            ("persistentvolumeclaims" | "persistentvolumes", verb) => verb == "get",
            _ => reads(a) && !a.namespace.is_empty(),
        };
        // A list or watch of one object has its name from the field selector.
        let name = &a.name;
        if !may || name.is_empty() {
            return Decision::NoOpinion(format!("can only {} {kind} that are in use by this node's pods", a.verb));
        }
        match self.uses(node, kind, &a.namespace, name) {
            true => Decision::Allow(String::new()),
            false => Decision::NoOpinion(unrelated(node)),
        }
    }

    /// Reads of pods: those that run there.
    fn pod(&self, a: &Attributes, node: &str) -> Decision {
        if a.verb != "get" && selects(a, "spec.nodeName", node) {
            return Decision::Allow(String::new());
        }
        let key = format!("{}/{}", a.namespace, a.name);
        match self.graph.lock().pods.get(key.as_str()) {
            Some(pod) if *pod.node == *node => Decision::Allow(String::new()),
            None if a.name.is_empty() => {
                let why = "can only list/watch pods with spec.nodeName field selector";
                Decision::NoOpinion(why.to_owned())
            }
            _ => Decision::NoOpinion(unrelated(node)),
        }
    }
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn reads(a: &Attributes) -> bool {
    matches!(a.verb.as_str(), "get" | "list" | "watch")
}

/// Whether a request is about objects with that field alone.
fn selects(a: &Attributes, field: &str, value: &str) -> bool {
    FieldSelector::parse(&a.field_selector).is_ok_and(|selector| selector.exact(field) == Some(value))
}

fn own_node(a: &Attributes, node: &str) -> Decision {
    match a.name.as_str() {
        name if name == node => Decision::Allow(String::new()),
        "" => Decision::NoOpinion(format!("node '{node}' cannot read all nodes, only its own Node object")),
        name => Decision::NoOpinion(format!("node '{node}' cannot read '{name}', only its own Node object")),
    }
}

/// Objects named after their node.
fn own(a: &Attributes, node: &str, right_place: bool) -> Decision {
    let names_none = a.verb == "create" && a.name.is_empty();
    let known = matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete");
    match known && right_place && (names_none || a.name == node) {
        true => Decision::Allow(String::new()),
        false => Decision::NoOpinion("can only access an object with the same name as the requesting node".to_owned()),
    }
}

/// The node behind a user, if it is one.
pub(crate) fn node_of(user: &UserInfo) -> Option<&str> {
    let member = user.groups.iter().any(|group| group == NODES_GROUP);
    user.name.strip_prefix(NODE_PREFIX).filter(|node| member && !node.is_empty())
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        match node_of(&attributes.user) {
            Some(node) if attributes.resource_request => self.decide(node, attributes),
            _ => Decision::NoOpinion(String::new()),
        }
    }
}

impl Graph {
    /// Applies all changes of pods that have happened. Cost: one per changed pod; all pods, when changes were missed.
    fn refresh(&mut self, pods: &KindStore) {
        loop {
            let changes = self.changes.get_or_insert_with(|| {
                let (entries, changes) = pods.subscribe();
                self.pods.clear();
                self.used.clear();
                self.fresh = entries;
                changes
            });
            // All that has arrived, whatever this task's share of polls.
            let next = tokio::task::unconstrained(changes.recv()).now_or_never();
            for entry in std::mem::take(&mut self.fresh) {
                self.learn(&entry);
            }
            match next {
                None => return,
                Some(Some(event)) if event.kind == EventType::Deleted => self.remove(&event.entry.key),
                Some(Some(event)) => self.learn(&event.entry),
                Some(None) => self.changes = None,
            }
        }
    }

    fn learn(&mut self, entry: &Entry) {
        // Which things a pod refers to is settled at its creation, but for its node and ephemeral containers.
        let node = entry.field("spec.nodeName").unwrap_or_default();
        let grows = std::str::from_utf8(&entry.object.body).is_ok_and(|text| text.contains("\"ephemeralContainers\""));
        if self.pods.get(&entry.key).is_some_and(|pod| *pod.node == *node) && (node.is_empty() || !grows) {
            return;
        }
        self.remove(&entry.key);
        self.add(&entry.key, node, &entry.value());
    }

    fn add(&mut self, key: &str, node: &str, pod: &Value) {
        let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
        let references = if node.is_empty() { Vec::new() } else { references(pod, namespace) };
        for (kind, thing) in &references {
            *self.used.entry((node.into(), kind, thing.clone())).or_default() += 1;
        }
        self.pods.insert(key.into(), PodEntry { node: node.into(), references });
    }

    fn remove(&mut self, key: &str) {
        let Some(pod) = self.pods.remove(key) else { return };
        for (kind, thing) in pod.references {
            let key = (pod.node.clone(), kind, thing);
            if let Some(count) = self.used.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.used.remove(&key);
                }
            }
        }
    }
}

/// Every secret, configmap, claim and service account a pod names, as `namespace/name`.
pub(crate) fn references(pod: &Value, namespace: &str) -> Vec<Reference> {
    let mut found: Vec<Reference> = Vec::new();
    let mut add = |kind: &'static str, name: Option<&Value>| {
        if let Some(name) = name.and_then(Value::as_str).filter(|name| !name.is_empty()) {
            found.push((kind, format!("{namespace}/{name}").into()));
        }
    };
    let spec = &pod["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    add("serviceaccounts", spec.get("serviceAccountName"));
    for secret in list(&spec["imagePullSecrets"]) {
        add("secrets", secret.get("name"));
    }
    for volume in list(&spec["volumes"]) {
        add("secrets", volume.pointer("/secret/secretName"));
        add("configmaps", volume.pointer("/configMap/name"));
        add("persistentvolumeclaims", volume.pointer("/persistentVolumeClaim/claimName"));
        for reference in ["cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            add("secrets", volume.pointer(&format!("/{reference}/secretRef/name")));
        }
        add("secrets", volume.pointer("/azureFile/secretName"));
        add("secrets", volume.pointer("/csi/nodePublishSecretRef/name"));
        if volume.get("ephemeral").is_some() {
            let claim = format!("{}-{}", meta::name(pod), volume["name"].as_str().unwrap_or_default());
            add("persistentvolumeclaims", Some(&Value::from(claim)));
        }
        for source in list(&volume["projected"]["sources"]) {
            add("secrets", source.pointer("/secret/name"));
            add("configmaps", source.pointer("/configMap/name"));
        }
    }
    for containers in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list(&spec[containers]) {
            for source in list(&container["envFrom"]) {
                add("secrets", source.pointer("/secretRef/name"));
                add("configmaps", source.pointer("/configMapRef/name"));
            }
            for variable in list(&container["env"]) {
                add("secrets", variable.pointer("/valueFrom/secretKeyRef/name"));
                add("configmaps", variable.pointer("/valueFrom/configMapKeyRef/name"));
            }
        }
    }
    found
}
