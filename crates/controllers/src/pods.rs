//! What controllers ask of a pod: is it active, ready, available, and which one goes first.

use std::cmp::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// The condition of type `kind`, if the pod has it.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// The phase, empty when the kubelet has not set one.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// The pod has ended and will not run again.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Deletion was asked for.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The pod counts towards a replica count: it has neither ended nor is it being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// The `Ready` condition is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// When the pod became ready; `None` while it is not ready (or does not say since when).
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    ready.last_transition_time.as_ref().map(|t| t.0)
}

/// How far the pod is from being available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Ready for at least the wanted time.
    Available,
    /// Ready, and available when this much time has passed.
    In(Duration),
    /// Not ready.
    NotReady,
}

/// Whether the pod has been ready for `min_ready_seconds`.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::NotReady;
    }
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    let Some(since) = ready_since(pod) else { return Availability::NotReady };
    let due = since.as_second().saturating_add(i64::from(min_ready_seconds));
    match due - now.as_second() {
        left if left <= 0 => Availability::Available,
        left => Availability::In(Duration::from_secs(left.unsigned_abs())),
    }
}

/// The node the pod is bound to, empty when it has none.
pub(crate) fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// The largest restart count of the pod's containers (and of restartable init containers).
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.map(|c| c.restart_count).max().unwrap_or(0)
}

/// `controller.kubernetes.io/pod-deletion-cost`, zero when absent or not a number.
fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

/// Orders pods by which one to delete first.
///
/// In this order: not assigned to a node; pending before unknown before running; not ready; lower deletion cost; on a
/// node with more pods of the same owner (`rank`); ready for a shorter time; more restarts; created later. Times are
/// compared by their binary logarithm (KEP-2185), so that pods of about the same age are chosen by uid, that is at random.
pub(crate) fn deletion_order(a: (&Pod, usize), b: (&Pod, usize), now: Timestamp) -> Ordering {
    let ((a, rank_a), (b, rank_b)) = (a, b);
    let by_phase = |p: &Pod| match phase(p) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    (!node(a).is_empty())
        .cmp(&!node(b).is_empty())
        .then_with(|| by_phase(a).cmp(&by_phase(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| younger_first(ready_since(a), ready_since(b), now))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| {
            let created = |p: &Pod| p.metadata.creation_timestamp.as_ref().map(|t| t.0);
            younger_first(created(a), created(b), now)
        })
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// The later time first; a pod without the time first of all.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |t: Timestamp| {
        let age = now.as_second().saturating_sub(t.as_second());
        if age <= 0 { 0 } else { 64 - age.leading_zeros() }
    };
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => magnitude(a).cmp(&magnitude(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod};

    #[test]
    fn pods_are_deleted_in_upstreams_order() {
        let now = at(100_000);
        // Each row must be deleted before the one after it.
        let rows = [
            (pod("unassigned").node(""), 1),
            (pod("pending").phase("Pending"), 1),
            (pod("unknown").phase("Unknown"), 1),
            (pod("unready").phase("Running"), 1),
            (pod("cheap").ready(10).cost("-5"), 1),
            (pod("doubled").ready(10), 3),
            (pod("young").ready(99_000), 1),
            (pod("restarted").ready(10).restarts(4), 1),
            (pod("created-later").ready(10).created(99_999), 1),
            (pod("old").ready(10).created(5), 1),
        ];
        let pods: Vec<_> = rows.into_iter().map(|(p, rank)| (p.build(), rank)).collect();
        for pair in pods.windows(2) {
            let order = deletion_order((&pair[0].0, pair[0].1), (&pair[1].0, pair[1].1), now);
            assert_eq!(order, Ordering::Less, "{:?} before {:?}", pair[0].0.metadata.name, pair[1].0.metadata.name);
        }
    }

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let ready = pod("p").ready(100).build();
        let cases = [
            (0, 100, Availability::Available),
            (10, 105, Availability::In(Duration::from_secs(5))),
            (10, 110, Availability::Available),
        ];
        for (min, now, want) in cases {
            assert_eq!(availability(&ready, min, at(now)), want);
        }
        assert_eq!(availability(&pod("q").build(), 0, at(0)), Availability::NotReady);
    }
}
