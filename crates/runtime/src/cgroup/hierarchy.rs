//! Which hierarchies a machine has, and the differences between them.

use super::{Error, Limits, at, write};
use crate::spec::Cgroups;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Version 1 controllers a container is put into.
const LIMITING: [&str; 3] = ["memory", "cpu", "pids"];
/// Further ones where version 2 is not mounted.
const WITHOUT_VERSION2: [&str; 3] = ["cpuacct", "devices", "freezer"];
/// Version 2 controllers to hand down.
const DELEGATED: [&str; 5] = ["cpu", "memory", "pids", "cpuset", "io"];
/// How long processes may take to die.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where hierarchies are mounted.
#[derive(Debug, Default)]
pub(super) struct Hierarchies {
    v1: BTreeMap<String, PathBuf>,
    v2: Option<PathBuf>,
    v2_controllers: Vec<String>,
}

/// One value to write.
pub(super) struct Setting {
    pub(super) controller: &'static str,
    pub(super) file: &'static str,
    pub(super) value: String,
    /// Whether it limits anything (or lifts a limit).
    pub(super) limited: bool,
    /// Kernels may lack the file, or refuse.
    pub(super) optional: bool,
}

fn setting(controller: &'static str, file: &'static str, value: Option<String>, unlimited: &str) -> Setting {
    let limited = value.is_some();
    Setting { controller, file, value: value.unwrap_or_else(|| unlimited.to_owned()), limited, optional: false }
}

fn positive<T: PartialOrd + Default + ToString>(value: T) -> Option<String> {
    (value > T::default()).then(|| value.to_string())
}

fn filled(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// Limits in the files of version 1.
pub(super) fn version1(limits: &Limits) -> Vec<Setting> {
    let period = if limits.cpu_period_us == 0 { 100_000 } else { limits.cpu_period_us };
    let mut settings = vec![
        // The limit with swap can be neither below the plain one nor raised after it: written on both sides.
        setting("memory", "memory.memsw.limit_in_bytes", positive(limits.memory_bytes), "-1"),
        setting("memory", "memory.limit_in_bytes", positive(limits.memory_bytes), "-1"),
        setting("memory", "memory.memsw.limit_in_bytes", positive(limits.memory_bytes), "-1"),
        setting("cpu", "cpu.shares", positive(limits.cpu_shares), "1024"),
        setting("cpu", "cpu.cfs_period_us", positive(limits.cpu_quota_us).map(|_| period.to_string()), "100000"),
        setting("cpu", "cpu.cfs_quota_us", positive(limits.cpu_quota_us), "-1"),
        setting("pids", "pids.max", positive(limits.pids), "max"),
        setting("cpuset", "cpuset.cpus", filled(&limits.cpuset_cpus), ""),
        setting("cpuset", "cpuset.mems", filled(&limits.cpuset_mems), ""),
    ];
    for setting in &mut settings {
        setting.optional = setting.file.contains("memsw") || setting.value.is_empty();
    }
    settings
}

/// Limits in the files of version 2.
pub(super) fn version2(limits: &Limits) -> Vec<Setting> {
    let period = if limits.cpu_period_us == 0 { 100_000 } else { limits.cpu_period_us };
    // The weight's range, 1 to 10,000, is mapped linearly, as runc does.
    let weight = (limits.cpu_shares > 0).then(|| 1 + (limits.cpu_shares.clamp(2, 262_144) - 2) * 9_999 / 262_142);
    let memory = positive(limits.memory_bytes);
    let mut settings = vec![
        setting("memory", "memory.swap.max", memory.as_ref().map(|_| "0".to_owned()), "max"),
        setting("memory", "memory.max", memory, "max"),
        setting("memory", "memory.oom.group", Some("1".to_owned()), "1"),
        setting("cpu", "cpu.weight", weight.map(|w| w.to_string()), "100"),
        setting("cpu", "cpu.max", positive(limits.cpu_quota_us).map(|quota| format!("{quota} {period}")), "max 100000"),
        setting("pids", "pids.max", positive(limits.pids), "max"),
        setting("cpuset", "cpuset.cpus", filled(&limits.cpuset_cpus), ""),
        setting("cpuset", "cpuset.mems", filled(&limits.cpuset_mems), ""),
    ];
    for setting in &mut settings {
        setting.optional = matches!(setting.file, "memory.swap.max" | "memory.oom.group") || setting.value.is_empty();
    }
    settings
}

impl Hierarchies {
    pub(super) fn detect() -> Result<Hierarchies, Error> {
        let path = Path::new("/proc/self/mountinfo");
        let found = Hierarchies::parse(&std::fs::read_to_string(path).map_err(at(path))?);
        let controllers = found.v2.as_ref().map(|v2| std::fs::read_to_string(v2.join("cgroup.controllers")));
        let controllers = controllers.and_then(Result::ok).unwrap_or_default();
        let v2_controllers = controllers.split_whitespace().map(str::to_owned).collect();
        let found = Hierarchies { v2_controllers, ..found };
        if found.v1.is_empty() && found.v2.is_none() {
            return Err(Error::Missing("none are mounted; mount cgroup2 at /sys/fs/cgroup".to_owned()));
        }
        Ok(found)
    }

    fn parse(mountinfo: &str) -> Hierarchies {
        const KNOWN: [&str; 8] = ["memory", "cpu", "pids", "cpuacct", "devices", "freezer", "cpuset", "systemd"];
        let mut found = Hierarchies::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (mut left, mut right) = (left.split(' ').skip(4), right.split(' '));
            let (Some(mountpoint), Some(kind), Some(options)) = (left.next(), right.next(), right.nth(1)) else {
                continue;
            };
            match kind {
                "cgroup2" => found.v2 = found.v2.or_else(|| Some(PathBuf::from(mountpoint))),
                "cgroup" => {
                    let names = options.split(',').map(|option| option.strip_prefix("name=").unwrap_or(option));
                    for controller in names.filter(|name| KNOWN.contains(name)) {
                        found.v1.entry(controller.to_owned()).or_insert_with(|| PathBuf::from(mountpoint));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Whether the controllers are with version 2.
    pub(super) fn unified(&self) -> bool {
        !self.v1.contains_key("memory") && self.v2.is_some()
    }

    fn join(mount: &Path, full: &Path) -> PathBuf {
        mount.join(full.strip_prefix("/").unwrap_or(full))
    }

    pub(super) fn version1(&self, controller: &str, full: &Path) -> Option<PathBuf> {
        self.v1.get(controller).map(|mount| Hierarchies::join(mount, full))
    }

    pub(super) fn version2(&self, full: &Path) -> Option<PathBuf> {
        self.v2.as_ref().map(|mount| Hierarchies::join(mount, full))
    }

    /// The folder where a controller has its files.
    pub(super) fn controller(&self, controller: &str, full: &Path) -> Option<PathBuf> {
        self.version1(controller, full).or_else(|| {
            let there = self.v2_controllers.iter().any(|known| known == controller);
            self.version2(full).filter(|_| there)
        })
    }

    /// The version 1 controllers a container is put into.
    fn joined(&self, cpuset: bool) -> Vec<&str> {
        let mut names = LIMITING.to_vec();
        if self.v2.is_none() {
            names.extend(WITHOUT_VERSION2);
        }
        if cpuset {
            names.push("cpuset");
        }
        names
    }

    /// The folders of a cgroup in the hierarchies that containers are in; with `named`, also in the service manager's.
    pub(super) fn folders(&self, full: &Path, named: bool) -> Vec<PathBuf> {
        let manager = if named { Some("systemd") } else { None };
        let names = self.joined(false).into_iter().chain(manager);
        once_each(names.filter_map(|name| self.version1(name, full)).chain(self.version2(full)))
    }

    pub(super) fn cgroups(&self, full: &Path, cpuset: bool) -> Cgroups {
        let v1 = once_each(self.joined(cpuset).iter().filter_map(|name| self.version1(name, full)));
        let oom_file = match self.version1("memory", full) {
            Some(folder) => Some(folder.join("memory.oom_control")),
            None => self.version2(full).map(|folder| folder.join("memory.events")),
        };
        Cgroups { v1, v2: self.version2(full), oom_file }
    }

    /// Hands controllers down to the cgroups below one (version 2 only).
    pub(super) fn delegate(&self, full: &Path) -> Result<(), Error> {
        if !self.unified() {
            return Ok(());
        }
        let Some(mount) = &self.v2 else { return Ok(()) };
        let wanted = DELEGATED.iter().filter(|name| self.v2_controllers.iter().any(|known| known == *name));
        let wanted = wanted.map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
        let mut folder = mount.clone();
        write(&folder.join("cgroup.subtree_control"), &wanted)?;
        for part in full.strip_prefix("/").unwrap_or(full).components() {
            folder.push(part);
            std::fs::create_dir_all(&folder).map_err(at(&folder))?;
            write(&folder.join("cgroup.subtree_control"), &wanted)?;
        }
        Ok(())
    }

    /// In version 1 a cpuset is empty at first and must be filled from the top before it can be joined.
    pub(super) fn prepare_cpuset(&self, full: &Path) -> Result<(), Error> {
        let Some(mount) = self.v1.get("cpuset") else { return Ok(()) };
        let mut folder = mount.clone();
        for part in full.strip_prefix("/").unwrap_or(full).components() {
            let above = folder.clone();
            folder.push(part);
            std::fs::create_dir_all(&folder).map_err(at(&folder))?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
                if own.trim().is_empty() {
                    let value = std::fs::read_to_string(above.join(file)).map_err(at(&above))?;
                    write(&folder.join(file), value.trim())?;
                }
            }
        }
        Ok(())
    }

    /// Folders of a cgroup wherever one of that name exists.
    fn existing(&self, full: &Path) -> Vec<PathBuf> {
        let mounts = self.v1.values().chain(&self.v2);
        let mut folders: Vec<_> = mounts.map(|mount| Hierarchies::join(mount, full)).filter(|f| f.is_dir()).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    pub(super) fn kill(&self, full: &Path) -> Result<(), Error> {
        let end = Instant::now() + PATIENCE;
        let _unthrottled = self.unthrottle(full);
        // At once where the kernel can (5.14); the loop below is for older ones, and waits for the end.
        let at_once = self.version2(full).is_some_and(|folder| std::fs::write(folder.join("cgroup.kill"), "1").is_ok());
        let freezer = self.version1("freezer", full).filter(|_| !at_once);
        loop {
            let folders = self.existing(full);
            let pids = folders.iter().flat_map(|folder| processes(folder)).collect::<std::collections::BTreeSet<_>>();
            if pids.is_empty() {
                return Ok(());
            }
            let freeze =
                |state: &str| freezer.iter().for_each(|f| drop(std::fs::write(f.join("freezer.state"), state)));
            freeze("FROZEN");
            if !at_once || end.saturating_duration_since(Instant::now()) < PATIENCE / 2 {
                for pid in pids.iter().filter_map(|pid| rustix::process::Pid::from_raw(*pid)) {
                    let _ended = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            freeze("THAWED");
            if Instant::now() > end {
                let source = io::Error::new(io::ErrorKind::TimedOut, format!("{} processes do not die", pids.len()));
                return Err(Error::File { path: full.to_owned(), source });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lifts the limits on processor time of a cgroup and the one above it, until dropped: hundreds of processes that share a
    /// fifth of a core would take minutes to die.
    fn unthrottle(&self, full: &Path) -> Unthrottled {
        let (file, unlimited) = if self.unified() { ("cpu.max", "max") } else { ("cpu.cfs_quota_us", "-1") };
        let folders = [Some(full), full.parent()].into_iter().flatten().filter_map(|path| self.controller("cpu", path));
        let lift = |folder: PathBuf| {
            let path = folder.join(file);
            let before = std::fs::read_to_string(&path).ok()?;
            std::fs::write(&path, unlimited).ok()?;
            Some((path, before.trim().to_owned()))
        };
        Unthrottled(folders.filter_map(lift).collect())
    }

    /// Removes a cgroup that has neither processes nor others below it; the kernel refuses to remove another.
    pub(super) fn remove_if_empty(&self, full: &Path) {
        for folder in self.existing(full) {
            let _ = std::fs::remove_dir(folder);
        }
    }

    pub(super) fn remove(&self, full: &Path) -> Result<(), Error> {
        let end = Instant::now() + PATIENCE;
        loop {
            let folders = self.existing(full);
            let failed = folders.iter().filter_map(|folder| Some((folder, remove_folder(folder).err()?))).next();
            match failed {
                None => return Ok(()),
                Some((_, error)) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                    self.kill(full)?;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Some((folder, source)) => return Err(Error::File { path: folder.clone(), source }),
            }
        }
    }
}

/// Limits on processor time that are lifted for now.
struct Unthrottled(Vec<(PathBuf, String)>);

impl Drop for Unthrottled {
    fn drop(&mut self) {
        // The outer limit first: an inner one may not exceed it.
        for (path, before) in self.0.iter().rev() {
            // A cgroup that is gone needs no limit.
            let _ = std::fs::write(path, before);
        }
    }
}

/// The folders in their order, without those that came before: controllers that are mounted together share one.
fn once_each(folders: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for folder in folders {
        if !all.contains(&folder) {
            all.push(folder);
        }
    }
    all
}

/// The processes of a cgroup folder and of those below.
fn processes(folder: &Path) -> Vec<i32> {
    let own = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<_> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for below in subfolders(folder) {
        pids.extend(processes(&below));
    }
    pids
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    for below in subfolders(folder) {
        remove_folder(&below)?;
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_told_apart() {
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:3 - cgroup2 cgroup2 rw\n";
        let found = Hierarchies::parse(hybrid);
        assert!(!found.unified());
        let cgroups = found.cgroups(Path::new("k/pod"), false);
        let path = |text: &str| PathBuf::from(text);
        assert_eq!(cgroups.v1, [path("/sys/fs/cgroup/memory/k/pod"), path("/sys/fs/cgroup/cpu,cpuacct/k/pod")]);
        assert_eq!(cgroups.v2, Some(path("/sys/fs/cgroup/unified/k/pod")));
        let unified = Hierarchies::parse("28 22 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(unified.unified());
        let cgroups = unified.cgroups(Path::new("k/pod"), false);
        assert!(cgroups.v1.is_empty());
        assert_eq!(cgroups.oom_file, Some(path("/sys/fs/cgroup/k/pod/memory.events")));
        let together = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let folders = Hierarchies::parse(together).cgroups(Path::new("k"), true).v1;
        assert_eq!(folders.iter().filter(|f| f.starts_with("/sys/fs/cgroup/cpu,cpuacct")).count(), 1, "{folders:?}");
        let legacy = Hierarchies::parse("35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
        assert!(!legacy.unified() && legacy.v2.is_none());
    }

    #[test]
    fn limits_become_files() {
        let limits =
            Limits { cpu_quota_us: 50_000, cpu_shares: 1024, memory_bytes: 1 << 20, pids: 7, ..Limits::default() };
        let find = |settings: &[Setting], file: &str| {
            settings.iter().find(|s| s.file == file).map(|s| (s.value.clone(), s.limited)).unwrap()
        };
        let one = version1(&limits);
        assert_eq!(find(&one, "memory.limit_in_bytes"), ("1048576".to_owned(), true));
        assert_eq!(find(&one, "cpu.cfs_quota_us"), ("50000".to_owned(), true));
        let two = version2(&limits);
        assert_eq!(find(&two, "cpu.weight"), ("39".to_owned(), true));
        assert_eq!(find(&two, "cpu.max"), ("50000 100000".to_owned(), true));
        assert_eq!(find(&two, "pids.max"), ("7".to_owned(), true));
        assert_eq!(find(&version2(&Limits::default()), "memory.max"), ("max".to_owned(), false));
    }
}
