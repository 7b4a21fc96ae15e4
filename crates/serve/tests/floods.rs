//! Clients that flood, stall or never read: they are cut off in bounded time and memory, and others are served meanwhile.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use serve::{Body, Limits, Peer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

const DEADLINE: Duration = Duration::from_secs(30);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const CHUNK: usize = 64 << 10;

/// What the answers to `/endless` have given, and how many of them there are.
#[derive(Clone, Default)]
struct Counts {
    given_bytes: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

/// Counts itself while it lives.
struct Open(Counts);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(counts: Counts, request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/endless" => {
            counts.open.fetch_add(1, Ordering::SeqCst);
            let open = Open(counts);
            let stream = futures::stream::repeat_with(move || {
                open.0.given_bytes.fetch_add(CHUNK, Ordering::SeqCst);
                Ok::<_, serve::BoxError>(Frame::data(Bytes::from(vec![b'x'; CHUNK])))
            });
            Response::new(StreamBody::new(stream).boxed_unsync())
        }
        "/large" => {
            Response::new(Full::new(Bytes::from(vec![b'x'; 8 << 20])).map_err(|never| match never {}).boxed_unsync())
        }
        _ => Response::new(serve::full("good")),
    }
}

async fn start(limits: Limits) -> (SocketAddr, Counts, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, counts, stop) = (listener.local_addr().unwrap(), Counts::default(), CancellationToken::new());
    let handler = {
        let counts = counts.clone();
        move |_: Peer, request| answer(counts.clone(), request)
    };
    tokio::spawn(serve::serve(listener, None, limits, handler, stop.clone()));
    (address, counts, stop.drop_guard())
}

fn impatient() -> Limits {
    let short = Duration::from_millis(300);
    Limits { idle_timeout: short, unread_timeout: short, drain_timeout: short, ..Limits::default() }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const RST_STREAM: u8 = 3;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// GET / of host `h`, from the static table (RFC 7541).
const GET: &[u8] = &[0x82, 0x87, 0x84, 0x41, 1, b'h'];

async fn greeted(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(PREFACE).await.unwrap();
    client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    client
}

/// Asks as anybody would.
async fn served(address: SocketAddr) {
    let ask = async {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("good"), "{text}");
    };
    tokio::time::timeout(DEADLINE, ask).await.expect("others are served");
}

/// Sends the same over and over, reading what comes, until the server has had enough.
async fn flooded(mut client: TcpStream, mut next: impl FnMut() -> Vec<u8>) {
    let flood = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            if client.write_all(&next()).await.is_err() {
                return;
            }
            match client.try_read(&mut buffer) {
                Ok(0) => return,
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
                _ => {}
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, flood).await.expect("the flood is cut off");
}

/// Returns when the server has closed the connection.
async fn closed(mut client: TcpStream) {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(DEADLINE, client.read_to_end(&mut rest)).await;
    drop(end.expect("the connection is closed"));
}

#[tokio::test]
async fn silence_is_not_waited_for_forever() {
    let (address, _, _stop) = start(impatient()).await;
    closed(TcpStream::connect(address).await.unwrap()).await;
    closed(greeted(address).await).await;
    for half in [&b"GET / HTTP/1.1\r\nhost: h\r\nx"[..], &PREFACE[..10]] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(half).await.unwrap();
        closed(client).await;
    }
    let mut half = greeted(address).await;
    half.write_all(&frame(HEADERS, END_STREAM, 1, &GET[..3])).await.unwrap();
    closed(half).await;
    served(address).await;
}

#[tokio::test]
async fn who_holds_all_connections_does_not_hold_them_for_long() {
    let (address, _, _stop) = start(Limits { connections_max: 4, ..impatient() }).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    served(address).await;
}

#[tokio::test]
async fn floods_are_cut_off() {
    let (address, _, _stop) = start(Limits::default()).await;
    let mut stream = 1_u32;
    // CVE-2023-44487: requests that are reset as soon as they are made.
    flooded(greeted(address).await, || {
        let mut requests = Vec::new();
        for _ in 0..100 {
            requests.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, GET));
            requests.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            stream += 2;
        }
        requests
    })
    .await;
    served(address).await;
    // A header without end, in CONTINUATION frames that are empty or not.
    for piece in [&b""[..], b"\x40\x01a\x01b"] {
        let mut client = greeted(address).await;
        client.write_all(&frame(HEADERS, END_STREAM, 1, GET)).await.unwrap();
        flooded(client, || frame(CONTINUATION, 0, 1, piece).repeat(100)).await;
        served(address).await;
    }
    // Headers that are small on the wire and large in memory: the same entry of the dynamic table, again and again.
    let mut bomb = GET.to_vec();
    bomb.extend(b"\x40\x01a\x7f\x81\x1e");
    bomb.extend([b'x'; 4_000]);
    bomb.extend([0xbe; 8_000]);
    let mut client = greeted(address).await;
    client.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb)).await.unwrap();
    served(address).await;
}

#[tokio::test]
async fn pings_keep_no_connection_open() {
    let (address, _, _stop) = start(impatient()).await;
    flooded(greeted(address).await, || frame(PING, 0, 0, b"12345678").repeat(10)).await;
    flooded(greeted(address).await, || frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]).repeat(10)).await;
    served(address).await;
}

#[tokio::test]
async fn who_never_reads_is_cut_off_and_costs_little() {
    let (address, counts, _stop) = start(impatient()).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(b"GET /endless HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let mut second = greeted(address).await;
        let mut get = GET.to_vec();
        get[2] = 0x44;
        get.splice(3..3, [8]);
        get.splice(4..4, *b"/endless");
        for stream in 0..20 {
            second.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * stream + 1, &get)).await.unwrap();
        }
        clients.push((first, second));
    }
    let end = async {
        while counts.given_bytes.load(Ordering::SeqCst) == 0 || counts.open.load(Ordering::SeqCst) > 0 {
            served(address).await;
        }
    };
    tokio::time::timeout(DEADLINE, end).await.expect("all of them are cut off");
    let each = counts.given_bytes.load(Ordering::SeqCst) / 210;
    assert!(each < 4 << 20, "{each} bytes were made for each answer that nobody reads");
    served(address).await;
}

#[tokio::test]
async fn who_reads_slowly_gets_all_of_it() {
    let (address, _, _stop) = start(impatient()).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /large HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
    let (mut total, mut buffer) = (0, vec![0; 256 << 10]);
    let began = tokio::time::Instant::now();
    loop {
        let read = client.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        total += read;
        // Slow is what is tested: a second and more for all of it.
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(total > 8 << 20, "{total} bytes in {:?}", began.elapsed());
}
