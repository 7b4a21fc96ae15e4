//! Lifecycle hooks: postStart and preStop, by exec, HTTP or sleep.

use crate::context::Context;
use crate::downward::quote;
use crate::http::{Get, get};
use crate::spec;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::time::Duration;

/// How long an HTTP hook may take by itself; the pod's grace bounds it, too.
const HTTP_TIMEOUT: Duration = Duration::from_secs(60);

/// A hook to run.
pub struct Hook<'a> {
    /// What it does.
    pub handler: &'a LifecycleHandler,
    /// The container it belongs to.
    pub container: &'a Container,
    /// Its id.
    pub id: &'a str,
    /// The address of the pod.
    pub ip: &'a str,
}

/// The number of a port given by number or name.
pub fn port(port: &IntOrString, c: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => {
            let named = c.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("couldn't find port: {port:?} in container {}", c.name))
}

/// The request an HTTP action means.
pub fn http_request(action: &HTTPGetAction, c: &Container, ip: &str, agent: &'static str) -> Result<Get, String> {
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip);
    Ok(Get {
        scheme: action.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase(),
        host: host.to_owned(),
        port: port(&action.port, c)?,
        path: match action.path.as_deref().unwrap_or("/") {
            path if path.starts_with('/') => path.to_owned(),
            path => format!("/{path}"),
        },
        headers: action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
        agent,
    })
}

/// Runs the hook; or says why it failed.
pub async fn run(context: &Context, pod: &Pod, hook: &Hook<'_>) -> Result<(), String> {
    let h = hook.handler;
    let of = format!("for Container {} in Pod {}", quote(&hook.container.name), quote(&spec::full_name(pod)));
    if let Some(exec) = &h.exec {
        let command = exec.command.clone().unwrap_or_default();
        let failed = |why: String, output: &str| {
            format!(
                "Exec lifecycle hook ([{}]) {of} failed - error: {why}, message: {}",
                command.join(" "),
                quote(output)
            )
        };
        let result = context.runtime().exec_sync(hook.id, &command, None).await;
        let result = result.map_err(|e| failed(e.to_string(), ""))?;
        if result.exit_code != 0 {
            let output = [result.stdout, result.stderr].concat();
            let why = format!("command '{}' exited with {}", command.join(" "), result.exit_code);
            return Err(failed(why, &String::from_utf8_lossy(&output)));
        }
        return Ok(());
    }
    if let Some(action) = &h.http_get {
        let failed = |why: String| {
            format!("HTTP lifecycle hook ({}) {of} failed - error: {why}", action.path.as_deref().unwrap_or_default())
        };
        let request = http_request(action, hook.container, hook.ip, "kube-lifecycle/1.37").map_err(failed)?;
        let answer = get(&request, HTTP_TIMEOUT).await.map_err(failed)?;
        if !(200..400).contains(&answer.code) {
            return Err(failed(format!("HTTP hook failed with statuscode: {}", answer.code)));
        }
        return Ok(());
    }
    if let Some(sleep) = &h.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        return Ok(());
    }
    Ok(())
}
