//! As much of an API as informers need: lists and watches of whatever the test puts in.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

/// The objects, and everything that happened to them.
pub(crate) struct Objects {
    state: Mutex<State>,
    revision: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Value>,
    /// The revision of an event is its place here, from 1.
    events: Vec<(String, Value)>,
}

type Answer = Response<StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>>;

impl Objects {
    pub(crate) fn new() -> Arc<Objects> {
        Arc::new(Objects { state: Mutex::default(), revision: watch::Sender::new(0) })
    }

    /// Creates or replaces an object of a kind by its plural name.
    pub(crate) fn put(&self, plural: &str, mut object: Value) {
        self.change(plural, |state| {
            let key = (plural.to_owned(), key(&object));
            let revision = state.events.len() + 1;
            object["metadata"]["resourceVersion"] = json!(revision.to_string());
            let kind = match state.objects.insert(key, object.clone()) {
                None => "ADDED",
                Some(_) => "MODIFIED",
            };
            json!({"type": kind, "object": object})
        });
    }

    pub(crate) fn delete(&self, plural: &str, name: &str) {
        self.change(plural, |state| {
            let key = (plural.to_owned(), name.to_owned());
            let mut object = state.objects.remove(&key).unwrap();
            object["metadata"]["resourceVersion"] = json!((state.events.len() + 1).to_string());
            json!({"type": "DELETED", "object": object})
        });
    }

    fn change(&self, plural: &str, change: impl FnOnce(&mut State) -> Value) {
        let mut state = self.state.lock().unwrap();
        let event = change(&mut state);
        state.events.push((plural.to_owned(), event));
        self.revision.send_replace(state.events.len());
    }

    /// A client of this API. Must be called in a runtime.
    pub(crate) fn client(self: &Arc<Self>) -> kube::Client {
        let objects = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let objects = Arc::clone(&objects);
            async move { Ok::<_, Infallible>(objects.answer(&request)) }
        });
        kube::Client::new(service, "default")
    }

    fn answer(self: Arc<Self>, request: &Request<Body>) -> Answer {
        let plural = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let query = request.uri().query().unwrap_or_default();
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let body: stream::BoxStream<'static, _> = if parameter("watch").is_some() {
            let from = parameter("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
            Box::pin(self.watch(plural, from))
        } else {
            Box::pin(stream::iter([frame(&self.list(&plural))]))
        };
        Response::new(StreamBody::new(body))
    }

    fn list(&self, plural: &str) -> Value {
        let state = self.state.lock().unwrap();
        let items = state.objects.iter().filter(|((kind, _), _)| kind == plural);
        let items: Vec<&Value> = items.map(|(_, object)| object).collect();
        json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": state.events.len().to_string()}, "items": items,
        })
    }

    fn watch(
        self: Arc<Self>,
        plural: String,
        from: usize,
    ) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
        let changed = self.revision.subscribe();
        stream::unfold((self, changed, from), move |(objects, mut changed, mut at)| {
            let plural = plural.clone();
            async move {
                loop {
                    let next = objects.state.lock().unwrap().events.get(at).cloned();
                    match next {
                        None => changed.wait_for(|revision| *revision > at).await.map(|_| ()).ok()?,
                        Some((kind, event)) => {
                            at += 1;
                            if kind == plural {
                                return Some((frame(&event), (objects, changed, at)));
                            }
                        }
                    }
                }
            }
        })
    }
}

fn key(object: &Value) -> String {
    let meta = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", meta("namespace"), meta("name"))
}

fn frame(value: &Value) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from(format!("{value}\n"))))
}
