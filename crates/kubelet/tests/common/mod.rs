//! A small API server in memory, enough for a kubelet: list, watch, create, update, patch, delete, tokens.

#![allow(unreachable_pub, dead_code, clippy::unwrap_used)]

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

#[derive(Clone)]
struct Change {
    revision: u64,
    collection: String,
    kind: &'static str,
    object: Value,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Value>,
    changes: Vec<Change>,
    revision: u64,
    requests: Vec<String>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

/// The API.
#[derive(Clone, Default)]
pub struct Api(Arc<Inner>);

fn respond(code: u16, value: &Value) -> Response<Body> {
    let body = http_body_util::Full::new(Bytes::from(value.to_string())).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn error(code: u16, reason: &str, message: &str) -> Response<Body> {
    respond(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}),
    )
}

fn query(query: &str, key: &str) -> Option<String> {
    let raw = query.split('&').find_map(|p| p.strip_prefix(&format!("{key}=")))?;
    Some(raw.replace("%3D", "=").replace("%2F", "/"))
}

fn selected(object: &Value, selector: Option<&str>) -> bool {
    selector.is_none_or(|s| {
        s.split(',').filter(|t| !t.is_empty()).all(|t| {
            let (path, want) = t.split_once('=').unwrap();
            object.pointer(&format!("/{}", path.replace('.', "/"))).and_then(Value::as_str) == Some(want)
        })
    })
}

/// What a path means: collection (without namespace), namespace, name, subresource.
struct Target {
    resource: String,
    namespace: String,
    name: String,
    sub: String,
}

fn parse(path: &str) -> Target {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let head = if parts[0] == "api" { 2 } else { 3 };
    let group = parts.drain(..head).collect::<Vec<_>>().join("/");
    let mut namespace = String::new();
    if parts.len() > 2 && parts[0] == "namespaces" {
        namespace = parts[1].to_owned();
        parts.drain(..2);
    }
    let part = |i: usize| parts.get(i).map_or(String::new(), |s| (*s).to_owned());
    Target { resource: format!("{group}/{}", part(0)), namespace, name: part(1), sub: part(2) }
}

fn key(t: &Target, name: &str) -> (String, String) {
    (t.resource.clone(), if t.namespace.is_empty() { name.to_owned() } else { format!("{}/{name}", t.namespace) })
}

impl State {
    fn put(&mut self, key: (String, String), kind: &'static str, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let collection = key.0.clone();
        if kind == "DELETED" {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, object.clone());
        }
        self.changes.push(Change { revision: self.revision, collection, kind, object: object.clone() });
        object
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (k, v) in patch {
        match (k.as_str(), v) {
            (_, Value::Null) => {
                target.as_object_mut().unwrap().remove(k);
            }
            ("conditions", Value::Array(list)) => merge_conditions(&mut target[k], list),
            ("podIPs" | "hostIPs", Value::Array(list)) => {
                target[k] = list.iter().filter(|e| e.get("$patch").is_none()).cloned().collect();
            }
            _ => merge(&mut target[k], v),
        }
    }
}

fn merge_conditions(target: &mut Value, list: &[Value]) {
    if !target.is_array() {
        *target = json!([]);
    }
    let all = target.as_array_mut().unwrap();
    for c in list {
        match all.iter_mut().find(|o| o["type"] == c["type"]) {
            Some(old) => merge(old, c),
            None => all.push(c.clone()),
        }
    }
}

impl Api {
    /// A client of it.
    pub fn client(&self) -> client::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.handle(request).await) }
        });
        client::Client::new(service, "default")
    }

    async fn handle(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let q = head.uri.query().unwrap_or_default().to_owned();
        let t = parse(head.uri.path());
        let watch = query(&q, "watch").is_some_and(|w| w == "true" || w == "1");
        if !watch && t.resource != "api/v1/events" {
            self.0.state.lock().requests.push(format!("{} {}", head.method, head.uri.path()));
        }
        match head.method {
            Method::GET if watch => self.watch(&t, &q),
            Method::GET if t.name.is_empty() => self.list(&t, &q),
            Method::GET => match self.0.state.lock().objects.get(&key(&t, &t.name)) {
                Some(object) => respond(200, object),
                None => error(404, "NotFound", &format!("{} \"{}\" not found", t.resource, t.name)),
            },
            Method::POST if t.sub == "token" => token(body),
            Method::POST => self.create(&t, body),
            Method::PUT => self.change(&t, |o| *o = body.clone()),
            Method::PATCH => {
                let uid = body.pointer("/metadata/uid").cloned();
                let stale = uid.is_some_and(|uid| {
                    self.0.state.lock().objects.get(&key(&t, &t.name)).is_some_and(|o| o["metadata"]["uid"] != uid)
                });
                if stale {
                    return error(409, "Conflict", "uid differs");
                }
                self.change(&t, |o| merge(o, &body))
            }
            Method::DELETE => self.delete_request(&t, &body),
            _ => error(405, "MethodNotAllowed", "no"),
        }
    }

    fn list(&self, t: &Target, q: &str) -> Response<Body> {
        let state = self.0.state.lock();
        let fields = query(q, "fieldSelector");
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|((r, k), _)| {
                *r == t.resource && (t.namespace.is_empty() || k.starts_with(&format!("{}/", t.namespace)))
            })
            .map(|(_, o)| o)
            .filter(|o| selected(o, fields.as_deref()))
            .collect();
        let revision = state.revision.max(1).to_string();
        respond(
            200,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": revision}, "items": items}),
        )
    }

    fn watch(&self, t: &Target, q: &str) -> Response<Body> {
        let fields = query(q, "fieldSelector");
        let from = query(q, "resourceVersion").and_then(|r| r.parse().ok()).unwrap_or(0);
        let (inner, resource, namespace) = (self.0.clone(), t.resource.clone(), t.namespace.clone());
        let stream = futures::stream::unfold(from, move |mut at: u64| {
            let (inner, resource, namespace, fields) =
                (inner.clone(), resource.clone(), namespace.clone(), fields.clone());
            async move {
                loop {
                    let waiting = inner.changed.notified();
                    let next = {
                        let state = inner.state.lock();
                        state
                            .changes
                            .iter()
                            .find(|c| {
                                c.revision > at
                                    && c.collection == resource
                                    && (namespace.is_empty() || c.object["metadata"]["namespace"] == *namespace)
                                    && selected(&c.object, fields.as_deref())
                            })
                            .cloned()
                    };
                    if let Some(change) = next {
                        at = change.revision;
                        let line = format!("{}\n", json!({"type": change.kind, "object": change.object}));
                        return Some((Ok(http_body::Frame::data(Bytes::from(line))), at));
                    }
                    waiting.await;
                }
            }
        });
        Response::builder().status(200).body(StreamBody::new(stream.boxed()).boxed_unsync()).unwrap()
    }

    fn create(&self, t: &Target, mut object: Value) -> Response<Body> {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("generated").to_owned();
        if !t.namespace.is_empty() {
            object["metadata"]["namespace"] = json!(t.namespace);
        }
        let key = key(t, &name);
        let mut state = self.0.state.lock();
        if state.objects.contains_key(&key) {
            return error(409, "AlreadyExists", "exists");
        }
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{name}-{}", state.revision));
        }
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        let made = state.put(key, "ADDED", object);
        drop(state);
        self.0.changed.notify_waiters();
        respond(201, &made)
    }

    fn change(&self, t: &Target, f: impl FnOnce(&mut Value)) -> Response<Body> {
        let mut state = self.0.state.lock();
        let Some(mut object) = state.objects.get(&key(t, &t.name)).cloned() else {
            return error(404, "NotFound", "gone");
        };
        f(&mut object);
        let object = state.put(key(t, &t.name), "MODIFIED", object);
        drop(state);
        self.0.changed.notify_waiters();
        respond(200, &object)
    }

    fn delete_request(&self, t: &Target, options: &Value) -> Response<Body> {
        let grace = options["gracePeriodSeconds"].as_i64();
        let Some(object) = self.0.state.lock().objects.get(&key(t, &t.name)).cloned() else {
            return error(404, "NotFound", "gone");
        };
        let grace = grace.unwrap_or_else(|| {
            object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30)
        });
        if t.resource == "api/v1/pods" && grace > 0 {
            return self.change(t, |o| {
                o["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                o["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            });
        }
        self.0.state.lock().put(key(t, &t.name), "DELETED", object.clone());
        self.0.changed.notify_waiters();
        respond(200, &object)
    }

    fn target(resource: &str, name: &str) -> Target {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        Target { resource: resource.into(), namespace: namespace.into(), name: name.into(), sub: String::new() }
    }

    /// Makes an object: `api/v1/pods`, `default/web`.
    pub fn add(&self, resource: &str, name: &str, mut object: Value) {
        let t = Api::target(resource, name);
        object["metadata"]["name"] = json!(t.name);
        assert_eq!(self.create(&t, object).status(), 201);
    }

    /// Changes an object.
    pub fn edit(&self, resource: &str, name: &str, f: impl FnOnce(&mut Value)) {
        assert_eq!(self.change(&Api::target(resource, name), f).status(), 200);
    }

    /// Deletes an object as a user does.
    pub fn delete(&self, resource: &str, name: &str, grace: Option<i64>) {
        self.delete_request(&Api::target(resource, name), &json!({"gracePeriodSeconds": grace}));
    }

    /// An object.
    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.0.state.lock().objects.get(&(resource.to_owned(), name.to_owned())).cloned()
    }

    /// Requests so far, without watches and events.
    pub fn requests(&self) -> Vec<String> {
        self.0.state.lock().requests.clone()
    }

    /// Reason and message of all events about an object.
    pub fn events(&self, about: &str) -> Vec<String> {
        let state = self.0.state.lock();
        let all = state.objects.iter().filter(|((r, _), _)| r.ends_with("/events")).map(|(_, o)| o);
        let ours = all.filter(|o| o["involvedObject"]["name"] == about);
        ours.map(|o| format!("{} {}", o["reason"].as_str().unwrap(), o["message"].as_str().unwrap())).collect()
    }

    /// Waits until the object is as wanted, and gives it; panics with what it was last after a minute.
    pub async fn until(&self, resource: &str, name: &str, wanted: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let waiting = self.0.changed.notified();
            let now = self.get(resource, name);
            if wanted(now.as_ref()) {
                return now;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || tokio::time::timeout(left, waiting).await.is_err() {
                panic!("{resource} {name} never became as wanted: {:#}", now.unwrap_or_default());
            }
        }
    }
}

fn token(mut request: Value) -> Response<Body> {
    request["status"] = json!({"token": "a.b.c", "expirationTimestamp": "2099-01-01T00:00:00Z"});
    respond(201, &request)
}
