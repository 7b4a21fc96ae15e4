//! Calls webhooks: a JSON object is posted over HTTPS to a URL or to an endpoint of a Service, and the answer is read.
//!
//! Used by admission and by the conversion of custom resources. Connections are kept and shared by all calls that trust the same
//! authorities; what a webhook answers is bounded ([`ANSWER_BYTES_MAX`]), and how long it may take is up to the caller.

mod service;
pub(crate) mod tls;

pub(crate) use service::{endpoint, ready};

use crate::meta;
use crate::storage::Storage;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use machinery::Status;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use serde_json::Value;
use serve::client::Client;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The most that is read of an answer: an object of the largest size, as a patch in base64, and something around it.
pub(crate) const ANSWER_BYTES_MAX: usize = 6 << 20;
/// How much of an answer that is no success goes into the error.
const ERROR_TEXT_MAX: usize = 512;
/// Connections to one server that are kept when nobody uses them.
const IDLE_CONNECTIONS_MAX: usize = 32;
/// Clients that are kept; each has the connections to those who are trusted by the same authorities.
const CLIENTS_MAX: usize = 256;

/// Where a webhook is: the `clientConfig` of a webhook, or the `conversion.webhook.clientConfig` of a custom resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientConfig {
    target: Target,
    /// PEM; empty when the machine's own authorities are trusted.
    ca_bundle: Arc<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Url(String),
    Service { namespace: String, name: String, path: String, port: u16 },
}

impl ClientConfig {
    /// Reads a `clientConfig`; the error is for the message of the failed call.
    pub(crate) fn read(config: &Value) -> Result<ClientConfig, String> {
        let target = if let Some(service) = meta::at(config, &["service"]) {
            let text = |field: &str| meta::text_at(service, &[field]).to_owned();
            let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
            Target::Service { namespace: text("namespace"), name: text("name"), path: text("path"), port }
        } else {
            match meta::text_at(config, &["url"]) {
                "" => return Err("webhook configuration must have either service or URL".to_owned()),
                url => Target::Url(url.to_owned()),
            }
        };
        let bundle = BASE64_STANDARD.decode(meta::text_at(config, &["caBundle"]));
        Ok(ClientConfig { target, ca_bundle: bundle.map_err(|error| format!("caBundle: {error}"))?.into() })
    }

    /// The URL as messages name it, with the time the webhook has.
    fn shown(&self, timeout: Duration) -> String {
        let (base, query) = match &self.target {
            Target::Url(url) => url.split_once('?').map_or((url.clone(), ""), |(base, query)| (base.to_owned(), query)),
            Target::Service { namespace, name, path, port } => {
                let slash = if path.starts_with('/') || path.is_empty() { "" } else { "/" };
                (format!("https://{name}.{namespace}.svc:{port}{slash}{path}"), "")
            }
        };
        let and = if query.is_empty() { "" } else { "&" };
        format!("{base}?{query}{and}timeout={}s", timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0))
    }
}

/// Why a webhook gave no answer that can be used. The texts are those upstream's users know.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It was not reached, or broke off.
    #[error("Post {url:?}: {why}")]
    Transport { url: String, why: String },
    /// It answered with an HTTP error.
    #[error("{0}")]
    Refused(String),
    /// The configuration cannot be used.
    #[error("{0}")]
    Configuration(String),
}

/// Calls webhooks. One for the whole server.
pub(crate) struct Caller {
    storage: Arc<Storage>,
    clients: Mutex<HashMap<Trust, Client>>,
}

/// The name that must be in the certificate, when it is not the URL's host, and the authorities.
type Trust = (Option<String>, Arc<[u8]>);

impl Caller {
    pub(crate) fn new(storage: Arc<Storage>) -> Arc<Caller> {
        Arc::new(Caller { storage, clients: Mutex::default() })
    }

    /// Posts a JSON body and reads the JSON answer, within `timeout`.
    pub(crate) async fn call(&self, config: &ClientConfig, body: Bytes, timeout: Duration) -> Result<Bytes, Error> {
        let shown = config.shown(timeout);
        let work = async {
            let response = self.send(config, &shown, body).await?;
            answer(response).await.map_err(|failed| match failed {
                Failed::Broken(why) => Error::Transport { url: shown.clone(), why },
                Failed::Refused(why) => Error::Refused(why),
            })
        };
        let late = |_| Error::Transport { url: shown.clone(), why: "context deadline exceeded".to_owned() };
        tokio::time::timeout(timeout, work).await.map_err(late)?
    }

    async fn send(&self, config: &ClientConfig, shown: &str, body: Bytes) -> Result<Response<Incoming>, Error> {
        let broken = |why: String| Error::Transport { url: shown.to_owned(), why };
        let url: Uri = shown.parse().map_err(|error| Error::Configuration(format!("Unparsable URL: {error}")))?;
        let (client, uri) = match &config.target {
            Target::Url(_) => (self.client(None, &config.ca_bundle)?, url.clone()),
            Target::Service { namespace, name, port, .. } => {
                let (address, port) = endpoint(&self.storage, namespace, name, *port).map_err(broken)?;
                let client = self.client(Some(format!("{name}.{namespace}.svc")), &config.ca_bundle)?;
                (client, at(&url, &address, port).map_err(broken)?)
            }
        };
        let mut request = Request::new(http_body_util::combinators::UnsyncBoxBody::new(
            Full::new(body).map_err(|never| match never {}),
        ));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        let host = url.authority().and_then(|authority| HeaderValue::try_from(authority.as_str()).ok());
        if let Some(host) = host {
            headers.insert(HOST, host);
        }
        client.send(request).await.map_err(|error| broken(error.to_string()))
    }

    fn client(&self, name: Option<String>, ca_bundle: &Arc<[u8]>) -> Result<Client, Error> {
        let key = (name, Arc::clone(ca_bundle));
        if let Some(client) = self.clients.lock().get(&key) {
            return Ok(client.clone());
        }
        let tls = tls::trusting(ca_bundle).map_err(Error::Configuration)?;
        let client = match &key.0 {
            None => Client::new(tls),
            Some(name) => {
                let name = ServerName::try_from(name.clone()).map_err(|e| Error::Configuration(e.to_string()))?;
                Client::named(tls, name, IDLE_CONNECTIONS_MAX)
            }
        };
        let mut clients = self.clients.lock();
        if clients.len() >= CLIENTS_MAX {
            // Those in use come back at once; the connections of the others end here.
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// The URL with another host.
fn at(url: &Uri, address: &str, port: u16) -> Result<Uri, String> {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    format!("https://{host}:{port}{path}").parse().map_err(|error| format!("{error}"))
}

enum Failed {
    Broken(String),
    Refused(String),
}

async fn answer(response: Response<Incoming>) -> Result<Bytes, Failed> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| Failed::Broken(format!("read the answer: {error}")))?.to_bytes();
    if head.status.is_success() {
        return Ok(body);
    }
    let status = serde_json::from_slice(&body).ok().and_then(|value: Value| Status::from_value(&value));
    let text = String::from_utf8_lossy(&body[..body.len().min(ERROR_TEXT_MAX)]).trim().to_owned();
    Err(Failed::Refused(match (status, head.status.as_u16()) {
        (Some(status), _) => status.message,
        (None, 404) => "the server could not find the requested resource".to_owned(),
        (None, 400) => "the server rejected our request for an unknown reason".to_owned(),
        (None, code) if code >= 500 => {
            format!("an error on the server ({text:?}) has prevented the request from succeeding")
        }
        (None, code) => format!("the server responded with the status code {code} but did not return more information"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn where_webhooks_are() {
        let second = Duration::from_secs(1);
        for (config, shown) in [
            (json!({"service": {"namespace": "n", "name": "s", "path": "/p"}}), Ok("https://s.n.svc:443/p?timeout=1s")),
            (
                json!({"service": {"namespace": "n", "name": "s", "path": "p", "port": 8443}}),
                Ok("https://s.n.svc:8443/p?timeout=1s"),
            ),
            (json!({"url": "https://a.example/x"}), Ok("https://a.example/x?timeout=1s")),
            (json!({}), Err("webhook configuration must have either service or URL")),
        ] {
            let read = ClientConfig::read(&config).map(|read| read.shown(second));
            assert_eq!(read, shown.map(str::to_owned).map_err(str::to_owned), "{config}");
        }
        assert!(ClientConfig::read(&json!({"url": "https://a", "caBundle": "%"})).is_err());
    }

    #[test]
    fn bundles() {
        assert!(tls::trusting(b"no certificate").is_err());
    }
}
