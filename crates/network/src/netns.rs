//! Network namespaces: kept alive by a bind mount on a file, entered by threads of their own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What went wrong with a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// A new namespace could not be made or bound to its file.
    #[error("cannot create network namespace {path}")]
    Create {
        /// The file that was to hold it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error("cannot enter network namespace {path}")]
    Enter {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace could not be released.
    #[error("cannot remove network namespace {path}")]
    Remove {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes a network namespace that lives until [`remove`], whichever processes end. `path` is created as a file
/// (its folder must exist) and must not hold a namespace already. Nothing in it is up yet, not even loopback.
pub fn create(path: &Path) -> Result<(), NetnsError> {
    let wrap = |source| NetnsError::Create { path: path.to_owned(), source };
    OpenOptions::new().write(true).create_new(true).open(path).map_err(wrap)?;
    let made = on_thread(|| {
        sys::netns::unshare_network()?;
        mount_bind("/proc/thread-self/ns/net", path)?;
        Ok(())
    });
    made.map_err(|source| {
        let _ = fs::remove_file(path);
        wrap(source)
    })
}

/// Releases a namespace: the kernel destroys it once no process is in it. A path that is not there is fine.
pub fn remove(path: &Path) -> Result<(), NetnsError> {
    let wrap = |source| NetnsError::Remove { path: path.to_owned(), source };
    match unmount(path, UnmountFlags::DETACH) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(wrap(error.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(wrap(error)),
        _ => Ok(()),
    }
}

/// Runs a closure in the namespace at `path`, on a thread of its own; the caller's thread stays where it is.
/// Sockets made inside stay in that namespace when handed out.
pub fn run<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let enter = |source| NetnsError::Enter { path: path.to_owned(), source };
    let namespace = File::open(path).map_err(enter)?;
    on_thread(|| {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind)?;
        Ok(work())
    })
    .map_err(enter)
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("netns".into());
        match builder.spawn_scoped(scope, work)?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
