//! Each node gets a range of pod addresses of its own, cut from the cluster's.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use client::{EventType, Informer, Recorder, reference};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::control::{Controller, Error, Loop, Queue, Shared, Step};

/// The ranges of a cluster, and whose they are.
#[derive(Debug)]
pub(super) struct Pool {
    base: u128,
    v6: bool,
    prefix: u8,
    mask: u8,
    /// Owners by number of the range, and the other way round.
    taken: HashMap<u128, String>,
    numbers: HashMap<String, u128>,
    /// No range before this one is free.
    next: u128,
    /// Nodes that found no range left.
    waiting: BTreeSet<String>,
}

impl Pool {
    /// Cuts `range` into ranges of `mask` bits; no range gives no pool.
    pub(super) fn new(range: &str, mask: u8) -> Result<Option<Pool>, &'static str> {
        if range.is_empty() {
            return Ok(None);
        }
        let (base, v6, prefix) = parse(range).ok_or("the cluster's pod range is not an address range")?;
        let bits = if v6 { 128 } else { 32 };
        if mask < prefix || mask > bits || mask - prefix > 64 {
            return Err("the size of a node's pod range does not fit the cluster's");
        }
        let (taken, numbers) = (HashMap::new(), HashMap::new());
        Ok(Some(Pool { base, v6, prefix, mask, taken, numbers, next: 0, waiting: BTreeSet::new() }))
    }

    fn shift(&self) -> u32 {
        u32::from(if self.v6 { 128 } else { 32 } - self.mask)
    }

    fn count(&self) -> u128 {
        1 << (self.mask - self.prefix)
    }

    /// Notes that `owner` has `range`; ranges of other pools are ignored.
    fn mark(&mut self, range: &str, owner: &str) {
        let Some((base, v6, prefix)) = parse(range) else { return };
        if v6 == self.v6 && prefix == self.mask && base >= self.base {
            let number = (base - self.base) >> self.shift();
            if number < self.count() {
                self.note(number, owner);
            }
        }
    }

    fn note(&mut self, number: u128, owner: &str) {
        self.waiting.remove(owner);
        self.taken.insert(number, owner.to_owned());
        self.numbers.insert(owner.to_owned(), number);
    }

    /// The range of `owner`: the one it has, or the first free one. `None` when all are taken: the owner waits then.
    fn take(&mut self, owner: &str) -> Option<String> {
        let number = match self.numbers.get(owner) {
            Some(mine) => *mine,
            None => match self.first_free() {
                Some(free) => free,
                None => {
                    self.waiting.insert(owner.to_owned());
                    return None;
                }
            },
        };
        self.note(number, owner);
        let address = self.base + (number << self.shift());
        let address = match u32::try_from(address) {
            Ok(v4) if !self.v6 => IpAddr::from(v4.to_be_bytes()),
            _ => IpAddr::from(address.to_be_bytes()),
        };
        Some(format!("{address}/{}", self.mask))
    }

    fn first_free(&mut self) -> Option<u128> {
        while self.next < self.count() && self.taken.contains_key(&self.next) {
            self.next += 1;
        }
        Some(self.next).filter(|next| *next < self.count())
    }

    /// The owner is gone: its range is free. Says who of those that wait can have a range now.
    fn free(&mut self, owner: &str) -> Option<String> {
        self.waiting.remove(owner);
        if let Some(number) = self.numbers.remove(owner)
            && self.taken.get(&number).is_some_and(|other| other == owner)
        {
            self.taken.remove(&number);
            self.next = self.next.min(number);
        }
        self.first_free().and_then(|_| self.waiting.pop_first())
    }
}

/// First address, whether it is IPv6, and prefix length of a range.
fn parse(range: &str) -> Option<(u128, bool, u8)> {
    let (address, prefix) = range.split_once('/')?;
    let prefix: u8 = prefix.parse().ok()?;
    let (value, v6, bits) = match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(a) => (u128::from(u32::from_be_bytes(a.octets())), false, 32),
        IpAddr::V6(a) => (u128::from_be_bytes(a.octets()), true, 128),
    };
    let host = u32::from(bits - prefix.min(bits));
    (prefix <= bits).then(|| (value.checked_shr(host).unwrap_or(0).checked_shl(host).unwrap_or(0), v6, prefix))
}

struct Ipam {
    shared: Arc<Shared>,
    nodes: Informer<Node>,
    recorder: Recorder,
    queue: Arc<Queue>,
    pool: Mutex<Pool>,
}

/// Starts the controller.
pub(super) fn start(shared: &Arc<Shared>, pool: Pool) {
    let nodes: Informer<Node> = shared.informers.all();
    let queue = Arc::new(Queue::new());
    let ipam = Ipam {
        shared: Arc::clone(shared),
        nodes: nodes.clone(),
        queue: Arc::clone(&queue),
        recorder: shared.recorder("cidrAllocator"),
        pool: Mutex::new(pool),
    };
    // One at a time: all marks of existing nodes are made (in `all`) before the first range is given out.
    Loop::new(shared, ipam, queue).on_own(&nodes).start(1);
}

fn range_of(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref().filter(|c| !c.is_empty())
}

impl Controller for Ipam {
    const NAME: &'static str = "node-ipam-controller";

    fn all(&self) -> Vec<String> {
        let nodes = self.nodes.list();
        let mut pool = self.pool.lock();
        for node in &nodes {
            if let Some(range) = range_of(node) {
                pool.mark(range, node.metadata.name.as_deref().unwrap_or_default());
            }
        }
        nodes.iter().map(|n| client::key(&**n)).collect()
    }

    async fn reconcile(&self, name: &str) -> Result<(), Error> {
        let Some(node) = self.nodes.get(name) else {
            let waiting = self.pool.lock().free(name);
            waiting.into_iter().for_each(|next| self.queue.add(next));
            return Ok(());
        };
        if let Some(range) = range_of(&node) {
            self.pool.lock().mark(range, name);
            return Ok(());
        }
        let (told, range) = {
            let mut pool = self.pool.lock();
            (pool.waiting.contains(name), pool.take(name))
        };
        let Some(range) = range else {
            // Not a failure to try again: it has its turn when a range is free.
            if !told {
                let text = format!("Node {name} status is now: CIDRNotAvailable");
                self.recorder.event(&reference(&*node), EventType::Normal, "CIDRNotAvailable", text);
            }
            return Ok(());
        };
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": range, "podCIDRs": [range]}});
        let api = self.shared.cluster::<Node>();
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.unless_gone("give a pod range to node", name).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_given_out_once() {
        let mut pool = Pool::new("10.244.0.0/22", 24).unwrap().unwrap();
        pool.mark("10.244.1.0/24", "old");
        pool.mark("192.168.0.0/24", "elsewhere");
        let take = |p: &mut Pool, n: &str| p.take(n);
        assert_eq!(take(&mut pool, "a").as_deref(), Some("10.244.0.0/24"));
        assert_eq!(take(&mut pool, "a").as_deref(), Some("10.244.0.0/24"), "asking twice gives the same");
        assert_eq!(take(&mut pool, "b").as_deref(), Some("10.244.2.0/24"));
        assert_eq!(take(&mut pool, "c").as_deref(), Some("10.244.3.0/24"));
        assert_eq!(take(&mut pool, "d"), None);
        assert_eq!(pool.free("nobody"), None, "no range became free");
        assert_eq!(pool.free("old").as_deref(), Some("d"), "who waits is told");
        assert_eq!(take(&mut pool, "d").as_deref(), Some("10.244.1.0/24"));
        assert_eq!((take(&mut pool, "e"), take(&mut pool, "f")), (None, None));
        assert_eq!(pool.free("a").as_deref(), Some("e"));
        assert_eq!(pool.free("e").as_deref(), Some("f"), "e went before it took the range");
    }

    #[test]
    fn odd_ranges() {
        assert!(Pool::new("", 24).unwrap().is_none());
        assert!(Pool::new("10.0.0.0", 24).is_err());
        assert!(Pool::new("10.0.0.0/25", 24).is_err());
        let mut six = Pool::new("fd00:10::/48", 64).unwrap().unwrap();
        assert_eq!(six.take("a").as_deref(), Some("fd00:10::/64"));
        assert_eq!(six.take("b").as_deref(), Some("fd00:10:0:1::/64"));
    }
}
