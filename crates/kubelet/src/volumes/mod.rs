//! Volumes of a pod: what they shall hold ([`resolve`]), and their folders on this node ([`setup`]).
//!
//! `resolve` can fail because the API lacks something; it touches nothing. `setup` writes; it is run again whenever an
//! object changes or a token grows old, and changes only what differs.

pub mod atomic;
mod content;
mod dirs;
mod subpath;

pub use content::TokenSource;
pub use dirs::{PodDirs, clean_up, clean_volumes};
pub use subpath::prepare as prepare_subpath;

use crate::downward::NodeFacts;
use crate::objects::Fetched;
use crate::resources;
use crate::spec;
use atomic::Payload;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, Volume};
use machinery::quantity::Quantity;
use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a volume shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// An empty folder on the disk of the node.
    EmptyDir,
    /// An empty folder in memory, of at most so many bytes (0: no limit of its own).
    Memory {
        /// Bytes.
        size: u64,
    },
    /// These files; the plugin's name for its folder.
    Files(&'static str, Payload),
    /// A path of the node.
    HostPath(PathBuf),
}

/// The volumes of a pod, resolved.
pub type Resolved = Vec<(String, Wanted)>;

/// Everything volumes are made from.
pub struct Input<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// ConfigMaps and Secrets.
    pub fetched: &'a Fetched,
    /// Addresses and sizes.
    pub facts: &'a NodeFacts,
}

/// Which volume could not be had, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
pub struct VolumeError {
    /// Its name.
    pub volume: String,
    /// Why.
    pub reason: String,
}

/// Finds out what every volume shall hold.
pub async fn resolve(input: &Input<'_>, tokens: &dyn TokenSource) -> Result<Resolved, VolumeError> {
    let mut out = Vec::new();
    for volume in spec::spec(input.pod).volumes.iter().flatten() {
        let wanted = one(input, volume, tokens).await;
        let wanted = wanted.map_err(|reason| VolumeError { volume: volume.name.clone(), reason })?;
        out.push((volume.name.clone(), wanted));
    }
    Ok(out)
}

async fn one(input: &Input<'_>, volume: &Volume, tokens: &dyn TokenSource) -> Result<Wanted, String> {
    if let Some(dir) = &volume.empty_dir {
        let limit = dir.size_limit.as_ref().and_then(|q| Quantity::parse(&q.0).ok()).map_or(0, |q| q.bytes());
        return match dir.medium.as_deref().unwrap_or_default() {
            "" => Ok(Wanted::EmptyDir),
            "Memory" => Ok(Wanted::Memory { size: memory_size(input, limit) }),
            other => Err(format!("emptyDir medium {other:?} is not supported by this node")),
        };
    }
    if let Some(host) = &volume.host_path {
        return host_path(host).map(Wanted::HostPath);
    }
    if let Some(s) = &volume.config_map {
        let mut files = Payload::new();
        content::config_map(&mut files, input, s, content::mode(s.default_mode))?;
        return Ok(Wanted::Files("kubernetes.io~configmap", files));
    }
    if let Some(s) = &volume.secret {
        let mut files = Payload::new();
        content::secret(&mut files, input, s, content::mode(s.default_mode))?;
        return Ok(Wanted::Files("kubernetes.io~secret", files));
    }
    if let Some(s) = &volume.downward_api {
        let mut files = Payload::new();
        content::downward(&mut files, input, s.items.as_deref().unwrap_or_default(), content::mode(s.default_mode))?;
        return Ok(Wanted::Files("kubernetes.io~downward-api", files));
    }
    if let Some(s) = &volume.projected {
        return content::projected(input, s, tokens).await.map(|f| Wanted::Files("kubernetes.io~projected", f));
    }
    Err(unsupported(volume))
}

fn unsupported(volume: &Volume) -> String {
    if let Some(claim) = &volume.persistent_volume_claim {
        return format!("persistent volume claims are not supported by this node yet (claim {:?})", claim.claim_name);
    }
    let value = serde_json::to_value(volume).unwrap_or_default();
    let kind = value.as_object().and_then(|o| o.keys().find(|k| *k != "name").cloned());
    format!("volumes of type {:?} are not supported by this node", kind.unwrap_or_default())
}

/// The least of the volume's own limit, the pod's memory limit and what the node can give.
fn memory_size(input: &Input<'_>, limit: u64) -> u64 {
    let pod_limit = resources::pod(input.pod, 0).memory_limit_bytes;
    let node = u64::try_from(input.facts.allocatable_memory).unwrap_or(0);
    [limit, pod_limit, node].into_iter().filter(|n| *n > 0).min().unwrap_or(0)
}

fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    let fail = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    let kind = std::fs::metadata(&path).ok().map(|m| m.file_type());
    match source.type_.as_deref().unwrap_or_default() {
        "" => {}
        "DirectoryOrCreate" if kind.is_none() => {
            let made = std::fs::create_dir_all(&path)
                .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
            made.map_err(|e| format!("cannot make folder {}: {e}", path.display()))?;
        }
        "FileOrCreate" if kind.is_none() => {
            std::fs::File::create(&path).map_err(|e| format!("cannot make file {}: {e}", path.display()))?;
        }
        "Directory" | "DirectoryOrCreate" if !kind.is_some_and(|k| k.is_dir()) => return fail("a directory"),
        "File" | "FileOrCreate" if !kind.is_some_and(|k| k.is_file()) => return fail("a file"),
        "Socket" if !kind.is_some_and(|k| k.is_socket()) => return fail("a socket file"),
        "CharDevice" if !kind.is_some_and(|k| k.is_char_device()) => return fail("a character device"),
        "BlockDevice" if !kind.is_some_and(|k| k.is_block_device()) => return fail("a block device"),
        _ => {}
    }
    Ok(path)
}

/// Makes the folders and files. Returns where each volume is.
pub fn setup(dirs: &PodDirs, pod: &Pod, resolved: &Resolved) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let fs_group = spec::spec(pod).security_context.as_ref().and_then(|s| s.fs_group);
    let fs_group = fs_group.and_then(|g| u32::try_from(g).ok());
    let mut out = BTreeMap::new();
    for (name, wanted) in resolved {
        let path = setup_one(dirs, name, wanted, fs_group)
            .map_err(|e| VolumeError { volume: name.clone(), reason: e.to_string() })?;
        out.insert(name.clone(), path);
    }
    Ok(out)
}

fn setup_one(dirs: &PodDirs, name: &str, wanted: &Wanted, fs_group: Option<u32>) -> std::io::Result<PathBuf> {
    match wanted {
        Wanted::HostPath(path) => Ok(path.clone()),
        Wanted::EmptyDir => {
            let path = dirs.volume("kubernetes.io~empty-dir", name);
            empty_dir(&path, fs_group)?;
            Ok(path)
        }
        Wanted::Memory { size } => {
            let path = dirs.volume("kubernetes.io~empty-dir", name);
            if !dirs::is_mount_point(&path) {
                std::fs::create_dir_all(&path)?;
                dirs::mount_tmpfs(&path, *size)?;
            }
            empty_dir(&path, fs_group)?;
            Ok(path)
        }
        Wanted::Files(plugin, payload) => {
            let path = dirs.volume(plugin, name);
            atomic::write(&path, payload, fs_group)?;
            if let Some(group) = fs_group {
                std::os::unix::fs::chown(&path, None, Some(group))?;
            }
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777 | (fs_group.map_or(0, |_| 0o2000))))?;
            Ok(path)
        }
    }
}

fn empty_dir(path: &Path, fs_group: Option<u32>) -> std::io::Result<()> {
    std::fs::create_dir_all(path)?;
    let mode = if fs_group.is_some() { 0o2777 } else { 0o777 };
    if let Some(group) = fs_group {
        std::os::unix::fs::chown(path, None, Some(group))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests;
