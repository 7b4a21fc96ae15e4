//! Images of a node: content, unpacked layers, and snapshots for containers.
//!
//! An image comes in by [`Store::import`] (docker archives, OCI layouts), [`Store::pull`] (a registry) or
//! [`Store::add_image_from_files`]. Its packed content goes to the content store (`blobs/sha256/DIGEST`), each layer is
//! unpacked once into a directory named by the digest of its plain archive (`layers/DIFFID/fs`), and last the index
//! (`index.json`) is replaced. [`Store::prepare`] makes the directories of an overlayfs over those layers for one
//! container (`snapshots/ID`), [`Store::mount`] mounts it.
//!
//! Invariants:
//! - What the index names is complete, verified, and flushed to the disk before the index says so.
//! - Unfinished things live in `ingest/`, doomed ones in `trash/`; both are emptied at open.
//! - Layers are never changed once in place; they are shared by images and snapshots and removed when the last goes.
//! - One process at a time has a store open (`lock`).
//! - Nothing in an archive reaches outside its layer's directory; see `tree`.
//! - A snapshot stays, mounted or not, until its maker removes it.
//!
//! It knows nothing of pods or clusters, starts no containers, keeps no task of its own alive, and never removes an
//! image unasked.

mod blobs;
mod builtin;
mod challenge;
mod compress;
mod connect;
mod digest;
mod error;
mod import;
mod index;
mod install;
mod keyed;
mod limits;
mod overlay;
mod pull;
mod reference;
mod registry;
mod snapshot;
mod spec;
mod store;
mod tar;
mod trash;
mod tree;
mod unpack;

pub use builtin::File;
pub use digest::{Digest, DigestError};
pub use error::{Error, RegistryError, Result};
pub use import::ImportOptions;
pub use limits::Limits;
pub use overlay::Mount;
pub use pull::{Listener, Progress, PullOptions};
pub use reference::{Reference, ReferenceError};
pub use registry::Auth;
pub use snapshot::{SnapshotInfo, Usage};
pub use spec::{Empty, ImageConfig, Platform, RootFs, RunConfig};
pub use store::{Config, DiskUsage, Image, Store};
