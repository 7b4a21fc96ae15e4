//! Measures importing and unpacking against `tar`: `unpack LAYER.tar.gz...`, each layer on its own and all together.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use image::{Config, Digest, ImportOptions, Store};
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

fn main() {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        println!("usage: unpack LAYER.tar.gz...");
        return;
    }
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let layers: Vec<(Vec<u8>, Digest, u64)> = paths.iter().map(|path| read(path)).collect();
    let plain: u64 = layers.iter().map(|layer| layer.2).sum();
    write_layout(directory.path(), &layers);
    println!("{} layers, {:.1} MB packed, {:.1} MB plain", layers.len(), megabytes(packed(&layers)), megabytes(plain));
    for round in 1..=3 {
        let target = directory.path().join("tar");
        fs::create_dir(&target).unwrap();
        let start = Clock::now();
        for path in &paths {
            let path = fs::canonicalize(path).unwrap();
            assert!(Command::new("tar").arg("xpzf").arg(path).arg("-C").arg(&target).status().unwrap().success());
        }
        report(round, "tar xpzf, one after another", start, plain);
        fs::remove_dir_all(&target).unwrap();
        for durable in [false, true] {
            rustix::fs::sync();
            let config = Config { durable, ..Config::new(directory.path().join("store")) };
            let store = Store::open(config).unwrap();
            let start = Clock::now();
            let options = ImportOptions { name: Some("bench".into()) };
            runtime.block_on(store.import_path(&directory.path().join("layout"), options)).unwrap();
            let name = if durable { "import, copied, verified, flushed" } else { "import, copied, verified" };
            report(round, name, start, plain);
            runtime.block_on(store.remove("bench")).unwrap();
        }
    }
}

fn read(path: &str) -> (Vec<u8>, Digest, u64) {
    let packed = fs::read(path).unwrap();
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
    (packed, Digest::of(&plain), plain.len() as u64)
}

fn packed(layers: &[(Vec<u8>, Digest, u64)]) -> u64 {
    layers.iter().map(|layer| layer.0.len() as u64).sum()
}

fn write_layout(directory: &Path, layers: &[(Vec<u8>, Digest, u64)]) {
    let blobs = directory.join("layout/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |kind: &str, bytes: &[u8]| -> Value {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()})
    };
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.1.to_string()).collect();
    let config = json!({"architecture": image::Platform::host().architecture, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let layers: Vec<Value> =
        layers.iter().map(|layer| put("application/vnd.oci.image.layer.v1.tar+gzip", &layer.0)).collect();
    let manifest = json!({"schemaVersion": 2, "layers": layers,
        "config": put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())});
    let manifest = put("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    fs::write(directory.join("layout/index.json"), json!({"manifests": [manifest]}).to_string()).unwrap();
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Time on the wall and on the processors, children included: on a busy machine only the latter tells.
struct Clock {
    wall: Instant,
    ticks: u64,
}

impl Clock {
    fn now() -> Self {
        Self { wall: Instant::now(), ticks: ticks() }
    }
}

fn ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum()
}

fn report(round: u32, what: &str, start: Clock, plain: u64) {
    let wall = start.wall.elapsed().as_secs_f64();
    let processor = (ticks() - start.ticks) * 10;
    let rate = megabytes(plain) / wall;
    println!("{round}  {what:34} {:7.0} ms  {rate:6.0} MB/s  {processor:6} ms of processor", wall * 1e3);
}
