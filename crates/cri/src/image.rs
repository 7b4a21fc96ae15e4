//! `ImageService`: the images of a node.

use crate::Result;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// An image of the node's store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The image id: the digest of its configuration, `sha256:…`.
    pub id: String,
    /// Names with a tag, fully qualified: `docker.io/library/busybox:latest`.
    pub repo_tags: Vec<String>,
    /// Names with a digest: `docker.io/library/busybox@sha256:…`.
    pub repo_digests: Vec<String>,
    /// Bytes of the unpacked layers.
    pub size_bytes: u64,
    /// The user of the image's configuration: a number or a name, as `USER` says; empty for root.
    pub user: String,
    /// Never removed to make room.
    pub pinned: bool,
}

/// Credentials for one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AuthConfig {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("username", &self.username).finish_non_exhaustive()
    }
}

/// The filesystem that holds images and snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesystemUsage {
    /// Where it is mounted.
    pub mountpoint: String,
    /// Bytes that images and snapshots use.
    pub used_bytes: u64,
}

/// The images of a node.
#[async_trait]
pub trait ImageService: Send + Sync + 'static {
    /// All images.
    async fn list_images(&self) -> Result<Vec<Image>>;
    /// The image of that reference (a name as users write it, a name with digest, or an id), or none.
    async fn image_status(&self, image: &str) -> Result<Option<Image>>;
    /// Brings an image to this node and returns its id. Concurrent pulls of one image share the work.
    async fn pull_image(&self, image: &str, auth: Option<AuthConfig>) -> Result<String>;
    /// Removes the names of an image, and its content when nothing else uses it.
    async fn remove_image(&self, image: &str) -> Result<()>;
    /// What images and snapshots take on disk.
    async fn image_fs_info(&self) -> Result<FilesystemUsage>;
}
