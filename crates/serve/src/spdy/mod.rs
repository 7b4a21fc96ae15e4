//! The part of SPDY/3.1 that Kubernetes clients use: frames and their header blocks. No connection, no I/O.
//!
//! Source: "SPDY Protocol - Draft 3.1" (chromium.org). Flow control frames are understood and ignored: the peers of this
//! protocol (spdystream and its ports) send no window updates and take no notice of them.

mod dictionary;
mod frame;
mod headers;

pub use frame::{Decoder, Frame, encode};
pub use headers::{HeaderDecoder, HeaderEncoder};

/// A stream's header: names in lower case, values as sent.
pub type Headers = Vec<(String, String)>;

/// What a peer did wrong. The connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not version 3.
    #[error("SPDY version {0} is not supported")]
    Version(u16),
    /// A frame's length does not fit its type, or is over the bound.
    #[error("frame of type {kind} has bad length {length}")]
    Length {
        /// The frame's type; 0 for data.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// Header block not readable.
    #[error("header block: {0}")]
    Headers(&'static str),
    /// Frames for stream 0.
    #[error("stream number 0")]
    StreamZero,
}
