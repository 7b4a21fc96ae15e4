//! Flow control: FlowSchemas divide requests into flows of priority levels, and each level runs so many at once.
//!
//! A flood of one kind of request then leaves seats for all others, and our own components are served under any load. A request
//! of a level without a limit (administrators, probes) costs a comparison or two; of any other, two atomic counters while there
//! are free seats. A watch keeps its seat until it has begun; logs, exec and the like need none.

pub(crate) mod bootstrap;
mod level;
mod schema;

use crate::context::Attributes;
use crate::meta;
use crate::storage::{KindStore, Storage};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use level::{Level, Limits, Queuing, Seat};
use machinery::Status;
use parking_lot::RwLock;
use schema::Schema;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Requests the whole server runs at once: upstream's limits for reads and writes together.
const SEATS: u64 = 600;
const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Decides who may run now.
pub struct FlowControl {
    schemas: Arc<KindStore>,
    levels: Arc<KindStore>,
    plan: RwLock<Arc<Plan>>,
}

/// Schemas and levels as of two revisions.
struct Plan {
    revisions: (u64, u64),
    schemas: Vec<(Schema, Arc<Known>)>,
    levels: HashMap<String, Arc<Known>>,
}

/// A level with what answers say of it.
struct Known {
    uid: HeaderValue,
    level: Arc<Level>,
}

/// The right of a request to run. Its headers go into the answer, whatever that is.
pub(crate) struct Admitted {
    schema: HeaderValue,
    level: HeaderValue,
    _seat: Option<Seat>,
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
        let plan = Plan { revisions: (u64::MAX, u64::MAX), schemas: Vec::new(), levels: HashMap::new() };
        Ok(Arc::new(FlowControl {
            schemas: storage.kind(GROUP, "flowschemas")?,
            levels: storage.kind(GROUP, "prioritylevelconfigurations")?,
            plan: RwLock::new(Arc::new(plan)),
        }))
    }

    fn plan(&self) -> Arc<Plan> {
        let revisions = (self.schemas.last_change(), self.levels.last_change());
        let plan = Arc::clone(&self.plan.read());
        if plan.revisions == revisions {
            return plan;
        }
        let mut held = self.plan.write();
        let read: Vec<Value> = self.levels.list(None).iter().map(|entry| entry.value()).collect();
        let levels = levels(&read, &held.levels);
        let mut schemas: Vec<Schema> =
            self.schemas.list(None).iter().map(|entry| Schema::read(&entry.value())).collect();
        schemas.sort_by(|one, other| (one.precedence, &one.name).cmp(&(other.precedence, &other.name)));
        // A schema whose level is not there is about nobody.
        let schemas = schemas.into_iter().filter_map(|schema| {
            let level = Arc::clone(levels.get(&schema.level)?);
            Some((schema, level))
        });
        let plan = Arc::new(Plan { revisions, schemas: schemas.collect(), levels });
        *held = Arc::clone(&plan);
        plan
    }

    /// Waits for the request's turn. None when nothing is known of any level: then everybody runs. With the refusal come the
    /// headers for it.
    pub(crate) async fn admit(&self, attributes: &Attributes) -> Option<(Admitted, Result<(), Status>)> {
        let plan = self.plan();
        let (schema, known) = plan.schemas.iter().find(|(schema, _)| schema.matches(attributes))?;
        let mut admitted = Admitted { schema: schema.uid.clone(), level: known.uid.clone(), _seat: None };
        if known.level.limits.seats.is_none() {
            return Some((admitted, Ok(())));
        }
        let flow = level::flow(&schema.name, schema.distinguisher(attributes));
        match known.level.take(flow).await {
            Ok(seat) => {
                admitted._seat = Some(seat);
                Some((admitted, Ok(())))
            }
            Err(status) => Some((admitted, Err(status))),
        }
    }
}

/// Levels from their objects. One whose limits have not changed stays, with all who run and wait in it.
fn levels(objects: &[Value], before: &HashMap<String, Arc<Known>>) -> HashMap<String, Arc<Known>> {
    let shares = |object: &Value| {
        let of = |kind: &str| meta::at(object, &["spec", kind, "nominalConcurrencyShares"]).and_then(Value::as_u64);
        of("limited").or_else(|| of("exempt")).unwrap_or(0)
    };
    let total: u64 = objects.iter().map(shares).sum();
    let known = objects.iter().map(|object| {
        let name = meta::name(object).to_owned();
        let limits = limits(object, shares(object), total.max(1));
        let same = before.get(&name).filter(|known| known.level.limits == limits);
        let level = same.map_or_else(|| Level::new(limits), |known| Arc::clone(&known.level));
        let uid = HeaderValue::try_from(meta::text(object, "uid")).unwrap_or_else(|_| HeaderValue::from_static(""));
        (name, Arc::new(Known { uid, level }))
    });
    known.collect()
}

fn limits(object: &Value, shares: u64, total: u64) -> Limits {
    let at = |path: &[&str]| meta::at(object, path);
    if meta::text_at(object, &["spec", "type"]) != "Limited" {
        return Limits { seats: None, queues: None };
    }
    let number = |name: &str, default: u64| {
        let value = at(&["spec", "limited", "limitResponse", "queuing", name]).and_then(Value::as_u64);
        usize::try_from(value.unwrap_or(default)).unwrap_or(usize::MAX)
    };
    let queues = meta::text_at(object, &["spec", "limited", "limitResponse", "type"]) == "Queue";
    let queuing = Queuing {
        queues: number("queues", 64).min(10_000_000),
        hand_size: number("handSize", 8),
        length_max: number("queueLengthLimit", 50),
    };
    let seats = (SEATS * shares).div_ceil(total);
    Limits { seats: Some(usize::try_from(seats).unwrap_or(usize::MAX)), queues: queues.then_some(queuing) }
}
