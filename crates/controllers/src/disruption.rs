//! PodDisruptionBudgets: how many of their pods may be evicted now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Delta, Informer, select};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::PostParams;

use crate::control::{Controller, Error, Loop, Queue, Shared, Step};
use crate::deployment::scaled;
use crate::{owner, pods};

/// An eviction that was allowed but not seen within this time did not happen.
const DISRUPTED_SECONDS_MAX: i64 = 120;

struct Disruption {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    sets: Informer<ReplicaSet>,
    controllers: Informer<ReplicationController>,
    stateful: Informer<StatefulSet>,
}

/// Starts the controller.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::new());
    let all = Disruption {
        shared: Arc::clone(shared),
        queue: Arc::clone(&queue),
        budgets: shared.informers.all(),
        pods: shared.informers.all(),
        sets: shared.informers.all(),
        controllers: shared.informers.all(),
        stateful: shared.informers.all(),
    };
    let (budgets, pods) = (all.budgets.clone(), all.pods.clone());
    let (sets, controllers, stateful) = (all.sets.clone(), all.controllers.clone(), all.stateful.clone());
    Loop::new(shared, all, queue)
        .on_own(&budgets)
        .on(&pods, Disruption::pod_changed)
        .needs(&sets)
        .needs(&controllers)
        .needs(&stateful)
        .start(4);
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| select::matches(s, pod.metadata.labels.as_ref()))
}

/// The status of `budget` over `matching` pods, of whose controllers `expected` pods are wanted in all (when that is known).
fn plan(
    budget: &PodDisruptionBudget,
    matching: &[Arc<Pod>],
    expected: Option<i32>,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let spec = budget.spec.clone().unwrap_or_default();
    let before = budget.status.clone().unwrap_or_default();
    let existing = i32::try_from(matching.len()).unwrap_or(i32::MAX);
    let wanted = expected.unwrap_or(existing);
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(limit), _) => (wanted, (wanted - scaled(limit, wanted, true)).max(0)),
        (None, Some(IntOrString::Int(n))) => (existing, *n),
        (None, Some(share)) => (wanted, scaled(share, wanted, true)),
        (None, None) => (existing, existing),
    };
    let find = |name: &String| matching.iter().find(|p| p.metadata.name.as_ref() == Some(name));
    let pending = |name: &String, since: &Time| {
        let fresh = now.as_second() - since.0.as_second() < DISRUPTED_SECONDS_MAX;
        fresh && find(name).is_some_and(|p| !pods::is_terminating(p))
    };
    let disrupted: BTreeMap<String, Time> =
        before.disrupted_pods.unwrap_or_default().into_iter().filter(|(n, t)| pending(n, t)).collect();
    let healthy = |p: &&Arc<Pod>| {
        let leaving = p.metadata.name.as_ref().is_some_and(|n| disrupted.contains_key(n));
        !pods::is_terminating(p) && !leaving && pods::is_ready(p)
    };
    let healthy = i32::try_from(matching.iter().filter(healthy).count()).unwrap_or(i32::MAX);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        disrupted_pods: Some(disrupted).filter(|d| !d.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: Some(vec![condition(budget, allowed > 0, now)]),
    }
}

fn condition(budget: &PodDisruptionBudget, allowed: bool, now: Timestamp) -> Condition {
    let (status, reason) = if allowed { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let known =
        budget.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "DisruptionAllowed");
    let since = known.filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
    }
}

impl Disruption {
    fn pod_changed(&self, queue: &Queue, delta: &Delta<Pod>) {
        let pod = delta.object();
        let old = match delta {
            Delta::Applied { old, .. } => old.as_ref(),
            Delta::Deleted(_) => None,
        };
        for budget in self.budgets.list_in(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            if selects(&budget, pod) || old.is_some_and(|o| selects(&budget, o)) {
                queue.add(client::key(&*budget));
            }
        }
    }

    /// The pods that the controllers of `matching` want in all; `None` if a pod has no controller that says.
    fn expected(&self, namespace: &str, matching: &[Arc<Pod>]) -> Option<i32> {
        let mut wanted: BTreeMap<String, i32> = BTreeMap::new();
        for pod in matching {
            let reference = owner::controller(&pod.metadata)?;
            if !wanted.contains_key(&reference.uid) {
                wanted.insert(reference.uid.clone(), self.wanted_by(namespace, reference)?);
            }
        }
        Some(wanted.values().sum())
    }

    fn wanted_by(&self, namespace: &str, reference: &OwnerReference) -> Option<i32> {
        let key = format!("{namespace}/{}", reference.name);
        match reference.kind.as_str() {
            "ReplicaSet" => self.sets.get(&key).map(|s| s.spec.replicas.unwrap_or(1)),
            "ReplicationController" => self.controllers.get(&key)?.spec.as_ref().map(|s| s.replicas.unwrap_or(1)),
            "StatefulSet" => self.stateful.get(&key).map(|s| s.spec.replicas.unwrap_or(1)),
            _ => None,
        }
    }
}

impl Controller for Disruption {
    const NAME: &'static str = "disruption-controller";

    fn all(&self) -> Vec<String> {
        self.budgets.list().iter().map(|b| client::key(&**b)).collect()
    }

    async fn reconcile(&self, key: &str) -> Result<(), Error> {
        let Some(budget) = self.budgets.get(key) else { return Ok(()) };
        let (namespace, name) = client::split_key(key);
        let mut matching = self.pods.list_in(namespace);
        matching.retain(|p| selects(&budget, p) && !pods::is_finished(p));
        let status = plan(&budget, &matching, self.expected(namespace, &matching), Timestamp::now());
        if status.disrupted_pods.is_some() {
            let wait = Duration::from_secs(DISRUPTED_SECONDS_MAX.unsigned_abs());
            self.queue.add_after(key.to_owned(), wait);
        }
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let update = PodDisruptionBudget { status: Some(status), ..PodDisruptionBudget::clone(&budget) };
        let api = self.shared.api::<PodDisruptionBudget>(namespace);
        api.replace_status(name, &PostParams::default(), &update)
            .await
            .unless_gone("write the status of", key)
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, pod};
    use serde_json::{Value, json};

    #[test]
    fn budgets_count_healthy_pods() {
        let pods =
            [pod("a").ready(1).arc(), pod("b").ready(1).arc(), pod("c").arc(), pod("d").ready(1).deleted(9).arc()];
        type Row = (Value, Option<i32>, (i32, i32, i32));
        let rows: [Row; 6] = [
            (json!({"minAvailable": 1}), Some(4), (4, 1, 1)),
            (json!({"minAvailable": 3}), Some(4), (4, 3, 0)),
            (json!({"minAvailable": "50%"}), Some(4), (4, 2, 0)),
            (json!({"maxUnavailable": 3}), Some(4), (4, 1, 1)),
            (json!({"maxUnavailable": "25%"}), Some(5), (5, 3, 0)),
            (json!({"maxUnavailable": 1}), None, (4, 3, 0)),
        ];
        for (spec, expected, want) in rows {
            let budget: PodDisruptionBudget = object(json!({"metadata": {"name": "b"}, "spec": spec}));
            let s = plan(&budget, &pods, expected, at(100));
            assert_eq!(s.current_healthy, Some(2));
            let got = (s.expected_pods, s.desired_healthy, s.disruptions_allowed);
            assert_eq!(got, (Some(want.0), Some(want.1), Some(want.2)), "{spec}");
        }
    }

    #[test]
    fn an_eviction_under_way_counts_until_it_is_seen_or_forgotten() {
        let pods = [pod("a").ready(1).arc(), pod("b").ready(1).arc()];
        let budget: PodDisruptionBudget = object(json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1},
            "status": {"disruptedPods": {"a": "1970-01-01T00:01:40Z", "gone": "1970-01-01T00:01:40Z"}}}));
        let soon = plan(&budget, &pods, None, at(110));
        assert_eq!((soon.current_healthy, soon.disruptions_allowed), (Some(1), Some(0)));
        assert_eq!(soon.disrupted_pods.map(|d| d.len()), Some(1));
        let later = plan(&budget, &pods, None, at(300));
        assert_eq!((later.current_healthy, later.disrupted_pods), (Some(2), None));
    }
}
