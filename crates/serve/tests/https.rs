//! Server and client over TLS: certificates, versions of HTTP, limits, upgrades, draining.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use pki::{Authority, Leaf, Names, Pki, Profile, Subject, Swap};
use serve::client::Client;
use serve::{Limits, Peer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

struct Server {
    pki: Pki,
    address: SocketAddr,
    token: CancellationToken,
    task: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

/// One permit for each request that is slow to answer.
static STARTED: Semaphore = Semaphore::const_new(0);

/// Says who asked, or waits, or echoes after an upgrade.
async fn answer(peer: Peer, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/slow" => {
            STARTED.add_permits(1);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        "/never" => {
            STARTED.add_permits(1);
            std::future::pending().await
        }
        "/upgrade" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
                let mut buffer = [0; 5];
                io.read_exact(&mut buffer).await.unwrap();
                io.write_all(&buffer).await.unwrap();
                io.shutdown().await.unwrap();
            });
            let mut response = Response::new(Full::default());
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "echo".parse().unwrap());
            return response;
        }
        _ => {}
    }
    let name = peer.certificate.map(|der| Subject::of(&der).unwrap().common_name).unwrap_or_default();
    Response::new(Full::from(format!("{name} {:?}", request.version())))
}

async fn start(limits: Limits) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let names = Names {
        node: "n".into(),
        cluster_domain: "cluster.local".into(),
        service_ip: "10.96.0.1".parse().unwrap(),
        node_ips: vec![],
        extra: vec![],
    };
    let pki = Pki::open_or_create(dir.path(), &names).unwrap();
    let config = pki::server_config(pki.swap(Leaf::ApiServer), &[pki.authority()]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = CancellationToken::new();
    let task = tokio::spawn(serve::serve(listener, Some(Arc::new(config)), limits, answer, token.clone()));
    Server { pki, address, token, task, _dir: dir }
}

impl Server {
    fn client(&self, certificate: Option<Arc<Swap>>) -> Client {
        Client::new(pki::client_config(self.pki.authority(), certificate).unwrap())
    }

    async fn get(&self, client: &Client, path: &str) -> Result<String, String> {
        let uri = format!("https://{}{path}", self.address);
        let request = Request::get(uri).body(serve::empty()).unwrap();
        let response = client.send(request).await.map_err(|e| e.to_string())?;
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?;
        Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
    }
}

#[tokio::test]
async fn who_is_at_the_far_end() {
    let server = start(Limits::default()).await;
    assert_eq!(server.get(&server.client(None), "/").await.unwrap(), " HTTP/1.1");
    let admin = server.client(Some(server.pki.swap(Leaf::Admin)));
    assert_eq!(server.get(&admin, "/").await.unwrap(), "kubernetes-admin HTTP/1.1");
    let any = Client::without_verification().unwrap();
    assert_eq!(server.get(&any, "/").await.unwrap(), " HTTP/1.1");

    let impostor = Authority::create("kubernetes", SystemTime::now()).unwrap();
    let forged = impostor.issue(&Profile::client("admin", &["system:masters"]), SystemTime::now()).unwrap();
    let forger = server.client(Some(Arc::new(Swap::new(&forged).unwrap())));
    assert!(server.get(&forger, "/").await.is_err(), "a forged certificate gets no answer");
    let wary = Client::new(pki::client_config(&impostor, None).unwrap());
    assert!(server.get(&wary, "/").await.unwrap_err().contains("certificate"), "an unknown server gets no request");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_at_once() {
    let server = start(Limits::default()).await;
    let before = server.pki.swap(Leaf::ApiServer).current();
    server.pki.renew(SystemTime::now() + Duration::from_secs(250 * 86_400)).unwrap();
    assert_ne!(server.pki.swap(Leaf::ApiServer).current().cert, before.cert);
    // Valid from now + 250 days minus the five minutes: a client of today refuses it, which shows that it is the one shown.
    assert!(server.get(&server.client(None), "/").await.unwrap_err().contains("certificate"));
}

#[tokio::test]
async fn plain_http_is_told_so() {
    let server = start(Limits::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    // What was not read is reset after the answer.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut text)).await.unwrap();
    assert!(String::from_utf8_lossy(&text).contains("Client sent an HTTP request to an HTTPS server."));
}

#[tokio::test]
async fn large_headers_are_refused() {
    let server = start(Limits::default()).await;
    let client = server.client(None);
    let uri = format!("https://{}/", server.address);
    let request = Request::get(uri).header("x-large", "x".repeat(200 << 10)).body(serve::empty()).unwrap();
    assert!(client.send(request).await.map_or(true, |response| response.status() == 431));
    assert_eq!(server.get(&client, "/").await.unwrap(), " HTTP/1.1");
}

#[tokio::test]
async fn upgrades_are_tunnelled() {
    let server = Arc::new(start(Limits::default()).await);
    let relay = {
        let (server, client) = (server.clone(), server.client(None));
        move |_: Peer, mut request: Request<Incoming>| {
            let (server, client) = (server.clone(), client.clone());
            async move {
                let near = hyper::upgrade::on(&mut request);
                let uri = format!("https://{}/upgrade", server.address);
                let onward = Request::get(uri).header("connection", "upgrade").header("upgrade", "echo");
                let mut response = client.send(onward.body(serve::empty()).unwrap()).await.unwrap();
                let far = hyper::upgrade::on(&mut response);
                tokio::spawn(serve::client::tunnel(near, far));
                response.map(|_| Full::<Bytes>::default())
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = CancellationToken::new();
    let task = tokio::spawn(serve::serve(listener, None, Limits::default(), relay, token.clone()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello").await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.starts_with("HTTP/1.1 101") && text.ends_with("hello"), "{text}");
    token.cancel();
    tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn draining_lets_requests_finish_and_ends_those_that_do_not() {
    let limits = Limits { drain_timeout: Duration::from_secs(1), ..Limits::default() };
    let server = Arc::new(start(limits).await);
    let (quick, stuck) = (server.client(None), server.client(None));
    server.get(&quick, "/").await.unwrap();
    let (one, two) = (server.clone(), server.clone());
    let slow = tokio::spawn(async move { one.get(&quick, "/slow").await });
    let never = tokio::spawn(async move { two.get(&stuck, "/never").await });
    tokio::time::timeout(DEADLINE, STARTED.acquire_many(2)).await.unwrap().unwrap().forget();
    server.token.cancel();
    assert_eq!(slow.await.unwrap().unwrap(), " HTTP/1.1");
    assert!(tokio::time::timeout(DEADLINE, never).await.unwrap().unwrap().is_err());
    let server = Arc::into_inner(server).unwrap();
    tokio::time::timeout(DEADLINE, server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
