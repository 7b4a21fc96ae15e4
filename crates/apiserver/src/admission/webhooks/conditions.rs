//! Match conditions: expressions that must hold for a webhook to be asked.

use super::select::Target;
use crate::admission::policy::compile::Expression;
use crate::admission::policy::scope::{RequestAuthorizer, Scope};
use crate::admission::policy::{Subject, conditions};
use crate::context::AdmissionRequest;

/// Whether all conditions hold for a request in a form. The error is that of the conditions that cannot be evaluated.
pub(super) fn hold(conditions: &[Expression], target: &Target, request: &AdmissionRequest<'_>) -> Result<bool, String> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let subject = Subject::new(target, request).map_err(|status| status.message)?;
    let mut scope = Scope::new(&subject.request, RequestAuthorizer::new(request), &[]);
    scope.object = subject.shown.object.as_ref();
    scope.old_object = subject.shown.old_object.as_ref();
    conditions::hold(conditions, &scope)
}
