//! Cells of workloads and autoscalers.

use super::{age, containers, human_duration, labels, or, since};
use crate::look::Look;
use jiff::Timestamp;
use machinery::selector::LabelSelector;
use serde_json::{Value, json};

pub(super) fn cells(kind: &str, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let name = Value::from(object.text("metadata.name"));
    let age = age(object, now);
    let int = |path: &str| Value::from(object.int(path));
    let [names, images] = containers(object, "spec.template.spec.containers");
    let cells = match kind {
        "Deployment" => {
            let ready = format!("{}/{}", object.int("status.readyReplicas"), object.int("spec.replicas"));
            let (updated, available) = (int("status.updatedReplicas"), int("status.availableReplicas"));
            vec![name, ready.into(), updated, available, age, names, images, selector(object, "")]
        }
        "ReplicaSet" => {
            let counts = (int("spec.replicas"), int("status.replicas"), int("status.readyReplicas"));
            vec![name, counts.0, counts.1, counts.2, age, names, images, selector(object, "")]
        }
        "DaemonSet" => {
            let mut cells = vec![name];
            for field in [
                "desiredNumberScheduled",
                "currentNumberScheduled",
                "numberReady",
                "updatedNumberScheduled",
                "numberAvailable",
            ] {
                cells.push(int(&format!("status.{field}")));
            }
            cells.extend([
                labels(object, "spec.template.spec.nodeSelector").into(),
                age,
                names,
                images,
                selector(object, ""),
            ]);
            cells
        }
        "StatefulSet" => {
            let ready = format!("{}/{}", object.int("status.readyReplicas"), object.int("spec.replicas"));
            vec![name, ready.into(), age, names, images]
        }
        "ControllerRevision" => vec![name, controller(object).into(), int("revision"), age],
        "Job" => {
            let (status, duration) = (job_status(object), job_duration(object, now));
            vec![
                name,
                status.into(),
                completions(object).into(),
                duration.into(),
                age,
                names,
                images,
                selector(object, "<none>"),
            ]
        }
        "CronJob" => return Some(cron_job(object, now)),
        "HorizontalPodAutoscaler" => return Some(autoscaler(object, now)),
        "Scale" => vec![name, int("spec.replicas"), int("status.replicas"), age],
        _ => return None,
    };
    Some(cells)
}

fn selector(object: &Value, absent: &str) -> Value {
    if !object.has("spec.selector") {
        return absent.into();
    }
    LabelSelector::from_value(object.at("spec.selector")).map_or_else(|_| "<error>".into(), |s| s.to_string().into())
}

/// The owner that controls an object: `replicaset.apps/name`.
fn controller(object: &Value) -> String {
    let owner = object.items("metadata.ownerReferences").iter().find(|o| o.flag("controller"));
    owner.map_or_else(
        || "<none>".to_owned(),
        |o| {
            let (group, _) = crate::catalogue::split_api_version(o.text("apiVersion"));
            let kind = o.text("kind").to_lowercase();
            if group.is_empty() {
                format!("{kind}/{}", o.text("name"))
            } else {
                format!("{kind}.{group}/{}", o.text("name"))
            }
        },
    )
}

fn has_condition(object: &Value, name: &str) -> bool {
    object.items("status.conditions").iter().any(|c| c.text("type") == name && c.text("status") == "True")
}

fn job_status(job: &Value) -> &'static str {
    match () {
        () if has_condition(job, "Complete") => "Complete",
        () if has_condition(job, "Failed") => "Failed",
        () if job.has("metadata.deletionTimestamp") => "Terminating",
        () if has_condition(job, "Suspended") => "Suspended",
        () if has_condition(job, "FailureTarget") => "FailureTarget",
        () if has_condition(job, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(job: &Value) -> String {
    let done = job.int("status.succeeded");
    match (job.at("spec.completions").as_i64(), job.int("spec.parallelism")) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallel @ 2..) => format!("{done}/1 of {parallel}"),
        (None, _) => format!("{done}/1"),
    }
}

fn job_duration(job: &Value, now: Timestamp) -> String {
    let second = |path: &str| job.text(path).parse::<Timestamp>().ok().map(Timestamp::as_second);
    let end = second("status.completionTime").unwrap_or(now.as_second());
    second("status.startTime").map_or_else(String::new, |start| human_duration(end - start))
}

fn cron_job(job: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(job, "spec.jobTemplate.spec.template.spec.containers");
    let last = match job.text("status.lastScheduleTime") {
        "" => "<none>".to_owned(),
        at => since(at, now),
    };
    let template = job.at("spec.jobTemplate");
    vec![
        job.text("metadata.name").into(),
        job.text("spec.schedule").into(),
        or(job.text("spec.timeZone"), "<none>").into(),
        if job.flag("spec.suspend") { "True" } else { "False" }.into(),
        job.items("status.active").len().into(),
        last.into(),
        age(job, now),
        names,
        images,
        selector(template, "<none>"),
    ]
}

fn autoscaler(scaler: &Value, now: Timestamp) -> Vec<Value> {
    let reference = format!("{}/{}", scaler.text("spec.scaleTargetRef.kind"), scaler.text("spec.scaleTargetRef.name"));
    let minimum = scaler.at("spec.minReplicas").as_i64().map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
    vec![
        scaler.text("metadata.name").into(),
        reference.into(),
        targets(scaler).into(),
        minimum.into(),
        scaler.int("spec.maxReplicas").into(),
        scaler.int("status.currentReplicas").into(),
        age(scaler, now),
    ]
}

/// `cpu: 12%/80%` for each metric, the first two of them.
fn targets(scaler: &Value) -> String {
    let utilization = |value: &Value| value.as_i64().map_or_else(|| "<unknown>".to_owned(), |n| format!("{n}%"));
    let metrics = scaler.items("spec.metrics");
    if metrics.is_empty() {
        // The old version of the kind knows only the processor.
        let target = scaler.at("spec.targetCPUUtilizationPercentage").as_i64().unwrap_or(80);
        return format!("cpu: {}/{target}%", utilization(scaler.at("status.currentCPUUtilizationPercentage")));
    }
    let shown: Vec<String> = metrics
        .iter()
        .enumerate()
        .map(|(at, m)| metric(m, &scaler.items("status.currentMetrics").get(at).cloned().unwrap_or(json!({}))))
        .collect();
    super::clipped(&shown, 2, "<none>").replace(',', ", ")
}

fn metric(spec: &Value, status: &Value) -> String {
    let (source, name) = match spec.text("type") {
        "External" => ("external", ""),
        "Pods" => ("pods", ""),
        "Object" => ("object", ""),
        "ContainerResource" => ("containerResource", spec.text("containerResource.name")),
        "Resource" => ("resource", spec.text("resource.name")),
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (spec.at(&format!("{source}.target")), status.at(&format!("{source}.current")));
    let (field, unit) = match target.text("type") {
        "Utilization" => ("averageUtilization", "%"),
        "AverageValue" => ("averageValue", ""),
        _ => ("value", ""),
    };
    let write = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(n) => format!("{n}{unit}"),
        _ => "<unknown>".to_owned(),
    };
    let average = if field == "averageValue" && matches!(source, "external" | "object") { " (avg)" } else { "" };
    let prefix = if name.is_empty() { String::new() } else { format!("{name}: ") };
    format!("{prefix}{}/{}{average}", write(current.at(field)), write(target.at(field)))
}
