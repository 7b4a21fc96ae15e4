//! How many pods beyond, and how many fewer than, the desired count a rollout may have.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `maxSurge` and `maxUnavailable` as numbers of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) surge: i32,
    pub(crate) unavailable: i32,
}

/// The bounds of `d`: surge rounds up, unavailable rounds down, and they are never both zero. `Recreate` has none.
pub(crate) fn of(d: &Deployment) -> Bounds {
    if is_recreate(d) {
        return Bounds { surge: 0, unavailable: 0 };
    }
    let replicas = d.spec.replicas.unwrap_or(1);
    let rolling = d.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
    let (surge, mut unavailable) = (scaled(surge, replicas, true), scaled(unavailable, replicas, false));
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    Bounds { surge, unavailable: unavailable.min(replicas) }
}

/// The strategy is `Recreate`.
pub(crate) fn is_recreate(d: &Deployment) -> bool {
    d.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// A number, or a percentage of `total` rounded as asked. What is neither counts as zero.
pub(crate) fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => (*n).max(0),
        IntOrString::String(s) => {
            let percent = s.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).unwrap_or(0).max(0);
            let exact = percent * i64::from(total);
            let rounded = if round_up { (exact + 99) / 100 } else { exact / 100 };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::json;

    #[test]
    fn bounds_round_apart_and_never_block() {
        let rows = [
            (10, json!({"maxSurge": "25%", "maxUnavailable": "25%"}), (3, 2)),
            (3, json!(null), (1, 0)),
            (1, json!({"maxSurge": 0, "maxUnavailable": "25%"}), (0, 1)),
            (2, json!({"maxSurge": 1, "maxUnavailable": 5}), (1, 2)),
        ];
        for (replicas, rolling, (surge, unavailable)) in rows {
            let d = object(json!({"metadata": {}, "spec": {"replicas": replicas, "selector": {}, "template": {},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}}));
            assert_eq!(of(&d), Bounds { surge, unavailable }, "{replicas} {rolling}");
        }
    }
}
