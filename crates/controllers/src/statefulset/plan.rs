//! One step of a StatefulSet: its pods in order, each with its name, its volumes and its revision.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use crate::deployment::scaled;
use crate::history::HASH;
use crate::pods::{self, Availability};

/// A change to the cluster.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Create the pod with this ordinal, of this revision (its hash).
    Create { ordinal: i32, revision: String },
    /// Delete a pod: it failed, is too many, or is of an old revision.
    Delete(Arc<Pod>),
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) status: StatefulSetStatus,
    pub(super) recheck: Option<Duration>,
}

/// The hashes of the revision that is being left, and of the one that is being gone to.
#[derive(Clone, Copy)]
pub(super) struct Revisions<'a> {
    pub(super) current: &'a str,
    pub(super) update: &'a str,
}

/// The ordinal in a pod's name, if the pod is one of the set `name`.
pub(super) fn ordinal(name: &str, pod: &Pod) -> Option<i32> {
    let rest = pod.metadata.name.as_deref()?.strip_prefix(name)?.strip_prefix('-')?;
    rest.parse().ok().filter(|n: &i32| *n >= 0 && n.to_string() == rest)
}

fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|l| l.get(HASH)).map(String::as_str).unwrap_or_default()
}

fn is_healthy(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod) && !pods::is_terminating(pod)
}

struct Step<'a> {
    set: &'a StatefulSet,
    revisions: Revisions<'a>,
    now: Timestamp,
    /// First ordinal, and the one after the last.
    range: std::ops::Range<i32>,
    /// Pods to keep, by ordinal from the first.
    replicas: Vec<Option<&'a Arc<Pod>>>,
    /// Pods beyond the range, the highest ordinal first.
    condemned: Vec<&'a Arc<Pod>>,
}

/// Plans the next step of `set`, which owns `owned`.
pub(super) fn plan(set: &StatefulSet, owned: &[Arc<Pod>], revisions: Revisions<'_>, now: Timestamp) -> Plan {
    let spec = set.spec.clone();
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let start = spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0);
    let count = spec.replicas.unwrap_or(1).max(0);
    let mut step = Step {
        set,
        revisions,
        now,
        range: start..start + count,
        replicas: vec![None; usize::try_from(count).unwrap_or(0)],
        condemned: Vec::new(),
    };
    for pod in owned {
        let Some(n) = ordinal(name, pod) else { continue };
        match usize::try_from(n - start).ok().filter(|_| step.range.contains(&n)) {
            Some(slot) => step.replicas[slot] = Some(pod),
            None => step.condemned.push(pod),
        }
    }
    step.condemned.sort_by_key(|p| std::cmp::Reverse(ordinal(name, p)));
    let mut plan = Plan { status: step.status(), ..Plan::default() };
    if set.metadata.deletion_timestamp.is_none() {
        plan.actions = step.actions();
    }
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let waits = owned.iter().filter_map(|p| match pods::availability(p, min_ready, now) {
        Availability::In(wait) => Some(wait),
        _ => None,
    });
    plan.recheck = waits.min();
    plan
}

impl Step<'_> {
    fn is_parallel(&self) -> bool {
        self.set.spec.pod_management_policy.as_deref() == Some("Parallel")
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let min_ready = self.set.spec.min_ready_seconds.unwrap_or(0);
        is_healthy(pod) && pods::availability(pod, min_ready, self.now) == Availability::Available
    }

    fn partition(&self) -> i32 {
        let strategy = self.set.spec.update_strategy.as_ref();
        strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.partition).unwrap_or(0)
    }

    fn is_on_delete(&self) -> bool {
        let strategy = self.set.spec.update_strategy.as_ref();
        strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete")
    }

    /// The revision a new pod gets: those below the partition, or not reached by the update yet, stay with the old one.
    fn revision_for(&self, ordinal: i32) -> String {
        let status = self.set.status.as_ref();
        let reached = status.and_then(|s| s.current_replicas).unwrap_or(0);
        let old = if self.is_on_delete() {
            false
        } else if self.partition() > 0 {
            ordinal < self.partition()
        } else {
            ordinal < self.range.start + reached
        };
        if old { self.revisions.current.to_owned() } else { self.revisions.update.to_owned() }
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (slot, ordinal) in self.replicas.iter().zip(self.range.clone()) {
            let settled = match slot {
                None => {
                    actions.push(Action::Create { ordinal, revision: self.revision_for(ordinal) });
                    false
                }
                Some(pod) if pods::is_finished(pod) => {
                    if !pods::is_terminating(pod) {
                        actions.push(Action::Delete(Arc::clone(pod)));
                    }
                    false
                }
                Some(pod) => self.is_available(pod),
            };
            if !settled && !self.is_parallel() {
                return actions;
            }
        }
        for pod in &self.condemned {
            if pods::is_terminating(pod) {
                if self.is_parallel() {
                    continue;
                }
                return actions;
            }
            actions.push(Action::Delete(Arc::clone(pod)));
            if !self.is_parallel() {
                return actions;
            }
        }
        if actions.is_empty() { self.update() } else { actions }
    }

    /// The next pods to replace by the new revision: from the highest ordinal down to the partition, as long as enough are up.
    fn update(&self) -> Vec<Action> {
        if self.is_on_delete() {
            return Vec::new();
        }
        let strategy = self.set.spec.update_strategy.as_ref();
        let limit = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_unavailable.as_ref());
        let total = i32::try_from(self.replicas.len()).unwrap_or(i32::MAX);
        let limit = usize::try_from(limit.map_or(1, |v| scaled(v, total, true)).max(1)).unwrap_or(1);
        let pods = self.replicas.iter().flatten();
        let mut unavailable = pods.filter(|p| !self.is_available(p)).count();
        let mut actions = Vec::new();
        for (slot, ordinal) in self.replicas.iter().zip(self.range.clone()).rev() {
            let Some(pod) = slot.filter(|_| ordinal >= self.partition()) else { continue };
            if revision(pod) == self.revisions.update || pods::is_terminating(pod) {
                continue;
            }
            let up = self.is_available(pod);
            if up && unavailable >= limit {
                break;
            }
            actions.push(Action::Delete(Arc::clone(pod)));
            unavailable += usize::from(up);
            if unavailable >= limit {
                break;
            }
        }
        actions
    }

    fn status(&self) -> StatefulSetStatus {
        let before = self.set.status.clone().unwrap_or_default();
        let all: Vec<&Arc<Pod>> =
            self.replicas.iter().flatten().copied().chain(self.condemned.iter().copied()).collect();
        let count = |f: &dyn Fn(&Pod) -> bool| i32::try_from(all.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX);
        let positive = |n: i32| Some(n).filter(|n| *n > 0);
        let live = |p: &Pod| !pods::is_terminating(p) && !pods::is_finished(p);
        let Revisions { current, update } = self.revisions;
        let name = |hash: &str| format!("{}-{hash}", self.set.metadata.name.as_deref().unwrap_or_default());
        let updated = count(&|p| live(p) && revision(p) == update);
        let mut status = StatefulSetStatus {
            replicas: count(&|p| !pods::is_finished(p)),
            ready_replicas: positive(count(&is_healthy)),
            available_replicas: Some(count(&|p| self.is_available(p))),
            current_replicas: positive(count(&|p| live(p) && revision(p) == current)),
            updated_replicas: positive(updated),
            current_revision: Some(name(current)),
            update_revision: Some(name(update)),
            observed_generation: self.set.metadata.generation,
            collision_count: before.collision_count.or(Some(0)),
            conditions: before.conditions,
        };
        let wanted = i32::try_from(self.replicas.len()).unwrap_or(i32::MAX);
        let done = updated == wanted && status.ready_replicas.unwrap_or(0) == wanted && status.replicas == wanted;
        if done && !self.is_on_delete() && self.partition() == 0 {
            status.current_revision.clone_from(&status.update_revision);
            status.current_replicas = status.updated_replicas;
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PodBuilder, at, object, pod};
    use serde_json::{Value, json};

    const REVISIONS: Revisions<'static> = Revisions { current: "old", update: "new" };

    fn set(spec: Value) -> StatefulSet {
        let mut full = json!({"replicas": 3, "selector": {}, "template": {}, "serviceName": "s"});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        object(json!({"metadata": {"name": "db"}, "spec": full}))
    }

    fn of(ordinal: i32, revision: &str) -> PodBuilder {
        pod(&format!("db-{ordinal}")).labels(&[(HASH, revision)])
    }

    fn run(set: &StatefulSet, pods: &[Arc<Pod>]) -> Vec<String> {
        let shown = |a: Action| match a {
            Action::Create { ordinal, revision } => format!("+{ordinal} {revision}"),
            Action::Delete(pod) => format!("-{}", pod.metadata.name.clone().unwrap_or_default()),
        };
        plan(set, pods, REVISIONS, at(100)).actions.into_iter().map(shown).collect()
    }

    #[test]
    fn pods_come_and_go_in_order() {
        let ordered = set(json!({}));
        let parallel = set(json!({"podManagementPolicy": "Parallel"}));
        let smaller = set(json!({"replicas": 1}));
        let shifted = set(json!({"replicas": 1, "ordinals": {"start": 5}}));
        let ready = |n: i32| of(n, "new").ready(1).arc();
        type Row<'a> = (&'a StatefulSet, Vec<Arc<Pod>>, Vec<&'static str>);
        let rows: [Row<'_>; 9] = [
            (&ordered, vec![], vec!["+0 new"]),
            (&ordered, vec![of(0, "new").arc()], vec![]),
            (&ordered, vec![ready(0)], vec!["+1 new"]),
            (&ordered, vec![ready(0), of(1, "new").phase("Failed").arc()], vec!["-db-1"]),
            (&ordered, vec![ready(0), ready(2)], vec!["+1 new"]),
            (&parallel, vec![of(1, "new").arc()], vec!["+0 new", "+2 new"]),
            (&smaller, vec![ready(0), ready(1), ready(2)], vec!["-db-2"]),
            (&smaller, vec![ready(0), ready(1), of(2, "new").deleted(1).arc()], vec![]),
            (&shifted, vec![ready(0), ready(5)], vec!["-db-0"]),
        ];
        for (set, pods, want) in rows {
            assert_eq!(run(set, &pods), want, "{:?}", pods.iter().map(|p| &p.metadata.name).collect::<Vec<_>>());
        }
    }

    #[test]
    fn updates_go_down_to_the_partition() {
        let plain = set(json!({}));
        let partition = set(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}));
        let on_delete = set(json!({"updateStrategy": {"type": "OnDelete"}}));
        let ready = |n: i32, r: &str| of(n, r).ready(1).arc();
        let old = vec![ready(0, "old"), ready(1, "old"), ready(2, "old")];
        assert_eq!(run(&plain, &old), ["-db-2"]);
        assert_eq!(run(&partition, &old), ["-db-2"]);
        assert_eq!(run(&on_delete, &old), [""; 0]);
        let one = vec![ready(0, "old"), ready(1, "old"), ready(2, "new")];
        assert_eq!(run(&plain, &one), ["-db-1"]);
        assert_eq!(run(&partition, &one), [""; 0]);
        let missing = run(&partition, &[ready(0, "old"), ready(2, "new")]);
        assert_eq!(missing, ["+1 old"], "below the partition pods come back as they were");
        let done = [ready(0, "new"), ready(1, "new"), ready(2, "new")];
        assert_eq!(plan(&plain, &done, REVISIONS, at(9)).status.current_revision.as_deref(), Some("db-new"));
    }
}
