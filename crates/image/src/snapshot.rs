//! Snapshots: a writable (or read-only) view of an image, one a container.
//!
//! A snapshot is a directory with the files the container wrote, and a note of its layers and where it is mounted.
//! It outlives the program: at open it is adopted as it is found, mounted or not. Nothing in it survives the machine,
//! so nothing in it is flushed. Whoever made it removes it; `snapshots` lists all, so that those nobody claims can go.

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::index::Record;
use crate::overlay::{self, Mount};
use crate::store::Store;
use crate::trash;
use crate::tree::{self, Tree};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NOTE: &str = "snapshot.json";

/// What is noted of a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) image: Digest,
    /// Lowest first, each once.
    pub(crate) layers: Vec<Digest>,
    pub(crate) read_only: bool,
    pub(crate) target: Option<PathBuf>,
}

/// A snapshot of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The name it was made with.
    pub id: String,
    /// The image it is of.
    pub image: Digest,
    /// Whether it can be written.
    pub read_only: bool,
    /// Where it was last mounted and not unmounted since.
    pub target: Option<PathBuf>,
}

/// What a snapshot has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl Store {
    /// Makes a writable snapshot of an image and says what to mount.
    ///
    /// # Errors
    /// The image is not here; a snapshot of that name is; the name is not fit.
    pub async fn prepare(self: &Arc<Self>, id: &str, image: &str) -> Result<Mount> {
        self.make(id, image, false).await
    }

    /// Makes a read-only snapshot of an image and says what to mount.
    ///
    /// # Errors
    /// As `prepare`.
    pub async fn view(self: &Arc<Self>, id: &str, image: &str) -> Result<Mount> {
        self.make(id, image, true).await
    }

    async fn make(self: &Arc<Self>, id: &str, image: &str, read_only: bool) -> Result<Mount> {
        check_name(id)?;
        let _one = self.snapshot_locks.lock(id.to_owned()).await;
        let (id, image) = (id.to_owned(), image.to_owned());
        self.blocking(move |store| {
            let digest = store.find(&image)?;
            let (record, snapshot) = {
                // Found and noted under one lock, so that no sweep comes between.
                let mut state = store.state.lock();
                if state.snapshots.contains_key(&id) {
                    return Err(Error::SnapshotExists(id));
                }
                let record = state.index.images.get(&digest).cloned().ok_or(Error::NoSuchImage(image))?;
                let snapshot = Snapshot { image: digest, layers: layers(&record), read_only, target: None };
                state.snapshots.insert(id.clone(), snapshot.clone());
                (record, snapshot)
            };
            let made = store.make_directories(&id, &record, &snapshot);
            if made.is_err() {
                store.state.lock().snapshots.remove(&id);
                trash::discard(store.root(), &store.snapshot_path(&id));
            }
            made?;
            Ok(store.describe(&id, &snapshot))
        })
        .await
    }

    /// Mounts a snapshot; the directory is made when missing. Mounting it where it is mounted changes nothing.
    ///
    /// # Errors
    /// No such snapshot; it is mounted elsewhere; the kernel refuses.
    pub async fn mount(self: &Arc<Self>, id: &str, target: &Path) -> Result<()> {
        let _one = self.snapshot_locks.lock(id.to_owned()).await;
        let (id, target) = (id.to_owned(), target.to_owned());
        self.blocking(move |store| {
            let snapshot = store.snapshot(&id)?;
            if let Some(there) = snapshot.target.as_ref().filter(|there| overlay::is_mounted(there)) {
                if *there == target {
                    return Ok(());
                }
                let source = std::io::Error::other(format!("it is mounted on {}", there.display()));
                return Err(Error::Mount { id, target, step: "check", source });
            }
            fs::create_dir_all(&target).map_err(|e| Error::io("make directory", &target, e))?;
            // Noted first: after a crash between the two, an unmount of nothing does no harm.
            store.note_target(&id, Some(target.clone()))?;
            let links = store.snapshot_path(&id).join("l");
            let mounted = store.describe(&id, &snapshot).mount(&target, &links);
            mounted.map_err(|(step, source)| Error::Mount { id, target, step, source })
        })
        .await
    }

    /// Unmounts a snapshot from where it is mounted; fine if it is not.
    ///
    /// # Errors
    /// No such snapshot; the kernel refuses.
    pub async fn unmount(self: &Arc<Self>, id: &str) -> Result<()> {
        let _one = self.snapshot_locks.lock(id.to_owned()).await;
        let id = id.to_owned();
        self.blocking(move |store| store.unmount_now(&id)).await
    }

    /// Unmounts and removes a snapshot, and layers that were kept only for it.
    ///
    /// # Errors
    /// No such snapshot; it cannot be unmounted.
    pub async fn remove_snapshot(self: &Arc<Self>, id: &str) -> Result<()> {
        let _one = self.snapshot_locks.lock(id.to_owned()).await;
        let id = id.to_owned();
        self.blocking(move |store| {
            store.unmount_now(&id)?;
            let doomed = trash::discard(store.root(), &store.snapshot_path(&id));
            let orphans = {
                let mut state = store.state.lock();
                let removed = state.snapshots.remove(&id);
                let layers = removed.map(|snapshot| snapshot.layers).unwrap_or_default();
                let used: HashSet<_> =
                    state.index.images.values().flat_map(|r| r.layers.iter().map(|l| l.diff_id)).collect();
                layers.iter().any(|layer| !used.contains(layer))
            };
            if orphans {
                store.sweep();
            }
            if let Some(doomed) = doomed {
                trash::delete(&doomed);
            }
            Ok(())
        })
        .await
    }

    /// All snapshots, by name.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        let state = self.state.lock();
        let mut all: Vec<_> = state
            .snapshots
            .iter()
            .map(|(id, snapshot)| SnapshotInfo {
                id: id.clone(),
                image: snapshot.image,
                read_only: snapshot.read_only,
                target: snapshot.target.clone(),
            })
            .collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// What a snapshot has written, measured file by file.
    ///
    /// # Errors
    /// No such snapshot; a directory cannot be read.
    pub async fn usage(self: &Arc<Self>, id: &str) -> Result<Usage> {
        let id = id.to_owned();
        self.blocking(move |store| store.snapshot(&id).and_then(|_| store.measure(&id))).await
    }

    /// What to mount for a snapshot that exists.
    ///
    /// # Errors
    /// No such snapshot.
    pub fn mount_of(&self, id: &str) -> Result<Mount> {
        Ok(self.describe(id, &self.snapshot(id)?))
    }

    fn snapshot(&self, id: &str) -> Result<Snapshot> {
        let state = self.state.lock();
        state.snapshots.get(id).cloned().ok_or_else(|| Error::NoSuchSnapshot(id.to_owned()))
    }

    fn snapshot_path(&self, id: &str) -> PathBuf {
        self.root().join("snapshots").join(id)
    }

    fn describe(&self, id: &str, snapshot: &Snapshot) -> Mount {
        let path = self.snapshot_path(id);
        let mut lower: Vec<_> = snapshot.layers.iter().rev().map(|layer| self.layer_path(*layer).join("fs")).collect();
        if lower.is_empty() {
            // overlayfs wants something below.
            lower.push(path.join("empty"));
        }
        if snapshot.read_only {
            lower.insert(0, path.join("fs"));
            return Mount { lower, upper: None };
        }
        Mount { lower, upper: Some((path.join("fs"), path.join("work"))) }
    }

    fn make_directories(&self, id: &str, record: &Record, snapshot: &Snapshot) -> Result<()> {
        let path = self.snapshot_path(id);
        let mut parts = vec!["fs"];
        parts.extend((!snapshot.read_only).then_some("work"));
        parts.extend(snapshot.layers.is_empty().then_some("empty"));
        fs::create_dir(&path).map_err(|e| Error::io("make directory", &path, e))?;
        for part in parts {
            let part = path.join(part);
            fs::create_dir(&part).map_err(|e| Error::io("make directory", part, e))?;
        }
        let files = path.join("fs");
        let mut tree = Tree::open(&files)?;
        let failed = |errno: Errno| Error::io("set the owner of", &files, errno);
        for (name, attributes) in &record.directories {
            let refused = |failure: tree::Failure| failure.into_error(name.as_bytes());
            let name = tree::Name::parse(name.as_bytes()).map_err(|e| Error::entry(name.as_bytes(), e))?;
            let parent = tree.parent(&name, true).map_err(refused)?;
            let fd = tree.directory(&parent, name.base()).map_err(refused)?;
            attributes.apply(fd.as_fd()).and_then(|()| attributes.apply_time(fd.as_fd())).map_err(failed)?;
        }
        if let Some(root) = &record.root {
            root.apply(tree.root()).and_then(|()| root.apply_time(tree.root())).map_err(failed)?;
        }
        note(&path, snapshot)
    }

    fn note_target(&self, id: &str, target: Option<PathBuf>) -> Result<()> {
        let snapshot = {
            let mut state = self.state.lock();
            let snapshot = state.snapshots.get_mut(id).ok_or_else(|| Error::NoSuchSnapshot(id.to_owned()))?;
            snapshot.target = target;
            snapshot.clone()
        };
        note(&self.snapshot_path(id), &snapshot)
    }

    fn unmount_now(&self, id: &str) -> Result<()> {
        let Some(target) = self.snapshot(id)?.target else { return Ok(()) };
        if let Err(source) = overlay::unmount(&target) {
            return Err(Error::Mount { id: id.to_owned(), target, step: "unmount", source });
        }
        self.note_target(id, None)
    }

    pub(crate) fn measure(&self, id: &str) -> Result<Usage> {
        let path = self.snapshot_path(id).join("fs");
        let mut usage = Usage::default();
        let measured = rustix::fs::open(&path, DIRECTORY, Mode::empty()).and_then(|fd| add_usage(fd, &mut usage));
        match measured {
            // Removed meanwhile.
            Err(Errno::NOENT) => Ok(Usage::default()),
            other => other.map(|()| usage).map_err(|e| Error::io("measure", path, e)),
        }
    }
}

fn note(path: &Path, snapshot: &Snapshot) -> Result<()> {
    let text = serde_json::to_vec(snapshot).map_err(|e| Error::damaged("a snapshot's note", e))?;
    crate::index::replace(&path.join(NOTE), &text, false)
}

fn check_name(id: &str) -> Result<()> {
    let good = (1..=128).contains(&id.len())
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if good { Ok(()) } else { Err(Error::SnapshotName(id.to_owned())) }
}

/// The image's layers, lowest first. Of a layer that comes twice only the upper one counts: it has all the lower has.
fn layers(record: &Record) -> Vec<Digest> {
    let mut seen = HashSet::new();
    let mut layers: Vec<_> =
        record.layers.iter().rev().map(|layer| layer.diff_id).filter(|diff_id| seen.insert(*diff_id)).collect();
    layers.reverse();
    layers
}

/// The snapshots a former process left. One without a readable note was never finished and is thrown away.
pub(crate) fn adopt(root: &Path) -> Result<HashMap<String, Snapshot>> {
    let directory = root.join("snapshots");
    let failed = |e| Error::io("list", &directory, e);
    let mut all = HashMap::new();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let snapshot = fs::read(path.join(NOTE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        match snapshot {
            Some(snapshot) => {
                all.insert(id.to_owned(), snapshot);
            }
            None => {
                trash::discard(root, &path);
            }
        }
    }
    Ok(all)
}

/// Adds up a directory, hard links once, without following links.
///
/// It holds one directory open at a time, however deep a container nested them, and goes back up by `..`, checking that
/// it arrives where it came from; the container may move things while we look.
fn add_usage(top: OwnedFd, usage: &mut Usage) -> Result<(), Errno> {
    let mut links = HashSet::new();
    let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let mut stack = vec![(identity(&top)?, add_directory(&top, usage, &mut links)?)];
    let mut at = top;
    while let Some((_, below)) = stack.last_mut() {
        let next = match below.pop() {
            Some(name) => rustix::fs::openat(&at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()),
            None => {
                stack.pop();
                let Some((parent, _)) = stack.last() else { break };
                let up = rustix::fs::openat(&at, "..", DIRECTORY, Mode::empty())?;
                if identity(&up)? != *parent {
                    return Ok(());
                }
                at = up;
                continue;
            }
        };
        // Gone or replaced meanwhile: passed over.
        if let Ok(fd) = next {
            stack.push((identity(&fd)?, add_directory(&fd, usage, &mut links)?));
            at = fd;
        }
    }
    Ok(())
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Adds what is directly in a directory and returns the directories in it.
fn add_directory(
    directory: &OwnedFd,
    usage: &mut Usage,
    links: &mut HashSet<(u64, u64)>,
) -> Result<Vec<Vec<u8>>, Errno> {
    let mut below = trash::names(directory)?;
    below.retain(|name| {
        let Ok(stat) = rustix::fs::statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) else { return false };
        let is_directory = tree::is_directory(&stat);
        if is_directory || stat.st_nlink == 1 || links.insert((stat.st_dev, stat.st_ino)) {
            usage.inodes += 1;
            usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        is_directory
    });
    Ok(below)
}
