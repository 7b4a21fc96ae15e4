//! Removes images nobody uses when the disk fills up.

use crate::context::Shared;
use crate::directory::Directory;
use client::EventType;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// Between looks.
const EVERY: Duration = Duration::from_secs(300);
/// Images go when the disk is so full, in percent …
const HIGH_PERCENT: u64 = 85;
/// … until it is no fuller than this.
const LOW_PERCENT: u64 = 80;
/// An image is kept so long after it was last used.
const AGE_MIN: Duration = Duration::from_secs(120);

/// Looks until the kubelet ends.
pub(crate) async fn run(context: Shared, directory: Directory) {
    let mut last_used: HashMap<String, Instant> = HashMap::new();
    loop {
        tokio::select! {
            () = context.token.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(message) = look(&context, &directory, &mut last_used).await {
            context.node_event(EventType::Warning, "ImageGCFailed", message.clone());
            tracing::warn!(%message, "images could not be removed");
        }
    }
}

/// Size, free bytes of the file system of a path.
fn disk(path: &PathBuf) -> Option<(u64, u64)> {
    let s = rustix::fs::statvfs(path).ok()?;
    Some((s.f_blocks.saturating_mul(s.f_frsize), s.f_bavail.saturating_mul(s.f_frsize)))
}

async fn look(context: &Shared, directory: &Directory, last_used: &mut HashMap<String, Instant>) -> Result<(), String> {
    let info = context.images().image_fs_info().await.map_err(|e| e.to_string())?;
    let (size, free) = disk(&PathBuf::from(info.mountpoint)).ok_or("the file system of images does not answer")?;
    let mut images = context.images().list_images().await.map_err(|e| e.to_string())?;
    let in_use: HashSet<String> = directory
        .all()
        .iter()
        .flat_map(|e| e.view.containers().iter().map(|c| c.image_id.clone()).collect::<Vec<_>>())
        .collect();
    let now = Instant::now();
    for image in &images {
        let at = last_used.entry(image.id.clone()).or_insert(now);
        if in_use.contains(&image.id) {
            *at = now;
        }
    }
    let known: HashSet<&String> = images.iter().map(|i| &i.id).collect();
    last_used.retain(|id, _| known.contains(id));
    let used = size.saturating_sub(free);
    if size == 0 || used * 100 / size < HIGH_PERCENT {
        return Ok(());
    }
    let mut wanted = used.saturating_sub(size / 100 * LOW_PERCENT);
    images.retain(|i| {
        !i.pinned && !in_use.contains(&i.id) && last_used.get(&i.id).is_some_and(|at| now - *at >= AGE_MIN)
    });
    images.sort_by_key(|i| last_used.get(&i.id).copied());
    for image in images {
        if wanted == 0 {
            break;
        }
        context.images().remove_image(&image.id).await.map_err(|e| e.to_string())?;
        wanted = wanted.saturating_sub(image.size_bytes);
    }
    match wanted {
        0 => Ok(()),
        left => Err(format!(
            "Failed to garbage collect required amount of images. Attempted to free {left} bytes more than there were eligible"
        )),
    }
}
