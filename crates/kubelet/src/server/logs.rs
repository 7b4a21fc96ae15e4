//! `GET /containerLogs/{namespace}/{pod}/{container}`.

use super::query::Query;
use super::{Handlers, text};
use crate::context::Shared;
use crate::directory::Entry;
use crate::logs::{self, Options};
use crate::spec;
use crate::view::now_ns;
use bytes::Bytes;
use cri::{ContainerState, ContainerStatus};
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use serve::Body;
use tokio::sync::{broadcast::error::RecvError, mpsc};

/// Pieces that wait for a slow reader.
const QUEUE: usize = 4;

/// The options a query asks for.
fn options(query: &Query) -> Result<Options, String> {
    let since = match (query.get("sinceTime"), query.number("sinceSeconds")?) {
        (Some(_), Some(_)) => return Err("at most one of sinceTime or sinceSeconds may be specified".into()),
        (Some(time), None) => {
            let at = machinery::time::parse(time).ok_or_else(|| format!("invalid sinceTime {time:?}"))?;
            i64::try_from(at.as_nanosecond()).ok()
        }
        (None, seconds) => seconds.and_then(|s| i64::try_from(s).ok()).map(|s| now_ns() - s * 1_000_000_000),
    };
    let tail = query.number("tailLines")?.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let stream = match query.get("stream") {
        None | Some("All") => None,
        Some(stream @ ("Stdout" | "Stderr")) => Some(stream.to_ascii_lowercase()),
        Some(other) => return Err(format!("unsupported stream {other:?}, must be one of All, Stdout, Stderr")),
    };
    Ok(Options {
        follow: query.flag("follow"),
        tail,
        since_ns: since,
        timestamps: query.flag("timestamps"),
        limit_bytes: query.number("limitBytes")?,
        stream,
    })
}

/// The container whose log is meant; or why there is none.
fn choose<'a>(entry: &'a Entry, name: &'a str, previous: bool) -> Result<&'a ContainerStatus, String> {
    let pod = spec::name(&entry.pod);
    let mut tries = entry.view.of(name).filter(|c| c.state != ContainerState::Created);
    let latest = tries.next();
    let waiting = entry.waiting.get(name);
    if previous {
        // A container that waits for its restart shows its last run as the one before.
        let found = match latest {
            Some(c) if c.state == ContainerState::Exited && waiting.is_some() => Some(c),
            _ => tries.next(),
        };
        return found.ok_or_else(|| format!("previous terminated container \"{name}\" in pod \"{pod}\" not found"));
    }
    if let Some(c) = latest {
        return Ok(c);
    }
    let of = format!("container \"{name}\" in pod \"{pod}\" is waiting to start");
    Err(match waiting.map(|w| w.reason.as_str()) {
        Some("ErrImagePull") => format!("{of}: image can't be pulled"),
        Some("ImagePullBackOff") => format!("{of}: trying and failing to pull image"),
        Some(reason) => format!("{of}: {reason}"),
        None if spec::init_containers(&entry.pod).is_empty() => format!("{of}: ContainerCreating"),
        None => format!("{of}: PodInitializing"),
    })
}

impl Handlers {
    pub(super) async fn logs(&self, namespace: &str, pod: &str, container: &str, query: &Query) -> Response<Body> {
        let entry = match self.find(namespace, pod) {
            Ok(entry) => entry,
            Err(response) => return *response,
        };
        if spec::container(&entry.pod, container).is_none() {
            let message = format!("container \"{container}\" not found in pod \"{pod}\"\n");
            return text(StatusCode::NOT_FOUND, message);
        }
        let chosen = options(query).and_then(|o| choose(&entry, container, query.flag("previous")).map(|c| (o, c)));
        let (mut options, status) = match chosen {
            Ok(chosen) => chosen,
            Err(message) => return text(StatusCode::BAD_REQUEST, message),
        };
        options.follow &= status.state == ContainerState::Running;
        let (tx, rx) = mpsc::channel::<Bytes>(QUEUE);
        let (context, id, path) = (self.context.clone(), status.id.clone(), status.log_path.clone());
        self.sessions.spawn(async move {
            let token = context.token.clone();
            let work = logs::stream(path.clone(), options, tx, ended(context, id));
            let result = tokio::select! {
                () = token.cancelled() => Ok(()),
                result = work => result,
            };
            if let Err(error) = result {
                tracing::warn!(path = %path.display(), %error, "a log could not be read to its end");
            }
        });
        let frames = tokio_stream::wrappers::ReceiverStream::new(rx).map(|b| Ok(http_body::Frame::data(b)));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
        response
    }
}

/// Resolves when the container does not run any more.
async fn ended(context: Shared, id: String) {
    let mut events = context.runtime().events();
    loop {
        match context.runtime().container_status(&id).await {
            Ok(status) if status.state == ContainerState::Running => {}
            _ => return,
        }
        loop {
            match events.recv().await {
                Ok(event) if event.container_id == id => break,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
    }
}
