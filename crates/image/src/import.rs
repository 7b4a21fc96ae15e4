//! Images from files: docker archives, and OCI layouts as archive or folder, also gzipped.
//!
//! An archive is read once from front to back (it may be a pipe): whatever is in it goes into the content store under
//! its digest, small documents stay in memory, and then the images are put together from the documents.

use crate::builtin;
use crate::compress;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::install::Plan;
use crate::limits::Limits;
use crate::reference::Reference;
use crate::spec::{self, Descriptor, Document, ImageConfig, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Platform};
use crate::store::{Image, Pins, Store, parse, tagged};
use crate::tar::{Archive, Kind, read_error};
use crate::tree::Name;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NESTING_MAX: usize = 4;
const ENTRIES_MAX: usize = 100_000;
const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The name for an image that comes without one.
    pub name: Option<String>,
}

/// What an archive had in it.
#[derive(Default)]
struct Contents {
    /// Small documents by name.
    documents: HashMap<String, Vec<u8>>,
    /// Everything else, in the store.
    blobs: HashMap<String, Digest>,
    /// Links to other entries.
    links: HashMap<String, String>,
    /// A layout in a folder, whose content is copied when needed.
    folder: Option<PathBuf>,
}

/// `manifest.json` of a docker archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Store {
    /// Imports an archive, or an OCI layout in a folder, and lists its images; all or none.
    ///
    /// # Errors
    /// It cannot be read, is damaged, hostile, over a limit, or for another machine.
    pub async fn import_path(self: &Arc<Self>, path: &Path, options: ImportOptions) -> Result<Vec<Image>> {
        let meta = fs::metadata(path).map_err(|e| Error::io("open", path, e))?;
        if meta.is_dir() {
            let pins = self.pins();
            let contents = folder(path)?;
            return self.import_contents(contents, options, pins).await;
        }
        let file = fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        self.import(file, options).await
    }

    /// Imports an archive as it is read and lists its images; all or none.
    ///
    /// # Errors
    /// As `import_path`.
    pub async fn import(
        self: &Arc<Self>,
        archive: impl Read + Send + 'static,
        options: ImportOptions,
    ) -> Result<Vec<Image>> {
        let pins = self.pins();
        let scanned = self
            .blocking(move |store| {
                let contents = store.scan(archive, &pins);
                (pins, contents)
            })
            .await;
        let (pins, contents) = scanned;
        match contents {
            Ok(contents) => self.import_contents(contents, options, pins).await,
            Err(error) => {
                drop(pins);
                self.blocking(|store| store.sweep()).await;
                Err(error)
            }
        }
    }

    async fn import_contents(
        self: &Arc<Self>,
        contents: Contents,
        options: ImportOptions,
        pins: Pins,
    ) -> Result<Vec<Image>> {
        let (pins, plans) = self
            .blocking(move |store| {
                let plans = Import { store, contents: &contents, options: &options, pins: &pins }.plans();
                (pins, plans)
            })
            .await;
        let installed = match plans {
            Ok(plans) => self.install(plans, &pins).await,
            Err(error) => Err(error),
        };
        drop(pins);
        self.blocking(|store| store.sweep()).await;
        let ids = installed?;
        Ok(self.list().into_iter().filter(|image| ids.contains(&image.id)).collect())
    }

    /// Reads an archive into the content store.
    fn scan(&self, archive: impl Read + Send, pins: &Pins) -> Result<Contents> {
        let limits = &self.config.limits;
        // An archive may have many layers; each has its own limit.
        let whole = Limits { layer_bytes_max: u64::MAX, ..limits.clone() };
        let plain = compress::bounded(archive, &whole).map_err(read_error)?;
        let mut archive = Archive::new(BufReader::with_capacity(256 << 10, plain));
        let mut contents = Contents::default();
        while let Some(entry) = archive.next()? {
            let name = Name::parse(&entry.name).map_err(|reason| Error::entry(&entry.name, reason))?;
            let name = String::from_utf8_lossy(name.path()).into_owned();
            if contents.blobs.len() + contents.links.len() > ENTRIES_MAX {
                return Err(Error::Archive(format!("more than {ENTRIES_MAX} files are no image archive")));
            }
            match entry.kind {
                Kind::File
                    if matches!(name.as_str(), "manifest.json" | "index.json" | "repositories" | "oci-layout") =>
                {
                    let document = archive.data_whole(limits.document_bytes_max)?;
                    contents.documents.insert(name, document);
                }
                Kind::File if entry.size > limits.layer_bytes_max || entry.sparse.is_some() => {
                    return Err(Error::entry(&entry.name, format!("absurd size {}", entry.size)));
                }
                Kind::File => {
                    let mut ingest = self.blobs.ingest()?;
                    loop {
                        let piece = archive.data()?;
                        if piece.is_empty() {
                            break;
                        }
                        ingest.write(piece)?;
                        let used = piece.len();
                        archive.consume(used);
                    }
                    contents.blobs.insert(name, pins.commit(ingest, None)?);
                }
                Kind::Symlink | Kind::HardLink => {
                    let target = String::from_utf8_lossy(&entry.link).into_owned();
                    let base = if entry.kind == Kind::Symlink { parent(&name) } else { "" };
                    contents.links.insert(name.clone(), join(base, &target));
                }
                _ => {}
            }
        }
        Ok(contents)
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A relative link within the archive, worked out by its text; what climbs out names nothing.
fn join(base: &str, link: &str) -> String {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// The documents of an OCI layout in a folder.
fn folder(path: &Path) -> Result<Contents> {
    let mut contents = Contents { folder: Some(path.to_owned()), ..Contents::default() };
    let index = path.join("index.json");
    match fs::read(&index) {
        Ok(document) => contents.documents.insert("index.json".into(), document),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Archive(format!("{} has no index.json: it is no OCI layout", path.display())));
        }
        Err(e) => return Err(Error::io("read", index, e)),
    };
    Ok(contents)
}

/// Putting images together from an archive's contents.
struct Import<'a> {
    store: &'a Store,
    contents: &'a Contents,
    options: &'a ImportOptions,
    pins: &'a Pins,
}

impl Import<'_> {
    fn plans(&self) -> Result<Vec<Plan>> {
        let documents = &self.contents.documents;
        let plans = if let Some(text) = documents.get("manifest.json") {
            let images: Vec<DockerImage> =
                serde_json::from_slice(text).map_err(|e| Error::damaged("manifest.json", e))?;
            images.iter().map(|image| self.docker(image)).collect::<Result<Vec<_>>>()?
        } else if let Some(text) = documents.get("index.json") {
            let index: Document = serde_json::from_slice(text).map_err(|e| Error::damaged("index.json", e))?;
            self.layout(&index)?
        } else if documents.contains_key("repositories") {
            return Err(Error::Archive("it was saved by a Docker older than 1.10 (it has no manifest.json)".into()));
        } else {
            let reason = "it is neither a docker archive nor an OCI layout (no manifest.json, no index.json)";
            return Err(Error::Archive(reason.into()));
        };
        if plans.is_empty() { Err(Error::Archive("there is no image in it".into())) } else { Ok(plans) }
    }

    /// The content of an archive's entry, through links.
    fn entry(&self, name: &str) -> Result<Digest> {
        let mut name = join("", name);
        for _ in 0..NESTING_MAX {
            if let Some(digest) = self.contents.blobs.get(&name) {
                return Ok(*digest);
            }
            match self.contents.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        Err(Error::Archive(format!("\"{}\" is missing in it", crate::error::shorten(name.as_bytes()))))
    }

    /// One image of a docker archive. It has no manifest of its own, so it is given one.
    fn docker(&self, image: &DockerImage) -> Result<Plan> {
        let id = self.entry(&image.config)?;
        let config = self.config(id)?;
        let tags = image.repo_tags.clone().unwrap_or_default();
        let layer_names = image.layers.clone().unwrap_or_default();
        let mut names = tags.iter().map(|name| tagged(name)).collect::<Result<Vec<_>>>()?;
        if names.is_empty() {
            names = self.old_names(layer_names.last())?;
        }
        names = self.or_given(names)?;
        let layers = layer_names.iter().map(|name| self.layer(self.entry(name)?)).collect::<Result<Vec<_>>>()?;
        let size = self.store.blobs.size(id).unwrap_or(0);
        let manifest = self.pins.document(&builtin::manifest(id, size, layers.clone())?)?;
        let label = names.first().cloned().unwrap_or_else(|| id.to_string());
        Ok(Plan { label, names, digests: Vec::new(), id, config, documents: vec![manifest], layers })
    }

    /// Names from `repositories`, which knows an image by the folder of its topmost layer.
    fn old_names(&self, layer: Option<&String>) -> Result<Vec<String>> {
        let Some((text, layer)) = self.contents.documents.get("repositories").zip(layer) else { return Ok(Vec::new()) };
        let repositories: BTreeMap<String, BTreeMap<String, String>> =
            serde_json::from_slice(text).map_err(|e| Error::damaged("repositories", e))?;
        let pairs = repositories.iter().flat_map(|(name, tags)| tags.iter().map(move |(tag, id)| (name, tag, id)));
        pairs.filter(|(_, _, id)| *id == parent(layer)).map(|(name, tag, _)| tagged(&format!("{name}:{tag}"))).collect()
    }

    fn or_given(&self, names: Vec<String>) -> Result<Vec<String>> {
        match &self.options.name {
            Some(name) if names.is_empty() => Ok(vec![tagged(name)?]),
            _ => Ok(names),
        }
    }

    /// A layer's descriptor: its kind by its first bytes.
    fn layer(&self, digest: Digest) -> Result<Descriptor> {
        let mut magic = [0; 4];
        let mut file = self.store.blobs.open_blob(digest)?;
        let read = file.read(&mut magic).map_err(|e| Error::io("read", self.store.blobs.path(digest), e))?;
        let kind = match &magic[..read] {
            [0x1f, 0x8b, ..] => OCI_LAYER_GZIP,
            [0x28, 0xb5, 0x2f, 0xfd] => OCI_LAYER_ZSTD,
            _ => OCI_LAYER,
        };
        Ok(Descriptor::new(kind, digest, self.store.blobs.size(digest).unwrap_or(0)))
    }

    fn config(&self, id: Digest) -> Result<ImageConfig> {
        self.bring(id)?;
        self.store.config_of(id)
    }

    /// The images of an OCI layout's index. An entry for another machine is passed over when others are for this one.
    fn layout(&self, index: &Document) -> Result<Vec<Plan>> {
        let entries = index.manifests.as_deref().unwrap_or_default();
        let mut plans: Vec<Plan> = Vec::new();
        let mut skipped = None;
        for entry in entries.iter().filter(|entry| !entry.is_attestation()) {
            match self.image(entry) {
                Ok(plan) => match plans.iter_mut().find(|known| known.id == plan.id) {
                    Some(known) => {
                        known.names.extend(plan.names);
                        known.digests.extend(plan.digests);
                        known.documents.extend(plan.documents);
                    }
                    None => plans.push(plan),
                },
                Err(error @ Error::Platform { .. }) => skipped = Some(error),
                Err(error) => return Err(error),
            }
        }
        match skipped {
            Some(error) if plans.is_empty() => Err(error),
            _ => Ok(plans),
        }
    }

    fn image(&self, entry: &Descriptor) -> Result<Plan> {
        let names = self.or_given(names(entry)?)?;
        let label = names.first().cloned().unwrap_or_else(|| entry.digest.to_string());
        let (documents, manifest) = self.manifest(entry, &label)?;
        let damaged = |reason: &str| Error::damaged(format!("manifest of {label}"), reason);
        let config = manifest.config.ok_or_else(|| damaged("it names no configuration"))?;
        let layers = manifest.layers.unwrap_or_default();
        let plan = Plan {
            digests: digests(&names, entry.digest)?,
            names,
            id: config.digest,
            config: self.config(config.digest)?,
            documents,
            layers,
            label,
        };
        // Before its layers are copied from a folder.
        plan.check(self.store)?;
        for layer in &plan.layers {
            self.bring(layer.digest)?;
        }
        Ok(plan)
    }

    /// Follows indexes to the manifest for this machine; all documents on the way belong to the image.
    fn manifest(&self, entry: &Descriptor, label: &str) -> Result<(Vec<Digest>, Document)> {
        let wanted = &self.store.config.platform;
        let mismatch = |found: String| Error::Platform { image: label.to_owned(), found, wanted: wanted.to_string() };
        if let Some(offer) = entry.platform.as_ref().filter(|offer| wanted.fit(offer).is_none()) {
            return Err(mismatch(offer.to_string()));
        }
        let mut documents = Vec::new();
        let mut digest = entry.digest;
        for _ in 0..NESTING_MAX {
            self.bring(digest)?;
            let text = self.store.blobs.document(digest, self.store.config.limits.document_bytes_max)?;
            let document: Document =
                serde_json::from_slice(&text).map_err(|e| Error::damaged(format!("document {digest}"), e))?;
            documents.push(digest);
            let Some(manifests) = &document.manifests else { return Ok((documents, document)) };
            digest = spec::choose(manifests, wanted).ok_or_else(|| mismatch(offers(manifests)))?.digest;
        }
        Err(Error::damaged(label, "its indexes are nested too deep"))
    }

    /// Makes sure that content is in the store: copied from a folder, or part of the archive that was read.
    fn bring(&self, digest: Digest) -> Result<()> {
        if self.pins.blob(digest) {
            return Ok(());
        }
        let Some(folder) = &self.contents.folder else {
            return Err(Error::Archive(format!("{digest} is missing in it")));
        };
        let path = folder.join("blobs/sha256").join(digest.hex());
        let mut file = fs::File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let mut ingest = self.store.blobs.ingest()?;
        let mut chunk = vec![0; 256 << 10];
        loop {
            let n = file.read(&mut chunk).map_err(|e| Error::io("read", &path, e))?;
            if n == 0 {
                break;
            }
            ingest.write(&chunk[..n])?;
        }
        self.pins.commit(ingest, Some(digest)).map(|_| ())
    }
}

/// What an index offers, for an error.
pub(crate) fn offers(manifests: &[Descriptor]) -> String {
    let platforms: Vec<String> = manifests
        .iter()
        .filter(|entry| !entry.is_attestation())
        .filter_map(|entry| entry.platform.as_ref().map(Platform::to_string))
        .collect();
    if platforms.is_empty() { "nothing to run".into() } else { platforms.join(", ") }
}

/// The name that a layout's index gives an image. A mere tag names no repository, so it is not one.
fn names(entry: &Descriptor) -> Result<Vec<String>> {
    let full = |name: &&String| name.contains(['/', ':', '@']);
    let name = entry
        .annotations
        .get(CONTAINERD_NAME)
        .or_else(|| entry.annotations.get(REFERENCE_NAME).filter(full))
        .map(|name| parse(name))
        .transpose()?;
    Ok(name.iter().filter(|name| name.tag().is_some()).map(without_digest).collect())
}

fn without_digest(reference: &Reference) -> String {
    format!("{}:{}", reference.repository(), reference.tag().unwrap_or("latest"))
}

/// The names with a digest that go with names with a tag.
fn digests(names: &[String], digest: Digest) -> Result<Vec<String>> {
    names.iter().map(|name| Ok(parse(name)?.with_digest(digest).canonical())).collect()
}
