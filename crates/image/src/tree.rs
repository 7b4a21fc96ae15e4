//! Makes the files of a layer under one directory, and nothing outside it.
//!
//! Names and links come from strangers. Each parent directory is opened by the kernel's own bounded resolution
//! (`openat2`), so no combination of `..`, absolute names and symbolic links leads out, whatever the archive made
//! before. Absolute names and absolute links mean the layer's root, as they would in the container; a link that
//! climbs above the root is refused.

use crate::error::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

const PATH_LENGTH_MAX: usize = 4096;
/// A directory that a later entry replaces may be nested this deep.
const REPLACED_DEPTH_MAX: u32 = 200;
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// Owner, mode and time of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
}

impl Attributes {
    pub(crate) fn of(stat: &Stat) -> Self {
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Self { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, mtime: (stat.st_mtime, nanoseconds) }
    }

    fn times(&self) -> Timestamps {
        let time = Timespec { tv_sec: self.mtime.0, tv_nsec: i64::from(self.mtime.1) };
        Timestamps { last_access: time, last_modification: time }
    }

    /// Gives an open file these attributes: owner first, because a new owner drops set-id bits and capabilities.
    pub(crate) fn apply(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        fs::fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        fs::fchmod(fd, Mode::from_raw_mode(self.mode))
    }

    pub(crate) fn apply_time(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        fs::futimens(fd, &self.times())
    }
}

/// A name from an archive, cut into components that are safe to use one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    path: Vec<u8>,
    last: usize,
}

impl Name {
    /// Refuses `..`, NUL bytes and names that are too long; drops `.`, double and leading slashes.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, &'static str> {
        if text.len() > PATH_LENGTH_MAX {
            return Err("its name is too long");
        }
        if text.contains(&0) {
            return Err("its name has a NUL byte");
        }
        let mut path = Vec::with_capacity(text.len());
        let mut last = 0;
        for component in text.split(|b| *b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err("its name has \"..\""),
                _ if component.len() > 255 => return Err("its name has a component that is too long"),
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            last = path.len();
            path.extend_from_slice(component);
        }
        Ok(Self { path, last })
    }

    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// Whether it is the root itself.
    pub(crate) fn is_root(&self) -> bool {
        self.path.is_empty()
    }

    pub(crate) fn parent(&self) -> &[u8] {
        &self.path[..self.last.saturating_sub(1)]
    }

    pub(crate) fn base(&self) -> &[u8] {
        &self.path[self.last..]
    }
}

/// A directory that is being filled.
pub(crate) struct Tree {
    root: Arc<OwnedFd>,
    /// The parent of the entry before: archives list a directory's files one after another.
    cached: Option<(Vec<u8>, Arc<OwnedFd>)>,
    /// Directories made because an entry needed them and the archive had not listed them.
    pub(crate) implied: Vec<Vec<u8>>,
}

/// An error of one step: what the archive wants cannot be, or the machine failed.
#[derive(Debug)]
pub(crate) enum Failure {
    Refused(String),
    System(&'static str, Errno),
}

impl Failure {
    pub(crate) fn of(step: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System(step, errno)
    }

    /// Blames the archive's entry, unless the machine is at fault.
    pub(crate) fn into_error(self, entry: &[u8]) -> Error {
        match self {
            Self::Refused(reason) => Error::entry(entry, reason),
            Self::System(step, errno) => match errno {
                Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::ROFS => {
                    Error::io(step, Path::new(OsStr::from_bytes(entry)), errno)
                }
                _ => Error::entry(entry, format!("{step}: {}", std::io::Error::from(errno))),
            },
        }
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn openat2(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    loop {
        match fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename elsewhere on the machine while ".." was resolved.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

impl Tree {
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let root =
            fs::open(directory, directory_flags(), Mode::empty()).map_err(|e| Error::io("open", directory, e))?;
        Ok(Self { root: Arc::new(root), cached: None, implied: Vec::new() })
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The open parent of a name, made when missing if `make`.
    pub(crate) fn parent(&mut self, name: &Name, make: bool) -> Result<Arc<OwnedFd>, Failure> {
        let path = name.parent();
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((cached, fd)) = &self.cached
            && cached == path
        {
            return Ok(fd.clone());
        }
        let fd = match self.open_directory(path) {
            Err(Failure::System(_, Errno::NOENT | Errno::NOTDIR)) if make => self.make_directories(path)?,
            other => other?,
        };
        let fd = Arc::new(fd);
        self.cached = Some((path.to_vec(), fd.clone()));
        Ok(fd)
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Failure> {
        match openat2(self.root(), path, directory_flags(), ResolveFlags::BENEATH) {
            Err(Errno::XDEV) => {
                self.refuse_climbing(path)?;
                openat2(self.root(), path, directory_flags(), ResolveFlags::IN_ROOT)
            }
            other => other,
        }
        .map_err(Failure::of("open its directory"))
    }

    /// Finds the link through which a path leaves the root: an absolute one means the root, a climbing one is hostile.
    fn refuse_climbing(&self, path: &[u8]) -> Result<(), Failure> {
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([path.len()]);
        for end in ends {
            let prefix = &path[..end];
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let Ok(fd) = openat2(self.root(), prefix, flags, ResolveFlags::IN_ROOT) else { break };
            if let Ok(target) = fs::readlinkat(&fd, "", Vec::new()) {
                if target.as_bytes().starts_with(b"/") {
                    continue;
                }
                let inside = openat2(self.root(), prefix, OFlags::PATH, ResolveFlags::BENEATH);
                if matches!(inside, Err(Errno::XDEV)) {
                    let link = String::from_utf8_lossy(prefix).into_owned();
                    return Err(Failure::Refused(format!("the link {link} in its path leads out of the layer")));
                }
            }
        }
        Ok(())
    }

    fn make_directories(&mut self, path: &[u8]) -> Result<OwnedFd, Failure> {
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([path.len()]);
        for end in ends {
            let name = Name::parse(&path[..end]).map_err(|reason| Failure::Refused(reason.into()))?;
            let parent = self.open_directory(name.parent())?;
            match fs::mkdirat(&parent, name.base(), Mode::from_raw_mode(0o755)) {
                Ok(()) => self.implied.push(name.path().to_vec()),
                Err(Errno::EXIST) => self.reuse_as_directory(&parent, &name)?,
                Err(errno) => return Err(Failure::System("make its directory", errno)),
            }
        }
        self.open_directory(path)
    }

    /// A component of a path that exists: fine when a directory or a link to one; a whiteout becomes an opaque one.
    fn reuse_as_directory(&mut self, parent: &OwnedFd, name: &Name) -> Result<(), Failure> {
        let stat = fs::statat(parent, name.base(), AtFlags::SYMLINK_NOFOLLOW).map_err(Failure::of("look at"))?;
        if is_whiteout(&stat) {
            self.replace_whiteout(parent, name.base())?;
            self.implied.push(name.path().to_vec());
            return Ok(());
        }
        match self.open_directory(name.path()) {
            Ok(_) => Ok(()),
            Err(Failure::System(_, Errno::NOENT | Errno::NOTDIR)) => {
                let shown = String::from_utf8_lossy(name.path()).into_owned();
                Err(Failure::Refused(format!("{shown} in its path is no directory")))
            }
            Err(other) => Err(other),
        }
    }

    /// The layer hides what was below and puts a directory there.
    fn replace_whiteout(&mut self, parent: &OwnedFd, base: &[u8]) -> Result<(), Failure> {
        fs::unlinkat(parent, base, AtFlags::empty()).map_err(Failure::of("replace"))?;
        fs::mkdirat(parent, base, Mode::from_raw_mode(0o755)).map_err(Failure::of("make directory"))?;
        self.make_opaque(parent, base)
    }

    /// Hides what lower layers have in a directory.
    pub(crate) fn make_opaque(&self, parent: &OwnedFd, base: &[u8]) -> Result<(), Failure> {
        let fd = open_child(parent, base)?;
        fs::fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty()).map_err(Failure::of("mark opaque"))
    }

    /// Makes a directory, or keeps the one that is there.
    pub(crate) fn directory(&mut self, parent: &OwnedFd, base: &[u8]) -> Result<OwnedFd, Failure> {
        match fs::mkdirat(parent, base, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW).map_err(Failure::of("look at"))?;
                if is_whiteout(&stat) {
                    self.replace_whiteout(parent, base)?;
                } else if !is_directory(&stat) {
                    self.remove(parent, base)?;
                    fs::mkdirat(parent, base, Mode::from_raw_mode(0o755)).map_err(Failure::of("make directory"))?;
                }
            }
            Err(errno) => return Err(Failure::System("make directory", errno)),
        }
        open_child(parent, base)
    }

    /// Runs what makes a new name; if the name is taken, removes what is there and tries again.
    pub(crate) fn create<T>(
        &mut self,
        parent: &OwnedFd,
        base: &[u8],
        step: &'static str,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Failure> {
        match make() {
            Err(Errno::EXIST) => {
                self.remove(parent, base)?;
                make().map_err(Failure::of(step))
            }
            other => other.map_err(Failure::of(step)),
        }
    }

    /// Removes a name and all below it.
    fn remove(&mut self, parent: &OwnedFd, base: &[u8]) -> Result<(), Failure> {
        self.cached = None;
        remove_all(parent.as_fd(), base, 0).map_err(Failure::of("replace"))
    }
}

/// Opens a directory by its name in an open one, never through a link.
fn open_child(parent: &OwnedFd, base: &[u8]) -> Result<OwnedFd, Failure> {
    fs::openat(parent, base, directory_flags() | OFlags::NOFOLLOW, Mode::empty()).map_err(Failure::of("open directory"))
}

/// Removes a file, or a directory with all it has; links are removed, not followed.
fn remove_all(parent: BorrowedFd<'_>, base: &[u8], depth: u32) -> Result<(), Errno> {
    match fs::unlinkat(parent, base, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) if depth < REPLACED_DEPTH_MAX => {}
        Err(Errno::ISDIR | Errno::PERM) => return Err(Errno::NAMETOOLONG),
        other => return other,
    }
    let fd = fs::openat(parent, base, directory_flags() | OFlags::NOFOLLOW, Mode::empty())?;
    for name in crate::trash::names(&fd)? {
        remove_all(fd.as_fd(), &name, depth + 1)?;
    }
    fs::unlinkat(parent, base, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        for (text, path) in [
            (&b"a/b"[..], Ok(&b"a/b"[..])),
            (b"./a//b/./c/", Ok(b"a/b/c")),
            (b"/etc/passwd", Ok(b"etc/passwd")),
            (b"./", Ok(b"")),
            (b"..a/b..", Ok(b"..a/b..")),
            (b"../a", Err("its name has \"..\"")),
            (b"a/..", Err("its name has \"..\"")),
            (b"a/../../b", Err("its name has \"..\"")),
            (b"a\0b", Err("its name has a NUL byte")),
            (&[b'a'; 256], Err("its name has a component that is too long")),
            (&[b'/'; 5000], Err("its name is too long")),
        ] {
            assert_eq!(Name::parse(text).as_ref().map(Name::path).map_err(|e| *e), path, "{text:?}");
        }
        let name = Name::parse(b"a/b/c").unwrap();
        assert_eq!((name.parent(), name.base()), (&b"a/b"[..], &b"c"[..]));
        let top = Name::parse(b"a").unwrap();
        assert_eq!((top.parent(), top.base()), (&b""[..], &b"a"[..]));
    }

    proptest! {
        #[test]
        fn no_name_climbs(text in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..40)) {
            if let Ok(name) = Name::parse(&text) {
                let components: Vec<&[u8]> = name.path().split(|b| *b == b'/').collect();
                prop_assert!(components.iter().all(|c| *c != b".." && *c != b"."));
                prop_assert!(name.is_root() || components.iter().all(|c| !c.is_empty()));
            }
        }
    }
}
