//! A Job's conditions: how its end is announced, and when it has come.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How a Job must end: with reason and message.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Complete(&'static str, String),
    Failed(&'static str, String),
}

/// An event to record: whether it is a warning, reason, message.
type Event = (bool, &'static str, String);

fn find<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn is_true(status: &JobStatus, kind: &str) -> bool {
    find(status, kind).is_some_and(|c| c.status == "True")
}

fn set(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let at = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let condition = JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(at.clone()),
        last_transition_time: Some(at),
    };
    let all = status.conditions.get_or_insert_default();
    match all.iter_mut().find(|c| c.type_ == kind) {
        Some(known) => *known = condition,
        None => all.push(condition),
    }
}

/// The condition that announces the end: it is certain, but pods are still ending or not counted yet.
pub(super) fn ending(status: &JobStatus) -> Option<&'static str> {
    ["SuccessCriteriaMet", "FailureTarget"].into_iter().find(|kind| is_true(status, kind))
}

/// Announces the end.
pub(super) fn announce(status: &mut JobStatus, verdict: Verdict, now: Timestamp) -> Option<Event> {
    match verdict {
        Verdict::Complete(reason, message) => set(status, "SuccessCriteriaMet", "True", reason, &message, now),
        Verdict::Failed(reason, message) => set(status, "FailureTarget", "True", reason, &message, now),
    }
    None
}

/// Nothing runs any more and all is counted: what was announced becomes true.
pub(super) fn end(status: &mut JobStatus, now: Timestamp) -> Option<Event> {
    let announced = ending(status)?;
    let condition = find(status, announced)?;
    let reason = condition.reason.clone().unwrap_or_default();
    let message = condition.message.clone().unwrap_or_default();
    if announced == "SuccessCriteriaMet" {
        set(status, "Complete", "True", &reason, &message, now);
        status.completion_time = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
        return Some((false, "Completed", "Job completed".to_owned()));
    }
    set(status, "Failed", "True", &reason, &message, now);
    let reasons = ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"];
    let known = reasons.into_iter().find(|r| *r == reason).unwrap_or("Failed");
    Some((true, known, message))
}

/// Notes that the Job is suspended, or is no longer.
pub(super) fn suspend(status: &mut JobStatus, suspended: bool, now: Timestamp) -> Option<Event> {
    match (suspended, is_true(status, "Suspended")) {
        (true, false) => {
            set(status, "Suspended", "True", "JobSuspended", "Job suspended", now);
            status.start_time = None;
            Some((false, "Suspended", "Job suspended".to_owned()))
        }
        (false, true) => {
            set(status, "Suspended", "False", "JobResumed", "Job resumed", now);
            Some((false, "Resumed", "Job resumed".to_owned()))
        }
        _ => None,
    }
}
