//! Requests by what they were for: upstream's labels, and few enough of them whatever clients send.

use super::text::{Bounds, Histogram, Labels, Page};
use crate::request::RequestInfo;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// How many different requests are counted; those beyond are counted together.
const SERIES_MAX: usize = 4096;

/// Upstream's bounds of request durations.
pub(super) const DURATIONS: Bounds = &[
    (5_000_000, "0.005"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (200_000_000, "0.2"),
    (400_000_000, "0.4"),
    (600_000_000, "0.6"),
    (800_000_000, "0.8"),
    (1_000_000_000, "1"),
    (1_250_000_000, "1.25"),
    (1_500_000_000, "1.5"),
    (2_000_000_000, "2"),
    (3_000_000_000, "3"),
    (4_000_000_000, "4"),
    (5_000_000_000, "5"),
    (6_000_000_000, "6"),
    (8_000_000_000, "8"),
    (10_000_000_000, "10"),
    (15_000_000_000, "15"),
    (20_000_000_000, "20"),
    (30_000_000_000, "30"),
    (45_000_000_000, "45"),
    (60_000_000_000, "60"),
];

/// What tells series apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Request<'a> {
    pub(crate) verb: &'static str,
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) resource: &'a str,
    /// Of other paths than resources': the path, when it is one of ours.
    pub(crate) subresource: &'a str,
    pub(crate) scope: &'static str,
    pub(crate) dry_run: bool,
}

impl<'a> Request<'a> {
    /// What a request was for. `applies`: its body is an apply configuration.
    pub(crate) fn of(info: &'a RequestInfo, path: &'a str, applies: bool, dry_run: bool) -> Request<'a> {
        let verb = match &*info.verb {
            "patch" if applies => "APPLY",
            _ if matches!(&*info.subresource, "exec" | "attach" | "portforward" | "proxy") => "CONNECT",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" | "post" => "POST",
            "update" | "put" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "OTHER",
        };
        if !info.resource_request {
            let known = ["/healthz", "/livez", "/readyz", "/metrics", "/version", "/openapi/v2", "/openapi/v3"];
            let subresource = known.into_iter().find(|known| path.starts_with(known)).unwrap_or_default();
            return Request { verb, group: "", version: "", resource: "", subresource, scope: "", dry_run };
        }
        let scope = match () {
            () if !info.name.is_empty() || info.verb == "create" => "resource",
            () if !info.namespace.is_empty() => "namespace",
            () => "cluster",
        };
        let RequestInfo { group, version, resource, subresource, .. } = info;
        Request { verb, group, version, resource, subresource, scope, dry_run }
    }

    fn labels(&self, more: &[(&str, &str)], with_dry_run: bool) -> Labels {
        let dry_run = ("dry_run", if self.dry_run { "All" } else { "" });
        let own = [
            ("component", if self.resource.is_empty() { "" } else { "apiserver" }),
            ("group", self.group),
            ("resource", self.resource),
            ("scope", self.scope),
            ("subresource", self.subresource),
            ("verb", self.verb),
            ("version", self.version),
        ];
        let dry_run = with_dry_run.then_some(dry_run);
        Labels::new(more.iter().copied().chain(dry_run).chain(own))
    }
}

/// What is counted of requests of one kind.
pub(crate) struct Series {
    verb: &'static str,
    /// Group, version, resource, subresource.
    texts: [Box<str>; 4],
    scope: &'static str,
    dry_run: bool,
    codes: RwLock<Vec<(u16, AtomicU64)>>,
    durations: Histogram,
    /// Without what webhooks and waiting for a turn took.
    own_durations: Histogram,
    /// Answers that go on.
    open: AtomicI64,
}

impl Series {
    fn new(request: &Request<'_>) -> Series {
        let Request { verb, group, version, resource, subresource, scope, dry_run } = *request;
        Series {
            verb,
            texts: [group, version, resource, subresource].map(Box::from),
            scope,
            dry_run,
            codes: RwLock::default(),
            durations: Histogram::new(DURATIONS),
            own_durations: Histogram::new(&DURATIONS[2..]),
            open: AtomicI64::new(0),
        }
    }

    fn request(&self) -> Request<'_> {
        let [group, version, resource, subresource] = &self.texts;
        let Series { verb, scope, dry_run, .. } = *self;
        Request { verb, group, version, resource, subresource, scope, dry_run }
    }

    pub(crate) fn record(&self, code: u16, took: Duration, elsewhere: Duration) {
        self.durations.observe(took);
        if self.verb != "WATCH" && self.verb != "CONNECT" {
            self.own_durations.observe(took.saturating_sub(elsewhere));
        }
        if let Some((_, count)) = self.codes.read().iter().find(|(known, _)| *known == code) {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut codes = self.codes.write();
        match codes.iter().find(|(known, _)| *known == code) {
            Some((_, count)) => drop(count.fetch_add(1, Ordering::Relaxed)),
            None => codes.push((code, AtomicU64::new(1))),
        }
    }

    /// Counts an answer that goes on until what this gives is dropped.
    pub(crate) fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }
}

/// An answer that goes on.
pub(crate) struct Open(Arc<Series>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Series by the hash of what tells them apart.
type ByHash = HashMap<u64, Vec<Arc<Series>>>;

fn hash(request: &Request<'_>) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    request.hash(&mut hasher);
    hasher.finish()
}

fn find(all: &ByHash, request: &Request<'_>) -> Option<Arc<Series>> {
    all.get(&hash(request))?.iter().find(|series| series.request() == *request).cloned()
}

/// All series.
#[derive(Default)]
pub(crate) struct Requests {
    series: RwLock<ByHash>,
}

impl Requests {
    /// The series of a request. `known` says whether there is such a resource: others have no series of their own.
    pub(crate) fn of(&self, request: Request<'_>, known: impl FnOnce() -> bool) -> Arc<Series> {
        if let Some(series) = find(&self.series.read(), &request) {
            return series;
        }
        let full = self.series.read().len() >= SERIES_MAX;
        if !request.resource.is_empty() && (full || !known()) {
            let (group, version, resource, subresource, scope) = Default::default();
            return self.make(&Request { group, version, resource, subresource, scope, ..request });
        }
        self.make(&request)
    }

    fn make(&self, request: &Request<'_>) -> Arc<Series> {
        let mut all = self.series.write();
        find(&all, request).unwrap_or_else(|| {
            let series = Arc::new(Series::new(request));
            all.entry(hash(request)).or_default().push(Arc::clone(&series));
            series
        })
    }

    pub(super) fn write(&self, page: &mut Page) {
        let mut all: Vec<Arc<Series>> = self.series.read().values().flatten().cloned().collect();
        all.sort_by(|a, b| (&a.texts, a.verb, a.scope, a.dry_run).cmp(&(&b.texts, b.verb, b.scope, b.dry_run)));
        page.family(
            "apiserver_request_total",
            "counter",
            "Requests answered, by what they were for and the answer's code.",
        );
        for series in &all {
            for (code, count) in &*series.codes.read() {
                let code = code.to_string();
                page.value(&series.request().labels(&[("code", &code)], true), count.load(Ordering::Relaxed));
            }
        }
        page.family("apiserver_request_duration_seconds", "histogram", "Time to answer; of watches, to begin.");
        for series in all.iter().filter(|series| !series.durations.is_empty()) {
            page.histogram(&series.request().labels(&[], true), &series.durations);
        }
        page.family(
            "apiserver_request_sli_duration_seconds",
            "histogram",
            "Time to answer, without what webhooks and waiting for a turn took.",
        );
        for series in all.iter().filter(|series| !series.own_durations.is_empty()) {
            page.histogram(&series.request().labels(&[], false), &series.own_durations);
        }
        page.family("apiserver_longrunning_requests", "gauge", "Watches that are open.");
        for series in all.iter().filter(|series| series.verb == "WATCH") {
            page.value(&series.request().labels(&[], false), series.open.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_share_one_series() {
        let requests = Requests::default();
        fn request(resource: &str) -> Request<'_> {
            let (group, subresource) = ("", "");
            Request { verb: "GET", group, version: "v1", resource, subresource, scope: "cluster", dry_run: false }
        }
        for n in 0..100 {
            let resource = format!("r{n}");
            requests.of(request(&resource), || false).record(404, Duration::from_millis(1), Duration::ZERO);
        }
        let pods = requests.of(request("pods"), || true);
        pods.record(200, Duration::from_millis(1), Duration::ZERO);
        let open = pods.open();
        assert!(Arc::ptr_eq(&pods, &requests.of(request("pods"), || false)));
        assert_eq!(requests.series.read().len(), 2);
        let mut page = Page::default();
        requests.write(&mut page);
        let text = page.finish();
        for line in [
            "apiserver_request_total{code=\"404\",dry_run=\"\",component=\"\",group=\"\",resource=\"\",scope=\"\",subresource=\"\",verb=\"GET\",version=\"\"} 100",
            "apiserver_request_total{code=\"200\",dry_run=\"\",component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"GET\",version=\"v1\"} 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(pods.open.load(Ordering::Relaxed), 1);
        drop(open);
        assert_eq!(pods.open.load(Ordering::Relaxed), 0);
    }
}
