//! What field selectors can select by, for each kind.

use crate::look::Look;
use serde_json::Value;

/// The fields of a kind and an object's values for them, always with `metadata.name` and, where there is one,
/// `metadata.namespace`. A selector on any other field is an error.
pub fn selectable(group: &str, kind: &str, object: &Value) -> Vec<(&'static str, String)> {
    let mut fields = vec![("metadata.name", object.text("metadata.name").to_owned())];
    if has_namespace(group, kind, object) {
        fields.push(("metadata.namespace", object.text("metadata.namespace").to_owned()));
    }
    fields.extend(names(group, kind).iter().map(|name| (*name, value_of(group, kind, object, name))));
    fields
}

/// An object's values for [`names`], in their order.
pub fn values(group: &str, kind: &str, object: &Value) -> Vec<String> {
    names(group, kind).iter().map(|name| value_of(group, kind, object, name)).collect()
}

/// Whether a field selector on this field is known for a kind.
pub fn is_selectable(group: &str, kind: &str, field: &str) -> bool {
    matches!(field, "metadata.name" | "metadata.namespace") || names(group, kind).contains(&field)
}

fn has_namespace(group: &str, kind: &str, object: &Value) -> bool {
    let resource = crate::catalogue::all().iter().find(|r| r.group == group && r.kind == kind);
    resource.map_or_else(|| object.has("metadata.namespace"), |r| r.namespaced)
}

/// The fields a kind has besides those of all objects.
pub fn names(group: &str, kind: &str) -> &'static [&'static str] {
    match (group, kind) {
        ("", "Pod") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "Node") => &["spec.unschedulable"],
        ("", "Namespace") => &["status.phase"],
        ("", "Secret") => &["type"],
        ("", "Service") => &["spec.clusterIP", "spec.type"],
        ("", "ReplicationController") | ("apps", "ReplicaSet") => &["status.replicas"],
        ("batch", "Job") => &["status.successful"],
        ("certificates.k8s.io", "CertificateSigningRequest") => &["spec.signerName"],
        ("certificates.k8s.io", "ClusterTrustBundle") => &["spec.signerName"],
        ("certificates.k8s.io", "PodCertificateRequest") => &["spec.signerName", "spec.podName", "spec.nodeName"],
        ("resource.k8s.io", "ResourceSlice") => &["spec.nodeName", "spec.driver"],
        ("", "Event") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "Event") => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        _ => &[],
    }
}

fn value_of(group: &str, kind: &str, object: &Value, field: &str) -> String {
    match (group, kind, field) {
        (_, "Pod", "status.podIPs") => {
            object.items("status.podIPs").iter().map(|a| a.text("ip")).collect::<Vec<_>>().join(",")
        }
        (_, "Job", "status.successful") => object.int("status.succeeded").to_string(),
        ("", "Event", "source") => {
            let component = object.text("source.component");
            if component.is_empty() { object.text("reportingComponent").to_owned() } else { component.to_owned() }
        }
        (_, _, "spec.hostNetwork" | "spec.unschedulable") => object.flag(field).to_string(),
        (_, _, "status.replicas") => object.int(field).to_string(),
        _ => object.text(field).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_of_objects() {
        let pod = json!({
            "metadata": {"name": "a", "namespace": "b"},
            "spec": {"nodeName": "n", "hostNetwork": true},
            "status": {"phase": "Running", "podIPs": [{"ip": "1.2.3.4"}]},
        });
        let of = |group, kind, object: &Value, field: &str| {
            selectable(group, kind, object).into_iter().find(|(name, _)| *name == field).map(|(_, value)| value)
        };
        let cases = [
            ("metadata.name", Some("a")),
            ("metadata.namespace", Some("b")),
            ("spec.nodeName", Some("n")),
            ("spec.hostNetwork", Some("true")),
            ("status.podIPs", Some("1.2.3.4")),
            ("status.podIP", Some("")),
            ("spec.foo", None),
        ];
        for (field, value) in cases {
            assert_eq!(of("", "Pod", &pod, field).as_deref(), value, "{field}");
        }
        assert_eq!(of("", "Node", &json!({"metadata": {"name": "n"}}), "spec.unschedulable").as_deref(), Some("false"));
        assert_eq!(of("", "Node", &json!({"metadata": {"name": "n"}}), "metadata.namespace"), None);
        assert!(is_selectable("", "Secret", "type") && !is_selectable("", "ConfigMap", "type"));
    }
}
