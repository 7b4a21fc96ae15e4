//! Tokens that a node asks for: bound to a pod that it runs, for an audience that the pod names.

use super::{NodeRestriction, refuse};
use crate::context::{AdmissionRequest, Attributes, Decision};
use crate::meta;
use machinery::Status;
use serde_json::Value;

impl NodeRestriction {
    pub(super) fn token(&self, request: &AdmissionRequest<'_>, node: &str) -> Result<(), Status> {
        let spec = request.object.as_deref().and_then(|request| request.get("spec")).unwrap_or(&Value::Null);
        let bound = |field: &str| meta::text_at(spec, &["boundObjectRef", field]);
        if (bound("apiVersion"), bound("kind")) != ("v1", "Pod") || bound("name").is_empty() {
            return refuse(request, "node requested token not bound to a pod".to_owned());
        }
        let uid = bound("uid");
        if uid.is_empty() {
            return refuse(request, "node requested token with a pod binding without a uid".to_owned());
        }
        let pod = self.pods.find(&request.attributes.namespace, bound("name"))?;
        if *pod.uid != *uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return refuse(request, why);
        }
        if pod.field("spec.nodeName") != Some(node) {
            return refuse(request, "node requested token bound to a pod scheduled on a different node".to_owned());
        }
        let audiences = spec.get("audiences").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let audience = match audiences {
            [] => "",
            [audience] => audience.as_str().unwrap_or_default(),
            _ => return refuse(request, "node may only request 0 or 1 audiences".to_owned()),
        };
        if self.names_audience(&pod.value(), audience) || may_ask_for(request, audience) {
            return Ok(());
        }
        let user = &request.attributes.user.name;
        refuse(request, format!("{user} is not authorized to request tokens for audience {audience:?}"))
    }

    /// Whether a volume of the pod has a token for this audience, itself or by its driver.
    fn names_audience(&self, pod: &Value, audience: &str) -> bool {
        let wanted = |value: Option<&Value>| value.is_some_and(|token| meta::text_at(token, &["audience"]) == audience);
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        list(meta::at(pod, &["spec", "volumes"])).iter().any(|volume| {
            let sources = list(meta::at(volume, &["projected", "sources"]));
            let driver = self.driver(pod, volume).and_then(|driver| self.drivers.get("", &driver));
            sources.iter().any(|source| wanted(source.get("serviceAccountToken")))
                || driver.is_some_and(|driver| {
                    list(meta::at(&driver.value(), &["spec", "tokenRequests"])).iter().any(|token| wanted(Some(token)))
                })
        })
    }

    /// The driver of a volume: its own, or that of the volume its claim is bound to.
    fn driver(&self, pod: &Value, volume: &Value) -> Option<String> {
        let text = |value: &Value, path: &[&str]| Some(meta::text_at(value, path).to_owned()).filter(|t| !t.is_empty());
        let claim = match volume.get("ephemeral") {
            Some(_) => format!("{}-{}", meta::name(pod), meta::text_at(volume, &["name"])),
            None => match text(volume, &["persistentVolumeClaim", "claimName"]) {
                Some(claim) => claim,
                None => return text(volume, &["csi", "driver"]),
            },
        };
        let claim = self.claims.get(meta::text(pod, "namespace"), &claim)?.value();
        let volume = self.volumes.get("", meta::text_at(&claim, &["spec", "volumeName"]))?.value();
        text(&volume, &["spec", "csi", "driver"])
    }
}

/// Whether the node was given the right to ask for tokens for this audience.
fn may_ask_for(request: &AdmissionRequest<'_>, audience: &str) -> bool {
    let attributes = Attributes {
        verb: "request-serviceaccounts-token-audience".to_owned(),
        resource: audience.to_owned(),
        subresource: String::new(),
        ..request.attributes.clone()
    };
    matches!(request.call.api.chain.authorizer.authorize(&attributes), Decision::Allow(_))
}
