//! Which resources the API serves, and how to reach any object of them by its metadata.

use std::sync::Arc;

use client::Client;
use kube::core::{ApiResource, PartialObjectMeta};
use kube::{Api, core::DynamicObject};
use serde::Deserialize;

/// The media type of the document that lists everything at once (KEP-3352).
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A resource of the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    pub(crate) api: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

impl Resource {
    /// Whether `verb` is served.
    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// `deployments.apps`, or `pods`.
    pub(crate) fn name(&self) -> String {
        if self.api.group.is_empty() {
            self.api.plural.clone()
        } else {
            format!("{}.{}", self.api.plural, self.api.group)
        }
    }

    /// Its objects in a namespace; the namespace is ignored for what has none.
    pub(crate) fn objects(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client.clone(), namespace, &self.api)
        } else {
            Api::all_with(client.clone(), &self.api)
        }
    }

    /// The metadata of all its objects.
    pub(crate) fn metadata(&self, client: &Client) -> Api<Meta> {
        Api::all_with(client.clone(), &self.api)
    }
}

/// Metadata of an object of any kind.
pub(crate) type Meta = PartialObjectMeta<DynamicObject>;

/// A group or version that could not be discovered, in the API's words.
#[derive(Debug, thiserror::Error)]
#[error("discover {path}: {source}")]
pub(crate) struct Error {
    path: &'static str,
    source: kube::Error,
}

#[derive(Deserialize)]
struct Groups {
    #[serde(default)]
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: Named,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize, Default)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Served>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Served {
    resource: String,
    #[serde(default)]
    response_kind: Option<Kind>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    kind: String,
}

/// All resources, each in the version its group prefers.
pub(crate) async fn resources(client: &Client) -> Result<Arc<[Resource]>, Error> {
    let (core, groups) = tokio::join!(document(client, "/api"), document(client, "/apis"));
    let mut all: Vec<Resource> = Vec::new();
    for group in core?.items.into_iter().chain(groups?.items) {
        for found in preferred(group) {
            all.push(found);
        }
    }
    Ok(all.into())
}

/// The resources of a group: each in the first version that serves it (versions come in order of preference).
fn preferred(group: Group) -> Vec<Resource> {
    let mut all: Vec<Resource> = Vec::new();
    for version in group.versions {
        for served in version.resources {
            if served.resource.contains('/') || all.iter().any(|r| r.api.plural == served.resource) {
                continue;
            }
            let name = &group.metadata.name;
            let api_version =
                if name.is_empty() { version.version.clone() } else { format!("{name}/{}", version.version) };
            all.push(Resource {
                api: ApiResource {
                    group: name.clone(),
                    version: version.version.clone(),
                    api_version,
                    kind: served.response_kind.map(|k| k.kind).unwrap_or_default(),
                    plural: served.resource,
                },
                namespaced: served.scope == "Namespaced",
                verbs: served.verbs,
            });
        }
    }
    all
}

async fn document(client: &Client, path: &'static str) -> Result<Groups, Error> {
    let request = http::Request::get(path).header(http::header::ACCEPT, AGGREGATED).body(Vec::new());
    let request = request.map_err(|e| Error { path, source: kube::Error::HttpError(e) })?;
    client.request(request).await.map_err(|source| Error { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::json;

    #[test]
    fn the_preferred_version_of_each_resource() {
        let group: Group = object(json!({"metadata": {"name": "batch"}, "versions": [
            {"version": "v1", "resources": [
                {"resource": "jobs", "responseKind": {"group": "batch", "version": "v1", "kind": "Job"},
                    "scope": "Namespaced", "verbs": ["list", "delete"], "subresources": [{"subresource": "status"}]}]},
            {"version": "v1beta1", "resources": [
                {"resource": "jobs", "scope": "Namespaced", "verbs": []},
                {"resource": "nodejobs", "scope": "Cluster", "verbs": ["list"]}]},
        ]}));
        let all = preferred(group);
        let shown: Vec<_> = all.iter().map(|r| (r.name(), r.api.api_version.as_str(), r.namespaced)).collect();
        assert_eq!(
            shown,
            [("jobs.batch".to_owned(), "batch/v1", true), ("nodejobs.batch".to_owned(), "batch/v1beta1", false)]
        );
        assert!(all[0].can("delete") && !all[0].can("watch"));
    }
}
