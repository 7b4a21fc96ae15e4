//! Which requests a policy or binding is about.

use crate::admission::webhooks::rules::{Rule, Subject};
use crate::admission::webhooks::select::{Target, by_rules, namespace_matches, object_matches, own_form};
use crate::context::AdmissionRequest;
use crate::meta;
use machinery::Status;
use machinery::selector::LabelSelector;
use serde_json::Value as Json;

/// `matchConstraints` of a policy, `matchResources` of a binding.
pub(super) struct Criteria {
    rules: Vec<NamedRule>,
    excluded: Vec<NamedRule>,
    exact: bool,
    namespaces: Result<LabelSelector, String>,
    objects: Result<LabelSelector, String>,
}

/// A rule that may be about objects of some names only.
struct NamedRule {
    rule: Rule,
    names: Vec<String>,
}

impl NamedRule {
    fn read(value: &Json) -> NamedRule {
        let names = meta::at(value, &["resourceNames"]).and_then(Json::as_array).into_iter().flatten();
        NamedRule { rule: Rule::read(value), names: names.filter_map(Json::as_str).map(str::to_owned).collect() }
    }

    fn matches(&self, subject: &Subject<'_>, name: &str) -> bool {
        (self.names.is_empty() || self.names.iter().any(|known| known == name)) && self.rule.matches(subject)
    }
}

impl Criteria {
    pub(super) fn read(value: &Json) -> Criteria {
        let rules = |field: &str| {
            let list = meta::at(value, &[field]).and_then(Json::as_array).into_iter().flatten();
            list.map(NamedRule::read).collect()
        };
        let selector =
            |field: &str| meta::at(value, &[field]).map_or(Ok(LabelSelector::everything()), LabelSelector::from_value);
        Criteria {
            rules: rules("resourceRules"),
            excluded: rules("excludeResourceRules"),
            exact: meta::text_at(value, &["matchPolicy"]) == "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// The form in which a request is matched; none when it is not. The error is one of the configuration.
    pub(super) fn target(&self, request: &AdmissionRequest<'_>) -> Result<Option<Target>, Status> {
        // Rules first: most requests are none of theirs, and selectors may have to look at the namespace.
        let name = &*request.attributes.name;
        let any = |rules: &[NamedRule], subject: &Subject<'_>| rules.iter().any(|rule| rule.matches(subject, name));
        let target = match self.rules.as_slice() {
            [] => own_form(request),
            rules => match by_rules(&|subject| any(rules, subject), self.exact, request) {
                Some(target) => target,
                None => return Ok(None),
            },
        };
        if !self.excluded.is_empty() && by_rules(&|subject| any(&self.excluded, subject), self.exact, request).is_some()
        {
            return Ok(None);
        }
        let in_namespace = namespace_matches(&self.namespaces, request);
        let selected = object_matches(&self.objects, request);
        if matches!(in_namespace, Ok(false)) || matches!(selected, Ok(false)) {
            return Ok(None);
        }
        in_namespace?;
        selected?;
        Ok(Some(target))
    }
}
