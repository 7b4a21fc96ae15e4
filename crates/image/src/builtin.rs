//! Images made here from files at hand, so that a program can carry one without any registry.

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::install::Plan;
use crate::spec::{
    Descriptor, Document, ImageConfig, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Platform, RootFs, RunConfig,
};
use crate::store::{Store, tagged};
use crate::tree::Name;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A file of an image made here. Directories above it are made (mode 755, root).
#[derive(Clone, Debug)]
pub struct File {
    /// Where it is in the image: `/bin/hello`.
    pub path: String,
    /// What is in it.
    pub contents: Bytes,
    /// Its mode: `0o755`.
    pub mode: u32,
}

impl Store {
    /// Makes an image of one layer with these files and lists it under a name. The same input always gives the same
    /// image; when it is here already, nothing is written.
    ///
    /// # Errors
    /// The name is no reference; a path climbs; a file cannot be written.
    pub async fn add_image_from_files(
        self: &Arc<Self>,
        name: &str,
        files: Vec<File>,
        config: RunConfig,
    ) -> Result<Digest> {
        let name = tagged(name)?;
        let layer = archive(&files)?;
        let diff_id = Digest::of(&layer);
        let config = ImageConfig {
            created: None,
            platform: Platform { variant: None, ..self.config.platform.clone() },
            config,
            rootfs: RootFs { kind: "layers".into(), diff_ids: vec![diff_id] },
        };
        let text = serde_json::to_vec(&config).map_err(|e| Error::damaged("the configuration", e))?;
        let id = Digest::of(&text);
        if self.index().by_name(&name) == Some(id) {
            return Ok(id);
        }
        let pins = self.pins();
        let packed = Descriptor::new(OCI_LAYER, diff_id, layer.len() as u64);
        let manifest = manifest(id, text.len() as u64, vec![packed.clone()])?;
        let pins = self
            .blocking(move |_| {
                for bytes in [&layer, &text, &manifest] {
                    pins.document(bytes)?;
                }
                Ok::<_, Error>((pins, Digest::of(&manifest)))
            })
            .await?;
        let plan = Plan {
            label: name.clone(),
            names: vec![name],
            digests: Vec::new(),
            id,
            config,
            documents: vec![pins.1],
            layers: vec![packed],
        };
        self.install(vec![plan], &pins.0).await?;
        self.blocking(|store| store.sweep()).await;
        Ok(id)
    }
}

/// A manifest for a configuration and layers that came without one.
pub(crate) fn manifest(config: Digest, config_bytes: u64, layers: Vec<Descriptor>) -> Result<Vec<u8>> {
    let document = Document {
        schema_version: 2,
        media_type: OCI_MANIFEST.into(),
        config: Some(Descriptor::new(OCI_CONFIG, config, config_bytes)),
        layers: Some(layers),
        manifests: None,
    };
    serde_json::to_vec(&document).map_err(|e| Error::damaged("the manifest", e))
}

fn archive(files: &[File]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut made = BTreeSet::new();
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, contents: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(contents.len() as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, path, contents).map_err(|e| Error::entry(path.as_bytes(), e.to_string()))
    };
    for file in files {
        let name = Name::parse(file.path.as_bytes()).map_err(|reason| Error::entry(file.path.as_bytes(), reason))?;
        let path = String::from_utf8_lossy(name.path()).into_owned();
        for (slash, _) in path.match_indices('/') {
            if made.insert(path[..slash].to_owned()) {
                add(&path[..slash], tar::EntryType::Directory, 0o755, &[])?;
            }
        }
        add(&path, tar::EntryType::Regular, file.mode, &file.contents)?;
    }
    builder.into_inner().map_err(|e| Error::Archive(e.to_string()))
}
