//! Deleting: first a rename, which is quick and cannot be half done, then the work.
//!
//! A container may leave directories nested deeper than there are file descriptors, so the deletion of a tree moves
//! what is too deep up to the trash and goes on from there.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

const DEPTH_MAX: u32 = 100;
const NAME: &str = "trash";

/// Moves a file or directory to the trash of a store and says where it is now; none if it was not there.
pub(crate) fn discard(root: &Path, path: &Path) -> Option<PathBuf> {
    let to = root.join(NAME).join(fresh());
    match std::fs::rename(path, &to) {
        Ok(()) => Some(to),
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "cannot be moved to the trash");
            }
            None
        }
    }
}

fn fresh() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// Deletes something that is in the trash. What cannot be deleted stays, for the next open to try again.
pub(crate) fn delete(path: &Path) {
    let (Some(trash), Some(name)) = (path.parent(), path.file_name()) else { return };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(trash) = fs::open(trash, flags, Mode::empty()) else { return };
    let mut doomed = vec![name.as_encoded_bytes().to_vec()];
    while let Some(name) = doomed.pop() {
        match remove(trash.as_fd(), &name, 0, &trash, &mut doomed) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot be deleted"),
        }
    }
}

/// Deletes all that is in the trash.
pub(crate) fn empty(trash: &Path) {
    for entry in std::fs::read_dir(trash).into_iter().flatten().flatten() {
        delete(&entry.path());
    }
}

/// Removes a file, or a directory with all it has; links are removed, not followed.
fn remove(
    parent: BorrowedFd<'_>,
    name: &[u8],
    depth: u32,
    trash: &OwnedFd,
    doomed: &mut Vec<Vec<u8>>,
) -> Result<(), Errno> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other,
    }
    if depth >= DEPTH_MAX {
        let fresh = fresh().into_bytes();
        fs::renameat(parent, name, trash, &*fresh)?;
        doomed.push(fresh);
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(parent, name, flags, Mode::empty())?;
    // Names are gathered first: removing while reading may skip some.
    for inner in names(&fd)? {
        remove(fd.as_fd(), &inner, depth + 1, trash, doomed)?;
    }
    fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// What is in a directory, but for itself and its parent.
pub(crate) fn names(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deeper_than_any_path_is_deleted() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(NAME)).unwrap();
        std::fs::create_dir(root.path().join("deep")).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut fd = fs::open(root.path().join("deep"), flags, Mode::empty()).unwrap();
        for _ in 0..1500 {
            fs::mkdirat(&fd, "a-name-of-some-length", Mode::from_raw_mode(0o755)).unwrap();
            fs::symlinkat("/", &fd, "link").unwrap();
            fd = fs::openat(&fd, "a-name-of-some-length", flags, Mode::empty()).unwrap();
        }
        let doomed = discard(root.path(), &root.path().join("deep")).unwrap();
        delete(&doomed);
        assert_eq!(std::fs::read_dir(root.path().join(NAME)).unwrap().count(), 0);
        assert_eq!(discard(root.path(), &root.path().join("deep")), None);
        assert!(Path::new("/etc").exists());
    }
}
