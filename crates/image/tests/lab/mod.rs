//! What the tests share: a store in a temporary directory, and archives made to measure.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use image::{Config, Digest, Image, ImportOptions, Result, Store};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A temporary directory with a store; what is mounted directly in it is unmounted at the end.
pub struct Lab {
    pub directory: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts and makes devices: run it as root");
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub fn config(&self) -> Config {
        Config::new(self.directory.path().join("store"))
    }

    pub fn open(&self) -> Arc<Store> {
        Store::open(self.config()).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A container root of an image, mounted.
    pub async fn root(&self, store: &Arc<Store>, image: &str, id: &str) -> PathBuf {
        let root = self.path(id);
        store.prepare(id, image).await.unwrap();
        store.mount(id, &root).await.unwrap();
        root
    }

    /// Nothing of a refused image may be left.
    pub fn assert_empty(&self, what: &str) {
        for part in ["blobs/sha256", "layers", "ingest", "trash", "snapshots"] {
            let left: Vec<_> = fs::read_dir(self.path("store").join(part)).unwrap().flatten().collect();
            assert!(left.is_empty(), "{what} left {left:?}");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.directory.path()).unwrap().flatten() {
            let _ = rustix::mount::unmount(entry.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// A tar archive with anything in it, also what a decent tool would not write.
#[derive(Clone, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

pub const FILE: u8 = b'0';
pub const HARD: u8 = b'1';
pub const LINK: u8 = b'2';
pub const CHAR: u8 = b'3';
pub const BLOCK: u8 = b'4';
pub const DIR: u8 = b'5';
pub const FIFO: u8 = b'6';

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(mut self, header: &tar::Header, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub fn header(name: &str, kind: u8, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(size as u64);
        header.set_mode(if kind == DIR { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_cksum();
        header
    }

    pub fn with(self, name: &str, kind: u8, link: &str, data: &[u8], change: impl FnOnce(&mut tar::Header)) -> Self {
        let mut header = Self::header(name, kind, data.len());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        change(&mut header);
        header.set_cksum();
        self.raw(&header, data)
    }

    pub fn file(self, name: &str, data: &str) -> Self {
        self.with(name, FILE, "", data.as_bytes(), |_| {})
    }

    pub fn dir(self, name: &str) -> Self {
        self.with(name, DIR, "", b"", |_| {})
    }

    pub fn link(self, name: &str, to: &str) -> Self {
        self.with(name, LINK, to, b"", |_| {})
    }

    pub fn hard(self, name: &str, to: &str) -> Self {
        self.with(name, HARD, to, b"", |_| {})
    }

    /// PAX records for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let mut length = body + 1;
            while length != body + length.to_string().len() {
                length = body + length.to_string().len();
            }
            text.extend_from_slice(format!("{length} {key}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        let header = Self::header("pax", b'x', text.len());
        self.raw(&header, &text)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// The configuration of an image with these plain layers.
pub fn config(layers: &[Vec<u8>], run: Value) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let platform = image::Platform::host();
    let config = json!({
        "architecture": platform.architecture, "os": "linux", "config": run,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&config).unwrap()
}

/// A docker archive: for each image its names and layers.
pub fn docker_archive(images: &[(&[&str], Vec<Vec<u8>>)]) -> Vec<u8> {
    let mut archive = Tar::new();
    let mut manifest = Vec::new();
    for (i, (names, layers)) in images.iter().enumerate() {
        let config = config(layers, json!({"Cmd": [format!("image{i}")]}));
        let config_name = format!("{}.json", Digest::of(&config).hex());
        archive = archive.with(&config_name, FILE, "", &config, |_| {});
        let mut layer_names = Vec::new();
        for (j, layer) in layers.iter().enumerate() {
            let name = format!("{i}-{j}/layer.tar");
            archive = archive.with(&name, FILE, "", layer, |_| {});
            layer_names.push(name);
        }
        manifest.push(json!({"Config": config_name, "RepoTags": names, "Layers": layer_names}));
    }
    archive.with("manifest.json", FILE, "", &serde_json::to_vec(&manifest).unwrap(), |_| {}).end()
}

/// Imports layers as one image.
pub async fn import_layers(store: &Arc<Store>, name: &str, layers: Vec<Vec<u8>>) -> Result<Vec<Image>> {
    let archive = docker_archive(&[(&[name], layers)]);
    store.import(std::io::Cursor::new(archive), ImportOptions::default()).await
}

/// An image as a registry or an OCI layout has it.
pub struct Packed {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

impl Packed {
    /// Packs plain layers.
    pub fn new(plain: &[Vec<u8>], pack: fn(&[u8]) -> Vec<u8>) -> Self {
        let config = config(plain, json!({"Cmd": ["run"], "User": "5:6"}));
        let layers: Vec<Vec<u8>> = plain.iter().map(|layer| pack(layer)).collect();
        let descriptors: Vec<Value> =
            layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config), "layers": descriptors,
        });
        Self { manifest: serde_json::to_vec(&manifest).unwrap(), config, layers }
    }

    pub fn blobs(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.layers.iter().chain([&self.config])
    }
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": Digest::of(content).to_string(), "size": content.len()})
}

/// Writes an OCI layout folder.
pub fn write_layout(path: &Path, index: &Value, contents: &[&Vec<u8>]) {
    fs::create_dir_all(path.join("blobs/sha256")).unwrap();
    fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(path.join("index.json"), serde_json::to_vec(index).unwrap()).unwrap();
    for content in contents {
        fs::write(path.join("blobs/sha256").join(Digest::of(content).hex()), content).unwrap();
    }
}
