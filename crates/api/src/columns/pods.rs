//! Cells of pods and their templates.

use super::{age, containers, labels, or, since};
use crate::look::Look;
use jiff::Timestamp;
use serde_json::Value;

pub(super) fn cells(kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    match kind {
        "Pod" => Some(pod(object, now)),
        "PodTemplate" => {
            let [names, images] = containers(object, "template.spec.containers");
            Some(vec![
                object.text("metadata.name").into(),
                names,
                images,
                labels(object, "template.metadata.labels").into(),
            ])
        }
        _ => None,
    }
}

fn pod(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let restarts = match (summary.restarts, summary.last_restart) {
        (n, Some(at)) if n > 0 => format!("{n} ({} ago)", since(at, now)),
        (n, _) => n.to_string(),
    };
    let ip = pod.items("status.podIPs").first().map_or("", |a| a.text("ip"));
    vec![
        pod.text("metadata.name").into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        or(ip, "<none>").into(),
        or(pod.text("spec.nodeName"), "<none>").into(),
        or(pod.text("status.nominatedNodeName"), "<none>").into(),
        readiness_gates(pod).into(),
    ]
}

fn readiness_gates(pod: &Value) -> String {
    let gates = pod.items("spec.readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates
        .iter()
        .filter(|g| condition(pod, g.text("conditionType")).is_some_and(|c| c.text("status") == "True"))
        .count();
    format!("{met}/{}", gates.len())
}

fn condition<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    pod.items("status.conditions").iter().find(|c| c.text("type") == name)
}

/// What the columns say of a pod's containers together.
struct Summary<'a> {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<&'a str>,
}

impl<'a> Summary<'a> {
    fn of(pod: &'a Value) -> Summary<'a> {
        let sidecars = pod.items("spec.initContainers").iter().filter(|c| is_sidecar(c)).count();
        let reason = or(pod.text("status.reason"), pod.text("status.phase")).to_owned();
        let total = pod.items("spec.containers").len() + sidecars;
        let mut summary = Summary { reason, ready: 0, total, restarts: 0, last_restart: None };
        let gated = |c: &&Value| c.text("type") == "PodScheduled" && c.text("reason") == "SchedulingGated";
        if pod.items("status.conditions").iter().any(|c| gated(&c)) {
            summary.reason = "SchedulingGated".to_owned();
        }
        let initialized = condition(pod, "Initialized").is_some_and(|c| c.text("status") == "True");
        if !summary.add_init(pod) || initialized {
            summary.add_main(pod);
        }
        if pod.has("metadata.deletionTimestamp") {
            if pod.text("status.reason") == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !matches!(pod.text("status.phase"), "Succeeded" | "Failed") {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    fn count_restarts(&mut self, status: &'a Value) {
        self.restarts += status.int("restartCount");
        let finished = status.text("lastState.terminated.finishedAt");
        // Times of one form compare as text.
        if !finished.is_empty() && self.last_restart.is_none_or(|last| last < finished) {
            self.last_restart = Some(finished);
        }
    }

    /// Goes through the init containers in order; true when one is still at work.
    fn add_init(&mut self, pod: &'a Value) -> bool {
        let specs = pod.items("spec.initContainers");
        for (index, status) in pod.items("status.initContainerStatuses").iter().enumerate() {
            self.count_restarts(status);
            let sidecar = specs.iter().any(|c| c.text("name") == status.text("name") && is_sidecar(c));
            let terminated = status.at("state.terminated");
            let waiting = status.text("state.waiting.reason");
            if terminated.is_object() && terminated.int("exitCode") == 0 {
                continue;
            }
            if sidecar && status.flag("started") {
                self.ready += usize::from(status.flag("ready"));
                continue;
            }
            self.reason = if terminated.is_object() {
                format!("Init:{}", ending(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", specs.len())
            };
            return true;
        }
        false
    }

    /// Goes through the other containers, the last one first, so that the first one has the last word.
    fn add_main(&mut self, pod: &'a Value) {
        (self.restarts, self.last_restart) = (0, None);
        let specs = pod.items("spec.initContainers");
        for status in pod.items("status.initContainerStatuses") {
            if specs.iter().any(|c| c.text("name") == status.text("name") && is_sidecar(c)) {
                self.count_restarts(status);
            }
        }
        let (mut running, mut error) = (false, String::new());
        for status in pod.items("status.containerStatuses").iter().rev() {
            self.count_restarts(status);
            let (waiting, terminated) = (status.text("state.waiting.reason"), status.at("state.terminated"));
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if terminated.is_object() {
                self.reason = ending(terminated);
                if terminated.int("exitCode") != 0 {
                    error.clone_from(&self.reason);
                }
            } else if status.flag("ready") && status.has("state.running") {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            let ready = condition(pod, "Ready").is_some_and(|c| c.text("status") == "True");
            if running && ready {
                self.reason = "Running".to_owned();
            } else if !error.is_empty() {
                self.reason = error;
            } else if running {
                self.reason = "NotReady".to_owned();
            }
        }
    }
}

fn is_sidecar(container: &Value) -> bool {
    container.text("restartPolicy") == "Always"
}

/// `OOMKilled`, `Signal:9` or `ExitCode:1`.
fn ending(terminated: &Value) -> String {
    match (terminated.text("reason"), terminated.int("signal")) {
        ("", 0) => format!("ExitCode:{}", terminated.int("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}
