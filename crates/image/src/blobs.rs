//! The content store: files named by the digest of what is in them.
//!
//! Content is written to `ingest/`, hashed as it passes, and renamed into place when its digest is known. It becomes
//! durable with the `syncfs` before the index that names it is written; whatever a crash leaves unnamed is swept at open.

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use parking_lot::{Condvar, Mutex};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Files by digest, under one directory.
pub(crate) struct Blobs {
    directory: PathBuf,
    ingest: PathBuf,
    next: AtomicU64,
}

impl Blobs {
    /// Opens the store below `root`, making its directories.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let directory = root.join("blobs/sha256");
        let ingest = root.join("ingest");
        for path in [&directory, &ingest] {
            fs::create_dir_all(path).map_err(|e| Error::io("make directory", path, e))?;
        }
        Ok(Self { directory, ingest, next: AtomicU64::new(0) })
    }

    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }

    /// A new name in the directory of unfinished things.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.ingest.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Bytes of that content, if it is here.
    pub(crate) fn size(&self, digest: Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|meta| meta.len())
    }

    /// All content: digests and sizes. Files of other names are left alone.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, u64)>> {
        let failed = |e| Error::io("list", &self.directory, e);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok()) {
                all.push((digest, entry.metadata().map_err(failed)?.len()));
            }
        }
        Ok(all)
    }

    pub(crate) fn open_blob(&self, digest: Digest) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).map_err(|e| Error::io("open", path, e))
    }

    /// A document, whole and checked.
    pub(crate) fn document(&self, digest: Digest, bytes_max: u64) -> Result<Vec<u8>> {
        let file = self.open_blob(digest)?;
        let path = self.path(digest);
        let mut bytes = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|e| Error::io("read", &path, e))?;
        if bytes.len() as u64 > bytes_max {
            return Err(Error::damaged(digest.to_string(), format!("a document of more than {bytes_max} bytes")));
        }
        match Digest::of(&bytes) {
            found if found == digest => Ok(bytes),
            found => Err(Error::Mismatch { what: "document in the store", expected: digest, found }),
        }
    }

    /// Starts new content.
    pub(crate) fn ingest(&self) -> Result<Ingest> {
        let path = self.scratch();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| Error::io("create", &path, e))?;
        Ok(Ingest {
            file: Arc::new(file),
            path,
            directory: self.directory.clone(),
            hasher: Hasher::default(),
            shared: Arc::default(),
        })
    }
}

/// Content that is being written; dropped before `commit`, it is gone.
pub(crate) struct Ingest {
    file: Arc<File>,
    path: PathBuf,
    directory: PathBuf,
    hasher: Hasher,
    shared: Arc<Shared>,
}

/// How far the writer is, for those who read after it.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    written: u64,
    ended: Option<Result<(), ()>>,
}

impl Ingest {
    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<()> {
        (&*self.file).write_all(piece).map_err(|e| Error::io("write", &self.path, e))?;
        self.hasher.update(piece);
        self.shared.state.lock().written += piece.len() as u64;
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.hasher.bytes()
    }

    /// A reader that follows the writer to its end.
    pub(crate) fn follow(&self) -> Follow {
        Follow { file: self.file.clone(), shared: self.shared.clone(), at: 0 }
    }

    /// Ends the content: checked against the digest it should have, and in the store afterwards.
    pub(crate) fn commit(self, expected: Option<Digest>) -> Result<(Digest, u64)> {
        let bytes = self.hasher.bytes();
        let found = self.hasher.clone().finish();
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(Error::Mismatch { what: "content", expected, found });
        }
        let to = self.directory.join(found.hex());
        fs::rename(&self.path, &to).map_err(|e| Error::io("rename", &to, e))?;
        self.shared.state.lock().ended = Some(Ok(()));
        self.shared.changed.notify_all();
        Ok((found, bytes))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if state.ended.is_none() {
            state.ended = Some(Err(()));
            self.shared.changed.notify_all();
            // Already gone, or swept at the next open.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Reads content while it is being written, waiting for more.
pub(crate) struct Follow {
    file: Arc<File>,
    shared: Arc<Shared>,
    at: u64,
}

impl Read for Follow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.state.lock();
        while state.written == self.at {
            match state.ended {
                None => self.shared.changed.wait(&mut state),
                Some(Ok(())) => return Ok(0),
                Some(Err(())) => return Err(io::Error::other("its download was given up")),
            }
        }
        let ready = usize::try_from(state.written - self.at).unwrap_or(usize::MAX);
        drop(state);
        let want = buf.len().min(ready);
        let n = self.file.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_named_by_its_digest_or_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(directory.path()).unwrap();
        let put = |bytes: &[u8], expected| {
            let mut ingest = blobs.ingest().unwrap();
            ingest.write(bytes).unwrap();
            ingest.commit(expected)
        };
        let (digest, 5) = put(b"hello", None).unwrap() else { panic!("five bytes") };
        assert_eq!(digest, Digest::of(b"hello"));
        assert_eq!(blobs.document(digest, 5).unwrap(), b"hello");
        assert!(blobs.document(digest, 4).is_err());
        let wrong = put(b"other", Some(digest));
        assert!(matches!(wrong, Err(Error::Mismatch { .. })));
        assert_eq!(blobs.list().unwrap(), [(digest, 5)]);
        assert_eq!(fs::read_dir(directory.path().join("ingest")).unwrap().count(), 0);
        fs::write(blobs.path(digest), b"jello").unwrap();
        assert!(matches!(blobs.document(digest, 5), Err(Error::Mismatch { .. })));
    }

    #[test]
    fn a_follower_reads_what_is_written_and_learns_of_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(directory.path()).unwrap();
        for end_well in [true, false] {
            let mut ingest = blobs.ingest().unwrap();
            let mut follow = ingest.follow();
            let reader = std::thread::spawn(move || {
                let mut all = Vec::new();
                follow.read_to_end(&mut all).map(|_| all)
            });
            for piece in 0..100_u8 {
                ingest.write(&[piece; 1000]).unwrap();
            }
            if end_well {
                ingest.commit(None).unwrap();
            } else {
                drop(ingest);
            }
            let read = reader.join().unwrap();
            assert_eq!(read.is_ok(), end_well);
            if let Ok(all) = read {
                assert_eq!(all.len(), 100_000);
            }
        }
    }
}
