//! `ImageService`: the store, in the words of the CRI.

use crate::service::Sandbox;
use async_trait::async_trait;
use cri::{AuthConfig, FilesystemUsage, Image, ImageService, Result};
use image::{Auth, Error, PullOptions};

/// A failure of the image store.
pub(crate) fn error(image: &str, error: &Error) -> cri::Error {
    if error.is_not_found() {
        return cri::Error::NotFound { kind: "image", id: image.to_owned() };
    }
    cri::Error::Internal(error.chain())
}

fn describe(image: image::Image) -> Image {
    Image {
        id: image.id.to_string(),
        repo_tags: image.names,
        repo_digests: image.digests,
        size_bytes: image.size_bytes,
        user: image.user,
        pinned: image.pinned,
    }
}

#[async_trait]
impl ImageService for Sandbox {
    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(self.core.images.list().into_iter().map(describe).collect())
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        match self.core.images.status(image) {
            Ok(found) => Ok(found.map(describe)),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure @ Error::Reference { .. }) => Err(cri::Error::InvalidArgument(failure.chain())),
            Err(failure) => Err(error(image, &failure)),
        }
    }

    async fn pull_image(&self, image: &str, auth: Option<AuthConfig>) -> Result<String> {
        let auth = auth.map(|auth| Auth { username: auth.username, password: auth.password });
        match self.core.images.pull(image, PullOptions { auth, progress: None }).await {
            Ok(id) => Ok(id.to_string()),
            Err(failure @ Error::Reference { .. }) => Err(cri::Error::InvalidArgument(failure.chain())),
            Err(failure) => Err(cri::Error::PullFailed(failure.chain())),
        }
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        match self.core.images.remove(image).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_not_found() => Ok(()),
            Err(failure) => Err(error(image, &failure)),
        }
    }

    async fn image_fs_info(&self) -> Result<FilesystemUsage> {
        let usage = self.core.images.disk_usage().await.map_err(|failure| error("", &failure))?;
        Ok(FilesystemUsage {
            mountpoint: self.core.images.root().display().to_string(),
            used_bytes: usage.blob_bytes + usage.layer_bytes + usage.snapshot_bytes,
        })
    }
}
