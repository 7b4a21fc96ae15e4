//! The plan, by data: a pod, what the runtime has, what is remembered, and what shall be done.

use super::*;
use crate::state::Failure;
use cri::{ContainerMetadata, PodSandboxMetadata, PodSandboxState, PodSandboxStatus};
use serde_json::{Value, json};

const S: i64 = 1_000_000_000;
const NOW: i64 = 1_000 * S;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

fn sandbox(id: &str, attempt: u32, ready: bool) -> PodSandboxStatus {
    PodSandboxStatus {
        id: id.into(),
        metadata: PodSandboxMetadata { attempt, ..PodSandboxMetadata::default() },
        state: if ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
        ips: vec!["10.0.0.1".into()],
        ..PodSandboxStatus::default()
    }
}

/// `name state [sandbox]`: `c run`, `c 0`, `c 137`, `c new`, `c lost`; the id is `name-attempt`, the attempt counts up.
fn view(sandboxes: Vec<PodSandboxStatus>, containers: &[&str]) -> View {
    let mut attempts: BTreeMap<String, u32> = BTreeMap::new();
    let list = containers.iter().map(|text| {
        let words: Vec<&str> = text.split(' ').collect();
        let attempt = attempts.entry(words[0].into()).and_modify(|a| *a += 1).or_insert(0);
        let (state, code) = match words[1] {
            "run" => (ContainerState::Running, 0),
            "new" => (ContainerState::Created, 0),
            "lost" => (ContainerState::Unknown, 0),
            code => (ContainerState::Exited, code.parse().unwrap()),
        };
        ContainerStatus {
            id: format!("{}-{attempt}", words[0]),
            pod_sandbox_id: (*words.get(2).unwrap_or(&"s0")).into(),
            metadata: ContainerMetadata { name: words[0].into(), attempt: *attempt },
            state,
            exit_code: code,
            finished_at_ns: NOW - S,
            ..ContainerStatus::default()
        }
    });
    View::new(sandboxes, list.collect())
}

fn show(plan: &Plan) -> Vec<String> {
    plan.actions
        .iter()
        .map(|a| match a {
            Action::MakeSandbox { attempt } => format!("sandbox {attempt}"),
            Action::Start { kind, name } => format!("start {kind:?} {name}"),
            Action::Kill { id, message, grace_s: None, .. } => format!("kill {id}: {message}"),
            Action::Kill { id, message, grace_s: Some(g), .. } => format!("kill {id} in {g}: {message}"),
            Action::StopSandboxes => "stop sandboxes".into(),
            Action::Finish => "finish".into(),
        })
        .collect()
}

fn check(what: &str, spec: Value, view: &View, local: &Local, want: &[&str]) -> Plan {
    let plan = plan(&pod(spec), view, local, NOW);
    assert_eq!(show(&plan), want, "{what}");
    plan
}

fn ready() -> Vec<PodSandboxStatus> {
    vec![sandbox("s0", 0, true)]
}

#[test]
fn sandboxes() {
    let always = || json!({"containers": [{"name": "c"}]});
    let never = || json!({"restartPolicy": "Never", "containers": [{"name": "c"}]});
    let on_failure = || json!({"restartPolicy": "OnFailure", "containers": [{"name": "c"}]});
    let broken = || vec![sandbox("s0", 0, false)];
    let none = Local::default();
    check("the first", always(), &View::default(), &none, &["sandbox 0"]);
    check("a broken one is made anew", always(), &view(broken(), &["c 137"]), &none, &["sandbox 1"]);
    check("not for pods that never restart", never(), &view(broken(), &["c 137"]), &none, &["finish"]);
    check("but when nothing ran in it", never(), &view(broken(), &[]), &none, &["sandbox 1"]);
    check("not when all is done", on_failure(), &view(broken(), &["c 0"]), &none, &["finish"]);
    check("when something failed", on_failure(), &view(broken(), &["c 1"]), &none, &["sandbox 1"]);
    let mut no_ip = sandbox("s0", 0, true);
    no_ip.ips.clear();
    check("without an address", always(), &view(vec![no_ip.clone()], &[]), &none, &["sandbox 1"]);
    let host = json!({"hostNetwork": true, "containers": [{"name": "c"}]});
    check("which the node's network needs not", host, &view(vec![no_ip], &[]), &none, &["start Regular c"]);
    let mut failed = Local::default();
    failed.failures.insert(
        String::new(),
        Failure { waiting: Waiting::default(), settled: None, settles_ns: 0, retry_ns: NOW + 5, count: 1 },
    );
    let plan = check("after a failure it waits", always(), &View::default(), &failed, &[]);
    assert_eq!(plan.wake_ns, Some(NOW + 5));
}

#[test]
fn regular_containers() {
    let with = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
    let none = Local::default();
    for (what, policy, containers, want) in [
        ("all are started", "Always", &[][..], &["start Regular a", "start Regular b"][..]),
        ("what runs is left alone", "Always", &["a run", "b run"], &[]),
        ("what ended is started again", "Always", &["a run", "b 0"], &["start Regular b"]),
        ("only failures", "OnFailure", &["a 1", "b 0"], &["start Regular a"]),
        ("never", "Never", &["a run", "b 1"], &[]),
        ("and then it is over", "Never", &["a 0", "b 1"], &["finish"]),
        ("over, too", "OnFailure", &["a 0", "b 0"], &["finish"]),
        ("made and not started", "Never", &["a new", "b run"], &["start Regular a"]),
        (
            "unclear",
            "Always",
            &["a lost", "b run"],
            &["kill a-0: Container a is in \"unknown\" state, try killing it before restart, will be restarted"],
        ),
    ] {
        check(what, with(policy), &view(ready(), containers), &none, want);
    }
}

#[test]
fn rules_of_containers() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}, {"name": "b"}]});
    check(
        "its code restarts it",
        spec.clone(),
        &view(ready(), &["a 42", "b run"]),
        &Local::default(),
        &["start Regular a"],
    );
    check("no other does", spec, &view(ready(), &["a 1", "b 0"]), &Local::default(), &["finish"]);
}

#[test]
fn restarts_back_off() {
    let spec = json!({"containers": [{"name": "c"}]});
    let mut local = Local::default();
    let p = pod(spec.clone());
    let key = backoff_key(&spec::spec(&p).containers[0]);
    local.backoff.next(&key, NOW - 30 * S, NOW - 30 * S);
    let plan = check("within ten seconds", spec.clone(), &view(ready(), &["c 1", "c 1"]), &local, &[]);
    assert_eq!(plan.wake_ns, Some(NOW + 9 * S));
    let waiting = &plan.waiting["c"];
    assert_eq!(waiting.reason, "CrashLoopBackOff");
    assert_eq!(waiting.message, "back-off 10s restarting failed container=c pod=p_n(u)");
    let after = super::plan(&p, &view(ready(), &["c 1", "c 1"]), &local, NOW + 9 * S);
    assert_eq!(show(&after), ["start Regular c"]);
}

#[test]
fn pulls_back_off() {
    let spec = json!({"containers": [{"name": "c"}]});
    let word = |reason: &str| Waiting { reason: reason.into(), message: String::new() };
    let failure = Failure {
        waiting: word("ErrImagePull"),
        settled: Some(word("ImagePullBackOff")),
        settles_ns: NOW + 5,
        retry_ns: NOW + 10,
        count: 1,
    };
    let mut local = Local::default();
    local.failures.insert("c".into(), failure);
    for (at, reason, wake, actions) in [
        (NOW, "ErrImagePull", Some(NOW + 5), 0),
        (NOW + 5, "ImagePullBackOff", Some(NOW + 10), 0),
        (NOW + 10, "ImagePullBackOff", None, 1),
    ] {
        let plan = super::plan(&pod(spec.clone()), &view(ready(), &[]), &local, at);
        assert_eq!((plan.waiting["c"].reason.as_str(), plan.wake_ns, plan.actions.len()), (reason, wake, actions));
    }
}

#[test]
fn condemned_containers() {
    let spec = json!({"containers": [{"name": "c", "livenessProbe": {"terminationGracePeriodSeconds": 3}}]});
    let mut local = Local::default();
    local.condemned.insert("c-0".into(), Condemned::Liveness);
    let want = ["kill c-0 in 3: Container c failed liveness probe, will be restarted"];
    check("by its probe", spec.clone(), &view(ready(), &["c run"]), &local, &want);
    local.killing.insert("c-0".into());
    check("once", spec, &view(ready(), &["c run"]), &local, &[]);
    let startup = json!({"restartPolicy": "Never", "containers": [{"name": "c", "startupProbe": {}}]});
    let mut local = Local::default();
    local.condemned.insert("c-0".into(), Condemned::Startup);
    check("for good", startup, &view(ready(), &["c run"]), &local, &["kill c-0: Container c failed startup probe"]);
}

#[test]
fn changed_definitions() {
    let spec = json!({"containers": [{"name": "c", "image": "new"}]});
    let changed = |state: &str| {
        let view = view(ready(), &[state]);
        let mut c = view.containers()[0].clone();
        c.annotations.insert(labels::HASH.into(), "old".into());
        View::new(view.sandboxes().to_vec(), vec![c])
    };
    let want = ["kill c-0: Container c definition changed, will be restarted"];
    check("it is stopped", spec.clone(), &changed("c run"), &Local::default(), &want);
    let never = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "new"}]});
    check("and started whatever the policy", never, &changed("c 0"), &Local::default(), &["start Regular c"]);
}

#[test]
fn init_containers() {
    let with = |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "c"}]});
    let none = Local::default();
    for (what, policy, containers, want) in [
        ("the first", "Always", &[][..], &["start Init i"][..]),
        ("it runs", "Always", &["i run"], &[]),
        ("the second", "Always", &["i 0"], &["start Init j"]),
        ("it runs, the first is forgotten", "Always", &["j run"], &[]),
        ("it failed", "Always", &["i 0", "j 1"], &["start Init j"]),
        ("it failed for good", "Never", &["i 0", "j 1"], &["finish"]),
        ("all done", "Always", &["i 0", "j 0"], &["start Regular c"]),
        ("never again", "Always", &["c 1"], &["start Regular c"]),
        ("again in a new sandbox", "Always", &["i 0 old", "j 0 old", "c 1 old"], &["start Init i"]),
    ] {
        check(what, with(policy), &view(ready(), containers), &none, want);
    }
}

#[test]
fn sidecars() {
    let spec = || {
        json!({"initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}, {"name": "i"}],
            "containers": [{"name": "c"}], "restartPolicy": "Never"})
    };
    let mut started = Local::default();
    started.started.insert("s-0".into());
    let none = Local::default();
    for (what, local, containers, want) in [
        ("first", &none, &[][..], &["start Sidecar s"][..]),
        ("not up yet", &none, &["s run"], &[]),
        ("up", &started, &["s run"], &["start Init i"]),
        ("all up", &started, &["s run", "i 0"], &["start Regular c"]),
        ("restarted beside the others", &started, &["s 1", "i 0", "c run"], &["start Sidecar s"]),
        ("it does not hold up what is past it", &started, &["s 1", "i run"], &["start Sidecar s"]),
        ("over when the others are", &started, &["s run", "i 0", "c 0"], &["finish"]),
    ] {
        check(what, spec(), &view(ready(), containers), local, want);
    }
}

#[test]
fn ephemeral_containers_start_once() {
    let spec = json!({"containers": [{"name": "c"}], "ephemeralContainers": [{"name": "e"}]});
    let none = Local::default();
    check("new", spec.clone(), &view(ready(), &["c run"]), &none, &["start Ephemeral e"]);
    check("ended", spec, &view(ready(), &["c run", "e 1"]), &none, &[]);
}

#[test]
fn the_end() {
    let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "t", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}, {"name": "b"}]});
    let mut killing = Local::default();
    killing.killing.extend(["a-0".to_owned()]);
    let busy = Local { busy: true, ..Local::default() };
    let none = Local::default();
    for (what, local, containers, stopped, want) in [
        (
            "all regular ones at once",
            &none,
            &["s run", "t run", "a run", "b run"][..],
            false,
            &["kill a-0: Stopping container a", "kill b-0: Stopping container b"][..],
        ),
        ("each once", &killing, &["s run", "t run", "a run", "b 0"], false, &[]),
        ("then the last sidecar", &none, &["s run", "t run", "a 0", "b 0"], false, &["kill t-0: Stopping container t"]),
        ("then the first", &none, &["s run", "t 0", "a 0", "b 0"], false, &["kill s-0: Stopping container s"]),
        ("then the sandbox", &none, &["s 0", "t 0", "a 0", "b 0"], false, &["stop sandboxes"]),
        ("not while something is being made", &busy, &[], false, &[]),
        ("once", &none, &[], true, &[]),
    ] {
        let plan = plan_termination(&pod(spec.clone()), &view(ready(), containers), local, stopped);
        assert_eq!(show(&plan), want, "{what}");
    }
}
