//! Registries for the tests: a made-up one that misbehaves as told, and Debian's `docker-registry`.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use image::Digest;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body after which the connection is closed.
    pub cut: Option<usize>,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server on loopback that answers as its handler says and remembers what it was asked.
pub struct Server {
    pub address: SocketAddr,
    pub log: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub fn new(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (log, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let handler: Arc<Handler> = Arc::new(handler);
        let (log_of_server, stop_of_server) = (log.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop_of_server.load(Ordering::Relaxed) {
                    return;
                }
                let (handler, log) = (handler.clone(), log_of_server.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &*handler, &log));
            }
        });
        Self { address, log, stop }
    }

    /// Requests whose path contains a text.
    pub fn asked(&self, part: &str) -> Vec<Request> {
        self.log.lock().unwrap().iter().filter(|request| request.path.contains(part)).cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim_end().is_empty() {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let mut first = lines.first()?.split(' ');
        let mut request =
            Request { method: first.next()?.to_owned(), path: first.next()?.to_owned(), headers: HashMap::new() };
        for line in &lines[1..] {
            let (name, value) = line.split_once(':')?;
            request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        log.lock().unwrap().push(request.clone());
        let reply = handler(&request);
        let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        if let Some(cut) = reply.cut {
            stream.write_all(&reply.body[..cut]).ok()?;
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return None;
        }
        stream.write_all(&reply.body).ok()?;
    }
}

/// Content by path, as a well-behaved registry serves it.
#[derive(Clone, Default)]
pub struct Shelf {
    pub contents: HashMap<String, (String, Vec<u8>)>,
}

impl Shelf {
    pub fn manifest(mut self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) -> Self {
        for reference in [tag.to_owned(), Digest::of(bytes).to_string()] {
            self.contents.insert(format!("/v2/{repository}/manifests/{reference}"), (kind.into(), bytes.to_vec()));
        }
        self
    }

    pub fn blob(mut self, repository: &str, bytes: &[u8]) -> Self {
        let path = format!("/v2/{repository}/blobs/{}", Digest::of(bytes));
        self.contents.insert(path, ("application/octet-stream".into(), bytes.to_vec()));
        self
    }

    pub fn image(mut self, repository: &str, tag: &str, image: &super::Packed) -> Self {
        for blob in image.blobs() {
            self = self.blob(repository, blob);
        }
        self.manifest(repository, tag, super::MANIFEST, &image.manifest)
    }

    pub fn reply(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap();
        let Some((kind, bytes)) = self.contents.get(path) else {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            return Reply::new(404, body);
        };
        let from = request.header("range").strip_prefix("bytes=").and_then(|r| r.trim_end_matches('-').parse().ok());
        match from {
            Some(from) if from < bytes.len() => Reply::new(206, &bytes[from..])
                .with("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
            Some(_) => Reply::new(416, ""),
            None => Reply::new(200, bytes.clone()).with("Content-Type", kind),
        }
    }
}

/// Debian's registry, on loopback with a folder of its own.
pub struct DockerRegistry {
    pub address: SocketAddr,
    child: Child,
}

impl DockerRegistry {
    /// None if the program is not installed.
    pub fn start(folder: &Path) -> Option<Self> {
        let installed = Command::new("docker-registry").arg("--version").stdout(Stdio::null()).status();
        installed.ok()?;
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            folder.display()
        );
        std::fs::create_dir_all(folder).unwrap();
        let path = folder.join("config.yml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry").arg("serve").arg(&path).stderr(Stdio::null()).spawn().unwrap();
        let registry = Self { address, child };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::yield_now();
        }
        Some(registry)
    }

    pub fn push(&self, repository: &str, tag: &str, image: &super::Packed) {
        for blob in image.blobs() {
            let (status, headers) = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
            assert_eq!(status, 202, "upload begins");
            let location = headers.get("location").unwrap();
            let path = &location[location.find("/v2/").unwrap()..];
            let separator = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{separator}digest={}", Digest::of(blob));
            assert_eq!(self.send("PUT", &path, "application/octet-stream", blob).0, 201, "upload");
        }
        self.push_manifest(repository, tag, super::MANIFEST, &image.manifest);
    }

    pub fn push_manifest(&self, repository: &str, reference: &str, kind: &str, manifest: &[u8]) {
        let path = format!("/v2/{repository}/manifests/{reference}");
        assert_eq!(self.send("PUT", &path, kind, manifest).0, 201, "manifest");
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, HashMap<String, String>) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer);
        let mut lines = text.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        (status, headers)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
