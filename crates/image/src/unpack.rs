//! Unpacks one layer: its archive, streaming, into a directory that overlayfs can use.
//!
//! Whiteouts become overlayfs' own (a 0:0 character device, the opaque attribute). Devices are made as the archive says,
//! except 0:0, which would be a forged whiteout: what a container may do with a device is the device cgroup's business,
//! and nobody but root reaches the store. Extended attributes are kept when they belong to the file (`user.*`,
//! `security.capability`, ACLs) and dropped when they would speak to this kernel (`trusted.*`, security labels).

use crate::compress::{self, Pipe};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::tar::{Archive, Entry, Kind};
use crate::tree::{self, Attributes, Failure, Name, Tree};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// What unpacking a layer found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// Entries of its archive.
    pub(crate) entries: u64,
    /// What it says of the root directory.
    pub(crate) root: Option<Attributes>,
    /// Directories that files needed but the archive does not list.
    pub(crate) implied: Vec<String>,
}

/// Unpacks a layer's archive into an empty directory and returns the digest of the plain archive, for the caller to
/// check. On error the directory is left as it is, for the caller to remove.
pub(crate) fn unpack(source: impl Read + Send, directory: &Path, limits: &Limits) -> Result<(Layer, Digest)> {
    let mut unpacker =
        Unpacker { tree: Tree::open(directory)?, limits, layer: Layer::default(), directories: HashMap::new() };
    let (layer, digest) = compress::plain(source, limits, |pipe| {
        let mut archive = Archive::new(pipe);
        while let Some(entry) = archive.next()? {
            unpacker.entry(&entry, &mut archive)?;
        }
        unpacker.finish()
    })?;
    Ok((layer, digest))
}

struct Unpacker<'a> {
    tree: Tree,
    limits: &'a Limits,
    layer: Layer,
    /// Times of listed directories, set last because filling them changes them.
    directories: HashMap<Vec<u8>, Attributes>,
}

type Reader<'a> = Archive<&'a mut Pipe>;

impl Unpacker<'_> {
    fn entry(&mut self, entry: &Entry, archive: &mut Reader<'_>) -> Result<()> {
        self.layer.entries += 1;
        if self.layer.entries > self.limits.entries_max {
            let reason = format!("it has more than {} entries", self.limits.entries_max);
            return Err(Error::Archive(reason));
        }
        let room = self.limits.layer_bytes_max.saturating_sub(self.layer.bytes);
        if entry.size > room {
            return Err(Error::entry(&entry.name, format!("absurd size {}", entry.size)));
        }
        let name = Name::parse(&entry.name).map_err(|reason| Error::entry(&entry.name, reason))?;
        let attributes = attributes(entry)?;
        self.place(entry, &name, &attributes, archive).map_err(|failure| match failure {
            Stop::Here(failure) => failure.into_error(&entry.name),
            Stop::Archive(error) => error,
        })
    }

    fn place(
        &mut self,
        entry: &Entry,
        name: &Name,
        attributes: &Attributes,
        archive: &mut Reader<'_>,
    ) -> Result<(), Stop> {
        if name.is_root() {
            return self.root(entry, attributes);
        }
        if name.path().split(|b| *b == b'/').any(|c| c.starts_with(WHITEOUT_META) && c != WHITEOUT_OPAQUE) {
            return Ok(());
        }
        if name.parent().split(|b| *b == b'/').any(|c| c.starts_with(WHITEOUT)) {
            return Err(Stop::refused("a whiteout is no directory"));
        }
        if name.base().starts_with(WHITEOUT) {
            return self.whiteout(name);
        }
        if entry.kind == Kind::HardLink {
            return self.hard_link(entry, name);
        }
        let parent = self.tree.parent(name, true)?;
        match entry.kind {
            Kind::File => self.file(entry, &parent, name, attributes, archive)?,
            Kind::Directory => {
                let fd = self.tree.directory(&parent, name.base())?;
                attributes.apply(fd.as_fd()).map_err(Failure::of("set the owner of"))?;
                set_xattrs(&fd, entry)?;
                self.directories.insert(name.path().to_vec(), attributes.clone());
            }
            Kind::Symlink => {
                let make = || fs::symlinkat(entry.link.as_slice(), &parent, name.base());
                self.tree.create(&parent, name.base(), "make link", make)?;
                set_named(&parent, name.base(), attributes, true)?;
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let (kind, device) = node(entry)?;
                let make = || fs::mknodat(&parent, name.base(), kind, Mode::from_raw_mode(0o600), device);
                self.tree.create(&parent, name.base(), "make node", make)?;
                set_named(&parent, name.base(), attributes, false)?;
            }
            Kind::HardLink => {}
        }
        Ok(())
    }

    fn root(&mut self, entry: &Entry, attributes: &Attributes) -> Result<(), Stop> {
        if entry.kind != Kind::Directory {
            return Err(Stop::refused("the root can only be a directory"));
        }
        attributes.apply(self.tree.root()).map_err(Failure::of("set the owner of"))?;
        self.layer.root = Some(attributes.clone());
        Ok(())
    }

    /// `.wh.NAME` hides NAME of lower layers, never what this layer has itself.
    fn whiteout(&mut self, name: &Name) -> Result<(), Stop> {
        if name.base() == WHITEOUT_OPAQUE {
            if name.parent().is_empty() {
                let root = self.tree.root();
                fs::fsetxattr(root, tree::OPAQUE, b"y", XattrFlags::empty()).map_err(Failure::of("mark opaque"))?;
                return Ok(());
            }
            // Opening the parent makes it when the archive has not listed it.
            let fd = self.tree.parent(name, true)?;
            fs::fsetxattr(&*fd, tree::OPAQUE, b"y", XattrFlags::empty()).map_err(Failure::of("mark opaque"))?;
            return Ok(());
        }
        let hidden = &name.base()[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Stop::refused("a whiteout of nothing"));
        }
        let parent = self.tree.parent(name, true)?;
        match fs::mknodat(&*parent, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => {
                let stat = fs::statat(&*parent, hidden, AtFlags::SYMLINK_NOFOLLOW).map_err(Failure::of("look at"))?;
                if tree::is_directory(&stat) {
                    self.tree.make_opaque(&parent, hidden)?;
                }
                Ok(())
            }
            other => Ok(other.map_err(Failure::of("make whiteout"))?),
        }
    }

    fn hard_link(&mut self, entry: &Entry, name: &Name) -> Result<(), Stop> {
        let target = Name::parse(&entry.link).map_err(|reason| Stop::refused(&format!("link target: {reason}")))?;
        if target.is_root() {
            return Err(Stop::refused("a hard link to a directory"));
        }
        let missing = || Stop::refused(&format!("hard link to {}, which this layer has not", shown(&entry.link)));
        let from = match self.tree.parent(&target, false) {
            Err(Failure::System(_, Errno::NOENT | Errno::NOTDIR)) => return Err(missing()),
            other => other?,
        };
        let stat = fs::statat(&*from, target.base(), AtFlags::SYMLINK_NOFOLLOW).map_err(|_| missing())?;
        if tree::is_directory(&stat) {
            return Err(Stop::refused("a hard link to a directory"));
        }
        if tree::is_whiteout(&stat) {
            return Err(missing());
        }
        let parent = self.tree.parent(name, true)?;
        if fs::statat(&*parent, name.base(), AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino))
        {
            return Ok(());
        }
        let make = || fs::linkat(&*from, target.base(), &*parent, name.base(), AtFlags::empty());
        Ok(self.tree.create(&parent, name.base(), "make hard link", make)?)
    }

    fn file(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &Name,
        attributes: &Attributes,
        archive: &mut Reader<'_>,
    ) -> Result<(), Stop> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || fs::openat(parent, name.base(), flags, Mode::from_raw_mode(0o600));
        let fd = self.tree.create(parent, name.base(), "create", make)?;
        match &entry.sparse {
            None => while write_piece(&fd, archive, u64::MAX)? > 0 {},
            Some(pieces) => {
                fs::ftruncate(&fd, entry.size).map_err(Failure::of("size"))?;
                for (offset, length) in pieces {
                    fs::seek(&fd, fs::SeekFrom::Start(*offset)).map_err(Failure::of("seek in"))?;
                    let mut left = *length;
                    while left > 0 {
                        left -= write_piece(&fd, archive, left)?;
                    }
                }
            }
        }
        self.layer.bytes += entry.size;
        if attributes.uid != 0 || attributes.gid != 0 {
            attributes.apply(fd.as_fd()).map_err(Failure::of("set the owner of"))?;
        } else {
            fs::fchmod(&fd, Mode::from_raw_mode(attributes.mode)).map_err(Failure::of("set the mode of"))?;
        }
        set_xattrs(&fd, entry)?;
        Ok(attributes.apply_time(fd.as_fd()).map_err(Failure::of("set the time of"))?)
    }

    fn finish(&mut self) -> Result<Layer> {
        for (path, attributes) in std::mem::take(&mut self.directories) {
            let Ok(name) = Name::parse(&path) else { continue };
            // A later entry may have replaced the directory: nothing to set then.
            let Ok(parent) = self.tree.parent(&name, false) else { continue };
            set_time(&parent, name.base(), attributes.mtime).map_err(|e| e.into_error(&path))?;
        }
        if let Some(root) = &self.layer.root {
            let failed = |errno| Failure::System("set the time of", errno).into_error(b"/");
            root.apply_time(self.tree.root()).map_err(failed)?;
        }
        let mut layer = std::mem::take(&mut self.layer);
        let implied = std::mem::take(&mut self.tree.implied);
        layer.implied = implied.into_iter().filter_map(|path| String::from_utf8(path).ok()).collect();
        Ok(layer)
    }
}

/// Why an entry was not placed: something about it, or the archive broke off within it.
enum Stop {
    Here(Failure),
    Archive(Error),
}

impl Stop {
    fn refused(reason: &str) -> Self {
        Self::Here(Failure::Refused(reason.into()))
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Here(failure)
    }
}

fn shown(name: &[u8]) -> String {
    crate::error::shorten(name)
}

fn attributes(entry: &Entry) -> Result<Attributes> {
    let id = |value: u64, what: &str| match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Error::entry(&entry.name, format!("absurd {what} {value}"))),
    };
    Ok(Attributes { mode: entry.mode, uid: id(entry.uid, "uid")?, gid: id(entry.gid, "gid")?, mtime: entry.mtime })
}

/// Writes the archive's next piece, as far as `limit`; 0 at the end of the data.
fn write_piece(fd: &OwnedFd, archive: &mut Reader<'_>, limit: u64) -> Result<u64, Stop> {
    let piece = archive.data().map_err(Stop::Archive)?;
    let piece = &piece[..piece.len().min(usize::try_from(limit).unwrap_or(usize::MAX))];
    if piece.is_empty() {
        return Ok(0);
    }
    let written = loop {
        match rustix::io::write(fd, piece) {
            Err(Errno::INTR) => {}
            other => break other.map_err(Failure::of("write"))?,
        }
    };
    archive.consume(written);
    Ok(written as u64)
}

/// The type and number of a node to make.
fn node(entry: &Entry) -> Result<(FileType, fs::Dev), Stop> {
    let number = |n: u64| u32::try_from(n).map_err(|_| Stop::refused("absurd device number"));
    let device = fs::makedev(number(entry.device.0)?, number(entry.device.1)?);
    match entry.kind {
        Kind::CharDevice if entry.device == (0, 0) => Err(Stop::refused("device 0:0 would hide files of other layers")),
        Kind::CharDevice => Ok((FileType::CharacterDevice, device)),
        Kind::BlockDevice => Ok((FileType::BlockDevice, device)),
        _ => Ok((FileType::Fifo, 0)),
    }
}

fn set_time(parent: &OwnedFd, base: &[u8], mtime: (i64, u32)) -> Result<(), Failure> {
    let time = Timespec { tv_sec: mtime.0, tv_nsec: i64::from(mtime.1) };
    let times = Timestamps { last_access: time, last_modification: time };
    match fs::utimensat(parent, base, &times, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Failure::System("set the time of", errno)),
    }
}

/// Attributes of what cannot be opened: links and nodes.
fn set_named(parent: &OwnedFd, base: &[u8], attributes: &Attributes, link: bool) -> Result<(), Failure> {
    let owner = (Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)));
    fs::chownat(parent, base, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).map_err(Failure::of("set the owner of"))?;
    if !link {
        fs::chmodat(parent, base, Mode::from_raw_mode(attributes.mode), AtFlags::empty())
            .map_err(Failure::of("set the mode of"))?;
    }
    set_time(parent, base, attributes.mtime)
}

fn set_xattrs(fd: &OwnedFd, entry: &Entry) -> Result<(), Failure> {
    for (name, value) in &entry.xattrs {
        let kept = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
            || matches!(
                name.as_slice(),
                b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
            );
        if !kept {
            continue;
        }
        match fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(Failure::System("set an extended attribute of", errno)),
        }
    }
    Ok(())
}
