//! Scaling a Deployment in the middle of a rollout: every ReplicaSet gets its share.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::bounds;
use super::plan::{Rollout, available, size};
use super::revision::{self, DESIRED_REPLICAS, MAX_REPLICAS};

/// Brings the ReplicaSets to the Deployment's size, without going on with the rollout.
pub(super) fn proportionally(r: &mut Rollout<'_>) {
    let wanted = r.wanted();
    match only_active(r) {
        Some(One::New) => {
            r.resize_new(wanted);
        }
        Some(One::Old(i)) => {
            r.resize_old(i, wanted);
        }
        None if r.new.as_ref().is_some_and(|s| is_saturated(s, wanted)) => {
            for i in 0..r.old.len() {
                if size(&r.old[i]) > 0 {
                    r.resize_old(i, 0);
                }
            }
        }
        None if !bounds::is_recreate(r.d) => share(r),
        None => {}
    }
}

enum One {
    New,
    Old(usize),
}

/// The one ReplicaSet that asks for pods; when none does, the newest. `None` when several do.
fn only_active(r: &Rollout<'_>) -> Option<One> {
    let new_active = r.new.as_ref().is_some_and(|s| size(s) > 0);
    let active: Vec<usize> = (0..r.old.len()).filter(|i| size(&r.old[*i]) > 0).collect();
    match (new_active, active.as_slice()) {
        (true, []) => Some(One::New),
        (false, [one]) => Some(One::Old(*one)),
        (false, []) if r.new.is_some() => Some(One::New),
        (false, []) => r.old.len().checked_sub(1).map(One::Old),
        _ => None,
    }
}

/// The new ReplicaSet alone carries the whole Deployment.
fn is_saturated(set: &ReplicaSet, wanted: i32) -> bool {
    let noted = revision::number(set.metadata.annotations.as_ref(), DESIRED_REPLICAS);
    size(set) == wanted && noted == Some(wanted) && available(set) == wanted
}

/// Spreads the difference over the active ReplicaSets in proportion to their size; the largest takes the rest.
fn share(r: &mut Rollout<'_>) {
    let total: i32 = r.asked_for();
    let allowed = if r.wanted() > 0 { r.wanted() + r.bounds.surge } else { 0 };
    let to_add = allowed - total;
    let mut order: Vec<Option<usize>> = (0..r.old.len()).filter(|i| size(&r.old[*i]) > 0).map(Some).collect();
    if r.new.as_ref().is_some_and(|s| size(s) > 0) {
        order.push(None);
    }
    let get = |r: &Rollout<'_>, slot: Option<usize>| slot.map_or_else(|| r.new.clone(), |i| Some(r.old[i].clone()));
    // The largest first; of equals the newest when growing, the oldest when shrinking.
    let age = |r: &Rollout<'_>, slot| get(r, slot).and_then(|s| s.metadata.creation_timestamp);
    order.sort_by(|a, b| {
        let by_size = |s| get(r, s).as_ref().map_or(0, size);
        let by_age = age(r, *a).cmp(&age(r, *b));
        by_size(*b).cmp(&by_size(*a)).then(if to_add > 0 { by_age.reverse() } else { by_age })
    });
    let mut added = 0;
    let mut sizes = Vec::new();
    for slot in &order {
        let Some(set) = get(r, *slot) else { continue };
        let part = if to_add == 0 { 0 } else { proportion(r, &set, to_add, added) };
        added += part;
        sizes.push((*slot, size(&set) + part));
    }
    if let Some((_, first)) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (slot, replicas) in sizes {
        match slot {
            Some(i) => r.resize_old(i, replicas),
            None => r.resize_new(replicas),
        };
    }
}

/// The part of `to_add` that falls to `set`, when `added` are already given out.
fn proportion(r: &Rollout<'_>, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if size(set) == 0 || to_add == added {
        return 0;
    }
    let part = fraction(r, set);
    let left = to_add - added;
    if to_add > 0 { part.min(left) } else { part.max(left) }
}

fn fraction(r: &Rollout<'_>, set: &ReplicaSet) -> i32 {
    if r.wanted() == 0 {
        return -size(set);
    }
    let reported = r.d.status.as_ref().and_then(|s| s.replicas).unwrap_or(0);
    let before =
        revision::number(set.metadata.annotations.as_ref(), MAX_REPLICAS).filter(|n| *n > 0).unwrap_or(reported);
    if before <= 0 {
        return 0;
    }
    let exact = f64::from(size(set)) * f64::from(r.wanted() + r.bounds.surge) / f64::from(before);
    #[expect(clippy::cast_possible_truncation, reason = "replica counts are far below 2^31")]
    let rounded = exact.round() as i32;
    rounded - size(set)
}
