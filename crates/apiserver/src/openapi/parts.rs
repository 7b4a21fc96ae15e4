//! What `/openapi/v2` is put together of: the built-in kinds, each definition, and what other servers say of themselves.
//!
//! A part is made when somebody first asks for it and kept for a while after somebody last did. So a client that reads the whole
//! document after every new definition has one part made each time, and a server that nobody asks keeps nothing. The document goes
//! out part by part: it is never in memory twice, and making it takes no thread for long.

use super::shown;
use crate::aggregate::{Aggregator, Foreign};
use crate::body::Body;
use crate::served::Served;
use api::openapi::{Encoding, Part};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a part is kept after it was last used.
const KEEP: Duration = Duration::from_secs(60);

/// Where a part comes from.
pub(super) enum Source {
    /// The built-in kinds.
    Builtin,
    /// A definition in a state, with its served versions.
    Definition(String, Vec<Arc<Served>>),
    /// Another server.
    Foreign(Foreign),
}

impl Source {
    /// Names its state.
    pub(super) fn tag(&self) -> &str {
        match self {
            Source::Builtin => "",
            Source::Definition(tag, _) => tag,
            Source::Foreign(foreign) => &foreign.name,
        }
    }

    async fn make(&self, aggregator: Option<&Arc<Aggregator>>, encoding: Encoding) -> Part {
        match self {
            Source::Builtin => api::openapi::v2_builtin(encoding),
            Source::Definition(_, versions) => api::openapi::v2_custom(&shown(versions), encoding),
            Source::Foreign(Foreign { name, group, version }) => {
                let Some(aggregator) = aggregator else { return Part::default() };
                let document = aggregator.openapi_v2(name).await.unwrap_or_default();
                api::openapi::v2_foreign(&document, group, version, encoding)
            }
        }
    }
}

/// A part as it goes out.
#[derive(Clone)]
struct Kept {
    definitions: Bytes,
    paths: Bytes,
    used: Instant,
}

type Key = (String, Encoding);

/// The parts that are kept.
#[derive(Default)]
pub(crate) struct Parts(Mutex<HashMap<Key, Kept>>);

impl Parts {
    /// The document of some sources.
    pub(super) fn document(
        self: &Arc<Self>,
        sources: Vec<Source>,
        aggregator: Option<Arc<Aggregator>>,
        encoding: Encoding,
    ) -> Body {
        let ([start, middle, end], between) = api::openapi::v2_frame(encoding);
        let gathered: Arc<Mutex<Vec<Kept>>> = Arc::default();
        let (kept, into) = (Arc::clone(self), Arc::clone(&gathered));
        let definitions = stream::iter(sources).then(move |source| {
            let (kept, into, aggregator) = (Arc::clone(&kept), Arc::clone(&into), aggregator.clone());
            async move {
                let part = kept.part(&source, aggregator.as_ref(), encoding).await;
                into.lock().push(part.clone());
                part.definitions
            }
        });
        let paths = stream::once(async move { stream::iter(std::mem::take(&mut *gathered.lock())) });
        let paths = paths.flatten().map(|part| part.paths);
        let whole = one(start)
            .chain(separated(definitions, between))
            .chain(one(middle))
            .chain(separated(paths, between))
            .chain(one(end));
        Body::stream(StreamBody::new(whole.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)))))
    }

    async fn part(self: &Arc<Self>, source: &Source, aggregator: Option<&Arc<Aggregator>>, encoding: Encoding) -> Kept {
        let key = (source.tag().to_owned(), encoding);
        if let Some(kept) = self.0.lock().get_mut(&key) {
            // Of ours the state is in the key; what others say is asked for anew every while.
            let ours = !matches!(source, Source::Foreign(_));
            if ours {
                kept.used = Instant::now();
            }
            if ours || kept.used.elapsed() < KEEP {
                return kept.clone();
            }
        }
        let Part { definitions, paths } = source.make(aggregator, encoding).await;
        let kept = Kept { definitions: definitions.into(), paths: paths.into(), used: Instant::now() };
        let mut all = self.0.lock();
        if all.is_empty() {
            tokio::spawn(forget(Arc::downgrade(self)));
        }
        all.insert(key, kept.clone());
        kept
    }
}

/// Lets go of parts that are no longer used, and ends with the last of them.
async fn forget(parts: std::sync::Weak<Parts>) {
    loop {
        tokio::time::sleep(KEEP).await;
        let Some(parts) = parts.upgrade() else { return };
        let mut all = parts.0.lock();
        all.retain(|_, kept| kept.used.elapsed() < KEEP);
        if all.is_empty() {
            *all = HashMap::new();
            return;
        }
    }
}

fn one(bytes: Vec<u8>) -> impl Stream<Item = Bytes> {
    stream::iter([Bytes::from(bytes)])
}

/// Those that are not empty, with something between them.
fn separated(all: impl Stream<Item = Bytes>, between: &'static [u8]) -> impl Stream<Item = Bytes> {
    let filled = all.filter(|bytes| std::future::ready(!bytes.is_empty())).enumerate();
    filled.flat_map(move |(at, bytes)| {
        let before = if at == 0 { Bytes::new() } else { Bytes::from_static(between) };
        stream::iter([before, bytes])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn parts_are_made_once_and_let_go() {
        let parts: Arc<Parts> = Arc::default();
        let first = parts.part(&Source::Builtin, None, Encoding::Json).await;
        let second = parts.part(&Source::Builtin, None, Encoding::Json).await;
        assert_eq!(first.definitions.as_ptr(), second.definitions.as_ptr());
        assert_eq!(parts.0.lock().len(), 1);
        tokio::time::sleep(KEEP * 3).await;
        assert_eq!(parts.0.lock().len(), 0);
    }
}
