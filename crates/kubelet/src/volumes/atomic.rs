//! Writes the files of a volume so that a reader sees all of a new version or all of the old one.
//!
//! The files of a version are in a folder of their own, `..<time>`; `..data` is a symbolic link to it, replaced by
//! `rename`; what a container opens, `key`, is a link to `..data/key`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, when not root.
    pub uid: Option<u32>,
}

/// Files by relative path.
pub type Payload = BTreeMap<String, File>;

/// Whether a relative path stays inside: no `..`, not absolute, not empty, not our own names.
pub fn safe_path(path: &str) -> bool {
    let path = Path::new(path);
    path.components().next().is_some()
        && path.components().all(|c| matches!(c, Component::Normal(_)))
        && !path.to_string_lossy().starts_with("..")
}

/// Brings the folder to this content. True when something changed.
pub fn write(dir: &Path, payload: &Payload, fs_group: Option<u32>) -> io::Result<bool> {
    if let Some(bad) = payload.keys().find(|p| !safe_path(p)) {
        return Err(io::Error::other(format!("path {bad:?} leaves the volume")));
    }
    fs::create_dir_all(dir)?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload)?
    {
        return Ok(false);
    }
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    let version = dir.join(&stamp);
    fs::create_dir(&version)?;
    fs::set_permissions(&version, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        write_file(&version, path, file, fs_group)?;
    }
    let _ = fs::remove_file(dir.join(DATA_NEW));
    symlink(&stamp, dir.join(DATA_NEW))?;
    fs::rename(dir.join(DATA_NEW), dir.join(DATA))?;
    links(dir, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

fn write_file(version: &Path, path: &str, file: &File, fs_group: Option<u32>) -> io::Result<()> {
    let full = version.join(path);
    let mut folder = version.to_owned();
    for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        if !folder.exists() {
            fs::create_dir(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        }
    }
    fs::write(&full, &file.data)?;
    let mode = if fs_group.is_some() { file.mode | 0o440 } else { file.mode };
    if file.uid.is_some() || fs_group.is_some() {
        std::os::unix::fs::chown(&full, file.uid, fs_group)?;
    }
    fs::set_permissions(&full, fs::Permissions::from_mode(mode & 0o7777))
}

/// The links a container sees, and no others.
fn links(dir: &Path, payload: &Payload) -> io::Result<()> {
    let top: BTreeSet<&str> = payload.keys().filter_map(|p| p.split('/').next()).collect();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !top.contains(name.as_ref()) {
            fs::remove_file(dir.join(name.as_ref()))?;
        }
    }
    for name in top {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    Ok(())
}

fn same(version: &Path, payload: &Payload) -> io::Result<bool> {
    let mut seen = 0;
    let mut folders = vec![version.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { return Ok(false) };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let path = entry.path();
            let relative = path.strip_prefix(version).map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
            let Some(file) = payload.get(&relative) else { return Ok(false) };
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            if mode | 0o440 != (file.mode & 0o777) | 0o440 || fs::read(&path)? != file.data {
                return Ok(false);
            }
            seen += 1;
        }
    }
    Ok(seen == payload.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(data: &str) -> File {
        File { data: data.into(), mode: 0o644, uid: None }
    }

    #[test]
    fn versions_replace_each_other() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("v");
        let one: Payload = [("a".to_owned(), file("1")), ("sub/b".to_owned(), file("2"))].into();
        assert!(write(&dir, &one, None).unwrap());
        assert!(!write(&dir, &one, None).unwrap(), "the same content is no change");
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert_eq!(fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
        let held = fs::canonicalize(dir.join("..data")).unwrap();
        let two: Payload = [("a".to_owned(), file("3"))].into();
        assert!(write(&dir, &two, None).unwrap());
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(fs::symlink_metadata(dir.join("sub")).is_err(), "what is gone is gone");
        assert!(!held.exists(), "the old version is removed");
        let mut changed = two.clone();
        changed.get_mut("a").unwrap().mode = 0o400;
        assert!(write(&dir, &changed, None).unwrap(), "a mode is content, too");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o400);
    }

    #[test]
    fn paths_stay_inside() {
        let tmp = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "", "a/../../x", "..data"] {
            assert!(!safe_path(path), "{path}");
            assert!(write(tmp.path(), &[(path.to_owned(), file(""))].into(), None).is_err(), "{path}");
        }
        assert!(safe_path("a/b.c"));
    }
}
