//! Containers: namespaces, root filesystem, rights, limits, and the shim that holds them.
//!
//! A pod has one **shim**: this same program, executed again from a sealed copy of itself ([`shim::main`]), single
//! threaded, which outlives the program that started it. It holds the pod's Linux namespaces, starts containers
//! as its children, writes their logs, connects exec and attach, and keeps exit codes in files. The program talks to
//! it over a socket in the sandbox's folder ([`client::Shim`]); the words are in [`wire`], the data in [`spec`].
//!
//! # Flow
//!
//! [`program::Program`] makes the sealed copy; [`client::Shim::start`] runs it for a pod; [`client::Shim::start_container`]
//! forks the container's first process, which builds its root (`shim/rootfs.rs`), drops its rights and executes
//! (`shim/init.rs`). [`cgroup`] makes and reads cgroups of version 1, 2 or both; [`seccomp`] compiles filters;
//! [`capability`] names capabilities.
//!
//! # Invariants
//!
//! - A container's mounts exist in its own mount namespace only: nothing is left on the machine when it ends.
//! - Paths inside a container are resolved with `openat2(RESOLVE_IN_ROOT)`, mounts move as descriptors: no race, no escape.
//! - What executes inside a container before its own program is the sealed copy, never the program's file.
//! - A seccomp profile asked for is in force or the container does not start.
//! - The shim has no threads and never waits for the program.
//!
//! It knows nothing of images, networks or pods' meaning, and pulls in no tokio on the shim's side.

pub mod capability;
pub mod cgroup;
pub mod client;
pub mod program;
pub mod seccomp;
pub mod shim;
pub mod spec;
mod syscall;
pub mod wire;

/// An error of the system in the words of its errno, as C programs and Go print it, without the number.
pub(crate) fn reason(error: &std::io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(_) => error.to_string(),
        None => return error.to_string().to_lowercase(),
    };
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
