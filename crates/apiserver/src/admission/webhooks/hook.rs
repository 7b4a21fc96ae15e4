//! Webhooks as their configurations say, read once for each change of a configuration.

use super::rules::Rule;
use crate::admission::policy::compile::Expression;
use crate::admission::policy::conditions;
use crate::meta;
use crate::storage::KindStore;
use crate::webhook::ClientConfig;
use machinery::selector::LabelSelector;
use parking_lot::RwLock;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const TIMEOUT_DEFAULT_SECONDS: u64 = 10;

/// One webhook of a configuration.
pub(super) struct Hook {
    /// The name, for messages.
    pub(super) name: String,
    /// Unique among all webhooks.
    pub(super) uid: Arc<str>,
    pub(super) rules: Vec<Rule>,
    /// Requests for other versions of a resource are none of its business.
    pub(super) exact: bool,
    /// The request goes on when the webhook cannot be asked.
    pub(super) fails_open: bool,
    pub(super) namespaces: Result<LabelSelector, String>,
    pub(super) objects: Result<LabelSelector, String>,
    /// It may be asked in a dry run.
    pub(super) harmless: bool,
    pub(super) timeout: Duration,
    /// The version of the review it is sent, none when it knows none of ours.
    pub(super) review_version: Option<&'static str>,
    /// It is asked again when others change the object after it.
    pub(super) reinvocable: bool,
    /// `matchConditions`.
    pub(super) conditions: Vec<Expression>,
    pub(super) client: Result<ClientConfig, String>,
}

impl Hook {
    fn read(configuration: &str, index: usize, hook: &Value) -> Hook {
        let list = |field: &str| meta::at(hook, &[field]).and_then(Value::as_array).cloned().unwrap_or_default();
        let is = |field: &str, value: &str| meta::text_at(hook, &[field]) == value;
        let selector =
            |field: &str| meta::at(hook, &[field]).map_or(Ok(LabelSelector::everything()), LabelSelector::from_value);
        let name = meta::text_at(hook, &["name"]).to_owned();
        let known = |version: &Value| ["v1", "v1beta1"].into_iter().find(|known| version == *known);
        Hook {
            uid: format!("{configuration}/{name}/{index}").into(),
            rules: list("rules").iter().map(Rule::read).collect(),
            exact: is("matchPolicy", "Exact"),
            fails_open: is("failurePolicy", "Ignore"),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            harmless: is("sideEffects", "None") || is("sideEffects", "NoneOnDryRun"),
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_DEFAULT_SECONDS)),
            review_version: list("admissionReviewVersions").iter().find_map(known),
            reinvocable: is("reinvocationPolicy", "IfNeeded"),
            conditions: conditions::compile(&list("matchConditions")),
            client: ClientConfig::read(&hook["clientConfig"]),
            name,
        }
    }
}

/// All webhooks of one kind of configuration, in the order they are asked: by the names of their configurations, then as these
/// list them.
pub(super) struct Hooks {
    configurations: Arc<KindStore>,
    /// With the revision of the last change they were read at.
    read: RwLock<(u64, Arc<[Hook]>)>,
}

impl Hooks {
    pub(super) fn new(configurations: Arc<KindStore>) -> Hooks {
        Hooks { configurations, read: RwLock::new((u64::MAX, Arc::new([]))) }
    }

    pub(super) fn now(&self) -> Arc<[Hook]> {
        // The change is asked for first: what is read later may be newer, and is then read once more.
        let change = self.configurations.last_change();
        let read = self.read.read();
        if read.0 == change {
            return Arc::clone(&read.1);
        }
        drop(read);
        let entries = self.configurations.list(None);
        let hooks: Arc<[Hook]> = entries.iter().flat_map(|entry| of(entry.name(), &entry.value())).collect();
        *self.read.write() = (change, Arc::clone(&hooks));
        hooks
    }
}

fn of(name: &str, configuration: &Value) -> Vec<Hook> {
    let hooks = meta::at(configuration, &["webhooks"]).and_then(Value::as_array).into_iter().flatten();
    hooks.enumerate().map(|(index, hook)| Hook::read(name, index, hook)).collect()
}
