//! What the store knows of its images: one small document, replaced atomically.

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::tree::Attributes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// The layout of a store, raised when an older program could not read a newer store.
pub(crate) const FORMAT: u32 = 1;
const NAME: &str = "index.json";

/// All images, by id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) format: u32,
    pub(crate) images: BTreeMap<Digest, Record>,
}

/// One image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// `docker.io/library/busybox:latest`
    pub(crate) names: BTreeSet<String>,
    /// `docker.io/library/busybox@sha256:…`
    pub(crate) digests: BTreeSet<String>,
    /// All its content: indexes, manifests, configuration, layers.
    pub(crate) blobs: BTreeSet<Digest>,
    /// Its layers, lowest first.
    pub(crate) layers: Vec<LayerUse>,
    /// What the root directory shall be like.
    pub(crate) root: Option<Attributes>,
    /// Directories whose attributes the layers, unpacked apart from each other, do not have right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) directories: Vec<(String, Attributes)>,
    /// `USER` of its configuration.
    pub(crate) user: String,
    #[serde(default)]
    pub(crate) pinned: bool,
}

/// A layer of an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerUse {
    pub(crate) diff_id: Digest,
    pub(crate) bytes: u64,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Index {
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let path = root.join(NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Ok(Self { format: FORMAT, images: BTreeMap::new() });
            }
            Err(e) => return Err(Error::io("read", path, e)),
        };
        let what = path.display().to_string();
        let format: Format = serde_json::from_slice(&text).map_err(|e| Error::damaged(&what, e))?;
        if format.format > FORMAT {
            return Err(Error::Newer { root: root.to_owned(), found: format.format, known: FORMAT });
        }
        serde_json::from_slice(&text).map_err(|e| Error::damaged(&what, e))
    }

    pub(crate) fn save(&self, root: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|e| Error::damaged("the index of images", e))?;
        replace(&root.join(NAME), &text, true)
    }

    /// The image that has a name or name-with-digest.
    pub(crate) fn by_name(&self, name: &str) -> Option<Digest> {
        let has = |record: &Record| record.names.contains(name) || record.digests.contains(name);
        self.images.iter().find(|(_, record)| has(record)).map(|(id, _)| *id)
    }

    /// Gives an image a name, taking it from the image that had it.
    pub(crate) fn name(&mut self, id: Digest, name: &str) {
        for record in self.images.values_mut() {
            record.names.remove(name);
        }
        if let Some(record) = self.images.get_mut(&id) {
            record.names.insert(name.to_owned());
        }
    }
}

/// Writes a file whole or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8], durable: bool) -> Result<()> {
    let temporary = path.with_extension("new");
    let failed = |e| Error::io("write", &temporary, e);
    let mut file = File::create(&temporary).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    if durable {
        file.sync_data().map_err(failed)?;
    }
    fs::rename(&temporary, path).map_err(|e| Error::io("rename", path, e))?;
    if let Some(directory) = path.parent().filter(|_| durable) {
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|e| Error::io("sync", directory, e))?;
    }
    Ok(())
}
