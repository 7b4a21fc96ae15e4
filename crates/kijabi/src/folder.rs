//! The data folder: its parts, its lock, and the name that everything made outside of it carries.

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The layout of the folder; a newer number means a newer program wrote it.
const FORMAT: u32 = 1;

/// The data folder of one cluster on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

/// Held while the program runs; only one may.
pub(crate) struct Lock {
    _file: File,
}

impl Folder {
    /// Names the folder; nothing is made.
    pub(crate) fn new(root: &Path) -> Result<Folder> {
        let root = std::path::absolute(root).with_context(|| format!("the data folder {}", root.display()))?;
        Ok(Folder { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn exists(&self) -> bool {
        self.root.join("format").exists()
    }

    /// Six hex digits that tell this cluster's bridges, tables and cgroups from another's on the same machine.
    pub(crate) fn instance(&self) -> String {
        let path = fs::canonicalize(&self.root).unwrap_or_else(|_| self.root.clone());
        hex::encode(&Sha256::digest(path.as_os_str().as_encoded_bytes())[..3])
    }

    /// A part of the folder.
    pub(crate) fn part(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.part("admin.kubeconfig")
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.part("control.sock")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.part("kijabi.log")
    }

    /// Makes the folder when it is not there, checks its format, and locks it.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let path = self.root.display();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .with_context(|| format!("cannot make the data folder {path}"))?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(self.part("lock"))
            .with_context(|| format!("cannot lock the data folder {path}"))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            bail!(
                "the data folder {path} is in use by process {}; stop it with `kijabi down`, or choose another --data-dir",
                pid.trim()
            );
        }
        self.check_format()?;
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Lock { _file: file })
    }

    fn check_format(&self) -> Result<()> {
        let file = self.part("format");
        match fs::read_to_string(&file) {
            Ok(text) => match text.trim().parse::<u32>() {
                Ok(found) if found > FORMAT => bail!(
                    "the data folder {} has format {found}, this program knows up to {FORMAT}; use the newer kijabi that wrote it",
                    self.root.display()
                ),
                Ok(_) => Ok(()),
                Err(_) => bail!("{} is damaged: it should hold a number", file.display()),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                fs::write(&file, format!("{FORMAT}\n")).with_context(|| format!("cannot write {}", file.display()))
            }
            Err(e) => Err(e).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// The process that runs the cluster, if one does.
    pub(crate) fn running(&self) -> Option<u32> {
        let mut file = OpenOptions::new().read(true).write(true).open(self.part("lock")).ok()?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return None;
        }
        let mut pid = String::new();
        file.read_to_string(&mut pid).ok()?;
        pid.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_no_newer_format() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::new(&temp.path().join("data")).unwrap();
        let lock = folder.lock().unwrap();
        assert!(folder.exists());
        assert_eq!(folder.running(), Some(std::process::id()));
        let error = folder.lock().err().unwrap().to_string();
        assert!(error.contains("in use by process"), "{error}");
        drop(lock);
        assert_eq!(folder.running(), None);
        fs::write(folder.part("format"), "99\n").unwrap();
        let error = folder.lock().err().unwrap().to_string();
        assert!(error.contains("format 99"), "{error}");
        assert_eq!(folder.instance().len(), 6);
    }
}
