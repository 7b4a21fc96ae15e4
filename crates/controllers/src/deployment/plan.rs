//! One step of a Deployment: which ReplicaSets to create, scale, annotate and delete, and the status to report.
//!
//! Each step moves in one direction only (up, or down), and the next one starts from what the cluster then shows.
//! That keeps the promise of `maxSurge` and `maxUnavailable` at every moment, whatever fails in between.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::bounds::{self, Bounds};
use super::revision::{self, HASH_LABEL};
use super::{rolling, scale, status};
use crate::owner;

/// A change to the cluster.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Create the ReplicaSet of a new revision.
    Create(Box<ReplicaSet>),
    /// Replace a ReplicaSet; `scaled` is set when its size changes, and is reported as an event.
    Update {
        /// The whole object, with the version it was read at.
        set: Box<ReplicaSet>,
        /// Size before and after.
        scaled: Option<(i32, i32)>,
    },
    /// Delete a ReplicaSet beyond the history limit.
    Delete(String),
}

/// The outcome of a step.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) status: DeploymentStatus,
    /// The revision the Deployment should carry, when it has a new ReplicaSet.
    pub(crate) revision: Option<i64>,
    /// Look again after this time: progress is then overdue.
    pub(crate) recheck: Option<Duration>,
}

/// A Deployment's ReplicaSets as the step goes on.
pub(super) struct Rollout<'a> {
    pub(super) d: &'a Deployment,
    pub(super) bounds: Bounds,
    pub(super) new: Option<ReplicaSet>,
    /// All others, the oldest first.
    pub(super) old: Vec<ReplicaSet>,
    pub(super) actions: Vec<Action>,
    pub(super) now: Timestamp,
}

/// Plans the next step of `d`, which controls `sets`.
///
/// `old_pods_running` says whether pods of former revisions have not ended yet; only `Recreate` needs it.
pub(crate) fn plan(d: &Deployment, sets: &[Arc<ReplicaSet>], old_pods_running: bool, now: Timestamp) -> Plan {
    let (new, old) = split(d, sets);
    let mut rollout = Rollout { d, bounds: bounds::of(d), new, old, actions: Vec::new(), now };
    let mut before = d.status.clone().unwrap_or_default();
    if d.metadata.deletion_timestamp.is_some() {
        let status = status::calculate(&rollout, &before);
        return Plan { status, ..Plan::default() };
    }
    status::note_pause(d, &mut before, now);
    if d.spec.paused == Some(true) || rollout.is_scaling() {
        let revision = rollout.refresh_new(&mut before, false);
        scale::proportionally(&mut rollout);
        if d.spec.paused == Some(true) {
            rollout.clean_up();
        }
        let status = status::calculate(&rollout, &before);
        return Plan { actions: rollout.actions, status, revision, recheck: None };
    }
    let revision = match bounds::is_recreate(d) {
        true => rolling::recreate(&mut rollout, &mut before, old_pods_running),
        false => rolling::step(&mut rollout, &mut before),
    };
    let status = status::with_progress(&rollout, &before);
    let recheck = status::next_check(d, &status, now);
    Plan { actions: rollout.actions, status, revision, recheck }
}

/// Finds the ReplicaSet of the current template (the oldest, if several match) and sorts the others by age.
fn split(d: &Deployment, sets: &[Arc<ReplicaSet>]) -> (Option<ReplicaSet>, Vec<ReplicaSet>) {
    let mut all: Vec<ReplicaSet> = sets.iter().map(|s| ReplicaSet::clone(s)).collect();
    all.sort_by(|a, b| {
        let key = |s: &ReplicaSet| (s.metadata.creation_timestamp.clone(), s.metadata.name.clone());
        key(a).cmp(&key(b))
    });
    let is_new =
        |s: &ReplicaSet| s.spec.template.as_ref().is_some_and(|t| revision::same_template(t, &d.spec.template));
    let new = all.iter().position(is_new).map(|i| all.remove(i));
    (new, all)
}

impl Rollout<'_> {
    pub(super) fn wanted(&self) -> i32 {
        self.d.spec.replicas.unwrap_or(1)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(self.new.as_ref())
    }

    /// The pods all ReplicaSets ask for.
    pub(super) fn asked_for(&self) -> i32 {
        self.all().map(size).sum()
    }

    pub(super) fn available(&self) -> i32 {
        self.all().map(available).sum()
    }

    /// The Deployment's size changed since a ReplicaSet was last scaled.
    fn is_scaling(&self) -> bool {
        let noted = |s: &ReplicaSet| revision::number(s.metadata.annotations.as_ref(), revision::DESIRED_REPLICAS);
        self.all().filter(|s| size(s) > 0).any(|s| noted(s).is_some_and(|n| n != self.wanted()))
    }

    /// Brings the new ReplicaSet's annotations up to date, or creates it if `create`; gives the newest revision.
    pub(super) fn refresh_new(&mut self, before: &mut DeploymentStatus, create: bool) -> Option<i64> {
        let newest =
            self.old.iter().map(|s| revision::revision(s.metadata.annotations.as_ref())).max().unwrap_or(0) + 1;
        let (d, min_ready) = (self.d, self.d.spec.min_ready_seconds);
        if let Some(mut set) = self.new.take() {
            let mut changed = revision::annotate(d, &mut set, newest, true, self.bounds.surge);
            if set.spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0) {
                set.spec.min_ready_seconds = min_ready;
                changed = true;
            }
            if changed {
                self.actions.push(Action::Update { set: Box::new(set.clone()), scaled: None });
            }
            status::note_found(d, &set, before, self.now);
            let revision = revision::revision(set.metadata.annotations.as_ref());
            self.new = Some(set);
            return Some(revision);
        }
        if !create {
            return None;
        }
        let set = self.make_new(before.collision_count, newest);
        status::note_created(d, &set, before, self.now);
        self.actions.push(Action::Create(Box::new(set.clone())));
        self.new = Some(set);
        Some(newest)
    }

    /// The ReplicaSet of the current template, as large as the strategy allows at once.
    fn make_new(&self, collisions: Option<i32>, revision: i64) -> ReplicaSet {
        let d = self.d;
        let hash = revision::template_hash(&d.spec.template, collisions);
        let mut template = d.spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = d.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", d.metadata.name.as_deref().unwrap_or_default())),
                namespace: d.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![owner::reference(d)]),
                ..ObjectMeta::default()
            },
            spec: ReplicaSetSpec {
                replicas: Some(rolling::new_size(self, 0)),
                min_ready_seconds: d.spec.min_ready_seconds,
                selector,
                template: Some(template),
            },
            status: None,
        };
        revision::annotate(d, &mut set, revision, false, self.bounds.surge);
        set
    }

    /// Scales the new ReplicaSet; says whether that changed anything.
    pub(super) fn resize_new(&mut self, replicas: i32) -> bool {
        let Some(mut set) = self.new.take() else { return false };
        let resized = self.resize(&mut set, replicas);
        self.new = Some(set);
        resized
    }

    /// Scales the old ReplicaSet at `index`; says whether that changed anything.
    pub(super) fn resize_old(&mut self, index: usize, replicas: i32) -> bool {
        let mut set = std::mem::take(&mut self.old[index]);
        let resized = self.resize(&mut set, replicas);
        self.old[index] = set;
        resized
    }

    fn resize(&mut self, set: &mut ReplicaSet, replicas: i32) -> bool {
        let before = size(set);
        let noted =
            revision::set_size(set.metadata.annotations.get_or_insert_default(), self.wanted(), self.bounds.surge);
        if before == replicas && !noted {
            return false;
        }
        set.spec.replicas = Some(replicas);
        let scaled = (before != replicas).then_some((before, replicas));
        let is_same = |a: &Action| matches!(a, Action::Update { set: s, .. } if s.metadata.uid == set.metadata.uid);
        // One write for one object: a second update of it in the same step replaces the first.
        self.actions.retain(|a| !is_same(a));
        self.actions.push(Action::Update { set: Box::new(set.clone()), scaled });
        before != replicas
    }

    /// Deletes idle old ReplicaSets beyond the history limit, the oldest revision first.
    pub(super) fn clean_up(&mut self) {
        let Some(limit) = self.d.spec.revision_history_limit.filter(|l| *l < i32::MAX) else { return };
        let mut alive: Vec<&ReplicaSet> = self.old.iter().filter(|s| s.metadata.deletion_timestamp.is_none()).collect();
        let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        alive.sort_by_key(|s| revision::revision(s.metadata.annotations.as_ref()));
        let idle = |s: &&ReplicaSet| {
            let status = s.status.as_ref();
            let observed = status.and_then(|s| s.observed_generation).unwrap_or(0);
            let running = status.map_or(0, |s| s.replicas);
            running == 0 && size(s) == 0 && s.metadata.generation.unwrap_or(0) <= observed
        };
        let names = alive.into_iter().take(surplus).filter(idle).filter_map(|s| s.metadata.name.clone());
        let deletions: Vec<Action> = names.map(Action::Delete).collect();
        self.actions.extend(deletions);
    }
}

/// The pods a ReplicaSet asks for.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// The pods of a ReplicaSet that are available.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
