//! Health and metrics.

use crate::body::Body;
use crate::call::Call;
use crate::endpoint::text;
use crate::request::Query;
use crate::server::ApiServer;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use machinery::Status;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Upper bounds of the latency histogram, in microseconds.
const BUCKETS: [(u64, &str); 9] = [
    (500, "0.0005"),
    (1_000, "0.001"),
    (5_000, "0.005"),
    (25_000, "0.025"),
    (100_000, "0.1"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (5_000_000, "5"),
    (60_000_000, "60"),
];
/// How many different requests are counted; beyond, they are counted together.
const SERIES_MAX: usize = 4096;

#[derive(Default)]
struct Series {
    count: u64,
    microseconds: u64,
    buckets: [u64; BUCKETS.len()],
}

/// Counts of what was served.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(String, String, u16), Series>>,
}

impl Metrics {
    pub(crate) fn record(&self, verb: &str, resource: &str, code: u16, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut requests = self.requests.lock();
        let key = (verb.to_owned(), resource.to_owned(), code);
        let full = requests.len() >= SERIES_MAX && !requests.contains_key(&key);
        let key = if full { (String::new(), String::new(), code) } else { key };
        let series = requests.entry(key).or_default();
        series.count += 1;
        series.microseconds = series.microseconds.saturating_add(micros);
        for (bucket, (bound, _)) in series.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(micros <= bound);
        }
    }
}

/// Answers for health and metrics; none when the path is another.
pub(crate) fn serve(api: &ApiServer, parts: &Parts, query: &Query) -> Option<Result<Response<Body>, Status>> {
    let path = parts.uri.path().trim_end_matches('/');
    match path.trim_start_matches('/').split('/').collect::<Vec<_>>().as_slice() {
        [kind @ ("healthz" | "livez" | "readyz")] => Some(Ok(health(api, kind, query))),
        [kind @ ("healthz" | "livez" | "readyz"), check] => one(api, kind, check),
        ["metrics"] => Some(Ok(metrics(api))),
        _ => None,
    }
}

/// The checks behind a path, and whether each is good.
fn checks(api: &ApiServer, kind: &str) -> Vec<(&'static str, bool)> {
    let mut checks = vec![("ping", true), ("etcd", !api.storage.is_lost())];
    if kind == "readyz" {
        checks.push(("informer-sync", true));
        checks.push(("shutdown", !api.stopping().is_cancelled()));
    }
    checks
}

fn health(api: &ApiServer, kind: &str, query: &Query) -> Response<Body> {
    let excluded: Vec<&str> = query.all("exclude").collect();
    let checks = checks(api, kind);
    let mut lines = String::new();
    let mut good = true;
    for (name, check) in checks {
        if excluded.contains(&name) {
            let _ = writeln!(lines, "[+]{name} excluded: ok");
        } else if check {
            let _ = writeln!(lines, "[+]{name} ok");
        } else {
            good = false;
            let _ = writeln!(lines, "[-]{name} failed: reason withheld");
        }
    }
    if !good {
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{kind} check failed\n"));
    }
    if query.raw("verbose").is_some() {
        return text(StatusCode::OK, format!("{lines}{kind} check passed\n"));
    }
    text(StatusCode::OK, "ok")
}

fn one(api: &ApiServer, kind: &str, name: &str) -> Option<Result<Response<Body>, Status>> {
    let (_, good) = checks(api, kind).into_iter().find(|(check, _)| *check == name)?;
    Some(Ok(if good {
        text(StatusCode::OK, "ok")
    } else {
        text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {name} failed\n"))
    }))
}

/// `componentstatuses`, which upstream has given up: what we know of ourselves.
pub(crate) fn component_statuses(call: &Call) -> Result<Response<Body>, Status> {
    let good = !call.api.storage.is_lost();
    let (status, message) = if good { ("True", "ok") } else { ("False", "the store is lost") };
    let one = |name: &str| {
        let condition = json!({"type": "Healthy", "status": status, "message": message});
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]})
    };
    match (&*call.attributes.verb, call.name()) {
        ("list", _) => {
            let list =
                json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": [one("etcd-0")]});
            Ok(crate::respond::value(call.accept, StatusCode::OK, &list))
        }
        ("get", "etcd-0") => call.answer_value(StatusCode::OK, one("etcd-0")),
        ("get", name) => Err(call.served.not_found(name)),
        (verb, _) => Err(Status::method_not_allowed("", "componentstatuses", verb)),
    }
}

fn metrics(api: &ApiServer) -> Response<Body> {
    let mut out = String::new();
    let requests = api.metrics.requests.lock();
    out.push_str("# HELP apiserver_request_total Requests served, by verb, resource and code.\n# TYPE apiserver_request_total counter\n");
    for ((verb, resource, code), series) in &*requests {
        let _ = writeln!(
            out,
            "apiserver_request_total{{code=\"{code}\",resource={resource:?},verb={verb:?}}} {}",
            series.count
        );
    }
    out.push_str("# HELP apiserver_request_duration_seconds Time to answer; of watches, to begin.\n# TYPE apiserver_request_duration_seconds histogram\n");
    for ((verb, resource, code), series) in &*requests {
        let labels = format!("code=\"{code}\",resource={resource:?},verb={verb:?}");
        for (count, (_, bound)) in series.buckets.iter().zip(BUCKETS) {
            let _ = writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {}", series.count);
        #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
        let seconds = series.microseconds as f64 / 1e6;
        let _ = writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {seconds}");
        let _ = writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {}", series.count);
    }
    drop(requests);
    storage_metrics(api, &mut out);
    let mut response = text(StatusCode::OK, out);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

fn storage_metrics(api: &ApiServer, out: &mut String) {
    out.push_str(
        "# HELP apiserver_storage_objects Objects stored, by resource.\n# TYPE apiserver_storage_objects gauge\n",
    );
    let mut kinds = api.storage.kinds();
    kinds.sort_by(|a, b| (&a.info().group, &a.info().resource).cmp(&(&b.info().group, &b.info().resource)));
    let name = |kind: &crate::storage::KindStore| {
        let info = kind.info();
        if info.group.is_empty() { info.resource.clone() } else { format!("{}.{}", info.resource, info.group) }
    };
    for kind in &kinds {
        let _ = writeln!(out, "apiserver_storage_objects{{resource={:?}}} {}", name(kind), kind.cache().len());
    }
    out.push_str(
        "# HELP apiserver_registered_watchers Watches open, by resource.\n# TYPE apiserver_registered_watchers gauge\n",
    );
    for kind in &kinds {
        let _ = writeln!(out, "apiserver_registered_watchers{{resource={:?}}} {}", name(kind), kind.cache().watchers());
    }
    let _ = writeln!(
        out,
        "# HELP apiserver_storage_revision Revision shown to readers.\n# TYPE apiserver_storage_revision gauge"
    );
    let _ = writeln!(out, "apiserver_storage_revision {}", api.storage.revision());
}
