//! Waiting for changes of a folder.

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Watches one folder.
pub struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Changes of the files in a folder from now on: written, made, renamed, removed.
    pub fn folder(path: &Path) -> io::Result<Watch> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE;
        inotify::add_watch(&fd, path, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that change descriptors; an `OwnedFd` never does"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Watch(fd))
    }

    /// Waits until something changed. Several changes may be told as one.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
            let mut reader = inotify::Reader::new(self.0.get_ref(), &mut buffer);
            let mut seen = false;
            loop {
                match reader.next() {
                    Ok(_) => seen = true,
                    Err(rustix::io::Errno::WOULDBLOCK) => break,
                    Err(e) => return Err(e.into()),
                }
            }
            guard.clear_ready();
            if seen {
                return Ok(());
            }
        }
    }
}
