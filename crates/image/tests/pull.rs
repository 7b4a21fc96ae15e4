//! Pulls from registries that behave, and from one that does not: run as root.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod lab;
#[path = "lab/server.rs"]
mod server;

use image::{Auth, Config, Digest, Error, Limits, Progress, PullOptions, RegistryError, Store};
use lab::{FILE, INDEX, Lab, MANIFEST, Packed, Tar, descriptor, gzip};
use serde_json::json;
use server::{DockerRegistry, Reply, Server, Shelf};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes that do not shrink when packed.
fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

fn layer(name: &str, len: usize) -> Vec<u8> {
    Tar::new().with(name, FILE, "", &noise(len, len as u64 + 1), |_| {}).end()
}

async fn pull(store: &Arc<Store>, name: &str) -> image::Result<Digest> {
    store.pull(name, PullOptions::default()).await
}

fn auth(username: &str, password: &str) -> PullOptions {
    PullOptions { auth: Some(Auth { username: username.into(), password: password.into() }), progress: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debians_registry() {
    let lab = Lab::new();
    let Some(registry) = DockerRegistry::start(&lab.path("registry")) else {
        println!("skipped: the program docker-registry is not installed");
        return;
    };
    let store = lab.open();
    let image = Packed::new(&[layer("a", 1 << 20), layer("b", 1000), layer("c", 500_000)], gzip);
    registry.push("team/app", "1.0", &image);
    let here = json!({"os": "linux", "architecture": image::Platform::host().architecture});
    let mut entry = descriptor(MANIFEST, &image.manifest);
    entry["platform"] = here;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string().into_bytes();
    registry.push_manifest("team/app", "all", INDEX, &index);

    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    let options = PullOptions {
        progress: Some(Arc::new(move |progress: &Progress| listener.lock().unwrap().push(progress.clone()))),
        ..PullOptions::default()
    };
    let name = format!("{}/team/app", registry.address);
    let id = store.pull(&format!("{name}:1.0"), options).await.unwrap();
    assert_eq!(id, Digest::of(&image.config));
    let told = told.lock().unwrap().clone();
    let bytes = image.layers.iter().map(|layer| layer.len() as u64).sum();
    assert_eq!(told[0], Progress::Resolved { digest: Digest::of(&image.manifest), layers: 3, bytes });
    assert_eq!(told.iter().filter(|p| matches!(p, Progress::Ready { .. })).count(), 3);
    let root = lab.root(&store, &format!("{name}:1.0"), "c").await;
    assert_eq!(fs::read(root.join("a")).unwrap(), noise(1 << 20, (1 << 20) + 1));

    assert_eq!(pull(&store, &format!("{name}:all")).await.unwrap(), id);
    let found = store.status(&id.to_string()).unwrap().unwrap();
    assert_eq!(found.names, [format!("{name}:1.0"), format!("{name}:all")]);
    let mut digests = [&image.manifest, &index].map(|document| format!("{name}@{}", Digest::of(document)));
    digests.sort();
    assert_eq!(found.digests, digests);
    assert_eq!(pull(&store, &digests[0]).await.unwrap(), id);
    let missing = pull(&store, &format!("{name}:none")).await.unwrap_err();
    assert!(missing.is_not_found() && missing.chain().contains("manifest unknown"), "{}", missing.chain());
    assert!(pull(&store, &format!("{}/nobody/knows", registry.address)).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_downloads_are_resumed() {
    let lab = Lab::new();
    let image = Packed::new(&[layer("a", 1_500_000)], gzip);
    for honest in [true, false] {
        let store = lab.open();
        let shelf = Shelf::default().image("x", "latest", &image);
        let served = Arc::new(AtomicUsize::new(0));
        let counter = served.clone();
        let big = Digest::of(&image.layers[0]).to_string();
        let server = Server::new(move |request| {
            let mut request = request.clone();
            if !honest {
                // A registry that knows no ranges sends all again.
                request.headers.remove("range");
            }
            let mut reply = shelf.reply(&request);
            if request.path.contains(&big) {
                let n = counter.fetch_add(1, Ordering::Relaxed);
                reply.cut = (n < 3).then_some(if honest { 350_000 } else { (n + 1) * 350_000 });
            }
            reply
        });
        let name = format!("{}/x", server.address);
        pull(&store, &name).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        let asked: Vec<String> =
            server.asked(&Digest::of(&image.layers[0]).hex()).iter().map(|r| r.header("range").to_owned()).collect();
        assert!(asked.len() == 4 && asked[0].is_empty() && asked[1..].iter().all(|r| r != "bytes=0-"), "{asked:?}");
        let root = lab.root(&store, &name, "c").await;
        assert_eq!(fs::read(root.join("a")).unwrap().len(), 1_500_000);
        store.remove_snapshot("c").await.unwrap();
        store.remove(&name).await.unwrap();
        drop(store);
        lab.assert_empty("removal");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_share_one_pull() {
    let lab = Lab::new();
    let store = lab.open();
    let image = Packed::new(&[layer("a", 1_000_000), layer("b", 10)], gzip);
    let shelf = Shelf::default().image("x", "latest", &image).image("x", "other", &image);
    let server = Server::new(move |request| shelf.reply(request));
    let name = format!("{}/x", server.address);
    let other = format!("{name}:other");
    let pulls = (0..10).map(|i| pull(&store, if i % 2 == 0 { &name } else { &other }));
    let ids = futures::future::try_join_all(pulls).await.unwrap();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(server.asked("/manifests/").len(), 2, "one for each name");
    assert_eq!(server.asked("/blobs/").len(), 3, "each layer and the configuration once");

    // A caller that goes away does not harm the other; when all are gone, nothing is left.
    let mut first = Box::pin(pull(&store, &name));
    let second = pull(&store, &name);
    assert!(futures::poll!(&mut first).is_pending());
    drop(first);
    second.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials() {
    let lab = Lab::new();
    let store = lab.open();
    let image = Packed::new(&[layer("a", 1000)], gzip);
    let shelf = Shelf::default().image("x", "latest", &image);
    let storage = shelf.clone();
    // Where a registry sends its clients for content; it must never see credentials.
    let elsewhere = Server::new(move |request| storage.reply(request));
    let away = format!("http://localhost:{}", elsewhere.address.port());
    let address = Arc::new(Mutex::new(String::new()));
    let own = address.clone();
    let server = Server::new(move |request| {
        let authorization = request.header("authorization");
        if request.path.starts_with("/token") {
            let scope = request.path.contains("scope=repository:x:pull") && request.path.contains("service=s%20t");
            return match (authorization, scope) {
                ("Basic dTpw", true) => Reply::new(200, r#"{"access_token":"secret"}"#),
                _ => Reply::new(401, r#"{"errors":[{"code":"DENIED","message":"who are you"}]}"#),
            };
        }
        if authorization != "Bearer secret" {
            let realm = own.lock().unwrap().clone();
            let challenge =
                format!("Bearer realm=\"http://{realm}/token\",service=\"s t\",scope=\"repository:x:pull\"");
            return Reply::new(401, "").with("WWW-Authenticate", challenge);
        }
        match request.path.contains("/blobs/") {
            true => Reply::new(307, "").with("Location", format!("{away}{}", request.path)),
            false => shelf.reply(request),
        }
    });
    *address.lock().unwrap() = server.address.to_string();
    let name = format!("{}/x", server.address);
    for options in [PullOptions::default(), auth("u", "wrong")] {
        let error = store.pull(&name, options).await.unwrap_err().chain();
        assert!(error.contains("authentication required: DENIED: who are you"), "{error}");
    }
    store.pull(&name, auth("u", "p")).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    let content = elsewhere.asked("/blobs/");
    assert!(content.len() == 2 && content.iter().all(|request| request.header("authorization").is_empty()));

    let shelf = Shelf::default().image("y", "latest", &image);
    let basic = Server::new(move |request| match request.header("authorization") {
        "Basic dTpw" => shelf.reply(request),
        _ => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let name = format!("{}/y", basic.address);
    assert!(pull(&store, &name).await.unwrap_err().chain().contains("no credentials given"));
    store.pull(&name, auth("u", "p")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_come_first_and_the_registry_last() {
    let lab = Lab::new();
    let image = Packed::new(&[layer("a", 1000)], gzip);
    let shelf = Shelf::default().image("x", "latest", &image);
    let own = shelf.clone();
    let registry = Server::new(move |request| own.reply(request));
    let empty = Server::new(|_| Reply::new(404, ""));
    let mirror = Server::new(move |request| {
        let path = request.path.replacen("/hub", "", 1);
        shelf.reply(&server::Request { path, ..request.clone() })
    });
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let name = format!("{}/x", registry.address);
    let open = |mirrors: Vec<String>| {
        let mirrors = [(registry.address.to_string(), mirrors)].into();
        Store::open(Config { mirrors, ..lab.config() }).unwrap()
    };
    let store = open(vec![format!("http://{}/hub", mirror.address)]);
    pull(&store, &name).await.unwrap();
    assert!(registry.asked("").is_empty() && mirror.asked("?ns=127.0.0.1").len() == 3);
    assert_eq!(store.list()[0].names, [format!("{name}:latest")]);
    store.remove(&name).await.unwrap();
    drop(store);
    let store = open(vec![format!("http://{dead}"), format!("http://{}", empty.address)]);
    pull(&store, &name).await.unwrap();
    assert_eq!((empty.asked("").len(), registry.asked("").len()), (1, 3));
}

type Change = Box<dyn Fn(&server::Request, Reply) -> Reply + Send + Sync>;

/// Answers that are wrong end in an error that says so, and leave nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registries_that_lie() {
    let lab = Lab::new();
    let image = Packed::new(&[layer("a", 100_000)], gzip);
    let on = |part: &'static str, change: fn(Reply) -> Reply| -> Change {
        Box::new(move |request, reply| if request.path.contains(part) { change(reply) } else { reply })
    };
    let cases: Vec<(&str, Change, &str)> = vec![
        ("other content", on("/blobs/", |r| Reply { body: vec![7; r.body.len()], ..r }), "expected sha256:"),
        ("longer content", on("/blobs/", |r| Reply { body: [r.body, vec![0; 10]].concat(), ..r }), "longer than"),
        ("shorter content", on("/blobs/", |r| Reply { body: vec![], ..r }), "it ended after 0 of"),
        ("content denied", on("/blobs/", |_| Reply::new(403, "<html>")), "denied"),
        ("no content", on("/blobs/", |_| Reply::new(404, "")), "not found"),
        (
            "wrong digest header",
            on("/manifests/", |r| r.with("Docker-Content-Digest", Digest::of(b"").to_string())),
            "manifest: expected sha256:e3b0",
        ),
        ("no JSON", on("/manifests/", |_| Reply::new(200, "<html>")), "expected value"),
        (
            "huge manifest",
            on("/manifests/", |_| Reply::new(200, vec![b' '; 100_000])),
            "an answer of more than 65536 bytes",
        ),
        ("schema 1", on("/manifests/", |_| Reply::new(200, r#"{"schemaVersion":1}"#)), "old schema 1"),
        (
            "other machines",
            on("/manifests/", |_| {
                Reply::new(
                    200,
                    r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1,"platform":{"os":"linux","architecture":"pdp11"}}]}"#,
                )
            }),
            "is for linux/pdp11, this node is linux/",
        ),
        (
            "no configuration",
            on("/manifests/", |_| Reply::new(200, r#"{"schemaVersion":2,"layers":[]}"#)),
            "names no configuration",
        ),
        (
            "redirect loop",
            on("/blobs/", |_| Reply::new(302, "").with("Location", "/v2/x/blobs/again")),
            "too many redirects",
        ),
        ("redirect to nowhere", on("/blobs/", |_| Reply::new(302, "")), "a redirect to nowhere"),
        (
            "redirect to a file",
            on("/blobs/", |_| Reply::new(302, "").with("Location", "file:///etc/passwd")),
            "makes no sense",
        ),
        (
            "endless 401",
            on("/manifests/", |_| Reply::new(401, "").with("WWW-Authenticate", "Negotiate")),
            "does not say how",
        ),
        ("too many requests", on("/manifests/", |_| Reply::new(429, "")), "too many requests"),
    ];
    for (what, change, message) in cases {
        let limits = Limits { document_bytes_max: 64 << 10, ..Limits::default() };
        let store = Store::open(Config { limits, ..lab.config() }).unwrap();
        let shelf = Shelf::default().image("x", "latest", &image);
        let server = Server::new(move |request| change(request, shelf.reply(request)));
        let error = pull(&store, &format!("{}/x", server.address)).await.unwrap_err().chain();
        assert!(error.contains(message), "{what}: {error}");
        assert!(store.list().is_empty());
        drop(store);
        lab.assert_empty(what);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passing_failures_and_unreachable_registries() {
    let lab = Lab::new();
    let store = lab.open();
    let image = Packed::new(&[layer("a", 1000)], gzip);
    let shelf = Shelf::default().image("x", "latest", &image);
    let count = AtomicUsize::new(0);
    let server = Server::new(move |request| match count.fetch_add(1, Ordering::Relaxed) % 2 {
        0 => Reply::new(503, ""),
        _ => shelf.reply(request),
    });
    pull(&store, &format!("{}/x", server.address)).await.unwrap();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = pull(&store, &format!("{dead}/x")).await.unwrap_err();
    assert!(error.retryable() && error.chain().contains("refused"), "{}", error.chain());
    let Error::Shared(inner) = error else { panic!("shared") };
    assert!(matches!(&*inner, Error::Registry { source: RegistryError::Unreachable(_), .. }));
    assert!(matches!(pull(&store, "Bad Name").await, Err(Error::Reference { .. })));
}
