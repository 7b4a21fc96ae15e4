//! From content to an image: layers unpacked in parallel, attributes put right, the index written last.

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::index::{LayerUse, Record};
use crate::spec::{Descriptor, ImageConfig};
use crate::store::{Pins, Store};
use crate::trash;
use crate::tree::Attributes;
use crate::unpack::{self, Layer};
use futures::stream::{FuturesUnordered, TryStreamExt};
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An image that is about to be: its documents are in the store.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What to call it in errors.
    pub(crate) label: String,
    pub(crate) names: Vec<String>,
    pub(crate) digests: Vec<String>,
    pub(crate) id: Digest,
    pub(crate) config: ImageConfig,
    /// Indexes and manifests.
    pub(crate) documents: Vec<Digest>,
    /// Packed layers, lowest first.
    pub(crate) layers: Vec<Descriptor>,
}

/// Where a layer's packed bytes come from.
pub(crate) type Source = Box<dyn FnOnce(&Store) -> Result<Box<dyn Read + Send>> + Send>;

/// A directory that goes away unless it was moved into place.
struct Scratch {
    root: PathBuf,
    path: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(doomed) = trash::discard(&self.root, &self.path) {
            trash::delete(&doomed);
        }
    }
}

impl Plan {
    /// Whether the image can be run here and its parts fit each other.
    pub(crate) fn check(&self, store: &Store) -> Result<()> {
        let found = &self.config.platform;
        if !found.architecture.is_empty() && store.config.platform.fit(found).is_none() {
            return Err(Error::Platform {
                image: self.label.clone(),
                found: found.to_string(),
                wanted: store.config.platform.to_string(),
            });
        }
        let (have, named) = (self.layers.len(), self.config.rootfs.diff_ids.len());
        let limit = store.config.limits.layers_max;
        if have != named {
            let reason = format!("it names {named} layers, the manifest {have}");
            return Err(Error::damaged(format!("configuration of {}", self.label), reason));
        }
        if have > limit {
            return Err(Error::damaged(&self.label, format!("{have} layers are over the limit of {limit}")));
        }
        Ok(())
    }

    /// Packed and plain digest of each layer, every layer once.
    pub(crate) fn pairs(&self) -> Vec<(Descriptor, Digest)> {
        let mut seen = HashSet::new();
        let pairs = self.layers.iter().cloned().zip(self.config.rootfs.diff_ids.iter().copied());
        pairs.filter(|(_, diff_id)| seen.insert(*diff_id)).collect()
    }
}

impl Store {
    /// Unpacks what is packed in the store and lists the images, all at once.
    pub(crate) async fn install(self: &Arc<Self>, plans: Vec<Plan>, pins: &Pins) -> Result<Vec<Digest>> {
        for plan in &plans {
            plan.check(self)?;
        }
        let unpacking: FuturesUnordered<_> = plans
            .iter()
            .flat_map(Plan::pairs)
            .map(|(packed, diff_id)| {
                let source: Source = Box::new(move |store| Ok(Box::new(store.blobs.open_blob(packed.digest)?)));
                self.ensure_layer(diff_id, source, true, pins)
            })
            .collect();
        unpacking.try_collect::<()>().await?;
        self.list_images(plans).await
    }

    /// Unpacks a layer unless it is here. `take_turns` when the bytes are at hand; a layer that is still being
    /// downloaded must not keep others waiting.
    pub(crate) async fn ensure_layer(
        self: &Arc<Self>,
        diff_id: Digest,
        source: Source,
        take_turns: bool,
        pins: &Pins,
    ) -> Result<()> {
        let _one = self.layer_locks.lock(diff_id).await;
        if pins.layer(diff_id) {
            return Ok(());
        }
        let permit = if take_turns { self.unpacks.acquire().await.ok() } else { None };
        let (scratch, layer) = self.blocking(move |store| store.unpack(diff_id, source)).await?;
        drop(permit);
        pins.commit_layer(&scratch.path, diff_id, layer.bytes)
    }

    fn unpack(&self, diff_id: Digest, source: Source) -> Result<(Scratch, Layer)> {
        let scratch = Scratch { root: self.config.root.clone(), path: self.blobs.scratch() };
        let files = scratch.path.join("fs");
        fs::create_dir_all(&files).map_err(|e| Error::io("make directory", &files, e))?;
        let (layer, found) = unpack::unpack(source(self)?, &files, &self.config.limits)?;
        if found != diff_id {
            return Err(Error::Mismatch { what: "layer", expected: diff_id, found });
        }
        let text = serde_json::to_vec(&layer).map_err(|e| Error::damaged("a layer's summary", e))?;
        crate::index::replace(&scratch.path.join("layer.json"), &text, false)?;
        Ok((scratch, layer))
    }

    /// Flushes what the images are made of and writes them into the index.
    pub(crate) async fn list_images(self: &Arc<Self>, plans: Vec<Plan>) -> Result<Vec<Digest>> {
        self.blocking(move |store| {
            let records = plans.iter().map(|plan| store.record(plan)).collect::<Result<Vec<_>>>()?;
            if store.config.durable {
                let root = &store.config.root;
                let synced = fs::File::open(root).and_then(|root| Ok(rustix::fs::syncfs(root)?));
                synced.map_err(|e| Error::io("flush", root, e))?;
            }
            store.change(|index| {
                for (plan, record) in plans.iter().zip(records) {
                    let known = index.images.entry(plan.id).or_default();
                    let names = std::mem::take(&mut known.names);
                    let digests = std::mem::take(&mut known.digests);
                    let (blobs, pinned) = (std::mem::take(&mut known.blobs), known.pinned);
                    *known = record;
                    known.names.extend(names);
                    known.digests.extend(digests);
                    known.blobs.extend(blobs);
                    known.pinned |= pinned;
                    for name in &plan.names {
                        index.name(plan.id, name);
                    }
                }
                plans.iter().map(|plan| plan.id).collect()
            })
        })
        .await
    }

    fn record(&self, plan: &Plan) -> Result<Record> {
        let mut blobs: BTreeSet<Digest> = plan.documents.iter().copied().collect();
        if self.config.keep_packed {
            blobs.extend(plan.layers.iter().map(|layer| layer.digest));
        }
        blobs.insert(plan.id);
        let mut layers = Vec::new();
        for diff_id in &plan.config.rootfs.diff_ids {
            let path = self.layer_path(*diff_id);
            let text = fs::read(path.join("layer.json")).map_err(|e| Error::io("read", &path, e))?;
            let layer: Layer =
                serde_json::from_slice(&text).map_err(|e| Error::damaged(path.display().to_string(), e))?;
            layers.push((path.join("fs"), layer));
        }
        Ok(Record {
            names: BTreeSet::new(),
            digests: plan.digests.iter().cloned().collect(),
            blobs,
            layers: std::iter::zip(&plan.config.rootfs.diff_ids, &layers)
                .map(|(diff_id, (_, layer))| LayerUse { diff_id: *diff_id, bytes: layer.bytes })
                .collect(),
            root: layers.iter().rev().find_map(|(_, layer)| layer.root.clone()),
            directories: directories(&layers),
            user: plan.config.config.user.clone(),
            pinned: false,
        })
    }
}

/// A name in a layer, as overlayfs sees it.
enum Found {
    Nothing,
    Hidden,
    Directory(Attributes, bool),
    Other,
}

/// Looks a path up in one layer; a whiteout or another file in place of an ancestor hides it, as does an opaque ancestor.
fn look(layer: &Path, path: &str) -> Found {
    let mut at = layer.to_owned();
    let mut opaque = false;
    let components: Vec<&str> = path.split('/').collect();
    for (i, component) in components.iter().enumerate() {
        at.push(component);
        let last = i + 1 == components.len();
        let Ok(meta) = fs::symlink_metadata(&at) else {
            return if opaque { Found::Hidden } else { Found::Nothing };
        };
        if !meta.is_dir() {
            let hidden = !last || meta.file_type().is_char_device();
            return if hidden { Found::Hidden } else { Found::Other };
        }
        opaque |= rustix::fs::lgetxattr(&at, crate::tree::OPAQUE, &mut [0_u8; 4][..]).is_ok();
    }
    match rustix::fs::lstat(&at) {
        Ok(stat) => Found::Directory(Attributes::of(&stat), opaque),
        Err(_) => Found::Nothing,
    }
}

/// Directories that a layer needed without listing them get the attributes of the nearest lower layer that lists them.
/// Layers are unpacked apart from each other, so overlayfs alone would show the made-up ones.
fn directories(layers: &[(PathBuf, Layer)]) -> Vec<(String, Attributes)> {
    let mut done = HashSet::new();
    let mut right = Vec::new();
    for (i, (_, layer)) in layers.iter().enumerate().rev() {
        for path in &layer.implied {
            if !done.insert(path.clone()) {
                continue;
            }
            // What is above decides alone when it lists, replaces or hides the directory.
            let above = layers[i + 1..].iter().any(|(files, _)| !matches!(look(files, path), Found::Nothing));
            if above || matches!(look(&layers[i].0, path), Found::Directory(_, true)) {
                continue;
            }
            for (files, lower) in layers[..i].iter().rev() {
                match look(files, path) {
                    Found::Nothing => {}
                    Found::Hidden | Found::Other => break,
                    Found::Directory(_, opaque) if lower.implied.contains(path) => {
                        if opaque {
                            break;
                        }
                    }
                    Found::Directory(attributes, _) => {
                        right.push((path.clone(), attributes));
                        break;
                    }
                }
            }
        }
    }
    right.sort_by(|a, b| a.0.cmp(&b.0));
    right
}
