//! Whether another API server can be reached: its condition `Available`, and what it says it serves.

use super::Aggregator;
use super::remote::Remote;
use crate::meta;
use crate::storage::Selection;
use crate::webhook::{endpoint, ready};
use bytes::Bytes;
use http::header::{ACCEPT, HeaderValue};
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt, Limited};
use machinery::selector::LabelSelector;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a discovery request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is read of a discovery document.
const DOCUMENT_BYTES_MAX: usize = 4 << 20;

/// What an available server says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// `APIResourceList`.
    pub(super) resources: Value,
    /// Where its OpenAPI document is, with the hash: `/openapi/v3/apis/GROUP/VERSION?hash=…`.
    pub(super) openapi: Option<String>,
}

/// Why it is not available: reason and message of the condition.
type Why = (&'static str, String);

impl Aggregator {
    /// Asks a server for what it serves.
    pub(super) async fn check(&self, remote: &Remote) -> Result<Known, Why> {
        self.check_service(remote)?;
        let path = format!("/apis/{}/{}", remote.group, remote.version);
        let failed = |why: String| ("FailedDiscoveryCheck", why);
        let body = self.fetch(remote, &path).await.map_err(failed)?;
        let resources = serde_json::from_slice(&body).unwrap_or_default();
        // Not every server has OpenAPI; nothing depends on it.
        let index = self.fetch(remote, "/openapi/v3").await.ok();
        let index: Value = index.and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
        let at = index["paths"][path.trim_start_matches('/')]["serverRelativeURL"].as_str();
        Ok(Known { resources, openapi: at.map(str::to_owned) })
    }

    fn check_service(&self, remote: &Remote) -> Result<(), Why> {
        let (name, namespace) = (&remote.service, &remote.namespace);
        let kind = |group: &str, resource: &str| {
            self.storage.kind(group, resource).map_err(|status| ("ServiceNotFound", status.message))
        };
        let Some(service) = kind("", "services")?.get(namespace, name) else {
            return Err(("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
        };
        let service = service.value();
        if meta::text_at(&service, &["spec", "type"]) == "ExternalName" {
            return Ok(());
        }
        let ports = meta::at(&service, &["spec", "ports"]).and_then(Value::as_array);
        let mut ports = ports.into_iter().flatten();
        let Some(port) = ports.find(|port| port["port"].as_u64() == Some(u64::from(remote.port))) else {
            let text = format!("service/{name} in {namespace:?} is not listening on port {}", remote.port);
            return Err(("ServicePortError", text));
        };
        let port_name = meta::text_at(port, &["name"]);
        let labels = LabelSelector::from_labels([("kubernetes.io/service-name", name.as_str())]);
        let selection = Selection { namespace: Some(namespace.clone()), labels: Some(labels), ..Selection::default() };
        let slices = kind("discovery.k8s.io", "endpointslices")?.select(&selection);
        if slices.is_empty() {
            let text = format!("cannot find endpointslices for service/{name} in {namespace:?}");
            return Err(("EndpointsNotFound", text));
        }
        if slices.iter().all(|slice| ready(&slice.value(), port_name).is_empty()) {
            let what = format!("endpointslices for service/{name} in {namespace:?}");
            return Err(("MissingEndpoints", format!("{what} have no addresses with port name {port_name:?}")));
        }
        Ok(())
    }

    /// Gets a document, as the aggregator itself.
    pub(super) async fn fetch(&self, remote: &Remote, path: &str) -> Result<Bytes, String> {
        let (address, port) = endpoint(&self.storage, &remote.namespace, &remote.service, remote.port)?;
        let host = if address.contains(':') { format!("[{address}]") } else { address };
        let url = format!("https://{host}:{port}{path}");
        let missing = |why: String| format!("failing or missing response from {url}: {why}");
        let client = self.client(remote)?;
        let work = async {
            let uri: Uri = url.parse().map_err(|error| missing(format!("{error}")))?;
            let mut request = Request::new(crate::endpoint::empty_body());
            *request.uri_mut() = uri;
            identify(request.headers_mut());
            request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
            let response = client.send(request).await.map_err(|error| missing(error.to_string()))?;
            if !response.status().is_success() {
                let bad = format!("bad status from {url}: {}", response.status().as_u16());
                return Err(missing(bad));
            }
            let body = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX).collect().await;
            body.map(http_body_util::Collected::to_bytes).map_err(|error| missing(error.to_string()))
        };
        tokio::time::timeout(TIMEOUT, work).await.map_err(|_| format!("timed out waiting for {url}"))?
    }
}

fn identify(headers: &mut HeaderMap) {
    headers.insert("x-remote-user", HeaderValue::from_static("system:kube-aggregator"));
    headers.insert("x-remote-group", HeaderValue::from_static("system:masters"));
}

/// Puts a condition into an APIService. Its time changes with its status only.
pub(super) fn set_condition(service: &mut Value, status: &str, reason: &str, message: &str) {
    let conditions = meta::member(service, "status").entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    let before = conditions.iter().find(|condition| condition["type"] == "Available").cloned();
    let since = before.filter(|before| before["status"] == status).map(|before| before["lastTransitionTime"].clone());
    conditions.retain(|condition| condition["type"] != "Available");
    conditions.push(json!({
        "type": "Available", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| machinery::time::now().into()),
    }));
}
