//! Containers made: image, snapshot, cgroup, and the specification for the shim.

use crate::state::{Container, ContainerFile, Core, Pod, internal, lock, new_id, now_ns};
use crate::{files, images, pod};
use cri::{ContainerConfig, ContainerEventKind, ContainerStatus, MountPropagation, NamespaceMode, SeccompProfile};
use image::RunConfig;
use runtime::cgroup::DeviceRule;
use runtime::spec::{Bind, Cgroups, ContainerSpec, Device, PidMode, Process, Propagation, Rootfs, User};
use runtime::{capability, seccomp};
use rustix::fs::FileType;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where programs are looked for when the image does not say.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn invalid(text: impl Into<String>) -> cri::Error {
    cri::Error::InvalidArgument(text.into())
}

impl Core {
    pub(crate) async fn create(self: &Arc<Self>, sandbox: &str, config: ContainerConfig) -> cri::Result<String> {
        let pod = self.pod(sandbox)?;
        if !pod.ready() {
            return Err(cri::Error::FailedPrecondition(format!("sandbox {sandbox} is not ready")));
        }
        let id = new_id();
        let image =
            self.images.image_config(&config.image_id).await.map_err(|e| images::error(&config.image_id, &e))?;
        let mount =
            self.images.prepare(&id, &config.image_id).await.map_err(|e| images::error(&config.image_id, &e))?;
        let (name, owner) = (id.clone(), pod.clone());
        let made = self.blocking(move |this| this.build(&owner, &name, &config, &image.config, mount)).await;
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                self.clean(&pod, &id, None).await?;
                return Err(error);
            }
        };
        lock(&pod.containers).insert(id.clone(), Arc::new(Container::new(&file)));
        self.tell(&pod, &id, ContainerEventKind::Created);
        Ok(id)
    }

    /// Makes the cgroup and writes the specification down.
    fn build(
        &self,
        pod: &Pod,
        id: &str,
        config: &ContainerConfig,
        image: &RunConfig,
        mount: image::Mount,
    ) -> cri::Result<ContainerFile> {
        let mountpoint = pod.dir.join(id);
        std::fs::create_dir(&mountpoint).map_err(|e| internal("make the container's folder", &e))?;
        let cgroup = format!("{}/{id}", lock(&pod.file).cgroup);
        let made = self.cgroups.create(&cgroup, &pod::limits(&config.resources), true);
        let cgroups = made.map_err(|e| internal("make the container's cgroup", &e))?;
        if !config.security.privileged {
            let rules = device_rules(config)?;
            self.cgroups.restrict_devices(&cgroup, &rules).map_err(|e| internal("restrict devices", &e))?;
        }
        let spec = self.spec(pod, id, config, image, mount, (mountpoint, cgroups))?;
        let file = ContainerFile {
            status: ContainerStatus {
                id: id.to_owned(),
                pod_sandbox_id: pod.id.clone(),
                metadata: config.metadata.clone(),
                created_at_ns: now_ns(),
                image_id: config.image_id.clone(),
                log_path: spec.log_path.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                ..ContainerStatus::default()
            },
            cgroup,
            stop_signal: stop_signal(config.stop_signal.as_deref(), &image.stop_signal)?,
            tty: config.tty,
            spec,
        };
        files::write_container(&pod.dir, &file)?;
        Ok(file)
    }

    fn spec(
        &self,
        pod: &Pod,
        id: &str,
        config: &ContainerConfig,
        image: &RunConfig,
        mount: image::Mount,
        (mountpoint, cgroups): (PathBuf, Cgroups),
    ) -> cri::Result<ContainerSpec> {
        let (upper, work) =
            mount.upper.ok_or_else(|| cri::Error::Internal("the snapshot cannot be written".to_owned()))?;
        let pod_file = lock(&pod.file).clone();
        let log_path = match config.log_path.as_os_str().is_empty() {
            true => PathBuf::new(),
            false => pod_file.log_directory.join(&config.log_path),
        };
        let shm = if pod_file.status.namespaces.ipc == NamespaceMode::Node {
            PathBuf::from("/dev/shm")
        } else {
            pod.dir.join("shm")
        };
        Ok(ContainerSpec {
            id: id.to_owned(),
            mountpoint,
            rootfs: Rootfs::Overlay { lower: mount.lower, upper, work },
            readonly_rootfs: config.security.readonly_rootfs,
            process: process(config, image, &pod_file.hostname)?,
            privileged: config.security.privileged,
            unmasked_proc: config.security.unmasked_proc,
            binds: binds(&pod.dir, config),
            devices: config.devices.iter().map(device).collect(),
            shm: Some(shm),
            cgroups,
            oom_score_adj: config.resources.oom_score_adj,
            pid: match config.security.namespaces.pid {
                NamespaceMode::Pod => PidMode::Pod,
                NamespaceMode::Container => PidMode::Container,
                NamespaceMode::Node => PidMode::Node,
            },
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            log_path,
        })
    }
}

/// What runs, with the image's wishes where the pod has none.
fn process(config: &ContainerConfig, image: &RunConfig, hostname: &str) -> cri::Result<Process> {
    let security = &config.security;
    let capabilities = capability::set(security.privileged, &security.add_capabilities, &security.drop_capabilities)
        .map_err(invalid)?;
    let args = arguments(config, image);
    if args.is_empty() {
        return Err(invalid("no command specified: neither the pod nor the image names one"));
    }
    Ok(Process {
        args,
        env: environment(config, image, hostname),
        cwd: if config.working_dir.is_empty() { image.working_dir.clone() } else { config.working_dir.clone() },
        user: user(security, &image.user)?,
        capabilities,
        no_new_privs: security.no_new_privs,
        seccomp: if security.privileged { None } else { filter(&security.seccomp, capabilities)? },
        tty: config.tty,
    })
}

fn arguments(config: &ContainerConfig, image: &RunConfig) -> Vec<String> {
    let (entrypoint, arguments) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &config.args),
        (false, _) => (&config.command, &config.args),
    };
    entrypoint.iter().chain(arguments).cloned().collect()
}

/// The image's variables, then the pod's; a later one replaces an earlier of the same name.
fn environment(config: &ContainerConfig, image: &RunConfig, hostname: &str) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut set = |entry: String| {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
        let old = env.iter().position(|old| old.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')));
        match old {
            Some(old) => env[old] = entry,
            None => env.push(entry),
        }
    };
    set(DEFAULT_PATH.to_owned());
    set(format!("HOSTNAME={hostname}"));
    if config.tty {
        set("TERM=xterm".to_owned());
    }
    image.env.iter().cloned().for_each(&mut set);
    config.envs.iter().map(|(name, value)| format!("{name}={value}")).for_each(set);
    env
}

fn user(security: &cri::SecurityContext, image: &str) -> cri::Result<User> {
    let number =
        |value: i64, what: &str| u32::try_from(value).map_err(|_| invalid(format!("{what} {value} is out of range")));
    let name = match security.run_as_user {
        Some(uid) => number(uid, "user")?.to_string(),
        None if !security.run_as_username.is_empty() => security.run_as_username.clone(),
        None => image.to_owned(),
    };
    let groups =
        security.supplemental_groups.iter().map(|gid| number(*gid, "group")).collect::<cri::Result<Vec<_>>>()?;
    let gid = security.run_as_group.map(|gid| number(gid, "group")).transpose()?;
    Ok(User { name, gid, groups, strict_groups: security.supplemental_groups_strict })
}

fn filter(profile: &SeccompProfile, capabilities: u64) -> cri::Result<Option<Vec<u64>>> {
    let filter = match profile {
        SeccompProfile::Unconfined => return Ok(None),
        SeccompProfile::RuntimeDefault => seccomp::default_filter(capabilities),
        SeccompProfile::Localhost(path) => {
            let text = std::fs::read(path)
                .map_err(|e| invalid(format!("cannot load seccomp profile {:?}: {e}", path.display().to_string())))?;
            seccomp::from_json(&text, capabilities)
        }
    };
    filter.map(Some).map_err(|e| invalid(e.to_string()))
}

/// The pod's own files first, unless it mounts something in their place, then its mounts.
fn binds(dir: &Path, config: &ContainerConfig) -> Vec<Bind> {
    let own = ["hostname", "resolv.conf"].map(|name| Bind {
        source: dir.join(name),
        target: Path::new("/etc").join(name),
        readonly: config.security.readonly_rootfs,
        propagation: Propagation::Private,
    });
    let asked = config.mounts.iter().map(|mount| Bind {
        source: mount.host_path.clone(),
        target: mount.container_path.clone(),
        readonly: mount.readonly,
        propagation: match mount.propagation {
            MountPropagation::Private => Propagation::Private,
            MountPropagation::HostToContainer => Propagation::Slave,
            MountPropagation::Bidirectional => Propagation::Shared,
        },
    });
    let free = |bind: &Bind| !config.mounts.iter().any(|mount| mount.container_path == bind.target);
    own.into_iter().filter(free).chain(asked).collect()
}

fn device(device: &cri::Device) -> Device {
    Device { source: device.host_path.clone(), target: device.container_path.clone() }
}

fn device_rules(config: &ContainerConfig) -> cri::Result<Vec<DeviceRule>> {
    let mut rules = DeviceRule::usual();
    for device in &config.devices {
        let path = device.host_path.display();
        let stat = rustix::fs::stat(&device.host_path).map_err(|e| invalid(format!("device {path}: {e}")))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => 'c',
            FileType::BlockDevice => 'b',
            _ => return Err(invalid(format!("{path} is not a device"))),
        };
        let may = |letter| device.permissions.is_empty() || device.permissions.contains(letter);
        rules.push(DeviceRule {
            kind,
            major: Some(rustix::fs::major(stat.st_rdev)),
            minor: Some(rustix::fs::minor(stat.st_rdev)),
            read: may('r'),
            write: may('w'),
            mknod: may('m'),
        });
    }
    Ok(rules)
}

/// The signal that asks a container to stop: the pod's, the image's, or SIGTERM.
fn stop_signal(pod: Option<&str>, image: &str) -> cri::Result<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;
    let Some(name) = pod.filter(|name| !name.is_empty()).or(Some(image)).filter(|name| !name.is_empty()) else {
        return Ok(15);
    };
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text.trim_start_matches('+').parse::<i32>().ok() };
    let number = short
        .parse::<i32>()
        .ok()
        .or_else(|| NAMES.iter().position(|known| *known == short).map(|at| at as i32 + 1))
        .or_else(|| short.strip_prefix("RTMIN").and_then(offset).map(|n| REAL_TIME.start() + n))
        .or_else(|| short.strip_prefix("RTMAX").and_then(offset).map(|n| REAL_TIME.end() + n));
    number.filter(|number| (1..=64).contains(number)).ok_or_else(|| invalid(format!("unknown stop signal {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn commands_replace_the_image_s() {
        let image = RunConfig { entrypoint: list(&["e"]), cmd: list(&["c"]), ..RunConfig::default() };
        let check = |command: &[&str], args: &[&str], expected: &[&str]| {
            let config = ContainerConfig { command: list(command), args: list(args), ..ContainerConfig::default() };
            assert_eq!(arguments(&config, &image), list(expected), "{command:?} {args:?}");
        };
        check(&[], &[], &["e", "c"]);
        check(&[], &["a"], &["e", "a"]);
        check(&["x"], &[], &["x"]);
        check(&["x"], &["a", "b"], &["x", "a", "b"]);
    }

    #[test]
    fn variables_are_merged_in_order() {
        let image = RunConfig { env: list(&["A=1", "PATH=/bin", "AB=2"]), ..RunConfig::default() };
        let envs = vec![("A".to_owned(), "3=4".to_owned()), ("HOSTNAME".to_owned(), "x".to_owned())];
        let config = ContainerConfig { envs, ..ContainerConfig::default() };
        assert_eq!(environment(&config, &image, "h"), list(&["PATH=/bin", "HOSTNAME=x", "A=3=4", "AB=2"]));
    }

    #[test]
    fn signals_are_named_or_numbered() {
        let check = |pod: Option<&str>, image: &str, expected: Option<i32>| {
            assert_eq!(stop_signal(pod, image).ok(), expected, "{pod:?} {image:?}");
        };
        check(None, "", Some(15));
        check(None, "SIGQUIT", Some(3));
        check(Some("SIGUSR1"), "SIGQUIT", Some(10));
        check(None, "9", Some(9));
        check(None, "rtmin+3", Some(37));
        check(None, "SIGRTMAX-1", Some(63));
        check(None, "SIGNOPE", None);
        check(None, "65", None);
    }
}
