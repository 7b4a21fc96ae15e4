//! `pods/eviction`: deletion that budgets may refuse.

use crate::body::Body;
use crate::call::Call;
use crate::context::Operation;
use crate::handlers::{DeleteOptions, delete_one};
use crate::meta;
use crate::storage::Entry;
use http::{Response, StatusCode};
use machinery::Status;
use machinery::selector::LabelSelector;
use serde_json::{Value, json};

/// A budget's controller should not be further behind than this many evictions.
const DISRUPTED_PODS_MAX: usize = 2000;

/// Serves a POST of an Eviction.
pub(super) async fn evict(call: &mut Call) -> Result<Response<Body>, Status> {
    let mut eviction = call.part_body("policy/v1", "Eviction")?;
    let (namespace, name) = (call.namespace().to_owned(), call.name().to_owned());
    let given = meta::name(&eviction);
    if !given.is_empty() && given != name {
        return Err(Status::bad_request(format!(
            "name in URL does not match name in Eviction object: {name} != {given}"
        )));
    }
    let mut options = DeleteOptions::read(eviction.get("deleteOptions").unwrap_or(&Value::Null))?;
    options.dry_run |= call.dry_run()?;
    call.admit_as("Eviction", Operation::Create, Some(&mut eviction), None, options.dry_run).await?;
    call.validate_as("Eviction", Operation::Create, Some(&mut eviction), None, options.dry_run).await?;
    let entry = call.served.store()?.find(&namespace, &name)?;
    let pod = entry.value();
    if !ignores_budgets(&pod) {
        take_from_budget(call, &entry, &pod, options.dry_run).await?;
    }
    delete_one(call, &namespace, &name, &options).await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(crate::respond::value(call.accept, StatusCode::CREATED, &status))
}

/// Pods that have ended, are ending, or never began.
fn ignores_budgets(pod: &Value) -> bool {
    meta::deleting(pod) || matches!(meta::text_at(pod, &["status", "phase"]), "Succeeded" | "Failed" | "Pending")
}

/// Takes one disruption from the budget that covers the pod; 429 when it has none left.
async fn take_from_budget(call: &Call, entry: &Entry, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let budgets = call.api.storage.kind("policy", "poddisruptionbudgets")?;
    let covering: Vec<_> =
        budgets.list(Some(entry.namespace())).into_iter().filter(|budget| covers(&budget.value(), pod)).collect();
    let budget = match covering.as_slice() {
        [] => return Ok(()),
        [budget] => budget,
        _ => {
            return Err(Status::internal(
                "this pod has more than one PodDisruptionBudget, which the eviction subresource does not support",
            ));
        }
    };
    if unhealthy_may_go(&budget.value(), pod) {
        return Ok(());
    }
    if dry_run {
        return take(&mut budget.value(), entry.name());
    }
    budgets.update(budget.namespace(), budget.name(), |budget| take(budget, entry.name())).await?;
    Ok(())
}

fn covers(budget: &Value, pod: &Value) -> bool {
    let selector = meta::at(budget, &["spec", "selector"]).map(LabelSelector::from_value);
    matches!(selector, Some(Ok(selector)) if selector.matches_object(pod))
}

/// Pods that are not ready count for no budget when the policy or a healthy rest says so.
fn unhealthy_may_go(budget: &Value, pod: &Value) -> bool {
    let conditions = meta::at(pod, &["status", "conditions"]).and_then(Value::as_array).into_iter().flatten();
    let ready = conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let number = |field: &str| meta::at(budget, &["status", field]).and_then(Value::as_i64).unwrap_or(0);
    let always = meta::text_at(budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
    let healthy_rest = number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
    !ready && (always || healthy_rest)
}

fn take(budget: &mut Value, pod: &str) -> Result<(), Status> {
    let number = |path: &[&str]| meta::at(budget, path).and_then(Value::as_i64).unwrap_or(0);
    let name = meta::name(budget).to_owned();
    let refused = || Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0);
    if number(&["status", "observedGeneration"]) < meta::generation(budget) {
        return Err(refused().with_cause(
            "DisruptionBudget",
            "",
            format!("The disruption budget {name} is still being processed by the server."),
        ));
    }
    let allowed = number(&["status", "disruptionsAllowed"]);
    if allowed <= 0 {
        let (needed, healthy) = (number(&["status", "desiredHealthy"]), number(&["status", "currentHealthy"]));
        return Err(refused().with_cause(
            "DisruptionBudget",
            "",
            format!("The disruption budget {name} needs {needed} healthy pods and has {healthy} currently"),
        ));
    }
    let status = meta::member(budget, "status");
    status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    if let Some(disrupted) = disrupted.as_object_mut() {
        if disrupted.len() >= DISRUPTED_PODS_MAX {
            return Err(refused());
        }
        disrupted.insert(pod.to_owned(), machinery::time::now().into());
    }
    Ok(())
}
