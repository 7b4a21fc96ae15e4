//! Port-forward on the channels of a WebSocket, as the Python client speaks it: a data and an error channel for each port named
//! in the query, the first message on each being the port's number.
//!
//! The protocol knows no half-closing: a connection ends when the pod ends it or the client goes.

use super::port_forward::Connect;
use crate::websocket::{CloseCode, CloseFrame, Message, Opening};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Pieces that wait to be written to a pod, and messages that wait to be sent to the client.
const QUEUE_PIECES: usize = 16;
/// What a pod sends is passed on in pieces of at most this size.
const PIECE_BYTES: usize = 32 << 10;

/// Ports at once: channels are one byte.
pub(super) const PORTS_MAX: usize = 128;

/// When the pod has ended all connections, the client has this long to leave by itself: the Python client loses what it has not
/// passed on yet when it is told that the session is over. Upstream's runtimes take as long.
const GOODBYE_GRACE: Duration = Duration::from_secs(1);

/// Serves `ports` until all connections have ended or the client leaves.
pub(super) async fn session(opening: Opening, connect: Connect, ports: Vec<u16>) {
    let socket = match opening.open().await {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "the client left before its WebSocket opened"),
    };
    let (mut sink, mut stream) = socket.split();
    let (outgoing, mut queue) = mpsc::channel::<Bytes>(QUEUE_PIECES);
    let (mut inputs, mut tasks) = (Vec::new(), JoinSet::new());
    for (index, port) in ports.into_iter().enumerate() {
        let Ok(channel) = u8::try_from(index * 2) else { break };
        let (sender, input) = mpsc::channel::<Bytes>(QUEUE_PIECES);
        inputs.push(sender);
        tasks.spawn(one(channel, port, connect.clone(), input, outgoing.clone()));
    }
    drop(outgoing);
    let receive = async {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(mut bytes) if bytes.len() > 1 => {
                    let channel = usize::from(bytes.split_to(1)[0]);
                    // Nobody writes to error channels, and a pod that has closed takes no more bytes.
                    if let Some(input) = inputs.get(channel / 2).filter(|_| channel % 2 == 0) {
                        let _ = input.send(bytes).await;
                    }
                }
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) => {}
                _ => return,
            }
        }
    };
    let send = async {
        while let Some(bytes) = queue.recv().await {
            if sink.send(Message::Binary(bytes)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(GOODBYE_GRACE).await;
        let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = sink.send(Message::Close(Some(goodbye))).await;
    };
    // What is left of the connections ends with `tasks`.
    tokio::select! { () = receive => {}, () = send => {} }
}

fn message(channel: u8, data: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(1 + data.len());
    message.put_u8(channel);
    message.extend_from_slice(data);
    message.freeze()
}

/// One port: says which it is on both channels, connects, and copies until the pod has ended its side.
async fn one(channel: u8, port: u16, connect: Connect, mut input: mpsc::Receiver<Bytes>, out: mpsc::Sender<Bytes>) {
    for channel in [channel, channel + 1] {
        if out.send(message(channel, &port.to_le_bytes())).await.is_err() {
            return;
        }
    }
    let failed = match connect(port).await {
        Err(error) => Some(error),
        Ok(connection) => {
            let (mut reader, mut writer) = tokio::io::split(connection);
            let upwards = async {
                while let Some(bytes) = input.recv().await {
                    if writer.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                std::future::pending::<()>().await;
            };
            let downwards = async {
                let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
                loop {
                    buffer.clear();
                    match reader.read_buf(&mut buffer).await {
                        Ok(0) => return None,
                        Ok(_) if out.send(message(channel, &buffer)).await.is_err() => return None,
                        Ok(_) => {}
                        Err(error) => return Some(error.to_string()),
                    }
                }
            };
            tokio::select! { end = downwards => end, () = upwards => None }
        }
    };
    if let Some(error) = failed {
        let _ = out.send(message(channel + 1, error.as_bytes())).await;
    }
}
