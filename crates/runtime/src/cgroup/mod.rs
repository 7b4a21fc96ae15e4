//! Cgroups of version 1, 2, and both side by side: made, limited, read, killed and removed under one parent.
//!
//! Where version 2 is mounted, it serves for membership, killing (`cgroup.kill`), device rules (BPF) and CPU time, even
//! when the controllers are with version 1 (hybrid). Then only the controllers that limit something are joined in
//! version 1: each such join waits for the kernel.

mod device;
mod hierarchy;
mod stats;

pub use device::DeviceRule;
pub use stats::Stats;

use crate::spec::Cgroups;
use hierarchy::Hierarchies;
use std::io;
use std::path::{Path, PathBuf};

/// Limits of a cgroup. Zero or empty: not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CFS period in microseconds (0: 100,000).
    pub cpu_period_us: u64,
    /// CFS quota in microseconds a period.
    pub cpu_quota_us: i64,
    /// Relative weight, 2 to 262,144.
    pub cpu_shares: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: i64,
    /// CPUs.
    pub cpuset_cpus: String,
    /// Memory nodes.
    pub cpuset_mems: String,
}

/// Why a cgroup could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cgroups are mounted, or a controller is missing.
    #[error("cgroups: {0}")]
    Missing(String),
    /// A file or folder of a cgroup.
    #[error("cgroup {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { path: path.to_owned(), source }
}

fn write(path: &Path, value: &str) -> Result<(), Error> {
    std::fs::write(path, value).map_err(at(path))
}

/// The cgroups of this instance: all below one parent.
#[derive(Debug)]
pub struct Tree {
    hierarchies: Hierarchies,
    parent: PathBuf,
}

impl Tree {
    /// Finds out what the machine has and makes the parent (`kijabi`).
    ///
    /// # Errors
    /// When no cgroups are mounted, or the parent cannot be made (not root).
    pub fn open(parent: &str) -> Result<Tree, Error> {
        let tree = Tree { hierarchies: Hierarchies::detect()?, parent: PathBuf::from(parent) };
        for folder in tree.hierarchies.folders(&tree.parent, true) {
            std::fs::create_dir_all(&folder).map_err(at(&folder))?;
        }
        tree.hierarchies.delegate(&tree.parent)?;
        Ok(tree)
    }

    /// Folders of the cgroup that shims live in, outside the program's own so that they outlive it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn shims(&self) -> Result<Vec<PathBuf>, Error> {
        let folders = self.hierarchies.folders(&self.parent.join("shims"), true);
        for folder in &folders {
            std::fs::create_dir_all(folder).map_err(at(folder))?;
        }
        Ok(folders)
    }

    /// Makes a cgroup below the parent (`burstable/pod1/c1`) and those above it, and limits it. `container`: it will
    /// hold processes and nothing below it.
    ///
    /// # Errors
    /// When it cannot be made or limited.
    pub fn create(&self, path: &str, limits: &Limits, container: bool) -> Result<Cgroups, Error> {
        let full = self.parent.join(path);
        let cpuset = !limits.cpuset_cpus.is_empty() || !limits.cpuset_mems.is_empty();
        for folder in self.hierarchies.folders(&full, false) {
            std::fs::create_dir_all(&folder).map_err(at(&folder))?;
        }
        if cpuset {
            self.hierarchies.prepare_cpuset(&full)?;
        }
        if self.hierarchies.unified() {
            let mut above = self.parent.clone();
            for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
                above.push(part);
                self.hierarchies.delegate(&above)?;
            }
            if !container {
                self.hierarchies.delegate(&full)?;
            }
        }
        self.limit(&full, limits, true)?;
        Ok(self.hierarchies.cgroups(&full, cpuset))
    }

    /// Changes the limits of a cgroup.
    ///
    /// # Errors
    /// When the kernel refuses a value.
    pub fn update(&self, path: &str, limits: &Limits) -> Result<(), Error> {
        self.limit(&self.parent.join(path), limits, false)
    }

    /// Lets the processes of a container's cgroup use these devices only.
    ///
    /// # Errors
    /// When the kernel refuses: then the container must not run.
    pub fn restrict_devices(&self, path: &str, rules: &[DeviceRule]) -> Result<(), Error> {
        let full = self.parent.join(path);
        match (self.hierarchies.version2(&full), self.hierarchies.version1("devices", &full)) {
            (Some(folder), _) => device::restrict(&folder, rules).map_err(at(&folder)),
            (None, Some(folder)) => {
                write(&folder.join("devices.deny"), "a")?;
                rules.iter().try_for_each(|rule| write(&folder.join("devices.allow"), &rule.to_string()))
            }
            (None, None) => Err(Error::Missing("no way to restrict devices".to_owned())),
        }
    }

    /// Kills all processes of a cgroup and those below it, however fast they fork.
    ///
    /// # Errors
    /// When processes are left after many tries.
    pub fn kill(&self, path: &str) -> Result<(), Error> {
        self.hierarchies.kill(&self.parent.join(path))
    }

    /// Removes a cgroup and those below it, killing what is in them. One that is not there is removed already.
    ///
    /// # Errors
    /// When processes do not go away.
    pub fn remove(&self, path: &str) -> Result<(), Error> {
        self.hierarchies.remove(&self.parent.join(path))
    }

    /// Removes the parent with all below it, and what is above it as far as nobody else uses it.
    ///
    /// # Errors
    /// When processes do not go away.
    pub fn reset(&self) -> Result<(), Error> {
        self.hierarchies.remove(&self.parent)?;
        for above in self.parent.ancestors().skip(1).filter(|above| above.file_name().is_some()) {
            self.hierarchies.remove_if_empty(above);
        }
        Ok(())
    }

    /// What the processes of a cgroup use.
    pub fn stats(&self, path: &str) -> Stats {
        stats::read(&self.hierarchies, &self.parent.join(path))
    }

    /// Where a cgroup is, whether it was made by this program's run or an earlier one.
    pub fn cgroups(&self, path: &str, cpuset: bool) -> Cgroups {
        self.hierarchies.cgroups(&self.parent.join(path), cpuset)
    }

    fn limit(&self, full: &Path, limits: &Limits, fresh: bool) -> Result<(), Error> {
        let settings =
            if self.hierarchies.unified() { hierarchy::version2(limits) } else { hierarchy::version1(limits) };
        for setting in settings.iter().filter(|setting| !fresh || setting.limited) {
            let Some(folder) = self.hierarchies.controller(setting.controller, full) else {
                if setting.limited && !setting.optional {
                    let text = format!("the {} controller is missing", setting.controller);
                    return Err(Error::Missing(text));
                }
                continue;
            };
            let done = write(&folder.join(setting.file), &setting.value);
            if !setting.optional && (setting.limited || !fresh) {
                done?;
            }
        }
        Ok(())
    }
}
