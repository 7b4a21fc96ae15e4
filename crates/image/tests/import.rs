//! Images from docker archives and OCI layouts, their names, and their removal: run as root.
#![allow(clippy::unwrap_used)]

mod lab;

use image::{DiskUsage, Error, ImportOptions, Store};
use lab::{FILE, INDEX, Lab, MANIFEST, Packed, Tar, descriptor, docker_archive, gzip, import_layers, write_layout};
use serde_json::{Value, json};
use std::fs;
use std::io::Cursor;
use std::sync::Arc;

fn layer(name: &str) -> Vec<u8> {
    Tar::new().file(name, name).end()
}

async fn import(store: &Arc<Store>, bytes: Vec<u8>) -> image::Result<Vec<image::Image>> {
    store.import(Cursor::new(bytes), ImportOptions::default()).await
}

fn all_names(store: &Store) -> Vec<String> {
    let mut names: Vec<String> = store.list().into_iter().flat_map(|image| image.names).collect();
    names.sort();
    names
}

#[tokio::test]
async fn docker_archives() {
    let lab = Lab::new();
    let archive = docker_archive(&[
        (&["busybox", "quay.io/x/busybox:1"], vec![layer("a"), layer("b")]),
        (&["other:2"], vec![layer("a"), layer("c")]),
    ]);
    for bytes in [archive.clone(), gzip(&archive)] {
        let store = lab.open();
        let images = import(&store, bytes).await.unwrap();
        assert_eq!(images.len(), 2);
        let names = ["docker.io/library/busybox:latest", "docker.io/library/other:2", "quay.io/x/busybox:1"];
        assert_eq!(all_names(&store), names);
        let layers = fs::read_dir(lab.path("store/layers")).unwrap().count();
        assert_eq!(layers, 3, "a shared layer is unpacked once");
        let root = lab.root(&store, "other:2", "c").await;
        assert!(root.join("a").exists() && root.join("c").exists() && !root.join("b").exists());
        store.remove_snapshot("c").await.unwrap();
        for image in images {
            store.remove(&image.id.to_string()).await.unwrap();
        }
        drop(store);
        lab.assert_empty("removal");
    }
}

/// `docker save` of old: layers that are links to others, names in `repositories` only.
#[tokio::test]
async fn old_docker_archives() {
    let lab = Lab::new();
    let store = lab.open();
    let (a, b) = (layer("a"), layer("b"));
    let config = lab::config(&[a.clone(), b.clone(), a.clone()], json!({}));
    let manifest =
        json!([{"Config": "c.json", "RepoTags": null, "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"]}]);
    let archive = Tar::new()
        .with("1/layer.tar", FILE, "", &a, |_| {})
        .with("2/layer.tar", FILE, "", &b, |_| {})
        .link("3/layer.tar", "../1/layer.tar")
        .with("c.json", FILE, "", &config, |_| {})
        .with("repositories", FILE, "", br#"{"old":{"7":"3"},"else":{"1":"9"}}"#, |_| {})
        .with("manifest.json", FILE, "", manifest.to_string().as_bytes(), |_| {})
        .end();
    let images = import(&store, archive).await.unwrap();
    assert_eq!(images[0].names, ["docker.io/library/old:7"]);
    assert_eq!(images[0].layers.len(), 3);
    let ancient = Tar::new().with("repositories", FILE, "", b"{}", |_| {}).end();
    assert!(import(&store, ancient).await.unwrap_err().to_string().contains("older than 1.10"));
}

fn annotated(mut entry: Value, key: &str, value: &str) -> Value {
    entry["annotations"] = json!({ key: value });
    entry
}

fn with_platform(mut entry: Value, architecture: &str) -> Value {
    entry["platform"] = json!({"os": "linux", "architecture": architecture});
    entry
}

#[tokio::test]
async fn oci_layouts() {
    let lab = Lab::new();
    let here = image::Platform::host().architecture;
    let (one, two) = (Packed::new(&[layer("one")], gzip), Packed::new(&[layer("two")], lab::zstd));
    let foreign =
        json!({"schemaVersion": 2, "config": descriptor("x", b"absent"), "layers": []}).to_string().into_bytes();
    let nested = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        with_platform(descriptor(MANIFEST, &foreign), "other"),
        with_platform(descriptor(MANIFEST, &two.manifest), &here),
        with_platform(descriptor(MANIFEST, b"attestation"), "unknown"),
    ]})
    .to_string()
    .into_bytes();
    let name = "org.opencontainers.image.ref.name";
    let index = json!({"schemaVersion": 2, "manifests": [
        annotated(descriptor(MANIFEST, &one.manifest), name, "registry.k8s.io/one:1.0"),
        annotated(descriptor(MANIFEST, &one.manifest), "io.containerd.image.name", "docker.io/library/uno:latest"),
        annotated(descriptor(INDEX, &nested), name, "two"),
        annotated(descriptor(INDEX, &nested), name, "two:x"),
        with_platform(descriptor(MANIFEST, &foreign), "other"),
    ]});
    let contents: Vec<&Vec<u8>> =
        one.blobs().chain(two.blobs()).chain([&one.manifest, &two.manifest, &nested]).collect();
    let folder = lab.path("layout");
    write_layout(&folder, &index, &contents);
    let mut tar = Tar::new().with("oci-layout", FILE, "", b"{}", |_| {}).dir("blobs");
    for content in &contents {
        tar = tar.with(&format!("blobs/sha256/{}", image::Digest::of(content).hex()), FILE, "", content, |_| {});
    }
    let tar = tar.with("index.json", FILE, "", index.to_string().as_bytes(), |_| {}).end();
    fs::write(lab.path("layout.tar"), &tar).unwrap();
    fs::write(lab.path("layout.tgz"), gzip(&tar)).unwrap();
    for form in ["layout", "layout.tar", "layout.tgz"] {
        let store = lab.open();
        let images = store.import_path(&lab.path(form), ImportOptions::default()).await.unwrap();
        assert_eq!(images.len(), 2, "{form}");
        let names = ["docker.io/library/two:x", "docker.io/library/uno:latest", "registry.k8s.io/one:1.0"];
        assert_eq!(all_names(&store), names, "{form}");
        let digest = format!("registry.k8s.io/one@{}", image::Digest::of(&one.manifest));
        assert_eq!(store.status(&digest).unwrap().unwrap().user, "5:6", "{form}");
        let by_index = format!("two@{}", image::Digest::of(&nested));
        assert!(store.status(&by_index).unwrap().is_some(), "{form}: known by the digest of its index");
        for image in images {
            store.remove(&image.id.to_string()).await.unwrap();
        }
        drop(store);
        lab.assert_empty(form);
    }
}

#[tokio::test]
async fn damaged_archives_are_refused_and_leave_nothing() {
    let lab = Lab::new();
    let store = lab.open();
    let good = docker_archive(&[(&["x"], vec![layer("a")])]);
    let with = |manifest: &str| Tar::new().with("manifest.json", FILE, "", manifest.as_bytes(), |_| {}).end();
    let layout = |index: &str| Tar::new().with("index.json", FILE, "", index.as_bytes(), |_| {}).end();
    let wrong_arch = br#"{"architecture":"pdp11","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let few_layers = lab::config(&[layer("a"), layer("b")], json!({}));
    let wrong_layer = lab::config(&[layer("b")], json!({}));
    let one = |config: &[u8], layers: &str| {
        let manifest = format!(r#"[{{"Config":"c","RepoTags":["x"],"Layers":[{layers}]}}]"#);
        Tar::new()
            .with("c", FILE, "", config, |_| {})
            .with("l", FILE, "", &layer("a"), |_| {})
            .with("manifest.json", FILE, "", manifest.as_bytes(), |_| {})
            .end()
    };
    let loops =
        Tar::new().link("a", "b").link("b", "a").with("manifest.json", FILE, "", br#"[{"Config":"a"}]"#, |_| {});
    for (what, bytes, message) in [
        ("empty", vec![], "neither a docker archive nor an OCI layout"),
        ("other archive", layer("a"), "neither a docker archive nor an OCI layout"),
        ("text", b"hello\n".repeat(200), "wrong checksum"),
        ("cut", good[..good.len() - 2000].to_vec(), ""),
        ("no image", with("[]"), "there is no image in it"),
        ("bad manifest", with("{"), "manifest.json is damaged"),
        ("missing config", with(r#"[{"Config":"c"}]"#), "\"c\" is missing in it"),
        ("config out of the archive", with(r#"[{"Config":"../../../../etc/passwd"}]"#), "is missing in it"),
        ("link loop", loops.end(), "\"a\" is missing in it"),
        ("missing blob", layout(&json!({"manifests": [descriptor(MANIFEST, b"x")]}).to_string()), "is missing in it"),
        ("bad digest", layout(r#"{"manifests":[{"digest":"sha256:../../x","size":1}]}"#), "index.json is damaged"),
        ("other machine", one(wrong_arch, ""), "is for linux/pdp11, this node is linux/"),
        ("layers that do not fit", one(&few_layers, "\"l\""), "names 2 layers, the manifest 1"),
        ("a layer of another digest", one(&wrong_layer, "\"l\""), "layer: expected sha256:"),
        ("bad name", docker_archive(&[(&["UPPER"], vec![])]), "couldn't parse image name \"UPPER\""),
        ("bad config", one(b"[]", ""), "is damaged"),
    ] {
        let error = import(&store, bytes).await.err().map(|error| error.chain());
        assert!(error.as_ref().is_some_and(|error| error.contains(message)), "{what}: {error:?}");
        assert!(store.list().is_empty(), "{what}");
        lab.assert_empty(what);
    }
    assert!(matches!(store.import_path(&lab.path("no"), ImportOptions::default()).await, Err(Error::Io { .. })));
    let folder = lab.path("folder");
    fs::create_dir(&folder).unwrap();
    let error = store.import_path(&folder, ImportOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("no index.json"), "{error}");
}

#[tokio::test]
async fn names_and_removal() {
    let lab = Lab::new();
    let store = lab.open();
    let first = import_layers(&store, "app:1", vec![layer("a"), layer("b")]).await.unwrap()[0].id;
    let second = import_layers(&store, "app:2", vec![layer("a"), layer("c")]).await.unwrap()[0].id;
    let id_of = |name: &str| store.status(name).unwrap().map(|image| image.id);
    assert_eq!(id_of(&first.to_string()), Some(first));
    assert_eq!(id_of(&first.hex()), Some(first));
    assert_eq!(id_of(&first.hex()[..12]), Some(first));
    assert_eq!((id_of("app"), id_of("deadbeefdead")), (None, None));
    assert!(matches!(store.status("NO:"), Err(Error::Reference { .. })));

    store.tag("app:1", "app").await.unwrap();
    store.tag("app:2", "localhost:5000/a/b").await.unwrap();
    assert_eq!(id_of("app:latest"), Some(first));
    store.tag(&second.to_string(), "app").await.unwrap();
    assert_eq!((id_of("app"), id_of("app:1")), (Some(second), Some(first)));
    assert!(matches!(store.tag("none", "x").await, Err(Error::NoSuchImage(_))));
    assert!(matches!(store.tag("app", "X").await, Err(Error::Reference { .. })));
    store.pin("app", true).await.unwrap();

    // A new image takes the name; the old one stays without.
    let third = import_layers(&store, "app:1", vec![layer("d")]).await.unwrap()[0].id;
    assert_eq!(id_of("app:1"), Some(third));
    assert!(store.status(&first.to_string()).unwrap().unwrap().names.is_empty());

    drop(store);
    let store = lab.open();
    assert_eq!(store.list().len(), 3);
    let kept = store.status("app").unwrap().unwrap();
    assert!(kept.pinned && kept.id == second && kept.names.len() == 3);
    store.untag("app").await.unwrap();
    assert!(matches!(store.untag("app").await, Err(Error::NoSuchImage(_))));
    store.remove(&first.to_string()).await.unwrap();
    assert_eq!(fs::read_dir(lab.path("store/layers")).unwrap().count(), 3, "a is shared with the second");
    store.untag("app:1").await.unwrap();
    store.untag("app:2").await.unwrap();
    store.untag("localhost:5000/a/b").await.unwrap();
    assert!(store.list().is_empty());
    assert_eq!(store.disk_usage().await.unwrap(), DiskUsage::default());
    lab.assert_empty("removal");
}

/// Imports, removals and container starts at once never lose a layer that is in use.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once() {
    let lab = Lab::new();
    let store = Store::open(image::Config { durable: false, ..lab.config() }).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let (store, base) = (store.clone(), lab.directory.path().to_owned());
        tasks.spawn(async move {
            for round in 0..10 {
                let name = format!("image{}", (task + round) % 3);
                let layers = vec![layer("shared"), layer(&name)];
                import_layers(&store, &name, layers).await.unwrap();
                let id = format!("c{task}-{round}");
                let root = base.join(&id);
                match store.prepare(&id, &name).await {
                    Ok(_) => {
                        store.mount(&id, &root).await.unwrap();
                        assert_eq!(fs::read(root.join("shared")).unwrap(), b"shared");
                        assert_eq!(fs::read(root.join(&name)).unwrap(), name.as_bytes());
                        store.remove_snapshot(&id).await.unwrap();
                    }
                    Err(Error::NoSuchImage(_)) => {}
                    Err(error) => panic!("{}", error.chain()),
                }
                match store.remove(&name).await {
                    Ok(_) | Err(Error::NoSuchImage(_)) => {}
                    Err(error) => panic!("{}", error.chain()),
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(store.list().is_empty() && store.snapshots().is_empty());
    drop(store);
    lab.assert_empty("all of it");
}
