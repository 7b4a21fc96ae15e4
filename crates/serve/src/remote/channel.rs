//! Channel framing: in each WebSocket message, the first byte says which stream the rest belongs to.

use bytes::Bytes;

/// Protocols of exec and attach, best first. In v5 a client can end a stream; in both, the exit is a `Status`.
pub const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
/// Channel of standard output.
pub const STDOUT: u8 = 1;
/// Channel of standard error.
pub const STDERR: u8 = 2;
/// Channel of the final `Status`.
pub const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// Standard input has ended (v5).
    StdinEnd,
    /// The terminal is this large now.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Nothing of interest: an empty piece, a stream only the server writes, the end of another stream.
    Nothing,
}

/// Why a message makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Without even a channel.
    #[error("empty message")]
    Empty,
    /// A channel the protocol does not have.
    #[error("unknown channel {0}")]
    UnknownChannel(u8),
    /// Not a terminal size.
    #[error("terminal size is not valid")]
    Resize,
}

/// Reads a message. `closes` tells whether the protocol knows the end-of-stream signal (v5).
pub fn decode(mut message: Bytes, closes: bool) -> Result<Input, Malformed> {
    if message.is_empty() {
        return Err(Malformed::Empty);
    }
    let channel = message.split_to(1)[0];
    Ok(match channel {
        STDIN if message.is_empty() => Input::Nothing,
        STDIN => Input::Stdin(message),
        RESIZE => resize(&message)?,
        CLOSE if closes && message.as_ref() == [STDIN] => Input::StdinEnd,
        CLOSE if closes => Input::Nothing,
        STDOUT | STDERR | STATUS => Input::Nothing,
        unknown => return Err(Malformed::UnknownChannel(unknown)),
    })
}

fn resize(text: &[u8]) -> Result<Input, Malformed> {
    let size: serde_json::Value = serde_json::from_slice(text).map_err(|_| Malformed::Resize)?;
    let field = |name: &str| size.get(name).and_then(|v| v.as_u64()).and_then(|v| u16::try_from(v).ok());
    let (width, height) = field("Width").zip(field("Height")).ok_or(Malformed::Resize)?;
    Ok(Input::Resize { width, height })
}

/// A message for the client.
pub fn encode(channel: u8, data: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(1 + data.len());
    message.push(channel);
    message.extend_from_slice(data);
    message.into()
}
