//! What the command line does with images, on an open store.

use crate::command::image::Row;
use crate::folder::Folder;
use anyhow::{Context, Result};
use image::{Config, ImportOptions, PullOptions, Store};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Opens the image store of a data folder.
pub(crate) fn open(
    folder: &Folder,
    insecure_registries: Vec<String>,
    mirrors: Vec<(String, String)>,
) -> Result<Arc<Store>> {
    let mut config = Config { insecure_registries, ..Config::new(folder.part("images")) };
    let mut by_registry: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (registry, url) in mirrors {
        by_registry.entry(registry).or_default().push(url);
    }
    config.mirrors = by_registry;
    Store::open(config).map_err(|e| anyhow::anyhow!("{}", e.chain())).context("cannot open the image store")
}

fn names(images: Vec<image::Image>) -> Vec<String> {
    images.into_iter().flat_map(|i| if i.names.is_empty() { vec![i.id.to_string()] } else { i.names }).collect()
}

/// Imports a file or folder (`-` for standard input); gives the names.
pub(crate) async fn import_path(store: &Arc<Store>, path: &Path) -> Result<Vec<String>> {
    let imported = if path.as_os_str() == "-" {
        store.import(std::io::stdin(), ImportOptions::default()).await
    } else {
        store.import_path(path, ImportOptions::default()).await
    };
    imported.map(names).map_err(|e| anyhow::anyhow!("cannot import {}: {}", path.display(), e.chain()))
}

/// Imports an archive as it arrives; gives the names.
pub(crate) async fn import(store: &Arc<Store>, archive: impl std::io::Read + Send + 'static) -> Result<Vec<String>> {
    store
        .import(archive, ImportOptions::default())
        .await
        .map(names)
        .map_err(|e| anyhow::anyhow!("cannot import: {}", e.chain()))
}

/// Pulls an image; gives its name.
pub(crate) async fn pull(store: &Arc<Store>, name: &str) -> Result<String> {
    store.pull(name, PullOptions::default()).await.map_err(|e| anyhow::anyhow!("cannot pull {name}: {}", e.chain()))?;
    Ok(name.to_owned())
}

/// All images, a row for each name.
pub(crate) async fn list(store: &Arc<Store>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for image in store.list() {
        let names = if image.names.is_empty() { image.digests.clone() } else { image.names.clone() };
        for name in names {
            rows.push(Row { name, id: image.id.to_string(), size_bytes: image.size_bytes });
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

/// Takes a name from an image, or removes an image by its id.
pub(crate) async fn remove(store: &Arc<Store>, name: &str) -> Result<()> {
    let done = if name.starts_with("sha256:") { store.remove(name).await.map(drop) } else { store.untag(name).await };
    done.map_err(|e| anyhow::anyhow!("cannot remove {name}: {}", e.chain()))
}
