//! `kijabi image`: through the running program, or on the store itself when nothing runs.

use crate::control;
use crate::folder::Folder;
use crate::progress::Progress;
use crate::up::images;
use anyhow::{Context, Result};
use clap::Subcommand;
use http::Method;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// The node's images
#[derive(Subcommand)]
pub(crate) enum Image {
    /// Import docker archives and OCI layouts (a file, a folder, or - for standard input)
    Import {
        /// Files or folders
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Pull an image from its registry
    Pull {
        /// For instance docker.io/library/busybox:1.37
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// List images
    Ls,
    /// Remove images
    Rm {
        /// Names or ids
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
}

/// An image as the list shows it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) size_bytes: u64,
}

impl Image {
    pub(crate) fn run(self, folder: &Folder) -> Result<()> {
        if folder.running().is_some() {
            return crate::block_on(self.through_program(folder));
        }
        let _lock = folder.lock()?;
        crate::block_on(async {
            let store = images::open(folder, Vec::new(), Vec::new())?;
            self.on_store(&store).await
        })
    }

    async fn through_program(self, folder: &Folder) -> Result<()> {
        let socket = folder.control_socket();
        match self {
            Image::Import { paths } => {
                for path in paths {
                    let (path, body) = import_request(path).await?;
                    report("imported", &control::ask::<Vec<String>>(&socket, Method::POST, &path, body).await?);
                }
            }
            Image::Pull { images } => {
                for image in images {
                    let path = format!("/images/pull?{image}");
                    report(
                        "pulled",
                        &control::ask::<Vec<String>>(&socket, Method::POST, &path, control::empty()).await?,
                    );
                }
            }
            Image::Ls => list(&control::ask::<Vec<Row>>(&socket, Method::GET, "/images", control::empty()).await?),
            Image::Rm { images } => {
                for image in images {
                    let path = format!("/images?{image}");
                    report(
                        "removed",
                        &control::ask::<Vec<String>>(&socket, Method::DELETE, &path, control::empty()).await?,
                    );
                }
            }
        }
        Ok(())
    }

    async fn on_store(self, store: &Arc<::image::Store>) -> Result<()> {
        match self {
            Image::Import { paths } => {
                for path in paths {
                    report("imported", &images::import_path(store, &path).await?);
                }
            }
            Image::Pull { images } => {
                for image in images {
                    report("pulled", &[images::pull(store, &image).await?]);
                }
            }
            Image::Ls => list(&images::list(store).await?),
            Image::Rm { images } => {
                for image in images {
                    images::remove(store, &image).await?;
                    report("removed", &[image]);
                }
            }
        }
        Ok(())
    }
}

/// A file's content is sent, so that the program need not be able to read it; a folder is named.
async fn import_request(path: PathBuf) -> Result<(String, control::Body)> {
    if path.as_os_str() == "-" {
        let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()?;
        return Ok(("/images/import".to_owned(), control::file(tokio::fs::File::from_std(stdin.into()))));
    }
    let whole = std::path::absolute(&path)?;
    if tokio::fs::metadata(&whole).await.with_context(|| format!("cannot import {}", path.display()))?.is_dir() {
        return Ok((format!("/images/import?{}", hex::encode(whole.as_os_str().as_encoded_bytes())), control::empty()));
    }
    let file = tokio::fs::File::open(&whole).await.with_context(|| format!("cannot import {}", path.display()))?;
    Ok(("/images/import".to_owned(), control::file(file)))
}

fn report(done: &str, names: &[String]) {
    for name in names {
        Progress::say(format_args!("{done} {name}"));
    }
}

fn list(rows: &[Row]) {
    Progress::say(format_args!("{:<60} {:<14} {:>10}", "IMAGE", "ID", "SIZE"));
    for row in rows {
        let id: String = row.id.trim_start_matches("sha256:").chars().take(12).collect();
        Progress::say(format_args!("{:<60} {id:<14} {:>7.1} MB", row.name, row.size_bytes as f64 / 1e6));
    }
}
