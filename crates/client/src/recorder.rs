//! Events: what happened to an object, for people. The same event again raises its count.

use crate::Client;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use std::collections::{HashMap, VecDeque};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events that may wait to be written; more are dropped, and the loss is logged.
const QUEUE: usize = 1024;
/// Events remembered to count repetitions.
const REMEMBERED: usize = 1024;

/// Whether an event needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// No.
    Normal,
    /// Yes.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

struct Occurrence {
    object: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Writes events of one component, in the background. Cloning is cheap.
#[derive(Clone)]
pub struct Recorder {
    send: mpsc::Sender<Occurrence>,
}

impl Recorder {
    /// A recorder for `component` (`kubelet`, `default-scheduler`, …) on `host` (empty for none); ends with the token.
    pub fn new(client: Client, component: &str, host: &str, token: CancellationToken) -> Recorder {
        let (send, receive) = mpsc::channel(QUEUE);
        let source =
            EventSource { component: Some(component.to_owned()), host: (!host.is_empty()).then(|| host.to_owned()) };
        tokio::spawn(write_all(client, source, receive, token));
        Recorder { send }
    }

    /// Records an event; never waits.
    pub fn event(&self, object: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let occurrence = Occurrence {
            object: object.clone(),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            at: Timestamp::now(),
        };
        if self.send.try_send(occurrence).is_err() {
            tracing::warn!(reason, "an event was dropped: too many wait to be written");
        }
    }
}

/// A reference to an object, as events and owner fields want it.
pub fn reference<K: kube::Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

type Identity = (String, String, String, EventType, String, String);

struct Known {
    name: String,
    namespace: String,
    count: i32,
}

/// The events written lately, the oldest forgotten first.
#[derive(Default)]
struct Memory {
    known: HashMap<Identity, Known>,
    order: VecDeque<Identity>,
}

async fn write_all(
    client: Client,
    source: EventSource,
    mut queue: mpsc::Receiver<Occurrence>,
    token: CancellationToken,
) {
    let mut memory = Memory::default();
    loop {
        let occurrence = tokio::select! {
            occurrence = queue.recv() => occurrence,
            () = token.cancelled() => return,
        };
        let Some(occurrence) = occurrence else { return };
        if let Err(error) = write(&client, &source, &mut memory, occurrence).await {
            tracing::debug!(%error, "an event was not written");
        }
    }
}

async fn write(client: &Client, source: &EventSource, memory: &mut Memory, occurrence: Occurrence) -> kube::Result<()> {
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    let object = &occurrence.object;
    let identity = (
        text(&object.uid),
        text(&object.name),
        text(&object.field_path),
        occurrence.kind,
        occurrence.reason.clone(),
        occurrence.message.clone(),
    );
    if let Some(known) = memory.known.get_mut(&identity) {
        known.count += 1;
        let patch = serde_json::json!({"count": known.count, "lastTimestamp": Time(occurrence.at)});
        let api: Api<Event> = Api::namespaced(client.clone(), &known.namespace);
        match api.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return other.map(drop),
        }
    }
    let event = event(source, &occurrence);
    let (name, namespace) = (text(&event.metadata.name), text(&event.metadata.namespace));
    Api::<Event>::namespaced(client.clone(), &namespace).create(&PostParams::default(), &event).await?;
    if memory.known.insert(identity.clone(), Known { name, namespace, count: 1 }).is_none() {
        memory.order.push_back(identity);
    }
    if memory.order.len() > REMEMBERED
        && let Some(oldest) = memory.order.pop_front()
    {
        memory.known.remove(&oldest);
    }
    Ok(())
}

fn event(source: &EventSource, occurrence: &Occurrence) -> Event {
    let object = &occurrence.object;
    let namespace = match object.namespace.as_deref() {
        Some(namespace) if !namespace.is_empty() => namespace,
        _ => "default",
    };
    let name = format!("{}.{:x}", object.name.as_deref().unwrap_or_default(), occurrence.at.as_nanosecond());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() },
        involved_object: object.clone(),
        type_: Some(occurrence.kind.as_str().to_owned()),
        reason: Some(occurrence.reason.clone()),
        message: Some(occurrence.message.chars().take(1024).collect()),
        first_timestamp: Some(Time(occurrence.at)),
        last_timestamp: Some(Time(occurrence.at)),
        count: Some(1),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        source: Some(source.clone()),
        ..Event::default()
    }
}
