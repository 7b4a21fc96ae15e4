//! The older `Endpoints` object of a Service, which some clients still read.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::{HEADLESS, PortKey, hostname, ports_of, target};
use crate::pods;

/// The most addresses an object holds; what is beyond is left out and said so in an annotation.
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

/// The object `service` should have now, or `None` if `current` already says that.
pub(crate) fn plan(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Option<Endpoints> {
    let (subsets, truncated) = subsets(service, pods);
    let spec = service.spec.as_ref();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if spec.and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    let mut wanted = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.metadata.labels = Some(labels);
    if truncated {
        let annotations = wanted.metadata.annotations.get_or_insert_default();
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(annotations) = &mut wanted.metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    let same_subsets = current.is_some_and(|c| c.subsets.as_deref().unwrap_or_default() == subsets);
    wanted.subsets = Some(subsets).filter(|s| !s.is_empty());
    let same = current.is_some_and(|c| {
        same_subsets
            && c.metadata.labels == wanted.metadata.labels
            && c.metadata.annotations == wanted.metadata.annotations
    });
    (!same).then_some(wanted)
}

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let spec = service.spec.as_ref();
    let publish = spec.and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let portless = spec.is_none_or(|s| s.ports.as_ref().is_none_or(Vec::is_empty));
    // Of the addresses with the same ports, those that are ready, then those that are not.
    type Pair = (Vec<EndpointAddress>, Vec<EndpointAddress>);
    let mut groups: BTreeMap<Vec<PortKey>, Pair> = BTreeMap::new();
    let (mut total, mut truncated) = (0, false);
    let mut sorted: Vec<&Arc<Pod>> = pods.iter().filter(|p| !pods::is_finished(p)).collect();
    sorted.sort_by_key(|p| (!pods::is_ready(p), p.status.as_ref().and_then(|s| s.pod_ip.clone())));
    for pod in sorted {
        let Some(ip) = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty()) else { continue };
        let ports = ports_of(service, pod);
        if (pods::is_terminating(pod) && !publish) || (ports.is_empty() && !portless) {
            continue;
        }
        if total == ADDRESSES_MAX {
            truncated = true;
            break;
        }
        total += 1;
        let node_name = Some(pods::node(pod).to_owned()).filter(|n| !n.is_empty());
        let address =
            EndpointAddress { ip, node_name, hostname: hostname(service, pod), target_ref: Some(target(pod)) };
        let (ready, not_ready) = groups.entry(ports).or_default();
        if publish || pods::is_ready(pod) { ready.push(address) } else { not_ready.push(address) }
    }
    let filled = |list: Vec<EndpointAddress>| Some(list).filter(|l| !l.is_empty());
    let subsets = groups.into_iter().map(|(ports, (ready, not_ready))| EndpointSubset {
        addresses: filled(ready),
        not_ready_addresses: filled(not_ready),
        ports: Some(ports.into_iter().map(port).collect::<Vec<_>>()).filter(|p| !p.is_empty()),
    });
    (subsets.collect(), truncated)
}

fn port(key: PortKey) -> EndpointPort {
    EndpointPort {
        name: Some(key.name).filter(|n| !n.is_empty()),
        port: key.port,
        protocol: Some(key.protocol),
        app_protocol: key.app_protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{object, pod};
    use serde_json::json;

    #[test]
    fn addresses_are_split_by_readiness() {
        let service: Service = object(json!({
            "metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]},
        }));
        let pods = [
            pod("a").ip("10.0.0.2").ready(1).arc(),
            pod("b").ip("10.0.0.1").arc(),
            pod("c").ip("10.0.0.3").ready(1).deleted(2).arc(),
        ];
        let made = plan(&service, &pods, None).expect("there is nothing yet");
        let subset = &made.subsets.as_ref().unwrap()[0];
        let ips = |list: &Option<Vec<EndpointAddress>>| list.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>();
        assert_eq!(ips(&subset.addresses), ["10.0.0.2"]);
        assert_eq!(ips(&subset.not_ready_addresses), ["10.0.0.1"]);
        assert_eq!(plan(&service, &pods, Some(&made)), None, "nothing to write when nothing changed");
        let emptied = plan(&service, &[], Some(&made)).expect("the addresses are gone");
        assert_eq!(emptied.subsets, None);
    }
}
