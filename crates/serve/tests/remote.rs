//! Exec, attach and port-forward as a client sees them on the wire.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use serve::remote::{Process, Wanted, exec, port_forward};
use serve::spdy::{Decoder, Frame, HeaderEncoder, encode};
use serve::{Duplex, Limits};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::{CancellationToken, DropGuard};

const DEADLINE: Duration = Duration::from_secs(20);
const FORWARD: &str = "SPDY/3.1+portforward.k8s.io";

type Socket = WebSocketStream<TcpStream>;
type Sizes = Arc<Mutex<Vec<(u16, u16)>>>;

/// A server on loopback whose path chooses what runs.
async fn server() -> (SocketAddr, DropGuard, Sizes) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = CancellationToken::new();
    let sizes = Sizes::default();
    let seen = sizes.clone();
    let handler = move |_, request: http::Request<hyper::body::Incoming>| {
        let (seen, path) = (seen.clone(), request.uri().path().to_owned());
        let wanted = Wanted::from_query(request.uri().query().unwrap_or_default());
        async move {
            let (response, session) = match path.as_str() {
                "/forward" => port_forward(request, connect),
                _ => exec(request, wanted, async move { process(&path, seen) }),
            };
            tokio::spawn(session);
            response
        }
    };
    tokio::spawn(serve::serve(listener, None, Limits::default(), handler, token.clone()));
    (address, token.drop_guard(), sizes)
}

fn fixed(out: &'static [u8], err: &'static [u8], code: i32) -> Process {
    Process {
        stdin: None,
        stdout: Some(Box::pin(out)),
        stderr: Some(Box::pin(err)),
        resize: Box::new(|_, _| {}),
        exit: Box::pin(async move { Ok(code) }),
    }
}

fn process(path: &str, sizes: Sizes) -> Result<Process, String> {
    match path {
        "/fixed" => Ok(fixed(b"out", b"err", 0)),
        "/exit3" => Ok(fixed(b"", b"", 3)),
        "/large" => Ok(fixed(vec![b'x'; 3 << 20].leak(), b"", 0)),
        "/cat" => {
            let (near, far) = tokio::io::duplex(1024);
            let (mut far_read, mut far_write) = tokio::io::split(far);
            let (near_read, near_write) = tokio::io::split(near);
            let copied = async move {
                let copied = tokio::io::copy(&mut far_read, &mut far_write).await.map_err(|e| e.to_string())?;
                far_write.shutdown().await.map_err(|e| e.to_string())?;
                Ok(i32::try_from(copied).unwrap())
            };
            Ok(Process {
                stdin: Some(Box::pin(near_write)),
                stdout: Some(Box::pin(near_read)),
                resize: Box::new(move |w, h| sizes.lock().unwrap().push((w, h))),
                exit: Box::pin(copied),
                ..fixed(b"", b"", 0)
            })
        }
        "/held" => {
            // The process has ended, but a child of it keeps the output open.
            let (near, far) = tokio::io::duplex(64);
            std::mem::forget(far);
            Ok(Process { stdout: Some(Box::pin(near)), ..fixed(b"", b"", 7) })
        }
        _ => Err("no such command".into()),
    }
}

async fn connect(port: u16) -> Result<Box<dyn Duplex>, String> {
    if port == 81 {
        return Err("connection refused by 81".into());
    }
    let (near, far) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(far);
        let _ = write.write_all(format!("{port}:").as_bytes()).await;
        // Port 82 ends by itself.
        let bytes_max = if port == 82 { 5 } else { u64::MAX };
        let _ = tokio::io::copy(&mut (&mut read).take(bytes_max), &mut write).await;
        let _ = write.shutdown().await;
    });
    Ok(Box::new(near))
}

async fn dial(address: SocketAddr, path: &str, protocols: &str) -> Result<(Socket, String), Error> {
    let mut request = format!("ws://{address}{path}").into_client_request()?;
    if !protocols.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    }
    let stream = TcpStream::connect(address).await?;
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await?;
    let agreed = response.headers().get("sec-websocket-protocol").map(|v| v.to_str().unwrap().to_owned());
    Ok((socket, agreed.unwrap_or_default()))
}

/// All that a session sends, by channel, until it closes; whether it said goodbye.
async fn collect(socket: &mut Socket) -> ([String; 5], bool) {
    let (mut channels, mut goodbye) = (<[Vec<u8>; 5]>::default(), false);
    let all = async {
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Binary(bytes) => channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]),
                Message::Close(frame) => goodbye = frame.is_some_and(|frame| u16::from(frame.code) == 1000),
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("the session ends");
    (channels.map(|channel| String::from_utf8(channel).unwrap()), goodbye)
}

#[tokio::test]
async fn output_and_exit_code_come_through() {
    let (address, _guard, _) = server().await;
    let cases = [
        ("/fixed?output=1&error=1", "out", "err", r#""status":"Success""#),
        ("/fixed?stdout=true", "out", "", r#""status":"Success""#),
        ("/fixed?stderr=true", "", "err", r#""status":"Success""#),
        ("/fixed?stdout=true&stderr=true&tty=true", "out", "", r#""status":"Success""#),
        ("/exit3?stdout=1", "", "", r#"{"causes":[{"message":"3","reason":"ExitCode"}]}"#),
        ("/held?stdout=1", "", "", r#"{"causes":[{"message":"7","reason":"ExitCode"}]}"#),
        ("/nothing?stdout=1", "", "", r#""message":"Internal error occurred: no such command""#),
    ];
    for (path, out, err, status) in cases {
        for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
            let (mut socket, agreed) = dial(address, path, protocol).await.unwrap();
            assert_eq!(agreed, protocol);
            let ([_, stdout, stderr, end, _], goodbye) = collect(&mut socket).await;
            assert_eq!((stdout.as_str(), stderr.as_str(), goodbye), (out, err, true), "{path}");
            assert!(end.contains(status), "{path}: {end}");
        }
    }
}

#[tokio::test]
async fn nothing_of_a_large_output_is_lost() {
    let (address, _guard, _) = server().await;
    let (mut socket, _) = dial(address, "/large?stdout=1", "v5.channel.k8s.io").await.unwrap();
    assert_eq!(collect(&mut socket).await.0[1].len(), 3 << 20);
}

#[tokio::test]
async fn typing_resizing_and_the_end_of_input() {
    let (address, _guard, sizes) = server().await;
    let messages = [&b"\x04{\"Width\":80,\"Height\":24}"[..], b"\0hello ", b"\0", b"\0world", b"\xff\0"];
    for (protocols, agreed, out, status) in [
        ("v5.channel.k8s.io,v4.channel.k8s.io", "v5.channel.k8s.io", "hello world", r#""message":"11""#),
        // v4 has no end of input: 255 is nonsense, and the session breaks off.
        ("v4.channel.k8s.io, v5.channel.k8s.io", "v4.channel.k8s.io", "", ""),
    ] {
        let (mut socket, got) = dial(address, "/cat?stdin=1&stdout=1&tty=1", protocols).await.unwrap();
        assert_eq!(got, agreed);
        for message in messages {
            socket.send(Message::Binary(Bytes::copy_from_slice(message))).await.unwrap();
        }
        let ([_, stdout, _, end, _], goodbye) = collect(&mut socket).await;
        assert!(stdout == out || !goodbye, "{stdout}");
        assert!(end.contains(status) && end.is_empty() == status.is_empty(), "{end}");
    }
    assert!(sizes.lock().unwrap().contains(&(80, 24)));
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let (address, _guard, _) = server().await;
    for (path, protocols) in [("/fixed", "v3.channel.k8s.io"), ("/forward", "v5.channel.k8s.io"), ("/forward", "")] {
        match dial(address, path, protocols).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), 400, "{path} {protocols}"),
            other => panic!("{path} {protocols}: {other:?}"),
        }
    }
    let mut plain = TcpStream::connect(address).await.unwrap();
    let request = b"POST /exec HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: SPDY/3.1\r\n\r\n";
    plain.write_all(request).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, plain.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("upgrade to websocket is required"), "{answer}");
}

/// The client's end of a tunnel.
struct Tunnel {
    socket: Socket,
    encoder: HeaderEncoder,
    decoder: Decoder,
}

impl Tunnel {
    async fn open(address: SocketAddr) -> Self {
        let (socket, agreed) = dial(address, "/forward", FORWARD).await.unwrap();
        assert_eq!(agreed, FORWARD);
        Self { socket, encoder: HeaderEncoder::default(), decoder: Decoder::default() }
    }

    async fn send(&mut self, frames: &[Frame]) {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| encode(frame, &mut self.encoder, &mut bytes));
        // In odd pieces: frames need not keep to messages.
        for piece in bytes.chunks(701) {
            self.socket.send(Message::Binary(Bytes::copy_from_slice(piece))).await.unwrap();
        }
    }

    async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let message = tokio::time::timeout(DEADLINE, self.socket.next()).await.expect("a frame comes");
            match message.unwrap().unwrap() {
                Message::Binary(bytes) => self.decoder.push(&bytes),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn replies(&mut self, streams: &[u32]) {
        for stream in streams {
            assert_eq!(self.next().await, Frame::SynReply { stream: *stream, headers: vec![], fin: false });
        }
    }

    /// Reads until both streams have ended: the bytes of each.
    async fn until_end(&mut self, error_stream: u32) -> (String, String) {
        let (mut error, mut data, mut open) = (Vec::new(), Vec::new(), 2);
        while open > 0 {
            match self.next().await {
                Frame::Data { stream, data: bytes, fin } => {
                    let to = if stream == error_stream { &mut error } else { &mut data };
                    to.extend_from_slice(&bytes);
                    open -= i32::from(fin);
                }
                Frame::RstStream { .. } => open -= 1,
                other => panic!("{other:?}"),
            }
        }
        (String::from_utf8(error).unwrap(), String::from_utf8(data).unwrap())
    }
}

fn open(stream: u32, kind: &str, port: &str, request: &str) -> Frame {
    let headers = [("streamtype", kind), ("port", port), ("requestid", request)];
    let headers = headers.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    Frame::SynStream { stream, headers, fin: false, unidirectional: false }
}

fn data(stream: u32, bytes: &[u8], fin: bool) -> Frame {
    Frame::Data { stream, data: Bytes::copy_from_slice(bytes), fin }
}

#[tokio::test]
async fn connections_are_forwarded() {
    let (address, _guard, _) = server().await;
    let mut tunnel = Tunnel::open(address).await;
    tunnel.send(&[open(1, "error", "80", "0"), data(1, b"", true)]).await;
    tunnel.replies(&[1]).await;
    tunnel.send(&[open(3, "data", "80", "0"), data(3, b"hello", false), data(3, b" world", true)]).await;
    tunnel.replies(&[3]).await;
    assert_eq!(tunnel.until_end(1).await, (String::new(), "80:hello world".to_owned()));

    tunnel.send(&[Frame::Ping(1), open(5, "error", "81", "1"), data(5, b"", true), open(7, "data", "81", "1")]).await;
    assert_eq!(tunnel.next().await, Frame::Ping(1));
    tunnel.replies(&[5, 7]).await;
    assert_eq!(tunnel.until_end(5).await.0, "connection refused by 81");

    tunnel.send(&[open(9, "data", "0", "2"), open(11, "chat", "80", "2")]).await;
    for stream in [9, 11] {
        assert_eq!(tunnel.next().await, Frame::RstStream { stream, status: 3 });
    }
}

#[tokio::test]
async fn much_data_goes_both_ways_at_once() {
    let (address, _guard, _) = server().await;
    let mut tunnel = Tunnel::open(address).await;
    tunnel.send(&[open(1, "error", "80", "0"), data(1, b"", true), open(3, "data", "80", "0")]).await;
    tunnel.replies(&[1, 3]).await;
    let Tunnel { socket, mut encoder, mut decoder } = tunnel;
    let (mut sink, mut stream) = socket.split();
    let sender = tokio::spawn(async move {
        for i in 0..64 {
            let mut bytes = BytesMut::new();
            encode(&data(3, &[b'x'; 64 << 10], i == 63), &mut encoder, &mut bytes);
            sink.send(Message::Binary(bytes.freeze())).await.unwrap();
        }
        sink
    });
    let (mut total, mut ends) = (0, 0);
    while ends < 2 {
        let message = tokio::time::timeout(DEADLINE, stream.next()).await.expect("data comes").unwrap().unwrap();
        decoder.push(&message.into_data());
        while let Some(frame) = decoder.next_frame().unwrap() {
            let Frame::Data { stream, data, fin } = frame else { panic!("{frame:?}") };
            total += if stream == 3 { data.len() } else { 0 };
            ends += i32::from(fin);
        }
    }
    assert_eq!(total, (64 << 16) + "80:".len());
    drop(sender.await.unwrap());
}

#[tokio::test]
async fn ports_are_forwarded_on_channels() {
    let (address, _guard, _) = server().await;
    let offered = "v5.channel.k8s.io, v4.channel.k8s.io";
    let (mut socket, agreed) = dial(address, "/forward?port=82&port=81", offered).await.unwrap();
    assert_eq!(agreed, "v4.channel.k8s.io");
    socket.send(Message::Binary(Bytes::from_static(b"\0hello"))).await.unwrap();
    let (channels, goodbye) = collect(&mut socket).await;
    // Each begins with its port: 82 is R, 81 is Q.
    let want = [
        "R\0".to_owned() + "82:hello",
        "R\0".into(),
        "Q\0".into(),
        "Q\0connection refused by 81".into(),
        String::new(),
    ];
    assert_eq!((channels, goodbye), (want, true));
    for query in ["", "?port=0", "?port=x", "?port=70000"] {
        let refused = dial(address, &format!("/forward{query}"), offered).await;
        assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 400), "{query}");
    }
}
