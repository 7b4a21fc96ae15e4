//! One step of a Job: which pods to start and stop, what to count, and whether it is over.
//!
//! A pod that ended is counted exactly once, also over restarts of this program (KEP-2307): it carries a finalizer; its uid
//! is first written into `uncountedTerminatedPods`, then the finalizer is taken off, and only then, when the pod is seen
//! without it, the uid moves into the count. Each of the three steps can be repeated without harm.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::{self, end};
use super::{failures, indexes};
use crate::pods;

/// Keeps a pod until it is counted.
pub(crate) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The completion index of a pod, as annotation and as label.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

const BACKOFF_FIRST_SECONDS: i64 = 10;
const BACKOFF_MAX_SECONDS: i64 = 600;

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: JobStatus,
    /// Pods to start: `None`, or the completion index of each.
    pub(super) create: Vec<Option<i32>>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods that may lose their finalizer once the status is written.
    pub(super) release: Vec<Arc<Pod>>,
    pub(super) recheck: Option<Duration>,
    /// What happened, for an event: warning or not, reason, message.
    pub(super) event: Option<(bool, &'static str, String)>,
}

/// The pods of a Job, sorted.
struct Sorted<'a> {
    active: Vec<&'a Arc<Pod>>,
    terminating: usize,
    succeeded: Vec<&'a Arc<Pod>>,
    failed: Vec<&'a Arc<Pod>>,
}

/// The Job's spec; a Job without one (the API server refuses that) wants nothing.
pub(super) fn spec(job: &Job) -> &JobSpec {
    static NONE: LazyLock<JobSpec> = LazyLock::new(JobSpec::default);
    job.spec.as_ref().unwrap_or(&NONE)
}

/// Whether the Job has come to its end, one way or the other.
pub(crate) fn is_finished(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

/// The pod's completion index.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    let annotation = pod.metadata.annotations.as_ref().and_then(|a| a.get(INDEX));
    annotation.or(pod.metadata.labels.as_ref().and_then(|l| l.get(INDEX)))?.parse().ok().filter(|i| *i >= 0)
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == TRACKING)
}

/// Only pods that have really ended are replaced, not those that are ending.
fn waits_for_end(job: &Job) -> bool {
    spec(job).pod_replacement_policy.as_deref() == Some("Failed") || spec(job).pod_failure_policy.is_some()
}

fn sort<'a>(job: &Job, owned: &'a [Arc<Pod>]) -> Sorted<'a> {
    let mut sorted = Sorted { active: Vec::new(), terminating: 0, succeeded: Vec::new(), failed: Vec::new() };
    for pod in owned {
        match pods::phase(pod) {
            "Succeeded" => sorted.succeeded.push(pod),
            "Failed" => sorted.failed.push(pod),
            _ if pods::is_terminating(pod) => {
                sorted.terminating += 1;
                if !waits_for_end(job) {
                    // It may never reach an end that anybody sees (its node is gone): it counts as failed.
                    sorted.failed.push(pod);
                }
            }
            _ => {
                sorted.active.push(pod);
            }
        }
    }
    sorted
}

/// Plans the next step of `job`, which owns the pods in `owned`.
pub(super) fn plan(job: &Job, owned: &[Arc<Pod>], now: Timestamp) -> Plan {
    let sorted = sort(job, owned);
    let mut plan = Plan { status: job.status.clone().unwrap_or_default(), ..Plan::default() };
    let suspended = spec(job).suspend == Some(true);
    if plan.status.start_time.is_none() && !suspended {
        plan.status.start_time = Some(seconds(now));
    }
    count(job, &mut plan, owned, &sorted);
    let uncounted = plan.status.uncounted_terminated_pods.as_ref();
    let pending = |list: Option<&Vec<String>>| list.map_or(0, Vec::len);
    // With indexes the count is that of the indexes, which are noted at once.
    let waiting = if is_indexed(job) { 0 } else { pending(uncounted.and_then(|u| u.succeeded.as_ref())) };
    let succeeded = number(plan.status.succeeded) + waiting;
    let failed = number(plan.status.failed) + pending(uncounted.and_then(|u| u.failed.as_ref()));
    let tally = Tally { succeeded, failed };
    if conditions::ending(&plan.status).is_none()
        && let Some(verdict) = verdict(job, &plan.status, &sorted, tally, now)
    {
        plan.event = conditions::announce(&mut plan.status, verdict, now);
    }
    if conditions::ending(&plan.status).is_some() {
        plan.delete = sorted.active.iter().map(|p| Arc::clone(p)).collect();
    } else if suspended {
        plan.delete = sorted.active.iter().map(|p| Arc::clone(p)).collect();
        plan.event = conditions::suspend(&mut plan.status, true, now);
    } else {
        let resumed = conditions::suspend(&mut plan.status, false, now);
        if resumed.is_some() {
            plan.status.start_time = Some(seconds(now));
            plan.event = resumed;
        }
        manage(job, &mut plan, &sorted, tally, now);
    }
    let gone = plan.delete.len();
    plan.status.active = positive(sorted.active.len() - gone);
    let stays = |p: &&&Arc<Pod>| !plan.delete.iter().any(|d| d.metadata.uid == p.metadata.uid);
    let ready = sorted.active.iter().filter(stays).filter(|p| pods::is_ready(p)).count();
    plan.status.ready = Some(i32::try_from(ready).unwrap_or(i32::MAX));
    plan.status.terminating = Some(i32::try_from(sorted.terminating + gone).unwrap_or(i32::MAX));
    let settled =
        plan.status.uncounted_terminated_pods.as_ref().is_none_or(|u| {
            u.succeeded.as_ref().is_none_or(Vec::is_empty) && u.failed.as_ref().is_none_or(Vec::is_empty)
        });
    if settled
        && sorted.terminating + gone == 0
        && let Some(event) = end(&mut plan.status, now)
    {
        plan.event = Some(event);
    }
    plan
}

#[derive(Clone, Copy)]
struct Tally {
    succeeded: usize,
    failed: usize,
}

fn number(n: Option<i32>) -> usize {
    usize::try_from(n.unwrap_or(0)).unwrap_or(0)
}

fn positive(n: usize) -> Option<i32> {
    Some(i32::try_from(n).unwrap_or(i32::MAX)).filter(|n| *n > 0)
}

fn seconds(t: Timestamp) -> Time {
    Time(Timestamp::from_second(t.as_second()).unwrap_or(t))
}

/// Moves ended pods through the three steps of counting.
fn count(job: &Job, plan: &mut Plan, owned: &[Arc<Pod>], sorted: &Sorted<'_>) {
    let tracked: HashMap<&str, &Arc<Pod>> =
        owned.iter().filter(|p| is_tracked(p)).filter_map(|p| Some((p.metadata.uid.as_deref()?, p))).collect();
    let status = &mut plan.status;
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let mut completed = indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions(job));
    let step = |list: Option<Vec<String>>, counter: &mut Option<i32>, ended: &[&Arc<Pod>]| {
        let (mut waiting, gone): (Vec<String>, Vec<String>) =
            list.unwrap_or_default().into_iter().partition(|uid| tracked.contains_key(uid.as_str()));
        *counter = positive(number(*counter) + gone.len());
        for uid in ended.iter().filter(|p| is_tracked(p)).filter_map(|p| p.metadata.uid.clone()) {
            if !waiting.contains(&uid) {
                waiting.push(uid);
            }
        }
        Some(waiting).filter(|w| !w.is_empty())
    };
    let fresh: Vec<&Arc<Pod>> = if is_indexed(job) {
        // Only the first success of an index counts; the pods of others are let go uncounted.
        let mut first = Vec::new();
        for pod in &sorted.succeeded {
            if index(pod).is_some_and(|i| i < completions(job) && completed.insert(i)) || is_waiting(&uncounted, pod) {
                first.push(*pod);
            }
        }
        first
    } else {
        sorted.succeeded.clone()
    };
    let counts = |pod: &&&Arc<Pod>| !failures::is_ignored(job, pod);
    let failed: Vec<&Arc<Pod>> = sorted.failed.iter().filter(counts).copied().collect();
    uncounted.succeeded = step(uncounted.succeeded, &mut status.succeeded, &fresh);
    uncounted.failed = step(uncounted.failed, &mut status.failed, &failed);
    if is_indexed(job) {
        status.succeeded = positive(completed.len()).or(Some(0)).filter(|_| !completed.is_empty());
        uncounted.succeeded = uncounted.succeeded.filter(|list| !list.is_empty());
        status.completed_indexes = Some(indexes::format(&completed)).filter(|s| !s.is_empty());
    }
    let ended = sorted.succeeded.iter().chain(&sorted.failed);
    plan.release = ended.filter(|p| is_tracked(p)).map(|p| Arc::clone(p)).collect();
    plan.status.uncounted_terminated_pods = Some(uncounted).filter(|u| *u != UncountedTerminatedPods::default());
}

fn is_waiting(uncounted: &UncountedTerminatedPods, pod: &Pod) -> bool {
    let uid = pod.metadata.uid.as_ref();
    uncounted.succeeded.iter().flatten().any(|u| Some(u) == uid)
}

fn is_indexed(job: &Job) -> bool {
    spec(job).completion_mode.as_deref() == Some("Indexed")
}

fn completions(job: &Job) -> i32 {
    spec(job).completions.unwrap_or(1)
}

/// How an unfinished Job must end now, if it must.
fn verdict(
    job: &Job,
    status: &JobStatus,
    sorted: &Sorted<'_>,
    tally: Tally,
    now: Timestamp,
) -> Option<conditions::Verdict> {
    use conditions::Verdict;
    if let Some(message) = failures::fails_job(job, &sorted.failed) {
        return Some(Verdict::Failed("PodFailurePolicy", message));
    }
    let limit = usize::try_from(spec(job).backoff_limit.unwrap_or(6)).unwrap_or(0);
    let on_failure = spec(job).template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
    let restarts: i32 = sorted.active.iter().map(|p| pods::restarts(p)).sum();
    let restarted = on_failure && restarts > 0 && usize::try_from(restarts).is_ok_and(|n| n >= limit.max(1));
    if tally.failed > limit || restarted {
        return Some(Verdict::Failed("BackoffLimitExceeded", "Job has reached the specified backoff limit".to_owned()));
    }
    let deadline = spec(job).active_deadline_seconds.zip(status.start_time.as_ref());
    let overdue = |(seconds, start): (i64, &Time)| now.as_second() - start.0.as_second() >= seconds;
    if spec(job).suspend != Some(true) && deadline.is_some_and(overdue) {
        return Some(Verdict::Failed("DeadlineExceeded", "Job was active longer than specified deadline".to_owned()));
    }
    let done = match spec(job).completions {
        // A work queue: the first success means there is no more work, the others end by themselves.
        None => tally.succeeded > 0 && sorted.active.is_empty() && sorted.terminating == 0,
        Some(wanted) if is_indexed(job) => number(status.succeeded) >= number(Some(wanted)),
        Some(wanted) => tally.succeeded >= number(Some(wanted)),
    };
    if done {
        return Some(Verdict::Complete("CompletionsReached", "Reached expected number of succeeded pods".to_owned()));
    }
    failures::succeeds(job, status).map(|message| Verdict::Complete("SuccessPolicy", message))
}

/// Starts and stops pods so that as many run as should.
fn manage(job: &Job, plan: &mut Plan, sorted: &Sorted<'_>, tally: Tally, now: Timestamp) {
    if let Some((seconds, start)) = spec(job).active_deadline_seconds.zip(plan.status.start_time.as_ref()) {
        let left = start.0.as_second() + seconds - now.as_second();
        soonest(&mut plan.recheck, left);
    }
    let parallelism = number(Some(spec(job).parallelism.unwrap_or(1)));
    let active = sorted.active.len();
    let ending = if waits_for_end(job) { sorted.terminating } else { 0 };
    let wanted = match spec(job).completions {
        None if tally.succeeded > 0 => active.min(parallelism),
        None => parallelism,
        Some(all) => parallelism.min(number(Some(all)).saturating_sub(tally.succeeded)),
    };
    if active > wanted {
        let mut order = sorted.active.clone();
        order.sort_by(|a, b| pods::deletion_order((a, 0), (b, 0), now));
        plan.delete = order.into_iter().take(active - wanted).cloned().collect();
        return;
    }
    let missing = wanted.saturating_sub(active + ending);
    if missing == 0 {
        return;
    }
    let backoff = backoff(sorted, now);
    if backoff > 0 {
        return soonest(&mut plan.recheck, backoff);
    }
    plan.create = if is_indexed(job) { free_indexes(job, plan, sorted, missing) } else { vec![None; missing] };
}

fn soonest(recheck: &mut Option<Duration>, seconds: i64) {
    let wait = Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1));
    *recheck = Some(recheck.map_or(wait, |r| r.min(wait)));
}

/// The first indexes that are neither done nor being worked on.
fn free_indexes(job: &Job, plan: &Plan, sorted: &Sorted<'_>, count: usize) -> Vec<Option<i32>> {
    let total = completions(job);
    let mut taken = indexes::parse(plan.status.completed_indexes.as_deref().unwrap_or_default(), total);
    taken.extend(sorted.active.iter().filter_map(|p| index(p)));
    (0..total).filter(|i| !taken.contains(i)).take(count).map(Some).collect()
}

/// Seconds to wait before the next pod, after failures in a row: 10, 20, 40, … up to 600 since the last of them.
fn backoff(sorted: &Sorted<'_>, now: Timestamp) -> i64 {
    let ended = |p: &Pod| failures::ended_at(p).map_or(0, Timestamp::as_second);
    let last_success = sorted.succeeded.iter().map(|p| ended(p)).max().unwrap_or(i64::MIN);
    let since: Vec<i64> =
        sorted.failed.iter().filter(|p| pods::is_finished(p)).map(|p| ended(p)).filter(|t| *t > last_success).collect();
    let Some(last) = since.iter().max() else { return 0 };
    let doublings = u32::try_from(since.len() - 1).unwrap_or(u32::MAX).min(10);
    let wait = (BACKOFF_FIRST_SECONDS << doublings).min(BACKOFF_MAX_SECONDS);
    (last + wait - now.as_second()).max(0)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

/// Used by the tests to look at a set of indexes.
#[cfg(test)]
pub(super) fn indexes_of(status: &JobStatus) -> std::collections::BTreeSet<i32> {
    indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), i32::MAX)
}
