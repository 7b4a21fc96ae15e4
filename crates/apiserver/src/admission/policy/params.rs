//! The parameters that a binding gives its policy.

use super::definition::{Binding, Policy};
use crate::context::AdmissionRequest;
use crate::served::Served;
use crate::storage::{Entry, Selection};
use machinery::selector::LabelSelector;
use serde_json::Value as Json;
use std::sync::Arc;

/// The parameters, each of which the policy is evaluated with; none where it takes none. The error is one of the configuration.
pub(super) async fn collect(
    policy: &Policy,
    binding: &Binding,
    request: &AdmissionRequest<'_>,
) -> Result<Vec<Option<Json>>, String> {
    let (Some((api_version, kind)), Some(wanted)) = (&policy.param_kind, &binding.params) else {
        return Ok(vec![None]);
    };
    let served = request
        .call
        .api
        .catalogue()
        .of_kind(api_version, kind)
        .ok_or_else(|| format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"))?;
    let namespace = match (served.resource.namespaced, &*wanted.namespace, &*request.attributes.namespace) {
        (false, "", _) => "",
        (false, _, _) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        (true, "", "") => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned()
            );
        }
        (true, "", own) => own,
        (true, named, _) => named,
    };
    let found = match &*wanted.name {
        "" => select(&served, namespace, wanted.selector.as_ref())?,
        name => {
            let store = served.store().map_err(|status| status.message)?;
            store.get(namespace, name).into_iter().collect()
        }
    };
    let mut params = Vec::with_capacity(found.len());
    for entry in &found {
        params.push(Some(served.value(&entry.object).await.map_err(|status| status.message)?));
    }
    if found.is_empty() && !wanted.optional {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(params)
}

fn select(served: &Arc<Served>, namespace: &str, selector: Option<&Json>) -> Result<Vec<Arc<Entry>>, String> {
    let labels = selector.map_or(Ok(LabelSelector::everything()), LabelSelector::from_value)?;
    let selection = Selection {
        namespace: served.resource.namespaced.then(|| namespace.to_owned()),
        labels: Some(labels),
        ..Selection::default()
    };
    let store = served.store().map_err(|status| status.message)?;
    Ok(store.select(&selection))
}
