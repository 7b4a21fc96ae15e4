//! What is in a layer arrives in the container, and what is hostile in it does not: run as root.
#![allow(clippy::unwrap_used)]

mod lab;

use image::{Error, Limits, Store};
use lab::{BLOCK, CHAR, DIR, FIFO, FILE, Lab, Tar, gzip, import_layers, zstd};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

fn names(path: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn everything_a_layer_can_have() {
    let lab = Lab::new();
    let store = lab.open();
    let long = "d".repeat(120) + "/" + &"f".repeat(200);
    let layer = Tar::new()
        .with("./", DIR, "", b"", |h| h.set_mode(0o711))
        .with("plain", FILE, "", b"data", |h| {
            h.set_uid(1000);
            h.set_gid(50_000);
            h.set_mode(0o4751);
        })
        .hard("again", "plain")
        .hard("absolute", "/plain")
        .link("link", "/no/where")
        .with("dir/", DIR, "", b"", |h| h.set_mode(0o1777))
        .file("dir/in", "1")
        .with("null", CHAR, "", b"", |h| {
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
        })
        .with("disk", BLOCK, "", b"", |h| {
            h.set_device_major(8).unwrap();
            h.set_device_minor(0).unwrap();
        })
        .with("pipe", FIFO, "", b"", |_| {})
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"7.5"),
            ("SCHILY.xattr.user.key", b"va\0lue"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.security.capability", &CAPABILITY),
        ])
        .file("short", "long")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", b"1048576"),
        ])
        .with("GNUSparseFile.0/sparse", FILE, "", &sparse_data(), |_| {})
        .file("twice", "first")
        .file("twice", "second")
        .end();
    import_layers(&store, "all", vec![layer]).await.unwrap();
    let root = lab.root(&store, "all", "c").await;
    let meta = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o711);
    let plain = meta("plain");
    assert_eq!((plain.uid(), plain.gid(), plain.mode() & 0o7777, plain.mtime()), (1000, 50_000, 0o4751, 1_000_000));
    assert_eq!((plain.ino(), plain.ino()), (meta("again").ino(), meta("absolute").ino()));
    assert_eq!(fs::read_link(root.join("link")).unwrap().to_str(), Some("/no/where"));
    assert_eq!((meta("dir").mode() & 0o7777, meta("dir").mtime()), (0o1777, 1_000_000));
    assert!(meta("null").file_type().is_char_device() && meta("null").rdev() == rustix::fs::makedev(1, 3));
    assert!(meta("disk").file_type().is_block_device() && meta("pipe").file_type().is_fifo());
    let file = root.join(&long);
    assert_eq!((fs::read(&file).unwrap(), fs::metadata(&file).unwrap().mtime()), (b"long".to_vec(), 7));
    let mut value = [0; 64];
    let mut xattr = |name: &str| {
        let n = rustix::fs::getxattr(&file, name, &mut value[..]).ok()?;
        Some(value[..n].to_vec())
    };
    assert_eq!(xattr("user.key").as_deref(), Some(&b"va\0lue"[..]));
    assert_eq!(xattr("security.capability").as_deref(), Some(&CAPABILITY[..]));
    assert_eq!(xattr("trusted.overlay.redirect"), None);
    let sparse = fs::read(root.join("sparse")).unwrap();
    assert_eq!((sparse.len(), &sparse[4096..4100], &sparse[1_048_572..]), (1 << 20, &b"abcd"[..], &b"wxyz"[..]));
    assert!(sparse[..4096].iter().all(|b| *b == 0) && meta("sparse").blocks() * 512 < 100_000);
    assert_eq!(fs::read(root.join("twice")).unwrap(), b"second");
}

/// `cap_net_raw` as the kernel stores it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn sparse_data() -> Vec<u8> {
    let mut data = b"2\n4096\n4\n1048572\n4\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abcdwxyz");
    data
}

#[tokio::test]
async fn layers_hide_what_is_below_them() {
    let lab = Lab::new();
    let store = lab.open();
    let below = Tar::new()
        .with("tmp/", DIR, "", b"", |h| h.set_mode(0o1777))
        .dir("gone")
        .file("gone/file", "")
        .dir("opaque")
        .file("opaque/below", "")
        .dir("replaced")
        .file("replaced/below", "")
        .dir("late")
        .file("late/below", "")
        .file("file", "below")
        .file("became-dir", "")
        .end();
    let above = Tar::new()
        .file(".wh.gone", "")
        .file("opaque/above", "")
        .file("opaque/.wh..wh..opq", "")
        .file(".wh.replaced", "")
        .file("replaced/above", "")
        .dir("late")
        .file("late/above", "")
        .file(".wh.late", "")
        .file(".wh.file", "")
        .file("file", "above")
        .file(".wh.became-dir", "")
        .dir("became-dir")
        .file("tmp/added", "")
        .file(".wh..wh.aufs", "")
        .end();
    import_layers(&store, "two", vec![below, above]).await.unwrap();
    let root = lab.root(&store, "two", "c").await;
    assert_eq!(names(&root), ["became-dir", "file", "late", "opaque", "replaced", "tmp"]);
    for directory in ["opaque", "replaced", "late"] {
        assert_eq!(names(&root.join(directory)), ["above"], "{directory}");
    }
    assert_eq!(fs::read(root.join("file")).unwrap(), b"above", "a whiteout does not hide its own layer's file");
    assert_eq!(fs::metadata(root.join("tmp")).unwrap().mode() & 0o7777, 0o1777, "tmp is as the lower layer says");
    assert_eq!(names(&root.join("tmp")), ["added"]);
    store.view("v", "two").await.unwrap();
    let view = lab.path("view");
    store.mount("v", &view).await.unwrap();
    assert_eq!(fs::metadata(view.join("tmp")).unwrap().mode() & 0o7777, 0o1777, "also in a view");
}

#[tokio::test]
async fn many_layers_packed_in_all_ways() {
    let lab = Lab::new();
    let store = lab.open();
    let layers: Vec<Vec<u8>> =
        (0..150).map(|i| Tar::new().file(&format!("f{i}"), "x").file("top", &i.to_string()).end()).collect();
    // One layer twice, as build tools do with empty ones: the upper one counts.
    let mut twice = layers.clone();
    twice.push(layers[3].clone());
    import_layers(&store, "many", twice).await.unwrap();
    let root = lab.root(&store, "many", "c").await;
    assert_eq!(names(&root).len(), 151);
    assert_eq!(fs::read(root.join("top")).unwrap(), b"3");

    let one = Tar::new().file("packed", "yes").end();
    for (name, pack) in [
        ("gz", gzip as fn(&[u8]) -> Vec<u8>),
        ("zst", zstd),
        ("members", |b| [gzip(&b[..600]), gzip(&b[600..])].concat()),
    ] {
        let packed = lab::Packed::new(std::slice::from_ref(&one), pack);
        let index =
            serde_json::json!({"schemaVersion": 2, "manifests": [lab::descriptor(lab::MANIFEST, &packed.manifest)]});
        let path = lab.path(&format!("{name}.oci"));
        lab::write_layout(&path, &index, &packed.blobs().chain([&packed.manifest]).collect::<Vec<_>>());
        let options = image::ImportOptions { name: Some(name.into()) };
        store.import_path(&path, options).await.unwrap();
        let root = lab.root(&store, name, name).await;
        assert_eq!(fs::read(root.join("packed")).unwrap(), b"yes", "{name}");
    }
}

type Case = (&'static str, Vec<u8>, &'static str);

fn header(name: &str, change: fn(&mut tar::Header)) -> Vec<u8> {
    let mut header = Tar::header(name, FILE, 0);
    change(&mut header);
    header.set_cksum();
    Tar::new().raw(&header, b"").end()
}

/// Ways out through links.
fn hostile_links(out: &str) -> Vec<Case> {
    let deep = "../".repeat(20);
    vec![
        (
            "climbing link",
            Tar::new().link("a", &deep).file(&format!("a{out}/victim"), "x").end(),
            "the link a in its path leads out",
        ),
        ("two links", Tar::new().link("a", ".").link("b", "a/..").file("b/x", "x").end(), "leads out"),
        (
            "parent link",
            Tar::new().dir("d").link("d/up", "../..").file("d/up/x", "x").end(),
            "the link d/up in its path leads out",
        ),
        ("hard link out", Tar::new().hard("a", "../outside/victim").end(), "link target: its name has \"..\""),
        ("absolute hard link", Tar::new().hard("a", &format!("{out}/victim")).end(), "which this layer has not"),
        ("hard link through link", Tar::new().link("l", &deep).hard("a", &format!("l{out}/victim")).end(), "leads out"),
        ("hard link to directory", Tar::new().dir("d").hard("a", "d").end(), "a hard link to a directory"),
        ("hard link to root", Tar::new().hard("a", "/").end(), "a hard link to a directory"),
        ("file as directory", Tar::new().file("f", "").file("f/x", "").end(), "f in its path is no directory"),
        ("dangling parent", Tar::new().link("l", "nowhere").file("l/x", "").end(), "l in its path is no directory"),
        ("root as link", Tar::new().link(".", "/").end(), "the root can only be a directory"),
    ]
}

/// Names and sizes that are too much.
fn hostile_numbers() -> Vec<Case> {
    vec![
        ("NUL in a name", Tar::new().pax(&[("path", b"a\0b")]).file("x", "").end(), "NUL"),
        ("long component", Tar::new().pax(&[("path", &[b'a'; 300])]).file("x", "").end(), "too long"),
        ("long path", Tar::new().pax(&[("path", &b"a/".repeat(3000))]).file("x", "").end(), "too long"),
        ("absurd uid", Tar::new().pax(&[("uid", b"4294967295")]).file("x", "").end(), "absurd uid 4294967295"),
        ("absurd size", Tar::new().pax(&[("size", b"9223372036854775807")]).file("x", "").end(), "absurd size"),
        ("huge size", header("x", |h| h.set_size(1 << 40)), "absurd size 1099511627776"),
        (
            "huge sparse",
            Tar::new()
                .pax(&[("GNU.sparse.realsize", b"9223372036854775807"), ("GNU.sparse.map", b"0,0")])
                .file("x", "")
                .end(),
            "absurd size",
        ),
        (
            "overlapping sparse",
            Tar::new()
                .pax(&[("GNU.sparse.realsize", b"100"), ("GNU.sparse.map", b"0,4,2,4")])
                .file("x", "12345678")
                .end(),
            "sparse map is not in order",
        ),
        (
            "huge PAX header",
            header("x", |h| {
                h.set_entry_type(tar::EntryType::XHeader);
                h.set_size(1 << 30);
            }),
            "extended header of 1073741824 bytes",
        ),
        (
            "huge long name",
            header("x", |h| {
                h.set_entry_type(tar::EntryType::GNULongName);
                h.set_size(1 << 40);
            }),
            "extended header",
        ),
    ]
}

/// Entries and archives that make no sense.
fn hostile_shapes() -> Vec<Case> {
    vec![
        ("dots", Tar::new().file("../victim", "x").end(), "\"../victim\" refused: its name has \"..\""),
        ("dots inside", Tar::new().file("a/../../victim", "x").end(), "has \"..\""),
        ("dots alone", Tar::new().dir("..").end(), "has \"..\""),
        ("root as file", Tar::new().file("./", "").end(), ""),
        ("whiteout of nothing", Tar::new().file(".wh.", "").end(), "a whiteout of nothing"),
        ("whiteout of parent", Tar::new().file("a/.wh...", "").end(), "a whiteout of nothing"),
        ("whiteout as directory", Tar::new().file(".wh.a/b", "").end(), "a whiteout is no directory"),
        ("forged whiteout", Tar::new().with("a", CHAR, "", b"", |_| {}).end(), "device 0:0"),
        (
            "damaged PAX header",
            Tar::new().raw(&Tar::header("x", b'x', 4), b"99 x").file("x", "").end(),
            "PAX header is damaged",
        ),
        ("unknown type", Tar::new().with("x", b'M', "", b"", |_| {}).end(), "unknown type"),
        ("cut", Tar::new().file("x", &"y".repeat(2000)).end()[..1500].to_vec(), "ends early"),
        ("no archive", b"this is no tar archive, but it is long enough to be a block".repeat(20), "wrong checksum"),
        ("cut gzip", gzip(&Tar::new().file("x", &"y".repeat(2000)).end())[..40].to_vec(), ""),
        ("bzip2", b"BZh91AY&SY".repeat(100), "bzip2 or xz"),
    ]
}

/// Each is refused, told by entry and reason, and leaves nothing, neither in the store nor outside.
#[tokio::test]
async fn hostile_layers() {
    let lab = Lab::new();
    let outside = lab.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    let links = hostile_links(outside.to_str().unwrap());
    let cases = links.into_iter().chain(hostile_numbers()).chain(hostile_shapes());
    for (what, layer, message) in cases {
        let store = lab.open();
        let refused = import_layers(&store, "hostile", vec![layer]).await;
        let error = match refused {
            Err(error) => error.chain(),
            Ok(_) if message.is_empty() => {
                store.remove("hostile").await.unwrap();
                String::new()
            }
            Ok(_) => panic!("{what} was accepted"),
        };
        assert!(error.contains(message), "{what}: {error}");
        assert!(store.list().is_empty(), "{what}");
        drop(store);
        lab.assert_empty(what);
        assert_eq!(names(&outside), ["victim"], "{what}");
        assert_eq!(fs::read(outside.join("victim")).unwrap(), b"untouched", "{what}");
    }
}

/// Links that stay within the layer are followed as they would be in the container.
#[tokio::test]
async fn harmless_links_are_followed() {
    let lab = Lab::new();
    let store = lab.open();
    let layer = Tar::new()
        .dir("usr")
        .dir("usr/lib")
        .link("lib", "usr/lib")
        .file("lib/a", "a")
        .dir("run")
        .dir("var")
        .link("var/run", "/run")
        .file("var/run/b", "b")
        .hard("var/run/c", "lib/a")
        .file("/absolute", "d")
        .link("lib", "elsewhere")
        .end();
    import_layers(&store, "links", vec![layer]).await.unwrap();
    let root = lab.root(&store, "links", "c").await;
    assert_eq!(fs::read(root.join("usr/lib/a")).unwrap(), b"a");
    assert_eq!(
        (fs::read(root.join("run/b")).unwrap(), fs::read(root.join("run/c")).unwrap()),
        (b"b".to_vec(), b"a".to_vec())
    );
    assert_eq!(fs::read(root.join("absolute")).unwrap(), b"d");
    assert_eq!(fs::read_link(root.join("lib")).unwrap().to_str(), Some("elsewhere"));
}

#[tokio::test]
async fn bombs_stop_at_the_limits() {
    let lab = Lab::new();
    let big = Tar::new().with("zeros", FILE, "", &vec![0; 2 << 20], |_| {}).end();
    let many = (0..200).fold(Tar::new(), |tar, i| tar.file(&format!("f{i}"), "")).end();
    let twice = gzip(&gzip(&big));
    let small = || Limits { ratio_free_bytes: 256 << 10, ratio_max: 100, ..Limits::default() };
    for (what, layer, limits, message) in [
        ("ratio", gzip(&big), small(), "a decompression bomb"),
        ("ratio of zstd", zstd(&big), small(), "a decompression bomb"),
        ("size", big.clone(), Limits { layer_bytes_max: 1 << 20, ..Limits::default() }, "absurd size"),
        ("packed size", gzip(&big), Limits { layer_bytes_max: 1 << 20, ..Limits::default() }, "absurd size"),
        ("entries", many, Limits { entries_max: 100, ..Limits::default() }, "more than 100 entries"),
        ("gzip in gzip", twice, Limits::default(), "Mismatch|expected|checksum"),
    ] {
        let store = Store::open(image::Config { limits, ..lab.config() }).unwrap();
        let error = match import_layers(&store, "bomb", vec![layer]).await {
            Err(error) => error,
            Ok(_) => panic!("{what} was accepted"),
        };
        let text = error.chain();
        assert!(message.split('|').any(|message| text.contains(message)), "{what}: {text}");
        assert!(!matches!(error, Error::Io { .. }), "{what}");
        drop(store);
        lab.assert_empty(what);
    }
}
