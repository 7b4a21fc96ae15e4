//! The two strategies: rolling update, and recreate.

use k8s_openapi::api::apps::v1::DeploymentStatus;

use super::plan::{Rollout, available, size};
use super::{bounds, status};

/// The size the new ReplicaSet may take now, from `current`.
pub(super) fn new_size(r: &Rollout<'_>, current: i32) -> i32 {
    if bounds::is_recreate(r.d) {
        return r.wanted();
    }
    let room = r.wanted() + r.bounds.surge - r.asked_for();
    if room <= 0 { current } else { current + room.min(r.wanted() - current) }
}

/// One step of a rolling update: up if there is room, else down; when all is done, old revisions are cleaned up.
pub(super) fn step(r: &mut Rollout<'_>, before: &mut DeploymentStatus) -> Option<i64> {
    let creates = r.new.is_none();
    let revision = r.refresh_new(before, true);
    if creates || grow_new(r) {
        return revision;
    }
    if shrink_old(r) {
        return revision;
    }
    if status::is_complete(r.d, &status::calculate(r, before)) {
        r.clean_up();
    }
    revision
}

fn grow_new(r: &mut Rollout<'_>) -> bool {
    let Some(current) = r.new.as_ref().map(size) else { return false };
    let target = if current > r.wanted() { r.wanted() } else { new_size(r, current) };
    target != current && r.resize_new(target)
}

/// Takes pods from old ReplicaSets: unhealthy ones first, then as many as availability allows.
fn shrink_old(r: &mut Rollout<'_>) -> bool {
    if r.old.iter().map(size).sum::<i32>() == 0 {
        return false;
    }
    let least = r.wanted() - r.bounds.unavailable;
    let missing = r.new.as_ref().map_or(0, |s| size(s) - available(s));
    let spare = r.asked_for() - least - missing;
    if spare <= 0 {
        return false;
    }
    let mut changed = false;
    let mut taken = 0;
    for i in 0..r.old.len() {
        let unhealthy = size(&r.old[i]) - available(&r.old[i]);
        let take = unhealthy.min(spare - taken);
        if take > 0 {
            changed |= r.resize_old(i, size(&r.old[i]) - take);
            taken += take;
        }
    }
    let mut surplus = r.available() - least;
    for i in 0..r.old.len() {
        let take = size(&r.old[i]).min(surplus);
        if take > 0 {
            changed |= r.resize_old(i, size(&r.old[i]) - take);
            surplus -= take;
        }
    }
    changed
}

/// Ends all pods of former revisions, and only then starts the new one.
pub(super) fn recreate(r: &mut Rollout<'_>, before: &mut DeploymentStatus, old_running: bool) -> Option<i64> {
    let revision = r.refresh_new(before, false);
    let mut shrunk = false;
    for i in 0..r.old.len() {
        if size(&r.old[i]) > 0 {
            shrunk |= r.resize_old(i, 0);
        }
    }
    let reported = |s: &k8s_openapi::api::apps::v1::ReplicaSet| s.status.as_ref().map_or(0, |s| s.replicas);
    if shrunk || old_running || r.old.iter().map(reported).sum::<i32>() > 0 {
        return revision;
    }
    let revision = if r.new.is_none() { r.refresh_new(before, true) } else { revision };
    if r.new.as_ref().is_some_and(|s| s.metadata.uid.is_some()) {
        r.resize_new(r.wanted());
    }
    if status::is_complete(r.d, &status::calculate(r, before)) {
        r.clean_up();
    }
    revision
}
