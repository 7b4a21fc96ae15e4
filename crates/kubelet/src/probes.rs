//! Startup, readiness and liveness probes: a task for each while its container runs.
//!
//! A task tells the pod worker when the result changes: thresholds are counted here. Until a startup or readiness probe
//! first succeeds it is asked more often than its period says (50 ms, doubling up to the period); of these extra
//! attempts only a success counts, so that a pod is ready as soon as it is, and failures count as upstream counts them.

use crate::context::{Context, Shared};
use crate::hooks::{http_request, port};
use crate::http;
use crate::inbox::{Inbox, ProbeKind};
use crate::spec::{self, Kind};
use crate::state::Local;
use crate::view::{View, now_ns};
use client::EventType;
use cri::{ContainerState, ContainerStatus};
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// The first wait between extra attempts.
const EAGER: Duration = Duration::from_millis(50);
/// Extra attempts of exec probes, each of which costs a process, are rarer.
const EAGER_EXEC: Duration = Duration::from_millis(200);

/// The probes of one pod.
pub struct Prober {
    context: Shared,
    inbox: Inbox,
    running: HashMap<(String, ProbeKind), AbortHandle>,
    tasks: JoinSet<()>,
}

struct Target {
    context: Shared,
    inbox: Inbox,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    ip: String,
    kind: ProbeKind,
    probe: Probe,
    started_ns: i64,
    was_good: bool,
}

impl Prober {
    /// No probes yet; results go to the inbox.
    pub fn new(context: Shared, inbox: Inbox) -> Prober {
        Prober { context, inbox, running: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Ends all.
    pub fn stop(&mut self) {
        self.running.clear();
        self.tasks.abort_all();
    }

    /// Starts the probes that shall run and ends the others. A pod that is ending keeps only its readiness probes.
    pub fn sync(&mut self, pod: &Arc<Pod>, view: &View, local: &Local, ending: bool) {
        while self.tasks.try_join_next().is_some() {}
        let mut wanted: HashSet<(String, ProbeKind)> = HashSet::new();
        for status in view.containers().iter().filter(|c| c.state == ContainerState::Running) {
            let Some((kind, c)) = spec::container(pod, &status.metadata.name) else { continue };
            if !matches!(kind, Kind::Regular | Kind::Sidecar) {
                continue;
            }
            for (probe_kind, probe) in due(&c, status, local, ending) {
                let key = (status.id.clone(), probe_kind);
                wanted.insert(key.clone());
                if !self.running.contains_key(&key) {
                    let ready = local.ready.contains(&status.id);
                    let target = self.target(pod, view, (&c, status), (probe_kind, probe), ready);
                    let handle = self.tasks.spawn(target.run());
                    self.running.insert(key, handle);
                }
            }
        }
        self.running.retain(|key, handle| {
            let keep = wanted.contains(key);
            if !keep {
                handle.abort();
            }
            keep
        });
    }

    fn target(
        &self,
        pod: &Arc<Pod>,
        view: &View,
        (c, status): (&Container, &ContainerStatus),
        (kind, probe): (ProbeKind, &Probe),
        ready: bool,
    ) -> Target {
        let ip = if spec::host_network(pod) { None } else { view.sandbox().and_then(|s| s.ips.first().cloned()) };
        let ip = ip.or_else(|| self.context.config.node_ips.first().cloned());
        Target {
            context: self.context.clone(),
            inbox: self.inbox.clone(),
            pod: pod.clone(),
            container: c.clone(),
            id: status.id.clone(),
            ip: ip.unwrap_or_else(|| "127.0.0.1".into()),
            kind,
            probe: probe.clone(),
            started_ns: status.started_at_ns,
            was_good: kind == ProbeKind::Readiness && ready,
        }
    }
}

fn due<'a>(c: &'a Container, s: &ContainerStatus, local: &Local, ending: bool) -> Vec<(ProbeKind, &'a Probe)> {
    let mut out = Vec::new();
    if let Some(probe) = &c.startup_probe
        && !local.started.contains(&s.id)
    {
        if !ending && !local.condemned.contains_key(&s.id) {
            out.push((ProbeKind::Startup, probe));
        }
        return out;
    }
    out.extend(c.readiness_probe.as_ref().map(|p| (ProbeKind::Readiness, p)));
    if !ending && !local.condemned.contains_key(&s.id) {
        out.extend(c.liveness_probe.as_ref().map(|p| (ProbeKind::Liveness, p)));
    }
    out
}

fn seconds(n: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(n.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default))
}

fn count(n: Option<i32>, default: u32) -> u32 {
    n.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
}

/// What an attempt brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Success.
    Good,
    /// Failure, with what the container said.
    Bad(String),
    /// The attempt itself went wrong.
    Errored(String),
}

impl Target {
    fn period(&self) -> Duration {
        seconds(self.probe.period_seconds, 10)
    }

    /// When the first attempt is due: liveness probes without a delay wait for one period.
    fn first(&self) -> Instant {
        let delay = self.probe.initial_delay_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
        let delay =
            if delay == 0 && self.kind == ProbeKind::Liveness { self.period() } else { Duration::from_secs(delay) };
        let age = Duration::from_nanos((now_ns() - self.started_ns).max(0).unsigned_abs());
        Instant::now() + delay.saturating_sub(age)
    }

    async fn run(self) {
        let (good_at, bad_at) = (count(self.probe.success_threshold, 1), count(self.probe.failure_threshold, 3));
        let mut next = self.first();
        sleep_until(next).await;
        if !self.was_good && self.kind != ProbeKind::Liveness && good_at == 1 && self.eager(&mut next).await {
            self.tell(true);
            if self.kind == ProbeKind::Startup {
                return;
            }
            next = Instant::now() + self.period();
            sleep_until(next).await;
        }
        let (mut good, mut bad) = (0, 0);
        let mut told = self.was_good.then_some(true);
        loop {
            let verdict = self.attempt_thrice().await;
            self.event(&verdict);
            (good, bad) = if verdict == Verdict::Good { (good + 1, 0) } else { (0, bad + 1) };
            let result = if good >= good_at {
                Some(true)
            } else if bad >= bad_at {
                Some(false)
            } else {
                None
            };
            if result.is_some() && result != told {
                told = result;
                self.tell(result == Some(true));
            }
            let decided = match self.kind {
                ProbeKind::Startup => result.is_some(),
                ProbeKind::Liveness => result == Some(false),
                ProbeKind::Readiness => false,
            };
            if decided {
                return;
            }
            next += self.period();
            let now = Instant::now();
            if next < now {
                next = now + self.period();
            }
            sleep_until(next).await;
        }
    }

    /// Extra attempts within the first period; true once one succeeded.
    async fn eager(&self, next: &mut Instant) -> bool {
        let end = *next + self.period();
        let mut wait = if self.probe.exec.is_some() { EAGER_EXEC } else { EAGER };
        loop {
            if attempt(&self.context, self).await == Verdict::Good {
                return true;
            }
            let at = Instant::now() + wait;
            if at >= end {
                *next = end;
                sleep_until(end).await;
                return false;
            }
            sleep_until(at).await;
            wait *= 2;
        }
    }

    /// Errors of the attempt itself are tried again at once, a few times.
    async fn attempt_thrice(&self) -> Verdict {
        let mut verdict = attempt(&self.context, self).await;
        for _ in 0..2 {
            if !matches!(verdict, Verdict::Errored(_)) {
                break;
            }
            verdict = attempt(&self.context, self).await;
        }
        verdict
    }

    fn tell(&self, good: bool) {
        self.inbox.tell(|news| news.probes.push((self.id.clone(), self.kind, good)));
    }

    fn event(&self, verdict: &Verdict) {
        let kind = match self.kind {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        };
        let text = match verdict {
            Verdict::Good => return,
            Verdict::Bad(output) => format!("{kind} probe failed: {output}"),
            Verdict::Errored(why) => format!("{kind} probe errored and resulted in unknown state: {why}"),
        };
        self.context.container_event(&self.pod, &self.container.name, EventType::Warning, "Unhealthy", text);
    }
}

async fn attempt(context: &Context, t: &Target) -> Verdict {
    let timeout = seconds(t.probe.timeout_seconds, 1);
    if let Some(exec) = &t.probe.exec {
        return exec_probe(context, t, exec.command.as_deref().unwrap_or_default(), timeout).await;
    }
    if let Some(action) = &t.probe.http_get {
        let request = match http_request(action, &t.container, &t.ip, "kube-probe/1.37") {
            Ok(request) => request,
            Err(e) => return Verdict::Errored(e),
        };
        return match http::get(&request, timeout).await {
            Ok(a) if (200..400).contains(&a.code) => Verdict::Good,
            Ok(a) => Verdict::Bad(format!("HTTP probe failed with statuscode: {}", a.code)),
            Err(e) => Verdict::Bad(e),
        };
    }
    if let Some(action) = &t.probe.tcp_socket {
        let number = match port(&action.port, &t.container) {
            Ok(number) => number,
            Err(e) => return Verdict::Errored(e),
        };
        let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&t.ip);
        return match tokio::time::timeout(timeout, TcpStream::connect((host, number))).await {
            Ok(Ok(_)) => Verdict::Good,
            Ok(Err(e)) => Verdict::Bad(http::dial_error(host, number, &e)),
            Err(_) => Verdict::Bad(format!("dial tcp {}: i/o timeout", http::authority(host, number))),
        };
    }
    if let Some(action) = &t.probe.grpc {
        let number = u16::try_from(action.port).unwrap_or(0);
        return grpc_probe(&t.ip, number, action.service.as_deref().unwrap_or_default(), timeout).await;
    }
    Verdict::Errored(format!("missing probe handler for {}:{}", spec::full_name(&t.pod), t.container.name))
}

async fn exec_probe(context: &Context, t: &Target, command: &[String], timeout: Duration) -> Verdict {
    let constants: Vec<(String, String)> =
        t.container.env.iter().flatten().filter_map(|v| Some((v.name.clone(), v.value.clone()?))).collect();
    let command = crate::env::expand_all(Some(&command.to_vec()), &constants);
    match context.runtime().exec_sync(&t.id, &command, Some(timeout)).await {
        Ok(r) if r.exit_code == 0 => Verdict::Good,
        Ok(r) => Verdict::Bad(String::from_utf8_lossy(&[r.stdout, r.stderr].concat()).into_owned()),
        Err(cri::Error::DeadlineExceeded(_)) => {
            let text = command.join(" ");
            Verdict::Bad(format!("command timed out: \"{text}\" timed out after {}s", timeout.as_secs()))
        }
        // The container ended meanwhile, or is not up yet.
        Err(e) => Verdict::Errored(format!("rpc error: {e}")),
    }
}

/// `grpc.health.v1.Health/Check`.
async fn grpc_probe(host: &str, port: u16, service: &str, timeout: Duration) -> Verdict {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        message.push(u8::try_from(service.len().min(127)).unwrap_or(0));
        message.extend(service.bytes().take(127));
    }
    let address = http::authority(host, port);
    let call = http::grpc(host, port, "/grpc.health.v1.Health/Check", message);
    match tokio::time::timeout(timeout, call).await {
        Err(_) => Verdict::Bad(format!(
            "timeout: failed to connect service \"{address}\" within {}s: context deadline exceeded",
            timeout.as_secs()
        )),
        Ok(Err(e)) => Verdict::Bad(format!("error: failed to connect service at \"{address}\": {e}")),
        Ok(Ok((_, Some(status)))) if status == "12" => Verdict::Bad(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into(),
        ),
        Ok(Ok((_, Some(status)))) if status != "0" => {
            Verdict::Bad(format!("error: health rpc probe failed: rpc error: code = {status}"))
        }
        Ok(Ok((body, _))) => match serving(&body) {
            1 => Verdict::Good,
            0 => Verdict::Bad("service unhealthy (responded with \"UNKNOWN\")".into()),
            3 => Verdict::Bad("service unhealthy (responded with \"SERVICE_UNKNOWN\")".into()),
            _ => Verdict::Bad("service unhealthy (responded with \"NOT_SERVING\")".into()),
        },
    }
}

/// The status in a framed `HealthCheckResponse`: field 1, an enum; 0 when absent.
fn serving(body: &[u8]) -> u8 {
    match body.get(5..) {
        Some([0x08, status, ..]) => *status,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_answers_are_read() {
        for (body, want) in
            [(&[0, 0, 0, 0, 2, 8, 1][..], 1), (&[0, 0, 0, 0, 2, 8, 2], 2), (&[0, 0, 0, 0, 0], 0), (&[], 0)]
        {
            assert_eq!(serving(body), want);
        }
    }

    #[test]
    fn which_probes_run() {
        let c: Container = serde_json::from_value(serde_json::json!({"name": "c",
            "startupProbe": {"exec": {"command": ["a"]}}, "readinessProbe": {"exec": {"command": ["b"]}},
            "livenessProbe": {"exec": {"command": ["c"]}}}))
        .unwrap();
        let s = ContainerStatus { id: "1".into(), ..ContainerStatus::default() };
        let mut local = Local::default();
        let kinds = |local: &Local, ending| due(&c, &s, local, ending).into_iter().map(|(k, _)| k).collect::<Vec<_>>();
        assert_eq!(kinds(&local, false), [ProbeKind::Startup]);
        local.started.insert("1".into());
        assert_eq!(kinds(&local, false), [ProbeKind::Readiness, ProbeKind::Liveness]);
        assert_eq!(kinds(&local, true), [ProbeKind::Readiness]);
        local.condemned.insert("1".into(), crate::state::Condemned::Liveness);
        assert_eq!(kinds(&local, false), [ProbeKind::Readiness]);
    }
}
