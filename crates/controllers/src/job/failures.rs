//! How pods ended, and what the Job's policies make of it.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::Pod;

use super::indexes;
use super::plan::spec;
use crate::pods;

/// When the last container of the pod ended.
pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ended = statuses.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let ready = pods::condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref());
    ended.max().or(ready).or(pod.metadata.deletion_timestamp.as_ref()).map(|t| t.0)
}

/// The first rule that says something about the failed pod: its action, and why it applies.
fn matching<'a>(job: &'a Job, pod: &Pod) -> Option<(&'a str, String)> {
    let rules = spec(job).pod_failure_policy.iter().flat_map(|p| &p.rules);
    rules.enumerate().find_map(|(i, rule)| Some((rule.action.as_str(), why(rule, pod, i)?)))
}

fn why(rule: &PodFailurePolicyRule, pod: &Pod, index: usize) -> Option<String> {
    let key = client::key(pod);
    let action = &rule.action;
    if let Some(codes) = &rule.on_exit_codes {
        let status = pod.status.as_ref()?;
        let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        let of_interest = all.filter(|c| codes.container_name.as_ref().is_none_or(|n| *n == c.name));
        for container in of_interest {
            let Some(code) = container.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code) else {
                continue;
            };
            let listed = codes.values.contains(&code);
            if code != 0 && listed == (codes.operator == "In") {
                let name = &container.name;
                return Some(format!(
                    "Container {name} for pod {key} failed with exit code {code} matching {action} rule at index {index}"
                ));
            }
        }
    }
    for pattern in rule.on_pod_conditions.iter().flatten() {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        if pods::condition(pod, &pattern.type_).is_some_and(|c| c.status == wanted) {
            let kind = &pattern.type_;
            return Some(format!("Pod {key} has condition {kind} matching {action} rule at index {index}"));
        }
    }
    None
}

/// The policy says not to count this failure.
pub(super) fn is_ignored(job: &Job, pod: &Pod) -> bool {
    matching(job, pod).is_some_and(|(action, _)| action == "Ignore")
}

/// The policy says that one of these failures fails the whole Job; the text says which.
pub(super) fn fails_job(job: &Job, failed: &[&Arc<Pod>]) -> Option<String> {
    failed.iter().find_map(|p| matching(job, p).filter(|(action, _)| *action == "FailJob")).map(|(_, text)| text)
}

/// The success policy says that enough is done.
pub(super) fn succeeds(job: &Job, status: &JobStatus) -> Option<String> {
    let completed = indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), i32::MAX);
    let policy = spec(job).success_policy.as_ref()?;
    let met = |rule: &k8s_openapi::api::batch::v1::SuccessPolicyRule| {
        let listed = rule.succeeded_indexes.as_deref().map(|s| indexes::parse(s, spec(job).completions.unwrap_or(1)));
        let done = match &listed {
            Some(wanted) => wanted.intersection(&completed).count(),
            None => completed.len(),
        };
        let all = listed.as_ref().map_or(usize::MAX, std::collections::BTreeSet::len);
        let enough = rule.succeeded_count.map_or(all, |n| usize::try_from(n).unwrap_or(usize::MAX));
        done >= enough
    };
    policy.rules.iter().position(met).map(|i| format!("Matched rules at index {i}"))
}
