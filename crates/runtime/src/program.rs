//! The sealed copy of this program that shims are executed from.

use rustix::fs::{MemfdFlags, SealFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A copy of a program in memory that nothing can change any more, so that no container can reach the program's file
/// through `/proc/<pid>/exe` (CVE-2019-5736). Shims started from one copy share its pages.
#[derive(Debug)]
pub struct Program {
    copy: OwnedFd,
}

impl Program {
    /// Copies this program itself.
    ///
    /// # Errors
    /// When its file cannot be read, or memory is short.
    pub fn this() -> io::Result<Program> {
        Program::copy_of(Path::new("/proc/self/exe"))
    }

    /// Copies the program at a path (for tests, whose own program is not a shim).
    ///
    /// # Errors
    /// When it cannot be read, or memory is short.
    pub fn copy_of(path: &Path) -> io::Result<Program> {
        // MFD_EXEC is asked for by kernels set up to make such files not executable; older ones do not know it.
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("kijabi", flags | MemfdFlags::EXEC)
            .or_else(|_| rustix::fs::memfd_create("kijabi", flags))?;
        let mut file = std::fs::File::from(memory);
        io::copy(&mut std::fs::File::open(path)?, &mut file)?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from(0o500))?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(Program { copy: file.into() })
    }

    /// A path that leads to the copy from this process and from those it starts.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.copy.as_raw_fd()))
    }
}
