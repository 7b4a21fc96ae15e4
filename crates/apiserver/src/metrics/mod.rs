//! What is counted, and `/metrics`: upstream's names and labels for what dashboards and alerts use.
//!
//! Counting costs a request a hash of its labels, a look into a table, and a few additions; nothing is written before somebody
//! asks. What other parts count themselves (the watch cache, flow control) is read from them then.

mod process;
mod requests;
mod text;

pub(crate) use requests::{Open, Request};
pub(crate) use text::{Bounds, Histogram, Labels, Page};

use crate::context::Operation;
use crate::server::ApiServer;
use crate::storage::KindStore;
use parking_lot::Mutex;
use requests::Requests;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Upstream's bounds of authentication and authorization.
const DECISIONS: Bounds = &[
    (1_000_000, "0.001"),
    (2_000_000, "0.002"),
    (4_000_000, "0.004"),
    (8_000_000, "0.008"),
    (16_000_000, "0.016"),
    (32_000_000, "0.032"),
    (64_000_000, "0.064"),
    (128_000_000, "0.128"),
    (256_000_000, "0.256"),
    (512_000_000, "0.512"),
    (1_024_000_000, "1.024"),
    (2_048_000_000, "2.048"),
    (4_096_000_000, "4.096"),
    (8_192_000_000, "8.192"),
    (16_384_000_000, "16.384"),
];
/// Upstream's bounds of admission.
const ADMISSION: Bounds = &[
    (5_000_000, "0.005"),
    (25_000_000, "0.025"),
    (100_000_000, "0.1"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (10_000_000_000, "10"),
    (25_000_000_000, "25"),
];
/// How many webhooks are told apart; those beyond are not counted.
const WEBHOOKS_MAX: usize = 1024;

/// Counts of what was served.
pub(crate) struct Metrics {
    pub(crate) requests: Requests,
    /// Requests at work: those that change something, and all others.
    inflight: [AtomicI64; 2],
    /// Success, failure, error.
    authentications: [(AtomicU64, Histogram); 3],
    /// Allowed, denied.
    authorizations: [(AtomicU64, Histogram); 2],
    /// By operation, then by step: admit and validate.
    admission: [[Histogram; 2]; 4],
    webhooks: Mutex<BTreeMap<HookKey, Hook>>,
}

/// A webhook's name, `admit` or `validating`, and the operation.
type HookKey = (String, &'static str, &'static str);

/// What is counted of a webhook's calls of one kind.
struct Hook {
    rejected: [(u64, Histogram); 2],
    failed_open: u64,
    /// By the kind of error and the code: `calling_webhook_error` and 0, `no_error` and the code of the refusal.
    rejections: BTreeMap<(&'static str, u16), u64>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let decision = || (AtomicU64::new(0), Histogram::new(DECISIONS));
        let steps = || [Histogram::new(ADMISSION), Histogram::new(ADMISSION)];
        Metrics {
            requests: Requests::default(),
            inflight: Default::default(),
            authentications: [decision(), decision(), decision()],
            authorizations: [decision(), decision()],
            admission: [steps(), steps(), steps(), steps()],
            webhooks: Mutex::default(),
        }
    }
}

/// How a webhook's call ended.
pub(crate) enum HookOutcome {
    /// It allowed the request.
    Allowed,
    /// It refused, with a code.
    Refused(u16),
    /// It could not be asked; the request goes on or not.
    Failed { open: bool },
}

/// A request at work.
pub(crate) struct Inflight<'m>(&'m AtomicI64);

impl Drop for Inflight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts a request that is no watch or the like, until what this gives is dropped.
    pub(crate) fn begin(&self, verb: &str) -> Inflight<'_> {
        let reads = matches!(verb, "get" | "list" | "watch" | "head" | "options");
        let counter = &self.inflight[usize::from(reads)];
        counter.fetch_add(1, Ordering::Relaxed);
        Inflight(counter)
    }

    /// Counts who was known: 0 for success, 1 for nobody, 2 for an error.
    pub(crate) fn authenticated(&self, result: usize, took: Duration) {
        count(&self.authentications[result], took);
    }

    pub(crate) fn authorized(&self, allowed: bool, took: Duration) {
        count(&self.authorizations[usize::from(!allowed)], took);
    }

    /// Counts a pass of admission's plug-ins: 0 for those that change, 1 for those that refuse.
    pub(crate) fn admitted(&self, operation: Operation, step: usize, took: Duration) {
        self.admission[operation as usize % 4][step].observe(took);
    }

    pub(crate) fn webhook(
        &self,
        (name, kind, operation): (&str, &'static str, &'static str),
        took: Duration,
        outcome: &HookOutcome,
    ) {
        let key = (name.to_owned(), kind, operation);
        let mut hooks = self.webhooks.lock();
        if hooks.len() >= WEBHOOKS_MAX && !hooks.contains_key(&key) {
            return;
        }
        let new = || (0, Histogram::new(ADMISSION));
        let hook = hooks.entry(key).or_insert_with(|| Hook {
            rejected: [new(), new()],
            failed_open: 0,
            rejections: BTreeMap::new(),
        });
        let rejection = match outcome {
            HookOutcome::Allowed => None,
            HookOutcome::Refused(code) => Some(("no_error", *code)),
            HookOutcome::Failed { open } => {
                hook.failed_open += u64::from(*open);
                (!open).then_some(("calling_webhook_error", 0))
            }
        };
        let (calls, durations) = &mut hook.rejected[usize::from(rejection.is_some())];
        *calls += 1;
        durations.observe(took);
        if let Some(rejection) = rejection {
            *hook.rejections.entry(rejection).or_default() += 1;
        }
    }

    fn write(&self, page: &mut Page) {
        self.requests.write(page);
        page.family("apiserver_current_inflight_requests", "gauge", "Requests at work now.");
        for (counter, kind) in self.inflight.iter().zip(["mutating", "readOnly"]) {
            page.value(&Labels::new([("request_kind", kind)]), counter.load(Ordering::Relaxed));
        }
        let results = ["success", "failure", "error"];
        decisions(
            page,
            ("authentication_attempts", "authentication_duration_seconds"),
            &results,
            &self.authentications,
        );
        let results = ["allowed", "denied"];
        decisions(
            page,
            ("authorization_attempts_total", "authorization_duration_seconds"),
            &results,
            &self.authorizations,
        );
        page.family(
            "apiserver_admission_step_admission_duration_seconds",
            "histogram",
            "Time of a pass through all plug-ins.",
        );
        for (steps, operation) in self.admission.iter().zip(["CREATE", "UPDATE", "DELETE", "CONNECT"]) {
            for (step, kind) in steps.iter().zip(["admit", "validate"]).filter(|(step, _)| !step.is_empty()) {
                page.histogram(&Labels::new([("operation", operation), ("type", kind)]), step);
            }
        }
        self.write_webhooks(page);
    }

    fn write_webhooks(&self, page: &mut Page) {
        let hooks = self.webhooks.lock();
        let labels = |(name, kind, operation): &HookKey, more: &[(&str, &str)]| {
            let own = [("name", &**name), ("operation", *operation), ("type", *kind)];
            Labels::new(own.into_iter().chain(more.iter().copied()))
        };
        page.family(
            "apiserver_admission_webhook_admission_duration_seconds",
            "histogram",
            "Time of calls of webhooks.",
        );
        for (key, hook) in &*hooks {
            for ((calls, durations), rejected) in hook.rejected.iter().zip(["false", "true"]) {
                if *calls > 0 {
                    page.histogram(&labels(key, &[("rejected", rejected)]), durations);
                }
            }
        }
        page.family("apiserver_admission_webhook_request_total", "counter", "Calls of webhooks.");
        for (key, hook) in &*hooks {
            for ((calls, _), rejected) in
                hook.rejected.iter().zip(["false", "true"]).filter(|((calls, _), _)| *calls > 0)
            {
                page.value(&labels(key, &[("rejected", rejected)]), calls);
            }
        }
        page.family("apiserver_admission_webhook_rejection_count", "counter", "Requests refused because of webhooks.");
        for (key, hook) in &*hooks {
            for ((error, code), count) in &hook.rejections {
                let code = code.to_string();
                page.value(&labels(key, &[("error_type", error), ("rejection_code", &code)]), count);
            }
        }
        page.family(
            "apiserver_admission_webhook_fail_open_count",
            "counter",
            "Requests let go on although a webhook failed.",
        );
        for ((name, kind, _), hook) in hooks.iter().filter(|(_, hook)| hook.failed_open > 0) {
            page.value(&Labels::new([("name", &**name), ("type", kind)]), hook.failed_open);
        }
    }
}

fn count((counter, durations): &(AtomicU64, Histogram), took: Duration) {
    counter.fetch_add(1, Ordering::Relaxed);
    durations.observe(took);
}

fn decisions(
    page: &mut Page,
    (counts, durations): (&'static str, &'static str),
    results: &[&str],
    counted: &[(AtomicU64, Histogram)],
) {
    page.family(counts, "counter", "Decisions, by their result.");
    for ((counter, _), result) in counted.iter().zip(results) {
        page.value(&Labels::new([("result", *result)]), counter.load(Ordering::Relaxed));
    }
    page.family(durations, "histogram", "Time of decisions, by their result.");
    for ((_, histogram), result) in counted.iter().zip(results).filter(|((_, histogram), _)| !histogram.is_empty()) {
        page.histogram(&Labels::new([("result", *result)]), histogram);
    }
}

/// The page.
pub(crate) fn page(api: &ApiServer) -> String {
    let mut page = Page::default();
    api.metrics.write(&mut page);
    if let Some(flow) = &api.chain.flow {
        flow.write(&mut page);
    }
    storage(api, &mut page);
    page.family("kubernetes_build_info", "gauge", "This program.");
    let (version, commit) = (&*api.config.git_version, &*api.config.git_commit);
    page.value(&Labels::new([("major", "1"), ("minor", "37"), ("git_version", version), ("git_commit", commit)]), 1);
    process::write(&mut page);
    page.finish()
}

fn storage(api: &ApiServer, page: &mut Page) {
    let mut kinds = api.storage.kinds();
    kinds.sort_by(|a, b| (&a.info().group, &a.info().resource).cmp(&(&b.info().group, &b.info().resource)));
    let labels = |kind: &KindStore, more: &[(&str, &str)]| {
        let own = [("group", &*kind.info().group), ("resource", &*kind.info().resource)];
        Labels::new(own.into_iter().chain(more.iter().copied()))
    };
    page.family("apiserver_resource_objects", "gauge", "Objects stored.");
    kinds.iter().for_each(|kind| page.value(&labels(kind, &[]), kind.cache().len()));
    page.family("apiserver_storage_objects", "gauge", "Objects stored, under the name until v1.33.");
    for kind in &kinds {
        let info = kind.info();
        let name =
            if info.group.is_empty() { info.resource.clone() } else { format!("{}.{}", info.resource, info.group) };
        page.value(&Labels::new([("resource", &*name)]), kind.cache().len());
    }
    page.family("apiserver_registered_watchers", "gauge", "Watches open.");
    kinds.iter().for_each(|kind| page.value(&labels(kind, &[]), kind.cache().watchers()));
    page.family("apiserver_watch_events_total", "counter", "Events sent to watchers.");
    for kind in kinds.iter().filter(|kind| kind.cache().delivered() > 0) {
        page.value(&labels(kind, &[("version", &kind.info().version)]), kind.cache().delivered());
    }
    page.family("etcd_request_duration_seconds", "histogram", "Time until a write is durable, whatever the store.");
    for kind in &kinds {
        for (operation, histogram) in kind.writes() {
            page.histogram(&labels(kind, &[("operation", operation)]), histogram);
        }
    }
    page.family("apiserver_storage_revision", "gauge", "Revision shown to readers.");
    page.value(&Labels::default(), api.storage.revision());
}
