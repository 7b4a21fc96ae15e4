//! Plug-ins that are on by default upstream, each with what is subtle about it (asked of upstream's server where it was in doubt).
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod secured;

use secured::{Client, Secured, start, text};
use serde_json::{Value, json};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";

async fn account(server: &Secured) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let (code, answer) = server.post(&server.admin(), "/api/v1/namespaces/default/serviceaccounts", &account).await;
    assert!(code == 201 || code == 409, "{answer}");
}

#[tokio::test]
async fn an_ingress_gets_the_class_that_is_marked() {
    let server = start().await;
    let class = |name: &str, marked: bool| {
        let annotations = json!({"ingressclass.kubernetes.io/is-default-class": marked.to_string()});
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": name, "annotations": annotations}, "spec": {"controller": "example.org/c"}})
    };
    let ingress = |name: &str, class: Option<&str>, annotated: bool| {
        let mut ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
            "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
        if let Some(class) = class {
            ingress["spec"]["ingressClassName"] = json!(class);
        }
        if annotated {
            ingress["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "old"});
        }
        ingress
    };
    let none = server.make(INGRESSES, ingress("none", None, false)).await;
    assert_eq!(none["spec"].get("ingressClassName"), None);
    for (name, marked) in [("plain", false), ("one", true)] {
        server.make("/apis/networking.k8s.io/v1/ingressclasses", class(name, marked)).await;
    }
    let cases = [(None, false, Some("one")), (Some("plain"), false, Some("plain")), (None, true, None)];
    for (at, (class, annotated, expected)) in cases.into_iter().enumerate() {
        let made = server.make(INGRESSES, ingress(&format!("i{at}"), class, annotated)).await;
        assert_eq!(made["spec"].get("ingressClassName").and_then(Value::as_str), expected, "{made}");
    }
}

#[tokio::test]
async fn a_pod_on_a_node_has_its_region_and_zone() {
    let server = start().await;
    account(&server).await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "o"});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels}});
    server.make("/api/v1/nodes", node).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, node: &str| {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        if !node.is_empty() {
            spec["nodeName"] = json!(node);
        }
        json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "mine", "own": "x"}}})
    };
    let expected = json!({"own": "x", "topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"});
    let placed = server.make(pods, pod("placed", "n1")).await;
    assert_eq!(placed["metadata"]["labels"], expected);
    let free = server.make(pods, pod("free", "")).await;
    assert_eq!(text(&free, "/metadata/labels/topology.kubernetes.io~1zone"), "mine");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "free"},
        "target": {"kind": "Node", "name": "n1"}});
    server.make(&format!("{pods}/free/binding"), binding).await;
    let (_, bound) = server.get(&server.admin(), &format!("{pods}/free")).await;
    assert_eq!((text(&bound, "/spec/nodeName"), &bound["metadata"]["labels"]), ("n1".into(), &expected));
    let lost = server.make(pods, pod("lost", "nowhere")).await;
    assert_eq!(text(&lost, "/metadata/labels/topology.kubernetes.io~1zone"), "mine", "the node may come later");
}

#[tokio::test]
async fn volumes_are_protected_and_claims_grow_where_they_can() {
    let server = start().await;
    let admin = server.admin();
    for (name, grows) in [("fixed", false), ("elastic", true)] {
        let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
            "provisioner": "example.org/disk", "allowVolumeExpansion": grows});
        server.make("/apis/storage.k8s.io/v1/storageclasses", class).await;
    }
    let claim = |name: &str, class: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "finalizers": ["example.org/x"]},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}});
    let volume = server.make("/api/v1/persistentvolumes", volume).await;
    assert_eq!(volume["metadata"]["finalizers"], json!(["kubernetes.io/pv-protection"]));
    let only_bound = "Only bound persistent volume claims can be expanded";
    let only_some = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    for (name, class, bound, code, words) in [
        ("a", "elastic", false, 403, only_bound),
        ("b", "fixed", true, 403, only_some),
        ("c", "elastic", true, 200, ""),
    ] {
        let made = server.make(CLAIMS, claim(name, class)).await;
        assert_eq!(made["metadata"]["finalizers"], json!(["example.org/x", "kubernetes.io/pvc-protection"]));
        let path = format!("{CLAIMS}/{name}");
        let patch = Client { headers: vec![("content-type", "application/merge-patch+json".into())], ..admin.clone() };
        if bound {
            let status = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
            assert_eq!(server.send(&patch, "PATCH", &format!("{path}/status"), &status).await.0, 200);
        }
        let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        let (got, answer) = server.send(&patch, "PATCH", &path, &grow).await;
        // What validation refuses it refuses first, as upstream.
        let refused_before = !bound && got == 422;
        assert!(refused_before || (got == code && text(&answer, "/message").contains(words)), "{got} {answer}");
    }
}
