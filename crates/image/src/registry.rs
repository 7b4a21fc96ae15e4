//! A client of the distribution protocol, as far as pulling goes.
//!
//! Written on hyper instead of using `oci-client`: downloads must resume where they broke and stream into the store,
//! mirrors need their own addresses and no foreign credentials, and TLS must not want a provider installed for the
//! whole process. One client serves one pull and closes its connections when dropped, so an idle program has none.

use crate::challenge::{self, Challenge};
use crate::connect::Connector;
use crate::digest::Digest;
use crate::error::{Error, RegistryError, Result, shorten};
use crate::reference::Reference;
use crate::spec::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::store::Config;
use base64::Engine;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::HashMap;
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(30);
/// A download that gives nothing for this long is broken off and resumed.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: usize = 6;
const ERROR_BYTES_MAX: usize = 64 << 10;
const TOKEN_BYTES_MAX: usize = 1 << 20;

/// Credentials for one registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Auth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Auth {
    fn header(&self) -> String {
        let pair = format!("{}:{}", self.username, self.password);
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    }
}

/// One place that may have an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://registry-1.docker.io`, perhaps with a path, without a slash at the end.
    base: String,
    /// Repository within it.
    repository: String,
    /// For mirrors: the registry they stand for.
    mirrored: Option<String>,
}

/// The places to ask for an image: mirrors in their order, then the registry itself.
pub(crate) fn endpoints(reference: &Reference, config: &Config) -> Vec<Endpoint> {
    let domain = reference.domain();
    let repository = reference.path().to_owned();
    let mirrors = config.mirrors.get(domain).into_iter().flatten().map(|base| {
        let scheme = if base.contains("://") { "" } else { "https://" };
        Endpoint {
            base: format!("{scheme}{}", base.trim_end_matches('/')),
            repository: repository.clone(),
            mirrored: Some(domain.to_owned()),
        }
    });
    let host = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
    let scheme = if plain(domain, config) { "http" } else { "https" };
    let own = Endpoint { base: format!("{scheme}://{host}"), repository: repository.clone(), mirrored: None };
    mirrors.chain([own]).collect()
}

/// Whether a registry is spoken to without TLS: loopback, or said so.
fn plain(domain: &str, config: &Config) -> bool {
    let host = match domain.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => domain.split(':').next().unwrap_or(domain),
    };
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    loopback || config.insecure_registries.iter().any(|entry| entry == domain || entry == host)
}

/// A client for one pull.
pub(crate) struct Registry {
    client: Client<Connector, Empty<Bytes>>,
    auth: Option<Auth>,
    /// `Authorization` by endpoint.
    granted: Mutex<HashMap<String, String>>,
}

/// A request that failed, to be told with its address.
type Failed = (String, RegistryError);

impl Registry {
    pub(crate) fn new(config: &Config, auth: Option<Auth>) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(4)
            .build(Connector::new(config.ca_files.clone()));
        Self { client, auth, granted: Mutex::default() }
    }

    /// A manifest or index by tag or digest, with its media type.
    pub(crate) async fn manifest(
        &self,
        endpoint: &Endpoint,
        reference: &str,
        bytes_max: u64,
    ) -> Result<(Bytes, String, Option<Digest>)> {
        let url = endpoint.url("manifests", reference);
        let accept = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
        let read = async {
            let response = self.get(endpoint, &url, Some(&accept), 0).await?;
            let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let kind = text("content-type").unwrap_or_default();
            let digest = text("docker-content-digest").and_then(|digest| digest.parse().ok());
            let limit = usize::try_from(bytes_max).unwrap_or(usize::MAX);
            let body = body(response, limit).await.map_err(|e| (url.clone(), e))?;
            Ok((body, kind, digest))
        };
        read.await.map_err(failed)
    }

    /// Content from a byte on; whether the registry did begin there (else it began at 0).
    pub(crate) async fn blob(&self, endpoint: &Endpoint, digest: Digest, from: u64) -> Result<(Incoming, bool)> {
        let url = endpoint.url("blobs", &digest.to_string());
        let response = self.get(endpoint, &url, None, from).await.map_err(failed)?;
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT && {
            let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or("");
            range.strip_prefix("bytes ").and_then(|range| range.split('-').next()) == Some(&from.to_string())
        };
        if response.status() == StatusCode::PARTIAL_CONTENT && !resumed {
            let wrong = RegistryError::Protocol("it sent another range than asked for".into());
            return Err(failed((url, wrong)));
        }
        Ok((response.into_body(), resumed))
    }

    /// An error of a download in the middle.
    pub(crate) fn broken(endpoint: &Endpoint, digest: Digest, reason: String) -> Error {
        failed((endpoint.url("blobs", &digest.to_string()), RegistryError::Unreachable(reason)))
    }

    /// An answer that makes no sense.
    pub(crate) fn nonsense(endpoint: &Endpoint, what: &str, reason: impl Into<String>) -> Error {
        failed((endpoint.url("manifests", what), RegistryError::Protocol(reason.into())))
    }

    /// GET with credentials as asked for, through redirects.
    async fn get(
        &self,
        endpoint: &Endpoint,
        url: &str,
        accept: Option<&str>,
        from: u64,
    ) -> Result<Response<Incoming>, Failed> {
        let mut at = url.to_owned();
        let mut asked = false;
        for _ in 0..REDIRECTS_MAX {
            let home = endpoint.is_home(&at);
            let granted = if home { self.granted.lock().get(&endpoint.base).cloned() } else { None };
            let response = self.send(&at, accept, from, granted.as_deref()).await?;
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                StatusCode::UNAUTHORIZED if home && !asked => {
                    asked = true;
                    self.authorize(endpoint, &at, &response).await?;
                }
                status if status.is_redirection() => at = redirect(&at, &response)?,
                _ => return Err((at, refusal(response).await)),
            }
        }
        Err((at, RegistryError::Protocol("too many redirects".into())))
    }

    async fn send(
        &self,
        url: &str,
        accept: Option<&str>,
        from: u64,
        authorization: Option<&str>,
    ) -> Result<Response<Incoming>, Failed> {
        let invalid =
            |e: &dyn std::fmt::Display| (url.to_owned(), RegistryError::Protocol(format!("bad address: {e}")));
        let uri: Uri = url.parse().map_err(|e| invalid(&e))?;
        let mut request = Request::get(uri).header(header::USER_AGENT, "kijabi");
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|e| invalid(&e))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Empty::new()).map_err(|e| invalid(&e))?;
        let unreachable = |reason: String| (url.to_owned(), RegistryError::Unreachable(reason));
        match tokio::time::timeout(ANSWER_MAX, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(unreachable(causes(&error))),
            Err(_) => Err(unreachable(format!("no answer in {} seconds", ANSWER_MAX.as_secs()))),
        }
    }

    /// Gets what a registry asked for and keeps it for the next requests.
    async fn authorize(&self, endpoint: &Endpoint, url: &str, response: &Response<Incoming>) -> Result<(), Failed> {
        let headers = response.headers().get_all(header::WWW_AUTHENTICATE);
        let refused = |why: &str| (url.to_owned(), RegistryError::Unauthorized(why.to_owned()));
        // A mirror never sees the credentials of the registry it stands for.
        let auth = self.auth.as_ref().filter(|_| endpoint.mirrored.is_none());
        let authorization = match challenge::parse(headers.iter().filter_map(|v| v.to_str().ok())) {
            None => return Err(refused(": it does not say how")),
            Some(Challenge::Basic) => auth.ok_or_else(|| refused(": no credentials given"))?.header(),
            Some(Challenge::Bearer { realm, service, scope }) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", endpoint.repository));
                if !realm.starts_with("https://") && !endpoint.base.starts_with("http://") {
                    return Err(refused(": its token server has no TLS"));
                }
                let separator = if realm.contains('?') { '&' } else { '?' };
                let service = service.map(|s| format!("&service={}", percent(&s))).unwrap_or_default();
                let address = format!("{realm}{separator}scope={}{service}", percent(&scope));
                format!("Bearer {}", self.token(&address, auth).await?)
            }
        };
        self.granted.lock().insert(endpoint.base.clone(), authorization);
        Ok(())
    }

    async fn token(&self, address: &str, auth: Option<&Auth>) -> Result<String, Failed> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let response = self.send(address, None, 0, auth.map(Auth::header).as_deref()).await?;
        let shown = address.split('?').next().unwrap_or(address).to_owned();
        if response.status() != StatusCode::OK {
            return Err((shown, refusal(response).await));
        }
        let text = body(response, TOKEN_BYTES_MAX).await.map_err(|e| (shown.clone(), e))?;
        let answer: Option<Answer> = serde_json::from_slice(&text).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token)).filter(|token| !token.is_empty());
        token.ok_or_else(|| (shown, RegistryError::Protocol("the token server sent no token".into())))
    }
}

impl Endpoint {
    fn url(&self, kind: &str, reference: &str) -> String {
        let namespace = self.mirrored.as_ref().map(|domain| format!("?ns={}", percent(domain))).unwrap_or_default();
        format!("{}/v2/{}/{kind}/{reference}{namespace}", self.base, self.repository)
    }

    /// Whether an address belongs to this registry, and so may see its credentials.
    fn is_home(&self, url: &str) -> bool {
        let origin = |url: &str| {
            let uri: Uri = url.parse().ok()?;
            Some((uri.scheme_str()?.to_owned(), uri.authority()?.as_str().to_owned()))
        };
        origin(url).is_some() && origin(url) == origin(&self.base)
    }

    pub(crate) fn is_mirror(&self) -> bool {
        self.mirrored.is_some()
    }
}

fn failed((url, source): Failed) -> Error {
    Error::Registry { method: "GET", url, source }
}

/// An error and its causes; hyper's own text alone says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn redirect(from: &str, response: &Response<Incoming>) -> Result<String, Failed> {
    let wrong = |reason: &str| (from.to_owned(), RegistryError::Protocol(reason.to_owned()));
    let location = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
    let location = location.ok_or_else(|| wrong("a redirect to nowhere"))?;
    if location.starts_with("https://") || (location.starts_with("http://") && from.starts_with("http://")) {
        return Ok(location.to_owned());
    }
    if location.starts_with('/') && !location.starts_with("//") {
        let uri: Uri = from.parse().map_err(|_| wrong("a redirect from nowhere"))?;
        if let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) {
            return Ok(format!("{scheme}://{authority}{location}"));
        }
    }
    Err(wrong("a redirect to where there is no TLS, or that makes no sense"))
}

/// What an answer that is no success means.
async fn refusal(response: Response<Incoming>) -> RegistryError {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let status = response.status();
    let text = body(response, ERROR_BYTES_MAX).await.unwrap_or_default();
    let answer: Option<Answer> = serde_json::from_slice(&text).ok();
    let message = answer
        .and_then(|answer| answer.errors.into_iter().next())
        .map(|one| format!(": {}", shorten(format!("{}: {}", one.code, one.message).as_bytes())))
        .unwrap_or_default();
    match status {
        StatusCode::UNAUTHORIZED => RegistryError::Unauthorized(message),
        StatusCode::FORBIDDEN => RegistryError::Denied(message),
        StatusCode::NOT_FOUND => RegistryError::NotFound(message),
        StatusCode::TOO_MANY_REQUESTS => RegistryError::TooManyRequests(message),
        other => RegistryError::Status { status: other.as_u16(), message },
    }
}

/// A whole body, if it is not more than a limit.
async fn body(response: Response<Incoming>, bytes_max: usize) -> Result<Bytes, RegistryError> {
    let collect = http_body_util::Limited::new(response.into_body(), bytes_max).collect();
    match tokio::time::timeout(STALL_MAX, collect).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(RegistryError::Protocol(format!("an answer of more than {bytes_max} bytes")))
        }
        Ok(Err(error)) => Err(RegistryError::Unreachable(error.to_string())),
        Err(_) => Err(RegistryError::Unreachable("the answer did not come in time".into())),
    }
}

/// Percent-encodes for a query.
fn percent(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'/') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_ask() {
        let mut config = Config::new("/nowhere");
        config.insecure_registries = vec!["reg.lan".into(), "other.lan:81".into()];
        config.mirrors.insert("docker.io".into(), vec!["http://127.0.0.1:5000/hub/".into(), "mirror.example".into()]);
        let bases = |name: &str| -> Vec<String> {
            let reference: Reference = name.parse().unwrap();
            endpoints(&reference, &config).iter().map(|e| e.url("manifests", "latest")).collect()
        };
        for (name, urls) in [
            ("quay.io/a/b", vec!["https://quay.io/v2/a/b/manifests/latest"]),
            ("localhost:5000/b", vec!["http://localhost:5000/v2/b/manifests/latest"]),
            ("127.0.0.1:5000/b", vec!["http://127.0.0.1:5000/v2/b/manifests/latest"]),
            ("[::1]:5000/b", vec!["http://[::1]:5000/v2/b/manifests/latest"]),
            ("reg.lan:5/b", vec!["http://reg.lan:5/v2/b/manifests/latest"]),
            ("other.lan:81/b", vec!["http://other.lan:81/v2/b/manifests/latest"]),
            ("other.lan:82/b", vec!["https://other.lan:82/v2/b/manifests/latest"]),
            (
                "busybox",
                vec![
                    "http://127.0.0.1:5000/hub/v2/library/busybox/manifests/latest?ns=docker.io",
                    "https://mirror.example/v2/library/busybox/manifests/latest?ns=docker.io",
                    "https://registry-1.docker.io/v2/library/busybox/manifests/latest",
                ],
            ),
        ] {
            assert_eq!(bases(name), urls, "{name}");
        }
    }

    #[test]
    fn credentials_stay_at_home() {
        let endpoint = Endpoint { base: "https://r.example:8443/x".into(), repository: "a".into(), mirrored: None };
        assert!(endpoint.is_home("https://r.example:8443/v2/a/blobs/b"));
        for other in ["http://r.example:8443/", "https://r.example/", "https://r.example.evil:8443/", "nonsense"] {
            assert!(!endpoint.is_home(other), "{other}");
        }
        assert_eq!(percent("repository:a/b:pull,push c"), "repository:a/b:pull%2Cpush%20c");
    }
}
