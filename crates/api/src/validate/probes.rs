//! Probes and lifecycle hooks.

use super::at::{At, Errors};
use super::text;
use crate::look::Look;
use serde_json::Value;

/// The three probes of a container.
pub(super) fn all(container: &Value, at: &At<'_>, errors: &mut Errors) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.at(kind);
        if probe.is_null() {
            continue;
        }
        let at = at.field(kind);
        handler(probe, &at, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            errors.non_negative(&at.field(field), probe.at(field));
        }
        if probe.has("terminationGracePeriodSeconds") && probe.int("terminationGracePeriodSeconds") <= 0 {
            let value = probe.at("terminationGracePeriodSeconds").clone();
            errors.invalid(&at.field("terminationGracePeriodSeconds"), value, "must be greater than 0");
        }
        if kind != "readinessProbe" && probe.int("successThreshold") > 1 {
            errors.invalid(&at.field("successThreshold"), probe.int("successThreshold"), "must be 1");
        }
        if kind == "readinessProbe" && probe.has("terminationGracePeriodSeconds") {
            let value = probe.at("terminationGracePeriodSeconds").clone();
            errors.invalid(&at.field("terminationGracePeriodSeconds"), value, "must not be set for readinessProbes");
        }
    }
}

/// What runs after a container's start and before its stop.
pub(super) fn lifecycle(lifecycle: &Value, at: &At<'_>, grace: i64, errors: &mut Errors) {
    for hook in ["postStart", "preStop"] {
        let action = lifecycle.at(hook);
        if action.is_null() {
            continue;
        }
        let at = at.field(hook);
        handler(action, &at, &["exec", "httpGet", "tcpSocket", "sleep"], errors);
        let seconds = action.int("sleep.seconds");
        if action.has("sleep") && (seconds < 0 || seconds > grace) {
            let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            errors.invalid(&at.field("sleep"), seconds, detail);
        }
    }
}

/// Exactly one way to act.
fn handler(action: &Value, at: &At<'_>, kinds: &[&str], errors: &mut Errors) {
    let mut given = 0;
    for kind in kinds.iter().filter(|k| action.has(k)) {
        let (source, at) = (action.at(kind), at.field(kind));
        given += 1;
        if given > 1 {
            errors.forbidden(&at, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" if source.items("command").is_empty() => errors.required(&at.field("command"), ""),
            "httpGet" => http_get(source, &at, errors),
            "tcpSocket" => text::port_or_name(source.at("port"), &at.field("port"), errors),
            "grpc" => text::port_number(source.at("port"), &at.field("port"), errors),
            _ => {}
        }
    }
    if given == 0 {
        errors.required(at, "must specify a handler type");
    }
}

fn http_get(source: &Value, at: &At<'_>, errors: &mut Errors) {
    if source.text("path").is_empty() {
        errors.required(&at.field("path"), "");
    }
    text::port_or_name(source.at("port"), &at.field("port"), errors);
    errors.one_of(&at.field("scheme"), source.text("scheme"), &["HTTP", "HTTPS"]);
    let headers = at.field("httpHeaders");
    for header in source.items("httpHeaders") {
        let name = header.text("name");
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for \
                          validation is '[-A-Za-z0-9]+')";
            errors.invalid(&headers, name, detail);
        }
    }
}
