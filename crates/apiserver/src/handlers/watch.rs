//! `watch`: changes as they come, encoded once for all watchers.

use super::options::ListOptions;
use crate::body::{Body, BodyError};
use crate::call::Call;
use crate::encode::{partial, watch_line};
use crate::negotiate::{Accept, Format, Shape};
use crate::respond;
use crate::served::Served;
use crate::storage::{Delivery, Entry, EventType, Object};
use crate::table::{self, Include};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use machinery::{Status, protobuf};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// A watch lasts from this long …
const DURATION_SECONDS_MIN: u64 = 1800;
/// … to twice that, when the client does not say.
const DURATION_SECONDS_SPREAD: u64 = 1800;
/// Bookmarks come this often, or up to a quarter later.
const BOOKMARK_SECONDS: f32 = 60.0;
/// Where the word for what happened begins in a line.
const LINE_HEAD: usize = "{\"type\":\"".len();
/// Lines sent together at most, in bytes.
const BATCH_BYTES: usize = 64 << 10;

/// Answers with the stream of changes.
pub(super) async fn watch(call: &Call) -> Result<Response<Body>, Status> {
    let store = call.served.store()?;
    let options = ListOptions::parse(call, true)?;
    let shown =
        Shown { accept: call.accept, served: Arc::clone(&call.served), include: Include::of(call)?, headers: true };
    let timeout = call.query.number::<u64>("timeoutSeconds")?.filter(|seconds| *seconds > 0);
    let seconds = timeout.unwrap_or_else(|| DURATION_SECONDS_MIN + fastrand::u64(0..DURATION_SECONDS_SPREAD));
    let from_start = options.revision.unwrap_or(0) == 0 && options.send_initial_events != Some(false);
    let initial = from_start || options.send_initial_events == Some(true);
    if initial {
        store.reach(options.revision.unwrap_or(0)).await?;
    }
    let mut watch = Watch {
        shown,
        stop: call.api.stopping(),
        deadline: Instant::now().checked_add(Duration::from_secs(seconds)).unwrap_or_else(Instant::now),
        bookmark_at: options.bookmarks.then(next_bookmark),
        initial: VecDeque::new(),
        initial_end: None,
        missed: VecDeque::new(),
        since: 0,
        receiver: None,
        failure: None,
    };
    if initial {
        let (entries, revision, receiver) = store.watch_all(options.selection);
        watch.initial = entries.into();
        watch.initial_end = (options.send_initial_events == Some(true) && options.bookmarks).then_some(revision);
        (watch.since, watch.receiver) = (revision, Some(receiver));
    } else {
        let revision = options.revision.unwrap_or_else(|| store.revision());
        match store.watch_from(options.selection, revision) {
            Ok((missed, receiver)) => (watch.missed, watch.receiver) = (missed, Some(receiver)),
            Err(status) => watch.failure = Some(status),
        }
        watch.since = revision;
    }
    Ok(watch.answer(call))
}

fn next_bookmark() -> Instant {
    Instant::now() + Duration::from_secs_f32(BOOKMARK_SECONDS * (1.0 + fastrand::f32() / 4.0))
}

/// In which shape objects are shown.
struct Shown {
    accept: Accept,
    served: Arc<Served>,
    include: Include,
    /// Columns are still to be sent.
    headers: bool,
}

impl Shown {
    fn plain(&self, object: &Object) -> bool {
        self.accept == Accept::default() && self.served.is_plain(object)
    }

    /// An event out of what is cached, where that is what the client wants to see.
    fn ready(&self, kind: &str, entry: &Entry) -> Option<Bytes> {
        if self.accept.is_plain_protobuf() {
            let message = entry.message(self.served.message_type()?);
            let object = protobuf::wrap(&self.served.api_version, &self.served.resource.kind, message);
            return Some(protobuf::watch_frame(kind, &object).into());
        }
        if let Some(beta) = self.accept.is_json_metadata()
            && self.served.is_plain(&entry.object)
        {
            return Some(watch_line(kind, &partial(&entry.object.body, table::version(beta))?));
        }
        if !self.plain(&entry.object) {
            return None;
        }
        let fits = entry.line.get(LINE_HEAD..).is_some_and(|line| line.starts_with(kind.as_bytes()));
        Some(if fits { entry.line.clone() } else { watch_line(kind, &entry.object.body) })
    }

    fn line(&mut self, kind: &str, object: Value) -> Bytes {
        let value = match self.accept.shape {
            Shape::Object => object,
            Shape::Metadata { beta } => table::partial(&object, beta),
            Shape::Table { beta } => {
                let headers = std::mem::take(&mut self.headers);
                table::event(&self.served, self.include, beta, object, headers)
            }
        };
        self.framed(kind, &value)
    }

    /// One event of the stream.
    fn framed(&self, kind: &str, object: &Value) -> Bytes {
        if self.accept.format == Format::Protobuf
            && let Some(object) = respond::as_protobuf(object)
        {
            return protobuf::watch_frame(kind, &object).into();
        }
        watch_line(kind, object.to_string().as_bytes())
    }
}

/// A watch under way.
struct Watch {
    shown: Shown,
    stop: CancellationToken,
    deadline: Instant,
    bookmark_at: Option<Instant>,
    initial: VecDeque<Arc<Entry>>,
    /// The revision to tell when all of `initial` is sent.
    initial_end: Option<u64>,
    missed: VecDeque<Delivery>,
    /// Changes up to this revision are known to the client.
    since: u64,
    /// None when the watch never began.
    receiver: Option<mpsc::Receiver<Delivery>>,
    failure: Option<Status>,
}

impl Watch {
    fn answer(self, call: &Call) -> Response<Body> {
        let progress = Arc::clone(&call.api);
        let lines = futures::stream::unfold((self, progress), |(mut watch, api)| async move {
            let line = watch.next(&|| api.storage.revision()).await?;
            Some((Ok::<_, BodyError>(Frame::data(line)), (watch, api)))
        });
        let mut response =
            respond::encoded(Format::Json, StatusCode::OK, Body::Stream(StreamBody::new(lines).boxed_unsync()));
        if call.accept.format == Format::Protobuf {
            let media_type = HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch");
            response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        }
        // The connection must not gather events up.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        response
    }

    /// The next line or lines; none at the end.
    async fn next(&mut self, revision: &(dyn Fn() -> u64 + Sync)) -> Option<Bytes> {
        if let Some(status) = self.failure.take() {
            return Some(self.shown.framed("ERROR", &status.to_value()));
        }
        if let Some(lines) = self.backlog().await {
            return Some(lines);
        }
        loop {
            let bookmark = self.bookmark_at;
            let timer = bookmark.unwrap_or(self.deadline).min(self.deadline);
            let receiver = self.receiver.as_mut()?;
            tokio::select! {
                biased;
                delivery = receiver.recv() => {
                    let first = delivery?;
                    if let Some(lines) = self.gather(first).await {
                        return Some(lines);
                    }
                }
                () = self.stop.cancelled() => return None,
                () = sleep_until(timer) => {
                    bookmark.filter(|at| *at < self.deadline)?;
                    if let Some(lines) = self.bookmark(revision()).await {
                        return Some(lines);
                    }
                }
            }
        }
    }

    /// What there was before the watch began.
    async fn backlog(&mut self) -> Option<Bytes> {
        let mut lines = BytesMut::new();
        while lines.len() < BATCH_BYTES {
            if let Some(entry) = self.initial.pop_front() {
                lines.extend_from_slice(&self.added(&entry).await);
            } else if let Some(revision) = self.initial_end.take() {
                lines.extend_from_slice(&self.bookmark_line(revision, true));
            } else if let Some(delivery) = self.missed.pop_front() {
                lines.extend_from_slice(&self.line(&delivery).await);
            } else {
                break;
            }
        }
        (!lines.is_empty()).then(|| lines.freeze())
    }

    async fn added(&mut self, entry: &Entry) -> Bytes {
        if let Some(line) = self.shown.ready("ADDED", entry) {
            return line;
        }
        match self.shown.served.value(&entry.object).await {
            Ok(value) => self.shown.line("ADDED", value),
            Err(status) => self.fail(&status),
        }
    }

    /// The watch ends: an object cannot be shown.
    fn fail(&mut self, status: &Status) -> Bytes {
        self.receiver = None;
        self.initial.clear();
        self.missed.clear();
        self.shown.framed("ERROR", &status.to_value())
    }

    /// A change and those queued behind it.
    async fn gather(&mut self, first: Delivery) -> Option<Bytes> {
        let mut next = Some(first);
        let mut only: Option<Bytes> = None;
        let mut lines = BytesMut::new();
        while let Some(delivery) = next {
            if delivery.event.revision() > self.since {
                self.since = delivery.event.revision();
                let line = self.line(&delivery).await;
                match only.take() {
                    None if lines.is_empty() => only = Some(line),
                    before => {
                        lines.extend_from_slice(&before.unwrap_or_default());
                        lines.extend_from_slice(&line);
                    }
                }
            }
            if lines.len() >= BATCH_BYTES {
                break;
            }
            next = self.receiver.as_mut().and_then(|receiver| receiver.try_recv().ok());
        }
        only.or_else(|| (!lines.is_empty()).then(|| lines.freeze()))
    }

    async fn line(&mut self, delivery: &Delivery) -> Bytes {
        let event = &delivery.event;
        if delivery.kind == event.kind
            && let Some(line) = self.shown.ready(event.kind.as_str(), &event.entry)
        {
            return line;
        }
        let left = delivery.kind == EventType::Deleted && event.kind != EventType::Deleted;
        let shown = event.previous.as_ref().filter(|_| left).unwrap_or(&event.entry);
        let mut object = match self.shown.served.value(&shown.object).await {
            Ok(object) => object,
            Err(status) => return self.fail(&status),
        };
        object["metadata"]["resourceVersion"] = event.revision().to_string().into();
        self.shown.line(delivery.kind.as_str(), object)
    }

    /// A bookmark, after whatever came before it. The revision is read first, so all changes up to it are queued already.
    async fn bookmark(&mut self, revision: u64) -> Option<Bytes> {
        self.bookmark_at = Some(next_bookmark());
        let waiting = self.receiver.as_mut().and_then(|receiver| receiver.try_recv().ok());
        if let Some(first) = waiting
            && let Some(lines) = self.gather(first).await
        {
            return Some(lines);
        }
        if revision <= self.since {
            return Some(self.bookmark_line(self.since, false));
        }
        self.since = revision;
        Some(self.bookmark_line(revision, false))
    }

    fn bookmark_line(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let served = &self.shown.served;
        let object = json!({"kind": served.resource.kind, "apiVersion": served.api_version, "metadata": metadata});
        let Shape::Table { beta } = self.shown.accept.shape else {
            return self.shown.line("BOOKMARK", object);
        };
        let table = table::bookmark(metadata_of(&object), beta);
        self.shown.framed("BOOKMARK", &table)
    }
}

fn metadata_of(object: &Value) -> Value {
    object.get("metadata").cloned().unwrap_or_default()
}
