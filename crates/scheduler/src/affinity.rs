//! Pods that want to be near other pods, or away from them.
//!
//! Counted once for a decision, by topology domain; a pod without such rules costs nothing but a look at the nodes with pods
//! that repel others.

use std::collections::HashMap;

use client::select::matches;
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::filter::{Class, Rejection};
use crate::view::{ClusterView, Labels, NodeView, Placed};

/// A topology key and one of its values: all nodes that share a zone, say.
type Domain = (String, String);

/// What the decision about one pod needs to know.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    /// Domains where a running pod does not want this one.
    repelled: HashMap<Domain, usize>,
    wants: Vec<PodAffinityTerm>,
    /// Pods that match all of `wants`, by domain of each term.
    attracted: HashMap<Domain, usize>,
    shuns: Vec<PodAffinityTerm>,
    /// Pods that match one of `shuns`, by domain.
    shunned: HashMap<Domain, usize>,
    /// The pod matches its own `wants`: the first of a group that wants to be together may go anywhere.
    attracts_itself: bool,
    /// The preferences' weight, by domain.
    preferred: HashMap<Domain, i64>,
}

/// Whether `term`, of a pod in namespace `of`, means a pod with these labels in `namespace`.
fn means(view: &ClusterView, term: &PodAffinityTerm, of: &str, namespace: &str, labels: &Labels) -> bool {
    let listed = term.namespaces.iter().flatten().any(|n| n == namespace);
    let own =
        term.namespaces.as_ref().is_none_or(Vec::is_empty) && term.namespace_selector.is_none() && of == namespace;
    let selects = |selector: &Option<LabelSelector>, labels| selector.as_ref().is_some_and(|s| matches(s, labels));
    selects(&term.label_selector, Some(labels))
        && (own || listed || selects(&term.namespace_selector, view.namespace(namespace)))
}

fn domain(term: &PodAffinityTerm, node: &NodeView) -> Option<Domain> {
    node.labels.get(&term.topology_key).map(|v| (term.topology_key.clone(), v.clone()))
}

impl Affinity {
    /// Counts what concerns `pod`.
    pub(crate) fn of(view: &ClusterView, pod: &Pod) -> Affinity {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let rules = spec.affinity.clone().unwrap_or_default();
        let (near, far) = (rules.pod_affinity.unwrap_or_default(), rules.pod_anti_affinity.unwrap_or_default());
        let mut all = Affinity {
            wants: near.required_during_scheduling_ignored_during_execution.unwrap_or_default(),
            shuns: far.required_during_scheduling_ignored_during_execution.unwrap_or_default(),
            ..Affinity::default()
        };
        let likes = near.preferred_during_scheduling_ignored_during_execution.unwrap_or_default();
        let dislikes = far.preferred_during_scheduling_ignored_during_execution.unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        all.attracts_itself = all.wants.iter().all(|t| means(view, t, namespace, namespace, &labels));
        let indifferent = all.wants.is_empty() && all.shuns.is_empty() && likes.is_empty() && dislikes.is_empty();
        for node in view.repelling_nodes() {
            node.pods.values().for_each(|other| all.count_repelled(view, node, other, namespace, &labels));
        }
        if indifferent {
            return all;
        }
        for node in view.nodes() {
            for other in node.pods.values() {
                all.count(view, node, other, namespace);
                all.weigh(view, node, other, namespace, &likes, 1);
                all.weigh(view, node, other, namespace, &dislikes, -1);
            }
        }
        all
    }

    fn count_repelled(
        &mut self,
        view: &ClusterView,
        node: &NodeView,
        other: &Placed,
        namespace: &str,
        labels: &Labels,
    ) {
        for term in &other.repels {
            if means(view, term, &other.namespace, namespace, labels)
                && let Some(domain) = domain(term, node)
            {
                *self.repelled.entry(domain).or_default() += 1;
            }
        }
    }

    fn count(&mut self, view: &ClusterView, node: &NodeView, other: &Placed, namespace: &str) {
        let meant = |t: &PodAffinityTerm| means(view, t, namespace, &other.namespace, &other.labels);
        if !self.wants.is_empty() && self.wants.iter().all(meant) {
            for domain in self.wants.iter().filter_map(|t| domain(t, node)) {
                *self.attracted.entry(domain).or_default() += 1;
            }
        }
        for domain in self.shuns.iter().filter(|t| meant(t)).filter_map(|t| domain(t, node)) {
            *self.shunned.entry(domain).or_default() += 1;
        }
    }

    fn weigh(
        &mut self,
        view: &ClusterView,
        node: &NodeView,
        other: &Placed,
        namespace: &str,
        terms: &[WeightedPodAffinityTerm],
        sign: i64,
    ) {
        for term in terms {
            if means(view, &term.pod_affinity_term, namespace, &other.namespace, &other.labels)
                && let Some(domain) = domain(&term.pod_affinity_term, node)
            {
                *self.preferred.entry(domain).or_default() += sign * i64::from(term.weight);
            }
        }
    }

    /// Whether the required rules allow `node`.
    pub(crate) fn allows(&self, node: &NodeView) -> Result<(), Rejection> {
        let here = |counts: &HashMap<Domain, usize>, key: &String| {
            node.labels.get(key).and_then(|v| counts.get(&(key.clone(), v.clone()))).copied().unwrap_or(0)
        };
        let near = self.wants.iter().all(|t| here(&self.attracted, &t.topology_key) > 0);
        let labelled = self.wants.iter().all(|t| node.labels.contains_key(&t.topology_key));
        let first = self.attracted.is_empty() && self.attracts_itself;
        if !(labelled && (near || first)) {
            return Err(Rejection::hard(Class::AFFINITY, "node(s) didn't match pod affinity rules"));
        }
        if self.shuns.iter().any(|t| here(&self.shunned, &t.topology_key) > 0) {
            return Err(Rejection::soft(Class::AFFINITY, "node(s) didn't match pod anti-affinity rules"));
        }
        if self.repelled.iter().any(|((key, value), n)| *n > 0 && node.labels.get(key) == Some(value)) {
            return Err(Rejection::soft(Class::AFFINITY, "node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }

    /// The sum of the preferences that `node` satisfies.
    pub(crate) fn weight(&self, node: &NodeView) -> i64 {
        let here = |(key, value): &Domain| node.labels.get(key) == Some(value);
        self.preferred.iter().filter(|(domain, _)| here(domain)).map(|(_, w)| w).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod, view};
    use serde_json::{Value, json};

    fn term(app: &str) -> Value {
        json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}])
    }

    fn rule(kind: &str, app: &str) -> Value {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}}})
    }

    #[test]
    fn required_rules_choose_domains() {
        let nodes = [
            node("a1", json!({"zone": "a"}), json!({})),
            node("a2", json!({"zone": "a"}), json!({})),
            node("b1", json!({"zone": "b"}), json!({})),
            node("none", json!({}), json!({})),
        ];
        let mut hermit = rule("podAntiAffinity", "web");
        hermit["nodeName"] = json!("b1");
        let placed = [pod("db", json!({"app": "db"}), json!({"nodeName": "a1"})), pod("hermit", json!({}), hermit)];
        let v = view(&nodes, &placed);
        let rows = [
            (json!({"app": "x"}), json!({}), vec!["a1", "a2", "b1", "none"]),
            (json!({"app": "web"}), json!({}), vec!["a1", "a2", "none"]),
            (json!({"app": "x"}), rule("podAffinity", "db"), vec!["a1", "a2"]),
            (json!({"app": "x"}), rule("podAntiAffinity", "db"), vec!["b1", "none"]),
            (json!({"app": "x"}), rule("podAffinity", "absent"), vec![]),
            (json!({"app": "self"}), rule("podAffinity", "self"), vec!["a1", "a2", "b1"]),
        ];
        for (labels, spec, want) in rows {
            let affinity = Affinity::of(&v, &pod("new", labels.clone(), spec.clone()));
            let allowed: Vec<&str> =
                v.nodes().filter(|n| affinity.allows(n).is_ok()).map(|n| n.name.as_str()).collect();
            assert_eq!(allowed, want, "{labels} {spec}");
        }
    }

    #[test]
    fn namespaces_are_selected_by_label() {
        let mut v = view(&[node("n", json!({"zone": "a"}), json!({}))], &[]);
        let mut other = pod("db", json!({"app": "db"}), json!({"nodeName": "n"}));
        other.metadata.namespace = Some("prod".into());
        v.set_pod(&other);
        v.set_namespace("prod", Some(&Labels::from([("team".into(), "a".into())])));
        let wanting = |extra: Value| {
            let mut terms = term("db");
            terms[0].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            pod(
                "new",
                json!({}),
                json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}),
            )
        };
        let rows = [
            (json!({}), false),
            (json!({"namespaces": ["prod"]}), true),
            (json!({"namespaceSelector": {}}), true),
            (json!({"namespaceSelector": {"matchLabels": {"team": "a"}}}), true),
            (json!({"namespaceSelector": {"matchLabels": {"team": "b"}}}), false),
        ];
        for (extra, want) in rows {
            let affinity = Affinity::of(&v, &wanting(extra.clone()));
            assert_eq!(affinity.allows(v.node("n").unwrap()).is_ok(), want, "{extra}");
        }
    }
}
