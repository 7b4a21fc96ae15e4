//! Making room: which pods of lower priority to evict, and on which node.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::decide::explain;
use crate::filter::{Class, Rejection, Wish, filter};
use crate::view::{ClusterView, Placed};

/// The pods to evict for another.
#[derive(Debug)]
pub(crate) struct Preemption {
    pub(crate) node: String,
    pub(crate) victims: Vec<Placed>,
}

/// Looks for victims on the nodes where removing pods could help. The text tells people the outcome.
pub(crate) fn preempt(
    view: &mut ClusterView,
    pod: &Pod,
    rejections: &BTreeMap<String, Rejection>,
) -> (Option<Preemption>, String) {
    if let Some(reason) = ineligible(view, pod) {
        return (None, format!("preemption: {reason}"));
    }
    let total = view.node_count();
    let mut candidates = Vec::new();
    let mut outcomes = Vec::new();
    for (node, rejection) in rejections {
        let outcome = if rejection.curable {
            victims_on(view, pod, node)
        } else {
            Err(Rejection::hard(Class::default(), "Preemption is not helpful for scheduling"))
        };
        match outcome {
            Ok(victims) => candidates.push(Preemption { node: node.clone(), victims }),
            Err(why) => outcomes.push(why),
        }
    }
    let Some(best) = candidates.into_iter().min_by_key(cost) else {
        return (None, format!("preemption: {}", explain(total, outcomes.iter())));
    };
    let text = format!(
        "preemption: found a potential placement for pod on node {}, preempting {} victims",
        best.node,
        best.victims.len()
    );
    (Some(best), text)
}

fn ineligible(view: &ClusterView, pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref();
    if spec.and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let priority = spec.and_then(|s| s.priority).unwrap_or(0);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let nominated = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).or(view.nomination(uid));
    let node = nominated.and_then(|n| view.node(n))?;
    let ending = node.pods.values().any(|p| p.terminating && p.priority < priority);
    ending.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// What evicting costs: the least of it wins. The highest priority lost, then the sum, then the number, then the youngest.
fn cost(candidate: &Preemption) -> (i32, i64, usize, std::cmp::Reverse<i64>) {
    let highest = candidate.victims.iter().map(|v| v.priority).max().unwrap_or(i32::MIN);
    let sum = candidate.victims.iter().map(|v| i64::from(v.priority) + i64::from(i32::MAX) + 1).sum();
    let most_important = candidate.victims.iter().filter(|v| v.priority == highest);
    let earliest = most_important.map(|v| v.started).min().unwrap_or(0);
    (highest, sum, candidate.victims.len(), std::cmp::Reverse(earliest))
}

/// The fewest, least important pods whose removal lets `pod` run on `name`. The view is as before afterwards.
fn victims_on(view: &mut ClusterView, pod: &Pod, name: &str) -> Result<Vec<Placed>, Rejection> {
    let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    let Some(node) = view.node(name) else { return Err(none_found()) };
    let mut lower: Vec<Placed> = node.pods.values().filter(|p| p.priority < priority).cloned().collect();
    if lower.is_empty() {
        return Err(none_found());
    }
    // The most important first, of equals the one that runs longest: these are spared if they can be.
    lower.sort_by(|a, b| b.priority.cmp(&a.priority).then(a.started.cmp(&b.started)));
    lower.iter().for_each(|p| {
        view.remove_pod(&p.uid);
    });
    let outcome = runs_on(view, pod, name);
    let mut victims = Vec::new();
    for candidate in lower {
        view.place(candidate.clone(), name);
        if outcome.is_ok() && runs_on(view, pod, name).is_err() {
            view.remove_pod(&candidate.uid);
            victims.push(candidate);
        }
    }
    victims.iter().for_each(|v| view.place(v.clone(), name));
    outcome.map(|()| victims)
}

fn runs_on(view: &ClusterView, pod: &Pod, name: &str) -> Result<(), Rejection> {
    let Some(node) = view.node(name) else { return Err(none_found()) };
    filter(view, &Wish::of(view, pod), node)
}

fn none_found() -> Rejection {
    let reasons = vec![Cow::Borrowed("No preemption victims found for incoming pod")];
    Rejection { class: Class::default(), reasons, curable: false }
}
