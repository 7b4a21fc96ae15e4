//! From files to a mounted container root, with real overlayfs: run as root.
#![allow(clippy::unwrap_used)]

mod lab;

use image::{Config, Error, File, RunConfig, Store};
use lab::Lab;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

async fn hello(store: &Arc<Store>) -> image::Digest {
    let files = vec![
        File { path: "/bin/hello".into(), contents: b"#!/bin/sh\n".as_slice().into(), mode: 0o755 },
        File { path: "etc/secret".into(), contents: b"x".as_slice().into(), mode: 0o600 },
    ];
    let config = RunConfig { entrypoint: vec!["/bin/hello".into()], user: "7".into(), ..RunConfig::default() };
    store.add_image_from_files("hello", files, config).await.unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_container_root_is_written_and_the_image_is_not() {
    let lab = Lab::new();
    let store = lab.open();
    let id = hello(&store).await;
    assert_eq!(hello(&store).await, id, "the same files make the same image");
    let image = store.status("hello").unwrap().unwrap();
    assert_eq!(image.names, ["docker.io/library/hello:latest"]);
    assert_eq!((image.id, image.user.as_str(), image.size_bytes), (id, "7", 11));
    assert_eq!(store.image_config("hello").await.unwrap().config.entrypoint, ["/bin/hello"]);

    let root = lab.path("root");
    store.prepare("one", "hello").await.unwrap();
    store.mount("one", &root).await.unwrap();
    store.mount("one", &root).await.unwrap();
    assert_eq!(mode(&root.join("bin/hello")), 0o755);
    assert_eq!(mode(&root.join("etc/secret")), 0o600);
    fs::write(root.join("bin/hello"), "changed").unwrap();
    fs::remove_file(root.join("etc/secret")).unwrap();
    assert!(store.usage("one").await.unwrap().bytes > 0);

    let other = lab.path("other");
    store.view("two", &id.to_string()).await.unwrap();
    store.mount("two", &other).await.unwrap();
    assert_eq!(fs::read(other.join("bin/hello")).unwrap(), b"#!/bin/sh\n");
    assert!(other.join("etc/secret").exists());
    assert!(fs::write(other.join("new"), "").is_err(), "a view is read-only");

    assert!(matches!(store.prepare("one", "hello").await, Err(Error::SnapshotExists(_))));
    assert!(matches!(store.prepare("../x", "hello").await, Err(Error::SnapshotName(_))));
    assert!(matches!(store.prepare("x", "nothing").await, Err(Error::NoSuchImage(_))));
    for id in ["one", "two"] {
        store.remove_snapshot(id).await.unwrap();
        assert!(matches!(store.remove_snapshot(id).await, Err(Error::NoSuchSnapshot(_))));
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "unmounted");
}

#[tokio::test]
async fn snapshots_are_adopted_and_keep_their_layers() {
    let lab = Lab::new();
    let root = lab.path("root");
    {
        let store = lab.open();
        hello(&store).await;
        store.prepare("one", "hello").await.unwrap();
        store.mount("one", &root).await.unwrap();
        fs::write(root.join("kept"), "yes").unwrap();
        assert!(matches!(Store::open(Config::new(store.root())), Err(Error::Locked { .. })));
    }
    let layers = lab.directory.path().join("store/layers");
    let store = lab.open();
    assert_eq!(fs::read(root.join("kept")).unwrap(), b"yes", "mounted all the time");
    let found = store.snapshots();
    assert_eq!((found.len(), found[0].target.as_ref()), (1, Some(&root)));
    store.remove("hello").await.unwrap();
    assert!(store.list().is_empty());
    assert_eq!(fs::read_dir(&layers).unwrap().count(), 1, "the snapshot keeps the layer");
    assert_eq!(fs::read(root.join("bin/hello")).unwrap(), b"#!/bin/sh\n");

    // As after a reboot: the mount is gone, the snapshot can be mounted again.
    rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH).unwrap();
    store.mount("one", &root).await.unwrap();
    assert_eq!(fs::read(root.join("kept")).unwrap(), b"yes");
    store.remove_snapshot("one").await.unwrap();
    assert_eq!(fs::read_dir(&layers).unwrap().count(), 0);
    assert_eq!(store.disk_usage().await.unwrap(), image::DiskUsage::default());
    assert_eq!(fs::metadata(store.root()).unwrap().mode() & 0o777, 0o700);
}
