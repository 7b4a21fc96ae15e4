//! Measures pods: one after another, many at once, and the memory of their shims. Needs root.
//!
//! `bench [pods at once]`; the program is its own shim, as the whole program is.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use cri::{ContainerConfig, ContainerMetadata, PodSandboxConfig, PodSandboxMetadata, RuntimeService};
use image::{File, RunConfig, Store};
use network::PodNetwork;
use sandbox::{Config, Sandbox};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn main() {
    if runtime::shim::requested() {
        let code = runtime::shim::main();
        #[expect(clippy::disallowed_methods, reason = "this is main")]
        std::process::exit(code);
    }
    let pods = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(100);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(bench(pods));
}

/// CPU time of this program and of its children that ended: shims, and through them containers.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = text.rsplit(')').next().unwrap().split_whitespace().skip(11).take(4);
    Duration::from_millis(fields.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
}

async fn open(dir: &Path) -> (Arc<Sandbox>, Arc<PodNetwork>, String) {
    let images = Store::open(image::Config::new(dir.join("images"))).unwrap();
    std::fs::create_dir_all(dir.join("network")).unwrap();
    let network = network::Config {
        data_dir: dir.join("network"),
        instance: "bench".to_owned(),
        mtu: 1500,
        cluster_cidr: "10.232.0.0/16".parse().unwrap(),
        service_cidr: None,
        pod_cidr: Some("10.232.0.0/22".parse().unwrap()),
    };
    let network = Arc::new(PodNetwork::open(network).unwrap());
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let files = vec![File { path: "/bin/busybox".into(), contents: busybox.into(), mode: 0o755 }];
    let image = images.add_image_from_files("bench:1", files, RunConfig::default()).await.unwrap().to_string();
    let config = Config {
        data_dir: dir.to_owned(),
        program: runtime::program::Program::this().unwrap(),
        cgroup_parent: "kijabi/bench".to_owned(),
        images,
        network: network.clone(),
    };
    (Sandbox::open(config).await.unwrap(), network, image)
}

fn pod(number: usize) -> PodSandboxConfig {
    let metadata = PodSandboxMetadata { name: format!("p{number}"), uid: format!("u{number}"), ..Default::default() };
    let cgroup_parent = format!("burstable/pod{number}");
    PodSandboxConfig { metadata, hostname: format!("p{number}"), cgroup_parent, ..Default::default() }
}

fn container(image: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata { name: "c".to_owned(), attempt: 0 },
        image_id: image.to_owned(),
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        security: cri::SecurityContext { seccomp: cri::SeccompProfile::RuntimeDefault, ..Default::default() },
        ..Default::default()
    }
}

async fn one(sandbox: &Sandbox, image: &str, number: usize, times: &mut [Vec<Duration>; 4]) {
    let mut events = sandbox.events();
    let mut at = Instant::now();
    let mut lap = |which: usize| times[which].push(std::mem::replace(&mut at, Instant::now()).elapsed());
    let id = sandbox.run_pod_sandbox(pod(number)).await.unwrap();
    lap(0);
    let c = sandbox.create_container(&id, container(image, &["/bin/busybox", "true"])).await.unwrap();
    lap(1);
    sandbox.start_container(&c).await.unwrap();
    lap(2);
    while sandbox.container_status(&c).await.unwrap().state != cri::ContainerState::Exited {
        events.recv().await.unwrap();
    }
    sandbox.remove_container(&c).await.unwrap();
    lap(3);
    sandbox.remove_pod_sandbox(&id).await.unwrap();
}

async fn bench(pods: usize) {
    let dir = std::env::temp_dir().join(format!("kijabi-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (sandbox, network, image) = open(&dir).await;
    let mut times = [const { Vec::new() }; 4];
    let before = cpu();
    for number in 0..30 {
        one(&sandbox, &image, number, &mut times).await;
    }
    let each = (cpu() - before) / 30;
    for (name, times) in
        ["run_pod_sandbox", "create_container", "start_container", "exit + remove"].iter().zip(&mut times)
    {
        times.sort();
        println!("{name:18} p50 {:?} max {:?}", times[times.len() / 2], times[times.len() - 1]);
    }
    println!("CPU of a whole pod, start to removal: {each:?}");
    let (before, start) = (cpu(), Instant::now());
    let mut starts = tokio::task::JoinSet::new();
    for number in 0..pods {
        let (sandbox, image) = (sandbox.clone(), image.clone());
        starts.spawn(async move {
            let id = sandbox.run_pod_sandbox(pod(number)).await.unwrap();
            let c =
                sandbox.create_container(&id, container(&image, &["/bin/busybox", "sleep", "100000"])).await.unwrap();
            sandbox.start_container(&c).await.unwrap();
        });
    }
    while let Some(started) = starts.join_next().await {
        started.unwrap();
    }
    println!("{pods} pods at once: {:?}", start.elapsed());
    memory(&dir);
    let start = Instant::now();
    sandbox.reset().await.unwrap();
    let each = (cpu() - before) / pods as u32;
    println!("reset: {:?}; CPU of a pod, start to reset: {each:?}", start.elapsed());
    network.reset().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Memory of shims, and of this program.
fn memory(dir: &Path) {
    let field = |pid: &str, name: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
    };
    let ids: Vec<_> = std::fs::read_dir(dir.join("sandboxes"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    let mut shims = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().into_string().unwrap();
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.starts_with(runtime::shim::NAME) && ids.iter().any(|id| line.contains(id)) {
            shims.push(pid);
        }
    }
    for name in ["Pss:", "Rss:", "Private_Dirty:", "Pss_Anon:", "Pss_File:", "Pss_Shmem:"] {
        let total: u64 = shims.iter().map(|pid| field(pid, name)).sum();
        println!("{} shims, {name:14} {} KiB each", shims.len(), total / shims.len().max(1) as u64);
    }
    println!("this program: Pss {} KiB", field("self", "Pss:"));
}
