//! Flow control: FlowSchemas divide requests into flows of priority levels, and each level runs so many at once.
//!
//! A flood of one kind of request then leaves seats for all others, and our own components are served under any load. A request
//! of a level without a limit (administrators, probes) costs a comparison or two; any other takes a lock twice for some
//! additions, while there are free seats. A watch keeps its seat until it has begun; logs, exec and the like need none. A list takes
//! a seat for each hundred objects, as upstream; a write takes one however many watch, since telling them costs it next to nothing here.

pub(crate) mod bootstrap;
mod level;
pub(crate) mod maintain;
mod schema;

use crate::context::Attributes;
use crate::meta;
use crate::metrics::{Bounds, Histogram, Labels, Page};
use crate::storage::{KindStore, Storage};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use level::{Levels, Limits, Queuing, Refusal, Seat, Seats};
use machinery::Status;
use parking_lot::{Mutex, RwLock};
use schema::Schema;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Requests the whole server runs at once: upstream's limits for reads and writes together.
const SEATS: u64 = 600;
const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Upstream's bounds of how long requests wait.
const WAITS: Bounds = &[
    (0, "0"),
    (5_000_000, "0.005"),
    (20_000_000, "0.02"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (200_000_000, "0.2"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_000_000_000, "2"),
    (5_000_000_000, "5"),
    (10_000_000_000, "10"),
    (15_000_000_000, "15"),
    (30_000_000_000, "30"),
];

/// Decides who may run now.
pub struct FlowControl {
    schemas: Arc<KindStore>,
    levels: Arc<KindStore>,
    plan: RwLock<Arc<Plan>>,
    /// By schema and level; they outlive plans.
    counts: Mutex<BTreeMap<(String, String), Arc<Counts>>>,
}

/// Schemas and levels as of two revisions.
struct Plan {
    revisions: (u64, u64),
    schemas: Vec<Matched>,
    names: Vec<String>,
    levels: Arc<Levels>,
}

/// A schema with its level.
struct Matched {
    schema: Schema,
    level: usize,
    uid: HeaderValue,
    counts: Arc<Counts>,
}

/// What happened to the requests of a schema.
struct Counts {
    dispatched: AtomicU64,
    executing: AtomicI64,
    waiting: AtomicI64,
    waits: Histogram,
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counts {
    fn new() -> Arc<Counts> {
        let (dispatched, executing, waiting, refused) = Default::default();
        Arc::new(Counts { dispatched, executing, waiting, waits: Histogram::new(WAITS), refused })
    }
}

/// Counts as long as it lives.
struct Counted(Arc<Counts>, fn(&Counts) -> &AtomicI64);

impl Counted {
    fn new(counts: &Arc<Counts>, which: fn(&Counts) -> &AtomicI64) -> Counted {
        which(counts).fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(counts), which)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right of a request to run. Its headers go into the answer, whatever that is.
pub(crate) struct Admitted {
    schema: HeaderValue,
    level: HeaderValue,
    _seat: Option<Seat>,
    _counted: Option<Counted>,
}

impl Admitted {
    /// Tells the client by which objects its request was treated.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        headers.insert(SCHEMA_UID, self.schema.clone());
        headers.insert(LEVEL_UID, self.level.clone());
    }
}

impl FlowControl {
    /// Follows the schemas and levels that are stored.
    pub fn new(storage: &Storage) -> Result<Arc<FlowControl>, Status> {
        let (schemas, names) = Default::default();
        let plan = Plan { revisions: (u64::MAX, u64::MAX), schemas, names, levels: Levels::new(Vec::new()) };
        Ok(Arc::new(FlowControl {
            schemas: storage.kind(GROUP, "flowschemas")?,
            levels: storage.kind(GROUP, "prioritylevelconfigurations")?,
            plan: RwLock::new(Arc::new(plan)),
            counts: Mutex::default(),
        }))
    }

    fn plan(&self) -> Arc<Plan> {
        let revisions = (self.schemas.last_change(), self.levels.last_change());
        let plan = Arc::clone(&self.plan.read());
        if plan.revisions == revisions {
            return plan;
        }
        let mut held = self.plan.write();
        let plan = Arc::new(self.build(revisions, &held));
        *held = Arc::clone(&plan);
        plan
    }

    fn build(&self, revisions: (u64, u64), before: &Plan) -> Plan {
        let objects: Vec<Value> = self.levels.list(None).iter().map(|entry| entry.value()).collect();
        let names: Vec<String> = objects.iter().map(|object| meta::name(object).to_owned()).collect();
        let limits = limits_of(&objects);
        // Where no limit has changed, all stay who run and wait. Else they end in the levels they have begun in.
        let same = names == before.names && limits == before.levels.limits;
        let levels = if same { Arc::clone(&before.levels) } else { Levels::new(limits) };
        let places: HashMap<&str, usize> = names.iter().enumerate().map(|(at, name)| (&**name, at)).collect();
        let mut schemas: Vec<Schema> =
            self.schemas.list(None).iter().map(|entry| Schema::read(&entry.value())).collect();
        schemas.sort_by(|one, other| (one.precedence, &one.name).cmp(&(other.precedence, &other.name)));
        let mut counts = self.counts.lock();
        // A schema whose level is not there is about nobody.
        let schemas = schemas.into_iter().filter_map(|schema| {
            let level = *places.get(&*schema.level)?;
            let uid = meta::text(&objects[level], "uid");
            let uid = HeaderValue::try_from(uid).unwrap_or_else(|_| HeaderValue::from_static(""));
            let counts = counts.entry((schema.name.clone(), schema.level.clone())).or_insert_with(Counts::new);
            Some(Matched { level, uid, counts: Arc::clone(counts), schema })
        });
        let schemas: Vec<Matched> = schemas.collect();
        counts.retain(|_, counts| Arc::strong_count(counts) > 1);
        drop(places);
        Plan { revisions, schemas, names, levels }
    }

    /// Waits for the request's turn. None when nothing is known of any level: then everybody runs. With the refusal come the
    /// headers for it. `width` says how many seats the request takes.
    pub(crate) async fn admit(
        &self,
        attributes: &Attributes,
        width: impl FnOnce() -> usize,
    ) -> Option<(Admitted, Result<(), Status>)> {
        let plan = self.plan();
        let matched = plan.schemas.iter().find(|matched| matched.schema.matches(attributes))?;
        let Matched { schema, level, uid, counts } = matched;
        let mut admitted = Admitted { schema: schema.uid.clone(), level: uid.clone(), _seat: None, _counted: None };
        if !plan.levels.is_free(*level) {
            let flow = level::flow(&schema.name, schema.distinguisher(attributes));
            let waiting = Counted::new(counts, |counts| &counts.waiting);
            let began = Instant::now();
            let taken = plan.levels.take(*level, width(), flow).await;
            drop(waiting);
            match taken {
                Ok(seat) => admitted._seat = Some(seat),
                Err(refusal) => {
                    *counts.refused.lock().entry(refusal.reason()).or_default() += 1;
                    return Some((admitted, Err(Refusal::status())));
                }
            }
            counts.waits.observe(began.elapsed());
        }
        counts.dispatched.fetch_add(1, Ordering::Relaxed);
        admitted._counted = Some(Counted::new(counts, |counts| &counts.executing));
        Some((admitted, Ok(())))
    }

    /// Writes what was counted.
    pub(crate) fn write(&self, page: &mut Page) {
        let plan = self.plan();
        type Show = fn(&level::Load, &Limits) -> Option<usize>;
        let of_levels: [(&'static str, &str, Show); 6] = [
            ("apiserver_flowcontrol_nominal_limit_seats", "Seats that are a level's own.", |_, it| {
                Some(it.seats?.nominal)
            }),
            ("apiserver_flowcontrol_lower_limit_seats", "Seats a level always has.", |_, it| {
                it.seats.map(|seats| seats.nominal - seats.lendable)
            }),
            ("apiserver_flowcontrol_upper_limit_seats", "Seats a level can have at most.", |_, it| {
                it.seats.map(|seats| seats.nominal + seats.borrowable)
            }),
            ("apiserver_flowcontrol_current_limit_seats", "Seats a level could have now.", |load, it| {
                it.seats.map(|_| load.limit)
            }),
            ("apiserver_flowcontrol_current_executing_seats", "Seats in use.", |load, it| {
                it.seats.map(|_| load.running)
            }),
            ("apiserver_flowcontrol_current_inqueue_seats", "Requests that wait.", |load, it| {
                it.seats.map(|_| load.waiting)
            }),
        ];
        for (name, help, show) in of_levels {
            page.family(name, "gauge", help);
            for (at, (level, limits)) in plan.names.iter().zip(&plan.levels.limits).enumerate() {
                if let Some(value) = show(&plan.levels.load(at), limits) {
                    page.value(&Labels::new([("priority_level", &**level)]), value);
                }
            }
        }
        self.write_counts(page);
    }

    fn write_counts(&self, page: &mut Page) {
        let counts = self.counts.lock();
        let labels = |(schema, level): &(String, String), more: &[(&str, &str)]| {
            let own = [("flow_schema", &**schema), ("priority_level", &**level)];
            Labels::new(own.into_iter().chain(more.iter().copied()))
        };
        page.family("apiserver_flowcontrol_dispatched_requests_total", "counter", "Requests that got their turn.");
        for (key, counts) in &*counts {
            page.value(&labels(key, &[]), counts.dispatched.load(Ordering::Relaxed));
        }
        page.family("apiserver_flowcontrol_rejected_requests_total", "counter", "Requests that were refused.");
        for (key, counts) in &*counts {
            for (reason, count) in &*counts.refused.lock() {
                page.value(&labels(key, &[("reason", reason)]), count);
            }
        }
        page.family("apiserver_flowcontrol_current_executing_requests", "gauge", "Requests at work.");
        for (key, counts) in &*counts {
            page.value(&labels(key, &[]), counts.executing.load(Ordering::Relaxed));
        }
        page.family("apiserver_flowcontrol_current_inqueue_requests", "gauge", "Requests that wait.");
        for (key, counts) in &*counts {
            page.value(&labels(key, &[]), counts.waiting.load(Ordering::Relaxed));
        }
        page.family(
            "apiserver_flowcontrol_request_wait_duration_seconds",
            "histogram",
            "Time requests waited for their turn.",
        );
        for (key, counts) in counts.iter().filter(|(_, counts)| !counts.waits.is_empty()) {
            page.histogram(&labels(key, &[("execute", "true")]), &counts.waits);
        }
    }
}

/// The limits of levels, from their objects.
fn limits_of(objects: &[Value]) -> Vec<Limits> {
    let shares = |object: &Value| {
        let of = |kind: &str| meta::at(object, &["spec", kind, "nominalConcurrencyShares"]).and_then(Value::as_u64);
        of("limited").or_else(|| of("exempt")).unwrap_or(0)
    };
    let total: u64 = objects.iter().map(shares).sum();
    objects.iter().map(|object| limits(object, shares(object), total.max(1))).collect()
}

fn limits(object: &Value, shares: u64, total: u64) -> Limits {
    if meta::text_at(object, &["spec", "type"]) != "Limited" {
        return Limits { seats: None, queues: None };
    }
    let at = |path: &[&str]| meta::at(object, path).and_then(Value::as_u64);
    let number = |name: &str, default: u64| {
        let value = at(&["spec", "limited", "limitResponse", "queuing", name]);
        usize::try_from(value.unwrap_or(default)).unwrap_or(usize::MAX)
    };
    let queues = meta::text_at(object, &["spec", "limited", "limitResponse", "type"]) == "Queue";
    let queuing = Queuing {
        queues: number("queues", 64).min(10_000_000),
        hand_size: number("handSize", 8),
        length_max: number("queueLengthLimit", 50),
    };
    let size = |seats: u64| usize::try_from(seats).unwrap_or(usize::MAX);
    let nominal = (SEATS * shares).div_ceil(total);
    let percent = |name: &str| at(&["spec", "limited", name]);
    let seats = Seats {
        nominal: size(nominal),
        // Rounded as upstream rounds.
        lendable: size(((nominal * percent("lendablePercent").unwrap_or(0).min(100)) + 50) / 100),
        borrowable: percent("borrowingLimitPercent").map_or(size(SEATS), |most| size((nominal * most + 50) / 100)),
    };
    Limits { seats: Some(seats), queues: queues.then_some(queuing) }
}
