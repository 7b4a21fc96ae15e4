//! The proxies to pods, services and nodes: HTTP with any method, and upgrades.

use super::Connect;
use super::kubelet::authority;
use crate::body::Body;
use crate::endpoint::{Endpoint, EndpointRequest};
use crate::meta;
use crate::storage::Selection;
use crate::webhook::ready;
use async_trait::async_trait;
use http::header::{HeaderName, HeaderValue, LOCATION};
use http::request::Parts;
use http::{Response, StatusCode, Uri};
use machinery::Status;
use machinery::selector::LabelSelector;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;

pub(super) struct Proxy(pub(super) Arc<Connect>);

/// Where a proxied request goes.
struct Target {
    scheme: String,
    authority: String,
    /// By the connection for kubelets, with our client certificate.
    kubelet: bool,
}

#[async_trait]
impl Endpoint for Proxy {
    async fn serve(&self, request: EndpointRequest) -> Result<Response<Body>, Status> {
        let EndpointRequest { attributes, mut parts, body, .. } = request;
        let asked = Asked::parse(&attributes.name, &attributes.resource)?;
        let target = match attributes.resource.as_str() {
            "pods" => self.pod(&attributes.namespace, &asked)?,
            "services" => self.service(&attributes.namespace, &asked)?,
            _ => self.node(&asked)?,
        };
        let upgrade = serve::websocket::is_upgrade(&parts.headers);
        let (prefix, rest) = split(parts.uri.path());
        if rest.is_empty() && !upgrade {
            return Ok(redirect(&parts));
        }
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let slash = if rest.is_empty() { "/" } else { "" };
        let uri = format!("{}://{}{slash}{rest}{query}", target.scheme, target.authority);
        let uri: Uri = uri.parse().map_err(|e| Status::bad_request(format!("the path is not valid: {e}")))?;
        let prefix = prefix.to_owned();
        forwarded(&mut parts, &prefix);
        if upgrade {
            super::forward::require_upgrade(&parts)?;
        }
        let client = if target.kubelet { &self.0.kubelets } else { &self.0.others };
        let answer = self.0.forward(client, parts, body, uri).await;
        answer.map_err(|error| Status::service_unavailable(format!("error trying to reach service: {error}")))
    }
}

/// Splits the path after `/proxy`. What follows begins with a slash, or is empty.
fn split(path: &str) -> (&str, &str) {
    // /api/v1/namespaces/NS/pods/NAME/proxy/… and /api/v1/nodes/NAME/proxy/…
    let extra = path.bytes().take_while(|byte| *byte == b'/').count().saturating_sub(1);
    let depth = if path[extra..].starts_with("/api/v1/namespaces/") { 7 } else { 5 };
    let slash = path.match_indices('/').map(|(at, _)| at).nth(extra + depth);
    slash.map_or((path, ""), |at| path.split_at(at))
}

/// Relative links of a page work only when its path ends with a slash.
fn redirect(parts: &Parts) -> Response<Body> {
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::try_from(format!("{}/{query}", parts.uri.path())) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Tells the far end by which way it was reached.
fn forwarded(parts: &mut Parts, prefix: &str) {
    let host = parts.headers.get(http::header::HOST).cloned();
    let host = host.or_else(|| HeaderValue::try_from(parts.uri.authority()?.as_str()).ok());
    let proto = Some(HeaderValue::from_static("https"));
    let uri = HeaderValue::try_from(prefix).ok();
    for (name, value) in [("x-forwarded-host", host), ("x-forwarded-proto", proto), ("x-forwarded-uri", uri)] {
        if let Some(value) = value {
            parts.headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Asked<'a> {
    fn parse(text: &'a str, resource: &str) -> Result<Self, Status> {
        let parts: Vec<&str> = text.split(':').collect();
        let asked = match *parts.as_slice() {
            [name] => Self { scheme: "", name, port: "" },
            [name, port] => Self { scheme: "", name, port },
            [scheme @ ("http" | "https" | ""), name, port] => Self { scheme, name, port },
            _ => {
                return Err(Status::bad_request(format!(
                    "invalid {} request {text:?}",
                    resource.trim_end_matches('s')
                )));
            }
        };
        match asked.name.is_empty() {
            false => Ok(asked),
            true => Err(Status::bad_request(format!("invalid {} request {text:?}", resource.trim_end_matches('s')))),
        }
    }

    /// The port by number; the default when none is named. 400 for what is no port: it becomes part of a URL.
    fn number(&self, default: u16) -> Result<u16, Status> {
        match self.port {
            "" => Ok(default),
            port if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().map_err(drop),
            _ => Err(()),
        }
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| Status::bad_request(format!("{:?} is not a port", self.port)))
    }

    fn scheme(&self) -> String {
        if self.scheme.is_empty() { "http".to_owned() } else { self.scheme.to_owned() }
    }
}

/// 400 for addresses that are this machine's own business.
fn check_address(address: &str) -> Result<(), Status> {
    let refuse = || Err(Status::bad_request("address not allowed"));
    match address.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) if ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_unspecified() => {
            refuse()
        }
        Ok(IpAddr::V6(ip))
            if ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast() || ip.is_unspecified() =>
        {
            refuse()
        }
        Ok(_) => Ok(()),
        Err(_) => refuse(),
    }
}

impl Proxy {
    fn pod(&self, namespace: &str, asked: &Asked<'_>) -> Result<Target, Status> {
        let pod = self.0.storage.kind("", "pods")?.find(namespace, asked.name)?.value();
        let containers = meta::at(&pod, &["spec", "containers"]).and_then(Value::as_array);
        let mut ports = containers.into_iter().flatten().filter_map(|c| c["ports"][0]["containerPort"].as_u64());
        let of_scheme = if asked.scheme == "https" { 443 } else { 80 };
        let first = ports.next().and_then(|port| u16::try_from(port).ok());
        let port = asked.number(first.unwrap_or(of_scheme))?;
        let ip = meta::text_at(&pod, &["status", "podIP"]);
        check_address(ip)?;
        let authority = authority(ip, &port.to_string());
        Ok(Target { scheme: asked.scheme(), authority, kubelet: false })
    }

    fn node(&self, asked: &Asked<'_>) -> Result<Target, Status> {
        let kubelet = self.0.kubelet(asked.name)?;
        if asked.port.is_empty() || asked.port == kubelet.port.to_string() {
            return Ok(Target { scheme: "https".to_owned(), authority: kubelet.authority, kubelet: true });
        }
        let port = asked.number(0)?;
        check_address(&kubelet.host)?;
        Ok(Target { scheme: asked.scheme(), authority: authority(&kubelet.host, &port.to_string()), kubelet: false })
    }

    fn service(&self, namespace: &str, asked: &Asked<'_>) -> Result<Target, Status> {
        let service = self.0.storage.kind("", "services")?.find(namespace, asked.name)?.value();
        let port_name = service_port(&service, asked)?;
        let slices = self.0.storage.kind("discovery.k8s.io", "endpointslices")?;
        let selector =
            LabelSelector::parse(&format!("kubernetes.io/service-name={}", asked.name)).map_err(Status::bad_request)?;
        let selection =
            Selection { namespace: Some(namespace.to_owned()), labels: Some(selector), ..Selection::default() };
        let slices: Vec<Value> = slices.select(&selection).iter().map(|entry| entry.value()).collect();
        let ready: Vec<(String, u64)> = slices.iter().flat_map(|slice| ready(slice, &port_name)).collect();
        let Some((address, port)) = ready.get(fastrand::usize(..ready.len().max(1))) else {
            let text = format!("no endpoints available for service {:?}", asked.name);
            return Err(Status::service_unavailable(text));
        };
        check_address(address)?;
        Ok(Target { scheme: asked.scheme(), authority: authority(address, &port.to_string()), kubelet: false })
    }
}

/// The name of the port asked for by name or number; of the only one, when none is asked for.
fn service_port(service: &Value, asked: &Asked<'_>) -> Result<String, Status> {
    let ports = meta::at(service, &["spec", "ports"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let name = |port: &Value| meta::text_at(port, &["name"]).to_owned();
    let number = |port: &&Value| port["port"].as_u64().is_some_and(|number| number.to_string() == asked.port);
    if let ([only], "") = (ports, asked.port) {
        return Ok(name(only));
    }
    let found = ports.iter().find(|port| !asked.port.is_empty() && name(port) == asked.port);
    let found = found.or_else(|| ports.iter().find(number));
    found.map(name).ok_or_else(|| {
        Status::service_unavailable(format!("no service port {:?} found for service {:?}", asked.port, asked.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_scheme_and_port() {
        let cases = [
            ("a", Ok(("", "a", ""))),
            ("a:80", Ok(("", "a", "80"))),
            ("https:a:443", Ok(("https", "a", "443"))),
            ("https:a:", Ok(("https", "a", ""))),
            (":a:http", Ok(("", "a", "http"))),
            ("ftp:a:1", Err(())),
            ("a:b:c:d", Err(())),
            (":80", Err(())),
        ];
        for (text, expected) in cases {
            let found = Asked::parse(text, "services").map(|a| (a.scheme, a.name, a.port)).map_err(drop);
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_follows_the_proxy() {
        for (path, rest) in [
            ("/api/v1/namespaces/n/pods/p/proxy", ""),
            ("/api/v1/namespaces/n/pods/p/proxy/", "/"),
            ("/api/v1/namespaces/n/services/https:s:443/proxy/a/proxy/b/", "/a/proxy/b/"),
            ("/api/v1/nodes/n/proxy/metrics", "/metrics"),
            ("/api/v1/nodes/n/proxy", ""),
            ("///api/v1/namespaces/n/pods/p/proxy/a", "/a"),
        ] {
            assert_eq!(split(path).1, rest, "{path}");
        }
    }

    #[test]
    fn addresses_that_are_not_for_strangers() {
        for (address, good) in [
            ("10.0.0.1", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("::ffff:127.0.0.1", false),
            ("fe80::1", false),
            ("::1", false),
            ("2001:db8::1", true),
            ("0.0.0.0", false),
            ("", false),
        ] {
            assert_eq!(check_address(address).is_ok(), good, "{address}");
        }
    }
}
