//! Pulls an image: resolve, fetch what is not here, unpack while it comes, list.
//!
//! All callers who want the same image with the same credentials at the same time wait for one pull; it is given up
//! when the last of them goes away. A download that breaks is resumed where it broke.

use crate::blobs::Ingest;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::import::offers;
use crate::install::{Plan, Source};
use crate::reference::Reference;
use crate::registry::{Auth, Endpoint, Registry, STALL_MAX, endpoints};
use crate::spec::{self, Descriptor, Document};
use crate::store::{Pins, Store, parse};
use futures::FutureExt;
use futures::future::{BoxFuture, WeakShared};
use futures::stream::{FuturesUnordered, TryStreamExt};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

const TRIES_MAX: u32 = 5;
const NESTING_MAX: usize = 4;
const LAYERS_AT_ONCE: usize = 4;
/// Stands for the configuration, whatever the manifest calls its type: nobody needs to hear of its progress.
const CONFIG: &str = spec::OCI_CONFIG;
/// Received bytes are written in pieces of about this size.
const PIECE: usize = 512 << 10;

/// How far a pull is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is known what to fetch.
    Resolved {
        /// The digest of the index or manifest.
        digest: Digest,
        /// Layers of the image.
        layers: usize,
        /// Packed bytes of all layers.
        bytes: u64,
    },
    /// A layer is being downloaded.
    Downloading {
        /// The packed layer.
        layer: Digest,
        /// Bytes that are here.
        done: u64,
        /// Bytes it has.
        total: u64,
    },
    /// A layer is in place.
    Ready {
        /// The packed layer.
        layer: Digest,
    },
}

/// Hears of progress; called often, from the pulling task, and must not block.
pub type Listener = Arc<dyn Fn(&Progress) + Send + Sync>;

/// How to pull.
#[derive(Clone, Default)]
pub struct PullOptions {
    /// Credentials for the image's registry.
    pub auth: Option<Auth>,
    /// Who wants to hear of progress.
    pub progress: Option<Listener>,
}

impl std::fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullOptions").field("auth", &self.auth).finish_non_exhaustive()
    }
}

type Outcome = Result<Digest, Arc<Error>>;

/// Pulls under way, by image and credentials.
#[derive(Default)]
pub(crate) struct Pulls {
    running: Mutex<HashMap<(String, Option<Auth>), Running>>,
}

struct Running {
    outcome: WeakShared<BoxFuture<'static, Outcome>>,
    listeners: Arc<Listeners>,
}

#[derive(Default)]
struct Listeners(Mutex<Vec<Listener>>);

impl Listeners {
    fn tell(&self, progress: &Progress) {
        for listener in self.0.lock().clone() {
            listener(progress);
        }
    }
}

impl Store {
    /// Brings an image from its registry (or a mirror of it) and returns its id. What is here already is not fetched.
    ///
    /// # Errors
    /// The name is no reference; no registry has it or lets us; it is damaged, hostile, or for another machine.
    pub async fn pull(self: &Arc<Self>, name: &str, options: PullOptions) -> Result<Digest> {
        let reference = parse(name)?;
        let key = (reference.canonical(), options.auth.clone());
        let shared = {
            let mut running = self.pulls.running.lock();
            running.retain(|_, one| one.outcome.upgrade().is_some_and(|shared| shared.peek().is_none()));
            let known = running.get(&key).and_then(|one| Some((one.outcome.upgrade()?, one.listeners.clone())));
            let (shared, listeners) = known.unwrap_or_else(|| {
                let listeners = Arc::new(Listeners::default());
                let pull = Pull { store: self.clone(), reference, auth: options.auth, listeners: listeners.clone() };
                let shared = async move { pull.run().await.map_err(Arc::new) }.boxed().shared();
                if let Some(outcome) = shared.downgrade() {
                    running.insert(key, Running { outcome, listeners: listeners.clone() });
                }
                (shared, listeners)
            });
            listeners.0.lock().extend(options.progress);
            shared
        };
        shared.await.map_err(Error::Shared)
    }
}

/// One pull.
struct Pull {
    store: Arc<Store>,
    reference: Reference,
    auth: Option<Auth>,
    listeners: Arc<Listeners>,
}

/// What a registry has under a name: the documents on the way, and the manifest for this machine.
struct Resolved {
    root: Digest,
    documents: Vec<Digest>,
    manifest: Document,
}

impl Pull {
    async fn run(self) -> Result<Digest> {
        let pins = self.store.pins();
        let pulled = self.anywhere(&pins).await;
        drop(pins);
        self.store.blocking(|store| store.sweep()).await;
        pulled
    }

    /// Tries mirrors in their order and the registry itself last, whose error counts.
    async fn anywhere(&self, pins: &Pins) -> Result<Digest> {
        let registry = Registry::new(&self.store.config, self.auth.clone());
        let mut last = None;
        for endpoint in endpoints(&self.reference, &self.store.config) {
            match self.at(&registry, &endpoint, pins).await {
                Err(error @ Error::Registry { .. }) if endpoint.is_mirror() => {
                    tracing::info!(error = %error.chain(), "a mirror does not serve the image");
                    last = Some(error);
                }
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::NoSuchImage(self.reference.to_string())))
    }

    async fn at(&self, registry: &Registry, endpoint: &Endpoint, pins: &Pins) -> Result<Digest> {
        let resolved = self.resolve(registry, endpoint, pins).await?;
        let label = self.reference.to_string();
        let damaged = |reason: &str| Error::damaged(format!("manifest of {label}"), reason);
        let config = resolved.manifest.config.ok_or_else(|| damaged("it names no configuration"))?;
        let layers = resolved.manifest.layers.unwrap_or_default();
        if config.size > self.store.config.limits.document_bytes_max {
            return Err(damaged("its configuration is over the limit"));
        }
        let small = Descriptor { media_type: CONFIG.into(), ..config.clone() };
        self.fetch(registry, endpoint, &small, pins).await?;
        let id = config.digest;
        let config = self.store.blocking(move |store| store.config_of(id)).await?;
        let name = self.reference.digest().is_none().then(|| self.reference.canonical());
        let plan = Plan {
            label: label.clone(),
            names: name.into_iter().collect(),
            digests: vec![self.reference.with_digest(resolved.root).canonical()],
            id,
            config,
            documents: resolved.documents,
            layers,
        };
        plan.check(&self.store)?;
        self.listeners.tell(&Progress::Resolved {
            digest: resolved.root,
            layers: plan.layers.len(),
            bytes: plan.layers.iter().map(|layer| layer.size).sum(),
        });
        let room = Semaphore::new(LAYERS_AT_ONCE);
        let fetching: FuturesUnordered<_> = plan
            .pairs()
            .into_iter()
            .map(|(layer, diff_id)| self.layer(registry, endpoint, layer, diff_id, &room, pins))
            .collect();
        fetching.try_collect::<()>().await?;
        self.store.list_images(vec![plan]).await?;
        Ok(id)
    }

    /// Follows indexes from the name to the manifest for this machine, storing each document.
    async fn resolve(&self, registry: &Registry, endpoint: &Endpoint, pins: &Pins) -> Result<Resolved> {
        let mut wanted = self.reference.digest();
        let mut name = match (wanted, self.reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let mut documents = Vec::new();
        let limit = self.store.config.limits.document_bytes_max;
        for _ in 0..NESTING_MAX {
            let (text, kind, stated) = retry(|| registry.manifest(endpoint, &name, limit)).await?;
            let found = Digest::of(&text);
            if let Some(expected) = wanted.or(stated).filter(|expected| *expected != found) {
                return Err(Error::Mismatch { what: "manifest", expected, found });
            }
            let manifest: Document =
                serde_json::from_slice(&text).map_err(|e| Registry::nonsense(endpoint, &name, e.to_string()))?;
            if manifest.schema_version != 2 || kind.contains("manifest.v1") && kind.contains("docker") {
                let reason = "an image of the old schema 1 cannot be used: push it again with a current tool";
                return Err(Registry::nonsense(endpoint, &name, reason));
            }
            documents.push(pins.document(&text)?);
            let Some(manifests) = &manifest.manifests else {
                return Ok(Resolved { root: documents[0], documents, manifest });
            };
            let platform = &self.store.config.platform;
            let chosen = spec::choose(manifests, platform).ok_or_else(|| Error::Platform {
                image: self.reference.to_string(),
                found: offers(manifests),
                wanted: platform.to_string(),
            })?;
            wanted = Some(chosen.digest);
            name = chosen.digest.to_string();
        }
        Err(Registry::nonsense(endpoint, &name, "its indexes are nested too deep"))
    }

    /// Fetches content that is not here.
    async fn fetch(&self, registry: &Registry, endpoint: &Endpoint, what: &Descriptor, pins: &Pins) -> Result<()> {
        let _one = self.store.blob_locks.lock(what.digest).await;
        if pins.blob(what.digest) {
            return Ok(());
        }
        let ingest = self.store.blobs.ingest()?;
        self.download(registry, endpoint, what, ingest, pins).await
    }

    /// Brings one layer into place, unpacking it while it is downloaded.
    async fn layer(
        &self,
        registry: &Registry,
        endpoint: &Endpoint,
        layer: Descriptor,
        diff_id: Digest,
        room: &Semaphore,
        pins: &Pins,
    ) -> Result<()> {
        let _room = room.acquire().await;
        let one = self.store.blob_locks.lock(layer.digest).await;
        if !self.store.config.keep_packed && pins.layer(diff_id) {
            // Unpacked is all that is needed.
        } else if pins.blob(layer.digest) {
            drop(one);
            let digest = layer.digest;
            let source: Source = Box::new(move |store| Ok(Box::new(store.blobs.open_blob(digest)?)));
            self.store.ensure_layer(diff_id, source, true, pins).await?;
        } else {
            let ingest = self.store.blobs.ingest()?;
            let follow = ingest.follow();
            let unpacking = self.store.ensure_layer(diff_id, Box::new(move |_| Ok(Box::new(follow))), false, pins);
            futures::try_join!(self.download(registry, endpoint, &layer, ingest, pins), unpacking)?;
        }
        self.listeners.tell(&Progress::Ready { layer: layer.digest });
        Ok(())
    }

    /// Downloads content into the store, resuming as long as there is progress between failures.
    async fn download(
        &self,
        registry: &Registry,
        endpoint: &Endpoint,
        what: &Descriptor,
        mut ingest: Ingest,
        pins: &Pins,
    ) -> Result<()> {
        let mut failures = 0;
        loop {
            let before = ingest.written();
            let (back, result) = self.download_once(registry, endpoint, what, ingest).await?;
            ingest = back;
            match result {
                Ok(()) => break,
                Err(error) => {
                    failures = if ingest.written() > before { 1 } else { failures + 1 };
                    if failures >= TRIES_MAX || !error.retryable() {
                        return Err(error);
                    }
                    tracing::info!(digest = %what.digest, at = ingest.written(), error = %error.chain(), "resuming");
                    tokio::time::sleep(pause(failures)).await;
                }
            }
        }
        // Hashing is done; what is left is a rename.
        pins.commit(ingest, Some(what.digest)).map(|_| ())
    }

    /// One request; an outer error is one of the disk.
    async fn download_once(
        &self,
        registry: &Registry,
        endpoint: &Endpoint,
        what: &Descriptor,
        mut ingest: Ingest,
    ) -> Result<(Ingest, Result<()>)> {
        let from = ingest.written();
        let (mut body, resumed) = match registry.blob(endpoint, what.digest, from).await {
            Ok(answer) => answer,
            Err(error) => return Ok((ingest, Err(error))),
        };
        let mut skip = if resumed { 0 } else { from };
        let mut piece = Vec::new();
        loop {
            let more = next(&mut body).await;
            if let Ok(Some(data)) = &more {
                let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(data.len());
                skip -= skipped as u64;
                piece.extend_from_slice(&data[skipped..]);
            }
            let ended = !matches!(more, Ok(Some(_)));
            if piece.len() >= PIECE || ended && !piece.is_empty() {
                ingest = self.write(ingest, &mut piece).await?;
                if what.media_type != CONFIG {
                    let (layer, done, total) = (what.digest, ingest.written(), what.size);
                    self.listeners.tell(&Progress::Downloading { layer, done, total });
                }
            }
            let written = ingest.written();
            let broken = |reason: String| Registry::broken(endpoint, what.digest, reason);
            if written > what.size {
                let reason = format!("the content is longer than the {} bytes it should have", what.size);
                return Ok((ingest, Err(Registry::nonsense(endpoint, &what.digest.to_string(), reason))));
            }
            match more {
                Ok(Some(_)) => {}
                Ok(None) if written == what.size => return Ok((ingest, Ok(()))),
                Ok(None) => {
                    return Ok((ingest, Err(broken(format!("it ended after {written} of {} bytes", what.size)))));
                }
                Err(reason) => return Ok((ingest, Err(broken(reason)))),
            }
        }
    }

    async fn write(&self, mut ingest: Ingest, piece: &mut Vec<u8>) -> Result<Ingest> {
        let bytes = std::mem::take(piece);
        let write = move |_: &Arc<Store>| ingest.write(&bytes).map(|()| (ingest, bytes));
        let (ingest, mut bytes) = self.store.blocking(write).await?;
        bytes.clear();
        *piece = bytes;
        Ok(ingest)
    }
}

/// The next data of a body; none at its end.
async fn next(body: &mut Incoming) -> Result<Option<bytes::Bytes>, String> {
    loop {
        match tokio::time::timeout(STALL_MAX, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(Some(Err(error))) => return Err(error.to_string()),
            Err(_) => return Err(format!("nothing came for {} seconds", STALL_MAX.as_secs())),
        }
    }
}

/// Tries again what may succeed the next time.
async fn retry<T, F: Future<Output = Result<T>>>(mut attempt: impl FnMut() -> F) -> Result<T> {
    let mut failures = 0;
    loop {
        match attempt().await {
            Err(error) if error.retryable() && failures + 1 < 3 => {
                failures += 1;
                tokio::time::sleep(pause(failures)).await;
            }
            other => return other,
        }
    }
}

/// 0.2 s, 0.4 s, … with some chance in it.
fn pause(failures: u32) -> Duration {
    Duration::from_millis((200 << failures.saturating_sub(1).min(5)) + fastrand::u64(..100))
}
