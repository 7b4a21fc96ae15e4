//! The endpoints of a Service, and how to bring its EndpointSlices there with as few writes as can be.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::{owner, pods};
use client::select::Labels;

/// Which Service a slice belongs to.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Who writes a slice.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller, in [`MANAGED_BY`].
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Marks the slices of a Service without a cluster address.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// The most endpoints a slice holds.
const ENDPOINTS_MAX: usize = 100;

/// A change to the cluster.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(String),
}

/// A set of ports, and the endpoints that serve it, by pod uid.
type Groups = BTreeMap<Vec<PortKey>, BTreeMap<String, Endpoint>>;

/// An [`EndpointPort`] that can be compared and sorted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortKey {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
    pub(crate) app_protocol: Option<String>,
}

/// Zones of nodes, by node name.
pub(crate) type Zones = HashMap<String, String>;

/// Plans the slices of `service`, whose selected pods are `pods` and whose own slices are `slices`.
///
/// `name` gives names for new slices.
pub(crate) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    zones: &Zones,
    slices: &[Arc<EndpointSlice>],
    mut name: impl FnMut() -> String,
) -> Vec<Action> {
    let mut actions = Vec::new();
    let families = families(service);
    for family in &families {
        let mine: Vec<&Arc<EndpointSlice>> = slices.iter().filter(|s| s.address_type == *family).collect();
        let groups = group(service, pods, zones, family);
        actions.extend(plan_family(service, family, groups, &mine, &mut name));
    }
    let stray = slices.iter().filter(|s| !families.contains(&s.address_type.as_str()));
    actions.extend(stray.filter_map(|s| s.metadata.name.clone()).map(Action::Delete));
    actions
}

fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|s| s.ip_families.as_deref()).unwrap_or_default();
    let address = spec.and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
    match listed {
        [] if address.contains(':') => vec!["IPv6"],
        [] => vec!["IPv4"],
        some => some.iter().map(|f| if f == "IPv6" { "IPv6" } else { "IPv4" }).collect(),
    }
}

fn group(service: &Service, pods: &[Arc<Pod>], zones: &Zones, family: &str) -> Groups {
    let mut groups = Groups::new();
    for pod in pods.iter().filter(|p| !pods::is_finished(p)) {
        let Some(uid) = pod.metadata.uid.clone() else { continue };
        let addresses = addresses(pod, family);
        if addresses.is_empty() {
            continue;
        }
        let endpoint = endpoint(service, pod, zones, addresses);
        groups.entry(ports_of(service, pod)).or_default().insert(uid, endpoint);
    }
    groups
}

/// The pod's addresses of one family.
fn addresses(pod: &Pod, family: &str) -> Vec<String> {
    let all = pod.status.iter().flat_map(|s| s.pod_ips.iter().flatten());
    all.map(|ip| ip.ip.clone()).filter(|ip| ip.contains(':') == (family == "IPv6")).collect()
}

fn endpoint(service: &Service, pod: &Pod, zones: &Zones, addresses: Vec<String>) -> Endpoint {
    let spec = service.spec.as_ref();
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let publish = spec.and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let ready = publish || (serving && !terminating);
    let node = Some(pods::node(pod)).filter(|n| !n.is_empty());
    let zone = node.and_then(|n| zones.get(n)).cloned();
    let distribution = spec.and_then(|s| s.traffic_distribution.as_deref());
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: hints(distribution.filter(|_| ready), node, zone.as_deref()),
        hostname: hostname(service, pod),
        node_name: node.map(str::to_owned),
        target_ref: Some(target(pod)),
        zone,
        ..Endpoint::default()
    }
}

/// Where traffic should come from, as `spec.trafficDistribution` wishes.
fn hints(distribution: Option<&str>, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let for_zones = zone.map(|z| vec![ForZone { name: z.to_owned() }]);
    match distribution? {
        "PreferClose" | "PreferSameZone" if for_zones.is_some() => Some(EndpointHints { for_zones, for_nodes: None }),
        "PreferSameNode" => {
            let for_nodes = node.map(|n| vec![ForNode { name: n.to_owned() }]);
            Some(EndpointHints { for_nodes, for_zones }).filter(|h| h.for_nodes.is_some())
        }
        _ => None,
    }
}

/// The pod's own name in the Service's domain: only if the pod names this Service as its subdomain.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let belongs = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|h| belongs && !h.is_empty())
}

/// The reference to the pod behind an address.
pub(crate) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The ports `pod` serves the Service on, sorted. A named target port that the pod lacks is left out.
pub(crate) fn ports_of(service: &Service, pod: &Pod) -> Vec<PortKey> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let mut keys: Vec<PortKey> = ports
        .filter_map(|p| {
            Some(PortKey {
                name: p.name.clone().unwrap_or_default(),
                protocol: protocol(p).to_owned(),
                port: target_port(p, pod)?,
                app_protocol: p.app_protocol.clone(),
            })
        })
        .collect();
    keys.sort();
    keys
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(n)) => return Some(*n),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let all = spec.containers.iter().chain(sidecars);
    let mut declared = all.flat_map(|c: &Container| c.ports.iter().flatten());
    let wanted = protocol(port);
    declared
        .find(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == wanted)
        .map(|p| p.container_port)
}

/// The wire form of a port.
pub(crate) fn endpoint_port(key: &PortKey) -> EndpointPort {
    EndpointPort {
        name: Some(key.name.clone()),
        protocol: Some(key.protocol.clone()),
        port: Some(key.port),
        app_protocol: key.app_protocol.clone(),
    }
}

fn port_keys(slice: &EndpointSlice) -> Vec<PortKey> {
    let mut keys: Vec<PortKey> = slice
        .ports
        .iter()
        .flatten()
        .map(|p| PortKey {
            name: p.name.clone().unwrap_or_default(),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: p.port.unwrap_or(0),
            app_protocol: p.app_protocol.clone(),
        })
        .collect();
    keys.sort();
    keys
}

fn plan_family(
    service: &Service,
    family: &str,
    mut groups: Groups,
    slices: &[&Arc<EndpointSlice>],
    name: &mut impl FnMut() -> String,
) -> Vec<Action> {
    let labels = slice_labels(service);
    let blank = |ports: &[PortKey]| EndpointSlice {
        address_type: family.to_owned(),
        metadata: ObjectMeta {
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![owner::reference(service)]),
            generate_name: Some(format!("{}-", service.metadata.name.as_deref().unwrap_or_default())),
            ..ObjectMeta::default()
        },
        ports: Some(ports.iter().map(endpoint_port).collect::<Vec<_>>()).filter(|p| !p.is_empty()),
        endpoints: None,
    };
    // First what is: each slice keeps the endpoints that still exist.
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    for slice in slices.iter().filter(|s| s.metadata.deletion_timestamp.is_none()) {
        let ports = port_keys(slice);
        let mut draft = Draft::of(slice, ports);
        if let Some(wanted) = groups.get_mut(&draft.ports) {
            draft.keep(wanted);
        } else {
            draft.endpoints.clear();
        }
        draft.changed |= relabel(&mut draft.slice, &labels);
        drafts.push(draft);
    }
    // Then what is new: into slices that are written anyway, then into others with room, then into new ones.
    for (ports, wanted) in groups {
        let mut rest: Vec<Endpoint> = wanted.into_values().collect();
        for changed in [true, false] {
            let fitting =
                drafts.iter_mut().filter(|d| d.ports == ports && d.is_changed() == changed && !d.endpoints.is_empty());
            fitting.for_each(|d| d.fill(&mut rest));
        }
        while !rest.is_empty() {
            let mut draft = Draft::new(blank(&ports), ports.clone());
            draft.fill(&mut rest);
            drafts.push(draft);
        }
    }
    if drafts.iter().all(|d| d.endpoints.is_empty()) {
        // A Service without endpoints keeps one empty slice, so that readers know it was looked at.
        match drafts.first_mut() {
            Some(first) => first.placeholder = true,
            None => drafts.push(Draft { placeholder: true, ..Draft::new(blank(&[]), Vec::new()) }),
        }
    }
    drafts.into_iter().filter_map(|d| d.action(name)).collect()
}

/// A slice being worked on.
struct Draft<'a> {
    before: Option<&'a EndpointSlice>,
    slice: EndpointSlice,
    ports: Vec<PortKey>,
    endpoints: Vec<Endpoint>,
    changed: bool,
    placeholder: bool,
}

impl<'a> Draft<'a> {
    fn new(slice: EndpointSlice, ports: Vec<PortKey>) -> Self {
        Draft { before: None, slice, ports, endpoints: Vec::new(), changed: true, placeholder: false }
    }

    fn of(before: &'a EndpointSlice, ports: Vec<PortKey>) -> Self {
        let slice = EndpointSlice { endpoints: None, ..before.clone() };
        let endpoints = before.endpoints.clone().unwrap_or_default();
        Draft { before: Some(before), slice, ports, endpoints, changed: false, placeholder: false }
    }

    fn is_changed(&self) -> bool {
        self.changed || self.before.is_some_and(|b| b.endpoints.as_deref().unwrap_or_default() != self.endpoints)
    }

    /// Keeps, brought up to date, the endpoints that are `wanted`, and takes them from there.
    fn keep(&mut self, wanted: &mut BTreeMap<String, Endpoint>) {
        let uid = |e: &Endpoint| e.target_ref.as_ref().and_then(|t| t.uid.clone());
        let old = std::mem::take(&mut self.endpoints);
        self.endpoints = old.iter().filter_map(|e| wanted.remove(&uid(e)?)).collect();
    }

    fn fill(&mut self, rest: &mut Vec<Endpoint>) {
        let room = ENDPOINTS_MAX.saturating_sub(self.endpoints.len()).min(rest.len());
        self.endpoints.extend(rest.drain(..room));
    }

    fn action(self, name: &mut impl FnMut() -> String) -> Option<Action> {
        let changed = self.is_changed();
        let Draft { before, mut slice, endpoints, placeholder, .. } = self;
        if endpoints.is_empty() && !placeholder {
            return before.and_then(|b| b.metadata.name.clone()).map(Action::Delete);
        }
        slice.endpoints = Some(endpoints);
        match before {
            None => {
                slice.metadata.name = Some(name());
                Some(Action::Create(Box::new(slice)))
            }
            Some(_) => changed.then(|| Action::Update(Box::new(slice))),
        }
    }
}

/// The Service's own labels, and those that make the slice findable.
fn slice_labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    let spec = service.spec.as_ref();
    if spec.and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn relabel(slice: &mut EndpointSlice, labels: &Labels) -> bool {
    let same = slice.metadata.labels.as_ref() == Some(labels);
    if !same {
        slice.metadata.labels = Some(labels.clone());
    }
    !same
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{object, pod};
    use serde_json::json;

    fn service(spec: serde_json::Value) -> Service {
        object(json!({"metadata": {"name": "web", "namespace": "default", "uid": "svc"}, "spec": spec}))
    }

    fn run(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Vec<Action> {
        let zones = Zones::from([("n1".to_owned(), "z1".to_owned())]);
        let mut n = 0;
        plan(service, pods, &zones, slices, || {
            n += 1;
            format!("web-{n}")
        })
    }

    fn created(actions: &[Action]) -> Vec<Arc<EndpointSlice>> {
        let slice = |a: &Action| match a {
            Action::Create(s) | Action::Update(s) => Arc::new(EndpointSlice::clone(s)),
            Action::Delete(name) => panic!("{name} is deleted"),
        };
        actions.iter().map(slice).collect()
    }

    #[test]
    fn conditions_tell_ready_serving_and_terminating() {
        let plain = json!({"ports": [{"port": 80, "targetPort": 8080}]});
        let publish = json!({"ports": [{"port": 80}], "publishNotReadyAddresses": true});
        let rows = [
            (&plain, pod("a").ip("10.0.0.1").ready(1), (true, true, false)),
            (&plain, pod("a").ip("10.0.0.1"), (false, false, false)),
            (&plain, pod("a").ip("10.0.0.1").ready(1).deleted(2), (false, true, true)),
            (&publish, pod("a").ip("10.0.0.1").deleted(2), (true, false, true)),
        ];
        for (spec, pod, (ready, serving, terminating)) in rows {
            let slices = created(&run(&service(spec.clone()), &[pod.arc()], &[]));
            let endpoint = &slices[0].endpoints.as_ref().unwrap()[0];
            let want =
                EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) };
            assert_eq!(endpoint.conditions, Some(want));
            assert_eq!(endpoint.zone.as_deref(), Some("z1"));
        }
    }

    #[test]
    fn ended_pods_and_pods_without_address_are_left_out() {
        let s = service(json!({"ports": [{"port": 80}]}));
        let pods = [pod("a").ip("10.0.0.1").phase("Failed").arc(), pod("b").ready(1).arc()];
        let slices = created(&run(&s, &pods, &[]));
        assert_eq!(slices.len(), 1, "an empty slice stands for a Service without endpoints");
        assert_eq!(slices[0].endpoints.as_deref(), Some(&[][..]));
        assert_eq!(run(&s, &pods, &slices), [], "and it is not written again");
    }

    #[test]
    fn named_ports_split_slices_by_port() {
        let s = service(json!({"ports": [{"name": "http", "port": 80, "targetPort": "web"}]}));
        let with_port = |name: &str, port: i32| {
            pod(name).ip("10.0.0.1").ready(1).spec(move |s| {
                s.containers[0].ports = Some(vec![object(json!({"name": "web", "containerPort": port}))]);
            })
        };
        let slices = created(&run(&s, &[with_port("a", 8080).arc(), with_port("b", 9090).arc()], &[]));
        let ports: Vec<_> = slices.iter().map(|s| s.ports.as_ref().unwrap()[0].port.unwrap()).collect();
        assert_eq!(ports, [8080, 9090]);
    }

    #[test]
    fn slices_hold_a_hundred_and_change_little() {
        let s = service(json!({"clusterIP": "None", "ports": [{"port": 80}]}));
        let mut pods: Vec<_> =
            (0..150).map(|i| pod(&format!("p{i:03}")).ip(&format!("10.0.0.{i}")).ready(1).arc()).collect();
        let slices = created(&run(&s, &pods, &[]));
        assert_eq!(slices.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect::<Vec<_>>(), [100, 50]);
        assert_eq!(slices[0].metadata.labels.as_ref().unwrap().get(HEADLESS).map(String::as_str), Some(""));
        assert_eq!(run(&s, &pods, &slices), []);
        pods.remove(3);
        pods.push(pod("new").ip("10.0.1.1").ready(1).arc());
        let actions = run(&s, &pods, &slices);
        let updated = created(&actions);
        assert_eq!(updated.len(), 1, "the new one takes the place in the slice that is written anyway");
        assert_eq!(updated[0].endpoints.as_ref().unwrap().len(), 100);
        assert!(matches!(actions[0], Action::Update(_)));
        pods.truncate(99);
        let all = run(&s, &pods, &slices);
        assert!(matches!(&all[..], [Action::Update(_), Action::Delete(name)] if name == "web-2"), "{all:?}");
    }
}
