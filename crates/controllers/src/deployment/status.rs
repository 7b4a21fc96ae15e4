//! A Deployment's status: counts, availability, and whether the rollout makes progress in time.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::Rollout;

const PROGRESSING: &str = "Progressing";
const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// The counts and the `Available` condition, from the ReplicaSets; other conditions are kept as in `before`.
pub(super) fn calculate(r: &Rollout<'_>, before: &DeploymentStatus) -> DeploymentStatus {
    let sum = |of: fn(&ReplicaSetStatus) -> i32| r.all().filter_map(|s| s.status.as_ref()).map(of).sum::<i32>();
    let available = sum(|s| s.available_replicas.unwrap_or(0));
    // The pods that exist, or are asked for and will.
    let asked: i32 = r.asked_for();
    let new = r.new.as_ref().and_then(|s| s.status.as_ref());
    let mut status = DeploymentStatus {
        observed_generation: r.d.metadata.generation,
        replicas: positive(sum(|s| s.replicas)),
        updated_replicas: positive(new.map_or(0, |s| s.replicas)),
        ready_replicas: positive(sum(|s| s.ready_replicas.unwrap_or(0))),
        available_replicas: positive(available),
        unavailable_replicas: positive((asked - available).max(0)),
        terminating_replicas: Some(sum(|s| s.terminating_replicas.unwrap_or(0))),
        collision_count: before.collision_count,
        conditions: before.conditions.clone(),
    };
    let condition = if available >= r.wanted() - r.bounds.unavailable {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, "Available", condition, r.now);
    status
}

fn positive(n: i32) -> Option<i32> {
    Some(n).filter(|n| *n > 0)
}

/// [`calculate`], and what can be said about the progress of the rollout.
pub(super) fn with_progress(r: &Rollout<'_>, before: &DeploymentStatus) -> DeploymentStatus {
    let mut status = calculate(r, before);
    let d = r.d;
    if !has_deadline(d) {
        drop_condition(&mut status, PROGRESSING);
    }
    let current = find(before, PROGRESSING);
    let settled = status.replicas == status.updated_replicas && current.and_then(reason) == Some(NEW_AVAILABLE);
    if has_deadline(d) && !settled {
        let subject = match r.new.as_ref().and_then(|s| s.metadata.name.as_deref()) {
            Some(name) => format!("ReplicaSet \"{name}\""),
            None => format!("Deployment \"{}\"", d.metadata.name.as_deref().unwrap_or_default()),
        };
        if is_complete(d, &status) {
            let message = format!("{subject} has successfully progressed.");
            set(&mut status, PROGRESSING, ("True", NEW_AVAILABLE, &message), r.now);
        } else if made_progress(before, &status) {
            renew_progress(&mut status, current, &format!("{subject} is progressing."), r.now);
        } else if is_overdue(d, before, r.now) {
            let message = format!("{subject} has timed out progressing.");
            set(&mut status, PROGRESSING, ("False", TIMED_OUT, &message), r.now);
        }
    }
    copy_failures(r, &mut status);
    status
}

/// Notes progress now: the condition's update time is what the deadline counts from.
fn renew_progress(status: &mut DeploymentStatus, current: Option<&DeploymentCondition>, message: &str, now: Timestamp) {
    let since = current.filter(|c| c.status.as_deref() == Some("True")).and_then(|c| c.last_transition_time.clone());
    drop_condition(status, PROGRESSING);
    set(status, PROGRESSING, ("True", "ReplicaSetUpdated", message), now);
    let made = status.conditions.iter_mut().flatten().find(|c| c.type_.as_deref() == Some(PROGRESSING));
    if let (Some(condition), Some(since)) = (made, since) {
        condition.last_transition_time = Some(since);
    }
}

/// Shows the `ReplicaFailure` of the new ReplicaSet, or of any other if that has none.
fn copy_failures(r: &Rollout<'_>, status: &mut DeploymentStatus) {
    let failure = |s: &ReplicaSet| {
        let conditions = s.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        conditions.into_iter().find(|c| c.type_.as_deref() == Some("ReplicaFailure"))
    };
    match r.new.iter().chain(&r.old).find_map(failure) {
        Some(c) => {
            let text = |s: &Option<String>| s.clone().unwrap_or_default();
            let (state, why, message) = (text(&c.status), text(&c.reason), text(&c.message));
            set(status, "ReplicaFailure", (&state, &why, &message), r.now);
        }
        None => drop_condition(status, "ReplicaFailure"),
    }
}

/// All replicas are of the current template, and available, and no old pod is left.
pub(super) fn is_complete(d: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = d.spec.replicas.unwrap_or(1);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= d.metadata.generation
}

fn made_progress(before: &DeploymentStatus, now: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    let old = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(now.updated_replicas) > n(before.updated_replicas)
        || old(now) < old(before)
        || n(now.ready_replicas) > n(before.ready_replicas)
        || n(now.available_replicas) > n(before.available_replicas)
}

fn has_deadline(d: &Deployment) -> bool {
    d.spec.progress_deadline_seconds.is_some_and(|s| s != i32::MAX)
}

fn is_overdue(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let Some(current) = find(status, PROGRESSING) else { return false };
    match reason(current) {
        Some(NEW_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => deadline(d, current).is_some_and(|due| due < now.as_second()),
    }
}

fn deadline(d: &Deployment, progress: &DeploymentCondition) -> Option<i64> {
    let since = progress.last_update_time.as_ref()?.0.as_second();
    Some(since + i64::from(d.spec.progress_deadline_seconds?))
}

/// When to look again whether the rollout is stuck; `None` when it is finished or already overdue.
pub(super) fn next_check(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let current = find(status, PROGRESSING).filter(|_| has_deadline(d))?;
    if is_complete(d, status) || matches!(reason(current), Some(TIMED_OUT | NEW_AVAILABLE)) {
        return None;
    }
    let left = deadline(d, current)? - now.as_second() + 1;
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0).max(1)))
}

/// A paused Deployment makes no progress and is not blamed for it.
pub(super) fn note_pause(d: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if !has_deadline(d) || find(status, PROGRESSING).and_then(reason) == Some(TIMED_OUT) {
        return;
    }
    let noted = find(status, PROGRESSING).and_then(reason) == Some(PAUSED);
    match (d.spec.paused == Some(true), noted) {
        (true, false) => set(status, PROGRESSING, ("Unknown", PAUSED, "Deployment is paused"), now),
        (false, true) => set(status, PROGRESSING, ("Unknown", "DeploymentResumed", "Deployment is resumed"), now),
        _ => {}
    }
}

/// The template is that of an existing ReplicaSet (a rollback, or a controller that starts again).
pub(super) fn note_found(d: &Deployment, rs: &ReplicaSet, status: &mut DeploymentStatus, now: Timestamp) {
    if has_deadline(d) && find(status, PROGRESSING).is_none() {
        let message = format!("Found new replica set \"{}\"", rs.metadata.name.as_deref().unwrap_or_default());
        set(status, PROGRESSING, ("True", "FoundNewReplicaSet", &message), now);
    }
}

/// A ReplicaSet is created for the template.
pub(super) fn note_created(d: &Deployment, rs: &ReplicaSet, status: &mut DeploymentStatus, now: Timestamp) {
    if has_deadline(d) {
        let message = format!("Created new replica set \"{}\"", rs.metadata.name.as_deref().unwrap_or_default());
        set(status, PROGRESSING, ("True", "NewReplicaSetCreated", &message), now);
    }
}

/// The ReplicaSet could not be created.
pub(super) fn note_create_failed(d: &Deployment, status: &mut DeploymentStatus, message: &str, now: Timestamp) {
    if has_deadline(d) {
        set(status, PROGRESSING, ("False", "ReplicaSetCreateError", message), now);
    }
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some(kind))
}

fn reason(condition: &DeploymentCondition) -> Option<&str> {
    condition.reason.as_deref()
}

fn drop_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_.as_deref() != Some(kind));
    }
}

/// Sets a condition to (status, reason, message), unless status and reason are what they were.
fn set(status: &mut DeploymentStatus, kind: &str, (state, why, message): (&str, &str, &str), now: Timestamp) {
    let current = find(status, kind);
    if current.is_some_and(|c| c.status.as_deref() == Some(state) && reason(c) == Some(why)) {
        return;
    }
    let since = current.filter(|c| c.status.as_deref() == Some(state)).and_then(|c| c.last_transition_time.clone());
    drop_condition(status, kind);
    status.conditions.get_or_insert_default().push(DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(state.to_owned()),
        reason: Some(why.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(seconds(now))),
        last_transition_time: since.or(Some(Time(seconds(now)))),
    });
}

/// The wire carries whole seconds; comparing with what comes back needs the same.
fn seconds(t: Timestamp) -> Timestamp {
    Timestamp::from_second(t.as_second()).unwrap_or(t)
}
