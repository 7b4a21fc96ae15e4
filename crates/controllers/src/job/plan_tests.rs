//! Tests of [`super::plan`].

use super::*;
use crate::testing::{PodBuilder, at, object, pod};
use serde_json::{Value, json};

fn job(spec: Value, status: Value) -> Job {
    let mut full = json!({"selector": {}, "template": {"spec": {"containers": [], "restartPolicy": "Never"}}});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    object(json!({"metadata": {"name": "j", "namespace": "default", "uid": "j"}, "spec": full, "status": status}))
}

fn tracked(name: &str) -> PodBuilder {
    pod(name).finalizer(TRACKING)
}

/// Runs the job to its end: each step's status is taken over, pods are created and released as planned.
fn play(mut job: Job, outcome: impl Fn(usize) -> &'static str) -> (Job, usize) {
    let (mut pods, mut made): (Vec<Arc<Pod>>, usize) = (Vec::new(), 0);
    for round in 0..200 {
        // Every round is a quarter of an hour: no back-off is ever in the way.
        let now = at(900 * (round + 1));
        let plan = plan(&job, &pods, now);
        job.status = Some(plan.status.clone());
        let gone: Vec<_> = plan.delete.iter().map(|p| p.metadata.uid.clone()).collect();
        pods.retain(|p| !gone.contains(&p.metadata.uid));
        for released in &plan.release {
            let at = pods.iter().position(|p| p.metadata.uid == released.metadata.uid).expect("it is ours");
            let mut free = Pod::clone(&pods[at]);
            free.metadata.finalizers = None;
            pods[at] = Arc::new(free);
        }
        let running = pods.iter().position(|p| pods::is_active(p));
        if let Some(i) = running {
            let name = pods[i].metadata.name.clone().unwrap_or_default();
            let number: usize = name.trim_start_matches('p').parse().expect("named by number");
            let mut ended = Pod::clone(&pods[i]);
            ended.status.get_or_insert_default().phase = Some(outcome(number).to_owned());
            pods[i] = Arc::new(ended);
        }
        for index in plan.create {
            let mut new = tracked(&format!("p{made}")).build();
            if let Some(i) = index {
                new.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), i.to_string());
            }
            pods.push(Arc::new(new));
            made += 1;
        }
        if is_finished(&job) {
            return (job, made);
        }
    }
    panic!("the job never ends: {:?}", job.status);
}

fn ends(job: &Job) -> (Option<i32>, Option<i32>, Vec<&str>) {
    let status = job.status.as_ref().expect("it ran");
    let conditions = status.conditions.iter().flatten().map(|c| c.type_.as_str()).collect();
    (status.succeeded, status.failed, conditions)
}

#[test]
fn jobs_run_to_their_end() {
    let ok = |_: usize| "Succeeded";
    let bad = |_: usize| "Failed";
    let first_bad = |n: usize| if n < 2 { "Failed" } else { "Succeeded" };
    let complete = vec!["SuccessCriteriaMet", "Complete"];
    let failed = vec!["FailureTarget", "Failed"];

    let (j, made) = play(job(json!({"completions": 5, "parallelism": 2}), json!({})), ok);
    assert_eq!((ends(&j), made), ((Some(5), None, complete.clone()), 5));
    assert!(j.status.as_ref().unwrap().completion_time.is_some());

    let (j, made) = play(job(json!({"completions": 1, "backoffLimit": 2}), json!({})), bad);
    assert_eq!((ends(&j), made), ((None, Some(3), failed), 3));

    let (j, made) = play(job(json!({"completions": 3, "parallelism": 3}), json!({})), first_bad);
    assert_eq!((ends(&j), made), ((Some(3), Some(2), complete.clone()), 5));

    let (j, _) = play(job(json!({"parallelism": 3}), json!({})), ok);
    assert_eq!(ends(&j).2, complete, "a work queue");

    let (j, made) =
        play(job(json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"}), json!({})), first_bad);
    assert_eq!((ends(&j), made), ((Some(4), Some(2), complete), 6));
    assert_eq!(indexes_of(j.status.as_ref().unwrap()), (0..4).collect());
}

#[test]
fn an_ended_pod_is_counted_once() {
    let j = job(json!({"completions": 2, "parallelism": 1}), json!({}));
    let ended = tracked("a").phase("Succeeded").arc();
    let first = plan(&j, &[Arc::clone(&ended)], at(5));
    assert_eq!(first.status.succeeded, None, "not yet: only noted");
    assert_eq!(first.release.len(), 1);
    let noted = Job { status: Some(first.status), ..j };
    let again = plan(&noted, &[Arc::clone(&ended)], at(6));
    assert_eq!(again.status, noted.status.clone().unwrap(), "the same step again changes nothing");
    let free = pod("a").phase("Succeeded").arc();
    let counted = plan(&noted, &[Arc::clone(&free)], at(7)).status;
    assert_eq!((counted.succeeded, counted.uncounted_terminated_pods.clone()), (Some(1), None));
    let done = Job { status: Some(counted), ..noted };
    assert_eq!(plan(&done, &[free], at(8)).status.succeeded, Some(1));
    assert_eq!(plan(&done, &[], at(9)).status.succeeded, Some(1), "and it stays counted when the pod is gone");
}

#[test]
fn an_index_that_is_done_counts_once() {
    let j = job(json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"}), json!({}));
    let of = |i: i32, phase: &str| {
        let mut p = tracked(&format!("p{i}")).phase(phase).build();
        p.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), i.to_string());
        Arc::new(p)
    };
    let first = plan(&j, &[of(0, "Succeeded"), of(1, "Running"), of(2, "Running")], at(5));
    assert_eq!((first.delete.len(), first.create.len(), first.status.active), (0, 0, Some(2)));
    assert_eq!(first.status.completed_indexes.as_deref(), Some("0"));
}

#[test]
fn suspension_deadline_and_backoff() {
    let running = [tracked("a").arc()];
    let suspended = plan(&job(json!({"suspend": true}), json!({"startTime": "1970-01-01T00:00:01Z"})), &running, at(5));
    assert_eq!((suspended.delete.len(), suspended.create.len(), suspended.status.start_time), (1, 0, None));
    assert_eq!(suspended.event.map(|e| e.1), Some("Suspended"));

    let late = plan(
        &job(json!({"activeDeadlineSeconds": 10}), json!({"startTime": "1970-01-01T00:00:01Z"})),
        &running,
        at(11),
    );
    assert_eq!((late.delete.len(), conditions::ending(&late.status)), (1, Some("FailureTarget")));
    let soon =
        plan(&job(json!({"activeDeadlineSeconds": 10}), json!({"startTime": "1970-01-01T00:00:01Z"})), &running, at(5));
    assert_eq!(soon.recheck, Some(Duration::from_secs(6)));

    let failed = tracked("f").phase("Failed").condition("Ready", "False", 100).arc();
    let waiting = plan(&job(json!({"completions": 1}), json!({})), &[failed], at(103));
    assert_eq!((waiting.create.len(), waiting.recheck), (0, Some(Duration::from_secs(7))));
}

#[test]
fn policies_decide_about_failures() {
    let with_code = |code: i32| {
        tracked("f").phase("Failed").condition("Ready", "False", 1).edit_status(|s| {
            s.container_statuses = Some(vec![object(json!({"name": "c", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"terminated": {"exitCode": code}}}))]);
        })
    };
    let rules = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
    ]});
    let j = job(json!({"completions": 1, "backoffLimit": 5, "podFailurePolicy": rules}), json!({}));
    let fatal = plan(&j, &[with_code(42).arc()], at(9)).status;
    let condition = fatal.conditions.as_ref().unwrap()[0].clone();
    assert_eq!(
        (condition.type_.as_str(), condition.message.as_deref()),
        (
            "FailureTarget",
            Some("Container c for pod default/f failed with exit code 42 matching FailJob rule at index 0")
        )
    );
    let noted = |code| plan(&j, &[with_code(code).arc()], at(9)).status.uncounted_terminated_pods;
    assert_eq!(noted(7), None, "ignored");
    assert_eq!(noted(1).and_then(|u| u.failed).map(|f| f.len()), Some(1));
}
