//! The store: opening it, what is in it, names, removal, and sweeping what nothing needs.

use crate::blobs::{Blobs, Ingest};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::index::{Index, Record};
use crate::keyed::Keyed;
use crate::limits::Limits;
use crate::pull::Pulls;
use crate::reference::Reference;
use crate::snapshot::Snapshot;
use crate::spec::{ImageConfig, Platform};
use crate::trash;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How a store is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory that is the store; made when missing.
    pub root: PathBuf,
    /// Registries (`host` or `host:port`) spoken to without TLS. Loopback addresses always are.
    pub insecure_registries: Vec<String>,
    /// For a registry (`docker.io`), where to ask first, in order: `https://mirror.example/prefix`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Certificate authorities to trust besides the machine's: PEM files.
    pub ca_files: Vec<PathBuf>,
    /// What images may ask of this machine.
    pub limits: Limits,
    /// What images must be for.
    pub platform: Platform,
    /// Whether a new image is flushed to the disk before it is listed.
    pub durable: bool,
    /// Whether the packed layers stay when they are unpacked: a registry that serves from this store needs them,
    /// containers do not.
    pub keep_packed: bool,
}

impl Config {
    /// The defaults, for a directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            insecure_registries: Vec::new(),
            mirrors: BTreeMap::new(),
            ca_files: Vec::new(),
            limits: Limits::default(),
            platform: Platform::host(),
            durable: true,
            keep_packed: true,
        }
    }
}

/// An image of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration.
    pub id: Digest,
    /// Names with a tag: `docker.io/library/busybox:latest`.
    pub names: Vec<String>,
    /// Names with a digest: `docker.io/library/busybox@sha256:…`.
    pub digests: Vec<String>,
    /// Bytes of its unpacked layers.
    pub size_bytes: u64,
    /// Its layers by the digests of their plain archives, lowest first.
    pub layers: Vec<Digest>,
    /// `USER` of its configuration; empty for root.
    pub user: String,
    /// Not to be removed to make room.
    pub pinned: bool,
}

/// What the store takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Packed content.
    pub blob_bytes: u64,
    /// Unpacked layers.
    pub layer_bytes: u64,
    /// What snapshots have written.
    pub snapshot_bytes: u64,
    /// Files and directories of snapshots.
    pub snapshot_inodes: u64,
}

/// A node's images: content, unpacked layers and snapshots.
pub struct Store {
    pub(crate) config: Config,
    pub(crate) blobs: Blobs,
    pub(crate) state: Mutex<State>,
    /// Held by whoever changes the index, for the length of the write.
    writer: Mutex<()>,
    /// One unpacking at a time of each layer, one download of each blob, one change of each snapshot.
    pub(crate) layer_locks: Keyed<Digest>,
    pub(crate) blob_locks: Keyed<Digest>,
    pub(crate) snapshot_locks: Keyed<String>,
    pub(crate) unpacks: Semaphore,
    pub(crate) pulls: Pulls,
    cleaner: Mutex<Option<std::thread::JoinHandle<()>>>,
    _lock: File,
}

/// What is in the store, as far as it is in memory.
pub(crate) struct State {
    pub(crate) index: Arc<Index>,
    /// Bytes of each.
    blobs: HashMap<Digest, u64>,
    layers: HashMap<Digest, u64>,
    pub(crate) snapshots: HashMap<String, Snapshot>,
    /// What operations under way need, and how many of them.
    pins: HashMap<Digest, usize>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.config.root).finish_non_exhaustive()
    }
}

/// Content and layers that shall not be swept while this lives.
pub(crate) struct Pins {
    store: Arc<Store>,
    held: Mutex<Vec<Digest>>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = self.store.state.lock();
        for digest in self.held.get_mut() {
            if let Some(count) = state.pins.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(digest);
                }
            }
        }
    }
}

impl Pins {
    fn hold(&self, state: &mut State, digest: Digest) {
        *state.pins.entry(digest).or_default() += 1;
        self.held.lock().push(digest);
    }

    /// Holds content, if it is in the store.
    pub(crate) fn blob(&self, digest: Digest) -> bool {
        let mut state = self.store.state.lock();
        let here = state.blobs.contains_key(&digest);
        if here {
            self.hold(&mut state, digest);
        }
        here
    }

    /// Holds a layer, if it is in the store.
    pub(crate) fn layer(&self, diff_id: Digest) -> bool {
        let mut state = self.store.state.lock();
        let here = state.layers.contains_key(&diff_id);
        if here {
            self.hold(&mut state, diff_id);
        }
        here
    }

    /// Puts new content into the store and holds it.
    pub(crate) fn commit(&self, ingest: Ingest, expected: Option<Digest>) -> Result<Digest> {
        let mut state = self.store.state.lock();
        let (digest, bytes) = ingest.commit(expected)?;
        state.blobs.insert(digest, bytes);
        self.hold(&mut state, digest);
        Ok(digest)
    }

    /// Puts a document into the store and holds it.
    pub(crate) fn document(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.blob(digest) {
            let mut ingest = self.store.blobs.ingest()?;
            ingest.write(bytes)?;
            self.commit(ingest, Some(digest))?;
        }
        Ok(digest)
    }

    /// Puts an unpacked layer, in a scratch directory, into the store and holds it.
    pub(crate) fn commit_layer(&self, scratch: &Path, diff_id: Digest, bytes: u64) -> Result<()> {
        let to = self.store.layer_path(diff_id);
        let mut state = self.store.state.lock();
        fs::rename(scratch, &to).map_err(|e| Error::io("rename", to, e))?;
        state.layers.insert(diff_id, bytes);
        self.hold(&mut state, diff_id);
        Ok(())
    }
}

impl Store {
    /// Opens a store, or makes one. What a crash left unfinished or unnamed is swept; snapshots are adopted as they are.
    ///
    /// # Errors
    /// Another process has it open; a newer program wrote it; a file cannot be read.
    pub fn open(config: Config) -> Result<Arc<Self>> {
        let root = config.root.clone();
        for directory in [root.clone(), root.join("layers"), root.join("snapshots"), root.join("trash")] {
            fs::create_dir_all(&directory).map_err(|e| Error::io("make directory", directory, e))?;
        }
        private(&root)?;
        let lock = lock(&root)?;
        let mut index = Index::load(&root)?;
        let layers = layers_on_disk(&root, &index)?;
        drop_damaged(&mut index, &layers);
        trash::discard(&root, &root.join("ingest"));
        let blobs = Blobs::open(&root)?;
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let state = State {
            blobs: blobs.list()?.into_iter().collect(),
            layers,
            snapshots: crate::snapshot::adopt(&root)?,
            index: Arc::new(index),
            pins: HashMap::new(),
        };
        let store = Arc::new(Self {
            config,
            blobs,
            state: Mutex::new(state),
            writer: Mutex::new(()),
            layer_locks: Keyed::default(),
            blob_locks: Keyed::default(),
            snapshot_locks: Keyed::default(),
            unpacks: Semaphore::new(processors),
            pulls: Pulls::default(),
            cleaner: Mutex::new(None),
            _lock: lock,
        });
        store.set_aside();
        let trash = root.join("trash");
        if fs::read_dir(&trash).is_ok_and(|mut entries| entries.next().is_some()) {
            *store.cleaner.lock() = Some(std::thread::spawn(move || trash::empty(&trash)));
        }
        Ok(store)
    }

    /// The directory that is the store.
    pub fn root(&self) -> &Path {
        &self.config.root
    }

    /// All images, by id.
    pub fn list(&self) -> Vec<Image> {
        let index = self.index();
        index.images.iter().map(|(id, record)| image(*id, record)).collect()
    }

    /// The image of a reference, an id, or an unambiguous beginning of an id of at least 8 digits; none if not here.
    ///
    /// # Errors
    /// The text is no reference; the beginning fits several images.
    pub fn status(&self, text: &str) -> Result<Option<Image>> {
        let index = self.index();
        let id = resolve(&index, text)?;
        Ok(id.and_then(|id| index.images.get(&id).map(|record| image(id, record))))
    }

    /// The configuration of an image.
    ///
    /// # Errors
    /// It is not here, or damaged.
    pub async fn image_config(self: &Arc<Self>, text: &str) -> Result<ImageConfig> {
        let id = self.find(text)?;
        self.blocking(move |store| store.config_of(id)).await
    }

    pub(crate) fn config_of(&self, id: Digest) -> Result<ImageConfig> {
        let bytes = self.blobs.document(id, self.config.limits.document_bytes_max)?;
        serde_json::from_slice(&bytes).map_err(|e| Error::damaged(format!("configuration {id}"), e))
    }

    /// Gives an image another name; an image that had the name loses it.
    ///
    /// # Errors
    /// The image is not here; the name is no reference or has a digest.
    pub async fn tag(self: &Arc<Self>, text: &str, name: &str) -> Result<()> {
        let id = self.find(text)?;
        let name = tagged(name)?;
        self.blocking(move |store| store.change(|index| index.name(id, &name))).await
    }

    /// Marks an image as not to be removed to make room, or no longer so.
    ///
    /// # Errors
    /// The image is not here.
    pub async fn pin(self: &Arc<Self>, text: &str, pinned: bool) -> Result<()> {
        let id = self.find(text)?;
        self.blocking(move |store| {
            store.change(|index| {
                if let Some(record) = index.images.get_mut(&id) {
                    record.pinned = pinned;
                }
            })
        })
        .await
    }

    /// Takes a name from its image; with its last name the image goes too.
    ///
    /// # Errors
    /// No image has that name.
    pub async fn untag(self: &Arc<Self>, name: &str) -> Result<()> {
        let reference = parse(name)?;
        let (name, repository) = (reference.canonical(), format!("{}@", reference.repository()));
        if self.index().by_name(&name).is_none() {
            return Err(Error::NoSuchImage(reference.to_string()));
        }
        self.blocking(move |store| {
            store.change(|index| {
                index.images.retain(|_, record| {
                    let had = record.names.remove(&name) | record.digests.remove(&name);
                    let same = |other: &String| other.starts_with(&format!("{}:", repository.trim_end_matches('@')));
                    if had && !record.names.iter().any(same) {
                        record.digests.retain(|digest| !digest.starts_with(&repository));
                    }
                    !had || !record.names.is_empty() || !record.digests.is_empty()
                });
            })?;
            store.sweep();
            Ok(())
        })
        .await
    }

    /// Removes an image with all its names. Layers that snapshots or other images use stay until those are gone.
    ///
    /// # Errors
    /// No such image is here.
    pub async fn remove(self: &Arc<Self>, text: &str) -> Result<Digest> {
        let id = self.find(text)?;
        self.blocking(move |store| {
            store.change(|index| index.images.remove(&id))?;
            store.sweep();
            Ok(id)
        })
        .await
    }

    /// What images take on disk, without snapshots: known without looking.
    pub fn image_usage(&self) -> DiskUsage {
        let state = self.state.lock();
        DiskUsage {
            blob_bytes: state.blobs.values().sum(),
            layer_bytes: state.layers.values().sum(),
            ..DiskUsage::default()
        }
    }

    /// What the store takes on disk. Snapshots are measured file by file.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub async fn disk_usage(self: &Arc<Self>) -> Result<DiskUsage> {
        self.blocking(|store| {
            let mut usage = store.image_usage();
            let snapshots: Vec<String> = store.state.lock().snapshots.keys().cloned().collect();
            for id in snapshots {
                let one = store.measure(&id)?;
                usage.snapshot_bytes += one.bytes;
                usage.snapshot_inodes += one.inodes;
            }
            Ok(usage)
        })
        .await
    }

    pub(crate) fn index(&self) -> Arc<Index> {
        self.state.lock().index.clone()
    }

    pub(crate) fn find(&self, text: &str) -> Result<Digest> {
        resolve(&self.index(), text)?.ok_or_else(|| Error::NoSuchImage(text.to_owned()))
    }

    /// Runs file work on a thread that may block.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> T {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(value) => value,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    pub(crate) fn pins(self: &Arc<Self>) -> Pins {
        Pins { store: self.clone(), held: Mutex::default() }
    }

    pub(crate) fn layer_path(&self, diff_id: Digest) -> PathBuf {
        self.config.root.join("layers").join(diff_id.hex())
    }

    /// Changes the index: on disk first, then for everybody.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Index) -> T) -> Result<T> {
        let _writer = self.writer.lock();
        let mut index = (*self.index()).clone();
        let made = change(&mut index);
        index.save(&self.config.root)?;
        self.state.lock().index = Arc::new(index);
        Ok(made)
    }

    /// Removes content and layers that no image, snapshot or operation needs.
    pub(crate) fn sweep(&self) {
        for doomed in self.set_aside() {
            trash::delete(&doomed);
        }
    }

    /// Moves to the trash what nothing needs, which takes no time, and says what to delete.
    fn set_aside(&self) -> Vec<PathBuf> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let index = state.index.clone();
        let blobs: HashSet<Digest> = index.images.values().flat_map(|record| record.blobs.iter().copied()).collect();
        let used = state.snapshots.values().flat_map(|snapshot| snapshot.layers.iter().copied());
        let of_images = index.images.values().flat_map(|record| record.layers.iter().map(|layer| layer.diff_id));
        let layers: HashSet<Digest> = of_images.chain(used).collect();
        let mut doomed = Vec::new();
        let pins = &state.pins;
        let mut aside = |digest: &Digest, path: PathBuf, live: &HashSet<Digest>| {
            let dead = !live.contains(digest) && !pins.contains_key(digest);
            if dead {
                doomed.extend(trash::discard(&self.config.root, &path));
            }
            !dead
        };
        state.blobs.retain(|digest, _| aside(digest, self.blobs.path(*digest), &blobs));
        state.layers.retain(|digest, _| aside(digest, self.layer_path(*digest), &layers));
        doomed
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(cleaner) = self.cleaner.get_mut().take() {
            let _ = cleaner.join();
        }
    }
}

fn image(id: Digest, record: &Record) -> Image {
    Image {
        id,
        names: record.names.iter().cloned().collect(),
        digests: record.digests.iter().cloned().collect(),
        size_bytes: record.layers.iter().map(|layer| layer.bytes).sum(),
        layers: record.layers.iter().map(|layer| layer.diff_id).collect(),
        user: record.user.clone(),
        pinned: record.pinned,
    }
}

pub(crate) fn parse(name: &str) -> Result<Reference> {
    name.parse().map_err(|source| Error::Reference { name: name.to_owned(), source })
}

/// A name that can be given to an image: with a tag, without a digest.
pub(crate) fn tagged(name: &str) -> Result<String> {
    let reference = parse(name)?;
    match reference.digest() {
        None => Ok(reference.canonical()),
        Some(_) => Err(Error::Reference { name: name.to_owned(), source: crate::reference::ReferenceError::Format }),
    }
}

/// The id that a text means: a full id, a reference, or the beginning of an id.
fn resolve(index: &Index, text: &str) -> Result<Option<Digest>> {
    const PREFIX_DIGITS_MIN: usize = 8;
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if let Ok(id) = Digest::from_hex(digits) {
        return Ok(index.images.contains_key(&id).then_some(id));
    }
    let reference = parse(text);
    if let Ok(reference) = &reference
        && let Some(id) = index.by_name(&reference.canonical())
    {
        return Ok(Some(id));
    }
    if digits.len() >= PREFIX_DIGITS_MIN && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        let mut fits = index.images.keys().filter(|id| id.hex().starts_with(digits));
        return match (fits.next(), fits.next()) {
            (Some(_), Some(_)) => Err(Error::Ambiguous(text.to_owned())),
            (one, _) => Ok(one.copied()),
        };
    }
    reference.map(|_| None)
}

/// Only root enters: layers have other people's set-id programs and devices.
fn private(root: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(root, fs::Permissions::from_mode(0o700)).map_err(|e| Error::io("set the mode of", root, e))
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let failed = |e| Error::io("open", &path, e);
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _ = (&file).take(20).read_to_string(&mut holder);
        let holder = holder.trim();
        let holder = if holder.is_empty() { String::new() } else { format!(" (pid {holder})") };
        return Err(Error::Locked { root: root.to_owned(), holder });
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|e| Error::io("write", &path, e))?;
    Ok(file)
}

/// Layers that are unpacked, with their sizes.
fn layers_on_disk(root: &Path, index: &Index) -> Result<HashMap<Digest, u64>> {
    let known: HashMap<Digest, u64> =
        index.images.values().flat_map(|record| &record.layers).map(|layer| (layer.diff_id, layer.bytes)).collect();
    let directory = root.join("layers");
    let failed = |e| Error::io("list", &directory, e);
    let mut layers = HashMap::new();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(diff_id) = name.to_str().and_then(|name| Digest::from_hex(name).ok()) {
            layers.insert(diff_id, known.get(&diff_id).copied().unwrap_or(0));
        }
    }
    Ok(layers)
}

/// Forgets images whose layers somebody removed by hand: they can be pulled or imported again.
fn drop_damaged(index: &mut Index, layers: &HashMap<Digest, u64>) {
    index.images.retain(|id, record| {
        let missing = record.layers.iter().find(|layer| !layers.contains_key(&layer.diff_id));
        if let Some(layer) = missing {
            tracing::warn!(image = %id, names = ?record.names, layer = %layer.diff_id, "forgotten: a layer is missing");
        }
        missing.is_none()
    });
}
