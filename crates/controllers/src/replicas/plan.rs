//! What a replica count needs: how many pods to create, which to delete, and the status to report.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pods::{self, Availability};
use client::select::{self, Labels};

/// The most pods created or deleted in one go.
const BURST: usize = 500;

/// The part of a ReplicaSet or ReplicationController that decides about its pods.
pub(crate) struct Desired<'a> {
    pub(crate) replicas: i32,
    pub(crate) min_ready_seconds: i32,
    pub(crate) template_labels: Option<&'a Labels>,
    pub(crate) being_deleted: bool,
}

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub(crate) enum Change {
    /// The count is right (or the owner is going away).
    #[default]
    Nothing,
    /// Create this many pods.
    Create(usize),
    /// Delete these pods.
    Delete(Vec<Arc<Pod>>),
}

/// The counts a replica controller reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) replicas: i32,
    pub(crate) fully_labeled: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    pub(crate) terminating: i32,
}

/// The change that brings `pods` (the owner's, in any state) to the desired count.
///
/// `related` counts the active pods of the same Deployment by node: pods on crowded nodes go first.
pub(crate) fn change(
    desired: &Desired<'_>,
    pods: &[Arc<Pod>],
    related: &HashMap<String, usize>,
    now: Timestamp,
) -> Change {
    if desired.being_deleted {
        return Change::Nothing;
    }
    let mut active: Vec<&Arc<Pod>> = pods.iter().filter(|p| pods::is_active(p)).collect();
    let wanted = usize::try_from(desired.replicas).unwrap_or(0);
    if active.len() < wanted {
        return Change::Create((wanted - active.len()).min(BURST));
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus == 0 {
        return Change::Nothing;
    }
    let rank = |pod: &Pod| related.get(pods::node(pod)).copied().unwrap_or(0);
    if surplus < active.len() {
        active.sort_by(|a, b| pods::deletion_order((a, rank(a)), (b, rank(b)), now));
    }
    Change::Delete(active.into_iter().take(surplus).cloned().collect())
}

/// Counts the owner's pods; also when the next one becomes available by the mere passing of time.
pub(crate) fn count(desired: &Desired<'_>, pods: &[Arc<Pod>], now: Timestamp) -> (Counts, Option<Duration>) {
    let mut counts = Counts::default();
    let mut next: Option<Duration> = None;
    let no_labels = Labels::new();
    let wanted = desired.template_labels.unwrap_or(&no_labels);
    for pod in pods {
        if !pods::is_active(pod) {
            counts.terminating += i32::from(pods::is_terminating(pod) && !pods::is_finished(pod));
            continue;
        }
        counts.replicas += 1;
        counts.fully_labeled += i32::from(select::contains(pod.metadata.labels.as_ref(), wanted));
        match pods::availability(pod, desired.min_ready_seconds, now) {
            Availability::Available => {
                counts.ready += 1;
                counts.available += 1;
            }
            Availability::In(wait) => {
                counts.ready += 1;
                next = Some(next.map_or(wait, |n| n.min(wait)));
            }
            Availability::NotReady => counts.ready += i32::from(pods::is_ready(pod)),
        }
    }
    (counts, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, labels, pod};

    fn desired(replicas: i32) -> Desired<'static> {
        Desired { replicas, min_ready_seconds: 0, template_labels: None, being_deleted: false }
    }

    fn names(change: Change) -> Vec<String> {
        let Change::Delete(pods) = change else { panic!("{change:?} is not a deletion") };
        pods.iter().map(|p| p.metadata.name.clone().unwrap_or_default()).collect()
    }

    #[test]
    fn the_count_is_brought_to_the_desired_one() {
        let pods = [
            pod("a").ready(1).arc(),
            pod("b").phase("Failed").arc(),
            pod("c").ready(1).deleted(2).arc(),
            pod("d").phase("Pending").node("").arc(),
        ];
        let none = HashMap::new();
        let run = |n| change(&desired(n), &pods, &none, at(10));
        assert_eq!(run(2), Change::Nothing, "ended and terminating pods do not count");
        assert_eq!(run(5), Change::Create(3));
        assert_eq!(run(10_000), Change::Create(500));
        assert_eq!(names(run(1)), ["d"]);
        assert_eq!(names(run(0)).len(), 2);
        let dying = Desired { being_deleted: true, ..desired(9) };
        assert_eq!(change(&dying, &pods, &none, at(10)), Change::Nothing);
    }

    #[test]
    fn crowded_nodes_lose_pods_first() {
        let pods = [pod("a").node("quiet").ready(1).arc(), pod("b").node("crowded").ready(1).arc()];
        let related = HashMap::from([("quiet".to_owned(), 1), ("crowded".to_owned(), 2)]);
        assert_eq!(names(change(&desired(1), &pods, &related, at(10))), ["b"]);
    }

    #[test]
    fn counts_follow_readiness_and_time() {
        let want = labels(&[("app", "x")]);
        let pods = [
            pod("a").labels(&[("app", "x")]).ready(90).arc(),
            pod("b").labels(&[("app", "x")]).ready(99).arc(),
            pod("c").labels(&[("app", "y")]).arc(),
            pod("d").deleted(1).arc(),
            pod("e").phase("Succeeded").deleted(1).arc(),
        ];
        let desired = Desired { min_ready_seconds: 10, template_labels: Some(&want), ..desired(3) };
        let (counts, next) = count(&desired, &pods, at(100));
        assert_eq!(counts, Counts { replicas: 3, fully_labeled: 2, ready: 2, available: 1, terminating: 1 });
        assert_eq!(next, Some(Duration::from_secs(9)));
    }
}
