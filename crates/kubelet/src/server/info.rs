//! What there is to know of this node: its pods, what they use, a few metrics.

use super::{Handlers, json, text};
use crate::spec;
use crate::view::now_ns;
use cri::{ContainerState, ContainerStatus};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use serve::Body;
use std::fmt::Write as _;

fn time(ns: i64) -> Value {
    serde_json::to_value(crate::status::time(ns)).unwrap_or_default()
}

impl Handlers {
    pub(super) fn pods(&self) -> Response<Body> {
        let items: Vec<Value> =
            self.directory.all().iter().filter_map(|e| serde_json::to_value(&*e.pod).ok()).collect();
        json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    /// The figures of each pod, in the form of upstream's summary.
    pub(super) async fn summary(&self) -> Response<Body> {
        let mut pods = Vec::new();
        for entry in self.directory.all() {
            let mut containers = Vec::new();
            for c in entry.view.containers().iter().filter(|c| c.state == ContainerState::Running) {
                containers.extend(self.container_summary(c).await);
            }
            let sum =
                |part: &str, field: &str| -> u64 { containers.iter().filter_map(|c| c[part][field].as_u64()).sum() };
            let (cpu, memory) = (sum("cpu", "usageCoreNanoSeconds"), sum("memory", "workingSetBytes"));
            let now = time(now_ns());
            pods.push(json!({
                "podRef": {"name": spec::name(&entry.pod), "namespace": spec::namespace(&entry.pod), "uid": spec::uid(&entry.pod)},
                "startTime": entry.pod.status.as_ref().and_then(|s| s.start_time.as_ref()),
                "containers": containers,
                "cpu": {"time": now, "usageCoreNanoSeconds": cpu},
                "memory": {"time": now, "workingSetBytes": memory},
            }));
        }
        json(&json!({"node": {"nodeName": self.context.config.node_name}, "pods": pods}))
    }

    async fn container_summary(&self, c: &ContainerStatus) -> Option<Value> {
        let stats = self.context.runtime().container_stats(&c.id).await.ok()?;
        let now = time(now_ns());
        Some(json!({
            "name": c.metadata.name,
            "startTime": time(c.started_at_ns),
            "cpu": {"time": now, "usageCoreNanoSeconds": stats.cpu_usage_ns},
            "memory": {"time": now, "workingSetBytes": stats.memory_working_set_bytes, "rssBytes": stats.memory_rss_bytes},
            "rootfs": {"time": now, "usedBytes": stats.writable_layer_bytes},
        }))
    }

    pub(super) fn metrics(&self) -> Response<Body> {
        let all = self.directory.all();
        let pods = all.iter().filter(|e| e.view.alive().next().is_some()).count();
        let mut out = String::from("# TYPE kubelet_running_pods gauge\n");
        let _ = writeln!(out, "kubelet_running_pods {pods}");
        out.push_str("# TYPE kubelet_running_containers gauge\n");
        for (name, state) in [
            ("created", ContainerState::Created),
            ("running", ContainerState::Running),
            ("exited", ContainerState::Exited),
        ] {
            let n: usize = all.iter().map(|e| e.view.containers().iter().filter(|c| c.state == state).count()).sum();
            let _ = writeln!(out, "kubelet_running_containers{{container_state=\"{name}\"}} {n}");
        }
        text(StatusCode::OK, out)
    }
}
