//! Deployments and their like, jobs and cron jobs.

use super::at::{At, Errors};
use super::{meta, pod, text};
use crate::look::Look;
use machinery::name;
use machinery::selector::LabelSelector;
use serde_json::Value;

pub(super) fn create(kind: &str, object: &Value, errors: &mut Errors) {
    match kind {
        "Deployment" => deployment(object, errors),
        "ReplicaSet" => replica_set(object, errors),
        "DaemonSet" => daemon_set(object, errors),
        "StatefulSet" => stateful_set(object, errors),
        "ReplicationController" => replication_controller(object, errors),
        "Job" => job_spec(object.at("spec"), &At::root("spec"), errors),
        "CronJob" => cron_job(object, errors),
        _ => {}
    }
}

pub(super) fn update(kind: &str, new: &Value, old: &Value, errors: &mut Errors) {
    create(kind, new, errors);
    match kind {
        "Deployment" | "ReplicaSet" | "DaemonSet" => errors.immutable_fields(new, old, &["spec.selector"]),
        "StatefulSet" => errors.immutable_fields(
            new,
            old,
            &["spec.serviceName", "spec.selector", "spec.podManagementPolicy", "spec.volumeClaimTemplates"],
        ),
        "Job" => job_update(new, old, errors),
        _ => {}
    }
}

const SPEC: At<'static> = At::root("spec");

/// Selector and template must fit each other.
fn selector_and_template(object: &Value, owner: &str, errors: &mut Errors) {
    let selector = object.at("spec.selector");
    let at = SPEC.field("selector");
    if selector.is_null() {
        errors.required(&at, "");
    } else {
        meta::selector(selector, &at, errors);
        if meta::is_empty_selector(selector) {
            errors.invalid(&at, selector.clone(), format!("empty selector is invalid for {owner}"));
        }
    }
    if let Ok(parsed) = LabelSelector::from_value(selector) {
        fits(&parsed, object, errors);
    }
}

fn fits(selector: &LabelSelector, object: &Value, errors: &mut Errors) {
    let labels = object.at("spec.template.metadata.labels");
    let matches = selector.matches(|key| labels.get(key).and_then(Value::as_str));
    // A selector that is absent matches nothing; one that is empty matches everything.
    if !matches || object.at("spec.selector").is_null() {
        errors.invalid(
            &SPEC.field("template.metadata.labels"),
            labels.clone(),
            "`selector` does not match template `labels`",
        );
    }
}

fn template(object: &Value, owner: &str, errors: &mut Errors) {
    let at = SPEC.field("template");
    let template = object.at("spec.template");
    pod::template(template, &at, errors);
    let policy = template.text("spec.restartPolicy");
    if policy != "Always" && matches!(policy, "OnFailure" | "Never") {
        errors.unsupported(&at.field("spec.restartPolicy"), policy, &["Always"]);
    }
    if template.has("spec.activeDeadlineSeconds") {
        let detail = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.forbidden(&at.field("spec.activeDeadlineSeconds"), detail);
    }
}

fn counts(object: &Value, fields: &[&str], errors: &mut Errors) {
    for field in fields {
        errors.non_negative(&SPEC.field(field), object.at("spec").at(field));
    }
}

fn deployment(object: &Value, errors: &mut Errors) {
    counts(object, &["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], errors);
    selector_and_template(object, "deployment", errors);
    template(object, "ReplicaSet", errors);
    let strategy = object.at("spec.strategy");
    let at = SPEC.field("strategy");
    match strategy.text("type") {
        "Recreate" if strategy.has("rollingUpdate") => {
            errors.forbidden(&at.field("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'");
        }
        "RollingUpdate" if !strategy.has("rollingUpdate") => {
            errors.required(&at.field("rollingUpdate"), "this should be defaulted and never be nil");
        }
        "RollingUpdate" => rolling(strategy.at("rollingUpdate"), &at.field("rollingUpdate"), errors),
        "Recreate" => {}
        _ => errors.unsupported(&at, strategy.clone(), &["Recreate", "RollingUpdate"]),
    }
    let deadline = object.int("spec.progressDeadlineSeconds");
    if object.has("spec.progressDeadlineSeconds") && deadline > 0 && deadline <= object.int("spec.minReadySeconds") {
        errors.invalid(&SPEC.field("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
    }
}

fn rolling(rolling: &Value, at: &At<'_>, errors: &mut Errors) {
    let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
    amount(unavailable, &at.field("maxUnavailable"), errors);
    amount(surge, &at.field("maxSurge"), errors);
    if is_zero(unavailable) && is_zero(surge) {
        errors.invalid(&at.field("maxUnavailable"), unavailable.clone(), "may not be 0 when `maxSurge` is 0");
    }
    no_more_than_all(unavailable, &at.field("maxUnavailable"), errors);
}

/// A number or a percentage, not negative.
pub(super) fn amount(value: &Value, at: &At<'_>, errors: &mut Errors) {
    match value {
        Value::String(text) if percentage(text).is_none() => {
            errors.invalid(at, text.as_str(), "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
        }
        _ => errors.non_negative(at, value),
    }
}

pub(super) fn no_more_than_all(value: &Value, at: &At<'_>, errors: &mut Errors) {
    if value.as_str().and_then(percentage).is_some_and(|p| p > 100) {
        errors.invalid(at, value.clone(), "must not be greater than 100%");
    }
}

fn percentage(text: &str) -> Option<u64> {
    text.strip_suffix('%').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || value.as_str().and_then(percentage) == Some(0)
}

fn replica_set(object: &Value, errors: &mut Errors) {
    counts(object, &["replicas", "minReadySeconds"], errors);
    selector_and_template(object, "deployment", errors);
    template(object, "ReplicaSet", errors);
}

fn daemon_set(object: &Value, errors: &mut Errors) {
    counts(object, &["minReadySeconds", "revisionHistoryLimit"], errors);
    selector_and_template(object, "daemonset", errors);
    template(object, "DaemonSet", errors);
    let strategy = object.at("spec.updateStrategy");
    let at = SPEC.field("updateStrategy");
    let rolling = at.field("rollingUpdate");
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" if !strategy.has("rollingUpdate") => errors.required(&rolling, ""),
        "RollingUpdate" => {
            let (unavailable, surge) =
                (strategy.at("rollingUpdate.maxUnavailable"), strategy.at("rollingUpdate.maxSurge"));
            amount(unavailable, &rolling.field("maxUnavailable"), errors);
            amount(surge, &rolling.field("maxSurge"), errors);
            no_more_than_all(unavailable, &rolling.field("maxUnavailable"), errors);
            no_more_than_all(surge, &rolling.field("maxSurge"), errors);
            match (is_zero(unavailable), is_zero(surge)) {
                (true, true) => errors.required(&rolling.field("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
                (false, false) => {
                    errors.invalid(
                        &rolling.field("maxSurge"),
                        surge.clone(),
                        "may not be set when maxUnavailable is non-zero",
                    );
                }
                _ => {}
            }
        }
        other => errors.unsupported(&at.field("type"), other, &["RollingUpdate", "OnDelete"]),
    }
}

fn stateful_set(object: &Value, errors: &mut Errors) {
    counts(object, &["replicas", "minReadySeconds", "revisionHistoryLimit", "ordinals.start"], errors);
    selector_and_template(object, "statefulset", errors);
    template(object, "StatefulSet", errors);
    let (policy, strategy) = (object.text("spec.podManagementPolicy"), object.at("spec.updateStrategy"));
    match policy {
        "" => errors.required(&SPEC.field("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&SPEC.field("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'"),
    }
    let at = SPEC.field("updateStrategy");
    match strategy.text("type") {
        "" => errors.required(&at, ""),
        "OnDelete" if strategy.has("rollingUpdate") => {
            let value = strategy.at("rollingUpdate").clone();
            errors.invalid(&at.field("rollingUpdate"), value, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            errors.non_negative(&at.field("rollingUpdate.partition"), strategy.at("rollingUpdate.partition"))
        }
        _ => errors.invalid(&at, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
    let service = object.text("spec.serviceName");
    if !service.is_empty() {
        errors.texts(&SPEC.field("serviceName"), service, name::dns1123_label(service));
    }
    for field in ["whenDeleted", "whenScaled"] {
        let policy = object.at("spec.persistentVolumeClaimRetentionPolicy").text(field);
        if !policy.is_empty() {
            errors.one_of(
                &SPEC.field("persistentVolumeClaimRetentionPolicy").field(field),
                policy,
                &["Delete", "Retain"],
            );
        }
    }
}

fn replication_controller(object: &Value, errors: &mut Errors) {
    counts(object, &["replicas", "minReadySeconds"], errors);
    let selector = object.at("spec.selector");
    if selector.as_object().is_none_or(serde_json::Map::is_empty) {
        errors.required(&SPEC.field("selector"), "");
    }
    if object.at("spec.template").is_null() {
        errors.required(&SPEC.field("template"), "");
        return;
    }
    let pairs = selector.entries("").map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()));
    let selector = LabelSelector::from_labels(pairs);
    fits(&selector, object, errors);
    template(object, "ReplicationController", errors);
}

fn job_spec(spec: &Value, at: &At<'_>, errors: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "maxFailedIndexes",
        "backoffLimitPerIndex",
    ] {
        errors.non_negative(&at.field(field), spec.at(field));
    }
    let mode = spec.text("completionMode");
    if !mode.is_empty() {
        errors.one_of(&at.field("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == "Indexed" {
        if spec.at("completions").is_null() {
            errors.required(&at.field("completions"), "when completion mode is Indexed");
        }
        let parallelism = spec.int("parallelism");
        if parallelism > 100_000 {
            let detail = "must be less than or equal to 100000 when completion mode is Indexed";
            errors.invalid(&at.field("parallelism"), parallelism, detail);
        }
    }
    let template = spec.at("template");
    let here = at.field("template");
    pod::template(template, &here, errors);
    let policy = template.text("spec.restartPolicy");
    let at = here.field("spec.restartPolicy");
    match policy {
        "" | "Always" => errors.required(&at, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.has("podFailurePolicy") => {
            errors.invalid(&at, policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        other => errors.unsupported(&at, other, &["OnFailure", "Never"]),
    }
}

fn job_update(new: &Value, old: &Value, errors: &mut Errors) {
    let suspended = old.flag("spec.suspend") && !old.has("status.startTime");
    errors.immutable_fields(
        new,
        old,
        &["spec.selector", "spec.completionMode", "spec.podFailurePolicy", "spec.backoffLimitPerIndex"],
    );
    let indexed_scale =
        new.text("spec.completionMode") == "Indexed" && new.int("spec.completions") == new.int("spec.parallelism");
    if !indexed_scale {
        errors.immutable_fields(new, old, &["spec.completions"]);
    }
    let mut template = new.at("spec.template").clone();
    if suspended {
        // A job that never ran may still be told where to run, and with what.
        let was = old.at("spec.template");
        for field in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
            set(&mut template["spec"], field, was.at("spec").get(field));
        }
        for field in ["labels", "annotations"] {
            set(&mut template["metadata"], field, was.at("metadata").get(field));
        }
        for list in ["containers", "initContainers"] {
            for (index, container) in
                template["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate()
            {
                set(container, "resources", was["spec"][list][index].get("resources"));
            }
        }
    }
    if template != *old.at("spec.template") {
        errors.invalid(&SPEC.field("template"), new.at("spec.template").clone(), "field is immutable");
    }
}

fn set(object: &mut Value, field: &str, value: Option<&Value>) {
    if let Some(map) = object.as_object_mut() {
        match value {
            Some(value) => map.insert(field.to_owned(), value.clone()),
            None => map.remove(field),
        };
    }
}

fn cron_job(object: &Value, errors: &mut Errors) {
    let schedule = object.text("spec.schedule");
    if schedule.is_empty() {
        errors.required(&SPEC.field("schedule"), "");
    } else {
        // A zone in front is refused below, with a better reason.
        let bare =
            if schedule.contains("TZ=") { schedule.split_once(' ').map_or("", |(_, rest)| rest) } else { schedule };
        if let Some(wrong) = text::schedule(bare) {
            errors.invalid(&SPEC.field("schedule"), schedule, wrong);
        }
        if schedule.contains("TZ") {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.invalid(&SPEC.field("schedule"), schedule, detail);
        }
    }
    time_zone(object, errors);
    errors.one_of(
        &SPEC.field("concurrencyPolicy"),
        object.text("spec.concurrencyPolicy"),
        &["Allow", "Forbid", "Replace"],
    );
    counts(object, &["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"], errors);
    job_spec(object.at("spec.jobTemplate.spec"), &SPEC.field("jobTemplate.spec"), errors);
}

/// The zone must be known; where the system has no list of zones, any is taken.
fn time_zone(object: &Value, errors: &mut Errors) {
    let zone = object.text("spec.timeZone");
    let at = SPEC.field("timeZone");
    if !object.has("spec.timeZone") {
        return;
    }
    if zone.is_empty() {
        errors.invalid(&at, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("local") {
        errors.invalid(
            &at,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    } else if !jiff::tz::db().is_definitively_empty() && jiff::tz::TimeZone::get(zone).is_err() {
        errors.invalid(&at, zone, format!("unknown time zone {zone}"));
    }
}
