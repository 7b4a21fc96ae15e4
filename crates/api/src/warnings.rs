//! What upstream warns of though it takes the object: in its words, since people search for them.

use crate::look::Look;
use machinery::name;
use machinery::quantity::Quantity;
use serde_json::Value;

/// Every answer about these resources carries a warning.
pub fn deprecation(group: &str, version: &str, plural: &str) -> Option<&'static str> {
    match (group, version, plural) {
        ("", "v1", "endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        ("", "v1", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// Warnings about an object that was created, or is changed from `old`.
pub fn warnings(group: &str, kind: &str, object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    match (group, kind) {
        ("", "Pod") if old.is_none() => {
            named(object, "the Pod's hostname", &mut out);
            pod(object.at("spec"), "spec", &mut out);
        }
        ("", "PodTemplate") => template(object.at("template"), "template", &mut out),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet")
        | ("batch", "Job") => workload(kind, object, old, &mut out),
        ("batch", "CronJob") => {
            if old.is_none() {
                named(object, "Pod names and hostnames", &mut out);
            }
            template(object.at("spec.jobTemplate.spec.template"), "spec.jobTemplate.spec.template", &mut out);
        }
        ("", "Service") => service(object.at("spec"), &mut out),
        ("", "PersistentVolume") if object.text("spec.persistentVolumeReclaimPolicy") == "Recycle" => {
            out.push(
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is \
                 to use dynamic provisioning."
                    .to_owned(),
            );
        }
        ("", "PersistentVolumeClaim") => claim(object.at("spec"), "spec", &mut out),
        ("", "Node") if !object.text("spec.externalID").is_empty() => {
            out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        _ => {}
    }
    out
}

fn workload(kind: &str, object: &Value, old: Option<&Value>, out: &mut Vec<String>) {
    let by_name = ["ReplicationController", "ReplicaSet", "Job"].contains(&kind);
    if old.is_none() && (by_name || kind == "StatefulSet" || kind == "Deployment") {
        named(object, "Pod names and hostnames", out);
    }
    if old.is_none_or(|old| old.at("spec.template") != object.at("spec.template")) {
        template(object.at("spec.template"), "spec.template", out);
    }
    if kind == "StatefulSet" {
        for (index, made) in object.items("spec.volumeClaimTemplates").iter().enumerate() {
            claim(made.at("spec"), &format!("spec.volumeClaimTemplates[{index}]"), out);
        }
        if object.int("spec.revisionHistoryLimit") < 0 {
            out.push(
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                    .to_owned(),
            );
        }
    }
}

/// A name that ends up in names of hosts.
fn named(object: &Value, use_: &str, out: &mut Vec<String>) {
    let name = object.text("metadata.name");
    let mut wrong = Vec::new();
    if name.len() > 63 {
        wrong.push("must be no more than 63 characters".to_owned());
    }
    if name.contains('.') {
        wrong.push("must not contain dots".to_owned());
    }
    if wrong.is_empty() {
        wrong = name::dns1123_label(name);
    }
    if !wrong.is_empty() {
        out.push(format!(
            "metadata.name: this is used in {use_}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
}

fn template(template: &Value, at: &str, out: &mut Vec<String>) {
    pod(template.at("spec"), &format!("{at}.spec"), out);
}

/// Kinds of volumes that do nothing any more.
const GONE: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

fn pod(spec: &Value, at: &str, out: &mut Vec<String>) {
    volumes(spec, at, out);
    let mut seen: Vec<&str> = Vec::new();
    for (index, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        let name = secret.text("name");
        if name.is_empty() {
            out.push(format!("{at}.imagePullSecrets[{index}].name: invalid empty name \"\""));
        } else if seen.contains(&name) {
            out.push(format!("{at}.imagePullSecrets[{index}].name: duplicate name {name:?}"));
        }
        seen.push(name);
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, alias) in spec.items("hostAliases").iter().enumerate() {
        let ip = alias.text("ip");
        if seen.contains(&ip) {
            out.push(format!("{at}.hostAliases[{index}].ip: duplicate ip {ip:?}"));
        }
        seen.push(ip);
    }
    for list in ["containers", "initContainers"] {
        for (index, one) in spec.items(list).iter().enumerate() {
            container(one, &format!("{at}.{list}[{index}]"), out);
        }
    }
    for (index, constraint) in spec.items("topologySpreadConstraints").iter().enumerate() {
        if constraint.at("labelSelector").is_null() {
            let at = format!("{at}.topologySpreadConstraints[{index}].labelSelector");
            out.push(format!("{at}: a null labelSelector results in matching no pod"));
        }
    }
    affinity(spec, at, out);
    if spec.int("terminationGracePeriodSeconds") < 0 {
        let what = "must be >= 0; negative values are invalid and will be treated as 1";
        out.push(format!("{at}.terminationGracePeriodSeconds: {what}"));
    }
}

fn affinity(spec: &Value, at: &str, out: &mut Vec<String>) {
    const LISTS: [(&str, &str); 2] = [
        ("requiredDuringSchedulingIgnoredDuringExecution", ""),
        ("preferredDuringSchedulingIgnoredDuringExecution", ".podAffinityTerm"),
    ];
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (list, below) in LISTS {
            for (index, term) in spec.at("affinity").at(kind).items(list).iter().enumerate() {
                let inner = if below.is_empty() { term } else { term.at("podAffinityTerm") };
                if inner.at("labelSelector").is_null() {
                    let place = format!("{at}.affinity.{kind}.{list}[{index}]{below}.labelSelector");
                    out.push(format!("{place}: a null labelSelector results in matching no pod"));
                }
            }
        }
    }
}

fn volumes(spec: &Value, at: &str, out: &mut Vec<String>) {
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        for (_, shown, since) in GONE.iter().filter(|(kind, ..)| volume.has(kind)) {
            out.push(format!("{at}.volumes[{index}].{shown}: {since}"));
        }
        if volume.has("ephemeral.volumeClaimTemplate") {
            let at = format!("{at}.volumes[{index}].ephemeral.volumeClaimTemplate.spec");
            claim(volume.at("ephemeral.volumeClaimTemplate.spec"), &at, out);
        }
        overlapping(volume, out);
    }
}

/// Paths of files in a volume that are the same.
fn overlapping(volume: &Value, out: &mut Vec<String>) {
    let name = volume.text("name");
    let (what, list) = if volume.has("secret") {
        (format!("Secret {:?}", volume.text("secret.secretName")), volume.items("secret.items"))
    } else if volume.has("configMap") {
        (format!("ConfigMap {:?}", volume.text("configMap.name")), volume.items("configMap.items"))
    } else if volume.has("downwardAPI") {
        ("DownwardAPI".to_owned(), volume.items("downwardAPI.items"))
    } else {
        if volume.has("projected")
            && volume.items("projected.sources").iter().any(|source| source.entries("").next().is_none())
        {
            out.push(format!("volume {name:?} (Projected) has no sources provided"));
        }
        return;
    };
    for (index, item) in list.iter().enumerate() {
        let path = item.text("path");
        if !path.is_empty() && list[..index].iter().any(|before| before.text("path") == path) {
            out.push(format!("volume {name:?} ({what}): overlapping paths: {path:?} with {path:?}"));
        }
    }
}

fn container(container: &Value, at: &str, out: &mut Vec<String>) {
    for list in ["limits", "requests"] {
        fractional(
            container.at("resources").at(list),
            &["memory", "ephemeral-storage"],
            &format!("{at}.resources.{list}"),
            out,
        );
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, variable) in container.items("env").iter().enumerate() {
        let name = variable.text("name");
        if seen.contains(&name) {
            out.push(format!(
                "{at}.env[{index}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
        seen.push(name);
    }
    for (index, port) in container.items("ports").iter().enumerate() {
        if !port.text("hostIP").is_empty() && port.int("hostPort") == 0 {
            out.push(format!(
                "{at}.ports[{index}]: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{}}}",
                port.text("name"),
                port.int("containerPort"),
                port.text("protocol"),
                port.text("hostIP")
            ));
        }
    }
}

/// Amounts of bytes that are not whole.
fn fractional(amounts: &Value, names: &[&str], at: &str, out: &mut Vec<String>) {
    for name in names {
        let text = amounts.text(name);
        if Quantity::parse(text).is_ok_and(|amount| amount.milli_value() % 1000 != 0) {
            out.push(format!("{at}[{name}]: fractional byte value {text:?} is invalid, must be an integer"));
        }
    }
}

fn claim(spec: &Value, at: &str, out: &mut Vec<String>) {
    for list in ["requests", "limits"] {
        fractional(spec.at("resources").at(list), &["storage"], &format!("{at}.resources.{list}"), out);
    }
}

fn service(spec: &Value, out: &mut Vec<String>) {
    if !spec.items("externalIPs").is_empty() {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if !spec.text("externalName").is_empty() && spec.text("type") != "ExternalName" {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    if spec.text("clusterIP") == "None" {
        if !spec.text("loadBalancerIP").is_empty() {
            out.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if spec.text("sessionAffinity") == "ClientIP" {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
}
