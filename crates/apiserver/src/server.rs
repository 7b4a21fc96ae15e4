//! The server: one pipeline that every request takes, from the wire or from inside the program.

use crate::body::{Body, BodyError, RequestBody};
use crate::call::Call;
use crate::chain::Chain;
use crate::context::{Attributes, Peer, UserInfo, Warnings};
use crate::endpoint::{EndpointRequest, read_body};
use crate::handlers;
use crate::health::Metrics;
use crate::negotiate::{self, Accept, Format, content_type};
use crate::request::{Query, RequestInfo};
use crate::respond;
use crate::served::{Catalogue, InForce, Served, stored_kinds};
use crate::storage::Storage;
use crate::subresource;
use futures::future::BoxFuture;
use http::header::{HeaderValue, WARNING};
use http::request::Parts;
use http::{Request, Response};
use http_body_util::BodyExt;
use machinery::Status;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio_util::sync::CancellationToken;

/// A request that is not a watch, log, exec or the like ends after this long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
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
        if let Some(aggregator) = &chain.aggregator {
            tokio::spawn(Arc::clone(aggregator).run(stop.clone()));
        }
        let api = Arc::new(ApiServer { config, storage, chain, in_force, metrics: Metrics::default(), stop });
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
        let started = std::time::Instant::now();
        let mut label = (String::new(), String::new());
        let result = Arc::clone(&self).route(parts, body, peer, &mut label, accept).await;
        let response = result.unwrap_or_else(|status| respond::status(accept, &status));
        self.metrics.record(&label.0, &label.1, response.status().as_u16(), started.elapsed());
        response
    }

    async fn route(
        self: Arc<Self>,
        parts: Parts,
        body: RequestBody,
        peer: Peer,
        label: &mut (String, String),
        accept: Accept,
    ) -> Result<Response<Body>, Status> {
        let query = Query::parse(parts.uri.query());
        let info = RequestInfo::parse(&parts, &query)?;
        *label = (info.verb.clone(), info.resource.clone());
        let user = self.chain.authenticate(&parts, &peer).await?;
        let attributes = attributes(&info, &query, &parts, user);
        self.chain.authorize(&attributes)?;
        let long = info.long_running();
        let turn = match &self.chain.flow {
            Some(flow) if !long || info.verb == "watch" => flow.admit(&attributes).await,
            _ => None,
        };
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

    async fn dispatch(
        self: Arc<Self>,
        info: RequestInfo,
        query: Query,
        attributes: Attributes,
        parts: Parts,
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
            let request = EndpointRequest { attributes, rest: info.rest, parts, body, storage, dry_run: false };
            return endpoint.serve(request).await;
        }
        let served = self.catalogue().find(&info.group, &info.version, &info.resource)?;
        if let Some(endpoint) = self.endpoint(&served, &info.subresource) {
            crate::connect::admit(&self, &served, &attributes, &query, &info.rest).await?;
            let dry_run = query.get("dryRun").is_some();
            let storage = Arc::clone(&self.storage);
            return endpoint
                .serve(EndpointRequest { attributes, rest: info.rest, parts, body, storage, dry_run })
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
        };
        if let Some(deprecation) = call.served.custom().and_then(|version| version.deprecation.as_ref()) {
            call.warnings.push(deprecation.clone());
        }
        let resource = Arc::clone(&call.served.resource);
        let result = match (&*resource.group, &*resource.plural, &*info.subresource) {
            ("", "bindings", _) => subresource::bind(&mut call).await,
            ("", "componentstatuses", _) => crate::health::component_statuses(&call),
            (_, _, "") => handlers::handle(&mut call).await,
            _ => subresource::handle(&mut call).await,
        };
        let mut response = result.unwrap_or_else(|status| respond::status(call.accept, &status));
        warn(&mut response, &call.warnings.take());
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
