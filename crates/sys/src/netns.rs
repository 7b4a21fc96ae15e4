//! Leaving the network namespace of the calling thread.
#![allow(unsafe_code)]

use std::io;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Moves the calling thread into a new, empty network namespace.
/// Only threads that end soon should do this: nothing brings them back by itself.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: only FILES may change which descriptors a thread sees; NEWNET changes none.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}
