//! A container's environment: values with `$(VAR)`, fields, resources, ConfigMaps, Secrets, services.

use crate::downward::{self, NodeFacts};
use crate::objects::Fetched;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod, Service};
use std::collections::{BTreeMap, HashMap};

/// Replaces `$(NAME)` by what `lookup` has; an unknown name stays as written, `$$` is a dollar sign.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

fn variable_name(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// The variables services give: their address and ports, in the short form and in Docker's link form.
pub fn service_links(services: &[&Service]) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for service in services {
        let Some(s) = &service.spec else { continue };
        let Some(ip) = s.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { continue };
        let ports = s.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let name = variable_name(service.metadata.name.as_deref().unwrap_or_default());
        out.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        out.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        for (i, port) in ports.iter().enumerate() {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                out.insert(format!("{name}_SERVICE_PORT_{}", variable_name(port_name)), port.port.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let lower = protocol.to_ascii_lowercase();
            let url = format!("{lower}://{host}:{}", port.port);
            if i == 0 {
                out.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
            out.insert(format!("{prefix}_PROTO"), lower);
            out.insert(format!("{prefix}_PORT"), port.port.to_string());
            out.insert(format!("{prefix}_ADDR"), ip.to_owned());
            out.insert(prefix, url);
        }
    }
    out
}

/// Everything an environment is made from.
pub struct Input<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// ConfigMaps and Secrets the pod refers to.
    pub fetched: &'a Fetched,
    /// Variables of services ([`service_links`]).
    pub services: &'a BTreeMap<String, String>,
    /// Addresses and sizes.
    pub facts: &'a NodeFacts,
}

/// Makes the environment, in order; or says what is missing.
pub fn make(input: &Input<'_>) -> Result<Vec<(String, String)>, String> {
    let mut names: Vec<String> = Vec::new();
    let mut values: HashMap<String, String> = HashMap::new();
    let mut set = |values: &mut HashMap<String, String>, name: String, value: String| {
        if values.insert(name.clone(), value).is_none() {
            names.push(name);
        }
    };
    for source in input.container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (k, v) in env_from(input, source)? {
            set(&mut values, format!("{prefix}{k}"), v);
        }
    }
    for var in input.container.env.iter().flatten() {
        if let Some(value) = one(input, var, &values)? {
            set(&mut values, var.name.clone(), value);
        }
    }
    for (name, value) in input.services {
        if !values.contains_key(name) {
            set(&mut values, name.clone(), value.clone());
        }
    }
    Ok(names
        .into_iter()
        .map(|name| {
            let value = values.remove(&name).unwrap_or_default();
            (name, value)
        })
        .collect())
}

fn env_from(
    input: &Input<'_>,
    source: &k8s_openapi::api::core::v1::EnvFromSource,
) -> Result<Vec<(String, String)>, String> {
    if let Some(r) = &source.config_map_ref {
        let map = input.fetched.config_map(&r.name, r.optional == Some(true))?;
        return Ok(map.map_or_else(Vec::new, |m| m.data.clone().unwrap_or_default().into_iter().collect()));
    }
    if let Some(r) = &source.secret_ref {
        let secret = input.fetched.secret(&r.name, r.optional == Some(true))?;
        let text =
            |(k, v): (&String, &k8s_openapi::ByteString)| (k.clone(), String::from_utf8_lossy(&v.0).into_owned());
        return Ok(secret.map_or_else(Vec::new, |s| s.data.iter().flatten().map(text).collect()));
    }
    Ok(Vec::new())
}

fn one(input: &Input<'_>, var: &EnvVar, values: &HashMap<String, String>) -> Result<Option<String>, String> {
    if let Some(text) = var.value.as_deref().filter(|v| !v.is_empty()) {
        let lookup = |name: &str| values.get(name).or_else(|| input.services.get(name)).cloned();
        return Ok(Some(expand(text, &lookup)));
    }
    match &var.value_from {
        Some(source) => from_source(input, source),
        None => Ok(Some(String::new())),
    }
}

fn from_source(input: &Input<'_>, source: &EnvVarSource) -> Result<Option<String>, String> {
    let namespace = crate::spec::namespace(input.pod);
    if let Some(f) = &source.field_ref {
        return downward::field(input.pod, &f.field_path, input.facts).map(Some);
    }
    if let Some(r) = &source.resource_field_ref {
        return downward::resource(input.pod, input.container, r, input.facts).map(Some);
    }
    if let Some(r) = &source.config_map_key_ref {
        let optional = r.optional == Some(true);
        let Some(map) = input.fetched.config_map(&r.name, optional)? else { return Ok(None) };
        return match map.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", r.key, r.name)),
        };
    }
    if let Some(r) = &source.secret_key_ref {
        let optional = r.optional == Some(true);
        let Some(secret) = input.fetched.secret(&r.name, optional)? else { return Ok(None) };
        return match secret.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in Secret {namespace}/{}", r.key, r.name)),
        };
    }
    if source.file_key_ref.is_some() {
        return Err("environment variables from files (fileKeyRef) are not supported by this node".into());
    }
    Ok(Some(String::new()))
}

/// Command and arguments with `$(VAR)` replaced.
pub fn expand_all(list: Option<&Vec<String>>, envs: &[(String, String)]) -> Vec<String> {
    let lookup = |name: &str| envs.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    list.into_iter().flatten().map(|text| expand(text, &lookup)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn expansion() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("a$", "a$"),
            ("$()", "$()"),
        ] {
            assert_eq!(expand(text, &lookup), want, "{text}");
        }
    }

    fn fetched() -> Fetched {
        let mut fetched = Fetched::default();
        let map = serde_json::from_value(json!({"data": {"k": "v", "x": "y"}})).unwrap();
        fetched.config_maps.insert("cm".into(), Ok(Arc::new(map)));
        let secret = serde_json::from_value(json!({"data": {"p": "c2VjcmV0"}})).unwrap();
        fetched.secrets.insert("s".into(), Ok(Arc::new(secret)));
        fetched
    }

    fn check(container: serde_json::Value) -> Result<Vec<(String, String)>, String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}})).unwrap();
        let container: Container = serde_json::from_value(container).unwrap();
        let services = BTreeMap::from([("KUBERNETES_SERVICE_HOST".to_owned(), "10.43.0.1".to_owned())]);
        let fetched = fetched();
        make(&Input {
            pod: &pod,
            container: &container,
            fetched: &fetched,
            services: &services,
            facts: &NodeFacts::default(),
        })
    }

    #[test]
    fn everything_in_order() {
        let got = check(json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "gone", "optional": true}}],
            "env": [
                {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(P_k)-$(KUBERNETES_SERVICE_HOST)"},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "none", "optional": true}}},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "E"}, {"name": "A", "value": "2"}]}))
        .unwrap();
        let got: Vec<String> = got.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let want =
            ["P_k=v", "P_x=y", "A=2", "B=1-v-10.43.0.1", "S=secret", "N=p", "E=", "KUBERNETES_SERVICE_HOST=10.43.0.1"];
        assert_eq!(got, want);
    }

    #[test]
    fn what_is_missing_is_said() {
        for (env, want) in [
            (json!({"configMapKeyRef": {"name": "none", "key": "k"}}), "configmap \"none\" not found"),
            (json!({"secretKeyRef": {"name": "none", "key": "k"}}), "secret \"none\" not found"),
            (json!({"configMapKeyRef": {"name": "cm", "key": "q"}}), "couldn't find key q in ConfigMap n/cm"),
            (json!({"secretKeyRef": {"name": "s", "key": "q"}}), "couldn't find key q in Secret n/s"),
        ] {
            let got = check(json!({"name": "c", "env": [{"name": "A", "valueFrom": env}]}));
            assert_eq!(got, Err(want.to_owned()));
        }
    }

    #[test]
    fn links_of_services() {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "my-db"}, "spec": {"clusterIP": "10.43.0.7",
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}}))
            .unwrap();
        let headless: Service = serde_json::from_value(
            json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}),
        )
        .unwrap();
        let got: Vec<String> = service_links(&[&service, &headless]).iter().map(|(k, v)| format!("{k}={v}")).collect();
        let want = [
            "MY_DB_PORT=tcp://10.43.0.7:5432",
            "MY_DB_PORT_5432_TCP=tcp://10.43.0.7:5432",
            "MY_DB_PORT_5432_TCP_ADDR=10.43.0.7",
            "MY_DB_PORT_5432_TCP_PORT=5432",
            "MY_DB_PORT_5432_TCP_PROTO=tcp",
            "MY_DB_SERVICE_HOST=10.43.0.7",
            "MY_DB_SERVICE_PORT=5432",
            "MY_DB_SERVICE_PORT_SQL=5432",
        ];
        assert_eq!(got, want);
    }
}
