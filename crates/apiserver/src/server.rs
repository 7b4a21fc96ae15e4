//! The server: one pipeline that every request takes, from the wire or from inside the program.

use crate::body::{Body, BodyError, RequestBody};
use crate::call::Call;
use crate::chain::Chain;
use crate::context::{Attributes, Peer, UserInfo, Warnings};
use crate::endpoint::{EndpointRequest, read_body};
use crate::handlers;
use crate::metrics::{Metrics, Open, Request as Counted};
use crate::negotiate::{self, Accept, Format, content_type};
use crate::request::{Query, RequestInfo};
use crate::respond;
use crate::served::{Catalogue, InForce, Served, stored_kinds};
use crate::storage::Storage;
use crate::subresource;
use futures::future::BoxFuture;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue, WARNING};
use http::request::Parts;
use http::{Request, Response};
use http_body_util::BodyExt;
use machinery::Status;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use store::Store;
use tokio_util::sync::CancellationToken;

/// A request that is not a watch, log, exec or the like ends after this long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Objects that a list looks at for one seat.
const OBJECTS_PER_SEAT: usize = 100;
/// Names a request to those who look for it later.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const AUDIT_ID_BYTES_MAX: usize = 64;
/// Warnings sent with one answer, at most.
const WARNINGS_MAX: usize = 50;

/// What a server is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `v1.37.2+kijabi.0.1.0`.
    pub git_version: String,
    /// The commit this program is built from; may be empty.
    pub git_commit: String,
    /// How clients outside reach us: `10.0.0.1:6443`, for `/api`.
    pub address: String,
    /// How long events are kept.
    pub event_ttl: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            git_version: "v1.37.2+kijabi".to_owned(),
            git_commit: String::new(),
            address: "127.0.0.1:6443".to_owned(),
            event_ttl: Duration::from_secs(3600),
        }
    }
}

/// The API server. Lives until its stop token is cancelled.
pub struct ApiServer {
    pub(crate) config: Config,
    pub(crate) storage: Arc<Storage>,
    pub(crate) chain: Chain,
    in_force: Arc<InForce>,
    pub(crate) metrics: Metrics,
    /// What `/openapi/v2` is made of.
    pub(crate) openapi: Arc<crate::openapi::KeptParts>,
    stop: CancellationToken,
}

/// Opens the storage of all built-in kinds and fills the watch cache. First step; the chain is made with it, then the server.
pub async fn open_storage(store: Arc<dyn Store>, stop: CancellationToken) -> Result<Arc<Storage>, store::Error> {
    Storage::open(store, stored_kinds(), stop).await.map(Arc::new)
}

impl ApiServer {
    /// A server on a storage. `stop` ends its watches and its background work.
    pub fn new(config: Config, storage: Arc<Storage>, chain: Chain, stop: CancellationToken) -> Arc<ApiServer> {
        let in_force = Arc::new(InForce::new(Catalogue::builtin(&storage)));
        tokio::spawn(crate::custom::run(Arc::clone(&storage), Arc::clone(&in_force), stop.clone()));
        if let Ok(events) = storage.kind("", "events") {
            tokio::spawn(crate::expire::run(events, config.event_ttl, stop.clone()));
        }
        if chain.flow.is_some() {
            tokio::spawn(crate::flow::maintain::run(Arc::clone(&storage), stop.clone()));
        }
        if let Some(aggregator) = &chain.aggregator {
            tokio::spawn(Arc::clone(aggregator).run(stop.clone()));
        }
        let (metrics, openapi) = Default::default();
        let api = Arc::new(ApiServer { config, storage, chain, in_force, metrics, openapi, stop });
        tokio::spawn(crate::admission::policy::check::run(Arc::downgrade(&api), api.stop.clone()));
        api
    }

    /// All objects.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// What is served now.
    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        self.in_force.load()
    }

    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Serves one request.
    pub fn handle<B>(self: &Arc<Self>, request: Request<B>, peer: Peer) -> BoxFuture<'static, Response<Body>>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        let (parts, body) = request.into_parts();
        let body = body.map_err(Into::into).boxed_unsync();
        Box::pin(Arc::clone(self).answer(parts, body, peer))
    }

    async fn answer(self: Arc<Self>, parts: Parts, body: RequestBody, peer: Peer) -> Response<Body> {
        // Errors are told in the format accepted; a client that accepts nothing of ours gets JSON.
        let accept = Accept::negotiate(&parts.headers).unwrap_or_default();
        let audit_id = audit_id(&parts.headers);
        let packs = respond::takes_gzip(&parts.headers, &peer);
        let mut told = Told::default();
        let result = Arc::clone(&self).route(parts, body, peer, &mut told, accept).await;
        let mut response = result.unwrap_or_else(|status| respond::status(accept, &status));
        self.count(&told, &mut response);
        let headers = response.headers_mut();
        headers.insert(AUDIT_ID, audit_id);
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        if packs { respond::packed(response) } else { response }
    }

    /// Counts an answer; a watch is counted as open until its body is dropped.
    fn count(&self, told: &Told, response: &mut Response<Body>) {
        let Some(info) = &told.info else { return };
        let known = || self.catalogue().find(&info.group, &info.version, &info.resource).is_ok();
        let series = self.metrics.requests.of(Counted::of(info, &told.path, told.applies, told.dry_run), known);
        let elsewhere = told.queued + response.extensions_mut().remove::<Elsewhere>().map_or(Duration::ZERO, |it| it.0);
        series.record(response.status().as_u16(), told.began.elapsed(), elsewhere);
        if info.verb == "watch" && matches!(response.body(), Body::Stream(_)) {
            let body = std::mem::take(response.body_mut());
            *response.body_mut() = Body::stream(Watched { body, _open: series.open() });
        }
    }

    async fn route(
        self: Arc<Self>,
        parts: Parts,
        body: RequestBody,
        peer: Peer,
        told: &mut Told,
        accept: Accept,
    ) -> Result<Response<Body>, Status> {
        let query = Query::parse(parts.uri.query());
        let info = Arc::new(RequestInfo::parse(&parts, &query)?);
        told.about(&info, &query, &parts);
        let user = self.authenticate(&parts, &peer).await?;
        let attributes = attributes(&info, &query, &parts, user);
        self.authorize(&attributes)?;
        let long = info.long_running();
        let waiting = Instant::now();
        let turn = match &self.chain.flow {
            Some(flow) if !long || info.verb == "watch" => flow.admit(&attributes, || self.width(&info, &query)).await,
            _ => None,
        };
        told.queued = waiting.elapsed();
        let counted = Arc::clone(&self);
        let _inflight = (!long).then(|| counted.metrics.begin(&info.verb));
        let work = Arc::clone(&self).dispatch(info, query, attributes, parts, body);
        let work = async move {
            if long {
                return work.await;
            }
            let late = |_| Status::timeout("request did not complete within the allotted timeout");
            tokio::time::timeout(REQUEST_TIMEOUT, work).await.map_err(late)?
        };
        let Some((admitted, turn)) = turn else { return work.await };
        let result = match turn {
            Ok(()) => work.await,
            Err(status) => Err(status),
        };
        let mut response = result.unwrap_or_else(|status| respond::status(accept, &status));
        admitted.tell(response.headers_mut());
        Ok(response)
    }

    async fn authenticate(&self, parts: &Parts, peer: &Peer) -> Result<Arc<UserInfo>, Status> {
        let began = Instant::now();
        let user = self.chain.authenticate(parts, peer).await;
        let result = match &user {
            Ok(_) => 0,
            Err(status) if status.code == 401 => 1,
            Err(_) => 2,
        };
        self.metrics.authenticated(result, began.elapsed());
        user
    }

    fn authorize(&self, attributes: &Attributes) -> Result<(), Status> {
        let began = Instant::now();
        let decision = self.chain.authorize(attributes);
        self.metrics.authorized(decision.is_ok(), began.elapsed());
        decision
    }

    /// How many seats a request takes: a list one for each hundred objects it may have to look at, as upstream.
    fn width(&self, info: &RequestInfo, query: &Query) -> usize {
        let lists = info.verb == "list" || (info.verb == "watch" && query.flag("sendInitialEvents"));
        if !lists || !info.name.is_empty() {
            return 1;
        }
        let Ok(served) = self.catalogue().find(&info.group, &info.version, &info.resource) else { return 1 };
        let objects = served.store.as_ref().map_or(0, |store| store.cache().len());
        let selective = query.get("labelSelector").or_else(|| query.get("fieldSelector")).is_some();
        let limit = query.number::<usize>("limit").ok().flatten().filter(|limit| *limit > 0 && !selective);
        objects.min(limit.unwrap_or(usize::MAX)).div_ceil(OBJECTS_PER_SEAT)
    }

    /// Whether everything that was stored at the start is served.
    pub(crate) fn is_complete(&self) -> bool {
        self.in_force.is_ready()
    }

    async fn dispatch(
        self: Arc<Self>,
        info: Arc<RequestInfo>,
        query: Query,
        attributes: Attributes,
        mut parts: Parts,
        body: RequestBody,
    ) -> Result<Response<Body>, Status> {
        self.in_force.ready().await;
        if let Some(aggregator) = self.chain.aggregator.as_ref().filter(|it| it.serves(parts.uri.path())) {
            return aggregator.forward(&attributes, parts, body).await;
        }
        if !info.resource_request {
            let Some(endpoint) = self.chain.endpoints.get(&("", parts.uri.path(), "")).cloned() else {
                return self.other(&parts, &query);
            };
            let storage = Arc::clone(&self.storage);
            let rest = info.rest.clone();
            let request = EndpointRequest { attributes, rest, parts, body, storage, dry_run: false };
            return endpoint.serve(request).await;
        }
        let served = self.catalogue().find(&info.group, &info.version, &info.resource)?;
        if let Some(endpoint) = self.endpoint(&served, &info.subresource) {
            let asked = (&attributes, &query, &*info.rest);
            let body = crate::connect::admit(&self, &served, asked, &mut parts, body).await?;
            let dry_run = query.get("dryRun").is_some();
            let storage = Arc::clone(&self.storage);
            return endpoint
                .serve(EndpointRequest { attributes, rest: info.rest.clone(), parts, body, storage, dry_run })
                .await;
        }
        check_scope(&served, &info)?;
        let mut call = Call {
            api: Arc::clone(&self),
            accept: accept(&parts, &query, &served)?,
            content_type: content_type(&parts.headers).to_owned(),
            user_agent: user_agent(&parts.headers),
            body: if matches!(&*info.verb, "get" | "list" | "watch") {
                bytes::Bytes::new()
            } else {
                read_body(body).await?
            },
            served,
            attributes,
            query,
            warnings: Warnings::default(),
            elsewhere: AtomicU64::new(0),
        };
        if let Some(deprecation) = call.served.custom().and_then(|version| version.deprecation.as_ref()) {
            call.warnings.push(deprecation.clone());
        }
        let resource = Arc::clone(&call.served.resource);
        if let Some(deprecation) = api::deprecation(&resource.group, &resource.version, &resource.plural) {
            call.warnings.push(deprecation.to_owned());
        }
        let result = match (&*resource.group, &*resource.plural, &*info.subresource) {
            ("", "bindings", _) => subresource::bind(&mut call).await,
            ("", "componentstatuses", _) => crate::health::component_statuses(&call),
            (_, _, "") => handlers::handle(&mut call).await,
            _ => subresource::handle(&mut call).await,
        };
        let mut response = result.unwrap_or_else(|status| respond::status(call.accept, &status));
        warn(&mut response, &call.warnings.take());
        match call.elsewhere.load(Ordering::Relaxed) {
            0 => {}
            nanos => drop(response.extensions_mut().insert(Elsewhere(Duration::from_nanos(nanos)))),
        }
        Ok(response)
    }

    fn endpoint(&self, served: &Served, subresource: &str) -> Option<Arc<dyn crate::endpoint::Endpoint>> {
        let resource = &served.resource;
        let subresource = match subresource {
            "" => "",
            name => resource.subresource(name)?.name,
        };
        self.chain.endpoints.get(&(&*resource.group, &*resource.plural, subresource)).cloned()
    }

    /// What is no resource: discovery, health, metrics, the version.
    fn other(&self, parts: &Parts, query: &Query) -> Result<Response<Body>, Status> {
        let own = |parts: &Parts| crate::discovery::serve(self, parts);
        let discovered = match &self.chain.aggregator {
            Some(aggregator) => aggregator.discover(parts, own),
            None => own(parts),
        };
        discovered.or_else(|| crate::health::serve(self, parts, query)).unwrap_or_else(|| Err(Status::no_such_path()))
    }
}

/// What is told of a request when it is counted.
struct Told {
    info: Option<Arc<RequestInfo>>,
    path: String,
    applies: bool,
    dry_run: bool,
    began: Instant,
    /// For how long it waited for its turn.
    queued: Duration,
}

impl Default for Told {
    fn default() -> Told {
        let (info, path, queued) = Default::default();
        Told { info, path, applies: false, dry_run: false, began: Instant::now(), queued }
    }
}

impl Told {
    fn about(&mut self, info: &Arc<RequestInfo>, query: &Query, parts: &Parts) {
        self.applies = info.verb == "patch" && content_type(&parts.headers).starts_with("application/apply-patch");
        self.dry_run = query.get("dryRun").is_some();
        if !info.resource_request {
            parts.uri.path().clone_into(&mut self.path);
        }
        self.info = Some(Arc::clone(info));
    }
}

/// In the extensions of a response: for how long others had the request, as webhooks.
#[derive(Clone, Copy, Debug)]
struct Elsewhere(Duration);

/// The body of a watch.
struct Watched {
    body: Body,
    _open: Open,
}

impl http_body::Body for Watched {
    type Data = bytes::Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// The client's own name for a request, or a new one.
fn audit_id(headers: &http::HeaderMap) -> HeaderValue {
    let own = headers.get(AUDIT_ID).filter(|value| !value.is_empty() && value.len() <= AUDIT_ID_BYTES_MAX);
    own.cloned().unwrap_or_else(|| {
        // It need not be hard to guess.
        let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
        HeaderValue::from_str(id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()))
            .unwrap_or_else(|_| HeaderValue::from_static(""))
    })
}

fn user_agent(headers: &http::HeaderMap) -> String {
    let agent = headers.get(http::header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    agent.unwrap_or_default().into_owned()
}

fn accept(parts: &Parts, query: &Query, served: &Served) -> Result<Accept, Status> {
    let mut accept = Accept::negotiate(&parts.headers)?;
    // Custom resources have no messages.
    if accept.format == Format::Protobuf && served.typing.builtin().is_none() {
        return Err(Status::not_acceptable(negotiate::OFFERED_CUSTOM));
    }
    accept.pretty |= query.get("pretty").is_some_and(|value| value == "true" || value == "1");
    Ok(accept)
}

fn attributes(info: &RequestInfo, query: &Query, parts: &Parts, user: Arc<UserInfo>) -> Attributes {
    Attributes {
        user,
        verb: info.verb.clone(),
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        path: parts.uri.path().to_owned(),
        resource_request: info.resource_request,
        label_selector: query.get("labelSelector").unwrap_or_default().to_owned(),
        field_selector: query.get("fieldSelector").unwrap_or_default().to_owned(),
    }
}

/// 404 for a cluster resource in a namespace, 405 for writing all namespaces at once.
fn check_scope(served: &Served, info: &RequestInfo) -> Result<(), Status> {
    let resource = &served.resource;
    if !resource.namespaced && !info.namespace.is_empty() && resource.plural != "namespaces" {
        return Err(Status::no_such_path());
    }
    let needs_namespace = resource.namespaced && info.namespace.is_empty();
    if needs_namespace && !matches!(&*info.verb, "list" | "watch") {
        return Err(if info.name.is_empty() {
            Status::method_not_allowed(&resource.group, &resource.plural, &info.verb)
        } else {
            Status::no_such_path()
        });
    }
    if !info.subresource.is_empty() && resource.subresource(&info.subresource).is_none() {
        return Err(Status::no_such_path());
    }
    Ok(())
}

fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for text in warnings.iter().take(WARNINGS_MAX) {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
