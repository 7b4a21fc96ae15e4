//! Statuses, by data.

use super::*;
use crate::state::Waiting;
use cri::{ContainerMetadata, ContainerState, PodSandboxState, PodSandboxStatus};
use serde_json::{Value, json};

const S: i64 = 1_000_000_000;

fn view(containers: &[(&str, u32, &str)]) -> View {
    let sandbox = PodSandboxStatus {
        id: "s".into(),
        state: PodSandboxState::Ready,
        ips: vec!["10.0.0.5".into(), "fd00::5".into()],
        ..PodSandboxStatus::default()
    };
    let list = containers.iter().map(|(name, attempt, state)| cri::ContainerStatus {
        id: format!("{name}-{attempt}"),
        pod_sandbox_id: "s".into(),
        metadata: ContainerMetadata { name: (*name).into(), attempt: *attempt },
        state: match *state {
            "run" => ContainerState::Running,
            "new" => ContainerState::Created,
            _ => ContainerState::Exited,
        },
        exit_code: state.parse().unwrap_or(0),
        reason: if state.parse::<i32>().is_ok() { "Error".into() } else { String::new() },
        started_at_ns: 100 * S,
        finished_at_ns: 200 * S,
        ..cri::ContainerStatus::default()
    });
    View::new(vec![sandbox], list.collect())
}

fn make(pod: Value, view: &View, local: &Local, stage: Stage) -> Value {
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let input = Input {
        pod: &pod,
        previous: None,
        view,
        local,
        node_ips: &["192.0.2.1".to_owned()],
        now_ns: 300 * S,
        stage,
        verdict: None,
    };
    serde_json::to_value(generate(&input)).unwrap()
}

fn pod(spec: Value, status: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": spec, "status": status})
}

fn condition(status: &Value, kind: &str) -> String {
    let all = status["conditions"].as_array().unwrap();
    let c = all.iter().find(|c| c["type"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    let part = |k: &str| c[k].as_str().unwrap_or_default().to_owned();
    [part("status"), part("reason"), part("message")].join("|")
}

#[test]
fn phases() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
    for (policy, containers, stage, want) in [
        ("Always", &[][..], Stage::Running, "Pending"),
        ("Always", &[("a", 0, "run")], Stage::Running, "Pending"),
        ("Always", &[("a", 0, "run"), ("b", 0, "run")], Stage::Running, "Running"),
        ("Always", &[("a", 0, "1"), ("b", 0, "1")], Stage::Running, "Running"),
        ("Never", &[("a", 0, "0"), ("b", 0, "run")], Stage::Running, "Running"),
        ("Never", &[("a", 0, "0"), ("b", 0, "0")], Stage::Running, "Succeeded"),
        ("Never", &[("a", 0, "0"), ("b", 0, "1")], Stage::Running, "Failed"),
        ("OnFailure", &[("a", 0, "0"), ("b", 0, "1")], Stage::Running, "Running"),
        ("OnFailure", &[("a", 0, "0"), ("b", 0, "0")], Stage::Running, "Succeeded"),
        ("Always", &[("a", 0, "0"), ("b", 0, "0")], Stage::Ended, "Succeeded"),
        ("Always", &[("a", 0, "0"), ("b", 0, "137")], Stage::Ended, "Failed"),
        ("Always", &[], Stage::Ended, "Failed"),
    ] {
        let got = make(pod(spec(policy), json!({})), &view(containers), &Local::default(), stage);
        assert_eq!(got["phase"], want, "{policy} {containers:?} {stage:?}");
    }
}

#[test]
fn phases_with_init_containers() {
    let spec = |policy: &str| {
        json!({"restartPolicy": policy, "containers": [{"name": "c"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]})
    };
    for (policy, containers, want) in [
        ("Always", &[("i", 0, "run")][..], "Pending"),
        ("Always", &[("i", 0, "1")], "Pending"),
        ("Never", &[("i", 0, "1")], "Failed"),
        ("Never", &[("i", 0, "0"), ("s", 0, "run")], "Pending"),
        ("Never", &[("i", 0, "0"), ("s", 0, "run"), ("c", 0, "run")], "Running"),
        ("Never", &[("i", 0, "0"), ("s", 0, "run"), ("c", 0, "0")], "Running"),
        ("Never", &[("i", 0, "0"), ("s", 0, "1"), ("c", 0, "0")], "Succeeded"),
    ] {
        let got = make(pod(spec(policy), json!({})), &view(containers), &Local::default(), Stage::Running);
        assert_eq!(got["phase"], want, "{policy} {containers:?}");
    }
}

#[test]
fn a_terminal_phase_stays() {
    let over = pod(json!({"containers": [{"name": "c"}]}), json!({"phase": "Failed", "reason": "Evicted"}));
    let got = make(over, &view(&[("c", 0, "run")]), &Local::default(), Stage::Ending);
    assert_eq!((&got["phase"], &got["reason"]), (&json!("Failed"), &json!("Evicted")));
}

#[test]
fn container_states() {
    let spec = json!({"containers": [{"name": "c", "image": "app"}]});
    let mut local = Local::default();
    local
        .images
        .insert("c-1".into(), crate::state::ImageNames { image: "docker.io/app".into(), image_id: "id".into() });
    local.term_messages.insert("c-0".into(), "bye".into());
    let got = make(pod(spec.clone(), json!({})), &view(&[("c", 0, "3"), ("c", 1, "run")]), &local, Stage::Running);
    let c = &got["containerStatuses"][0];
    assert_eq!(
        (&c["containerID"], &c["image"], &c["imageID"]),
        (&json!("kijabi://c-1"), &json!("docker.io/app"), &json!("id"))
    );
    assert_eq!((&c["restartCount"], &c["ready"], &c["started"]), (&json!(1), &json!(true), &json!(true)));
    assert_eq!(c["state"]["running"]["startedAt"], "1970-01-01T00:01:40Z");
    let last = &c["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"], &last["message"]), (&json!(3), &json!("Error"), &json!("bye")));
    let waiting = Waiting { reason: "CrashLoopBackOff".into(), message: "m".into() };
    local.waiting.insert("c".into(), waiting);
    let got = make(pod(spec, json!({})), &view(&[("c", 0, "3")]), &local, Stage::Running);
    let c = &got["containerStatuses"][0];
    assert_eq!(c["state"]["waiting"], json!({"reason": "CrashLoopBackOff", "message": "m"}));
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(c["ready"], false);
}

#[test]
fn addresses_and_marks() {
    let got =
        make(pod(json!({"containers": [{"name": "c"}]}), json!({})), &view(&[]), &Local::default(), Stage::Running);
    assert_eq!((&got["podIP"], &got["hostIP"]), (&json!("10.0.0.5"), &json!("192.0.2.1")));
    assert_eq!(got["podIPs"], json!([{"ip": "10.0.0.5"}, {"ip": "fd00::5"}]));
    assert_eq!((&got["qosClass"], &got["observedGeneration"]), (&json!("BestEffort"), &json!(3)));
    assert_eq!(got["startTime"], "1970-01-01T00:05:00Z");
    let host = pod(json!({"hostNetwork": true, "containers": [{"name": "c"}]}), json!({}));
    assert_eq!(make(host, &view(&[]), &Local::default(), Stage::Running)["podIP"], "192.0.2.1");
}

#[test]
fn conditions_of_a_pod() {
    let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c", "readinessProbe": {}}],
        "readinessGates": [{"conditionType": "gate"}]});
    let mut local = Local::default();
    let got = make(pod(spec.clone(), json!({})), &view(&[("i", 0, "run")]), &local, Stage::Running);
    assert_eq!(condition(&got, "Initialized"), "False|ContainersNotInitialized|containers with incomplete status: [i]");
    assert_eq!(condition(&got, "PodReadyToStartContainers"), "True||");
    let running = view(&[("i", 0, "0"), ("c", 0, "run")]);
    let got = make(pod(spec.clone(), json!({})), &running, &local, Stage::Running);
    assert_eq!(condition(&got, "Initialized"), "True||");
    assert_eq!(condition(&got, "Ready"), "False|ContainersNotReady|containers with unready status: [c]");
    local.ready.insert("c-0".into());
    let got = make(pod(spec.clone(), json!({})), &running, &local, Stage::Running);
    assert_eq!(condition(&got, "ContainersReady"), "True||");
    let text = "corresponding condition of pod readiness gate \"gate\" does not exist.";
    assert_eq!(condition(&got, "Ready"), format!("False|ReadinessGatesNotReady|{text}"));
    let gate = json!({"conditions": [{"type": "gate", "status": "True", "reason": "kept"}]});
    let got = make(pod(spec, gate), &running, &local, Stage::Running);
    assert_eq!(condition(&got, "Ready"), "True||");
    assert_eq!(condition(&got, "gate"), "True|kept|");
}

#[test]
fn transitions_keep_their_time() {
    let old = json!({"conditions": [{"type": "ContainersReady", "status": "True", "lastTransitionTime": "1970-01-01T00:00:07Z"},
        {"type": "Ready", "status": "False", "lastTransitionTime": "1970-01-01T00:00:07Z"}]});
    let got = make(
        pod(json!({"containers": [{"name": "c"}]}), old),
        &view(&[("c", 0, "run")]),
        &Local::default(),
        Stage::Running,
    );
    let at = |kind: &str| {
        let all = got["conditions"].as_array().unwrap();
        all.iter().find(|c| c["type"] == kind).unwrap()["lastTransitionTime"].clone()
    };
    assert_eq!((at("ContainersReady"), at("Ready")), (json!("1970-01-01T00:00:07Z"), json!("1970-01-01T00:05:00Z")));
}

#[test]
fn containers_that_never_ran_end_unknown() {
    let spec = json!({"containers": [{"name": "c"}]});
    let got = make(pod(spec, json!({})), &view(&[]), &Local::default(), Stage::Ended);
    let ended = &got["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(137), &json!("ContainerStatusUnknown")));
}
