//! Kubernetes' protobuf (`application/vnd.kubernetes.protobuf`), driven by the schema table.
//!
//! An object on the wire is `k8s\0` and an `Unknown` message: the object's version and kind beside its own message. Objects
//! decoded are in no written form yet: what reads a request puts them through [`crate::schema::check`], as it does with JSON.

mod read;
mod write;

pub use read::{ReadError, decode, decode_message};
pub use write::{CLOSE, encode, encode_message, item_head_len, open, open_item, watch_frame, wrap};

/// What every encoded object begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Whether a body is in this format.
pub fn is_protobuf(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}
