//! What a node may ask for on behalf of its pods: tokens and certificates of theirs, and certificates of its own name.

use super::{NodeRestriction, refuse};
use crate::context::{AdmissionRequest, Attributes, Decision, Operation};
use crate::meta;
use crate::storage::Entry;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::Status;
use serde_json::Value;
use std::sync::Arc;

/// Signers of kubelets' certificates.
const KUBELET_SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
const NODE_PREFIX: &str = "system:node:";

fn list<'v>(object: &'v Value, path: &[&str]) -> impl Iterator<Item = &'v Value> {
    meta::at(object, path).and_then(Value::as_array).into_iter().flatten()
}

/// The sources of a pod's projected volumes.
fn projected(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, &["spec", "volumes"]).flat_map(|volume| list(volume, &["projected", "sources"]))
}

impl NodeRestriction {
    /// A token must be bound to a pod of the node, and be for an audience that the pod names.
    pub(super) fn token(&self, request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
        let Some(object) = request.object.as_deref().filter(|_| request.operation == Operation::Create) else {
            return Ok(());
        };
        let bound = |field: &str| meta::text_at(object, &["spec", "boundObjectRef", field]);
        let (name, uid) = (bound("name"), bound("uid"));
        if bound("apiVersion") != "v1" || bound("kind") != "Pod" || name.is_empty() {
            return refuse(request, "node requested token not bound to a pod".to_owned());
        }
        if uid.is_empty() {
            return refuse(request, "node requested token with a pod binding without a uid".to_owned());
        }
        let entry = self.pods.find(&request.attributes.namespace, name)?;
        if *entry.uid != *uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return refuse(request, why);
        }
        let pod = entry.value();
        if meta::text_at(&pod, &["spec", "nodeName"]) != node {
            return refuse(request, "node requested token bound to a pod scheduled on a different node".to_owned());
        }
        let audiences: Vec<&str> = list(object, &["spec", "audiences"]).filter_map(Value::as_str).collect();
        let audience = match audiences.as_slice() {
            [] => "",
            [one] => one,
            _ => return refuse(request, "node may only request 0 or 1 audiences".to_owned()),
        };
        let account = &request.attributes.name;
        if self.names_audience(&pod, audience)
            || self.may(request, "request-serviceaccounts-token-audience", audience, account)
        {
            return Ok(());
        }
        let user = &request.attributes.user.name;
        refuse(request, format!("{user} is not authorized to request tokens for audience {audience:?}"))
    }

    /// Whether a pod has a volume with tokens for an audience: projected, or of a driver that wants them.
    fn names_audience(&self, pod: &Value, audience: &str) -> bool {
        let tokens = projected(pod).filter_map(|source| source.get("serviceAccountToken"));
        if tokens.into_iter().any(|token| meta::text_at(token, &["audience"]) == audience) {
            return true;
        }
        let namespace = meta::text(pod, "namespace");
        list(pod, &["spec", "volumes"]).filter_map(|volume| self.driver(pod, namespace, volume)).any(|driver| {
            let driver = self.drivers.get("", &driver).map(|driver| driver.value());
            driver.is_some_and(|driver| {
                list(&driver, &["spec", "tokenRequests"]).any(|asked| meta::text_at(asked, &["audience"]) == audience)
            })
        })
    }

    /// The CSI driver behind a volume of a pod.
    fn driver(&self, pod: &Value, namespace: &str, volume: &Value) -> Option<String> {
        if let Some(driver) = meta::at(volume, &["csi", "driver"]) {
            return driver.as_str().map(str::to_owned);
        }
        let claim = match meta::at(volume, &["persistentVolumeClaim", "claimName"]).and_then(Value::as_str) {
            Some(claim) => claim.to_owned(),
            None => {
                meta::at(volume, &["ephemeral", "volumeClaimTemplate"])?;
                format!("{}-{}", meta::name(pod), meta::text_at(volume, &["name"]))
            }
        };
        let claim = self.claims.get(namespace, &claim)?.value();
        let bound = self.volumes.get("", meta::text_at(&claim, &["spec", "volumeName"]))?.value();
        Some(meta::text_at(&bound, &["spec", "csi", "driver"]).to_owned())
    }

    /// Whether the node was given a right that it does not have of itself.
    fn may(&self, request: &AdmissionRequest<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let of = request.attributes;
        let attributes = Attributes {
            user: Arc::clone(&of.user),
            verb: verb.to_owned(),
            group: of.group.clone(),
            version: of.version.clone(),
            resource: resource.to_owned(),
            namespace: of.namespace.clone(),
            name: name.to_owned(),
            resource_request: true,
            ..Attributes::default()
        };
        matches!(self.authorizer.authorize(&attributes), Decision::Allow(_))
    }

    /// A request for a pod's certificate must name the node, a pod on it, and that pod's account, each as it is.
    pub(super) fn pod_certificate(&self, request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
        let attributes = request.attributes;
        if request.operation != Operation::Create {
            return refuse(request, format!("unexpected operation {}", request.operation.as_str()));
        }
        if !attributes.subresource.is_empty() {
            return refuse(request, format!("unexpected subresource {}", attributes.subresource));
        }
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        let text = |field: &str| meta::text_at(object, &["spec", field]);
        let (namespace, pod_name) = (&attributes.namespace, text("podName"));
        let place = format!("{namespace}/{pod_name}");
        if text("nodeName") != node {
            let why = format!(
                "PodCertificateRequest.Spec.NodeName={:?}, which is not the requesting node {node:?}",
                text("nodeName")
            );
            return refuse(request, why);
        }
        // What may be a cache's lag is no refusal upstream but a failure that is tried again; there is none here.
        let same = |entry: &Entry, field: &str, what: &str| match *entry.uid == *text(field) {
            true => Ok(()),
            false => Err(Status::internal(format!(
                "PodCertificateRequest for pod {place:?} names {what} UID {:?}, inconsistent with the running one ({:?})",
                text(field),
                &*entry.uid
            ))),
        };
        let own = self.nodes.find("", node)?;
        same(&own, "nodeUID", "node")?;
        let entry = self.pods.find(namespace, pod_name)?;
        same(&entry, "podUID", "pod")?;
        let pod = entry.value();
        if meta::text_at(&pod, &["spec", "nodeName"]) != node {
            let why = format!("pod {place:?} is not running on node {node:?} named in the PodCertificateRequest");
            return refuse(request, why);
        }
        if meta::at(&pod, &["metadata", "annotations", super::MIRROR]).is_some() {
            return refuse(request, format!("pod {place:?} is a mirror pod"));
        }
        let account = meta::text_at(&pod, &["spec", "serviceAccountName"]);
        if text("serviceAccountName") != account {
            let why = format!(
                "PodCertificateRequest for pod {place:?} contains serviceAccountName ({:?}) that differs from running pod ({account:?})",
                text("serviceAccountName")
            );
            return refuse(request, why);
        }
        let entry = self.accounts.find(namespace, account)?;
        same(&entry, "serviceAccountUID", "service account")?;
        let signer = text("signerName");
        let mounted = projected(&pod).any(|source| meta::text_at(source, &["podCertificate", "signerName"]) == signer);
        let verb = "request-serviceaccounts-podcertificate-signer";
        if mounted || self.may(request, verb, &signer.replace('/', ":"), account) {
            return Ok(());
        }
        let why = format!("pod {place:?} does not mount a podCertificate projected volume for signer {signer:?}");
        refuse(request, why)
    }
}

/// A node asks for no certificate of another's name.
pub(super) fn signing_request(request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
    let Some(object) = request.object.as_deref().filter(|_| request.operation == Operation::Create) else {
        return Ok(());
    };
    if !KUBELET_SIGNERS.contains(&meta::text_at(object, &["spec", "signerName"])) {
        return Ok(());
    }
    let pem = STANDARD.decode(meta::text_at(object, &["spec", "request"])).unwrap_or_default();
    let own = format!("{NODE_PREFIX}{node}");
    match pki::Request::from_pem(&pem) {
        Err(error) => refuse(request, format!("unable to parse csr: {error}")),
        Ok(csr) if csr.common_name.starts_with(NODE_PREFIX) && csr.common_name != own => {
            refuse(request, format!("can only create a node CSR with CN={own}"))
        }
        Ok(_) => Ok(()),
    }
}
