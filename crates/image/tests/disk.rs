//! A disk that is full, content that went missing, and trees deeper than a path: run as root.
#![allow(clippy::unwrap_used)]

mod lab;

use image::{Config, Error, Store};
use lab::{FILE, Lab, Tar, gzip, import_layers};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs;

fn noise(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

#[tokio::test]
async fn a_full_disk() {
    let lab = Lab::new();
    let disk = lab.path("disk");
    fs::create_dir(&disk).unwrap();
    mount("tmpfs", &disk, "tmpfs", MountFlags::empty(), c"size=2m").unwrap();
    let open = || Store::open(Config::new(disk.join("store"))).unwrap();
    let store = open();
    let small = vec![Tar::new().file("small", "x").end()];
    import_layers(&store, "small", small.clone()).await.unwrap();
    // Too big when packed, and too big only when unpacked.
    let zeros = gzip(&Tar::new().with("big", FILE, "", &vec![1; 4 << 20], |_| {}).end());
    for (what, layer) in [("packed", Tar::new().with("big", FILE, "", &noise(3 << 20), |_| {}).end()), ("plain", zeros)]
    {
        let error = import_layers(&store, "big", vec![layer]).await.unwrap_err();
        assert!(error.is_no_space() && error.chain().contains("No space left on device"), "{what}: {}", error.chain());
        assert_eq!(store.list().len(), 1);
        assert_eq!(fs::read_dir(disk.join("store/ingest")).unwrap().count(), 0, "{what}");
    }
    import_layers(&store, "again", vec![Tar::new().file("again", "x").end()]).await.unwrap();
    drop(store);
    assert_eq!(open().list().len(), 2);
    unmount(&disk, UnmountFlags::DETACH).unwrap();
}

#[tokio::test]
async fn damage_is_noticed_and_told() {
    let lab = Lab::new();
    let store = lab.open();
    let layer = |name: &str| vec![Tar::new().file(name, "").end()];
    let first = import_layers(&store, "first", layer("a")).await.unwrap().remove(0);
    let second = import_layers(&store, "second", layer("b")).await.unwrap().remove(0);
    drop(store);
    fs::remove_dir_all(lab.path("store/layers").join(first.layers[0].hex())).unwrap();
    fs::write(lab.path("store/blobs/sha256").join(second.id.hex()), "{}").unwrap();
    let store = lab.open();
    assert_eq!(store.list().len(), 1, "an image without its layer is forgotten");
    let error = store.image_config("second").await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{}", error.chain());
    import_layers(&store, "first", layer("a")).await.unwrap();
    drop(store);

    let index = lab.path("store/index.json");
    let good = fs::read_to_string(&index).unwrap();
    fs::write(&index, &good[..good.len() / 2]).unwrap();
    let error = Store::open(lab.config()).unwrap_err();
    assert!(error.chain().contains("index.json is damaged"), "{}", error.chain());
    fs::write(&index, good.replace("\"format\":1", "\"format\":99")).unwrap();
    let error = Store::open(lab.config()).unwrap_err();
    assert!(matches!(error, Error::Newer { found: 99, .. }), "{}", error.chain());
    fs::write(&index, good).unwrap();
    assert_eq!(lab.open().list().len(), 2);
}

#[tokio::test]
async fn packed_layers_need_not_stay() {
    let lab = Lab::new();
    let store = Store::open(Config { keep_packed: false, ..lab.config() }).unwrap();
    let layer = Tar::new().file("a", &"x".repeat(100_000)).end();
    for _ in 0..2 {
        import_layers(&store, "thin", vec![layer.clone()]).await.unwrap();
        let usage = store.image_usage();
        assert!(usage.blob_bytes < 2000 && usage.layer_bytes == 100_000, "{usage:?}");
    }
    let root = lab.root(&store, "thin", "c").await;
    assert!(root.join("a").exists());
}

#[tokio::test]
async fn a_container_may_nest_directories_deeper_than_any_path() {
    let lab = Lab::new();
    let store = lab.open();
    import_layers(&store, "deep", vec![Tar::new().file("a", "").end()]).await.unwrap();
    let root = lab.root(&store, "deep", "c").await;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let mut fd = rustix::fs::open(&root, flags, rustix::fs::Mode::empty()).unwrap();
    let name = "n".repeat(50);
    for _ in 0..1200 {
        rustix::fs::mkdirat(&fd, &*name, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        fd = rustix::fs::openat(&fd, &*name, flags, rustix::fs::Mode::empty()).unwrap();
    }
    drop(fd);
    assert_eq!(store.usage("c").await.unwrap().inodes, 1200);
    store.remove_snapshot("c").await.unwrap();
    store.remove("deep").await.unwrap();
    drop(store);
    lab.assert_empty("removal");
}
