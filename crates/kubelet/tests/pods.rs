//! Pods from creation to removal, against a runtime without containers and an API server in memory.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use common::Api;
use kubelet::simulated::{Behaviour, Simulated};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PODS: &str = "api/v1/pods";

struct Node {
    api: Api,
    runtime: Simulated,
    dir: tempfile::TempDir,
    token: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Node {
    fn new() -> Node {
        let mut node = Node {
            api: Api::default(),
            runtime: Simulated::new(),
            dir: tempfile::tempdir().unwrap(),
            token: CancellationToken::new(),
            task: None,
        };
        node.start();
        node
    }

    fn start(&mut self) {
        self.token = CancellationToken::new();
        let (runtime, images) = (Arc::new(self.runtime.clone()), Arc::new(self.runtime.clone()));
        let mut config = kubelet::Config::new("n1", self.api.client(), runtime, images);
        config.node_ips = vec!["192.0.2.1".into()];
        config.root_dir = self.dir.path().join("kubelet");
        config.log_dir = self.dir.path().join("logs");
        config.static_pod_dir = Some(self.dir.path().join("static"));
        config.cluster_dns = vec!["10.43.0.10".into()];
        config.capacity =
            Some(kubelet::node::Capacity { cpu_milli: 4000, memory_bytes: 8 << 30, ..Default::default() });
        let token = self.token.clone();
        self.task = Some(tokio::spawn(async move { kubelet::run(config, token).await.unwrap() }));
    }

    async fn stop(&mut self) {
        self.token.cancel();
        let task = self.task.take().unwrap();
        tokio::time::timeout(Duration::from_secs(10), task).await.expect("it ends").unwrap();
    }

    fn pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        self.api.add(
            PODS,
            &format!("default/{name}"),
            json!({"kind": "Pod", "apiVersion": "v1",
            "metadata": {"uid": format!("uid-{name}"), "generation": 1}, "spec": spec}),
        );
    }

    async fn phase(&self, name: &str, phase: &str) -> Value {
        let wanted = |p: Option<&Value>| p.is_some_and(|p| p["status"]["phase"] == phase);
        self.api.until(PODS, &format!("default/{name}"), wanted).await.unwrap()
    }

    async fn ready(&self, name: &str) -> Value {
        let wanted = |p: Option<&Value>| p.is_some_and(|p| condition(p, "Ready")["status"] == "True");
        self.api.until(PODS, &format!("default/{name}"), wanted).await.unwrap()
    }

    async fn gone(&self, name: &str) {
        self.api.until(PODS, &format!("default/{name}"), |p| p.is_none()).await;
        let dir = self.dir.path().join("kubelet/pods").join(format!("uid-{name}"));
        assert!(!dir.exists(), "its folder is gone");
    }

    async fn waiting(&self, name: &str, reason: &str) -> Value {
        let wanted = |p: Option<&Value>| {
            p.is_some_and(|p| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason)
        };
        self.api.until(PODS, &format!("default/{name}"), wanted).await.unwrap()
    }
}

fn condition(pod: &Value, kind: &str) -> Value {
    let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|c| c["type"] == kind).unwrap_or_default()
}

fn one(container: Value) -> Value {
    let mut c = json!({"name": "c", "image": "app:1"});
    c.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    json!({"containers": [c], "terminationGracePeriodSeconds": 5})
}

#[tokio::test]
async fn the_node_registers_and_beats() {
    let mut node = Node::new();
    let wanted = |n: Option<&Value>| n.is_some_and(|n| condition(n, "Ready")["status"] == "True");
    let object = node.api.until("api/v1/nodes", "n1", wanted).await.unwrap();
    assert_eq!(condition(&object, "Ready")["reason"], "KubeletReady");
    assert_eq!(condition(&object, "MemoryPressure")["message"], "kubelet has sufficient memory available");
    assert_eq!(object["status"]["capacity"]["cpu"], "4");
    assert_eq!(object["status"]["allocatable"]["pods"], "110");
    assert_eq!(object["status"]["addresses"][0], json!({"type": "InternalIP", "address": "192.0.2.1"}));
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    let lease =
        node.api.until("apis/coordination.k8s.io/v1/leases", "kube-node-lease/n1", |l| l.is_some()).await.unwrap();
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    node.api.edit("api/v1/nodes", "n1", |n| n["spec"]["podCIDR"] = json!("10.42.7.0/24"));
    for _ in 0..1000 {
        if node.runtime.pod_cidr().is_some() {
            break;
        }
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(node.runtime.pod_cidr().as_deref(), Some("10.42.7.0/24"));
    node.stop().await;
}

#[tokio::test]
async fn a_pod_runs_and_goes() {
    let mut node = Node::new();
    node.pod("web", one(json!({"env": [{"name": "A", "value": "1"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]})));
    let pod = node.ready("web").await;
    let status = &pod["status"];
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["hostIP"], "192.0.2.1");
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["observedGeneration"], 1);
    let c = &status["containerStatuses"][0];
    assert!(c["containerID"].as_str().unwrap().starts_with("kijabi://container"));
    assert_eq!((&c["ready"], &c["started"], &c["restartCount"]), (&json!(true), &json!(true), &json!(0)));
    for t in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&pod, t)["status"], "True", "{t}");
    }
    let config = node.runtime.config("c").unwrap();
    let ip = status["podIP"].as_str().unwrap().to_owned();
    assert!(config.envs.contains(&("A".into(), "1".into())) && config.envs.contains(&("IP".into(), ip)));
    let sandbox = node.runtime.sandbox_config("web").unwrap();
    assert_eq!(sandbox.cgroup_parent, "besteffort/poduid-web");
    assert_eq!(sandbox.dns_config.unwrap().servers, ["10.43.0.10"]);
    node.api.delete(PODS, "default/web", None);
    node.gone("web").await;
    assert_eq!(node.runtime.calls(), ["run web", "create c", "start c", "stop c", "remove web"]);
    node.stop().await;
}

#[tokio::test]
async fn jobs_complete_and_fail() {
    let mut node = Node::new();
    for (name, code, policy, phase) in
        [("ok", 0, "Never", "Succeeded"), ("bad", 3, "Never", "Failed"), ("fine", 0, "OnFailure", "Succeeded")]
    {
        let image = format!("{name}:1");
        node.runtime.image(
            &image,
            Behaviour { exits: Some((Duration::from_millis(5), code)), message: "why".into(), ..Behaviour::default() },
        );
        let mut spec = one(json!({"image": image}));
        spec["restartPolicy"] = json!(policy);
        node.pod(name, spec);
        let pod = node.phase(name, phase).await;
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((&ended["exitCode"], &ended["message"]), (&json!(code), &json!("why")), "{name}");
        let reason = if code == 0 { "PodCompleted" } else { "PodFailed" };
        assert_eq!(condition(&pod, "Ready")["reason"], reason);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_crashing_container_backs_off() {
    let mut node = Node::new();
    node.runtime.image("app:1", Behaviour { exits: Some((Duration::from_millis(1), 1)), ..Behaviour::default() });
    node.pod("crash", one(json!({})));
    let pod = node.waiting("crash", "CrashLoopBackOff").await;
    let c = &pod["status"]["containerStatuses"][0];
    assert_eq!(c["restartCount"], 1, "the first restart is at once");
    assert_eq!(
        c["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=c pod=crash_default(uid-crash)"
    );
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(condition(&pod, "Ready")["message"], "containers with unready status: [c]");
    node.stop().await;
}

#[tokio::test]
async fn failures_to_start_are_said() {
    let mut node = Node::new();
    node.runtime
        .image("gone:1", Behaviour { remote: true, pull_error: Some("no such image".into()), ..Behaviour::default() });
    node.runtime
        .image("broken:1", Behaviour { start_error: Some("exec: \"x\": not found".into()), ..Behaviour::default() });
    node.pod("pull", one(json!({"image": "gone:1"})));
    node.pod("never", one(json!({"image": "gone:1", "imagePullPolicy": "Never"})));
    node.pod("name", one(json!({"image": "Bad"})));
    node.pod("env", one(json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]})));
    node.pod("start", one(json!({"image": "broken:1"})));
    for (pod, reason, message) in [
        ("pull", "ErrImagePull", "no such image"),
        ("never", "ErrImageNeverPull", "Container image \"gone:1\" is not present with pull policy of Never"),
        (
            "name",
            "InvalidImageName",
            "Failed to apply default image tag \"Bad\": couldn't parse image name \"Bad\": invalid reference format",
        ),
        ("env", "CreateContainerConfigError", "configmap \"cm\" not found"),
        ("start", "RunContainerError", "exec: \"x\": not found"),
    ] {
        let got = node.waiting(pod, reason).await;
        assert_eq!(got["status"]["containerStatuses"][0]["state"]["waiting"]["message"], message);
    }
    // The missing object comes: the pod goes on at once.
    node.api.add("api/v1/configmaps", "default/cm", json!({"data": {"k": "v"}}));
    node.ready("env").await;
    assert_eq!(node.phase("pull", "Pending").await["status"]["phase"], "Pending");
    node.stop().await;
}

#[tokio::test]
async fn init_containers_and_sidecars_in_order() {
    let mut node = Node::new();
    node.runtime.image("init:1", Behaviour { exits: Some((Duration::from_millis(5), 0)), ..Behaviour::default() });
    node.runtime.image("main:1", Behaviour { exits: Some((Duration::from_millis(40), 0)), ..Behaviour::default() });
    node.pod("ordered", json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 5,
        "initContainers": [{"name": "i1", "image": "init:1"}, {"name": "side", "image": "side:1", "restartPolicy": "Always"}, {"name": "i2", "image": "init:1"}],
        "containers": [{"name": "m", "image": "main:1"}]}));
    let pod = node.phase("ordered", "Succeeded").await;
    let calls: Vec<String> = node.runtime.calls().into_iter().filter(|c| !c.starts_with("create")).collect();
    assert_eq!(calls, ["run ordered", "start i1", "start side", "start i2", "start m", "stop side"]);
    assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    node.stop().await;
}

#[tokio::test]
async fn volumes_follow_their_objects() {
    let mut node = Node::new();
    node.api.add("api/v1/configmaps", "default/cm", json!({"data": {"k": "one"}}));
    let mut spec = one(
        json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "t", "mountPath": "/t", "readOnly": true}]}),
    );
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "cm"}},
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}]);
    node.pod("vol", spec);
    let pod = node.ready("vol").await;
    let mounts = &pod["status"]["containerStatuses"][0]["volumeMounts"];
    assert_eq!(mounts[1], json!({"name": "t", "mountPath": "/t", "readOnly": true, "recursiveReadOnly": "Disabled"}));
    let config = node.runtime.config("c").unwrap();
    let path =
        |p: &str| config.mounts.iter().find(|m| m.container_path == std::path::Path::new(p)).unwrap().host_path.clone();
    assert_eq!(std::fs::read_to_string(path("/t").join("token")).unwrap(), "a.b.c");
    assert_eq!(std::fs::read_to_string(path("/v").join("k")).unwrap(), "one");
    node.api.edit("api/v1/configmaps", "default/cm", |m| m["data"]["k"] = json!("two"));
    for _ in 0..2000 {
        if std::fs::read_to_string(path("/v").join("k")).unwrap() == "two" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(std::fs::read_to_string(path("/v").join("k")).unwrap(), "two");
    let mut spec = one(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([{"name": "v", "secret": {"secretName": "later"}}]);
    node.pod("waits", spec);
    node.waiting("waits", "ContainerCreating").await;
    node.api.add("api/v1/secrets", "default/later", json!({"data": {"a": "Yg=="}}));
    node.ready("waits").await;
    assert!(
        node.api
            .events("waits")
            .iter()
            .any(|e| e == "FailedMount MountVolume.SetUp failed for volume \"v\" : secret \"later\" not found")
    );
    node.stop().await;
}

#[tokio::test]
async fn probes_decide() {
    let mut node = Node::new();
    node.runtime.command("ready", 1, "not yet");
    node.runtime.command("alive", 0, "");
    let exec = |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 1});
    node.pod("probed", one(json!({"readinessProbe": exec("ready"), "livenessProbe": exec("alive")})));
    let pod = node.phase("probed", "Running").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["ready"], false);
    node.runtime.command("ready", 0, "");
    node.ready("probed").await;
    node.runtime.command("alive", 1, "dead");
    let restarted = |p: Option<&Value>| p.is_some_and(|p| p["status"]["containerStatuses"][0]["restartCount"] == 1);
    node.api.until(PODS, "default/probed", restarted).await;
    let events = node.api.events("probed");
    assert!(events.iter().any(|e| e == "Unhealthy Liveness probe failed: dead"), "{events:?}");
    assert!(events.iter().any(|e| e == "Killing Container c failed liveness probe, will be restarted"), "{events:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_new_kubelet_adopts_and_cleans_up() {
    let mut node = Node::new();
    node.pod("stays", one(json!({"readinessProbe": {"exec": {"command": ["r"]}}})));
    node.pod("leaves", one(json!({})));
    let before = node.ready("stays").await;
    node.ready("leaves").await;
    node.stop().await;
    node.api.delete(PODS, "default/leaves", Some(0));
    let calls = node.runtime.calls().len();
    node.start();
    node.pod("new", one(json!({})));
    node.ready("new").await;
    let after = node.ready("stays").await;
    let part = |p: &Value| (p["status"]["containerStatuses"].clone(), condition(p, "Ready"));
    assert_eq!(part(&after), part(&before), "nothing changed for the pod that stays");
    for _ in 0..2000 {
        if node.runtime.calls().iter().any(|c| c == "remove leaves") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut new: Vec<String> = node.runtime.calls().split_off(calls);
    new.sort();
    assert_eq!(new, ["create c", "remove leaves", "run new", "start c", "stop c"]);
    node.stop().await;
}

#[tokio::test]
async fn after_a_reboot_pods_come_back() {
    let mut node = Node::new();
    node.pod("back", one(json!({})));
    node.ready("back").await;
    node.stop().await;
    node.runtime.reboot();
    node.start();
    let restarted = |p: Option<&Value>| {
        p.is_some_and(|p| {
            p["status"]["containerStatuses"][0]["restartCount"] == 1 && condition(p, "Ready")["status"] == "True"
        })
    };
    let pod = node.api.until(PODS, "default/back", restarted).await.unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 255);
    node.stop().await;
}

#[tokio::test]
async fn deadlines_rejections_and_grace() {
    let mut node = Node::new();
    let mut spec = one(json!({}));
    spec["activeDeadlineSeconds"] = json!(1);
    node.pod("late", spec);
    node.pod("large", one(json!({"resources": {"requests": {"cpu": "64"}}})));
    let pod = node.phase("large", "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    assert_eq!(
        pod["status"]["message"],
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 64000, used: 0, capacity: 4000"
    );
    node.runtime.image("stubborn:1", Behaviour { stubborn: true, ..Behaviour::default() });
    let mut spec = one(json!({"image": "stubborn:1"}));
    spec["terminationGracePeriodSeconds"] = json!(600);
    node.pod("stubborn", spec);
    node.ready("stubborn").await;
    node.api.delete(PODS, "default/stubborn", None);
    node.api.delete(PODS, "default/stubborn", Some(1));
    node.gone("stubborn").await;
    let pod = node.phase("late", "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    node.stop().await;
}

#[tokio::test]
async fn static_pods_have_mirrors() {
    let mut node = Node::new();
    let file = node.dir.path().join("static/web.json");
    node.api.until("api/v1/nodes", "n1", |n| n.is_some()).await;
    std::fs::write(
        &file,
        json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "app:1"}]}}).to_string(),
    )
    .unwrap();
    let pod = node.ready("web-n1").await;
    assert!(pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string());
    std::fs::remove_file(&file).unwrap();
    node.api.until(PODS, "default/web-n1", |p| p.is_none()).await;
    node.stop().await;
}

#[tokio::test]
async fn a_hundred_pods_at_once_with_few_requests() {
    let mut node = Node::new();
    node.api.until("api/v1/nodes", "n1", |n| n.is_some()).await;
    node.api.add("api/v1/configmaps", "default/kube-root-ca.crt", json!({"data": {"ca.crt": "x"}}));
    let before = node.api.requests().len();
    let begun = std::time::Instant::now();
    for i in 0..100 {
        let mut spec = one(json!({"volumeMounts": [{"name": "t", "mountPath": "/t", "readOnly": true}]}));
        spec["volumes"] = json!([{"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}]);
        node.pod(&format!("p{i}"), spec);
    }
    for i in 0..100 {
        node.ready(&format!("p{i}")).await;
    }
    println!("100 pods ready after {:?}", begun.elapsed());
    let requests = node.api.requests().split_off(before);
    let count = |part: &str| requests.iter().filter(|r| r.contains(part)).count();
    assert_eq!(count("/token"), 100, "one token each");
    assert!(count("/configmaps") <= 2, "one list for all: {}", count("/configmaps"));
    let patches = count("PATCH /api/v1/namespaces/default/pods");
    assert!((100..=250).contains(&patches), "{patches} status patches for 100 pods");
    node.stop().await;
}
