//! Cluster IPs and node ports of Services.
//!
//! What is taken is read from the Services themselves: the watch cache delivers every change, and the allocator catches up
//! before it decides, so a deleted Service's address is free at once and nothing has to be repaired at start. Between
//! reservation and write, an address is held for its Service by name; a write that fails gives it back.
//!
//! The lower part of each range is kept for those who name their address (as upstream: KEP-3070, KEP-3668), as long as the
//! upper part lasts. Cost: 24 bytes an address.

use crate::chain;
use crate::meta;
use crate::storage::{Entry, EventType, Storage, Subscription};
use async_trait::async_trait;
use futures::FutureExt;
use machinery::Status;
use machinery::field::{FieldError, Path};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where Services get their addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRange {
    /// First address of the network.
    pub network: Ipv4Addr,
    /// Its prefix length, 12 to 30.
    pub prefix: u8,
    /// First and last node port.
    pub node_ports: (u16, u16),
}

impl ServiceRange {
    /// The `n`th address of the network.
    pub fn address(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + n)
    }

    fn size(&self) -> u32 {
        1 << (32 - u32::from(self.prefix.clamp(8, 31)))
    }

    fn position(&self, address: Ipv4Addr) -> Option<u32> {
        let at = u32::from(address).checked_sub(u32::from(self.network))?;
        (at > 0 && at < self.size() - 1).then_some(at)
    }
}

/// How long an admitted Service may take to be written.
const HOLD: Duration = Duration::from_secs(30);

/// Numbers of a range that are taken, and by which Service.
struct Pool {
    first: u32,
    last: u32,
    /// Numbers below are given only to those who name them, while others are left.
    dynamic_from: u32,
    owners: HashMap<u32, Arc<str>>,
    held: HashMap<u32, (Arc<str>, Instant)>,
}

impl Pool {
    fn new(first: u32, last: u32) -> Self {
        let size = last - first + 1;
        let reserved = if size < 16 { 0 } else { (size / 16).clamp(16, 256) };
        Self { first, last, dynamic_from: first + reserved, owners: HashMap::new(), held: HashMap::new() }
    }

    fn owner(&mut self, number: u32) -> Option<Arc<str>> {
        if self.held.get(&number).is_some_and(|(_, until)| *until < Instant::now()) {
            self.held.remove(&number);
        }
        self.owners.get(&number).or_else(|| self.held.get(&number).map(|(owner, _)| owner)).cloned()
    }

    fn is_free_for(&mut self, number: u32, service: &str) -> bool {
        self.owner(number).is_none_or(|owner| *owner == *service)
    }

    fn let_go(&mut self, numbers: &[u32], but: &[u32], service: &str) {
        for number in numbers.iter().filter(|number| !but.contains(number)) {
            if self.held.get(number).is_some_and(|(owner, _)| **owner == *service) {
                self.held.remove(number);
            }
        }
    }

    fn hold(&mut self, number: u32, service: &Arc<str>) {
        self.held.insert(number, (service.clone(), Instant::now() + HOLD));
    }

    /// A free number: some random one of the upper part, else any.
    fn find(&mut self, random: u32, not: &[u32]) -> Option<u32> {
        for (from, to) in [(self.dynamic_from, self.last), (self.first, self.dynamic_from.saturating_sub(1))] {
            if to < from {
                continue;
            }
            let size = to - from + 1;
            let start = random % size;
            let free = (0..size).map(|step| from + (start + step) % size);
            for number in free {
                if !not.contains(&number) && self.owner(number).is_none() {
                    return Some(number);
                }
            }
        }
        None
    }
}

struct State {
    addresses: Pool,
    ports: Pool,
    services: Option<Subscription>,
    /// What each Service has, to give it back.
    has: HashMap<Arc<str>, (Vec<u32>, Vec<u32>)>,
}

/// Gives Services their addresses and ports.
pub struct Allocator {
    range: ServiceRange,
    storage: Arc<Storage>,
    state: Mutex<State>,
}

impl Allocator {
    /// An allocator for `range`; it learns from `storage` what is taken.
    pub fn new(storage: Arc<Storage>, range: ServiceRange) -> Self {
        let (first, last) = range.node_ports;
        let state = State {
            addresses: Pool::new(1, range.size() - 2),
            ports: Pool::new(u32::from(first), u32::from(last)),
            services: None,
            has: HashMap::new(),
        };
        Self { range, storage, state: Mutex::new(state) }
    }

    /// Applies all changes of Services that have happened.
    fn catch_up(&self, state: &mut State) -> Result<(), Status> {
        loop {
            if state.services.is_none() {
                let (entries, subscription) = self.storage.kind("", "services")?.subscribe();
                state.owners_reset();
                entries.iter().for_each(|entry| state.learn(&self.range, entry));
                state.services = Some(subscription);
            }
            // All that has arrived, whatever this task's share of polls: a change overlooked is an address given twice.
            let next =
                state.services.as_mut().and_then(|services| tokio::task::unconstrained(services.recv()).now_or_never());
            match next {
                None => return Ok(()),
                Some(Some(event)) if event.kind == EventType::Deleted => state.forget(&event.entry.key),
                Some(Some(event)) => state.learn(&self.range, &event.entry),
                Some(None) => state.services = None,
            }
        }
    }

    fn admit_service(&self, service: &mut Value, old: Option<&Value>, keep: bool) -> Result<(), Status> {
        let key: Arc<str> = format!("{}/{}", meta::text(service, "namespace"), meta::name(service)).into();
        let mut state = self.state.lock();
        self.catch_up(&mut state)?;
        let mut claim =
            Claim { state: &mut state, range: &self.range, key, keep, errors: Vec::new(), ports: Vec::new() };
        claim.address(service, old);
        claim.node_ports(service);
        let errors = claim.errors;
        match errors.is_empty() {
            true => Ok(()),
            false => Err(Status::invalid("", "Service", meta::name(service), errors)),
        }
    }
}

impl State {
    fn owners_reset(&mut self) {
        self.addresses.owners.clear();
        self.ports.owners.clear();
        self.has.clear();
    }

    fn forget(&mut self, key: &str) {
        let Some((addresses, ports)) = self.has.remove(key) else { return };
        for (pool, numbers) in [(&mut self.addresses, addresses), (&mut self.ports, ports)] {
            for number in numbers {
                if pool.owners.get(&number).is_some_and(|owner| **owner == *key) {
                    pool.owners.remove(&number);
                }
                pool.held.remove(&number);
            }
        }
    }

    fn learn(&mut self, range: &ServiceRange, entry: &Entry) {
        self.forget(&entry.key);
        let service = entry.value();
        let key: Arc<str> = (*entry.key).into();
        let addresses: Vec<u32> = addresses(&service).filter_map(|ip| range.position(ip)).collect();
        let ports: Vec<u32> = node_ports(&service).collect();
        for (pool, numbers) in [(&mut self.addresses, &addresses), (&mut self.ports, &ports)] {
            for number in numbers {
                pool.held.remove(number);
                pool.owners.entry(*number).or_insert_with(|| key.clone());
            }
        }
        if !addresses.is_empty() || !ports.is_empty() {
            self.has.insert(key, (addresses, ports));
        }
    }
}

fn addresses(service: &Value) -> impl Iterator<Item = Ipv4Addr> {
    let single = meta::at(service, &["spec", "clusterIP"]).into_iter();
    let all = meta::at(service, &["spec", "clusterIPs"]).and_then(Value::as_array).into_iter().flatten();
    let mut found: Vec<Ipv4Addr> = single.chain(all).filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    found.dedup();
    found.into_iter()
}

fn node_ports(service: &Value) -> impl Iterator<Item = u32> {
    let ports = meta::at(service, &["spec", "ports"]).and_then(Value::as_array).into_iter().flatten();
    let health = meta::at(service, &["spec", "healthCheckNodePort"]);
    let numbers = ports.filter_map(|port| port.get("nodePort")).chain(health).filter_map(Value::as_u64);
    numbers.filter_map(|port| u32::try_from(port).ok()).filter(|port| *port > 0)
}

/// One Service's turn.
struct Claim<'a> {
    state: &'a mut State,
    range: &'a ServiceRange,
    key: Arc<str>,
    /// Hold what is given; not so in a dry run.
    keep: bool,
    errors: Vec<FieldError>,
    /// Node ports of this Service so far, with the port and its protocol.
    ports: Vec<(u32, u64, String)>,
}

fn service_type(service: &Value) -> &str {
    match meta::text_at(service, &["spec", "type"]) {
        "" => "ClusterIP",
        kind => kind,
    }
}

impl Claim<'_> {
    fn address(&mut self, service: &mut Value, old: Option<&Value>) {
        if service_type(service) == "ExternalName" {
            return;
        }
        let spec = meta::member(service, "spec");
        let asked = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default();
        let listed = spec.get("clusterIPs").and_then(|ips| ips.get(0)).and_then(Value::as_str).unwrap_or_default();
        let asked = if asked.is_empty() { listed.to_owned() } else { asked.to_owned() };
        let given = match asked.as_str() {
            "None" => Some("None".to_owned()),
            "" => self.next_address(),
            _ if old.is_some_and(|old| meta::text_at(old, &["spec", "clusterIP"]) == asked) => Some(asked),
            _ => self.take_address(&asked),
        };
        let Some(given) = given else { return };
        spec.insert("clusterIPs".to_owned(), json!([given]));
        let headless_without_selector = given == "None" && spec.get("selector").is_none_or(is_empty);
        spec.insert("clusterIP".to_owned(), given.into());
        if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
            let policy = if headless_without_selector { "RequireDualStack" } else { "SingleStack" };
            spec.insert("ipFamilyPolicy".to_owned(), policy.into());
        }
        if spec.get("ipFamilies").is_none_or(is_empty) {
            let families = if headless_without_selector { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) };
            spec.insert("ipFamilies".to_owned(), families);
        }
        self.families(spec, headless_without_selector);
    }

    /// This cluster's Services are of IPv4 only.
    fn families(&mut self, spec: &serde_json::Map<String, Value>, headless_without_selector: bool) {
        if headless_without_selector {
            return;
        }
        let path = Path::new("spec");
        if spec.get("ipFamilyPolicy").is_some_and(|policy| policy == "RequireDualStack") {
            let why = "this cluster is not configured for dual-stack services";
            self.errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), "RequireDualStack", why));
        }
        let families = spec.get("ipFamilies").and_then(Value::as_array);
        for (index, family) in families.into_iter().flatten().enumerate().filter(|(_, family)| *family == "IPv6") {
            let path = path.child("ipFamilies").index(index);
            self.errors.push(FieldError::invalid(&path, family.clone(), "not configured on this cluster"));
        }
    }

    fn next_address(&mut self) -> Option<String> {
        let Some(at) = self.state.addresses.find(fastrand::u32(..), &[]) else {
            let path = Path::new("spec").child("clusterIP");
            self.errors.push(FieldError::internal(&path, "failed to allocate a serviceIP: range is full"));
            return None;
        };
        if self.keep {
            self.state.addresses.hold(at, &self.key);
        }
        Some(self.range.address(at).to_string())
    }

    fn take_address(&mut self, asked: &str) -> Option<String> {
        let path = Path::new("spec").child("clusterIPs");
        let mut fail = |why: String| {
            self.errors.push(FieldError::invalid(
                &path,
                json!([asked]),
                format!("failed to allocate IP {asked}: {why}"),
            ));
            None
        };
        // What is no address at all is validation's to say.
        let address: Ipv4Addr = match asked.parse() {
            Ok(address) => address,
            Err(_) => return Some(asked.to_owned()),
        };
        let Some(at) = self.range.position(address) else {
            let range = format!("{}/{}", self.range.network, self.range.prefix);
            return fail(format!(
                "the provided IP ({asked}) is not in the valid range. The range of valid IPs is {range}"
            ));
        };
        if !self.state.addresses.is_free_for(at, &self.key) {
            return fail("provided IP is already allocated".to_owned());
        }
        if self.keep {
            self.state.addresses.hold(at, &self.key);
        }
        Some(asked.to_owned())
    }

    fn node_ports(&mut self, service: &mut Value) {
        let is_balancer = service_type(service) == "LoadBalancer";
        let declined = meta::at(service, &["spec", "allocateLoadBalancerNodePorts"]) == Some(&Value::Bool(false));
        let wanted = service_type(service) == "NodePort" || (is_balancer && !declined);
        let health = is_balancer && meta::text_at(service, &["spec", "externalTrafficPolicy"]) == "Local";
        let spec = meta::member(service, "spec");
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or_default();
        let facts = |port: &Value| {
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
            (number(port.get("port")), protocol, number(port.get("nodePort")))
        };
        let path = |index: usize| Path::new("spec").child("ports").index(index).child("nodePort");
        let mut none = Vec::new();
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut).unwrap_or(&mut none);
        // Those named first, so that no other gets them.
        for (index, port) in ports.iter().enumerate() {
            let (port, protocol, node_port) = facts(port);
            if node_port > 0 {
                self.take_port(&path(index), node_port, port, protocol);
            }
        }
        for (index, entry) in ports.iter_mut().enumerate().filter(|_| wanted) {
            let (port, protocol, node_port) = facts(entry);
            if node_port > 0 {
                continue;
            }
            // TCP and UDP of the same port share a number.
            let twin =
                self.ports.iter().find(|(_, p, of)| *p == port && *of != protocol).map(|(node_port, ..)| *node_port);
            let twin = twin.filter(|twin| !self.ports.iter().any(|(n, _, of)| n == twin && *of == protocol));
            if let Some(given) = twin.or_else(|| self.next_port(&path(index))) {
                self.ports.push((given, port, protocol));
                entry["nodePort"] = json!(given);
            }
        }
        if health && number(spec.get("healthCheckNodePort")) == 0 {
            let path = Path::new("spec").child("healthCheckNodePort");
            if let Some(given) = self.next_port(&path) {
                spec.insert("healthCheckNodePort".to_owned(), json!(given));
            }
        }
    }

    fn take_port(&mut self, path: &Path, number: u64, of: u64, protocol: String) {
        let in_range =
            u32::try_from(number).ok().filter(|n| (self.state.ports.first..=self.state.ports.last).contains(n));
        let Some(port) = in_range else {
            let (first, last) = self.range.node_ports;
            let why = format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
            return self.errors.push(FieldError::invalid(path, number, why));
        };
        let twice = self.ports.iter().any(|(taken, _, other)| *taken == port && *other == protocol);
        if twice || !self.state.ports.is_free_for(port, &self.key) {
            return self.errors.push(FieldError::invalid(path, number, "provided port is already allocated"));
        }
        if self.keep {
            self.state.ports.hold(port, &self.key);
        }
        self.ports.push((port, of, protocol));
    }

    fn next_port(&mut self, path: &Path) -> Option<u32> {
        let mine: Vec<u32> = self.ports.iter().map(|(port, ..)| *port).collect();
        let Some(port) = self.state.ports.find(fastrand::u32(..), &mine) else {
            self.errors.push(FieldError::internal(path, "failed to allocate a nodePort: range is full"));
            return None;
        };
        if self.keep {
            self.state.ports.hold(port, &self.key);
        }
        Some(port)
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(|o| o.is_empty())
}

#[async_trait]
impl chain::Allocator for Allocator {
    fn resource(&self) -> (&'static str, &'static str) {
        ("", "services")
    }

    async fn reserve(&self, object: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<(), Status> {
        self.admit_service(object, old, !dry_run)
    }

    /// What is written is known from the watch cache; only what was held for a write that failed has to be let go.
    async fn settle(&self, kept: Option<&Value>, dropped: Option<&Value>) {
        let Some(dropped) = dropped else { return };
        let key = format!("{}/{}", meta::text(dropped, "namespace"), meta::name(dropped));
        let positions =
            |service: &Value| -> Vec<u32> { addresses(service).filter_map(|ip| self.range.position(ip)).collect() };
        let ports = |service: &Value| node_ports(service).collect::<Vec<u32>>();
        let mut state = self.state.lock();
        if let Err(error) = self.catch_up(&mut state) {
            tracing::warn!(%error, "the allocator cannot follow the Services");
        }
        let (kept_addresses, kept_ports) = kept.map(|kept| (positions(kept), ports(kept))).unwrap_or_default();
        state.addresses.let_go(&positions(dropped), &kept_addresses, &key);
        state.ports.let_go(&ports(dropped), &kept_ports, &key);
    }
}
