//! Containers in a real shim: needs root.

mod fixture;
use fixture::{Pod, process};
use runtime::cgroup::{DeviceRule, Limits, Tree};
use runtime::client::Error;
use runtime::spec::{Bind, ContainerSpec, PidMode, Propagation, User};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Runs a container that differs in one thing, and checks what its log holds.
async fn check(pod: &mut Pod, id: &str, script: &str, change: impl FnOnce(&mut ContainerSpec), expected: &[&str]) {
    let mut spec = pod.container(id, script);
    change(&mut spec);
    let (code, log) = pod.run(spec).await;
    for text in expected {
        assert!(log.contains(text), "{id}: no {text:?} in (code {code}):\n{log}");
    }
}

/// Starts a container that must not start, and gives the reason.
async fn refused(pod: &Pod, id: &str, change: impl FnOnce(&mut ContainerSpec)) -> String {
    let mut spec = pod.container(id, "true");
    change(&mut spec);
    match pod.shim.start_container(spec).await {
        Err(Error::Failed(failure)) => failure.message,
        other => panic!("{id}: {other:?}"),
    }
}

fn bind(source: &Path, target: &str) -> Bind {
    Bind { source: source.to_owned(), target: PathBuf::from(target), ..Bind::default() }
}

#[tokio::test]
async fn a_container_runs_with_log_and_exit_code() {
    let mut pod = Pod::start(|_| {}).await;
    let spec = pod.container("one", "echo out; echo err >&2; echo $$; cat /proc/sys/kernel/hostname; exit 7");
    let (code, log) = pod.run(spec).await;
    assert_eq!(code, 7);
    for line in ["stdout F out\n", "stderr F err\n", "stdout F 1\n", "stdout F harbour\n"] {
        assert!(log.contains(line), "{log}");
    }
    let spec = pod.container("killed", "kill -9 $$; sleep 100");
    // The first process of a namespace cannot kill itself with a signal it does not handle.
    pod.shim.start_container(spec).await.unwrap();
    pod.shim.signal("killed", 9).await.unwrap();
    assert_eq!(pod.wait("killed").await, 137);
}

#[tokio::test]
async fn processes_run_as_whom_and_with_what_they_shall() {
    let mut pod = Pod::start(|_| {}).await;
    let name = |name: &str| User { name: name.to_owned(), ..User::default() };
    check(&mut pod, "root", "id", |_| {}, &["uid=0(root) gid=0(root) groups=0(root)"]).await;
    check(
        &mut pod,
        "web",
        "id; echo $HOME",
        |s| s.process.user = name("web"),
        &["uid=101(web) gid=102(web) groups=7(log),102(web)", "F /srv"],
    )
    .await;
    check(&mut pod, "number", "id", |s| s.process.user = name("77:88"), &["uid=77 gid=88 groups=88"]).await;
    // Its own standard output can be opened again by a user without rights.
    check(&mut pod, "reopen", "echo again > /dev/stdout", |s| s.process.user = name("web"), &["stdout F again"]).await;
    let status = "cat /proc/self/status";
    check(
        &mut pod,
        "caps",
        status,
        |_| {},
        &[
            "CapEff:\t00000000a80425fb",
            "CapBnd:\t00000000a80425fb",
            "CapInh:\t0000000000000000",
            "NoNewPrivs:\t0",
            "THP_enabled:\t1",
            "Seccomp:\t0",
        ],
    )
    .await;
    let drop_all = |s: &mut ContainerSpec| (s.process.capabilities, s.process.no_new_privs) = (0, true);
    check(
        &mut pod,
        "none",
        status,
        drop_all,
        &["CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"],
    )
    .await;
    let unknown = refused(&pod, "unknown", |s| s.process.user = name("ghost")).await;
    assert_eq!(unknown, "unable to find user ghost: no matching entries in passwd file");
}

#[tokio::test]
async fn seccomp_is_in_force_with_and_without_no_new_privs() {
    let mut pod = Pod::start(|_| {}).await;
    for no_new_privs in [false, true] {
        let caps = process(&[]).capabilities;
        let id = format!("default-{no_new_privs}");
        let set = |s: &mut ContainerSpec| {
            s.process.seccomp = Some(runtime::seccomp::default_filter(caps).unwrap());
            (s.process.no_new_privs, s.process.user.name) = (no_new_privs, "web".to_owned());
        };
        check(
            &mut pod,
            &id,
            "cat /proc/self/status; unshare -U true",
            set,
            &["Seccomp:\t2", "Operation not permitted"],
        )
        .await;
    }
    let profile = br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#;
    let filter = runtime::seccomp::from_json(profile, 0).unwrap();
    check(&mut pod, "own", "busybox mkdir /tmp/x", |s| s.process.seccomp = Some(filter), &["No space left on device"])
        .await;
}

#[tokio::test]
async fn the_machine_is_hidden_and_protected() {
    let mut pod = Pod::start(|_| {}).await;
    let script = "cat /proc/kcore | busybox wc -c; echo x > /proc/sys/kernel/domainname; busybox mkdir /sys/x; ls /dev; ls -l /proc/self/fd";
    let readonly = "Read-only file system";
    check(
        &mut pod,
        "plain",
        script,
        |_| {},
        &["F 0\n", readonly, "can't create directory '/sys/x': Read-only", "F null\n", "F ptmx\n"],
    )
    .await;
    let log = pod.log("plain");
    assert!(!log.contains("F vda") && !log.contains("F kvm"), "{log}");
    let set = |s: &mut ContainerSpec| (s.privileged, s.process.capabilities) = (true, runtime::capability::ALL);
    check(&mut pod, "privileged", "ls /dev | busybox wc -l; echo x > /proc/sys/kernel/domainname && echo wrote; busybox mount -t tmpfs x /tmp && echo mounted", set, &["F wrote", "F mounted"]).await;
    check(
        &mut pod,
        "readonly",
        "echo x > /file; echo y > /dev/shm/y && echo shm",
        |s| s.readonly_rootfs = true,
        &["can't create /file: Read-only file system"],
    )
    .await;
}

#[tokio::test]
async fn mounts_appear_where_asked_and_nowhere_else() {
    let mut pod = Pod::start(|_| {}).await;
    let volume = pod.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "content\n").unwrap();
    let script = "cat /deep/er/file /etc/single; echo new > /deep/er/new; echo x > /ro/x; echo done";
    let mounts = vec![
        bind(&volume, "/deep/er"),
        Bind { readonly: true, ..bind(&volume, "/ro") },
        bind(&volume.join("file"), "/etc/single"),
        bind(&pod.dir.path().join("made"), "/made"),
    ];
    check(
        &mut pod,
        "binds",
        script,
        |s| s.binds = mounts,
        &["F content\nstdout F content", "can't create /ro/x: Read-only", "F done"],
    )
    .await;
    assert_eq!(std::fs::read_to_string(volume.join("new")).unwrap(), "new\n");
    assert!(pod.dir.path().join("made").is_dir(), "a missing host path becomes a folder");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&pod.dir.path().display().to_string()), "the machine sees none of it");
}

#[tokio::test]
async fn hostile_images_do_not_get_out() {
    let mut pod = Pod::start(|_| {}).await;
    let (victim, image) = (pod.dir.path().join("victim"), pod.dir.path().join("image"));
    let volume = pod.dir.path().join("volume");
    for folder in [&victim, &volume] {
        std::fs::create_dir(folder).unwrap();
    }
    std::fs::write(volume.join("file"), "volume\n").unwrap();
    symlink(&victim, image.join("absolute")).unwrap();
    symlink("../../../../../../../../../../".to_owned() + &victim.display().to_string(), image.join("climbing"))
        .unwrap();
    symlink("/proc/self/root", image.join("magic")).unwrap();
    // A mount through the link lands inside, at the link's target as the container sees it.
    let script = format!("cat {}/in/file; cat {}/in2/file", victim.display(), victim.display());
    let mounts = vec![bind(&volume, "/absolute/in"), bind(&volume, "/climbing/in2")];
    check(&mut pod, "links", &script, |s| s.binds = mounts, &["F volume\nstdout F volume"]).await;
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0, "nothing was made outside");
    let magic = refused(&pod, "magic", |s| s.binds = vec![bind(&volume, "/magic/etc")]).await;
    assert!(magic.contains("error mounting"), "{magic}");
    // A working directory through a descriptor of the machine (CVE-2024-21626).
    for number in 3..12 {
        let text = refused(&pod, &format!("fd{number}"), |s| s.process.cwd = format!("/proc/self/fd/{number}")).await;
        assert!(text.contains("/proc/self/fd"), "{text}");
    }
    for folder in ["proc", "sys", "dev"] {
        std::fs::remove_dir(image.join(folder)).unwrap();
        symlink("tmp", image.join(folder)).unwrap();
        let text = refused(&pod, &format!("linked-{folder}"), |_| {}).await;
        assert!(text.contains(&format!("error mounting to rootfs at \"/{folder}\"")), "{text}");
        std::fs::remove_file(image.join(folder)).unwrap();
        std::fs::create_dir(image.join(folder)).unwrap();
    }
}

#[tokio::test]
async fn mounts_made_later_travel_as_asked() {
    let mut pod = Pod::start(|_| {}).await;
    let volume = pod.dir.path().join("volume");
    std::fs::create_dir_all(volume.join("below")).unwrap();
    let own = rustix::mount::mount_bind(&volume, &volume);
    own.unwrap();
    let shared = rustix::mount::MountPropagationFlags::SHARED;
    rustix::mount::mount_change(&volume, shared).unwrap();
    let wait = "while [ ! -e /v/below/late ]; do sleep 0.02; done; echo seen";
    let mut slave = pod.container("slave", wait);
    slave.binds = vec![Bind { propagation: Propagation::Slave, ..bind(&volume, "/v") }];
    pod.shim.start_container(slave).await.unwrap();
    let mut both = pod.container("both", "busybox mount -t tmpfs x /v/below && echo hi > /v/below/late");
    both.binds = vec![Bind { propagation: Propagation::Shared, ..bind(&volume, "/v") }];
    (both.privileged, both.process.capabilities) = (true, runtime::capability::ALL);
    pod.shim.start_container(both).await.unwrap();
    let ends = async { (pod.greeting.events.next().await.unwrap(), pod.greeting.events.next().await.unwrap()) };
    let ends = tokio::time::timeout(std::time::Duration::from_secs(20), ends).await;
    let seen = std::fs::read_to_string(volume.join("below/late"));
    for path in [volume.join("below"), volume] {
        let _not_mounted = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH);
    }
    assert_eq!(seen.ok().as_deref(), Some("hi\n"), "{ends:?} {}", pod.log("both"));
    assert!(pod.log("slave").contains("seen"));
}

#[tokio::test]
async fn process_namespaces_are_shared_as_asked() {
    let mut pod = Pod::start(|p| p.shared_pid = true).await;
    let shared = |s: &mut ContainerSpec| s.pid = PidMode::Pod;
    let mut neighbour = pod.container("neighbour", "exec sleep 1234");
    shared(&mut neighbour);
    pod.shim.start_container(neighbour).await.unwrap();
    check(&mut pod, "shared", "cat /proc/1/comm; busybox ps", shared, &["F pause", "sleep 1234"]).await;
    check(&mut pod, "own", "busybox ps", |_| {}, &["    1 root     busybox ps"]).await;
    assert!(!pod.log("own").contains("1234"));
    let host = std::fs::read_to_string("/proc/1/comm").unwrap();
    check(&mut pod, "node", "cat /proc/1/comm", |s| s.pid = PidMode::Node, &[&host]).await;
    let streams = [None, None, None];
    let exec = pod.shim.exec(
        "neighbour",
        process(&["sh", "-c", "cat /proc/1/comm | busybox grep pause"]),
        Default::default(),
        streams,
    );
    let mut session = exec.await.unwrap().session;
    assert!(matches!(session.next().await, Ok(Some(runtime::wire::Reply::Exit { code: 0 }))));
}

#[tokio::test]
async fn pods_have_their_own_kernel_parameters() {
    let set = |p: &mut runtime::spec::PodSpec| drop(p.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into()));
    let mut pod = Pod::start(set).await;
    let machine = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
    check(&mut pod, "sysctl", "cat /proc/sys/kernel/shm_rmid_forced", |_| {}, &["F 1\n"]).await;
    assert_eq!(machine.trim(), "0", "the machine's stays");
}

#[tokio::test]
async fn devices_are_limited_by_cgroup() {
    let tree = Tree::open("kijabi/test-devices").unwrap();
    let cgroups = tree.create("c", &Limits::default(), true).unwrap();
    tree.restrict_devices("c", &DeviceRule::usual()).unwrap();
    let mut pod = Pod::start(|_| {}).await;
    let script = "mknod /tmp/mem c 1 1 && echo made; cat /tmp/mem; echo x > /dev/null && echo null; cat /dev/zero | busybox head -c 3 | busybox wc -c";
    check(
        &mut pod,
        "devices",
        script,
        |s| s.cgroups = cgroups,
        &["F made", "can't open '/tmp/mem': Operation not permitted", "F null", "F 3"],
    )
    .await;
    tree.reset().unwrap();
}

#[tokio::test]
async fn logs_are_rotated_and_long_lines_split() {
    let mut pod = Pod::start(|_| {}).await;
    let mut spec =
        pod.container("log", "read go; busybox head -c 40000 /dev/zero | busybox tr '\\0' x; echo; printf rest");
    (spec.stdin, spec.stdin_once) = (true, true);
    pod.shim.start_container(spec).await.unwrap();
    let (old, path) = (pod.dir.path().join("logs/old.log"), pod.log_path("log"));
    std::fs::rename(&path, &old).unwrap();
    pod.shim.reopen_log("log", &path).await.unwrap();
    let (read, write) = rustix::pipe::pipe().unwrap();
    let _session = pod.shim.attach("log", [Some(read), None, None]).await.unwrap();
    rustix::io::write(&write, b"go\n").unwrap();
    assert_eq!(pod.wait("log").await, 0);
    let log = pod.log("log");
    let lines: Vec<_> = log.lines().map(|l| (&l[..9], l.len() - 9)).collect();
    assert_eq!(lines, [("stdout P ", 16384), ("stdout P ", 16384), ("stdout F ", 7232), ("stdout F ", 4)]);
    assert_eq!(std::fs::read_to_string(old).unwrap(), "");
}

#[test]
fn the_copy_of_the_program_cannot_be_changed() {
    let program = fixture::program();
    let text = format!("{program:?}");
    let number: i32 = text.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap();
    let path = format!("/proc/self/fd/{number}");
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let written = std::io::Write::write(&mut file, b"evil");
    assert_eq!(written.unwrap_err().raw_os_error(), Some(rustix::io::Errno::PERM.raw_os_error()));
    assert!(file.set_len(0).is_err());
}
