//! The Service by which pods know the server.

use std::net::{Ipv4Addr, SocketAddrV4};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

const NAME: &str = "kube-dns";
const NAMESPACE: &str = "kube-system";
const PORTS: [(&str, &str); 2] = [("dns", "UDP"), ("dns-tcp", "TCP")];

/// The Service `kube-system/kube-dns` with its address, and the EndpointSlice of the server that listens at `listen`.
/// The Service has no selector, so that no controller manages its endpoints. `node` is the node's name.
pub fn service_objects(cluster_ip: Ipv4Addr, listen: SocketAddrV4, node: &str) -> (Service, EndpointSlice) {
    let metadata = |name: String, labels: &[(&str, &str)]| ObjectMeta {
        name: Some(name),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
        ..ObjectMeta::default()
    };
    let labels = [("k8s-app", NAME), ("kubernetes.io/name", "CoreDNS"), ("kubernetes.io/cluster-service", "true")];
    let ports = PORTS.map(|(name, protocol)| ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: 53,
        target_port: Some(IntOrString::Int(listen.port().into())),
        ..ServicePort::default()
    });
    let service = Service {
        metadata: metadata(NAME.to_owned(), &labels),
        spec: Some(ServiceSpec {
            cluster_ip: Some(cluster_ip.to_string()),
            ports: Some(ports.into()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    let ports = PORTS.map(|(name, protocol)| EndpointPort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: Some(listen.port().into()),
        ..EndpointPort::default()
    });
    let ready = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    let slice = EndpointSlice {
        metadata: metadata(
            format!("{NAME}-{node}"),
            &[("kubernetes.io/service-name", NAME), ("endpointslice.kubernetes.io/managed-by", "kijabi-dns")],
        ),
        address_type: "IPv4".to_owned(),
        endpoints: Some(vec![Endpoint {
            addresses: vec![listen.ip().to_string()],
            conditions: Some(ready),
            node_name: Some(node.to_owned()),
            ..Endpoint::default()
        }]),
        ports: Some(ports.into()),
    };
    (service, slice)
}
