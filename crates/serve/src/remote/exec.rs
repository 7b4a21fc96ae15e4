//! Exec and attach: a process's streams on the channels of a WebSocket.

use super::channel::{self, Input};
use super::{Outcome, Session, no_session};
use crate::Body;
use crate::websocket::{self, CloseCode, CloseFrame, Message, Opening, WebSocket};
use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{Request, Response};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A readable stream of a process.
pub type Reader = Pin<Box<dyn AsyncRead + Send>>;
/// A writable stream of a process; shutting it down is the end of its standard input.
pub type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// What a process writes is passed on in pieces of at most this size.
const PIECE_BYTES: usize = 32 << 10;
/// Pieces that wait to be sent, or to be read by the process, before their source is stopped.
const QUEUE_PIECES: usize = 8;
/// After the exit code is known, output that is still on its way is awaited this long: a process that left a child
/// behind with its output open must not hold the session.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);
/// How long the client may take to answer the closing handshake.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// Which streams a client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

impl Wanted {
    /// Reads a query: `stdin`, `stdout`, `stderr`, `tty` as the API has them, or `input`, `output`, `error` as kubelets do.
    pub fn from_query(query: &str) -> Self {
        let is_set = |names: &[&str]| {
            query.split('&').filter_map(|pair| pair.split_once('=')).any(|(name, value)| {
                names.contains(&name) && matches!(value, "1" | "t" | "T" | "true" | "True" | "TRUE")
            })
        };
        Self {
            stdin: is_set(&["stdin", "input"]),
            stdout: is_set(&["stdout", "output"]),
            stderr: is_set(&["stderr", "error"]),
            tty: is_set(&["tty"]),
        }
    }
}

/// A running process with its streams, as the one who runs it sees them.
pub struct Process {
    /// Takes what the client types.
    pub stdin: Option<Writer>,
    /// What it prints.
    pub stdout: Option<Reader>,
    /// What it complains.
    pub stderr: Option<Reader>,
    /// Called with columns and rows when the client's terminal changes. Must not block.
    pub resize: Box<dyn FnMut(u16, u16) + Send>,
    /// Its exit code; an error when it could not be waited for. Dropping it lets go of the process.
    pub exit: Pin<Box<dyn Future<Output = Result<i32, String>> + Send>>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Process")
    }
}

/// Answers a request for exec or attach. `start` runs once the WebSocket is open, and its error reaches the client as an
/// internal error. Streams that were not wanted are not connected even when the process has them.
pub fn exec<B>(
    mut request: Request<B>,
    wanted: Wanted,
    start: impl Future<Output = Result<Process, String>> + Send + 'static,
) -> (Response<Body>, Session) {
    let (response, opening) = match websocket::accept(&mut request, &channel::PROTOCOLS) {
        Ok(accepted) => accepted,
        Err(refusal) => return (*refusal, no_session()),
    };
    (response, Box::pin(session(opening, wanted, start)))
}

async fn session(opening: Opening, wanted: Wanted, start: impl Future<Output = Result<Process, String>> + Send) {
    let closes = opening.protocol == channel::PROTOCOLS[0];
    let socket = match opening.open().await {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "the client left before its WebSocket opened"),
    };
    let (sink, stream) = socket.split();
    let (outgoing, queue) = mpsc::channel(QUEUE_PIECES);
    let (typed, keys) = mpsc::channel(QUEUE_PIECES);
    let (resized, sizes) = mpsc::channel(QUEUE_PIECES);
    let main = async {
        // Clients that wait for a first message see that the connection stands.
        let first = [(wanted.stdout, channel::STDOUT), (wanted.stderr, channel::STDERR), (true, channel::STATUS)];
        let first = first.iter().find(|(wanted, _)| *wanted).map_or(channel::STATUS, |(_, channel)| *channel);
        let _ = outgoing.send(channel::encode(first, &[])).await;
        let outcome = match start.await {
            Ok(process) => run(process, wanted, &outgoing, keys, sizes).await,
            Err(message) => Outcome::Failed(message),
        };
        let _ = outgoing.send(channel::encode(channel::STATUS, &outcome.to_status())).await;
        drop(outgoing);
    };
    let served = async { tokio::join!(main, send(queue, sink)) };
    let input = receive(stream, closes, typed, resized);
    tokio::pin!(served, input);
    tokio::select! {
        _ = &mut served => {
            // Our closing handshake is out. Closing the socket before the client has read it could take it away.
            let _ = tokio::time::timeout(CLOSE_GRACE, input).await;
        }
        () = &mut input => {}
    }
}

/// Runs a process until it has ended and its output is passed on.
async fn run(
    process: Process,
    wanted: Wanted,
    outgoing: &mpsc::Sender<Bytes>,
    keys: mpsc::Receiver<Bytes>,
    mut sizes: mpsc::Receiver<(u16, u16)>,
) -> Outcome {
    let Process { stdin, stdout, stderr, mut resize, exit } = process;
    let ended = CancellationToken::new();
    let outputs = async {
        tokio::join!(
            pass_output(stdout.filter(|_| wanted.stdout), channel::STDOUT, outgoing, &ended),
            pass_output(stderr.filter(|_| wanted.stderr && !wanted.tty), channel::STDERR, outgoing, &ended),
        );
    };
    let exit = async {
        let code = exit.await;
        ended.cancel();
        code
    };
    let sizes = async {
        while let Some((width, height)) = sizes.recv().await {
            resize(width, height);
        }
    };
    let until_end = async { tokio::join!(exit, outputs).0 };
    // Neither typing nor resizing ends a session, so they go on for ever.
    let inputs = async {
        tokio::join!(feed(stdin.filter(|_| wanted.stdin), keys), sizes);
        std::future::pending().await
    };
    let code = tokio::select! {
        code = until_end => code,
        never = inputs => never,
    };
    code.map_or_else(Outcome::Failed, Outcome::Exited)
}

/// Reads a process's output until its end; once the process has `ended`, until nothing has come for a while.
async fn pass_output(reader: Option<Reader>, channel: u8, outgoing: &mpsc::Sender<Bytes>, ended: &CancellationToken) {
    let Some(mut reader) = reader else { return };
    let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
    loop {
        buffer.clear();
        let silence = async {
            ended.cancelled().await;
            tokio::time::sleep(OUTPUT_GRACE).await;
        };
        let read = tokio::select! {
            read = reader.read_buf(&mut buffer) => read,
            () = silence => return,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if outgoing.send(channel::encode(channel, &buffer)).await.is_err() {
            return;
        }
    }
}

/// Gives a process what was typed; the end of it, too. Without standard input it is thrown away.
async fn feed(stdin: Option<Writer>, mut keys: mpsc::Receiver<Bytes>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(bytes) = keys.recv().await {
        if stdin.write_all(&bytes).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
    let _ = stdin.shutdown().await;
}

/// Sends what is queued until the queue ends, then says goodbye.
async fn send(mut queue: mpsc::Receiver<Bytes>, mut sink: SplitSink<WebSocket, Message>) {
    while let Some(message) = queue.recv().await {
        if sink.send(Message::Binary(message)).await.is_err() {
            return;
        }
    }
    let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = sink.send(Message::Close(Some(goodbye))).await;
}

/// Receives until the client leaves or talks nonsense.
async fn receive(
    mut stream: SplitStream<WebSocket>,
    closes: bool,
    typed: mpsc::Sender<Bytes>,
    resized: mpsc::Sender<(u16, u16)>,
) {
    let mut typed = Some(typed);
    while let Some(Ok(message)) = stream.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            _ => continue,
        };
        match channel::decode(bytes, closes) {
            // A failing send means that the process has ended or reads nothing: what is typed is thrown away.
            Ok(Input::Stdin(bytes)) => {
                if let Some(typed) = &typed {
                    let _ = typed.send(bytes).await;
                }
            }
            Ok(Input::StdinEnd) => typed = None,
            Ok(Input::Resize { width, height }) => {
                let _ = resized.try_send((width, height));
            }
            Ok(Input::Nothing) => {}
            Err(error) => return tracing::debug!(%error, "the client's message makes no sense"),
        }
    }
}
