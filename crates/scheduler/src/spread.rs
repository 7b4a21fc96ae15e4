//! Spreading pods evenly over nodes and zones.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec, TopologySpreadConstraint};

use crate::filter::{Class, Rejection};
use crate::index::Domains;
use crate::view::{ClusterView, Labels, NodeView, Placed, controller};
use client::select::{matches, node_wanted, tolerated};

/// One constraint, and the matching pods in each value of its topology key.
#[derive(Debug)]
struct Counted {
    constraint: TopologySpreadConstraint,
    counts: HashMap<String, i64>,
    matches_itself: bool,
}

/// The spread constraints of one pod, counted.
#[derive(Debug, Default)]
pub(crate) struct Spread<'a> {
    hard: Vec<Counted>,
    soft: Vec<Counted>,
    /// Pods of the same owner: used where the pod says nothing itself.
    siblings: Option<&'a Domains>,
}

impl<'a> Spread<'a> {
    /// Counts what concerns `pod`.
    pub(crate) fn of(view: &'a ClusterView, pod: &Pod) -> Spread<'a> {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
        let mut spread = Spread::default();
        for constraint in constraints {
            let counted = count(view, pod, spec, constraint);
            let hard = constraint.when_unsatisfiable == "DoNotSchedule";
            if hard { spread.hard.push(counted) } else { spread.soft.push(counted) }
        }
        if constraints.is_empty() {
            spread.siblings = controller(pod).and_then(|owner| view.siblings(&owner));
        }
        spread
    }

    /// Whether the pod on `node` keeps every hard constraint.
    pub(crate) fn allows(&self, node: &NodeView) -> Result<(), Rejection> {
        for counted in &self.hard {
            let Some(value) = node.labels.get(&counted.constraint.topology_key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Rejection::hard(Class::SPREAD, reason));
            };
            let here = counted.counts.get(value).copied().unwrap_or(0) + i64::from(counted.matches_itself);
            if here - counted.least() > i64::from(counted.constraint.max_skew) {
                return Err(Rejection::soft(Class::SPREAD, "node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }

    /// How crowded `node`'s domains are: less is better. Zones count as much as single nodes do.
    pub(crate) fn crowd(&self, node: &NodeView) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of pods are small")]
        let number = |n: i64| n as f64;
        let soft = self.soft.iter().map(|c| {
            let here = node.labels.get(&c.constraint.topology_key).and_then(|v| c.counts.get(v)).copied().unwrap_or(0);
            number(here) * number(i64::try_from(c.counts.len()).unwrap_or(1) + 2).ln()
        });
        let (host, zone) = self.siblings.map_or((0, 0), |domains| domains.around(node));
        soft.sum::<f64>() + number(host) + number(zone)
    }

    /// Whether crowding says anything about this pod.
    pub(crate) fn prefers(&self) -> bool {
        !self.soft.is_empty() || self.siblings.is_some()
    }
}

impl Counted {
    /// The pods in the emptiest domain; none if there are fewer domains than wanted.
    fn least(&self) -> i64 {
        let domains = i32::try_from(self.counts.len()).unwrap_or(i32::MAX);
        match self.constraint.min_domains {
            Some(wanted) if domains < wanted => 0,
            _ => self.counts.values().copied().min().unwrap_or(0),
        }
    }
}

fn count(view: &ClusterView, pod: &Pod, spec: &PodSpec, constraint: &TopologySpreadConstraint) -> Counted {
    let own = pod.metadata.labels.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let keys: Vec<&String> = constraint.match_label_keys.iter().flatten().filter(|k| own.contains_key(*k)).collect();
    let meant = |labels: &Labels| {
        constraint.label_selector.as_ref().is_some_and(|s| matches(s, Some(labels)))
            && keys.iter().all(|k| labels.get(*k) == own.get(*k))
    };
    let counts_pod = |p: &&Placed| !p.terminating && p.namespace == namespace && meant(&p.labels);
    let mut counts = HashMap::new();
    for node in view.nodes().filter(|n| eligible(spec, constraint, n)) {
        let Some(value) = node.labels.get(&constraint.topology_key) else { continue };
        let here = node.pods.values().filter(counts_pod).count();
        *counts.entry(value.clone()).or_default() += i64::try_from(here).unwrap_or(i64::MAX);
    }
    Counted { constraint: constraint.clone(), counts, matches_itself: meant(&own) }
}

/// Whether the node counts as a place the pod could be spread to (KEP-3094: affinity honoured, taints not, by default).
fn eligible(spec: &PodSpec, constraint: &TopologySpreadConstraint, node: &NodeView) -> bool {
    let by_affinity = constraint.node_affinity_policy.as_deref() == Some("Ignore")
        || node_wanted(spec, &node.name, Some(&node.labels));
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let tainted = || node.taints.iter().any(|t| t.effect != "PreferNoSchedule" && !tolerated(t, tolerations));
    by_affinity && !(constraint.node_taints_policy.as_deref() == Some("Honor") && tainted())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod, view};
    use serde_json::json;

    #[test]
    fn hard_constraints_bound_the_skew() {
        let nodes = [
            node("a", json!({"zone": "a"}), json!({})),
            node("b", json!({"zone": "b"}), json!({})),
            node("c", json!({}), json!({})),
        ];
        let placed = |name: &str, node: &str| pod(name, json!({"app": "x"}), json!({"nodeName": node}));
        let constrained = |extra: serde_json::Value| {
            let mut c = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "x"}}});
            c.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            pod("new", json!({"app": "x"}), json!({"topologySpreadConstraints": [c]}))
        };
        let one = vec![placed("1", "a")];
        let none: Vec<Pod> = Vec::new();
        let even = vec![placed("1", "a"), placed("2", "b")];
        let rows = [
            (&none, json!({}), vec!["a", "b"]),
            (&one, json!({}), vec!["b"]),
            (&even, json!({}), vec!["a", "b"]),
            (&one, json!({"maxSkew": 2}), vec!["a", "b"]),
            (&even, json!({"minDomains": 3}), vec![]),
        ];
        for (pods, extra, want) in rows {
            let v = view(&nodes, pods);
            let spread = Spread::of(&v, &constrained(extra.clone()));
            let allowed: Vec<&str> = v.nodes().filter(|n| spread.allows(n).is_ok()).map(|n| n.name.as_str()).collect();
            assert_eq!(allowed, want, "{} pods, {extra}", pods.len());
        }
    }
}
