//! What can go wrong with images, and whose fault it is.

use crate::digest::Digest;
use crate::reference::ReferenceError;
use std::io;
use std::path::{Path, PathBuf};

/// An operation on the store that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference is not one.
    #[error("couldn't parse image name \"{name}\"")]
    Reference {
        /// As the user wrote it.
        name: String,
        /// What is wrong with it.
        source: ReferenceError,
    },
    /// No image of that reference or id is here.
    #[error("image \"{0}\" is not in the store")]
    NoSuchImage(String),
    /// An id prefix that fits several images.
    #[error("image id \"{0}\" fits more than one image")]
    Ambiguous(String),
    /// No snapshot of that name.
    #[error("snapshot \"{0}\" does not exist")]
    NoSuchSnapshot(String),
    /// A snapshot of that name is here, of another image.
    #[error("snapshot \"{0}\" exists already")]
    SnapshotExists(String),
    /// A snapshot name with other characters than letters, digits, `.`, `_`, `-`, or longer than 128.
    #[error("\"{0}\" is no name for a snapshot")]
    SnapshotName(String),
    /// Another process has the store open.
    #[error("the image store {root} is in use by another process{holder}")]
    Locked {
        /// The store.
        root: PathBuf,
        /// `` (pid 12)`` when known.
        holder: String,
    },
    /// A later version of the program wrote this store.
    #[error("the image store {root} has format {found}, this program knows up to {known}: use a newer program")]
    Newer {
        /// The store.
        root: PathBuf,
        /// What is written in it.
        found: u32,
        /// What this program writes.
        known: u32,
    },
    /// A file operation failed.
    #[error("{step} {path}")]
    Io {
        /// What was being done: `write`, `open`.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A document is not what it should be.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Content does not have the digest it was asked by.
    #[error("{what}: expected {expected}, got {found}")]
    Mismatch {
        /// Which content.
        what: &'static str,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// An archive that is refused: damaged, hostile, or over a limit.
    #[error("archive entry \"{entry}\" refused: {reason}")]
    Entry {
        /// The name of the entry, shortened.
        entry: String,
        /// Why.
        reason: String,
    },
    /// An archive that cannot be read as a whole.
    #[error("archive refused: {0}")]
    Archive(String),
    /// The image is for another machine.
    #[error("image \"{image}\" is for {found}, this node is {wanted}")]
    Platform {
        /// Which image.
        image: String,
        /// What it offers.
        found: String,
        /// What this node needs.
        wanted: String,
    },
    /// Mounting a snapshot failed.
    #[error("mount snapshot \"{id}\" on {target}: {step}")]
    Mount {
        /// Which snapshot.
        id: String,
        /// Where to.
        target: PathBuf,
        /// The call that failed.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The registry could not be used.
    #[error("{method} {url}")]
    Registry {
        /// The request's method.
        method: &'static str,
        /// The request's target, without credentials.
        url: String,
        /// What came of it.
        source: RegistryError,
    },
    /// The same pull, done for another caller at the same time, failed.
    #[error(transparent)]
    Shared(std::sync::Arc<Error>),
}

/// What a registry, or the way to it, answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No connection, or one that broke or stalled. Worth another try.
    #[error("{0}")]
    Unreachable(String),
    /// 404: no such repository, tag or content (or not for these credentials).
    #[error("not found{0}")]
    NotFound(String),
    /// 401: credentials are needed or wrong.
    #[error("authentication required{0}")]
    Unauthorized(String),
    /// 403: these credentials may not.
    #[error("denied{0}")]
    Denied(String),
    /// 429. Worth another try later.
    #[error("too many requests{0}")]
    TooManyRequests(String),
    /// Another status.
    #[error("status {status}{message}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The registry's words.
        message: String,
    },
    /// An answer that makes no sense, or is over a limit.
    #[error("{0}")]
    Protocol(String),
}

impl RegistryError {
    /// Whether the same request may succeed when tried again.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TooManyRequests(_) => true,
            Self::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }
}

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Nothing of that name is here, or in the registry.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NoSuchImage(_) | Self::NoSuchSnapshot(_) => true,
            Self::Registry { source, .. } => matches!(source, RegistryError::NotFound(_)),
            Self::Shared(inner) => inner.is_not_found(),
            _ => false,
        }
    }

    /// Whether the same operation may succeed later without anybody changing anything.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Registry { source, .. } => source.retryable(),
            Self::Shared(inner) => inner.retryable(),
            _ => false,
        }
    }

    /// The disk is full.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Shared(inner) => inner.is_no_space(),
            _ => false,
        }
    }

    /// The message and those of its causes, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    pub(crate) fn io(step: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::Io { step, path: path.as_ref().to_owned(), source: source.into() }
    }

    pub(crate) fn entry(entry: &[u8], reason: impl Into<String>) -> Self {
        Self::Entry { entry: shorten(entry), reason: reason.into() }
    }

    pub(crate) fn damaged(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Damaged { what: what.into(), reason: reason.to_string() }
    }
}

/// A name from a stranger, made fit for a message.
pub(crate) fn shorten(name: &[u8]) -> String {
    const LENGTH_MAX: usize = 200;
    let text: String = String::from_utf8_lossy(&name[..name.len().min(LENGTH_MAX)])
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if name.len() > LENGTH_MAX { format!("{text}…") } else { text }
}
