//! What every cluster has from its first moment: namespaces, roles, priority classes, the `kubernetes` and `kube-dns` Services.
//!
//! At each start, what is missing is made; what users changed stays, except that bootstrap roles and bindings get back the
//! rules and subjects they must have (unless their `autoupdate` annotation says `false`). All writes go out at once, so
//! that the store commits them together.

use crate::authz;
use crate::meta;
use crate::storage::Storage;
use futures::future::try_join_all;
use machinery::Status;
use machinery::selector::LabelSelector;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

/// What the bootstrap objects say about this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// ClusterIP of `kubernetes`: the first of the service range.
    pub kubernetes_ip: Ipv4Addr,
    /// What ClusterIPs are taken from, as `10.96.0.0/16`.
    pub service_cidr: String,
    /// ClusterIP of `kube-dns`: the tenth. None: no such Service is made.
    pub dns_ip: Option<Ipv4Addr>,
    /// Where API servers listen, for the endpoints of `kubernetes`.
    pub addresses: Vec<IpAddr>,
    /// The port there.
    pub port: u16,
    /// PEM of the authority that signs clients' certificates.
    pub client_ca: String,
    /// PEM of the authority that signs those who speak for users: ourselves, towards API servers behind us.
    pub front_proxy_ca: String,
}

/// The user our controllers run as.
const CONTROLLERS: &str = "system:kube-controller-manager";

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes what is missing. Namespaces come first: everything else may lie in them.
pub async fn bootstrap(storage: &Storage, config: &Bootstrap) -> Result<(), Status> {
    let mut objects: Vec<Value> = NAMESPACES.iter().map(|name| namespace(name)).collect();
    objects.extend(priority_classes());
    let mut policy = aggregated(authz::bootstrap_objects());
    policy.iter_mut().for_each(bind_controllers);
    objects.extend(policy);
    objects.extend(crate::flow::bootstrap::levels());
    objects.extend(crate::flow::bootstrap::schemas());
    objects.push(kubernetes_service(config));
    objects.push(service_cidr(config));
    objects.extend(config.dns_ip.map(dns_service));
    try_join_all(objects.into_iter().map(|object| ensure(storage, object))).await?;
    let replaced = [endpoints(config), endpoint_slice(config), authentication(config)];
    try_join_all(replaced.map(|object| replace(storage, object))).await?;
    Ok(())
}

/// How API servers behind this one know that it speaks for users.
fn authentication(config: &Bootstrap) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": config.client_ca,
            "requestheader-client-ca-file": config.front_proxy_ca,
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        },
    })
}

/// All our controllers run as one user: it gets the role of each.
fn bind_controllers(object: &mut Value) {
    if object["kind"] == "ClusterRoleBinding" && meta::name(object).starts_with("system:controller:") {
        let user = json!({"kind": "User", "apiGroup": authz_group(), "name": CONTROLLERS});
        object["subjects"].as_array_mut().into_iter().for_each(|subjects| subjects.push(user.clone()));
    }
}

/// Fills in the rules of roles that aggregate, for those who look at them. (Decisions collect them anew.)
fn aggregated(mut objects: Vec<Value>) -> Vec<Value> {
    let aggregates = |object: &Value| object.get("aggregationRule").is_some();
    let rules = |object: &Value| object["rules"].as_array().cloned().unwrap_or_default();
    let roles: Vec<Value> = objects.iter().filter(|object| object["kind"] == "ClusterRole").cloned().collect();
    // A role may select one that aggregates itself; upstream's go three deep.
    let mut known: HashMap<String, Vec<Value>> =
        roles.iter().map(|role| (meta::name(role).to_owned(), rules(role))).collect();
    for _ in 0..3 {
        for role in roles.iter().filter(|role| aggregates(role)) {
            let mut collected: Vec<Value> = Vec::new();
            for other in roles.iter().filter(|other| selects(role, other)) {
                let new = known[meta::name(other)].iter().filter(|rule| !collected.contains(rule)).cloned();
                let new: Vec<Value> = new.collect();
                collected.extend(new);
            }
            known.insert(meta::name(role).to_owned(), collected);
        }
    }
    for object in objects.iter_mut().filter(|object| aggregates(object)) {
        object["rules"] = known[meta::name(object)].clone().into();
    }
    objects
}

fn selects(role: &Value, other: &Value) -> bool {
    let selectors = meta::at(role, &["aggregationRule", "clusterRoleSelectors"]).and_then(Value::as_array);
    let label = |key: &str| meta::at(other, &["metadata", "labels", key]).and_then(Value::as_str);
    let mut selectors = selectors.into_iter().flatten().filter_map(|s| LabelSelector::from_value(s).ok());
    selectors.any(|selector| selector.matches(label))
}

fn place(object: &Value) -> (&'static str, &'static str) {
    match object["kind"].as_str().unwrap_or_default() {
        "Namespace" => ("", "namespaces"),
        "Service" => ("", "services"),
        "Endpoints" => ("", "endpoints"),
        "EndpointSlice" => ("discovery.k8s.io", "endpointslices"),
        "ConfigMap" => ("", "configmaps"),
        "FlowSchema" => ("flowcontrol.apiserver.k8s.io", "flowschemas"),
        "PriorityLevelConfiguration" => ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
        "ServiceCIDR" => ("networking.k8s.io", "servicecidrs"),
        "PriorityClass" => ("scheduling.k8s.io", "priorityclasses"),
        "Role" => (authz_group(), "roles"),
        "RoleBinding" => (authz_group(), "rolebindings"),
        "ClusterRole" => (authz_group(), "clusterroles"),
        _ => (authz_group(), "clusterrolebindings"),
    }
}

const fn authz_group() -> &'static str {
    "rbac.authorization.k8s.io"
}

/// Makes an object, or puts back what of a bootstrap role was taken away.
async fn ensure(storage: &Storage, object: Value) -> Result<(), Status> {
    let (group, resource) = place(&object);
    let kind = storage.kind(group, resource)?;
    let (namespace, name) = (meta::text(&object, "namespace").to_owned(), meta::name(&object).to_owned());
    if kind.get(&namespace, &name).is_none() {
        return match kind.create(object).await {
            Err(status) if status.code != 409 => Err(status),
            _ => Ok(()),
        };
    }
    if group != authz_group() {
        return Ok(());
    }
    kind.update(&namespace, &name, |stored| {
        reconcile(stored, &object);
        Ok(())
    })
    .await
    .map(drop)
}

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Adds rules and subjects that a bootstrap role or binding lacks.
fn reconcile(stored: &mut Value, wanted: &Value) {
    if meta::at(stored, &["metadata", "annotations", AUTOUPDATE]).is_some_and(|value| value == "false") {
        return;
    }
    for field in ["rules", "subjects"] {
        let Some(wanted) = wanted.get(field).and_then(Value::as_array) else { continue };
        let mut list = stored.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
        let missing: Vec<Value> = wanted.iter().filter(|item| !list.contains(item)).cloned().collect();
        if !missing.is_empty() {
            list.extend(missing);
            stored[field] = list.into();
        }
    }
    if let Some(rule) = wanted.get("aggregationRule") {
        stored["aggregationRule"] = rule.clone();
    }
}

/// Writes an object whose content is ours alone.
async fn replace(storage: &Storage, object: Value) -> Result<(), Status> {
    let (group, resource) = place(&object);
    let kind = storage.kind(group, resource)?;
    let (namespace, name) = (meta::text(&object, "namespace").to_owned(), meta::name(&object).to_owned());
    if kind.get(&namespace, &name).is_none() {
        return kind.create(object).await.map(drop);
    }
    let change = |stored: &mut Value| {
        for field in ["endpoints", "ports", "subsets", "addressType", "data"] {
            if let Some(value) = object.get(field) {
                stored[field] = value.clone();
            }
        }
        Ok(())
    };
    kind.update(&namespace, &name, change).await.map(drop)
}

fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    })
}

fn priority_classes() -> [Value; 2] {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name, "generation": 1},
            "value": value, "preemptionPolicy": "PreemptLowerPriority", "description": description,
        })
    };
    [
        class("system-node-critical", 2_000_001_000, "For pods a node cannot work without."),
        class("system-cluster-critical", 2_000_000_000, "For pods the cluster cannot work without."),
    ]
}

fn service(namespace: &str, name: &str, labels: Value, ip: Ipv4Addr, ports: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "ports": ports,
        },
        "status": {"loadBalancer": {}},
    })
}

fn kubernetes_service(config: &Bootstrap) -> Value {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let ports = json!([{"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.port}]);
    service("default", "kubernetes", labels, config.kubernetes_ip, ports)
}

/// The range of ClusterIPs, to look at: it is set when the cluster is made.
fn service_cidr(config: &Bootstrap) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": [config.service_cidr]},
        "status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": machinery::time::now(),
        }]},
    })
}

fn dns_service(ip: Ipv4Addr) -> Value {
    let labels = json!({
        "k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true",
    });
    let ports = json!([
        {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53},
        {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53},
    ]);
    service("kube-system", "kube-dns", labels, ip, ports)
}

fn endpoints(config: &Bootstrap) -> Value {
    let addresses: Vec<Value> = config.addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let ports = json!([{"name": "https", "port": config.port, "protocol": "TCP"}]);
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": if addresses.is_empty() { json!([]) } else { json!([{"addresses": addresses, "ports": ports}]) },
    })
}

fn endpoint_slice(config: &Bootstrap) -> Value {
    let v6 = config.addresses.first().is_some_and(IpAddr::is_ipv6);
    let addresses = config.addresses.iter().filter(|ip| ip.is_ipv6() == v6);
    let endpoints: Vec<Value> = addresses.map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": config.port, "protocol": "TCP"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_may_what_edit_and_view_may() {
        let objects = aggregated(authz::bootstrap_objects());
        let role = |name: &str| objects.iter().find(|o| o["kind"] == "ClusterRole" && meta::name(o) == name).unwrap();
        let rules = |name: &str| role(name)["rules"].as_array().unwrap().clone();
        let (admin, edit, view) = (rules("admin"), rules("edit"), rules("view"));
        assert!(!view.is_empty() && view.iter().all(|rule| edit.contains(rule)));
        assert!(edit.len() > view.len() && edit.iter().all(|rule| admin.contains(rule)));
        assert!(admin.len() > edit.len());
    }

    #[test]
    fn a_bootstrap_role_gets_back_what_it_must_have() {
        let wanted = json!({"rules": [{"verbs": ["get"]}, {"verbs": ["list"]}]});
        let mut stored = json!({"rules": [{"verbs": ["get"]}, {"verbs": ["own"]}]});
        reconcile(&mut stored, &wanted);
        assert_eq!(stored["rules"], json!([{"verbs": ["get"]}, {"verbs": ["own"]}, {"verbs": ["list"]}]));
        let mut kept = json!({"metadata": {"annotations": {(AUTOUPDATE): "false"}}, "rules": []});
        reconcile(&mut kept, &wanted);
        assert_eq!(kept["rules"], json!([]));
    }
}
