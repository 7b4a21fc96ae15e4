//! Port-forward: connections into a pod as pairs of SPDY streams, tunnelled in the binary messages of a WebSocket; the older
//! protocol with channels is in `channel_forward`.
//!
//! For each connection the client opens an error stream and a data stream with the same `requestID` and `port`; we
//! connect when both are there, copy, and write to the error stream what went wrong. Closing is by half: the end of
//! either direction ends that direction only.

use super::{Session, channel_forward, no_session};
use crate::spdy::{Decoder, Frame, HeaderEncoder, Headers, Malformed, encode};
use crate::websocket::{self, CloseCode, CloseFrame, Message, Opening, WebSocket};
use crate::{Body, Duplex};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{SplitSink, SplitStream};
use futures::{FutureExt, SinkExt, StreamExt};
use http::{Request, Response};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// SPDY frames in binary messages: what kubectl speaks.
pub const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// A pair of channels for each port named in the query.
const CHANNELS: &str = "v4.channel.k8s.io";

/// Connections at once through one session.
const CONNECTIONS_MAX: usize = 1_024;
/// Pieces that wait to be written to a pod, and frames that wait to be sent to the client.
const QUEUE_PIECES: usize = 16;
/// What a pod sends is passed on in pieces of at most this size.
const PIECE_BYTES: usize = 32 << 10;

const REFUSED: u32 = 3;
const CANCELLED: u32 = 5;

pub(super) type Connect = Arc<dyn Fn(u16) -> BoxFuture<'static, Result<Box<dyn Duplex>, String>> + Send + Sync>;

/// Answers a request for port-forward. `connect` is called with the pod's port for each connection of the client; its
/// error is shown to the user.
pub fn port_forward<B, F>(
    mut request: Request<B>,
    connect: impl Fn(u16) -> F + Send + Sync + 'static,
) -> (Response<Body>, Session)
where
    F: Future<Output = Result<Box<dyn Duplex>, String>> + Send + 'static,
{
    let (response, opening) = match websocket::accept(&mut request, &[PROTOCOL, CHANNELS]) {
        Ok((_, opening)) if opening.protocol.is_empty() => {
            let text = format!("unable to upgrade: the subprotocol {PROTOCOL} is required\n");
            return (websocket::refusal(http::StatusCode::BAD_REQUEST, text), no_session());
        }
        Ok(accepted) => accepted,
        Err(refusal) => return (*refusal, no_session()),
    };
    let connect: Connect = Arc::new(move |port| connect(port).boxed());
    if opening.protocol == PROTOCOL {
        return (response, Box::pin(session(opening, connect)));
    }
    match ports(request.uri().query().unwrap_or_default()) {
        Ok(ports) => (response, Box::pin(channel_forward::session(opening, connect, ports))),
        Err(text) => (websocket::refusal(http::StatusCode::BAD_REQUEST, text), no_session()),
    }
}

/// The ports a client names before it connects.
fn ports(query: &str) -> Result<Vec<u16>, String> {
    let named = query.split('&').filter_map(|pair| pair.strip_prefix("port="));
    let ports: Option<Vec<u16>> = named.map(|port| port.parse().ok().filter(|port| *port > 0)).collect();
    match ports {
        None => Err("query parameter \"port\" must be a number from 1 to 65535\n".into()),
        Some(ports) if ports.is_empty() => Err("query parameter \"port\" is required\n".into()),
        Some(ports) if ports.len() > channel_forward::PORTS_MAX => Err("too many ports\n".into()),
        Some(ports) => Ok(ports),
    }
}

async fn session(opening: Opening, connect: Connect) {
    let socket = match opening.open().await {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "the client left before its WebSocket opened"),
    };
    let (sink, stream) = socket.split();
    let (outgoing, queue) = mpsc::channel(QUEUE_PIECES);
    let received = async {
        if let Err(error) = receive(stream, connect, outgoing).await {
            tracing::debug!(%error, "port-forward");
        }
    };
    // Two halves that wait for each other only through the queue: a pod that does not read must not stop what it sends.
    tokio::join!(received, send(queue, sink));
}

/// Sends frames until nobody makes any.
async fn send(mut queue: mpsc::Receiver<Frame>, mut sink: SplitSink<WebSocket, Message>) {
    let mut headers = HeaderEncoder::default();
    while let Some(frame) = queue.recv().await {
        let mut bytes = BytesMut::new();
        encode(&frame, &mut headers, &mut bytes);
        if sink.send(Message::Binary(bytes.freeze())).await.is_err() {
            return;
        }
    }
    let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = sink.send(Message::Close(Some(goodbye))).await;
}

/// A pair of streams, or the first half of one.
#[derive(Debug, Default)]
struct Pair {
    port: u16,
    error_stream: Option<u32>,
    data_stream: Option<u32>,
}

/// The connection's state: which streams are open, and where their bytes go.
struct Streams {
    connect: Connect,
    outgoing: mpsc::Sender<Frame>,
    /// Pairs by request id. They stay until their connection has ended.
    pairs: HashMap<String, Pair>,
    /// Where a data stream's bytes go; gone when the client has ended it.
    inputs: HashMap<u32, mpsc::Sender<Bytes>>,
    /// Receivers of data streams whose error stream is not there yet.
    waiting: HashMap<u32, mpsc::Receiver<Bytes>>,
    tasks: JoinSet<String>,
}

/// Receives until the client leaves. Ending, it breaks off all connections.
async fn receive(
    mut stream: SplitStream<WebSocket>,
    connect: Connect,
    outgoing: mpsc::Sender<Frame>,
) -> Result<(), Malformed> {
    let mut decoder = Decoder::default();
    let mut streams = Streams {
        connect,
        outgoing,
        pairs: HashMap::new(),
        inputs: HashMap::new(),
        waiting: HashMap::new(),
        tasks: JoinSet::new(),
    };
    loop {
        let message = tokio::select! {
            message = stream.next() => message,
            Some(ended) = streams.tasks.join_next() => {
                streams.forget(ended);
                continue;
            }
        };
        match message {
            Some(Ok(Message::Binary(bytes))) => decoder.push(&bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            _ => return Ok(()),
        }
        while let Some(frame) = decoder.next_frame()? {
            if streams.apply(frame).await.is_none() {
                return Ok(());
            }
        }
    }
}

impl Streams {
    /// None when the session is over.
    async fn apply(&mut self, frame: Frame) -> Option<()> {
        match frame {
            Frame::SynStream { stream, headers, fin, .. } => self.open(stream, &headers, fin).await?,
            Frame::Data { stream, data, fin } => {
                if let Some(input) = self.inputs.get(&stream)
                    && !data.is_empty()
                {
                    // Fails when the pod has closed the connection; the client learns of that by the other direction.
                    let _ = input.send(data).await;
                }
                if fin {
                    self.inputs.remove(&stream);
                }
            }
            Frame::Headers { stream, fin: true, .. } | Frame::RstStream { stream, .. } => {
                self.inputs.remove(&stream);
            }
            Frame::Ping(id) if id % 2 == 1 => self.outgoing.send(Frame::Ping(id)).await.ok()?,
            Frame::GoAway { .. } => return None,
            _ => {}
        }
        Some(())
    }

    async fn open(&mut self, stream: u32, headers: &Headers, fin: bool) -> Option<()> {
        let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let port = header("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0_u16);
        // Old clients send no request id; their streams come in pairs of consecutive numbers.
        let kind = header("streamtype").unwrap_or_default();
        let request = header("requestid")
            .map_or_else(|| if kind == "error" { stream } else { stream.wrapping_sub(2) }.to_string(), str::to_owned);
        let full = self.pairs.len() >= CONNECTIONS_MAX && !self.pairs.contains_key(&request);
        let (Some(port), false, "error" | "data") = (port, full, kind) else {
            return self.outgoing.send(Frame::RstStream { stream, status: REFUSED }).await.ok();
        };
        let pair = self.pairs.entry(request.clone()).or_default();
        let slot = if kind == "error" { &mut pair.error_stream } else { &mut pair.data_stream };
        if slot.is_some() || (pair.port != 0 && pair.port != port) {
            return self.outgoing.send(Frame::RstStream { stream, status: REFUSED }).await.ok();
        }
        *slot = Some(stream);
        pair.port = port;
        if kind == "data" {
            let (sender, receiver) = mpsc::channel(QUEUE_PIECES);
            if !fin {
                self.inputs.insert(stream, sender);
            }
            self.waiting.insert(stream, receiver);
        }
        let both = pair.error_stream.zip(pair.data_stream);
        self.outgoing.send(Frame::SynReply { stream, headers: Vec::new(), fin: false }).await.ok()?;
        if let Some((error_stream, data_stream)) = both
            && let Some(input) = self.waiting.remove(&data_stream)
        {
            let (connect, outgoing) = (self.connect.clone(), self.outgoing.clone());
            self.tasks.spawn(async move {
                let result = connection(connect(port), data_stream, input, &outgoing).await;
                report(result, error_stream, data_stream, &outgoing).await;
                request
            });
        }
        Some(())
    }

    fn forget(&mut self, ended: Result<String, tokio::task::JoinError>) {
        let Ok(request) = ended else { return };
        if let Some(data_stream) = self.pairs.remove(&request).and_then(|pair| pair.data_stream) {
            self.inputs.remove(&data_stream);
        }
    }
}

/// Connects and copies until both directions have ended.
async fn connection(
    connecting: BoxFuture<'static, Result<Box<dyn Duplex>, String>>,
    stream: u32,
    mut input: mpsc::Receiver<Bytes>,
    outgoing: &mpsc::Sender<Frame>,
) -> Result<(), String> {
    let (mut reader, mut writer) = tokio::io::split(connecting.await?);
    let upwards = async {
        while let Some(bytes) = input.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    let downwards = async {
        loop {
            let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
            let read = reader.read_buf(&mut buffer).await;
            let (data, end) = match read {
                Ok(0) => (Bytes::new(), Ok(())),
                Ok(_) => (buffer.freeze(), Ok(())),
                Err(error) => (Bytes::new(), Err(error.to_string())),
            };
            let fin = data.is_empty();
            if outgoing.send(Frame::Data { stream, data, fin }).await.is_err() || fin {
                return end;
            }
        }
    };
    // The client ends its side when it has read the end of ours. A pod that has closed takes no more bytes.
    tokio::pin!(upwards, downwards);
    tokio::select! {
        end = &mut downwards => end,
        () = &mut upwards => downwards.await,
    }
}

/// Ends the pair: what went wrong goes to the error stream. A client takes an empty error stream for success.
async fn report(result: Result<(), String>, error_stream: u32, data_stream: u32, outgoing: &mpsc::Sender<Frame>) {
    let message = result.err().unwrap_or_default();
    let failed = !message.is_empty();
    let _ = outgoing.send(Frame::Data { stream: error_stream, data: message.into(), fin: true }).await;
    if failed {
        let _ = outgoing.send(Frame::RstStream { stream: data_stream, status: CANCELLED }).await;
    }
}
