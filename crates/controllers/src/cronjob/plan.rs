//! One step of a CronJob: whether a Job is due, which Jobs go, and the status.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::schedule::Schedule;
use crate::job::is_finished;

/// More missed times than this are worth a warning: the clock may be wrong.
const MISSED_MAX: usize = 100;

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// The time of the Job to start.
    pub(super) start: Option<Timestamp>,
    /// Running Jobs that give way to the new one.
    pub(super) replace: Vec<String>,
    /// Ended Jobs beyond the history limits.
    pub(super) prune: Vec<String>,
    pub(super) status: CronJobStatus,
    pub(super) next: Option<Duration>,
    /// Whether it is a warning, reason, message.
    pub(super) events: Vec<(bool, &'static str, String)>,
}

fn name(job: &Job) -> String {
    job.metadata.name.clone().unwrap_or_default()
}

fn condition(job: &Job) -> &'static str {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let failed = conditions.into_iter().any(|c| c.type_ == "Failed" && c.status == "True");
    if failed { "Failed" } else { "Complete" }
}

/// Plans the next step of `cron`, whose Jobs are `jobs`.
pub(super) fn plan(cron: &CronJob, schedule: &Schedule, zone: &TimeZone, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    follow(&mut plan, jobs);
    let spec = cron.spec.clone();
    prune(&mut plan, jobs, "Complete", spec.successful_jobs_history_limit);
    prune(&mut plan, jobs, "Failed", spec.failed_jobs_history_limit);
    if cron.metadata.deletion_timestamp.is_some() || spec.suspend == Some(true) {
        return plan;
    }
    let next = schedule.next(now, zone);
    plan.next = next.and_then(|t| Duration::try_from(t - now).ok());
    let Some(due) = missed(cron, schedule, zone, now, &mut plan) else { return plan };
    if plan.status.last_schedule_time.as_ref().is_some_and(|t| t.0 == due) {
        return plan;
    }
    let late = spec.starting_deadline_seconds.is_some_and(|limit| now.as_second() - due.as_second() > limit);
    if late {
        let text = format!("Missed scheduled time to start a job: {due}");
        plan.events.push((true, "MissSchedule", text));
        return plan;
    }
    let running: Vec<String> = jobs.iter().filter(|j| !is_finished(j)).map(|j| name(j)).collect();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.events.push((false, "JobAlreadyActive", text.to_owned()));
            return plan;
        }
        Some("Replace") => plan.replace = running,
        _ => {}
    }
    plan.start = Some(due);
    plan
}

/// Brings the status up to date with the Jobs there are.
fn follow(plan: &mut Plan, jobs: &[Arc<Job>]) {
    let listed = plan.status.active.take().unwrap_or_default();
    let uid_of = |j: &Job| j.metadata.uid.clone();
    for reference in &listed {
        let found = jobs.iter().find(|j| uid_of(j) == reference.uid);
        let name = reference.name.clone().unwrap_or_default();
        match found {
            Some(job) if is_finished(job) => {
                let text = format!("Saw completed job: {name}, condition: {}", condition(job));
                plan.events.push((false, "SawCompletedJob", text));
            }
            Some(_) => {}
            None => plan.events.push((false, "MissingJob", format!("Active job went missing: {name}"))),
        }
    }
    let active: Vec<ObjectReference> = jobs
        .iter()
        .filter(|j| !is_finished(j))
        .map(|j| {
            let known = listed.iter().find(|r| r.uid == uid_of(j));
            known.cloned().unwrap_or_else(|| client::reference(&**j))
        })
        .collect();
    plan.status.active = Some(active).filter(|a| !a.is_empty());
    let completed = jobs.iter().filter_map(|j| j.status.as_ref()?.completion_time.clone()).max();
    plan.status.last_successful_time = plan.status.last_successful_time.take().max(completed);
}

/// Ended Jobs of one kind beyond the limit, the oldest first.
fn prune(plan: &mut Plan, jobs: &[Arc<Job>], kind: &str, limit: Option<i32>) {
    let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) else { return };
    let mut ended: Vec<&Arc<Job>> = jobs.iter().filter(|j| is_finished(j) && condition(j) == kind).collect();
    ended.sort_by_key(|j| (j.status.as_ref().and_then(|s| s.start_time.clone()), j.metadata.name.clone()));
    let surplus = ended.len().saturating_sub(limit);
    plan.prune.extend(ended.into_iter().take(surplus).map(|j| name(j)));
}

/// The latest time that is due and was not served.
fn missed(cron: &CronJob, schedule: &Schedule, zone: &TimeZone, now: Timestamp, plan: &mut Plan) -> Option<Timestamp> {
    let last = plan.status.last_schedule_time.as_ref().or(cron.metadata.creation_timestamp.as_ref());
    let mut earliest = last.map_or(now, |t| t.0);
    if let Some(deadline) = cron.spec.starting_deadline_seconds {
        let limit = Timestamp::from_second(now.as_second() - deadline).unwrap_or(earliest);
        earliest = earliest.max(limit);
    }
    let (mut due, mut count, mut at) = (None, 0, earliest);
    while let Some(t) = schedule.next(at, zone).filter(|t| *t <= now) {
        (due, at, count) = (Some(t), t, count + 1);
        if count > MISSED_MAX {
            // Go on from close to now: only the latest matters.
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            plan.events.push((true, "TooManyMissedTimes", text.to_owned()));
            return latest(schedule, zone, now).or(due);
        }
    }
    due
}

/// The latest due time before `now`, looked for over ever longer spans.
fn latest(schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    for span in [60, 3600, 86_400, 31 * 86_400, 366 * 86_400] {
        let mut at = Timestamp::from_second(now.as_second() - span).ok()?;
        let mut due = None;
        while let Some(t) = schedule.next(at, zone).filter(|t| *t <= now) {
            (due, at) = (Some(t), t);
        }
        if due.is_some() {
            return due;
        }
    }
    None
}

/// The status when the Job due at `due` was started.
pub(super) fn started(mut status: CronJobStatus, job: &Job, due: Timestamp) -> CronJobStatus {
    status.active.get_or_insert_default().push(client::reference(job));
    status.last_schedule_time = Some(Time(due));
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object};
    use serde_json::{Value, json};

    fn cron(spec: Value, status: Value) -> CronJob {
        let mut full = json!({"schedule": "*/10 * * * *", "jobTemplate": {}, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        object(
            json!({"metadata": {"name": "c", "creationTimestamp": "1970-01-01T00:00:00Z"}, "spec": full, "status": status}),
        )
    }

    fn job(name: &str, end: Option<&str>, start: i64) -> Arc<Job> {
        let conditions: Vec<Value> = end.iter().map(|e| json!({"type": e, "status": "True"})).collect();
        Arc::new(object(json!({"metadata": {"name": name, "uid": name}, "status": {
            "conditions": conditions, "startTime": at(start).to_string()}})))
    }

    fn run(cron: &CronJob, jobs: &[Arc<Job>], now: i64) -> Plan {
        let schedule = Schedule::parse("*/10 * * * *").unwrap();
        plan(cron, &schedule, &TimeZone::UTC, jobs, at(now))
    }

    #[test]
    fn a_job_is_started_when_it_is_due() {
        let plain = cron(json!({}), json!({}));
        let early = run(&plain, &[], 599);
        assert_eq!((early.start, early.next), (None, Some(Duration::from_secs(1))));
        assert_eq!(run(&plain, &[], 600).start, Some(at(600)));
        assert_eq!(run(&plain, &[], 2000).start, Some(at(1800)), "only the latest of those missed");
        let served = cron(json!({}), json!({"lastScheduleTime": "1970-01-01T00:30:00Z"}));
        assert_eq!(run(&served, &[], 2000).start, None);
        assert_eq!(run(&cron(json!({"suspend": true}), json!({})), &[], 2000).start, None);
        let deadline = cron(json!({"startingDeadlineSeconds": 100}), json!({}));
        assert_eq!(run(&deadline, &[], 2000).start, None, "it is 200 seconds late");
        let old = run(&plain, &[], 700_000);
        assert_eq!((old.start, old.events[0].1), (Some(at(699_600)), "TooManyMissedTimes"));
    }

    #[test]
    fn concurrency_policies() {
        let running = [job("r", None, 1)];
        assert_eq!(run(&cron(json!({}), json!({})), &running, 600).start, Some(at(600)));
        let forbid = run(&cron(json!({"concurrencyPolicy": "Forbid"}), json!({})), &running, 600);
        assert_eq!((forbid.start, forbid.events[0].1), (None, "JobAlreadyActive"));
        let replace = run(&cron(json!({"concurrencyPolicy": "Replace"}), json!({})), &running, 600);
        assert_eq!((replace.start, replace.replace), (Some(at(600)), vec!["r".to_owned()]));
    }

    #[test]
    fn history_is_limited() {
        let jobs = [
            job("ok1", Some("Complete"), 1),
            job("ok2", Some("Complete"), 2),
            job("bad1", Some("Failed"), 1),
            job("bad2", Some("Failed"), 2),
        ];
        let p = run(
            &cron(json!({}), json!({"active": [{"name": "ok2", "uid": "ok2"}, {"name": "x", "uid": "x"}]})),
            &jobs,
            5,
        );
        assert_eq!(p.prune, ["ok1", "bad1"]);
        assert_eq!(p.events.iter().map(|e| e.1).collect::<Vec<_>>(), ["SawCompletedJob", "MissingJob"]);
        assert_eq!(p.status.active, None);
    }
}
