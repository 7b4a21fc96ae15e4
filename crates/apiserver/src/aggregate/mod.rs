//! Aggregation: versions of API groups that other servers serve, as APIServices say.
//!
//! A request for such a version is authenticated and authorized here and then passed on, with the user in headers that the other
//! server believes because our certificate is signed by the authority for front proxies (it finds all that in the ConfigMap
//! `extension-apiserver-authentication`). Whether a server can be reached is looked at when something about it changes, and by
//! the clock; while there are none, nothing runs.

mod check;
mod discovery;
mod local;
mod remote;

use crate::body::{Body, RequestBody};
use crate::connect::Connect;
use crate::context::{Attributes, UserInfo};
use crate::meta;
use crate::negotiate::Accept;
use crate::respond;
use crate::storage::{KindStore, Storage, Subscription};
use crate::webhook::{endpoint, tls};
use check::Known;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};
use http::request::Parts;
use http::{Response, StatusCode, Uri};
use machinery::Status;
use parking_lot::{Mutex, RwLock};
use pki::Swap;
use remote::{Remote, Trust};
use rustls::pki_types::ServerName;
use serde_json::Value;
use serve::client::Client;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a server that is available is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// How soon one that is not; twice as long each time, up to [`CHECK_EVERY`].
const CHECK_FIRST: Duration = Duration::from_secs(1);
const IDLE_CONNECTIONS_MAX: usize = 32;

/// Knows the other servers, and passes requests on.
pub struct Aggregator {
    storage: Arc<Storage>,
    services: Arc<KindStore>,
    connect: Arc<Connect>,
    certificate: Arc<Swap>,
    /// As of the revision in `read_at`.
    remotes: RwLock<Arc<[Remote]>>,
    read_at: AtomicU64,
    count: AtomicUsize,
    known: Mutex<HashMap<String, Known>>,
    clients: Mutex<HashMap<(String, Trust), Client>>,
}

/// A version that another server serves.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    /// Of the APIService.
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
}

impl Aggregator {
    /// `certificate` is signed by the authority for front proxies; `connect` carries what is passed on.
    pub(crate) fn new(
        storage: &Arc<Storage>,
        connect: &Arc<Connect>,
        certificate: Arc<Swap>,
    ) -> Result<Arc<Self>, Status> {
        Ok(Arc::new(Self {
            storage: Arc::clone(storage),
            services: storage.kind("apiregistration.k8s.io", "apiservices")?,
            connect: Arc::clone(connect),
            certificate,
            remotes: RwLock::new(Arc::new([])),
            read_at: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            known: Mutex::default(),
            clients: Mutex::default(),
        }))
    }

    /// The versions served elsewhere. Costs two loads while there are none.
    fn remotes(&self) -> Option<Arc<[Remote]>> {
        let change = self.services.last_change();
        if change != self.read_at.load(Ordering::Acquire) {
            let read: Arc<[Remote]> =
                self.services.list(None).iter().filter_map(|entry| Remote::read(&entry.value())).collect();
            let mut remotes = self.remotes.write();
            self.count.store(read.len(), Ordering::Release);
            self.read_at.store(change, Ordering::Release);
            *remotes = read;
        }
        (self.count.load(Ordering::Acquire) > 0).then(|| Arc::clone(&self.remotes.read()))
    }

    fn find(&self, path: &str) -> Option<Remote> {
        let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
        let mut segments = path.strip_prefix("/apis/")?.splitn(3, '/');
        let remotes = self.remotes()?;
        let (group, version) = (segments.next()?, segments.next()?);
        remotes.iter().find(|remote| remote.group == group && remote.version == version).cloned()
    }

    /// The versions whose server is available.
    pub(crate) fn available(&self) -> Vec<Foreign> {
        let remotes = self.remotes();
        let remotes = remotes.iter().flat_map(|remotes| remotes.iter()).filter(|remote| remote.available);
        let foreign = |remote: &Remote| Foreign {
            name: remote.name.clone(),
            group: remote.group.clone(),
            version: remote.version.clone(),
        };
        remotes.map(foreign).collect()
    }

    /// What the server of an APIService says at `/openapi/v2`; none when it has none or cannot be asked.
    pub(crate) async fn openapi_v2(&self, name: &str) -> Option<Value> {
        let remote = self.remotes()?.iter().find(|remote| remote.name == name).cloned()?;
        match self.fetch(&remote, "/openapi/v2").await {
            Ok(body) => serde_json::from_slice(&body).ok(),
            Err(why) => {
                tracing::debug!(apiservice = name, why, "no OpenAPI of another server");
                None
            }
        }
    }

    fn client(&self, remote: &Remote) -> Result<Client, String> {
        let key = (remote.server_name(), remote.trust.clone());
        if let Some(client) = self.clients.lock().get(&key) {
            return Ok(client.clone());
        }
        let tls = match &remote.trust {
            Trust::Insecure => tls::trusting_anybody(Arc::clone(&self.certificate))?,
            Trust::Bundle(bundle) => tls::trusting_as(bundle, Arc::clone(&self.certificate))?,
        };
        let name = ServerName::try_from(key.0.clone()).map_err(|error| error.to_string())?;
        let client = Client::named(tls, name, IDLE_CONNECTIONS_MAX);
        self.clients.lock().insert(key, client.clone());
        Ok(client)
    }

    /// Whether a path is served elsewhere.
    pub(crate) fn serves(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    /// Passes a request on to the server of its path.
    pub(crate) async fn forward(
        &self,
        attributes: &Attributes,
        mut parts: Parts,
        body: RequestBody,
    ) -> Result<Response<Body>, Status> {
        let remote = self.find(parts.uri.path()).ok_or_else(Status::no_such_path)?;
        if !remote.available {
            return Err(Remote::unavailable());
        }
        let found = endpoint(&self.storage, &remote.namespace, &remote.service, remote.port);
        let (address, port) = found.map_err(|_| Remote::unavailable())?;
        let host = if address.contains(':') { format!("[{address}]") } else { address };
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let uri: Uri = format!("https://{host}:{port}{path}").parse().map_err(Status::internal)?;
        speak_for(&attributes.user, &mut parts.headers);
        if serve::websocket::is_upgrade(&parts.headers) {
            crate::connect::require_upgrade(&parts)?;
        }
        let client = self.client(&remote).map_err(Status::internal)?;
        let answer = self.connect.forward(&client, parts, body, uri).await;
        answer.map_err(|error| Status::service_unavailable(format!("error trying to reach service: {error}")))
    }

    /// Puts what is served elsewhere into a discovery document. `own` makes ours for the request.
    pub(crate) fn discover(
        &self,
        parts: &Parts,
        own: impl Fn(&Parts) -> Option<Result<Response<Body>, Status>>,
    ) -> Option<Result<Response<Body>, Status>> {
        let path = parts.uri.path().trim_end_matches('/');
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let concerned = matches!(*segments.as_slice(), ["apis"] | ["apis", _] | ["openapi", "v3"]);
        let Some(remotes) = self.remotes().filter(|_| concerned) else { return own(parts) };
        // Ours is wanted whole, as JSON.
        let mut whole = parts.clone();
        whole.headers.remove(IF_NONE_MATCH);
        let says = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains("as=APIGroupDiscoveryList"));
        if !whole.headers.get_all(ACCEPT).iter().any(says) {
            whole.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        }
        let ours = match own(&whole) {
            Some(Ok(response)) => Some(response),
            Some(Err(status)) if status.code != 404 => return Some(Err(status)),
            _ => None,
        };
        Some(self.merge(&segments, &remotes, ours, parts))
    }

    fn merge(
        &self,
        segments: &[&str],
        remotes: &[Remote],
        ours: Option<Response<Body>>,
        parts: &Parts,
    ) -> Result<Response<Body>, Status> {
        let head = ours.as_ref().map(|response| response.headers().clone()).unwrap_or_default();
        let ours: Option<Value> = ours.and_then(|response| match response.into_body() {
            Body::Full(bytes) => serde_json::from_slice(&bytes).ok(),
            _ => None,
        });
        let known = |name: &str| self.known.lock().get(name).cloned();
        let (document, tagged) = match (segments, ours) {
            (&["apis", name], ours) => (discovery::group(ours, remotes, name).ok_or_else(Status::no_such_path)?, false),
            (&["apis"], Some(mut list)) if list["kind"] == "APIGroupDiscoveryList" => {
                discovery::aggregated(&mut list, remotes, known);
                (list, true)
            }
            (&["apis"], Some(mut list)) => {
                discovery::group_list(&mut list, remotes);
                (list, false)
            }
            (_, Some(mut index)) => {
                discovery::openapi_index(&mut index, remotes, known);
                (index, true)
            }
            (_, None) => return Err(Status::not_acceptable("only JSON can be merged with what other servers serve")),
        };
        if !tagged {
            let accept = Accept::negotiate(&parts.headers)?;
            let accept = Accept { shape: crate::negotiate::Shape::Object, ..accept };
            return Ok(respond::value(accept, StatusCode::OK, &document));
        }
        Ok(tagged_document(&document, &head, parts))
    }

    /// Keeps APIServices and what is known of other servers up to date, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&self) {
        let (Ok(definitions), Ok(slices)) = (
            self.storage.kind("apiextensions.k8s.io", "customresourcedefinitions"),
            self.storage.kind("discovery.k8s.io", "endpointslices"),
        ) else {
            return;
        };
        let mut own = self.services.subscribe().1;
        let (existing, mut defined) = definitions.subscribe();
        let mut endpoints: Option<Subscription> = None;
        let mut pause = CHECK_FIRST;
        self.start(&existing).await;
        loop {
            let remotes = self.remotes().unwrap_or_else(|| Arc::new([]));
            let all_good = self.check_all(&remotes).await;
            pause = if all_good { CHECK_EVERY } else { (pause * 2).min(CHECK_EVERY) };
            // Endpoints are of interest only while somebody is behind them.
            endpoints = endpoints.take().filter(|_| !remotes.is_empty());
            if endpoints.is_none() && !remotes.is_empty() {
                endpoints = Some(slices.subscribe().1);
            }
            let moved = async {
                match &mut endpoints {
                    Some(subscription) => {
                        while subscription.recv().await.is_some_and(|event| !concerns(&event, &remotes)) {}
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = own.recv() => match event {
                    Some(event) => pause = if Remote::read(&event.entry.value()).is_some() { CHECK_FIRST } else { pause },
                    None => own = self.services.subscribe().1,
                },
                event = defined.recv() => match event {
                    Some(event) => {
                        if let Err(error) = local::follow(&self.services, &definitions, &event).await {
                            tracing::warn!(%error, "the APIServices of a custom resource cannot be written");
                        }
                    }
                    None => defined = definitions.subscribe().1,
                },
                () = moved => pause = CHECK_FIRST,
                () = tokio::time::sleep(pause), if !remotes.is_empty() => {}
            }
        }
    }

    async fn start(&self, definitions: &[Arc<crate::storage::Entry>]) {
        let mut result = local::register_builtin(&self.services).await;
        for entry in definitions {
            let definition = entry.value();
            let group = meta::text_at(&definition, &["spec", "group"]).to_owned();
            for (version, _) in local::versions(&definition).into_iter().filter(|(_, served)| *served) {
                result = result.and(local::register(&self.services, &group, &version).await);
            }
        }
        if let Err(error) = result {
            tracing::warn!(%error, "the APIServices of this server cannot be written");
        }
    }

    /// Looks at all servers; whether all are available.
    async fn check_all(&self, remotes: &[Remote]) -> bool {
        self.known.lock().retain(|name, _| remotes.iter().any(|remote| remote.name == *name));
        let server = |remote: &Remote| (remote.server_name(), remote.trust.clone());
        self.clients.lock().retain(|key, _| remotes.iter().any(|remote| server(remote) == *key));
        let checks = remotes.iter().map(async |remote| {
            let found = self.check(remote).await;
            let (status, reason, message) = match found {
                Ok(known) => {
                    self.known.lock().insert(remote.name.clone(), known);
                    ("True", "Passed", "all checks passed".to_owned())
                }
                Err((reason, message)) => ("False", reason, message),
            };
            let write = self.services.update("", &remote.name, |service| {
                check::set_condition(service, status, reason, &message);
                Ok(())
            });
            match write.await {
                Err(error) if error.code != 404 => {
                    tracing::warn!(%error, "a condition of an APIService cannot be written")
                }
                _ => {}
            }
            status == "True"
        });
        futures::future::join_all(checks).await.into_iter().all(|good| good)
    }
}

/// Whether an endpoint slice belongs to the Service of a remote server.
fn concerns(event: &crate::storage::WatchEvent, remotes: &[Remote]) -> bool {
    let service = event.entry.label("kubernetes.io/service-name").unwrap_or_default();
    remotes.iter().any(|remote| remote.service == service && remote.namespace == event.entry.namespace())
}

/// A document that clients keep by its tag.
fn tagged_document(document: &Value, head: &HeaderMap, parts: &Parts) -> Response<Body> {
    let body = document.to_string();
    let tag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&body)));
    let tag = HeaderValue::from_str(&tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""));
    let same = parts.headers.get(IF_NONE_MATCH) == Some(&tag);
    let mut response = Response::new(if same { Body::Empty } else { Body::full(body) });
    if same {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    for name in [CONTENT_TYPE, http::header::VARY] {
        if let Some(value) = head.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response.headers_mut().insert(ETAG, tag);
    response
}

/// Tells the other server who asks; what the client itself says about that is dropped.
fn speak_for(user: &UserInfo, headers: &mut HeaderMap) {
    let said: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    said.into_iter().for_each(|name| drop(headers.remove(name)));
    let mut add = |name: String, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user".to_owned(), &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid".to_owned(), &user.uid);
    }
    user.groups.iter().for_each(|group| add("x-remote-group".to_owned(), group));
    for (key, values) in &user.extra {
        let key = crate::connect::percent_encode(&key.to_lowercase());
        values.iter().for_each(|value| add(format!("x-remote-extra-{key}"), value));
    }
}
